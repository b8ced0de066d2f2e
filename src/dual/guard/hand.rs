//! The guard of kinds that were moved by hand: in stage live without a plan, they are judged by the usual limits all the same.
//!
//! Nobody chose limits for them, so a plan's usual ones hold. A breach takes the kind back as a plan's would: at 0 %, latched,
//! with a decision under the name of the kind. Whoever raises the flag again says why.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dual::Engine;
use crate::dual::flags::ChangeError;
use crate::dual::guard::Watched;
use crate::dual::guard::act::{Decision, GUARD, WRITES_MAX};
use crate::dual::guard::judge::Judgement;
use crate::dual::view::View;
use crate::model::catalog::Kind;
use crate::model::plan::{Plan, PlanSpec, PlanState};
use crate::stores::redis::change::Written;

/// The limits of a kind without a plan: the usual ones.
pub(super) fn usual() -> PlanSpec {
    PlanSpec { steps: Vec::new(), checks: BTreeMap::new(), confirm: Vec::new(), reason: String::new() }
}

/// Whether reads of the kind are answered by Postgres though no plan of these watches over them.
fn is_moved_by_hand(view: &View, plans: &BTreeMap<String, Plan>, kind: &Kind) -> bool {
    let is_planned = |plan: &Plan| plan.state.is_guarded() && plan.kinds.contains(&kind.name);
    kind.is_readable() && view.reads_postgres(kind) && !plans.values().any(is_planned)
}

impl Engine {
    /// The kinds that were moved by hand.
    pub(super) fn moved_by_hand(&self, plans: &BTreeMap<String, Plan>) -> Vec<Arc<Kind>> {
        let view = self.keeper.view();
        self.catalog.kinds().iter().filter(|kind| is_moved_by_hand(&view, plans, kind)).cloned().collect()
    }

    /// Takes a kind back that was moved by hand, if the last look found a breach.
    pub(super) async fn follow_hand(
        &self,
        kind: &Arc<Kind>,
        watched: &mut Watched,
        lease: &str,
    ) -> Result<(), ChangeError> {
        if watched.judgement.breaches.is_empty() {
            return Ok(());
        }
        let Judgement { breaches: reasons, numbers, .. } = std::mem::take(watched).judgement;
        self.keeper.lower(std::slice::from_ref(&kind.name)).await;
        for _ in 0..WRITES_MAX {
            let at_ms = self.redis_now_ms().await?;
            let decision = Decision {
                at_ms,
                decision: "breached".to_owned(),
                who: GUARD.to_owned(),
                reasons: reasons.clone(),
                state: PlanState::Breached,
                step: 0,
                numbers: numbers.clone(),
            };
            let decision = serde_json::to_string(&decision).expect("a decision is always JSON");
            let view = self.keeper.view();
            let change = self.taking_back(&view, std::slice::from_ref(kind), &kind.name, &reasons);
            match self.write(change.with_decision(&kind.name, decision).under(lease)).await? {
                Written::Done(version) => {
                    self.metrics.guard_breached(&kind.name);
                    tracing::warn!(key.kind = %kind.name, version, reasons = ?reasons, "the guard took reads back to redis");
                    return Ok(());
                }
                Written::Stale(_) | Written::PlanMoved | Written::Unrenewed => {}
                Written::NotLeading => return Ok(()),
            }
        }
        Err(ChangeError::Store("others write the flags all the time".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dual::keeper::json;
    use crate::model::catalog::Catalog;
    use crate::model::flag::{Flag, Stage};
    use crate::stores::redis::lease::Renewal;

    #[test]
    fn a_kind_is_moved_by_hand_when_it_is_read_from_postgres_and_no_plan_watches_over_it() {
        let catalog = Catalog::embedded();
        let view = |stage, percent| {
            let flags = [("user".to_owned(), json(&Flag { stage, percent, ..Flag::default() }))].into();
            View::of(&catalog, &Renewal { flags, ..Renewal::default() })
        };
        let plan = |state| Plan {
            name: "user".into(),
            kinds: vec!["user".into()],
            spec: usual(),
            state,
            step: 0,
            since_ms: 0,
            confirmed: false,
            resumes: false,
            holding: Vec::new(),
            revision: 1,
        };
        let plans = |state| [("user".to_owned(), plan(state))].into();
        let user = catalog.by_name("user").expect("it is there");
        let live = view(Stage::Live, 1.0);
        assert!(is_moved_by_hand(&live, &BTreeMap::new(), user));
        assert!(!is_moved_by_hand(&view(Stage::Live, 0.0), &BTreeMap::new(), user));
        assert!(!is_moved_by_hand(&view(Stage::Shadow, 1.0), &BTreeMap::new(), user));
        assert!(!is_moved_by_hand(&live, &plans(PlanState::Baking), user));
        assert!(!is_moved_by_hand(&live, &plans(PlanState::Paused), user));
        assert!(is_moved_by_hand(&live, &plans(PlanState::Breached), user), "raised again by hand");
        assert!(is_moved_by_hand(&live, &plans(PlanState::Aborted), user));
    }
}
