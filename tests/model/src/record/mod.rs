//! One record of the layout document, from the application's writes to the reads from Postgres, with everything that may happen
//! to the two stores in between: expiry, eviction, a failover that loses writes, a restart with nothing, a Postgres that went back.
//!
//! A scope says how often each of these may happen; the explorer then tries every order of all steps. Steps are as fine as the
//! stores are atomic: one EXEC, one script, one statement, one transaction.

mod application;
mod drain;
mod lift;
mod postgres;
mod read;
mod restore;
pub mod scopes;
mod state;

use crate::explorer::{Label, Model, close_gaps};
use crate::mutant::Mutant;
use crate::product::{Plan, Product};
use crate::property::Property;

use state::{Captured, DRAINERS, NONE, RESTORERS};
pub use state::{Left, State};

/// What may happen, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Its name.
    pub name: &'static str,
    /// How often each thing may happen.
    pub left: Left,
    /// Drainers at once, 1 or 2.
    pub drainers: usize,
    /// Restorers at once, up to 2.
    pub restorers: usize,
    /// Whether somebody reads from Postgres, and compares.
    pub reads: bool,
    /// Whether the fence asks for the record's presence: the clause of R1 that is argued, and makes others redundant.
    pub asks_presence: bool,
    /// Whether reads wait for a backfill of the fence's epoch.
    pub is_gated: bool,
    /// Whether the record was there before anything was mirrored.
    pub was_there: bool,
    /// Whether an apply whose outcome is unknown is repeated.
    pub repeats: bool,
    /// Whether a writer waits for Postgres (`ack = both`).
    pub waits: bool,
}

/// The model of one record.
pub struct Record {
    scope: Scope,
    mutant: Option<Mutant>,
    product: Product,
    set: Plan,
    delete: Plan,
    take: Plan,
    expire: Plan,
    fates: [crate::record::state::Fate; 3],
}

/// The steps that are found from one state.
type Next = Vec<(Label, State)>;

impl Record {
    /// The model in `scope`, with `mutant` in the place of its rule.
    #[must_use]
    pub fn new(scope: Scope, mutant: Option<Mutant>) -> Self {
        let product = Product::default();
        let plan = |command: &str| product.plans(&command.replace("KEY", crate::product::KEY), &[1])[0];
        let (set, delete, take) = (plan("SET KEY v"), plan("DEL KEY"), plan("HDEL KEY f"));
        let expire = plan("EXPIRE KEY 1");
        let fates = [(true, false), (false, true), (false, false)];
        let fates = fates.map(|(is_present, is_gone)| product.fate(is_present, is_gone).into());
        Self { scope, mutant, set, delete, take, expire, fates, product }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

impl Model for Record {
    type State = State;

    fn start(&self) -> State {
        State::first(self.scope.left, self.scope.was_there)
    }

    fn steps(&self, state: &State, next: &mut Next) {
        self.write_steps(state, next);
        self.time_steps(state, next);
        for at in 0..self.scope.drainers {
            self.drain_steps(state, at, next);
        }
        self.sweep_steps(state, next);
        self.backfill_steps(state, next);
        self.postgres_steps(state, next);
        self.lineage_steps(state, next);
        self.restore_steps(state, next);
        if self.scope.reads {
            self.read_steps(state, next);
        }
    }

    fn canonical(&self, mut state: State) -> State {
        state.drainers[..self.scope.drainers].sort_unstable();
        state.restorers[..self.scope.restorers].sort_unstable();
        let State { redis, replica, postgres, backup, drainers: [one, two], backfill, reader, lift, .. } = &mut state;
        close_gaps([
            &mut redis.clock,
            &mut replica.clock,
            &mut postgres.row.version,
            &mut postgres.floor,
            &mut backup.row.version,
            &mut backup.floor,
            &mut one.version,
            &mut two.version,
            &mut backfill.capture.version,
            &mut reader.clock,
            &mut reader.row.version,
            &mut reader.floor,
            &mut lift.clock,
        ]);
        state
    }

    fn broken(&self, state: &State) -> Option<Property> {
        state.broken.or_else(|| self.is_diverged(state).then_some(Property::Convergence))
    }

    fn show(&self, state: &State) -> String {
        state.to_string()
    }
}

impl Record {
    /// Whether a record without a mark differs, at a moment when nothing is owed for it.
    fn is_diverged(&self, state: &State) -> bool {
        let (redis, postgres) = (&state.redis, &state.postgres);
        let in_lineage = redis.anchor_run == redis.run && redis.anchor_epoch == postgres.epoch;
        let is_owed = redis.token != NONE || state.owes_backfill() || (redis.is_unmirrored && !state.is_backfilled());
        if !in_lineage || is_owed {
            return false;
        }
        let row = &postgres.row;
        let is_live = row.fate.is_present() && (row.expires == 0 || row.expires > state.now);
        if redis.value == NONE {
            // What is evicted after its capture stays in Postgres.
            return is_live && !redis.was_evicted;
        }
        !is_live || row.value != redis.value || row.expires != redis.expires
    }
}

/// The versions that an idle capture must not remember, so that equal states are equal.
fn idle() -> Captured {
    Captured::default()
}

const _: () = assert!(DRAINERS == 2 && RESTORERS == 2, "canonical() names each of them");
