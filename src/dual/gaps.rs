//! Capture gaps: what could have missed a write, for which kinds that is still open, and which proofs hold in spite of it.
//!
//! A gap closes the way up for its kinds and ends what was proven before: only a clean comparison that began behind it says
//! that both stores are equal again. Where the stores' lineage changes, Postgres is there and the gap is written at once;
//! everything else is noted in Redis, beside the writes, and brought to Postgres by whoever comes first.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::time;

use crate::dual::{Engine, EngineError};
use crate::model::catalog::Kind;
use crate::stores::postgres::Postgres;
use crate::stores::postgres::gaps::{self, Gap, NewGap};
use crate::stores::postgres::pool::PostgresError;
use crate::stores::postgres::proofs::{self, Holding};
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::{Redis, gaps as noted};
use crate::telemetry::labels::{GapCause, Label};
use crate::telemetry::metrics::Metrics;

/// How often what is noted in Redis is brought to Postgres, and what is open or proven is told.
const PERIOD: Duration = Duration::from_secs(2);
/// The kind of a gap that is about all of them.
const ALL: &str = "*";

/// Brings gaps to Postgres and counts what is open, for ever.
pub(super) async fn run(engine: Arc<Engine>, redis: Arc<Redis>) {
    let Some(postgres) = engine.postgres.clone() else { return };
    loop {
        time::sleep(PERIOD).await;
        if let Err(error) = forward(&redis, &postgres, &engine.metrics).await {
            tracing::debug!(%error, "capture gaps wait in redis");
            continue;
        }
        let marked = engine.marked_names();
        if let Ok(open) = gaps::open_count(&postgres, &marked).await {
            engine.metrics.set_capture_gaps_open(open);
        }
        if let Ok(holding) = proofs::holding(&postgres, &marked).await {
            engine.tell_proofs(&holding);
        }
    }
}

/// Writes a gap of all kinds down, where the lineage of the stores changed.
///
/// # Errors
/// When Postgres cannot be reached.
pub(super) async fn record(
    postgres: &Postgres,
    metrics: &Metrics,
    cause: GapCause,
    from_version: i64,
    version: i64,
) -> Result<(), PostgresError> {
    if gaps::record(postgres, NewGap { kind: ALL, cause: cause.name(), from_version, version, detail: "" }).await? {
        metrics.capture_gap(cause);
    }
    Ok(())
}

/// Notes in Redis that writes of these kinds may have been missed until now.
///
/// # Errors
/// When Redis cannot be reached.
pub(super) async fn note(redis: &Redis, cause: GapCause, kinds: &[String]) -> Result<(), RedisError> {
    of_this_lineage(noted::note(redis, cause.name(), None, kinds, "").await)
}

/// Notes in Redis that writes of any kind were missed between the version `since` and now; `detail` says which commands.
///
/// # Errors
/// When Redis cannot be reached.
pub(super) async fn note_since(redis: &Redis, cause: GapCause, since: i64, detail: &str) -> Result<(), RedisError> {
    of_this_lineage(noted::note(redis, cause.name(), Some(since), &[ALL.to_owned()], detail).await)
}

fn of_this_lineage(noted: Result<(), RedisError>) -> Result<(), RedisError> {
    match noted {
        // Redis changed or was lost: the lift or the restore that follows writes down a gap of all kinds.
        Err(RedisError::Answered(error)) if error.starts_with("LINEAGE") => Ok(()),
        done => done,
    }
}

/// Brings what is noted in Redis to Postgres.
pub(super) async fn forward(redis: &Redis, postgres: &Postgres, metrics: &Metrics) -> Result<(), EngineError> {
    for gap in noted::noted(redis).await.map_err(EngineError::of_a_read)? {
        let row = NewGap {
            kind: &gap.kind,
            cause: &gap.cause,
            from_version: gap.from_version,
            version: gap.version,
            detail: &gap.detail,
        };
        if gaps::record(postgres, row).await.map_err(unavailable)? {
            tracing::warn!(kind = gap.kind, cause = gap.cause, "writes may have been missed: verify is owed");
            let cause = GapCause::ALL.iter().find(|cause| cause.name() == gap.cause);
            cause.into_iter().for_each(|cause| metrics.capture_gap(*cause));
        }
        noted::written(redis, &gap).await.map_err(EngineError::of_a_read)?;
    }
    Ok(())
}

fn unavailable(error: PostgresError) -> EngineError {
    EngineError::PostgresUnavailable(error.to_string())
}

impl Engine {
    /// The capture gaps that are open for `kind`, oldest first; the gates of its way up are closed until there is none.
    ///
    /// # Errors
    /// When a store cannot be reached: then nobody knows, and the gates are closed as well.
    pub async fn open_gaps(&self, kind: &str) -> Result<Vec<Gap>, EngineError> {
        let postgres = self.postgres_or_error()?;
        // What is noted and not there yet counts as well.
        forward(&self.looks, postgres, &self.metrics).await?;
        gaps::open(postgres, kind).await.map_err(unavailable)
    }

    /// The newest proof that holds for each of `kinds`: clean, not too old, and begun behind every gap of the kind.
    ///
    /// # Errors
    /// When a store cannot be reached.
    pub async fn holding_proofs(&self, kinds: &[String]) -> Result<Vec<Holding>, EngineError> {
        let postgres = self.postgres_or_error()?;
        forward(&self.looks, postgres, &self.metrics).await?;
        proofs::holding(postgres, kinds).await.map_err(unavailable)
    }

    /// Capture gaps, newest first: for which marked kinds each is open, and which proofs closed it for others.
    ///
    /// # Errors
    /// When a store cannot be reached.
    pub async fn gaps(&self, limit: usize, kind: Option<&str>) -> Result<Vec<Json>, EngineError> {
        let postgres = self.postgres_or_error()?;
        forward(&self.looks, postgres, &self.metrics).await?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        gaps::listed(postgres, &self.marked_names(), kind, limit).await.map_err(unavailable)
    }

    /// Marked kinds for which no proof holds: they owe a comparison.
    ///
    /// # Errors
    /// When a store cannot be reached.
    pub async fn unproven_kinds(&self) -> Result<Vec<String>, EngineError> {
        let mut kinds = self.marked_names();
        let holding = self.holding_proofs(&kinds).await?;
        kinds.retain(|kind| !holding.iter().any(|proof| proof.kind == *kind));
        Ok(kinds)
    }

    /// Tells of every kind whether one of these proofs is its own.
    fn tell_proofs(&self, holding: &[Holding]) {
        for kind in self.catalog.kinds() {
            let proof = holding.iter().find(|proof| proof.kind == kind.name);
            let age = proof.map(|proof| Duration::from_secs(u64::try_from(proof.age_seconds).unwrap_or(0)));
            self.metrics.set_proof(&kind.name, age);
        }
    }

    /// The kinds whose writes are marked by now.
    pub(super) fn marked_names(&self) -> Vec<String> {
        let view = self.keeper.view();
        let marked = |kind: &&Arc<Kind>| kind.is_mirrored() && view.flag(kind).stage.marks();
        self.catalog.kinds().iter().filter(marked).map(|kind| kind.name.clone()).collect()
    }
}
