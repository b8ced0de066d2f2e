//! Whole collections: captured chunk by chunk, each with its version, and ended by one transaction (rule C4).

use std::sync::Arc;

use bytes::Bytes;

use crate::dual::drain::{self, Drain, DrainError, Pending};
use crate::dual::settle;
use crate::model::catalog::{Kind, Layout};
use crate::model::key::Key;
use crate::stores::postgres::apply::{self, Basis};
use crate::stores::postgres::rows::{ElementRow, Fate, Item, RecordRow, Whole, padded_id};
use crate::stores::redis::capture::{self, Purpose, WholeBegin, WholeChunk};
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::marks::{self, Ack};

/// Brings one collection to Postgres as a whole. Answers whether it is settled; false means: try again.
///
/// # Errors
/// When a store fails; marks stay.
pub(crate) async fn bring(drain: &Drain, kind: &Arc<Kind>, key: &Key, purpose: Purpose) -> Result<bool, DrainError> {
    let begin = capture::whole_begin(&drain.redis, key).await?;
    if begin.type_name == "none" {
        return absent(drain, kind, key, begin, purpose).await;
    }
    if !settle::fits(kind.table, &begin.type_name) {
        let token = begin.token.clone();
        drain.bury(kind, key, &token, "the record's type does not fit the layout of its kind").await;
        return Ok(true);
    }
    match chunks(drain, kind, key, &begin).await {
        Ok(true) => {
            let acks = [(key.clone(), Ack::Whole(begin.token, begin.tokens))];
            marks::ack(&drain.redis, begin.stamp.epoch, &acks).await?;
            Ok(true)
        }
        Ok(false) => Ok(purpose == Purpose::Backfill),
        Err(DrainError::Redis(RedisError::Answered(text))) if text.starts_with("CHANGED") => {
            // It became another type under our hands; its mark leads to the next try.
            Ok(purpose == Purpose::Backfill)
        }
        Err(DrainError::Postgres(error)) if error.is_of_a_row() => {
            // Others do not wait for a record that Postgres refuses.
            drain.bury(kind, key, &begin.token, &drain::reason(&error)).await;
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

/// An absent collection: a tombstone with the gone bit, gone without it. In a backfill nothing (C2).
async fn absent(
    drain: &Drain,
    kind: &Arc<Kind>,
    key: &Key,
    begin: WholeBegin,
    purpose: Purpose,
) -> Result<bool, DrainError> {
    if purpose == Purpose::Backfill || begin.token.is_none() {
        return Ok(true);
    }
    let fate = if begin.token.is_gone() { Fate::Deleted } else { Fate::Gone };
    let item = Item::Absent(kind.table, settle::header(kind, key, &begin.stamp, fate));
    let ack = Ack::Whole(begin.token, begin.tokens);
    let basis = Basis { epoch: begin.stamp.epoch, beat: begin.stamp.beat };
    drain.commit(basis, vec![Pending { key: key.clone(), kind: Arc::clone(kind), item, ack }]).await?;
    Ok(true)
}

/// Writes all chunks and the end. Answers false when the collection was gone before its end.
async fn chunks(drain: &Drain, kind: &Arc<Kind>, key: &Key, begin: &WholeBegin) -> Result<bool, DrainError> {
    let mut cursor = Bytes::from_static(b"0");
    let mut bounds: Option<(String, String)> = None;
    loop {
        let chunk = capture::whole_chunk(&drain.redis, key, &begin.type_name, &cursor).await?;
        if chunk.epoch != begin.stamp.epoch {
            return Err(apply_superseded());
        }
        let rows = rows(kind.layout, &begin.type_name, &chunk);
        widen(&mut bounds, kind.layout, &rows);
        let mut header = settle::header(kind, key, &begin.stamp, Fate::Present);
        header.type_name.clone_from(&begin.type_name);
        header.version = chunk.version;
        header.expires_at_ms = chunk.expires_at_ms;
        let basis = Basis { epoch: chunk.epoch, beat: begin.stamp.beat };
        if chunk.cursor == "0" {
            if !chunk.is_present {
                return Ok(false);
            }
            return end(drain, basis, kind, header, begin, bounds, &rows).await;
        }
        write(drain, basis, kind, &header, &rows).await?;
        cursor = chunk.cursor;
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

async fn end(
    drain: &Drain,
    basis: Basis,
    kind: &Kind,
    header: RecordRow,
    begin: &WholeBegin,
    bounds: Option<(String, String)>,
    last: &[ElementRow],
) -> Result<bool, DrainError> {
    let is_log = kind.layout == Layout::Log;
    // A stream without entries has no bounds, and nothing of it is buried: what was trimmed is history.
    let bounds = if is_log { Some(bounds.unwrap_or_else(|| ("~".to_owned(), String::new()))) } else { None };
    let whole = Whole { header, table: kind.table, first_version: begin.stamp.version, bounds };
    let applied = apply::finalise(&drain.postgres, basis, &whole, last).await?;
    drain.applied(&applied);
    Ok(true)
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

fn widen(bounds: &mut Option<(String, String)>, layout: Layout, rows: &[ElementRow]) {
    if layout != Layout::Log {
        return;
    }
    for row in rows {
        let id = String::from_utf8_lossy(&row.element).into_owned();
        match bounds {
            Some((_, last)) => *last = id,
            None => *bounds = Some((id.clone(), id)),
        }
    }
}
