//! Whole collections: captured chunk by chunk, each with its version, and ended by one transaction (rule C4).

use std::sync::Arc;

use bytes::Bytes;

use crate::dual::drain::{self, Drain, DrainError, Pending, Settled};
use crate::dual::settle;
use crate::model::catalog::{Kind, Layout};
use crate::model::key::Key;
use crate::stores::postgres::apply::{self, Basis};
use crate::stores::postgres::rows::{ElementRow, Fate, Item, RecordRow, Whole, WholeStream, padded_id};
use crate::stores::redis::capture::{self, Purpose, WholeBegin, WholeChunk};
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::marks::{self, Ack};

/// Brings one collection to Postgres as a whole. Answers how it was settled; `None`: try again.
///
/// # Errors
/// When a store fails; marks stay.
pub(crate) async fn bring(
    drain: &Drain,
    kind: &Arc<Kind>,
    key: &Key,
    purpose: Purpose,
) -> Result<Option<Settled>, DrainError> {
    let begin = capture::whole_begin(&drain.redis, key).await?;
    if begin.type_name == "none" {
        return absent(drain, kind, key, begin, purpose).await;
    }
    if !settle::fits(kind.table, &begin.type_name) {
        let token = begin.token.clone();
        drain.bury(kind, key, &token, "the record's type does not fit the layout of its kind").await;
        return Ok(Some(Settled::Buried));
    }
    // A backfill leaves what changes under its hands to the mark of the change.
    let overtaken = (purpose == Purpose::Backfill).then_some(Settled::Committed);
    match chunks(drain, kind, key, &begin).await {
        Ok(Some((reached, added))) => {
            let epoch = begin.stamp.epoch;
            let acks = [(key.clone(), ack(kind, begin, reached, added.to_string().into()))];
            marks::ack(&drain.redis, epoch, &acks).await?;
            Ok(Some(Settled::Committed))
        }
        Ok(None) => Ok(overtaken),
        Err(DrainError::Redis(RedisError::Answered(text))) if text.starts_with("CHANGED") => {
            // It became another type under our hands; its mark leads to the next try.
            Ok(overtaken)
        }
        // One element is at fault, and the others of its collection are of no use without it.
        Err(DrainError::Postgres(error)) if error.is_of_a_row() => {
            drain.bury(kind, key, &begin.token, &drain::reason(&error)).await;
            Ok(Some(Settled::Buried))
        }
        Err(error) => Err(error),
    }
}

/// What is acknowledged: of a stream only if nothing was appended since, and with the id that was reached.
fn ack(kind: &Kind, begin: WholeBegin, reached: Bytes, evidence: Bytes) -> Ack {
    let WholeBegin { token, tokens, .. } = begin;
    match kind.layout {
        Layout::Document | Layout::Collection => Ack::Whole(token, tokens),
        Layout::Log => Ack::Log { token, reached, evidence, is_complete: true, touched: tokens },
    }
}

/// An absent collection: a tombstone with the gone bit, gone without it. In a backfill nothing (C2).
async fn absent(
    drain: &Drain,
    kind: &Arc<Kind>,
    key: &Key,
    begin: WholeBegin,
    purpose: Purpose,
) -> Result<Option<Settled>, DrainError> {
    if purpose == Purpose::Backfill || begin.token.is_none() {
        return Ok(Some(Settled::Committed));
    }
    let fate = if begin.token.is_gone() { Fate::Deleted } else { Fate::Gone };
    let item = Item::Absent(kind.table, settle::header(kind, key, &begin.stamp, fate));
    let basis = Basis { epoch: begin.stamp.epoch, beat: begin.stamp.beat };
    let ack = ack(kind, begin, Bytes::new(), Bytes::new());
    let settled = drain.commit(basis, vec![Pending { key: key.clone(), kind: Arc::clone(kind), item, ack }]).await?;
    Ok(settled.into_iter().next().map(|(_, settled)| settled))
}

