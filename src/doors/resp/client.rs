//! One client: its commands are found, sent where they belong, and answered in their order.
//!
//! What follows one another and needs nothing from us is forwarded as one piece of bytes. From the first command that the
//! engine must see, all that has come is one run of the engine, so that a pipeline shares one EXEC.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::sync::watch;

use crate::doors::resp::Thread;
use crate::doors::resp::output::{Output, WAITING_BYTES, failure};
use crate::doors::resp::own::Own;
use crate::doors::resp::parse::{Found, Parser, Trust};
use crate::doors::resp::traced;
use crate::dual::Answer;
use crate::dual::route::Route;
use crate::dual::view::View;
use crate::model::command::{Command, Words};
use crate::model::frame::{Protocol, encode};
use crate::telemetry::traces::active::{ActiveSpan, Fault};

/// Bytes that one read takes at least.
const READ_BYTES: usize = 16 * 1024;
/// Bytes that are asked for at once of an argument that is still coming.
const READ_BYTES_MAX: usize = 1024 * 1024;
/// Reads that are made of what a client has sent until the door closes.
const DRAIN_READS_MAX: usize = 4;
/// How long a client that was sent away may take to see it.
const PARTING_MAX: Duration = Duration::from_secs(5);
/// Commands that one run of the engine takes.
const RUN_COMMANDS_MAX: usize = 1024;

/// How the process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Running {
    /// Serving.
    Serving,
    /// What was received is answered, and no more is taken.
    Draining,
}

/// Whether a client stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Go {
    /// It stays.
    On,
    /// It is told what it is owed, and the connection closes.
    Ends,
}

/// One client.
pub(super) struct Client {
    pub(super) thread: Arc<Thread>,
    pub(super) output: Arc<Output>,
    pub(super) input: BytesMut,
    pub(super) parser: Parser,
    pub(super) trust: Trust,
    pub(super) protocol: Protocol,
    pub(super) name: Option<bytes::Bytes>,
    pub(super) own: Option<Box<Own>>,
    pub(super) running: watch::Receiver<Running>,
}

/// Commands that are forwarded as one piece: from where to where they stand in the input, and how many they are.
#[derive(Clone, Copy, Default)]
struct Run {
    from: usize,
    to: usize,
    count: usize,
}

impl Client {
    pub(super) fn new(thread: Arc<Thread>, output: Output, running: watch::Receiver<Running>) -> Self {
        Self {
            trust: thread.first_trust(),
            thread,
            output: Arc::new(output),
            input: BytesMut::new(),
            parser: Parser::default(),
            protocol: Protocol::Resp2,
            name: None,
            own: None,
            running,
        }
    }

    /// Serves until the client goes, is sent away, or the door closes.
    pub(super) async fn run(mut self) {
        loop {
            if Box::pin(self.serve()).await == Go::Ends || !self.wait().await {
                break;
            }
            if *self.running.borrow() == Running::Draining {
                // What has come until now was received, and is answered. A client that goes on sending is not followed.
                for _ in 0..DRAIN_READS_MAX {
                    if self.read() != Some(true) {
                        break;
                    }
                }
                Box::pin(self.serve()).await;
                break;
            }
            if self.read().is_none() {
                break;
            }
        }
        self.output.answered().await;
        self.output.written(0).await;
        self.part().await;
    }

