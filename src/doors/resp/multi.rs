//! A client's own transactions: WATCH, MULTI, what is queued, and EXEC. Redis itself queues and refuses, so that its texts and
//! its EXECABORT are its own; our marks stand between the client's commands in the same EXEC (W1).

use bytes::BytesMut;

use crate::doors::resp::client::{Client, Go};
use crate::doors::resp::output::failure;
use crate::doors::resp::parse::Found;
use crate::doors::resp::subscribed::is_subscription;
use crate::doors::resp::traced;
use crate::dual::EngineError;
use crate::dual::route::{RedisError, Route};
use crate::dual::transaction::Expected;
use crate::model::command::Command;
use crate::model::frame::{Frame, encode};
use crate::telemetry::traces::active::{ActiveSpan, Fault};

/// Commands of a client's transaction that are queued at once.
const QUEUED_AT_ONCE_MAX: usize = 1024;

impl Client {
    /// WATCH holds the connection until EXEC, DISCARD or UNWATCH.
    pub(super) async fn watch(&mut self, command: &Command) -> Go {
        if let Route::Refuse(reason) = self.keys_refused(command) {
            self.answer(&failure(&reason)).await;
            return Go::On;
        }
        let is_watch = command.is_word(0, "WATCH");
        self.ask_own(command, |own| own.is_watching = is_watch).await
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
        let transaction = self.thread.engine.begin_transaction();
        self.ask_own(command, |own| own.transaction = Some(transaction)).await
    }

    /// Queues a command, and what has come behind it, in one go; or ends the transaction.
    pub(super) async fn in_transaction(&mut self, first: Command) -> Go {
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
            let more = self.thread.engine.queue(transaction, self.thread.policy, command, &mut bytes).await;
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
        let span = match ends {
            Some(command) if command.is_word(0, "EXEC") => {
                self.thread.engine.client_span([b"EXEC".as_slice()].into_iter())
            }
            Some(_) | None => ActiveSpan::default(),
        };
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
                span.within(self.thread.engine.executed(transaction, frame, self.protocol)).await
            }
            Some(_) | None => Ok(frame),
        };
        self.executed(span, told);
        self.release();
        Ok(())
    }

    /// A command that the engine must see, on a connection that stays with its client: in an EXEC of its own.
    pub(super) async fn alone(&mut self, command: Command) -> Go {
        let mut transaction = self.thread.engine.begin_transaction();
        let span = self.span_of(&command);
        let mut bytes = BytesMut::new();
        encode::command(&mut bytes, &Command::new(["MULTI"]));
        let expected = self.thread.engine.queue(&transaction, self.thread.policy, command, &mut bytes).await;
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
        let answered = match asked.await {
            Err(error) => return self.lost_within(span, &error),
            // What refused to be queued is the answer.
            Ok((Some(told), frame)) if frame.is_error() => Ok(told),
            Ok((_, frame)) => span.within(self.thread.engine.executed(transaction, frame, self.protocol)).await,
        };
        self.executed(span, answered.map(|frame| frame.parts().and_then(|mut parts| parts.pop()).unwrap_or(frame)));
        self.release();
        Go::On
    }

    /// Tells what came of an EXEC, and ends its span with it.
    fn executed(&self, mut span: ActiveSpan, outcome: Result<Frame, EngineError>) {
        match outcome {
            Ok(frame) => {
                traced::replied(&mut span, &frame);
                self.output.reply(frame.bytes());
            }
            Err(error) => {
                span.fail(error.class());
                self.output.failed(&error);
            }
        }
    }
}
