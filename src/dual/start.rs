//! The start: the engine is built from its parts, and its tasks begin.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use crate::dual::batch::{Batcher, Shared};
use crate::dual::breaker::Breakers;
use crate::dual::drain::Drain;
use crate::dual::flags::Audits;
use crate::dual::keeper::Keeper;
use crate::dual::learn::Commands;
use crate::dual::lineage::Lineage;
use crate::dual::queue::Queue;
use crate::dual::route::{Callers, Path};
use crate::dual::shadow::Shadow;
use crate::dual::together::Reads;
use crate::dual::{Engine, EngineError, Parts, bypass, expunge, figures, gaps, guard, subscribe, sweep};
use crate::model::command::Command;
use crate::model::command::table::Table;
use crate::model::frame::Protocol;
use crate::stores::redis::Redis;
use crate::stores::redis::lane::{Lane, Silence};

impl Engine {
    /// Builds the engine and starts its tasks. Reads the server's command table, so Redis must be there.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn start(parts: Parts) -> Result<Arc<Self>, EngineError> {
        let [looks, jobs, background] = lanes(&parts);
        let callers =
            Arc::new(Lane::new(Arc::clone(&parts.upstream), Protocol::Resp2, parts.command_deadline, Silence::Ends));
        let table = Table::from_reply(&looks.command(Command::new(["COMMAND"])).await?);
        let metrics = parts.metrics.clone();
        let shared =
            Arc::new(Shared::new(Arc::clone(&looks), parts.command_deadline, &parts.instance, metrics.clone()));
        let queue = Arc::new(Queue::new(parts.outbox_queue_max, parts.traces.clone()));
        let breakers = Arc::new(Breakers::new(parts.catalog.kinds().len()));
        let keeper = Arc::new(Keeper::new(
            Arc::clone(&parts.catalog),
            parts.listed(),
            Arc::clone(&queue),
            parts.lease,
            Arc::clone(&breakers),
            metrics.clone(),
        ));
        let lineage = Arc::new(Lineage::new(
            Arc::clone(&parts.catalog),
            Arc::clone(&background),
            parts.postgres.clone(),
            parts.instance.clone(),
            metrics.clone(),
        ));
        let drain = drain(&parts, &background, &lineage, &queue);
        let (shadow, audits) = beside(&parts, &background);
        let engine = Arc::new(Self {
            breakers,
            audits,
            catalog: parts.catalog,
            instance: parts.instance,
            membership: parts.membership,
            run: format!("{:016x}", rand::random::<u64>()),
            client: parts.redis,
            path: Path {
                batcher: Batcher::start(Arc::clone(&shared), Arc::clone(&callers)),
                reads: parts.postgres.as_ref().map(|postgres| Reads::start(&callers, postgres)),
                lane: callers,
                callers: Callers::Requests,
            },
            upstream: parts.upstream,
            looks,
            jobs,
            capturing: tokio::sync::Mutex::new(()),
            latencies: ArcSwap::default(),
            outbox_age_ms: AtomicU64::new(0),
            postgres: parts.postgres,
            commands: Commands::new(table),
            shared,
            keeper,
            lineage,
            queue,
            drain,
            shadow,
            subscriptions: Arc::new(Semaphore::new(subscribe::SUBSCRIPTIONS_MAX)),
            command_deadline: parts.command_deadline,
            lease: parts.lease,
            watches_for_bypasses: parts.watches_for_bypasses,
            barrier_wait: parts.barrier_wait,
            metrics,
            traces: parts.traces,
        });
        // What is spawned belongs to the runtime that spawns it.
        let began = parts.background.spawn(Arc::clone(&engine).begin(background)).await;
        began.map_err(|failure| EngineError::RedisUnreachable(failure.to_string()))?;
        Ok(engine)
    }

    async fn begin(self: Arc<Self>, background: Arc<Redis>) {
        match self.lineage.look().await {
            // Known before the doors open: a change of stage asks for it.
            Ok(standing) => self.lineage.note(standing).await,
            Err(_) => tracing::warn!("postgres is not there at the start: reads go to redis, and writes are marked"),
        }
        self.recover_flags().await;
        if let Err(error) = self.keeper.renew(&background).await {
            tracing::warn!(%error, "no lease on the flags at the start");
        }
        tokio::spawn(Arc::clone(&self.lineage).run());
        tokio::spawn(Arc::clone(&self.keeper).run(Arc::clone(&background), self.client.clone()));
        if let Some(drain) = &self.drain {
            drain.start();
        }
        tokio::spawn(gaps::run(Arc::clone(&self), Arc::clone(&background)));
        tokio::spawn(expunge::run(Arc::clone(&self), Arc::clone(&background)));
        tokio::spawn(figures::run(Arc::clone(&self), Arc::clone(&background)));
        if self.watches_for_bypasses {
            tokio::spawn(bypass::run(Arc::clone(&self), Arc::clone(&background)));
        }
        tokio::spawn(guard::run(Arc::clone(&self), Arc::clone(&background)));
        tokio::spawn(sweep::run(self, background));
    }
}

/// The lanes of the engine's own questions: their answers are taken apart in the background, not on the callers' thread.
fn lanes(parts: &Parts) -> [Arc<Redis>; 3] {
    let _entered = parts.background.enter();
    std::array::from_fn(|_| Arc::new(Redis::new(parts.redis.clone(), parts.command_deadline)))
}

/// What brings marks to Postgres, where there is one.
fn drain(parts: &Parts, redis: &Arc<Redis>, lineage: &Arc<Lineage>, queue: &Arc<Queue>) -> Option<Arc<Drain>> {
    let (lineage, queue) = (Arc::clone(lineage), Arc::clone(queue));
    let (metrics, traces) = (parts.metrics.clone(), parts.traces.clone());
    let postgres = parts.postgres.clone()?;
    Some(Arc::new(Drain::new(Arc::clone(redis), postgres, lineage, metrics, queue, traces)))
}

/// What runs beside callers: comparisons, and audit rows on their way to Postgres.
fn beside(parts: &Parts, redis: &Arc<Redis>) -> (Option<Shadow>, Audits) {
    let _entered = parts.background.enter();
    let start = |postgres| {
        let (metrics, traces) = (parts.metrics.clone(), parts.traces.clone());
        Shadow::start(Arc::clone(redis), postgres, metrics, traces, parts.shadow_queue_max)
    };
    let shadow = parts.postgres.clone().map(start);
    (shadow, Audits::start(Arc::clone(redis), parts.postgres.clone()))
}
