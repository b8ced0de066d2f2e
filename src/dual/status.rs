//! What the engine says of itself: status, health, mismatches.

use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::dual::{Engine, EngineError};
use crate::model::command::Command;
use crate::model::key::Key;
use crate::stores::postgres::{ghosts, journal};
use crate::stores::redis::marks;

/// Records that a health check compares at most.
const SAMPLE_MAX: usize = 5;

/// The checks of the original plan.
#[derive(Clone, Debug, Serialize)]
pub struct Health {
    /// Postgres answers.
    pub postgres: bool,
    /// Redis answers.
    pub redis: bool,
    /// A live sample of records is the same in both stores.
    #[serde(rename = "dataConsistency")]
    pub data_consistency: bool,
    /// How many records were compared, and what else is to be said.
    pub details: Json,
}

impl Engine {
    /// Depth of the outbox, lineage, fleet, and what cannot be verified.
    pub async fn status(&self) -> Json {
        let view = self.keeper.view();
        let depth = marks::depth(&self.looks).await.ok();
        let fleet = self.fleet().await.map(|fleet| fleet.sidecars).unwrap_or_default();
        let counts = match &self.postgres {
            Some(postgres) => journal::counts(postgres).await.ok(),
            None => None,
        };
        json!({
            "instance": self.instance,
            "version": env!("CARGO_PKG_VERSION"),
            "flags_version": view.version,
            "lease_valid": self.keeper.has_lease(),
            "lineage": self.lineage.standing().await,
            "marks_broken": !self.trusts_postgres(),
            "outbox": { "depth": depth, "queued_here": self.queue.len() },
            "fleet": fleet,
            "unverifiable": view.unverifiable,
            "latencies": &**self.latencies.load(),
            "postgres": counts,
        })
    }

    /// Asks both stores, and compares a few records that are there now.
    pub async fn health(&self) -> Health {
        let redis = self.looks.command(Command::new(["PING"])).await.is_ok();
        let postgres = match &self.postgres {
            Some(postgres) => postgres.is_alive().await,
            None => false,
        };
        let (mut compared, mut differing) = (0, 0);
        if redis && postgres {
            let view = self.keeper.view();
            for key in self.random_keys().await {
                let kind = self.catalog.kind_of(key.as_bytes());
                if kind.is_readable() && view.is_backfilled(kind) {
                    let Some(verdict) = self.compare_now(kind, &key).await else { continue };
                    compared += 1;
                    differing += usize::from(verdict.class().is_some());
                }
            }
        }
        Health {
            postgres,
            redis,
            data_consistency: redis && postgres && differing == 0,
            details: json!({ "compared": compared, "differing": differing }),
        }
    }

    async fn random_keys(&self) -> Vec<Key> {
        let asks: Vec<Command> = (0..SAMPLE_MAX * 4).map(|_| Command::new(["RANDOMKEY"])).collect();
        let replies = self.looks.pipeline(&asks).await.unwrap_or_default();
        let keys = replies.iter().filter_map(|reply| reply.as_bulk().map(|key| Key::new(key.clone())));
        keys.filter(|key| !key.is_control()).take(SAMPLE_MAX).collect()
    }

    /// Writes that Postgres had and Redis lost, newest first, with their values (L1, L2).
    ///
    /// # Errors
    /// When Postgres cannot be reached.
    pub async fn ghosts(&self, limit: usize, kind: Option<&str>) -> Result<Vec<Json>, EngineError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        ghosts::listed(self.postgres_or_error()?, kind, limit)
            .await
            .map_err(|error| EngineError::PostgresUnavailable(error.to_string()))
    }

    /// Mismatches, newest first, without values.
    ///
    /// # Errors
    /// When Postgres cannot be reached.
    pub async fn mismatches(&self, limit: usize, kind: Option<&str>) -> Result<Vec<Json>, EngineError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        journal::mismatches(self.postgres_or_error()?, kind, limit)
            .await
            .map_err(|error| EngineError::PostgresUnavailable(error.to_string()))
    }
}
