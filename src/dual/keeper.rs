//! The keeper of the flags: renews the lease, takes up new versions, and confirms them when nothing runs under an older
//! one any more (S2, S3, L3).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use crate::dual::breaker::Breakers;
use crate::dual::flags::flag_change;
use crate::dual::queue::Queue;
use crate::dual::view::{View, rolled_back};
use crate::model::catalog::{Catalog, Kind};
use crate::stores::postgres::journal::FlagAudit;
use crate::stores::redis::FLAGS_CHANNEL;
use crate::stores::redis::change::{Change, Written};
use crate::stores::redis::connection::{Redis, RedisError};
use crate::stores::redis::lease::{self, About, Renewal};
use crate::telemetry::metrics::Metrics;

/// How often the lease is renewed when nothing happens.
pub(super) const POLL: Duration = Duration::from_secs(1);
/// How often a changed version is looked at until nothing runs under an older one.
const CONFIRM_POLL: Duration = Duration::from_millis(10);

/// What this sidecar knows of the flags, and whether it may act on it.
pub(super) struct Keeper {
    catalog: Arc<Catalog>,
    instance: String,
    queue: Arc<Queue>,
    lease: Duration,
    started: Instant,
    /// Milliseconds after `started` until which the lease holds.
    lease_until: AtomicI64,
    view: ArcSwap<View>,
    confirmed: AtomicU64,
    older: Mutex<Vec<Arc<View>>>,
    /// The run of Redis whose flags were taken up last; empty before the first. Held while the lease is renewed.
    run: Mutex<String>,
    wake: Notify,
    has_left: AtomicBool,
    breakers: Arc<Breakers>,
    metrics: Metrics,
}

impl Keeper {
    /// A keeper without lease and without flags.
    #[must_use]
    pub(super) fn new(
        catalog: Arc<Catalog>,
        instance: String,
        queue: Arc<Queue>,
        lease: Duration,
        breakers: Arc<Breakers>,
        metrics: Metrics,
    ) -> Self {
        let view = ArcSwap::from_pointee(View::empty(&catalog));
        Self {
            catalog,
            instance,
            queue,
            lease,
            started: Instant::now(),
            lease_until: AtomicI64::new(-1),
            view,
            confirmed: AtomicU64::new(0),
            older: Mutex::new(Vec::new()),
            run: Mutex::default(),
            wake: Notify::new(),
            has_left: AtomicBool::new(false),
            breakers,
            metrics,
        }
    }

    /// The view to decide under. Hold it until the operation is answered.
    #[must_use]
    pub(super) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Whether the lease holds: without it Redis answers, and every mirrored write is marked (S3).
    #[must_use]
    pub(super) fn has_lease(&self) -> bool {
        self.now_ms() < self.lease_until.load(Ordering::Acquire)
    }

    /// Ends the lease: from now on Redis answers, every write is marked, and nobody waits for this sidecar.
    pub(crate) fn leave(&self) {
        self.has_left.store(true, Ordering::Release);
        self.lease_until.store(-1, Ordering::Release);
    }

