//! The answer to a scrape: Prometheus' own text, or that of `OpenMetrics`, which has room for exemplars, where it is asked for.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{self, HeaderValue};

use crate::doors::server::Response;
use crate::telemetry::Metrics;

/// A text that metrics are written in, by the name that Prometheus knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Prometheus,
    OpenMetrics,
}

/// The metrics, in the text that the scraper likes better.
pub(super) fn answer(metrics: &Metrics, headers: &HeaderMap) -> Response {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (media_type, text) = match liked_better(&accepts.collect::<Vec<_>>().join(",")) {
        Text::Prometheus => ("text/plain; version=0.0.4; charset=utf-8", metrics.render()),
        Text::OpenMetrics => {
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", metrics.render_openmetrics())
        }
    };
    let mut response = Response::new(Bytes::from(text).into());
    let told = [(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, "no-store"), (header::VARY, "accept")];
    for (name, value) in told {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// `OpenMetrics` only for whoever names it and likes no other text of ours better; a browser and curl get the plain one.
fn liked_better(accept: &str) -> Text {
    let weight = |wanted: &str| {
        let named = accept.split(',').map(|part| {
            let mut words = part.split(';').map(str::trim);
            let media_type = words.next().unwrap_or_default();
            let weight = words.find_map(|word| word.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f32>);
            (media_type, weight.unwrap_or(0.0))
        });
        named
            .filter(|(media_type, _)| media_type.eq_ignore_ascii_case(wanted))
            .map(|(_, weight)| weight)
            .fold(0.0, f32::max)
    };
    let openmetrics = weight("application/openmetrics-text");
    if openmetrics > 0.0 && openmetrics >= weight("text/plain") { Text::OpenMetrics } else { Text::Prometheus }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_the_text_that_it_likes_better_and_everybody_else_the_plain_one() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,text/plain;q=0.3,*/*;q=0.2";
        for (accept, text) in [
            (prometheus, Text::OpenMetrics),
            ("application/openmetrics-text", Text::OpenMetrics),
            ("application/openmetrics-text;q=0.1, text/plain", Text::Prometheus),
            ("application/openmetrics-text;q=0", Text::Prometheus),
            ("application/openmetrics-text;q=nonsense", Text::Prometheus),
            ("text/html,*/*;q=0.8", Text::Prometheus),
            ("", Text::Prometheus),
        ] {
            assert_eq!(liked_better(accept), text, "{accept}");
        }
    }
}
