//! The sweep of tombstones and of rows past their retention: one sidecar at a time, in small batches, far behind the present
//! (rule A2).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::dual::task::TaskError;
use crate::dual::{Engine, lineage::Standing};
use crate::model::catalog::{Layout, Retain, Table};
use crate::stores::postgres::Postgres;
use crate::stores::postgres::expunge::{self, Over, Place};
use crate::stores::redis::{EXPUNGE_LEASE, Redis, fence, lease};

/// How often it looks.
const PERIOD: Duration = Duration::from_secs(15);
/// How long the lease of whoever does it holds.
const LEASE_MS: u64 = 60_000;
/// How long a tombstone stays, at least: an apply that was paused for less is refused by the row's version and need not be
/// captured anew.
const TOMBSTONE_MS: i64 = 24 * 3_600_000;
/// How long a row outlives its record where nothing is to be retained.
const GRACE_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * 3_600_000;
/// Steps through one table in one look, and the rest between two: it is never in a hurry.
const STEPS_MAX: usize = 20;
const REST: Duration = Duration::from_millis(20);

/// Sweeps for ever.
pub(super) async fn run(engine: Arc<Engine>, redis: Arc<Redis>) {
    let Some(postgres) = engine.postgres.clone() else { return };
    let mut places = BTreeMap::new();
    loop {
        tokio::time::sleep(PERIOD).await;
        if engine.lineage.standing().await != Standing::Good {
            continue;
        }
        if let Err(error) = look(&engine, &redis, &postgres, &mut places).await {
            tracing::debug!(%error, "what is over could not be swept");
        }
    }
}

/// One look goes a part of the way through each table, and the next goes on there.
async fn look(
    engine: &Engine,
    redis: &Redis,
    postgres: &Postgres,
    places: &mut BTreeMap<&'static str, Place>,
) -> Result<(), TaskError> {
    if !lease::lead(redis, EXPUNGE_LEASE, &engine.instance, LEASE_MS).await? {
        return Ok(());
    }
    let (fence, _) = fence::fence(redis, &[]).await?;
    let over = over(engine, fence.time_us / 1000);
    for (name, rows) in tables() {
        let place = places.entry(name).or_default();
        for _ in 0..STEPS_MAX {
            let step = match rows {
                Rows::Records => expunge::records(postgres, name, &over, place).await?,
                Rows::Elements => expunge::elements(postgres, name, &over, place).await?,
                Rows::Headers => expunge::collections(postgres, &over, place).await?,
            };
            engine.metrics.expunged(name, u64::try_from(step.rows).unwrap_or(0));
            let is_end = step.next.is_none();
            *place = step.next.unwrap_or_default();
            if is_end {
                break;
            }
            tokio::time::sleep(REST).await;
        }
    }
    Ok(())
}

/// What the rows of a table are.
#[derive(Clone, Copy)]
enum Rows {
    Records,
    Elements,
    Headers,
}

/// The tables, headers behind their elements.
fn tables() -> impl Iterator<Item = (&'static str, Rows)> {
    let rows = |table: &Table| match table.layout() {
        Layout::Document => Rows::Records,
        Layout::Collection | Layout::Log => Rows::Elements,
    };
    Table::ALL.iter().map(move |table| (table.name(), rows(table))).chain([("collections", Rows::Headers)])
}

/// What is over at this time of Redis.
fn over(engine: &Engine, time_ms: i64) -> Over {
    let gone = engine.catalog.kinds().iter().filter(|kind| kind.is_mirrored()).filter_map(|kind| {
        let kept = match kind.retain {
            Retain::Expire => GRACE_MS,
            Retain::Days(days) => i64::from(days) * DAY_MS,
            Retain::Forever => return None,
        };
        Some((kind.name.clone(), time_ms - kept))
    });
    Over { deleted_before_ms: time_ms - TOMBSTONE_MS, gone: gone.collect() }
}
