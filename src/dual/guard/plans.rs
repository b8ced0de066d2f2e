//! Plans as people handle them: posted, looked at, promoted, paused, resumed, given up; and what was decided about them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::dual::Engine;
use crate::dual::flags::{Actor, ChangeError, flag_change};
use crate::dual::guard::act::{Decision, replacing, rows};
use crate::dual::guard::judge::Judgement;
use crate::model::catalog::Kind;
use crate::model::flag::{FieldError, Flag, Stage};
use crate::model::plan::{Plan, PlanSpec, PlanState, Wish};
use crate::stores::redis::change::{self, Change, DECISIONS_MAX, Written};

/// How often a change of a plan is tried again when the leader changes it at the same time.
const WRITES_MAX: usize = 20;

/// A plan and what the leader saw last.
#[derive(Clone, Debug, Serialize)]
pub struct PlanReport {
    /// The plan.
    #[serde(flatten)]
    pub plan: Plan,
    /// What the leader saw last; nothing before its first look.
    pub judgement: Option<Judgement>,
}

/// Why a plan was not posted or changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PlanError {
    /// The catalog has no such kind and no such group.
    #[error("the catalog has no such kind and no such group")]
    UnknownName,
    /// There is no plan of this name.
    #[error("there is no plan for it")]
    NoPlan,
    /// A field is wrong.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// Not as things stand.
    #[error("{0}")]
    Conflict(String),
    /// Redis does not answer, or others write all the time.
    #[error("the store of the plans does not answer: {0}")]
    Store(String),
}

impl From<ChangeError> for PlanError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::UnknownKind => Self::UnknownName,
            ChangeError::Field(error) => Self::Field(error),
            ChangeError::Store(reason) => Self::Store(reason),
            ChangeError::Stale { .. } | ChangeError::Refused { .. } | ChangeError::Barrier { .. } => {
                Self::Conflict(error.to_string())
            }
        }
    }
}

impl From<crate::stores::redis::connection::RedisError> for PlanError {
    fn from(error: crate::stores::redis::connection::RedisError) -> Self {
        Self::Store(error.to_string())
    }
}

impl Engine {
    /// Begins a plan for a kind, or for the kinds of a group that can be read from Postgres.
    ///
    /// # Errors
    /// Why not; nothing is changed then.
    pub async fn post_plan(&self, name: &str, spec: PlanSpec, actor: &Actor) -> Result<PlanReport, PlanError> {
        spec.check()?;
        let kinds: Vec<String> = self.planned_kinds(name)?.iter().map(|kind| kind.name.clone()).collect();
        for _ in 0..WRITES_MAX {
            let plans = self.plans().await?;
            let shares = |plan: &&Plan| plan.state.is_open() && plan.kinds.iter().any(|kind| kinds.contains(kind));
            // A plan that has come to its end makes room for the next one of its name.
            if let Some(other) = plans.values().filter(shares).find(|plan| plan.name != name || !is_over(plan)) {
                let told = format!("the plan for {} is {}: abort it first", other.name, state_name(other.state));
                return Err(PlanError::Conflict(told));
            }
            let now_ms = self.redis_now_ms().await?;
            let plan = Plan {
                name: name.to_owned(),
                kinds: kinds.clone(),
                spec: spec.clone(),
                state: PlanState::Waiting,
                step: 0,
                since_ms: now_ms,
                confirmed: false,
                resumes: false,
                holding: Vec::new(),
                revision: plans.get(name).map_or(0, |plan| plan.revision),
            };
            let decision = Decision::of(&plan, "posted", &actor.who, vec![spec.reason.clone()], now_ms);
            let fresh = serde_json::to_string(&Judgement::default()).expect("a judgement is always JSON");
            let change = replacing(Change::default().with_judgement(name, fresh), &plan, plan.clone(), &decision);
            if matches!(change.write(&self.looks).await?, Written::Done(_)) {
                return self.plan(name).await;
            }
        }
        Err(PlanError::Store("others change plans all the time".to_owned()))
    }

