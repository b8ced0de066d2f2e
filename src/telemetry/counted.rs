//! What the instruments have counted so far, read back for whoever judges by it: the gates and the guard.

use std::collections::BTreeMap;

use prometheus::proto::Metric;
use serde::{Deserialize, Serialize};

use crate::telemetry::Metrics;
use crate::telemetry::labels::{Compared, Label, RouteReason, Store};

/// The histogram of what stores took.
const STORE_LATENCY: &str = "parallax_store_latency_seconds";

/// What was counted of one kind since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindCounts {
    /// Comparisons that came to a verdict.
    pub compared: u64,
    /// Confirmed mismatches among them.
    pub mismatched: u64,
    /// Reads that Postgres answered.
    pub answered: u64,
    /// Reads that Postgres did not answer within their deadline.
    pub late: u64,
    /// Reads that Postgres answered with an error, or could not be asked.
    pub failed: u64,
    /// Reads that went by a Postgres that was in trouble a moment before.
    pub skipped: u64,
}

impl KindCounts {
    /// All six together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// What came since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        self.with(earlier, u64::saturating_sub)
    }

    fn with(self, other: Self, both: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            compared: both(self.compared, other.compared),
            mismatched: both(self.mismatched, other.mismatched),
            answered: both(self.answered, other.answered),
            late: both(self.late, other.late),
            failed: both(self.failed, other.failed),
            skipped: both(self.skipped, other.skipped),
        }
    }
}

/// A distribution of durations: how many lie in each bucket of the instrument, and above all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// The upper ends of the buckets, in seconds.
    pub ends: Vec<f64>,
    /// How many durations lie in each; one more than ends.
    pub counts: Vec<u64>,
}

impl Distribution {
    fn of(metric: &Metric) -> Self {
        let histogram = metric.get_histogram();
        let finite: Vec<_> = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite()).collect();
        let ends = finite.iter().map(|bucket| bucket.upper_bound()).collect();
        let mut below = 0;
        let mut counts: Vec<u64> = Vec::with_capacity(finite.len() + 1);
        for bucket in &finite {
            counts.push(bucket.cumulative_count().saturating_sub(below));
            below = bucket.cumulative_count();
        }
        counts.push(histogram.get_sample_count().saturating_sub(below));
        Self { ends, counts }
    }

    /// How many durations there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Both together; `other` alone where this one is empty.
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
        if self.counts.len() == other.counts.len() { self.with(other, u64::saturating_add) } else { other.clone() }
    }

    /// What came since `earlier`.
    #[must_use]
    pub fn since(self, earlier: &Self) -> Self {
        if self.counts.len() == earlier.counts.len() { self.with(earlier, u64::saturating_sub) } else { self }
    }

    fn with(mut self, other: &Self, both: impl Fn(u64, u64) -> u64) -> Self {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = both(*count, *more);
        }
        self
    }

    /// The duration in milliseconds that a share of all does not exceed, between the ends of its bucket; none without any.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        let wanted = share * self.count() as f64;
        let (mut below, mut start) = (0.0, 0.0);
        for (count, end) in self.counts.iter().zip(self.ends.iter().chain(self.ends.last())) {
            let count = *count as f64;
            if count > 0.0 && below + count >= wanted {
                return Some((start + (end - start) * ((wanted - below) / count).clamp(0.0, 1.0)) * 1000.0);
            }
            (below, start) = (below + count, *end);
        }
        None
    }
}

impl Metrics {
    /// What was counted of `kind` so far.
    #[must_use]
    pub fn counts_of(&self, kind: &str) -> KindCounts {
        let (instruments, kind) = (&self.0.instruments, self.kind(kind));
        let verdicts = [
            Compared::Match,
            Compared::Value,
            Compared::Type,
            Compared::Ttl,
            Compared::MissingInPostgres,
            Compared::MissingInRedis,
        ];
        let found = |verdict: Compared| instruments.comparisons.total(&[kind, verdict.position()]);
        let reads =
            |store: Store, reason: RouteReason| instruments.reads.total(&[kind, store.position(), reason.position()]);
        KindCounts {
            compared: verdicts.into_iter().map(found).sum(),
            mismatched: verdicts.into_iter().filter(|verdict| verdict.mismatch().is_some()).map(found).sum(),
            answered: reads(Store::Postgres, RouteReason::Live),
            late: reads(Store::Redis, RouteReason::Deadline),
            failed: reads(Store::Redis, RouteReason::PostgresError),
            skipped: reads(Store::Redis, RouteReason::Breaker),
        }
    }

    /// What the stores took so far, by operation and store. It reads everything, as a scrape does.
    #[must_use]
    pub fn store_latencies(&self) -> BTreeMap<String, BTreeMap<String, Distribution>> {
        let mut found: BTreeMap<String, BTreeMap<String, Distribution>> = BTreeMap::new();
        let families = self.0.registry.gather();
        for metric in
            families.iter().filter(|family| family.name() == STORE_LATENCY).flat_map(|family| family.get_metric())
        {
            let label = |name: &str| {
                let labels = metric.get_label().iter();
                labels
                    .filter(|label| label.name() == name)
                    .map(|label| label.value().to_owned())
                    .next()
                    .unwrap_or_default()
            };
            found.entry(label("operation")).or_default().insert(label("store"), Distribution::of(metric));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::labels::Operation;

    #[test]
    fn what_was_counted_is_read_back() {
        let metrics = Metrics::new("one", &["apikey".to_owned(), "unmatched".to_owned()]);
        for verdict in [Compared::Match, Compared::Match, Compared::InFlight, Compared::ReadAgain, Compared::Ttl] {
            metrics.compared("apikey", verdict);
        }
        metrics.read_routed("apikey", Store::Postgres, RouteReason::Live);
        metrics.read_routed("apikey", Store::Redis, RouteReason::Deadline);
        metrics.read_routed("apikey", Store::Redis, RouteReason::Pending);
        metrics.read_routed("other", Store::Postgres, RouteReason::Live);
        let expected = KindCounts { compared: 3, mismatched: 1, answered: 1, late: 1, ..KindCounts::default() };
        assert_eq!(metrics.counts_of("apikey"), expected);
    }

    #[test]
    fn quantiles_lie_in_the_bucket_of_their_duration() {
        let metrics = Metrics::new("one", &["unmatched".to_owned()]);
        for _ in 0..98 {
            metrics.store_latency(Store::Postgres, Operation::Read, Duration::from_micros(400));
        }
        for _ in 0..2 {
            metrics.store_latency(Store::Postgres, Operation::Read, Duration::from_millis(80));
        }
        let all = metrics.store_latencies();
        let read = &all["read"]["postgres"];
        assert_eq!(read.count(), 100);
        let (p50, p99) = (read.quantile_ms(0.5).unwrap(), read.quantile_ms(0.99).unwrap());
        assert!((0.25..=0.5).contains(&p50) && (50.0..=100.0).contains(&p99), "{p50} {p99}");
        assert_eq!(read.clone().since(read).quantile_ms(0.5), None);
        assert_eq!(read.clone().plus(read).count(), 200);
    }
}
