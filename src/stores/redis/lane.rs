//! The lane of callers' commands: one pipelined connection that many callers share, bytes in and frames out.
//!
//! What gathers in one turn of the loop leaves in one write. Replies are found by their ends alone and handed to whoever
//! waits, as slices of what was read or piece by piece. One task drives a lane, and nothing of it knows who its callers are.
//!
//! A little over 400 lines, since the state of a lane and the one task that drives it are read together.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

use crate::model::command::Command;
use crate::model::frame::scan::{Progress, Scanner};
use crate::model::frame::{Frame, Protocol, encode};
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::wire::{READ_BYTES, Upstream, Wire};

/// How long a lane waits before it tries to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes that may wait to be written.
const OUT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Requests that may wait for their replies.
const WAITING_MAX: usize = 65_536;
/// A buffer that has grown beyond this is let go when it is empty.
const BUFFER_BYTES_KEPT: usize = 1024 * 1024;
/// How often a lane looks whether Redis still answers.
const WATCH: Duration = Duration::from_millis(250);

/// Takes replies piece by piece, as they come.
pub trait Sink: Send + Sync {
    /// A piece of the present reply; the last one of it `ends` it. Answers whether it must be told of the end of the turn.
    fn take(&self, piece: &[u8], ends: bool) -> Turn;

    /// The turn is over: nothing more comes before the next read.
    fn turned(&self);

    /// Nothing more comes: the connection failed, with so many replies owed (the present one among them).
    fn fail(&self, error: &RedisError, owed: usize);
}

/// Whether a sink must be told when the turn is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It must, and has not asked for it in this turn.
    Tell,
    /// It need not, or has asked already.
    Quiet,
}

enum Taker {
    /// Wants all replies at once.
    Whole(Vec<Frame>, oneshot::Sender<Result<Vec<Frame>, RedisError>>),
    /// Wants pieces.
    Pieces(Arc<dyn Sink>),
}

struct Waiting {
    /// Where its bytes begin in all that was ever queued on this connection.
    begins: u64,
    /// Replies that are owed.
    owed: usize,
    taker: Taker,
}

impl Waiting {
    fn fail(self, written: u64, error: &RedisError) {
        // What never left is known not to have happened.
        let never_left = self.begins >= written;
        let error = if let RedisError::Unknown(reason) = error
            && never_left
        {
            RedisError::Unreachable(reason.clone())
        } else {
            error.clone()
        };
        match self.taker {
            Taker::Whole(_, done) => drop(done.send(Err(error))),
            Taker::Pieces(sink) => sink.fail(&error, self.owed),
        }
    }
}

#[derive(Clone, Copy)]
enum Link {
    /// Nobody drives it; since when, if an attempt failed.
    Down(Option<Instant>),
    /// A task connects or drives it.
    Driven,
}

struct State {
    link: Link,
    out: BytesMut,
    queued: u64,
    waiting: VecDeque<Waiting>,
    is_closed: bool,
}

struct Inner {
    upstream: Arc<Upstream>,
    protocol: Protocol,
    deadline: Duration,
    state: Mutex<State>,
    waker: AtomicWaker,
}

/// A shared, pipelined connection, made at first use and made again when it breaks. Dropping it closes it.
pub struct Lane {
    inner: Arc<Inner>,
}

impl Lane {
    /// A lane that gives up when Redis answers nothing for `deadline`.
    #[must_use]
    pub fn new(upstream: Arc<Upstream>, protocol: Protocol, deadline: Duration) -> Self {
        let state = State {
            link: Link::Down(None),
            out: BytesMut::new(),
            queued: 0,
            waiting: VecDeque::new(),
            is_closed: false,
        };
        let inner = Inner { upstream, protocol, deadline, state: Mutex::new(state), waker: AtomicWaker::new() };
        Self { inner: Arc::new(inner) }
    }

