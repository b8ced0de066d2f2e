//! Plans: how a kind, or a group of kinds, climbs from no read answered by Postgres to all of them, and what takes it back.
//!
//! A plan is data and a few pure questions. Who acts on it, and what is seen of stores and fleet, stands in `dual/guard`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::flag::FieldError;

/// Steps of one plan at most.
pub const STEPS_MAX: usize = 50;
/// A step bakes for at most a week, so that every plan ends.
pub const BAKE_SECONDS_MAX: u64 = 7 * 24 * 3_600;

/// One step: so many percent of the keys, for so long before the next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Percent of the keys that are read from Postgres: above 0, to 100, with at most three decimals.
    pub percent: f64,
    /// How long it must hold before the next: 1 s to a week.
    pub bake_seconds: u64,
}

/// When a person has to say yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confirmation {
    /// Before the first step.
    First,
    /// Before the last step.
    Last,
}

/// What is looked at all the time, with the limit above which reads are taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The share of comparisons that are confirmed mismatches, proven to be above the limit at 95 % whenever one looks.
    MismatchRatio,
    /// The share of reads that Postgres answered late, with an error, or that went by it because it was in trouble.
    TroubleRatio,
    /// The 99th percentile of Postgres' reads, as a multiple of that of Redis' fences before them.
    P99Ratio,
    /// The age of the oldest mark, in seconds.
    OldestMarkSeconds,
    /// The age of the last full comparison without a difference, in hours.
    ProofAgeHours,
}

impl Check {
    /// Every check, with its limit where a plan says nothing.
    pub const ALL: [(Self, f64); 5] = [
        (Self::MismatchRatio, 0.0001),
        (Self::TroubleRatio, 0.05),
        (Self::P99Ratio, 50.0),
        (Self::OldestMarkSeconds, 300.0),
        (Self::ProofAgeHours, 168.0),
    ];
}

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanSpec {
    /// The steps, each higher than the one before.
    pub steps: Vec<Step>,
    /// Limits that differ from the usual ones.
    pub checks: BTreeMap<Check, f64>,
    /// When a person has to say yes.
    pub confirm: Vec<Confirmation>,
    /// Why, for the audit.
    pub reason: String,
}

impl PlanSpec {
    /// Whether it can be followed.
    ///
    /// # Errors
    /// The field that is wrong and why.
    pub fn check(&self) -> Result<(), FieldError> {
        if self.steps.is_empty() || self.steps.len() > STEPS_MAX {
            return Err(FieldError::new("steps", format!("must be 1 to {STEPS_MAX} steps")));
        }
        let mut before = 0.0;
        for step in &self.steps {
            let is_percent = step.percent > 0.0 && step.percent <= 100.0;
            if !is_percent || crate::model::flag::has_more_than_three_decimals(step.percent) {
                let told = "must have a percent above 0, up to 100, with at most three decimals";
                return Err(FieldError::new("steps", told));
            }
            if step.percent <= before {
                return Err(FieldError::new("steps", "must rise: a plan that goes round never ends"));
            }
            before = step.percent;
            if !(1..=BAKE_SECONDS_MAX).contains(&step.bake_seconds) {
                let told = format!("must have bake_seconds of 1 to {BAKE_SECONDS_MAX}: a longer plan never ends");
                return Err(FieldError::new("steps", told));
            }
        }
        for limit in self.checks.values() {
            if !limit.is_finite() || *limit <= 0.0 {
                return Err(FieldError::new("checks", "must have limits above 0"));
            }
        }
        if self.limit(Check::MismatchRatio) >= 1.0 || self.limit(Check::TroubleRatio) >= 1.0 {
            return Err(FieldError::new("checks", "must have ratios of mismatches and trouble below 1"));
        }
        if self.reason.trim().is_empty() {
            return Err(FieldError::new("reason", "is needed for the audit"));
        }
        Ok(())
    }

    /// The limit of a check.
    #[must_use]
    pub fn limit(&self, check: Check) -> f64 {
        let usual = Check::ALL.into_iter().find(|(known, _)| *known == check).map_or(0.0, |(_, limit)| limit);
        self.checks.get(&check).copied().unwrap_or(usual)
    }

    /// Whether a person has to say yes before the step at this place.
    #[must_use]
    pub fn wants_confirmation(&self, step: usize) -> bool {
        (step == 0 && self.confirm.contains(&Confirmation::First))
            || (step + 1 == self.steps.len() && self.confirm.contains(&Confirmation::Last))
    }
}

/// How a plan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanState {
    /// Its next step is yet to be taken: the gates, or a person, have to say yes.
    Waiting,
    /// Its step was taken and has to hold for its time.
    Baking,
    /// Somebody stopped it where it is; the guard goes on watching.
    Paused,
    /// Its last step has held; the guard goes on watching.
    Done,
    /// Reads were taken back. Nothing moves until somebody resumes with a reason.
    Breached,
    /// Somebody gave it up; reads are with Redis.
    Aborted,
}

