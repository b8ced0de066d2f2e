//! A connection to Redis that one client has to itself, for as long as it needs one: WATCH and MULTI, subscriptions, blocking
//! commands, another database, and what a client asks of its own connection.

use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::doors::resp::client::{Client, Go};
use crate::doors::resp::output::{Output, failure};
use crate::doors::resp::parse::Found;
use crate::dual::Engine;
use crate::dual::route::{RedisError, Route, Wire};
use crate::dual::transaction::{Expected, Transaction};
use crate::model::command::Command;
use crate::model::frame::{Frame, Protocol, encode};
use crate::model::reply::Reply;

/// Commands of a client's transaction that are queued at once.
const QUEUED_AT_ONCE_MAX: usize = 1024;
/// Why something is refused in another database than the configured one.
const COMES_BACK: &str = "what comes into the mirrored database from another one cannot be marked: select it before";
/// Bytes of a client that wait while a command of its own blocks.
const INPUT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes that are carried at once where nothing is looked at.
const PIPE_BYTES: usize = 64 * 1024;

/// A connection of a client's own, and why it has one.
pub(super) struct Own {
    wire: Wire,
    transaction: Option<Transaction>,
    is_watching: bool,
    channels: i64,
    shard_channels: i64,
    /// Another database than the configured one is selected.
    is_elsewhere: bool,
    /// There, between MULTI and EXEC.
    is_queueing: bool,
    /// What it was asked for stays with it: tracking, its id.
    is_pinned: bool,
    is_two: bool,
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

    fn push(&mut self, frame: &Frame, output: &Output) {
        let reply = frame.decode();
        if Engine::hides(&reply) {
            return;
        }
        self.note_subscriptions(reply);
        output.push(frame.bytes());
    }

