//! The backfill as a job: it counts before it writes, asks for what it needs, and begins anew when Redis restarted.

use parallax::dev::servers::{PostgresOptions, PrivatePostgres, RedisOptions};
use serde_json::json;

use crate::jobs::{begin, job, plant, program, reaches};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, raw, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_counts_and_changes_nothing() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    sidecar.flag("apikey", json!({ "stage": "dualwrite" })).await;
    plant(&redis, 300).await;
    raw(&redis, "HSET apikey:one name first").await;
    let spec = json!({ "job": "backfill", "kinds": ["user", "apikey"], "dry_run": true });
    let done = reaches(&sidecar, &begin(&sidecar, spec).await, "done").await;
    assert_eq!(done["report"]["records"], json!({ "user": 300, "apikey": 1 }));
    let rows = database.client().await.query_one("SELECT count(*) FROM users", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 0);
    sidecar.flag("user", json!({ "stage": "shadow" })).await;
    assert_eq!(sidecar.try_flag("user", json!({ "stage": "live" })).await.status, 409, "counted is not backfilled");
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_begins_anew_when_redis_restarted() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    plant(&redis, 2_000).await;
    let spec = json!({ "job": "backfill", "kinds": ["user"], "pace": { "keys_per_second": 500 } });
    let id = begin(&sidecar, spec).await;
    wait_until("it gets on", PATIENCE, || async { job(&sidecar, &id).await["seen"].as_u64() > Some(400) }).await;
    raw(&redis, "SAVE").await;
    redis.kill().unwrap();
    redis.restart().await.unwrap();
    let done = reaches(&sidecar, &id, "done").await;
    assert!(done["seen"].as_u64() >= Some(4_400), "it did not begin anew: {done}");
    let rows = database.client().await.query_one("SELECT count(*) FROM users", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 2_000);
    sidecar.flag("user", json!({ "stage": "shadow" })).await;
    sidecar.flag("user", json!({ "stage": "live" })).await;
    sidecar.stop_with(&["the anchor names another run", "redis is lifted"], &["could not be renewed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_cannot_run_says_what_to_do() {
    let options =
        RedisOptions { config: vec![("maxmemory-policy".to_owned(), "allkeys-lru".to_owned())], ..Default::default() };
    let redis = parallax::dev::servers::PrivateRedis::start(options).await.unwrap();
    let database = support::postgres().await;
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    let refused = sidecar.admin("POST", "/v1/jobs", Some(json!({ "job": "backfill", "kinds": ["*"] })), &[]).await;
    let told = refused.json()["detail"].as_str().unwrap_or_default().to_owned();
    assert!(refused.status == 409 && told.contains("allkeys-lru") && told.contains("allow_eviction"), "{told}");
    let spec = json!({ "job": "backfill", "kinds": ["*"], "allow_eviction": true });
    reaches(&sidecar, &begin(&sidecar, spec).await, "done").await;
    let unknown = sidecar.admin("POST", "/v1/jobs", Some(json!({ "job": "backfill", "kinds": ["usr"] })), &[]).await;
    assert_eq!(unknown.status, 404, "{:?}", unknown.body);

    // A Postgres without the schema.
    let empty = PrivatePostgres::start(PostgresOptions::default()).await.unwrap();
    let mut command = program(&redis, &database, &["backfill"]);
    let output = command.env("DATABASE_URL", empty.url()).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("parallax migrate"), "{said}");
    let output = program(&redis, &database, &["backfill", "--keys-per-second", "0"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("keys_per_second must be at least 1"), "{said}");
    sidecar.stop_expecting(&["maxmemory-policy is allkeys-lru"]).await;
}
