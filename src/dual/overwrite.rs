//! The restore that writes over what Redis holds: an operator's word that Postgres is right, given twice.
//!
//! First everything is counted, and when the count is not the one that the operator was told, nothing is written. Then each
//! record that differs is looked at, its row is read, and the row is written only over what was looked at, with a mark: a
//! write that comes in between stands. What Redis alone has is left. A verification ends it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use tokio::time::Instant;

use crate::dual::task::{Advance, Effort, TaskError, behind, tables_of};
use crate::dual::verdict::{self, Verdict};
use crate::dual::verify::{Mode, Values, Verify};
use crate::dual::{Engine, read, settle};
use crate::model::catalog::{Kind, Layout, Table};
use crate::model::key::Key;
use crate::stores::postgres::Postgres;
use crate::stores::postgres::pages::{self, LiveRow, Range};
use crate::stores::postgres::rows::Fate;
use crate::stores::redis::fence::{self, Seen};
use crate::stores::redis::refill::{self, Document, Refill, Replacement};

/// Rows in one page.
const PAGE_ROWS: i64 = 500;
/// How often a record is looked at when a look says nothing.
const LOOKS: u32 = 5;

/// Whether it writes, and over how many records the operator was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It counts.
    Nothing,
    /// It writes, if there are as many as he was told.
    Records(u64),
}

/// An overwriting restore under way.
pub struct Overwrite {
    kinds: Vec<Arc<Kind>>,
    tables: Vec<Table>,
    epoch: i64,
    told: Told,
    at: At,
    counted: u64,
    classes: BTreeMap<&'static str, u64>,
    written: BTreeMap<String, u64>,
    left: BTreeMap<&'static str, u64>,
    verify: Option<Box<Verify>>,
}

#[derive(Clone, Debug)]
enum At {
    Count(usize, Vec<u8>),
    Write(usize, Vec<u8>),
    Verify,
    End,
}

impl Overwrite {
    /// The kinds that it is about.
    #[must_use]
    pub fn kinds(&self) -> &[Arc<Kind>] {
        &self.kinds
    }

    /// What it found and did.
    #[must_use]
    pub fn report(&self) -> Json {
        let verified = self.verify.as_ref().map(|verify| verify.report());
        json!({
            "dry_run": self.told == Told::Nothing,
            "records": self.counted,
            "differing": self.classes,
            "overwritten": self.written,
            "left": self.left,
            "differences": verified.as_ref().and_then(|report| report.get("differences").cloned()),
            "verify": verified,
        })
    }

    fn leave(&mut self, why: &'static str) {
        *self.left.entry(why).or_default() += 1;
    }
}

impl Engine {
    /// Begins an overwriting restore of these kinds.
    ///
    /// # Errors
    /// When Redis was lost, so that a plain restore is the way, or a store fails.
    pub async fn overwrite_begin(&self, kinds: Vec<Arc<Kind>>, told: Told) -> Result<Overwrite, TaskError> {
        let (_, epoch) = self.lineage_now().await?;
        Ok(Overwrite {
            tables: tables_of(&kinds),
            kinds,
            epoch,
            told,
            at: At::Count(0, Vec::new()),
            counted: 0,
            classes: BTreeMap::new(),
            written: BTreeMap::new(),
            left: BTreeMap::new(),
            verify: None,
        })
    }

    /// Takes it one step further.
    ///
    /// # Errors
    /// When a store fails, and then the step may be repeated; or when the count is not what the operator was told.
    pub async fn overwrite_step(&self, overwrite: &mut Overwrite, effort: Effort) -> Result<Advance, TaskError> {
        let Some(postgres) = &self.postgres else { return Ok(Advance { is_end: true, ..Advance::default() }) };
        let (advance, next) = match overwrite.at.clone() {
            At::Count(at, after) => {
                let (differing, last, advance) = self.differing(postgres, overwrite, at, &after).await?;
                overwrite.counted += u64::try_from(differing.len()).unwrap_or(u64::MAX);
                for (_, _, class) in &differing {
                    *overwrite.classes.entry(class).or_default() += 1;
                }
                let next = match behind(overwrite.tables.len(), at, last) {
                    Some((table, after)) => At::Count(table, after),
                    None => counted(overwrite)?,
                };
                (advance, next)
            }
            At::Write(at, after) => {
                let (differing, last, mut advance) = self.differing(postgres, overwrite, at, &after).await?;
                for (kind, key, _) in differing {
                    self.overwrite_one(postgres, overwrite, &kind, &key, &mut advance).await?;
                }
                let next = behind(overwrite.tables.len(), at, last);
                (advance, next.map_or(At::Verify, |(table, after)| At::Write(table, after)))
            }
            At::Verify => {
                let verify = match overwrite.verify.take() {
                    Some(verify) => verify,
                    None => {
                        let kinds = overwrite.kinds.clone();
                        Box::new(self.verify_kinds(kinds, BTreeMap::new(), Mode::Digests, Values::Hidden).await?)
                    }
                };
                let verify = overwrite.verify.insert(verify);
                let advance = self.verify_step(verify, effort).await?;
                (advance, if advance.is_end { At::End } else { At::Verify })
            }
            At::End => (Advance::default(), At::End),
        };
        overwrite.at = next;
        Ok(Advance { is_end: matches!(overwrite.at, At::End), ..advance })
    }

