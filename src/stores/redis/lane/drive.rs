//! The task that drives a lane: writes what is queued, reads replies, finds their ends and hands them to whoever waits.
//!
//! A large reply comes no faster than its taker has room for it; its connection stands apart meanwhile, and the lane goes on
//! over another one.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;
use tokio::time::{Instant, MissedTickBehavior};

use crate::model::frame::Frame;
use crate::model::frame::scan::{Progress, Scanner};
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::lane::{Inner, Link, Silence, Sink, Taker, Turn, Waiting};
use crate::stores::redis::tally::Apart;
use crate::stores::redis::wire::{READ_BYTES, Wire};

/// A buffer that has grown beyond this is let go when it is empty.
const BUFFER_BYTES_KEPT: usize = 1024 * 1024;
/// How often a lane looks whether Redis still answers.
const WATCH: Duration = Duration::from_millis(250);
/// Bytes of a reply beyond which it comes no faster than its taker has room for it.
const LARGE_REPLY_BYTES: usize = 256 * 1024;
/// Bytes of a string that are still to come at which its connection stands apart, even if its taker were to take it at once.
const FAR_BYTES: u64 = 1024 * 1024;
/// How long the takers of large replies may hold up replies behind them, on the same connection; then they are gathered.
const HOLD_UP_MAX: Duration = Duration::from_millis(500);

/// Connects, and moves bytes both ways until the connection ends; then tells everybody who waits.
pub(super) async fn drive(inner: Arc<Inner>) {
    let (end, mut taken, written, stands_apart) = match inner.upstream.connect_known(inner.protocol).await {
        Ok((wire, run_id)) => {
            inner.lock().run_id = Some(run_id);
            let mut driver = Driver::new(&inner, wire);
            let end = driver.run().await;
            (end, driver.taken, driver.written, driver.apart_since.is_some())
        }
        Err(error) => (Err(error), VecDeque::new(), 0, false),
    };
    // One that stands apart has left the lane to the next one.
    if !stands_apart {
        let mut state = inner.lock();
        state.link = Link::Down(matches!(end, Err(RedisError::Unreachable(_))).then(Instant::now));
        state.run_id = None;
        state.out = BytesMut::new();
        state.queued = 0;
        taken.append(&mut state.waiting);
    }
    let lost = owed(&taken);
    if lost > 0 {
        inner.lock().tally.reply(lost, if stands_apart { Apart::Yes } else { Apart::No });
        inner.upstream.tally().broke();
    }
    if let Err(error) = end {
        for waiting in taken {
            waiting.fail(written, &error);
        }
    }
}

/// The replies that they wait for.
fn owed(waiting: &VecDeque<Waiting>) -> u64 {
    waiting.iter().map(|waiting| waiting.owed as u64).sum()
}

struct Driver<'a> {
    inner: &'a Inner,
    wire: Wire,
    writing: BytesMut,
    written: u64,
    taken: VecDeque<Waiting>,
    scanner: Scanner,
    /// Bytes of the buffer that the scanner has seen.
    scanned: usize,
    /// The present frame was sent unasked, and nobody takes it.
    is_unasked: bool,
    /// Who is told when the turn is over.
    told: Vec<Arc<dyn Sink>>,
    /// When Redis last answered, or began to owe an answer.
    progress: Instant,
    /// Bytes of the present reply that were handed on.
    handed_on: usize,
    /// Replies that came in this turn.
    came: u64,
    /// Since when it brings what is owed on its connection, and no more: a reply was too large for its taker to take at once.
    apart_since: Option<Instant>,
}

impl<'a> Driver<'a> {
    fn new(inner: &'a Inner, wire: Wire) -> Self {
        Self {
            inner,
            wire,
            writing: BytesMut::new(),
            written: 0,
            taken: VecDeque::new(),
            scanner: Scanner::default(),
            scanned: 0,
            is_unasked: false,
            told: Vec::new(),
            progress: Instant::now(),
            handed_on: 0,
            came: 0,
            apart_since: None,
        }
    }

