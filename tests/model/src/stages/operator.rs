//! What operators do, through any sidecar that knows the flags: one stage at a time, barriers, the backfill (S1, S2, S4); and what
//! happens to Redis and to marks meanwhile.

use parallax::model::flag::Stage;

use super::{Backfill, Lease, Next, Stages, State};
use crate::explorer::Label;
use crate::mutant::Mutant;

impl Stages {
    /// S2: every sidecar has confirmed the version, or can do nothing any more.
    fn is_barred(&self, state: &State) -> bool {
        (0..2).any(|at| {
            let is_known = state.flags.has_renewed[at] || self.is(Mutant::OldConfirmations);
            let has_confirmed = is_known && state.flags.confirmed[at] >= state.flags.version;
            !has_confirmed && state.sidecars[at].lease != Lease::Over
        })
    }

    /// L3, after a failover: whether a sidecar that has not renewed since may hold newer flags than Redis does.
    fn may_be_outdated(&self, state: &State) -> bool {
        (0..2).any(|at| !state.flags.has_renewed[at] && state.sidecars[at].lease != Lease::Over)
    }

    pub(super) fn change_steps(&self, state: &State, at: usize, next: &mut Next) {
        let (flags, sidecar) = (state.flags, state.sidecars[at]);
        let knows = sidecar.version == flags.version && sidecar.stage == flags.stage && sidecar.lease == Lease::Valid;
        if state.left[0] == 0 || !knows {
            return;
        }
        for stage in Stage::ALL.into_iter().filter(|stage| *stage != flags.stage) {
            // The product's own rule for one stage at a time.
            if !flags.stage.is_step_to(stage) && !self.is(Mutant::StagesJumped) {
                continue;
            }
            let rises_to_live = stage.reads_postgres() && !flags.stage.reads_postgres();
            if rises_to_live && !(flags.backfilled == state.epoch && state.in_lineage) && !self.is(Mutant::LiveEarly) {
                continue;
            }
            let ends_marking = flags.stage.marks() && !stage.marks();
            if ends_marking && self.is_barred(state) && !self.is(Mutant::NoBarrier) {
                continue;
            }
            // The rollback has no precondition; anything else waits until nobody can hold flags that Redis has lost.
            let is_rollback = flags.stage.reads_postgres() && !stage.reads_postgres();
            if !is_rollback && self.may_be_outdated(state) && !self.is(Mutant::OldConfirmations) {
                continue;
            }
            let mut after = *state;
            after.left[0] -= 1;
            (after.flags.version, after.flags.stage) = (flags.version + 1, stage);
            if ends_marking {
                (after.flags.backfilled, after.flags.has_job) = (0, false);
            }
            if rises_to_live && self.is(Mutant::LiveEarly) {
                after.flags.backfilled = state.epoch;
            }
            let view = &mut after.sidecars[at];
            (view.version, view.stage, view.backfilled) = (after.flags.version, stage, after.flags.backfilled);
            let text = match stage {
                Stage::Off => "sidecar {} is told: off",
                Stage::Dualwrite => "sidecar {} is told: dualwrite",
                Stage::Shadow => "sidecar {} is told: shadow",
                Stage::Live => "sidecar {} is told: live",
            };
            next.push((Label(text, at as u8 + 1), after));
        }
    }

    pub(super) fn backfill_steps(&self, state: &State, next: &mut Next) {
        let mut after = *state;
        match state.backfill {
            Backfill::Idle => {
                let may_begin = state.in_lineage
                    && state.flags.stage.marks()
                    && state.flags.backfilled != state.epoch
                    && (!self.is_barred(state) || self.is(Mutant::BackfillEarly));
                if state.left[1] > 0 && may_begin {
                    after.left[1] -= 1;
                    after.flags.has_job = true;
                    after.backfill = Backfill::Begun;
                    next.push((Label("a backfill begins", 0), after));
                }
            }
            Backfill::Begun if state.in_lineage => {
                after.backfill = Backfill::Applied;
                // A record with a mark is left to it.
                after.record.is_equal |= !state.record.is_marked;
                after.has_ghost |= state.replica.is_some();
                if self.is(Mutant::CompleteAtCapture) {
                    after.record.is_equal = state.record.is_equal;
                }
                next.push((Label("the backfill brings the record to postgres", 0), after));
            }
            Backfill::Applied if state.in_lineage => {
                after.backfill = Backfill::Idle;
                if state.flags.has_job {
                    after.flags.backfilled = state.epoch;
                }
                after.flags.has_job = false;
                next.push((Label("the backfill is complete", 0), after));
            }
            Backfill::Begun | Backfill::Applied => {
                // Overtaken by another lineage.
                after.backfill = Backfill::Idle;
                next.push((Label("the backfill is given up", 0), after));
            }
        }
    }

    /// Drains, and a failover with its lift: backfills are owed in the new epoch.
    pub(super) fn redis_steps(&self, state: &State, next: &mut Next) {
        if state.record.is_marked && state.in_lineage {
            let mut after = *state;
            (after.record.is_marked, after.record.is_equal) = (false, true);
            after.has_ghost |= state.replica.is_some();
            next.push((Label("the mark is drained", 0), after));
        }
        let mut after = *state;
        if !state.in_lineage {
            after.in_lineage = true;
            // Every backfill is owed in the new epoch.
            after.epoch += 1;
            after.flags.has_job = false;
            if state.has_ghost {
                (after.record.is_marked, after.record.is_equal) = (true, false);
            }
            after.has_ghost = false;
            after.backfill = Backfill::Idle;
            next.push((Label("redis is lifted", 0), after));
        } else if let Some((flags, record)) = state.replica {
            (after.flags, after.record, after.replica) = (flags, record, None);
            // What was confirmed to the server before says nothing of what a sidecar does now.
            after.flags.has_renewed = [false; 2];
            after.in_lineage = false;
            next.push((Label("redis fails over to the replica, flags included", 0), after));
        } else if state.left[3] > 0 {
            after.left[3] -= 1;
            (after.replica, after.has_ghost) = (Some((state.flags, state.record)), false);
            next.push((Label("the replica stops following", 0), after));
        }
    }
}
