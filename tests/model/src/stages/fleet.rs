//! What a sidecar does: decides commands under its view, executes them later, renews its lease, confirms (S2, S3, S2b, L3).

use super::{Command, Lease, Next, Sidecar, Stages, State};
use crate::explorer::Label;
use crate::mutant::Mutant;
use crate::property::Property;

impl Stages {
    pub(super) fn command_steps(&self, state: &State, at: usize, next: &mut Next) {
        let sidecar = state.sidecars[at];
        let number = at as u8 + 1;
        let mut add = |text, change: &dyn Fn(&mut State)| {
            let mut after = *state;
            change(&mut after);
            next.push((Label(text, number), after));
        };
        if sidecar.command != Command::None {
            add("what sidecar {} decided is executed and answered", &|after| self.execute(after, at));
            return;
        }
        let has_lease = sidecar.lease == Lease::Valid;
        let marks = sidecar.stage.marks() || (!has_lease && !self.is(Mutant::WritesWithoutLease));
        let decide = |command| {
            move |after: &mut State| {
                after.sidecars[at].command = command;
                (after.sidecars[at].under, after.sidecars[at].held) = (sidecar.version, sidecar.backfilled);
            }
        };
        if marks {
            // With its mark in the same EXEC it does no harm whenever it comes.
            add("sidecar {} writes, marked", &|after| {
                (after.record.is_marked, after.record.is_equal) = (true, false);
            });
        } else {
            add("sidecar {} decides to write unmarked", &decide(Command::Unmarked));
        }
        // On a kind that is marked a blocking write is refused.
        if state.left[4] > 0 && (!marks || self.is(Mutant::BlockingUnmarked)) {
            add("sidecar {} sends a blocking write, unmarked", &|after| {
                after.left[4] -= 1;
                decide(Command::Blocking)(after);
            });
        }
        let reads = sidecar.stage.reads_postgres() && sidecar.backfilled > 0;
        if reads && (has_lease || self.is(Mutant::ReadsWithoutLease)) {
            add("sidecar {} decides to read from postgres", &decide(Command::Read));
        }
    }

    fn execute(&self, state: &mut State, at: usize) {
        let sidecar = state.sidecars[at];
        release(&mut state.sidecars[at]);
        match sidecar.command {
            Command::None => {}
            Command::Unmarked | Command::Blocking => {
                state.record.is_equal = false;
                let may_read = |other: &Sidecar| {
                    other.lease == Lease::Valid && other.stage.reads_postgres() && other.backfilled == state.epoch
                };
                if state.in_lineage && state.sidecars.iter().any(may_read) {
                    state.broken = Some(Property::NoUnmarkedWrite);
                }
            }
            Command::Read => {
                // The lease is asked for once more when the answer is given.
                let may_answer = sidecar.lease == Lease::Valid || self.is(Mutant::ReadsWithoutLease);
                // The fence: in the lineage, unmarked, and of the epoch in which the view knows a backfill.
                let passes = state.in_lineage && !state.record.is_marked && sidecar.held == state.epoch;
                if may_answer && passes && !state.record.is_equal {
                    state.broken = Some(Property::Linearizable);
                }
            }
        }
    }

    pub(super) fn lease_steps(&self, state: &State, at: usize, next: &mut Next) {
        let (sidecar, number) = (state.sidecars[at], at as u8 + 1);
        let mut after = *state;
        match sidecar.lease {
            Lease::Valid if state.left[2] > 0 => {
                after.left[2] -= 1;
                after.sidecars[at].lease = Lease::Ended;
                next.push((Label("the lease of sidecar {} ends", number), after));
            }
            Lease::Valid | Lease::Over => {}
            Lease::Ended => {
                let outlives = sidecar.command == Command::Blocking && self.is(Mutant::BlockingOutlivesLease);
                if !outlives {
                    release(&mut after.sidecars[at]);
                }
                after.sidecars[at].lease = Lease::Over;
                next.push((
                    Label("the longest deadline of sidecar {} passes: nothing of it is in flight", number),
                    after,
                ));
            }
        }
        self.renew(state, at, next);
        let is_settled = sidecar.command == Command::None
            || sidecar.under == sidecar.version
            || self.is(Mutant::ConfirmEarly)
            || (sidecar.command == Command::Blocking
                && (self.is(Mutant::BlockingUnmarked) || self.is(Mutant::BlockingNotAwaited)));
        let is_news = state.flags.confirmed[at] != sidecar.version && state.flags.version == sidecar.version;
        if is_settled && is_news && sidecar.lease == Lease::Valid {
            let mut after = *state;
            after.flags.confirmed[at] = sidecar.version;
            after.flags.has_renewed[at] = true;
            next.push((Label("sidecar {} confirms its view", number), after));
        }
    }

    /// Renews the lease and takes up the flags; lower ones are never taken up, but written over with what is known (L3).
    fn renew(&self, state: &State, at: usize, next: &mut Next) {
        let (sidecar, flags) = (state.sidecars[at], state.flags);
        let mut after = *state;
        after.sidecars[at].lease = Lease::Valid;
        after.flags.has_renewed[at] = true;
        let is_lower = flags.version < sidecar.version;
        let text = if is_lower && !self.is(Mutant::FlagsGoBack) {
            (after.flags.version, after.flags.stage) = (sidecar.version, sidecar.stage);
            "sidecar {} writes the flags that it knows back to redis"
        } else {
            if is_lower {
                after.broken = Some(Property::FlagsNeverBack);
            }
            let view = &mut after.sidecars[at];
            (view.version, view.stage, view.backfilled) = (flags.version, flags.stage, flags.backfilled);
            "sidecar {} renews its lease and takes up the flags"
        };
        if after != *state {
            next.push((Label(text, at as u8 + 1), after));
        }
    }
}

fn release(sidecar: &mut Sidecar) {
    (sidecar.command, sidecar.under, sidecar.held) = (Command::None, 0, 0);
}
