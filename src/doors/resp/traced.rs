//! Spans of the Redis door: one for each run of commands, from when it is sent to its last reply. Nothing happens here while
//! traces are off.

use std::collections::VecDeque;

use crate::doors::resp::client::Client;
use crate::doors::resp::parse::{Found, Parser, Trust};
use crate::dual::{Answer, EngineError};
use crate::model::command::Command;
use crate::model::frame::Frame;
use crate::telemetry::traces::active::{ActiveSpan, Fault};

impl Client {
    /// The span of a command that has a connection of its own, from when it is sent to its last reply.
    pub(super) fn span_of(&self, command: &Command) -> ActiveSpan {
        self.thread.engine.client_span(command.arg(0).map(AsRef::as_ref).into_iter())
    }

    /// The span of `count` commands that stand in `bytes`; none while traces are off.
    pub(super) fn span_of_run(&self, bytes: &[u8], count: usize) -> Option<ActiveSpan> {
        let engine = &self.thread.engine;
        if !engine.traces().is_on() {
            return None;
        }
        let (mut parser, mut names, mut rest) = (Parser::default(), Vec::with_capacity(count), bytes);
        while let Ok(Found::Array(length)) = parser.next(rest, Trust::Known) {
            let word = parser.ranges.first().and_then(|(from, to)| rest.get(*from..*to)).unwrap_or_default();
            names.push(word);
            rest = rest.get(length..).unwrap_or_default();
        }
        Some(engine.client_span(names.into_iter()))
    }
}

/// Ends the span of a command with the reply to it.
pub(super) fn replied(span: &mut ActiveSpan, frame: &Frame) {
    match frame.error() {
        Some(error) => span.answered_with(&error),
        None => span.end(),
    }
}

/// The first piece of the reply has come: an error fails the span, anything else leaves it to its end.
pub(super) fn seen(span: &mut ActiveSpan, piece: &[u8]) {
    if let [b'-', error @ ..] = piece {
        span.answered_with(&String::from_utf8_lossy(error));
    }
}

/// Ends the span of commands that the engine ran.
pub(super) fn end(mut span: ActiveSpan, answers: &[Result<Answer, EngineError>]) {
    if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
        return span.fail(error.class());
    }
    // Of several commands each has its own reply, and none is that of the run.
    match answers {
        [Ok(Answer { result: Err(_), .. })] => span.fail("refused"),
        [Ok(Answer { result: Ok(frame), .. })] => replied(&mut span, frame),
        _ => span.end(),
    }
}

/// The spans of commands that were handed on as bytes and wait for their replies. As many as runs are in flight.
#[derive(Default)]
pub(super) struct Followed(VecDeque<Run>);

struct Run {
    /// Replies that have not come.
    left: usize,
    is_one: bool,
    span: ActiveSpan,
}

impl Followed {
    pub(super) fn begin(&mut self, count: usize, span: ActiveSpan) {
        self.0.push_back(Run { left: count, is_one: count == 1, span });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The run that began last was not sent.
    pub(super) fn take_back(&mut self, class: &'static str) {
        if let Some(mut run) = self.0.pop_back() {
            run.span.fail(class);
        }
    }

    /// The first piece of a reply has come.
    pub(super) fn seen(&mut self, piece: &[u8]) {
        if let Some(run) = self.0.front_mut().filter(|run| run.is_one) {
            seen(&mut run.span, piece);
        }
    }

    /// `count` replies have come whole.
    pub(super) fn ended(&mut self, mut count: usize) {
        while let Some(run) = self.0.front_mut().filter(|_| count > 0) {
            let taken = count.min(run.left);
            (run.left, count) = (run.left - taken, count - taken);
            if run.left == 0
                && let Some(mut run) = self.0.pop_front()
            {
                run.span.end();
            }
        }
    }

    /// The next `owed` replies do not come; they are counted as ended afterwards.
    pub(super) fn failed(&mut self, class: &'static str, owed: usize) {
        for run in self.0.iter_mut().take(owed) {
            run.span.fail(class);
        }
    }
}
