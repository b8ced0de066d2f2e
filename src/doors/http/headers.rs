//! What a request says beside its body, parsed into types: media type, preconditions, acks, parameters; and the headers
//! of answers.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use crate::doors::problem::{Problem, ProblemKind};
use crate::doors::server::Response;
use crate::dual::records::Precondition;
use crate::dual::{Mirror, Source};
use crate::model::flag::Ack;

const PARALLAX_ACK: HeaderName = HeaderName::from_static("parallax-ack");
const PARALLAX_MIRROR: HeaderName = HeaderName::from_static("parallax-mirror");
const PARALLAX_SOURCE: HeaderName = HeaderName::from_static("parallax-source");

/// The longest time to live: 316 years, well inside what Redis can hold in milliseconds.
const TTL_SECONDS_MAX: u64 = 9_999_999_999;

/// The media type without its parameters, in lower case; `None` when the request names none.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let named = headers.get(header::CONTENT_TYPE)?.to_str().unwrap_or("?");
    let essence = named.split(';').next().unwrap_or_default().trim();
    Some(essence.to_ascii_lowercase())
}

/// Refuses a body that says it is something else than JSON.
///
/// # Errors
/// 415.
pub(super) fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    match media_type(headers).as_deref() {
        None | Some("application/json") => Ok(()),
        Some(_) => Err(unsupported("application/json")),
    }
}

/// 415, saying what is supported.
pub(super) fn unsupported(supported: &'static str) -> Problem {
    Problem::new(ProblemKind::UnsupportedMediaType, format!("send the body as {supported}"))
}

/// When the caller wants a mirrored write to be answered: `Parallax-Ack: redis|both`.
///
/// # Errors
/// 400 for anything else.
pub(super) fn ack(headers: &HeaderMap) -> Result<Option<Ack>, Problem> {
    match headers.get(PARALLAX_ACK).map(HeaderValue::as_bytes) {
        None => Ok(None),
        Some(b"redis") => Ok(Some(Ack::Redis)),
        Some(b"both") => Ok(Some(Ack::Both)),
        Some(_) => Err(Problem::new(ProblemKind::BadRequest, "Parallax-Ack is `redis` or `both`")),
    }
}

/// What must hold for a write: `If-Match: "etag"`, `If-Match: *` or `If-None-Match: *`.
///
/// # Errors
/// 400 for what is none of these, or two of them.
pub(super) fn precondition(headers: &HeaderMap) -> Result<Precondition, Problem> {
    let wrong = |detail| Err(Problem::new(ProblemKind::BadRequest, detail));
    match (headers.get(header::IF_MATCH), headers.get(header::IF_NONE_MATCH)) {
        (None, None) => Ok(Precondition::None),
        (Some(tag), None) if tag == "*" => Ok(Precondition::Any),
        (Some(tag), None) => match entity_tag(tag) {
            Some(etag) => Ok(Precondition::Match(etag.to_owned())),
            None => wrong("If-Match takes one strong entity tag in quotes, or `*`"),
        },
        (None, Some(tag)) if tag == "*" => Ok(Precondition::Absent),
        (None, Some(_)) => wrong("If-None-Match takes `*` on a write"),
        (Some(_), Some(_)) => wrong("a write takes If-Match or If-None-Match, not both"),
    }
}

/// Whether a reader has the record already: its `If-None-Match` names this etag.
pub(in crate::doors) fn has_already(headers: &HeaderMap, etag: &str) -> bool {
    headers.get_all(header::IF_NONE_MATCH).iter().any(|value| {
        value.to_str().is_ok_and(|tags| {
            tags.split(',')
                .map(|tag| tag.trim().trim_start_matches("W/"))
                .any(|tag| tag == "*" || tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) == Some(etag))
        })
    })
}

fn entity_tag(value: &HeaderValue) -> Option<&str> {
    let tag = value.to_str().ok()?.strip_prefix('"')?.strip_suffix('"')?;
    (!tag.contains('"')).then_some(tag)
}

/// The parameters of a query. Each is taken once; what is left over at the end was a mistake of the caller.
pub(super) struct Query<'a> {
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Query<'a> {
    pub(super) fn new(query: &'a str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self { pairs: pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect() }
    }

    /// The text of a parameter, percent-decoded.
    ///
    /// # Errors
    /// 422 for what is no UTF-8.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<Cow<'a, str>>, Problem> {
        let Some(at) = self.pairs.iter().position(|(known, _)| *known == name) else {
            return Ok(None);
        };
        let (_, value) = self.pairs.remove(at);
        match percent_decode_str(value).decode_utf8() {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Problem::new(ProblemKind::InvalidField, format!("{name} is no UTF-8")).with("field", name)),
        }
    }

    /// A parameter that is a whole number from 1 to `max`.
    ///
    /// # Errors
    /// 422 for anything else.
    pub(super) fn number(&mut self, name: &'static str, max: u64) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match text.parse() {
            Ok(number) if (1..=max).contains(&number) => Ok(Some(number)),
            _ => {
                let detail = format!("{name} must be a whole number from 1 to {max}");
                Err(Problem::new(ProblemKind::InvalidField, detail).with("field", name))
            }
        }
    }

    /// `ttl_seconds`.
    ///
    /// # Errors
    /// 422 for what is no positive whole number.
    pub(super) fn ttl_seconds(&mut self) -> Result<Option<u64>, Problem> {
        self.number("ttl_seconds", TTL_SECONDS_MAX)
    }

    /// The end: a parameter that nobody has taken is refused, since ignoring it would do something else than was asked.
    ///
    /// # Errors
    /// 400.
    pub(super) fn end(self, known: &'static str) -> Result<(), Problem> {
        if self.pairs.is_empty() {
            return Ok(());
        }
        Err(Problem::new(ProblemKind::BadRequest, format!("this path knows, each once, the parameters: {known}")))
    }
}

