//! What a backfill does with records: SCAN -> capture -> apply, and from Postgres' side a mark for every live row whose
//! record is absent. The job around it stands in `jobs`.
//!
//! Its place can be kept and gone back to, since the cursor of a scan means the same as long as the server process lives. A
//! little over 400 lines, as the captures of a page and what is done with each are read together.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, try_join};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use crate::dual::drain::{Drain, Pending, Settled, WHOLES_MAX};
use crate::dual::settle::{self, Due};
use crate::dual::task::{Advance, Ahead, Effort, TaskError, behind, is_among, names_in, tables_of};
use crate::dual::{Engine, whole};
use crate::model::catalog::{Kind, Table};
use crate::model::command::Command;
use crate::model::key::Key;
use crate::stores::postgres::apply::{Basis, STATEMENT_ROWS_MAX};
use crate::stores::postgres::pages;
use crate::stores::postgres::rows::Item;
use crate::stores::redis::capture::{self, CAPTURE_RECORDS_MAX, Captured, Found, Purpose, Stamp, Wanted};
use crate::stores::redis::marks::Ack;
use crate::stores::redis::{lease, marks};

/// Records that are captured and committed together: as many as one statement writes.
const PART_RECORDS: usize = STATEMENT_ROWS_MAX;
/// Parts under way: one is captured while the others are committed.
const PARTS_AT_ONCE: usize = 3;

/// Whether a backfill writes, or only counts what it would write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Records go to Postgres.
    Write,
    /// Records are counted.
    Count,
}

/// A backfill under way.
pub struct Backfill {
    kinds: Vec<Arc<Kind>>,
    tables: Vec<Table>,
    id: String,
    run: Run,
    place: Place,
    ahead: Option<Ahead<Key>>,
}

/// Where a backfill goes on, and what it has counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Place {
    /// The server whose keys are walked: the cursor means nothing to another one.
    run_id: String,
    /// The epoch in which it began: in another one all of it is owed again.
    epoch: i64,
    at: At,
    /// Kind and records.
    records: BTreeMap<String, u64>,
    /// Type of a module and records: they cannot be mirrored.
    modules: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum At {
    /// Behind this cursor of Redis' keys.
    Keys(String),
    /// Behind this hash among the rows of a table, by its place in the list.
    Table(usize, Vec<u8>),
    /// Everything is committed.
    End,
}

impl Backfill {
    /// The kinds that it is about.
    #[must_use]
    pub fn kinds(&self) -> &[Arc<Kind>] {
        &self.kinds
    }

    fn names(&self) -> Vec<String> {
        self.kinds.iter().map(|kind| kind.name.clone()).collect()
    }

    /// Where it goes on.
    #[must_use]
    pub fn place(&self) -> Option<Json> {
        serde_json::to_value(&self.place).ok()
    }

    /// What it counted.
    #[must_use]
    pub fn report(&self) -> Json {
        json!({
            "dry_run": self.run == Run::Count,
            "records": self.place.records,
            "modules": self.place.modules,
        })
    }
}

impl Engine {
    /// Begins a backfill, or goes on at `place`: waits until every sidecar marks the writes of its kinds (S4).
    ///
    /// # Errors
    /// When somebody has not confirmed, or Redis cannot be reached or has no anchor.
    pub async fn backfill_begin(
        &self,
        kinds: Vec<Arc<Kind>>,
        id: &str,
        run: Run,
        place: Option<&Json>,
    ) -> Result<Backfill, TaskError> {
        let version = self.keeper.view().version;
        if run == Run::Write {
            self.barrier(version, self.barrier_wait).await?;
        }
        let (run_id, epoch) = self.lineage_now().await?;
        let tables = tables_of(&kinds);
        let known = place.and_then(|place| serde_json::from_value::<Place>(place.clone()).ok());
        if let Some(place) = known.filter(|place| place.run_id == run_id && place.epoch == epoch) {
            return Ok(Backfill { kinds, tables, id: id.to_owned(), run, place, ahead: None });
        }
        let at = At::Keys("0".to_owned());
        let place = Place { run_id, epoch, at, records: BTreeMap::new(), modules: BTreeMap::new() };
        let backfill = Backfill { kinds, tables, id: id.to_owned(), run, place, ahead: None };
        if run == Run::Write {
            lease::begin_backfill(&self.jobs, &backfill.names(), id).await?;
        }
        Ok(backfill)
    }

