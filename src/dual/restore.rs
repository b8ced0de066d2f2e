//! The restore: what a lost Redis held comes back from Postgres (rule L2), in the rule's order.
//!
//! The epoch rises first, so that nothing captured before can land any more. Then whatever is in Redis already, unmarked and
//! older than its row, is listed as a ghost and marked; then every live row whose key is absent and unmarked is refilled;
//! then clock and anchor are written in one step, and captures go on. A verification ends it.
//!
//! A little over 400 lines, as the order of the steps is the rule and is read as one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, try_join};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::dual::task::{Advance, Ahead, Effort, TaskError, behind, is_among, names_in, tables_of};
use crate::dual::verify::{Mode, Values, Verify};
use crate::dual::{Engine, gaps, lift, settle};
use crate::model::catalog::{Kind, Layout, Table};
use crate::model::key::Key;
use crate::model::text;
use crate::model::value::Value;
use crate::stores::postgres::pages::{self, LiveRow, Range};
use crate::stores::postgres::{Postgres, ghosts, lineage as postgres_lineage};
use crate::stores::redis::capture::{CAPTURE_BYTES_MAX, CAPTURE_RECORDS_MAX, Shape};
use crate::stores::redis::fence::{self, Standing};
use crate::stores::redis::lineage as redis_lineage;
use crate::stores::redis::refill::{self, Document, Part, Refill};
use crate::telemetry::labels::GapCause;

/// Entries of a log in one part.
const PART_ENTRIES: i64 = 500;
/// Refills of documents that Redis is sent at once: one is made while the other runs.
const REFILLS_AT_ONCE: usize = 3;

/// A restore under way.
pub struct Restore {
    kinds: Vec<Arc<Kind>>,
    tables: Vec<Table>,
    place: Place,
    ahead: Option<Ahead<LiveRow>>,
    verify: Option<Box<Verify>>,
}

/// Where a restore goes on, and what it has counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Place {
    /// The Redis that is filled: another one begins anew.
    run_id: String,
    /// The epoch that was raised for it.
    epoch: i64,
    /// Redis' clock at the beginning; 0 if it had none.
    clock: i64,
    at: At,
    filled: BTreeMap<String, u64>,
    expired: u64,
    /// Records that were written meanwhile, and are listed with the values that they had.
    ghosts: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum At {
    /// Behind this cursor of Redis' keys.
    Ghosts(String),
    /// Behind this hash among the live rows of a table, by its place in the list.
    Refill(usize, Vec<u8>),
    Anchor,
    Verify,
    End,
}

impl Restore {
    /// The kinds that it is about.
    #[must_use]
    pub fn kinds(&self) -> &[Arc<Kind>] {
        &self.kinds
    }

    /// Where it goes on.
    #[must_use]
    pub fn place(&self) -> Option<Json> {
        serde_json::to_value(&self.place).ok()
    }

    /// What it did.
    #[must_use]
    pub fn report(&self) -> Json {
        json!({
            "restored": self.place.filled,
            "expired": self.place.expired,
            "ghosts": self.place.ghosts,
            "verify": self.verify.as_ref().map(|verify| verify.report()),
            "differences": self.verify.as_ref().and_then(|verify| verify.report().get("differences").cloned()),
        })
    }
}

