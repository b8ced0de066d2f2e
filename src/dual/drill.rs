//! A rollback rehearsed, on the traffic that there is.
//!
//! The reads of one kind leave Postgres as in a rollback, the fleet confirms, and the flag goes back to what it was. Nothing is
//! latched; should this sidecar die on the way, the reads stay with Redis.

use serde::Serialize;
use tokio::time::Instant;

use crate::dual::Engine;
use crate::dual::flags::{Actor, ChangeError, flag_change};
use crate::dual::gate::Asked;
use crate::dual::keeper::json;
use crate::dual::rollback::RollbackReport;
use crate::dual::step;
use crate::dual::view::DEFAULT;
use crate::model::flag::{FieldError, Flag, Stage};
use crate::stores::postgres::journal::FlagAudit;
use crate::stores::redis::change::Written;

/// How often a flag is written again when others write flags at the same time.
const WRITES_MAX: usize = 20;

/// What a drill did.
#[derive(Clone, Debug, Serialize)]
pub struct DrillReport {
    /// The rollback that was rehearsed: who has confirmed, who has not, and how long it took.
    #[serde(flatten)]
    pub rollback: RollbackReport,
    /// Whether the flag is what it was before; not when somebody else changed it meanwhile.
    pub restored: bool,
}

impl Engine {
    /// Rehearses the rollback of a kind on the traffic that there is, and restores its flag.
    ///
    /// # Errors
    /// When there is no such kind, none of its reads are answered by Postgres, or the store of the flags does not answer.
    pub async fn drill(&self, scope: &str, reason: &str, actor: &Actor) -> Result<DrillReport, ChangeError> {
        if scope == DEFAULT {
            return Err(FieldError::new("scope", "must be one kind: a drill restores its flag").into());
        }
        let began = Instant::now();
        let down = |before: &Flag| {
            let is_live = before.stage == Stage::Live && before.percent > 0.0;
            is_live.then(|| Flag { stage: Stage::Shadow, ..before.clone() })
        };
        let (before, version) = self.rewritten(scope, down, &format!("drill: {reason}"), actor).await?;
        let mut report = RollbackReport::of_fleet(version, scope);
        self.await_fleet(&mut report).await;
        report.took(began.elapsed());
        if report.waiting.is_empty() {
            self.metrics.drilled(began.elapsed());
        }
        let rehearsed = Flag { stage: Stage::Shadow, ..before.clone() };
        let up = |now: &Flag| (*now == rehearsed).then(|| before.clone());
        let restored = match self.rewritten(scope, up, "drill: the flag is as it was before", actor).await {
            Ok(_) => true,
            // Somebody changed the flag meanwhile, and knew why.
            Err(ChangeError::Refused { .. }) => false,
            Err(error) => return Err(error),
        };
        tracing::info!(key.kind = scope, elapsed_ms = report.elapsed_ms, restored, "a rollback was rehearsed");
        Ok(DrillReport { rollback: report, restored })
    }

    /// Makes of a kind's flag what `after` makes of it. Answers the flag before, and the version that says so.
    async fn rewritten(
        &self,
        scope: &str,
        after: impl Fn(&Flag) -> Option<Flag>,
        reason: &str,
        actor: &Actor,
    ) -> Result<(Flag, u64), ChangeError> {
        for _ in 0..WRITES_MAX {
            self.keeper.renew(&self.looks).await?;
            let view = self.keeper.view();
            let before = self.scope(&view, scope)?.1;
            let Some(after) = after(&before) else {
                let told = format!("{scope}: no read of it is answered by postgres, or somebody else changes its flag");
                return Err(step::refused(Asked::StageOrder, told));
            };
            let audit = FlagAudit {
                version: view.version + 1,
                kind: scope.to_owned(),
                before: json(&before),
                after: json(&after),
                who: actor.who.clone(),
                origin: actor.origin.clone(),
                reason: reason.to_owned(),
            };
            match self.write(self.of_a_known_fleet(flag_change(view.version, &[audit]))).await? {
                Written::Done(version) => return Ok((before, version)),
                Written::Unrenewed => return Err(self.unrenewed(view.version).await?),
                Written::Stale(_) | Written::PlanMoved | Written::NotLeading => {}
            }
        }
        Err(ChangeError::Store("others write the flags all the time".to_owned()))
    }
}
