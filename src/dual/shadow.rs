//! The shadow: a sample of the reads is compared, off the path and through a bounded queue. It can lose, never delay.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use tokio::sync::mpsc;

use crate::dual::verdict::{self, Verdict};
use crate::dual::view::View;
use crate::dual::{Engine, answer, read};
use crate::model::catalog::{Kind, Layout};
use crate::model::command::Command;
use crate::model::key::Key;
use crate::stores::postgres::Postgres;
use crate::stores::postgres::journal::{self, Mismatch};
use crate::stores::postgres::pool::{QUESTION_DEADLINE, within};
use crate::stores::redis::Redis;
use crate::stores::redis::fence::{self, ElementsLook, Fence, Look};
use crate::telemetry::labels::{Compared, ComparisonDrop, Operation, Store};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::active::Fault;
use crate::telemetry::traces::{Origin, Traces};
use tokio::time::Instant;

/// Comparisons under way at once.
const WORKERS: usize = 4;
/// How often a record is looked at again when a look says nothing.
const LOOKS_MAX: usize = 5;
/// How long between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

struct Sampled {
    kind: Arc<Kind>,
    key: Key,
    /// Of a collection only these elements, as the read named them.
    names: Option<Vec<Bytes>>,
    /// The read that it was sampled from.
    origin: Origin,
}

/// The queue of sampled reads and the workers behind it.
pub(crate) struct Shadow {
    sender: mpsc::Sender<Sampled>,
    metrics: Metrics,
}

/// What the workers share.
#[derive(Clone)]
struct Worker {
    redis: Arc<Redis>,
    postgres: Postgres,
    metrics: Metrics,
    traces: Traces,
}

impl Shadow {
    /// Starts the workers.
    pub(crate) fn start(
        redis: Arc<Redis>,
        postgres: Postgres,
        metrics: Metrics,
        traces: Traces,
        queue_max: usize,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(queue_max);
        let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
        let worker = Worker { redis, postgres, metrics: metrics.clone(), traces };
        for _ in 0..WORKERS {
            tokio::spawn(worker.clone().run(Arc::clone(&receiver)));
        }
        Self { sender, metrics }
    }

    fn offer(&self, sampled: Sampled) {
        if self.sender.try_send(sampled).is_err() {
            self.metrics.comparison_dropped(ComparisonDrop::QueueFull);
        }
    }
}

impl Engine {
    /// Offers the records of a read for comparison, as often as their flags say.
    pub(super) fn sample(&self, view: &View, command: &Command, keys: &[Key]) {
        let Some(shadow) = &self.shadow else { return };
        for key in keys {
            let kind = self.catalog.kind_of(key.as_bytes());
            let flag = view.flag(kind);
            // A log holds more than Redis by design, so it is compared by entries in a sweep, never here.
            if !kind.is_mirrored() || kind.layout == Layout::Log || !flag.stage.compares() {
                continue;
            }
            if flag.sample_rate >= 1.0 || rand::rng().random_bool(flag.sample_rate.clamp(0.0, 1.0)) {
                let names = answer::named_elements(command).filter(|_| kind.layout == Layout::Collection);
                if kind.layout == Layout::Document || names.is_some() || reads_whole(command) {
                    let origin = self.traces.origin();
                    shadow.offer(Sampled { kind: Arc::clone(kind), key: key.clone(), names, origin });
                }
            }
        }
    }

    /// Compares one record now; for health checks.
    pub(super) async fn compare_now(&self, kind: &Arc<Kind>, key: &Key) -> Option<Verdict> {
        let postgres = self.postgres.clone()?;
        let (metrics, traces) = (self.metrics.clone(), self.traces.clone());
        let worker = Worker { redis: Arc::clone(&self.looks), postgres, metrics, traces };
        let sampled = Sampled { kind: Arc::clone(kind), key: key.clone(), names: None, origin: self.traces.origin() };
        worker.look(&sampled).await.ok().map(|(verdict, _)| verdict)
    }
}

impl Worker {
    async fn run(self, receiver: Arc<tokio::sync::Mutex<mpsc::Receiver<Sampled>>>) {
        loop {
            let Some(sampled) = receiver.lock().await.recv().await else { return };
            self.compare(&sampled).await;
        }
    }

    async fn compare(&self, sampled: &Sampled) {
        let mut span = self.traces.compare(&sampled.kind.name, &sampled.origin);
        match span.within(self.verdict(sampled)).await {
            Ok((verdict, found)) => {
                span.compared(verdict.label());
                span.within(self.conclude(sampled, &verdict, found)).await;
                span.end();
            }
            Err(dropped) => {
                self.metrics.comparison_dropped(dropped);
                span.fail(dropped.class());
            }
        }
    }

