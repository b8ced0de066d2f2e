//! What Redis answers to a command, in RESP2 terms.

use bytes::Bytes;

/// A Redis reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// No value (`$-1` or `*-1`).
    Nil,
    /// A status line such as `OK`.
    Status(String),
    /// An error line, without the leading `-`: `WRONGTYPE Operation against ...`.
    Error(String),
    /// A whole number.
    Integer(i64),
    /// A string of bytes.
    Bulk(Bytes),
    /// A sequence of replies.
    Array(Vec<Reply>),
}

impl Reply {
    /// A bulk reply with these bytes.
    pub fn bulk(bytes: impl Into<Bytes>) -> Self {
        Self::Bulk(bytes.into())
    }

    /// The error text, if this is an error.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Error(text) => Some(text),
            Self::Nil | Self::Status(_) | Self::Integer(_) | Self::Bulk(_) | Self::Array(_) => None,
        }
    }
}
