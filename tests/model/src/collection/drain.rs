//! Captures of touched elements and of the whole in chunks, their transactions, and their acks (W3, C4).

use super::{Collection, Drainer, Element, Fate, Header, NONE, Next, State, Step};
use crate::explorer::Label;
use crate::mutant::Mutant;

impl Collection {
    pub(super) fn drain_steps(&self, state: &State, at: usize, next: &mut Next) {
        let drainer = state.drainers[at];
        let mut add = |text, change: &dyn Fn(&mut State)| {
            let mut after = *state;
            change(&mut after);
            next.push((Label(text, 0), after));
        };
        match drainer.step {
            Step::Idle => {
                if state.redis.token != NONE {
                    add("a drainer captures", &|after| after.drainers[at] = capture(after));
                }
                if state.left[4] > 0 && state.redis.is_present() && !state.header.is_complete {
                    add("a backfill begins to capture the whole", &|after| {
                        after.left[4] -= 1;
                        after.drainers[at] = Drainer { is_backfill: true, step: Step::Begun, ..begin(after) };
                    });
                }
                return;
            }
            Step::Elements => add("touched elements are applied", &|after| self.apply_elements(after, at)),
            Step::Absent => add("the absence is applied", &|after| self.apply_absence(after, at)),
            Step::Begun => add("the first chunk is captured", &|after| self.chunk(after, at, 0, Step::FirstChunk)),
            Step::FirstChunk => add("the first chunk is applied", &|after| {
                self.apply_chunk(after, at);
                after.drainers[at].step = Step::Between;
            }),
            Step::Between => add("the last chunk is captured", &|after| self.chunk(after, at, 1, Step::LastChunk)),
            Step::LastChunk => add("the whole is finalised", &|after| self.finalise(after, at)),
            Step::ElementsDone => add("elements are acked", &|after| self.ack_elements(after, at)),
            Step::WholeDone => add("the whole is acked", &|after| self.ack_whole(after, at)),
        }
        add("a drainer is killed", &|after| after.drainers[at] = Drainer::default());
    }

    /// A chunk has a version of its own. When the collection is gone the capture ends: its mark leads to the next try.
    fn chunk(&self, state: &mut State, at: usize, which: usize, step: Step) {
        if !state.redis.is_present() && !self.is(Mutant::AbsentChunk) {
            state.drainers[at] = Drainer::default();
            return;
        }
        state.redis.clock += 1;
        let drainer = &mut state.drainers[at];
        (drainer.step, drainer.chunk) = (step, state.redis.clock);
        drainer.values[which] = state.redis.values[which];
    }

    /// Upserts the header under the guard. Answers whether it rose.
    fn raise_header(state: &mut State, version: u8, fate: Fate) -> bool {
        let header = &mut state.header;
        let rises = header.fate == Fate::None || header.version < version;
        if rises {
            (header.version, header.fate) = (version, fate);
        }
        rises
    }

    fn apply_element(&self, state: &mut State, which: usize, value: u8, version: u8) {
        let is_above = version > state.header.floor || self.is(Mutant::NoCollectionFloor);
        let element = &mut state.elements[which];
        let rises = element.fate == Fate::None || element.version < version || self.is(Mutant::NoGuard);
        let is_left_out = value == NONE && element.fate == Fate::None && self.is(Mutant::NoTombstone);
        if is_above && rises && !is_left_out {
            let fate = if value == NONE { Fate::Deleted } else { Fate::Present };
            *element = Element { fate, version, value };
        }
    }

    fn apply_elements(&self, state: &mut State, at: usize) {
        let drainer = state.drainers[at];
        Self::raise_header(state, drainer.version, Fate::Present);
        for which in (0..2).filter(|which| drainer.touched[*which] != NONE) {
            self.apply_element(state, which, drainer.values[which], drainer.version);
        }
        state.drainers[at].step = Step::ElementsDone;
    }

    fn apply_absence(&self, state: &mut State, at: usize) {
        let Drainer { version, .. } = state.drainers[at];
        if Self::raise_header(state, version, Fate::Deleted) {
            bury(state, version, |element| element.version < version);
            let Header { floor, last, is_complete, .. } = &mut state.header;
            (*floor, *last, *is_complete) = ((*floor).max(version - 1), version, false);
        }
        state.drainers[at].step = Step::WholeDone;
    }

