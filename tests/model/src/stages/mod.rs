//! Stages: two sidecars, flags with a version, leases, barriers, and a backfill (S1-S4, S2b, L3).
//!
//! The record is one bit here: whether Postgres' row is what Redis holds. A drain is one step, since the other models have taken
//! it apart. A command is decided under a view and executed later, which is where stages go wrong.

mod fleet;
mod operator;

use parallax::model::flag::Stage;

use crate::explorer::{Label, Model};
use crate::mutant::Mutant;
use crate::property::Property;

/// How often each thing may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Its name.
    pub name: &'static str,
    /// Changes of the stage.
    pub changes: u8,
    /// Backfills.
    pub backfills: u8,
    /// Leases that end.
    pub ends: u8,
    /// Failovers of Redis, flags included.
    pub failovers: u8,
    /// Blocking writes.
    pub blocking: u8,
    /// The stage it begins in.
    pub from: Stage,
}

/// What every run of the tests explores.
pub const SMALL: &[Scope] = &[
    Scope { name: "stages, up", changes: 3, backfills: 1, ends: 1, failovers: 0, blocking: 1, from: Stage::Off },
    Scope { name: "stages, down", changes: 3, backfills: 0, ends: 1, failovers: 0, blocking: 1, from: Stage::Live },
    Scope {
        name: "stages, flags lost",
        changes: 3,
        backfills: 1,
        ends: 0,
        failovers: 1,
        blocking: 0,
        from: Stage::Dualwrite,
    },
];
/// What `make model` explores besides.
pub const LARGE: &[Scope] = &[
    Scope {
        name: "stages, down and up",
        changes: 6,
        backfills: 1,
        ends: 2,
        failovers: 0,
        blocking: 1,
        from: Stage::Live,
    },
    Scope {
        name: "stages, flags lost, longer",
        changes: 4,
        backfills: 1,
        ends: 1,
        failovers: 1,
        blocking: 0,
        from: Stage::Shadow,
    },
];

/// What is in flight: decided under a view, not executed yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Command {
    #[default]
    None,
    /// A write without a mark.
    Unmarked,
    /// A blocking write without a mark.
    Blocking,
    /// A read that Postgres may answer.
    Read,
}

/// How a sidecar stands to its lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Lease {
    #[default]
    Valid,
    /// It has ended, and the sidecar knows.
    Ended,
    /// The longest deadline of a command after it has passed as well.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Sidecar {
    version: u8,
    stage: Stage,
    /// The epoch of the backfill that its view knows of.
    backfilled: u8,
    lease: Lease,
    command: Command,
    /// The version of the view that the command was decided under, and its epoch of the backfill.
    under: u8,
    held: u8,
}

/// What Redis holds of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flags {
    version: u8,
    stage: Stage,
    /// The epoch in which the backfill was complete; 0 when none counts.
    backfilled: u8,
    /// A backfill that is noted as under way.
    has_job: bool,
    confirmed: [u8; 2],
    /// Whether a sidecar has renewed since the lineage began.
    has_renewed: [bool; 2],
}

/// The record: whether the row is equal, and whether a mark says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Record {
    is_equal: bool,
    is_marked: bool,
}

/// The backfill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Backfill {
    #[default]
    Idle,
    Begun,
    Applied,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    left: [u8; 5],
    flags: Flags,
    record: Record,
    backfill: Backfill,
    sidecars: [Sidecar; 2],
    replica: Option<(Flags, Record)>,
    /// Postgres was written since the replica stopped following.
    has_ghost: bool,
    in_lineage: bool,
    epoch: u8,
    broken: Option<Property>,
}

type Next = Vec<(Label, State)>;

/// The model of stages.
pub struct Stages {
    scope: Scope,
    mutant: Option<Mutant>,
}

impl Stages {
    /// The model in `scope`, with `mutant` in the place of its rule.
    #[must_use]
    pub fn new(scope: Scope, mutant: Option<Mutant>) -> Self {
        Self { scope, mutant }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

impl Model for Stages {
    type State = State;

    fn start(&self) -> State {
        let Scope { changes, backfills, ends, failovers, blocking, from, .. } = self.scope;
        let backfilled = u8::from(from.reads_postgres());
        let lease = Lease::Valid;
        let sidecar = Sidecar { version: 1, stage: from, backfilled, lease, command: Command::None, under: 0, held: 0 };
        let (confirmed, has_renewed) = ([1; 2], [true; 2]);
        State {
            left: [changes, backfills, ends, failovers, blocking],
            flags: Flags { version: 1, stage: from, backfilled, has_job: false, confirmed, has_renewed },
            // Before a backfill the row is one of an earlier time.
            record: Record { is_equal: backfilled > 0, is_marked: false },
            backfill: Backfill::Idle,
            sidecars: [sidecar; 2],
            replica: None,
            has_ghost: false,
            in_lineage: true,
            epoch: 1,
            broken: None,
        }
    }

    fn steps(&self, state: &State, next: &mut Next) {
        for at in 0..2 {
            self.command_steps(state, at, next);
            self.lease_steps(state, at, next);
            self.change_steps(state, at, next);
        }
        self.backfill_steps(state, next);
        self.redis_steps(state, next);
    }

    fn canonical(&self, mut state: State) -> State {
        if state.sidecars[1] < state.sidecars[0] {
            state.sidecars.swap(0, 1);
            state.flags.confirmed.swap(0, 1);
            state.flags.has_renewed.swap(0, 1);
            if let Some((flags, _)) = &mut state.replica {
                flags.confirmed.swap(0, 1);
                flags.has_renewed.swap(0, 1);
            }
        }
        state
    }

    fn broken(&self, state: &State) -> Option<Property> {
        state.broken
    }

    fn show(&self, state: &State) -> String {
        let sidecar = |at: usize| {
            let Sidecar { version, stage, lease, command, under, .. } = state.sidecars[at];
            let confirmed = state.flags.confirmed[at];
            let held = if command == Command::None { String::new() } else { format!(", {command:?} under {under}") };
            format!("sidecar {}: {stage} {version}, confirmed {confirmed}, lease {lease:?}{held}", at + 1)
        };
        let Flags { version, stage, backfilled, .. } = &state.flags;
        let Record { is_equal, is_marked } = &state.record;
        format!(
            "flags: {stage} {version}, backfilled {backfilled} (epoch {}) | {} | {} | row equal {is_equal}, marked {is_marked}",
            state.epoch,
            sidecar(0),
            sidecar(1)
        )
    }
}
