//! The explorer: every order of steps, breadth first, so that the first violation it meets has the shortest trace.
//!
//! It is our own rather than stateright (0.31, alive): the models are single structs of bytes without actors or messages, what
//! is wanted of a counterexample is one line a step in the protocol's words, and keeping two fingerprints a state instead of
//! whole states lets tens of millions fit. States are told apart by a fingerprint of 64 bits: among 25 million states the
//! chance that two share one, and that the second is left out, is about 1 in 60,000.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::property::Property;

/// What a step did, in words; `{}` stands for its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(pub &'static str, pub u8);

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.replace("{}", &self.1.to_string()))
    }
}

/// A model: where it starts, what may happen next, and what must never be.
pub trait Model {
    /// Everything that the next steps depend on.
    type State: Clone + Eq + Hash;

    /// Where it starts.
    fn start(&self) -> Self::State;

    /// Adds every step that may be taken now, and where it leads.
    fn steps(&self, state: &Self::State, next: &mut Vec<(Label, Self::State)>);

    /// One state for all that differ in names alone: numbers of versions, and which of two equal sidecars did what.
    fn canonical(&self, state: Self::State) -> Self::State {
        state
    }

    /// The property that does not hold here, if there is one.
    fn broken(&self, state: &Self::State) -> Option<Property>;

    /// A line that shows the state in a trace.
    fn show(&self, state: &Self::State) -> String;
}

/// A violation, with the shortest way to it.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What does not hold.
    pub property: Property,
    /// Each step, and the state after it.
    pub trace: Vec<(Label, String)>,
}

/// What an exploration found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// States that differ.
    pub states: usize,
    /// Steps of the longest of all shortest ways.
    pub depth: usize,
    /// Whether every state was reached, rather than the limit.
    pub is_exhausted: bool,
    /// The first violation.
    pub violation: Option<Violation>,
}

/// Where each known state was first reached from.
type Parents = HashMap<u64, u64, BuildHasherDefault<Same>>;

/// Explores `model` until a violation, the end, or `states_max`.
pub fn explore<M: Model>(model: &M, states_max: usize) -> Outcome {
    let start = model.canonical(model.start());
    let root = fingerprint(&start);
    let mut parents = Parents::default();
    parents.insert(root, root);
    let mut frontier = vec![start];
    let mut depth = 0;
    let mut steps = Vec::new();
    let outcome = |parents: &Parents, depth, is_exhausted, violation| Outcome {
        states: parents.len(),
        depth,
        is_exhausted,
        violation,
    };
    while !frontier.is_empty() {
        let mut reached = Vec::new();
        for state in &frontier {
            let from = fingerprint(state);
            model.steps(state, &mut steps);
            for (_, next) in steps.drain(..) {
                let next = model.canonical(next);
                let to = fingerprint(&next);
                let Entry::Vacant(entry) = parents.entry(to) else { continue };
                entry.insert(from);
                if let Some(property) = model.broken(&next) {
                    let violation = Violation { property, trace: trace(model, &parents, to) };
                    return outcome(&parents, depth + 1, false, Some(violation));
                }
                reached.push(next);
            }
            if parents.len() > states_max {
                return outcome(&parents, depth, false, None);
            }
        }
        depth += usize::from(!reached.is_empty());
        frontier = reached;
    }
    outcome(&parents, depth, true, None)
}

/// The way to a state: its ancestors are known by fingerprint, and the steps between them are taken once more.
fn trace<M: Model>(model: &M, parents: &Parents, last: u64) -> Vec<(Label, String)> {
    let mut way = vec![last];
    while let Some(parent) = way.last().and_then(|at| parents.get(at)).filter(|parent| Some(*parent) != way.last()) {
        way.push(*parent);
    }
    let mut state = model.canonical(model.start());
    let mut trace = Vec::new();
    for wanted in way.iter().rev().skip(1) {
        let mut steps = Vec::new();
        model.steps(&state, &mut steps);
        let found = steps.into_iter().map(|(label, next)| (label, model.canonical(next)));
        let Some((label, next)) = found.into_iter().find(|(_, next)| fingerprint(next) == *wanted) else { break };
        trace.push((label, model.show(&next)));
        state = next;
    }
    trace
}

fn fingerprint<S: Hash>(state: &S) -> u64 {
    let mut hasher = Mixer(0x9e37_79b9_7f4a_7c15);
    state.hash(&mut hasher);
    hasher.finish()
}

/// Mixes each word by a multiplication whose two halves are folded.
struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word ^ 0xa076_1d64_78bd_642f) * 0xe703_7ed1_a0b4_28db;
        self.0 = (product as u64) ^ ((product >> 64) as u64).wrapping_add(self.0.rotate_left(23));
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        let mut last = Self(self.0);
        last.mix(0x1d8e_4e27_c47d_124f);
        last.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word) ^ ((chunk.len() as u64) << 59));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.mix(u64::from(byte));
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }
}

/// Fingerprints are mixed already.
#[derive(Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {}

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

/// Gives versions the smallest numbers that keep their order, equality included, and tell "the next one" from "far above".
///
/// `0` stays: it means none. A gap is kept as 2, so that a clock that went back may meet a version that was given before, and
/// may pass below it.
pub fn close_gaps<const N: usize>(mut versions: [&mut u8; N]) {
    let mut order: [u8; N] = std::array::from_fn(|at| *versions[at]);
    order.sort_unstable();
    let (mut before, mut given) = (0, 0);
    let mut names = [0_u8; 256];
    for version in order {
        given += (version - before).min(2);
        names[version as usize] = given;
        before = version;
    }
    for version in &mut versions {
        **version = names[**version as usize];
    }
}
