//! The engine: every write goes to Redis with its mark, and from there to Postgres; reads are answered by the store that
//! the flag of their kind names; a sample of them is compared.
//!
//! Words: a *view* is one version of the flags; a *step* is a command of an EXEC; the *drain* brings marked records to
//! Postgres; the *fence* is what is asked of Redis before Postgres may answer; a *verdict* is the outcome of a comparison.

pub mod answer;
pub mod backfill;
mod batch;
mod breaker;
mod bypass;
mod check;
pub mod compare;
pub mod digest;
pub mod direction;
mod drain;
pub mod drill;
pub mod evidence;
mod execute;
pub mod explain;
mod expunge;
pub mod figures;
pub mod flags;
pub mod fleet;
pub mod gaps;
pub mod gate;
mod gather;
pub mod guard;
mod hide;
mod keeper;
pub mod latency;
mod learn;
mod lift;
pub mod lineage;
pub mod migrate;
pub mod overwrite;
mod owe;
pub mod plan;
mod queue;
mod ranges;
mod read;
pub mod records;
pub mod repair;
pub mod restore;
mod rollback;
pub mod route;
pub mod settle;
mod shadow;
mod start;
pub mod status;
pub mod step;
pub mod subscribe;
mod sweep;
pub mod task;
mod together;
mod traced;
pub mod transaction;
pub mod verdict;
pub mod verify;
pub mod view;
mod whole;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::dual::batch::Shared;
use crate::dual::breaker::Breakers;
use crate::dual::drain::Drain;
use crate::dual::keeper::Keeper;
use crate::dual::learn::Commands;
use crate::dual::lineage::Lineage;
use crate::dual::queue::Queue;
use crate::dual::route::Path;
use crate::dual::shadow::Shadow;
use crate::model::catalog::Catalog;
use crate::model::flag::Ack;
use crate::model::frame::Frame;
use crate::stores::postgres::Postgres;
use crate::stores::redis::Redis;
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::wire::Upstream;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Traces;

pub use check::{Remedy, check_postgres, check_redis};

/// What an engine is built from.
pub struct Parts {
    /// The kinds.
    pub catalog: Arc<Catalog>,
    /// The name of this sidecar.
    pub instance: String,
    /// Whether it stands beside an application.
    pub membership: Membership,
    /// How Redis is reached by what runs in the background.
    pub redis: redis::Client,
    /// How Redis is reached for callers' commands.
    pub upstream: Arc<Upstream>,
    /// Postgres; none when it is switched off.
    pub postgres: Option<Postgres>,
    /// The longest a command may take.
    pub command_deadline: Duration,
    /// How long the lease on the flags holds.
    pub lease: Duration,
    /// How long a change that needs everybody waits for everybody.
    pub barrier_wait: Duration,
    /// Records that may wait for the drain in memory.
    pub outbox_queue_max: usize,
    /// Comparisons that may wait.
    pub shadow_queue_max: usize,
    /// Whether writes are looked for that bypass every sidecar.
    pub watches_for_bypasses: bool,
    /// Where facts are counted.
    pub metrics: Metrics,
    /// Where the work runs that nobody waits for, so that a large capture never stands before a caller's command.
    pub background: Handle,
    /// Where spans go.
    pub traces: Traces,
}

impl Parts {
    /// The name under which the fleet counts it; empty for a guest.
    fn listed(&self) -> String {
        match self.membership {
            Membership::Sidecar => self.instance.clone(),
            Membership::Guest => String::new(),
        }
    }
}

/// What an engine is to the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It lets an application's commands through: barriers wait for it.
    Sidecar,
    /// It runs a job and nothing else: nobody waits for it, so that its end delays no change of stage.
    Guest,
}

/// How a caller wants its commands done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// When to answer mirrored writes; the flag of their kind says so otherwise.
    pub ack: Option<Ack>,
    /// One transaction.
    pub atomic: bool,
}

/// The store that answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Redis.
    Redis,
    /// Postgres.
    Postgres,
}

/// How far a mirrored write has come when it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mirror {
    /// Committed in Postgres.
    Applied,
    /// In Redis, and marked.
    Pending,
}

/// Why a command is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCause {
    /// It acts on the server.
    Administrative,
    /// It names a key or a channel of our own.
    ControlKey,
    /// It belongs to a connection.
    Connection,
    /// It would block while it writes a mirrored record (S2b).
    Blocking,
    /// The server does not know it.
    UnknownCommand,
}

/// A command that was not let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub cause: RefusalCause,
    /// A sentence for the caller.
    pub message: String,
}

