//! A span under way: what happens inside it, what it learns, and how it ends.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::Either;
use http::HeaderMap;
use opentelemetry::trace::{FutureExt, Link, SpanBuilder, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};

use crate::telemetry::labels::{ComparisonDrop, Label};
use crate::telemetry::traces::{Inner, Origin, context};

/// An error as a span shows it: by the name of its class, never by its text.
pub trait Fault {
    /// The class, in words that are ours.
    fn class(&self) -> &'static str;
}

impl Fault for ComparisonDrop {
    fn class(&self) -> &'static str {
        self.name()
    }
}

/// A span under way, or nothing. One that is dropped before its work was over (a deadline, a caller who left) is marked so.
#[must_use = "a span ends when it is dropped"]
#[derive(Default)]
pub struct ActiveSpan(Option<Begun>);

struct Begun {
    inner: Arc<Inner>,
    /// What happens inside happens in this context.
    context: Context,
    /// What the span would have been, where its trace is not sampled: an error in it is kept all the same.
    unsampled: Option<SpanBuilder>,
}

impl ActiveSpan {
    /// Begins a span that the sampler decides about, unless `parent` has decided already.
    pub(super) fn begin(inner: &Arc<Inner>, builder: SpanBuilder, parent: Context) -> Self {
        let inner = Arc::clone(inner);
        let builder = builder.with_start_time(opentelemetry::time::now());
        let decided = {
            let span = parent.span();
            let span = span.span_context();
            (span.is_valid() && !span.is_remote()).then(|| span.is_sampled())
        };
        let (context, unsampled) = match decided {
            Some(true) => (parent.with_span(inner.sampled.build_with_context(builder, &parent)), None),
            Some(false) => (parent, Some(builder)),
            None => {
                let span = inner.sampled.build_with_context(builder.clone(), &parent);
                let context = parent.with_span(span);
                let is_sampled = context.span().span_context().is_sampled();
                (context, (!is_sampled).then_some(builder))
            }
        };
        Self(Some(Begun { inner, context, unsampled }))
    }

    /// Begins a span that is kept, the first one of a trace.
    pub(super) fn keep(inner: &Arc<Inner>, builder: SpanBuilder) -> Self {
        let span = inner.kept.build_with_context(builder, &Context::new());
        Self(Some(Begun { inner: Arc::clone(inner), context: Context::new().with_span(span), unsampled: None }))
    }

    /// Begins a span that is kept only if it fails.
    pub(super) fn keep_if_it_fails(inner: &Arc<Inner>, builder: SpanBuilder, parent: Context) -> Self {
        let unsampled = Some(builder.with_start_time(opentelemetry::time::now()));
        Self(Some(Begun { inner: Arc::clone(inner), context: parent, unsampled }))
    }

    /// What happens in this future happens inside the span.
    pub fn within<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        match &self.0 {
            Some(begun) => Either::Left(work.with_context(begun.context.clone())),
            None => Either::Right(work),
        }
    }

    /// Does this at once, inside the span.
    pub fn inside<T>(&self, work: impl FnOnce() -> T) -> T {
        let _inside = self.0.as_ref().map(|begun| begun.context.clone().attach());
        work()
    }

    /// Does the work inside the span, which ends with it and shows the class of its error.
    ///
    /// # Errors
    /// Those of the work.
    pub fn run<T, E: Fault, F: Future<Output = Result<T, E>>>(mut self, work: F) -> impl Future<Output = Result<T, E>> {
        // Combinators, because an async function would hold the work twice, and works stand in one another.
        self.within(work).map(move |outcome| {
            match &outcome {
                Ok(_) => self.end(),
                Err(error) => self.fail(error.class()),
            }
            outcome
        })
    }

    /// The span's own origin, for work that goes on after it.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin(self.0.as_ref().map(|begun| begun.context.span().span_context().clone()).filter(|span| span.is_valid()))
    }

    /// Notes a fact.
    pub(super) fn set(&mut self, attributes: impl IntoIterator<Item = KeyValue>) {
        match &mut self.0 {
            Some(Begun { unsampled: Some(builder), .. }) => {
                builder.attributes.get_or_insert_default().extend(attributes);
            }
            Some(begun) => begun.context.span().set_attributes(attributes),
            None => {}
        }
    }

    /// Ends the span.
    pub fn end(&mut self) {
        if let Some(begun) = self.0.take()
            && begun.unsampled.is_none()
        {
            begun.context.span().end();
        }
    }

    /// Ends the span as failed. One whose trace is not sampled is kept in a trace of its own, which links to it.
    pub fn fail(&mut self, class: &'static str) {
        let Some(Begun { inner, context, unsampled }) = self.0.take() else { return };
        let class = KeyValue::new("error.type", class);
        let Some(mut builder) = unsampled else {
            let span = context.span();
            span.set_attribute(class);
            span.set_status(Status::error(""));
            span.end();
            return;
        };
        builder.attributes.get_or_insert_default().push(class);
        let origin = context.span().span_context().clone();
        if origin.is_valid() {
            builder.links.get_or_insert_default().push(Link::with_context(origin));
        }
        let context = Context::new().with_span(inner.kept.build_with_context(builder, &Context::new()));
        let span = context.span();
        span.set_status(Status::error(""));
        span.end();
    }
}

impl Drop for ActiveSpan {
    fn drop(&mut self) {
        self.fail("cancelled");
    }
}

/// The span of a request at a door.
#[must_use = "a span ends when it is dropped"]
#[derive(Default)]
pub struct DoorSpan(ActiveSpan);

impl DoorSpan {
    pub(super) fn new(span: ActiveSpan) -> Self {
        Self(span)
    }

    /// What happens in this future happens inside the span.
    pub fn within<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        self.0.within(work)
    }

    /// Does this at once, inside the span.
    pub fn inside<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.inside(work)
    }

    /// Ends the span with the answer's status, and tells the caller in `headers` under which ids it is found.
    pub fn answered(mut self, status: u16, headers: &mut HeaderMap) {
        let Some(begun) = &self.0.0 else { return };
        context::tell(begun.context.span().span_context(), headers);
        self.0.set([KeyValue::new("http.response.status_code", i64::from(status))]);
        match status {
            // A class for each status, as the conventions want it.
            500.. => self.0.fail(server_error(status)),
            ..500 => self.0.end(),
        }
    }
}

impl Drop for DoorSpan {
    /// A caller who left is no error: what was begun is finished without it.
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The status as the class of an error. These are the ones that our doors answer with.
fn server_error(status: u16) -> &'static str {
    match status {
        500 => "500",
        501 => "501",
        502 => "502",
        503 => "503",
        504 => "504",
        507 => "507",
        _ => "_OTHER",
    }
}
