//! The repair: what was found to differ is looked at again, and marked if it still does; the drain does the rest.
//!
//! It never writes a value. First everything is only looked at, so that a repair that would touch more than it may ends
//! before it has touched anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::time::Instant;

use crate::dual::Engine;
use crate::dual::compare::Judged;
use crate::dual::task::{Advance, TaskError};
use crate::dual::verdict::Verdict;
use crate::model::catalog::{Kind, Layout};
use crate::model::key::Key;
use crate::stores::postgres::pool::PostgresError;
use crate::stores::postgres::repairs::{self, Repair as Audit, Suspect};
use crate::stores::postgres::{Postgres, ghosts};
use crate::stores::redis::marks;
use crate::telemetry::labels::Label;

/// Suspects looked at in one step.
const PAGE: i64 = 200;
/// How often a record is looked at when a look says nothing.
const LOOKS: u32 = 5;
/// How long the drain is waited for after the marks were set.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// Whether a repair marks, or only says what it would mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// It says.
    Nothing,
    /// It marks.
    Marks,
}

/// How many records a repair may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Records.
    pub records: u64,
    /// Records for each million keys of Redis.
    pub per_million: u64,
}

/// A repair under way.
pub struct Repair {
    id: String,
    names: Vec<String>,
    touch: Touch,
    most: u64,
    after: (String, String),
    at: At,
    suspects: u64,
    found: Vec<Judged>,
    classes: BTreeMap<&'static str, u64>,
    verdicts: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Look,
    Mark,
    Check(Instant),
    End,
}

impl Repair {
    /// What it found and did.
    #[must_use]
    pub fn report(&self) -> Json {
        json!({
            "dry_run": self.touch == Touch::Nothing,
            "suspects": self.suspects,
            "differing": self.classes,
            "after": self.verdicts,
        })
    }
}

impl Engine {
    /// Begins a repair.
    ///
    /// # Errors
    /// When a store fails.
    pub async fn repair_begin(
        &self,
        kinds: &[Arc<Kind>],
        id: &str,
        touch: Touch,
        bound: Bound,
    ) -> Result<Repair, TaskError> {
        self.lineage_now().await?;
        let share = u128::from(self.key_count().await?) * u128::from(bound.per_million) / 1_000_000;
        Ok(Repair {
            id: id.to_owned(),
            names: kinds.iter().map(|kind| kind.name.clone()).collect(),
            touch,
            // One record may always be mended.
            most: bound.records.min(u64::try_from(share).unwrap_or(u64::MAX).max(1)),
            after: (String::new(), String::new()),
            at: At::Look,
            suspects: 0,
            found: Vec::new(),
            classes: BTreeMap::new(),
            verdicts: BTreeMap::new(),
        })
    }

    /// Takes a repair one step further.
    ///
    /// # Errors
    /// When a store fails, and then the step may be repeated; or when it would touch more than it may.
    pub async fn repair_step(&self, repair: &mut Repair) -> Result<Advance, TaskError> {
        let mut advance = Advance::default();
        repair.at = match repair.at {
            At::Look => self.repair_look(repair, &mut advance).await?,
            At::Mark => self.repair_mark(repair, &mut advance).await?,
            At::Check(since) => self.repair_check(repair, since).await?,
            At::End => At::End,
        };
        Ok(Advance { is_end: repair.at == At::End, ..advance })
    }