impl Engine {
    /// Begins a restore, or goes on at `place`.
    ///
    /// # Errors
    /// When Redis was not lost, or a store fails.
    pub async fn restore_begin(&self, kinds: Vec<Arc<Kind>>, place: Option<&Json>) -> Result<Restore, TaskError> {
        let Some(postgres) = &self.postgres else { return Err(no_postgres()) };
        let tables = tables_of(&kinds);
        let run_id = self.jobs.server().await?.run_id;
        let epoch = postgres_lineage::epoch(postgres).await?;
        let known = place.and_then(|place| serde_json::from_value::<Place>(place.clone()).ok());
        if let Some(mut place) = known.filter(|place| place.run_id == run_id && place.epoch == epoch) {
            // The anchor may be written though nobody wrote down that it is.
            if redis_lineage::read(&self.jobs).await?.0.is_some() {
                place.at = At::Verify;
            }
            return Ok(Restore { kinds, tables, place, ahead: None, verify: None });
        }
        if redis_lineage::read(&self.jobs).await?.0.is_some() {
            let reason = "redis has its anchor, so it was not lost, and nothing is restored over what it holds";
            return Err(TaskError::Unmet(reason.to_owned()));
        }
        let epoch = epoch + 1;
        postgres_lineage::raise_epoch(postgres, epoch).await?;
        let clock = redis_lineage::clock(&self.jobs).await?;
        let place = Place {
            run_id,
            epoch,
            clock,
            at: At::Ghosts("0".to_owned()),
            filled: BTreeMap::new(),
            expired: 0,
            ghosts: 0,
        };
        Ok(Restore { kinds, tables, place, ahead: None, verify: None })
    }

    /// Takes a restore one step further.
    ///
    /// # Errors
    /// When a store fails, and then the step may be repeated; or for good.
    pub async fn restore_step(&self, restore: &mut Restore, effort: Effort) -> Result<Advance, TaskError> {
        let Some(postgres) = &self.postgres else { return Err(no_postgres()) };
        let (advance, next) = match restore.place.at.clone() {
            At::Ghosts(cursor) => self.restore_ghosts(postgres, restore, &cursor, effort).await?,
            At::Refill(at, after) => self.restore_page(postgres, restore, (at, &after), effort).await?,
            At::Anchor => {
                self.write_anchor(postgres, &restore.place).await?;
                (Advance::default(), At::Verify)
            }
            At::Verify => {
                let verify = match restore.verify.take() {
                    Some(verify) => verify,
                    None => Box::new(
                        self.verify_kinds(restore.kinds.clone(), BTreeMap::new(), Mode::Digests, Values::Hidden)
                            .await?,
                    ),
                };
                let verify = restore.verify.insert(verify);
                let advance = self.verify_step(verify, effort).await?;
                (advance, if advance.is_end { At::End } else { At::Verify })
            }
            At::End => (Advance::default(), At::End),
        };
        restore.place.at = next;
        Ok(Advance { is_end: matches!(restore.place.at, At::End), ..advance })
    }

    async fn page(
        &self,
        postgres: &Postgres,
        restore: &Restore,
        (at, after): (usize, &[u8]),
        effort: Effort,
    ) -> Result<Vec<LiveRow>, TaskError> {
        let Some(table) = restore.tables.get(at).copied() else { return Ok(Vec::new()) };
        let kinds = names_in(&restore.kinds, table);
        let (fence, _) = fence::fence(&self.jobs, &[]).await?;
        let (time_ms, limit) = (fence.time_us / 1000, i64::try_from(effort.keys).unwrap_or(i64::MAX));
        let range = Range { table, kinds: &kinds, after, time_ms, limit };
        Ok(pages::live(postgres, &range).await?)
    }

