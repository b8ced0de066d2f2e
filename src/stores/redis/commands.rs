//! What the server counts of all its clients: calls by command, with what must be known in the same step.

use std::collections::BTreeMap;

use crate::model::command::Command;
use crate::model::reply::Reply;
use crate::stores::redis::connection::{Redis, RedisError};
use crate::stores::redis::{CLOCK, UNWATCHED};

/// What a server has counted, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Calls by name.
    pub calls: BTreeMap<String, u64>,
    /// The last version given.
    pub clock: i64,
    /// How often our own scripts said that they called what is watched.
    pub unwatched: String,
    /// The run of the server that counted.
    pub run_id: String,
}

/// What the server has counted.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn counted(redis: &Redis) -> Result<Counted, RedisError> {
    let asked = [
        Command::new(["MULTI"]),
        Command::new(["INFO", "commandstats"]),
        Command::new(["MGET", CLOCK, UNWATCHED]),
        Command::new(["EXEC"]),
    ];
    let replies = redis.pipeline(&asked).await?;
    let run_id = redis.server().await?.run_id;
    let parts = replies.last().and_then(Reply::as_array).ok_or(RedisError::Form("no counts"))?;
    let [info, known] = parts else { return Err(RedisError::Form("no counts")) };
    let text = info.as_bulk().ok_or(RedisError::Form("no commandstats"))?;
    let known: Vec<String> = known
        .as_array()
        .unwrap_or_default()
        .iter()
        .map(|value| value.as_bulk().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default())
        .collect();
    let [clock, unwatched] = known.as_slice() else { return Err(RedisError::Form("no clock")) };
    Ok(Counted {
        calls: calls(&String::from_utf8_lossy(text)),
        clock: clock.parse().unwrap_or(0),
        unwatched: unwatched.clone(),
        run_id,
    })
}

/// `cmdstat_hset:calls=3,usec=..` by line.
fn calls(info: &str) -> BTreeMap<String, u64> {
    let call = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    info.lines().filter_map(call).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_by_name() {
        let info =
            "# Commandstats\r\ncmdstat_hset:calls=3,usec=9\r\ncmdstat_config|get:calls=1,usec=2\r\nother:calls=4\r\n";
        let expected = BTreeMap::from([("hset".to_owned(), 3), ("config|get".to_owned(), 1)]);
        assert_eq!(calls(info), expected);
    }
}
