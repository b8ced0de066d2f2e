//! Jobs: long work beside the doors, one at a time in the whole fleet, with a pace, a place to go on at, and progress that
//! can be asked for.
//!
//! The same code runs in a sidecar (`POST /v1/jobs`) and as a command (`parallax backfill`). A [`Spec`] says what is wanted,
//! the [`runner`] takes it step by step, the [`pace`] keeps it from hurting, and the work itself is the engine's. The row in
//! the table `jobs` is lease, progress and place in one.

pub mod pace;
mod runner;
pub mod spec;
mod work;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value as Json;

pub use self::spec::Spec;
use crate::dual::Engine;
use crate::dual::task::TaskError;
use crate::jobs::runner::{Runner, Watch};
use crate::jobs::spec::WrongField;
use crate::jobs::work::Work;
use crate::stores::postgres::Postgres;
use crate::stores::postgres::jobs::{self as rows, JobRow, NewJob, Origin, Start};
pub use crate::stores::postgres::jobs::{State, Wish};
use crate::stores::postgres::pool::PostgresError;

/// Jobs that a list shows.
const LIST_MAX: i64 = 100;
/// How often a sidecar looks whether a job was left behind.
const ADOPTION_PERIOD: Duration = Duration::from_secs(2);

/// A job as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// `backfill`, `verify`, `repair` or `restore`.
    pub job: String,
    /// The kinds that it is about.
    pub kinds: Vec<String>,
    /// How it stands.
    pub state: State,
    /// Keys or rows looked at.
    pub seen: u64,
    /// Records that it dealt with.
    pub done: u64,
    /// Their bytes.
    pub bytes: u64,
    /// About how many keys and rows it will look at, from all sides; `None` where that is not known before.
    pub total: Option<u64>,
    /// Keys a second, lately.
    pub rate_per_second: u64,
    /// Seconds that are left, if it goes on like this.
    pub eta_seconds: Option<u64>,
    /// Why it goes slower than it could.
    pub waiting: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// What it found.
    pub report: Option<Json>,
    /// The process that runs it, or ran it last.
    pub runner: String,
    /// When it began.
    pub started_at: String,
    /// When it was last heard of.
    pub updated_at: String,
    /// When it ended.
    pub finished_at: Option<String>,
}

impl From<&JobRow> for Job {
    fn from(row: &JobRow) -> Self {
        let progress = row.progress.clone();
        let left = progress.total.map(|total| total.saturating_sub(progress.seen));
        let eta = left.filter(|_| !row.state.is_end()).and_then(|left| left.checked_div(progress.rate));
        Self {
            id: row.id.clone(),
            job: row.job.clone(),
            kinds: row.kinds.clone(),
            state: row.state,
            seen: progress.seen,
            done: progress.done,
            bytes: progress.bytes,
            total: progress.total,
            rate_per_second: progress.rate,
            eta_seconds: eta,
            waiting: progress.waiting,
            error: row.error.clone(),
            report: row.report.clone(),
            runner: row.holder.clone(),
            started_at: row.started_at.clone(),
            updated_at: row.updated_at.clone(),
            finished_at: row.finished_at.clone(),
        }
    }
}

/// Why a job does not start, or is not found.
#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    /// Another one runs.
    #[error("the job {0} is under way; wait for its end or cancel it")]
    Running(String),
    /// What is asked for makes no sense.
    #[error(transparent)]
    Field(#[from] WrongField),
    /// It may not run now.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// There is no such job.
    #[error("there is no such job")]
    Unknown,
    /// It has ended, so nobody can do anything about it.
    #[error("the job is {}", .0.name())]
    Ended(State),
    /// Without Postgres there are no jobs.
    #[error("postgres does not answer: {0}")]
    Postgres(String),
}

impl From<PostgresError> for JobsError {
    fn from(error: PostgresError) -> Self {
        Self::Postgres(error.to_string())
    }
}

/// The jobs of the fleet, as this process sees and runs them.
pub struct Jobs {
    engine: Arc<Engine>,
    holder: String,
}

impl Jobs {
    /// Jobs that this sidecar's `engine` does; it also takes up what a dead sidecar left behind.
    #[must_use]
    pub fn start(engine: Arc<Engine>) -> Arc<Self> {
        let jobs = Arc::new(Self::of(engine));
        if jobs.engine.postgres().is_some() {
            tokio::spawn(Arc::clone(&jobs).adopt());
        }
        jobs
    }

    fn of(engine: Arc<Engine>) -> Self {
        // Another process of the same name is another holder.
        let holder = format!("{}.{:08x}", engine.instance(), rand::random::<u32>());
        Self { engine, holder }
    }

