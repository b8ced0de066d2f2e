//! The drain: captures what is marked, applies it, and acknowledges it after the commit (rules C1-C4, A1-A3).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::Instant;

use crate::dual::lineage::Lineage;
use crate::dual::queue::{Owed, Queue};
use crate::dual::settle::{self, Due};
use crate::dual::whole;
use crate::model::catalog::Kind;
use crate::model::key::Key;
use crate::stores::postgres::Postgres;
use crate::stores::postgres::apply::{self, Applied, Basis};
use crate::stores::postgres::journal::{self, DeadLetter};
use crate::stores::postgres::pool::PostgresError;
use crate::stores::postgres::rows::Item;
use crate::stores::redis::Redis;
use crate::stores::redis::capture::{self, CAPTURE_RECORDS_MAX, Captured, Purpose, Stamp, Token, Wanted};
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::marks::{self, Ack};
use crate::telemetry::labels::{ApplyFailure, CaptureRefusal, Operation, Store};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Traces;

/// Records that one round of the drain takes on.
const ROUND_RECORDS_MAX: usize = 512;
/// Rounds under way at once.
const WORKERS: usize = 2;
/// Collections that are captured whole at once, each with a connection to Postgres.
pub(crate) const WHOLES_MAX: usize = 4;
/// How long a worker rests after a full round, and how many times as long as its round took it rests at most. What is written
/// meanwhile shares the next round, and a record that is written often is captured once for all of it; the stores keep most
/// of their time for callers. After a round that was nearly empty it nearly does not rest.
const REST_MAX: Duration = Duration::from_millis(100);
const REST_ROUNDS: u32 = 3;
/// How long the drain pauses after a failure, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Why a record could not be brought to Postgres now. Its mark stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DrainError {
    /// Redis' side.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// Postgres' side.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

/// Brings marked records to Postgres.
pub(super) struct Drain {
    pub(crate) redis: Arc<Redis>,
    pub(crate) postgres: Postgres,
    pub(crate) lineage: Arc<Lineage>,
    pub(crate) metrics: Metrics,
    pub(crate) traces: Traces,
    queue: Arc<Queue>,
    /// Marks among the dead letters: not captured again until a new token comes.
    dead: Mutex<HashMap<Key, Token>>,
}

/// What is to be written of a record, and what is then to be acknowledged.
pub(crate) struct Pending {
    pub(crate) key: Key,
    pub(crate) kind: Arc<Kind>,
    pub(crate) item: Item,
    pub(crate) ack: Ack,
}

/// How a record was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Its capture is committed: whoever waits is told.
    Committed,
    /// It is among the dead letters, and whoever waits learns that nothing is known.
    Buried,
}

impl Drain {
    pub(crate) fn new(
        redis: Arc<Redis>,
        postgres: Postgres,
        lineage: Arc<Lineage>,
        metrics: Metrics,
        queue: Arc<Queue>,
        traces: Traces,
    ) -> Self {
        Self { redis, postgres, lineage, metrics, traces, queue, dead: Mutex::default() }
    }

    /// Drains for ever.
    pub(crate) fn start(self: &Arc<Self>) {
        for _ in 0..WORKERS {
            tokio::spawn(Arc::clone(self).run());
        }
    }

