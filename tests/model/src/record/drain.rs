//! Captures, applies and acks (C1-C3, A1-A3), the sweep of rows, and the backfill with its other direction.

use super::state::{Backfill, Captured, Fate, NONE, Phase, State};
use super::{Next, Record, idle};
use crate::explorer::Label;
use crate::mutant::Mutant;
use crate::property::Property;

/// What an apply came to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Applied {
    /// Committed, or a no-op under the guard.
    Committed,
    /// Of another epoch, at or below the floor, or above the heartbeat: nothing may be acknowledged.
    Refused,
}

impl Record {
    pub(super) fn drain_steps(&self, state: &State, at: usize, next: &mut Next) {
        let drainer = &state.drainers[at];
        let mut add = |text, change: &dyn Fn(&mut State)| {
            let mut after = *state;
            change(&mut after);
            next.push((Label(text, 0), after));
        };
        match drainer.phase {
            Phase::Idle => {
                if state.redis.token != NONE && self.may_capture(state) {
                    add("a drainer captures", &|after| {
                        after.drainers[at] = self.capture(after);
                    });
                }
                return;
            }
            Phase::Captured if self.is(Mutant::AckBeforeCommit) && state.redis.token == drainer.token => {
                add("a drainer acks before its commit", &|after| self.ack(after, at, Phase::Captured));
                add("a drainer applies", &|after| self.apply_of(after, at));
            }
            Phase::Captured if self.is(Mutant::FloorInSnapshot) => {
                if self.is_accepted(state, drainer) {
                    add("a drainer reads the control row in a snapshot", &|after| {
                        after.drainers[at].phase = Phase::Checked;
                    });
                }
            }
            Phase::Captured => {
                add("a drainer applies", &|after| self.apply_of(after, at));
                if self.scope.repeats {
                    add("a drainer applies, and learns no outcome", &|after| {
                        let capture = after.drainers[at];
                        self.apply(after, &capture);
                    });
                }
            }
            Phase::Checked => add("a drainer applies what the snapshot let pass", &|after| {
                let capture = after.drainers[at];
                self.upsert(after, &capture);
                after.drainers[at].phase = Phase::Applied;
            }),
            Phase::Applied => add("a drainer acks", &|after| self.ack(after, at, Phase::Idle)),
        }
        add("a drainer is killed", &|after| after.drainers[at] = idle());
    }

    /// C1: the anchor names the server that executes.
    pub(super) fn may_capture(&self, state: &State) -> bool {
        let redis = &state.redis;
        redis.anchor_run != NONE && (redis.anchor_run == redis.run || self.is(Mutant::CaptureWithoutLineage))
    }

    /// C2, C3: a version, and what the absence of the record means.
    pub(super) fn capture(&self, state: &mut State) -> Captured {
        let redis = &mut state.redis;
        redis.clock += 1;
        let [present, deleted, gone] = self.fates;
        let fate = match (redis.value != NONE, redis.is_gone) {
            (true, _) => present,
            (false, true) => deleted,
            (false, false) => gone,
        };
        let capture = Captured {
            phase: Phase::Captured,
            token: redis.token,
            version: redis.clock,
            run: redis.anchor_run,
            epoch: redis.anchor_epoch,
            beat: redis.beat,
            value: redis.value,
            expires: redis.expires,
            fate,
            history: redis.history,
        };
        if fate == Fate::Deleted && !state.redis.was_deleted {
            state.breaks(Property::ExpiryIsNoDelete);
        }
        capture
    }

    /// A2, P1: what the control row says to a capture.
    fn is_accepted(&self, state: &State, capture: &Captured) -> bool {
        let postgres = &state.postgres;
        let is_known = self.is(Mutant::NoHeartbeat)
            || capture.beat <= postgres.beat && (state.knows_postgres() || self.is(Mutant::FenceBeatAlone));
        is_known && capture.epoch == postgres.epoch && capture.version > postgres.floor
    }

    pub(super) fn apply(&self, state: &mut State, capture: &Captured) -> Applied {
        if !self.is_accepted(state, capture) {
            return Applied::Refused;
        }
        self.upsert(state, capture);
        Applied::Committed
    }

