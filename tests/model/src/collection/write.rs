//! Writes to a collection, each in one EXEC with its mark and what its companion notes (W3).

use super::{Collection, NONE, Next, Redis, State, pair};
use crate::explorer::Label;
use crate::mutant::Mutant;

/// What a write touches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Touched {
    Element(usize),
    Whole,
}

impl Collection {
    pub(super) fn write_steps(&self, state: &State, next: &mut Next) {
        let [sets, takes, deletes, renames, _] = state.left;
        for at in 0..2 {
            let number = at as u8 + 1;
            if sets > 0 {
                let touched = Touched::Element(at);
                next.push((Label("HSET of element {}", number), self.write(state, 0, touched, |v, new| v[at] = new)));
            }
            if takes > 0 {
                let touched = Touched::Element(at);
                next.push((Label("HDEL of element {}", number), self.write(state, 1, touched, |v, _| v[at] = NONE)));
            }
        }
        if deletes > 0 {
            next.push((Label("DEL", 0), self.write(state, 2, Touched::Whole, |v, _| *v = [NONE; 2])));
        }
        if renames > 0 {
            let after = self.write(state, 3, Touched::Whole, |v, new| *v = [NONE, new]);
            next.push((Label("RENAME of another onto it: element 2 alone", 0), after));
        }
    }

    /// One EXEC: mark and companion, the change, the settlement.
    fn write(&self, state: &State, kind: usize, touched: Touched, change: impl Fn(&mut [u8; 2], u8)) -> State {
        let mut after = *state;
        after.left[kind] -= 1;
        let number = after.next;
        after.next += 1;
        let redis = &mut after.redis;
        let (was_present, older) = (redis.is_present(), (redis.token, redis.is_gone));
        (redis.token, redis.is_gone) = (number, kind == 2);
        let leaves_star = !self.is(Mutant::NoStar);
        match touched {
            Touched::Element(at) => redis.touched[at] = number,
            Touched::Whole if leaves_star => redis.star = number,
            Touched::Whole => {}
        }
        if !was_present && leaves_star {
            redis.star = number;
        }
        change(&mut redis.values, number);
        if !redis.is_present() && kind == 1 {
            if was_present {
                redis.is_gone = true;
            } else {
                settle_nothing(redis, older);
            }
        }
        if after.reader.is_reading {
            after.reader.seen |= pair(after.redis.values);
        }
        after
    }
}

/// Absent before and after: the older mark is put back; without one, the companion goes as well.
fn settle_nothing(redis: &mut Redis, older: (u8, bool)) {
    (redis.token, redis.is_gone) = older;
    if redis.token == NONE {
        (redis.star, redis.touched) = (NONE, [NONE; 2]);
    }
}
