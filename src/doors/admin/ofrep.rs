//! The `OpenFeature` Remote Evaluation Protocol: a flag key is the name of a kind, the targeting key is a whole Redis key, and
//! the value is the store that reads of that key are sent to.
//!
//! The decision is the engine's own, up to the fence, which knows records and has the last word. The key `*` stands for the
//! kind that the targeting key belongs to, so that an application need not know the catalog. Errors have the protocol's
//! form, since its providers read no other.

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::doors::admin::answer;
use crate::doors::http::headers::has_already;
use crate::doors::server::Response;
use crate::dual::direction::{Direction, Way};
use crate::dual::view::DEFAULT;
use crate::dual::{Engine, Source};
use crate::model::key::Key;
use crate::model::text;
use crate::telemetry::labels::{Label, RouteReason};

/// Why a flag was not evaluated; the names are the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ErrorCode {
    ParseError,
    TargetingKeyMissing,
    InvalidContext,
    FlagNotFound,
}

impl ErrorCode {
    fn name(self) -> &'static str {
        match self {
            Self::ParseError => "PARSE_ERROR",
            Self::TargetingKeyMissing => "TARGETING_KEY_MISSING",
            Self::InvalidContext => "INVALID_CONTEXT",
            Self::FlagNotFound => "FLAG_NOT_FOUND",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::ParseError | Self::TargetingKeyMissing | Self::InvalidContext => StatusCode::BAD_REQUEST,
            Self::FlagNotFound => StatusCode::NOT_FOUND,
        }
    }
}

/// A flag that was not evaluated, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    code: ErrorCode,
    details: String,
}

impl Failure {
    fn new(code: ErrorCode, details: impl Into<String>) -> Self {
        Self { code, details: details.into() }
    }

    fn body(&self) -> Value {
        json!({ "errorCode": self.code.name(), "errorDetails": self.details })
    }

    fn of_flag(&self, flag: &str) -> Value {
        json!({ "key": flag, "errorCode": self.code.name(), "errorDetails": self.details })
    }
}

/// The evaluation of one flag.
pub(super) fn single(engine: &Engine, flag: &str, body: &[u8]) -> Response {
    match targeting_key(body).and_then(|key| evaluated(engine, flag, key.as_ref())) {
        Ok(value) => answer::json(StatusCode::OK, &value),
        Err(failure) => answer::json(failure.code.status(), &failure.of_flag(flag)),
    }
}

/// The evaluation of every mirrored kind and of `*`, or 304 to a caller who has it already.
pub(super) fn bulk(engine: &Engine, headers: &HeaderMap, body: &[u8]) -> Response {
    let key = match targeting_key(body) {
        Ok(key) => key,
        Err(failure) => return answer::json(failure.code.status(), &failure.body()),
    };
    let kinds: Vec<_> = engine.catalog().kinds().iter().filter(|kind| kind.is_mirrored()).cloned().collect();
    let own = key.as_ref().map(|key| engine.catalog().kind_of(key.as_bytes()));
    let mut flags: Vec<Value> = engine
        .directions(&kinds)
        .iter()
        .map(|direction| {
            // One context is for all flags: to the kinds that its key is none of, it is no key at all.
            let key = key.as_ref().filter(|_| own.is_some_and(|own| own.index == direction.kind.index));
            let name = &direction.kind.name;
            shown(name, direction, key).unwrap_or_else(|failure| failure.of_flag(name))
        })
        .collect();
    flags.push(evaluated(engine, DEFAULT, key.as_ref()).unwrap_or_else(|failure| failure.of_flag(DEFAULT)));
    let body = json!({ "flags": flags });
    let etag = format!("\"{}\"", text::hex(&Sha256::digest(body.to_string())));
    let is_known = has_already(headers, etag.trim_matches('"'));
    let mut response = if is_known { not_modified() } else { answer::json(StatusCode::OK, &body) };
    let fields = response.headers_mut();
    // To be asked again each time, and answered 304 while nothing has changed.
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    fields.insert(header::ETAG, HeaderValue::try_from(etag).expect("hex in quotes is a header value"));
    response
}

fn not_modified() -> Response {
    let mut response = Response::new(Bytes::new().into());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

/// The targeting key of a request, if it has one. An empty body is an empty context.
fn targeting_key(body: &[u8]) -> Result<Option<Key>, Failure> {
    let body = if body.is_empty() { b"{}" } else { body };
    let parsed: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::new(ErrorCode::ParseError, format!("the body is not JSON: {error}")))?;
    let Value::Object(members) = parsed else {
        return Err(Failure::new(ErrorCode::ParseError, "the body must be a JSON object with a `context`"));
    };
    let wrong = |details: &str| Err(Failure::new(ErrorCode::InvalidContext, details));
    let context = match members.get("context") {
        None => return Ok(None),
        Some(Value::Object(context)) => context,
        Some(_) => return wrong("context must be an object"),
    };
    match context.get("targetingKey") {
        None => Ok(None),
        Some(Value::String(form)) => {
            let bytes = text::decode(form);
            if text::encode(&bytes) != *form {
                return wrong("targetingKey is hexadecimal, but its bytes are plain text and must be written as such");
            }
            let key = Key::new(bytes);
            if key.is_control() {
                return wrong("targetingKey must be a key of the application, not one of Parallax itself");
            }
            Ok(Some(key))
        }
        Some(_) => wrong("targetingKey must be a text: the Redis key whose store is asked for"),
    }
}