    /// Does with a plan what a person wants.
    ///
    /// # Errors
    /// Why not; nothing is changed then.
    pub async fn wish_plan(
        &self,
        name: &str,
        wish: Wish,
        reason: String,
        actor: &Actor,
    ) -> Result<PlanReport, PlanError> {
        for _ in 0..WRITES_MAX {
            let plan = self.plans().await?.remove(name).ok_or(PlanError::NoPlan)?;
            let now_ms = self.redis_now_ms().await?;
            let next = plan.wished(wish, now_ms).map_err(|told| PlanError::Conflict(told.to_owned()))?;
            let decision = Decision::of(&next, wish.name(), &actor.who, vec![reason.clone()], now_ms);
            let change = match wish {
                Wish::Promote | Wish::Pause | Wish::Resume => Change::default(),
                Wish::Abort => {
                    let (view, kinds) = (self.keeper.view(), self.kinds_named(&plan.kinds));
                    let back =
                        |before: &Flag| Flag { stage: before.stage.min(Stage::Shadow), percent: 0.0, ..before.clone() };
                    let audits = rows(&view, &kinds, &actor.who, &reason, back);
                    if audits.is_empty() { Change::default() } else { flag_change(view.version, &audits) }
                }
            };
            match self.write(replacing(change, &plan, next, &decision)).await? {
                Written::Done(_) => return self.plan(name).await,
                Written::Stale(_) | Written::PlanMoved | Written::NotLeading | Written::Unrenewed => {}
            }
        }
        Err(PlanError::Store("others change plans all the time".to_owned()))
    }

    /// The plan of this name, and what the leader saw of it last.
    ///
    /// # Errors
    /// When there is none, or Redis does not answer.
    pub async fn plan(&self, name: &str) -> Result<PlanReport, PlanError> {
        let plan = self.plans().await?.remove(name).ok_or(PlanError::NoPlan)?;
        let judgement = self.judgements().await?.remove(name).filter(|judgement| judgement.at_ms > 0);
        Ok(PlanReport { plan, judgement })
    }

    /// All plans, by name.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn plan_reports(&self) -> Result<Vec<PlanReport>, PlanError> {
        let mut judgements = self.judgements().await?;
        let report = |(name, plan): (String, Plan)| PlanReport {
            plan,
            judgement: judgements.remove(&name).filter(|judgement| judgement.at_ms > 0),
        };
        Ok(self.plans().await?.into_iter().map(report).collect())
    }

    /// What was decided about a kind or group, newest first: by its own plans, and those of groups that it belongs to.
    ///
    /// # Errors
    /// When the catalog does not know the name, or Redis does not answer.
    pub async fn decisions(&self, name: &str) -> Result<Vec<Decision>, PlanError> {
        let mut names = vec![name.to_owned()];
        match self.catalog.by_name(name) {
            Some(kind) => names.extend(kind.group.clone()),
            None => drop(self.planned_kinds(name)?),
        }
        let mut found: Vec<Decision> = Vec::new();
        for name in names {
            let kept = change::decisions(&self.looks, &name).await?;
            found.extend(kept.iter().filter_map(|text| serde_json::from_str(text).ok()));
        }
        found.sort_by_key(|decision| std::cmp::Reverse(decision.at_ms));
        found.truncate(DECISIONS_MAX);
        Ok(found)
    }

    /// The kinds that a plan's name means.
    fn planned_kinds(&self, name: &str) -> Result<Vec<Arc<Kind>>, PlanError> {
        if let Some(kind) = self.catalog.by_name(name) {
            if kind.is_readable() {
                return Ok(vec![Arc::clone(kind)]);
            }
            return Err(PlanError::Conflict(format!("the kind {name} is never read from postgres")));
        }
        let in_group = |kind: &&Arc<Kind>| kind.group.as_deref() == Some(name) && kind.is_readable();
        let kinds: Vec<Arc<Kind>> = self.catalog.kinds().iter().filter(in_group).cloned().collect();
        if kinds.is_empty() { Err(PlanError::UnknownName) } else { Ok(kinds) }
    }

    /// The plans as they are kept. One that cannot be read is of a later version: it is left to sidecars that can.
    pub(super) async fn plans(&self) -> Result<BTreeMap<String, Plan>, ChangeError> {
        let kept = change::plans(&self.looks).await?;
        Ok(kept.into_iter().filter_map(|(name, text)| Some((name, serde_json::from_str(&text).ok()?))).collect())
    }

    /// What the leader saw of each plan last.
    pub(super) async fn judgements(&self) -> Result<BTreeMap<String, Judgement>, ChangeError> {
        let kept = change::judgements(&self.looks).await?;
        Ok(kept.into_iter().filter_map(|(name, text)| Some((name, serde_json::from_str(&text).ok()?))).collect())
    }
}

fn is_over(plan: &Plan) -> bool {
    match plan.state {
        PlanState::Done | PlanState::Aborted => true,
        PlanState::Waiting | PlanState::Baking | PlanState::Paused | PlanState::Breached => false,
    }
}

fn state_name(state: PlanState) -> &'static str {
    match state {
        PlanState::Waiting => "waiting",
        PlanState::Baking => "baking",
        PlanState::Paused => "paused",
        PlanState::Done => "done",
        PlanState::Breached => "breached",
        PlanState::Aborted => "aborted",
    }
}
