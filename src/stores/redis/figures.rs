//! What each sidecar has counted, in Redis: so that one of them can judge the fleet.

use std::collections::BTreeMap;

use crate::model::command::Command;
use crate::stores::redis::FIGURES;
use crate::stores::redis::connection::{Redis, RedisError};
use crate::stores::redis::parts::{Parts, texts};

/// Keeps what `instance` has counted in the place of what it had counted before.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn keep(redis: &Redis, instance: &str, figures: &str) -> Result<(), RedisError> {
    redis.command(Command::new(["HMSET", FIGURES, instance, figures].map(str::to_owned))).await.map(drop)
}

/// Sidecars and what they have counted.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn all(redis: &Redis) -> Result<BTreeMap<String, String>, RedisError> {
    texts(Parts::of(redis.command(Command::new(["HGETALL", FIGURES])).await?)?)
}
