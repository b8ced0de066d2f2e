//! Metrics as OTLP has them, made of the same families that a scrape shows: there is one set of instruments, and one count.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar as Sent, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, exemplar, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prometheus::proto::{LabelPair, MetricFamily, MetricType};

use crate::telemetry::exemplars::{Exemplar, Exemplars};

/// What was read of all instruments at one moment.
pub(in crate::telemetry) struct Reading<'a> {
    /// As a scrape shows them.
    pub(in crate::telemetry) families: &'a [MetricFamily],
    /// When the instruments began to count.
    pub(in crate::telemetry) since: SystemTime,
    /// When they were read.
    pub(in crate::telemetry) at: SystemTime,
}

impl Reading<'_> {
    /// One export of all of it. `of` knows exemplars by the name of a family.
    pub(in crate::telemetry) fn export<'e>(
        &self,
        resource: Resource,
        of: impl Fn(&str) -> Option<&'e Exemplars>,
    ) -> ExportMetricsServiceRequest {
        let families = self.families.iter().filter(|family| family.name() != "target_info");
        let metrics = families.filter_map(|family| self.metric(family, of(family.name()))).collect();
        let scope = InstrumentationScope {
            name: "parallax".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let scope_metrics = ScopeMetrics { scope: Some(scope), metrics, schema_url: String::new() };
        let resource =
            ResourceMetrics { resource: Some(resource), scope_metrics: vec![scope_metrics], schema_url: String::new() };
        ExportMetricsServiceRequest { resource_metrics: vec![resource] }
    }

    fn metric(&self, family: &MetricFamily, exemplars: Option<&Exemplars>) -> Option<Metric> {
        let points = family.get_metric().iter();
        let cumulative = AggregationTemporality::Cumulative.into();
        let data = match family.get_field_type() {
            MetricType::COUNTER => {
                let point = |metric: &prometheus::proto::Metric| {
                    let exemplar = exemplars.and_then(|known| known.of(metric.get_label()).remove(&0));
                    self.number(metric.get_label(), metric.get_counter().get_value(), exemplar)
                };
                let data_points = points.map(point).collect();
                Data::Sum(Sum { data_points, aggregation_temporality: cumulative, is_monotonic: true })
            }
            MetricType::GAUGE => {
                let point = |metric: &prometheus::proto::Metric| {
                    self.number(metric.get_label(), metric.get_gauge().get_value(), None)
                };
                Data::Gauge(Gauge { data_points: points.map(point).collect() })
            }
            MetricType::HISTOGRAM => {
                let data_points = points.map(|metric| self.histogram(metric, exemplars)).collect();
                Data::Histogram(Histogram { data_points, aggregation_temporality: cumulative })
            }
            MetricType::SUMMARY | MetricType::UNTYPED => return None,
        };
        // What writes Prometheus' text adds `_total` by itself.
        let name = family.name().trim_end_matches("_total").to_owned();
        let unit = if name.ends_with("_seconds") { "s" } else { "" };
        Some(Metric {
            name,
            description: family.help().to_owned(),
            unit: unit.to_owned(),
            data: Some(data),
            ..Metric::default()
        })
    }

    fn number(&self, labels: &[LabelPair], value: f64, exemplar: Option<Exemplar>) -> NumberDataPoint {
        NumberDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: nanoseconds(self.since),
            time_unix_nano: nanoseconds(self.at),
            exemplars: exemplar.iter().map(sent).collect(),
            value: Some(number_data_point::Value::AsDouble(value)),
            ..NumberDataPoint::default()
        }
    }

    fn histogram(&self, metric: &prometheus::proto::Metric, exemplars: Option<&Exemplars>) -> HistogramDataPoint {
        let histogram = metric.get_histogram();
        let finite: Vec<_> = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite()).collect();
        let mut below = 0;
        let upper = finite.iter().map(|bucket| bucket.cumulative_count()).chain([histogram.get_sample_count()]);
        let bucket_counts = upper.map(|count| count - std::mem::replace(&mut below, count)).collect();
        let known = exemplars.map(|known| known.of(metric.get_label())).unwrap_or_default();
        HistogramDataPoint {
            attributes: attributes(metric.get_label()),
            start_time_unix_nano: nanoseconds(self.since),
            time_unix_nano: nanoseconds(self.at),
            count: histogram.get_sample_count(),
            sum: Some(histogram.get_sample_sum()),
            bucket_counts,
            explicit_bounds: finite.iter().map(|bucket| bucket.upper_bound()).collect(),
            exemplars: known.values().map(sent).collect(),
            ..HistogramDataPoint::default()
        }
    }
}

fn attributes(labels: &[LabelPair]) -> Vec<KeyValue> {
    let attribute = |label: &LabelPair| KeyValue {
        key: label.name().to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue(label.value().to_owned())) }),
        ..KeyValue::default()
    };
    labels.iter().map(attribute).collect()
}

fn sent(exemplar: &Exemplar) -> Sent {
    Sent {
        filtered_attributes: Vec::new(),
        time_unix_nano: nanoseconds(exemplar.at),
        span_id: exemplar.span.to_bytes().to_vec(),
        trace_id: exemplar.trace.to_bytes().to_vec(),
        value: Some(exemplar::Value::AsDouble(exemplar.value)),
    }
}

fn nanoseconds(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}
