//! The fleet: which sidecars are here, what each has confirmed, until when its lease holds, and how far its mirror lags.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::dual::{Engine, EngineError};
use crate::stores::redis::lease::{self, About};

/// One sidecar as the fleet knows it.
#[derive(Clone, Debug, Serialize)]
pub struct Member {
    /// Its name.
    pub instance: String,
    /// The version of its program.
    pub version: String,
    /// The version of the flags under which all its commands run.
    pub confirmed: u64,
    /// For how long it may still read from Postgres; negative when its lease has ended and it went back by itself.
    pub lease_ends_in_ms: i64,
    /// Records that it has marked and not yet brought to Postgres.
    pub queued: usize,
    /// How long the oldest of them has waited.
    pub lag_ms: u64,
    /// How many kinds stand in each stage, as it acts on them.
    pub stages: BTreeMap<String, usize>,
    /// Kinds that a rollback took out of stage live there before the flags said so.
    pub lowered: Vec<String>,
}

/// Every sidecar that has not said goodbye.
#[derive(Clone, Debug, Serialize)]
pub struct FleetReport {
    /// The version of the flags that this sidecar knows.
    pub flags_version: u64,
    /// By name.
    pub sidecars: Vec<Member>,
}

impl Engine {
    /// The fleet as Redis knows it, at most a renewal (one second) old.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn fleet(&self) -> Result<FleetReport, EngineError> {
        let (now_ms, sidecars) = lease::sidecars(&self.looks).await.map_err(EngineError::of_a_read)?;
        let member = |(instance, sidecar): (String, lease::Sidecar)| {
            // A sidecar of a later version may say something that cannot be read here; its lease counts all the same.
            let about: About = serde_json::from_str(&sidecar.about).unwrap_or_default();
            Member {
                instance,
                version: about.version,
                confirmed: sidecar.confirmed,
                lease_ends_in_ms: sidecar.lease_until - now_ms,
                queued: about.queued,
                lag_ms: about.lag_ms,
                stages: about.stages,
                lowered: about.lowered,
            }
        };
        Ok(FleetReport {
            flags_version: self.keeper.view().version,
            sidecars: sidecars.into_iter().map(member).collect(),
        })
    }
}
