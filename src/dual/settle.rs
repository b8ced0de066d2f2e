//! From captures to rows and acknowledgements: what a captured record means for Postgres (rules C3, W3, G1-G3). Pure.

use bytes::Bytes;

use crate::model::catalog::{Kind, Layout, PushSide, Table};
use crate::model::command::effect::End;
use crate::model::key::Key;
use crate::model::reply::Reply;
use crate::model::value::{string_doc, strings_doc};
use crate::stores::postgres::rows::{ElementRow, Fate, Item, RecordRow, padded_id};
use crate::stores::redis::capture::{Captured, ElementLook, Found, LogLook, Shape, Stamp};
use crate::stores::redis::marks::Ack;

/// How records of a kind are captured.
#[must_use]
pub fn shape(kind: &Kind) -> Shape {
    match (kind.layout, kind.log.map(|log| log.push)) {
        (Layout::Document, _) | (Layout::Log, None) => Shape::Document,
        (Layout::Collection, _) => Shape::Collection,
        (Layout::Log, Some(PushSide::Left)) => Shape::ListLog(End::Left),
        (Layout::Log, Some(PushSide::Right)) => Shape::ListLog(End::Right),
        (Layout::Log, Some(PushSide::Stream)) => Shape::StreamLog,
    }
}

/// What is to be done with a captured record.
#[derive(Clone, Debug)]
pub enum Due {
    /// Nothing: it has no mark, or is absent without one.
    Nothing,
    /// Ask again: the call was full.
    Later,
    /// Capture it whole (C4).
    Whole,
    /// It cannot be mirrored, for this reason: dead letter, and the mark stays.
    Dead(&'static str),
    /// Write this, then acknowledge that.
    Write(Box<Item>, Ack),
}

/// What is due for a captured record of `kind`.
#[must_use]
pub fn due(kind: &Kind, stamp: &Stamp, captured: Captured) -> Due {
    let Captured { key, token, found } = captured;
    let row = |fate| RecordRow::new(kind, &key, stamp.version, stamp.time_us, fate);
    match found {
        Found::Clean => Due::Nothing,
        Found::Later => Due::Later,
        Found::Whole => Due::Whole,
        Found::Large => Due::Dead("the record is larger than record_bytes_max"),
        Found::Module => Due::Dead("the record is of a module's type"),
        Found::Absent if token.is_none() => Due::Nothing,
        Found::Absent => {
            let fate = if token.is_gone() { Fate::Deleted } else { Fate::Gone };
            match kind.layout {
                Layout::Document => Due::Write(Box::new(Item::Record(kind.table, row(fate))), Ack::Document(token)),
                // Its companion is read when it is captured whole: an absent one is taken as a whole without elements.
                Layout::Collection => Due::Whole,
                Layout::Log => Due::Write(Box::new(Item::Absent(kind.table, row(fate))), Ack::Document(token)),
            }
        }
        Found::Value { value, expires_at_ms } => {
            if kind.layout != Layout::Document {
                return Due::Dead("the record's type does not fit the layout of its kind");
            }
            let mut row = row(Fate::Present);
            row.type_name = value.type_name().to_owned();
            row.doc = Some(value.to_doc());
            row.expires_at_ms = expires_at_ms;
            Due::Write(Box::new(Item::Record(kind.table, row)), Ack::Document(token))
        }
        Found::Elements { type_name, expires_at_ms, elements } => {
            let header = RecordRow { type_name, expires_at_ms, ..row(Fate::Present) };
            let of_type = header.type_name.clone();
            let rows = elements.iter().filter_map(|look| element_row(look, &of_type, stamp.version)).collect();
            Due::Write(Box::new(Item::Elements(header, rows)), Ack::Elements(token, tokens(&elements)))
        }
        Found::Log { type_name, expires_at_ms, log } => {
            let header = RecordRow { type_name, expires_at_ms, ..row(Fate::Present) };
            let (item, ack) = log_entries(header, log, |evidence, reached, is_complete, touched| Ack::Log {
                token,
                reached,
                evidence,
                is_complete,
                touched,
            });
            Due::Write(Box::new(item), ack)
        }
    }
}

fn tokens(looks: &[ElementLook]) -> Vec<(Bytes, Bytes)> {
    looks.iter().map(|look| (look.field.clone(), look.token.clone())).collect()
}

fn element_row(look: &ElementLook, type_name: &str, version: i64) -> Option<ElementRow> {
    let value = look.element.as_ref()?;
    Some(ElementRow { element: look.name(), doc: value.as_ref().map(|value| element_doc(type_name, value)), version })
}

/// The document of an element: a value or score as a string, `true` for a member of a set, entries as they are.
#[must_use]
pub fn element_doc(type_name: &str, value: &Reply) -> String {
    match value {
        Reply::Bulk(_) if type_name == "set" => "true".to_owned(),
        Reply::Bulk(bytes) => string_doc(bytes),
        Reply::Array(parts) => strings_doc(&parts.iter().map(bytes_of).collect::<Vec<_>>()),
        // No other form comes from a capture.
        Reply::Nil
        | Reply::Status(_)
        | Reply::Error(_)
        | Reply::Integer(_)
        | Reply::Map(_)
        | Reply::Set(_)
        | Reply::Double(_)
        | Reply::Boolean(_)
        | Reply::BigNumber(_)
        | Reply::Verbatim(_)
        | Reply::Push(_) => "true".to_owned(),
    }
}

fn bytes_of(reply: &Reply) -> Bytes {
    reply.as_bulk().cloned().unwrap_or_default()
}

fn log_entries(
    header: RecordRow,
    log: LogLook,
    ack: impl FnOnce(Bytes, Bytes, bool, Vec<(Bytes, Bytes)>) -> Ack,
) -> (Item, Ack) {
    let version = header.version;
    let is_stream = header.type_name == "stream";
    let entry = |(id, parts): &(Bytes, Vec<Bytes>)| ElementRow {
        element: padded_id(id).into(),
        doc: Some(match parts.first() {
            Some(entry) if !is_stream => string_doc(entry),
            _ => strings_doc(parts),
        }),
        version,
    };
    let mut entries: Vec<ElementRow> = log.entries.iter().map(entry).collect();
    let touched = log.touched.iter().filter_map(|look| {
        let row = element_row(look, "stream", version)?;
        let element = Bytes::from(padded_id(&look.name()));
        // An entry that is captured anyway is not written twice in one statement.
        let is_new = !entries.iter().any(|entry| entry.element == element);
        is_new.then_some(ElementRow { element, ..row })
    });
    let touched: Vec<ElementRow> = touched.collect();
    entries.extend(touched);
    let item = Item::Log {
        header,
        first_id: padded_id(&log.first_id),
        last_id: padded_id(&log.last_id),
        entries,
        missing: log.missing,
    };
    (item, ack(log.evidence, log.reached, !log.has_more, tokens(&log.touched)))
}

/// The row of an absent collection or of a whole one's header.
#[must_use]
pub fn header(kind: &Kind, key: &Key, stamp: &Stamp, fate: Fate) -> RecordRow {
    RecordRow::new(kind, key, stamp.version, stamp.time_us, fate)
}

/// Whether a value of this type can be a collection or stream of `table`.
#[must_use]
pub fn fits(table: Table, type_name: &str) -> bool {
    match table.layout() {
        Layout::Document => true,
        Layout::Collection => matches!(type_name, "hash" | "set" | "zset"),
        Layout::Log => type_name == "stream",
    }
}