    fn postgres(&self) -> Result<&Postgres, JobsError> {
        self.engine
            .postgres()
            .ok_or_else(|| JobsError::Postgres("it is switched off (ENABLE_POSTGRES=false)".to_owned()))
    }

    /// The last jobs, newest last.
    ///
    /// # Errors
    /// When Postgres does not answer.
    pub async fn all(&self) -> Result<Vec<Job>, JobsError> {
        // What each found is long, and shown with the job itself.
        let bare = |row: &JobRow| Job { report: None, ..Job::from(row) };
        Ok(rows::list(self.postgres()?, LIST_MAX).await?.iter().map(bare).collect())
    }

    /// One job.
    ///
    /// # Errors
    /// When there is none, or Postgres does not answer.
    pub async fn get(&self, id: &str) -> Result<Job, JobsError> {
        let row = rows::get(self.postgres()?, id).await?.ok_or(JobsError::Unknown)?;
        Ok(Job::from(&row))
    }

    /// Leaves a wish for a job, whoever runs it.
    ///
    /// # Errors
    /// When there is none, it has ended, or Postgres does not answer.
    pub async fn wish(&self, id: &str, wish: Wish) -> Result<Job, JobsError> {
        let row = rows::wish(self.postgres()?, id, wish).await?.ok_or(JobsError::Unknown)?;
        if row.state.is_end() && !(wish == Wish::Cancel && row.state == State::Cancelled) {
            return Err(JobsError::Ended(row.state));
        }
        Ok(Job::from(&row))
    }

    /// Begins a job in this sidecar. Answers its id.
    ///
    /// # Errors
    /// When another job is under way, or this one may not run.
    pub async fn begin(self: &Arc<Self>, spec: Spec) -> Result<String, JobsError> {
        let row = self.claim(&spec, Origin::Sidecar).await?;
        let id = row.id.clone();
        let runner = Runner::new(Arc::clone(&self.engine), self.postgres()?.clone(), spec, row, Box::new(|_| ()));
        tokio::spawn(runner.run());
        Ok(id)
    }

    /// Runs a job in this process to its end, as a command does; `watch` hears of its progress.
    ///
    /// # Errors
    /// When another job is under way, or this one may not run.
    pub async fn run(
        engine: Arc<Engine>,
        spec: Spec,
        watch: impl Fn(&Job) + Send + Sync + 'static,
    ) -> Result<Job, JobsError> {
        let jobs = Self::of(engine);
        let row = jobs.claim(&spec, Origin::Command).await?;
        let watch: Watch = Box::new(move |row| watch(&Job::from(row)));
        let runner = Runner::new(Arc::clone(&jobs.engine), jobs.postgres()?.clone(), spec, row, watch);
        Ok(Job::from(&runner.run().await))
    }

    async fn claim(&self, spec: &Spec, origin: Origin) -> Result<JobRow, JobsError> {
        spec.check()?;
        let kinds = Work::kinds(&self.engine, spec)?;
        if !spec.allow_eviction
            && let Some(policy) = self.engine.evicting_policy().await?
        {
            let unmet = format!(
                "maxmemory-policy is {policy}: redis may evict records while the job runs; set it to noeviction, or ask \
                 with allow_eviction (--allow-eviction)"
            );
            return Err(TaskError::Unmet(unmet).into());
        }
        let new = NewJob {
            id: format!("{}-{:016x}", spec.job.name(), rand::random::<u64>()),
            job: spec.job.name(),
            kinds: kinds.iter().map(|kind| kind.name.clone()).collect(),
            spec: serde_json::to_value(spec).expect("a spec is always JSON"),
            origin,
            holder: self.holder.clone(),
        };
        match rows::start(self.postgres()?, &new, runner::LEASE).await? {
            Start::Ours(row) => Ok(*row),
            Start::Running(id) => Err(JobsError::Running(id)),
        }
    }

    /// Takes up what dead sidecars left behind, for ever.
    async fn adopt(self: Arc<Self>) {
        loop {
            tokio::time::sleep(ADOPTION_PERIOD).await;
            let Ok(postgres) = self.postgres() else { return };
            let Ok(Some(row)) = rows::adopt(postgres, &self.holder, runner::LEASE).await else { continue };
            let Ok(spec) = serde_json::from_value::<Spec>(row.spec.clone()) else {
                tracing::warn!(job = row.id, "a job of another version of this program was left behind");
                continue;
            };
            tracing::info!(job = row.id, "a job that was left behind goes on here");
            Runner::new(Arc::clone(&self.engine), postgres.clone(), spec, row, Box::new(|_| ())).run().await;
        }
    }
}
