//! The metrics of the cutover: flags, breakers, rollbacks, drills, the guard, and both stores side by side.

use std::time::Duration;

use crate::model::flag::{Flag, Stage};
use crate::telemetry::Metrics;
use crate::telemetry::labels::{Label, Operation, Quantile};

impl Metrics {
    /// The flag of one kind.
    pub fn set_flag(&self, kind: &str, flag: &Flag) {
        let stage = match flag.stage {
            Stage::Off => 0.0,
            Stage::Dualwrite => 1.0,
            Stage::Shadow => 2.0,
            Stage::Live => 3.0,
        };
        self.0.instruments.stage.set(&[self.kind(kind)], stage);
        self.0.instruments.live_share.set(&[self.kind(kind)], flag.percent / 100.0);
    }

    /// Whether the breaker of a kind is open.
    pub fn set_breaker(&self, kind: &str, is_open: bool) {
        self.0.instruments.breaker_open.set(&[self.kind(kind)], f64::from(u8::from(is_open)));
    }

    /// A rollback was confirmed by the fleet, or waited for as long as it may, after `took`.
    pub fn rolled_back(&self, took: Duration) {
        self.0.instruments.rollbacks.add(&[], 1);
        self.0.instruments.last_rollback.set(&[], took.as_secs_f64());
    }

    /// How much longer Postgres took than Redis at a quantile of the last minute; negative where it was faster.
    pub fn set_latency_difference(&self, operation: Operation, quantile: Quantile, seconds: f64) {
        self.0.instruments.latency_difference.set(&[operation.position(), quantile.position()], seconds);
    }

    /// A rollback was rehearsed: reads of a kind were back with Redis everywhere after `took`.
    pub fn drilled(&self, took: Duration) {
        self.0.instruments.last_drill.set(&[], took.as_secs_f64());
    }

    /// The guard took the reads of a kind back.
    pub fn guard_breached(&self, kind: &str) {
        self.0.instruments.guard_breaches.add(&[self.kind(kind)], 1);
    }
}
