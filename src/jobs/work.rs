//! The work inside a job: which task of the engine it is, and where that goes on.

use std::sync::Arc;

use serde_json::Value as Json;

use crate::dual::Engine;
use crate::dual::backfill::{Backfill, Run};
use crate::dual::overwrite::{Overwrite, Told};
use crate::dual::repair::{Bound, Repair, Touch};
use crate::dual::restore::Restore;
use crate::dual::task::{Advance, Effort, TaskError};
use crate::dual::verify::{Mode, Values, Verify};
use crate::jobs::spec::{JobName, Spec};
use crate::model::catalog::Kind;

/// A task under way.
pub(super) enum Work {
    Backfill(Backfill),
    Verify(Box<Verify>),
    Repair(Repair),
    Restore(Box<Restore>),
    Overwrite(Box<Overwrite>),
}

impl Work {
    /// The kinds that `spec` means.
    ///
    /// # Errors
    /// Which kinds there are not, or cannot be meant now.
    pub(super) fn kinds(engine: &Engine, spec: &Spec) -> Result<Vec<Arc<Kind>>, TaskError> {
        match spec.job {
            JobName::Backfill => Ok(engine.marked_kinds(&spec.kinds)?),
            JobName::Repair | JobName::Restore => Ok(engine.marked_kinds(&spec.kinds)?),
            JobName::Verify => Ok(engine.verifiable_kinds(&spec.kinds)?.kinds),
        }
    }

    /// Begins, or goes on at `place`.
    ///
    /// # Errors
    /// When it may not run, or a store fails.
    pub(super) async fn begin(engine: &Engine, id: &str, spec: &Spec, place: Option<&Json>) -> Result<Self, TaskError> {
        match spec.job {
            JobName::Backfill => {
                let run = if spec.dry_run { Run::Count } else { Run::Write };
                let kinds = Self::kinds(engine, spec)?;
                Ok(Self::Backfill(engine.backfill_begin(kinds, id, run, place).await?))
            }
            JobName::Repair => {
                let touch = if spec.apply { Touch::Marks } else { Touch::Nothing };
                let bound = Bound { records: spec.bound.max_keys, per_million: spec.bound.max_per_million };
                let kinds = Self::kinds(engine, spec)?;
                Ok(Self::Repair(engine.repair_begin(&kinds, id, touch, bound).await?))
            }
            JobName::Restore if spec.overwrite => {
                let told = spec.records.filter(|_| !spec.dry_run).map_or(Told::Nothing, Told::Records);
                let kinds = Self::kinds(engine, spec)?;
                Ok(Self::Overwrite(Box::new(engine.overwrite_begin(kinds, told).await?)))
            }
            JobName::Restore => {
                let kinds = Self::kinds(engine, spec)?;
                Ok(Self::Restore(Box::new(engine.restore_begin(kinds, place).await?)))
            }
            JobName::Verify => {
                let mode = if spec.exhaustive { Mode::Exhaustive } else { Mode::Digests };
                let values = if spec.values { Values::Shown } else { Values::Hidden };
                Ok(Self::Verify(Box::new(engine.verify_begin(&spec.kinds, mode, values).await?)))
            }
        }
    }

    /// About how many keys and rows it will look at, where that can be told before.
    ///
    /// # Errors
    /// When a store fails.
    pub(super) async fn total(&self, engine: &Engine, spec: &Spec) -> Result<Option<u64>, TaskError> {
        let kinds = match self {
            Self::Backfill(backfill) => backfill.kinds(),
            Self::Verify(verify) => verify.kinds(),
            Self::Restore(restore) => restore.kinds(),
            Self::Overwrite(overwrite) => overwrite.kinds(),
            Self::Repair(_) => return Ok(None),
        };
        let (keys, rows) = (engine.key_count().await?, engine.row_count(kinds).await?);
        // A verification looks from both sides, and what writes ends with one.
        Ok(match self {
            Self::Backfill(_) if spec.dry_run => Some(keys),
            // Its rows are those of the keys, as soon as they are there.
            Self::Backfill(_) => Some(keys + keys.max(rows)),
            Self::Verify(_) => Some(keys + rows),
            Self::Restore(_) => Some(keys + 3 * rows),
            Self::Overwrite(_) if spec.dry_run => Some(rows),
            Self::Overwrite(_) => Some(keys + 3 * rows),
            Self::Repair(_) => None,
        })
    }

    /// Whether it may go on as it is after a store failed; what may not begins again at its place.
    ///
    /// # Errors
    /// When a store fails.
    pub(super) async fn holds(&self, engine: &Engine) -> Result<bool, TaskError> {
        match self {
            Self::Backfill(_) | Self::Restore(_) | Self::Overwrite(_) => Ok(false),
            // What it found is looked at again anyway.
            Self::Repair(_) => Ok(true),
            Self::Verify(verify) => verify.holds(engine).await,
        }
    }

    /// One step.
    ///
    /// # Errors
    /// When a store fails, and then the step may be repeated; or for good.
    pub(super) async fn step(&mut self, engine: &Engine, effort: Effort) -> Result<Advance, TaskError> {
        match self {
            Self::Backfill(backfill) => {
                engine.traces().job_chunk("backfill").run(engine.backfill_step(backfill, effort)).await
            }
            Self::Verify(verify) => engine.traces().job_chunk("verify").run(engine.verify_step(verify, effort)).await,
            Self::Repair(repair) => engine.traces().job_chunk("repair").run(engine.repair_step(repair)).await,
            Self::Restore(restore) => {
                engine.traces().job_chunk("restore").run(engine.restore_step(restore, effort)).await
            }
            Self::Overwrite(overwrite) => {
                engine.traces().job_chunk("restore").run(engine.overwrite_step(overwrite, effort)).await
            }
        }
    }

    /// Where it goes on, should its runner die; `None` for one that begins anew then.
    pub(super) fn place(&self) -> Option<Json> {
        match self {
            Self::Backfill(backfill) => backfill.place(),
            // What it summed would be worth nothing to another process at another time.
            Self::Verify(_) | Self::Repair(_) => None,
            // What is overwritten by then is not counted again, so that the count is not the one that was told.
            Self::Overwrite(_) => None,
            Self::Restore(restore) => restore.place(),
        }
    }

    /// What it found so far.
    pub(super) fn report(&self) -> Json {
        match self {
            Self::Backfill(backfill) => backfill.report(),
            Self::Verify(verify) => verify.report(),
            Self::Repair(repair) => repair.report(),
            Self::Restore(restore) => restore.report(),
            Self::Overwrite(overwrite) => overwrite.report(),
        }
    }
}
