//! What a client is owed: replies in their order, written to its socket by whoever brings them, so that the task of a client
//! that only forwards is never woken for a reply.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::sync::Notify;

use crate::doors::resp::socket::Socket;
use crate::doors::resp::traced::Followed;
use crate::dual::route::{RedisError, Sink, Turn};
use crate::dual::view::View;
use crate::telemetry::labels::{Door, Outcome};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::active::{ActiveSpan, Fault};

/// Commands of one client that wait for their replies; more of them stay in its socket.
const IN_FLIGHT_MAX: usize = 1024;
/// As many of a client that has not shown yet how large its replies are.
const IN_FLIGHT_FIRST: usize = 32;
/// Bytes of replies that a client's commands in flight should not exceed: the others wait behind them.
const IN_FLIGHT_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of replies that wait for a client; before they are taken nothing more of it is looked at.
pub(super) const WAITING_BYTES: usize = 256 * 1024;
/// Bytes of replies at which a client that does not read is given up: one reply may be as large as Redis allows.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// A buffer of more than this is let go when it is empty: ten thousand clients may be idle.
const BUFFER_BYTES_KEPT: usize = 4096;

/// Whether a client hears replies (`CLIENT REPLY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replies {
    /// It hears them.
    On,
    /// It hears none.
    Off,
    /// It does not hear the next one.
    Skip,
}

struct Inner {
    out: BytesMut,
    in_flight: usize,
    /// How many may be.
    window: usize,
    /// Replies since the window was last set, and their bytes.
    seen: usize,
    seen_bytes: usize,
    /// What the commands in flight were decided under; held until the reply of the last of them begins (S2).
    view: Option<Arc<View>>,
    /// The replies in flight come over a connection that takes no more commands.
    is_moved: bool,
    replies: Replies,
    /// The next piece begins a reply.
    begins: bool,
    is_told: bool,
    is_awaited: bool,
    is_broken: bool,
    /// The spans of what is in flight; empty while traces are off.
    followed: Followed,
}

/// What a client is owed, and the socket it goes to.
pub(super) struct Output {
    pub(super) socket: Socket,
    inner: Mutex<Inner>,
    woken: Notify,
    metrics: Metrics,
}

impl Output {
    pub(super) fn new(socket: Socket, metrics: Metrics) -> Self {
        Self { socket, inner: Mutex::new(Inner::new()), woken: Notify::new(), metrics }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held is over; what it guards is whole after each statement.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `count` commands are forwarded under `view`. False when others are under way that were decided under
    /// another view, or too many are: they must be answered first.
    pub(super) fn begin(&self, count: usize, view: &Arc<View>) -> bool {
        let mut inner = self.lock();
        let is_other = inner.view.as_ref().is_some_and(|held| !Arc::ptr_eq(held, view));
        if inner.in_flight > 0 && (is_other || inner.is_moved || inner.in_flight + count > inner.window) {
            return false;
        }
        inner.in_flight += count;
        if inner.view.is_none() || is_other {
            inner.view = Some(Arc::clone(view));
        }
        true
    }

    /// Whether what follows the commands in flight could overtake them.
    pub(super) fn is_moved(&self) -> bool {
        self.lock().is_moved
    }

    /// How many commands may be in flight, by the size of the replies before them.
    pub(super) fn window(&self) -> usize {
        self.lock().window
    }

    /// Takes back what [`Self::begin`] noted: nothing was sent.
    pub(super) fn take_back(&self, count: usize) {
        self.lock().ended(count);
    }

    /// The commands that [`Self::begin`] noted last are the work of `span`, which ends with the last reply to them.
    pub(super) fn follow(&self, count: usize, span: ActiveSpan) {
        self.lock().followed.begin(count, span);
    }

    /// They were not sent.
    pub(super) fn unfollow(&self, class: &'static str) {
        self.lock().followed.take_back(class);
    }

    /// Says whether the client hears replies from now on. To be called when nothing is in flight.
    pub(super) fn set_replies(&self, replies: Replies) {
        self.lock().replies = replies;
    }

    /// The reply to the next command is not heard, unless none is.
    pub(super) fn skip_next(&self) {
        let mut inner = self.lock();
        if inner.replies == Replies::On {
            inner.replies = Replies::Skip;
        }
    }

    /// Appends one whole reply. To be called when nothing is in flight.
    pub(super) fn reply(&self, frame: &[u8]) {
        let mut inner = self.lock();
        self.count(frame);
        inner.append(frame, true);
    }

    /// Appends the reply to a command that no store has answered. To be called when nothing is in flight.
    pub(super) fn failed(&self, error: &impl std::fmt::Display) {
        self.metrics.command(Door::Resp, Outcome::Failed);
        self.lock().append(&failure(error), true);
    }

    /// Appends what is no reply: a message, an invalidation.
    pub(super) fn push(&self, frame: &[u8]) {
        self.lock().out.extend_from_slice(frame);
    }

    fn count(&self, frame: &[u8]) {
        let outcome = match frame {
            [b'-', rest @ ..] if rest.starts_with(b"PARALLAX") => Outcome::Refused,
            [b'-' | b'!', ..] => Outcome::Error,
            _ => Outcome::Ok,
        };
        self.metrics.command(Door::Resp, outcome);
    }

    /// Writes what the socket takes now.
    pub(super) fn flush(&self) {
        self.write(&mut self.lock());
    }

    fn write(&self, inner: &mut Inner) {
        while !inner.out.is_empty() {
            match self.socket.try_write(&inner.out) {
                Ok(written) => inner.out.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => inner.is_broken = true,
            }
            if inner.is_broken {
                inner.out.clear();
            }
        }
        if inner.out.capacity() > BUFFER_BYTES_KEPT {
            inner.out = BytesMut::new();
        }
    }

    /// Whether the socket cannot be written any more.
    pub(super) fn is_broken(&self) -> bool {
        self.lock().is_broken
    }

    /// Bytes that wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.lock().out.len()
    }

