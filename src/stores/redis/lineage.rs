//! The anchor and the heartbeat: which Redis and which Postgres we stand on (C1, L2, P1).

use crate::model::command::Command;
use crate::model::reply::Reply;
use crate::stores::redis::connection::{Redis, RedisError};
use crate::stores::redis::parts::Parts;
use crate::stores::redis::script::Scripts;
use crate::stores::redis::{ANCHOR, CLOCK, POSTGRES, script};

/// The anchor as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The server run that versions belong to.
    pub run_id: String,
    /// The epoch.
    pub epoch: i64,
}

/// Which Postgres this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postgres {
    /// The system identifier of the cluster.
    pub system: String,
    /// The timeline it writes.
    pub timeline: String,
    /// The heartbeat: a counter committed in Postgres, then noted in Redis.
    pub beat: i64,
}

/// The anchor, and the Postgres that Redis knows; `None` where there is none.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn read(redis: &Redis) -> Result<(Option<Anchor>, Option<Postgres>), RedisError> {
    let commands = [
        Command::new(["HMGET", ANCHOR, "run_id", "epoch"]),
        Command::new(["HMGET", POSTGRES, "system", "timeline", "beat"]),
    ];
    let mut replies = redis.pipeline(&commands).await?.into_iter();
    let mut parts = Parts::of(replies.next().ok_or(RedisError::Form("no anchor"))?)?;
    let (run_id, epoch) = (parts.text()?, parts.integer()?);
    let mut parts = Parts::of(replies.next().ok_or(RedisError::Form("no postgres"))?)?;
    let (system, timeline, beat) = (parts.text()?, parts.text()?, parts.integer()?);
    let anchor = (!run_id.is_empty()).then_some(Anchor { run_id, epoch });
    let postgres = (!system.is_empty()).then_some(Postgres { system, timeline, beat });
    Ok((anchor, postgres))
}

/// Writes the anchor: the first one, or a newer epoch in the same run. Answers whether it was written.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn anchor(redis: &Redis, epoch: i64, clock_min: i64, postgres: &Postgres) -> Result<bool, RedisError> {
    let numbers = [epoch, clock_min, postgres.beat].map(|number| number.to_string());
    let [epoch, clock, beat] = &numbers;
    let args: [&[u8]; 5] =
        [epoch.as_bytes(), clock.as_bytes(), postgres.system.as_bytes(), postgres.timeline.as_bytes(), beat.as_bytes()];
    Ok(redis.script(&script::ANCHOR, &[], &args).await? == Reply::bulk("1"))
}

/// Notes a committed heartbeat. Answers whether this is the Postgres that Redis knows.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn beat(redis: &Redis, postgres: &Postgres) -> Result<bool, RedisError> {
    let beat = postgres.beat.to_string();
    let args: [&[u8]; 3] = [postgres.system.as_bytes(), postgres.timeline.as_bytes(), beat.as_bytes()];
    Ok(redis.script(&script::BEAT, &[], &args).await? == Reply::bulk("1"))
}

/// Takes from the anchor the run that it names, where that is not the run that answers: should Redis fail over back to that
/// process before the lift is done, the anchor must not fit it again.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn disown(redis: &Redis) -> Result<(), RedisError> {
    redis.script(&script::DISOWN, &[], &[]).await.map(drop)
}

/// The last version that this Redis remembers to have given; 0 when it remembers none.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn clock(redis: &Redis) -> Result<i64, RedisError> {
    let answer = redis.command(Command::new(["GET", CLOCK])).await?;
    let text = answer.as_bulk().and_then(|text| std::str::from_utf8(text).ok());
    Ok(text.and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// Ends a lift: clock and anchor in one step. Answers whether they were written.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn lift(
    redis: &Redis,
    run_id: &str,
    epoch: i64,
    clock_min: i64,
    postgres: &Postgres,
) -> Result<bool, RedisError> {
    let numbers = [epoch, clock_min, postgres.beat].map(|number| number.to_string());
    let [epoch, clock, beat] = &numbers;
    let args: [&[u8]; 6] = [
        run_id.as_bytes(),
        epoch.as_bytes(),
        clock.as_bytes(),
        postgres.system.as_bytes(),
        postgres.timeline.as_bytes(),
        beat.as_bytes(),
    ];
    Ok(redis.script(&script::LIFT, &[], &args).await? == Reply::bulk("1"))
}