    /// Waits, a little, until the client has seen the end. A socket that is closed while something unread lies in it takes back
    /// what the client has not read yet: answers to commands that were done.
    async fn part(&mut self) {
        let ends = async {
            self.output.socket.end_sending()?;
            loop {
                self.output.socket.readable().await?;
                self.input.clear();
                match self.output.socket.try_read(&mut self.input) {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        };
        // Whether it goes by itself makes no difference to anybody.
        drop(tokio::time::timeout(PARTING_MAX, ends).await);
    }

    /// Waits for more of the client. False when it is gone.
    async fn wait(&mut self) -> bool {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        loop {
            self.output.flush();
            if self.output.is_broken() {
                return false;
            }
            let has_more = self.output.waiting_bytes() > 0;
            tokio::select! {
                biased;
                changed = self.running.changed() => return changed.is_ok(),
                ready = self.output.socket.readable() => return ready.is_ok(),
                ready = self.output.socket.writable(), if has_more => {
                    if ready.is_err() {
                        return false;
                    }
                }
                is_there = Own::unasked(&mut self.own, &self.output), if self.own.is_some() => {
                    if !is_there {
                        return false;
                    }
                }
                () = self.output.woken() => {}
            }
        }
    }

    /// Reads what is there: whether there was anything, or `None` at the end.
    pub(super) fn read(&mut self) -> Option<bool> {
        self.read_up_to(self.parser.wants(self.input.len()).clamp(READ_BYTES, READ_BYTES_MAX))
    }

    /// As [`Self::read`], with room for so many bytes at least.
    pub(super) fn read_up_to(&mut self, bytes: usize) -> Option<bool> {
        self.input.reserve(bytes);
        match self.output.socket.try_read(&mut self.input) {
            Ok(0) => None,
            Ok(_) => Some(true),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Some(false),
            Err(_) => None,
        }
    }

    /// Serves the commands that have come whole.
    async fn serve(&mut self) -> Go {
        let mut run = Run::default();
        let mut view = self.thread.engine.view();
        loop {
            let rest = self.input.get(run.to..).unwrap_or_default();
            let found = match self.parser.next(rest, self.trust) {
                Ok(found) => found,
                Err(error) => {
                    self.forward(&mut run, &view).await;
                    self.output.answered().await;
                    self.output.reply(&[b"-ERR ", error.as_slice(), b"\r\n"].concat());
                    return Go::Ends;
                }
            };
            if let Found::Array(length) = found
                && self.own.is_none()
                && self.trust == Trust::Known
            {
                let bytes = rest.get(..length).unwrap_or_default();
                let words = Words { bytes, ranges: &self.parser.ranges };
                if self.thread.engine.route(&view, self.thread.policy, words) == Route::Forward {
                    run.to += length;
                    run.count += 1;
                    // Half of what may be in flight, so that the next piece leaves while this one is answered.
                    if run.count >= self.output.window().div_ceil(2) {
                        self.forward(&mut run, &view).await;
                        view = self.thread.engine.view();
                    }
                    continue;
                }
            }
            self.forward(&mut run, &view).await;
            match found {
                Found::Incomplete if !self.may_flow() => return Go::On,
                Found::Incomplete => match Box::pin(self.flow()).await {
                    Some(Go::On) => view = self.thread.engine.view(),
                    Some(Go::Ends) => return Go::Ends,
                    None => return Go::On,
                },
                Found::Empty(length) => self.input.advance(length),
                Found::Array(_) | Found::Line(_) => {
                    let command = self.take(found);
                    if self.command(command).await == Go::Ends {
                        return Go::Ends;
                    }
                    if self.output.waiting_bytes() > WAITING_BYTES {
                        self.output.written(WAITING_BYTES).await;
                    }
                    view = self.thread.engine.view();
                }
            }
        }
    }

    /// Takes the command that was found off the input.
    pub(super) fn take(&mut self, found: Found) -> Command {
        match found {
            Found::Array(length) => {
                let bytes = self.input.split_to(length).freeze();
                Command(self.parser.ranges.iter().map(|(from, to)| bytes.slice(*from..*to)).collect())
            }
            Found::Line(length) => {
                self.input.advance(length);
                Command::new(std::mem::take(&mut self.parser.words))
            }
            Found::Empty(_) | Found::Incomplete => Command(Vec::new()),
        }
    }

    /// Forwards a run as it stands in the input.
    async fn forward(&mut self, run: &mut Run, view: &Arc<View>) {
        let Run { from, to, count } = std::mem::take(run);
        if count > 0 {
            let bytes = self.input.get(from..to).unwrap_or_default();
            let span = self.span_of_run(bytes, count);
            send(&self.thread, &self.output, self.protocol, Piece { bytes, count, span }, view).await;
        }
        self.input.advance(to);
        if self.output.waiting_bytes() > WAITING_BYTES {
            self.output.written(WAITING_BYTES).await;
        }
    }

    /// Forwards one command that was taken off the input.
    pub(super) async fn forward_one(&mut self, command: &Command) {
        let mut bytes = BytesMut::new();
        encode::command(&mut bytes, command);
        let view = self.thread.engine.view();
        let span = self.span_of_run(&bytes, 1);
        send(&self.thread, &self.output, self.protocol, Piece { bytes: &bytes, count: 1, span }, &view).await;
    }

    /// Serves one command.
    async fn command(&mut self, command: Command) -> Go {
        if self.trust == Trust::Unknown && !self.may_come_first(&command) {
            self.answer(b"-NOAUTH Authentication required.\r\n").await;
            return Go::On;
        }
        if self.own.as_ref().is_some_and(|own| own.takes_all()) {
            return Box::pin(self.own_command(command)).await;
        }
        match self.route(&command) {
            Route::Forward => self.forward_one(&command).await,
            Route::Engine => Box::pin(self.engine_run(command)).await,
            Route::Connection => return Box::pin(self.connection_command(command)).await,
            Route::Blocking => return Box::pin(self.blocking(&command)).await,
            Route::Refuse(reason) => self.answer(&failure(&reason)).await,
        }
        Go::On
    }

    pub(super) fn route(&self, command: &Command) -> Route {
        let mut bytes = Vec::new();
        encode::command(&mut bytes, command);
        let mut parser = Parser::default();
        let found = parser.next(&bytes, Trust::Known);
        debug_assert!(matches!(found, Ok(Found::Array(_))), "what we wrote is a command");
        let words = Words { bytes: &bytes, ranges: &parser.ranges };
        self.thread.engine.route(&self.thread.engine.view(), self.thread.policy, words)
    }

    /// Answers with a reply of our own, in its place.
    pub(super) async fn answer(&self, frame: &[u8]) {
        self.output.answered().await;
        self.output.reply(frame);
    }

    /// Runs a command through the engine, together with what has come behind it.
    async fn engine_run(&mut self, first: Command) {
        let mut commands = vec![first];
        while commands.len() < RUN_COMMANDS_MAX.min(self.output.window()) {
            let Ok(found @ Found::Array(length)) = self.parser.next(&self.input, self.trust) else { break };
            let bytes = self.input.get(..length).unwrap_or_default();
            let words = Words { bytes, ranges: &self.parser.ranges };
            let view = self.thread.engine.view();
            match self.thread.engine.route(&view, self.thread.policy, words) {
                Route::Forward | Route::Engine => commands.push(self.take(found)),
                Route::Connection | Route::Blocking | Route::Refuse(_) => {
                    // Looked at once more when its turn comes.
                    break;
                }
            }
        }
        if self.output.is_moved() {
            self.output.answered().await;
        }
        let path = self.thread.path(self.protocol);
        let names = commands.iter().map(|command| command.arg(0).map(AsRef::as_ref).unwrap_or_default());
        let span = self.thread.engine.client_span(names);
        // It goes over the lane on which the commands before it went, so their replies come first.
        let answers = span.within(self.thread.engine.execute_over(path, commands)).await;
        traced::end(span, &answers);
        self.output.answered().await;
        for answer in &answers {
            match answer {
                Ok(answer) => self.give(answer),
                Err(error) => self.output.failed(error),
            }
        }
    }

    fn give(&self, answer: &Answer) {
        match &answer.result {
            Ok(frame) => self.output.reply(frame.bytes()),
            Err(refusal) => self.output.reply(&failure(&refusal.message)),
        }
    }
}

/// Commands that are handed on as they came.
struct Piece<'a> {
    bytes: &'a [u8],
    count: usize,
    /// None while traces are off.
    span: Option<ActiveSpan>,
}

/// Forwards bytes; where nothing can be sent, each command is answered with the reason.
async fn send(thread: &Thread, output: &Arc<Output>, protocol: Protocol, piece: Piece<'_>, view: &Arc<View>) {
    let Piece { bytes, count, span } = piece;
    while !output.begin(count, view) {
        output.answered().await;
    }
    let is_traced = span.is_some();
    if let Some(span) = span {
        output.follow(count, span);
    }
    let sink = Arc::clone(output);
    if let Err(error) = thread.path(protocol).forward(bytes, count, sink) {
        if is_traced {
            output.unfollow(error.class());
        }
        output.take_back(count);
        output.answered().await;
        (0..count).for_each(|_| output.failed(&error));
    }
}
