//! The breaker: takes the reads of a kind from a Postgres that is in trouble, before each of them has to wait out its deadline.
//!
//! A read in trouble is answered by Redis anyway (R1). The breaker saves the waiting: after a few such reads the next ones go
//! to Redis at once, and one now and then tries whether Postgres is well again. It moves no flag, and nobody has to close it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tokio::time::Instant;

/// What a read that Postgres failed adds to the score; one that it answered takes 1 away. So a third of the reads may fail.
const FAILURE_WEIGHT: u32 = 2;
/// At this score the breaker opens: after five failures in a row.
const SCORE_OPENS: u32 = 10;
/// How long it stays open before a read may try Postgres, at first and at most; each try that does not close it doubles it.
const PAUSE_MIN_MS: u64 = 500;
const PAUSE_MAX_MS: u64 = 10_000;

/// What a breaker did of its own accord.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It opened: reads go to Redis.
    Opened,
    /// It closed: reads go where the flags say.
    Closed,
}

/// One breaker for each kind, by its index.
pub(super) struct Breakers {
    started: Instant,
    kinds: Vec<Breaker>,
}

#[derive(Default)]
struct Breaker {
    score: AtomicU32,
    /// Milliseconds after the start at which a read may try; 0 when it is closed.
    retry_at_ms: AtomicU64,
    /// How long the next pause is; below the least one, that.
    pause_ms: AtomicU64,
}

impl Breakers {
    /// Closed breakers for so many kinds.
    pub(super) fn new(kinds: usize) -> Self {
        Self { started: Instant::now(), kinds: (0..kinds).map(|_| Breaker::default()).collect() }
    }

    /// Whether a read of this kind may go to Postgres. While the breaker is open one read after each pause may.
    pub(super) fn allows(&self, kind: usize, now: Instant) -> bool {
        let Some(breaker) = self.kinds.get(kind) else { return true };
        let retry_at = breaker.retry_at_ms.load(Ordering::Acquire);
        if retry_at == 0 {
            return true;
        }
        let now_ms = self.ms(now);
        let pause = (breaker.pause() * 2).min(PAUSE_MAX_MS);
        // Whoever moves the time of the next try is the one that tries.
        let is_chosen = now_ms >= retry_at
            && breaker
                .retry_at_ms
                .compare_exchange(retry_at, now_ms + pause, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if is_chosen {
            breaker.pause_ms.store(pause, Ordering::Relaxed);
        }
        is_chosen
    }

    /// Whether the breaker of this kind is open.
    pub(super) fn is_open(&self, kind: usize) -> bool {
        self.kinds.get(kind).is_some_and(|breaker| breaker.retry_at_ms.load(Ordering::Acquire) != 0)
    }

    /// Postgres answered a read of this kind within its deadline.
    pub(super) fn succeeded(&self, kind: usize) -> Option<Change> {
        let breaker = self.kinds.get(kind)?;
        let score = &breaker.score;
        if breaker.retry_at_ms.swap(0, Ordering::AcqRel) != 0 {
            score.store(0, Ordering::Relaxed);
            return Some(Change::Closed);
        }
        // Two reads that end at once may both take from the same score, which makes it opens a little later or earlier.
        let was = score.load(Ordering::Relaxed);
        if was > 0 {
            score.store(was - 1, Ordering::Relaxed);
        } else if breaker.pause() > PAUSE_MIN_MS {
            // The memory of long trouble fades only while all is well, so that a Postgres that flaps is asked less and less.
            breaker.pause_ms.store(breaker.pause() / 2, Ordering::Relaxed);
        }
        None
    }

    /// Postgres did not answer a read of this kind within its deadline, or with an error.
    pub(super) fn failed(&self, kind: usize, now: Instant) -> Option<Change> {
        let breaker = self.kinds.get(kind)?;
        let score = breaker.score.fetch_add(FAILURE_WEIGHT, Ordering::Relaxed) + FAILURE_WEIGHT;
        if score < SCORE_OPENS {
            return None;
        }
        // It stays there while it is open: reads that were under way when it opened fail as well, and say nothing new.
        breaker.score.store(SCORE_OPENS, Ordering::Relaxed);
        let retry_at = self.ms(now) + breaker.pause();
        breaker.retry_at_ms.compare_exchange(0, retry_at, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        Some(Change::Opened)
    }

    /// Reads of this kind come to Postgres anew: what was the matter with it before is not held against it.
    pub(super) fn forget(&self, kind: usize) -> Option<Change> {
        let breaker = self.kinds.get(kind)?;
        breaker.score.store(0, Ordering::Relaxed);
        breaker.pause_ms.store(0, Ordering::Relaxed);
        (breaker.retry_at_ms.swap(0, Ordering::AcqRel) != 0).then_some(Change::Closed)
    }

    /// Never 0, which means closed.
    fn ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

impl Breaker {
    fn pause(&self) -> u64 {
        self.pause_ms.load(Ordering::Relaxed).max(PAUSE_MIN_MS)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn after(ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn five_failures_in_a_row_open_it_and_one_answer_closes_it() {
        let breakers = Breakers::new(2);
        for _ in 0..4 {
            assert_eq!(breakers.failed(0, after(0)), None);
        }
        assert!(breakers.allows(0, after(0)));
        assert_eq!(breakers.failed(0, after(0)), Some(Change::Opened));
        assert!(!breakers.allows(0, after(0)) && breakers.is_open(0));
        assert!(breakers.allows(1, after(0)), "each kind has its own");
        assert_eq!(breakers.forget(1), None);
        assert_eq!(breakers.forget(0), Some(Change::Closed));
        for _ in 0..4 {
            assert_eq!(breakers.failed(0, after(0)), None, "nothing is left of the score");
        }
        assert_eq!(breakers.failed(0, after(0)), Some(Change::Opened));
        assert_eq!(breakers.succeeded(0), Some(Change::Closed));
        assert!(breakers.allows(0, after(0)) && !breakers.is_open(0));
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_open_one_read_tries_after_each_pause_and_the_pauses_grow() {
        let breakers = Breakers::new(1);
        for _ in 0..5 {
            breakers.failed(0, after(0));
        }
        let mut at = 0;
        for pause in [500, 1000, 2000, 4000, 8000, 10_000, 10_000] {
            assert!(!breakers.allows(0, after(at + pause - 1)));
            at += pause;
            assert!(breakers.allows(0, after(at)), "after {pause} ms");
            assert!(!breakers.allows(0, after(at)), "only one");
            assert_eq!(breakers.failed(0, after(at)), None, "it was open already");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_never_ends_is_followed_by_another() {
        let breakers = Breakers::new(1);
        for _ in 0..5 {
            breakers.failed(0, after(0));
        }
        assert!(breakers.allows(0, after(500)) && !breakers.allows(0, after(501)));
        assert!(breakers.allows(0, after(1500)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_now_and_then_does_not_open_it_and_every_second_one_does() {
        let breakers = Breakers::new(1);
        for _ in 0..1000 {
            breakers.failed(0, after(0));
            for _ in 0..3 {
                assert_eq!(breakers.succeeded(0), None);
            }
        }
        assert!(!breakers.is_open(0));
        for _ in 0..20 {
            breakers.failed(0, after(0));
            if breakers.is_open(0) {
                return;
            }
            breakers.succeeded(0);
        }
        panic!("it stayed closed though every second read failed");
    }
}
