//! Where traces go and which of them, by OpenTelemetry's own names.
//!
//! They are read here and not by the libraries that know these names too, so that a flag, a file and a variable mean the
//! same, a mistake is an error at the start, and `parallax config check` shows what holds.

use std::path::PathBuf;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret;

use crate::settings::build::WAIT_MS_MAX;
use crate::settings::reader::Reader;

/// What an OTLP collector takes traces under, below its own address.
const TRACES_PATH: &str = "/v1/traces";
const SPANS_MAX: usize = 1_000_000;

/// Where traces go and which of them.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// Where the collector is: with the whole path for http/protobuf, without one for gRPC.
    pub endpoint: Uri,
    /// How it is spoken to.
    pub protocol: OtlpProtocol,
    /// Sent with every export; sensitive, so `Debug` shows their names alone.
    pub headers: HeaderMap,
    /// A PEM file with authorities; the system's without one.
    pub ca_file: Option<PathBuf>,
    /// For one try to export.
    pub timeout_ms: u64,
    /// What spans bear of where they come from, `service.name` first.
    pub resource: Vec<(String, String)>,
    /// Which traces are kept.
    pub sampler: Sampler,
    /// Spans that wait for their export.
    pub queue_max: usize,
    /// Spans in one export.
    pub batch_max: usize,
    /// How long a span waits for others.
    pub delay_ms: u64,
    /// For one export, all its tries together.
    pub export_timeout_ms: u64,
}

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// Protobuf in the body of a POST.
    HttpProtobuf,
    /// gRPC.
    Grpc,
}

/// Which traces are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether the caller's decision holds where there is one.
    pub asks_parent: AsksParent,
    /// The share of the others, 0 to 1.
    pub ratio: f64,
}

/// Whether a sampler follows the decision that came with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsksParent {
    /// As the caller decided; our own rule for whoever sends none.
    Yes,
    /// Our own rule for all.
    No,
}

/// What was said about traces. Checked also while they are off: a mistake that shows itself on the day they are needed
/// shows itself too late.
pub(super) fn build(reader: &mut Reader<'_>) -> Option<TraceSettings> {
    let protocols = [("http/protobuf", OtlpProtocol::HttpProtobuf), ("grpc", OtlpProtocol::Grpc)];
    let protocol = reader.choice("traces.protocol", &protocols, OtlpProtocol::HttpProtobuf);
    let endpoint = endpoint(reader, protocol);
    let is_exported = reader.choice("traces.exporter", &[("otlp", true), ("none", false)], false);
    let is_disabled = reader.boolean("traces.disabled");
    let queue_max = reader.number("traces.queue_max", 1..=SPANS_MAX);
    let batch_max = reader.number("traces.batch_max", 1..=SPANS_MAX);
    if batch_max > queue_max {
        reader.refuse("traces.batch_max", "is above OTEL_BSP_MAX_QUEUE_SIZE: give at most as many as may wait");
    }
    let headers = headers(reader);
    let ca_file = reader.file("traces.ca_file");
    let timeout_ms = reader.number("traces.timeout_ms", 1..=WAIT_MS_MAX);
    let resource = resource(reader);
    let sampler = sampler(reader);
    let delay_ms = reader.number("traces.delay_ms", 1..=WAIT_MS_MAX);
    let export_timeout_ms = reader.number("traces.export_timeout_ms", 1..=WAIT_MS_MAX);
    let endpoint = endpoint.filter(|_| is_exported && !is_disabled)?;
    if ca_file.is_some() && endpoint.scheme_str() == Some("http") {
        // A certificate that nobody looks at would let its owner believe that the connection is safe.
        reader.refuse("traces.ca_file", "is given, but TLS is not spoken: give an endpoint that begins with https://");
    }
    Some(TraceSettings {
        endpoint,
        protocol,
        headers,
        ca_file,
        timeout_ms,
        resource,
        sampler,
        queue_max,
        batch_max,
        delay_ms,
        export_timeout_ms,
    })
}

/// The address for traces alone as it is; or the collector's, with the path that OTLP over HTTP has for traces.
fn endpoint(reader: &mut Reader<'_>, protocol: OtlpProtocol) -> Option<Uri> {
    let own = address(reader, "traces.endpoint");
    let collector = address(reader, "traces.collector");
    match (own, collector, protocol) {
        (Some(own), _, _) => Some(own),
        (None, None, _) => None,
        (None, Some(collector), OtlpProtocol::Grpc) => Some(collector),
        (None, Some(collector), OtlpProtocol::HttpProtobuf) => {
            format!("{}{TRACES_PATH}", collector.to_string().trim_end_matches('/')).parse().ok()
        }
    }
}

