//! The metrics of one sidecar: one method for each fact that is worth counting, so that a caller never spells the name of
//! a metric or of a label.
//!
//! A little over 400 lines, since there is a method for every fact and nothing else.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::SpanContext;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};

use crate::telemetry::commands::COMMANDS;
use crate::telemetry::exemplars::Exemplars;
use crate::telemetry::instruments::{Instruments, tables};
use crate::telemetry::labels::{
    ApplyFailure, Brake, CaptureRefusal, Compared, ComparisonDrop, Door, Export, GapCause, Job, JobEnd, Label,
    MismatchClass, Operation, Outcome, RouteReason, SpanDrop, StatusClass, Store,
};
use crate::telemetry::openmetrics;
use crate::telemetry::otlp::points::Reading;
use crate::telemetry::series::Registrar;

/// The metrics of one sidecar. Cheap to clone; every clone counts into the same instruments.
#[derive(Clone)]
pub struct Metrics(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) instruments: Instruments,
    kinds: HashMap<String, usize>,
    commands: HashMap<&'static str, usize>,
    pub(super) registry: Registry,
    exemplars: HashMap<String, Arc<Exemplars>>,
    exemplars_are_on: Arc<AtomicBool>,
    /// When they began to count.
    since: SystemTime,
    /// The instruments are read for as long as this lives.
    _provider: SdkMeterProvider,
}

