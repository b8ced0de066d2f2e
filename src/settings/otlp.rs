//! How an OTLP collector is reached, by OpenTelemetry's own names: what holds for every signal, and for one of them alone.

use std::path::PathBuf;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret;

use crate::settings::build::WAIT_MS_MAX;
use crate::settings::reader::Reader;

/// A collector, as one signal reaches it.
#[derive(Clone, Debug)]
pub struct OtlpTarget {
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
    /// What everything bears of where it comes from, `service.name` first.
    pub resource: Vec<(String, String)>,
}

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// Protobuf in the body of a POST.
    HttpProtobuf,
    /// gRPC.
    Grpc,
}

/// What is sent to a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    /// What an OTLP collector takes the signal under, below its own address.
    fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
        }
    }

    /// The key of a setting of this signal.
    fn key(self, name: &str) -> String {
        match self {
            Self::Traces => format!("traces.{name}"),
            Self::Metrics => format!("metrics.{name}"),
        }
    }
}

/// Where `signal` goes; nowhere without an endpoint, or when everything or the signal is switched off. Read whole all the
/// same: a mistake that shows itself on the day of need shows itself too late.
pub(super) fn target(reader: &mut Reader<'_>, signal: Signal) -> Option<OtlpTarget> {
    let is_exported = {
        let choices = [("otlp", true), ("none", false)];
        reader.choice(&signal.key("exporter"), &choices, false)
    };
    let is_disabled = reader.boolean("otlp.disabled");
    let protocols = [("http/protobuf", OtlpProtocol::HttpProtobuf), ("grpc", OtlpProtocol::Grpc)];
    let key = nearest(reader, signal, "protocol");
    let protocol = reader.choice(&key, &protocols, OtlpProtocol::HttpProtobuf);
    let endpoint = endpoint(reader, signal, protocol);
    let key = nearest(reader, signal, "headers");
    let headers = headers(reader, &key);
    let ca_key = nearest(reader, signal, "ca_file");
    let ca_file = reader.file(&ca_key);
    let key = nearest(reader, signal, "timeout_ms");
    let timeout_ms = reader.number(&key, 1..=WAIT_MS_MAX);
    let resource = resource(reader);
    for name in ["protocol", "headers", "ca_file", "timeout_ms"] {
        reader.takes_the_same(&format!("otlp.{name}"), &signal.key(name));
    }
    let endpoint = endpoint.filter(|_| is_exported && !is_disabled)?;
    if ca_file.is_some() && endpoint.scheme_str() == Some("http") {
        // A certificate that nobody looks at would let its owner believe that the connection is safe.
        reader.refuse(&ca_key, "is given, but TLS is not spoken: give an endpoint that begins with https://");
    }
    Some(OtlpTarget { endpoint, protocol, headers, ca_file, timeout_ms, resource })
}

/// The key of the signal's own setting where somebody gave it, else that of the setting for all signals.
fn nearest(reader: &Reader<'_>, signal: Signal, name: &str) -> String {
    let own = signal.key(name);
    if reader.resolved.is_given(&own) { own } else { format!("otlp.{name}") }
}

/// The address for this signal alone as it is; or the collector's, with the path that OTLP over HTTP has for the signal.
fn endpoint(reader: &mut Reader<'_>, signal: Signal, protocol: OtlpProtocol) -> Option<Uri> {
    let own = address(reader, &signal.key("endpoint"));
    let collector = address(reader, "otlp.endpoint");
    match (own, collector, protocol) {
        (Some(own), _, _) => Some(own),
        (None, None, _) => None,
        (None, Some(collector), OtlpProtocol::Grpc) => Some(collector),
        (None, Some(collector), OtlpProtocol::HttpProtobuf) => {
            format!("{}{}", collector.to_string().trim_end_matches('/'), signal.path()).parse().ok()
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

fn headers(reader: &mut Reader<'_>, key: &str) -> HeaderMap {
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
    let key = "otlp.resource_attributes";
    reader.takes(key, "`name=value`, separated by commas");
    let mut given = match pairs(&reader.text(key)) {
        Some(pairs) => pairs,
        None => {
            reader.refuse(key, "will not do: give name=value, separated by commas, values percent-encoded");
            Vec::new()
        }
    };
    let is_named = reader.resolved.is_given("otlp.service_name");
    if is_named || !given.iter().any(|(name, _)| name == SERVICE_NAME) {
        given.retain(|(name, _)| name != SERVICE_NAME);
        given.insert(0, (SERVICE_NAME.to_owned(), reader.text("otlp.service_name")));
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
