//! How long both stores take for the same kind of work, side by side, over the last minute.

use std::collections::VecDeque;

use serde::Serialize;

use crate::dual::figures::Latencies;
use crate::telemetry::Metrics;
use crate::telemetry::counted::Distribution;
use crate::telemetry::labels::{Label, Operation, Quantile, Store};

/// Over how many of the reports, one a second, it is counted.
const REPORTS: usize = 60;

/// What both stores are asked to do: reads of callers, and the two reads of a comparison, which are of the same record.
const BOTH_DO: [Operation; 2] = [Operation::Read, Operation::Compare];

/// What one store took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Took {
    /// How often.
    pub count: u64,
    /// Half took no longer, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 took no longer, in milliseconds.
    pub p99_ms: f64,
}

/// What both took for the same kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SideBySide {
    /// The work.
    pub operation: &'static str,
    /// Redis; nothing where it was not asked.
    pub redis: Option<Took>,
    /// Postgres; nothing where it was not asked.
    pub postgres: Option<Took>,
    /// How much longer Postgres took at the middle, in milliseconds; nothing where one of them was not asked.
    pub difference_p50_ms: Option<f64>,
    /// How much longer Postgres took at the 99th percentile.
    pub difference_p99_ms: Option<f64>,
}

/// What was counted at the last reports.
#[derive(Default)]
pub(super) struct Window(VecDeque<Latencies>);

impl Window {
    /// Takes up a report. Answers what came within the window.
    pub(super) fn take_up(&mut self, now: &Latencies) -> Vec<SideBySide> {
        let before = self.0.front().cloned().unwrap_or_default();
        self.0.push_back(now.clone());
        if self.0.len() > REPORTS {
            self.0.pop_front();
        }
        BOTH_DO.into_iter().map(|operation| side_by_side(operation, now, &before)).collect()
    }
}

/// Shows the differences as metrics.
pub(super) fn show(metrics: &Metrics, sides: &[SideBySide]) {
    for (operation, sides) in BOTH_DO.into_iter().zip(sides) {
        let differences = [(Quantile::P50, sides.difference_p50_ms), (Quantile::P99, sides.difference_p99_ms)];
        for (quantile, difference) in differences {
            metrics.set_latency_difference(operation, quantile, difference.unwrap_or(0.0) / 1000.0);
        }
    }
}

fn side_by_side(operation: Operation, now: &Latencies, before: &Latencies) -> SideBySide {
    let of = |latencies: &Latencies, store: Store| {
        latencies.get(operation.name()).and_then(|stores| stores.get(store.name())).cloned().unwrap_or_default()
    };
    let took = |store| took(&of(now, store).since(&of(before, store)));
    let (redis, postgres) = (took(Store::Redis), took(Store::Postgres));
    let difference = |part: fn(Took) -> f64| Some(part(postgres?) - part(redis?));
    SideBySide {
        operation: operation.name(),
        redis,
        postgres,
        difference_p50_ms: difference(|took| took.p50_ms),
        difference_p99_ms: difference(|took| took.p99_ms),
    }
}

fn took(distribution: &Distribution) -> Option<Took> {
    let (p50_ms, p99_ms) = (distribution.quantile_ms(0.5)?, distribution.quantile_ms(0.99)?);
    Some(Took { count: distribution.count(), p50_ms, p99_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latencies(redis: u64, postgres: u64) -> Latencies {
        let of = |counts: Vec<u64>| Distribution { ends: vec![0.001, 0.010], counts };
        let stores = [("redis".to_owned(), of(vec![redis, 0, 0])), ("postgres".to_owned(), of(vec![0, postgres, 0]))];
        [("read".to_owned(), stores.into())].into()
    }

    #[test]
    fn both_stores_stand_side_by_side_over_the_window_alone() {
        let mut window = Window::default();
        window.take_up(&latencies(1_000, 0));
        let read = window.take_up(&latencies(1_100, 50))[0];
        assert_eq!((read.redis.unwrap().count, read.postgres.unwrap().count), (100, 50));
        assert!(read.difference_p50_ms.unwrap() > 4.0 && read.difference_p99_ms.unwrap() > 8.0, "{read:?}");
        for _ in 0..REPORTS {
            window.take_up(&latencies(1_100, 50));
        }
        let quiet = window.take_up(&latencies(1_100, 50))[0];
        assert_eq!((quiet.redis, quiet.difference_p50_ms), (None, None));
    }
}
