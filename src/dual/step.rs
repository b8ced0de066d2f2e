//! A step of a flag, judged: what the gates need is gathered from flags, fleet and Postgres, and what they say is obeyed,
//! unless somebody gives a reason in the place of what may be overridden.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use crate::dual::figures::{self, Figures};
use crate::dual::flags::ChangeError;
use crate::dual::gaps;
use crate::dual::gate::{self, Around, Candidate, Condition};
use crate::dual::lineage::Standing;
use crate::dual::view::{DEFAULT, View};
use crate::dual::{Engine, gate::Asked};
use crate::model::catalog::Kind;
use crate::model::flag::{Flag, FlagChange};
use crate::stores::postgres::proofs;

/// What a change would do, and whether it may.
#[derive(Clone, Debug, Serialize)]
pub struct Preview {
    /// The version of the flags that it was judged at.
    pub version: u64,
    /// The flag after it.
    pub flag: Flag,
    /// Whether it would be made.
    pub allowed: bool,
    /// Every condition, met or not.
    pub conditions: Vec<Condition>,
}

/// A change that was judged.
pub(super) struct Judged {
    pub(super) kinds: Vec<Arc<Kind>>,
    pub(super) before: Flag,
    pub(super) after: Flag,
    pub(super) conditions: Vec<Condition>,
}

impl Judged {
    /// The conditions that stand in the way of the change.
    fn in_the_way(&self, change: &FlagChange) -> Vec<Condition> {
        let overrides = change.overrides == Some(true);
        let is_passed = |condition: &Condition| condition.met || (overrides && condition.overridable);
        self.conditions.iter().filter(|condition| !is_passed(condition)).cloned().collect()
    }

    /// The reason for the audit, and before it what the change went past.
    ///
    /// # Errors
    /// Each condition that stands in the way.
    pub(super) fn reason(&self, change: &FlagChange) -> Result<String, ChangeError> {
        let unmet = self.in_the_way(change);
        if !unmet.is_empty() {
            return Err(ChangeError::Refused { unmet });
        }
        let reason = change.reason.clone().unwrap_or_default();
        let passed = self.conditions.iter().filter(|condition| !condition.met);
        let passed: Vec<&str> = passed.map(|condition| condition.detail.as_str()).collect();
        Ok(if passed.is_empty() { reason } else { format!("{reason} (override of: {})", passed.join("; ")) })
    }
}

impl Engine {
    /// What a change of a flag would do, and each condition that it meets or does not. Nothing is changed.
    ///
    /// # Errors
    /// As for the change itself, apart from conditions that are not met.
    pub async fn preview_flag(
        &self,
        kind: &str,
        change: &FlagChange,
        expected_version: u64,
    ) -> Result<Preview, ChangeError> {
        self.keeper.renew(&self.looks).await?;
        let view = self.keeper.view();
        if view.version != expected_version {
            return Err(ChangeError::Stale { current: view.version });
        }
        let judged = self.judged(&view, kind, change).await?;
        let allowed = judged.in_the_way(change).is_empty();
        Ok(Preview { version: view.version, flag: judged.after, allowed, conditions: judged.conditions })
    }

    /// Judges a change under `view`.
    pub(super) async fn judged(&self, view: &View, name: &str, change: &FlagChange) -> Result<Judged, ChangeError> {
        let (kinds, before) = self.scope(view, name)?;
        let after = change.applied_to(&before)?;
        let rises = kinds.iter().any(|kind| gate::rises(view.flag(kind), &after));
        let known = if rises { self.known_of(&kinds).await? } else { Known::default() };
        let candidates: Vec<Candidate<'_>> = kinds.iter().map(|kind| known.candidate(view, kind)).collect();
        let around = Around {
            is_named: name != DEFAULT,
            has_postgres: self.postgres.is_some(),
            knows_proofs: known.proofs.is_some(),
            trusts_marks: self.trusts_postgres(),
            knows_stores: self.lineage.standing().await == Standing::Good,
            oldest_mark: Duration::from_millis(self.outbox_age_ms.load(Ordering::Relaxed)),
        };
        let conditions = gate::conditions(&after, &candidates, &around);
        Ok(Judged { kinds, before, after, conditions })
    }

    async fn known_of(&self, kinds: &[Arc<Kind>]) -> Result<Known, ChangeError> {
        let names: Vec<String> = kinds.iter().map(|kind| kind.name.clone()).collect();
        let proofs = match &self.postgres {
            Some(postgres) => {
                // What is noted and not in Postgres yet counts as well.
                match gaps::forward(&self.looks, postgres, &self.metrics).await {
                    Ok(()) => proofs::standings(postgres, &names).await.ok(),
                    Err(_) => None,
                }
            }
            None => None,
        };
        Ok(Known { proofs, fleet: self.fleet_figures().await? })
    }
}

/// What Postgres and the fleet know of kinds.
#[derive(Default)]
struct Known {
    proofs: Option<BTreeMap<String, proofs::Standing>>,
    fleet: BTreeMap<String, Figures>,
}

impl Known {
    fn candidate<'a>(&self, view: &'a View, kind: &'a Kind) -> Candidate<'a> {
        Candidate {
            kind,
            before: view.flag(kind),
            is_backfilled: view.is_backfilled(kind),
            unverifiable: view.unverifiable.get(&kind.name).map(String::as_str),
            proof: self.proofs.as_ref().and_then(|proofs| proofs.get(&kind.name).copied()),
            compared: figures::sum_of(&kind.name, &self.fleet).compared,
        }
    }
}

/// One condition alone, for what is refused before the gates are asked.
pub(super) fn refused(condition: Asked, detail: impl Into<String>) -> ChangeError {
    ChangeError::Refused { unmet: vec![Condition::unmet(condition, detail)] }
}
