//! A connection to Redis that one client has to itself, for as long as it needs one: WATCH and MULTI ([`super::multi`]),
//! subscriptions, blocking commands, another database and what a client asks of its own connection ([`super::apart`]).

use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::doors::resp::apart::PIPE_BYTES;
use crate::doors::resp::client::{Client, Go, Running};
use crate::doors::resp::output::{Output, failure};
use crate::doors::resp::subscribed::is_subscription;
use crate::doors::resp::{stream, traced};
use crate::dual::Engine;
use crate::dual::route::{RedisError, Route, Sink, Wire};
use crate::dual::transaction::Transaction;
use crate::model::command::Command;
use crate::model::frame::{Frame, Protocol, encode};
use crate::model::reply::Reply;
use crate::telemetry::traces::active::{ActiveSpan, Fault};

/// Bytes of a client that wait while a command of its own blocks.
const INPUT_BYTES_MAX: usize = 1024 * 1024;
/// How long Redis is given to end a wait before it is asked again.
const UNBLOCK_PAUSE: Duration = Duration::from_millis(50);

/// A connection of a client's own, and why it has one.
pub(super) struct Own {
    pub(super) wire: Wire,
    pub(super) transaction: Option<Transaction>,
    pub(super) is_watching: bool,
    pub(super) channels: i64,
    pub(super) shard_channels: i64,
    /// Another database than the configured one is selected.
    pub(super) is_elsewhere: bool,
    /// There, between MULTI and EXEC.
    pub(super) is_queueing: bool,
    /// What it was asked for stays with it: tracking, its id.
    pub(super) is_pinned: bool,
    pub(super) is_two: bool,
}

impl Own {
    fn new(wire: Wire, protocol: Protocol) -> Self {
        Self {
            wire,
            transaction: None,
            is_watching: false,
            channels: 0,
            shard_channels: 0,
            is_elsewhere: false,
            is_queueing: false,
            is_pinned: false,
            is_two: protocol == Protocol::Resp2,
        }
    }

    fn is_subscribed(&self) -> bool {
        self.channels + self.shard_channels > 0
    }

    fn is_needed(&self) -> bool {
        self.transaction.is_some() || self.is_watching || self.is_subscribed() || self.is_elsewhere || self.is_pinned
    }

    /// Whether every command of the client goes over it.
    pub(super) fn takes_all(&self) -> bool {
        self.transaction.is_some() || self.is_elsewhere || self.is_pinned || (self.is_subscribed() && self.is_two)
    }

    /// Takes a frame that Redis sends unasked to the client. False when the connection has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost: what was read stays.
    pub(super) async fn unasked(own: &mut Option<Box<Self>>, output: &Output) -> bool {
        let Some(own) = own else { return std::future::pending().await };
        let Ok(frame) = own.wire.frame().await else { return false };
        own.push(&frame, output);
        true
    }

    pub(super) fn push(&mut self, frame: &Frame, output: &Output) {
        let reply = frame.decode();
        if Engine::hides(&reply) {
            return;
        }
        self.note_subscriptions(reply);
        output.push(frame.bytes());
    }

    /// `[subscribe, channel, count]` and its like tell how many subscriptions there are.
    pub(super) fn note_subscriptions(&mut self, reply: Reply) {
        let (Reply::Array(parts) | Reply::Push(parts)) = reply else { return };
        let (Some(kind), Some(count)) = (parts.first().and_then(|kind| kind.as_bulk()), parts.get(2)) else { return };
        let Some(count) = count.integer() else { return };
        match kind.as_ref() {
            b"subscribe" | b"unsubscribe" | b"psubscribe" | b"punsubscribe" => self.channels = count,
            b"ssubscribe" | b"sunsubscribe" => self.shard_channels = count,
            _ => {}
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), RedisError> {
        self.wire.tally.send(bytes);
        let broken = |error: std::io::Error| RedisError::Unknown(error.to_string());
        self.wire.stream.write_all(bytes).await.map_err(broken)?;
        self.wire.stream.flush().await.map_err(broken)
    }

    /// The next reply; what comes unasked before it goes to the client.
    pub(super) async fn reply(&mut self, output: &Output) -> Result<Frame, RedisError> {
        loop {
            let frame = self.wire.frame().await?;
            if frame.bytes().first() != Some(&b'>') {
                return Ok(frame);
            }
            self.push(&frame, output);
            output.flush();
        }
    }

    /// The next reply goes to the client as it comes, and what comes unasked before it too.
    async fn carry(&mut self, output: &Output, span: &mut ActiveSpan) -> Result<(), RedisError> {
        loop {
            self.wire.fill().await?;
            if self.wire.buffer.first() != Some(&b'>') {
                return stream::carry(&mut self.wire, output, span).await;
            }
            let frame = self.wire.frame().await?;
            self.push(&frame, output);
            output.flush();
        }
    }

    pub(super) async fn ask(&mut self, command: &Command, output: &Output) -> Result<Frame, RedisError> {
        let mut bytes = BytesMut::new();
        encode::command(&mut bytes, command);
        self.write(&bytes).await?;
        self.reply(output).await
    }
}

impl Client {
    /// A connection of its own, made if it has none.
    pub(super) async fn own(&mut self) -> Result<&mut Own, RedisError> {
        self.output.answered().await;
        match self.own {
            Some(ref mut own) => Ok(own),
            None => {
                let wire = self.thread.wire(self.protocol).await?;
                Ok(self.own.insert(Box::new(Own::new(wire, self.protocol))))
            }
        }
    }

