//! Captures: atomic reads of records from Redis, stamped with a version (rules C1-C4).

use bytes::Bytes;

use crate::model::command::effect::End;
use crate::model::key::Key;
use crate::model::reply::Reply;
use crate::model::value::{StreamEntry, Value};
use crate::stores::redis::connection::{Redis, RedisError};
use crate::stores::redis::parts::{Parts, expiry};
use crate::stores::redis::script::{self, Scripts};

/// At most this many records are captured by one call.
pub const CAPTURE_RECORDS_MAX: usize = 64;
/// After this many bytes the further records of a call wait for the next one.
pub const CAPTURE_BYTES_MAX: usize = 256 * 1024;
/// A larger record is not captured: dead letter, and the mark stays.
pub const RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Elements in one chunk of a whole collection.
pub const CHUNK_ELEMENTS: usize = 500;

/// How a record is captured; follows from the layout of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Whole, as one document.
    Document,
    /// By element.
    Collection,
    /// A list that is pushed at this end.
    ListLog(End),
    /// A stream.
    StreamLog,
}

impl Shape {
    pub(super) fn code(self) -> &'static [u8] {
        match self {
            Self::Document => b"d",
            Self::Collection => b"c",
            Self::ListLog(End::Left) => b"l",
            Self::ListLog(End::Right) => b"r",
            Self::StreamLog => b"s",
        }
    }
}

/// A token of a mark, with its gone bit. Empty: there was no mark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Token(pub Bytes);

impl Token {
    /// Whether the write left the key absent.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.last() == Some(&b'!')
    }

    /// Whether there was no mark.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// When the mark was set, in milliseconds of the marking host's clock; `None` for a token of another form.
    #[must_use]
    pub fn marked_at_ms(&self) -> Option<i64> {
        std::str::from_utf8(&self.0).ok()?.split('-').next()?.parse().ok()
    }
}

/// Where and when a capture was made: what its apply and its ack must agree with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The version of everything in this capture.
    pub version: i64,
    /// The epoch of the anchor (C1, A2).
    pub epoch: i64,
    /// Redis' time, in microseconds.
    pub time_us: i64,
    /// The heartbeat of Postgres that Redis knew (P1).
    pub beat: i64,
}

/// A look at one touched element of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementLook {
    /// The companion's field: `h`, or `e` and the element's name.
    pub field: Bytes,
    /// Its token.
    pub token: Bytes,
    /// The value where the element is there; `Some(None)` where it is gone; `None` for the header.
    pub element: Option<Option<Reply>>,
}

impl ElementLook {
    /// The element's name.
    #[must_use]
    pub fn name(&self) -> Bytes {
        self.field.slice(1..)
    }
}

/// Entries of a log, as captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLook {
    /// The oldest entry that is still in Redis.
    pub first_id: Bytes,
    /// The newest entry that this capture reached.
    pub last_id: Bytes,
    /// How many entries were trimmed before they were captured (G3).
    pub missing: i64,
    /// Whether more entries wait for the next capture.
    pub has_more: bool,
    /// Ids and entries: one part for a list entry, fields and values in turn for a stream entry.
    pub entries: Vec<StreamEntry>,
    /// Entries that were deleted by id.
    pub touched: Vec<ElementLook>,
    /// What the ack notes: the id or counter reached.
    pub reached: Bytes,
    /// What the ack notes: a list's digest or a stream's count of entries added.
    pub evidence: Bytes,
}

/// What a capture found of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No mark, and only marked records were wanted.
    Clean,
    /// The call was full; ask again.
    Later,
    /// Not there.
    Absent,
    /// A collection that must be captured whole.
    Whole,
    /// Above [`RECORD_BYTES_MAX`].
    Large,
    /// Of a type that cannot be mirrored (modules).
    Module,
    /// A document.
    Value {
        /// Its value.
        value: Value,
        /// Its expiry, in milliseconds.
        expires_at_ms: Option<i64>,
    },
    /// Touched elements of a collection.
    Elements {
        /// `hash`, `set` or `zset`.
        type_name: String,
        /// Its expiry, in milliseconds.
        expires_at_ms: Option<i64>,
        /// The elements.
        elements: Vec<ElementLook>,
    },
    /// Entries of a log.
    Log {
        /// `list` or `stream`.
        type_name: String,
        /// Its expiry, in milliseconds.
        expires_at_ms: Option<i64>,
        /// The entries.
        log: LogLook,
    },
}