/// Says in the answer how far a write has come.
pub(super) fn set_mirror(response: &mut Response, mirror: Option<Mirror>) {
    let value = match mirror {
        None => return,
        Some(Mirror::Applied) => "applied",
        Some(Mirror::Pending) => "pending",
    };
    response.headers_mut().insert(PARALLAX_MIRROR, HeaderValue::from_static(value));
}

/// Says in the answer which store has answered a read.
pub(super) fn set_source(response: &mut Response, source: Option<Source>) {
    let value = match source {
        None => return,
        Some(Source::Redis) => "redis",
        Some(Source::Postgres) => "postgres",
    };
    response.headers_mut().insert(PARALLAX_SOURCE, HeaderValue::from_static(value));
}

/// Names the version of the record in the answer.
pub(super) fn set_etag(response: &mut Response, etag: &str) {
    if let Ok(value) = HeaderValue::try_from(format!("\"{etag}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_write_has_one_precondition_or_none() {
        let read = |pairs: &[_]| precondition(&headers(pairs)).map_err(|problem| problem.kind());
        assert_eq!(read(&[]), Ok(Precondition::None));
        assert_eq!(read(&[(header::IF_MATCH, "\"abc\"")]), Ok(Precondition::Match("abc".into())));
        assert_eq!(read(&[(header::IF_MATCH, "*")]), Ok(Precondition::Any));
        assert_eq!(read(&[(header::IF_NONE_MATCH, "*")]), Ok(Precondition::Absent));
        for wrong in ["abc", "W/\"abc\"", "\"a\", \"b\"", "\"", ""] {
            assert_eq!(read(&[(header::IF_MATCH, wrong)]), Err(ProblemKind::BadRequest), "{wrong}");
        }
        assert_eq!(read(&[(header::IF_NONE_MATCH, "\"a\"")]), Err(ProblemKind::BadRequest));
        let both = [(header::IF_MATCH, "\"a\""), (header::IF_NONE_MATCH, "*")];
        assert_eq!(read(&both), Err(ProblemKind::BadRequest));
    }

    #[test]
    fn an_ack_is_redis_or_both() {
        let read = |value| ack(&headers(&[(PARALLAX_ACK, value)])).map_err(|problem| problem.kind());
        assert_eq!(ack(&HeaderMap::new()).expect("none"), None);
        assert_eq!(read("both"), Ok(Some(Ack::Both)));
        assert_eq!(read("redis"), Ok(Some(Ack::Redis)));
        assert_eq!(read("postgres"), Err(ProblemKind::BadRequest));
    }

    #[test]
    fn a_reader_that_has_the_record_is_recognised() {
        let has = |value| has_already(&headers(&[(header::IF_NONE_MATCH, value)]), "abc");
        assert!(has("\"abc\"") && has("\"x\", W/\"abc\"") && has("*"));
        assert!(!has("abc") && !has("\"abcd\"") && !has_already(&HeaderMap::new(), "abc"));
    }

    #[test]
    fn a_time_to_live_is_a_positive_whole_number() {
        assert_eq!(Query::new("").ttl_seconds().expect("none"), None);
        assert_eq!(Query::new("ttl_seconds=60").ttl_seconds().expect("a number"), Some(60));
        for wrong in ["0", "-1", "1.5", "", "1e3", "99999999999", "ten", "%ff"] {
            let query = format!("ttl_seconds={wrong}");
            let problem = Query::new(&query).ttl_seconds().expect_err(wrong);
            assert_eq!(problem.kind(), ProblemKind::InvalidField, "{wrong}");
        }
    }

    #[test]
    fn a_parameter_that_is_unknown_or_stands_twice_is_refused() {
        for query in ["ttl=60", "ttl_seconds=60&ttl_seconds=61"] {
            let mut query = Query::new(query);
            query.ttl_seconds().expect("fine so far");
            assert_eq!(query.end("ttl_seconds").expect_err("refused").kind(), ProblemKind::BadRequest);
        }
    }

    #[test]
    fn only_json_is_taken_for_json() {
        let read = |value| require_json(&headers(&[(header::CONTENT_TYPE, value)])).map_err(|problem| problem.kind());
        assert!(require_json(&HeaderMap::new()).is_ok());
        assert_eq!(read("Application/JSON; charset=utf-8"), Ok(()));
        for wrong in ["text/plain", "application/x-www-form-urlencoded", "application/merge-patch+json", ""] {
            assert_eq!(read(wrong), Err(ProblemKind::UnsupportedMediaType), "{wrong}");
        }
    }
}
