//! What a leader does with a plan: the next step, a wait, the end, or everything back to Redis. Each with the numbers behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dual::Engine;
use crate::dual::flags::{ChangeError, flag_change};
use crate::dual::guard::Watched;
use crate::dual::guard::judge::{self, Judgement};
use crate::dual::keeper::json;
use crate::dual::view::{View, rolled_back};
use crate::model::catalog::Kind;
use crate::model::flag::{Flag, FlagChange, Stage};
use crate::model::plan::{Due, Plan, PlanState};
use crate::stores::postgres::journal::FlagAudit;
use crate::stores::redis::change::{Change, Written};

/// Who the audit names for what a leader does.
pub(super) const GUARD: &str = "guard";
/// How often reads are taken back again when others write the flags at the same time.
pub(super) const WRITES_MAX: usize = 20;

/// What was decided about a plan, or about a kind that was moved by hand, and by which numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Redis' time, in milliseconds.
    pub at_ms: i64,
    /// `posted`, `stepped`, `held`, `breached`, `ended`, `promoted`, `paused`, `resumed` or `aborted`.
    pub decision: String,
    /// The right of the person, or `guard`.
    pub who: String,
    /// Why, each in a sentence.
    pub reasons: Vec<String>,
    /// How the plan stands after it; `breached` for a kind that was moved by hand.
    pub state: PlanState,
    /// The place of its step.
    pub step: usize,
    /// The numbers that it was decided by.
    pub numbers: BTreeMap<String, f64>,
}

impl Decision {
    /// A decision that leaves the plan as `plan`.
    pub(super) fn of(plan: &Plan, decision: &str, who: &str, reasons: Vec<String>, at_ms: i64) -> Self {
        let (decision, who) = (decision.to_owned(), who.to_owned());
        Self { at_ms, decision, who, reasons, state: plan.state, step: plan.step, numbers: BTreeMap::new() }
    }

    fn by(self, numbers: &BTreeMap<String, f64>) -> Self {
        Self { numbers: numbers.clone(), ..self }
    }
}

/// The plan, as it is after it, in the place of `plan`, and the decision with it.
pub(super) fn replacing(change: Change, plan: &Plan, next: Plan, decision: &Decision) -> Change {
    let next = Plan { revision: plan.revision + 1, ..next };
    let kept = serde_json::to_string(&next).expect("a plan is always JSON");
    let decided = serde_json::to_string(decision).expect("a decision is always JSON");
    change.with_plan(&plan.name, plan.revision, kept).with_decision(&plan.name, decided)
}

/// Audit rows for kinds whose flags become what `after` makes of them; kinds that are so already are left out.
pub(super) fn rows(
    view: &View,
    kinds: &[Arc<Kind>],
    who: &str,
    reason: &str,
    after: impl Fn(&Flag) -> Flag,
) -> Vec<FlagAudit> {
    let row = |kind: &Arc<Kind>| {
        let before = view.flag(kind);
        let after = after(before);
        (after != *before).then(|| FlagAudit {
            version: view.version + 1,
            kind: kind.name.clone(),
            before: json(before),
            after: json(&after),
            who: who.to_owned(),
            origin: String::new(),
            reason: reason.to_owned(),
        })
    };
    kinds.iter().filter_map(row).collect()
}

impl Engine {
    /// Does what is due for one plan.
    pub(super) async fn follow(&self, plan: Plan, watched: &mut Watched, lease: &str) -> Result<(), ChangeError> {
        if plan.state.is_guarded() && !watched.judgement.breaches.is_empty() {
            let reasons = watched.judgement.breaches.clone();
            self.take_back(&plan, reasons, &watched.judgement.numbers, lease).await?;
            *watched = Watched::default();
            return Ok(());
        }
        let now_ms = self.redis_now_ms().await?;
        let view = self.keeper.view();
        let kinds = self.kinds_named(&plan.kinds);
        let is_taken_back = kinds.iter().any(|kind| view.flag(kind).latched);
        match plan.state {
            PlanState::Baking | PlanState::Done if is_taken_back => {
                let reasons = vec!["somebody took the reads of a kind back".to_owned()];
                return self.take_back(&plan, reasons, &BTreeMap::new(), lease).await;
            }
            PlanState::Waiting
            | PlanState::Baking
            | PlanState::Paused
            | PlanState::Done
            | PlanState::Breached
            | PlanState::Aborted => {}
        }
        match plan.due(now_ms) {
            Due::Nothing => Ok(()),
            Due::Confirmation => {
                self.hold(plan, vec!["a person has to say yes: promote it".to_owned()], now_ms, lease).await
            }
            Due::End => {
                let next = Plan { state: PlanState::Done, holding: Vec::new(), ..plan.clone() };
                let decision = Decision::of(&next, "ended", GUARD, Vec::new(), now_ms).by(&watched.judgement.numbers);
                replacing(Change::default(), &plan, next, &decision).under(lease).write(&self.looks).await?;
                Ok(())
            }
            Due::Step(step) => self.take_step(plan, step, &view, &kinds, watched, lease).await,
        }
    }

