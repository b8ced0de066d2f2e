//! Whether metrics go to an OTLP collector beside being there to be scraped, and how often.

use crate::settings::build::WAIT_MS_MAX;
use crate::settings::otlp::{self, OtlpTarget, Signal};
use crate::settings::reader::Reader;

/// Where metrics go and how often.
#[derive(Clone, Debug)]
pub struct MetricSettings {
    /// The collector.
    pub target: OtlpTarget,
    /// From one export to the next.
    pub interval_ms: u64,
    /// For one export, all its tries together.
    pub export_timeout_ms: u64,
}

/// What was said about metrics; none unless `OTEL_METRICS_EXPORTER` asks for them.
pub(super) fn build(reader: &mut Reader<'_>) -> Option<MetricSettings> {
    let target = otlp::target(reader, Signal::Metrics);
    let interval_ms = reader.number("metrics.interval_ms", 1..=WAIT_MS_MAX);
    let export_timeout_ms = reader.number("metrics.export_timeout_ms", 1..=WAIT_MS_MAX);
    Some(MetricSettings { target: target?, interval_ms, export_timeout_ms })
}