    /// What is in Redis already, without a mark, and older than its row: listed with the row's value, then marked.
    async fn restore_ghosts(
        &self,
        postgres: &Postgres,
        restore: &mut Restore,
        cursor: &str,
        effort: Effort,
    ) -> Result<(Advance, At), TaskError> {
        let (next, keys) = self.scan(cursor, effort.keys).await?;
        let Place { run_id, epoch, clock, .. } = &restore.place;
        let is_wanted = |key: &Key| !key.is_control() && is_among(&restore.kinds, self.catalog.kind_of(key.as_bytes()));
        let found: Vec<Key> = keys.iter().filter(|key| is_wanted(key)).cloned().collect();
        if !found.is_empty() {
            let (fence, standings) = fence::fence(&self.jobs, &found).await?;
            let is_unmarked = |standing: &Standing| standing.is_present && !standing.is_pending;
            let unmarked = found.into_iter().zip(standings).filter(|(_, standing)| is_unmarked(standing));
            let mut ghosts = Vec::new();
            for (table, keys) in self.by_table(unmarked.map(|(key, _)| key)) {
                ghosts.extend(pages::keys_above(postgres, table, &keys, *clock, fence.time_us / 1000).await?);
            }
            let listed = self.list_ghosts(postgres, *epoch, &ghosts).await?;
            lift::mark(&self.jobs, &self.catalog, run_id, &self.lineage.repair_token(), &ghosts).await?;
            restore.place.ghosts += listed;
        }
        let advance = Advance { seen: u64::try_from(keys.len()).unwrap_or(u64::MAX), ..Advance::default() };
        if next != "0" {
            return Ok((advance, At::Ghosts(next)));
        }
        let Place { run_id, clock, .. } = &restore.place;
        let swept = ghosts::swept(postgres, *clock).await?;
        if !swept.is_empty() {
            lift::mark_without_rows(&self.jobs, &self.catalog, run_id, &self.lineage.repair_token(), &swept).await?;
        }
        Ok((Advance { is_turn: true, ..advance }, At::Refill(0, Vec::new())))
    }

    fn by_table(&self, keys: impl Iterator<Item = Key>) -> BTreeMap<Table, Vec<Key>> {
        let mut by_table: BTreeMap<Table, Vec<Key>> = BTreeMap::new();
        for key in keys {
            by_table.entry(self.catalog.kind_of(key.as_bytes()).table).or_default().push(key);
        }
        by_table
    }

    /// Lists these records with the values that their rows have. Answers how many were not listed before.
    async fn list_ghosts(&self, postgres: &Postgres, epoch: i64, keys: &[Key]) -> Result<u64, TaskError> {
        let mut listed = 0;
        for (table, keys) in self.by_table(keys.iter().cloned()) {
            listed += ghosts::list_keys(postgres, epoch, table, &keys).await?;
        }
        Ok(u64::try_from(listed).unwrap_or(u64::MAX))
    }

    /// Refills a page, while the next one is read.
    async fn restore_page(
        &self,
        postgres: &Postgres,
        restore: &mut Restore,
        (at, after): (usize, &[u8]),
        effort: Effort,
    ) -> Result<(Advance, At), TaskError> {
        let rows = match restore.ahead.take().and_then(|ahead| ahead.from(at, after)) {
            Some(rows) => rows,
            None => self.page(postgres, restore, (at, after), effort).await?,
        };
        let next = behind(restore.tables.len(), at, rows.last().map(|row| row.key().hash()));
        let reading = async {
            let Some((table, after)) = &next else { return Ok(None) };
            Ok(Some(Ahead::new(*table, after, self.page(postgres, restore, (*table, after), effort).await?)))
        };
        let is_document = restore.tables.get(at).is_some_and(|table| table.layout() == Layout::Document);
        let refilling = async {
            if is_document {
                return self.refill_documents(&restore.place.run_id, &rows).await;
            }
            let (mut outcomes, mut bytes) = (Vec::with_capacity(rows.len()), 0);
            for row in &rows {
                outcomes.push(self.refill_parts(postgres, &restore.place.run_id, row, &mut bytes).await?);
            }
            Ok((outcomes, bytes))
        };
        let ((outcomes, bytes), ahead) = try_join!(refilling, reading)?;
        restore.ahead = ahead;
        let seen = u64::try_from(rows.len()).unwrap_or(u64::MAX);
        let mut advance = Advance { seen, bytes: u64::try_from(bytes).unwrap_or(0), ..Advance::default() };
        let mut overtaken = Vec::new();
        for (row, outcome) in rows.iter().zip(outcomes) {
            match outcome {
                Refill::Filled => {
                    advance.done += 1;
                    *restore.place.filled.entry(row.kind.clone()).or_default() += 1;
                }
                Refill::Expired => restore.place.expired += 1,
                // Filled by an earlier try, or written by somebody past every sidecar.
                Refill::Present | Refill::Changed => {}
                Refill::Marked => overtaken.push(row.key()),
            }
        }
        restore.place.ghosts += self.list_ghosts(postgres, restore.place.epoch, &overtaken).await?;
        Ok((advance, next.map_or(At::Anchor, |(table, after)| At::Refill(table, after))))
    }

