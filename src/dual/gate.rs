//! The gates: what a step up needs, each condition with its figures. Pure; what is known of stores and fleet is an argument.
//!
//! Rules of the protocol (S1, S4, a latch, the lineage) hold for everybody. What only says that a step is wise - a full
//! comparison, the rate of mismatches, the lag - may be overridden with a reason, which the audit keeps. Marking and comparing
//! hurt nobody, so only a step that sends more reads to Postgres is judged by these.
//!
//! Over 400 lines with its tests, as each condition is a function of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::dual::evidence::{self, Count};
use crate::model::catalog::Kind;
use crate::model::flag::{Flag, Stage};
use crate::stores::postgres::proofs::Standing as ProofStanding;

/// A full comparison is worth something for so long.
pub const PROOF_AGE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// The share of comparisons that may be mismatches, as their upper bound.
pub const MISMATCH_BUDGET: f64 = 0.001;
/// The oldest mark may be so old.
pub const LAG_MAX: Duration = Duration::from_secs(10);
/// Kinds that one sentence names at most; the others are counted.
const NAMED_MAX: usize = 5;

/// What a step is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// The kind goes to Postgres at all.
    Mirrored,
    /// Postgres is switched on.
    PostgresOn,
    /// One stage at a time (S1).
    StageOrder,
    /// No rollback holds the kind where it is.
    Latch,
    /// The kind may be read from Postgres (G4).
    Readable,
    /// Its backfill is committed in the epoch that holds (S4).
    Backfill,
    /// A mark follows every write.
    Verifiable,
    /// No mark has failed.
    Marks,
    /// Both stores are those we know (P1).
    Lineage,
    /// A full comparison found no difference and is not too old.
    Proof,
    /// The rate of mismatches is below its budget, with enough comparisons to say so.
    MismatchBound,
    /// Everything was captured.
    CaptureGap,
    /// Postgres is not far behind.
    Lag,
}

impl Asked {
    /// Whether a reason may stand in its place.
    #[must_use]
    pub fn can_be_overridden(self) -> bool {
        match self {
            Self::Proof | Self::MismatchBound | Self::CaptureGap | Self::Lag => true,
            Self::Mirrored
            | Self::PostgresOn
            | Self::StageOrder
            | Self::Latch
            | Self::Readable
            | Self::Backfill
            | Self::Verifiable
            | Self::Marks
            | Self::Lineage => false,
        }
    }
}

/// A condition, whether it holds, and the figures that say so.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Condition {
    /// Which.
    pub condition: Asked,
    /// Whether it holds.
    pub met: bool,
    /// Whether a reason may stand in its place.
    pub overridable: bool,
    /// In a sentence: what holds, or what does not and what to do.
    pub detail: String,
    /// The kinds that it does not hold for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// The figures it was judged by, with their limits.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<&'static str, f64>,
}

impl Condition {
    /// One that holds.
    fn met(condition: Asked, detail: impl Into<String>) -> Self {
        Self {
            condition,
            met: true,
            overridable: condition.can_be_overridden(),
            detail: detail.into(),
            kinds: Vec::new(),
            figures: BTreeMap::new(),
        }
    }

    /// One that does not.
    #[must_use]
    pub fn unmet(condition: Asked, detail: impl Into<String>) -> Self {
        Self { met: false, ..Self::met(condition, detail) }
    }

    fn with(mut self, figures: impl IntoIterator<Item = (&'static str, f64)>) -> Self {
        self.figures.extend(figures);
        self
    }
}

/// What is known of one kind that a step is about.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// The kind.
    pub kind: &'a Kind,
    /// Its flag before the step.
    pub before: &'a Flag,
    /// Whether its backfill is committed in the epoch that holds.
    pub is_backfilled: bool,
    /// Why no mark follows some of its writes.
    pub unverifiable: Option<&'a str>,
    /// Its newest full comparison, if Postgres said.
    pub proof: Option<ProofStanding>,
    /// Comparisons of it over the fleet.
    pub compared: u64,
}

/// What is known besides the kinds.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    /// Whether the step names its kind; else it is about all kinds without a flag of their own.
    pub is_named: bool,
    /// Whether Postgres is switched on.
    pub has_postgres: bool,
    /// Whether Postgres answered the question for proofs.
    pub knows_proofs: bool,
    /// Whether every mark is where it belongs.
    pub trusts_marks: bool,
    /// Whether both stores are those we know.
    pub knows_stores: bool,
    /// The age of the oldest mark.
    pub oldest_mark: Duration,
}

/// Whether a flag sends more reads to Postgres after the step.
#[must_use]
pub fn rises(before: &Flag, after: &Flag) -> bool {
    after.stage == Stage::Live && (before.stage != Stage::Live || after.percent > before.percent)
}

