//! The pace of a job: limits that somebody set, and a brake that comes on by itself when a store suffers. Pure, and its
//! clock is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::dual::task::{Advance, Effort, Probe};
use crate::telemetry::labels::Brake;

/// Keys in one page of a scan at most, and pages in one step.
const PAGE_KEYS_MAX: u64 = 1_000;
const PAGES_MAX: u64 = 4;
/// A paced job does its work in as many pieces a second, so that it never comes in gusts.
const PIECES_PER_SECOND: u64 = 50;
/// Answers of Redis that its quantile is taken of, and how old they may be: a job that goes slowly asks seldom.
const PROBES_MAX: usize = 128;
const PROBES_AGE_MAX: Duration = Duration::from_secs(10);
/// The rest between two steps when a store begins to suffer, and at most.
const BRAKE_MIN: Duration = Duration::from_millis(20);
const BRAKE_MAX: Duration = Duration::from_secs(2);

/// What a job may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Keys a second; as fast as it goes without.
    pub keys_per_second: Option<u64>,
    /// Bytes of values a second.
    pub bytes_per_second: Option<u64>,
    /// It slows down while the 99th percentile of Redis' answers is above.
    pub redis_p99_ms: u64,
    /// It slows down while Postgres takes longer to answer.
    pub postgres_ms: u64,
    /// It slows down while the oldest mark is older.
    pub outbox_age_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keys_per_second: None,
            bytes_per_second: None,
            redis_p99_ms: 25,
            postgres_ms: 250,
            outbox_age_ms: 10_000,
        }
    }
}

impl Limits {
    /// The first limit that makes no sense, and why.
    #[must_use]
    pub fn wrong(&self) -> Option<(&'static str, &'static str)> {
        let zero = "must be at least 1";
        [
            ("keys_per_second", self.keys_per_second == Some(0)),
            ("bytes_per_second", self.bytes_per_second == Some(0)),
            ("redis_p99_ms", self.redis_p99_ms == 0),
            ("postgres_ms", self.postgres_ms == 0),
            ("outbox_age_ms", self.outbox_age_ms == 0),
        ]
        .into_iter()
        .find_map(|(name, is_zero)| is_zero.then_some((name, zero)))
    }
}

/// The pace of one job.
pub struct Pace {
    limits: Limits,
    /// When Redis answered, and how long it took.
    probes: VecDeque<(Instant, Duration)>,
    brake: Duration,
    reason: Option<(Brake, String)>,
}

