//! Postgres that goes back (P1): the heartbeat, a backup, its return, and whoever notices.

use super::state::State;
use super::{Next, Record};
use crate::explorer::Label;
use crate::mutant::Mutant;

impl Record {
    pub(super) fn postgres_steps(&self, state: &State, next: &mut Next) {
        let (redis, postgres) = (&state.redis, &state.postgres);
        if state.left.restored == 0 && state.went_back == 0 {
            return;
        }
        let in_lineage = redis.anchor_run == redis.run;
        if state.left.beats > 0 && in_lineage && state.knows_postgres() && postgres.epoch == redis.anchor_epoch {
            let mut after = *state;
            after.left.beats -= 1;
            after.postgres.beat += 1;
            after.redis.beat = after.postgres.beat;
            next.push((Label("the heart beats: in Postgres, then in Redis", 0), after));
        }
        if state.left.restored > 0 && !state.has_backup {
            let mut after = *state;
            (after.has_backup, after.backup) = (true, *postgres);
            next.push((Label("a backup of Postgres is made, or its replica stops following", 0), after));
        }
        if state.has_backup && state.left.restored > 0 {
            let mut after = *state;
            after.left.restored -= 1;
            (after.postgres, after.has_backup, after.backup) = (state.backup, false, Default::default());
            after.went_back = redis.anchor_epoch;
            // A data folder is not copied and put back between two heartbeats.
            if state.backup.beat < redis.beat {
                next.push((Label("an older data folder is put back", 0), after));
            }
            after.postgres.timeline = postgres.timeline + 1;
            next.push((Label("postgres fails over, or a backup is restored: a new timeline", 0), after));
        }
        self.notice_steps(state, next);
    }

    /// The epoch first: while it is the older one, the heartbeat must stay behind what readers expect.
    fn notice_steps(&self, state: &State, next: &mut Next) {
        let (redis, postgres) = (&state.redis, &state.postgres);
        if state.went_back == 0 || redis.anchor_run != redis.run {
            return;
        }
        if self.is(Mutant::NoHeartbeat) {
            return;
        }
        if postgres.epoch <= redis.anchor_epoch && !state.knows_postgres() {
            let mut after = *state;
            after.postgres.epoch = redis.anchor_epoch.max(postgres.epoch) + 1;
            next.push((Label("another timeline or a lower heartbeat is noticed: the epoch is raised", 0), after));
        }
        if postgres.epoch > redis.anchor_epoch {
            let mut after = *state;
            after.postgres.beat += 1;
            if postgres.beat < redis.beat {
                // Several beats may pass before the anchor is written.
                next.push((Label("the heart beats under the new epoch", 0), after));
            }
            (after.redis.beat, after.redis.timeline) = (after.postgres.beat, postgres.timeline);
            after.redis.anchor_epoch = postgres.epoch;
            after.redis.clock = redis.clock.max(postgres.row.version.max(postgres.floor) + 1);
            next.push((Label("the anchor takes the new epoch", 0), after));
        }
    }
}
