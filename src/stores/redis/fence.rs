//! The fence before a read from Postgres (R1), and the look that a verdict begins with (R2).

use bytes::Bytes;

use crate::model::command::Command;
use crate::model::key::Key;
use crate::model::value::{StreamEntry, Value};
use crate::stores::redis::capture::{self, Shape};
use crate::stores::redis::connection::{Redis, RedisError};
use crate::stores::redis::parts::{Parts, expiry};
use crate::stores::redis::script::{self, Scripts};

/// What Redis said before Postgres was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The last version given.
    pub clock: i64,
    /// The epoch; -1 outside the lineage, where nothing may be compared.
    pub epoch: i64,
    /// Redis' time, in microseconds.
    pub time_us: i64,
    /// The heartbeat of Postgres that Redis knew.
    pub beat: i64,
}

/// Whether a record is marked and whether it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It has a mark.
    pub is_pending: bool,
    /// It is in Redis.
    pub is_present: bool,
}

/// The fence for all keys of a read, in one step.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn fence(redis: &impl Scripts, keys: &[Key]) -> Result<(Fence, Vec<Standing>), RedisError> {
    let names: Vec<&[u8]> = keys.iter().map(Key::as_bytes).collect();
    let mut parts = Parts::of(redis.script(&script::FENCE, &names, &[]).await?)?;
    let fence = read_fence(&mut parts)?;
    let mut standings = Vec::with_capacity(keys.len());
    for _ in keys {
        standings.push(Standing { is_pending: parts.integer()? == 1, is_present: parts.integer()? == 1 });
    }
    Ok((fence, standings))
}

fn read_fence(parts: &mut Parts) -> Result<Fence, RedisError> {
    Ok(Fence { clock: parts.integer()?, epoch: parts.integer()?, time_us: parts.integer()?, beat: parts.integer()? })
}

/// A record as Redis holds it, with the fence of the same moment.
#[derive(Clone, Debug)]
pub struct Look {
    /// The fence.
    pub fence: Fence,
    /// Whether the record is marked.
    pub is_pending: bool,
    /// Its type; `none` when it is absent.
    pub type_name: String,
    /// Its expiry, in milliseconds.
    pub expires_at_ms: Option<i64>,
    /// The `ETag` of its value.
    pub etag: String,
    /// Its value; `None` when absent or of a type without one.
    pub value: Option<Value>,
}

/// One look at a whole record of `kind`, and the epoch in which the kind was backfilled as it stands in that moment; -1 while
/// that is owed.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn look(redis: &Redis, kind: &str, key: &Key) -> Result<(Look, i64), RedisError> {
    let args = [kind.as_bytes(), b"record"];
    let mut parts = Parts::of(redis.script(&script::LOOK, &[key.as_bytes()], &args).await?)?;
    let fence = read_fence(&mut parts)?;
    let is_pending = parts.integer()? == 1;
    let backfilled = parts.integer()?;
    let type_name = parts.text()?;
    let expires_at_ms = expiry(parts.integer()?);
    let etag = parts.text()?;
    let value = match type_name.as_str() {
        "none" => None,
        "string" | "hash" | "list" | "set" | "zset" | "stream" => Some(capture::value(&type_name, parts.parts()?)?),
        _ => None,
    };
    Ok((Look { fence, is_pending, type_name, expires_at_ms, etag, value }, backfilled))
}

/// Some elements of a collection as Redis holds them, with the fence of the same moment.
#[derive(Clone, Debug)]
pub struct ElementsLook {
    /// The fence.
    pub fence: Fence,
    /// Whether the record is marked.
    pub is_pending: bool,
    /// Its type; `none` when it is absent.
    pub type_name: String,
    /// The elements' values in the order asked; `None` for an element that is absent.
    pub elements: Vec<Option<Bytes>>,
}

/// One look at some elements of a collection of `kind`, and the backfill of the kind as [`look`] answers it.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn look_elements(
    redis: &Redis,
    kind: &str,
    key: &Key,
    names: &[Bytes],
) -> Result<(ElementsLook, i64), RedisError> {
    let mut args: Vec<&[u8]> = vec![kind.as_bytes(), b"elements"];
    args.extend(names.iter().map(|name| name.as_ref() as &[u8]));
    let mut parts = Parts::of(redis.script(&script::LOOK, &[key.as_bytes()], &args).await?)?;
    let fence = read_fence(&mut parts)?;
    let is_pending = parts.integer()? == 1;
    let backfilled = parts.integer()?;
    let type_name = parts.text()?;
    let (_expiry, _etag) = (parts.integer()?, parts.bytes()?);
    let mut found = parts.parts()?;
    let mut elements = Vec::with_capacity(names.len());
    for _ in names {
        let is_present = found.integer()? == 1;
        let value = found.next()?.as_bulk().cloned().unwrap_or_default();
        elements.push(is_present.then_some(value));
    }
    Ok((ElementsLook { fence, is_pending, type_name, elements }, backfilled))
}

