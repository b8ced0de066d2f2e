//! The batcher: mirrored writes that arrive together go to Redis in one EXEC with one mark before them (W1).
//!
//! A job is what one caller wants done in order. One without a mark goes to the lane at once, which gathers by itself. One
//! with a mark runs inside the EXEC as a whole, so that a command which Redis refuses to queue fails alone and all others
//! keep their order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::dual::gaps;
use crate::dual::plan::{self, EXEC_COMMANDS_MAX, Step};
use crate::model::command::Command;
use crate::model::frame::Frame;
use crate::stores::redis::connection::{Redis, RedisError};
use crate::stores::redis::lane::Lane;
use crate::stores::redis::lease;
use crate::telemetry::labels::GapCause;
use crate::telemetry::metrics::Metrics;

/// Jobs that may wait.
const JOBS_MAX: usize = 16_384;
/// Batches under way at once. Few, so that what waits meanwhile shares the next one.
const BATCHES_MAX: usize = 4;

/// What one caller wants done in order.
struct Job {
    steps: Vec<Step>,
    /// Whether all of it is one transaction, as the caller asked.
    is_atomic: bool,
    /// When it was handed over.
    since: Instant,
    done: oneshot::Sender<Result<Done, RedisError>>,
}

/// What became of a job.
#[derive(Debug)]
pub(crate) enum Done {
    /// It ran; a frame for each step.
    Ran(Vec<Frame>),
    /// Nothing of a caller's transaction ran, for this error.
    Aborted(Frame),
}

/// Hands jobs to Redis: what leaves no mark at once, what leaves one together with what arrives beside it.
pub(crate) struct Batcher {
    lane: Arc<Lane>,
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
    /// Starts the batcher of one lane, on the runtime that calls it.
    pub(crate) fn start(shared: Arc<Shared>, lane: Arc<Lane>) -> Self {
        let (sender, receiver) = mpsc::channel(JOBS_MAX);
        tokio::spawn(run(Arc::new(Batch { shared, lane: Arc::clone(&lane) }), receiver));
        Self { lane, sender }
    }

    /// Does the steps in order; a frame each.
    ///
    /// # Errors
    /// When Redis fails; after sending the outcome is unknown.
    ///
    /// # Cancel safety
    /// All of the steps are sent, or none.
    pub(crate) async fn submit(&self, steps: Vec<Step>) -> Result<Vec<Frame>, RedisError> {
        if steps.iter().all(|step| step.touches.is_empty()) {
            let commands: Vec<Command> = steps.into_iter().map(|step| step.command).collect();
            return self.lane.ask(&commands).await;
        }
        match self.hand_over(steps, false).await? {
            Done::Ran(frames) => Ok(frames),
            Done::Aborted(error) => Err(RedisError::Answered(error.error().unwrap_or_default())),
        }
    }

    /// Does the steps as one transaction of the caller's.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub(crate) async fn transact(&self, steps: Vec<Step>) -> Result<Done, RedisError> {
        self.hand_over(steps, true).await
    }

    async fn hand_over(&self, steps: Vec<Step>, is_atomic: bool) -> Result<Done, RedisError> {
        let (done, answer) = oneshot::channel();
        let job = Job { steps, is_atomic, since: Instant::now(), done };
        if self.sender.try_send(job).is_err() {
            return Err(RedisError::Overloaded);
        }
        answer.await.unwrap_or_else(|_| Err(RedisError::Unknown("the sidecar is stopping".to_owned())))
    }
}

async fn run(batch: Arc<Batch>, mut receiver: mpsc::Receiver<Job>) {
    let permits = Arc::new(Semaphore::new(BATCHES_MAX));
    let mut waiting = Vec::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        if receiver.recv_many(&mut waiting, EXEC_COMMANDS_MAX).await == 0 {
            return;
        }
        let jobs = std::mem::take(&mut waiting);
        let batch = Arc::clone(&batch);
        tokio::spawn(async move {
            batch.send(jobs).await;
            drop(permit);
        });
    }
}

/// Sends batches over one lane.
struct Batch {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
}

/// Jobs whose steps stand one behind the other in one EXEC.
struct Group {
    jobs: Vec<Job>,
}

impl Batch {
    /// Sends jobs that arrived together in one EXEC, or a few.
    async fn send(&self, jobs: Vec<Job>) {
        let deadline = self.shared.deadline;
        let (late, jobs): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.since.elapsed() >= deadline);
        fail(late, &RedisError::Late);
        let mut groups: Vec<Group> = Vec::new();
        let mut count = usize::MAX;
        for job in jobs {
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
        futures_util::future::join_all(groups.into_iter().map(|group| self.exec_group(group))).await;
    }

    async fn exec_group(&self, group: Group) {
        let steps: Vec<Step> = group.jobs.iter().flat_map(|job| job.steps.iter().cloned()).collect();
        if group.jobs.iter().any(|job| job.is_atomic) {
            let mut outcome = Some(self.transaction(&steps).await);
            // It has its EXEC to itself.
            for job in group.jobs {
                drop(outcome.take().map(|outcome| job.done.send(outcome)));
            }
            return;
        }
        match self.exec(steps).await {
            Ok(frames) => {
                let mut frames = frames.into_iter();
                for job in group.jobs {
                    let own = frames.by_ref().take(job.steps.len()).collect();
                    drop(job.done.send(Ok(Done::Ran(own))));
                }
            }
            Err(error) => fail(group.jobs, &error),
        }
    }