/// The answer to one command.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The reply, Redis' own errors among them.
    pub result: Result<Frame, Refusal>,
    /// Who answered.
    pub source: Option<Source>,
    /// How far a mirrored write has come.
    pub mirror: Option<Mirror>,
}

/// Why the engine could not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// Redis cannot be reached; nothing was sent.
    #[error("redis cannot be reached: {0}")]
    RedisUnreachable(String),
    /// The write may or may not have happened, or may not have reached Postgres (W4).
    #[error("the outcome is unknown: {0}")]
    UnknownOutcome(String),
    /// Too many commands wait.
    #[error("too many commands wait")]
    Overloaded,
    /// The deadline passed before anything was sent.
    #[error("the deadline has passed")]
    Timeout,
    /// Postgres was asked for something that only it has, and cannot be reached.
    #[error("postgres cannot be reached: {0}")]
    PostgresUnavailable(String),
}

impl From<RedisError> for EngineError {
    fn from(error: RedisError) -> Self {
        match error {
            RedisError::Unreachable(reason) => Self::RedisUnreachable(reason),
            RedisError::Unknown(reason) => Self::UnknownOutcome(reason),
            RedisError::Overloaded => Self::Overloaded,
            RedisError::Late => Self::Timeout,
            RedisError::Answered(_) | RedisError::Form(_) => Self::RedisUnreachable(error.to_string()),
        }
    }
}

impl EngineError {
    /// What a failed read means: nothing can have changed, so there is no outcome to be in doubt about.
    fn of_a_read(error: RedisError) -> Self {
        match error {
            RedisError::Unknown(reason) => Self::RedisUnreachable(reason),
            RedisError::Unreachable(_)
            | RedisError::Overloaded
            | RedisError::Late
            | RedisError::Answered(_)
            | RedisError::Form(_) => error.into(),
        }
    }
}

/// The one frame that a command is answered with.
fn only(frames: Vec<Frame>) -> Result<Frame, EngineError> {
    frames.into_iter().next().ok_or_else(|| EngineError::UnknownOutcome("no reply".to_owned()))
}

/// The engine. One for each sidecar, shared by all doors.
pub struct Engine {
    catalog: Arc<Catalog>,
    instance: String,
    membership: Membership,
    /// Of all runs of this sidecar this one.
    run: String,
    client: redis::Client,
    /// The way of requests to Redis; connections have paths of their own.
    path: Path,
    upstream: Arc<Upstream>,
    /// The lane of fences, looks and what the engine itself asks, so that it does not stand behind large replies.
    looks: Arc<Redis>,
    /// The lane of long tasks, whose replies are large. It connects when the first one begins.
    jobs: Arc<Redis>,
    /// Who captures over the lane of jobs: one at a time, so that Redis turns to others between two scripts.
    capturing: tokio::sync::Mutex<()>,
    postgres: Option<Postgres>,
    commands: Commands,
    shared: Arc<Shared>,
    keeper: Arc<Keeper>,
    lineage: Arc<Lineage>,
    queue: Arc<Queue>,
    drain: Option<Arc<Drain>>,
    shadow: Option<Shadow>,
    breakers: Arc<Breakers>,
    audits: flags::Audits,
    /// Places for subscribers.
    subscriptions: Arc<Semaphore>,
    /// What both stores took over the last minute.
    latencies: ArcSwap<Vec<latency::SideBySide>>,
    /// The age of the oldest mark, as the last look at the outbox found it.
    outbox_age_ms: AtomicU64,
    command_deadline: Duration,
    lease: Duration,
    watches_for_bypasses: bool,
    barrier_wait: Duration,
    metrics: Metrics,
    traces: Traces,
}

impl Engine {
    /// Whether this sidecar may serve: Redis answered lately. Postgres never counts (invariant 9).
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.keeper.has_lease()
    }

    /// The kinds.
    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The name of this sidecar.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The metrics of this sidecar.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The traces of this sidecar.
    #[must_use]
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    fn trusts_postgres(&self) -> bool {
        !self.shared.marks_are_broken.load(Ordering::Acquire)
    }

    /// Waits until what this sidecar marked is in Postgres, or the deadline passes; then says goodbye to the fleet.
    pub async fn stop(&self, deadline: Duration) {
        let drained = async {
            while self.queue.len() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if self.drain.is_some() && tokio::time::timeout(deadline, drained).await.is_err() {
            tracing::warn!(
                records = self.queue.len(),
                "left with marks in the outbox: a survivor or successor drains them"
            );
        }
        self.keeper.leave();
        let _ = crate::stores::redis::lease::leave(&self.looks, &self.instance).await;
        self.traces.stop().await;
    }
}
