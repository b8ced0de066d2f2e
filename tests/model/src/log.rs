//! A log with ids (a stream): appended, trimmed, deleted by id, deleted as a whole and begun again under the same ids (G1, G3).
//!
//! Two ids, and one capture for all that is new: chunks are the collection's subject. A log that is deleted, begun again under
//! the same ids and trimmed before its next capture is left out: what a paused drainer had captured of its former life stays in
//! the history then, since below the oldest entry nothing tells it from what was trimmed.

use crate::explorer::{Label, Model, close_gaps};
use crate::mutant::Mutant;
use crate::property::Property;

/// Ids that a log may have.
const IDS: usize = 2;
const NONE: u8 = 0;

/// How often each thing may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Its name.
    pub name: &'static str,
    /// XADD of the next id.
    pub adds: u8,
    /// XTRIM of the oldest entry.
    pub trims: u8,
    /// XDEL of an entry.
    pub takes: u8,
    /// DEL of the log; the next XADD begins with the first id.
    pub deletes: u8,
}

/// What every run of the tests explores.
pub const SMALL: &[Scope] = &[
    Scope { name: "log, trimmed", adds: 2, trims: 2, takes: 0, deletes: 0 },
    Scope { name: "log, deleted by id", adds: 2, trims: 0, takes: 1, deletes: 1 },
    Scope { name: "log, begun again", adds: 3, trims: 0, takes: 0, deletes: 1 },
];
/// What `make model` explores besides.
pub const LARGE: &[Scope] =
    &[Scope { name: "log, trimmed and deleted by id", adds: 2, trims: 1, takes: 1, deletes: 0 }];

/// What became of an entry, for judging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Entry {
    #[default]
    Never,
    Present(u8),
    Trimmed(u8),
    Deleted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Row {
    is_there: bool,
    version: u8,
    /// 0 on a tombstone.
    value: u8,
}

/// How far captures have come: the newest id, and how many entries had been added by then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Reached {
    id: u8,
    added: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Redis {
    entries: [Entry; IDS],
    last: u8,
    added: u8,
    token: u8,
    is_gone: bool,
    /// The companion: the whole, and ids that were deleted.
    star: u8,
    touched: [u8; IDS],
    reached: Reached,
    clock: u8,
}

impl Redis {
    fn value(&self, at: usize) -> u8 {
        match self.entries[at] {
            Entry::Present(value) => value,
            Entry::Never | Entry::Trimmed(_) | Entry::Deleted => NONE,
        }
    }