fn address(reader: &mut Reader<'_>, key: &str) -> Option<Uri> {
    reader.takes(key, "`http://` or `https://`, host and port");
    let text = reader.optional(key)?;
    // Nothing of the text may stand in the error: who writes a password into it learns that it is the wrong place.
    let form = "give http://host:port or https://host:port";
    let Ok(uri) = text.trim().parse::<Uri>() else {
        reader.refuse(key, format!("not an address: {form}"));
        return None;
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        reader.refuse(key, format!("names no scheme that is understood, or no host: {form}"));
        return None;
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) || uri.query().is_some() {
        reader.refuse(
            key,
            "an address has no user, password or query here: what lets us in goes to OTEL_EXPORTER_OTLP_HEADERS",
        );
        return None;
    }
    Some(uri)
}

fn headers(reader: &mut Reader<'_>) -> HeaderMap {
    let key = "traces.headers";
    reader.takes(key, "`name=value`, separated by commas");
    let mut headers = HeaderMap::new();
    let Some(text) = reader.secret(key) else { return headers };
    let pairs = pairs(text.expose_secret()).and_then(|pairs| {
        let header = |(name, value): (String, String)| {
            let name = name.parse::<HeaderName>().ok()?;
            let mut value = HeaderValue::try_from(value).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        };
        pairs.into_iter().map(header).collect::<Option<Vec<_>>>()
    });
    match pairs {
        Some(pairs) => headers.extend(pairs),
        None => reader.refuse(key, "will not do: give name=value, separated by commas, values percent-encoded"),
    }
    headers
}

/// `service.name` and what else was given; a name that stands in both places is `OTEL_SERVICE_NAME`'s, if that was set.
fn resource(reader: &mut Reader<'_>) -> Vec<(String, String)> {
    const SERVICE_NAME: &str = "service.name";
    let key = "traces.resource_attributes";
    reader.takes(key, "`name=value`, separated by commas");
    let mut given = match pairs(&reader.text(key)) {
        Some(pairs) => pairs,
        None => {
            reader.refuse(key, "will not do: give name=value, separated by commas, values percent-encoded");
            Vec::new()
        }
    };
    let is_named = reader.resolved.is_given("traces.service_name");
    if is_named || !given.iter().any(|(name, _)| name == SERVICE_NAME) {
        given.retain(|(name, _)| name != SERVICE_NAME);
        given.insert(0, (SERVICE_NAME.to_owned(), reader.text("traces.service_name")));
    }
    given
}

/// `name=value,name=value`, values percent-decoded; `None` where it does not have this form.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (name, value) = part.split_once('=')?;
        let name = name.trim();
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?.into_owned();
        (!name.is_empty()).then(|| (name.to_owned(), value))
    };
    parts.map(pair).collect()
}

fn sampler(reader: &mut Reader<'_>) -> Sampler {
    let ratio = ratio(reader);
    let samplers = [
        ("parentbased_always_on", Sampler { asks_parent: AsksParent::Yes, ratio: 1.0 }),
        ("parentbased_always_off", Sampler { asks_parent: AsksParent::Yes, ratio: 0.0 }),
        ("parentbased_traceidratio", Sampler { asks_parent: AsksParent::Yes, ratio }),
        ("always_on", Sampler { asks_parent: AsksParent::No, ratio: 1.0 }),
        ("always_off", Sampler { asks_parent: AsksParent::No, ratio: 0.0 }),
        ("traceidratio", Sampler { asks_parent: AsksParent::No, ratio }),
    ];
    let [(_, usual), ..] = samplers;
    reader.choice("traces.sampler", &samplers, usual)
}

fn ratio(reader: &mut Reader<'_>) -> f64 {
    let key = "traces.sampler_arg";
    reader.takes(key, "0 to 1");
    let Some(text) = reader.optional(key) else { return 1.0 };
    match text.trim().parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
        Ok(_) | Err(_) => {
            reader.refuse(key, format!("`{text}` will not do: give a number from 0 to 1"));
            1.0
        }
    }
}
