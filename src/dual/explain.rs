//! Why a read of one key goes where it goes, and how both stores hold the record now.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value as Json;
use tokio::time::timeout;

use crate::dual::{Engine, EngineError, Source, read, verdict};
use crate::model::catalog::{Kind, Layout};
use crate::model::flag::{Stage, bucket};
use crate::model::key::Key;
use crate::stores::postgres::journal;
use crate::stores::postgres::pool::QUESTION_DEADLINE;
use crate::stores::postgres::rows::Fate;
use crate::stores::redis::fence::{self, Fence};
use crate::telemetry::labels::{Label, RouteReason, Store};

/// Why a read goes where it goes.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The kind that the key belongs to.
    pub kind: String,
    /// What becomes of its records.
    pub policy: &'static str,
    /// Where the kind stands.
    pub stage: Stage,
    /// Percent of its keys that are read from Postgres in stage live.
    pub percent: f64,
    /// Where the key lies, 0 to 99.999: below `percent` it is read from Postgres.
    pub bucket: f64,
    /// The version of the flags.
    pub flags_version: u64,
    /// The store that would answer a read now.
    pub store: &'static str,
    /// Why that one.
    pub reason: &'static str,
    /// Whether Postgres owes the record a look.
    pub pending: bool,
    /// How Redis holds it.
    pub redis: RedisSide,
    /// How Postgres holds it; nothing where it has no row, does not answer, or is never asked.
    pub postgres: Option<PostgresSide>,
    /// What a comparison finds now; nothing for collections and logs, which may be too large for a question.
    pub verdict: Option<&'static str>,
    /// The last mismatch that was confirmed, without its id and values.
    pub last_mismatch: Option<Json>,
}

/// How Redis holds a record.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RedisSide {
    /// Whether it is there.
    pub present: bool,
    /// The clock of versions: a row above it is newer than this look.
    pub clock: i64,
}

/// How Postgres holds a record.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PostgresSide {
    /// The version of its row.
    pub version: i64,
    /// `present`, `gone` (expired or evicted) or `deleted`.
    pub fate: &'static str,
    /// For a collection, whether all of it is there.
    pub complete: bool,
}

/// The elements to read of a record: none of a collection or log, whose header says what is asked here.
fn header_alone(kind: &Kind) -> Option<&'static [Bytes]> {
    match kind.layout {
        Layout::Document => None,
        Layout::Collection | Layout::Log => Some(&[]),
    }
}

/// What the two looks found.
struct Found {
    store: Store,
    reason: RouteReason,
    row: Option<PostgresSide>,
}

impl Engine {
    /// Why a read of the whole record at `key` would be answered by the store that would answer it.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn explain(&self, key: &Key) -> Result<Explanation, EngineError> {
        let kind = self.catalog.kind_of(key.as_bytes());
        let (fence, standings) =
            fence::fence(&self.looks, std::slice::from_ref(key)).await.map_err(EngineError::of_a_read)?;
        let nothing = fence::Standing { is_pending: false, is_present: false };
        let standing = standings.first().copied().unwrap_or(nothing);
        let found = self.found(kind, key, &fence, standing).await;
        let verdict = self.verdict_now(kind, key).await;
        let view = self.keeper.view();
        Ok(Explanation {
            kind: kind.name.clone(),
            policy: kind.policy.name(),
            stage: if kind.is_mirrored() { view.flag(kind).stage } else { Stage::Off },
            percent: view.flag(kind).percent,
            bucket: f64::from(bucket(&kind.name, key.as_bytes())) / 1000.0,
            flags_version: view.version,
            store: found.store.name(),
            reason: found.reason.name(),
            pending: standing.is_pending,
            redis: RedisSide { present: standing.is_present, clock: fence.clock },
            postgres: found.row,
            verdict,
            last_mismatch: self.last_mismatch(key).await,
        })
    }

    async fn found(&self, kind: &Kind, key: &Key, fence: &Fence, standing: fence::Standing) -> Found {
        let direction = self.directions(&[Arc::clone(self.catalog.kind_of(key.as_bytes()))]).pop();
        let named = direction.and_then(|direction| direction.store(Some(key)));
        let (source, mut reason) = named.unwrap_or((Source::Redis, RouteReason::Stage));
        let asked = match &self.postgres {
            Some(postgres) if kind.is_mirrored() => {
                let asked = read::row(postgres, kind, key, header_alone(kind), fence.clock);
                timeout(QUESTION_DEADLINE, asked).await.ok()
            }
            Some(_) | None => None,
        };
        let (control, row) = match asked {
            Some(Ok((control, row))) => (Some(control), row),
            Some(Err(_)) | None => (None, None),
        };
        let store = match source {
            Source::Redis => Store::Redis,
            // The fence has the last word.
            Source::Postgres => {
                let refusal = if fence.epoch < 0 {
                    Some(RouteReason::Epoch)
                } else if standing.is_pending {
                    Some(RouteReason::Pending)
                } else if !standing.is_present {
                    Some(RouteReason::AbsentInRedis)
                } else {
                    match &control {
                        Some(control) => verdict::believe(fence, control, row.as_ref()).err(),
                        None => Some(RouteReason::PostgresError),
                    }
                };
                reason = refusal.unwrap_or(reason);
                if refusal.is_some() { Store::Redis } else { Store::Postgres }
            }
        };
        let row = row.map(|row| {
            let fate = match row.fate {
                Fate::Present => "present",
                Fate::Gone => "gone",
                Fate::Deleted => "deleted",
            };
            PostgresSide { version: row.version, fate, complete: row.is_complete }
        });
        Found { store, reason, row }
    }

    async fn verdict_now(&self, kind: &Arc<Kind>, key: &Key) -> Option<&'static str> {
        if !kind.is_mirrored() || header_alone(kind).is_some() {
            return None;
        }
        self.compare_now(kind, key).await.map(|verdict| verdict.label().name())
    }

    async fn last_mismatch(&self, key: &Key) -> Option<Json> {
        let found = journal::last_mismatch(self.postgres.as_ref()?, key).await;
        found.ok().flatten()
    }
}