/// A record as captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Which record.
    pub key: Key,
    /// Its mark, as it was.
    pub token: Token,
    /// What was found.
    pub found: Found,
}

/// Which records a capture is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Marked ones, in whatever state they are.
    Drain,
    /// All of them; the caller ignores absent ones (C2).
    Backfill,
}

/// A record that is to be captured, its shape, and for a stream in a backfill the id after which to go on.
pub type Wanted = (Key, Shape, Bytes);

/// Captures up to [`CAPTURE_RECORDS_MAX`] records in one step.
///
/// # Errors
/// When Redis cannot be reached, or refuses since its anchor is missing or names another run (`LINEAGE`).
pub async fn capture(redis: &Redis, wanted: &[Wanted], purpose: Purpose) -> Result<(Stamp, Vec<Captured>), RedisError> {
    let keys: Vec<&[u8]> = wanted.iter().map(|(key, ..)| key.as_bytes()).collect();
    let (budget, largest) = (CAPTURE_BYTES_MAX.to_string(), RECORD_BYTES_MAX.to_string());
    let flag: &[u8] = if purpose == Purpose::Drain { b"1" } else { b"0" };
    let mut args: Vec<&[u8]> = vec![flag, budget.as_bytes(), largest.as_bytes()];
    for (_, shape, after) in wanted {
        args.push(shape.code());
        args.push(after);
    }
    let mut parts = Parts::of(redis.script(&script::CAPTURE, &keys, &args).await?)?;
    let stamp = stamp(&mut parts)?;
    let mut captured = Vec::with_capacity(wanted.len());
    for (key, ..) in wanted {
        let mut record = parts.parts()?;
        let state = record.text()?;
        let token = Token(record.bytes()?);
        captured.push(Captured { key: key.clone(), token, found: found(&state, record)? });
    }
    Ok((stamp, captured))
}

fn stamp(parts: &mut Parts) -> Result<Stamp, RedisError> {
    Ok(Stamp { version: parts.integer()?, epoch: parts.integer()?, time_us: parts.integer()?, beat: parts.integer()? })
}

fn found(state: &str, mut record: Parts) -> Result<Found, RedisError> {
    Ok(match state {
        "clean" => Found::Clean,
        "later" => Found::Later,
        "absent" => Found::Absent,
        "whole" => Found::Whole,
        "large" => Found::Large,
        "module" => Found::Module,
        "value" => {
            let (type_name, expires_at_ms) = (record.text()?, expiry(record.integer()?));
            Found::Value { value: value(&type_name, record.parts()?)?, expires_at_ms }
        }
        "elements" => {
            let (type_name, expires_at_ms) = (record.text()?, expiry(record.integer()?));
            Found::Elements { type_name, expires_at_ms, elements: looks(record.parts()?)? }
        }
        "log" => {
            let (type_name, expires_at_ms) = (record.text()?, expiry(record.integer()?));
            Found::Log { type_name, expires_at_ms, log: log(record)? }
        }
        _ => return Err(RedisError::Form("unknown state of a captured record")),
    })
}

/// A value of the named type from the parts that the scripts answer.
pub(crate) fn value(type_name: &str, parts: Parts) -> Result<Value, RedisError> {
    if type_name == "stream" {
        return Ok(Value::Stream(entries(parts)?));
    }
    Value::from_flat(type_name, parts.all_bytes()?).ok_or(RedisError::Form("a value of an unknown type"))
}

/// Stream entries, or list entries with their ids.
pub(super) fn entries(mut parts: Parts) -> Result<Vec<StreamEntry>, RedisError> {
    let mut entries = Vec::with_capacity(parts.len());
    while parts.len() > 0 {
        let mut entry = parts.parts()?;
        let id = entry.bytes()?;
        let content = entry.next()?;
        let content = match content.as_bulk() {
            Some(bytes) => vec![bytes.clone()],
            None => Parts::of(content)?.all_bytes()?,
        };
        entries.push((id, content));
    }
    Ok(entries)
}

