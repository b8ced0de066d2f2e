//! The closed set of causes. Their `type` URIs are an interface: never renamed, only added to.

use http::StatusCode;

/// Every cause a door knows. Each has one `type`, one status and one title.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    /// The request breaks the interface in a way that no other kind names.
    BadRequest,
    /// The body is not JSON, or not of the shape that is asked for.
    MalformedJson,
    /// No token, or an unknown one.
    Unauthorized,
    /// The token has too little right.
    Forbidden,
    /// Too many requests of this address were refused for their tokens.
    TooManyRefusals,
    /// The request comes from a web page.
    ForeignOrigin,
    /// The `Host` is none of ours.
    ForeignHost,
    /// The command is not served through this door.
    CommandRefused,
    /// The key is one of our own.
    ControlKey,
    /// There is nothing at this path.
    NotFound,
    /// The catalog has no such kind.
    UnknownKind,
    /// The record does not exist.
    NoRecord,
    /// The path does not know the method.
    MethodNotAllowed,
    /// The body did not come in time.
    BodyTimeout,
    /// The record has another Redis type than its kind.
    WrongType,
    /// What was asked for is not possible in the present state.
    Conflict,
    /// The record or flag is not the one that the client has seen.
    PreconditionFailed,
    /// The request must say which version it changes.
    PreconditionRequired,
    /// The body is above the limit.
    TooLarge,
    /// The body's media type is not understood here.
    UnsupportedMediaType,
    /// The id breaks the pattern of its kind.
    InvalidId,
    /// A field or parameter has a value that it cannot have.
    InvalidField,
    /// Our own mistake.
    Internal,
    /// Redis does not answer.
    RedisUnreachable,
    /// Postgres does not answer, and this request needs it.
    PostgresUnavailable,
    /// Too much at once.
    Overloaded,
    /// The stores took too long; nothing was changed.
    Timeout,
    /// Whether the write was done is not known.
    UnknownOutcome,
}

impl ProblemKind {
    /// Every kind.
    pub const ALL: [Self; 28] = [
        Self::BadRequest,
        Self::MalformedJson,
        Self::Unauthorized,
        Self::Forbidden,
        Self::TooManyRefusals,
        Self::ForeignOrigin,
        Self::ForeignHost,
        Self::CommandRefused,
        Self::ControlKey,
        Self::NotFound,
        Self::UnknownKind,
        Self::NoRecord,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::WrongType,
        Self::Conflict,
        Self::PreconditionFailed,
        Self::PreconditionRequired,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::InvalidId,
        Self::InvalidField,
        Self::Internal,
        Self::RedisUnreachable,
        Self::PostgresUnavailable,
        Self::Overloaded,
        Self::Timeout,
        Self::UnknownOutcome,
    ];

    /// The last part of the `type` URI.
    #[must_use]
    pub fn slug(self) -> &'static str {
        self.facts().0
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        self.facts().1
    }

    /// The title, the same for every problem of this kind.
    #[must_use]
    pub fn title(self) -> &'static str {
        self.facts().2
    }

    fn facts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::BadRequest => ("bad-request", StatusCode::BAD_REQUEST, "Bad request"),
            Self::MalformedJson => ("malformed-json", StatusCode::BAD_REQUEST, "Malformed JSON"),
            Self::Unauthorized => ("unauthorized", StatusCode::UNAUTHORIZED, "A valid token is needed"),
            Self::Forbidden => ("forbidden", StatusCode::FORBIDDEN, "The token has too little right"),
            Self::TooManyRefusals => ("too-many-refusals", StatusCode::TOO_MANY_REQUESTS, "Refused too often"),
            Self::ForeignOrigin => ("foreign-origin", StatusCode::FORBIDDEN, "Web pages are not served"),
            Self::ForeignHost => ("foreign-host", StatusCode::FORBIDDEN, "Foreign host"),
            Self::CommandRefused => ("command-refused", StatusCode::FORBIDDEN, "The command is refused"),
            Self::ControlKey => ("control-key", StatusCode::FORBIDDEN, "The key belongs to Parallax itself"),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "Not found"),
            Self::UnknownKind => ("unknown-kind", StatusCode::NOT_FOUND, "Unknown kind"),
            Self::NoRecord => ("no-record", StatusCode::NOT_FOUND, "No such record"),
            Self::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "The method is not allowed here")
            }
            Self::BodyTimeout => ("body-timeout", StatusCode::REQUEST_TIMEOUT, "The body came too slowly"),
            Self::WrongType => ("wrong-type", StatusCode::CONFLICT, "The record has another type"),
            Self::Conflict => ("conflict", StatusCode::CONFLICT, "Not possible in the present state"),
            Self::PreconditionFailed => {
                ("precondition-failed", StatusCode::PRECONDITION_FAILED, "Changed by somebody else")
            }
            Self::PreconditionRequired => {
                ("precondition-required", StatusCode::PRECONDITION_REQUIRED, "If-Match is needed")
            }
            Self::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
            Self::UnsupportedMediaType => {
                ("unsupported-media-type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported media type")
            }
            Self::InvalidId => ("invalid-id", StatusCode::UNPROCESSABLE_ENTITY, "The id breaks its pattern"),
            Self::InvalidField => ("invalid-field", StatusCode::UNPROCESSABLE_ENTITY, "A value is not possible"),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "An error of our own"),
            Self::RedisUnreachable => ("redis-unreachable", StatusCode::SERVICE_UNAVAILABLE, "Redis cannot be reached"),
            Self::PostgresUnavailable => {
                ("postgres-unavailable", StatusCode::SERVICE_UNAVAILABLE, "Postgres cannot be reached")
            }
            Self::Overloaded => ("overloaded", StatusCode::SERVICE_UNAVAILABLE, "Too much at once"),
            Self::Timeout => ("timeout", StatusCode::GATEWAY_TIMEOUT, "The stores took too long"),
            Self::UnknownOutcome => ("unknown-outcome", StatusCode::GATEWAY_TIMEOUT, "The outcome is unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_kind_has_a_type_of_its_own_and_an_error_status() {
        let slugs: HashSet<_> = ProblemKind::ALL.iter().map(|kind| kind.slug()).collect();
        assert_eq!(slugs.len(), ProblemKind::ALL.len());
        for kind in ProblemKind::ALL {
            assert!(kind.status().is_client_error() || kind.status().is_server_error(), "{kind:?}");
            assert!(kind.slug().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{kind:?}");
        }
    }
}
