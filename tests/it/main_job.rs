//! The main job, end to end: a write, its committed row, a comparison, a flip, a rollback.

use serde_json::json;

use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, wait_until};

const KEY: &str = "apikey:3f2b8c1e-6a4d-4c57-9d1e-0a1b2c3d4e5f";

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_mirrored_compared_read_from_postgres_and_taken_back() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    assert_eq!(sidecar.command(&["HSET", KEY, "name", "first", "isActive", "true"]).await, 2);
    sidecar.drained().await;
    let row = database.client().await.query_one("SELECT name, is_active FROM api_keys WHERE key = $1", &[&KEY]).await;
    let row = row.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, bool>(1)), ("first", true));

    sidecar.flag("*", json!({ "stage": "shadow", "sample_rate": 1.0 })).await;
    sidecar.command(&["HGETALL", KEY]).await;
    wait_until("the read is compared", PATIENCE, || async {
        sidecar.metric("parallax_comparisons_total", &[("verdict", "match")]).await >= 1.0
    })
    .await;

    sidecar.backfill().await;
    sidecar.flag("*", json!({ "stage": "live", "percent": 100.0, "deadline_ms": 5000 })).await;
    let answer = sidecar.ask(&["HGET", KEY, "name"], &[]).await;
    assert_eq!(answer.json()["result"], "first");
    assert_eq!(answer.header("parallax-source"), Some("postgres"));

    let report = sidecar.admin("POST", "/v1/rollback", Some(json!({ "scope": "*", "reason": "a story" })), &[]).await;
    assert_eq!(report.json()["waiting"], json!([]));
    let answer = sidecar.ask(&["HGET", KEY, "name"], &[]).await;
    assert_eq!(answer.header("parallax-source"), Some("redis"));
    assert_eq!(sidecar.metric("parallax_mismatches_total", &[]).await, 0.0);
    let refused = sidecar.try_flag("*", json!({ "stage": "live" })).await;
    assert_eq!(refused.status, 409, "latched until somebody resumes with a reason");
    sidecar.stop_expecting(&[]).await;
}
