//! What all long tasks have in common: which kinds a wish means, how one step goes, why one ends early, and how the stores
//! feel while it runs. The jobs around the tasks stand in `jobs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::dual::Engine;
use crate::dual::drain::DrainError;
use crate::dual::flags::ChangeError;
use crate::dual::gate::{Asked, Condition};
use crate::dual::view::DEFAULT;
use crate::model::catalog::{Kind, Table};
use crate::model::command::Command;
use crate::model::key::Key;
use crate::stores::postgres::Postgres;
use crate::stores::postgres::pages;
use crate::stores::postgres::pool::PostgresError;
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::{lineage as redis_lineage, marks};

/// How much one step may take on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Keys that one page of a scan asks for.
    pub keys: u64,
    /// Pages in one step.
    pub pages: u64,
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advance {
    /// Keys or rows looked at.
    pub seen: u64,
    /// Records dealt with.
    pub done: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The next step may only begin when the place is written down: begun again before it, the task would take what that step
    /// did for somebody else's.
    pub is_turn: bool,
    /// Nothing is left to do.
    pub is_end: bool,
}

/// Why a task did not get on.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// It may not run now.
    #[error(transparent)]
    Change(ChangeError),
    /// It asks for what does not hold: the sentence says what, and what to do.
    #[error("{0}")]
    Unmet(String),
    /// A store failed; the step may be repeated.
    #[error("{0}")]
    Store(String),
    /// Redis has no anchor: it was lost, or no sidecar ever ran.
    #[error("redis has no anchor: it was lost, restore it first")]
    NoAnchor,
    /// Marking of a kind ended while it ran, so what was written meanwhile is not known.
    #[error("marking ended while it ran: start it again")]
    Unmarked,
    /// The epoch rose while it ran, since a store went back: it must begin anew.
    #[error("a store went back while it ran: start it again")]
    Overtaken,
}

impl From<ChangeError> for TaskError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Store(reason) => Self::Store(reason),
            ChangeError::UnknownKind
            | ChangeError::Stale { .. }
            | ChangeError::Field(_)
            | ChangeError::Refused { .. }
            | ChangeError::Barrier { .. } => Self::Change(error),
        }
    }
}

impl From<DrainError> for TaskError {
    fn from(error: DrainError) -> Self {
        match error {
            DrainError::Redis(error) => error.into(),
            DrainError::Postgres(error) => error.into(),
        }
    }
}

impl From<RedisError> for TaskError {
    fn from(error: RedisError) -> Self {
        Self::Store(error.to_string())
    }
}

impl From<PostgresError> for TaskError {
    fn from(error: PostgresError) -> Self {
        match error {
            PostgresError::Superseded | PostgresError::WentBack => Self::Overtaken,
            PostgresError::Unreachable(_) | PostgresError::Refused(_) => Self::Store(error.to_string()),
        }
    }
}

/// How the stores feel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// How long Redis took to answer.
    pub redis: Duration,
    /// How long Postgres took to answer.
    pub postgres: Duration,
    /// The age of the oldest mark.
    pub outbox: Duration,
}

