//! Replies as Redis sends them: a [`Frame`] is the bytes of one reply, from the first to the last, and is handed on as it is.
//!
//! [`scan`] finds where a frame ends without looking at values, [`decode`] makes a reply of one where a door needs it, and
//! [`encode`] writes commands and the replies that we give ourselves.

pub mod decode;
pub mod encode;
pub mod scan;

use bytes::Bytes;

use crate::model::frame::scan::{Progress, Scanner};
use crate::model::reply::Reply;

/// The version of the protocol that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2, with which every connection begins.
    Resp2,
    /// RESP3, after `HELLO 3`.
    Resp3,
}

/// The bytes of one reply. Cheap to clone; a part of a frame is a slice of it. `Debug` shows its length alone: it is a value.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(Bytes);

impl Frame {
    /// The frame that these bytes are; whoever calls this has had them scanned.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The frame of a reply that we give ourselves.
    #[must_use]
    pub fn of(reply: &Reply, protocol: Protocol) -> Self {
        let mut out = Vec::new();
        encode::reply(&mut out, reply, protocol);
        Self(out.into())
    }

    /// An error of our own, without the leading `-`.
    #[must_use]
    pub fn error_of(text: &str) -> Self {
        Self(format!("-{text}\r\n").into())
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Whether this is an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        matches!(self.0.first(), Some(b'-' | b'!'))
    }

    /// The error text, if this is an error.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        if !self.is_error() {
            return None;
        }
        self.decode().error().map(str::to_owned)
    }

    /// The reply in it.
    #[must_use]
    pub fn decode(&self) -> Reply {
        decode::reply(&self.0)
    }

    /// The frames of an array's parts, as slices; `None` when it is no array (a nil one is none).
    #[must_use]
    pub fn parts(&self) -> Option<Vec<Self>> {
        let (count, head) = match self.0.first() {
            Some(b'*') => scan::number(&self.0).ok()??,
            Some(_) | None => return None,
        };
        let count = usize::try_from(count).ok()?;
        let mut rest = self.0.slice(head..);
        let mut parts = Vec::with_capacity(count.min(rest.len()));
        for _ in 0..count {
            match Scanner::default().advance(&rest).ok()? {
                Progress::Whole(length) => parts.push(Self(rest.split_to(length))),
                Progress::Partial(_) => return None,
            }
        }
        Some(parts)
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_an_array_are_slices_of_it() {
        let frame = Frame::new(Bytes::from_static(b"*3\r\n:1\r\n*2\r\n$1\r\na\r\n$-1\r\n-ERR x\r\n"));
        let parts = frame.parts().expect("an array");
        assert_eq!(parts[0].bytes(), &b":1\r\n"[..]);
        assert_eq!(parts[1].bytes(), &b"*2\r\n$1\r\na\r\n$-1\r\n"[..]);
        assert_eq!(parts[2].error().as_deref(), Some("ERR x"));
        assert_eq!(Frame::new(Bytes::from_static(b"*-1\r\n")).parts(), None);
        assert_eq!(Frame::new(Bytes::from_static(b"+OK\r\n")).parts(), None);
    }
}
