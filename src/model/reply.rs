//! What Redis answers to a command, in the terms of both protocols.
//!
//! A door that only hands replies on never makes one of these: it forwards a [`Frame`](crate::model::frame::Frame).

use bytes::Bytes;

/// A Redis reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// No value (`$-1`, `*-1` or `_`).
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
    /// Pairs; in RESP2 a flat array.
    Map(Vec<(Reply, Reply)>),
    /// Members without an order; in RESP2 an array.
    Set(Vec<Reply>),
    /// A floating point number as Redis wrote it; in RESP2 a string.
    Double(Bytes),
    /// Yes or no; in RESP2 1 or 0.
    Boolean(bool),
    /// A whole number of any size as Redis wrote it; in RESP2 a string.
    BigNumber(Bytes),
    /// A text that says of what format it is, `txt:...`; in RESP2 a string without that.
    Verbatim(Bytes),
    /// What Redis sends unasked.
    Push(Vec<Reply>),
}

impl Reply {
    /// A bulk reply with these bytes.
    pub fn bulk(bytes: impl Into<Bytes>) -> Self {
        Self::Bulk(bytes.into())
    }

    /// The error text, if this is an error.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        if let Self::Error(text) = self { Some(text) } else { None }
    }

    /// The number, if this is a whole number.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        if let Self::Integer(number) = self { Some(*number) } else { None }
    }

    /// The bytes, if this is a string of bytes.
    #[must_use]
    pub fn as_bulk(&self) -> Option<&Bytes> {
        if let Self::Bulk(bytes) = self { Some(bytes) } else { None }
    }

    /// The parts, if this is an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        if let Self::Array(parts) = self { Some(parts) } else { None }
    }

    /// The parts, if this is an array.
    #[must_use]
    pub fn into_array(self) -> Option<Vec<Self>> {
        if let Self::Array(parts) = self { Some(parts) } else { None }
    }
}