/// The tables in which the records of these kinds stand.
pub(super) fn tables_of(kinds: &[Arc<Kind>]) -> Vec<Table> {
    kinds.iter().map(|kind| kind.table).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Whether this kind is one of these.
pub(super) fn is_among(kinds: &[Arc<Kind>], kind: &Kind) -> bool {
    kinds.iter().any(|wanted| wanted.index == kind.index)
}

/// The names of those kinds whose records stand in this table.
pub(super) fn names_in(kinds: &[Arc<Kind>], table: Table) -> Vec<String> {
    kinds.iter().filter(|kind| kind.table == table).map(|kind| kind.name.clone()).collect()
}

/// Where a walk over so many tables goes on behind a page that ends with `last`: a table by its place in the list, and a hash
/// in it; `None` at the end.
pub(super) fn behind(tables: usize, at: usize, last: Option<Vec<u8>>) -> Option<(usize, Vec<u8>)> {
    match last {
        Some(last) => Some((at, last)),
        None if at + 1 < tables => Some((at + 1, Vec::new())),
        None => None,
    }
}

/// A page that was read while the one before it was dealt with.
pub(super) struct Ahead<T> {
    table: usize,
    after: Vec<u8>,
    page: Vec<T>,
}

impl<T> Ahead<T> {
    pub(super) fn new(table: usize, after: &[u8], page: Vec<T>) -> Self {
        Self { table, after: after.to_vec(), page }
    }

    /// The page, if it is the one from this place on.
    pub(super) fn from(self, table: usize, after: &[u8]) -> Option<Vec<T>> {
        (self.table == table && self.after == after).then_some(self.page)
    }
}

impl Engine {
    /// Postgres, where there is one.
    #[must_use]
    pub fn postgres(&self) -> Option<&Postgres> {
        self.postgres.as_ref()
    }

    /// The kinds that a wish for a task on marked kinds means; `*` is all of them. All of them must be marked by now.
    ///
    /// # Errors
    /// Which kinds there are not, or are not marked.
    pub fn marked_kinds(&self, names: &[String]) -> Result<Vec<Arc<Kind>>, ChangeError> {
        let view = self.keeper.view();
        let is_all = names.iter().any(|name| name == DEFAULT);
        let kinds: Vec<Arc<Kind>> = if is_all {
            let marked = |kind: &&Arc<Kind>| kind.is_mirrored() && view.flag(kind).stage.marks();
            self.catalog.kinds().iter().filter(marked).cloned().collect()
        } else {
            let named = names.iter().map(|name| self.catalog.by_name(name).cloned().ok_or(ChangeError::UnknownKind));
            named.collect::<Result<_, _>>()?
        };
        let unmarked = kinds.iter().filter(|kind| !kind.is_mirrored() || !view.flag(kind).stage.marks());
        let mut unmet: Vec<Condition> = unmarked
            .map(|kind| format!("{}: its writes are not marked; raise it to dualwrite first", kind.name))
            .map(|told| Condition::unmet(Asked::StageOrder, told))
            .collect();
        if self.drain.is_none() {
            unmet.push(Condition::unmet(Asked::PostgresOn, "postgres is switched off (ENABLE_POSTGRES=false)"));
        }
        if kinds.is_empty() {
            unmet.push(Condition::unmet(Asked::StageOrder, "no kind is marked; raise one to dualwrite first"));
        }
        if unmet.is_empty() { Ok(kinds) } else { Err(ChangeError::Refused { unmet }) }
    }

    /// All mirrored kinds.
    #[must_use]
    pub fn mirrored_kinds(&self) -> Vec<Arc<Kind>> {
        self.catalog.kinds().iter().filter(|kind| kind.is_mirrored()).cloned().collect()
    }

    /// Asks both stores how they feel.
    ///
    /// # Errors
    /// When one does not answer.
    pub async fn probe(&self) -> Result<Probe, TaskError> {
        let began = Instant::now();
        self.jobs.command(Command::new(["PING"])).await?;
        let redis = began.elapsed();
        let began = Instant::now();
        if let Some(postgres) = &self.postgres
            && !postgres.is_alive().await
        {
            return Err(TaskError::Store("postgres does not answer".to_owned()));
        }
        let outbox = Duration::from_millis(self.outbox_age_ms.load(Ordering::Relaxed));
        Ok(Probe { redis, postgres: began.elapsed(), outbox })
    }

    /// How many keys Redis counts, ours among them: the measure of a progress.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn key_count(&self) -> Result<u64, TaskError> {
        let keys = self.jobs.command(Command::new(["DBSIZE"])).await?.integer();
        Ok(keys.and_then(|keys| u64::try_from(keys).ok()).unwrap_or(0))
    }

    /// About how many rows the records of these kinds have: the measure from the other side.
    ///
    /// # Errors
    /// When Postgres cannot be reached.
    pub async fn row_count(&self, kinds: &[Arc<Kind>]) -> Result<u64, TaskError> {
        match &self.postgres {
            Some(postgres) => Ok(pages::about(postgres, &tables_of(kinds)).await?),
            None => Ok(0),
        }
    }

    /// What evicts records behind the back of a task, if Redis may evict.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn evicting_policy(&self) -> Result<Option<String>, TaskError> {
        let policy = self.jobs.server().await?.eviction;
        Ok(Some(policy).filter(|policy| !policy.is_empty() && policy != "noeviction"))
    }

    /// The run of Redis and the epoch that versions belong to now.
    ///
    /// # Errors
    /// When there is no anchor, or it names another run and the lift is still to come.
    pub(super) async fn lineage_now(&self) -> Result<(String, i64), TaskError> {
        let run_id = self.jobs.server().await?.run_id;
        match redis_lineage::read(&self.jobs).await?.0 {
            None => Err(TaskError::NoAnchor),
            Some(anchor) if anchor.run_id == run_id => Ok((run_id, anchor.epoch)),
            Some(_) => Err(TaskError::Store("redis restarted or failed over, and the lift is under way".to_owned())),
        }
    }

    /// One page of all keys: the next cursor, `0` at the end, and the keys.
    pub(super) async fn scan(&self, cursor: &str, keys: u64) -> Result<(String, Vec<Key>), TaskError> {
        let scan = Command::new(["SCAN", cursor, "COUNT", &keys.to_string()].map(str::to_owned));
        Ok(marks::scanned(self.jobs.command(scan).await?)?)
    }
}