fn looks(mut parts: Parts) -> Result<Vec<ElementLook>, RedisError> {
    let mut looks = Vec::with_capacity(parts.len());
    while parts.len() > 0 {
        let mut look = parts.parts()?;
        let (field, token, state, value) = (look.bytes()?, look.bytes()?, look.integer()?, look.next()?);
        let element = match state {
            0 => Some(None),
            1 => Some(Some(value)),
            _ => None,
        };
        looks.push(ElementLook { field, token, element });
    }
    Ok(looks)
}

fn log(mut record: Parts) -> Result<LogLook, RedisError> {
    Ok(LogLook {
        first_id: record.bytes()?,
        last_id: record.bytes()?,
        missing: record.integer()?,
        has_more: record.integer()? == 1,
        entries: entries(record.parts()?)?,
        touched: looks(record.parts()?)?,
        reached: record.bytes()?,
        evidence: record.bytes()?,
    })
}

/// The beginning of a whole capture (C4).
pub struct WholeBegin {
    /// The first version; what is not seen from here on goes at this version.
    pub stamp: Stamp,
    /// `none`, or the type.
    pub type_name: String,
    /// Its expiry, in milliseconds.
    pub expires_at_ms: Option<i64>,
    /// The record's mark.
    pub token: Token,
    /// Companion fields and tokens that the ack may clear.
    pub tokens: Vec<(Bytes, Bytes)>,
    /// Of a stream: the id that was captured last, and how many entries had been added by then.
    pub captured: Option<(Bytes, i64)>,
}

/// Begins the capture of a whole collection.
///
/// # Errors
/// As [`capture`].
pub async fn whole_begin(redis: &Redis, key: &Key) -> Result<WholeBegin, RedisError> {
    let mut parts = Parts::of(redis.script(&script::WHOLE_BEGIN, &[key.as_bytes()], &[]).await?)?;
    let (stamp, type_name, expires_at_ms) = (stamp(&mut parts)?, parts.text()?, expiry(parts.integer()?));
    let (token, tokens) = (Token(parts.bytes()?), parts.parts()?.all_pairs()?);
    let (captured, added) = (parts.bytes()?, parts.text()?);
    let captured = added.parse().ok().map(|added| (captured, added));
    Ok(WholeBegin { stamp, type_name, expires_at_ms, token, tokens, captured })
}

/// A chunk of a whole collection.
pub struct WholeChunk {
    /// The version of the elements in this chunk.
    pub version: i64,
    /// Its epoch.
    pub epoch: i64,
    /// Where to go on; `0` at the end.
    pub cursor: Bytes,
    /// Whether the collection was still there.
    pub is_present: bool,
    /// Its expiry at this version, in milliseconds.
    pub expires_at_ms: Option<i64>,
    /// Elements and their values: bulk strings, or an array for a stream entry.
    pub elements: Vec<(Bytes, Reply)>,
    /// Of a stream: its last id, and how many entries were ever added.
    pub reached: (Bytes, i64),
}

/// The next chunk of a whole collection of the named type.
///
/// # Errors
/// As [`capture`]; also when the record has become another type meanwhile (its mark will say so).
pub async fn whole_chunk(redis: &Redis, key: &Key, type_name: &str, cursor: &Bytes) -> Result<WholeChunk, RedisError> {
    let count = CHUNK_ELEMENTS.to_string();
    let args: [&[u8]; 3] = [cursor, type_name.as_bytes(), count.as_bytes()];
    let mut parts = Parts::of(redis.script(&script::WHOLE_CHUNK, &[key.as_bytes()], &args).await?)?;
    let (version, epoch, cursor) = (parts.integer()?, parts.integer()?, parts.bytes()?);
    let (is_present, expires_at_ms) = (parts.integer()? == 1, expiry(parts.integer()?));
    let mut found = parts.parts()?;
    let mut elements = Vec::with_capacity(found.len() / 2);
    while found.len() > 0 {
        elements.push((found.bytes()?, found.next()?));
    }
    let reached = (parts.bytes()?, parts.integer()?);
    Ok(WholeChunk { version, epoch, cursor, is_present, expires_at_ms, elements, reached })
}
