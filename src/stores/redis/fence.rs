//! The fence before a read from Postgres (R1), and the look that a verdict begins with (R2).

use bytes::Bytes;

use crate::model::key::Key;
use crate::model::value::Value;
use crate::stores::redis::capture;
use crate::stores::redis::connection::{Redis, RedisError};
use crate::stores::redis::parts::{Parts, expiry};
use crate::stores::redis::script;

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
pub async fn fence(redis: &Redis, keys: &[Key]) -> Result<(Fence, Vec<Standing>), RedisError> {
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

/// One look at a whole record.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn look(redis: &Redis, key: &Key) -> Result<Look, RedisError> {
    let mut parts = Parts::of(redis.script(&script::LOOK, &[key.as_bytes()], &[b"record"]).await?)?;
    let fence = read_fence(&mut parts)?;
    let is_pending = parts.integer()? == 1;
    let type_name = parts.text()?;
    let expires_at_ms = expiry(parts.integer()?);
    let etag = parts.text()?;
    let value = match type_name.as_str() {
        "none" => None,
        "string" | "hash" | "list" | "set" | "zset" | "stream" => Some(capture::value(&type_name, parts.parts()?)?),
        _ => None,
    };
    Ok(Look { fence, is_pending, type_name, expires_at_ms, etag, value })
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

/// One look at some elements of a collection.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn look_elements(redis: &Redis, key: &Key, names: &[Bytes]) -> Result<ElementsLook, RedisError> {
    let mut args: Vec<&[u8]> = vec![b"elements"];
    args.extend(names.iter().map(|name| name.as_ref() as &[u8]));
    let mut parts = Parts::of(redis.script(&script::LOOK, &[key.as_bytes()], &args).await?)?;
    let fence = read_fence(&mut parts)?;
    let is_pending = parts.integer()? == 1;
    let type_name = parts.text()?;
    let (_expiry, _etag) = (parts.integer()?, parts.bytes()?);
    let mut found = parts.parts()?;
    let mut elements = Vec::with_capacity(names.len());
    for _ in names {
        let is_present = found.integer()? == 1;
        let value = found.next()?.as_bulk().cloned().unwrap_or_default();
        elements.push(is_present.then_some(value));
    }
    Ok(ElementsLook { fence, is_pending, type_name, elements })
}
