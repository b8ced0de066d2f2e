//! A collection of two elements: marks by element and of the whole (W3), captures in chunks (C4), and drainers that pause between
//! any two of their steps while the collection changes, is deleted, is replaced.

mod drain;
mod write;

use parallax::stores::postgres::rows;

use crate::explorer::{Label, Model, close_gaps};
use crate::mutant::Mutant;
use crate::product::{Held, HeldRow, Product, Said};
use crate::property::Property;

/// How often each thing may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Its name.
    pub name: &'static str,
    /// HSET of an element.
    pub sets: u8,
    /// HDEL of an element.
    pub takes: u8,
    /// DEL.
    pub deletes: u8,
    /// RENAME of another key onto it, which leaves the second element alone.
    pub renames: u8,
    /// Backfills.
    pub backfills: u8,
    /// Whether both elements were there before anything was mirrored.
    pub was_there: bool,
    /// Whether somebody reads.
    pub reads: bool,
}

const fn scope(name: &'static str, [sets, takes, deletes, renames]: [u8; 4]) -> Scope {
    Scope { name, sets, takes, deletes, renames, backfills: 0, was_there: false, reads: true }
}

/// What every run of the tests explores.
pub const SMALL: &[Scope] = &[
    scope("collection, elements", [2, 0, 0, 0]),
    Scope { reads: false, ..scope("collection, deleted", [1, 0, 1, 0]) },
    scope("collection, replaced", [1, 0, 0, 1]),
    Scope { backfills: 1, was_there: true, ..scope("collection, backfill", [1, 0, 0, 0]) },
];
/// What `make model` explores besides.
pub const LARGE: &[Scope] = &[
    Scope { reads: false, ..scope("collection, elements, more", [3, 0, 0, 0]) },
    Scope { reads: false, ..scope("collection, deleted, more", [2, 0, 1, 0]) },
    scope("collection, elements come and go", [2, 1, 0, 0]),
    Scope { backfills: 1, was_there: true, reads: false, ..scope("collection, backfill and deletes", [1, 1, 1, 0]) },
    Scope { reads: false, ..scope("collection, deleted and replaced", [1, 1, 1, 1]) },
];

const NONE: u8 = 0;

/// What became of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Fate {
    #[default]
    None,
    Present,
    Deleted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Redis {
    values: [u8; 2],
    token: u8,
    is_gone: bool,
    /// The companion: the whole, and each element.
    star: u8,
    touched: [u8; 2],
    clock: u8,
    is_unmirrored: bool,
}

impl Redis {
    fn is_present(&self) -> bool {
        self.values != [NONE; 2]
    }

