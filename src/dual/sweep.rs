//! The sweep of the outbox: one sidecar, by lease, takes up the marks of those that died; all of them count what is owed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::dual::Engine;
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::{Redis, SWEEP_LEASE, lease, marks};

/// How often it looks.
const PERIOD: Duration = Duration::from_millis(1_000);
/// Marks younger than this belong to whoever set them.
const ORPHAN_AGE_MS: i64 = 3_000;
/// How long the lease of the sweeper holds.
const LEASE_MS: u64 = 5_000;
/// Sidecars whose lease ended so long ago are forgotten.
const FORGET_MS: i64 = 3_600_000;
/// Marks that one look reads at most; the next look begins anew.
const MARKS_MAX: usize = 200_000;

/// Sweeps for ever.
pub(super) async fn run(engine: Arc<Engine>, redis: Arc<Redis>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        if let Some(postgres) = &engine.postgres {
            let (size, idle, waiting) = postgres.occupancy();
            engine.metrics.set_pool(size, idle, waiting);
        }
        if let Err(error) = look(&engine, &redis).await {
            tracing::debug!(%error, "the outbox could not be looked at");
        }
    }
}

async fn look(engine: &Engine, redis: &Redis) -> Result<(), RedisError> {
    let depth = marks::depth(redis).await?;
    let (now_ms, sidecars) = lease::sidecars(redis).await?;
    let leads = engine.drain.is_some() && lease::lead(redis, SWEEP_LEASE, &engine.instance, LEASE_MS).await?;
    let mut oldest_ms = 0;
    if depth > 0 {
        let mut cursor = "0".to_owned();
        let mut seen = 0;
        loop {
            let (next, page) = marks::page(redis, &cursor).await?;
            seen += page.len();
            for (key, token) in page {
                let age = token.marked_at_ms().map_or(ORPHAN_AGE_MS, |at| now_ms - at);
                oldest_ms = oldest_ms.max(age);
                let is_dead = engine.drain.as_ref().is_some_and(|drain| drain.is_dead(&key, &token));
                // A mark from the future is of a host whose clock is ahead: nobody says how long it would be young.
                if leads && age.abs() >= ORPHAN_AGE_MS && !is_dead {
                    let kind = engine.catalog.kind_of(key.as_bytes());
                    engine.queue.add(&key, kind, Instant::now(), None, 0);
                }
            }
            cursor = next;
            if cursor == "0" || seen >= MARKS_MAX {
                break;
            }
        }
    }
    let oldest_ms = u64::try_from(oldest_ms).unwrap_or(0);
    engine.outbox_age_ms.store(oldest_ms, Ordering::Relaxed);
    let oldest = Duration::from_millis(oldest_ms);
    engine.metrics.set_outbox(u64::try_from(depth).unwrap_or(0), oldest);
    if leads {
        for (name, _) in sidecars.iter().filter(|(_, sidecar)| sidecar.lease_until + FORGET_MS < now_ms) {
            lease::leave(redis, name).await?;
        }
    }
    Ok(())
}