    /// `[subscribe, channel, count]` and its like tell how many subscriptions there are.
    fn note_subscriptions(&mut self, reply: Reply) {
        let (Reply::Array(parts) | Reply::Push(parts)) = reply else { return };
        let (Some(kind), Some(count)) = (parts.first().and_then(|kind| kind.as_bulk()), parts.get(2)) else { return };
        let Some(count) = count.integer() else { return };
        match kind.as_ref() {
            b"subscribe" | b"unsubscribe" | b"psubscribe" | b"punsubscribe" => self.channels = count,
            b"ssubscribe" | b"sunsubscribe" => self.shard_channels = count,
            _ => {}
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), RedisError> {
        let broken = |error: std::io::Error| RedisError::Unknown(error.to_string());
        self.wire.stream.write_all(bytes).await.map_err(broken)?;
        self.wire.stream.flush().await.map_err(broken)
    }

    /// The next reply; what comes unasked before it goes to the client.
    async fn reply(&mut self, output: &Output) -> Result<Frame, RedisError> {
        loop {
            let frame = self.wire.frame().await?;
            if frame.bytes().first() != Some(&b'>') {
                return Ok(frame);
            }
            self.push(&frame, output);
            output.flush();
        }
    }

    async fn ask(&mut self, command: &Command, output: &Output) -> Result<Frame, RedisError> {
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
    fn release(&mut self) {
        if self.own.as_ref().is_some_and(|own| !own.is_needed())
            && let Some(own) = self.own.take()
        {
            self.thread.keep(own.wire, self.protocol);
        }
    }

    /// Tells of a connection that failed: what it knew is lost, so the client's own connection ends with it.
    fn lost(&mut self, error: &RedisError) -> Go {
        self.output.reply(&failure(error));
        self.own = None;
        Go::Ends
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
            || (name == "CLIENT" && own.is_elsewhere && !own.is_queueing);
        if is_ours {
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
            Route::Forward | Route::Connection | Route::Blocking => return self.pass(&command).await,
        }
        Go::On
    }

    /// Passes one command over the client's own connection, and its reply back. It may block for ever, so a client that goes
    /// meanwhile is noticed; what it sends meanwhile waits.
    async fn pass(&mut self, command: &Command) -> Go {
        let mut bytes = BytesMut::new();
        encode::command(&mut bytes, command);
        let output = std::sync::Arc::clone(&self.output);
        let written = match self.own().await {
            Ok(own) => own.write(&bytes).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            return self.lost(&error);
        }
        output.flush();
        let Some(own) = self.own.as_mut() else { return Go::On };
        loop {
            let has_room = self.input.len() < INPUT_BYTES_MAX;
            let asked = tokio::select! {
                biased;
                asked = own.reply(&output) => asked,
                ready = output.socket.readable(), if has_room => {
                    self.input.reserve(PIPE_BYTES);
                    let is_over = ready.is_err() || matches!(output.socket.try_read(&mut self.input), Ok(0));
                    if is_over {
                        return Go::Ends;
                    }
                    continue;
                }
            };
            return match asked {
                Ok(frame) => {
                    output.reply(frame.bytes());
                    self.release();
                    Go::On
                }
                Err(error) => self.lost(&error),
            };
        }
    }

    /// A blocking command has the connection until it is answered, or the client goes.
    pub(super) async fn blocking(&mut self, command: Command) -> Go {
        self.pass(&command).await
    }

    /// WATCH holds the connection until EXEC, DISCARD or UNWATCH.
    pub(super) async fn watch(&mut self, command: &Command) -> Go {
        if let Route::Refuse(reason) = self.keys_refused(command) {
            self.answer(&failure(&reason)).await;
            return Go::On;
        }
        let output = std::sync::Arc::clone(&self.output);
        let asked = match self.own().await {
            Ok(own) => {
                let asked = own.ask(command, &output).await;
                let is_watch = command.is_word(0, "WATCH");
                if let Ok(frame) = &asked
                    && !frame.is_error()
                {
                    own.is_watching = is_watch;
                }
                asked
            }
            Err(error) => Err(error),
        };
        match asked {
            Ok(frame) => {
                self.output.reply(frame.bytes());
                self.release();
                Go::On
            }
            Err(error) => self.lost(&error),
        }
    }

    fn keys_refused(&self, command: &Command) -> Route {
        let mut read = command.clone();
        if let Some(name) = read.0.first_mut() {
            *name = bytes::Bytes::from_static(b"EXISTS");
        }
        self.route(&read)
    }

    /// MULTI: from here to EXEC everything is queued by Redis itself.
    pub(super) async fn multi(&mut self, command: &Command) -> Go {
        let output = std::sync::Arc::clone(&self.output);
        let transaction = self.thread.engine.begin_transaction();
        let asked = match self.own().await {
            Ok(own) => {
                let asked = own.ask(command, &output).await;
                if let Ok(frame) = &asked
                    && !frame.is_error()
                {
                    own.transaction = Some(transaction);
                }
                asked
            }
            Err(error) => Err(error),
        };
        match asked {
            Ok(frame) => {
                self.output.reply(frame.bytes());
                self.release();
                Go::On
            }
            Err(error) => self.lost(&error),
        }
    }

    /// Queues a command, and what has come behind it, in one go; or ends the transaction.
    async fn in_transaction(&mut self, first: Command) -> Go {
        let mut next = Some(first);
        let (mut bytes, mut expected) = (BytesMut::new(), Vec::new());
        let mut last = None;
        let mut stays = false;
        while let Some(command) = next.take() {
            let Some(transaction) = self.own.as_ref().and_then(|own| own.transaction.as_ref()) else { break };
            if matches!(command.name().as_str(), "EXEC" | "DISCARD" | "RESET" | "QUIT" | "POST" | "HOST:") {
                last = Some(command);
                break;
            }
            // EXEC changes the connection, so nobody else gets it afterwards.
            stays |= is_subscription(&command.name()) || command.is_word(0, "CLIENT");
            let more = self.thread.engine.queue(transaction, self.thread.policy, command, &mut bytes);
            expected.extend(more);
            if expected.len() < QUEUED_AT_ONCE_MAX
                && let Ok(found @ Found::Array(_)) = self.parser.next(&self.input, self.trust)
            {
                next = Some(self.take(found));
            }
        }
        if let Some(own) = self.own.as_mut() {
            own.is_pinned |= stays;
        }
        match Box::pin(self.settle(bytes, expected, last.as_ref())).await {
            Ok(()) => {}
            Err(error) => return self.lost(&error),
        }
        match last {
            Some(command) if !matches!(command.name().as_str(), "EXEC" | "DISCARD") => {
                self.connection_command(command).await
            }
            Some(_) | None => Go::On,
        }
    }

    async fn settle(
        &mut self,
        mut bytes: BytesMut,
        expected: Vec<Expected>,
        last: Option<&Command>,
    ) -> Result<(), RedisError> {
        let Some(own) = self.own.as_mut() else { return Ok(()) };
        let ends = last.filter(|command| command.is_word(0, "EXEC") || command.is_word(0, "DISCARD"));
        if let Some(command) = ends {
            encode::command(&mut bytes, command);
        }
        own.write(&bytes).await?;
        for expected in expected {
            let frame = own.reply(&self.output).await?;
            if let Some(told) = own.transaction.as_mut().and_then(|transaction| transaction.note(expected, frame)) {
                self.output.reply(told.bytes());
            }
        }
        let Some(command) = ends else { return Ok(()) };
        let frame = own.reply(&self.output).await?;
        if command.0.len() > 1 {
            // Too many arguments: the transaction goes on.
            self.output.reply(frame.bytes());
            return Ok(());
        }
        own.is_watching = false;
        if own.is_pinned {
            frame.parts().iter().flatten().for_each(|part| own.note_subscriptions(part.decode()));
        }
        let transaction = own.transaction.take();
        let told = match transaction {
            Some(transaction) if command.is_word(0, "EXEC") => {
                self.thread.engine.executed(transaction, frame, self.protocol).await
            }
            Some(_) | None => Ok(frame),
        };
        match told {
            Ok(frame) => self.output.reply(frame.bytes()),
            Err(error) => self.output.reply(&failure(&error)),
        }
        self.release();
        Ok(())
    }

    /// A command that the engine must see, on a connection that stays with its client: in an EXEC of its own.
    async fn alone(&mut self, command: Command) -> Go {
        let mut transaction = self.thread.engine.begin_transaction();
        let mut bytes = BytesMut::new();
        encode::command(&mut bytes, &Command::new(["MULTI"]));
        let expected = self.thread.engine.queue(&transaction, self.thread.policy, command, &mut bytes);
        encode::command(&mut bytes, &Command::new(["EXEC"]));
        let output = std::sync::Arc::clone(&self.output);
        let Some(own) = self.own.as_mut() else { return Go::On };
        let asked = async {
            own.write(&bytes).await?;
            own.reply(&output).await?;
            let mut told = None;
            for expected in expected {
                let frame = own.reply(&output).await?;
                told = transaction.note(expected, frame).or(told);
            }
            Ok::<_, RedisError>((told, own.reply(&output).await?))
        };
        match asked.await {
            Err(error) => return self.lost(&error),
            // What refused to be queued is the answer.
            Ok((Some(told), frame)) if frame.is_error() => self.output.reply(told.bytes()),
            Ok((_, frame)) => match self.thread.engine.executed(transaction, frame, self.protocol).await {
                Ok(frame) => match frame.parts().and_then(|mut parts| parts.pop()) {
                    Some(part) => self.output.reply(part.bytes()),
                    None => self.output.reply(frame.bytes()),
                },
                Err(error) => self.output.reply(&failure(&error)),
            },
        }
        Go::On
    }

    /// A command whose replies cannot be counted: a question behind it tells where they end.
    pub(super) async fn synchronised(&mut self, command: &Command) -> Go {
        if let Route::Refuse(reason) = self.route(command) {
            self.output.reply(&failure(&reason));
            return Go::On;
        }
        let output = std::sync::Arc::clone(&self.output);
        let mark = format!("parallax:{:016x}", rand::random::<u64>());
        let mut bytes = BytesMut::new();
        encode::command(&mut bytes, command);
        encode::command(&mut bytes, &Command::new(["PING", mark.as_str()].map(str::to_owned)));
        let plain = format!("${}\r\n{mark}\r\n", mark.len());
        let subscribed = format!("*2\r\n$4\r\npong\r\n{plain}");
        let asked = async {
            let own = self.own().await?;
            own.write(&bytes).await?;
            loop {
                let frame = own.wire.frame().await?;
                if frame.bytes() == plain.as_bytes() || frame.bytes() == subscribed.as_bytes() {
                    return Ok::<_, RedisError>(());
                }
                own.push(&frame, &output);
                output.flush();
            }
        };
        match asked.await {
            Ok(()) => {
                self.release();
                Go::On
            }
            Err(error) => self.lost(&error),
        }
    }

    /// A command in another database, where nothing is mirrored.
    async fn elsewhere(&mut self, command: &Command) -> Go {
        if let Route::Refuse(reason) = self.route(command)
            && !command.is_word(0, "FLUSHDB")
            && self.thread.engine.acts_on_all(command)
        {
            self.output.reply(&failure(&reason));
            return Go::On;
        }
        let output = std::sync::Arc::clone(&self.output);
        let database = self.thread.engine.database();
        let Some(own) = self.own.as_mut() else { return Go::On };
        let comes_back = comes_into(command, database) || (own.is_queueing && command.is_word(0, "SELECT"));
        // No command has this name, so Redis discards a transaction that holds it, as for any other error.
        let refused = Command::new(["parallax.refused"]);
        if comes_back && !own.is_queueing {
            self.output.reply(&failure(&COMES_BACK));
            return Go::On;
        }
        match own.ask(if comes_back { &refused } else { command }, &output).await {
            Ok(_) if comes_back => {
                self.output.reply(&failure(&COMES_BACK));
                Go::On
            }
            Ok(frame) => {
                let is_ok = frame.bytes() == &b"+OK\r\n"[..];
                if command.is_word(0, "SELECT") && is_ok {
                    own.is_elsewhere = command.integer(1) != Some(database);
                }
                let ends = command.0.len() == 1 && (command.is_word(0, "EXEC") || command.is_word(0, "DISCARD"));
                own.is_pinned |= own.is_queueing && (is_subscription(&command.name()) || command.is_word(0, "CLIENT"));
                own.is_queueing = (own.is_queueing && !ends) || (command.is_word(0, "MULTI") && is_ok);
                self.output.reply(frame.bytes());
                self.release();
                Go::On
            }
            Err(error) => self.lost(&error),
        }
    }

    /// SELECT: the configured database is where every client is already.
    pub(super) async fn select(&mut self, command: &Command) -> Go {
        if command.0.len() == 2 && command.integer(1) == Some(self.thread.engine.database()) {
            self.answer(b"+OK\r\n").await;
            return Go::On;
        }
        match self.own().await {
            Ok(own) => own.is_elsewhere = true,
            Err(error) => return self.lost(&error),
        }
        let output = std::sync::Arc::clone(&self.output);
        let Some(own) = self.own.as_mut() else { return Go::On };
        match own.ask(command, &output).await {
            Ok(frame) => {
                own.is_elsewhere = !frame.is_error();
                self.output.reply(frame.bytes());
                self.release();
                Go::On
            }
            Err(error) => self.lost(&error),
        }
    }

    /// A command about the connection itself: the client keeps the one that it asked about.
    pub(super) async fn pin(&mut self, command: &Command) -> Go {
        match self.own().await {
            Ok(own) => own.is_pinned = true,
            Err(error) => return self.lost(&error),
        }
        self.pass(command).await
    }

    /// From here on bytes go both ways as they are, until one side ends (MONITOR, replication).
    pub(super) async fn pipe(&mut self, command: &Command) -> Go {
        let mut bytes = BytesMut::new();
        encode::command(&mut bytes, command);
        let output = std::sync::Arc::clone(&self.output);
        let own = match self.own().await {
            Ok(own) => own,
            Err(error) => return self.lost(&error),
        };
        if let Err(error) = own.write(&bytes).await {
            return self.lost(&error);
        }
        output.push(&std::mem::take(&mut own.wire.buffer));
        let mut coming = BytesMut::with_capacity(PIPE_BYTES);
        loop {
            // What it sends meanwhile is read for its end alone: after RESET it is a client as any other.
            match self.piped(&mut bytes).await {
                Ok(None) => {}
                Ok(Some(go)) => return go,
                Err(error) => return self.lost(&error),
            }
            output.written(0).await;
            let Some(own) = self.own.as_mut().filter(|_| !output.is_broken()) else { return Go::Ends };
            coming.reserve(PIPE_BYTES);
            let is_readable = tokio::select! {
                read = own.wire.stream.read_buf(&mut coming) => match read {
                    Ok(read) if read > 0 => false,
                    Ok(_) | Err(_) => return Go::Ends,
                },
                ready = output.socket.readable() => {
                    if ready.is_err() {
                        return Go::Ends;
                    }
                    true
                }
            };
            output.push(&coming.split());
            if is_readable && self.read().is_none() {
                return Go::Ends;
            }
        }
    }

    /// Passes on the commands that have come. Answers how it goes on when they end what is passed on blindly.
    async fn piped(&mut self, bytes: &mut BytesMut) -> Result<Option<Go>, RedisError> {
        bytes.clear();
        loop {
            match self.parser.next(&self.input, self.trust) {
                Ok(Found::Incomplete) => break,
                Ok(Found::Empty(length)) => self.input.advance(length),
                Ok(found @ (Found::Array(_) | Found::Line(_))) => {
                    let command = self.take(found);
                    if command.is_word(0, "RESET") && command.0.len() == 1 {
                        self.reset().await;
                        return Ok(Some(Go::On));
                    }
                    encode::command(bytes, &command);
                }
                Err(_) => return Ok(Some(Go::Ends)),
            }
        }
        if let Some(own) = self.own.as_mut().filter(|_| !bytes.is_empty()) {
            own.write(bytes).await?;
        }
        Ok(None)
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

/// Whether a command in another database writes into this one.
fn comes_into(command: &Command, database: i64) -> bool {
    let names_it = |at: usize| command.is_word(at, "DB") && command.integer(at + 1) == Some(database);
    command.is_word(0, "COPY") && (3..command.0.len()).any(names_it)
}

/// Whether Redis has closed a connection that nobody used.
pub(super) fn is_closed(wire: &mut Wire) -> bool {
    // Nothing may come on it: whatever does, it is of no use.
    wire.frame().now_or_never().is_some()
}

/// Commands whose replies come as messages.
pub(super) fn is_subscription(name: &str) -> bool {
    matches!(name, "SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE" | "UNSUBSCRIBE" | "PUNSUBSCRIBE" | "SUNSUBSCRIBE")
}

/// Whether a CLIENT command asks for or changes something of the very connection it comes over.
pub(super) fn is_about_itself(command: &Command) -> bool {
    const ABOUT_ITSELF: [&str; 8] =
        ["ID", "INFO", "TRACKING", "TRACKINGINFO", "CACHING", "GETREDIR", "NO-EVICT", "NO-TOUCH"];
    ABOUT_ITSELF.iter().any(|word| command.is_word(1, word))
}
