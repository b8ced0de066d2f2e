//! What the guard thinks of a plan: the numbers since the last look against the limits of its checks. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::dual::evidence::{Alarm, Count};
use crate::dual::figures::Figures;
use crate::model::plan::{Check, PlanSpec};
use crate::telemetry::counted::{Distribution, KindCounts};

/// Below so many reads since the last look no share and no percentile of them is judged.
const READS_MIN: u64 = 20;
/// Below so many milliseconds at Postgres' 99th percentile a multiple of Redis' says nothing.
const P99_FLOOR_MS: f64 = 5.0;

/// What the fleet has counted between two looks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// For the kinds of the plan.
    pub kinds: KindCounts,
    /// Redis' fences before reads from Postgres.
    pub fences: Distribution,
    /// Postgres' reads.
    pub reads: Distribution,
}

impl Counted {
    /// What came between `before` and `now` for these kinds. A sidecar that was not there before, or has begun anew, is
    /// counted from the next look on.
    #[must_use]
    pub fn between(before: &BTreeMap<String, Figures>, now: &BTreeMap<String, Figures>, kinds: &[String]) -> Self {
        let mut sum = Self::default();
        for (instance, figures) in now {
            let Some(before) = before.get(instance).filter(|before| before.run == figures.run) else { continue };
            for kind in kinds {
                let counts = |figures: &Figures| figures.kinds.get(kind).copied().unwrap_or_default();
                sum.kinds = sum.kinds.plus(counts(figures).since(counts(before)));
            }
            sum.fences = sum.fences.plus(&since(before, figures, "fence", "redis"));
            sum.reads = sum.reads.plus(&since(before, figures, "read", "postgres"));
        }
        sum
    }
}

fn since(before: &Figures, now: &Figures, operation: &str, store: &str) -> Distribution {
    let of = |figures: &Figures| figures.latencies.get(operation).and_then(|stores| stores.get(store)).cloned();
    of(now).unwrap_or_default().since(&of(before).unwrap_or_default())
}

/// What is known besides counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ages {
    /// The age of the oldest mark that any sidecar knows of.
    pub oldest_mark: Duration,
    /// The age of the oldest of the kinds' last clean comparisons; nothing when Postgres does not say, or has none.
    pub proof: Option<Duration>,
}

/// What a look came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Redis' time of the look, in milliseconds.
    pub at_ms: i64,
    /// What is above its limit, each in a sentence.
    pub breaches: Vec<String>,
    /// The numbers that it was judged by.
    pub numbers: BTreeMap<String, f64>,
    /// The evidence for too many mismatches so far.
    pub alarm: Alarm,
}

/// Judges what was counted since the last look; `alarm` is what was known before it.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts of one look are far below 2^53")]
pub fn judge(spec: &PlanSpec, counted: &Counted, ages: &Ages, mut alarm: Alarm, at_ms: i64) -> Judgement {
    let mut breaches = Vec::new();
    let mut numbers = BTreeMap::new();
    let counts = counted.kinds;
    if counts.compared > 0 {
        let budget = spec.limit(Check::MismatchRatio);
        let since = Count { compared: counts.compared, mismatched: counts.mismatched.min(counts.compared) };
        let evidence = alarm.look(budget, since);
        numbers.insert("mismatch_evidence".to_owned(), evidence);
        if Alarm::is_proof(evidence) {
            breaches.push(format!("the share of confirmed mismatches is above {budget}"));
        }
    }
    numbers.insert("compared".to_owned(), counts.compared as f64);
    numbers.insert("mismatched".to_owned(), counts.mismatched as f64);
    let trouble = counts.late + counts.failed + counts.skipped;
    let attempts = counts.answered + trouble;
    numbers.insert("reads".to_owned(), attempts as f64);
    if attempts >= READS_MIN {
        let ratio = trouble as f64 / attempts as f64;
        numbers.insert("trouble_ratio".to_owned(), ratio);
        let limit = spec.limit(Check::TroubleRatio);
        if ratio > limit {
            breaches.push(format!(
                "{:.1} % of the reads were late or failed at postgres, and {:.1} % may be",
                ratio * 100.0,
                limit * 100.0
            ));
        }
    }
    if let (Some(redis), Some(postgres)) = (counted.fences.quantile_ms(0.99), counted.reads.quantile_ms(0.99)) {
        numbers.insert("redis_p99_ms".to_owned(), redis);
        numbers.insert("postgres_p99_ms".to_owned(), postgres);
        let limit = spec.limit(Check::P99Ratio);
        if counted.reads.count() >= READS_MIN && postgres > P99_FLOOR_MS && postgres > redis * limit {
            breaches.push(format!("postgres' p99 is {postgres:.1} ms, more than {limit} times redis' {redis:.2} ms"));
        }
    }
    let oldest = ages.oldest_mark.as_secs_f64();
    numbers.insert("oldest_mark_seconds".to_owned(), oldest);
    let limit = spec.limit(Check::OldestMarkSeconds);
    if oldest > limit {
        breaches.push(format!("the oldest mark is {oldest:.0} s old, and {limit} s is the limit"));
    }
    if let Some(proof) = ages.proof {
        let (hours, limit) = (proof.as_secs_f64() / 3_600.0, spec.limit(Check::ProofAgeHours));
        numbers.insert("proof_age_hours".to_owned(), hours);
        if hours > limit {
            breaches.push(format!("the last clean comparison is {hours:.1} h old, and {limit} h is the limit"));
        }
    }
    Judgement { at_ms, breaches, numbers, alarm }
}

