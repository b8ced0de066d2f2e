//! Clients that stand apart: in another database, where nothing is mirrored; on a connection that they asked about; or on one
//! whose bytes are only carried (MONITOR, replication).

use bytes::{Buf, BytesMut};
use tokio::io::AsyncReadExt;

use crate::doors::resp::client::{Client, Go};
use crate::doors::resp::output::failure;
use crate::doors::resp::parse::Found;
use crate::doors::resp::subscribed::is_subscription;
use crate::doors::resp::traced;
use crate::dual::route::{RedisError, Route};
use crate::model::command::Command;
use crate::model::frame::encode;

/// What would change a connection at EXEC, unseen by its door.
const NOT_QUEUED: &str = "inside MULTI this is refused: send it before";
/// Why something is refused in another database than the configured one.
const COMES_BACK: &str = "what comes into the mirrored database from another one cannot be marked: select it before";
/// Bytes that are carried at once where nothing is looked at.
pub(super) const PIPE_BYTES: usize = 64 * 1024;

impl Client {
    /// A command in another database, where nothing is mirrored.
    pub(super) async fn elsewhere(&mut self, command: &Command) -> Go {
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
        let changes_connection = ["SELECT", "HELLO", "AUTH"].iter().any(|name| command.is_word(0, name));
        let refusal = if comes_into(command, database) {
            Some(COMES_BACK)
        } else {
            (own.is_queueing && changes_connection).then_some(NOT_QUEUED)
        };
        if let Some(refusal) = refusal {
            // No command has this name, so Redis discards a transaction that holds it, as for any other error.
            if own.is_queueing
                && let Err(error) = own.ask(&Command::new(["parallax.refused"]), &output).await
            {
                return self.lost(&error);
            }
            self.output.reply(&failure(&refusal));
            return Go::On;
        }
        if !own.is_queueing && self.thread.engine.may_block(command) {
            return self.blocking(command).await;
        }
        let mut span = self.span_of(command);
        let Some(own) = self.own.as_mut() else { return Go::On };
        match own.ask(command, &output).await {
            Ok(frame) => {
                traced::replied(&mut span, &frame);
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
            Err(error) => self.lost_within(span, &error),
        }
    }

    /// SELECT: the configured database is where every client is already.
    pub(super) async fn select(&mut self, command: &Command) -> Go {
        if command.0.len() == 2 && command.integer(1) == Some(self.thread.engine.database()) {
            self.answer(b"+OK\r\n").await;
            return Go::On;
        }
        self.ask_own(command, |own| own.is_elsewhere = true).await
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
}

/// Whether a command in another database writes into this one.
fn comes_into(command: &Command, database: i64) -> bool {
    let names_it = |at: usize| command.is_word(at, "DB") && command.integer(at + 1) == Some(database);
    command.is_word(0, "COPY") && (3..command.0.len()).any(names_it)
}