impl Metrics {
    /// Metrics of the sidecar `instance` with these kinds, in a registry of their own; the last kind takes what names none
    /// of them.
    #[must_use]
    pub fn new(instance: &str, kinds: &[String]) -> Self {
        let registry = Registry::new();
        let registrar = Registrar::new(&registry, instance, kinds);
        let instruments = Instruments::new(&registrar);
        instruments.build_info.set(&[0], 1.0);
        let (provider, exemplars, exemplars_are_on) = registrar.into_parts();
        Self(Arc::new(Inner {
            instruments,
            kinds: kinds.iter().cloned().zip(0..).collect(),
            commands: COMMANDS.iter().copied().zip(0..).collect(),
            registry,
            exemplars,
            exemplars_are_on,
            since: opentelemetry::time::now(),
            _provider: provider,
        }))
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.0.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be written as text");
        }
        text
    }

    /// All metrics in the text of `OpenMetrics`, with exemplars.
    #[must_use]
    pub fn render_openmetrics(&self) -> String {
        openmetrics::render(&self.0.registry.gather(), |name| self.exemplars(name))
    }

    /// All metrics as one export over OTLP.
    pub(super) fn export(&self, resource: Resource) -> ExportMetricsServiceRequest {
        let families = self.0.registry.gather();
        let reading = Reading { families: &families, since: self.0.since, at: opentelemetry::time::now() };
        reading.export(resource, |name| self.exemplars(name))
    }

    fn exemplars(&self, name: &str) -> Option<&Exemplars> {
        self.0.exemplars.get(name).map(AsRef::as_ref)
    }

    /// Spans are made from now on: what is measured inside one that is kept points to it.
    pub(super) fn point_to_traces(&self) {
        self.0.exemplars_are_on.store(true, Ordering::Relaxed);
    }

    /// The sum over the series of `name` (as Prometheus shows it) whose labels include `labels`: value of counters and
    /// gauges, number of samples of histograms. For reports and tests; it reads everything, as a scrape does.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.0.registry.gather();
        families.iter().filter(|family| family.name() == name).map(|family| family_sum(family, labels)).sum()
    }

    /// A command was answered.
    pub fn command(&self, door: Door, result: Outcome) {
        self.0.instruments.commands.add(&[door.position(), result.position()], 1);
    }

    /// A read was answered by `store` because of `reason`.
    pub fn read_routed(&self, kind: &str, store: Store, reason: RouteReason) {
        self.0.instruments.reads.add(&[self.kind(kind), store.position(), reason.position()], 1);
    }

    /// Redis answered a read of a live kind because Postgres cannot be asked for this command.
    pub fn not_cut_over(&self, command: &str) {
        self.0.instruments.not_cut_over.add(&[self.command_place(command)], 1);
    }

    /// A command that may write was forwarded though no key of it is known.
    pub fn keyless_write(&self, command: &str) {
        self.0.instruments.keyless_writes.add(&[self.command_place(command)], 1);
    }

    /// `commands` write commands to a mirrored kind were executed.
    pub fn written(&self, kind: &str, commands: u64) {
        self.0.instruments.writes.add(&[self.kind(kind)], commands);
    }

    /// `rows` rows were sent to `table`.
    pub fn upserted(&self, table: &str, rows: u64) {
        if let Some(position) = tables().position(|known| known == table) {
            self.0.instruments.row_upserts.add(&[position], rows);
        }
    }

    /// `rows` tombstones or rows past their retention were swept from `table`.
    pub fn expunged(&self, table: &str, rows: u64) {
        if let Some(position) = tables().position(|known| known == table) {
            self.0.instruments.expunged_rows.add(&[position], rows);
        }
    }

    /// An apply transaction committed.
    pub fn applied(&self) {
        self.0.instruments.applies.add(&[], 1);
    }

    /// `rows` rows did not commit.
    pub fn apply_failed(&self, reason: ApplyFailure, rows: u64) {
        self.0.instruments.apply_failures.add(&[reason.position()], rows);
    }

    /// A record of `kind` reached Postgres `lag` after its mark.
    pub fn mirror_lag(&self, kind: &str, lag: Duration) {
        self.0.instruments.mirror_lag.record(&[self.kind(kind)], lag.as_secs_f64());
    }

    /// The outbox holds `depth` marks; the oldest is `oldest` old.
    pub fn set_outbox(&self, depth: u64, oldest: Duration) {
        self.0.instruments.outbox_depth.set(&[], as_f64(depth));
        self.0.instruments.outbox_oldest.set(&[], oldest.as_secs_f64());
    }

    /// A wake-up of the drain found its queue full.
    pub fn outbox_queue_dropped(&self, keys: u64) {
        self.0.instruments.outbox_queue_dropped.add(&[], keys);
    }

    /// One call of the capture script returned `records` records.
    pub fn captured(&self, records: u64) {
        self.0.instruments.captures.add(&[], 1);
        self.0.instruments.captured_records.add(&[], records);
    }

    /// A capture was refused a version.
    pub fn capture_refused(&self, reason: CaptureRefusal) {
        self.0.instruments.capture_refused.add(&[reason.position()], 1);
    }

    /// A mark could not be set with its write.
    pub fn mark_failed(&self) {
        self.0.instruments.mark_failures.add(&[], 1);
    }

    /// A record was put among the dead letters.
    pub fn dead_letter(&self, kind: &str) {
        self.0.instruments.dead_letters.add(&[self.kind(kind)], 1);
    }

    /// A log lost `entries` entries between two captures.
    pub fn log_gap(&self, kind: &str, entries: u64) {
        self.0.instruments.log_gaps.add(&[self.kind(kind)], 1);
        self.0.instruments.log_gap_entries.add(&[self.kind(kind)], entries);
    }

    /// Redis evicted a record that had a mark.
    pub fn evicted_while_pending(&self, kind: &str) {
        self.0.instruments.evicted_while_pending.add(&[self.kind(kind)], 1);
    }

    /// A write of `kind` could not be mirrored in a way that is provable.
    pub fn unverifiable(&self, kind: &str) {
        self.0.instruments.unverifiable.add(&[self.kind(kind)], 1);
    }

    /// A comparison came to `verdict`; mismatches are counted by their class as well.
    pub fn compared(&self, kind: &str, verdict: Compared) {
        let kind = self.kind(kind);
        self.0.instruments.comparisons.add(&[kind, verdict.position()], 1);
        if let Some(class) = verdict.mismatch() {
            self.0.instruments.mismatches.add(&[kind, class.position()], 1);
        }
    }

    /// The mismatch that was counted last for this kind and class stands in `span`.
    pub(super) fn mismatch_traced(&self, kind: &str, class: MismatchClass, span: &SpanContext) {
        self.0.instruments.mismatches.point_to(&[self.kind(kind), class.position()], span);
    }

    /// A sampled comparison was given up.
    pub fn comparison_dropped(&self, reason: ComparisonDrop) {
        self.0.instruments.comparisons_dropped.add(&[reason.position()], 1);
    }

    /// A store answered after `took`.
    pub fn store_latency(&self, store: Store, operation: Operation, took: Duration) {
        self.0.instruments.store_latency.record(&[store.position(), operation.position()], took.as_secs_f64());
    }

    /// A call to a store failed.
    pub fn store_error(&self, store: Store, operation: Operation) {
        self.0.instruments.store_errors.add(&[store.position(), operation.position()], 1);
    }

    /// What the Postgres pool looks like now.
    pub fn set_pool(&self, size: usize, idle: usize, waiting: usize) {
        self.0.instruments.pool_size.set(&[], as_f64(size as u64));
        self.0.instruments.pool_idle.set(&[], as_f64(idle as u64));
        self.0.instruments.pool_waiting.set(&[], as_f64(waiting as u64));
    }

    /// Postgres was found to have gone back in time.
    pub fn postgres_went_back(&self) {
        self.0.instruments.postgres_went_back.add(&[], 1);
    }

    /// A capture gap was written down.
    pub fn capture_gap(&self, cause: GapCause) {
        self.0.instruments.capture_gaps.add(&[cause.position()], 1);
    }

    /// So many capture gaps are open.
    pub fn set_capture_gaps_open(&self, gaps: u64) {
        self.0.instruments.capture_gaps_open.set(&[], as_f64(gaps));
    }

    /// The age of the proof that holds for a kind, where one does.
    pub fn set_proof(&self, kind: &str, age: Option<Duration>) {
        let kind = [self.kind(kind)];
        self.0.instruments.proof_holds.set(&kind, f64::from(u8::from(age.is_some())));
        self.0.instruments.proof_age.set(&kind, age.unwrap_or_default().as_secs_f64());
    }

    /// The flags that this sidecar acts on now.
    pub fn set_flags_version(&self, version: u64) {
        self.0.instruments.flags_version.set(&[], as_f64(version));
    }

    /// Whether this sidecar holds a valid lease.
    pub fn set_lease_valid(&self, is_valid: bool) {
        self.0.instruments.lease_valid.set(&[], f64::from(u8::from(is_valid)));
    }

    /// A backfill captured `records` records.
    pub fn backfilled(&self, kind: &str, records: u64) {
        self.0.instruments.backfill_records.add(&[self.kind(kind)], records);
    }

    /// A subscription began (1) or ended (-1).
    pub fn subscriptions_changed(&self, by: f64) {
        self.0.instruments.subscriptions.shift(&[], by);
    }

    /// A message waited for a subscriber who had no room for it.
    pub fn message_dropped(&self) {
        self.0.instruments.subscription_messages_dropped.add(&[], 1);
    }

    /// Whether a job runs here.
    pub fn set_job_running(&self, job: Job, is_running: bool) {
        self.0.instruments.job_running.set(&[job.position()], f64::from(u8::from(is_running)));
    }

    /// A job looked at `keys` keys or rows and carried or compared `bytes` bytes.
    pub fn job_advanced(&self, job: Job, keys: u64, bytes: u64) {
        self.0.instruments.job_keys.add(&[job.position()], keys);
        self.0.instruments.job_bytes.add(&[job.position()], bytes);
    }

    /// A job ended.
    pub fn job_ended(&self, job: Job, result: JobEnd) {
        self.0.instruments.jobs.add(&[job.position(), result.position()], 1);
    }

    /// A job began to slow down.
    pub fn job_braked(&self, reason: Brake) {
        self.0.instruments.job_brakes.add(&[reason.position()], 1);
    }

    /// An HTTP request was answered with `status` after `took`.
    pub fn http_request(&self, door: Door, status: u16, took: Duration) {
        self.0.instruments.http_requests.add(&[door.position(), StatusClass::of(status).position()], 1);
        self.0.instruments.http_request.record(&[door.position()], took.as_secs_f64());
    }

    /// A request was turned away for its token.
    pub fn auth_failed(&self, door: Door) {
        self.0.instruments.auth_failures.add(&[door.position()], 1);
    }

    /// A collector took `spans` spans.
    pub fn spans_exported(&self, spans: u64) {
        self.0.instruments.spans_exported.add(&[], spans);
    }

    /// `spans` spans were lost on their way to the collector.
    pub fn spans_dropped(&self, reason: SpanDrop, spans: u64) {
        self.0.instruments.spans_dropped.add(&[reason.position()], spans);
    }

    /// An export of metrics to a collector came to this.
    pub fn metrics_exported(&self, result: Export) {
        self.0.instruments.metric_exports.add(&[result.position()], 1);
    }

    /// The place of a command's name, whatever its case; that of all others where nobody knows it.
    fn command_place(&self, name: &str) -> usize {
        let place = self.0.commands.get(name.to_ascii_lowercase().as_str()).copied();
        place.unwrap_or(COMMANDS.len().saturating_sub(1))
    }

    pub(super) fn kind(&self, name: &str) -> usize {
        self.0.kinds.get(name).copied().unwrap_or(self.0.kinds.len().saturating_sub(1))
    }
}