fn evaluated(engine: &Engine, flag: &str, key: Option<&Key>) -> Result<Value, Failure> {
    let own = key.map(|key| engine.catalog().kind_of(key.as_bytes()));
    let kind = if flag == DEFAULT {
        own.ok_or_else(|| Failure::new(ErrorCode::TargetingKeyMissing, "`*` needs a targetingKey: a Redis key"))?
    } else {
        let named = engine.catalog().by_name(flag);
        named.ok_or_else(|| Failure::new(ErrorCode::FlagNotFound, "a flag key is a kind of the catalog, or `*`"))?
    };
    if let Some(own) = own
        && own.index != kind.index
    {
        let details = format!("targetingKey is a key of the kind `{}`, not of `{}`", own.name, kind.name);
        return Err(Failure::new(ErrorCode::InvalidContext, details));
    }
    let directions = engine.directions(std::slice::from_ref(kind));
    shown(flag, directions.first().expect("one kind, one direction"), key)
}

fn shown(flag: &str, direction: &Direction, key: Option<&Key>) -> Result<Value, Failure> {
    let Some((store, cause)) = direction.store(key) else {
        let details = "reads of this kind are split by key: send a key of it as targetingKey";
        return Err(Failure::new(ErrorCode::TargetingKeyMissing, details));
    };
    let store = match store {
        Source::Redis => "redis",
        Source::Postgres => "postgres",
    };
    Ok(json!({
        "key": flag,
        "value": store,
        "variant": store,
        "reason": reason(direction.way),
        "metadata": {
            "kind": direction.kind.name,
            "stage": direction.stage.name(),
            "version": direction.version,
            "lease": direction.lease_valid,
            "cause": cause.name(),
        },
    }))
}

/// The protocol's word. DISABLED: the flag says otherwise, and cannot be followed now; `cause` says why.
fn reason(way: Way) -> &'static str {
    match way {
        Way::Split => "SPLIT",
        Way::Postgres => "STATIC",
        Way::Redis(cause) => match cause {
            RouteReason::NoLease
            | RouteReason::NotBackfilled
            | RouteReason::PostgresOff
            | RouteReason::MarksBroken
            | RouteReason::Breaker => "DISABLED",
            // The first three are decided beforehand; the fence's reasons are not known before the read.
            RouteReason::Stage
            | RouteReason::Percent
            | RouteReason::NotReadable
            | RouteReason::Pending
            | RouteReason::AbsentInRedis
            | RouteReason::NoRow
            | RouteReason::Gone
            | RouteReason::Incomplete
            | RouteReason::NewerThanFence
            | RouteReason::Epoch
            | RouteReason::Deadline
            | RouteReason::PostgresError
            | RouteReason::Live => "STATIC",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Option<Vec<u8>>, ErrorCode> {
        let key = targeting_key(body.as_bytes()).map_err(|failure| failure.code)?;
        Ok(key.map(|key| key.as_bytes().to_vec()))
    }

    #[test]
    fn the_targeting_key_is_a_redis_key_in_text_form() {
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("{}"), Ok(None));
        assert_eq!(read(r#"{"context": {}, "more": 1}"#), Ok(None));
        assert_eq!(read(r#"{"context": {"targetingKey": "apikey:1", "tier": 3}}"#), Ok(Some(b"apikey:1".to_vec())));
        assert_eq!(read(r#"{"context": {"targetingKey": "\\xff00"}}"#), Ok(Some(vec![0xff, 0])));
    }

    #[test]
    fn what_cannot_be_understood_has_the_code_of_the_protocol() {
        for body in ["{", "[]", "1", "null", "\u{feff}{}"] {
            assert_eq!(read(body), Err(ErrorCode::ParseError), "{body}");
        }
        for context in ["null", "[]", "\"apikey:1\"", r#"{"targetingKey": 1}"#, r#"{"targetingKey": null}"#] {
            assert_eq!(read(&format!("{{\"context\": {context}}}")), Err(ErrorCode::InvalidContext), "{context}");
        }
        for key in ["parallax:outbox", "\\\\x61"] {
            let body = format!("{{\"context\": {{\"targetingKey\": \"{key}\"}}}}");
            assert_eq!(read(&body), Err(ErrorCode::InvalidContext), "{key}");
        }
    }
}
