//! Jobs: long work beside the doors, one at a time, with progress that can be asked for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dual::Engine;
use crate::dual::backfill::BackfillError;
use crate::dual::flags::ChangeError;
use crate::model::catalog::Kind;

/// Jobs that are remembered.
const JOBS_MAX: usize = 100;

/// A job and how far it has come.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// `backfill`.
    pub job: &'static str,
    /// The kinds it is about.
    pub kinds: Vec<String>,
    /// How it stands.
    pub state: State,
    /// Keys seen.
    pub seen: u64,
    /// Records committed in Postgres.
    pub done: u64,
    /// Why it failed.
    pub error: Option<String>,
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Under way.
    Running,
    /// At its end.
    Done,
    /// Ended before its end.
    Failed,
}

/// Why a job does not start.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StartError {
    /// Another one runs.
    #[error("the job {0} runs; wait for its end")]
    Running(String),
    /// It may not.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// The jobs of this sidecar.
pub struct Jobs {
    engine: Arc<Engine>,
    jobs: Mutex<Vec<Job>>,
}

impl Jobs {
    /// Jobs that `engine` does.
    #[must_use]
    pub fn new(engine: Arc<Engine>) -> Arc<Self> {
        Arc::new(Self { engine, jobs: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every job, newest last.
    #[must_use]
    pub fn all(&self) -> Vec<Job> {
        self.lock().clone()
    }

    /// One job.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Job> {
        self.lock().iter().find(|job| job.id == id).cloned()
    }

    /// Starts a backfill of these kinds (`*`: of all that are marked). Answers its id.
    ///
    /// # Errors
    /// When another job runs, or a kind is not marked.
    pub fn start_backfill(self: &Arc<Self>, names: &[String]) -> Result<String, StartError> {
        let kinds = self.engine.backfill_kinds(names)?;
        let id = format!("backfill-{:016x}", rand::random::<u64>());
        let mut jobs = self.lock();
        if let Some(running) = jobs.iter().find(|job| job.state == State::Running) {
            return Err(StartError::Running(running.id.clone()));
        }
        if jobs.len() >= JOBS_MAX {
            jobs.remove(0);
        }
        jobs.push(Job {
            id: id.clone(),
            job: "backfill",
            kinds: kinds.iter().map(|kind| kind.name.clone()).collect(),
            state: State::Running,
            seen: 0,
            done: 0,
            error: None,
        });
        drop(jobs);
        tokio::spawn(Arc::clone(self).run(id.clone(), kinds));
        Ok(id)
    }

    async fn run(self: Arc<Self>, id: String, kinds: Vec<Arc<Kind>>) {
        let outcome = self.backfill(&id, kinds).await;
        match &outcome {
            Ok(()) => tracing::info!(job = id, "the backfill is complete"),
            Err(error) => tracing::error!(job = id, %error, "the backfill failed"),
        }
        self.note(&id, |job| {
            job.state = if outcome.is_ok() { State::Done } else { State::Failed };
            job.error = outcome.err().map(|error| error.to_string());
        });
    }

    async fn backfill(&self, id: &str, kinds: Vec<Arc<Kind>>) -> Result<(), BackfillError> {
        let count = kinds.len();
        let backfill = self.engine.backfill_begin(kinds, id).await?;
        let mut cursor = "0".to_owned();
        loop {
            let (next, seen, done) = self.engine.backfill_step(&backfill, &cursor).await?;
            self.note(id, |job| {
                job.seen += seen;
                job.done += done;
            });
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        for kind in 0..count {
            let mut after = Vec::new();
            while let Some(last) = self.engine.backfill_reverse(&backfill, kind, &after).await? {
                after = last;
            }
        }
        self.engine.backfill_end(&backfill).await
    }

    fn note(&self, id: &str, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.lock().iter_mut().find(|job| job.id == id) {
            change(job);
        }
    }
}