    /// The records of a page of rows that differ in Redis, and where the page ends.
    async fn differing(
        &self,
        postgres: &Postgres,
        overwrite: &Overwrite,
        at: usize,
        after: &[u8],
    ) -> Result<(Vec<(Arc<Kind>, Key, &'static str)>, Option<Vec<u8>>, Advance), TaskError> {
        let Some(table) = overwrite.tables.get(at).copied() else { return Ok((Vec::new(), None, Advance::default())) };
        let of_table = overwrite.kinds.iter().filter(|kind| kind.table == table && kind.layout != Layout::Log);
        let kinds: Vec<String> = of_table.map(|kind| kind.name.clone()).collect();
        let (fence, _) = fence::fence(&self.jobs, &[]).await?;
        let range = Range { table, kinds: &kinds, after, time_ms: fence.time_us / 1000, limit: PAGE_ROWS };
        let rows = pages::live(postgres, &range).await?;
        let last = rows.last().map(|row| row.key().hash());
        let advance = Advance { seen: u64::try_from(rows.len()).unwrap_or(u64::MAX), ..Advance::default() };
        let wanted = rows.iter().map(LiveRow::key).map(|key| (Arc::clone(self.catalog.kind_of(key.as_bytes())), key));
        let judged = self.judge_all(wanted.collect(), LOOKS).await?.judged;
        let differing = judged.into_iter().filter_map(|judged| {
            let class = judged.verdict.class().filter(|_| judged.verdict != Verdict::MissingInPostgres)?;
            Some((judged.kind, judged.key, class))
        });
        Ok((differing.collect(), last, advance))
    }

    async fn overwrite_one(
        &self,
        postgres: &Postgres,
        overwrite: &mut Overwrite,
        kind: &Arc<Kind>,
        key: &Key,
        advance: &mut Advance,
    ) -> Result<(), TaskError> {
        let shape = settle::shape(kind);
        let seen = fence::looks(&self.jobs, &[(key.clone(), shape)]).await?;
        if !matches!(seen.first(), Some(Seen::Whole(_))) {
            // Large collections, and values of modules.
            overwrite.leave("too_large");
            return Ok(());
        }
        let (look, _) = fence::look(&self.jobs, &kind.name, key).await?;
        let (control, row) = read::row(postgres, kind, key, None, look.fence.clock).await?;
        // Judged anew with the look that the script will hold the record against.
        let verdict = verdict::judge(kind, true, &look, &control, row.as_ref());
        let row = row.filter(|row| row.fate == Fate::Present && row.is_complete);
        let Some((value, expires_at_ms)) = row.and_then(|row| Some((row.value?, row.expires_at_ms))) else {
            overwrite.leave("incomplete");
            return Ok(());
        };
        if verdict.class().is_none() {
            overwrite.leave("changed");
            return Ok(());
        }
        let replacement = Replacement {
            document: Document { key: key.clone(), value, expires_at_ms },
            seen_etag: look.etag,
            seen_expires_at_ms: look.expires_at_ms,
            shape,
        };
        let token = self.lineage.repair_token();
        let outcomes = refill::overwrite(&self.jobs, overwrite.epoch, &token, &[replacement]).await?;
        match outcomes.first() {
            Some(Refill::Filled) => {
                *overwrite.written.entry(kind.name.clone()).or_default() += 1;
                advance.done += 1;
                self.queue.add(key, kind, Instant::now(), None, 0);
            }
            Some(Refill::Expired) => overwrite.leave("expired"),
            Some(Refill::Marked | Refill::Changed | Refill::Present) | None => overwrite.leave("changed"),
        }
        Ok(())
    }
}

/// Where it goes on after the count.
fn counted(overwrite: &Overwrite) -> Result<At, TaskError> {
    match overwrite.told {
        Told::Nothing => Ok(At::End),
        Told::Records(told) if told == overwrite.counted => Ok(At::Write(0, Vec::new())),
        Told::Records(told) => Err(TaskError::Unmet(format!(
            "the dry run told of {told} records and there are {} now: nothing was overwritten; look at a new dry run",
            overwrite.counted
        ))),
    }
}
