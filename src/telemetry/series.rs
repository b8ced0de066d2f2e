//! The instruments under the metrics: counters and gauges are atomics that OpenTelemetry reads when somebody scrapes.
//!
//! So the hot path adds to one integer, allocates nothing and takes no lock, and memory is fixed at start: one cell for
//! each combination of label values. Histograms are OpenTelemetry's own, with label sets made beforehand.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::trace::SpanContext;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{Instrument, SdkMeterProvider, Stream};
use prometheus::Registry;

use crate::telemetry::exemplars::Exemplars;
use crate::telemetry::label_sets::{LabelSet, Labels};

/// Instruments with at most this many series show all of them from the start, so that a first event is a rise from 0 to 1
/// and not a series out of nowhere; larger ones show a series once it was touched.
const ALWAYS_SHOWN_SERIES_MAX: usize = 1024;

/// Upper bounds of the latency buckets, in seconds: from a Redis round trip on loopback to a write that waited out its time.
pub(super) const SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// One cell for each combination of label values.
#[derive(Clone)]
struct Cells {
    values: Arc<[AtomicU64]>,
    labels: Labels,
}

impl Cells {
    fn of(labels: &Labels) -> Self {
        Self { values: (0..labels.series()).map(|_| AtomicU64::new(0)).collect(), labels: labels.clone() }
    }

    fn cell(&self, positions: &[usize]) -> Option<&AtomicU64> {
        self.values.get(self.labels.number(positions)?)
    }

    /// What a scrape shows: each cell with its labels.
    fn shown(&self) -> impl Iterator<Item = (u64, Vec<KeyValue>)> {
        let shows_untouched = self.values.len() <= ALWAYS_SHOWN_SERIES_MAX;
        let loaded = self.values.iter().map(|cell| cell.load(Ordering::Relaxed)).zip(0..);
        let shown = loaded.filter(move |(value, _)| shows_untouched || *value > 0);
        shown.map(|(value, number)| (value, self.labels.shown(number)))
    }
}

/// A number that only rises.
pub(super) struct Counter {
    cells: Cells,
    exemplars: Arc<Exemplars>,
}

