//! The drain's queue: which records this sidecar has marked and not yet brought to Postgres.
//!
//! A record stands in it once, however often it was written. It only makes the mirror fast: what is lost here is found
//! again by the sweep of the outbox.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::dual::plan::LOG_PUSHES_MAX;
use crate::model::catalog::Kind;
use crate::model::key::Key;
use crate::telemetry::traces::{ORIGINS_MAX, Origin, Traces};

/// With so many records ready nobody rests.
const BACKLOG_RECORDS: usize = 2048;
/// Records that rest are looked through when they are twice as many as after the last look, and not below this many.
const RESTING_MIN: usize = 1024;

/// Somebody who waits until a capture taken from now on is committed (W4).
pub(crate) type Waiter = oneshot::Sender<()>;

/// A record that owes Postgres a look.
pub(crate) struct Owed {
    /// The record.
    pub(crate) key: Key,
    /// Its kind.
    pub(crate) kind: Arc<Kind>,
    /// Since when.
    pub(crate) since: Instant,
    /// Who waits for it.
    pub(crate) waiters: Vec<Waiter>,
    /// The sampled writes that it is owed for, or some of them.
    pub(crate) origins: Vec<Origin>,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry>,
    ready: VecDeque<Key>,
    delayed: BinaryHeap<Reverse<(Instant, Key)>>,
    /// From when on records of kinds with a least interval may be captured again.
    resting: HashMap<Key, Instant>,
    /// As many may rest before those are forgotten that rest no more.
    resting_max: usize,
    /// Records that were taken and not yet settled or put back.
    taken: usize,
}

struct Entry {
    kind: Arc<Kind>,
    since: Instant,
    waiters: Vec<Waiter>,
    origins: Vec<Origin>,
    /// Entries pushed to it since it was captured last.
    pushed: usize,
    is_ready: bool,
}

impl Entry {
    /// Remembers writes whose apply links to them, as many as there is room for.
    fn remember(&mut self, origins: impl IntoIterator<Item = Origin>) {
        let room = ORIGINS_MAX.saturating_sub(self.origins.len());
        self.origins.extend(origins.into_iter().filter(Origin::is_sampled).take(room));
    }
}

/// The queue. Bounded by the number of distinct records.
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Notify,
    /// Raised when somebody waits for a record: a worker that rests goes on, or does not begin to.
    urgent: Notify,
    max: usize,
    traces: Traces,
}

impl Queue {
    pub(crate) fn new(max: usize, traces: Traces) -> Self {
        Self { state: Mutex::default(), wake: Notify::new(), urgent: Notify::new(), max, traces }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held cannot leave it half changed in a way that matters: the outbox knows everything.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record. Answers false when the queue is full: then the sweep will find its mark.
    ///
    /// A log that `pushed` many entries does not wait out its interval (G3), nor does a record that somebody waits for.
    pub(crate) fn add(
        &self,
        key: &Key,
        kind: &Arc<Kind>,
        since: Instant,
        waiter: Option<Waiter>,
        pushed: usize,
    ) -> bool {
        let origin = self.traces.origin();
        let mut state = self.state();
        if !state.entries.contains_key(key) && state.entries.len() >= self.max {
            return false;
        }
        let now = Instant::now();
        let due = state.resting.get(key).copied().unwrap_or(now);
        let is_known = state.entries.contains_key(key);
        let entry = state.entries.entry(key.clone()).or_insert_with(|| Entry {
            kind: Arc::clone(kind),
            since,
            waiters: Vec::new(),
            origins: Vec::new(),
            pushed: 0,
            is_ready: false,
        });
        entry.remember([origin]);
        entry.pushed += pushed;
        let is_urgent = waiter.is_some();
        let is_due = due <= now || is_urgent || entry.pushed >= LOG_PUSHES_MAX;
        entry.waiters.extend(waiter);
        let was_ready = entry.is_ready;
        entry.is_ready |= is_due;
        if is_due && !was_ready {
            state.ready.push_back(key.clone());
            self.wake.notify_one();
        } else if !is_due && !is_known {
            state.delayed.push(Reverse((due, key.clone())));
            self.wake.notify_one();
        }
        if is_urgent || state.ready.len() == BACKLOG_RECORDS {
            self.urgent.notify_one();
        }
        true
    }

    /// Ends a round that took `taken` records: puts back those that could not be applied.
    pub(crate) fn put_back(&self, owed: Vec<Owed>, taken: usize) {
        for Owed { key, kind, since, waiters, origins } in owed {
            let mut state = self.state();
            let entry = state.entries.entry(key.clone()).or_insert_with(|| Entry {
                kind,
                since,
                waiters: Vec::new(),
                origins: Vec::new(),
                pushed: 0,
                is_ready: false,
            });
            entry.remember(origins);
            entry.since = entry.since.min(since);
            if !waiters.is_empty() {
                self.urgent.notify_one();
            }
            entry.waiters.extend(waiters);
            entry.waiters.retain(|waiter| !waiter.is_closed());
            if !std::mem::replace(&mut entry.is_ready, true) {
                state.ready.push_back(key);
            }
        }
        // Last, so that what is put back is never counted as done in between.
        let mut state = self.state();
        state.taken = state.taken.saturating_sub(taken);
        drop(state);
        self.wake.notify_one();
    }

    /// Waits `duration`, or until somebody waits for a record or too many are ready.
    pub(crate) async fn rest(&self, duration: Duration) {
        if self.state().ready.len() >= BACKLOG_RECORDS {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            () = self.urgent.notified() => {}
        }
    }

    /// Waits for records that are due and takes up to `max` of them.
    pub(crate) async fn take(&self, max: usize) -> Vec<Owed> {
        loop {
            let (taken, next) = self.take_due(max);
            if !taken.is_empty() {
                return taken;
            }
            match next {
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.wake.notified() => {}
                },
                None => self.wake.notified().await,
            }
        }
    }

