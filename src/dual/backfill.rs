//! What a backfill does with records: SCAN -> capture -> apply, and from Postgres' side a mark for every live row whose
//! record is absent. The job around it stands in `jobs`.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::Instant;

use crate::dual::drain::{DrainError, Pending, Settled, WHOLES_MAX};
use crate::dual::flags::ChangeError;
use crate::dual::settle::{self, Due};
use crate::dual::{Engine, whole};
use crate::model::catalog::Kind;
use crate::model::command::Command;
use crate::model::key::Key;
use crate::stores::postgres::apply::Basis;
use crate::stores::postgres::read;
use crate::stores::redis::capture::{self, CAPTURE_RECORDS_MAX, Captured, Found, Purpose, Stamp, Wanted};
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::marks::Ack;
use crate::stores::redis::{lease, marks};

/// Keys that one step of the scan asks for.
const SCAN_COUNT: usize = 1_000;
/// Rows in one page from Postgres' side.
const PAGE_ROWS: i64 = 500;

/// Why a backfill ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// It may not run now.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// A store failed.
    #[error("{0}")]
    Store(String),
    /// Marking of a kind ended, or the epoch rose, while it ran.
    #[error("marking ended or a store went back while it ran: start it again")]
    Overtaken,
}

impl From<DrainError> for BackfillError {
    fn from(error: DrainError) -> Self {
        Self::Store(error.to_string())
    }
}

impl From<RedisError> for BackfillError {
    fn from(error: RedisError) -> Self {
        Self::Store(error.to_string())
    }
}

/// A backfill under way: its kinds and the epoch in which it began.
pub struct Backfill {
    kinds: Vec<Arc<Kind>>,
    id: String,
    epoch: i64,
}

impl Backfill {
    fn has(&self, kind: &Kind) -> bool {
        self.kinds.iter().any(|wanted| wanted.index == kind.index)
    }

    fn names(&self) -> Vec<String> {
        self.kinds.iter().map(|kind| kind.name.clone()).collect()
    }
}

impl Engine {
    /// The kinds that a wish for a backfill means; `*` is all mirrored ones. All of them must be marked by now.
    ///
    /// # Errors
    /// Which kinds there are not, or are not marked.
    pub fn backfill_kinds(&self, names: &[String]) -> Result<Vec<Arc<Kind>>, ChangeError> {
        let view = self.keeper.view();
        let is_all = names.iter().any(|name| name == crate::dual::view::DEFAULT);
        let kinds: Vec<Arc<Kind>> = if is_all {
            let marked = |kind: &&Arc<Kind>| kind.is_mirrored() && view.flag(kind).stage.marks();
            self.catalog.kinds().iter().filter(marked).cloned().collect()
        } else {
            let named = names.iter().map(|name| self.catalog.by_name(name).cloned().ok_or(ChangeError::UnknownKind));
            named.collect::<Result<_, _>>()?
        };
        let unmarked = kinds.iter().filter(|kind| !kind.is_mirrored() || !view.flag(kind).stage.marks());
        let mut unmet: Vec<String> = unmarked
            .map(|kind| format!("{}: its writes are not marked; raise it to dualwrite first", kind.name))
            .collect();
        if self.drain.is_none() {
            unmet.push("postgres is switched off (ENABLE_POSTGRES=false)".to_owned());
        }
        if kinds.is_empty() {
            unmet.push("no kind is marked; raise one to dualwrite first".to_owned());
        }
        if unmet.is_empty() { Ok(kinds) } else { Err(ChangeError::Refused { unmet }) }
    }

    /// Begins a backfill: waits until every sidecar marks the writes of its kinds (S4).
    ///
    /// # Errors
    /// When somebody has not confirmed, or Redis cannot be reached or has no anchor.
    pub async fn backfill_begin(&self, kinds: Vec<Arc<Kind>>, id: &str) -> Result<Backfill, BackfillError> {
        let version = self.keeper.view().version;
        self.barrier(version, self.barrier_wait).await?;
        let epoch = self.epoch().await?.ok_or_else(|| BackfillError::Store("redis has no anchor".to_owned()))?;
        let backfill = Backfill { kinds, id: id.to_owned(), epoch };
        lease::begin_backfill(&self.looks, &backfill.names(), id).await?;
        Ok(backfill)
    }

    /// One step of the scan: brings the records behind `cursor` to Postgres. Answers the next cursor (`0` at the end), how
    /// many keys were seen and how many records committed.
    ///
    /// # Errors
    /// When a store fails; the step may be repeated.
    pub async fn backfill_step(&self, backfill: &Backfill, cursor: &str) -> Result<(String, u64, u64), BackfillError> {
        let count = SCAN_COUNT.to_string();
        let scan = Command::new(["SCAN", cursor, "COUNT", &count].map(str::to_owned));
        let (next, keys) = marks::scanned(self.looks.command(scan).await?)?;
        let seen = keys.len();
        let wanted: Vec<(Arc<Kind>, Wanted)> = keys
            .into_iter()
            .filter(|key| !key.is_control())
            .filter_map(|key| {
                let kind = self.catalog.kind_of(key.as_bytes());
                let wanted = (key.clone(), settle::shape(kind), Bytes::new());
                backfill.has(kind).then(|| (Arc::clone(kind), wanted))
            })
            .collect();
        let committed = self.bring(wanted).await?;
        Ok((next, u64::try_from(seen).unwrap_or(u64::MAX), committed))
    }