/// Elements above which a collection is looked at in parts.
pub const LOOK_ELEMENTS_MAX: usize = 2_000;

/// A record among several that were looked at in one step.
#[derive(Clone, Debug)]
pub enum Seen {
    /// As a whole, or absent.
    Whole(Box<Look>),
    /// The call was full; ask again.
    Later,
    /// A log, or a large collection: to be looked at in parts.
    Parts(Header),
    /// Of a type without a value (modules).
    Module(String),
}

/// What is known of a record that is looked at in parts.
#[derive(Clone, Debug)]
pub struct Header {
    /// The fence.
    pub fence: Fence,
    /// Whether the record is marked.
    pub is_pending: bool,
    /// Its type.
    pub type_name: String,
    /// Its expiry, in milliseconds.
    pub expires_at_ms: Option<i64>,
}

/// Looks at several records in one step; each comes with the fence of that step.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn looks(redis: &Redis, wanted: &[(Key, Shape)]) -> Result<Vec<Seen>, RedisError> {
    let keys: Vec<&[u8]> = wanted.iter().map(|(key, _)| key.as_bytes()).collect();
    let (budget, elements) = (capture::CAPTURE_BYTES_MAX.to_string(), LOOK_ELEMENTS_MAX.to_string());
    let mut args: Vec<&[u8]> = vec![budget.as_bytes(), elements.as_bytes()];
    args.extend(wanted.iter().map(|(_, shape)| shape.code()));
    let mut parts = Parts::of(redis.script(&script::LOOKS, &keys, &args).await?)?;
    let fence = read_fence(&mut parts)?;
    let mut seen = Vec::with_capacity(wanted.len());
    for _ in wanted {
        let mut record = parts.parts()?;
        let state = record.text()?;
        let (is_pending, type_name, expires_at_ms) =
            (record.integer()? == 1, record.text()?, expiry(record.integer()?));
        seen.push(match state.as_str() {
            "later" => Seen::Later,
            "module" => Seen::Module(type_name),
            "parts" => Seen::Parts(Header { fence, is_pending, type_name, expires_at_ms }),
            "absent" | "value" => {
                let value = (state == "value").then(|| capture::value(&type_name, record.parts()?)).transpose()?;
                Seen::Whole(Box::new(Look { fence, is_pending, type_name, expires_at_ms, etag: String::new(), value }))
            }
            _ => return Err(RedisError::Form("unknown state of a record")),
        });
    }
    Ok(seen)
}

/// One page of a log as Redis holds it, with the fence of the same moment.
#[derive(Clone, Debug)]
pub struct LogPage {
    /// The fence.
    pub fence: Fence,
    /// Whether the record is marked.
    pub is_pending: bool,
    /// Its type; `none` when it is absent.
    pub type_name: String,
    /// The id of its oldest entry; empty without one.
    pub oldest: Bytes,
    /// Whether nothing follows.
    pub is_last: bool,
    /// Entries with their ids, oldest first.
    pub entries: Vec<StreamEntry>,
}

/// Entries of a log behind `after` (empty: from its beginning).
///
/// # Errors
/// When Redis cannot be reached.
pub async fn log_page(redis: &Redis, key: &Key, shape: Shape, after: &[u8]) -> Result<LogPage, RedisError> {
    let count = capture::CHUNK_ELEMENTS.to_string();
    let args: [&[u8]; 3] = [shape.code(), after, count.as_bytes()];
    let mut parts = Parts::of(redis.script(&script::LOG_PAGE, &[key.as_bytes()], &args).await?)?;
    Ok(LogPage {
        fence: read_fence(&mut parts)?,
        is_pending: parts.integer()? == 1,
        type_name: parts.text()?,
        oldest: parts.bytes()?,
        is_last: parts.integer()? == 1,
        entries: capture::entries(parts.parts()?)?,
    })
}

/// One page of the elements of a large collection: where to go on (`0` at the end), names and values. It has no fence: what
/// is made of it must be looked at again where it matters.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn elements_page(
    redis: &Redis,
    key: &Key,
    type_name: &str,
    cursor: &str,
) -> Result<(String, Vec<(Bytes, Bytes)>), RedisError> {
    let command = match type_name {
        "hash" => "HSCAN",
        "set" => "SSCAN",
        _ => "ZSCAN",
    };
    let count = capture::CHUNK_ELEMENTS.to_string();
    let words = [command.as_bytes(), key.as_bytes(), cursor.as_bytes(), b"COUNT", count.as_bytes()];
    let command = Command::new(words.map(Bytes::copy_from_slice));
    let mut parts = Parts::of(redis.command(command).await?)?;
    let next = parts.text()?;
    let found = parts.parts()?;
    let elements = if type_name == "set" {
        found.all_bytes()?.into_iter().map(|member| (member, Bytes::new())).collect()
    } else {
        found.all_pairs()?
    };
    Ok((next, elements))
}
