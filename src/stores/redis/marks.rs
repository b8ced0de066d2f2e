//! Marks: setting them for repairs, removing them after a commit (A3), and counting what is owed.

use bytes::Bytes;

use crate::model::command::Command;
use crate::model::key::Key;
use crate::model::reply::Reply;
use crate::stores::redis::capture::Token;
use crate::stores::redis::connection::{Redis, RedisError};
use crate::stores::redis::parts::Parts;
use crate::stores::redis::script::Scripts;
use crate::stores::redis::{OUTBOX, script};

/// What is to be acknowledged of one record.
#[derive(Clone, Debug)]
pub enum Ack {
    /// A document.
    Document(Token),
    /// Touched elements: companion fields and tokens.
    Elements(Token, Vec<(Bytes, Bytes)>),
    /// A whole collection: companion fields and tokens as read before its first chunk.
    Whole(Token, Vec<(Bytes, Bytes)>),
    /// Entries of a log.
    Log {
        /// The mark; none in a backfill.
        token: Token,
        /// The id or counter reached; empty when nothing was.
        reached: Bytes,
        /// Digest or count.
        evidence: Bytes,
        /// Whether nothing more waits.
        is_complete: bool,
        /// Companion fields and tokens.
        touched: Vec<(Bytes, Bytes)>,
    },
}

/// Removes the marks of committed captures of one epoch. Answers how many went.
///
/// # Errors
/// When Redis cannot be reached, or the lineage is no longer that of the capture: then the marks stay.
pub async fn ack(redis: &Redis, epoch: i64, acks: &[(Key, Ack)]) -> Result<i64, RedisError> {
    if acks.is_empty() {
        return Ok(0);
    }
    let keys: Vec<&[u8]> = acks.iter().map(|(key, _)| key.as_bytes()).collect();
    let epoch = epoch.to_string();
    let mut args: Vec<Bytes> = vec![Bytes::from(epoch)];
    for (_, ack) in acks {
        push_ack(&mut args, ack);
    }
    let args: Vec<&[u8]> = args.iter().map(AsRef::as_ref).collect();
    let answer = redis.script(&script::ACK, &keys, &args).await?;
    answer.integer().ok_or(RedisError::Form("an ack without a count"))
}

fn push_ack(args: &mut Vec<Bytes>, ack: &Ack) {
    let mut push = |shape: &'static [u8], token: &Token, rest: Vec<Bytes>| {
        args.push(Bytes::from_static(shape));
        args.push(token.0.clone());
        args.push(Bytes::from(rest.len().to_string()));
        args.extend(rest);
    };
    let flat = |pairs: &[(Bytes, Bytes)]| pairs.iter().flat_map(|(a, b)| [a.clone(), b.clone()]).collect::<Vec<_>>();
    match ack {
        Ack::Document(token) => push(b"d", token, Vec::new()),
        Ack::Elements(token, tokens) => push(b"e", token, flat(tokens)),
        Ack::Whole(token, tokens) => push(b"w", token, flat(tokens)),
        Ack::Log { token, reached, evidence, is_complete, touched } => {
            let complete = Bytes::from_static(if *is_complete { b"1" } else { b"0" });
            let mut rest = vec![reached.clone(), evidence.clone(), complete];
            rest.extend(flat(touched));
            push(b"l", token, rest);
        }
    }
}

/// Marks records that owe a look, unless they are marked already. Answers how many were.
///
/// # Errors
/// When Redis cannot be reached or its anchor forbids it.
pub async fn repair(redis: &Redis, token: &str, keys: &[Key], only_absent: bool) -> Result<i64, RedisError> {
    if keys.is_empty() {
        return Ok(0);
    }
    let keys: Vec<&[u8]> = keys.iter().map(Key::as_bytes).collect();
    let flag: &[u8] = if only_absent { b"1" } else { b"0" };
    let answer = redis.script(&script::REPAIR, &keys, &[token.as_bytes(), flag]).await?;
    answer.integer().ok_or(RedisError::Form("a repair without a count"))
}

/// Marks records whose newest writes Redis has lost, each with a new token; collections (`true`) as a whole (L1).
///
/// # Errors
/// When Redis cannot be reached, or is not the run that the lift was begun on any more.
pub async fn mark_ghosts(redis: &Redis, run_id: &str, token: &str, keys: &[(Key, bool)]) -> Result<(), RedisError> {
    let mut args: Vec<&[u8]> = vec![run_id.as_bytes(), token.as_bytes()];
    args.extend(keys.iter().map(|(_, is_collection)| if *is_collection { b"c" as &[u8] } else { b"-" }));
    let keys: Vec<&[u8]> = keys.iter().map(|(key, _)| key.as_bytes()).collect();
    redis.script(&script::GHOSTS, &keys, &args).await.map(drop)
}

/// How many records are marked.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn depth(redis: &Redis) -> Result<i64, RedisError> {
    let length = redis.command(Command::new(["HLEN", OUTBOX])).await?;
    length.integer().ok_or(RedisError::Form("a length that is no number"))
}

/// One page of the outbox: the next cursor (`0` at the end) and marks.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn page(redis: &Redis, cursor: &str) -> Result<(String, Vec<(Key, Token)>), RedisError> {
    let mut parts =
        Parts::of(redis.command(Command::new(["HSCAN", OUTBOX, cursor, "COUNT", "500"].map(str::to_owned))).await?)?;
    let next = parts.text()?;
    let marks = parts.parts()?.all_pairs()?;
    Ok((next, marks.into_iter().map(|(key, token)| (Key::new(key), Token(token))).collect()))
}

/// The next cursor and the keys of a `SCAN` reply.
///
/// # Errors
/// When it has another form.
pub fn scanned(reply: Reply) -> Result<(String, Vec<Key>), RedisError> {
    let mut parts = Parts::of(reply)?;
    let next = parts.text()?;
    Ok((next, parts.parts()?.all_bytes()?.into_iter().map(Key::new).collect()))
}
