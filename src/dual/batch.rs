//! The batcher: what arrives together goes to Redis together, mirrored writes in one EXEC with one mark before them (W1).
//!
//! A job is what one caller wants done in order. Jobs that wait are sent as one pipeline; from its first mirrored write on
//! a job runs inside the EXEC, so that a command which Redis refuses to queue fails alone and all others keep their order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::dual::plan::{self, EXEC_COMMANDS_MAX, Step};
use crate::model::command::Command;
use crate::model::reply::Reply;
use crate::stores::redis::connection::{Redis, RedisError};
use crate::stores::redis::lease;
use crate::telemetry::metrics::Metrics;

/// Jobs that may wait.
const JOBS_MAX: usize = 16_384;
/// Pipelines under way at once. Few, so that what waits meanwhile shares the next one.
const PIPELINES_MAX: usize = 4;

/// What one caller wants done in order.
pub(crate) struct Job {
    /// The steps.
    pub(crate) steps: Vec<Step>,
    /// Whether all of it is one transaction, as the caller asked.
    pub(crate) is_atomic: bool,
    /// When it was handed over.
    since: Instant,
    done: oneshot::Sender<Result<Vec<Reply>, RedisError>>,
}

impl Job {
    fn is_marked(&self) -> bool {
        self.steps.iter().any(|step| !step.touches.is_empty())
    }
}

/// Hands jobs to the batcher.
pub(crate) struct Batcher {
    sender: mpsc::Sender<Job>,
}

/// What all batches share.
pub(crate) struct Shared {
    redis: Arc<Redis>,
    /// After this long a job is not sent any more: a barrier counts on it (S2).
    deadline: Duration,
    instance: String,
    sequence: AtomicU64,
    metrics: Metrics,
    /// Set when a mark failed though its EXEC ran: somebody wrote over the outbox, and no read may trust Postgres (W1).
    pub(crate) marks_are_broken: AtomicBool,
}

impl Shared {
    pub(crate) fn new(redis: Arc<Redis>, deadline: Duration, instance: &str, metrics: Metrics) -> Self {
        // An instance may keep its name when it starts again, a token never comes again.
        let instance = format!("{instance}.{:08x}", rand::random::<u32>());
        Self {
            redis,
            deadline,
            instance,
            sequence: AtomicU64::new(0),
            metrics,
            marks_are_broken: AtomicBool::new(false),
        }
    }

    /// A token that no other mark ever has.
    pub(crate) fn token(&self) -> String {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        format!("{}-{}-{sequence}", chrono::Utc::now().timestamp_millis(), self.instance)
    }
}

impl Batcher {
    /// Starts the batcher.
    pub(crate) fn start(shared: Arc<Shared>) -> Self {
        let (sender, receiver) = mpsc::channel(JOBS_MAX);
        tokio::spawn(run(shared, receiver));
        Self { sender }
    }

    /// Does the steps in order and answers a reply each (for a transaction, its one reply).
    ///
    /// # Errors
    /// When Redis fails; after sending the outcome is unknown.
    pub(crate) async fn submit(&self, steps: Vec<Step>, is_atomic: bool) -> Result<Vec<Reply>, RedisError> {
        let (done, answer) = oneshot::channel();
        let job = Job { steps, is_atomic, since: Instant::now(), done };
        if self.sender.try_send(job).is_err() {
            return Err(RedisError::Overloaded);
        }
        answer.await.unwrap_or_else(|_| Err(RedisError::Unknown("the sidecar is stopping".to_owned())))
    }
}

async fn run(shared: Arc<Shared>, mut receiver: mpsc::Receiver<Job>) {
    let permits = Arc::new(Semaphore::new(PIPELINES_MAX));
    let mut waiting = Vec::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        if receiver.recv_many(&mut waiting, EXEC_COMMANDS_MAX).await == 0 {
            return;
        }
        let jobs = std::mem::take(&mut waiting);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            shared.batch(jobs).await;
            drop(permit);
        });
    }
}

/// Jobs whose steps stand one behind the other in one EXEC.
struct Group {
    jobs: Vec<Job>,
}

