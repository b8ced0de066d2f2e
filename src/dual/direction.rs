//! Which store the flags name for reads of a key, and why.
//!
//! One decision for the reads themselves, for their metrics, and for whoever asks beforehand. The fence, which knows the
//! record, has the last word behind it.

use std::sync::Arc;

use crate::dual::view::View;
use crate::dual::{Engine, Source};
use crate::model::catalog::Kind;
use crate::model::flag::{Flag, Stage};
use crate::model::key::Key;
use crate::telemetry::labels::RouteReason;

/// Where reads of a kind go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// All to Redis, and why.
    Redis(RouteReason),
    /// All to Postgres.
    Postgres,
    /// Each key to the store that its bucket says.
    Split,
}

/// What holds for reads of one kind at one moment.
#[derive(Clone, Debug)]
pub struct Direction {
    /// The kind.
    pub kind: Arc<Kind>,
    /// Where it stands; off for a kind that never goes to Postgres.
    pub stage: Stage,
    /// The version of the flags.
    pub version: u64,
    /// Whether this sidecar's lease on the flags holds.
    pub lease_valid: bool,
    /// Where its reads go.
    pub way: Way,
    flag: Flag,
}

impl Direction {
    /// The store that reads of `key` are sent to, and why; none for a split kind without a key.
    #[must_use]
    pub fn store(&self, key: Option<&Key>) -> Option<(Source, RouteReason)> {
        match (self.way, key) {
            (Way::Redis(reason), _) => Some((Source::Redis, reason)),
            (Way::Postgres, _) => Some((Source::Postgres, RouteReason::Live)),
            (Way::Split, Some(key)) if self.flag.sends_to_postgres(&self.kind.name, key.as_bytes()) => {
                Some((Source::Postgres, RouteReason::Live))
            }
            (Way::Split, Some(_)) => Some((Source::Redis, RouteReason::Percent)),
            (Way::Split, None) => None,
        }
    }
}

impl Engine {
    /// What holds now for reads of `kinds`, all under the same version of the flags.
    #[must_use]
    pub fn directions(&self, kinds: &[Arc<Kind>]) -> Vec<Direction> {
        let view = self.keeper.view();
        let lease_valid = self.keeper.has_lease();
        let direction = |kind: &Arc<Kind>| Direction {
            kind: Arc::clone(kind),
            stage: if kind.is_mirrored() { view.flag(kind).stage } else { Stage::Off },
            version: view.version,
            lease_valid,
            way: match self.way(&view, kind) {
                // Now and then an open breaker lets one read through, to see; what is said here holds for all others.
                Way::Postgres | Way::Split if self.breakers.is_open(kind.index) => Way::Redis(RouteReason::Breaker),
                way @ (Way::Redis(_) | Way::Postgres | Way::Split) => way,
            },
            flag: view.flag(kind).clone(),
        };
        kinds.iter().map(direction).collect()
    }

    /// Where reads of `kind` go under `view`. The cheapest question comes first: every read asks.
    pub(super) fn way(&self, view: &View, kind: &Kind) -> Way {
        let flag = view.flag(kind);
        let refusal = if !flag.stage.reads_postgres() {
            Some(RouteReason::Stage)
        } else if !kind.is_readable() {
            Some(RouteReason::NotReadable)
        } else if self.postgres.is_none() {
            Some(RouteReason::PostgresOff)
        } else if !self.trusts_postgres() {
            Some(RouteReason::MarksBroken)
        } else if !view.is_backfilled(kind) {
            Some(RouteReason::NotBackfilled)
        } else if !self.keeper.has_lease() {
            // Checked once more when the rows are there: the lease must hold when the answer is given.
            Some(RouteReason::NoLease)
        } else {
            None
        };
        match refusal {
            Some(reason) => Way::Redis(reason),
            None if flag.percent >= 100.0 => Way::Postgres,
            None if flag.percent <= 0.0 => Way::Redis(RouteReason::Percent),
            None => Way::Split,
        }
    }

    /// Whether the flags send reads of `key` to Postgres, or why not.
    pub(super) fn may_leave_redis(&self, view: &View, key: &Key) -> Result<(), RouteReason> {
        let kind = self.catalog.kind_of(key.as_bytes());
        match self.way(view, kind) {
            Way::Redis(reason) => Err(reason),
            Way::Postgres => Ok(()),
            Way::Split if view.flag(kind).sends_to_postgres(&kind.name, key.as_bytes()) => Ok(()),
            Way::Split => Err(RouteReason::Percent),
        }
    }
}