    /// Takes a step, if every gate lets it and there was something to judge the last one by.
    async fn take_step(
        &self,
        plan: Plan,
        step: usize,
        view: &View,
        kinds: &[Arc<Kind>],
        watched: &Watched,
        lease: &str,
    ) -> Result<(), ChangeError> {
        let now_ms = self.redis_now_ms().await?;
        let Some(percent) = plan.spec.steps.get(step).map(|step| step.percent) else { return Ok(()) };
        let mut holding = match plan.state {
            PlanState::Baking => judge::missing(&watched.counted, &watched.ages),
            PlanState::Waiting | PlanState::Paused | PlanState::Done | PlanState::Breached | PlanState::Aborted => {
                Vec::new()
            }
        };
        let resume = plan.resumes.then_some(true);
        let reason = Some(format!("step {} of the plan for {}: {}", step + 1, plan.name, plan.spec.reason));
        let change =
            FlagChange { stage: Some(Stage::Live), percent: Some(percent), resume, reason, ..Default::default() };
        let mut audits = Vec::new();
        for kind in kinds {
            let judged = self.judged(view, &kind.name, &change).await?;
            match judged.reason(&change) {
                Ok(reason) => audits.extend(rows(view, &[Arc::clone(kind)], GUARD, &reason, |_| judged.after.clone())),
                Err(ChangeError::Refused { unmet }) => {
                    holding.extend(unmet.into_iter().map(|condition| condition.detail));
                }
                Err(error) => return Err(error),
            }
        }
        if !holding.is_empty() {
            return self.hold(plan, holding, now_ms, lease).await;
        }
        let next = plan.stepped(step, now_ms);
        let decision = Decision::of(&next, "stepped", GUARD, vec![format!("{percent} %")], now_ms);
        let decision = decision.by(&watched.judgement.numbers);
        // A stale version, a plan that somebody changed, a lost lease, or a fleet that is not known since a failover: looked at
        // again, by whoever leads then.
        let written = self.of_a_known_fleet(flag_change(view.version, &audits));
        if let Written::Done(version) = self.write(replacing(written, &plan, next, &decision).under(lease)).await? {
            tracing::info!(plan = %plan.name, percent, version, "a step of a plan was taken");
        }
        Ok(())
    }

    /// Notes why a plan waits, when that is news.
    async fn hold(&self, plan: Plan, holding: Vec<String>, now_ms: i64, lease: &str) -> Result<(), ChangeError> {
        if plan.holding == holding {
            return Ok(());
        }
        let next = Plan { holding: holding.clone(), ..plan.clone() };
        let decision = Decision::of(&next, "held", GUARD, holding, now_ms);
        replacing(Change::default(), &plan, next, &decision).under(lease).write(&self.looks).await?;
        Ok(())
    }

    /// Takes the reads of a plan's kinds back to Redis: here at once, and for the fleet with the flags.
    async fn take_back(
        &self,
        plan: &Plan,
        reasons: Vec<String>,
        numbers: &BTreeMap<String, f64>,
        lease: &str,
    ) -> Result<(), ChangeError> {
        self.keeper.lower(&plan.kinds).await;
        for _ in 0..WRITES_MAX {
            let now_ms = self.redis_now_ms().await?;
            let (view, kinds) = (self.keeper.view(), self.kinds_named(&plan.kinds));
            let current = self.plans().await?.remove(&plan.name).unwrap_or_else(|| plan.clone());
            if !current.state.is_guarded() {
                return Ok(());
            }
            let next = Plan { state: PlanState::Breached, since_ms: now_ms, holding: Vec::new(), ..current.clone() };
            let decision = Decision::of(&next, "breached", GUARD, reasons.clone(), now_ms).by(numbers);
            let change = self.taking_back(&view, &kinds, &plan.name, &reasons);
            let change = replacing(change, &current, next, &decision);
            match self.write(change.under(lease)).await? {
                Written::Done(version) => {
                    for kind in &kinds {
                        self.metrics.guard_breached(&kind.name);
                    }
                    tracing::warn!(plan = %plan.name, version, reasons = ?reasons, "the guard took reads back to redis");
                    return Ok(());
                }
                Written::Stale(_) | Written::PlanMoved | Written::Unrenewed => {}
                Written::NotLeading => return Ok(()),
            }
        }
        Err(ChangeError::Store("others write the flags all the time".to_owned()))
    }

    /// What brings these kinds to 0 %, latched; `name` is what is guarded, a plan or a kind.
    pub(super) fn taking_back(&self, view: &View, kinds: &[Arc<Kind>], name: &str, reasons: &[String]) -> Change {
        let told = format!("the guard of {name}: {}", reasons.join("; "));
        let stored = |before: &Flag| Flag { percent: 0.0, ..rolled_back(before) };
        let audits = self.stored_rows(view, kinds, &told, stored);
        // What led to it is over when somebody resumes.
        let fresh = serde_json::to_string(&Judgement::default()).expect("a judgement is always JSON");
        flag_change(view.version, &audits).with_judgement(name, fresh)
    }

    /// As [`rows`], from the flags as they are stored: this sidecar has lowered its own view already.
    fn stored_rows(
        &self,
        view: &View,
        kinds: &[Arc<Kind>],
        reason: &str,
        after: impl Fn(&Flag) -> Flag,
    ) -> Vec<FlagAudit> {
        let row = |kind: &Arc<Kind>| {
            let before = view.stored_flag(kind);
            FlagAudit {
                version: view.version + 1,
                kind: kind.name.clone(),
                before: json(&before),
                after: json(&after(&before)),
                who: GUARD.to_owned(),
                origin: String::new(),
                reason: reason.to_owned(),
            }
        };
        kinds.iter().map(row).collect()
    }

    /// The kinds of a plan that the catalog still has.
    pub(super) fn kinds_named(&self, names: &[String]) -> Vec<Arc<Kind>> {
        names.iter().filter_map(|name| self.catalog.by_name(name).cloned()).collect()
    }

    /// Redis' time, in milliseconds, after a renewal of the flags.
    pub(super) async fn redis_now_ms(&self) -> Result<i64, ChangeError> {
        Ok(self.keeper.renew(&self.looks).await?.now_ms)
    }
}
