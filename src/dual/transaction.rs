//! A client's own transaction, queued live on a connection of its own.
//!
//! So QUEUED, errors at queueing, WATCH and EXECABORT are Redis' own. Our marks are queued between its commands, in the same
//! EXEC (W1), and cut out of EXEC's answer.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::dual::plan::{self, MirroredTouch, Step};
use crate::dual::route::{Policy, Route, keys_at};
use crate::dual::view::View;
use crate::dual::{Engine, EngineError, Options, hide};
use crate::model::command::Command;
use crate::model::command::table::{Access, Class};
use crate::model::frame::{Frame, Protocol, encode};
use crate::model::key::Key;

/// What Redis has queued, in its order.
#[derive(Debug)]
enum Place {
    /// A command of ours; whether it is a mark.
    Ours { is_mark: bool },
    /// A command of the client's.
    Theirs(Theirs),
}

/// A command of the client's that is on its way into the queue.
#[derive(Clone, Debug)]
pub struct Theirs {
    touches: Vec<MirroredTouch>,
    lists_keys: bool,
}

/// A frame that Redis owes, and what is done with it.
#[derive(Debug)]
pub enum Expected {
    /// The queueing of a command of ours; nobody is told.
    Ours {
        /// Whether it is a mark.
        is_mark: bool,
    },
    /// The queueing of a command of the client's, who is told.
    Theirs(Theirs),
    /// The error of a word that is no command, which makes EXEC fail as it must; the client is told this instead.
    Refused(Frame),
}

/// A client's transaction between MULTI and EXEC.
#[derive(Debug)]
pub struct Transaction {
    /// Held until EXEC is answered: a newer view is not confirmed before that (S2).
    view: Arc<View>,
    places: Vec<Place>,
}

impl Transaction {
    /// Notes what Redis says to the queueing of a command. Answers what the client is told, if it is told anything.
    pub fn note(&mut self, expected: Expected, frame: Frame) -> Option<Frame> {
        let is_queued = frame.bytes() == &b"+QUEUED\r\n"[..];
        match expected {
            Expected::Ours { is_mark } => {
                if is_queued {
                    self.places.push(Place::Ours { is_mark });
                }
                None
            }
            Expected::Theirs(theirs) => {
                if is_queued {
                    self.places.push(Place::Theirs(theirs));
                }
                Some(frame)
            }
            Expected::Refused(refusal) => Some(refusal),
        }
    }
}

impl Engine {
    /// A transaction that begins now.
    #[must_use]
    pub fn begin_transaction(&self) -> Transaction {
        Transaction { view: self.view(), places: Vec::new() }
    }

    /// Appends what is to be sent for a command that the client queues. Answers the frames that Redis owes for it.
    pub async fn queue(
        &self,
        transaction: &Transaction,
        policy: Policy,
        command: Command,
        out: &mut BytesMut,
    ) -> Vec<Expected> {
        let view = &transaction.view;
        let name = command.name();
        self.learn(&command).await;
        let positions = self.positions(&command).await;
        if let Some(reason) = self.refused_in_transaction(view, policy, &name, &command, &positions) {
            // No command has this name, so Redis refuses it and discards the transaction as for any other error.
            encode::command(out, &Command::new(["parallax.refused"]));
            return vec![Expected::Refused(Frame::error_of(&format!("PARALLAX {reason}")))];
        }
        let lists_keys = hide::lists_keys(&command);
        if !self.commands.table().fits_arity(&command) {
            encode::command(out, &command);
            return vec![Expected::Theirs(Theirs { touches: Vec::new(), lists_keys: false })];
        }
        let is_write = match self.commands.table().class(&command) {
            Class::Data(Access::Write) => true,
            // XREAD blocks as well, and writes nothing.
            Class::Blocking => name != "XREAD",
            Class::Data(Access::Read) | Class::Connection | Class::Administrative | Class::Server | Class::Unknown => {
                false
            }
        };
        let command = hide::in_place_of(&name, command);
        if !is_write {
            encode::command(out, &command);
            return vec![Expected::Theirs(Theirs { touches: Vec::new(), lists_keys })];
        }
        let step = self.step(view, command, &positions);
        let theirs = Theirs { touches: step.touches.clone(), lists_keys };
        if step.touches.is_empty() {
            encode::command(out, &step.command);
            return vec![Expected::Theirs(theirs)];
        }
        let planned = plan::exec(std::slice::from_ref(&step), &self.shared.token());
        let marks = planned.mark_places();
        let place = planned.place(0);
        let last = planned.commands.len() - 1;
        let mut expected = Vec::with_capacity(last);
        // MULTI and EXEC are the client's.
        for (at, command) in planned.commands.iter().enumerate().take(last).skip(1) {
            encode::command(out, command);
            expected.push(if at == place {
                Expected::Theirs(theirs.clone())
            } else {
                Expected::Ours { is_mark: marks.contains(&at) }
            });
        }
        expected
    }

    fn refused_in_transaction(
        &self,
        view: &View,
        policy: Policy,
        name: &str,
        command: &Command,
        positions: &[usize],
    ) -> Option<String> {
        if keys_at(command, positions).iter().any(Key::is_control) || hide::names_control_keys(name, command) {
            return Some(hide::CLOSED.to_owned());
        }
        if self.commands.table().class(command) == Class::Administrative
            && let Route::Refuse(reason) = self.route_acting(view, policy, name)
        {
            return Some(reason);
        }
        // What follows would be marked in another database than it stands in, or answered in another protocol than we read.
        let changes_connection = matches!(name, "SELECT" | "HELLO" | "AUTH")
            || (name == "SCRIPT" && self.commands.table().class(command) == Class::Connection);
        changes_connection.then(|| format!("{name} inside MULTI is refused: send it before"))
    }

    /// Ends a transaction with what EXEC answered. Answers what the client is told.
    ///
    /// # Errors
    /// When the client waits for Postgres and it did not commit in time (W4).
    pub async fn executed(
        &self,
        transaction: Transaction,
        frame: Frame,
        protocol: Protocol,
    ) -> Result<Frame, EngineError> {
        let Transaction { view, places } = transaction;
        let Some(parts) = frame.parts() else { return Ok(frame) };
        let (mut theirs, mut touched, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        let mut mark_failed = false;
        for (place, part) in places.into_iter().zip(parts) {
            match place {
                Place::Ours { is_mark } => mark_failed |= is_mark && part.is_error(),
                Place::Theirs(Theirs { touches, lists_keys }) => {
                    theirs.push(if lists_keys { hide::shown(part, protocol) } else { part });
                    steps.push(Step { command: Command(Vec::new()), touches: touches.clone() });
                    touched.push(touches);
                }
            }
        }
        if mark_failed {
            self.shared.mark_failed(&steps).await;
        }
        self.mirrored(&view, &touched, Options::default(), false).await?;
        Ok(array(&theirs))
    }
}

/// An array of frames.
fn array(parts: &[Frame]) -> Frame {
    let mut out = BytesMut::with_capacity(16 + parts.iter().map(|part| part.bytes().len()).sum::<usize>());
    encode::head(&mut out, b'*', parts.len());
    parts.iter().for_each(|part| out.extend_from_slice(part.bytes()));
    Frame::new(Bytes::from(out))
}
