//! Redis comes back empty while Postgres has rows (rules C1, L2, L3): nothing is taken for deleted, nothing is captured,
//! writes go on and are marked, and the flags come back.

use parallax::dev::servers::PrivateRedis;
use serde_json::json;

use crate::equality::{ask, marks};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, Database, wait_until};

/// Rows of users that are alive, and that are not.
async fn users(database: &Database) -> (i64, i64) {
    let query = "SELECT count(*) FILTER (WHERE deleted_at IS NULL AND gone_at IS NULL),
        count(*) FILTER (WHERE deleted_at IS NOT NULL OR gone_at IS NOT NULL) FROM users";
    let row = database.client().await.query_one(query, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

async fn is_emptied(redis: &PrivateRedis) {
    redis.stop().await.unwrap();
    redis.restart().await.unwrap();
    assert_eq!(ask::<i64>(redis, &["EXISTS", "user:0"]).await, 0, "it kept its data");
}

async fn standing(sidecar: &Sidecar) -> String {
    sidecar.get("/v1/status").await.json()["lineage"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_empty_deletes_nothing_in_postgres() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start_with(&redis, Some(&database), &[("PARALLAX_DRAIN_DEADLINE_MS", "300")]).await;
    sidecar.raise("live").await;
    for n in 0..20 {
        sidecar.command(&["SET", &format!("user:{n}"), "{}"]).await;
    }
    sidecar.drained().await;
    assert_eq!(users(&database).await, (20, 0));
    let version = sidecar.get("/v1/flags").await.json()["version"].as_u64().unwrap();

    is_emptied(&redis).await;
    wait_until("the loss is seen", PATIENCE, || async { standing(&sidecar).await == "redis_lost" }).await;
    wait_until("the flags are back in redis", PATIENCE, || async {
        ask::<Option<u64>>(&redis, &["HGET", "parallax:flags", "version"]).await >= Some(version)
    })
    .await;
    // A delete and a write of what is not there any more, and a read: Redis answers as it is, and no row follows.
    // A connection that broke may cost the first command on it its answer, and only that.
    wait_until("redis is reached again", PATIENCE, || async {
        sidecar.try_command(&["DEL", "user:1"], &[]).await == Ok(json!(0))
    })
    .await;
    assert_eq!(sidecar.command(&["SET", "user:2", "anew"]).await, "OK");
    let read = sidecar.ask(&["GET", "user:3"], &[]).await;
    assert_eq!((read.json()["result"].clone(), read.header("parallax-source")), (json!(null), Some("redis")));
    wait_until("a capture is refused", PATIENCE, || async {
        sidecar.metric("parallax_capture_refused_total", &[("reason", "no_anchor")]).await >= 1.0
    })
    .await;
    assert!(marks(&redis).await >= 1, "what is written is marked, for the time after the restore");
    assert_eq!(ask::<i64>(&redis, &["HEXISTS", "parallax:outbox", "user:2"]).await, 1);
    assert_eq!(users(&database).await, (20, 0), "a row was taken for deleted");
    let refused = sidecar.admin("POST", "/v1/jobs", Some(json!({ "job": "backfill", "kinds": ["user"] })), &[]).await;
    let path = format!("/v1/jobs/{}", refused.json()["id"].as_str().unwrap_or_default());
    wait_until("a backfill fails", PATIENCE, || async { sidecar.get(&path).await.json()["state"] == "failed" }).await;
    assert_eq!(users(&database).await, (20, 0), "a backfill took a row for deleted");
    let lost = ["redis was lost", "flags were written back", "left with marks", "the backfill failed"];
    sidecar.stop_with(&lost, &["could not be renewed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flags_of_a_lost_redis_come_back_from_postgres_when_no_sidecar_knows_them() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("shadow").await;
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    sidecar.command(&["SET", "user:0", "{}"]).await;
    sidecar.drained().await;
    let before = sidecar.get("/v1/flags").await.json();
    let client = database.client().await;
    wait_until("the copy is in postgres", PATIENCE, || async {
        let row = client.query_one("SELECT max(version) FROM flag_changes", &[]).await.unwrap();
        row.get::<_, Option<i64>>(0) == before["version"].as_i64()
    })
    .await;
    sidecar.kill().await;
    is_emptied(&redis).await;
    let successor = Sidecar::start(&redis, &database).await;
    let after = successor.get("/v1/flags").await.json();
    assert!(after["version"].as_u64() >= before["version"].as_u64(), "{after}");
    let stages = |report: &serde_json::Value| {
        let stage = |kind: &serde_json::Value| (kind["kind"].clone(), kind["flag"]["stage"].clone());
        report["kinds"].as_array().unwrap().iter().map(stage).collect::<Vec<_>>()
    };
    assert_eq!(stages(&after), stages(&before));
    assert_eq!(standing(&successor).await, "redis_lost");
    assert_eq!(users(&database).await, (1, 0));
    successor.stop_with(&["brought back from postgres", "redis was lost"], &[]).await;
}