    /// What became of each of these rows, and how many bytes of documents went.
    async fn refill_documents(&self, run_id: &str, rows: &[LiveRow]) -> Result<(Vec<Refill>, usize), TaskError> {
        let calls: Vec<_> = chunks(rows).into_iter().map(|rows| self.refill_chunk(run_id, rows)).collect();
        let outcomes: Vec<Vec<Refill>> =
            futures_util::stream::iter(calls).buffered(REFILLS_AT_ONCE).try_collect().await?;
        Ok((outcomes.concat(), rows.iter().map(bytes_of).sum()))
    }

    async fn refill_chunk(&self, run_id: &str, rows: &[LiveRow]) -> Result<Vec<Refill>, TaskError> {
        // What has not the form of its type cannot go back; the verification at the end names it.
        let documents: Vec<Option<Document>> = rows.iter().map(document_of).collect();
        let is_there: Vec<bool> = documents.iter().map(Option::is_some).collect();
        let documents: Vec<Document> = documents.into_iter().flatten().collect();
        let mut filled = refill::documents(&self.jobs, run_id, &documents).await?.into_iter();
        let mut of = |is_there: bool| if is_there { filled.next() } else { None };
        Ok(is_there.into_iter().map(|is_there| of(is_there).unwrap_or(Refill::Present)).collect())
    }

    /// A collection or log, part by part beside its place, and into it at the end.
    async fn refill_parts(
        &self,
        postgres: &Postgres,
        run_id: &str,
        row: &LiveRow,
        bytes: &mut usize,
    ) -> Result<Refill, TaskError> {
        let key = row.key();
        let kind = self.catalog.kind_of(key.as_bytes());
        let shape = settle::shape(kind);
        let mut part = Part::First;
        let mut newest = None;
        if kind.layout == Layout::Log {
            let mut first = row.first_id.clone().unwrap_or_default();
            loop {
                let found = pages::log(postgres, &key, &first, "~", PART_ENTRIES).await?;
                let Some((last, _)) = found.entries.last() else { break };
                first = format!("{last}!");
                newest = Some(bare_id(last));
                let words: Vec<Bytes> = found.entries.iter().flat_map(|(id, doc)| words_of_entry(id, doc)).collect();
                *bytes += words.iter().map(Bytes::len).sum::<usize>();
                refill::part(&self.jobs, run_id, &key, push_command(shape), part, &words).await?;
                part = Part::Further;
            }
        } else {
            let (hashes, mut after) = ([key.hash()], (Vec::new(), Vec::new()));
            loop {
                let page = pages::elements(postgres, kind.table, &hashes, (&after.0, &after.1)).await?;
                let Some(last) = page.last() else { break };
                after = (last.key_hash.clone(), last.element_hash.clone());
                let words: Vec<Bytes> = page
                    .iter()
                    .flat_map(|element| words_of_element(&row.type_name, &element.element, element.doc.as_deref()))
                    .collect();
                *bytes += words.iter().map(Bytes::len).sum::<usize>();
                refill::part(&self.jobs, run_id, &key, add_command(&row.type_name), part, &words).await?;
                part = Part::Further;
            }
        }
        Ok(refill::end(&self.jobs, run_id, &key, row.expires_ms, newest.as_deref(), shape).await?)
    }