    /// Lets go of a connection that is not needed any more.
    pub(super) fn release(&mut self) {
        // What a transaction has queued is done with its EXEC.
        if let Some(own) = self.own.as_mut().filter(|own| own.transaction.is_none() && !own.is_queueing) {
            own.wire.tally.answer();
        }
        if self.own.as_ref().is_some_and(|own| !own.is_needed())
            && let Some(own) = self.own.take()
        {
            self.thread.keep(own.wire, self.protocol);
        }
    }

    /// Tells of a connection that failed: what it knew is lost, so the client's own connection ends with it.
    pub(super) fn lost(&mut self, error: &RedisError) -> Go {
        self.output.failed(error);
        self.own = None;
        Go::Ends
    }

    /// As [`Self::lost`], and ends the span of the command that it failed.
    pub(super) fn lost_within(&mut self, mut span: ActiveSpan, error: &RedisError) -> Go {
        span.fail(error.class());
        self.lost(error)
    }

    /// Asks over the client's own connection and tells the answer; `note` notes what it means, where Redis agrees.
    pub(super) async fn ask_own(&mut self, command: &Command, note: impl FnOnce(&mut Own)) -> Go {
        let output = std::sync::Arc::clone(&self.output);
        let mut span = self.span_of(command);
        let asked = async {
            let own = self.own().await?;
            let frame = own.ask(command, &output).await?;
            if !frame.is_error() {
                note(own);
            }
            Ok::<_, RedisError>(frame)
        };
        match asked.await {
            Ok(frame) => {
                traced::replied(&mut span, &frame);
                self.output.reply(frame.bytes());
                self.release();
                Go::On
            }
            Err(error) => self.lost_within(span, &error),
        }
    }

    /// Serves a command that goes over the client's own connection.
    pub(super) async fn own_command(&mut self, command: Command) -> Go {
        let name = command.name();
        if matches!(name.as_str(), "QUIT" | "RESET" | "POST" | "HOST:") {
            return self.connection_command(command).await;
        }
        // What was forwarded before is answered before.
        self.output.answered().await;
        let Some(own) = self.own.as_mut() else { return Go::On };
        if own.transaction.is_some() {
            return self.in_transaction(command).await;
        }
        let is_ours = matches!(name.as_str(), "HELLO" | "AUTH" | "REPLCONF")
            || (name == "SCRIPT" && command.is_word(1, "DEBUG"))
            || (name == "CLIENT" && own.is_elsewhere);
        if is_ours && !own.is_queueing {
            return self.connection_command(command).await;
        }
        if is_subscription(&name) || (own.is_subscribed() && own.is_two) {
            return self.synchronised(&command).await;
        }
        if matches!(name.as_str(), "MONITOR" | "SYNC" | "PSYNC") {
            return self.pipe(&command).await;
        }
        if own.is_elsewhere {
            return self.elsewhere(&command).await;
        }
        match self.route(&command) {
            Route::Refuse(reason) => self.output.reply(&failure(&reason)),
            Route::Engine => return self.alone(command).await,
            Route::Connection if name == "MULTI" || name == "SELECT" => return self.connection_command(command).await,
            Route::Connection if name == "CLIENT" && !is_about_itself(&command) => {
                return self.connection_command(command).await;
            }
            Route::Blocking => return self.blocking(&command).await,
            Route::Forward | Route::Connection => return self.pass(&command).await,
        }
        Go::On
    }

