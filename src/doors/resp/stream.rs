//! What is large and needs nothing from us flows: a command to Redis while it comes, a reply to its client while it is read.
//!
//! Such a command has a connection of its own meanwhile, so that a slow client holds up nobody, and Redis sees the end of it
//! last: a client that goes before has changed nothing. Where it goes is decided when it begins, and once more before its
//! last bytes leave, so that a slow client holds up no change of flags either (S2).

use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::io::AsyncWriteExt;

use crate::doors::resp::client::{Client, Go, Running};
use crate::doors::resp::output::{Output, WAITING_BYTES, failure};
use crate::doors::resp::parse::{Rest, Trust};
use crate::doors::resp::traced;
use crate::dual::route::{RedisError, Route, Sink, Wire};
use crate::dual::view::View;
use crate::model::command::Words;
use crate::model::frame::scan::{Progress, Scanner};
use crate::telemetry::traces::active::{ActiveSpan, Fault};

/// Bytes beyond which a command that is forwarded is not gathered before.
const LARGE_COMMAND_BYTES: usize = 256 * 1024;
/// Bytes of it that are held at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Why a command that flowed was not done after all.
const CHANGED: &str =
    "the flags of this key have changed while its value was on the way, and nothing was written: send it again";

/// What of a command came before it began to flow: enough to know where it goes.
struct Head {
    bytes: Bytes,
    ranges: Vec<(usize, usize)>,
    /// How many arguments there will be.
    count: usize,
}

impl Client {
    /// Whether a large command has begun to come.
    pub(super) fn may_flow(&self) -> bool {
        self.parser.announced() > LARGE_COMMAND_BYTES && self.own.is_none() && self.trust == Trust::Known
    }

    /// Hands it on. `None` when it must be gathered: it is ours to look at, or its keys have not come yet.
    pub(super) async fn flow(&mut self) -> Option<Go> {
        let count = self.parser.count();
        let words = Words { bytes: &self.input, ranges: &self.parser.ranges };
        if self.thread.engine.route_begun(&self.thread.engine.view(), words, count) != Some(Route::Forward) {
            return None;
        }
        let end = self.parser.ranges.last().map_or(0, |(_, to)| *to);
        let bytes = Bytes::copy_from_slice(self.input.get(..end).unwrap_or_default());
        let head = Head { bytes, ranges: std::mem::take(&mut self.parser.ranges), count };
        let rest = self.parser.hand_on();
        self.output.answered().await;
        let words = Words { bytes: &head.bytes, ranges: &head.ranges };
        let span = self.thread.engine.client_span([words.name()].into_iter());
        Some(self.flow_on(&head, rest, span).await)
    }

    async fn flow_on(&mut self, head: &Head, mut rest: Rest, mut span: ActiveSpan) -> Go {
        // Without a connection it is taken all the same, so that the client can be told in its turn.
        let mut wire = self.thread.wire(self.protocol).await;
        let words = Words { bytes: &head.bytes, ranges: &head.ranges };
        if let Ok(open) = &mut wire {
            let word = |index| words.arg(index).unwrap_or_default();
            open.tally.send_begun(words.name(), word(1), word(2));
        }
        loop {
            let (used, ends) = match rest.advance(&self.input) {
                Ok(found) => found,
                Err(error) => {
                    span.fail("refused");
                    self.output.reply(&[b"-ERR ", error.as_slice(), b"\r\n"].concat());
                    return Go::Ends;
                }
            };
            let piece = self.input.split_to(used);
            let view = ends.then(|| self.thread.engine.view());
            let words = Words { bytes: &head.bytes, ranges: &head.ranges };
            if let Some(view) = &view
                && self.thread.engine.route_begun(view, words, head.count) != Some(Route::Forward)
            {
                self.output.reply(&failure(&CHANGED));
                span.fail("refused");
                return Go::On;
            }
            if let Ok(open) = &mut wire
                && let Err(error) = open.stream.write_all(&piece).await
            {
                wire = Err(RedisError::Unreachable(error.to_string()));
            }
            drop(piece);
            if let Some(view) = view {
                self.flown(wire, view, span).await;
                return Go::On;
            }
            if !self.more(&mut wire).await {
                // It was not done: who sent it left, or was refused before its end.
                span.end();
                return Go::Ends;
            }
        }
    }

    /// Waits for more of the command. False when nothing more comes, or is waited for.
    async fn more(&mut self, wire: &mut Result<Wire, RedisError>) -> bool {
        self.output.flush();
        let mut running = self.running.clone();
        loop {
            let early = async {
                match wire {
                    Ok(wire) => wire.frame().await,
                    Err(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                ready = self.output.socket.readable() => {
                    if ready.is_err() {
                        return false;
                    }
                }
                // Redis refuses what has not come whole, and hangs up.
                frame = early => {
                    match frame {
                        Ok(frame) => self.output.reply(frame.bytes()),
                        Err(error) => self.output.failed(&error),
                    }
                    return false;
                }
                // It was not received, so it is not answered.
                _ = running.wait_for(|running| *running == Running::Draining) => return false,
            }
            match self.read_up_to(PIECE_BYTES) {
                Some(true) => return true,
                Some(false) => {}
                None => return false,
            }
        }
    }

    /// All of it has left: the reply is handed on, and the connection kept for the next one. The view is held until the reply
    /// begins (S2).
    async fn flown(&mut self, wire: Result<Wire, RedisError>, view: Arc<View>, mut span: ActiveSpan) {
        let carried = async {
            let mut wire = wire?;
            wire.stream.flush().await.map_err(|error| RedisError::Unknown(error.to_string()))?;
            wire.fill().await?;
            drop(view);
            carry(&mut wire, &self.output, &mut span).await?;
            wire.tally.answer();
            Ok::<_, RedisError>(wire)
        };
        match carried.await {
            Ok(wire) => {
                span.end();
                self.thread.keep(wire, self.protocol);
            }
            Err(error) => {
                span.fail(error.class());
                self.output.fail(&error, 1);
            }
        }
    }
}

/// Hands on the next reply of a connection while it is read, and no faster than its client takes it. An error fails `span`.
///
/// # Errors
/// When the connection breaks. A client that has had a part of the reply is cut off by [`Sink::fail`].
pub(super) async fn carry(wire: &mut Wire, output: &Output, span: &mut ActiveSpan) -> Result<(), RedisError> {
    let mut scanner = Scanner::default();
    let mut is_begun = false;
    loop {
        let progress = scanner.advance(&wire.buffer).map_err(|error| RedisError::Unknown(error.to_string()))?;
        let (length, ends) = match progress {
            Progress::Whole(length) => (length, true),
            Progress::Partial(length) => (length, false),
        };
        if length > 0 {
            if !std::mem::replace(&mut is_begun, true) {
                traced::seen(span, wire.buffer.get(..length).unwrap_or_default());
            }
            output.take(wire.buffer.get(..length).unwrap_or_default(), ends);
            wire.buffer.advance(length);
            output.turned();
        }
        if ends {
            return Ok(());
        }
        output.written(WAITING_BYTES).await;
        wire.read().await?;
    }
}