    /// The last step of L2: clock and anchor at once, above everything that either store has seen.
    async fn write_anchor(&self, postgres: &Postgres, place: &Place) -> Result<(), TaskError> {
        let identity = postgres_lineage::beat(postgres, 0).await?;
        let above = postgres_lineage::highest_version(postgres).await? + 1;
        gaps::record(postgres, &self.metrics, GapCause::Restored, place.clock, above).await?;
        let known =
            redis_lineage::Postgres { system: identity.system, timeline: identity.timeline, beat: identity.beat };
        if !redis_lineage::lift(&self.jobs, &place.run_id, place.epoch, above, &known).await? {
            return Err(TaskError::Overtaken);
        }
        self.lineage.doubt();
        Ok(())
    }
}

fn no_postgres() -> TaskError {
    TaskError::Unmet("postgres is switched off (ENABLE_POSTGRES=false)".to_owned())
}

fn bytes_of(row: &LiveRow) -> usize {
    row.doc.as_ref().map_or(0, String::len)
}

/// Rows in as many parts as there are scripts: of a bounded number and of bounded bytes.
fn chunks(rows: &[LiveRow]) -> Vec<&[LiveRow]> {
    let (mut rest, mut chunks) = (rows, Vec::new());
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |row: &&LiveRow| {
            let is_room = bytes < CAPTURE_BYTES_MAX;
            bytes += bytes_of(row);
            is_room
        };
        let count = rest.iter().take(CAPTURE_RECORDS_MAX).take_while(fits).count();
        let (chunk, others) = rest.split_at(count);
        chunks.push(chunk);
        rest = others;
    }
    chunks
}

fn document_of(row: &LiveRow) -> Option<Document> {
    let doc = serde_json::from_str(row.doc.as_ref()?).ok()?;
    let value = Value::from_doc(&row.type_name, &doc)?;
    Some(Document { key: row.key(), value, expires_at_ms: row.expires_ms })
}

fn push_command(shape: Shape) -> &'static str {
    use crate::model::command::effect::End;
    match shape {
        Shape::ListLog(End::Left) => "LPUSH",
        Shape::ListLog(End::Right) | Shape::Document | Shape::Collection => "RPUSH",
        Shape::StreamLog => "XADD",
    }
}

fn add_command(type_name: &str) -> &'static str {
    match type_name {
        "hash" => "HSET",
        "set" => "SADD",
        _ => "ZADD",
    }
}

fn words_of_element(type_name: &str, element: &str, doc: Option<&str>) -> Vec<Bytes> {
    let name = Bytes::from(text::decode(element));
    let doc: Option<Json> = doc.and_then(|doc| serde_json::from_str(doc).ok());
    let value = doc.as_ref().and_then(Json::as_str).map(|value| Bytes::from(text::decode(value))).unwrap_or_default();
    match type_name {
        "set" => vec![name],
        "hash" => vec![name, value],
        _ => vec![value, name],
    }
}

fn words_of_entry(id: &str, doc: &str) -> Vec<Bytes> {
    let decoded = |text: &str| Bytes::from(text::decode(text));
    match serde_json::from_str::<Json>(doc) {
        Ok(Json::String(entry)) => vec![decoded(&entry)],
        Ok(Json::Array(words)) => {
            let words: Vec<Bytes> = words.iter().filter_map(Json::as_str).map(decoded).collect();
            refill::entry(&bare_id(id).into(), &words)
        }
        Ok(_) | Err(_) => Vec::new(),
    }
}

/// An id without the zeros that make text order id order.
fn bare_id(id: &str) -> String {
    let bare = |part: &str| {
        let part = part.trim_start_matches('0');
        if part.is_empty() { "0".to_owned() } else { part.to_owned() }
    };
    id.split('-').map(bare).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_goes_back_as_redis_writes_it() {
        assert_eq!(bare_id("00000001700000000000-00000000000000000000"), "1700000000000-0");
        assert_eq!(bare_id("00000000000000000042"), "42");
    }
}