    async fn run(self: Arc<Self>) {
        let mut pause = PAUSE_MIN;
        loop {
            let owed = self.queue.take(ROUND_RECORDS_MAX).await;
            let taken = owed.len();
            let began = Instant::now();
            match self.round(owed).await {
                Ok(()) => {
                    pause = PAUSE_MIN;
                    self.queue.rest(rest(taken, began.elapsed())).await;
                }
                Err(error) => {
                    self.report(&error);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    fn report(&self, error: &DrainError) {
        match error {
            DrainError::Redis(RedisError::Answered(text)) if text.starts_with("LINEAGE") => {
                self.metrics.capture_refused(if text.contains("no anchor") {
                    CaptureRefusal::NoAnchor
                } else {
                    CaptureRefusal::OtherRun
                });
                self.lineage.doubt();
            }
            DrainError::Redis(_) => self.metrics.store_error(Store::Redis, Operation::Capture),
            DrainError::Postgres(PostgresError::Superseded) => self.metrics.apply_failed(ApplyFailure::Epoch, 1),
            DrainError::Postgres(PostgresError::WentBack) => self.lineage.doubt(),
            DrainError::Postgres(_) => self.metrics.store_error(Store::Postgres, Operation::Apply),
        }
        tracing::debug!(%error, "a round of the drain failed and will be repeated");
    }

    /// One round: whatever could not be done is put back before the error is told.
    async fn round(&self, owed: Vec<Owed>) -> Result<(), DrainError> {
        let taken = owed.len();
        let mut by_key: HashMap<Key, Owed> = owed.into_iter().map(|owed| (owed.key.clone(), owed)).collect();
        let span = self.traces.apply(taken, by_key.values().flat_map(|owed| &owed.origins));
        let outcome = span.run(self.settle(&mut by_key)).await;
        self.queue.put_back(by_key.into_values().collect(), taken);
        outcome
    }

    /// Captures and applies all of `owed`, and takes from it what is done.
    async fn settle(&self, owed: &mut HashMap<Key, Owed>) -> Result<(), DrainError> {
        let wanted: Vec<Wanted> =
            owed.values().map(|owed| (owed.key.clone(), settle::shape(&owed.kind), Bytes::new())).collect();
        let captures = wanted.chunks(CAPTURE_RECORDS_MAX).map(|chunk| {
            let span = self.traces.redis_script("capture");
            span.run(capture::capture(&self.redis, chunk, Purpose::Drain))
        });
        let mut pending: BTreeMap<i64, (Basis, Vec<Pending>)> = BTreeMap::new();
        let (mut wholes, mut unproven) = (Vec::new(), Vec::new());
        for captured in futures_util::future::join_all(captures).await {
            let (stamp, records) = captured?;
            self.metrics.captured(u64::try_from(records.len()).unwrap_or(0));
            for record in records {
                let Some(kind) = owed.get(&record.key).map(|owed| Arc::clone(&owed.kind)) else { continue };
                let key = record.key.clone();
                match self.due(&kind, &stamp, record).await {
                    // A vanished mark proves nothing to somebody who waits (W4): the record is marked and captured again.
                    Due::Nothing if owed.get(&key).is_some_and(|owed| !owed.waiters.is_empty()) => unproven.push(key),
                    Due::Nothing => drop(owed.remove(&key)),
                    Due::Later => {}
                    Due::Dead(_) => drop(owed.remove(&key)),
                    Due::Whole => wholes.push(key),
                    Due::Write(item, ack) => {
                        let basis = Basis { epoch: stamp.epoch, beat: stamp.beat };
                        let (known, batch) = pending.entry(stamp.epoch).or_insert((basis, Vec::new()));
                        known.beat = known.beat.max(basis.beat);
                        batch.push(Pending { key, kind, item: *item, ack });
                    }
                }
            }
        }
        marks::repair(&self.redis, &self.lineage.repair_token(), &unproven, false).await?;
        for (basis, batch) in pending.into_values() {
            for (key, settled) in self.commit(basis, batch).await? {
                self.done(owed.remove(&key), settled);
            }
        }
        let kinds = wholes.into_iter().filter_map(|key| Some((Arc::clone(&owed.get(&key)?.kind), key)));
        let brought: Vec<_> = futures_util::stream::iter(kinds.collect::<Vec<_>>())
            .map(async |(kind, key)| {
                let span = self.traces.whole(&kind.name);
                (span.run(whole::bring(self, &kind, &key, Purpose::Drain)).await, key)
            })
            .buffer_unordered(WHOLES_MAX)
            .collect()
            .await;
        let mut outcome = Ok(());
        for (settled, key) in brought {
            match settled {
                Ok(Some(settled)) => self.done(owed.remove(&key), settled),
                Ok(None) => {}
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    async fn due(&self, kind: &Kind, stamp: &Stamp, record: Captured) -> Due {
        let (key, token) = (record.key.clone(), record.token.clone());
        let known = self.dead.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if known.as_ref() == Some(&token) && !token.is_none() {
            return Due::Dead("known");
        }
        let due = settle::due(kind, stamp, record);
        if let Due::Dead(reason) = &due {
            self.bury(kind, &key, &token, reason).await;
        }
        due
    }

    fn done(&self, owed: Option<Owed>, settled: Settled) {
        let Some(owed) = owed.filter(|_| settled == Settled::Committed) else { return };
        self.metrics.mirror_lag(&owed.kind.name, owed.since.elapsed());
        self.traces.settled(&owed.origins);
        for waiter in owed.waiters {
            let _ = waiter.send(());
        }
    }

    /// Applies a batch and acknowledges it. Rows that Postgres refuses are found by halving, and do not hold up the others.
    ///
    /// Answers the records that are settled one way or the other.
    pub(crate) async fn commit(&self, basis: Basis, batch: Vec<Pending>) -> Result<Vec<(Key, Settled)>, DrainError> {
        let mut settled = Vec::with_capacity(batch.len());
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            let items: Vec<Item> = part.iter().map(|pending| pending.item.clone()).collect();
            let began = Instant::now();
            let span = self.traces.postgres("INSERT", None, items.len());
            match span.run(apply::apply(&self.postgres, basis, &items)).await {
                Ok(applied) => {
                    self.metrics.store_latency(Store::Postgres, Operation::Apply, began.elapsed());
                    self.applied(&applied);
                    self.acknowledge(basis.epoch, &part).await?;
                    settled.extend(part.into_iter().map(|pending| (pending.key, Settled::Committed)));
                }
                Err(error) if error.is_of_a_row() && part.len() > 1 => {
                    let other = part.split_off(part.len() / 2);
                    parts.push(other);
                    parts.push(part);
                }
                Err(error) if error.is_of_a_row() => {
                    for Pending { key, kind, ack, .. } in part {
                        self.bury(&kind, &key, token_of(&ack), &reason(&error)).await;
                        settled.push((key, Settled::Buried));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(settled)
    }

    pub(crate) fn applied(&self, applied: &Applied) {
        self.metrics.applied();
        for (table, rows) in &applied.upserts {
            self.metrics.upserted(table, u64::try_from(*rows).unwrap_or(0));
        }
        for kind in &applied.evicted {
            self.metrics.evicted_while_pending(kind);
        }
    }

    async fn acknowledge(&self, epoch: i64, part: &[Pending]) -> Result<(), DrainError> {
        let owed = |pending: &&Pending| matches!(pending.ack, Ack::Log { .. }) || !token_of(&pending.ack).is_none();
        let acks: Vec<(Key, Ack)> =
            part.iter().filter(owed).map(|pending| (pending.key.clone(), pending.ack.clone())).collect();
        for chunk in acks.chunks(CAPTURE_RECORDS_MAX) {
            self.traces.redis_script("ack").run(marks::ack(&self.redis, epoch, chunk)).await?;
        }
        for pending in part {
            if let Item::Log { missing, .. } = &pending.item
                && *missing > 0
            {
                self.metrics.log_gap(&pending.kind.name, u64::try_from(*missing).unwrap_or(0));
            }
            self.dead.lock().unwrap_or_else(PoisonError::into_inner).remove(&pending.key);
        }
        Ok(())
    }

    /// Puts a record among the dead letters. Its mark stays, so that live reads go on asking Redis; one that had none (a
    /// backfill came upon it) gets one, since the row that is there may be older.
    pub(crate) async fn bury(&self, kind: &Kind, key: &Key, token: &Token, reason: &str) {
        let given = Token(self.lineage.repair_token().into());
        let token = if token.is_none() { &given } else { token };
        if *token == given && self.mark_again(key, token).await.is_err() {
            tracing::warn!(key.kind = %kind.name, ?key, "a dead letter could not be marked");
        }
        self.metrics.dead_letter(&kind.name);
        tracing::error!(key.kind = %kind.name, ?key, reason, "a record cannot be mirrored and is among the dead letters");
        self.dead.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), token.clone());
        let letter =
            DeadLetter { key: key.clone(), token: token.0.clone(), kind: kind.name.clone(), reason: reason.to_owned() };
        if let Err(error) = journal::dead_letter(&self.postgres, &letter).await {
            tracing::warn!(%error, "a dead letter could not be written down");
        }
    }

    async fn mark_again(&self, key: &Key, token: &Token) -> Result<i64, RedisError> {
        let token = String::from_utf8_lossy(&token.0);
        marks::repair(&self.redis, &token, std::slice::from_ref(key), false).await
    }

    /// Whether this very mark is among the dead letters.
    pub(crate) fn is_dead(&self, key: &Key, token: &Token) -> bool {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner).get(key) == Some(token)
    }
}

/// How long a worker rests after a round of `taken` records that `took` so long.
fn rest(taken: usize, took: Duration) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "some hundred records")]
    let share = taken as f64 / ROUND_RECORDS_MAX as f64;
    REST_MAX.mul_f64(share.min(1.0)).min(took * REST_ROUNDS)
}

fn token_of(ack: &Ack) -> &Token {
    match ack {
        Ack::Document(token) | Ack::Elements(token, _) | Ack::Whole(token, _) | Ack::Log { token, .. } => token,
    }
}

/// Postgres' reason without its detail, which would quote the row.
pub(crate) fn reason(error: &PostgresError) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_grows_with_the_round_and_is_never_long_against_it() {
        let slow = Duration::from_secs(1);
        assert_eq!(rest(ROUND_RECORDS_MAX, slow), REST_MAX);
        assert_eq!(rest(ROUND_RECORDS_MAX * 3, slow), REST_MAX);
        assert_eq!(rest(ROUND_RECORDS_MAX / 2, slow), REST_MAX / 2);
        assert_eq!(rest(0, slow), Duration::ZERO);
        assert_eq!(rest(ROUND_RECORDS_MAX, Duration::from_millis(2)), Duration::from_millis(6));
    }
}