    /// Waits until nothing is in flight.
    pub(super) async fn answered(&self) {
        loop {
            {
                let mut inner = self.lock();
                inner.is_awaited = inner.in_flight > 0;
                if !inner.is_awaited {
                    return;
                }
            }
            self.woken.notified().await;
        }
    }

    /// Waits until no more than `bytes` wait, or the socket is broken. Cancel safe.
    pub(super) async fn written(&self, bytes: usize) {
        loop {
            self.flush();
            if self.waiting_bytes() <= bytes || self.is_broken() {
                return;
            }
            if self.socket.writable().await.is_err() {
                self.lock().is_broken = true;
            }
        }
    }

    /// Waits until whoever brought a reply could not write all of it, or nothing is in flight any more. Cancel safe.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }
}

impl Inner {
    fn new() -> Self {
        Self {
            out: BytesMut::new(),
            in_flight: 0,
            window: IN_FLIGHT_FIRST,
            seen: 0,
            seen_bytes: 0,
            view: None,
            is_moved: false,
            replies: Replies::On,
            begins: true,
            is_told: false,
            is_awaited: false,
            is_broken: false,
            followed: Followed::default(),
        }
    }

    fn append(&mut self, piece: &[u8], ends: bool) {
        self.see(piece.len(), ends);
        if self.replies == Replies::On && !self.is_broken {
            if self.out.len() + piece.len() > OUTPUT_BYTES_MAX {
                self.is_broken = true;
                return;
            }
            self.out.extend_from_slice(piece);
        }
        if ends && self.replies == Replies::Skip {
            self.replies = Replies::On;
        }
    }

    /// Opens the window while replies are small, and closes it to what fits when they are large.
    fn see(&mut self, bytes: usize, ends: bool) {
        self.seen += usize::from(ends);
        self.seen_bytes += bytes;
        let is_too_much = self.seen_bytes > IN_FLIGHT_BYTES;
        if !ends || (self.seen < self.window.div_ceil(2) && !is_too_much) {
            return;
        }
        self.window = if is_too_much {
            (self.seen * IN_FLIGHT_BYTES / self.seen_bytes).max(1)
        } else {
            (self.window * 2).min(IN_FLIGHT_MAX)
        };
        (self.seen, self.seen_bytes) = (0, 0);
    }

    fn ended(&mut self, count: usize) {
        self.in_flight = self.in_flight.saturating_sub(count);
        if self.in_flight == 0 {
            self.view = None;
            self.is_moved = false;
        }
        if !self.followed.is_empty() {
            self.followed.ended(count);
        }
    }
}

impl Sink for Output {
    fn take(&self, piece: &[u8], ends: bool) -> Turn {
        let mut inner = self.lock();
        if std::mem::replace(&mut inner.begins, ends) {
            self.count(piece);
            if inner.in_flight == 1 {
                // What is answered was done. A client that takes its time to read the answer holds no change of flags.
                inner.view = None;
            }
            if !inner.followed.is_empty() {
                inner.followed.seen(piece);
            }
        }
        inner.append(piece, ends);
        if ends {
            inner.ended(1);
        }
        if std::mem::replace(&mut inner.is_told, true) { Turn::Quiet } else { Turn::Tell }
    }

    fn turned(&self) {
        let mut inner = self.lock();
        inner.is_told = false;
        self.write(&mut inner);
        let is_over = inner.is_awaited && inner.in_flight == 0;
        if is_over || !inner.out.is_empty() || inner.is_broken {
            drop(inner);
            self.woken.notify_one();
        }
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.flush();
            if self.waiting_bytes() <= WAITING_BYTES {
                return Poll::Ready(());
            }
            if ready!(self.socket.poll_writable(cx)).is_err() {
                let mut inner = self.lock();
                inner.is_broken = true;
                inner.out.clear();
            }
        }
    }

    fn moved(&self) {
        self.lock().is_moved = true;
    }

    fn fail(&self, error: &RedisError, owed: usize) {
        let mut inner = self.lock();
        if !std::mem::replace(&mut inner.begins, true) {
            // A part of this reply has left already: nothing that follows could be understood.
            inner.is_broken = true;
        }
        let frame = failure(error);
        for _ in 0..owed {
            self.metrics.command(Door::Resp, Outcome::Failed);
            inner.append(&frame, true);
        }
        inner.followed.failed(error.class(), owed);
        inner.ended(owed);
        drop(inner);
        self.turned();
    }
}

/// What a client is told when Redis fails.
pub(super) fn failure(error: &impl std::fmt::Display) -> Vec<u8> {
    format!("-PARALLAX {error}\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_opens_for_small_replies_and_closes_for_large_ones() {
        let mut inner = Inner::new();
        (0..IN_FLIGHT_MAX).for_each(|_| inner.see(5, true));
        assert_eq!(inner.window, IN_FLIGHT_MAX);
        for _ in 0..3 {
            // One that comes in pieces is one.
            (0..17).for_each(|_| inner.see(256 * 1024, false));
            inner.see(2, true);
        }
        assert_eq!(inner.window, 1);
        (0..10).for_each(|_| inner.see(5, true));
        assert!(inner.window > 4, "{}", inner.window);
    }
}
