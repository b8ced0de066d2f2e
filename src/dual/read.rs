//! Reads from Postgres, behind the fence (rule R1). In doubt Redis answers, and answers the whole command.

use tokio::time::timeout;

use crate::dual::answer::{self, Record};
use crate::dual::breaker::Change;
use crate::dual::route::Path;
use crate::dual::together::{Reads, Unanswered};
use crate::dual::verdict;
use crate::dual::view::View;
use crate::dual::{Answer, Engine, EngineError, Source, only};
use crate::model::catalog::{Kind, Layout};
use crate::model::command::Command;
use crate::model::frame::Frame;
use crate::model::key::Key;
use crate::model::reply::Reply;
use crate::stores::postgres::Postgres;
use crate::stores::postgres::pool::PostgresError;
use crate::stores::postgres::read::{self, Control, Row};
use crate::stores::redis::fence::Fence;
use crate::telemetry::labels::{Operation, RouteReason, Store};
use crate::telemetry::traces::spans::Sent;
use tokio::time::Instant;

impl Engine {
    /// Whether the flags let Postgres answer this read; the fence has the last word.
    pub(super) fn may_read_postgres(&self, view: &View, command: &Command, keys: &[Key]) -> bool {
        !keys.is_empty()
            && answer::is_answerable(command)
            && keys.iter().all(|key| self.may_leave_redis(view, key).is_ok())
            // Last, because an open breaker lets through the one read that asks it at the right moment.
            && keys.iter().all(|key| self.breakers.allows(self.catalog.kind_of(key.as_bytes()).index, Instant::now()))
    }

    /// Answers a read from Postgres, or from Redis when the fence or the deadline says so.
    pub(super) async fn read(
        &self,
        path: &Path,
        view: &View,
        command: Command,
        keys: &[Key],
    ) -> Result<Answer, EngineError> {
        self.sample(view, &command, keys);
        let deadline_ms = keys.iter().map(|key| view.flag(self.catalog.kind_of(key.as_bytes())).deadline_ms).min();
        let deadline = std::time::Duration::from_millis(deadline_ms.unwrap_or(1));
        let mut span = self.traces.read(keys.first().map(|key| self.catalog.kind_of(key.as_bytes()).name.as_str()));
        let asked = span.within(self.postgres_reply(path, view, &command, keys));
        let outcome = match timeout(deadline, asked).await {
            Ok(outcome) => outcome,
            Err(_) => Err(RouteReason::Deadline),
        };
        self.note_health(keys, outcome.as_ref().err().copied());
        let store = if outcome.is_ok() { Store::Postgres } else { Store::Redis };
        let reason = outcome.as_ref().err().copied().unwrap_or(RouteReason::Live);
        span.routed(store, reason);
        span.end();
        for key in keys {
            self.metrics.read_routed(&self.catalog.kind_of(key.as_bytes()).name, store, reason);
        }
        match outcome {
            Ok(reply) => {
                let result = Ok(Frame::of(&reply, path.protocol()));
                Ok(Answer { result, source: Some(Source::Postgres), mirror: None })
            }
            Err(_) => {
                let span = self.traces.redis(Sent::Plain, &[command.name()], None);
                let frames = span.run(path.lane.ask(&[command])).await.map_err(EngineError::of_a_read)?;
                Ok(Answer { result: Ok(only(frames)?), source: Some(Source::Redis), mirror: None })
            }
        }
    }

    /// Tells the breakers how Postgres did: it answered, or Redis had to, for a reason. What the fence decided says nothing of it.
    pub(super) fn note_health(&self, keys: &[Key], failure: Option<RouteReason>) {
        let is_failed = match failure {
            None => false,
            Some(RouteReason::Deadline | RouteReason::PostgresError) => true,
            Some(_) => return,
        };
        for key in keys {
            let kind = self.catalog.kind_of(key.as_bytes());
            let change = if is_failed {
                self.breakers.failed(kind.index, Instant::now())
            } else {
                self.breakers.succeeded(kind.index)
            };
            let Some(change) = change else { continue };
            self.metrics.set_breaker(&kind.name, change == Change::Opened);
            match change {
                Change::Opened => tracing::warn!(key.kind = %kind.name, "postgres is in trouble: reads go to redis"),
                Change::Closed => tracing::info!(key.kind = %kind.name, "postgres answers reads again"),
            }
        }
    }

