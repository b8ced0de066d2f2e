//! Metrics in the text of `OpenMetrics`, which has room for exemplars. The `prometheus` crate writes its own older text alone.

use std::fmt::Write;
use std::time::UNIX_EPOCH;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use crate::telemetry::exemplars::{Exemplar, Exemplars};

/// The end of every name of ours that is a time.
const SECONDS: &str = "_seconds";

/// The families as text, with the exemplars that `of` knows by the name of a family.
pub(super) fn render<'a>(families: &[MetricFamily], of: impl Fn(&str) -> Option<&'a Exemplars>) -> String {
    let mut text = String::new();
    for family in families {
        write_family(&mut text, family, of(family.name()));
    }
    text.push_str("# EOF\n");
    text
}

fn write_family(text: &mut String, family: &MetricFamily, exemplars: Option<&Exemplars>) {
    let (name, shape) = match family.get_field_type() {
        MetricType::COUNTER => (family.name().trim_end_matches("_total"), "counter"),
        // The exporter has no other shape for it.
        MetricType::GAUGE if family.name() == "target_info" => ("target", "info"),
        MetricType::GAUGE => (family.name(), "gauge"),
        MetricType::HISTOGRAM => (family.name(), "histogram"),
        MetricType::SUMMARY | MetricType::UNTYPED => (family.name(), "unknown"),
    };
    text.push_str(&format!("# TYPE {name} {shape}\n"));
    if name.ends_with(SECONDS) {
        text.push_str(&format!("# UNIT {name} seconds\n"));
    }
    if !family.help().is_empty() {
        text.push_str(&format!("# HELP {name} {}\n", escaped(family.help())));
    }
    for metric in family.get_metric() {
        match family.get_field_type() {
            MetricType::COUNTER => {
                let exemplar = exemplars.and_then(|known| known.of(metric.get_label()).remove(&0));
                let value = metric.get_counter().get_value();
                sample(text, &format!("{name}_total"), metric.get_label(), None, value, exemplar);
            }
            MetricType::GAUGE => {
                sample(text, family.name(), metric.get_label(), None, metric.get_gauge().get_value(), None);
            }
            MetricType::HISTOGRAM => write_histogram(text, name, metric, exemplars),
            MetricType::SUMMARY | MetricType::UNTYPED => {}
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count is a float in this text, exact up to 2^53")]
fn write_histogram(text: &mut String, name: &str, metric: &Metric, exemplars: Option<&Exemplars>) {
    let histogram = metric.get_histogram();
    let mut known = exemplars.map(|known| known.of(metric.get_label())).unwrap_or_default();
    let bucket = format!("{name}_bucket");
    let count = histogram.get_sample_count() as f64;
    let finite = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    let mut place = 0;
    for bound in finite {
        let value = bound.cumulative_count() as f64;
        sample(text, &bucket, metric.get_label(), Some(bound.upper_bound()), value, known.remove(&place));
        place += 1;
    }
    sample(text, &bucket, metric.get_label(), Some(f64::INFINITY), count, known.remove(&place));
    sample(text, &format!("{name}_count"), metric.get_label(), None, count, None);
    sample(text, &format!("{name}_sum"), metric.get_label(), None, histogram.get_sample_sum(), None);
}

fn sample(
    text: &mut String,
    name: &str,
    labels: &[LabelPair],
    bound: Option<f64>,
    value: f64,
    exemplar: Option<Exemplar>,
) {
    let bound =
        bound.map(|bound| if bound.is_finite() { format!("le=\"{bound:?}\"") } else { "le=\"+Inf\"".to_owned() });
    let labels = labels.iter().map(|label| format!("{}=\"{}\"", label.name(), escaped(label.value())));
    let labels: Vec<String> = labels.chain(bound).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let mut line = format!("{name}{labels} {value}");
    if let Some(Exemplar { trace, span, value, at }) = exemplar {
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        // Writing into a string cannot fail.
        let _ = write!(line, " # {{trace_id=\"{trace}\",span_id=\"{span}\"}} {value} {at:.3}");
    }
    text.push_str(&line);
    text.push('\n');
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
