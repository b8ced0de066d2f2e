//! Redis that loses writes: the failover, and the lift in its order (L1), with late applies and acks between its steps.

use super::state::{Fate, Lift, NONE, Redis, State};
use super::{Next, Record};
use crate::explorer::Label;
use crate::mutant::Mutant;
use crate::property::Property;

impl Record {
    pub(super) fn lineage_steps(&self, state: &State, next: &mut Next) {
        if state.left.failovers > 0 {
            let mut after = *state;
            if state.has_replica {
                after.left.failovers -= 1;
                self.fail_over(&mut after);
                next.push((Label("redis fails over to the replica", 0), after));
            } else {
                (after.has_replica, after.replica) = (true, state.redis);
                next.push((Label("the replica stops following", 0), after));
            }
        }
        let (redis, lift) = (&state.redis, &state.lift);
        let is_due = redis.anchor_run != redis.run && (redis.anchor_run != NONE || self.is(Mutant::LiftForRestore));
        if lift.step == 0 {
            if is_due && state.left.lifts > 0 {
                let mut after = *state;
                after.left.lifts -= 1;
                self.begin(&mut after);
                let text =
                    if self.is(Mutant::LiftListsFirst) { "the lift lists ghosts" } else { "the lift raises the epoch" };
                next.push((Label(text, 0), after));
            }
            return;
        }
        let mut after = *state;
        let text = self.go_on(&mut after);
        next.push((Label(text, 0), after));
        next.push((Label("the lifting sidecar is killed", 0), State { lift: Lift::default(), ..*state }));
    }

    fn fail_over(&self, state: &mut State) {
        let older = state.redis;
        state.runs += 1;
        let run = if self.is(Mutant::RunComesBack) && older.run != 1 { 1 } else { state.runs };
        state.redis = Redis { run, ..state.replica };
        (state.has_replica, state.replica) = (false, Redis::default());
        state.lost |= older.history & !state.redis.history;
        let redis = &mut state.redis;
        if redis.value != NONE && redis.expires > 0 && redis.expires <= state.now {
            (redis.value, redis.expires, redis.was_deleted) = (NONE, 0, false);
        }
        state.changed();
    }

    fn begin(&self, state: &mut State) {
        state.lift = Lift { step: 1, run: state.redis.run, ..Lift::default() };
        if self.is(Mutant::LiftListsFirst) {
            self.list(state);
        } else {
            self.raise(state);
        }
    }

    /// (1) One transaction raises the epoch.
    fn raise(&self, state: &mut State) {
        let epoch = state.postgres.epoch.max(state.redis.anchor_epoch);
        state.lift.epoch = epoch + 1;
        if !self.is(Mutant::LiftWithoutEpoch) {
            state.postgres.epoch = state.lift.epoch;
        }
    }

    /// (2) Rows above the clock are ghosts.
    fn list(&self, state: &mut State) {
        let (row, clock) = (&state.postgres.row, state.redis.clock);
        let is_ghost = row.fate != Fate::None && row.version > clock;
        if is_ghost && row.fate == Fate::Present {
            state.listed |= 1 << row.value;
        }
        let may_be_swept = state.postgres.floor > clock
            && row.fate == Fate::None
            && state.redis.value != NONE
            && !self.is(Mutant::LiftWithoutFloors);
        state.lift.has_ghost = is_ghost || may_be_swept;
    }

    /// (3) Every ghost gets a new token; the bit of a mark that is there stays.
    fn mark(&self, state: &mut State) {
        let is_needed = state.lift.has_ghost && state.redis.run == state.lift.run;
        let keeps = self.is(Mutant::LiftKeepsToken) && state.redis.token != NONE;
        if is_needed && !keeps && !self.is(Mutant::LiftWithoutMarks) {
            state.redis.token = state.number();
        }
    }

    /// (4) One script: the clock above everything, and the anchor.
    fn anchor(&self, state: &mut State) {
        let State { redis, lift, postgres, .. } = state;
        let epoch = if self.is(Mutant::LiftWithoutEpoch) { postgres.epoch } else { lift.epoch };
        let is_newer = epoch > redis.anchor_epoch || self.is(Mutant::LiftWithoutEpoch);
        if redis.run != lift.run || !is_newer {
            return;
        }
        let floor = if self.is(Mutant::LiftWithoutFloors) { 0 } else { postgres.floor };
        redis.clock = redis.clock.max(postgres.row.version.max(floor) + 1);
        (redis.anchor_run, redis.anchor_epoch) = (lift.run, epoch);
        let is_lost = postgres.row.fate == Fate::Present && state.lost & (1 << postgres.row.value) != 0;
        if is_lost && state.listed & (1 << postgres.row.value) == 0 {
            state.breaks(Property::GhostsListed);
        }
        if state.owed != NONE && state.redis.value != state.owed {
            state.breaks(Property::Restored);
        }
    }

    /// The next step of a lift that is under way.
    fn go_on(&self, state: &mut State) -> &'static str {
        let step = state.lift.step;
        state.lift.step += 1;
        if self.is(Mutant::LiftAnchorsFirst) && step >= 2 {
            // Marks after the anchor.
            if step == 2 {
                self.anchor(state);
                return "the lift writes clock and anchor";
            }
            self.mark(state);
            state.lift = Lift::default();
            return "the lift marks the ghosts";
        }
        match step {
            1 if self.is(Mutant::LiftListsFirst) => {
                self.raise(state);
                "the lift raises the epoch"
            }
            1 => {
                self.list(state);
                "the lift reads the clock and lists ghosts"
            }
            2 => {
                self.mark(state);
                "the lift marks the ghosts"
            }
            _ => {
                self.anchor(state);
                state.lift = Lift::default();
                "the lift writes clock and anchor"
            }
        }
    }
}
