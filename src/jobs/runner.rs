//! The runner of one job: step by step at its pace, with a word on its progress every second, until its end or until
//! somebody wishes otherwise.
//!
//! Postgres holds the lease and the place. While the runner gives its word the job is its own; when it hears that it is not,
//! it stops where it stands, and whatever it still had under way is harmless, as every task is guarded by versions and marks.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::time::{self, Instant};

use crate::dual::Engine;
use crate::dual::task::{Advance, TaskError};
use crate::jobs::pace::Pace;
use crate::jobs::spec::Spec;
use crate::jobs::work::Work;
use crate::stores::postgres::Postgres;
use crate::stores::postgres::jobs::{self as rows, JobRow, State, Wish};
use crate::telemetry::labels::JobEnd;

/// How long the lease on a job holds.
pub(super) const LEASE: Duration = Duration::from_secs(5);
/// How often its runner gives a word.
const BEAT: Duration = Duration::from_millis(500);
/// How often the stores are asked how they feel, at most.
const PROBE_PERIOD: Duration = Duration::from_millis(50);
/// How long a failing store is waited for before the job fails.
const STORE_PATIENCE: Duration = Duration::from_secs(600);
/// The pause after a failure, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a job begins anew because a store went back.
const RESTARTS_MAX: u32 = 10;
/// How much a rate of long ago counts: after so long, one part in e.
const RATE_SECONDS: f64 = 5.0;

/// Why a job ended before its end.
enum Stop {
    /// Somebody wished it.
    Cancelled,
    /// It is somebody else's by now.
    Lost,
    /// It cannot go on.
    Failed(TaskError),
}

impl From<TaskError> for Stop {
    fn from(error: TaskError) -> Self {
        Self::Failed(error)
    }
}

/// Somebody who watches.
pub(super) type Watch = Box<dyn Fn(&JobRow) + Send + Sync>;

/// A job under way.
pub(super) struct Runner {
    engine: Arc<Engine>,
    postgres: Postgres,
    spec: Spec,
    row: JobRow,
    pace: Pace,
    watch: Watch,
    last_beat: Instant,
    last_probe: Option<Instant>,
    /// When the rate was last looked at, and the keys seen by then.
    rated: (Instant, u64),
}

impl Runner {
    pub(super) fn new(engine: Arc<Engine>, postgres: Postgres, spec: Spec, row: JobRow, watch: Watch) -> Self {
        let (pace, seen) = (Pace::new(spec.pace), row.progress.seen);
        Self {
            engine,
            postgres,
            spec,
            row,
            pace,
            watch,
            last_beat: Instant::now(),
            last_probe: None,
            rated: (Instant::now(), seen),
        }
    }

    /// Runs the job to its end, and writes that down. Answers the row as it is then.
    pub(super) async fn run(mut self) -> JobRow {
        let metrics = self.engine.metrics().clone();
        let job = self.spec.job;
        metrics.set_job_running(job.label(), true);
        let outcome = Box::pin(self.work()).await;
        metrics.set_job_running(job.label(), false);
        let id = self.row.id.clone();
        self.row.progress.waiting = None;
        let end = match outcome {
            Ok(report) => {
                tracing::info!(job = id, "the {} is complete", job.name());
                self.row.report = Some(report);
                self.row.state = State::Done;
                JobEnd::Done
            }
            Err(Stop::Cancelled) => {
                tracing::info!(job = id, "the {} was cancelled", job.name());
                self.row.state = State::Cancelled;
                JobEnd::Cancelled
            }
            Err(Stop::Lost) => {
                tracing::warn!(job = id, "the {} is run by another process now", job.name());
                return self.row;
            }
            Err(Stop::Failed(error)) => {
                tracing::error!(job = id, %error, "the {} failed", job.name());
                self.row.error = Some(error.to_string());
                self.row.state = State::Failed;
                JobEnd::Failed
            }
        };
        metrics.job_ended(job.label(), end);
        self.write_end().await;
        (self.watch)(&self.row);
        self.row
    }

    /// The end must not be lost to a moment without Postgres: it is tried again until the lease would have ended anyway.
    async fn write_end(&self) {
        let began = Instant::now();
        while let Err(error) = rows::end(&self.postgres, &self.row).await {
            if began.elapsed() > LEASE {
                tracing::warn!(job = self.row.id, %error, "the end of a job could not be written down");
                return;
            }
            time::sleep(PAUSE_MIN).await;
        }
    }