    fn take_due(&self, max: usize) -> (Vec<Owed>, Option<Instant>) {
        let mut state = self.state();
        let now = Instant::now();
        while let Some(Reverse((due, _))) = state.delayed.peek() {
            if *due > now {
                break;
            }
            let Some(Reverse((_, key))) = state.delayed.pop() else { break };
            let is_new = state.entries.get_mut(&key).is_some_and(|entry| !std::mem::replace(&mut entry.is_ready, true));
            if is_new {
                state.ready.push_back(key);
            }
        }
        let mut taken = Vec::new();
        while taken.len() < max {
            let Some(key) = state.ready.pop_front() else { break };
            let Some(entry) = state.entries.remove(&key) else { continue };
            if entry.kind.min_interval_ms > 0 {
                state.resting.insert(key.clone(), now + Duration::from_millis(entry.kind.min_interval_ms));
            }
            let Entry { kind, since, waiters, origins, .. } = entry;
            taken.push(Owed { key, kind, since, waiters, origins });
        }
        state.taken += taken.len();
        if state.resting.len() > state.resting_max.max(RESTING_MIN) {
            state.resting.retain(|_, due| *due > now);
            state.resting_max = state.resting.len() * 2;
        }
        if !state.ready.is_empty() {
            self.wake.notify_one();
        }
        (taken, state.delayed.peek().map(|Reverse((due, _))| *due))
    }

    /// How long the record that has waited longest has waited; zero when none waits.
    pub(crate) fn oldest(&self) -> Duration {
        let state = self.state();
        state.entries.values().map(|entry| entry.since.elapsed()).max().unwrap_or_default()
    }

    /// How many records wait or are on their way to Postgres.
    pub(crate) fn len(&self) -> usize {
        let state = self.state();
        state.entries.len() + state.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::catalog::Catalog;

    fn kind(min_interval_ms: u64) -> Arc<Kind> {
        let catalog = Catalog::embedded();
        let mut kind = (**catalog.by_name("unmatched").expect("always there")).clone();
        kind.min_interval_ms = min_interval_ms;
        Arc::new(kind)
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_stands_in_the_queue_once() {
        let queue = Queue::new(10, Traces::default());
        let key = Key::new("a");
        for _ in 0..3 {
            assert!(queue.add(&key, &kind(0), Instant::now(), None, 0));
        }
        let taken = queue.take(10).await;
        assert_eq!((taken.len(), queue.len()), (1, 1), "what is on its way is not done");
        queue.put_back(Vec::new(), taken.len());
        assert_eq!(queue.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_ends_early_when_somebody_waits_or_many_do() {
        let queue = Queue::new(BACKLOG_RECORDS * 2, Traces::default());
        let (rest, light) = (Duration::from_secs(1), kind(0));
        let began = Instant::now();
        queue.add(&Key::new("a"), &light, began, None, 0);
        queue.rest(rest).await;
        assert_eq!(began.elapsed(), rest, "a write that nobody waits for does not wake");
        let (waiter, _held) = oneshot::channel();
        queue.add(&Key::new("a"), &light, began, Some(waiter), 0);
        queue.rest(rest).await;
        assert_eq!(began.elapsed(), rest, "who waits is not kept waiting");
        queue.rest(rest).await;
        assert_eq!(began.elapsed(), rest * 2, "once");
        for n in 0..BACKLOG_RECORDS {
            queue.add(&Key::new(n.to_string()), &light, began, None, 0);
        }
        queue.rest(rest).await;
        queue.rest(rest).await;
        assert_eq!(began.elapsed(), rest * 2, "a backlog is worked off");
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_says_so() {
        let queue = Queue::new(1, Traces::default());
        assert!(queue.add(&Key::new("a"), &kind(0), Instant::now(), None, 0));
        assert!(!queue.add(&Key::new("b"), &kind(0), Instant::now(), None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_heavy_record_waits_its_interval_unless_somebody_waits_for_it() {
        let queue = Queue::new(10, Traces::default());
        let (key, heavy) = (Key::new("a"), kind(1_000));
        queue.add(&key, &heavy, Instant::now(), None, 0);
        queue.take(10).await;
        let before = Instant::now();
        queue.add(&key, &heavy, before, None, 0);
        queue.take(10).await;
        assert!(before.elapsed() >= Duration::from_secs(1));
        let (waiter, _held) = oneshot::channel();
        let before = Instant::now();
        queue.add(&key, &heavy, before, Some(waiter), 0);
        queue.take(10).await;
        assert!(before.elapsed() < Duration::from_millis(100));
    }
}
