//! Writes that bypass every sidecar: the server has counted more calls than the whole fleet came to send.
//!
//! One sidecar by lease compares what `INFO commandstats` counts with what each sidecar tells of its callers ([`Figures`]).
//! What the server has executed of the fleet's commands lies between what was answered before it was asked and what was
//! sent by some time after; so a difference beyond both is somebody else's, however busy the fleet is ([`watch`]).

mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::dual::figures::Figures;
use crate::dual::{Engine, Membership, gaps};
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::{BYPASS_LEASE, Redis, commands, lease};
use crate::telemetry::labels::GapCause;

use watch::{Bypass, Look, Watch};

/// How often it looks. A look is judged when every sidecar has told twice behind it, so that in a fleet at rest a bypass is found
/// within seven seconds.
const PERIOD: Duration = Duration::from_secs(1);
/// How long the lease of whoever looks holds.
const LEASE_MS: u64 = 10_000;

/// Looks for ever.
pub(super) async fn run(engine: Arc<Engine>, redis: Arc<Redis>) {
    if engine.membership == Membership::Guest || engine.postgres.is_none() {
        return;
    }
    let mut watch = Watch::default();
    loop {
        tokio::time::sleep(PERIOD).await;
        let has_marks = engine.keeper.has_lease() && !engine.marked_names().is_empty();
        if !has_marks || !lease::lead(&redis, BYPASS_LEASE, &engine.instance, LEASE_MS).await.unwrap_or(false) {
            watch = Watch::default();
            continue;
        }
        match look(&engine, &redis).await {
            Ok(look) => {
                if let Some(bypass) = watch.take(look)
                    && let Err(error) = note(&redis, &bypass).await
                {
                    tracing::debug!(%error, "a bypass could not be noted, and is looked for again");
                    watch.again(bypass);
                }
            }
            Err(error) => tracing::debug!(%error, "what redis counts could not be looked at"),
        }
    }
}

/// What the fleet tells, what the server has counted, and who had told how often by then.
async fn look(engine: &Engine, redis: &Redis) -> Result<Look, RedisError> {
    let before = members(engine, redis).await?;
    let counted = commands::counted(redis).await?;
    let after = members(engine, redis).await?;
    let told = after.into_iter().map(|(name, figures)| (name, figures.told)).collect();
    Ok(Look { fleet: before, counted, told })
}

/// The sidecars that are here; one that has told nothing yet is here all the same.
async fn members(engine: &Engine, redis: &Redis) -> Result<BTreeMap<String, Figures>, RedisError> {
    let (now_ms, sidecars) = lease::sidecars(redis).await?;
    let mut told = engine.fleet_figures().await?;
    let live = sidecars.into_iter().filter(|(_, sidecar)| sidecar.lease_until > now_ms);
    // Many looks are kept, so nothing else is.
    let kept = |figures: Figures| Figures { kinds: BTreeMap::new(), latencies: BTreeMap::new(), ..figures };
    Ok(live.map(|(name, _)| (name.clone(), kept(told.remove(&name).unwrap_or_default()))).collect())
}

/// Notes the gap: its keys are not known, so it is one of all kinds.
async fn note(redis: &Redis, bypass: &Bypass) -> Result<(), RedisError> {
    let names = bypass.commands.iter().map(|(name, count)| format!("{name} {count}"));
    let commands = names.collect::<Vec<_>>().join(", ");
    tracing::warn!(commands, "writes bypassed every sidecar");
    gaps::note_since(redis, GapCause::Bypassed, bypass.since, &commands).await
}