    /// Takes a backfill one step further.
    ///
    /// # Errors
    /// When a store fails, and then the step may be repeated; or for good.
    pub async fn backfill_step(&self, backfill: &mut Backfill, effort: Effort) -> Result<Advance, TaskError> {
        let (advance, next) = match backfill.place.at.clone() {
            At::Keys(cursor) => self.step_keys(backfill, &cursor, effort).await?,
            At::Table(table, after) => self.step_rows(backfill, (table, &after), effort).await?,
            At::End => (Advance::default(), At::End),
        };
        let is_end = matches!(next, At::End);
        if is_end && backfill.run == Run::Write {
            self.backfill_end(backfill).await?;
        }
        backfill.place.at = next;
        Ok(Advance { is_end, ..advance })
    }

    /// Pages of keys, one after the other from Redis, and their records to Postgres in parts.
    async fn step_keys(
        &self,
        backfill: &mut Backfill,
        cursor: &str,
        effort: Effort,
    ) -> Result<(Advance, At), TaskError> {
        let (mut cursor, mut wanted, mut seen) = (cursor.to_owned(), Vec::new(), 0);
        for _ in 0..effort.pages {
            let (next, keys) = self.scan(&cursor, effort.keys).await?;
            seen += keys.len();
            let of_kind =
                |key: &Key| Some(self.catalog.kind_of(key.as_bytes())).filter(|kind| is_among(&backfill.kinds, kind));
            let ours = keys.into_iter().filter(|key| !key.is_control());
            wanted.extend(ours.filter_map(|key| Some((Arc::clone(of_kind(&key)?), key))));
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        let seen = u64::try_from(seen).unwrap_or(u64::MAX);
        let mut advance = Advance { seen, ..Advance::default() };
        match backfill.run {
            Run::Count => self.count(&mut backfill.place, wanted).await?,
            Run::Write => {
                let parts: Vec<_> = wanted.chunks(PART_RECORDS).map(|part| self.bring(part.to_vec())).collect();
                let brought: Vec<_> = futures_util::stream::iter(parts).buffer_unordered(PARTS_AT_ONCE).collect().await;
                for part in brought {
                    let part = part?;
                    advance.done += part.committed;
                    advance.bytes += part.bytes;
                    add(&mut backfill.place.records, part.records);
                    add(&mut backfill.place.modules, self.types_of(&part.modules).await?);
                }
            }
        }
        if cursor != "0" {
            return Ok((advance, At::Keys(cursor)));
        }
        // What is only counted has no other side.
        let next = if backfill.run == Run::Count { At::End } else { At::Table(0, Vec::new()) };
        Ok((advance, next))
    }

    async fn count(&self, place: &mut Place, wanted: Vec<(Arc<Kind>, Key)>) -> Result<(), TaskError> {
        let keys: Vec<Key> = wanted.iter().map(|(_, key)| key.clone()).collect();
        for (kind, _) in &wanted {
            *place.records.entry(kind.name.clone()).or_default() += 1;
        }
        add(&mut place.modules, self.types_of(&keys).await?);
        Ok(())
    }

    /// The types of modules among these keys, and how many there are of each.
    async fn types_of(&self, keys: &[Key]) -> Result<BTreeMap<String, u64>, TaskError> {
        let mut modules = BTreeMap::new();
        if keys.is_empty() {
            return Ok(modules);
        }
        let ask = |key: &Key| Command::new([Bytes::from_static(b"TYPE"), Bytes::copy_from_slice(key.as_bytes())]);
        for reply in self.jobs.pipeline(&keys.iter().map(ask).collect::<Vec<_>>()).await? {
            if let crate::model::reply::Reply::Status(name) = reply
                && !matches!(name.as_str(), "none" | "string" | "hash" | "list" | "set" | "zset" | "stream")
            {
                *modules.entry(name).or_default() += 1;
            }
        }
        Ok(modules)
    }

    /// Brings these records to Postgres, asking again for those that a call had no room for.
    pub(super) async fn bring(&self, page: Vec<(Arc<Kind>, Key)>) -> Result<Brought, TaskError> {
        let mut brought = Brought::default();
        let Some(drain) = &self.drain else { return Ok(brought) };
        let first = |(kind, key): (Arc<Kind>, Key)| {
            let shape = settle::shape(&kind);
            (kind, (key, shape, Bytes::new()))
        };
        let mut wanted: Vec<(Arc<Kind>, Wanted)> = page.into_iter().map(first).collect();
        while !wanted.is_empty() {
            let mut round = self.capture_round(drain, &wanted).await?;
            brought.modules.append(&mut round.modules);
            for (basis, batch) in round.batches.into_values() {
                for pending in &batch {
                    brought.note(&pending.kind, bytes_of(&pending.item));
                }
                let settled = drain.commit(basis, batch).await?;
                let committed = settled.iter().filter(|(_, settled)| *settled == Settled::Committed).count();
                brought.committed += u64::try_from(committed).unwrap_or(u64::MAX);
            }
            let mut wholes = futures_util::stream::iter(round.wholes)
                .map(async |(kind, key)| (whole::bring(drain, &kind, &key, Purpose::Backfill).await, kind))
                .buffer_unordered(WHOLES_MAX);
            while let Some((settled, kind)) = wholes.next().await {
                brought.note(&kind, 0);
                brought.committed += u64::from(settled? == Some(Settled::Committed));
            }
            wanted = round.again;
        }
        for (kind, records) in &brought.records {
            self.metrics.backfilled(kind, *records);
        }
        Ok(brought)
    }

    async fn capture_round(&self, drain: &Drain, wanted: &[(Arc<Kind>, Wanted)]) -> Result<Round, TaskError> {
        let mut asked = wanted.iter().map(|(kind, (_, _, after))| (Arc::clone(kind), after.clone()));
        let mut round = Round::default();
        // One behind the answer to the other: Redis does all that one client has sent it before it turns to the next one.
        let _turn = self.capturing.lock().await;
        for chunk in wanted.chunks(CAPTURE_RECORDS_MAX) {
            let chunk: Vec<Wanted> = chunk.iter().map(|(_, wanted)| wanted.clone()).collect();
            let (stamp, records) = capture::capture(&self.jobs, &chunk, Purpose::Backfill).await?;
            for (record, (kind, after)) in records.into_iter().zip(asked.by_ref()) {
                match &record.found {
                    // A delete has its own mark (C2).
                    Found::Absent => continue,
                    Found::Module => round.modules.push(record.key.clone()),
                    Found::Clean
                    | Found::Later
                    | Found::Whole
                    | Found::Large
                    | Found::Value { .. }
                    | Found::Elements { .. }
                    | Found::Log { .. } => {}
                }
                match sorted(&kind, &stamp, record, after) {
                    Sorted::Nothing => {}
                    Sorted::Dead(key, token, reason) => drain.bury(&kind, &key, &token, reason).await,
                    Sorted::Again(wanted) => round.again.push((kind, wanted)),
                    Sorted::Whole(key) => round.wholes.push((kind, key)),
                    Sorted::Write(pending, more) => {
                        let basis = Basis { epoch: stamp.epoch, beat: stamp.beat };
                        round.again.extend(more.map(|wanted| (Arc::clone(&kind), wanted)));
                        let batch = round.batches.entry(stamp.epoch).or_insert((basis, Vec::new()));
                        batch.0.beat = batch.0.beat.max(basis.beat);
                        batch.1.push(Pending { kind, ..*pending });
                    }
                }
            }
        }
        Ok(round)
    }

    /// The other direction: rows whose records are absent in Redis are marked, so that they are looked at. The next page is
    /// read meanwhile.
    async fn step_rows(
        &self,
        backfill: &mut Backfill,
        (at, after): (usize, &[u8]),
        effort: Effort,
    ) -> Result<(Advance, At), TaskError> {
        let keys = match backfill.ahead.take().and_then(|ahead| ahead.from(at, after)) {
            Some(keys) => keys,
            None => self.standing_keys(backfill, at, after, effort).await?,
        };
        let next = behind(backfill.tables.len(), at, keys.last().map(Key::hash));
        let reading = async {
            let Some((table, after)) = &next else { return Ok(None) };
            Ok(Some(Ahead::new(*table, after, self.standing_keys(backfill, *table, after, effort).await?)))
        };
        let token = self.lineage.repair_token();
        let marking = async { Ok::<_, TaskError>(marks::repair(&self.jobs, &token, &keys, true).await?) };
        let (marked, ahead) = try_join!(marking, reading)?;
        backfill.ahead = ahead;
        if marked > 0 {
            for key in &keys {
                self.queue.add(key, self.catalog.kind_of(key.as_bytes()), Instant::now(), None, 0);
            }
        }
        let advance = Advance { seen: u64::try_from(keys.len()).unwrap_or(u64::MAX), ..Advance::default() };
        Ok((advance, next.map_or(At::End, |(table, after)| At::Table(table, after))))
    }

    async fn standing_keys(
        &self,
        backfill: &Backfill,
        at: usize,
        after: &[u8],
        effort: Effort,
    ) -> Result<Vec<Key>, TaskError> {
        let (Some(postgres), Some(table)) = (&self.postgres, backfill.tables.get(at).copied()) else {
            return Ok(Vec::new());
        };
        let limit = i64::try_from(effort.keys).unwrap_or(i64::MAX);
        Ok(pages::standing_keys(postgres, table, &names_in(&backfill.kinds, table), after, limit).await?)
    }

    /// Ends a backfill: from now on its kinds may go live.
    async fn backfill_end(&self, backfill: &Backfill) -> Result<(), TaskError> {
        let names = backfill.names();
        let noted = lease::note_backfilled(&self.jobs, &names, &backfill.id, backfill.place.epoch).await?;
        self.keeper.renew(&self.looks).await?;
        self.keeper.wake();
        if usize::try_from(noted) == Ok(names.len()) {
            return Ok(());
        }
        let is_same = self.lineage_now().await?.1 == backfill.place.epoch;
        Err(if is_same { TaskError::Unmarked } else { TaskError::Overtaken })
    }
}

/// What became of a page of keys.
#[derive(Default)]
pub(super) struct Brought {
    pub(super) committed: u64,
    bytes: u64,
    records: BTreeMap<String, u64>,
    modules: Vec<Key>,
}

impl Brought {
    fn note(&mut self, kind: &Kind, bytes: u64) {
        *self.records.entry(kind.name.clone()).or_default() += 1;
        self.bytes += bytes;
    }
}

/// What one round of captures found, sorted by what is to be done with it.
#[derive(Default)]
struct Round {
    /// By epoch.
    batches: BTreeMap<i64, (Basis, Vec<Pending>)>,
    again: Vec<(Arc<Kind>, Wanted)>,
    wholes: Vec<(Arc<Kind>, Key)>,
    modules: Vec<Key>,
}

fn add(counts: &mut BTreeMap<String, u64>, more: BTreeMap<String, u64>) {
    for (name, count) in more {
        *counts.entry(name).or_default() += count;
    }
}

fn bytes_of(item: &Item) -> u64 {
    let rows = |rows: &[crate::stores::postgres::rows::ElementRow]| {
        rows.iter().map(|row| row.element.len() + row.doc.as_ref().map_or(0, String::len)).sum::<usize>()
    };
    let bytes = match item {
        Item::Record(_, row) => row.key.as_bytes().len() + row.doc.as_ref().map_or(0, String::len),
        Item::Elements(_, elements) => rows(elements),
        Item::Log { entries, .. } => rows(entries),
        Item::Absent(..) => 0,
    };
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// What a backfill does with a captured record.
enum Sorted {
    Nothing,
    Dead(Key, capture::Token, &'static str),
    Again(Wanted),
    Whole(Key),
    Write(Box<Pending>, Option<Wanted>),
}

fn sorted(kind: &Arc<Kind>, stamp: &Stamp, record: Captured, after: Bytes) -> Sorted {
    let (key, token) = (record.key.clone(), record.token.clone());
    let shape = settle::shape(kind);
    let onward = match &record.found {
        Found::Log { log, .. } => log.has_more.then(|| (key.clone(), shape, log.reached.clone())),
        Found::Clean
        | Found::Later
        | Found::Absent
        | Found::Whole
        | Found::Large
        | Found::Module
        | Found::Value { .. }
        | Found::Elements { .. } => None,
    };
    match settle::due(kind, stamp, record) {
        Due::Nothing => Sorted::Nothing,
        Due::Dead(reason) => Sorted::Dead(key, token, reason),
        Due::Later => Sorted::Again((key, shape, after)),
        Due::Whole => Sorted::Whole(key),
        Due::Write(item, ack) => {
            // Of a stream that is not read to its end nothing is noted: what was added before is not counted yet.
            let ack = match (ack, &onward) {
                (Ack::Log { token, evidence, is_complete, touched, .. }, Some(_)) => {
                    Ack::Log { token, reached: Bytes::new(), evidence, is_complete, touched }
                }
                (ack, _) => ack,
            };
            Sorted::Write(Box::new(Pending { key, kind: Arc::clone(kind), item: *item, ack }), onward)
        }
    }
}
