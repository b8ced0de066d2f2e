//! Where a command of a connection goes: to Redis as it is, through the engine, or to a connection of its own.
//!
//! For most commands the server's table and the kinds of their keys decide, and nothing is copied.
//!
//! A [`Path`] is a way to Redis for the connections of one thread, with its own lane and its own batches.

use std::sync::Arc;

use crate::dual::batch::Batcher;
use crate::dual::together::Reads;
use crate::dual::view::View;
use crate::dual::{Engine, hide};
use crate::model::catalog::UNMATCHED;
use crate::model::command::table::{Access, Class};
use crate::model::command::{Command, Words};
use crate::model::frame::Protocol;
use crate::model::key::{CONTROL_PREFIX, Key};
use crate::model::reply::Reply;
pub use crate::stores::redis::connection::RedisError;
use crate::stores::redis::lane::{Lane, Silence};
pub use crate::stores::redis::lane::{Sink, Turn};
pub use crate::stores::redis::wire::Wire;
use crate::telemetry::labels::{RouteReason, Store};

/// What is done with commands that no mark can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmarkable {
    /// They are refused.
    Refuse,
    /// They are forwarded without a mark, and what they touch cannot be verified any more.
    Forward,
}

/// What an operator allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Commands that act on the server or on all data (FLUSHALL, SWAPDB, CONFIG SET ...), while anything is mirrored.
    pub server_commands: Unmarkable,
    /// Commands that would block while they write a mirrored record (S2b).
    pub blocking_writes: Unmarkable,
}

/// Who sends commands over a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callers {
    /// Requests, each by itself.
    Requests,
    /// Connections, for which everything is as without us.
    Connections(Policy),
}

/// A way to Redis: a lane, and batches of marked writes over it.
pub struct Path {
    pub(super) lane: Arc<Lane>,
    pub(super) batcher: Batcher,
    /// What reads from Postgres ask, where there is one.
    pub(super) reads: Option<Reads>,
    pub(super) callers: Callers,
}

impl Path {
    /// The protocol in which it answers.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.lane.protocol()
    }

    /// Forwards `count` commands as they were sent; their replies go to `sink`.
    ///
    /// # Errors
    /// When nothing can be sent; then the sink hears nothing.
    pub fn forward(&self, bytes: &[u8], count: usize, sink: Arc<dyn Sink>) -> Result<(), RedisError> {
        self.lane.send(|out| out.extend_from_slice(bytes), count, sink)
    }
}

/// Where a command goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To Redis, as it is.
    Forward,
    /// Through the engine: it leaves a mark, may be read from Postgres or compared, or would show our keys.
    Engine,
    /// It changes the connection, which its door knows about.
    Connection,
    /// To a connection of its own until it is answered, as it may block.
    Blocking,
    /// Nowhere, for this reason.
    Refuse(String),
}

impl Engine {
    /// A path for connections, on the runtime that calls this.
    #[must_use]
    pub fn path(&self, protocol: Protocol, policy: Policy) -> Path {
        self.path_for(protocol, Callers::Connections(policy))
    }

    pub(super) fn path_for(&self, protocol: Protocol, callers: Callers) -> Path {
        // A client waits for a slow command as it would at Redis itself, and nobody else is told that it failed.
        let upstream = Arc::clone(&self.upstream);
        let lane = Arc::new(Lane::new(upstream, protocol, self.command_deadline, Silence::Borne));
        let batcher = Batcher::start(Arc::clone(&self.shared), Arc::clone(&lane));
        let reads = self.postgres.as_ref().map(|postgres| Reads::start(&lane, postgres));
        Path { batcher, lane, reads, callers }
    }

    /// Whether a frame that came unasked is a message that would show what is ours, so that no client may see it.
    #[must_use]
    pub fn hides(reply: &Reply) -> bool {
        hide::is_message_of_ours(reply)
    }

