//! Two records of one kind: commands that touch both, captures of one or both, and a read of both that must not be torn.

use parallax::stores::postgres::rows;

use crate::explorer::{Label, Model, close_gaps};
use crate::mutant::Mutant;
use crate::product::{Held, HeldRow, KEY, OTHER, Plan, Product, Said};
use crate::property::Property;

/// How often each thing may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Its name.
    pub name: &'static str,
    /// SET of one of the two.
    pub sets: u8,
    /// MSET of both.
    pub both: u8,
    /// RENAME of the first onto the second.
    pub renames: u8,
}

/// What every run of the tests explores.
pub const SMALL: &[Scope] = &[
    Scope { name: "two records, renamed", sets: 2, both: 0, renames: 1 },
    Scope { name: "two records at once", sets: 1, both: 1, renames: 0 },
];
/// What `make model` explores besides.
pub const LARGE: &[Scope] = &[
    Scope { name: "two records at once, more", sets: 1, both: 2, renames: 0 },
    Scope { name: "two records, all", sets: 2, both: 1, renames: 1 },
];

const NONE: u8 = 0;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Fate {
    #[default]
    None,
    Present,
    Gone,
    Deleted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Row {
    version: u8,
    value: u8,
    fate: Fate,
}

/// A capture of the keys in `keys` (bits), and how far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Drainer {
    keys: u8,
    is_applied: bool,
    version: u8,
    tokens: [u8; 2],
    values: [u8; 2],
    gone: [bool; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Reader {
    is_reading: bool,
    clock: u8,
    /// Of a mutant: the first key's answer, which the second key's is joined to in a later step.
    first: u8,
    has_first: bool,
    /// Pairs that Redis held since the read began, a bit each.
    seen: u64,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    left: [u8; 3],
    next: u8,
    values: [u8; 2],
    tokens: [u8; 2],
    gone: [bool; 2],
    clock: u8,
    rows: [Row; 2],
    drainers: [Drainer; 2],
    reader: Reader,
    broken: Option<Property>,
}

/// The model of two records.
pub struct Pair {
    scope: Scope,
    mutant: Option<Mutant>,
    product: Product,
    set: Plan,
    both: [Plan; 2],
    rename: [Plan; 2],
}

impl Pair {
    /// The model in `scope`, with `mutant` in the place of its rule.
    #[must_use]
    pub fn new(scope: Scope, mutant: Option<Mutant>) -> Self {
        let product = Product::default();
        let two = |command: String, positions: &[usize]| {
            let plans = product.plans(&command, positions);
            [plans[0], plans[1]]
        };
        let set = product.plans(&format!("SET {KEY} v"), &[1])[0];
        let both = two(format!("MSET {KEY} v {OTHER} v"), &[1, 3]);
        let rename = two(format!("RENAME {KEY} {OTHER}"), &[1, 2]);
        Self { scope, mutant, product, set, both, rename }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// One EXEC: the marks of `keys` under one token, the change, and the settlement.
    fn write(&self, state: &mut State, plans: [Option<Plan>; 2], change: impl Fn(&mut [u8; 2], u8)) {
        let number = state.next;
        state.next += 1;
        let (before, older) = (state.values, (state.tokens, state.gone));
        for (at, plan) in plans.iter().enumerate() {
            if let Some(plan) = plan {
                (state.tokens[at], state.gone[at]) = (number, plan.is_gone);
            }
        }
        change(&mut state.values, number);
        for (at, plan) in plans.iter().enumerate() {
            if plan.is_some_and(|plan| plan.is_settled) && state.values[at] == NONE {
                if before[at] != NONE {
                    state.gone[at] = true;
                } else {
                    (state.tokens[at], state.gone[at]) = (older.0[at], older.1[at]);
                }
            }
        }
        if state.reader.is_reading {
            state.reader.seen |= pair(state.values);
        }
    }

    fn write_steps(&self, state: &State, next: &mut Vec<(Label, State)>) {
        let [sets, both, renames] = state.left;
        if sets > 0 {
            for at in 0..2 {
                let mut after = State { left: [sets - 1, both, renames], ..*state };
                let plans = std::array::from_fn(|key| (key == at).then_some(self.set));
                self.write(&mut after, plans, |values, number| values[at] = number);
                next.push((Label("SET of key {}", at as u8 + 1), after));
            }
        }
        if both > 0 {
            let mut after = State { left: [sets, both - 1, renames], ..*state };
            self.write(&mut after, self.both.map(Some), |values, number| *values = [number; 2]);
            next.push((Label("MSET of both", 0), after));
        }
        if renames > 0 && state.values[0] != NONE {
            let mut after = State { left: [sets, both, renames - 1], ..*state };
            self.write(&mut after, self.rename.map(Some), |values, _| *values = [NONE, values[0]]);
            next.push((Label("RENAME of key 1 onto key 2", 0), after));
        }
    }

    fn drain_steps(&self, state: &State, at: usize, next: &mut Vec<(Label, State)>) {
        let drainer = state.drainers[at];
        let mut after = *state;
        if drainer.keys == 0 {
            for keys in 1..4_u8 {
                let wants = |key: usize| keys & (1 << key) != 0;
                if (0..2).any(|key| wants(key) && state.tokens[key] == NONE) {
                    continue;
                }
                let mut after = *state;
                after.clock += 1;
                let pick = |all: [u8; 2]| std::array::from_fn(|key| if wants(key) { all[key] } else { NONE });
                after.drainers[at] = Drainer {
                    keys,
                    is_applied: false,
                    version: after.clock,
                    tokens: pick(state.tokens),
                    values: pick(state.values),
                    gone: std::array::from_fn(|key| wants(key) && state.gone[key]),
                };
                next.push((
                    Label(
                        ["", "a drainer captures key 1", "a drainer captures key 2", "a drainer captures both"]
                            [keys as usize],
                        0,
                    ),
                    after,
                ));
            }
            return;
        }
        if drainer.is_applied {
            for key in 0..2 {
                let is_same = state.tokens[key] == drainer.tokens[key] || self.is(Mutant::AckWithoutToken);
                if drainer.keys & (1 << key) != 0 && is_same {
                    (after.tokens[key], after.gone[key]) = (NONE, false);
                }
            }
            after.drainers[at] = Drainer::default();
            next.push((Label("a drainer acks", 0), after));
        } else {
            for key in (0..2).filter(|key| drainer.keys & (1 << key) != 0) {
                let row = &mut after.rows[key];
                let fate = match self.product.fate(drainer.values[key] != NONE, drainer.gone[key]) {
                    rows::Fate::Present => Fate::Present,
                    rows::Fate::Gone => Fate::Gone,
                    rows::Fate::Deleted => Fate::Deleted,
                };
                if row.fate == Fate::None || row.version < drainer.version || self.is(Mutant::NoGuard) {
                    *row = Row { version: drainer.version, value: drainer.values[key], fate };
                }
            }
            after.drainers[at].is_applied = true;
            next.push((Label("a drainer applies in one transaction", 0), after));
        }
        let mut killed = *state;
        killed.drainers[at] = Drainer::default();
        next.push((Label("a drainer is killed", 0), killed));
    }

    fn read_steps(&self, state: &State, next: &mut Vec<(Label, State)>) {
        let mut after = *state;
        if !state.reader.is_reading {
            let keys = if self.is(Mutant::SplitRead) { 0..1 } else { 0..2 };
            let passes = |key: usize| state.tokens[key] == NONE && state.values[key] != NONE;
            if keys.into_iter().all(passes) {
                after.reader =
                    Reader { is_reading: true, clock: state.clock, seen: pair(state.values), ..Reader::default() };
                next.push((Label("MGET begins: the fence", 0), after));
            }
            return;
        }
        let reader = state.reader;
        if self.is(Mutant::SplitRead) {
            if reader.has_first {
                after.reader = Reader::default();
                answered(&mut after, reader.seen, [reader.first, state.values[1]]);
                next.push((Label("redis answers key 2", 0), after));
            } else if let Some(value) = self.believed(state, 0) {
                (after.reader.first, after.reader.has_first) = (value, true);
                next.push((Label("postgres answers key 1", 0), after));
            }
            return;
        }
        after.reader = Reader::default();
        if let (Some(one), Some(two)) = (self.believed(state, 0), self.believed(state, 1)) {
            answered(&mut after, reader.seen, [one, two]);
        }
        next.push((Label("postgres is read: MGET is answered", 0), after));
    }

    /// What the row of `key` may answer, as the product says.
    fn believed(&self, state: &State, key: usize) -> Option<u8> {
        let row = state.rows[key];
        let clock = if self.is(Mutant::NewerRowBelieved) { u8::MAX } else { state.reader.clock };
        let fate = match row.fate {
            Fate::None => return None,
            Fate::Present => rows::Fate::Present,
            Fate::Gone => rows::Fate::Gone,
            Fate::Deleted => rows::Fate::Deleted,
        };
        let held = HeldRow { version: row.version, value: row.value, expires: 0, fate, is_complete: true };
        let held = Held { epoch: 1, floor: 0, beat: 1, row: Some(held) };
        let said = Said { clock, epoch: Some(1), time: 0, beat: 1 };
        self.product.believes(&said, &held).then_some(row.value)
    }
}

fn pair([one, two]: [u8; 2]) -> u64 {
    1 << (one * 8 + two)
}

fn answered(state: &mut State, seen: u64, answer: [u8; 2]) {
    if seen & pair(answer) == 0 {
        state.broken = Some(Property::Linearizable);
    }
}

impl Model for Pair {
    type State = State;

    fn start(&self) -> State {
        let Scope { sets, both, renames, .. } = self.scope;
        State {
            left: [sets, both, renames],
            next: 1,
            values: [NONE; 2],
            tokens: [NONE; 2],
            gone: [false; 2],
            clock: 0,
            rows: [Row::default(); 2],
            drainers: [Drainer::default(); 2],
            reader: Reader::default(),
            broken: None,
        }
    }

    fn steps(&self, state: &State, next: &mut Vec<(Label, State)>) {
        self.write_steps(state, next);
        self.drain_steps(state, 0, next);
        self.drain_steps(state, 1, next);
        self.read_steps(state, next);
    }

    fn canonical(&self, mut state: State) -> State {
        state.drainers.sort_unstable();
        let State { clock, rows: [one, two], drainers: [first, second], reader, .. } = &mut state;
        close_gaps([
            clock,
            &mut one.version,
            &mut two.version,
            &mut first.version,
            &mut second.version,
            &mut reader.clock,
        ]);
        state
    }

    fn broken(&self, state: &State) -> Option<Property> {
        let differs = |key: usize| {
            let row = state.rows[key];
            let held = if row.fate == Fate::Present { row.value } else { NONE };
            state.tokens[key] == NONE && held != state.values[key]
        };
        state.broken.or_else(|| (0..2).any(differs).then_some(Property::Convergence))
    }

    fn show(&self, state: &State) -> String {
        let key = |at: usize| {
            let bit = if state.gone[at] { "!" } else { "" };
            let Row { version, value, fate } = state.rows[at];
            format!(
                "key {}: v{} mark {}{bit}, row {fate:?} v{value} @{version}",
                at + 1,
                state.values[at],
                state.tokens[at]
            )
        };
        format!("{} | {} | clock {}", key(0), key(1), state.clock)
    }
}