impl Shared {
    /// Sends jobs that arrived together: one pipeline for those without marks, one EXEC (or a few) for the others.
    async fn batch(&self, jobs: Vec<Job>) {
        let (late, jobs): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.since.elapsed() >= self.deadline);
        fail(late, &RedisError::Late);
        let (marked, plain): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.is_marked() || job.is_atomic);
        let mut groups: Vec<Group> = Vec::new();
        let mut count = usize::MAX;
        for job in marked {
            // A caller's transaction has an EXEC to itself: it fails or runs as a whole.
            let shares = !job.is_atomic && count.saturating_add(job.steps.len()) <= EXEC_COMMANDS_MAX;
            count = if job.is_atomic {
                usize::MAX
            } else if shares {
                count + job.steps.len()
            } else {
                job.steps.len()
            };
            match groups.last_mut() {
                Some(group) if shares => group.jobs.push(job),
                Some(_) | None => groups.push(Group { jobs: vec![job] }),
            }
        }
        let execs = groups.into_iter().map(|group| self.exec_group(group));
        tokio::join!(self.plain(plain), futures_util::future::join_all(execs));
    }

    async fn plain(&self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let commands: Vec<Command> =
            jobs.iter().flat_map(|job| job.steps.iter().map(|step| step.command.clone())).collect();
        match self.redis.pipeline(&commands).await {
            Ok(replies) => {
                let mut replies = replies.into_iter();
                for job in jobs {
                    let own = replies.by_ref().take(job.steps.len()).collect();
                    let _ = job.done.send(Ok(own));
                }
            }
            Err(error) => fail(jobs, &error),
        }
    }

    async fn exec_group(&self, group: Group) {
        let is_atomic = group.jobs.iter().any(|job| job.is_atomic);
        let steps: Vec<Step> = group.jobs.iter().flat_map(|job| job.steps.iter().cloned()).collect();
        let outcome = if is_atomic { self.transaction(&steps).await } else { self.exec(steps).await };
        match outcome {
            Ok(replies) => {
                let mut replies = replies.into_iter();
                for job in group.jobs {
                    let count = if is_atomic { 1 } else { job.steps.len() };
                    let _ = job.done.send(Ok(replies.by_ref().take(count).collect()));
                }
            }
            Err(error) => fail(group.jobs, &error),
        }
    }

    /// Runs steps in one EXEC. A step that Redis refuses to queue is left out, and the others are tried again without it.
    async fn exec(&self, steps: Vec<Step>) -> Result<Vec<Reply>, RedisError> {
        let began = Instant::now();
        let mut answers: Vec<Option<Reply>> = vec![None; steps.len()];
        loop {
            let open: Vec<usize> =
                (0..steps.len()).filter(|index| answers.get(*index).is_some_and(Option::is_none)).collect();
            if open.is_empty() {
                break;
            }
            if began.elapsed() >= self.deadline {
                return Err(RedisError::Unknown("redis refused too many commands in turn".to_owned()));
            }
            let chosen: Vec<Step> = open.iter().filter_map(|index| steps.get(*index).cloned()).collect();
            match self.attempt(&chosen).await? {
                Attempt::Done(replies) => {
                    for (index, reply) in open.into_iter().zip(replies) {
                        if let Some(answer) = answers.get_mut(index) {
                            *answer = Some(reply);
                        }
                    }
                }
                Attempt::Refused { mark, steps: refused, .. } if is_full(mark.as_deref(), &refused) => {
                    for (index, reply) in open.into_iter().zip(self.when_full(&chosen).await?) {
                        if let Some(answer) = answers.get_mut(index) {
                            *answer = Some(reply);
                        }
                    }
                }
                Attempt::Refused { mark: Some(error), .. } => {
                    for index in open {
                        if let Some(answer) = answers.get_mut(index) {
                            *answer = Some(Reply::Error(error.clone()));
                        }
                    }
                }
                Attempt::Refused { steps: refused, abort, .. } => {
                    if refused.is_empty() {
                        // Aborted, and nobody is to blame: all of them are told.
                        for index in open {
                            if let Some(answer) = answers.get_mut(index) {
                                *answer = Some(Reply::Error(abort.clone()));
                            }
                        }
                    } else {
                        for (place, error) in refused {
                            if let Some(answer) = open.get(place).and_then(|index| answers.get_mut(*index)) {
                                *answer = Some(Reply::Error(error));
                            }
                        }
                    }
                }
            }
        }
        Ok(answers.into_iter().map(|answer| answer.unwrap_or(Reply::Nil)).collect())
    }

    /// Runs a caller's own transaction: one reply for all of it, as EXEC would have given.
    async fn transaction(&self, steps: &[Step]) -> Result<Vec<Reply>, RedisError> {
        match self.attempt(steps).await? {
            Attempt::Done(replies) => Ok(vec![Reply::Array(replies)]),
            Attempt::Refused { steps, abort, .. } => {
                let reason = match steps.into_iter().next() {
                    Some((_, error)) => format!("EXECABORT Transaction discarded because of: {error}"),
                    None => abort,
                };
                Ok(vec![Reply::Error(reason)])
            }
        }
    }

    /// Runs steps where Redis is full: one script, as an EXEC is refused whatever it holds. A reply each.
    async fn when_full(&self, steps: &[Step]) -> Result<Vec<Reply>, RedisError> {
        let answer = self.redis.pipeline(&[plan::full(steps, &self.token())]).await?.pop();
        match answer {
            Some(Reply::Array(replies)) if replies.len() == steps.len() => Ok(replies),
            Some(Reply::Error(error)) => Ok(vec![Reply::Error(error); steps.len()]),
            Some(Reply::Array(_) | Reply::Nil | Reply::Status(_) | Reply::Integer(_) | Reply::Bulk(_)) | None => {
                Err(RedisError::Form("a script that does not answer each command"))
            }
        }
    }

    async fn attempt(&self, steps: &[Step]) -> Result<Attempt, RedisError> {
        let exec = plan::exec(steps, &self.token());
        let mut queued = self.redis.pipeline(&exec.commands).await?;
        let answer = queued.pop().ok_or(RedisError::Form("an EXEC without an answer"))?;
        let error_at = |place: usize| queued.get(place).and_then(Reply::error).map(str::to_owned);
        match answer {
            Reply::Array(replies) => {
                let marks = exec.mark_places().map(|place| place - 1);
                if marks.filter_map(|place| replies.get(place)).any(|reply| reply.error().is_some()) {
                    self.metrics.mark_failed();
                    self.marks_are_broken.store(true, Ordering::Release);
                    tracing::error!("a mark failed though its write ran: the outbox is not what we made it");
                    self.close_gates(steps).await;
                }
                let mut replies: Vec<Option<Reply>> = replies.into_iter().map(Some).collect();
                let own = |step| replies.get_mut(exec.reply_place(step)).and_then(Option::take).unwrap_or(Reply::Nil);
                Ok(Attempt::Done((0..steps.len()).map(own).collect()))
            }
            Reply::Error(abort) => {
                let refused = |step| error_at(exec.place(step)).map(|error| (step, error));
                let mark = exec.mark_places().find_map(error_at).or_else(|| error_at(0));
                Ok(Attempt::Refused { mark, steps: (0..steps.len()).filter_map(refused).collect(), abort })
            }
            Reply::Nil | Reply::Status(_) | Reply::Integer(_) | Reply::Bulk(_) => {
                Err(RedisError::Form("an EXEC that answers neither an array nor an error"))
            }
        }
    }
}

