//! Redis fails over while not everybody is there to see it (rule L1): a frozen sidecar wakes behind the lift with captures of
//! the lineage before, and the replica that was promoted has a clock of its own.

use parallax::dev::servers::PrivateRedis;
use serde_json::json;

use crate::equality::{Load, ask, assert_equal, drained};
use crate::jobs::{begin, reaches};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, raw, standing, wait_until, waiting};

/// Makes `replica` a copy of `primary` that follows it no longer.
async fn is_left_behind(replica: &PrivateRedis, primary: &PrivateRedis, key: &str) {
    ask::<redis::Value>(replica, &["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).await;
    wait_until("the replica is in step", PATIENCE, || async { ask::<i64>(replica, &["EXISTS", key]).await == 1 }).await;
    ask::<redis::Value>(replica, &["REPLICAOF", "NO", "ONE"]).await;
}

/// Puts `replica` in the place of `primary`: from then on it answers where `primary` did.
async fn is_promoted(replica: &PrivateRedis, primary: &PrivateRedis) {
    let port = primary.port().to_string();
    primary.kill().unwrap();
    ask::<redis::Value>(replica, &["CONFIG", "SET", "port", &port]).await;
}

fn signal(sidecar: &Sidecar, name: &str) {
    let status = std::process::Command::new("kill").args([name, &sidecar.pid().to_string()]).status().unwrap();
    assert!(status.success());
}

async fn becomes_whole(sidecar: &Sidecar, redis: &PrivateRedis, database: &support::Database) {
    sidecar.backfill().await;
    let verified = reaches(sidecar, &begin(sidecar, json!({ "job": "verify", "kinds": ["*"] })).await, "done").await;
    assert_eq!(verified["report"]["differences"], json!({}), "{verified}");
    drained(redis).await;
    assert_equal(redis, database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_was_frozen_across_a_failover_wakes_behind_the_lift_and_brings_nothing_back() {
    let (primary, replica, database) = (support::redis().await, support::redis().await, support::postgres().await);
    let (frozen, awake) = (Sidecar::start(&primary, &database).await, Sidecar::start(&primary, &database).await);
    frozen.raise("dualwrite").await;
    frozen.command(&["SET", "user:before", "kept"]).await;
    frozen.drained().await;
    is_left_behind(&replica, &primary, "user:before").await;
    // It is stopped in the middle of an apply: captured, its control row held, not committed and not acknowledged.
    let client = database.client().await;
    client.batch_execute("BEGIN; SELECT 1 FROM users WHERE key = 'user:before' FOR UPDATE").await.unwrap();
    frozen.command(&["SET", "user:before", "of the old primary"]).await;
    awake.command(&["SET", "user:lost", "of the old primary"]).await;
    wait_until("an apply waits", PATIENCE, || async { waiting(&database).await > 0 }).await;
    signal(&frozen, "-STOP");
    client.batch_execute("ROLLBACK").await.unwrap();
    is_promoted(&replica, &primary).await;
    standing(&awake, "good").await;
    wait_until("the lift is done without it", PATIENCE, || async {
        !awake.get("/v1/gaps").await.json()["gaps"].as_array().is_none_or(Vec::is_empty)
    })
    .await;
    wait_until("the new primary is reached", PATIENCE, || async {
        awake.try_command(&["SET", "user:after", "of the new primary"], &[]).await.is_ok()
    })
    .await;
    signal(&frozen, "-CONT");
    // It had not noticed: its connections, captures and acknowledgements were of the primary that is gone.
    wait_until("it has noticed", PATIENCE, || async {
        frozen.try_command(&["GET", "user:after"], &[]).await == Ok(json!("of the new primary"))
    })
    .await;
    let mut load = Load::start(&frozen.data, 2, false);
    load.goes_on(20).await;
    drop(load.finish().await);
    drained(&primary).await;
    let lost: Option<String> = ask(&primary, &["GET", "user:lost"]).await;
    assert_eq!(lost, None, "what redis lost came back");
    let kept: String = ask(&primary, &["GET", "user:before"]).await;
    assert_eq!(kept, "kept", "what redis lost came back");
    becomes_whole(&awake, &primary, &database).await;
    let noise = ["the anchor names another run", "redis is lifted", "could not be", "redis changed once more", "lease"];
    frozen.stop_with(&[], &noise).await;
    awake.stop_with(&[], &noise).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_whose_clock_is_behind_gives_versions_above_all_that_were_given() {
    let (primary, replica, database) = (support::redis().await, support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&primary, &database).await;
    sidecar.raise("dualwrite").await;
    // The primary's clock is an hour ahead of the replica's: so are the versions that it has given.
    let ahead = (chrono::Utc::now() + chrono::Duration::hours(1)).timestamp_micros();
    raw(&primary, &format!("SET parallax:clock {ahead}")).await;
    sidecar.command(&["SET", "user:one", "first"]).await;
    sidecar.drained().await;
    is_left_behind(&replica, &primary, "user:one").await;
    sidecar.command(&["SET", "user:one", "lost"]).await;
    sidecar.command(&["SET", "user:two", "lost"]).await;
    sidecar.drained().await;
    let client = database.client().await;
    let version = async |key: &str| {
        let row = client.query_one("SELECT version FROM users WHERE key = $1", &[&key]).await.unwrap();
        row.get::<_, i64>(0)
    };
    let lost = version("user:two").await;
    assert!(lost > ahead);
    is_promoted(&replica, &primary).await;
    wait_until("the lift is done", PATIENCE, || async {
        sidecar.get("/v1/ghosts").await.json()["ghosts"].as_array().is_some_and(|ghosts| ghosts.len() == 2)
    })
    .await;
    standing(&sidecar, "good").await;
    wait_until("the new primary is reached", PATIENCE, || async {
        sidecar.try_command(&["SET", "user:one", "second"], &[]).await.is_ok()
    })
    .await;
    drained(&primary).await;
    assert!(version("user:one").await > lost, "a version below one that was given");
    let row = client.query_one("SELECT doc::text FROM users WHERE key = 'user:one'", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "\"second\"");
    becomes_whole(&sidecar, &primary, &database).await;
    sidecar.stop_with(&[], &["the anchor names another run", "redis is lifted", "could not be"]).await;
}