impl Pace {
    /// A pace within these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, probes: VecDeque::with_capacity(PROBES_MAX), brake: Duration::ZERO, reason: None }
    }

    /// How much the next step may take on.
    #[must_use]
    pub fn effort(&self) -> Effort {
        match self.limits.keys_per_second {
            None if self.brake.is_zero() => Effort { keys: PAGE_KEYS_MAX, pages: PAGES_MAX },
            None => Effort { keys: PAGE_KEYS_MAX / 4, pages: 1 },
            Some(keys) => Effort { keys: (keys / PIECES_PER_SECOND).clamp(10, PAGE_KEYS_MAX), pages: 1 },
        }
    }

    /// Takes note of how the stores feel. Answers what slows the job down from now on, if it is new.
    pub fn note(&mut self, probe: Probe, now: Instant) -> Option<Brake> {
        let is_old = |(at, _): &(Instant, Duration)| now.duration_since(*at) > PROBES_AGE_MAX;
        while self.probes.len() >= PROBES_MAX || self.probes.front().is_some_and(is_old) {
            self.probes.pop_front();
        }
        self.probes.push_back((now, probe.redis));
        let reason = self.suffers(probe);
        self.brake = match (&reason, self.brake) {
            (Some(_), brake) => (brake * 2).clamp(BRAKE_MIN, BRAKE_MAX),
            (None, brake) if brake <= BRAKE_MIN => Duration::ZERO,
            (None, brake) => brake / 2,
        };
        let before = self.reason.as_ref().map(|(brake, _)| *brake);
        let after = reason.as_ref().map(|(brake, _)| *brake);
        self.reason = reason;
        after.filter(|_| before != after)
    }

    fn suffers(&self, probe: Probe) -> Option<(Brake, String)> {
        let above = |brake, what: &str, is: Duration, limit_ms: u64| {
            let is_above = is > Duration::from_millis(limit_ms);
            is_above.then(|| (brake, format!("{what} is {} ms, above {limit_ms} ms", is.as_millis())))
        };
        let limits = &self.limits;
        above(Brake::Redis, "the p99 of redis", self.quantile(), limits.redis_p99_ms)
            .or_else(|| above(Brake::Postgres, "the latency of postgres", probe.postgres, limits.postgres_ms))
            .or_else(|| above(Brake::Outbox, "the oldest mark's age", probe.outbox, limits.outbox_age_ms))
    }

    /// The 99th percentile of the last answers: one that was late alone does not count.
    fn quantile(&self) -> Duration {
        let mut sorted: Vec<Duration> = self.probes.iter().map(|(_, took)| *took).collect();
        sorted.sort_unstable();
        let at = sorted.len().saturating_sub(1) * 99 / 100;
        sorted.get(at).copied().unwrap_or_default()
    }

    /// How long to rest after a step that did so much and took so long.
    #[must_use]
    pub fn rest(&self, advance: &Advance, took: Duration) -> Duration {
        let share = |done: u64, per_second: Option<u64>| match per_second {
            None => Duration::ZERO,
            Some(per_second) => Duration::from_micros(done.saturating_mul(1_000_000) / per_second.max(1)),
        };
        let limits = &self.limits;
        let wanted = share(advance.seen, limits.keys_per_second).max(share(advance.bytes, limits.bytes_per_second));
        // A step that found nothing asked nothing of the stores.
        let brake = if advance.seen == 0 { Duration::ZERO } else { self.brake };
        wanted.saturating_sub(took).max(brake)
    }

    /// Why it goes slower than it could.
    #[must_use]
    pub fn waiting(&self) -> Option<String> {
        self.reason.as_ref().map(|(_, sentence)| sentence.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Probe =
        Probe { redis: Duration::from_millis(1), postgres: Duration::from_millis(2), outbox: Duration::ZERO };

    /// A step that found something.
    const STEP: Advance = Advance { seen: 1, done: 0, bytes: 0, is_turn: false, is_end: false };

    #[test]
    fn a_paced_job_rests_as_long_as_its_keys_or_its_bytes_ask_for() {
        let limits = Limits { keys_per_second: Some(1_000), bytes_per_second: Some(1_000_000), ..Limits::default() };
        let pace = Pace::new(limits);
        assert_eq!(pace.effort(), Effort { keys: 20, pages: 1 });
        let step = |seen, bytes| Advance { seen, bytes, ..Advance::default() };
        assert_eq!(pace.rest(&step(50, 0), Duration::from_millis(20)), Duration::from_millis(30));
        assert_eq!(pace.rest(&step(50, 100_000), Duration::from_millis(20)), Duration::from_millis(80));
        assert_eq!(pace.rest(&step(50, 0), Duration::from_millis(70)), Duration::ZERO);
    }

    #[test]
    fn a_store_that_suffers_brakes_the_job_and_is_named_until_it_is_well_again() {
        let (mut pace, now) = (Pace::new(Limits::default()), Instant::now());
        assert_eq!(pace.note(WELL, now), None);
        assert_eq!(pace.rest(&STEP, Duration::ZERO), Duration::ZERO);
        let ill = Probe { postgres: Duration::from_millis(400), ..WELL };
        assert_eq!(pace.note(ill, now), Some(Brake::Postgres));
        assert_eq!(pace.note(ill, now), None, "it is told of once");
        assert_eq!(pace.waiting().unwrap(), "the latency of postgres is 400 ms, above 250 ms");
        assert_eq!(pace.rest(&STEP, Duration::ZERO), BRAKE_MIN * 2);
        for _ in 0..20 {
            pace.note(ill, now);
        }
        assert_eq!(pace.rest(&STEP, Duration::ZERO), BRAKE_MAX);
        pace.note(WELL, now);
        assert_eq!((pace.waiting(), pace.rest(&STEP, Duration::ZERO)), (None, BRAKE_MAX / 2));
        for _ in 0..20 {
            pace.note(WELL, now);
        }
        assert_eq!(pace.rest(&STEP, Duration::ZERO), Duration::ZERO);
        assert_eq!(pace.note(Probe { outbox: Duration::from_secs(60), ..WELL }, now), Some(Brake::Outbox));
    }

    #[test]
    fn one_late_answer_of_redis_is_no_p99() {
        let late = Probe { redis: Duration::from_millis(300), ..WELL };
        let (mut pace, now) = (Pace::new(Limits::default()), Instant::now());
        pace.note(WELL, now);
        assert_eq!(pace.note(late, now), None);
        assert_eq!(pace.note(late, now), Some(Brake::Redis));
        assert_eq!(pace.note(WELL, now + Duration::from_secs(1)), None);
        assert!(pace.waiting().is_some(), "two late answers of a few are still in sight");
        pace.note(WELL, now + PROBES_AGE_MAX * 2);
        assert_eq!(pace.waiting(), None, "and then forgotten, however seldom a slow job asks");
    }

    #[test]
    fn a_step_that_found_nothing_does_not_rest() {
        let (mut pace, now) = (Pace::new(Limits::default()), Instant::now());
        pace.note(Probe { outbox: Duration::from_secs(60), ..WELL }, now);
        assert!(pace.rest(&STEP, Duration::ZERO) > Duration::ZERO);
        assert_eq!(pace.rest(&Advance::default(), Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_limit_of_nothing_is_refused() {
        assert_eq!(Limits::default().wrong(), None);
        let limits = Limits { keys_per_second: Some(0), ..Limits::default() };
        assert_eq!(limits.wrong().unwrap().0, "keys_per_second");
    }
}