    /// One chunk in its transaction; what is not there is not seen.
    fn apply_chunk(&self, state: &mut State, at: usize) {
        let Drainer { chunk, values, .. } = state.drainers[at];
        Self::raise_header(state, chunk, Fate::Present);
        if values[0] != NONE {
            self.apply_element(state, 0, values[0], chunk);
        }
        if self.is(Mutant::CompleteAtCapture) {
            state.header.is_complete = true;
        }
    }

    fn finalise(&self, state: &mut State, at: usize) {
        let Drainer { version: first, chunk, values, .. } = state.drainers[at];
        Self::raise_header(state, chunk, Fate::Present);
        if values[1] != NONE {
            self.apply_element(state, 1, values[1], chunk);
        }
        let header = &mut state.header;
        if header.floor < first - 1 && header.fate == Fate::Present {
            (header.is_complete, header.floor, header.last) = (true, first - 1, header.last.max(chunk));
            if self.is(Mutant::UnseenBelowLast) {
                for which in (0..2).filter(|which| values[*which] == NONE) {
                    let element = &mut state.elements[which];
                    if element.fate == Fate::Present && element.version < chunk {
                        *element = Element { fate: Fate::Deleted, version: chunk, value: NONE };
                    }
                }
            } else {
                bury(state, first, |element| element.version < first);
            }
        }
        let drainer = &mut state.drainers[at];
        drainer.step = Step::WholeDone;
        (drainer.values, drainer.version, drainer.chunk) = ([NONE; 2], 0, 0);
    }

    fn ack_elements(&self, state: &mut State, at: usize) {
        let drainer = state.drainers[at];
        let redis = &mut state.redis;
        for which in 0..2 {
            let is_same = redis.touched[which] == drainer.touched[which] || self.is(Mutant::ElementAckWithoutToken);
            if drainer.touched[which] != NONE && is_same {
                redis.touched[which] = NONE;
            }
        }
        if redis.companion_is_empty() {
            (redis.token, redis.is_gone) = (NONE, false);
        }
        state.drainers[at] = Drainer::default();
    }

    /// Clears the tokens that were read before the first chunk, never others.
    fn ack_whole(&self, state: &mut State, at: usize) {
        let drainer = state.drainers[at];
        let redis = &mut state.redis;
        let clears_all = self.is(Mutant::WholeAckClearsAll);
        for which in 0..2 {
            if redis.touched[which] == drainer.touched[which] || clears_all {
                redis.touched[which] = NONE;
            }
        }
        if redis.star == drainer.star || clears_all {
            redis.star = NONE;
        }
        if redis.companion_is_empty() && (redis.token == drainer.token || clears_all) {
            (redis.token, redis.is_gone) = (NONE, false);
        }
        state.drainers[at] = Drainer::default();
    }
}

/// Makes tombstones at `version` of the live elements that are meant.
fn bury(state: &mut State, version: u8, is_meant: impl Fn(&Element) -> bool) {
    for element in state.elements.iter_mut().filter(|element| element.fate == Fate::Present) {
        if is_meant(element) {
            *element = Element { fate: Fate::Deleted, version, value: NONE };
        }
    }
}

/// A capture by mark: touched elements, or the beginning of the whole, or the absence.
fn capture(state: &mut State) -> Drainer {
    let redis = state.redis;
    let captured = begin(state);
    if !redis.is_present() {
        return Drainer { step: Step::Absent, ..captured };
    }
    if redis.star != NONE || redis.companion_is_empty() {
        return Drainer { step: Step::Begun, ..captured };
    }
    let values = std::array::from_fn(|at| if redis.touched[at] != NONE { redis.values[at] } else { NONE });
    Drainer { step: Step::Elements, values, ..captured }
}

/// A version, and the tokens as they are.
fn begin(state: &mut State) -> Drainer {
    let redis = &mut state.redis;
    redis.clock += 1;
    Drainer {
        token: redis.token,
        is_gone: redis.is_gone,
        star: redis.star,
        touched: redis.touched,
        version: redis.clock,
        ..Drainer::default()
    }
}
