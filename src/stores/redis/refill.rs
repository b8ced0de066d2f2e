//! Refills: records that go back to a Redis that was lost, never over anything that is there (L2); and, on an operator's
//! word, over what is there.

use bytes::Bytes;

use crate::model::key::Key;
use crate::model::value::Value;
use crate::stores::redis::capture::Shape;
use crate::stores::redis::connection::{Redis, RedisError};
use crate::stores::redis::parts::Parts;
use crate::stores::redis::script::Scripts;
use crate::stores::redis::{REFILL_PREFIX, script};

/// What became of a refill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refill {
    /// It is there again.
    Filled,
    /// The key is there and has no mark.
    Present,
    /// The key was written or deleted meanwhile.
    Marked,
    /// It is not what was looked at any more.
    Changed,
    /// Its time was over.
    Expired,
}

fn outcome(text: &str) -> Result<Refill, RedisError> {
    match text {
        "filled" => Ok(Refill::Filled),
        "present" => Ok(Refill::Present),
        "marked" => Ok(Refill::Marked),
        "changed" => Ok(Refill::Changed),
        "expired" => Ok(Refill::Expired),
        _ => Err(RedisError::Form("an unknown outcome of a refill")),
    }
}

/// A document that goes back.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its key.
    pub key: Key,
    /// Its value.
    pub value: Value,
    /// Its expiry, in milliseconds.
    pub expires_at_ms: Option<i64>,
}

/// Refills documents in one step.
///
/// # Errors
/// When Redis cannot be reached, is not the run of the restore any more, or has an anchor again (`LINEAGE`).
pub async fn documents(redis: &Redis, run_id: &str, documents: &[Document]) -> Result<Vec<Refill>, RedisError> {
    if documents.is_empty() {
        return Ok(Vec::new());
    }
    let mut args: Vec<Bytes> = vec![Bytes::copy_from_slice(run_id.as_bytes())];
    for document in documents {
        let parts = flat(&document.value);
        args.push(Bytes::from_static(document.value.type_name().as_bytes()));
        args.push(expiry(document.expires_at_ms));
        args.push(parts.len().to_string().into());
        args.extend(parts);
    }
    let keys: Vec<&[u8]> = documents.iter().map(|document| document.key.as_bytes()).collect();
    let args: Vec<&[u8]> = args.iter().map(AsRef::as_ref).collect();
    let mut answers = Parts::of(redis.script(&script::REFILL, &keys, &args).await?)?;
    documents.iter().map(|_| outcome(&answers.text()?)).collect()
}

/// A record that is written over what Redis holds.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// What goes there.
    pub document: Document,
    /// The `ETag` of what was looked at; that of nothing where the key was absent.
    pub seen_etag: String,
    /// Its expiry.
    pub seen_expires_at_ms: Option<i64>,
    /// Its shape, since a collection is marked whole.
    pub shape: Shape,
}

/// Writes over records that are still what was looked at and have no mark, each with a mark of its own.
///
/// # Errors
/// When Redis cannot be reached, is not the run of `epoch` any more, or has no memory left.
pub async fn overwrite(
    redis: &Redis,
    epoch: i64,
    token: &str,
    replacements: &[Replacement],
) -> Result<Vec<Refill>, RedisError> {
    if replacements.is_empty() {
        return Ok(Vec::new());
    }
    let mut args: Vec<Bytes> = vec![epoch.to_string().into(), Bytes::copy_from_slice(token.as_bytes())];
    for replacement in replacements {
        let (document, parts) = (&replacement.document, flat(&replacement.document.value));
        args.push(replacement.seen_etag.clone().into());
        args.push(expiry(replacement.seen_expires_at_ms));
        args.push(Bytes::from_static(if replacement.shape == Shape::Collection { b"c" } else { b"-" }));
        args.push(Bytes::from_static(document.value.type_name().as_bytes()));
        args.push(expiry(document.expires_at_ms));
        args.push(parts.len().to_string().into());
        args.extend(parts);
    }
    let keys: Vec<&[u8]> = replacements.iter().map(|replacement| replacement.document.key.as_bytes()).collect();
    let args: Vec<&[u8]> = args.iter().map(AsRef::as_ref).collect();
    let mut answers = Parts::of(redis.script(&script::OVERWRITE, &keys, &args).await?)?;
    replacements.iter().map(|_| outcome(&answers.text()?)).collect()
}

fn expiry(expires_at_ms: Option<i64>) -> Bytes {
    expires_at_ms.unwrap_or(-1).to_string().into()
}

fn flat(value: &Value) -> Vec<Bytes> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Hash(fields) => fields.iter().flat_map(|(name, value)| [name.clone(), value.clone()]).collect(),
        Value::List(items) => items.clone(),
        Value::Set(members) => members.iter().cloned().collect(),
        Value::Zset(members) => members.iter().flat_map(|(name, score)| [name.clone(), score.text().clone()]).collect(),
        Value::Stream(entries) => entries.iter().flat_map(|(id, words)| entry(id, words)).collect(),
    }
}

/// An entry of a stream: id, number of words, and these.
#[must_use]
pub fn entry(id: &Bytes, words: &[Bytes]) -> Vec<Bytes> {
    let mut parts = vec![id.clone(), words.len().to_string().into()];
    parts.extend(words.iter().cloned());
    parts
}

/// Where a collection or log is gathered until it is whole.
fn beside(key: &Key) -> Vec<u8> {
    [REFILL_PREFIX.as_bytes(), key.as_bytes()].concat()
}

/// Which part of a collection is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Whatever an earlier try left is thrown away.
    First,
    /// It goes on.
    Further,
}

/// Gathers a part of a collection or log.
///
/// # Errors
/// As [`documents`].
pub async fn part(
    redis: &Redis,
    run_id: &str,
    key: &Key,
    command: &str,
    part: Part,
    words: &[Bytes],
) -> Result<(), RedisError> {
    let first: &[u8] = if part == Part::First { b"1" } else { b"0" };
    let mut args: Vec<&[u8]> = vec![run_id.as_bytes(), command.as_bytes(), first];
    args.extend(words.iter().map(|word| word.as_ref() as &[u8]));
    redis.script(&script::REFILL_PART, &[&beside(key)], &args).await.map(drop)
}

/// Puts what was gathered into its place. `newest` is the id of a log's newest entry.
///
/// # Errors
/// As [`documents`].
pub async fn end(
    redis: &Redis,
    run_id: &str,
    key: &Key,
    expires_at_ms: Option<i64>,
    newest: Option<&str>,
    shape: Shape,
) -> Result<Refill, RedisError> {
    let expires = expiry(expires_at_ms);
    let args: [&[u8]; 4] = [run_id.as_bytes(), &expires, newest.unwrap_or_default().as_bytes(), shape.code()];
    let answer = redis.script(&script::REFILL_END, &[key.as_bytes(), &beside(key)], &args).await?;
    let text = Parts::of(crate::model::reply::Reply::Array(vec![answer]))?.text()?;
    outcome(&text)
}
