//! The rules of changing stages (S), each with the sidecar that would break it.

use parallax::dev::servers::PrivateRedis;
use redis::Value;
use serde_json::{Value as Json, json};

use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, raw, signal, source, wait_until, waiting};

const USER: &str = "user:u1";

/// A lease and a deadline that end within the patience of a story.
const SHORT: [(&str, &str); 3] =
    [("PARALLAX_LEASE_MS", "2000"), ("PARALLAX_COMMAND_DEADLINE_MS", "500"), ("PARALLAX_BARRIER_WAIT_MS", "300")];

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_is_left_and_reached_one_step_at_a_time_and_live_only_after_its_backfill() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    let refused = async |stage: &str| {
        let answer = sidecar.try_flag("user", json!({ "stage": stage, "percent": 100.0 })).await;
        assert_eq!(answer.status, 409, "{stage}: {:?}", answer.body);
        String::from_utf8_lossy(&answer.body).into_owned()
    };
    let started = sidecar.admin("POST", "/v1/jobs", Some(json!({ "job": "backfill", "kinds": ["user"] })), &[]).await;
    assert_eq!(started.status, 409, "no backfill of what is not marked: {:?}", started.body);
    assert!(refused("shadow").await.contains("one stage at a time"));
    assert!(refused("live").await.contains("one stage at a time"));
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    assert!(refused("live").await.contains("one stage at a time"));
    sidecar.flag("user", json!({ "stage": "shadow" })).await;
    assert!(refused("live").await.contains("backfill"));
    assert!(refused("off").await.contains("one stage at a time"));
    sidecar.backfill().await;
    sidecar.flag("user", json!({ "stage": "live", "percent": 100.0 })).await;
    assert!(refused("dualwrite").await.contains("one stage at a time"));
    for stage in ["shadow", "dualwrite", "off", "dualwrite", "shadow"] {
        sidecar.flag("user", json!({ "stage": stage })).await;
    }
    // Marking ended on the way: what was backfilled then is no longer so.
    assert!(refused("live").await.contains("backfill"));
    sidecar.stop_with(&[], &["verify is owed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_marking_left_behind_does_not_count() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    sidecar.command(&["SET", USER, "v"]).await;
    sidecar.drained().await;
    // Its rows can be read and not written: a backfill that did not wait for its commit would end now.
    let mut locker = database.client().await;
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE users IN EXCLUSIVE MODE").await.unwrap();
    let job = start_backfill(&sidecar).await;
    wait_until("the backfill waits", PATIENCE, || async { waiting(&database).await > 0 }).await;
    for stage in ["off", "dualwrite"] {
        sidecar.flag("user", json!({ "stage": stage })).await;
    }
    lock.commit().await.unwrap();
    assert_eq!(ended(&sidecar, &job).await["state"], "failed");
    sidecar.flag("user", json!({ "stage": "shadow" })).await;
    assert_eq!(sidecar.try_flag("user", json!({ "stage": "live" })).await.status, 409);
    sidecar.stop_with(&["the backfill failed"], &["verify is owed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_since_marking_ended_is_owed_by_the_next_backfill_and_is_no_mismatch() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    sidecar.command(&["SET", USER, "marked"]).await;
    sidecar.drained().await;
    sidecar.flag("user", json!({ "stage": "shadow", "sample_rate": 1.0 })).await;
    sidecar.backfill().await;
    let compared = async |verdict: &str| {
        source(&sidecar, USER).await;
        sidecar.metric("parallax_comparisons_total", &[("kind", "user"), ("verdict", verdict)]).await
    };
    wait_until("both are the same", PATIENCE, async || compared("match").await > 0.0).await;
    for stage in ["dualwrite", "off"] {
        sidecar.flag("user", json!({ "stage": stage })).await;
    }
    sidecar.command(&["SET", USER, "unmarked"]).await;
    for stage in ["dualwrite", "shadow"] {
        sidecar.flag("user", json!({ "stage": stage })).await;
    }
    wait_until("they were compared", PATIENCE, async || compared("in_flight").await > 0.0).await;
    sidecar.backfill().await;
    let before = compared("match").await;
    wait_until("both are the same again", PATIENCE, async || compared("match").await > before).await;
    // A mismatch would be in the log.
    sidecar.stop_with(&[], &["verify is owed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_cannot_be_verified_does_not_go_live() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    raw(&redis, "HSET parallax:unverifiable user somebody").await;
    sidecar.flag("user", json!({ "stage": "shadow" })).await;
    sidecar.backfill().await;
    let answer = sidecar.try_flag("user", json!({ "stage": "live" })).await;
    assert_eq!(answer.status, 409);
    assert!(String::from_utf8_lossy(&answer.body).contains("unverifiable"), "{:?}", answer.body);
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn marking_ends_only_when_every_sidecar_has_confirmed_or_cannot_act_any_more() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let one = Sidecar::start_with(&redis, Some(&database), &SHORT).await;
    let frozen = Sidecar::start_with(&redis, Some(&database), &SHORT).await;
    one.flag("user", json!({ "stage": "dualwrite" })).await;
    one.flag("user", json!({ "stage": "shadow" })).await;
    wait_until("both have confirmed", PATIENCE, || async { confirmed(&one).await == [2, 2] }).await;
    signal(&frozen, "STOP").await;
    // One version later the frozen one may still act on what it knows.
    one.flag("user", json!({ "stage": "dualwrite" })).await;
    let refused = one.try_flag("user", json!({ "stage": "off" })).await;
    assert_eq!(refused.status, 409, "{:?}", refused.body);
    assert!(String::from_utf8_lossy(&refused.body).contains("not confirmed"), "{:?}", refused.body);
    let job = start_backfill(&one).await;
    assert_eq!(ended(&one, &job).await["state"], "failed", "a backfill waits for the same barrier");
    wait_until("its lease and the longest command after it have ended", PATIENCE, || async {
        one.try_flag("user", json!({ "stage": "off" })).await.status == 200
    })
    .await;
    let unmarked = raw(&redis, "HLEN parallax:outbox").await;
    assert_eq!(unmarked, Value::Int(0));
    signal(&frozen, "CONT").await;
    frozen.kill().await;
    one.stop_expecting(&["the backfill failed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_confirmed_when_all_that_ran_under_the_older_one_is_answered() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start_with(&redis, Some(&database), &[("PARALLAX_BARRIER_WAIT_MS", "300")]).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    // A write that waits for Postgres runs under this version.
    let mut locker = database.client().await;
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let asked = sidecar.ask(&["SET", USER, "v"], &[("parallax-ack", "both")]);
    let change = async {
        wait_until("the write waits", PATIENCE, || async { waiting(&database).await > 0 }).await;
        sidecar.flag("*", json!({ "sample_rate": 0.5 })).await;
        let refused = sidecar.try_flag("*", json!({ "stage": "off" })).await.status;
        lock.commit().await.unwrap();
        refused
    };
    let (answer, refused) = tokio::join!(asked, change);
    assert_eq!((answer.status, refused), (200, 409));
    sidecar.flag("*", json!({ "stage": "off" })).await;
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_blocks_is_refused_where_it_would_have_to_be_marked() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    for line in ["BLPOP user:list 1", "BLPOP session:queue user:list 1", "BZPOPMIN account_group_members:g 1"] {
        let words: Vec<&str> = line.split(' ').collect();
        let answer = sidecar.ask(&words, &[]).await;
        assert_eq!(answer.status / 100, 4, "{line}: {:?}", answer.body);
        assert!(String::from_utf8_lossy(&answer.body).contains("would block"), "{line}: {:?}", answer.body);
    }
    let blocked = sidecar.command(&["BLPOP", "session:queue", "4"]);
    let pushed = async {
        wait_until("somebody waits at the queue", PATIENCE, || async {
            format!("{:?}", raw(&redis, "INFO clients").await).contains("blocked_clients:1")
        })
        .await;
        raw(&redis, "RPUSH session:queue job").await;
    };
    let (answer, ()) = tokio::join!(blocked, pushed);
    assert_eq!(answer, json!(["session:queue", "job"]));
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_lease_a_sidecar_reads_redis_and_marks_every_write_also_in_stage_off() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start_with(&redis, Some(&database), &SHORT).await;
    let client = database.client().await;
    let accounts = || async { client.query_one("SELECT count(*) FROM accounts", &[]).await.unwrap().get::<_, i64>(0) };
    sidecar.command(&["SET", USER, "first"]).await;
    for stage in ["dualwrite", "shadow"] {
        sidecar.flag("user", json!({ "stage": stage, "sample_rate": 0.0 })).await;
    }
    sidecar.backfill().await;
    sidecar.flag("user", json!({ "stage": "live", "percent": 100.0, "deadline_ms": 5000 })).await;
    wait_until("postgres answers", PATIENCE, || async { source(&sidecar, USER).await.1 == "postgres" }).await;
    sidecar.command(&["HSET", "claude:account:a", "name", "unmarked"]).await;
    sidecar.drained().await;
    assert_eq!(accounts().await, 0, "accounts are in stage off");

    without_leases(&redis).await;
    wait_until("the lease has ended", PATIENCE, || async { sidecar.get("/readyz").await.status == 503 }).await;
    // Written past the sidecar: only an answer from Redis knows it.
    raw(&redis, "SET user:u1 second").await;
    assert_eq!(source(&sidecar, USER).await, ("second".to_owned(), "redis".to_owned()));
    sidecar.command(&["HSET", "claude:account:b", "name", "marked"]).await;
    wait_until("its row is there", PATIENCE, || async { accounts().await == 1 }).await;

    raw(&redis, "DEL parallax:sidecars").await;
    wait_until("the lease is back", PATIENCE, || async { sidecar.get("/readyz").await.status == 200 }).await;
    sidecar.command(&["HSET", "claude:account:c", "name", "unmarked"]).await;
    assert_eq!(raw(&redis, "HLEN parallax:outbox").await, Value::Int(0));
    sidecar.stop_expecting(&["the lease on the flags could not be renewed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_sidecar_never_reads_postgres_after_a_rollback_that_did_not_wait_for_it() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let one = Sidecar::start_with(&redis, Some(&database), &SHORT).await;
    let frozen = Sidecar::start_with(&redis, Some(&database), &SHORT).await;
    one.flag("*", json!({ "stage": "dualwrite" })).await;
    one.command(&["SET", USER, "first"]).await;
    one.raise_from_dualwrite().await;
    wait_until("postgres answers", PATIENCE, || async { source(&frozen, USER).await.1 == "postgres" }).await;
    signal(&frozen, "STOP").await;
    let report = one.admin("POST", "/v1/rollback", Some(json!({ "scope": "*", "reason": "a story" })), &[]).await;
    assert_eq!((report.json()["waiting"].clone(), report.json()["fleet"].clone()), (json!([]), json!(true)));
    raw(&redis, "SET user:u1 second").await;
    signal(&frozen, "CONT").await;
    assert_eq!(source(&frozen, USER).await, ("second".to_owned(), "redis".to_owned()));
    frozen.kill().await;
    one.stop_expecting(&[]).await;
}

/// Makes every renewal of a lease fail, and nothing else.
async fn without_leases(redis: &PrivateRedis) {
    raw(redis, "DEL parallax:sidecars").await;
    raw(redis, "SET parallax:sidecars broken").await;
}

/// The versions that the fleet has confirmed.
async fn confirmed(sidecar: &Sidecar) -> Vec<u64> {
    let status = sidecar.get("/v1/status").await.json();
    status["fleet"].as_array().unwrap().iter().map(|row| row["confirmed"].as_u64().unwrap()).collect()
}

async fn start_backfill(sidecar: &Sidecar) -> String {
    let started = sidecar.admin("POST", "/v1/jobs", Some(json!({ "job": "backfill", "kinds": ["user"] })), &[]).await;
    assert_eq!(started.status, 202, "{:?}", started.body);
    format!("/v1/jobs/{}", started.json()["id"].as_str().unwrap())
}

async fn ended(sidecar: &Sidecar, job: &str) -> Json {
    wait_until("the backfill has ended", PATIENCE, || async { sidecar.get(job).await.json()["state"] != "running" })
        .await;
    sidecar.get(job).await.json()
}
