//! Traces over OTLP: one from a request through its Redis step to the apply that settled it, which links back to it.
//!
//! Off unless an endpoint is configured, and then a call here is one branch: no span, no allocation. [`spans`] has a method
//! for each span that there is, so that nobody else spells a name or an attribute, and no key, value or secret can stand
//! in one; [`active`] is a span under way. Inside a request the current span travels by OpenTelemetry's own context; to
//! work that goes on elsewhere (drain, shadow) it travels as an [`Origin`]. What is finished goes the way that `export`
//! describes, and can slow or fail nothing.
//!
//! Spans are made here and not from the log's events: which ones there are must not depend on the log's filter, and the
//! text of an event must not leave the house.

pub mod active;
mod context;
mod export;
pub mod spans;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::{SpanContext, TraceContextExt, TraceState, TracerProvider};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, ShouldSample, SpanLimits};
use rustls::ClientConfig;

use crate::settings::Settings;
use crate::settings::traces::{AsksParent, TraceSettings};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::otlp;
use crate::telemetry::otlp::collector::Collector;
use crate::telemetry::traces::export::{Exporting, Queue};

/// Links of one span at most: the writes that an apply settled. Further ones are counted in the span itself.
pub const LINKS_MAX: u32 = 64;
/// Writes of one record that wait for the same apply and are remembered, so that it links to them.
pub const ORIGINS_MAX: usize = 4;
/// How long the end of the process waits for the last export.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);

/// The traces of one sidecar. Cheap to clone. The default is off.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Inner>>);

struct Inner {
    /// Makes the spans that the sampler decides about.
    sampled: SdkTracer,
    /// Makes the spans that are always kept.
    kept: SdkTracer,
    exporting: Exporting,
    redis: Vec<KeyValue>,
    postgres: Vec<KeyValue>,
}

/// The span that something began in, for work that goes on after it. Empty while traces are off.
#[derive(Clone, Debug, Default)]
pub struct Origin(Option<SpanContext>);

impl Origin {
    /// Whether it belongs to a trace that is kept.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.0.as_ref().is_some_and(SpanContext::is_sampled)
    }
}

impl Traces {
    /// Traces as `traces` wants them; `tls` is how a collector behind https is spoken to. To be called inside a runtime.
    #[must_use]
    pub fn start(traces: &TraceSettings, settings: &Settings, tls: ClientConfig, metrics: Metrics) -> Self {
        let resource = otlp::resource(&traces.target, &settings.instance);
        metrics.point_to_traces();
        let (exporting, queue) = Exporting::start(traces, Collector::new(&traces.target, tls), &resource, metrics);
        Self(Some(Arc::new(Inner {
            sampled: tracer(sampler(traces), &queue, &resource),
            kept: tracer(Box::new(Sampler::AlwaysOn), &queue, &resource),
            exporting,
            redis: spans::redis_server(&settings.redis),
            postgres: settings.postgres.as_ref().map(spans::postgres_server).unwrap_or_default(),
        })))
    }

    /// Whether spans are made at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The span that the caller works in.
    #[must_use]
    pub fn origin(&self) -> Origin {
        if !self.is_on() {
            return Origin::default();
        }
        Context::map_current(|context| {
            let span = context.span();
            let span = span.span_context();
            // The caller's trace state may be long, and a link does not need it.
            let kept =
                || SpanContext::new(span.trace_id(), span.span_id(), span.trace_flags(), false, TraceState::NONE);
            Origin(span.is_valid().then(kept))
        })
    }

    /// Exports what waits, within a few seconds. Nothing is traced afterwards.
    pub async fn stop(&self) {
        let Some(inner) = &self.0 else { return };
        if !inner.exporting.stop(FLUSH_DEADLINE).await {
            tracing::warn!("left without having exported all traces");
        }
    }
}

fn tracer(sampler: Box<dyn ShouldSample>, queue: &Queue, resource: &Resource) -> SdkTracer {
    // All that the SDK would read from the environment by itself is said here.
    let limits = SpanLimits { max_links_per_span: LINKS_MAX, ..SpanLimits::default() };
    let provider = SdkTracerProvider::builder()
        .with_sampler(sampler)
        .with_span_limits(limits)
        .with_resource(resource.clone())
        .with_span_processor(queue.clone())
        .build();
    provider
        .tracer_with_scope(InstrumentationScope::builder("parallax").with_version(env!("CARGO_PKG_VERSION")).build())
}

fn sampler(settings: &TraceSettings) -> Box<dyn ShouldSample> {
    let own = Sampler::TraceIdRatioBased(settings.sampler.ratio);
    match settings.sampler.asks_parent {
        AsksParent::Yes => Box::new(Sampler::ParentBased(Box::new(own))),
        AsksParent::No => Box::new(own),
    }
}
