//! What went wrong, in the one form every HTTP door uses: problem+json (RFC 9457) with a stable `type`.
//!
//! The `type` URIs are an interface: clients branch on them. They are never renamed; a new cause gets a new one.

mod kind;

use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

pub use kind::ProblemKind;

use crate::doors::server::Response;
use crate::dual::{EngineError, Refusal, RefusalCause};

/// Seconds after which a client may ask again when a store could not be reached.
pub const RETRY_AFTER_SECONDS: u32 = 1;

/// One thing that went wrong. `detail` is for the caller: it never holds a key, a value or a token.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: ProblemKind,
    detail: String,
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of `kind`; `detail` says what about this request.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        let mut problem = Self { kind, detail: detail.into(), members: Map::new(), headers: Vec::new() };
        if kind.status() == StatusCode::SERVICE_UNAVAILABLE {
            problem = problem.with_header(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        if kind == ProblemKind::Unauthorized {
            problem = problem.with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        problem
    }

    /// Nothing stands at the path of this request.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(ProblemKind::NotFound, "there is nothing at this path")
    }

    /// The path does not know the method; `allow` names those that it knows: `GET, HEAD`.
    #[must_use]
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self::new(ProblemKind::MethodNotAllowed, format!("this path knows {allow}"))
            .with_header(header::ALLOW, HeaderValue::from_static(allow))
    }

    /// The same problem with one more member in its body.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.members.insert(member.to_owned(), value.into());
        self
    }

    /// The same problem with one more header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same problem on a connection that ends with this answer.
    #[must_use]
    pub fn closing(self) -> Self {
        self.with_header(header::CONNECTION, HeaderValue::from_static("close"))
    }

    /// What kind of problem this is.
    #[must_use]
    pub fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// What the caller is told.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The answer.
    #[must_use]
    pub fn into_response(self) -> Response {
        let status = self.kind.status();
        let mut body = self.members;
        body.insert("type".into(), json!(format!("urn:parallax:problem:{}", self.kind.slug())));
        body.insert("title".into(), json!(self.kind.title()));
        body.insert("status".into(), json!(status.as_u16()));
        body.insert("detail".into(), json!(self.detail));
        let mut response = Response::new(Value::Object(body).to_string().into());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(self.headers);
        response
    }
}

/// What the caller may do is in the words; what the store has said is for the log and stays behind.
impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        let (kind, detail) = match error {
            EngineError::RedisUnreachable(_) => {
                (ProblemKind::RedisUnreachable, "Redis does not answer; nothing was changed, ask again")
            }
            EngineError::PostgresUnavailable(_) => {
                (ProblemKind::PostgresUnavailable, "Postgres does not answer, and this request needs it; ask again")
            }
            EngineError::Overloaded => {
                (ProblemKind::Overloaded, "too much waits already; nothing was changed, ask again")
            }
            EngineError::Timeout => (ProblemKind::Timeout, "the stores did not answer in time"),
            EngineError::UnknownOutcome(_) => (
                ProblemKind::UnknownOutcome,
                "the outcome is unknown, never \"not done\": the write may be there, so read before you repeat it",
            ),
        };
        Self::new(kind, detail)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal.cause {
            RefusalCause::ControlKey => ProblemKind::ControlKey,
            RefusalCause::Administrative
            | RefusalCause::Connection
            | RefusalCause::Blocking
            | RefusalCause::UnknownCommand => ProblemKind::CommandRefused,
        };
        Self::new(kind, refusal.message)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn body(response: Response) -> Value {
        let bytes = response.into_body().collect().await.expect("in memory").to_bytes();
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[tokio::test]
    async fn a_problem_is_answered_in_the_form_of_rfc_9457() {
        let problem = Problem::new(ProblemKind::Conflict, "not yet").with("unmet", json!(["backfill"]));
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::CONFLICT);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let expected = json!({
            "type": "urn:parallax:problem:conflict",
            "title": "Not possible in the present state",
            "status": 409,
            "detail": "not yet",
            "unmet": ["backfill"],
        });
        assert_eq!(body(response).await, expected);
    }

    #[test]
    fn every_503_says_when_to_come_back() {
        for kind in ProblemKind::ALL {
            let response = Problem::new(kind, "").into_response();
            let is_unavailable = response.status() == StatusCode::SERVICE_UNAVAILABLE;
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), is_unavailable, "{kind:?}");
        }
    }

    #[test]
    fn a_store_that_fails_is_told_apart_from_one_whose_outcome_is_unknown() {
        let secret = || "connection to host 10.0.0.1 broke".to_owned();
        for (error, status) in [
            (EngineError::RedisUnreachable(secret()), 503),
            (EngineError::PostgresUnavailable(secret()), 503),
            (EngineError::Overloaded, 503),
            (EngineError::Timeout, 504),
            (EngineError::UnknownOutcome(secret()), 504),
        ] {
            let problem = Problem::from(error);
            assert!(!problem.detail().contains("10.0.0.1"), "what a store says is not for callers");
            assert_eq!(problem.detail().contains("never \"not done\""), problem.kind() == ProblemKind::UnknownOutcome);
            assert_eq!(problem.into_response().status(), status);
        }
    }

    #[test]
    fn a_refused_command_is_answered_403_with_the_reason() {
        for (cause, slug) in
            [(RefusalCause::Administrative, "command-refused"), (RefusalCause::ControlKey, "control-key")]
        {
            let problem = Problem::from(Refusal { cause, message: "the reason".into() });
            assert_eq!((problem.kind().slug(), problem.detail()), (slug, "the reason"));
            assert_eq!(problem.into_response().status(), StatusCode::FORBIDDEN);
        }
    }

    #[test]
    fn a_method_that_is_not_allowed_is_told_which_are() {
        let response = Problem::method_not_allowed("GET, HEAD").into_response();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()[header::ALLOW], "GET, HEAD");
    }
}