/// Writes all chunks and the end. Answers what was reached of a stream; `None` when the collection was gone before its end.
async fn chunks(
    drain: &Drain,
    kind: &Arc<Kind>,
    key: &Key,
    begin: &WholeBegin,
) -> Result<Option<(Bytes, i64)>, DrainError> {
    let mut cursor = Bytes::from_static(b"0");
    let mut stream = (kind.layout == Layout::Log).then(|| Seen::after(begin));
    loop {
        let chunk = capture::whole_chunk(&drain.redis, key, &begin.type_name, &cursor).await?;
        if chunk.epoch != begin.stamp.epoch {
            return Err(apply_superseded());
        }
        let rows = rows(kind.layout, &begin.type_name, &chunk);
        if let Some(stream) = &mut stream {
            stream.see(&rows);
        }
        let mut header = settle::header(kind, key, &begin.stamp, Fate::Present);
        header.type_name.clone_from(&begin.type_name);
        header.version = chunk.version;
        header.expires_at_ms = chunk.expires_at_ms;
        let basis = Basis { epoch: chunk.epoch, beat: begin.stamp.beat };
        if chunk.cursor == "0" {
            if !chunk.is_present {
                return Ok(None);
            }
            let stream = stream.map(|stream| stream.at_the_end(chunk.reached.1));
            let whole = Whole { header, table: kind.table, first_version: begin.stamp.version, stream };
            drain.applied(&apply::finalise(&drain.postgres, basis, &whole, &rows).await?);
            return Ok(Some(chunk.reached));
        }
        write(drain, basis, kind, &header, &rows).await?;
        cursor = chunk.cursor;
    }
}

/// What was seen of a stream, chunk by chunk.
struct Seen {
    /// What an earlier capture had reached: id, and entries added by then.
    before: (String, i64),
    ids: Option<(String, String)>,
    /// Entries above what an earlier capture had reached, and all of them.
    fresh: i64,
    all: i64,
}

impl Seen {
    fn after(begin: &WholeBegin) -> Self {
        let before = begin.captured.as_ref().map(|(id, added)| (padded_id(id), *added));
        Self { before: before.unwrap_or_default(), ids: None, fresh: 0, all: 0 }
    }

    fn see(&mut self, rows: &[ElementRow]) {
        for row in rows {
            let id = String::from_utf8_lossy(&row.element).into_owned();
            self.all += 1;
            self.fresh += i64::from(id > self.before.0);
            match &mut self.ids {
                Some((_, last)) => *last = id,
                None => self.ids = Some((id.clone(), id)),
            }
        }
    }

    /// Fewer entries added than before: it is another stream, of which nothing was captured yet. Before the first capture of all
    /// nothing was counted, so nothing is missed.
    fn at_the_end(self, added: i64) -> WholeStream {
        let missing = match self.before {
            (id, _) if id.is_empty() => 0,
            (_, before) if added >= before => added - before - self.fresh,
            _ => added - self.all,
        };
        WholeStream { ids: self.ids, missing: missing.max(0) }
    }
}

fn apply_superseded() -> DrainError {
    DrainError::Postgres(crate::stores::postgres::pool::PostgresError::Superseded)
}

async fn write(
    drain: &Drain,
    basis: Basis,
    kind: &Kind,
    header: &RecordRow,
    rows: &[ElementRow],
) -> Result<(), DrainError> {
    let applied = apply::chunk(&drain.postgres, basis, kind.table, header, rows).await?;
    drain.applied(&applied);
    Ok(())
}

fn rows(layout: Layout, type_name: &str, chunk: &WholeChunk) -> Vec<ElementRow> {
    let mut rows: Vec<ElementRow> = chunk
        .elements
        .iter()
        .map(|(name, value)| ElementRow {
            element: if layout == Layout::Log { padded_id(name).into() } else { name.clone() },
            doc: Some(settle::element_doc(type_name, value)),
            version: chunk.version,
        })
        .collect();
    // A scan may show an element twice, and one statement may write a row only once.
    rows.sort_by(|one, two| one.element.cmp(&two.element));
    rows.dedup_by(|one, two| one.element == two.element);
    rows
}
