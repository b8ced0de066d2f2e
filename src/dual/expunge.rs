//! The sweep of tombstones and of rows past their retention: one sidecar at a time, in small batches, far behind the present
//! (rule A2).

use std::sync::Arc;
use std::time::Duration;

use crate::dual::task::TaskError;
use crate::dual::{Engine, lineage::Standing};
use crate::model::catalog::{Layout, Retain, Table};
use crate::stores::postgres::Postgres;
use crate::stores::postgres::expunge::{self, Over};
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
/// Batches of one table in one look, and the rest between two: it is never in a hurry.
const BATCHES_MAX: usize = 20;
const REST: Duration = Duration::from_millis(20);

/// Sweeps for ever.
pub(super) async fn run(engine: Arc<Engine>, redis: Arc<Redis>) {
    let Some(postgres) = engine.postgres.clone() else { return };
    loop {
        tokio::time::sleep(PERIOD).await;
        if engine.lineage.standing().await != Standing::Good {
            continue;
        }
        if let Err(error) = look(&engine, &redis, &postgres).await {
            tracing::debug!(%error, "what is over could not be swept");
        }
    }
}

async fn look(engine: &Engine, redis: &Redis, postgres: &Postgres) -> Result<(), TaskError> {
    if !lease::lead(redis, EXPUNGE_LEASE, &engine.instance, LEASE_MS).await? {
        return Ok(());
    }
    let (fence, _) = fence::fence(redis, &[]).await?;
    let over = over(engine, fence.time_us / 1000);
    for table in Table::ALL {
        let name = table.name();
        for _ in 0..BATCHES_MAX {
            let rows = match table.layout() {
                Layout::Document => expunge::records(postgres, name, &over).await?,
                Layout::Collection | Layout::Log => expunge::elements(postgres, name, &over).await?,
            };
            if told(engine, name, rows) {
                break;
            }
            tokio::time::sleep(REST).await;
        }
    }
    for _ in 0..BATCHES_MAX {
        if told(engine, "collections", expunge::collections(postgres, &over).await?) {
            break;
        }
        tokio::time::sleep(REST).await;
    }
    Ok(())
}

/// Counts what went. Answers whether nothing did.
fn told(engine: &Engine, table: &str, rows: i64) -> bool {
    engine.metrics.expunged(table, u64::try_from(rows).unwrap_or(0));
    rows == 0
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