    async fn postgres_reply(
        &self,
        path: &Path,
        view: &View,
        command: &Command,
        keys: &[Key],
    ) -> Result<Reply, RouteReason> {
        let names = answer::named_elements(command);
        let (fence, records) = self.records_behind_fence(path, view, keys, names.as_deref()).await?;
        let is_by_element = keys.iter().any(|key| self.catalog.kind_of(key.as_bytes()).layout == Layout::Collection);
        if is_by_element
            && !names.iter().flatten().all(|name| records.iter().all(|record| record.value.has_element(name)))
        {
            // An element that Postgres misses may be one that it never had (invariant 7).
            return Err(RouteReason::NoRow);
        }
        if !self.keeper.has_lease() {
            return Err(RouteReason::NoLease);
        }
        answer::reply(command, &records, fence.time_us / 1000, path.protocol()).ok_or(RouteReason::NotReadable)
    }

    /// The records of a read as Postgres holds them, if every one of them may be believed.
    pub(super) async fn records_behind_fence(
        &self,
        path: &Path,
        view: &View,
        keys: &[Key],
        names: Option<&[bytes::Bytes]>,
    ) -> Result<(Fence, Vec<Record>), RouteReason> {
        let reads = path.reads.as_ref().ok_or(RouteReason::PostgresError)?;
        let began = Instant::now();
        let (fence, standings) =
            self.traces.redis_script("fence").run(reads.fence(keys)).await.map_err(|_| RouteReason::Epoch)?;
        self.metrics.store_latency(Store::Redis, Operation::Fence, began.elapsed());
        if fence.epoch < 0 {
            return Err(RouteReason::Epoch);
        }
        for (key, standing) in keys.iter().zip(&standings) {
            if standing.is_pending {
                return Err(RouteReason::Pending);
            }
            if !standing.is_present {
                return Err(RouteReason::AbsentInRedis);
            }
            if view.backfilled(self.catalog.kind_of(key.as_bytes())) != Some(fence.epoch) {
                return Err(RouteReason::NotBackfilled);
            }
        }
        let began = Instant::now();
        let table = keys.first().map(|key| self.catalog.kind_of(key.as_bytes()).table.name());
        let span = self.traces.postgres("SELECT", table, 1);
        let rows = span.run(self.rows(reads, &fence, keys, names)).await.map_err(|_| {
            self.metrics.store_error(Store::Postgres, Operation::Read);
            RouteReason::PostgresError
        })?;
        self.metrics.store_latency(Store::Postgres, Operation::Read, began.elapsed());
        let records = rows.into_iter().map(|(control, row)| believed(&fence, &control, row));
        Ok((fence, records.collect::<Result<_, _>>()?))
    }

    async fn rows(
        &self,
        reads: &Reads,
        fence: &Fence,
        keys: &[Key],
        names: Option<&[bytes::Bytes]>,
    ) -> Result<Vec<(Control, Option<Row>)>, Unanswered> {
        let mut rows = Vec::with_capacity(keys.len());
        let kind_of = |key: &Key| self.catalog.kind_of(key.as_bytes());
        let Some(first) = keys.first().map(kind_of) else { return Ok(rows) };
        let same_table = |kind: &Kind| kind.table == first.table && kind.layout == Layout::Document;
        if keys.iter().all(|key| same_table(kind_of(key))) {
            let (control, found) = reads.documents(first.table, keys).await?;
            return Ok(found.into_iter().map(|row| (control, row)).collect());
        }
        for key in keys {
            let row = row(&reads.postgres, kind_of(key), key, names, fence.clock).await;
            rows.push(row.map_err(Unanswered::of)?);
        }
        Ok(rows)
    }
}

/// One record of either layout.
pub(super) async fn row(
    postgres: &Postgres,
    kind: &Kind,
    key: &Key,
    names: Option<&[bytes::Bytes]>,
    clock: i64,
) -> Result<(Control, Option<Row>), PostgresError> {
    match kind.layout {
        Layout::Document => {
            let (control, mut rows) = read::documents(postgres, kind.table, std::slice::from_ref(key)).await?;
            Ok((control, rows.pop().flatten()))
        }
        Layout::Collection | Layout::Log => read::collection(postgres, kind.table, key, names, clock).await,
    }
}

/// The record, if R1 lets it be believed.
fn believed(fence: &Fence, control: &Control, row: Option<Row>) -> Result<Record, RouteReason> {
    verdict::believe(fence, control, row.as_ref())?;
    let row = row.ok_or(RouteReason::NoRow)?;
    let value = row.value.ok_or(RouteReason::NoRow)?;
    Ok(Record { value, expires_at_ms: row.expires_at_ms })
}