/// Exact up to 2^53, which no count or version of ours in a gauge comes near.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float in Prometheus")]
pub(super) fn as_f64(count: u64) -> f64 {
    count as f64
}

fn family_sum(family: &MetricFamily, labels: &[(&str, &str)]) -> f64 {
    let has_labels = |metric: &&prometheus::proto::Metric| {
        let found = |(name, value): &(&str, &str)| {
            metric.get_label().iter().any(|label| label.name() == *name && label.value() == *value)
        };
        labels.iter().all(found)
    };
    let chosen = family.get_metric().iter().filter(has_labels);
    let value = |metric: &prometheus::proto::Metric| match family.get_field_type() {
        prometheus::proto::MetricType::COUNTER => metric.get_counter().get_value(),
        prometheus::proto::MetricType::GAUGE => metric.get_gauge().get_value(),
        prometheus::proto::MetricType::HISTOGRAM => as_f64(metric.get_histogram().get_sample_count()),
        prometheus::proto::MetricType::SUMMARY | prometheus::proto::MetricType::UNTYPED => 0.0,
    };
    chosen.map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new("sidecar-1", &["apikey".to_owned(), "unmatched".to_owned()])
    }

    #[test]
    fn a_fact_is_counted_in_the_series_of_its_labels() {
        let metrics = metrics();
        metrics.read_routed("apikey", Store::Postgres, RouteReason::Live);
        metrics.read_routed("apikey", Store::Redis, RouteReason::Pending);
        metrics.read_routed("apikey", Store::Redis, RouteReason::Pending);
        metrics.compared("apikey", Compared::Ttl);
        assert_eq!(metrics.sum("parallax_reads_total", &[("reason", "pending"), ("store", "redis")]), 2.0);
        assert_eq!(metrics.sum("parallax_reads_total", &[("kind", "apikey")]), 3.0);
        assert_eq!(metrics.sum("parallax_mismatches_total", &[("class", "ttl")]), 1.0);
        assert_eq!(metrics.sum("parallax_mismatches_total", &[("class", "value")]), 0.0);
    }

    #[test]
    fn a_kind_that_the_catalog_does_not_know_makes_no_new_series() {
        let metrics = metrics();
        let series = |metrics: &Metrics| metrics.render().matches("parallax_writes_total{").count();
        let before = series(&metrics);
        for name in ["", "x", "apikey2"] {
            metrics.written(name, 1);
        }
        assert_eq!(series(&metrics), before);
        assert_eq!(metrics.sum("parallax_writes_total", &[("kind", "unmatched")]), 3.0);
    }

    #[test]
    fn every_instance_counts_for_itself() {
        let (one, other) = (metrics(), metrics());
        one.clone().mark_failed();
        assert_eq!(one.sum("parallax_mark_failures_total", &[]), 1.0);
        assert_eq!(other.sum("parallax_mark_failures_total", &[]), 0.0);
    }

    #[test]
    fn no_series_is_folded_however_many_kinds_there_are() {
        let kinds: Vec<_> = (0..400).map(|n| format!("kind-{n}")).collect();
        let metrics = Metrics::new("sidecar-1", &kinds);
        for kind in &kinds {
            for reason in
                [RouteReason::Live, RouteReason::Stage, RouteReason::Gone, RouteReason::Epoch, RouteReason::NoRow]
            {
                metrics.read_routed(kind, Store::Redis, reason);
                metrics.read_routed(kind, Store::Postgres, reason);
            }
            metrics.mirror_lag(kind, Duration::from_millis(3));
        }
        let text = metrics.render();
        assert!(!text.contains("overflow"), "a series was folded");
        assert_eq!(text.matches("parallax_reads_total{").count(), 4000);
        assert_eq!(metrics.sum("parallax_mirror_lag_seconds", &[("kind", "kind-399")]), 1.0);
    }

    #[test]
    fn every_table_of_the_catalog_can_be_counted() {
        let metrics = metrics();
        for table in tables() {
            metrics.upserted(table, 2);
            assert_eq!(metrics.sum("parallax_row_upserts_total", &[("table", table)]), 2.0);
        }
    }
}