    fn is_present(&self) -> bool {
        self.last > 0
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Step {
    #[default]
    Idle,
    Absent,
    Whole,
    Fresh,
    Applied,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Drainer {
    step: Step,
    token: u8,
    star: u8,
    touched: [u8; IDS],
    version: u8,
    /// Entries that were seen, and which of them are written.
    values: [u8; IDS],
    writes: u8,
    oldest: u8,
    missing: u8,
    reached: Reached,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    left: [u8; 4],
    next: u8,
    redis: Redis,
    rows: [Row; IDS],
    floor: u8,
    has_gap: bool,
    drainers: [Drainer; 2],
}

type Next = Vec<(Label, State)>;

/// The model of a log.
pub struct Log {
    scope: Scope,
    mutant: Option<Mutant>,
}

impl Log {
    /// The model in `scope`, with `mutant` in the place of its rule.
    #[must_use]
    pub fn new(scope: Scope, mutant: Option<Mutant>) -> Self {
        Self { scope, mutant }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn write_steps(&self, state: &State, next: &mut Next) {
        let [adds, trims, takes, deletes] = state.left;
        let marked = |kind: usize, is_gone: bool| {
            let mut after = *state;
            after.left[kind] -= 1;
            (after.redis.token, after.redis.is_gone) = (after.next, is_gone);
            after.next += 1;
            after
        };
        if adds > 0 && usize::from(state.redis.last) < IDS {
            let mut after = marked(0, false);
            let redis = &mut after.redis;
            if !redis.is_present() {
                // A stream that begins here has nothing yet.
                redis.reached = Reached::default();
                redis.added = 0;
            }
            redis.entries[usize::from(redis.last)] = Entry::Present(redis.token);
            redis.last += 1;
            redis.added += 1;
            next.push((Label("XADD of id {}", redis.last), after));
        }
        let oldest = (0..IDS).find(|at| state.redis.value(*at) != NONE);
        if let Some(at) = oldest.filter(|_| trims > 0) {
            let mut after = marked(1, false);
            after.redis.entries[at] = Entry::Trimmed(state.redis.value(at));
            next.push((Label("XTRIM of id {}", at as u8 + 1), after));
        }
        if takes > 0 {
            for at in (0..IDS).filter(|at| state.redis.value(*at) != NONE) {
                let mut after = marked(2, false);
                after.redis.entries[at] = Entry::Deleted;
                after.redis.touched[at] = after.redis.token;
                next.push((Label("XDEL of id {}", at as u8 + 1), after));
            }
        }
        if deletes > 0 && state.redis.is_present() {
            let mut after = marked(3, true);
            let redis = &mut after.redis;
            redis.star = redis.token;
            redis.last = 0;
            redis.entries = redis.entries.map(|entry| if entry == Entry::Never { entry } else { Entry::Deleted });
            next.push((Label("DEL", 0), after));
        }
    }

    fn capture(&self, state: &mut State) -> Drainer {
        let redis = &mut state.redis;
        redis.clock += 1;
        let values = std::array::from_fn(|at| redis.value(at));
        let Redis { token, star, touched, reached, added, last, .. } = *redis;
        let base = Drainer { token, star, touched, version: redis.clock, values, ..Drainer::default() };
        if !redis.is_present() {
            return Drainer { step: Step::Absent, ..base };
        }
        let present = |from: u8| (0..IDS).filter(|at| values[*at] != NONE && *at as u8 >= from).map(|at| 1 << at).sum();
        let oldest = values.iter().position(|value| *value != NONE).map_or(IDS as u8, |at| at as u8);
        let fresh: u8 = present(reached.id);
        let missing = (added.saturating_sub(reached.added)).saturating_sub(fresh.count_ones() as u8);
        let reached = Reached { id: last, added };
        let deleted: u8 = (0..IDS).filter(|at| touched[*at] != NONE).map(|at| 1 << at).sum();
        if star != NONE {
            // What the companion names is written too: below the oldest entry nothing tells a deleted entry from a trimmed one.
            let named = if self.is(Mutant::WholeLeavesDeleted) { 0 } else { deleted };
            return Drainer { step: Step::Whole, writes: present(0) | named, oldest, missing, reached, ..base };
        }
        Drainer { step: Step::Fresh, writes: fresh | deleted, oldest, missing, reached, ..base }
    }

    fn apply(&self, state: &mut State, at: usize) {
        let drainer = state.drainers[at];
        if drainer.step == Step::Absent {
            for row in state.rows.iter_mut().filter(|row| row.is_there && row.version < drainer.version) {
                *row = Row { version: drainer.version, value: NONE, ..*row };
            }
            state.floor = state.floor.max(drainer.version - 1);
        }
        for which in (0..IDS).filter(|which| drainer.writes & (1 << which) != 0) {
            let row = &mut state.rows[which];
            let rises = if self.is(Mutant::EntryWithoutGuard) { !row.is_there } else { row.version < drainer.version };
            if (!row.is_there || rises) && drainer.version > state.floor {
                *row = Row { is_there: true, version: drainer.version, value: drainer.values[which] };
            }
        }
        if drainer.step == Step::Whole {
            state.floor = state.floor.max(drainer.version - 1);
            let unseen = |which: &usize| drainer.values[*which] == NONE && *which as u8 >= drainer.oldest;
            for which in (0..IDS).filter(unseen) {
                let row = &mut state.rows[which];
                if row.is_there && row.version < drainer.version {
                    *row = Row { version: drainer.version, value: NONE, ..*row };
                }
            }
        }
        state.has_gap |= drainer.missing > 0 && !self.is(Mutant::GapUncounted);
        state.drainers[at] = Drainer {
            step: Step::Applied,
            values: [NONE; IDS],
            writes: 0,
            oldest: 0,
            missing: 0,
            version: 0,
            ..drainer
        };
    }

    fn ack(&self, state: &mut State, at: usize) {
        let drainer = state.drainers[at];
        state.drainers[at] = Drainer::default();
        let redis = &mut state.redis;
        let is_same = redis.token == drainer.token;
        for which in 0..IDS {
            if redis.touched[which] == drainer.touched[which] {
                redis.touched[which] = NONE;
            }
        }
        if redis.star == drainer.star {
            redis.star = NONE;
        }
        // How far it came is noted only while nothing was written since: the log may have been begun again under the same ids.
        if drainer.reached != Reached::default() && (is_same || self.is(Mutant::ReachedWithoutToken)) {
            redis.reached = drainer.reached;
        }
        if is_same && redis.star == NONE && redis.touched == [NONE; IDS] {
            (redis.token, redis.is_gone) = (NONE, false);
        }
    }

    fn drain_steps(&self, state: &State, at: usize, next: &mut Next) {
        let mut after = *state;
        let text = match state.drainers[at].step {
            Step::Idle if state.redis.token == NONE => return,
            Step::Idle => {
                after.drainers[at] = self.capture(&mut after);
                next.push((Label("a drainer captures", 0), after));
                return;
            }
            Step::Absent | Step::Whole | Step::Fresh => {
                self.apply(&mut after, at);
                "a drainer applies"
            }
            Step::Applied => {
                self.ack(&mut after, at);
                "a drainer acks"
            }
        };
        next.push((Label(text, 0), after));
        let mut killed = *state;
        killed.drainers[at] = Drainer::default();
        next.push((Label("a drainer is killed", 0), killed));
    }
}

impl Model for Log {
    type State = State;

    fn start(&self) -> State {
        let Scope { adds, trims, takes, deletes, .. } = self.scope;
        State {
            left: [adds, trims, takes, deletes],
            next: 1,
            redis: Redis { clock: 1, ..Redis::default() },
            rows: [Row::default(); IDS],
            floor: 0,
            has_gap: false,
            drainers: [Drainer::default(); 2],
        }
    }

    fn steps(&self, state: &State, next: &mut Next) {
        self.write_steps(state, next);
        self.drain_steps(state, 0, next);
        self.drain_steps(state, 1, next);
    }

    fn canonical(&self, mut state: State) -> State {
        state.drainers.sort_unstable();
        let State { redis, rows: [first, second], floor, drainers: [one, two], .. } = &mut state;
        let versions = [&mut first.version, &mut second.version, floor, &mut one.version, &mut two.version];
        let [first, second, floor, one, two] = versions;
        close_gaps([&mut redis.clock, first, second, floor, one, two]);
        state
    }

    fn broken(&self, state: &State) -> Option<Property> {
        if state.redis.token != NONE {
            return None;
        }
        (0..IDS).find_map(|at| {
            let row = state.rows[at].value;
            match state.redis.entries[at] {
                Entry::Present(value) => (row != value).then_some(Property::Convergence),
                Entry::Never | Entry::Deleted => (row != NONE).then_some(Property::Convergence),
                Entry::Trimmed(value) => (row != value && !state.has_gap).then_some(Property::GapsNamed),
            }
        })
    }

    fn show(&self, state: &State) -> String {
        let Redis { entries, token, is_gone, star, reached, clock, .. } = &state.redis;
        let bit = if *is_gone { "!" } else { "" };
        let rows: Vec<String> = state.rows.iter().map(|row| format!("v{} @{}", row.value, row.version)).collect();
        format!(
            "redis: {entries:?}, mark {token}{bit}, * {star}, reached {}/{}, clock {clock} | postgres: {}, floor {}, gap {}",
            reached.id,
            reached.added,
            rows.join(", "),
            state.floor,
            state.has_gap
        )
    }
}