    async fn work(&mut self) -> Result<Json, Stop> {
        let mut restarts = 0;
        let mut work = self.begin(None).await?;
        loop {
            self.heed().await?;
            let began = Instant::now();
            let effort = self.pace.effort();
            let engine = Arc::clone(&self.engine);
            match self.meanwhile(Box::pin(work.step(&engine, effort))).await? {
                Ok(advance) => {
                    self.advance(&advance);
                    self.row.place = work.place();
                    if advance.is_end {
                        return Ok(work.report());
                    }
                    if advance.is_turn {
                        self.keep_place().await?;
                    }
                    let took = began.elapsed();
                    let rest = self.pace.rest(&advance, took);
                    self.rest(rest).await?;
                    self.probe().await;
                }
                Err(error @ (TaskError::Store(_) | TaskError::Overtaken)) => {
                    if matches!(error, TaskError::Overtaken) {
                        restarts += 1;
                    }
                    if restarts > RESTARTS_MAX {
                        return Err(error.into());
                    }
                    tracing::debug!(job = self.row.id, %error, "a step failed");
                    self.row.progress.waiting = Some(error.to_string());
                    self.rest(PAUSE_MIN).await?;
                    work = self.begin(Some(work)).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Begins the work, or goes on with what there was of it, as soon as the stores are there.
    async fn begin(&mut self, mut before: Option<Work>) -> Result<Work, Stop> {
        let (began, mut pause) = (Instant::now(), PAUSE_MIN);
        loop {
            let (engine, spec, id, place) =
                (Arc::clone(&self.engine), self.spec.clone(), self.row.id.clone(), self.row.place.clone());
            let held = before.take();
            let begun = async {
                let work = match held {
                    Some(work) if work.holds(&engine).await? => work,
                    Some(_) | None => Work::begin(&engine, &id, &spec, place.as_ref()).await?,
                };
                let total = work.total(&engine, &spec).await?;
                Ok((work, total))
            };
            match self.meanwhile(begun).await? {
                Ok((work, total)) => {
                    self.row.progress.total = total;
                    self.row.place = work.place();
                    return Ok(work);
                }
                Err(TaskError::Store(reason)) if began.elapsed() < STORE_PATIENCE => {
                    self.row.progress.waiting = Some(reason);
                    self.rest(pause).await?;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for `work`, and gives a word meanwhile.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Stop> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = time::sleep_until(self.last_beat + BEAT) => drop(self.beat().await?),
            }
        }
    }

    /// Rests, unless somebody wishes an end of it.
    async fn rest(&mut self, rest: Duration) -> Result<(), Stop> {
        let until = Instant::now() + rest;
        while Instant::now() < until {
            self.meanwhile(time::sleep_until(until.min(Instant::now() + BEAT))).await?;
            self.heed().await?;
        }
        Ok(())
    }

    /// Writes the place down, however long Postgres is away.
    async fn keep_place(&mut self) -> Result<(), Stop> {
        while !self.beat().await? {
            self.rest(PAUSE_MIN).await?;
        }
        Ok(())
    }

    /// Gives a word: renews the lease, tells of the progress, hears a wish. Answers whether it was written down.
    async fn beat(&mut self) -> Result<bool, Stop> {
        self.last_beat = Instant::now();
        self.rate();
        match rows::beat(&self.postgres, &self.row, LEASE).await {
            Ok(Some(row)) => {
                self.row.wish = row.wish;
                (self.watch)(&self.row);
                Ok(true)
            }
            Ok(None) => Err(Stop::Lost),
            // Nobody else can take it up while Postgres is away.
            Err(error) => {
                tracing::debug!(job = self.row.id, %error, "the progress of a job could not be written down");
                Ok(false)
            }
        }
    }

    /// Does what somebody wished.
    async fn heed(&mut self) -> Result<(), Stop> {
        loop {
            match self.row.wish {
                Some(Wish::Cancel) => return Err(Stop::Cancelled),
                Some(Wish::Pause) => self.row.state = State::Paused,
                Some(Wish::Resume) => self.row.state = State::Running,
                None => {}
            }
            // The next word says that the wish was heeded.
            if self.row.wish.is_some() {
                self.beat().await?;
            }
            if self.row.state != State::Paused {
                return Ok(());
            }
            self.row.progress.rate = 0;
            self.meanwhile(time::sleep(BEAT)).await?;
        }
    }

    fn advance(&mut self, advance: &Advance) {
        let progress = &mut self.row.progress;
        progress.seen += advance.seen;
        progress.done += advance.done;
        progress.bytes += advance.bytes;
        self.engine.metrics().job_advanced(self.spec.job.label(), advance.seen, advance.bytes);
    }

    async fn probe(&mut self) {
        if self.last_probe.is_some_and(|at| at.elapsed() < PROBE_PERIOD) {
            return;
        }
        self.last_probe = Some(Instant::now());
        let engine = Arc::clone(&self.engine);
        if let Ok(probe) = engine.probe().await {
            if let Some(brake) = self.pace.note(probe, Instant::now()) {
                self.engine.metrics().job_braked(brake);
                tracing::info!(job = self.row.id, reason = self.pace.waiting(), "the job slows down");
            }
            self.row.progress.waiting = self.pace.waiting();
        }
    }

    /// The rate as it was lately, so that one slow page does not upset the time that is left.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate for people"
    )]
    fn rate(&mut self) {
        let (at, seen) = self.rated;
        let seconds = at.elapsed().as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let now = (self.row.progress.seen - seen) as f64 / seconds;
        let weight = (-seconds / RATE_SECONDS).exp();
        let before = if self.row.progress.rate == 0 { now } else { self.row.progress.rate as f64 };
        self.row.progress.rate = (before * weight + now * (1.0 - weight)) as u64;
        self.rated = (Instant::now(), self.row.progress.seen);
    }
}