    /// The protocol in which it answers.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.inner.protocol
    }

    /// Runs commands in order; a frame each, errors among them as frames.
    ///
    /// # Errors
    /// When the connection fails. After sending the outcome is unknown.
    ///
    /// # Cancel safety
    /// All of the commands are sent, or none.
    pub async fn ask(&self, commands: &[Command]) -> Result<Vec<Frame>, RedisError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let (done, answer) = oneshot::channel();
        let write = |out: &mut BytesMut| commands.iter().for_each(|command| encode::command(out, command));
        let taker = Taker::Whole(Vec::with_capacity(commands.len()), done);
        self.inner.enqueue(write, commands.len(), taker)?;
        answer.await.unwrap_or_else(|_| Err(RedisError::Unknown("the lane is closed".to_owned())))
    }

    /// Queues what `write` appends, which is `count` whole commands; their replies go to `sink` as they come.
    ///
    /// # Errors
    /// When nothing can be sent now; then the sink hears nothing of it.
    pub fn send(&self, write: impl FnOnce(&mut BytesMut), count: usize, sink: Arc<dyn Sink>) -> Result<(), RedisError> {
        self.inner.enqueue(write, count, Taker::Pieces(sink))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.inner.lock().is_closed = true;
        self.inner.waker.wake();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held is over; what it guards is whole after each statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(
        self: &Arc<Self>,
        write: impl FnOnce(&mut BytesMut),
        owed: usize,
        taker: Taker,
    ) -> Result<(), RedisError> {
        let mut state = self.lock();
        match state.link {
            Link::Driven => {}
            Link::Down(Some(since)) if since.elapsed() < RECONNECT_PAUSE => {
                return Err(RedisError::Unreachable("the last attempt failed a moment ago".to_owned()));
            }
            Link::Down(_) => {
                state.link = Link::Driven;
                tokio::spawn(drive(Arc::clone(self)));
            }
        }
        if state.out.len() > OUT_BYTES_MAX || state.waiting.len() >= WAITING_MAX {
            return Err(RedisError::Overloaded);
        }
        let (begins, before) = (state.queued, state.out.len());
        write(&mut state.out);
        state.queued += (state.out.len() - before) as u64;
        state.waiting.push_back(Waiting { begins, owed, taker });
        drop(state);
        if before == 0 {
            self.waker.wake();
        }
        Ok(())
    }
}

/// Connects, and moves bytes both ways until the connection ends; then tells everybody who waits.
async fn drive(inner: Arc<Inner>) {
    let (error, mut taken, written) = match inner.upstream.connect(inner.protocol).await {
        Ok(wire) => {
            let mut driver = Driver::new(&inner, wire);
            let error = driver.run().await;
            (error, driver.taken, driver.written)
        }
        Err(error) => (error, VecDeque::new(), 0),
    };
    let mut state = inner.lock();
    state.link = Link::Down(matches!(error, RedisError::Unreachable(_)).then(Instant::now));
    state.out = BytesMut::new();
    state.queued = 0;
    taken.append(&mut state.waiting);
    drop(state);
    for waiting in taken {
        waiting.fail(written, &error);
    }
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
        }
    }

    async fn run(&mut self) -> RedisError {
        let mut watch = tokio::time::interval(WATCH.min(self.inner.deadline));
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                error = std::future::poll_fn(|cx| self.poll(cx)) => return error,
                _ = watch.tick() => {
                    if self.is_owed() && self.progress.elapsed() >= self.inner.deadline {
                        return RedisError::Unknown("redis did not answer within the deadline".to_owned());
                    }
                }
            }
        }
    }

    fn is_owed(&self) -> bool {
        !self.taken.is_empty() || !self.inner.lock().waiting.is_empty()
    }

    /// Ready when the connection has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<RedisError> {
        self.inner.waker.register(cx.waker());
        if let Err(error) = self.write(cx) {
            return Poll::Ready(RedisError::Unknown(error.to_string()));
        }
        loop {
            match ready!(self.read(cx)) {
                Ok(0) => return Poll::Ready(RedisError::Unknown("redis closed the connection".to_owned())),
                Ok(_) => {
                    self.progress = Instant::now();
                    let dispatched = self.dispatch();
                    self.told.drain(..).for_each(|sink| sink.turned());
                    if let Err(reason) = dispatched {
                        return Poll::Ready(RedisError::Unknown(reason));
                    }
                }
                Err(error) => return Poll::Ready(RedisError::Unknown(error.to_string())),
            }
        }
    }

    /// Writes what waits, until nothing does or the socket is full.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut has_written = false;
        loop {
            if self.writing.is_empty() {
                if self.writing.capacity() > BUFFER_BYTES_KEPT {
                    self.writing = BytesMut::new();
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
                        if used > 0 {
                            if sink.take(buffer.get(..used).unwrap_or_default(), ends) == Turn::Tell {
                                self.told.push(Arc::clone(sink));
                            }
                            buffer.advance(used);
                        }
                    }
                }
                if ends {
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
