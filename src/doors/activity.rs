//! What a connection is busy with and since when, so that a client that stalls is cut whatever it stalls at.
//!
//! Hyper has one timer, for request heads, and it runs while a kept-alive connection is idle too; a client that never
//! reads its answer has none at all. So the socket itself notes each step here, and the connection's task looks at the
//! note a few times before the shortest limit has passed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::doors::server::ServerLimits;

/// What a connection is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Nothing of a request has come yet.
    Idle,
    /// A request head has begun to come.
    Head,
    /// The head is here: the body and the handler have time limits of their own.
    Handling,
    /// An answer waits for the client to read it.
    Writing,
    /// An answer without an end: a piece is due again and again, and the client must have read the last one by then.
    Streaming,
}

impl Phase {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Idle,
            1 => Self::Head,
            2 => Self::Handling,
            3 => Self::Writing,
            _ => Self::Streaming,
        }
    }
}

/// The note of one connection. All of it is written by that connection's own task; atomics only make it shareable.
#[derive(Debug)]
pub(super) struct Activity {
    started: Instant,
    phase: AtomicU8,
    since_ms: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), phase: AtomicU8::new(Phase::Idle as u8), since_ms: AtomicU64::new(0) }
    }

    pub(super) fn phase(&self) -> Phase {
        Phase::of(self.phase.load(Ordering::Relaxed))
    }

    /// Notes that `phase` begins, or goes on with progress, now.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.since_ms.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    /// The phase that has lasted longer than its limit, if one has.
    pub(super) fn overdue(&self, limits: &ServerLimits) -> Option<Phase> {
        let phase = self.phase();
        let limit_ms = match phase {
            Phase::Idle => limits.idle_timeout_ms,
            Phase::Head => limits.header_timeout_ms,
            Phase::Handling => return None,
            Phase::Writing => limits.write_timeout_ms,
            Phase::Streaming => limits.stream_pause_ms.saturating_add(limits.write_timeout_ms),
        };
        let lasted_ms = self.elapsed_ms().saturating_sub(self.since_ms.load(Ordering::Relaxed));
        (lasted_ms >= limit_ms).then_some(phase)
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// How often a connection is looked at: a quarter of the shortest limit, so that no limit is overrun by more than that.
pub(super) fn patrol_every(limits: &ServerLimits) -> Duration {
    let shortest_ms = limits.idle_timeout_ms.min(limits.header_timeout_ms).min(limits.write_timeout_ms);
    Duration::from_millis((shortest_ms / 4).clamp(10, 1000))
}

/// A socket that notes its steps.
pub(super) struct WatchedStream {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl WatchedStream {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }

    fn wrote(&self, result: &Poll<io::Result<usize>>) {
        let phase = self.activity.phase();
        if matches!(result, Poll::Ready(Ok(_))) && matches!(phase, Phase::Writing | Phase::Streaming) {
            self.activity.enter(phase);
        }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        // Only the first byte of a head starts its clock: one byte a second must not start it again.
        if buf.filled().len() > before && self.activity.phase() == Phase::Idle {
            self.activity.enter(Phase::Head);
        }
        result
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        // Hyper flushes the socket only when its own buffer is empty, so the whole answer has left.
        if matches!(result, Poll::Ready(Ok(()))) && self.activity.phase() == Phase::Writing {
            self.activity.enter(Phase::Idle);
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
