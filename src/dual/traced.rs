//! The engine's own ways to show what it does as spans, so that the code that does it has one line more, and does nothing
//! more while traces are off.

use crate::dual::batch::{Batcher, Done};
use crate::dual::drain::DrainError;
use crate::dual::flags::ChangeError;
use crate::dual::plan::Step;
use crate::dual::task::TaskError;
use crate::dual::view::DEFAULT;
use crate::dual::{Engine, EngineError};
use crate::model::frame::Frame;
use crate::stores::redis::connection::RedisError;
use crate::telemetry::traces::active::{ActiveSpan, Fault};
use crate::telemetry::traces::spans::{FlagWork, Sent};

impl Engine {
    /// Hands steps to the batcher, as a span of the request.
    ///
    /// # Errors
    /// The batcher's.
    pub(super) async fn submit(&self, batcher: &Batcher, steps: Vec<Step>) -> Result<Vec<Frame>, RedisError> {
        if !self.traces.is_on() {
            return batcher.submit(steps).await;
        }
        let is_marked = steps.iter().any(|step| !step.touches.is_empty());
        let mut span = self.span_of(&steps, if is_marked { Sent::Exec } else { Sent::Plain });
        let answered = span.within(batcher.submit(steps)).await;
        match &answered {
            // Of several commands each has its own reply, and none is that of the batch.
            Ok(frames) => end(&mut span, if let [only] = frames.as_slice() { Some(only) } else { None }),
            Err(error) => span.fail(error.class()),
        }
        answered
    }

    /// Hands a transaction of the caller's to the batcher, as a span of the request.
    ///
    /// # Errors
    /// The batcher's.
    pub(super) async fn transact(&self, batcher: &Batcher, steps: Vec<Step>) -> Result<Done, RedisError> {
        if !self.traces.is_on() {
            return batcher.transact(steps).await;
        }
        let mut span = self.span_of(&steps, Sent::Exec);
        let answered = span.within(batcher.transact(steps)).await;
        match &answered {
            Ok(Done::Ran(_)) => span.end(),
            Ok(Done::Aborted(error)) => end(&mut span, Some(error)),
            Err(error) => span.fail(error.class()),
        }
        answered
    }

    fn span_of(&self, steps: &[Step], sent: Sent) -> ActiveSpan {
        let names: Vec<String> = steps.iter().map(|step| self.shown_name(&step.command.name()).to_owned()).collect();
        let mut kinds = steps.iter().flat_map(|step| &step.touches).map(|touch| &touch.kind);
        let first = kinds.next();
        let kind = first.filter(|first| kinds.all(|kind| kind.index == first.index));
        self.traces.redis(sent, &names, kind.map(|kind| kind.name.as_str()))
    }

    /// The span of commands of a client at the Redis door, by their names as they came.
    pub fn client_span<'a>(&self, names: impl Iterator<Item = &'a [u8]>) -> ActiveSpan {
        if !self.traces.is_on() {
            return ActiveSpan::default();
        }
        let names: Vec<String> = names.map(|name| String::from_utf8_lossy(name).to_ascii_uppercase()).collect();
        let names: Vec<&str> = names.iter().map(|name| self.shown_name(name)).collect();
        self.traces.commands(&names)
    }

    /// A name that the server does not know could be any text.
    fn shown_name<'a>(&self, name: &'a str) -> &'a str {
        if self.commands.table().get(name.as_bytes()).is_some() { name } else { "_OTHER" }
    }

    /// Changes flags, as a span of the request.
    ///
    /// # Errors
    /// Those of the change.
    pub(super) async fn traced_change<T>(
        &self,
        work: FlagWork,
        scope: &str,
        change: impl Future<Output = Result<T, ChangeError>>,
        version: fn(&T) -> u64,
    ) -> Result<T, ChangeError> {
        // What the caller named is shown only if it is a kind of the catalog, or all.
        let is_known = scope == DEFAULT || self.catalog.by_name(scope).is_some();
        let mut span = self.traces.flags(work, if is_known { scope } else { "unknown" });
        let changed = span.within(change).await;
        match &changed {
            Ok(report) => {
                span.flags_version(version(report));
                span.end();
            }
            Err(error) => span.fail(error.class()),
        }
        changed
    }
}

fn end(span: &mut ActiveSpan, answer: Option<&Frame>) {
    match answer.and_then(Frame::error) {
        Some(error) => span.answered_with(&error),
        None => span.end(),
    }
}

impl Fault for EngineError {
    fn class(&self) -> &'static str {
        match self {
            Self::RedisUnreachable(_) => "unreachable",
            Self::UnknownOutcome(_) => "unknown_outcome",
            Self::Overloaded => "overloaded",
            Self::Timeout => "deadline",
            Self::PostgresUnavailable(_) => "postgres_unavailable",
        }
    }
}

impl Fault for DrainError {
    fn class(&self) -> &'static str {
        match self {
            Self::Redis(error) => error.class(),
            Self::Postgres(error) => error.class(),
        }
    }
}

impl Fault for ChangeError {
    fn class(&self) -> &'static str {
        match self {
            Self::UnknownKind => "unknown_kind",
            Self::Stale { .. } => "stale",
            Self::Field(_) => "wrong_field",
            Self::Refused { .. } => "refused",
            Self::Barrier { .. } => "barrier",
            Self::Store(_) => "store",
        }
    }
}

impl Fault for TaskError {
    fn class(&self) -> &'static str {
        match self {
            Self::Change(error) => error.class(),
            Self::Unmet(_) => "unmet",
            Self::Store(_) => "store",
            Self::NoAnchor => "no_anchor",
            Self::Unmarked => "unmarked",
            Self::Overtaken => "overtaken",
        }
    }
}
