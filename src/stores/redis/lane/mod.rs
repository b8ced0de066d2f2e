//! The lane of callers' commands: one pipelined connection that many callers share, bytes in and frames out.
//!
//! What gathers in one turn of the loop leaves in one write. Replies are found by their ends alone and handed to whoever
//! waits, as slices of what was read or piece by piece. One task drives a lane, and nothing of it knows who its callers are.
//!
//! What is queued and who waits stands here; [`drive`] moves the bytes.

mod drive;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::task::AtomicWaker;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::model::command::Command;
use crate::model::frame::{Frame, Protocol, encode};
use crate::model::reply::Reply;
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::script::Scripts;
use crate::stores::redis::tally::{Counting, OfLane, Told};
use crate::stores::redis::wire::Upstream;

/// How long a lane waits before it tries to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes that may wait to be written.
const OUT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Requests that may wait for their replies.
const WAITING_MAX: usize = 65_536;

/// What a lane does when Redis owes a reply and sends nothing for as long as its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The connection is closed, and whoever waits is told that the outcome is unknown.
    Ends,
    /// It is borne for as long as the connection stands, as Redis' own clients bear a slow script; but what could not even be
    /// sent by then is not sent any more.
    Borne,
}

/// Takes replies piece by piece, as they come.
pub trait Sink: Send + Sync {
    /// A piece of the present reply; the last one of it `ends` it. Answers whether it must be told of the end of the turn.
    fn take(&self, piece: &[u8], ends: bool) -> Turn;

    /// The turn is over: nothing more comes before the next read.
    fn turned(&self);

    /// Ready when it has room for more of a large reply; whoever asked last is woken.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// The replies that it is owed come over a connection that takes no more commands: what is sent now could overtake them.
    fn moved(&self);

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
    /// The server process at the other end of the connection that takes what is queued now.
    run_id: Option<String>,
    out: BytesMut,
    queued: u64,
    waiting: VecDeque<Waiting>,
    is_closed: bool,
    tally: OfLane,
}

struct Inner {
    upstream: Arc<Upstream>,
    protocol: Protocol,
    deadline: Duration,
    silence: Silence,
    state: Mutex<State>,
    waker: AtomicWaker,
}

/// A shared, pipelined connection, made at first use and made again when it breaks. Dropping it closes it.
pub struct Lane {
    inner: Arc<Inner>,
}

impl Lane {
    /// A lane that does as `silence` says when Redis answers nothing for `deadline`.
    #[must_use]
    pub fn new(upstream: Arc<Upstream>, protocol: Protocol, deadline: Duration, silence: Silence) -> Self {
        let state = State {
            link: Link::Down(None),
            run_id: None,
            out: BytesMut::new(),
            queued: 0,
            waiting: VecDeque::new(),
            is_closed: false,
            tally: OfLane::default(),
        };
        let (state, waker) = (Mutex::new(state), AtomicWaker::new());
        let inner = Arc::new(Inner { upstream, protocol, deadline, silence, state, waker });
        let way = Arc::downgrade(&inner);
        inner.upstream.tally().also(way);
        Self { inner }
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

impl Scripts for Lane {
    async fn call(&self, command: impl FnOnce(&str) -> Command + Send) -> Result<Reply, RedisError> {
        if self.inner.lock().run_id.is_none() {
            // While it is not connected nobody knows which server it will reach.
            self.ask(&[Command::new(["PING"])]).await?;
        }
        let (done, answer) = oneshot::channel();
        self.inner.enqueue_known(command, Taker::Whole(Vec::with_capacity(1), done))?;
        let frames = answer.await.unwrap_or_else(|_| Err(RedisError::Unknown("the lane is closed".to_owned())))?;
        Ok(frames.first().ok_or(RedisError::Form("no reply"))?.decode())
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.inner.lock().is_closed = true;
        self.inner.waker.wake();
    }
}

impl Counting for Inner {
    fn tell(&self, told: &mut Told) {
        self.lock().tally.tell(told);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.upstream.tally().over(self.lock().tally.sent());
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
        self.enqueue_in(self.lock(), write, owed, taker)
    }

    /// Queues one command for the server process that is known to take it.
    fn enqueue_known(self: &Arc<Self>, command: impl FnOnce(&str) -> Command, taker: Taker) -> Result<(), RedisError> {
        let state = self.lock();
        let Some(run_id) = &state.run_id else {
            return Err(RedisError::Unreachable("the connection broke a moment ago".to_owned()));
        };
        let command = command(run_id);
        self.enqueue_in(state, |out| encode::command(out, &command), 1, taker)
    }

    /// Queues, under a lock that is held already.
    fn enqueue_in(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        write: impl FnOnce(&mut BytesMut),
        owed: usize,
        taker: Taker,
    ) -> Result<(), RedisError> {
        match state.link {
            Link::Driven => {}
            Link::Down(Some(since)) if since.elapsed() < RECONNECT_PAUSE => {
                return Err(RedisError::Unreachable("the last attempt failed a moment ago".to_owned()));
            }
            Link::Down(_) => {
                state.link = Link::Driven;
                tokio::spawn(drive::drive(Arc::clone(self)));
            }
        }
        if state.out.len() > OUT_BYTES_MAX || state.waiting.len() >= WAITING_MAX {
            return Err(RedisError::Overloaded);
        }
        let (begins, before) = (state.queued, state.out.len());
        write(&mut state.out);
        let State { out, tally, .. } = &mut *state;
        tally.send(self.upstream.tally(), out.get(before..).unwrap_or_default(), owed);
        state.queued += (state.out.len() - before) as u64;
        state.waiting.push_back(Waiting { begins, owed, taker });
        drop(state);
        if before == 0 {
            self.waker.wake();
        }
        Ok(())
    }
}