    async fn repair_look(&self, repair: &mut Repair, advance: &mut Advance) -> Result<At, TaskError> {
        let Some(postgres) = &self.postgres else { return Ok(At::End) };
        let after = (repair.after.0.as_str(), repair.after.1.as_str());
        let page = repairs::suspects(postgres, &repair.names, after, PAGE).await?;
        let Some(last) = page.last() else {
            let is_over = repair.touch == Touch::Nothing || repair.found.is_empty();
            return Ok(if is_over { At::End } else { At::Mark });
        };
        repair.after = (last.kind.clone(), last.id.clone());
        advance.seen = u64::try_from(page.len()).unwrap_or(u64::MAX);
        repair.suspects += advance.seen;
        // What the catalog no longer knows is nobody's to repair.
        let wanted: Vec<(Arc<Kind>, Key)> = page.iter().filter_map(|suspect| self.named(suspect)).collect();
        let judged = self.judge_all(wanted, LOOKS).await?.judged;
        if repair.touch == Touch::Marks {
            settle(postgres, &judged).await?;
        }
        for judged in judged {
            let Some(class) = judged.verdict.class() else { continue };
            *repair.classes.entry(class).or_default() += 1;
            repair.found.push(judged);
        }
        let found = u64::try_from(repair.found.len()).unwrap_or(u64::MAX);
        if repair.touch == Touch::Marks && found > repair.most {
            return Err(TaskError::Unmet(format!(
                "it would mark more than {} records: look at the dry run, find the cause, and raise max_keys and max_per_million \
                 if they are to be marked all the same",
                repair.most
            )));
        }
        if repair.touch == Touch::Nothing {
            // They are counted.
            repair.found.clear();
        }
        Ok(At::Look)
    }

    fn named(&self, suspect: &Suspect) -> Option<(Arc<Kind>, Key)> {
        let kind = self.catalog.by_name(&suspect.kind)?;
        Some((Arc::clone(kind), kind.key_of(&suspect.id).ok()?))
    }

    async fn repair_mark(&self, repair: &Repair, advance: &mut Advance) -> Result<At, TaskError> {
        let Some(postgres) = &self.postgres else { return Ok(At::End) };
        for judged in &repair.found {
            let audit = Audit {
                job: repair.id.clone(),
                kind: judged.kind.name.clone(),
                key: judged.key.clone(),
                id: judged.kind.id_of(judged.key.as_bytes()),
                class: judged.verdict.class().unwrap_or_default().to_owned(),
                version: judged.versions.1,
            };
            repairs::before(postgres, &audit).await?;
            let keys = std::slice::from_ref(&judged.key);
            marks::repair(&self.jobs, &self.lineage.repair_token(), keys, false).await?;
            self.queue.add(&judged.key, &judged.kind, Instant::now(), None, 0);
            if judged.kind.layout == Layout::Log {
                // The drain goes on behind the newest entry; what differs may be an older one.
                self.bring(vec![(Arc::clone(&judged.kind), judged.key.clone())]).await?;
            }
            advance.done += 1;
        }
        Ok(At::Check(Instant::now()))
    }

    /// What came of it, as soon as the drain has been there.
    async fn repair_check(&self, repair: &mut Repair, since: Instant) -> Result<At, TaskError> {
        let Some(postgres) = &self.postgres else { return Ok(At::End) };
        let wanted = repair.found.iter().map(|judged| (Arc::clone(&judged.kind), judged.key.clone())).collect();
        let judged = self.judge_all(wanted, LOOKS).await?.judged;
        settle(postgres, &judged).await?;
        repair.found.clear();
        for judged in judged {
            let is_late = since.elapsed() >= DRAIN_PATIENCE;
            if judged.verdict == Verdict::InFlight && !is_late {
                repair.found.push(judged);
                continue;
            }
            let verdict = judged.verdict.label().name();
            *repair.verdicts.entry(verdict).or_default() += 1;
            repairs::after(postgres, &repair.id, &judged.key, verdict, judged.versions.1).await?;
        }
        Ok(if repair.found.is_empty() { At::End } else { At::Check(since) })
    }
}

/// What is the same in both stores is no ghost any more.
async fn settle(postgres: &Postgres, judged: &[Judged]) -> Result<(), PostgresError> {
    let same = judged.iter().filter(|judged| judged.verdict == Verdict::Match);
    let same: Vec<Key> = same.map(|judged| judged.key.clone()).collect();
    if same.is_empty() { Ok(()) } else { ghosts::settle(postgres, &same).await.map(drop) }
}