    async fn bring(&self, mut wanted: Vec<(Arc<Kind>, Wanted)>) -> Result<u64, BackfillError> {
        let Some(drain) = &self.drain else { return Ok(0) };
        let mut committed = 0;
        while !wanted.is_empty() {
            let chunks: Vec<Vec<Wanted>> = wanted
                .chunks(CAPTURE_RECORDS_MAX)
                .map(|chunk| chunk.iter().map(|(_, wanted)| wanted.clone()).collect())
                .collect();
            let captures = chunks.iter().map(|chunk| capture::capture(&drain.redis, chunk, Purpose::Backfill));
            let mut asked = wanted.iter().map(|(kind, (_, _, after))| (Arc::clone(kind), after.clone()));
            let (mut batches, mut again, mut wholes) = (std::collections::BTreeMap::new(), Vec::new(), Vec::new());
            for captured in futures_util::future::join_all(captures).await {
                let (stamp, records) = captured?;
                for (record, (kind, after)) in records.into_iter().zip(asked.by_ref()) {
                    if matches!(record.found, Found::Absent) {
                        // A delete has its own mark (C2).
                        continue;
                    }
                    match sorted(&kind, &stamp, record, after) {
                        Sorted::Nothing => {}
                        Sorted::Dead(key, token, reason) => drain.bury(&kind, &key, &token, reason).await,
                        Sorted::Again(wanted) => again.push((kind, wanted)),
                        Sorted::Whole(key) => wholes.push((kind, key)),
                        Sorted::Write(pending, more) => {
                            let basis = Basis { epoch: stamp.epoch, beat: stamp.beat };
                            again.extend(more.map(|wanted| (Arc::clone(&kind), wanted)));
                            let batch = batches.entry(stamp.epoch).or_insert((basis, Vec::new()));
                            batch.0.beat = batch.0.beat.max(basis.beat);
                            batch.1.push(Pending { kind, ..*pending });
                        }
                    }
                }
            }
            for (basis, batch) in batches.into_values() {
                committed += self.commit_batch(drain, basis, batch).await?;
            }
            let mut brought = futures_util::stream::iter(wholes)
                .map(async |(kind, key)| (whole::bring(drain, &kind, &key, Purpose::Backfill).await, kind))
                .buffer_unordered(WHOLES_MAX);
            while let Some((settled, kind)) = brought.next().await {
                self.metrics.backfilled(&kind.name, 1);
                committed += u64::from(settled? == Some(Settled::Committed));
            }
            wanted = again;
        }
        Ok(committed)
    }

    async fn commit_batch(
        &self,
        drain: &crate::dual::drain::Drain,
        basis: Basis,
        batch: Vec<Pending>,
    ) -> Result<u64, BackfillError> {
        for pending in &batch {
            self.metrics.backfilled(&pending.kind.name, 1);
        }
        let settled = drain.commit(basis, batch).await?;
        let committed = settled.iter().filter(|(_, settled)| *settled == Settled::Committed).count();
        Ok(u64::try_from(committed).unwrap_or(u64::MAX))
    }

    /// The other direction: live rows of a kind whose records are absent in Redis are marked, so that they are looked at.
    /// Answers the last key of the page, or `None` at the end.
    ///
    /// # Errors
    /// When a store fails; the step may be repeated.
    pub async fn backfill_reverse(
        &self,
        backfill: &Backfill,
        kind: usize,
        after: &[u8],
    ) -> Result<Option<Vec<u8>>, BackfillError> {
        let (Some(postgres), Some(kind)) = (&self.postgres, backfill.kinds.get(kind)) else { return Ok(None) };
        let keys = read::live_keys(postgres, kind, after, PAGE_ROWS)
            .await
            .map_err(|error| BackfillError::Store(error.to_string()))?;
        let token = self.shared.token();
        if marks::repair(&self.looks, &token, &keys, true).await? > 0 {
            for key in &keys {
                self.queue.add(key, kind, Instant::now(), None, 0);
            }
        }
        Ok(keys.last().map(Key::hash))
    }

    /// Ends a backfill: from now on its kinds may go live.
    ///
    /// # Errors
    /// When marking ended or the epoch rose meanwhile.
    pub async fn backfill_end(&self, backfill: &Backfill) -> Result<(), BackfillError> {
        let names = backfill.names();
        let noted = lease::note_backfilled(&self.looks, &names, &backfill.id, backfill.epoch).await?;
        self.keeper.renew(&self.looks).await?;
        self.keeper.wake();
        if usize::try_from(noted) == Ok(names.len()) { Ok(()) } else { Err(BackfillError::Overtaken) }
    }
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
