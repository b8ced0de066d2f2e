//! The lift: what is done when Redis failed over or restarted with its data (rule L1).
//!
//! The order matters, since late applies and late acks of the lineage before land between any two steps: the epoch first,
//! then the ghosts (writes that Postgres has and Redis lost), then the clock and the anchor in one step.

use crate::dual::gaps;
use crate::model::catalog::{Catalog, Kind, Layout};
use crate::model::key::Key;
use crate::stores::postgres::pool::PostgresError;
use crate::stores::postgres::{Postgres, ghosts, lineage as postgres_lineage};
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::{Redis, lineage as redis_lineage, marks};
use crate::telemetry::labels::GapCause;
use crate::telemetry::metrics::Metrics;

/// Records marked by one script.
const MARKED_AT_ONCE: usize = 500;
/// Keys that one step of the scan asks for.
const SCAN_COUNT: &str = "1000";

/// Why a lift did not come to its end; it is begun anew.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LiftError {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

/// What a lift found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifted {
    /// The epoch that it began.
    pub(crate) epoch: i64,
    /// Records whose newest writes Redis had lost.
    pub(crate) ghosts: usize,
}

/// Lifts the Redis that runs as `run_id`, whose anchor names an earlier run in `anchor_epoch`. Answers `None` when somebody
/// else was faster.
pub(crate) async fn lift(
    redis: &Redis,
    postgres: &Postgres,
    catalog: &Catalog,
    run_id: &str,
    anchor_epoch: i64,
    token: &str,
    metrics: &Metrics,
) -> Result<Option<Lifted>, LiftError> {
    let epoch = postgres_lineage::epoch(postgres).await?.max(anchor_epoch) + 1;
    postgres_lineage::raise_epoch(postgres, epoch).await?;
    let clock = redis_lineage::clock(redis).await?;
    let found = ghosts::list(postgres, epoch, clock).await?;
    mark(redis, catalog, run_id, token, &found).await?;
    let swept = ghosts::swept(postgres, clock).await?;
    if !swept.is_empty() {
        mark_without_rows(redis, catalog, run_id, token, &swept).await?;
    }
    let identity = postgres_lineage::beat(postgres, 0).await?;
    let above = postgres_lineage::highest_version(postgres).await? + 1;
    // Before the anchor: what was proven must not outlive the lift, not even where we die between the two.
    gaps::record(postgres, metrics, GapCause::Lifted, clock, above).await?;
    let known = redis_lineage::Postgres { system: identity.system, timeline: identity.timeline, beat: identity.beat };
    let was_written = redis_lineage::lift(redis, run_id, epoch, above, &known).await?;
    Ok(was_written.then_some(Lifted { epoch, ghosts: found.len() }))
}

/// Marks these records as ghosts, each with a new token.
pub(super) async fn mark(
    redis: &Redis,
    catalog: &Catalog,
    run_id: &str,
    token: &str,
    keys: &[Key],
) -> Result<(), RedisError> {
    for chunk in keys.chunks(MARKED_AT_ONCE) {
        let is_collection = |key: &Key| has_companion(catalog.kind_of(key.as_bytes()));
        let chunk: Vec<(Key, bool)> = chunk.iter().map(|key| (key.clone(), is_collection(key))).collect();
        marks::mark_ghosts(redis, run_id, token, &chunk).await?;
    }
    Ok(())
}

/// Where a table's floor is above the clock, ghosts may have been swept: every key of its kinds that is there is looked at.
pub(super) async fn mark_without_rows(
    redis: &Redis,
    catalog: &Catalog,
    run_id: &str,
    token: &str,
    tables: &[String],
) -> Result<(), RedisError> {
    let is_meant = |key: &Key| {
        let kind = catalog.kind_of(key.as_bytes());
        let table = if kind.layout == Layout::Document { kind.table.name() } else { "collections" };
        !key.is_control()
            && kind.is_mirrored()
            && tables.iter().any(|swept| swept == table || swept == kind.table.name())
    };
    let mut cursor = "0".to_owned();
    loop {
        let scan = crate::model::command::Command::new(["SCAN", &cursor, "COUNT", SCAN_COUNT].map(str::to_owned));
        let (next, keys) = marks::scanned(redis.command(scan).await?)?;
        let meant: Vec<Key> = keys.into_iter().filter(is_meant).collect();
        mark(redis, catalog, run_id, token, &meant).await?;
        cursor = next;
        if cursor == "0" {
            return Ok(());
        }
    }
}

fn has_companion(kind: &Kind) -> bool {
    kind.layout == Layout::Collection
}