/// Why a plan that bakes cannot go on yet: nothing was seen that its checks could judge.
#[must_use]
pub fn missing(since_the_step: &Counted, ages: &Ages) -> Vec<String> {
    let counts = since_the_step.kinds;
    let mut missing = Vec::new();
    if counts.compared == 0 {
        missing.push("no data: nothing was compared since the step".to_owned());
    }
    if counts.answered + counts.late + counts.failed + counts.skipped == 0 {
        missing.push("no data: no read was sent to postgres since the step".to_owned());
    }
    if ages.proof.is_none() {
        missing.push("no data: postgres does not say when the kinds were compared in full".to_owned());
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::plan::Step;

    fn spec() -> PlanSpec {
        let steps = vec![Step { percent: 100.0, bake_seconds: 1 }];
        PlanSpec { steps, checks: BTreeMap::new(), confirm: Vec::new(), reason: "r".into() }
    }

    fn latencies(ms: f64, count: u64) -> Distribution {
        Distribution { ends: vec![ms / 2000.0, ms / 1000.0], counts: vec![0, count, 0] }
    }

    fn well() -> (Counted, Ages) {
        let kinds = KindCounts { compared: 1_000, answered: 1_000, ..KindCounts::default() };
        let counted = Counted { kinds, fences: latencies(0.5, 1_000), reads: latencies(2.0, 1_000) };
        (counted, Ages { oldest_mark: Duration::from_millis(100), proof: Some(Duration::from_secs(60)) })
    }

    fn breaches(change: impl Fn(&mut Counted, &mut Ages)) -> Vec<String> {
        let (mut counted, mut ages) = well();
        change(&mut counted, &mut ages);
        judge(&spec(), &counted, &ages, Alarm::default(), 1).breaches
    }

    #[test]
    fn what_is_within_its_limits_is_left_alone() {
        assert_eq!(breaches(|_, _| {}), Vec::<String>::new());
    }

    #[test]
    fn each_check_breaches_by_itself() {
        for (change, told) in [
            ((|counted, _| counted.kinds.mismatched = 10) as fn(&mut Counted, &mut Ages), "mismatches"),
            (|counted, _| counted.kinds.late = 100, "late or failed"),
            (|counted, _| counted.kinds.failed = 100, "late or failed"),
            (|counted, _| counted.kinds.skipped = 100, "late or failed"),
            (|counted, _| counted.reads = latencies(80.0, 1_000), "postgres' p99"),
            (|_, ages| ages.oldest_mark = Duration::from_secs(301), "oldest mark"),
            (|_, ages| ages.proof = Some(Duration::from_secs(169 * 3_600)), "clean comparison"),
        ] {
            let found = breaches(change);
            assert!(found.len() == 1 && found[0].contains(told), "{told}: {found:?}");
        }
    }

    #[test]
    fn few_reads_are_not_judged_and_no_reads_hold() {
        let few = |counted: &mut Counted, _: &mut Ages| {
            counted.kinds = KindCounts { late: 10, ..KindCounts::default() };
            counted.reads = latencies(500.0, 10);
        };
        assert_eq!(breaches(few), Vec::<String>::new());
        assert_eq!(missing(&Counted::default(), &Ages::default()).len(), 3);
        let (counted, ages) = well();
        assert_eq!(missing(&counted, &ages), Vec::<String>::new());
    }

    #[test]
    fn only_what_came_since_the_last_look_of_the_same_run_is_counted() {
        let figures = |run: &str, answered| {
            let kinds = [("apikey".to_owned(), KindCounts { answered, ..KindCounts::default() })].into();
            let latencies = [("read".to_owned(), [("postgres".to_owned(), latencies(2.0, answered))].into())].into();
            Figures { run: run.to_owned(), kinds, latencies, ..Figures::default() }
        };
        let before = [("one".to_owned(), figures("a", 5)), ("other".to_owned(), figures("b", 7))].into();
        let now = [
            ("one".to_owned(), figures("a", 9)),
            ("other".to_owned(), figures("c", 90)),
            ("new".to_owned(), figures("d", 3)),
        ]
        .into();
        let counted = Counted::between(&before, &now, &["apikey".to_owned(), "user".to_owned()]);
        assert_eq!((counted.kinds.answered, counted.reads.count()), (4, 4));
    }
}