impl PlanState {
    /// Whether it still holds its kinds, so that no other plan may have them.
    #[must_use]
    pub fn is_open(self) -> bool {
        match self {
            Self::Waiting | Self::Baking | Self::Paused | Self::Done | Self::Breached => true,
            Self::Aborted => false,
        }
    }

    /// Whether reads of its kinds are watched.
    #[must_use]
    pub fn is_guarded(self) -> bool {
        match self {
            Self::Waiting | Self::Baking | Self::Paused | Self::Done => true,
            Self::Breached | Self::Aborted => false,
        }
    }
}

/// A plan under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The kind or group.
    pub name: String,
    /// The kinds.
    pub kinds: Vec<String>,
    /// What was asked for.
    pub spec: PlanSpec,
    /// How it stands.
    pub state: PlanState,
    /// The place of the next step, or while one bakes of that one.
    pub step: usize,
    /// Redis' time in milliseconds at which the step was taken, the plan posted, or somebody changed it.
    pub since_ms: i64,
    /// Whether a person has said yes to the next step.
    pub confirmed: bool,
    /// Whether the latch of a breach is taken away with the next step.
    pub resumes: bool,
    /// Why the next step is not taken yet.
    pub holding: Vec<String>,
    /// Raised with every change of the plan.
    pub revision: u64,
}

/// What a person wants of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To say yes to the next step, or not to wait for the rest of a step's time.
    Promote,
    /// To stop it where it is.
    Pause,
    /// To go on after a pause or a breach.
    Resume,
    /// To give it up, and its reads back to Redis.
    Abort,
}

impl Wish {
    /// The name in decisions and paths.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Promote => "promoted",
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Abort => "aborted",
        }
    }
}

/// What the time asks of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing now.
    Nothing,
    /// To take the step at this place, if the gates let it.
    Step(usize),
    /// To wait for a person.
    Confirmation,
    /// To end: the last step has held.
    End,
}

impl Plan {
    /// What is due at this time of Redis.
    #[must_use]
    pub fn due(&self, now_ms: i64) -> Due {
        match self.state {
            PlanState::Paused | PlanState::Done | PlanState::Breached | PlanState::Aborted => Due::Nothing,
            PlanState::Waiting if self.spec.wants_confirmation(self.step) && !self.confirmed => Due::Confirmation,
            PlanState::Waiting => Due::Step(self.step),
            PlanState::Baking => {
                let bake_ms = self.spec.steps.get(self.step).map_or(0, |step| step.bake_seconds.saturating_mul(1000));
                if now_ms.saturating_sub(self.since_ms) < i64::try_from(bake_ms).unwrap_or(i64::MAX) {
                    Due::Nothing
                } else if self.step + 1 >= self.spec.steps.len() {
                    Due::End
                } else if self.spec.wants_confirmation(self.step + 1) && !self.confirmed {
                    Due::Confirmation
                } else {
                    Due::Step(self.step + 1)
                }
            }
        }
    }

    /// The plan after its step at `step` was taken.
    #[must_use]
    pub fn stepped(&self, step: usize, now_ms: i64) -> Self {
        let state = PlanState::Baking;
        Self { state, step, since_ms: now_ms, confirmed: false, resumes: false, holding: Vec::new(), ..self.clone() }
    }