impl Shared {
    /// Writes went by unmarked: no sidecar may read their kinds from Postgres before they are backfilled again, not even when
    /// the outbox is repaired meanwhile or we are not there any more (W1).
    async fn close_gates(&self, steps: &[Step]) {
        let mut kinds: Vec<String> =
            steps.iter().flat_map(|step| &step.touches).map(|touch| touch.kind.name.clone()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        if lease::forget_backfilled(&self.redis, &kinds).await.is_err() {
            tracing::error!("the fleet could not be told that writes went by unmarked: roll back and backfill again");
        }
    }
}

enum Attempt {
    /// It ran; a reply for each step.
    Done(Vec<Reply>),
    /// Nothing ran: the mark or some steps were refused when they were queued.
    Refused { mark: Option<String>, steps: Vec<(usize, String)>, abort: String },
}

/// Whether the mark or a step was refused because Redis is full: inside MULTI it then refuses whatever comes.
fn is_full(mark: Option<&str>, steps: &[(usize, String)]) -> bool {
    mark.into_iter().chain(steps.iter().map(|(_, error)| error.as_str())).any(|error| error.starts_with("OOM"))
}

fn fail(jobs: Vec<Job>, error: &RedisError) {
    for job in jobs {
        let _ = job.done.send(Err(error.clone()));
    }
}