    /// Until the connection fails; or, when it stands apart, nothing more is owed on it.
    async fn run(&mut self) -> Result<(), RedisError> {
        let mut watch = tokio::time::interval(WATCH.min(self.inner.deadline));
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                end = std::future::poll_fn(|cx| self.poll(cx)) => return end,
                _ = watch.tick() => {
                    if self.progress.elapsed() >= self.inner.deadline && self.gives_up() {
                        return Err(RedisError::Unknown("redis did not answer within the deadline".to_owned()));
                    }
                }
            }
        }
    }

    /// Whether a silence of Redis that lasts as long as the deadline is its end.
    fn gives_up(&self) -> bool {
        let waits_here = self.apart_since.is_none() && !self.inner.lock().waiting.is_empty();
        match self.inner.silence {
            Silence::Ends => waits_here || !self.taken.is_empty(),
            Silence::Borne => waits_here || !self.writing.is_empty(),
        }
    }

    /// Ready when the connection has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RedisError>> {
        let broken = |reason: String| Poll::Ready(Err(RedisError::Unknown(reason)));
        if self.apart_since.is_none() {
            self.inner.waker.register(cx.waker());
        }
        if let Err(error) = self.write(cx) {
            return broken(error.to_string());
        }
        loop {
            if self.apart_since.is_some() && self.taken.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if self.handed_on > LARGE_REPLY_BYTES && self.must_wait(cx) {
                // What it took over when it came to stand apart leaves meanwhile.
                return self.write(cx).map_or_else(|error| broken(error.to_string()), |()| Poll::Pending);
            }
            match ready!(self.read(cx)) {
                Ok(0) => return broken("redis closed the connection".to_owned()),
                Ok(_) => {
                    self.progress = Instant::now();
                    let dispatched = self.dispatch();
                    self.count_replies();
                    self.told.drain(..).for_each(|sink| sink.turned());
                    if let Err(reason) = dispatched {
                        return broken(reason);
                    }
                    if self.scanner.missing() > FAR_BYTES
                        && self.makes_way()
                        && let Err(error) = self.write(cx)
                    {
                        return broken(error.to_string());
                    }
                }
                Err(error) => return broken(error.to_string()),
            }
        }
    }

    fn count_replies(&mut self) {
        let came = std::mem::take(&mut self.came);
        if came > 0 {
            let apart = if self.apart_since.is_some() { Apart::Yes } else { Apart::No };
            self.inner.lock().tally.reply(came, apart);
        }
    }

    /// Whether the taker of a large reply must make room before more of it is read. Then this connection stands apart, so that
    /// nobody else's commands come to stand behind that reply.
    fn must_wait(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(Waiting { taker: Taker::Pieces(sink), owed, .. }) = self.taken.front() else { return false };
        if sink.poll_room(cx).is_ready() {
            return false;
        }
        let has_others = *owed > 1 || self.taken.len() > 1;
        // It is not Redis that is slow.
        self.progress = Instant::now();
        let since = self.apart_since.unwrap_or_else(|| self.stand_apart());
        !has_others || since.elapsed() < HOLD_UP_MAX
    }

    /// A long string has begun to come: nobody else's commands come to stand behind it from here on.
    fn makes_way(&mut self) -> bool {
        let is_in_pieces = matches!(self.taken.front(), Some(Waiting { taker: Taker::Pieces(_), .. }));
        let makes_way = is_in_pieces && self.apart_since.is_none();
        if makes_way {
            self.stand_apart();
        }
        makes_way
    }

    /// Takes over all that is queued and leaves the lane to a new connection.
    fn stand_apart(&mut self) -> Instant {
        let now = Instant::now();
        self.apart_since = Some(now);
        let mut state = self.inner.lock();
        self.writing.unsplit(std::mem::take(&mut state.out));
        self.taken.append(&mut state.waiting);
        state.tally.stand_apart(owed(&self.taken));
        state.queued = 0;
        state.run_id = None;
        state.link = Link::Down(None);
        drop(state);
        for waiting in &self.taken {
            if let Taker::Pieces(sink) = &waiting.taker {
                sink.moved();
            }
        }
        now
    }

    /// Writes what waits, until nothing does or the socket is full.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut has_written = false;
        loop {
            if self.writing.is_empty() {
                if self.writing.capacity() > BUFFER_BYTES_KEPT {
                    self.writing = BytesMut::new();
                }
                if self.apart_since.is_some() {
                    break;
                }
                let was_owed = !self.taken.is_empty();
                let mut state = self.inner.lock();
                if state.is_closed && state.waiting.is_empty() && !was_owed {
                    return Err(io::Error::other("the lane is closed"));
                }
                if state.out.is_empty() {
                    break;
                }
                std::mem::swap(&mut self.writing, &mut state.out);
                self.taken.append(&mut state.waiting);
                drop(state);
                if !was_owed {
                    self.progress = Instant::now();
                }
            }
            match Pin::new(&mut self.wire.stream).poll_write(cx, &self.writing) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => {
                    self.writing.advance(written);
                    self.written += written as u64;
                    has_written = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        if has_written && let Poll::Ready(Err(error)) = Pin::new(&mut self.wire.stream).poll_flush(cx) {
            return Err(error);
        }
        Ok(())
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let buffer = &mut self.wire.buffer;
        if buffer.is_empty() && buffer.capacity() > BUFFER_BYTES_KEPT {
            *buffer = BytesMut::new();
        }
        buffer.reserve(READ_BYTES);
        tokio_util::io::poll_read_buf(Pin::new(&mut self.wire.stream), cx, buffer)
    }

    /// Hands whole frames, and pieces of those that are not whole yet, to whoever waits for them.
    fn dispatch(&mut self) -> Result<(), String> {
        let buffer = &mut self.wire.buffer;
        while self.scanned < buffer.len() {
            if self.scanned == 0 && self.scanner.is_between() {
                self.is_unasked = buffer.first() == Some(&b'>');
            }
            let rest = buffer.get(self.scanned..).unwrap_or_default();
            let (length, ends) = match self.scanner.advance(rest).map_err(|error| error.to_string())? {
                Progress::Whole(length) => (length, true),
                Progress::Partial(length) => (length, false),
            };
            self.scanned += length;
            if self.is_unasked {
                buffer.advance(std::mem::take(&mut self.scanned));
            } else {
                let front = self.taken.front_mut().ok_or("redis sent a reply that nobody asked for")?;
                match &mut front.taker {
                    Taker::Whole(frames, _) if ends => {
                        let frame = buffer.split_to(std::mem::take(&mut self.scanned)).freeze();
                        frames.push(Frame::new(frame));
                    }
                    Taker::Whole(..) => {}
                    Taker::Pieces(sink) => {
                        let used = std::mem::take(&mut self.scanned);
                        self.handed_on += used;
                        if used > 0 {
                            if sink.take(buffer.get(..used).unwrap_or_default(), ends) == Turn::Tell {
                                self.told.push(Arc::clone(sink));
                            }
                            buffer.advance(used);
                        }
                    }
                }
                if ends {
                    self.handed_on = 0;
                    self.came += 1;
                    front.owed -= 1;
                    if front.owed == 0
                        && let Some(Waiting { taker: Taker::Whole(frames, done), .. }) = self.taken.pop_front()
                    {
                        // Whoever does not wait any more wants no answer.
                        drop(done.send(Ok(frames)));
                    }
                }
            }
            if !ends {
                break;
            }
        }
        Ok(())
    }
}
