//! Exemplars: for each bucket of a latency, and each class of mismatch, the last trace that is kept and was counted there.
//!
//! OpenTelemetry's SDK for Rust keeps none, so they stand beside its instruments. While traces are off, noting one is a look
//! at a flag; a note that would have to wait for another one is left out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceId};
use prometheus::proto::LabelPair;

use crate::telemetry::label_sets::Labels;

/// One measured value and the trace that it was measured in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Exemplar {
    /// The trace.
    pub(super) trace: TraceId,
    /// The span.
    pub(super) span: SpanId,
    /// What was measured.
    pub(super) value: f64,
    /// When.
    pub(super) at: SystemTime,
}

/// The exemplars of one instrument. As many as it has series and buckets, at most.
pub(super) struct Exemplars {
    /// Whether spans are made, so that there is anything to point to.
    is_on: Arc<AtomicBool>,
    labels: Labels,
    /// The upper bounds of the buckets; none for a counter.
    bounds: &'static [f64],
    noted: Mutex<HashMap<(usize, usize), Exemplar>>,
}

impl Exemplars {
    pub(super) fn new(is_on: Arc<AtomicBool>, labels: Labels, bounds: &'static [f64]) -> Self {
        Self { is_on, labels, bounds, noted: Mutex::default() }
    }

    /// Notes that `value` was counted in `series` by the span that the caller works in, if that is kept.
    pub(super) fn note_current(&self, series: usize, value: f64) {
        if self.is_on.load(Ordering::Relaxed) {
            Context::map_current(|context| self.note(series, value, context.span().span_context()));
        }
    }

    /// Notes that `value` was counted in `series` by `span`, if that is kept.
    pub(super) fn note(&self, series: usize, value: f64, span: &SpanContext) {
        if !span.is_valid() || !span.is_sampled() {
            return;
        }
        if let Ok(mut noted) = self.noted.try_lock() {
            let at = opentelemetry::time::now();
            let exemplar = Exemplar { trace: span.trace_id(), span: span.span_id(), value, at };
            noted.insert((series, self.bucket(value)), exemplar);
        }
    }

    /// The exemplars of the series with these labels, as a scrape shows them, by bucket.
    pub(super) fn of(&self, labels: &[LabelPair]) -> HashMap<usize, Exemplar> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.is_empty() {
            return HashMap::new();
        }
        let Some(series) = self.labels.found(labels) else { return HashMap::new() };
        let own = noted.iter().filter(|((known, _), _)| *known == series);
        own.map(|((_, bucket), exemplar)| (*bucket, *exemplar)).collect()
    }

    /// The place of the bucket that `value` is counted in: the first whose bound is not below it, else the one without end.
    fn bucket(&self, value: f64) -> usize {
        self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len())
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{TraceFlags, TraceState};

    use super::*;

    fn span(flags: TraceFlags) -> SpanContext {
        SpanContext::new(TraceId::from(7), SpanId::from(9), flags, false, TraceState::NONE)
    }

    #[test]
    fn the_last_kept_trace_of_each_bucket_is_remembered_and_no_other() {
        let exemplars = Exemplars::new(Arc::default(), Labels::of(&[("kind", vec!["a".to_owned()])]), &[0.1, 1.0]);
        for value in [0.05, 0.1, 0.5, 30.0] {
            exemplars.note(0, value, &span(TraceFlags::SAMPLED));
        }
        exemplars.note(0, 0.01, &span(TraceFlags::NOT_SAMPLED));
        exemplars.note(0, 0.01, &SpanContext::NONE);
        let mut label = LabelPair::default();
        label.set_name("kind".to_owned());
        label.set_value("a".to_owned());
        let values: HashMap<usize, f64> =
            exemplars.of(&[label.clone()]).into_iter().map(|(bucket, exemplar)| (bucket, exemplar.value)).collect();
        assert_eq!(values, HashMap::from([(0, 0.1), (1, 0.5), (2, 30.0)]));
        label.set_value("b".to_owned());
        assert!(exemplars.of(&[label]).is_empty());
    }
}
