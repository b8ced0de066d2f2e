//! The body of an answer: whole, as nearly every one is, or a stream of pieces that goes on until somebody ends it.
//!
//! Both are one type, so that every door answers through the one server loop, with its limits and its drain.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{BoxStream, Stream, StreamExt};
use http_body_util::Full;
use hyper::body::{Frame, SizeHint};

/// What is answered.
pub enum Body {
    /// All of it is here.
    Whole(Full<Bytes>),
    /// It comes in pieces. Its door sends one at least every `stream_pause_ms` of the server's limits.
    Stream(BoxStream<'static, Bytes>),
}

impl Body {
    /// A body of the pieces of `stream`.
    pub fn stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self::Stream(stream.boxed())
    }

    /// Whether it comes in pieces.
    pub(super) fn is_stream(&self) -> bool {
        match self {
            Self::Whole(_) => false,
            Self::Stream(_) => true,
        }
    }

    /// The same body; a stream ends, in good order, when `end` is ready.
    #[must_use]
    pub(super) fn until(self, end: impl Future<Output = ()> + Send + 'static) -> Self {
        match self {
            Self::Whole(_) => self,
            Self::Stream(stream) => Self::Stream(stream.take_until(end).boxed()),
        }
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self::Whole(Full::new(bytes.into()))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_stream() { "Body::Stream" } else { "Body::Whole" })
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(cx),
            Self::Stream(stream) => {
                stream.as_mut().poll_next(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Stream(_) => SizeHint::new(),
        }
    }
}
