//! W3C trace context at the doors: `traceparent` and `tracestate` of a request are continued, and the answer says under
//! which ids, in `traceresponse`.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceFlags};
use opentelemetry_sdk::propagation::TraceContextPropagator;

const TRACEPARENT: &str = "traceparent";
const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// The context that a request came with; an empty one when it has none, or one that does not parse.
pub(super) fn of_request(headers: &HeaderMap) -> Context {
    // Two of them contradict each other, and neither is followed.
    let is_one = headers.get_all(TRACEPARENT).iter().count() == 1;
    if !is_one {
        return Context::new();
    }
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers))
}

/// Tells the caller under which ids its request is found.
pub(super) fn tell(context: &SpanContext, headers: &mut HeaderMap) {
    let flags = context.trace_flags() & TraceFlags::SAMPLED;
    let text = format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), flags);
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(TRACERESPONSE, value);
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceContextExt;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn request(parents: &[&'static str]) -> Context {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append(TRACEPARENT, HeaderValue::from_static(parent));
        }
        headers.insert("tracestate", HeaderValue::from_static("vendor=1"));
        of_request(&headers)
    }

    #[test]
    fn a_context_is_continued_and_told() {
        let context = request(&[PARENT]);
        let span = context.span();
        assert_eq!(span.span_context().trace_state().header(), "vendor=1");
        let mut headers = HeaderMap::new();
        tell(span.span_context(), &mut headers);
        assert_eq!(headers["traceresponse"], PARENT);
    }

    #[test]
    fn what_is_no_context_is_as_if_there_were_none() {
        for parents in
            [&[][..], &["x"], &[PARENT, PARENT], &["00-00000000000000000000000000000000-00f067aa0ba902b7-01"]]
        {
            assert!(!request(parents).has_active_span(), "{parents:?}");
        }
    }
}