    /// Passes one command over the client's own connection, and its reply back.
    pub(super) async fn pass(&mut self, command: &Command) -> Go {
        let mut bytes = BytesMut::new();
        encode::command(&mut bytes, command);
        let span = self.span_of(command);
        let written = match self.own().await {
            Ok(own) => own.write(&bytes).await,
            Err(error) => Err(error),
        };
        match written {
            Ok(()) => self.passed(None, span).await,
            Err(error) => self.lost_within(span, &error),
        }
    }

    /// A blocking command has the connection until it is answered, the client goes, or the door closes: then Redis is asked to
    /// end its wait, and says itself whether it was done before.
    pub(super) async fn blocking(&mut self, command: &Command) -> Go {
        let output = std::sync::Arc::clone(&self.output);
        let span = self.span_of(command);
        let asked = async {
            let own = self.own().await?;
            let mut bytes = BytesMut::new();
            encode::command(&mut bytes, &Command::new(["CLIENT", "ID"]));
            encode::command(&mut bytes, command);
            own.write(&bytes).await?;
            own.reply(&output).await
        };
        match asked.await {
            Ok(id) => self.passed(id.decode().integer(), span).await,
            Err(error) => self.lost_within(span, &error),
        }
    }

    /// Waits for the reply, perhaps for ever; so a client that goes meanwhile is noticed, and what it sends meanwhile waits.
    async fn passed(&mut self, blocked: Option<i64>, mut span: ActiveSpan) -> Go {
        let output = std::sync::Arc::clone(&self.output);
        output.flush();
        let unblocked = unblock(&self.thread.engine, blocked, self.running.clone());
        let Some(own) = self.own.as_mut() else { return Go::On };
        let carried = {
            let mut carried = std::pin::pin!(own.carry(&output, &mut span));
            let mut unblocked = std::pin::pin!(unblocked);
            loop {
                let has_room = self.input.len() < INPUT_BYTES_MAX;
                tokio::select! {
                    biased;
                    carried = &mut carried => break Some(carried),
                    ready = output.socket.readable(), if has_room => {
                        self.input.reserve(PIPE_BYTES);
                        let is_over = ready.is_err() || matches!(output.socket.try_read(&mut self.input), Ok(0));
                        if is_over {
                            break None;
                        }
                    }
                    () = &mut unblocked => {}
                }
            }
        };
        match carried {
            // Nobody waits for the reply any more, which is no error.
            None => {
                span.end();
                Go::Ends
            }
            Some(Ok(())) => {
                span.end();
                self.release();
                Go::On
            }
            Some(Err(error)) => {
                span.fail(error.class());
                self.output.fail(&error, 1);
                self.own = None;
                Go::Ends
            }
        }
    }

    /// HELLO over the connection whose protocol it names.
    pub(super) async fn forward_hello(&mut self, command: &Command) -> Go {
        let protocol = self.protocol;
        match &mut self.own {
            Some(own) => {
                own.is_two = protocol == Protocol::Resp2;
                self.pass(command).await
            }
            None => {
                self.forward_one(command).await;
                Go::On
            }
        }
    }

    /// Forgets the connection of its own, whatever it was for.
    pub(super) fn forget_own(&mut self) {
        self.own = None;
    }
}

/// Ends the wait of a blocked connection when the door closes, and asks again for as long as it is not over: what blocks next
/// may not have come to Redis yet. Never ready.
async fn unblock(engine: &Engine, blocked: Option<i64>, mut running: watch::Receiver<Running>) {
    let Some(id) = blocked else { return std::future::pending().await };
    // Whoever says how the process stands is gone only when it ends.
    let _ = running.wait_for(|running| *running == Running::Draining).await;
    loop {
        engine.unblock(id).await;
        tokio::time::sleep(UNBLOCK_PAUSE).await;
    }
}

/// Whether Redis has closed a connection that nobody used.
pub(super) fn is_closed(wire: &mut Wire) -> bool {
    // Nothing may come on it: whatever does, it is of no use.
    wire.frame().now_or_never().is_some()
}

/// Whether a CLIENT command asks for or changes something of the very connection it comes over.
pub(super) fn is_about_itself(command: &Command) -> bool {
    const ABOUT_ITSELF: [&str; 8] =
        ["ID", "INFO", "TRACKING", "TRACKINGINFO", "CACHING", "GETREDIR", "NO-EVICT", "NO-TOUCH"];
    ABOUT_ITSELF.iter().any(|word| command.is_word(1, word))
}
