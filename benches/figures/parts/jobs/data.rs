//! What the jobs are measured on: usage counters that expire and API keys that do not, as the relay keeps them.

use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

use crate::parts::apply::TOKENS;

/// An unoptimised build measures nothing: then the part only shows that it works.
const SHARE: usize = if cfg!(debug_assertions) { 100 } else { 1 };
/// Usage counters.
pub(super) const USAGE: usize = 300_000 / SHARE;
/// API keys.
pub(super) const API_KEYS: usize = 10_000 / SHARE;
/// Both.
pub(super) const KEYS: usize = USAGE + API_KEYS;
/// Keys of the run that looks at the memory of a job.
pub(super) const MANY: usize = 1_000_000 / SHARE;
/// Commands in one pipeline.
const PIPELINE: usize = 1_000;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// When usage counters expire, in milliseconds: long after every run.
const EXPIRES_AT_MS: i64 = 4_000_000_000_000;

/// The key of a usage counter.
pub(super) fn usage_key(number: usize) -> String {
    format!("usage:daily:key-{}:2026-01-{:02}", number / 28, 1 + number % 28)
}

/// The key of an API key.
pub(super) fn api_key(number: usize) -> String {
    format!("apikey:00000000-0000-4000-8000-{number:012}")
}

/// The fields of a usage counter.
pub(super) fn usage_fields(number: usize) -> Vec<(String, String)> {
    TOKENS.iter().enumerate().map(|(at, name)| ((*name).to_owned(), (number * 7 + at).to_string())).collect()
}

fn api_key_fields(number: usize) -> Vec<(String, String)> {
    let named = [("id", api_key(number)), ("name", format!("key {number}")), ("isActive", "true".to_owned())];
    let plain = (0..27).map(|field| (format!("setting{field}"), format!("value {field} of {number}")));
    named.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(plain).collect()
}

/// A connection that waits for the answers of long pipelines.
pub(super) async fn connect(url: String) -> anyhow::Result<MultiplexedConnection> {
    let patient = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    Ok(redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&patient).await?)
}

/// Fills a Redis with `usage` counters and `api_keys` API keys, as a bare pipelined restore would: whole hashes with their
/// expiry, as fast as one connection takes them.
pub(super) async fn fill(redis: &mut MultiplexedConnection, usage: usize, api_keys: usize) -> anyhow::Result<()> {
    let mut pipeline = redis::pipe();
    let mut waiting = 0;
    for number in 0..usage + api_keys {
        if number < usage {
            let key = usage_key(number);
            pipeline.hset_multiple(&key, &usage_fields(number)).ignore();
            pipeline.cmd("PEXPIREAT").arg(&key).arg(EXPIRES_AT_MS).ignore();
        } else {
            pipeline.hset_multiple(api_key(number - usage), &api_key_fields(number - usage)).ignore();
        }
        waiting += 1;
        if waiting == PIPELINE {
            let () = pipeline.query_async(redis).await?;
            pipeline = redis::pipe();
            waiting = 0;
        }
    }
    if waiting > 0 {
        let () = pipeline.query_async(redis).await?;
    }
    Ok(())
}