    /// A1, C3: what an upsert makes of the row.
    fn upsert(&self, state: &mut State, capture: &Captured) {
        state.postgres.applied |= capture.history;
        let row = &mut state.postgres.row;
        let is_there = row.fate != Fate::None;
        if is_there && row.version >= capture.version {
            if !self.is(Mutant::NoGuard) {
                return;
            }
            if row.version > capture.version {
                state.broken = state.broken.or(Some(Property::NeverBackwards));
            }
        }
        match capture.fate {
            Fate::None => {}
            Fate::Present => {
                (row.value, row.expires) = (capture.value, capture.expires);
                (row.version, row.fate) = (capture.version, Fate::Present);
            }
            Fate::Gone if !is_there && self.is(Mutant::NoGoneRow) => {}
            Fate::Gone => {
                row.version = capture.version;
                if row.fate != Fate::Deleted {
                    row.fate = Fate::Gone;
                }
            }
            Fate::Deleted if self.is(Mutant::PhysicalDelete) => *row = super::state::Row::default(),
            Fate::Deleted if !is_there && self.is(Mutant::NoTombstone) => {}
            Fate::Deleted => {
                *row = super::state::Row { version: capture.version, fate: Fate::Deleted, ..Default::default() }
            }
        }
    }

    fn apply_of(&self, state: &mut State, at: usize) {
        let capture = state.drainers[at];
        match self.apply(state, &capture) {
            Applied::Refused => state.drainers[at] = idle(),
            Applied::Committed => {
                state.drainers[at].phase = Phase::Applied;
                if state.waiter != NONE && capture.token == state.waiter {
                    self.tell(state);
                }
            }
        }
    }

    /// A3: by token, in the lineage of the capture. The run is the one that the capture came from: a proxy between may have
    /// kept the connection over a failover, so that the sidecar does not know better.
    fn ack(&self, state: &mut State, at: usize, phase: Phase) {
        let capture = state.drainers[at];
        let redis = &mut state.redis;
        let is_ours = redis.anchor_run == capture.run && redis.anchor_epoch == capture.epoch;
        let is_same = redis.token == capture.token || self.is(Mutant::AckWithoutToken);
        if is_same && (is_ours || self.is(Mutant::AckWithoutLineage)) {
            (redis.token, redis.is_gone) = (NONE, false);
        }
        state.drainers[at] = if phase == Phase::Idle { idle() } else { Captured { phase, ..capture } };
    }

    /// The sweep of tombstones, of what is gone, and of rows past their expiry: with them the floor (A2).
    pub(super) fn sweep_steps(&self, state: &State, next: &mut Next) {
        let row = &state.postgres.row;
        let is_due = match row.fate {
            Fate::None => false,
            Fate::Present => row.expires > 0 && row.expires <= state.now,
            Fate::Gone | Fate::Deleted => true,
        };
        if state.left.sweeps > 0 && is_due {
            let mut after = *state;
            after.left.sweeps -= 1;
            if !self.is(Mutant::SweepWithoutFloor) {
                after.postgres.floor = after.postgres.floor.max(row.version);
            }
            after.postgres.row = super::state::Row::default();
            next.push((Label("the row is swept", 0), after));
        }
    }

    /// The backfill: SCAN, capture, apply; then the rows whose records are absent are marked; then it is complete.
    pub(super) fn backfill_steps(&self, state: &State, next: &mut Next) {
        let job = state.backfill;
        if !job.is_running {
            if state.left.backfills > 0 && !state.is_backfilled() && state.redis.anchor_run == state.redis.run {
                let mut after = *state;
                after.left.backfills -= 1;
                after.backfill = Backfill { is_running: true, epoch: state.redis.anchor_epoch, ..Backfill::default() };
                next.push((Label("a backfill begins", 0), after));
            }
            return;
        }
        let mut after = *state;
        if !job.is_captured {
            if !self.may_capture(state) {
                return;
            }
            after.backfill.is_captured = true;
            if state.redis.value != NONE {
                after.backfill.capture = self.capture(&mut after);
            }
            if self.is(Mutant::CompleteAtCapture) && job.epoch == after.redis.anchor_epoch {
                after.redis.backfilled = job.epoch;
            }
            next.push((Label("the backfill captures", 0), after));
        } else if job.capture.phase == Phase::Captured {
            // A refused apply ends the job: it is begun anew.
            after.backfill.capture = idle();
            if self.apply(&mut after, &job.capture) == Applied::Refused {
                after.backfill = Backfill::default();
            }
            next.push((Label("the backfill applies", 0), after));
        } else if !job.is_reversed {
            after.backfill.is_reversed = true;
            let (redis, row) = (&state.redis, &state.postgres.row);
            if row.fate.is_present() && redis.value == NONE && redis.token == NONE && self.may_capture(state) {
                (after.redis.token, after.redis.is_gone) = (after.number(), false);
            }
            next.push((Label("the backfill marks a row whose record is absent", 0), after));
        } else {
            after.backfill = Backfill::default();
            if job.epoch == after.redis.anchor_epoch && after.redis.anchor_run == after.redis.run {
                after.redis.backfilled = job.epoch;
            }
            next.push((Label("the backfill is complete", 0), after));
        }
    }
}
