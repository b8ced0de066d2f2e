//! What each sidecar tells the fleet of what it has counted: comparisons, reads and latencies, once a second.
//!
//! Gates and guard judge the fleet by the sum; a sidecar that has left takes its part with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::dual::latency::{self, Window};
use crate::dual::{Engine, Membership};
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::{Redis, figures};
use crate::telemetry::counted::{Distribution, KindCounts};

/// How often they are told.
const PERIOD: Duration = Duration::from_secs(1);

/// Distributions by operation, then by store.
pub type Latencies = BTreeMap<String, BTreeMap<String, Distribution>>;

/// What one sidecar has counted since its start. A sidecar of another version may say more or less.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Of which run of the sidecar: what is counted begins anew with each.
    pub run: String,
    /// By kind; kinds of which nothing was counted are left out.
    pub kinds: BTreeMap<String, KindCounts>,
    /// What the stores took.
    pub latencies: Latencies,
    /// The age of the oldest mark, in milliseconds.
    pub oldest_mark_ms: u64,
    /// How often it has told before.
    pub told: u64,
    /// What callers' commands came to leave for Redis: by name, and what their scripts may call by `script` and the name.
    pub sent: BTreeMap<String, u64>,
    /// What was answered of that.
    pub answered: BTreeMap<String, u64>,
    /// How often a connection ended with commands whose outcome is unknown; these are told as answered.
    pub breaks: u64,
}

/// Tells for ever.
pub(super) async fn run(engine: Arc<Engine>, redis: Arc<Redis>) {
    if engine.membership == Membership::Guest {
        return;
    }
    let (mut window, mut told_before) = (Window::default(), 0);
    loop {
        tokio::time::sleep(PERIOD).await;
        let figures = engine.figures_here(told_before);
        let sides = window.take_up(&figures.latencies);
        latency::show(&engine.metrics, &sides);
        engine.latencies.store(Arc::new(sides));
        let told = serde_json::to_string(&figures).expect("figures are always JSON");
        // Who has left has taken them away, and must not bring them back.
        if !engine.keeper.has_lease() {
            continue;
        }
        match figures::keep(&redis, &engine.instance, &told).await {
            Ok(()) => told_before += 1,
            Err(error) => tracing::debug!(%error, "the fleet could not be told what was counted here"),
        }
    }
}

impl Engine {
    /// What this sidecar has counted.
    fn figures_here(&self, told: u64) -> Figures {
        let counted_of_callers = self.upstream.tally().told();
        let counted = |name: &String| (name.clone(), self.metrics.counts_of(name));
        let names = self.catalog.kinds().iter().filter(|kind| kind.is_mirrored()).map(|kind| &kind.name);
        Figures {
            run: self.run.clone(),
            kinds: names.map(counted).filter(|(_, counts)| *counts != KindCounts::default()).collect(),
            latencies: self.metrics.store_latencies(),
            oldest_mark_ms: self.outbox_age_ms.load(Ordering::Relaxed),
            told,
            sent: counted_of_callers.sent.by_name(),
            answered: counted_of_callers.answered.by_name(),
            breaks: counted_of_callers.breaks,
        }
    }

    /// What each sidecar has counted, as it told last.
    pub(super) async fn fleet_figures(&self) -> Result<BTreeMap<String, Figures>, RedisError> {
        let told = figures::all(&self.looks).await?;
        let parsed = |(name, text): (String, String)| Some((name, serde_json::from_str(&text).ok()?));
        Ok(told.into_iter().filter_map(parsed).collect())
    }
}

/// The counts of one kind over the fleet.
pub(super) fn sum_of(kind: &str, fleet: &BTreeMap<String, Figures>) -> KindCounts {
    let counts = fleet.values().filter_map(|figures| figures.kinds.get(kind));
    counts.fold(KindCounts::default(), |sum, counts| sum.plus(*counts))
}