    /// Runs steps in one EXEC. A step that Redis refuses to queue is left out, and the others are tried again without it.
    async fn exec(&self, steps: Vec<Step>) -> Result<Vec<Frame>, RedisError> {
        let began = Instant::now();
        let mut answers: Vec<Option<Frame>> = vec![None; steps.len()];
        loop {
            let open: Vec<usize> =
                (0..steps.len()).filter(|index| answers.get(*index).is_some_and(Option::is_none)).collect();
            if open.is_empty() {
                break;
            }
            if began.elapsed() >= self.shared.deadline {
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
                Attempt::Refused { mark, steps: refused, .. } if is_full(mark.as_ref(), &refused) => {
                    for (index, reply) in open.into_iter().zip(self.when_full(&chosen).await?) {
                        if let Some(answer) = answers.get_mut(index) {
                            *answer = Some(reply);
                        }
                    }
                }
                Attempt::Refused { mark: Some(error), .. } => {
                    for index in open {
                        if let Some(answer) = answers.get_mut(index) {
                            *answer = Some(error.clone());
                        }
                    }
                }
                Attempt::Refused { steps: refused, abort, .. } => {
                    if refused.is_empty() {
                        // Aborted, and nobody is to blame: all of them are told.
                        for index in open {
                            if let Some(answer) = answers.get_mut(index) {
                                *answer = Some(abort.clone());
                            }
                        }
                    } else {
                        for (place, error) in refused {
                            if let Some(answer) = open.get(place).and_then(|index| answers.get_mut(*index)) {
                                *answer = Some(error);
                            }
                        }
                    }
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// Runs a caller's own transaction.
    async fn transaction(&self, steps: &[Step]) -> Result<Done, RedisError> {
        match self.attempt(steps).await? {
            Attempt::Done(frames) => Ok(Done::Ran(frames)),
            Attempt::Refused { steps, abort, .. } => Ok(Done::Aborted(match steps.into_iter().next() {
                Some((_, error)) => {
                    let reason = error.error().unwrap_or_default();
                    Frame::error_of(&format!("EXECABORT Transaction discarded because of: {reason}"))
                }
                None => abort,
            })),
        }
    }

    /// Runs steps where Redis is full: one script, as an EXEC is refused whatever it holds. A frame each.
    async fn when_full(&self, steps: &[Step]) -> Result<Vec<Frame>, RedisError> {
        let answer = self.lane.ask(&[plan::full(steps, &self.shared.token())]).await?.pop();
        let Some(answer) = answer else { return Err(RedisError::Form("a script without an answer")) };
        match answer.parts() {
            Some(frames) if frames.len() == steps.len() => Ok(frames),
            None if answer.is_error() => Ok(vec![answer; steps.len()]),
            Some(_) | None => Err(RedisError::Form("a script that does not answer each command")),
        }
    }

    async fn attempt(&self, steps: &[Step]) -> Result<Attempt, RedisError> {
        let exec = plan::exec(steps, &self.shared.token());
        let mut queued = self.lane.ask(&exec.commands).await?;
        let answer = queued.pop().ok_or(RedisError::Form("an EXEC without an answer"))?;
        let error_at = |place: usize| queued.get(place).filter(|frame| frame.is_error()).cloned();
        if answer.is_error() {
            let refused = |step| error_at(exec.place(step)).map(|error| (step, error));
            let mark = exec.mark_places().find_map(error_at).or_else(|| error_at(0));
            let steps = (0..steps.len()).filter_map(refused).collect();
            return Ok(Attempt::Refused { mark, steps, abort: answer });
        }
        let frames = answer.parts().ok_or(RedisError::Form("an EXEC that answers neither an array nor an error"))?;
        let marks = exec.mark_places().map(|place| place - 1);
        if marks.filter_map(|place| frames.get(place)).any(Frame::is_error) {
            self.shared.mark_failed(steps).await;
        }
        let own =
            |step| frames.get(exec.reply_place(step)).cloned().ok_or(RedisError::Form("an EXEC that is too short"));
        Ok(Attempt::Done((0..steps.len()).map(own).collect::<Result<_, _>>()?))
    }
}

impl Shared {
    /// A mark failed though its EXEC ran: from now on nobody may trust the outbox (W1).
    pub(super) async fn mark_failed(&self, steps: &[Step]) {
        self.metrics.mark_failed();
        self.marks_are_broken.store(true, Ordering::Release);
        tracing::error!("a mark failed though its write ran: the outbox is not what we made it");
        self.close_gates(steps).await;
    }

    /// Writes went by unmarked: no sidecar may read their kinds from Postgres before they are backfilled again, not even when
    /// the outbox is repaired meanwhile or we are not there any more (W1).
    async fn close_gates(&self, steps: &[Step]) {
        let mut kinds: Vec<String> =
            steps.iter().flat_map(|step| &step.touches).map(|touch| touch.kind.name.clone()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let are_told = lease::forget_backfilled(&self.redis, &kinds).await.is_ok()
            && gaps::note(&self.redis, GapCause::MarkFailed, &kinds).await.is_ok();
        if !are_told {
            tracing::error!("the fleet could not be told that writes went by unmarked: roll back and backfill again");
        }
    }
}

enum Attempt {
    /// It ran; a frame for each step.
    Done(Vec<Frame>),
    /// Nothing ran: the mark or some steps were refused when they were queued.
    Refused { mark: Option<Frame>, steps: Vec<(usize, Frame)>, abort: Frame },
}

/// Whether the mark or a step was refused because Redis is full: inside MULTI it then refuses whatever comes.
fn is_full(mark: Option<&Frame>, steps: &[(usize, Frame)]) -> bool {
    mark.into_iter().chain(steps.iter().map(|(_, error)| error)).any(|error| error.bytes().starts_with(b"-OOM"))
}

fn fail(jobs: Vec<Job>, error: &RedisError) {
    for job in jobs {
        drop(job.done.send(Err(error.clone())));
    }
}
