//! What `/metrics` says while things happen: an operator must be able to follow a write, a read and an outage by it alone.

use std::process::{Command, Stdio};

use parallax::dev::servers::PostgresOptions;
use serde_json::json;

use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, wait_until};

async fn sum(sidecar: &Sidecar, name: &str, labels: &[(&str, &str)]) -> f64 {
    sidecar.metric(&format!("parallax_{name}"), labels).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_and_its_reads_can_be_followed_by_the_metrics() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("live").await;
    let rows = [("table", "api_keys")];
    for n in 0..20 {
        sidecar.command(&["HSET", &format!("apikey:{n}"), "name", "x"]).await;
    }
    sidecar.drained().await;
    assert_eq!(sum(&sidecar, "writes_total", &[("kind", "apikey")]).await, 20.0);
    assert_eq!(sum(&sidecar, "row_upserts_total", &rows).await, 20.0);
    assert_eq!(sum(&sidecar, "mirror_lag_seconds_count", &[("kind", "apikey")]).await, 20.0);
    let lag = sum(&sidecar, "mirror_lag_seconds_sum", &[("kind", "apikey")]).await;
    assert!(lag > 0.0 && lag < 20.0 * 10.0, "{lag}");
    assert!(sum(&sidecar, "captures_total", &[]).await >= 1.0);

    // Coalesced: many writes of one record are few rows.
    let increments: Vec<Vec<String>> =
        (0..200).map(|_| ["HINCRBY", "usage:total-1", "requests", "1"].map(str::to_owned).to_vec()).collect();
    sidecar.pipeline(&increments).await;
    sidecar.drained().await;
    assert_eq!(sum(&sidecar, "writes_total", &[("kind", "usage_total")]).await, 200.0);
    let upserts = sum(&sidecar, "row_upserts_total", &[("table", "usage_counters")]).await;
    assert!((1.0..=20.0).contains(&upserts), "{upserts}");

    let reads = async |store: &str, reason: &str| {
        sum(&sidecar, "reads_total", &[("kind", "apikey"), ("store", store), ("reason", reason)]).await
    };
    sidecar.command(&["HGET", "apikey:1", "name"]).await;
    sidecar.command(&["HGET", "apikey:nobody", "name"]).await;
    sidecar.command(&["GET", "session:x"]).await;
    assert_eq!((reads("postgres", "live").await, reads("redis", "absent_in_redis").await), (1.0, 1.0));
    sidecar.flag("apikey", json!({ "percent": 0.0 })).await;
    sidecar.command(&["HGET", "apikey:1", "name"]).await;
    assert_eq!(reads("redis", "percent").await, 1.0);
    sidecar.flag("apikey", json!({ "stage": "shadow" })).await;
    sidecar.command(&["HGET", "apikey:1", "name"]).await;
    assert_eq!(reads("redis", "stage").await, 1.0);
    wait_until("the reads are compared", PATIENCE, || async {
        sum(&sidecar, "comparisons_total", &[("kind", "apikey"), ("verdict", "match")]).await >= 4.0
    })
    .await;
    assert_eq!(sum(&sidecar, "mismatches_total", &[]).await, 0.0);
    for (kind, stage) in [("apikey", 2.0), ("usage_total", 3.0)] {
        assert_eq!(sum(&sidecar, "stage", &[("kind", kind)]).await, stage, "{kind}");
    }
    let operations =
        [("redis", "write"), ("redis", "read"), ("redis", "fence"), ("postgres", "apply"), ("postgres", "read")];
    for (store, operation) in operations {
        let labels = [("store", store), ("operation", operation)];
        assert!(sum(&sidecar, "store_latency_seconds_count", &labels).await >= 1.0, "{store} {operation}");
    }
    sidecar.ask(&["FLUSHALL"], &[]).await;
    sidecar.ask(&["GET", "apikey:1"], &[]).await;
    for (result, least) in [("ok", 224.0), ("refused", 1.0), ("error", 1.0)] {
        assert!(sum(&sidecar, "commands_total", &[("door", "http"), ("result", result)]).await >= least, "{result}");
    }
    wait_until("the pool is told", PATIENCE, || async { sum(&sidecar, "postgres_pool_size", &[]).await >= 1.0 }).await;
    assert_eq!((sum(&sidecar, "lease_valid", &[]).await, sum(&sidecar, "store_errors_total", &[]).await), (1.0, 0.0));
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_postgres_shows_and_goes() {
    let redis = support::redis().await;
    let database = support::postgres_of_its_own(PostgresOptions::default()).await;
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("live").await;
    sidecar.command(&["HSET", "apikey:a", "name", "x"]).await;
    sidecar.drained().await;
    database.server.stop().await.unwrap();
    for n in 0..30 {
        sidecar.command(&["HSET", &format!("apikey:{n}"), "name", "x"]).await;
    }
    wait_until("the debt shows", PATIENCE, || async {
        sum(&sidecar, "outbox_depth", &[]).await == 30.0 && sum(&sidecar, "outbox_oldest_seconds", &[]).await >= 1.0
    })
    .await;
    assert_eq!(sidecar.command(&["HGET", "apikey:a", "name"]).await, "x");
    assert_eq!(sidecar.command(&["HGET", "apikey:1", "name"]).await, "x");
    let routed = [("kind", "apikey"), ("store", "redis")];
    assert_eq!(sum(&sidecar, "reads_total", &routed).await, 2.0);
    assert_eq!(sum(&sidecar, "reads_total", &[("kind", "apikey"), ("reason", "pending")]).await, 1.0);
    assert!(sum(&sidecar, "store_errors_total", &[("store", "postgres")]).await >= 1.0);
    assert_eq!(sidecar.get("/readyz").await.status, 200, "postgres never makes it unready");
    database.server.restart().await.unwrap();
    sidecar.drained().await;
    wait_until("the debt is gone", PATIENCE, || async {
        sum(&sidecar, "outbox_depth", &[]).await == 0.0 && sum(&sidecar, "outbox_oldest_seconds", &[]).await == 0.0
    })
    .await;
    assert!(
        sum(&sidecar, "mirror_lag_seconds_sum", &[("kind", "apikey")]).await >= 1.0,
        "the lag of those that waited"
    );

    // What a scrape shows by now is well formed, with everything of this story in it.
    let text = sidecar.get("/metrics").await;
    assert_eq!(text.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for secret in ["apikey:a", "apikey:1"] {
        assert!(!String::from_utf8_lossy(&text.body).contains(secret), "a key reached the metrics");
    }
    let checked = tokio::task::spawn_blocking(move || promtool(&text.body)).await.unwrap();
    assert_eq!(checked, "");
    sidecar.stop_expecting(&["postgres cannot be reached"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_no_store_answers_is_counted_as_failed_and_an_error_of_redis_is_not() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    let client = redis::Client::open(format!("redis://{}", sidecar.resp)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    sidecar.command(&["SET", "session:x", "text"]).await;
    sidecar.ask(&["INCR", "session:x"], &[]).await;
    let failed = async |door: &str| sum(&sidecar, "commands_total", &[("door", door), ("result", "failed")]).await;
    assert_eq!((failed("http").await, failed("resp").await), (0.0, 0.0));
    redis.kill().unwrap();
    assert_eq!(sidecar.ask(&["GET", "session:x"], &[]).await.status, 503);
    let answered = redis::cmd("GET").arg("session:x").query_async::<String>(&mut connection).await;
    assert!(answered.unwrap_err().to_string().contains("PARALLAX"), "the client is told by whom");
    assert_eq!((failed("http").await, failed("resp").await), (1.0, 1.0));
    sidecar.kill().await;
}

/// What promtool complains of.
fn promtool(text: &[u8]) -> String {
    let spawned =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut promtool) = spawned else {
        println!("SKIPPED: promtool is not installed (Debian: apt install prometheus)");
        return String::new();
    };
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), text).unwrap();
    String::from_utf8_lossy(&promtool.wait_with_output().unwrap().stderr).into_owned()
}