/// Every condition of the step to `after`, met or not.
#[must_use]
pub fn conditions(after: &Flag, candidates: &[Candidate<'_>], around: &Around) -> Vec<Condition> {
    let mut all = Vec::new();
    if after.stage.compares() {
        all.push(match around.has_postgres {
            true => Condition::met(Asked::PostgresOn, "postgres is switched on"),
            false => Condition::unmet(Asked::PostgresOn, "postgres is switched off (ENABLE_POSTGRES=false)"),
        });
    }
    all.extend(of_each(Asked::StageOrder, "one stage at a time", candidates, |candidate| {
        let before = candidate.before.stage;
        let is_leap = !before.is_step_to(after.stage);
        is_leap.then(|| format!("one stage at a time, and {} is not next to {before}", after.stage))
    }));
    all.extend(of_each(Asked::Latch, "no rollback holds it", candidates, |candidate| {
        let is_held = after.latched && (after.stage > candidate.before.stage || rises(candidate.before, after));
        is_held.then(|| "latched by a rollback; resume with a reason first".to_owned())
    }));
    let rising: Vec<Candidate<'_>> =
        candidates.iter().filter(|candidate| rises(candidate.before, after)).cloned().collect();
    if rising.is_empty() {
        return all;
    }
    all.extend(rules(&rising, around));
    let readable: Vec<Candidate<'_>> = rising.into_iter().filter(|candidate| candidate.kind.is_readable()).collect();
    if !readable.is_empty() {
        all.extend(proof(&readable, around));
        all.push(bound(&readable, around));
        all.extend(of_each(Asked::CaptureGap, "everything was captured", &readable, |candidate| {
            let has_gap = candidate.proof.as_ref().is_some_and(|proof| proof.has_gap);
            has_gap.then(|| "writes may have been missed (see /v1/gaps): run a verification".to_owned())
        }));
        all.push(lag(around.oldest_mark));
    }
    all
}

/// The rules of the protocol for reads from Postgres.
fn rules(rising: &[Candidate<'_>], around: &Around) -> Vec<Condition> {
    let mut all = Vec::new();
    if around.is_named {
        // With `*` such a kind simply goes on being read from Redis.
        all.extend(of_each(Asked::Readable, "it may be read from postgres", rising, |candidate| {
            let told = "kinds that are derived or logs are never read from postgres";
            (!candidate.kind.is_readable()).then(|| told.to_owned())
        }));
    }
    all.extend(of_each(Asked::Backfill, "its backfill is complete", rising, |candidate| {
        let is_owed = candidate.kind.is_readable() && !candidate.is_backfilled;
        is_owed.then(|| "its backfill is not complete".to_owned())
    }));
    all.extend(of_each(Asked::Verifiable, "a mark follows every write", rising, |candidate| {
        let reason = candidate.unverifiable.filter(|_| around.is_named || candidate.kind.is_readable());
        reason.map(|reason| format!("unverifiable, {reason}"))
    }));
    all.push(match around.trusts_marks {
        true => Condition::met(Asked::Marks, "no mark has failed"),
        false => Condition::unmet(Asked::Marks, "a mark has failed: somebody wrote over the outbox"),
    });
    all.push(match around.knows_stores {
        true => Condition::met(Asked::Lineage, "both stores are those we know"),
        false => Condition::unmet(Asked::Lineage, "the stores are not both those we know: see /v1/status"),
    });
    all
}

fn proof(readable: &[Candidate<'_>], around: &Around) -> Vec<Condition> {
    if !around.knows_proofs {
        return vec![Condition::unmet(Asked::Proof, "postgres does not say what was compared in full")];
    }
    let mut found = of_each(Asked::Proof, "compared in full without a difference", readable, |candidate| {
        let Some(proof) = &candidate.proof else {
            return Some("it was never compared in full: run a verification".to_owned());
        };
        if !proof.is_clean {
            return Some("its last full comparison found differences: repair, and run a verification".to_owned());
        }
        (proof.age > PROOF_AGE_MAX).then(|| "its last full comparison is too old: run a verification".to_owned())
    });
    let oldest = readable.iter().filter_map(|candidate| candidate.proof.as_ref()).map(|proof| proof.age).max();
    for condition in &mut found {
        condition.figures.insert("age_limit_seconds", PROOF_AGE_MAX.as_secs_f64());
        condition.figures.extend(oldest.map(|age| ("age_seconds", age.as_secs_f64())));
    }
    found
}

fn bound(readable: &[Candidate<'_>], around: &Around) -> Condition {
    if !around.knows_proofs {
        return Condition::unmet(Asked::MismatchBound, "postgres does not say which mismatches were found");
    }
    let proofs: BTreeMap<i64, u64> =
        readable.iter().filter_map(|candidate| candidate.proof.as_ref()).map(|proof| (proof.id, proof.keys)).collect();
    let mismatched =
        readable.iter().filter_map(|candidate| candidate.proof.as_ref()).map(|proof| proof.mismatched).sum();
    let count = Count { compared: readable.iter().map(|candidate| candidate.compared).sum(), mismatched };
    let bound = evidence::upper_bound(Count { compared: count.compared.max(mismatched), ..count });
    let needed = evidence::samples_needed(MISMATCH_BUDGET);
    let records = proofs.values().sum();
    let is_census = mismatched == 0
        && records < needed
        && readable.iter().all(|candidate| candidate.proof.as_ref().is_some_and(|proof| proof.is_clean));
    let figures = [
        ("compared", as_f64(count.compared)),
        ("mismatched", as_f64(mismatched)),
        ("bound", bound),
        ("budget", MISMATCH_BUDGET),
        ("compared_needed", as_f64(needed)),
        ("records_proven", as_f64(records)),
    ];
    let condition = if bound <= MISMATCH_BUDGET {
        Condition::met(Asked::MismatchBound, "the rate of mismatches is below its budget")
    } else if is_census {
        // No sample can be as large as that, and who has compared everything need not estimate.
        Condition::met(Asked::MismatchBound, "there are fewer records than a sample needs, and all were compared")
    } else if mismatched > 0 {
        let detail = format!(
            "{mismatched} mismatches were found since the last full comparison, and the rate may be {bound:.6} while \
             {MISMATCH_BUDGET} is the budget: repair, and run a verification"
        );
        Condition::unmet(Asked::MismatchBound, detail)
    } else {
        let detail = format!(
            "{} comparisons are too few to bound the rate of mismatches by {MISMATCH_BUDGET}: {needed} are needed; \
             wait, or raise sample_rate",
            count.compared
        );
        Condition::unmet(Asked::MismatchBound, detail)
    };
    condition.with(figures)
}

fn lag(oldest: Duration) -> Condition {
    let figures = [("oldest_mark_seconds", oldest.as_secs_f64()), ("limit_seconds", LAG_MAX.as_secs_f64())];
    let seconds = oldest.as_secs();
    let condition = if oldest <= LAG_MAX {
        Condition::met(Asked::Lag, "postgres is not far behind")
    } else {
        Condition::unmet(Asked::Lag, format!("the oldest mark is {seconds} s old: postgres is too far behind"))
    };
    condition.with(figures)
}

/// One condition that each kind has to meet: kinds that fail it for the same reason share a sentence.
fn of_each<'a>(
    condition: Asked,
    holds: &str,
    candidates: &[Candidate<'a>],
    failure: impl Fn(&Candidate<'a>) -> Option<String>,
) -> Vec<Condition> {
    let mut failing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for candidate in candidates {
        if let Some(reason) = failure(candidate) {
            failing.entry(reason).or_default().push(candidate.kind.name.clone());
        }
    }
    if failing.is_empty() {
        return vec![Condition::met(condition, holds)];
    }
    let unmet = |(reason, kinds): (String, Vec<String>)| Condition {
        kinds: kinds.clone(),
        ..Condition::unmet(condition, format!("{}: {reason}", named(&kinds)))
    };
    failing.into_iter().map(unmet).collect()
}

fn named(kinds: &[String]) -> String {
    let told = kinds.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match kinds.len().saturating_sub(NAMED_MAX) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of comparisons and records are far below 2^53")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::catalog::Catalog;

    const WELL: Around = Around {
        is_named: true,
        has_postgres: true,
        knows_proofs: true,
        trusts_marks: true,
        knows_stores: true,
        oldest_mark: Duration::ZERO,
    };

    fn flag(stage: Stage, percent: f64) -> Flag {
        Flag { stage, percent, ..Flag::default() }
    }

    fn proof() -> ProofStanding {
        ProofStanding {
            id: 1,
            age: Duration::from_secs(60),
            is_clean: true,
            keys: 1_000_000,
            mismatched: 0,
            has_gap: false,
        }
    }

    fn ready(kind: &str, test: impl Fn(&mut Candidate<'_>, &mut Around, &mut Flag)) -> Vec<Asked> {
        let (catalog, before) = (Catalog::embedded(), flag(Stage::Shadow, 0.0));
        let kind = catalog.by_name(kind).expect("a kind");
        let (proof, compared) = (Some(proof()), 5_000);
        let mut candidate =
            Candidate { kind, before: &before, is_backfilled: true, unverifiable: None, proof, compared };
        let (mut around, mut after) = (WELL, flag(Stage::Live, 5.0));
        test(&mut candidate, &mut around, &mut after);
        let all = conditions(&after, &[candidate], &around);
        all.into_iter().filter(|condition| !condition.met).map(|condition| condition.condition).collect()
    }

    #[test]
    fn a_kind_that_is_compared_whole_and_close_behind_goes_live() {
        assert_eq!(ready("user", |_, _, _| {}), []);
    }

    #[test]
    fn each_condition_alone_stands_in_the_way() {
        assert_eq!(ready("user", |kind, _, _| kind.is_backfilled = false), [Asked::Backfill]);
        assert_eq!(ready("user", |kind, _, _| kind.unverifiable = Some("x")), [Asked::Verifiable]);
        assert_eq!(ready("user", |_, around, _| around.trusts_marks = false), [Asked::Marks]);
        assert_eq!(ready("user", |_, around, _| around.knows_stores = false), [Asked::Lineage]);
        assert_eq!(ready("user", |_, around, _| around.has_postgres = false), [Asked::PostgresOn]);
        assert_eq!(ready("user", |_, _, after| after.latched = true), [Asked::Latch]);
        let gap = ProofStanding { has_gap: true, ..proof() };
        assert_eq!(ready("user", |kind, _, _| kind.proof = Some(gap)), [Asked::CaptureGap]);
        assert_eq!(ready("user", |_, around, _| around.oldest_mark = LAG_MAX * 2), [Asked::Lag]);
        assert_eq!(ready("user", |kind, _, _| kind.compared = 3_000), [Asked::MismatchBound]);
        assert_eq!(ready("user", |_, around, _| around.knows_proofs = false), [Asked::Proof, Asked::MismatchBound]);
        let aged = ProofStanding { age: PROOF_AGE_MAX * 2, ..proof() };
        assert_eq!(ready("user", |kind, _, _| kind.proof = Some(aged)), [Asked::Proof]);
        let unclean = ProofStanding { is_clean: false, ..proof() };
        assert_eq!(ready("user", |kind, _, _| kind.proof = Some(unclean)), [Asked::Proof]);
        assert_eq!(ready("user", |kind, _, _| kind.proof = None), [Asked::Proof]);
        let since = ProofStanding { mismatched: 20, ..proof() };
        assert_eq!(ready("user", |kind, _, _| kind.proof = Some(since)), [Asked::MismatchBound]);
    }

    #[test]
    fn who_has_compared_everything_need_not_sample() {
        let few = ProofStanding { keys: 12, ..proof() };
        let of_few =
            |proof: ProofStanding| ready("user", move |kind, _, _| (kind.compared, kind.proof) = (0, Some(proof)));
        assert_eq!(of_few(few), []);
        assert_eq!(of_few(ProofStanding { mismatched: 1, ..few }), [Asked::MismatchBound]);
        assert_eq!(of_few(ProofStanding { keys: 5_000, ..few }), [Asked::MismatchBound]);
    }

    #[test]
    fn steps_that_send_no_more_reads_to_postgres_ask_only_for_the_order() {
        let bare = |kind: &mut Candidate<'_>| {
            (kind.is_backfilled, kind.proof, kind.compared) = (false, None, 0);
        };
        for stage in [Stage::Dualwrite, Stage::Shadow] {
            assert_eq!(
                ready("user", |kind, _, after| {
                    bare(kind);
                    after.stage = stage;
                }),
                [],
                "{stage}"
            );
        }
        assert_eq!(
            ready("user", |kind, _, after| {
                bare(kind);
                after.stage = Stage::Off;
            }),
            [Asked::StageOrder]
        );
        let live = flag(Stage::Live, 50.0);
        assert!(!rises(&live, &flag(Stage::Live, 50.0)) && !rises(&live, &flag(Stage::Shadow, 80.0)));
        assert!(rises(&live, &flag(Stage::Live, 50.001)) && rises(&flag(Stage::Shadow, 80.0), &live));
    }

    #[test]
    fn rules_cannot_be_overridden_and_wisdom_can() {
        let soft = [Asked::Proof, Asked::MismatchBound, Asked::CaptureGap, Asked::Lag];
        assert!(soft.iter().all(|asked| asked.can_be_overridden()));
        let hard = [Asked::StageOrder, Asked::Latch, Asked::Backfill, Asked::Verifiable, Asked::Marks, Asked::Lineage];
        assert!(!hard.iter().any(|asked| asked.can_be_overridden()));
    }
}
