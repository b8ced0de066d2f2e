//! The application's writes, each with its mark in one EXEC (W1, W2, W4), and what time and memory do to the record.

use super::state::{NONE, State};
use super::{Next, Record};
use crate::explorer::Label;
use crate::mutant::Mutant;
use crate::product::Plan;
use crate::property::Property;

/// What a write does to the record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Write {
    Set,
    Delete,
    Take,
    Expire,
}

impl Record {
    pub(super) fn write_steps(&self, state: &State, next: &mut Next) {
        if state.half > 0 {
            self.second_half(state, next);
            return;
        }
        let left = &state.left;
        let mut add = |label, write, spent: State| {
            for (waits, label) in [(false, label), (true, Label("SET, waiting for Postgres", 0))] {
                if waits && (write != Write::Set || !self.scope.waits || state.waiter != NONE) {
                    continue;
                }
                let mut after = spent;
                self.write(&mut after, write);
                if waits {
                    after.waiter = after.redis.token;
                }
                next.push((label, after));
            }
        };
        if left.sets > 0 {
            add(Label("SET", 0), Write::Set, State { left: super::Left { sets: left.sets - 1, ..*left }, ..*state });
        }
        if left.deletes > 0 {
            let left = super::Left { deletes: left.deletes - 1, ..*left };
            add(Label("DEL", 0), Write::Delete, State { left, ..*state });
        }
        if left.takes > 0 {
            let left = super::Left { takes: left.takes - 1, ..*left };
            add(Label("HDEL of the only field", 0), Write::Take, State { left, ..*state });
        }
        if left.expires > 0 {
            let left = super::Left { expires: left.expires - 1, ..*left };
            add(Label("EXPIRE at the next tick", 0), Write::Expire, State { left, ..*state });
        }
        if self.is(Mutant::VanishedMarkProves) && state.waiter != NONE && state.redis.token != state.waiter {
            let mut told = *state;
            self.tell(&mut told);
            next.push((Label("the mark has vanished: the writer is told that Postgres has it", 0), told));
        }
    }

    fn plan(&self, write: Write) -> Plan {
        match write {
            Write::Set => self.set,
            Write::Delete => self.delete,
            Write::Take => self.take,
            Write::Expire => self.expire,
        }
    }

    /// One EXEC: the mark, the command, the settlement. Mutants of W1 make two steps of it.
    fn write(&self, state: &mut State, write: Write) {
        let number = state.number();
        if self.is(Mutant::MarkAfter) {
            self.act(state, write, number);
            state.half = 1 + number;
            return;
        }
        if self.is(Mutant::MarkBefore) {
            state.redis.token = number;
            state.redis.is_gone = self.plan(write).is_gone;
            // A key that is not there is deleted all the same.
            state.redis.was_deleted |= write == Write::Delete && state.redis.value == NONE;
            // The command that comes in its own step is remembered with the number of the mark.
            state.half = 1 + number + 64 * write as u8;
            return;
        }
        let (was_present, older) = (state.redis.value != NONE, (state.redis.token, state.redis.is_gone));
        let plan = self.plan(write);
        (state.redis.token, state.redis.is_gone) = (number, plan.is_gone);
        self.act(state, write, number);
        state.redis.is_unmirrored = false;
        if plan.is_settled && state.redis.value == NONE {
            if was_present || plan.is_decided || self.is(Mutant::NothingSetsBit) {
                state.redis.is_gone = true;
            } else {
                (state.redis.token, state.redis.is_gone) = older;
            }
        }
    }

    fn act(&self, state: &mut State, write: Write, number: u8) {
        let redis = &mut state.redis;
        match write {
            Write::Set => {
                redis.value = number;
                redis.expires = 0;
                redis.history |= 1 << number;
                (redis.was_deleted, redis.was_evicted) = (false, false);
                state.owed = NONE;
            }
            Write::Delete => {
                (redis.value, redis.expires) = (NONE, 0);
                (redis.was_deleted, redis.was_evicted) = (true, false);
                state.owed = NONE;
            }
            Write::Take if redis.value != NONE => {
                (redis.value, redis.expires) = (NONE, 0);
                (redis.was_deleted, redis.was_evicted) = (true, false);
                state.owed = NONE;
            }
            Write::Expire if redis.value != NONE => {
                redis.expires = state.now + 1;
                state.owed = NONE;
            }
            Write::Take | Write::Expire => {}
        }
        state.changed();
    }

    fn second_half(&self, state: &State, next: &mut Next) {
        let mut after = State { half: 0, ..*state };
        if self.is(Mutant::MarkAfter) {
            after.redis.token = state.half - 1;
            after.redis.is_gone = after.redis.value == NONE;
            next.push((Label("the mark, in a step after the write", 0), after));
            // What the sidecar was about to do dies with it.
            next.push((Label("the sidecar is killed before it marks", 0), State { half: 0, ..*state }));
            return;
        }
        let (write, number) = ((state.half - 1) / 64, (state.half - 1) % 64);
        let write = [Write::Set, Write::Delete, Write::Take, Write::Expire][write as usize];
        self.act(&mut after, write, number);
        after.redis.is_unmirrored = false;
        next.push((Label("the write, in a step after its mark", 0), after));
    }

    /// The writer that waits is told that Postgres has its write (W4).
    pub(super) fn tell(&self, state: &mut State) {
        if state.postgres.applied & (1 << state.waiter) == 0 {
            state.breaks(Property::AckBoth);
        }
        state.waiter = NONE;
    }

    /// Ticks, at which records expire, and evictions.
    pub(super) fn time_steps(&self, state: &State, next: &mut Next) {
        if state.left.ticks > 0 {
            let mut after = *state;
            after.left.ticks -= 1;
            after.now += 1;
            let redis = &mut after.redis;
            if redis.value != NONE && redis.expires > 0 && redis.expires <= after.now {
                (redis.value, redis.expires) = (NONE, 0);
                (redis.was_deleted, redis.was_evicted) = (false, false);
                after.changed();
            }
            next.push((Label("time passes", 0), after));
        }
        if state.left.evictions > 0 && state.redis.value != NONE {
            let mut after = *state;
            after.left.evictions -= 1;
            let redis = &mut after.redis;
            (redis.value, redis.expires) = (NONE, 0);
            (redis.was_deleted, redis.was_evicted) = (false, true);
            after.changed();
            next.push((Label("the record is evicted", 0), after));
        }
    }
}