    /// The plan after what a person wants of it.
    ///
    /// # Errors
    /// Why that cannot be now.
    pub fn wished(&self, wish: Wish, now_ms: i64) -> Result<Self, &'static str> {
        let at = |state| Self { state, since_ms: now_ms, holding: Vec::new(), ..self.clone() };
        match (wish, self.state) {
            (Wish::Promote, PlanState::Waiting) => Ok(Self { confirmed: true, ..self.clone() }),
            // A step that has held long enough begins in the past.
            (Wish::Promote, PlanState::Baking) => Ok(Self { confirmed: true, since_ms: 0, ..self.clone() }),
            (Wish::Pause, PlanState::Waiting | PlanState::Baking) => Ok(at(PlanState::Paused)),
            (Wish::Resume, PlanState::Paused) => Ok(at(PlanState::Waiting)),
            (Wish::Resume, PlanState::Breached) => Ok(Self { step: 0, resumes: true, ..at(PlanState::Waiting) }),
            (
                Wish::Abort,
                PlanState::Waiting | PlanState::Baking | PlanState::Paused | PlanState::Done | PlanState::Breached,
            ) => Ok(at(PlanState::Aborted)),
            (Wish::Promote, PlanState::Paused) => Err("it is paused: resume it first"),
            (Wish::Promote | Wish::Pause, PlanState::Breached) => {
                Err("its reads were taken back: resume it with a reason")
            }
            (Wish::Promote | Wish::Pause | Wish::Resume, PlanState::Done) => Err("it has come to its end"),
            (Wish::Pause, PlanState::Paused) => Err("it is paused already"),
            (Wish::Resume, PlanState::Waiting | PlanState::Baking) => Err("nothing stops it"),
            (_, PlanState::Aborted) => Err("it was given up: post it again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> PlanSpec {
        PlanSpec {
            steps: vec![Step { percent: 1.0, bake_seconds: 10 }, Step { percent: 100.0, bake_seconds: 20 }],
            checks: BTreeMap::new(),
            confirm: Vec::new(),
            reason: "the way up".into(),
        }
    }

    fn plan() -> Plan {
        Plan {
            name: "auth".into(),
            kinds: vec!["apikey".into()],
            spec: spec(),
            state: PlanState::Waiting,
            step: 0,
            since_ms: 0,
            confirmed: false,
            resumes: false,
            holding: Vec::new(),
            revision: 1,
        }
    }

    #[test]
    fn a_plan_that_cannot_be_followed_names_what_is_wrong() {
        let wrong = |change: fn(&mut PlanSpec)| {
            let mut spec = spec();
            change(&mut spec);
            spec.check().expect_err("refused").field
        };
        assert!(spec().check().is_ok());
        assert_eq!(wrong(|spec| spec.steps.clear()), "steps");
        assert_eq!(wrong(|spec| spec.steps = vec![Step { percent: 1.0, bake_seconds: 1 }; 51]), "steps");
        for percent in [0.0, -1.0, 100.001, 0.0001, f64::NAN] {
            let mut spec = spec();
            spec.steps[1].percent = percent;
            assert_eq!(spec.check().expect_err("refused").field, "steps", "{percent}");
        }
        assert_eq!(wrong(|spec| spec.steps.reverse()), "steps");
        assert_eq!(wrong(|spec| spec.steps[0].bake_seconds = 0), "steps");
        assert_eq!(wrong(|spec| spec.steps[1].bake_seconds = BAKE_SECONDS_MAX + 1), "steps");
        assert_eq!(wrong(|spec| spec.checks.extend([(Check::P99Ratio, 0.0)])), "checks");
        assert_eq!(wrong(|spec| spec.checks.extend([(Check::MismatchRatio, 1.0)])), "checks");
        assert_eq!(wrong(|spec| spec.reason = " ".into()), "reason");
    }

    #[test]
    fn a_plan_climbs_by_its_bake_times_to_its_end() {
        let first = plan();
        assert_eq!(first.due(0), Due::Step(0));
        let baking = first.stepped(0, 5_000);
        assert_eq!((baking.due(14_999), baking.due(15_000)), (Due::Nothing, Due::Step(1)));
        let last = baking.stepped(1, 15_000);
        assert_eq!((last.due(34_999), last.due(35_000)), (Due::Nothing, Due::End));
    }

    #[test]
    fn a_person_says_yes_where_the_plan_asks_for_it() {
        let mut asking = plan();
        asking.spec.confirm = vec![Confirmation::First, Confirmation::Last];
        assert_eq!(asking.due(0), Due::Confirmation);
        let baking = asking.wished(Wish::Promote, 0).expect("it waits").stepped(0, 0);
        assert_eq!(baking.due(10_000), Due::Confirmation);
        assert_eq!(baking.wished(Wish::Promote, 10_000).expect("it bakes").due(10_000), Due::Step(1));
    }

    #[test]
    fn a_breach_is_left_only_by_resuming_from_the_first_step_or_by_giving_up() {
        let breached = Plan { state: PlanState::Breached, step: 1, ..plan() };
        assert_eq!(breached.due(i64::MAX), Due::Nothing);
        assert!(breached.wished(Wish::Promote, 0).is_err() && breached.wished(Wish::Pause, 0).is_err());
        let resumed = breached.wished(Wish::Resume, 0).expect("it may");
        assert_eq!((resumed.due(0), resumed.resumes), (Due::Step(0), true));
        let aborted = breached.wished(Wish::Abort, 0).expect("it may");
        assert!(!aborted.state.is_open() && aborted.wished(Wish::Resume, 0).is_err());
    }

    #[test]
    fn a_pause_stops_the_climb_and_not_the_guard() {
        let paused = plan().stepped(0, 0).wished(Wish::Pause, 1).expect("it bakes");
        assert_eq!(paused.due(i64::MAX), Due::Nothing);
        assert!(paused.state.is_guarded() && !PlanState::Breached.is_guarded());
        assert_eq!(paused.wished(Wish::Resume, 2).expect("it may").due(2), Due::Step(0));
    }
}
