//! What is written to Postgres: rows of records, headers and elements, ready to be bound.

use bytes::Bytes;

use crate::model::catalog::{Kind, Layout, Table};
use crate::model::key::Key;

/// What became of a record (C3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is there.
    Present,
    /// Absent without the gone bit: expired or evicted. The row keeps its document.
    Gone,
    /// Absent with the gone bit: a tombstone.
    Deleted,
}

impl Fate {
    pub(super) fn code(self) -> i64 {
        match self {
            Self::Present => 0,
            Self::Gone => 1,
            Self::Deleted => 2,
        }
    }
}

/// A row of a record table, or the header row of a collection or log.
#[derive(Clone, Debug)]
pub struct RecordRow {
    /// The record.
    pub key: Key,
    /// The name of its kind.
    pub kind: String,
    /// Its id within the kind.
    pub id: String,
    /// Its Redis type; empty when nothing is known.
    pub type_name: String,
    /// Its document as JSON text; `None` on a header or where nothing is known.
    pub doc: Option<String>,
    /// The version of its capture.
    pub version: i64,
    /// Its expiry, in milliseconds.
    pub expires_at_ms: Option<i64>,
    /// What became of it.
    pub fate: Fate,
    /// Redis' time at the capture, in microseconds.
    pub time_us: i64,
}

impl RecordRow {
    /// A row of `key` without a document.
    #[must_use]
    pub fn new(kind: &Kind, key: &Key, version: i64, time_us: i64, fate: Fate) -> Self {
        Self {
            key: key.clone(),
            kind: kind.name.clone(),
            id: kind.id_of(key.as_bytes()),
            type_name: String::new(),
            doc: None,
            version,
            expires_at_ms: None,
            fate,
            time_us,
        }
    }
}

/// One element of a collection, or one entry of a log.
#[derive(Clone, Debug)]
pub struct ElementRow {
    /// The element's bytes; for a log its id, padded so that text order is id order.
    pub element: Bytes,
    /// Its document as JSON text; `None`: a tombstone.
    pub doc: Option<String>,
    /// The version of its capture.
    pub version: i64,
}

/// What one transaction of an apply holds of one record. A record stands in a batch at most once.
#[derive(Clone, Debug)]
pub enum Item {
    /// A document.
    Record(Table, RecordRow),
    /// Touched elements of a collection, with its header.
    Elements(RecordRow, Vec<ElementRow>),
    /// A collection or log that is absent: its header, and all its elements when it was deleted.
    Absent(Table, RecordRow),
    /// Entries of a log.
    Log {
        /// The header.
        header: RecordRow,
        /// The oldest entry in Redis, padded.
        first_id: String,
        /// The newest entry captured, padded.
        last_id: String,
        /// Entries and tombstones.
        entries: Vec<ElementRow>,
        /// How many entries were trimmed before they were captured (G3).
        missing: i64,
    },
}

impl Item {
    /// The row that stands for the record.
    #[must_use]
    pub fn header(&self) -> &RecordRow {
        match self {
            Self::Record(_, row) | Self::Elements(row, _) | Self::Absent(_, row) => row,
            Self::Log { header, .. } => header,
        }
    }

    /// The tables that this item writes.
    pub(super) fn tables(&self) -> Vec<&'static str> {
        match self {
            Self::Record(table, _) => vec![table.name()],
            Self::Elements(..) => vec!["collections", Table::Elements.name()],
            Self::Absent(table, _) if table.layout() == Layout::Document => vec![table.name()],
            Self::Absent(table, _) => vec!["collections", table.name()],
            Self::Log { .. } => vec!["collections", Table::EventLogs.name()],
        }
    }
}

/// The end of a whole capture (C4).
#[derive(Clone, Debug)]
pub struct Whole {
    /// The header, at the version of the last chunk.
    pub header: RecordRow,
    /// Where its elements stand.
    pub table: Table,
    /// The version of the first chunk.
    pub first_version: i64,
    /// For a stream, what else was seen of it.
    pub stream: Option<WholeStream>,
}

/// What a whole capture saw of a stream.
#[derive(Clone, Debug, Default)]
pub struct WholeStream {
    /// Its oldest and newest entry, padded; none in an empty one. An entry above the oldest that was not seen was deleted, one
    /// below it was trimmed and is history.
    pub ids: Option<(String, String)>,
    /// How many entries were trimmed before they were captured (G3).
    pub missing: i64,
}

/// A stream id or a list counter, padded so that text order is id order: `{milliseconds:020}-{sequence:020}`.
#[must_use]
pub fn padded_id(id: &[u8]) -> String {
    let text = String::from_utf8_lossy(id);
    match text.split_once('-') {
        Some((milliseconds, sequence)) => format!("{milliseconds:0>20}-{sequence:0>20}"),
        None => format!("{text:0>20}"),
    }
}