    fn companion_is_empty(&self) -> bool {
        self.star == NONE && self.touched == [NONE; 2]
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Header {
    fate: Fate,
    version: u8,
    floor: u8,
    last: u8,
    is_complete: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Element {
    fate: Fate,
    version: u8,
    value: u8,
}

/// What a drainer holds, and what it does next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Step {
    #[default]
    Idle,
    /// Touched elements are captured.
    Elements,
    /// The absence is captured.
    Absent,
    /// A whole capture is begun.
    Begun,
    /// Its first chunk, with the first element, is captured.
    FirstChunk,
    /// The first chunk is applied.
    Between,
    /// Its last chunk is captured.
    LastChunk,
    /// Elements are committed.
    ElementsDone,
    /// The whole is committed.
    WholeDone,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Drainer {
    step: Step,
    is_backfill: bool,
    token: u8,
    is_gone: bool,
    star: u8,
    touched: [u8; 2],
    version: u8,
    chunk: u8,
    values: [u8; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Reader {
    is_reading: bool,
    clock: u8,
    seen: u64,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    left: [u8; 5],
    next: u8,
    redis: Redis,
    header: Header,
    elements: [Element; 2],
    drainers: [Drainer; 2],
    reader: Reader,
    broken: Option<Property>,
}

type Next = Vec<(Label, State)>;

/// The model of a collection.
pub struct Collection {
    scope: Scope,
    mutant: Option<Mutant>,
    product: Product,
}

impl Collection {
    /// The model in `scope`, with `mutant` in the place of its rule.
    #[must_use]
    pub fn new(scope: Scope, mutant: Option<Mutant>) -> Self {
        Self { scope, mutant, product: Product::default() }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// HGETALL behind the fence: header and elements in one statement.
    fn read_steps(&self, state: &State, next: &mut Next) {
        let mut after = *state;
        let redis = &state.redis;
        if !state.reader.is_reading {
            if redis.token == NONE && redis.is_present() {
                after.reader = Reader { is_reading: true, clock: redis.clock, seen: pair(redis.values) };
                next.push((Label("HGETALL begins: the fence", 0), after));
            }
            return;
        }
        let Header { fate, version, last, is_complete, .. } = state.header;
        let clock = state.reader.clock;
        // Tombstones above the clock count, so that a torn collection shows.
        let counts = |element: &Element| {
            element.fate == Fate::Present || (element.fate == Fate::Deleted && element.version > clock)
        };
        let elements = state.elements.iter().filter(|element| counts(element)).map(|element| element.version).max();
        let row = HeldRow {
            version: version.max(last).max(elements.unwrap_or(0)),
            value: 1,
            expires: 0,
            fate: if fate == Fate::Present { rows::Fate::Present } else { rows::Fate::Deleted },
            is_complete,
        };
        let held = Held { epoch: 1, floor: 0, beat: 1, row: (fate != Fate::None).then_some(row) };
        let clock = if self.is(Mutant::NewerRowBelieved) { u8::MAX } else { clock };
        let said = Said { clock, epoch: Some(1), time: 0, beat: 1 };
        after.reader = Reader::default();
        let live = |element: Element| if element.fate == Fate::Present { element.value } else { NONE };
        if self.product.believes(&said, &held) && state.reader.seen & pair(state.elements.map(live)) == 0 {
            after.broken = Some(Property::Linearizable);
        }
        next.push((Label("postgres is read: HGETALL is answered", 0), after));
    }
}

fn pair([one, two]: [u8; 2]) -> u64 {
    1 << (one * 8 + two)
}

impl Model for Collection {
    type State = State;

    fn start(&self) -> State {
        let Scope { sets, takes, deletes, renames, backfills, was_there, .. } = self.scope;
        let values = if was_there { [1, 1] } else { [NONE; 2] };
        State {
            left: [sets, takes, deletes, renames, backfills],
            next: 2,
            redis: Redis { clock: 1, values, is_unmirrored: was_there, ..Redis::default() },
            header: Header::default(),
            elements: [Element::default(); 2],
            drainers: [Drainer::default(); 2],
            reader: Reader::default(),
            broken: None,
        }
    }

    fn steps(&self, state: &State, next: &mut Next) {
        self.write_steps(state, next);
        self.drain_steps(state, 0, next);
        self.drain_steps(state, 1, next);
        if self.scope.reads {
            self.read_steps(state, next);
        }
    }

    fn canonical(&self, mut state: State) -> State {
        state.drainers.sort_unstable();
        let State { redis, header, elements: [e1, e2], drainers: [one, two], reader, .. } = &mut state;
        close_gaps([
            &mut redis.clock,
            &mut header.version,
            &mut header.floor,
            &mut header.last,
            &mut e1.version,
            &mut e2.version,
            &mut one.version,
            &mut one.chunk,
            &mut two.version,
            &mut two.chunk,
            &mut reader.clock,
        ]);
        state
    }

    fn broken(&self, state: &State) -> Option<Property> {
        let State { redis, header, elements, .. } = state;
        let is_owed = redis.token != NONE || (redis.is_unmirrored && !header.is_complete);
        let differs = |at: usize| {
            let live = elements[at].fate == Fate::Present;
            (if live { elements[at].value } else { NONE }) != redis.values[at]
        };
        let is_equal = redis.is_present() == (header.fate == Fate::Present) && !differs(0) && !differs(1);
        state.broken.or_else(|| (!is_owed && !is_equal).then_some(Property::Convergence))
    }

    fn show(&self, state: &State) -> String {
        let Redis { values, token, is_gone, star, touched, clock, .. } = &state.redis;
        let Header { fate, version, floor, last, is_complete } = &state.header;
        let bit = if *is_gone { "!" } else { "" };
        let element = |at: usize| {
            let Element { fate, version, value } = state.elements[at];
            format!("e{} {fate:?} v{value} @{version}", at + 1)
        };
        format!(
            "redis: e1 v{} e2 v{}, mark {token}{bit}, companion * {star} e1 {} e2 {}, clock {clock} | postgres: header \
             {fate:?} @{version} floor {floor} last {last} complete {is_complete}, {}, {}",
            values[0],
            values[1],
            touched[0],
            touched[1],
            element(0),
            element(1)
        )
    }
}
