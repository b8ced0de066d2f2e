//! What somebody wants done: the job, its kinds, its limits, and what is particular to it. Parsed at a door or from a
//! command line, checked here once.

use serde::{Deserialize, Serialize};

use crate::jobs::pace::Limits;
use crate::telemetry::labels::Job;

/// A job by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobName {
    /// Everything that Redis holds goes to Postgres.
    Backfill,
    /// Both stores are compared.
    Verify,
    /// What differs is marked again.
    Repair,
    /// Postgres goes back to a Redis that was lost.
    Restore,
}

impl JobName {
    /// The word in paths, rows and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Backfill => "backfill",
            Self::Verify => "verify",
            Self::Repair => "repair",
            Self::Restore => "restore",
        }
    }

    /// The label of its metrics.
    #[must_use]
    pub fn label(self) -> Job {
        match self {
            Self::Backfill => Job::Backfill,
            Self::Verify => Job::Verify,
            Self::Repair => Job::Repair,
            Self::Restore => Job::Restore,
        }
    }
}

/// What somebody wants done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The job.
    pub job: JobName,
    /// Kinds by their names; `*` for all that it can be about.
    pub kinds: Vec<String>,
    /// Count, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Compare every record, without digests.
    #[serde(default)]
    pub exhaustive: bool,
    /// Of a verification: show the values that differ.
    #[serde(default)]
    pub values: bool,
    /// Of a restore: write also over what Redis holds, of a Redis that was not lost.
    #[serde(default)]
    pub overwrite: bool,
    /// Of such a restore: how many records its dry run told of.
    #[serde(default)]
    pub records: Option<u64>,
    /// Of a repair: mark, instead of saying what would be marked.
    #[serde(default)]
    pub apply: bool,
    /// Of a repair: how much it may mark.
    #[serde(default)]
    pub bound: RepairBound,
    /// Go on although Redis may evict records meanwhile.
    #[serde(default)]
    pub allow_eviction: bool,
    /// What it may cost.
    #[serde(default)]
    pub pace: Limits,
}

/// How many records a repair may mark: the smaller of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RepairBound {
    /// Records.
    pub max_keys: u64,
    /// Records for each million keys of Redis; 1,000 are 0.1 %.
    pub max_per_million: u64,
}

impl Default for RepairBound {
    fn default() -> Self {
        Self { max_keys: 1_000, max_per_million: 1_000 }
    }
}

/// A field that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {reason}")]
pub struct WrongField {
    /// Its name.
    pub field: &'static str,
    /// What it must be.
    pub reason: &'static str,
}

impl Spec {
    /// Checks what does not depend on the stores.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn check(&self) -> Result<(), WrongField> {
        if self.exhaustive && self.job != JobName::Verify {
            return Err(WrongField { field: "exhaustive", reason: "is for verify alone" });
        }
        if self.dry_run && self.job != JobName::Backfill && !self.overwrite {
            return Err(WrongField {
                field: "dry_run",
                reason: "is for a backfill and for a restore that overwrites; a repair is one unless told to apply",
            });
        }
        if self.values && self.job != JobName::Verify {
            return Err(WrongField { field: "values", reason: "is for verify alone" });
        }
        self.check_overwrite()?;
        if self.apply && self.job != JobName::Repair {
            return Err(WrongField { field: "apply", reason: "is for repair alone" });
        }
        if self.job == JobName::Restore && !self.overwrite && self.kinds != ["*"] {
            return Err(WrongField {
                field: "kinds",
                reason: "must be * for a restore: half a restore would pass for a whole one",
            });
        }
        if self.kinds.is_empty() {
            return Err(WrongField { field: "kinds", reason: "needs at least one kind, or *" });
        }
        match self.pace.wrong() {
            Some((field, reason)) => Err(WrongField { field, reason }),
            None => Ok(()),
        }
    }

    fn check_overwrite(&self) -> Result<(), WrongField> {
        if self.overwrite && self.job != JobName::Restore {
            return Err(WrongField { field: "overwrite", reason: "is for restore alone" });
        }
        match (self.overwrite && !self.dry_run, self.records) {
            (true, None) => Err(WrongField {
                field: "records",
                reason: "must be the number of records that a dry run of this restore told of",
            }),
            (false, Some(_)) => Err(WrongField {
                field: "records",
                reason: "is for a restore that overwrites, and not for its dry run",
            }),
            (true, Some(_)) | (false, None) => Ok(()),
        }
    }
}
