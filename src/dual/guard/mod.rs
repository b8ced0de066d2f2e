//! The guard: one leader of the fleet follows the plans, step by step, and takes reads back when a check is above its limit.
//!
//! Whoever has the lease leads. Its number stands in every write of a leader, and Redis refuses a write under any other
//! lease than the one that holds at that moment; so a leader that was away while another came acts no more. Plans, what was
//! decided and what was seen last are kept in Redis beside the flags, and survive every sidecar.

mod act;
pub mod judge;
mod plans;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::dual::figures::Figures;
use crate::dual::flags::ChangeError;
use crate::dual::guard::judge::{Ages, Counted, Judgement};
use crate::dual::{Engine, Membership};
use crate::model::plan::Plan;
use crate::stores::postgres::proofs;
use crate::stores::redis::Redis;
use crate::stores::redis::change::{self, Change};

pub use act::Decision;
pub use plans::{PlanError, PlanReport};

/// How often plans are looked at for what is due.
const TICK: Duration = Duration::from_secs(1);
/// How often the fleet is judged.
const LOOK: Duration = Duration::from_secs(5);
/// How long the lease of the leader holds.
const LEASE_MS: u64 = 10_000;
/// How long Postgres may take to say what was compared: the guard must not hang where Postgres does.
const PROOFS_DEADLINE: Duration = Duration::from_secs(1);

/// What a leader knows from look to look.
#[derive(Default)]
struct Leader {
    /// The lease that it acts under.
    lease: String,
    looked: Option<Instant>,
    figures: BTreeMap<String, Figures>,
    plans: BTreeMap<String, Watched>,
}

/// What a leader knows of one plan.
#[derive(Default)]
struct Watched {
    judgement: Judgement,
    ages: Ages,
    /// Of which step: what was counted since belongs to it.
    since_ms: i64,
    counted: Counted,
}

/// Leads whenever nobody else does, for ever.
pub(super) async fn run(engine: Arc<Engine>, redis: Arc<Redis>) {
    if engine.membership == Membership::Guest || engine.postgres.is_none() {
        return;
    }
    let who = format!("{}/{}", engine.instance, engine.run);
    let mut leader = Leader::default();
    loop {
        tokio::time::sleep(TICK).await;
        let lease = if engine.keeper.has_lease() { change::lead(&redis, &who, LEASE_MS).await } else { Ok(None) };
        match lease {
            Ok(Some(lease)) => {
                if let Err(error) = leader.lead(&engine, &lease).await {
                    tracing::debug!(%error, "the plans could not be looked at");
                }
            }
            Ok(None) | Err(_) => leader = Leader::default(),
        }
    }
}

impl Leader {
    async fn lead(&mut self, engine: &Engine, lease: &str) -> Result<(), ChangeError> {
        if self.lease != lease {
            // What another leader saw last is known; what it counted since is not.
            *self = Self { lease: lease.to_owned(), ..Self::default() };
            for (name, judgement) in engine.judgements().await? {
                let judgement = Judgement { alarm: judgement.alarm, ..Judgement::default() };
                self.plans.insert(name, Watched { judgement, ..Watched::default() });
            }
        }
        let plans = engine.plans().await?;
        if plans.values().any(|plan| plan.state.is_guarded())
            && self.looked.is_none_or(|looked| looked.elapsed() >= LOOK)
        {
            self.looked = Some(Instant::now());
            self.look(engine, &plans).await?;
        }
        for plan in plans.into_values() {
            let watched = self.plans.entry(plan.name.clone()).or_default();
            engine.follow(plan, watched, &self.lease).await?;
        }
        Ok(())
    }

    async fn look(&mut self, engine: &Engine, plans: &BTreeMap<String, Plan>) -> Result<(), ChangeError> {
        let fleet = engine.fleet_figures().await?;
        let now_ms = engine.redis_now_ms().await?;
        let oldest_mark_ms = fleet.values().map(|figures| figures.oldest_mark_ms).max().unwrap_or(0);
        for plan in plans.values().filter(|plan| plan.state.is_guarded()) {
            let ages =
                Ages { oldest_mark: Duration::from_millis(oldest_mark_ms), proof: engine.proof_age(&plan.kinds).await };
            let counted = Counted::between(&self.figures, &fleet, &plan.kinds);
            let watched = self.plans.entry(plan.name.clone()).or_default();
            watched.take_up(plan, &counted, ages, now_ms);
            let kept = serde_json::to_string(&watched.judgement).expect("a judgement is always JSON");
            Change::default().with_judgement(&plan.name, kept).under(&self.lease).write(&engine.looks).await?;
        }
        self.figures = fleet;
        Ok(())
    }
}

impl Watched {
    fn take_up(&mut self, plan: &Plan, counted: &Counted, ages: Ages, now_ms: i64) {
        if self.since_ms != plan.since_ms {
            (self.since_ms, self.counted) = (plan.since_ms, Counted::default());
        }
        self.counted.kinds = self.counted.kinds.plus(counted.kinds);
        self.ages = ages;
        self.judgement = judge::judge(&plan.spec, counted, &ages, self.judgement.alarm.clone(), now_ms);
    }
}

impl Engine {
    /// How old the oldest of these kinds' last clean comparisons is; nothing when Postgres does not say, or one has none.
    async fn proof_age(&self, kinds: &[String]) -> Option<Duration> {
        let asked = timeout(PROOFS_DEADLINE, proofs::standings(self.postgres.as_ref()?, kinds));
        let found = asked.await.ok()?.ok()?;
        let ages = kinds.iter().map(|kind| found.get(kind).filter(|proof| proof.is_clean).map(|proof| proof.age));
        ages.collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}
