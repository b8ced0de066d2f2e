//! Redis that restarts with nothing, and the restore (L2): rows go back into Redis, and nothing that was written meanwhile is lost.

use super::state::{Fate, NONE, Redis, Restorer, State};
use super::{Next, Record};
use crate::explorer::Label;
use crate::mutant::Mutant;
use crate::property::Property;

impl Record {
    pub(super) fn restore_steps(&self, state: &State, next: &mut Next) {
        if state.left.restarts > 0 {
            let mut after = *state;
            after.left.restarts -= 1;
            after.runs += 1;
            let row = &state.postgres.row;
            let is_live = row.fate.is_present() && (row.expires == 0 || row.expires > state.now);
            after.owed = if is_live && state.redis.token == NONE { row.value } else { NONE };
            after.lost |= state.redis.history;
            after.redis = Redis { run: after.runs, ..Redis::default() };
            (after.has_replica, after.replica) = (false, Redis::default());
            after.changed();
            next.push((Label("redis restarts with nothing", 0), after));
        }
        for at in 0..self.scope.restorers {
            self.restorer_steps(state, at, next);
        }
    }

    fn restorer_steps(&self, state: &State, at: usize, next: &mut Next) {
        let restorer = state.restorers[at];
        let mut after = *state;
        let text = match restorer.step {
            0 => {
                let is_due = state.redis.anchor_run == NONE && state.runs > 1 && !self.is(Mutant::LiftForRestore);
                if !is_due || state.left.restores == 0 {
                    return;
                }
                after.left.restores -= 1;
                let epoch = state.postgres.epoch + 1;
                after.postgres.epoch = epoch;
                after.restorers[at] = Restorer { step: 1, run: state.redis.run, epoch, ..Restorer::default() };
                "a restore raises the epoch"
            }
            1 => {
                self.look(&mut after, at);
                "the restore reads the rows"
            }
            2 => {
                self.refill(&mut after, at);
                "the restore refills"
            }
            _ => {
                self.end(&mut after, at);
                "the restore writes clock and anchor"
            }
        };
        next.push((Label(text, 0), after));
        if restorer.step > 0 {
            let mut killed = *state;
            killed.restorers[at] = Restorer::default();
            next.push((Label("a restoring sidecar is killed", 0), killed));
        }
    }

    /// Live rows: present and unmarked above the clock they are ghosts, absent and unmarked they are refilled.
    fn look(&self, state: &mut State, at: usize) {
        let (row, redis) = (state.postgres.row, state.redis);
        let is_live = row.fate.is_present() && (row.expires == 0 || row.expires > state.now);
        state.restorers[at].step = 2;
        if is_live && redis.run == state.restorers[at].run {
            (state.restorers[at].value, state.restorers[at].expires) = (row.value, row.expires);
            if redis.value != NONE && redis.token == NONE && row.version > redis.clock && redis.value != row.value {
                state.redis.token = state.number();
            }
        }
    }

    /// The script checks that the anchor is still missing and the run is the one it began on.
    fn refill(&self, state: &mut State, at: usize) {
        let restorer = state.restorers[at];
        state.restorers[at].step = 3;
        let redis = &mut state.redis;
        let is_here = redis.run == restorer.run && (redis.anchor_run == NONE || self.is(Mutant::RefillUnchecked));
        if restorer.value == NONE || !is_here {
            return;
        }
        let is_expired = restorer.expires > 0 && restorer.expires <= state.now;
        if redis.value == NONE && redis.token == NONE && !is_expired {
            (redis.value, redis.expires) = (restorer.value, restorer.expires);
            (redis.was_deleted, redis.was_evicted) = (false, false);
            redis.history |= 1 << restorer.value;
            state.changed();
        } else {
            state.listed |= 1 << restorer.value;
        }
    }

    fn end(&self, state: &mut State, at: usize) {
        let restorer = state.restorers[at];
        state.restorers[at] = Restorer::default();
        let State { redis, postgres, .. } = state;
        if redis.run != restorer.run || redis.anchor_run != NONE || restorer.epoch <= redis.anchor_epoch {
            return;
        }
        redis.clock = redis.clock.max(postgres.row.version.max(postgres.floor) + 1);
        (redis.anchor_run, redis.anchor_epoch) = (restorer.run, restorer.epoch);
        (redis.beat, redis.timeline) = (postgres.beat, postgres.timeline);
        let row = &postgres.row;
        let is_live = row.fate == Fate::Present && (row.expires == 0 || row.expires > state.now);
        if state.owed != NONE && is_live && state.redis.value != state.owed && state.listed & (1 << state.owed) == 0 {
            state.breaks(Property::Restored);
        }
    }
}
