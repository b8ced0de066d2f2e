//! The guard: one leader of the fleet follows the plans, step by step, and takes reads back when a check is above its limit;
//! those of kinds that were moved by hand ([`hand`]) as well.
//!
//! Whoever has the lease leads. Its number stands in every write of a leader, and Redis refuses a write under any other
//! lease than the one that holds at that moment; so a leader that was away while another came acts no more. Plans, what was
//! decided and what was seen last are kept in Redis beside the flags, and survive every sidecar.

mod act;
mod hand;
pub mod judge;
mod plans;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::dual::figures::Figures;
use crate::dual::flags::ChangeError;
use crate::dual::guard::judge::{Ages, Counted, Judgement};
use crate::dual::{Engine, Membership};
use crate::model::catalog::Kind;
use crate::model::plan::{Plan, PlanSpec};
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
    /// By the name of the plan, or of a kind that was moved by hand.
    watched: BTreeMap<String, Watched>,
}

/// What a leader knows of one plan, or of one kind that was moved by hand, for as long as it is watched.
#[derive(Default)]
struct Watched {
    /// Whether a look has seen it: what was counted before is not about what is watched now.
    is_seen: bool,
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
                self.watched.insert(name, Watched { judgement, ..Watched::default() });
            }
        }
        let plans = engine.plans().await?;
        let by_hand = engine.moved_by_hand(&plans);
        if (plans.values().any(|plan| plan.state.is_guarded()) || !by_hand.is_empty())
            && self.looked.is_none_or(|looked| looked.elapsed() >= LOOK)
        {
            self.looked = Some(Instant::now());
            self.look(engine, &plans, &by_hand).await?;
        }
        let guarded: BTreeSet<String> =
            plans.iter().filter(|(_, plan)| plan.state.is_guarded()).map(|(name, _)| name.clone()).collect();
        for plan in plans.into_values() {
            let watched = self.watched.entry(plan.name.clone()).or_default();
            engine.follow(plan, watched, &self.lease).await?;
        }
        // What was seen of kinds is over once nobody watches them any more: whoever resumes begins anew.
        self.watched.retain(|name, _| guarded.contains(name) || by_hand.iter().any(|kind| kind.name == *name));
        for kind in by_hand {
            let watched = self.watched.entry(kind.name.clone()).or_default();
            engine.follow_hand(&kind, watched, &self.lease).await?;
        }
        Ok(())
    }

    async fn look(
        &mut self,
        engine: &Engine,
        plans: &BTreeMap<String, Plan>,
        by_hand: &[Arc<Kind>],
    ) -> Result<(), ChangeError> {
        let fleet = engine.fleet_figures().await?;
        let now_ms = engine.redis_now_ms().await?;
        let oldest_mark_ms = fleet.values().map(|figures| figures.oldest_mark_ms).max().unwrap_or(0);
        let oldest_mark = Duration::from_millis(oldest_mark_ms);
        let guarded = || plans.values().filter(|plan| plan.state.is_guarded());
        let names = guarded().flat_map(|plan| plan.kinds.iter()).chain(by_hand.iter().map(|kind| &kind.name));
        let proofs = engine.proofs_of(&names.cloned().collect::<Vec<_>>()).await;
        let mut seen = Change::default();
        let kept = |watched: &Watched| serde_json::to_string(&watched.judgement).expect("a judgement is always JSON");
        for plan in guarded() {
            let ages = Ages { oldest_mark, proof: proof_age(&proofs, &plan.kinds) };
            let counted = Counted::between(&self.figures, &fleet, &plan.kinds);
            let watched = self.watched.entry(plan.name.clone()).or_default();
            watched.take_up(&plan.spec, plan.since_ms, counted, ages, now_ms);
            seen = seen.with_judgement(&plan.name, kept(watched));
        }
        for kind in by_hand {
            let name = std::slice::from_ref(&kind.name);
            let ages = Ages { oldest_mark, proof: proof_age(&proofs, name) };
            let counted = Counted::between(&self.figures, &fleet, name);
            let watched = self.watched.entry(kind.name.clone()).or_default();
            watched.take_up(&hand::usual(), 0, counted, ages, now_ms);
            seen = seen.with_judgement(&kind.name, kept(watched));
        }
        self.figures = fleet;
        seen.under(&self.lease).write(&engine.looks).await?;
        Ok(())
    }
}

impl Watched {
    /// Judges what was counted since the last look, of the step that began at `since_ms`. The first look counts nothing.
    fn take_up(&mut self, spec: &PlanSpec, since_ms: i64, counted: Counted, ages: Ages, now_ms: i64) {
        let counted = if self.is_seen { counted } else { Counted::default() };
        self.is_seen = true;
        if self.since_ms != since_ms {
            (self.since_ms, self.counted) = (since_ms, Counted::default());
        }
        self.counted.kinds = self.counted.kinds.plus(counted.kinds);
        self.ages = ages;
        self.judgement = judge::judge(spec, &counted, &ages, self.judgement.alarm.clone(), now_ms);
    }
}

impl Engine {
    /// When these kinds were compared in full; of none when Postgres does not say.
    async fn proofs_of(&self, kinds: &[String]) -> BTreeMap<String, proofs::Standing> {
        let Some(postgres) = &self.postgres else { return BTreeMap::new() };
        let asked = timeout(PROOFS_DEADLINE, proofs::standings(postgres, kinds)).await;
        asked.ok().and_then(Result::ok).unwrap_or_default()
    }
}

/// How old the oldest of these kinds' last clean comparisons is; nothing when one has none.
fn proof_age(proofs: &BTreeMap<String, proofs::Standing>, kinds: &[String]) -> Option<Duration> {
    let ages = kinds.iter().map(|kind| proofs.get(kind).filter(|proof| proof.is_clean).map(|proof| proof.age));
    ages.collect::<Option<Vec<_>>>()?.into_iter().max()
}
