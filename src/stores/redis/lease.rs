//! Leases and flags in Redis: how sidecars know what holds for all of them (S1-S4, L3).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::command::Command;
use crate::stores::redis::connection::{Redis, RedisError};
use crate::stores::redis::parts::{Parts, texts};
use crate::stores::redis::script::Scripts;
use crate::stores::redis::{AUDITS, BACKFILLED, FIGURES, SIDECARS, UNVERIFIABLE, script};

/// What a renewal of the lease answers.
#[derive(Clone, Debug, Default)]
pub struct Renewal {
    /// Redis' time, in milliseconds.
    pub now_ms: i64,
    /// The version of the flags.
    pub version: u64,
    /// Kind (or `*`) and its flag as JSON.
    pub flags: BTreeMap<String, String>,
    /// Kind and the epoch in which its backfill was committed.
    pub backfilled: BTreeMap<String, i64>,
    /// Kind and why its records cannot be verified.
    pub unverifiable: BTreeMap<String, String>,
    /// The epoch; -1 outside the lineage.
    pub epoch: i64,
    /// The run of the Redis that answered.
    pub run_id: String,
}

/// A sidecar as the fleet knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sidecar {
    /// When its lease ends, in milliseconds of Redis' time.
    pub lease_until: i64,
    /// The version of the flags under which all its commands run; 0 while it has confirmed none to this run of Redis.
    pub confirmed: u64,
    /// The run of Redis in which it renewed last.
    #[serde(default)]
    pub run: String,
    /// What it says of itself, an [`About`] as JSON.
    #[serde(default)]
    pub about: String,
}

/// What a sidecar says of itself with each renewal. A sidecar of another version may say more or less.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// The version of the program.
    pub version: String,
    /// Records that it has marked and not yet brought to Postgres.
    pub queued: usize,
    /// How long the oldest of them has waited, in milliseconds.
    pub lag_ms: u64,
    /// How many kinds stand in each stage, as it acts on them.
    pub stages: BTreeMap<String, usize>,
    /// Kinds that a rollback took out of stage live here before the flags said so.
    pub lowered: Vec<String>,
}

/// Renews the lease of `instance` and reads the flags. What it has confirmed, it has in `confirmed_run` of Redis.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn renew(
    redis: &Redis,
    instance: &str,
    lease_ms: u64,
    confirmed: u64,
    confirmed_run: &str,
    about: &About,
) -> Result<Renewal, RedisError> {
    let (lease, confirmed) = (lease_ms.to_string(), confirmed.to_string());
    let about = serde_json::to_string(about).expect("what a sidecar says of itself is always JSON");
    let args = [instance, &lease, &confirmed, confirmed_run, &about].map(str::as_bytes);
    let mut parts = Parts::of(redis.script(&script::RENEW, &[], &args).await?)?;
    let now_ms = parts.integer()?;
    let version = u64::try_from(parts.integer()?).unwrap_or(0);
    let mut flags = texts(parts.parts()?)?;
    flags.remove("version");
    let backfilled = texts(parts.parts()?)?;
    let backfilled = backfilled.into_iter().filter_map(|(kind, epoch)| Some((kind, epoch.parse().ok()?))).collect();
    let unverifiable = texts(parts.parts()?)?;
    let (epoch, run_id) = (parts.integer()?, parts.text()?);
    Ok(Renewal { now_ms, version, flags, backfilled, unverifiable, epoch, run_id })
}

/// The oldest audit row that Postgres may not have.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn next_audit(redis: &Redis) -> Result<Option<Bytes>, RedisError> {
    Ok(redis.command(Command::new(["LINDEX", AUDITS, "0"])).await?.as_bulk().cloned())
}

/// Takes an audit row away: Postgres has it.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn audit_written(redis: &Redis, row: &Bytes) -> Result<(), RedisError> {
    let parts =
        [Bytes::from_static(b"LREM"), Bytes::from_static(AUDITS.as_bytes()), Bytes::from_static(b"1"), row.clone()];
    redis.command(Command::new(parts)).await.map(drop)
}