    /// Asks for a renewal at once.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    fn now_ms(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Renews the lease once and takes up what is new.
    ///
    /// # Errors
    /// When Redis cannot be reached: the lease runs on to its end.
    pub(super) async fn renew(&self, redis: &Redis) -> Result<Renewal, RedisError> {
        // One after the other: an answer that another one overtook would bring back what no longer holds.
        let mut run = self.run.lock().await;
        // The lease counts from before the question: Redis may have counted from later, never from earlier.
        let asked = self.now_ms();
        if self.has_left.load(Ordering::Acquire) {
            return Err(RedisError::Unreachable("this sidecar has left the fleet".to_owned()));
        }
        self.confirm().await;
        let confirmed = self.confirmed.load(Ordering::Acquire);
        let lease_ms = u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX);
        let renewal = lease::renew(redis, &self.instance, lease_ms, confirmed, &run, &self.about()).await?;
        let view = self.view();
        if renewal.version < view.version {
            // A Redis that went back: the highest known copy is written back, and a lower one is never taken up (L3).
            let stored = view.stored.iter().map(|(kind, flag)| (kind.clone(), json(flag))).collect();
            let change = Change::of_flags(renewal.version, view.version, stored);
            // Stale when another sidecar has done it already.
            if matches!(change.write(redis).await?, Written::Done(_)) {
                tracing::warn!(version = view.version, "flags were written back to a redis that had lost them");
                run.clone_from(&renewal.run_id);
            }
        } else {
            let next = View::of(&self.catalog, &renewal);
            let is_another_run = !run.is_empty() && *run != renewal.run_id;
            let forgotten = if is_another_run { next.forgotten_rollbacks(&view, &self.catalog) } else { Vec::new() };
            if forgotten.is_empty() || self.roll_back_again(redis, &next, &forgotten).await? {
                run.clone_from(&renewal.run_id);
            }
            self.take_up(next).await;
            if !forgotten.is_empty() {
                self.lower(&forgotten).await;
            }
        }
        let until = asked.saturating_add(i64::try_from(self.lease.as_millis()).unwrap_or(i64::MAX));
        self.lease_until.store(until, Ordering::Release);
        self.report();
        Ok(renewal)
    }

    /// Takes the reads of these kinds back once more: Redis failed over and had lost that they were (L3). Somebody may have
    /// resumed them meanwhile; he can do so again. Answers whether it was written; if not, the next renewal tries again.
    async fn roll_back_again(&self, redis: &Redis, next: &View, kinds: &[String]) -> Result<bool, RedisError> {
        let kinds = self.catalog.kinds().iter().filter(|kind| kinds.contains(&kind.name));
        let audit = |kind: &Arc<Kind>| FlagAudit {
            version: next.version + 1,
            kind: kind.name.clone(),
            before: json(next.flag(kind)),
            after: json(&rolled_back(next.flag(kind))),
            who: self.instance.clone(),
            origin: String::new(),
            reason: "redis failed over and had lost a rollback".to_owned(),
        };
        let audits: Vec<FlagAudit> = kinds.map(audit).collect();
        let was_written = matches!(flag_change(next.version, &audits).write(redis).await?, Written::Done(_));
        if was_written {
            tracing::warn!(version = next.version + 1, "a rollback that redis had lost was made again");
        }
        Ok(was_written)
    }

    /// What the fleet is told of this sidecar.
    fn about(&self) -> About {
        let view = self.view();
        let mut stages = BTreeMap::new();
        for kind in self.catalog.kinds().iter().filter(|kind| kind.is_mirrored()) {
            *stages.entry(view.flag(kind).stage.name().to_owned()).or_default() += 1;
        }
        About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            queued: self.queue.len(),
            lag_ms: u64::try_from(self.queue.oldest().as_millis()).unwrap_or(u64::MAX),
            stages,
            lowered: view.lowered.iter().cloned().collect(),
        }
    }

    /// Takes the reads of these kinds from Postgres at once, whatever the store of the flags says; it will say the same soon.
    pub(super) async fn lower(&self, names: &[String]) {
        let mut older = self.older.lock().await;
        let current = self.view();
        let mut next = (*current).clone();
        next.lower(&self.catalog, names);
        older.push(current);
        self.view.store(Arc::new(next));
    }

    async fn take_up(&self, mut next: View) {
        // Looked at behind the lock: two renewals at once would both keep the same view, and neither copy ever be the last.
        let mut older = self.older.lock().await;
        let current = self.view();
        if next.version < current.version || next.has_all_of(&current) {
            return;
        }
        if next.version == current.version {
            // A rollback that the flags do not know yet stays in force here.
            next.lower(&self.catalog, &current.lowered.iter().cloned().collect::<Vec<_>>());
        }
        for kind in self.catalog.kinds() {
            if next.reads_postgres(kind) && !current.reads_postgres(kind) && self.breakers.forget(kind.index).is_some()
            {
                self.metrics.set_breaker(&kind.name, false);
            }
        }
        older.push(current);
        self.view.store(Arc::new(next));
    }

    /// Confirms the version of the view once every older view has been let go.
    async fn confirm(&self) {
        let mut older = self.older.lock().await;
        let view = self.view();
        older.retain(|held| Arc::strong_count(held) > 1);
        if older.is_empty() {
            self.confirmed.store(view.version, Ordering::Release);
        }
    }

    fn report(&self) {
        let view = self.view();
        self.metrics.set_flags_version(view.version);
        self.metrics.set_lease_valid(self.has_lease());
        for kind in self.catalog.kinds() {
            self.metrics.set_flag(&kind.name, view.flag(kind));
        }
    }

    /// Renews for ever, every second and when told of a change.
    pub(super) async fn run(self: Arc<Self>, redis: Arc<Redis>, client: redis::Client) {
        let listener = tokio::spawn(Arc::clone(&self).listen(client));
        let mut was_reachable = true;
        loop {
            let renewed = self.renew(&redis).await;
            if self.has_left.load(Ordering::Acquire) {
                return;
            }
            if renewed.is_err() && was_reachable {
                tracing::warn!("the lease on the flags could not be renewed");
            }
            was_reachable = renewed.is_ok();
            self.metrics.set_lease_valid(self.has_lease());
            let is_settled = self.confirmed.load(Ordering::Acquire) == self.view().version;
            let pause = if is_settled || !was_reachable { POLL } else { CONFIRM_POLL };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => {}
            }
            if listener.is_finished() {
                return;
            }
        }
    }

    /// Listens for changes, for speed alone: the poll is what counts.
    async fn listen(self: Arc<Self>, client: redis::Client) {
        loop {
            if let Ok(mut subscription) = client.get_async_pubsub().await
                && subscription.subscribe(FLAGS_CHANNEL).await.is_ok()
            {
                let mut messages = subscription.on_message();
                while messages.next().await.is_some() {
                    self.wake();
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// A flag as it is kept.
#[must_use]
pub(super) fn json(flag: &crate::model::flag::Flag) -> String {
    serde_json::to_string(flag).expect("a flag is always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::flag::{Flag, Stage};
    use crate::telemetry::traces::Traces;

    #[tokio::test]
    async fn other_flags_of_the_same_version_are_taken_up() {
        let catalog = Arc::new(Catalog::embedded());
        let metrics = Metrics::new("one", &[]);
        let queue = Arc::new(Queue::new(1, Traces::default()));
        let keeper = Keeper::new(
            Arc::clone(&catalog),
            "one".to_owned(),
            queue,
            Duration::from_secs(20),
            Arc::new(Breakers::new(0)),
            metrics,
        );
        let flags = |stage| {
            let flags = [("user".to_owned(), json(&Flag { stage, ..Flag::default() }))].into();
            View::of(&catalog, &Renewal { version: 7, flags, ..Renewal::default() })
        };
        keeper.take_up(flags(Stage::Live)).await;
        keeper.take_up(flags(Stage::Shadow)).await;
        let user = catalog.by_name("user").expect("it is there");
        assert_eq!(keeper.view().flag(user).stage, Stage::Shadow);
    }

    #[tokio::test]
    async fn a_kind_whose_reads_come_to_postgres_anew_begins_with_a_closed_breaker() {
        let catalog = Arc::new(Catalog::embedded());
        let (metrics, queue) = (Metrics::new("one", &[]), Arc::new(Queue::new(1, Traces::default())));
        let breakers = Arc::new(Breakers::new(catalog.kinds().len()));
        let lease = Duration::from_secs(20);
        let keeper = Keeper::new(Arc::clone(&catalog), "one".to_owned(), queue, lease, Arc::clone(&breakers), metrics);
        let user = catalog.by_name("user").expect("it is there").index;
        let flags = |version, stage| {
            let flags = [("user".to_owned(), json(&Flag { stage, percent: 100.0, ..Flag::default() }))].into();
            View::of(&catalog, &Renewal { version, flags, ..Renewal::default() })
        };
        keeper.take_up(flags(1, Stage::Live)).await;
        while !breakers.is_open(user) {
            breakers.failed(user, Instant::now());
        }
        keeper.take_up(flags(2, Stage::Live)).await;
        assert!(breakers.is_open(user), "it was read from postgres before");
        keeper.take_up(flags(3, Stage::Shadow)).await;
        assert!(breakers.is_open(user));
        keeper.take_up(flags(4, Stage::Live)).await;
        assert!(!breakers.is_open(user));
    }

    #[tokio::test]
    async fn two_renewals_that_bring_the_same_version_leave_nothing_that_is_never_confirmed() {
        let catalog = Arc::new(Catalog::embedded());
        let metrics = Metrics::new("one", &[]);
        let keeper = Keeper::new(
            Arc::clone(&catalog),
            "one".to_owned(),
            Arc::new(Queue::new(1, Traces::default())),
            Duration::from_secs(20),
            Arc::new(Breakers::new(0)),
            metrics,
        );
        let older = keeper.older.lock().await;
        let next = || {
            let mut view = View::empty(&catalog);
            view.version = 7;
            view
        };
        // Both see the first view, and wait for each other.
        let (one, other) = (keeper.take_up(next()), keeper.take_up(next()));
        let mut both = std::pin::pin!(async { tokio::join!(one, other) });
        assert!(futures_util::poll!(&mut both).is_pending());
        drop(older);
        both.await;
        keeper.confirm().await;
        assert_eq!(keeper.confirmed.load(Ordering::Acquire), 7);
    }
}