impl Counter {
    /// Adds `n` to the series at `positions`, one for each label.
    pub(super) fn add(&self, positions: &[usize], n: u64) {
        if let Some(cell) = self.cells.cell(positions) {
            cell.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// What the series at `positions` has come to.
    pub(super) fn total(&self, positions: &[usize]) -> u64 {
        self.cells.cell(positions).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    /// Notes that `span` counted one in the series at `positions`, if that span is kept.
    pub(super) fn point_to(&self, positions: &[usize], span: &SpanContext) {
        if let Some(series) = self.cells.labels.number(positions) {
            self.exemplars.note(series, 1.0, span);
        }
    }
}

/// A number that is what it was set to last.
pub(super) struct Gauge(Cells);

impl Gauge {
    /// Sets the series at `positions`.
    pub(super) fn set(&self, positions: &[usize], value: f64) {
        if let Some(cell) = self.0.cell(positions) {
            cell.store(value.to_bits(), Ordering::Relaxed);
        }
    }

    /// Moves the series at `positions` up or down by `change`, for what many count together.
    pub(super) fn shift(&self, positions: &[usize], change: f64) {
        if let Some(cell) = self.0.cell(positions) {
            let shifted = |bits| Some((f64::from_bits(bits) + change).to_bits());
            let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, shifted);
        }
    }
}

/// A distribution of durations in seconds.
pub(super) struct Histogram {
    inner: opentelemetry::metrics::Histogram<f64>,
    labels: Labels,
    /// Those of each series, so that a record makes none.
    label_sets: Vec<Vec<KeyValue>>,
    exemplars: Arc<Exemplars>,
}

impl Histogram {
    /// Records `seconds` in the series at `positions`, with the trace that the caller works in as its exemplar.
    pub(super) fn record(&self, positions: &[usize], seconds: f64) {
        let Some(series) = self.labels.number(positions) else { return };
        if let Some(labels) = self.label_sets.get(series) {
            self.inner.record(seconds, labels);
            self.exemplars.note_current(series, seconds);
        }
    }
}

/// Makes the instruments of one [`Registry`].
pub(super) struct Registrar {
    kinds: Vec<String>,
    provider: SdkMeterProvider,
    meter: Meter,
    series_max: Arc<Mutex<HashMap<String, usize>>>,
    exemplars: Mutex<HashMap<String, Arc<Exemplars>>>,
    exemplars_are_on: Arc<AtomicBool>,
}

impl Registrar {
    /// A registrar whose instruments appear in `registry`; `kinds` are the values of every `kind` label.
    pub(super) fn new(registry: &Registry, instance: &str, kinds: &[String]) -> Self {
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()
            .expect("a fresh registry holds no other collector");
        // OpenTelemetry reserves room for 2,000 series an instrument and folds whatever is above into one. We know each
        // instrument's exact number, which is both less memory and never a fold.
        let series_max = Arc::new(Mutex::new(HashMap::new()));
        let known = Arc::clone(&series_max);
        let view = move |instrument: &Instrument| {
            let series_max = known.lock().unwrap_or_else(PoisonError::into_inner).get(instrument.name()).copied()?;
            Stream::builder().with_cardinality_limit(series_max).build().ok()
        };
        let resource = Resource::builder_empty()
            .with_service_name("parallax")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
            .build();
        let provider =
            SdkMeterProvider::builder().with_reader(exporter).with_resource(resource).with_view(view).build();
        let meter = provider.meter("parallax");
        let (exemplars, exemplars_are_on) = (Mutex::default(), Arc::default());
        Self { kinds: kinds.to_vec(), provider, meter, series_max, exemplars, exemplars_are_on }
    }

    /// The label `kind`.
    pub(super) fn kinds(&self) -> Vec<String> {
        self.kinds.clone()
    }

    /// What must be kept for as long as the instruments are; their exemplars by the name that a scrape shows; and the switch
    /// that turns them on.
    pub(super) fn into_parts(self) -> (SdkMeterProvider, HashMap<String, Arc<Exemplars>>, Arc<AtomicBool>) {
        (self.provider, self.exemplars.into_inner().unwrap_or_else(PoisonError::into_inner), self.exemplars_are_on)
    }

    fn exemplars(&self, shown: String, labels: &Labels, bounds: &'static [f64]) -> Arc<Exemplars> {
        let made = Arc::new(Exemplars::new(Arc::clone(&self.exemplars_are_on), labels.clone(), bounds));
        self.exemplars.lock().unwrap_or_else(PoisonError::into_inner).insert(shown, Arc::clone(&made));
        made
    }

    /// A counter; the exporter adds `_total` to its name.
    pub(super) fn counter(&self, name: &'static str, help: &'static str, labels: &[LabelSet]) -> Counter {
        let labels = self.expect_series(name, labels);
        let exemplars = self.exemplars(format!("{name}_total"), &labels, &[]);
        let cells = Cells::of(&labels);
        let observed = cells.clone();
        let _instrument = self
            .meter
            .u64_observable_counter(name)
            .with_description(help)
            .with_callback(move |observer| {
                observed.shown().for_each(|(value, labels)| observer.observe(value, &labels));
            })
            .build();
        Counter { cells, exemplars }
    }

    /// A gauge.
    pub(super) fn gauge(&self, name: &'static str, help: &'static str, labels: &[LabelSet]) -> Gauge {
        let cells = Cells::of(&self.expect_series(name, labels));
        let observed = cells.clone();
        let _instrument = self
            .meter
            .f64_observable_gauge(name)
            .with_description(help)
            .with_callback(move |observer| {
                observed.shown().for_each(|(bits, labels)| observer.observe(f64::from_bits(bits), &labels));
            })
            .build();
        Gauge(cells)
    }

    /// A histogram of seconds. It has no unit of its own, since the exporter would write it into the name once more.
    pub(super) fn histogram(&self, name: &'static str, help: &'static str, labels: &[LabelSet]) -> Histogram {
        let labels = self.expect_series(name, labels);
        let inner = self.meter.f64_histogram(name).with_description(help).with_boundaries(SECONDS.to_vec()).build();
        let exemplars = self.exemplars(name.to_owned(), &labels, &SECONDS);
        let label_sets = (0..labels.series()).map(|series| labels.shown(series)).collect();
        Histogram { inner, labels, label_sets, exemplars }
    }

    /// Announces how many series `name` will have.
    fn expect_series(&self, name: &'static str, labels: &[LabelSet]) -> Labels {
        let labels = Labels::of(labels);
        let mut series_max = self.series_max.lock().unwrap_or_else(PoisonError::into_inner);
        series_max.insert(name.to_owned(), labels.series() + 1);
        labels
    }
}