    /// A connection of its own for a client that needs one.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn wire(&self, protocol: Protocol) -> Result<Wire, RedisError> {
        self.upstream.connect(protocol).await
    }

    /// Ends the wait of a connection that blocks, if it still does: Redis then answers it with an error that begins with
    /// UNBLOCKED, and nothing was done.
    pub async fn unblock(&self, connection: i64) {
        let command = Command::new(["CLIENT", "UNBLOCK", &connection.to_string(), "ERROR"].map(str::to_owned));
        if self.looks.command(command).await.is_err() {
            tracing::debug!("a blocked connection could not be freed: the drain waits for it until its deadline");
        }
    }

    /// Whether a command may block its connection.
    #[must_use]
    pub fn may_block(&self, command: &Command) -> bool {
        self.commands.table().class(command) == Class::Blocking
            || command.is_word(0, "WAIT")
            || command.is_word(0, "WAITAOF")
    }

    /// The number of the database whose records are mirrored.
    #[must_use]
    pub fn database(&self) -> i64 {
        self.upstream.database()
    }

    /// The flags as they are now. Hold them until what was decided under them is answered (S2).
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.keeper.view()
    }

    /// Where a command goes.
    #[must_use]
    pub fn route(&self, view: &View, policy: Policy, words: Words<'_>) -> Route {
        let table = self.commands.table();
        let Some(info) = table.get(words.name()) else {
            // Redis closes the connection that says these, and ours is shared.
            let is_of_a_browser = [&b"POST"[..], b"HOST:"].iter().any(|name| words.name().eq_ignore_ascii_case(name));
            if is_of_a_browser {
                return Route::Connection;
            }
            // Where anything is mirrored, the server is asked about it first.
            if self.mirrors_anything(view) {
                return Route::Engine;
            }
            self.metrics.keyless_write("");
            return Route::Forward;
        };
        let Some((access, positions)) = info.plain(words.len()) else {
            return self.route_closely(view, policy, &words.command());
        };
        // A command with too few or too many arguments is Redis' to refuse, and may not take an EXEC with it.
        if !info.takes(words.len()) {
            return Route::Forward;
        }
        self.route_keys(view, access, positions.filter_map(|index| words.arg(index)))
    }

    /// Where a command goes that has not come whole: of its `count` arguments only the first ones are there. `None` when they
    /// do not tell.
    #[must_use]
    pub fn route_begun(&self, view: &View, words: Words<'_>, count: usize) -> Option<Route> {
        let table = self.commands.table();
        let info = table.get(words.name())?;
        let (access, positions) = info.plain(count)?;
        if !info.takes(count) || positions.clone().any(|index| index >= words.len()) {
            return None;
        }
        Some(self.route_keys(view, access, positions.filter_map(|index| words.arg(index))))
    }

    fn route_keys<'a>(&self, view: &View, access: Access, keys: impl Iterator<Item = &'a [u8]>) -> Route {
        let mut route = Route::Forward;
        let has_lease = self.keeper.has_lease();
        for key in keys {
            if key.starts_with(CONTROL_PREFIX) {
                return Route::Refuse(hide::CLOSED.to_owned());
            }
            let kind = self.catalog.kind_of(key);
            let stage = view.flag(kind).stage;
            let is_ours = match access {
                Access::Write => kind.is_mirrored() && (stage.marks() || !has_lease),
                Access::Read => kind.is_mirrored() && stage.compares(),
            };
            if is_ours {
                route = Route::Engine;
            } else if access == Access::Read {
                self.metrics.read_routed(&kind.name, Store::Redis, RouteReason::Stage);
            }
        }
        route
    }

    /// Whether a command acts on more than the database that is selected.
    #[must_use]
    pub fn acts_on_all(&self, command: &Command) -> bool {
        self.commands.table().class(command) == Class::Administrative
    }

    fn route_closely(&self, view: &View, policy: Policy, command: &Command) -> Route {
        let name = command.name();
        match self.commands.table().class(command) {
            Class::Connection if hide::names_control_keys(&name, command) => Route::Refuse(hide::CLOSED.to_owned()),
            Class::Connection => Route::Connection,
            Class::Server | Class::Unknown => Route::Forward,
            Class::Administrative => self.route_acting(view, policy, &name),
            Class::Blocking => self.route_blocking(view, policy, command),
            Class::Data(_) if name == "WAIT" || name == "WAITAOF" => Route::Blocking,
            Class::Data(access) => {
                let Some(keys) = self.keys(command) else { return Route::Engine };
                if keys.iter().any(Key::is_control) || hide::names_control_keys(&name, command) {
                    return Route::Refuse(hide::CLOSED.to_owned());
                }
                if !self.commands.table().fits_arity(command) {
                    return Route::Forward;
                }
                let is_ours = match access {
                    Access::Write => keys.is_empty() || keys.iter().any(|key| self.is_marked(view, key)),
                    Access::Read => {
                        hide::shows_keys(&name)
                            || keys.iter().any(|key| {
                                let kind = self.catalog.kind_of(key.as_bytes());
                                kind.is_mirrored() && view.flag(kind).stage.compares()
                            })
                    }
                };
                if is_ours { Route::Engine } else { Route::Forward }
            }
        }
    }

    /// The command's keys; `None` when only the server can tell.
    fn keys(&self, command: &Command) -> Option<Vec<Key>> {
        Some(keys_at(command, &self.commands.table().key_positions(command)?))
    }

    /// Whether any write is marked: then nothing may change all data behind the marks.
    pub(super) fn mirrors_anything(&self, view: &View) -> bool {
        let kinds = self.catalog.kinds().iter().filter(|kind| kind.is_mirrored());
        !self.keeper.has_lease() || kinds.into_iter().any(|kind| view.flag(kind).stage.marks())
    }

    pub(super) fn route_acting(&self, view: &View, policy: Policy, name: &str) -> Route {
        if !self.mirrors_anything(view) {
            return Route::Forward;
        }
        match policy.server_commands {
            Unmarkable::Refuse => {
                Route::Refuse(format!("{name} acts on the server and is refused while records are mirrored"))
            }
            Unmarkable::Forward => {
                for kind in self.catalog.kinds().iter().filter(|kind| kind.is_mirrored()) {
                    self.note_unverifiable(view, &kind.name, "a command that acts on the server was let through");
                }
                Route::Forward
            }
        }
    }

    fn route_blocking(&self, view: &View, policy: Policy, command: &Command) -> Route {
        let name = command.name();
        let Some(keys) = self.keys(command) else {
            self.metrics.keyless_write(&name);
            self.note_unverifiable(view, UNMATCHED, "a blocking command whose keys are not known was forwarded");
            return Route::Blocking;
        };
        if keys.iter().any(Key::is_control) {
            return Route::Refuse(hide::CLOSED.to_owned());
        }
        // XREAD blocks as well, and writes nothing.
        let marked = keys.iter().filter(|key| name != "XREAD" && self.is_marked(view, key));
        for key in marked {
            match policy.blocking_writes {
                Unmarkable::Refuse => {
                    return Route::Refuse(format!("{name} would block while it writes a mirrored record"));
                }
                Unmarkable::Forward => {
                    let kind = self.catalog.kind_of(key.as_bytes());
                    self.note_unverifiable(view, &kind.name, "a blocking write was let through");
                }
            }
        }
        Route::Blocking
    }
}

/// The keys at these positions.
pub(super) fn keys_at(command: &Command, positions: &[usize]) -> Vec<Key> {
    positions.iter().filter_map(|index| command.arg(*index)).map(|key| Key::new(key.clone())).collect()
}