    /// Looks until a look says something, and both versions with it.
    async fn verdict(&self, sampled: &Sampled) -> Result<(Verdict, (i64, i64)), ComparisonDrop> {
        for _ in 0..LOOKS_MAX {
            match self.look(sampled).await? {
                (Verdict::ReadAgain, _) => {
                    self.metrics.compared(&sampled.kind.name, Compared::ReadAgain);
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
                concluded => return Ok(concluded),
            }
        }
        Err(ComparisonDrop::GaveUp)
    }

    /// One look at both stores: Redis first, Postgres second (R2). Answers the verdict and both versions.
    async fn look(&self, sampled: &Sampled) -> Result<(Verdict, (i64, i64)), ComparisonDrop> {
        let Sampled { kind, key, names, origin: _ } = sampled;
        let began = Instant::now();
        let span = self.traces.redis_script("look");
        let redis = match names {
            Some(names) => {
                let looked = span.run(fence::look_elements(&self.redis, &kind.name, key, names)).await;
                looked.map(|(look, backfilled)| (Seen::Elements(look), backfilled))
            }
            None => {
                let looked = span.run(fence::look(&self.redis, &kind.name, key)).await;
                looked.map(|(look, backfilled)| (Seen::Record(Box::new(look)), backfilled))
            }
        };
        let (seen, backfilled) = redis.map_err(|_| ComparisonDrop::RedisError)?;
        let (fence, is_pending) = seen.standing();
        self.metrics.store_latency(Store::Redis, Operation::Compare, began.elapsed());
        if is_pending {
            return Ok((Verdict::InFlight, (0, 0)));
        }
        let began = Instant::now();
        let asked = read::row(&self.postgres, kind, key, names.as_deref(), fence.clock);
        let span = self.traces.postgres("SELECT", Some(kind.table.name()), 1);
        let (control, row) =
            span.run(within(QUESTION_DEADLINE, asked)).await.map_err(|_| ComparisonDrop::PostgresError)?;
        self.metrics.store_latency(Store::Postgres, Operation::Compare, began.elapsed());
        let versions = (fence.clock, row.as_ref().map_or(0, |row| row.version));
        // Of the moment of the look: marking may have ended since the read was sampled (S1), or Postgres gone back (P1).
        let is_backfilled = backfilled == fence.epoch;
        let verdict = match &seen {
            Seen::Record(look) => verdict::judge(kind, is_backfilled, look, &control, row.as_ref()),
            Seen::Elements(look) => {
                let names = names.as_deref().unwrap_or_default();
                verdict::judge_elements(is_backfilled, look, names, &control, row.as_ref())
            }
        };
        Ok((verdict, versions))
    }

    async fn conclude(&self, sampled: &Sampled, verdict: &Verdict, (redis, postgres): (i64, i64)) {
        let Sampled { kind, key, origin, .. } = sampled;
        self.metrics.compared(&kind.name, verdict.label());
        if let Some(class) = verdict.label().mismatch() {
            self.traces.mismatch(&self.metrics, &kind.name, class, key, origin);
        }
        let Some(class) = verdict.class() else { return };
        let fields = verdict.fields();
        tracing::warn!(key.kind = %kind.name, ?key, class, "a mismatch was confirmed");
        let mismatch = Mismatch {
            kind: kind.name.clone(),
            key: key.clone(),
            id: kind.id_of(key.as_bytes()),
            class,
            fields,
            redis_version: redis,
            postgres_version: postgres,
        };
        if let Err(error) = journal::mismatch(&self.postgres, &mismatch).await {
            tracing::warn!(%error, "a mismatch could not be written down");
        }
    }
}

/// What was seen of Redis.
enum Seen {
    Record(Box<Look>),
    Elements(ElementsLook),
}

impl Seen {
    /// The fence and whether the record is pending.
    fn standing(&self) -> (Fence, bool) {
        match self {
            Self::Record(look) => (look.fence, look.is_pending),
            Self::Elements(look) => (look.fence, look.is_pending),
        }
    }
}

/// Whether the caller read the whole collection, so that a comparison costs no more than the caller's own read.
fn reads_whole(command: &Command) -> bool {
    matches!(command.name().as_str(), "HGETALL" | "SMEMBERS" | "HKEYS" | "HVALS" | "ZRANGE" | "ZREVRANGE")
}