/// Every sidecar that ever renewed a lease and has not said goodbye, and Redis' time in milliseconds. What a sidecar confirmed to
/// a run of Redis before this one says nothing any more (L3).
///
/// # Errors
/// When Redis cannot be reached.
pub async fn sidecars(redis: &Redis) -> Result<(i64, BTreeMap<String, Sidecar>), RedisError> {
    let commands = [Command::new(["TIME"]), Command::new(["HGETALL", SIDECARS])];
    let mut replies = redis.pipeline(&commands).await?.into_iter();
    let mut time = Parts::of(replies.next().ok_or(RedisError::Form("no time"))?)?;
    let now_ms = time.integer()? * 1000 + time.integer()? / 1000;
    let rows = texts(Parts::of(replies.next().ok_or(RedisError::Form("no sidecars"))?)?)?;
    // Asked for behind the rows: should the connection have changed in between, they are of an earlier run than this.
    let run = redis.server().await?.run_id;
    let parsed = rows.into_iter().filter_map(|(name, row)| {
        let row: Sidecar = serde_json::from_str(&row).ok()?;
        let confirmed = if row.run == run { row.confirmed } else { 0 };
        Some((name, Sidecar { confirmed, ..row }))
    });
    Ok((now_ms, parsed.collect()))
}

/// Takes a sidecar from the list: it has left in order, or its lease ended long ago.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn leave(redis: &Redis, instance: &str) -> Result<(), RedisError> {
    let gone = [SIDECARS, FIGURES].map(|hash| Command::new(["HDEL", hash, instance].map(str::to_owned)));
    redis.pipeline(&gone).await.map(drop)
}

/// Notes that a backfill of these kinds begins, so that an end of marking in between shows at its end.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn begin_backfill(redis: &Redis, kinds: &[String], job: &str) -> Result<(), RedisError> {
    let mut parts = vec!["HMSET".to_owned(), BACKFILLED.to_owned()];
    parts.extend(kinds.iter().flat_map(|kind| [format!("~{kind}"), job.to_owned()]));
    redis.command(Command::new(parts)).await.map(drop)
}

/// Kinds and the epoch in which the backfill of each was committed.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn backfilled(redis: &Redis) -> Result<BTreeMap<String, i64>, RedisError> {
    let noted = texts(Parts::of(redis.command(Command::new(["HGETALL", BACKFILLED])).await?)?)?;
    Ok(noted.into_iter().filter_map(|(kind, epoch)| Some((kind, epoch.parse().ok()?))).collect())
}

/// Notes that the backfill of these kinds was committed in `epoch`. Answers how many kinds that still holds for.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn note_backfilled(redis: &Redis, kinds: &[String], job: &str, epoch: i64) -> Result<i64, RedisError> {
    let epoch = epoch.to_string();
    let mut args: Vec<&[u8]> = vec![epoch.as_bytes(), job.as_bytes()];
    args.extend(kinds.iter().map(|kind| kind.as_bytes()));
    let noted = redis.script(&script::BACKFILLED, &[], &args).await?;
    noted.integer().ok_or(RedisError::Form("a count that is no number"))
}

/// Forgets the backfill of a kind: its writes were not marked for a time.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn forget_backfilled(redis: &Redis, kinds: &[String]) -> Result<(), RedisError> {
    let mut parts = vec!["HDEL".to_owned(), BACKFILLED.to_owned()];
    parts.extend(kinds.iter().flat_map(|kind| [kind.clone(), format!("~{kind}")]));
    redis.command(Command::new(parts)).await.map(drop)
}

/// Notes that writes reached a kind which no mark can follow.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn note_unverifiable(redis: &Redis, kind: &str, reason: &str) -> Result<(), RedisError> {
    redis.command(Command::new(["HSETNX", UNVERIFIABLE, kind, reason].map(str::to_owned))).await.map(drop)
}

/// Takes or keeps a lease that one sidecar at a time holds. Answers whether `instance` holds it now.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn lead(redis: &Redis, name: &str, instance: &str, lease_ms: u64) -> Result<bool, RedisError> {
    let lease = lease_ms.to_string();
    let held = redis.script(&script::HOLD, &[name.as_bytes()], &[instance.as_bytes(), lease.as_bytes()]).await?;
    Ok(held.integer() == Some(1))
}
