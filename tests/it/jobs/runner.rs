//! The runner: leased, paced, pausable, adopted when its process died; and the same as a command.

use serde_json::json;

use crate::jobs::{begin, job, plant, program, reaches, tell};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn one_job_at_a_time_in_the_fleet_and_any_sidecar_pauses_resumes_and_cancels_it() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let one = Sidecar::start(&redis, &database).await;
    let other = Sidecar::start(&redis, &database).await;
    one.flag("user", json!({ "stage": "dualwrite" })).await;
    plant(&redis, 2_000).await;
    let slow = json!({ "job": "backfill", "kinds": ["user"], "pace": { "keys_per_second": 100 } });
    let id = begin(&one, slow.clone()).await;
    wait_until("the other one knows the kind is marked", PATIENCE, || async {
        other.admin("POST", "/v1/jobs", Some(slow.clone()), &[]).await.json()["id"] == id.as_str()
    })
    .await;
    let second = other.admin("POST", "/v1/jobs", Some(slow), &[]).await;
    assert_eq!((second.status, &second.json()["id"]), (409, &json!(id)), "{:?}", second.body);

    wait_until("it gets on", PATIENCE, || async { job(&other, &id).await["seen"].as_u64() > Some(100) }).await;
    let under_way = job(&other, &id).await;
    assert!(under_way["eta_seconds"].as_u64().is_some_and(|left| left > 3), "it is paced: {under_way}");
    assert_eq!(tell(&other, &id, "pause").await, 202);
    let paused = reaches(&one, &id, "paused").await;
    assert_eq!(tell(&other, &id, "resume").await, 202);
    reaches(&one, &id, "running").await;
    wait_until("it goes on", PATIENCE, || async { job(&one, &id).await["seen"].as_u64() > paused["seen"].as_u64() })
        .await;
    assert_eq!(tell(&other, &id, "cancel").await, 202);
    reaches(&one, &id, "cancelled").await;
    assert_eq!(tell(&other, &id, "resume").await, 409, "what has ended does not go on");
    assert_eq!(tell(&other, "none", "cancel").await, 404);
    let counted = one.metric("parallax_jobs_total", &[("job_name", "backfill"), ("result", "cancelled")]).await;
    assert_eq!(counted, 1.0);
    one.backfill().await;
    other.stop_expecting(&[]).await;
    one.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_sidecar_was_killed_goes_on_in_another_one_where_it_was() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let doomed = Sidecar::start(&redis, &database).await;
    doomed.flag("user", json!({ "stage": "dualwrite" })).await;
    plant(&redis, 3_000).await;
    let slow = json!({ "job": "backfill", "kinds": ["user"], "pace": { "keys_per_second": 400 } });
    let id = begin(&doomed, slow).await;
    wait_until("it gets on", PATIENCE, || async { job(&doomed, &id).await["seen"].as_u64() > Some(300) }).await;
    let before = job(&doomed, &id).await;
    doomed.kill().await;
    let successor = Sidecar::start(&redis, &database).await;
    let done = reaches(&successor, &id, "done").await;
    assert_ne!(done["runner"], before["runner"]);
    // Keys from both sides: each key and each row once, and what was under way at the kill at most twice.
    let seen = done["seen"].as_u64().unwrap();
    assert!((6_000..=6_000 + 1_000).contains(&seen), "it began anew: {done}");
    assert_eq!(done["report"]["records"]["user"].as_u64().map(|records| records >= 3_000), Some(true), "{done}");
    let rows = database.client().await.query_one("SELECT count(*) FROM users", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 3_000);
    successor.flag("user", json!({ "stage": "shadow" })).await;
    successor.flag("user", json!({ "stage": "live" })).await;
    successor.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_suffers_slows_a_job_down_and_the_job_says_so() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    plant(&redis, 4_000).await;
    // A mark that nobody can bring to Postgres grows old.
    let mut locker = database.client().await;
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE api_keys IN EXCLUSIVE MODE").await.unwrap();
    sidecar.flag("apikey", json!({ "stage": "dualwrite" })).await;
    sidecar.command(&["HSET", "apikey:held", "name", "up"]).await;
    let spec = json!({ "job": "backfill", "kinds": ["user"],
        "pace": { "keys_per_second": 1000, "outbox_age_ms": 500, "redis_p99_ms": 10000, "postgres_ms": 10000 } });
    let id = begin(&sidecar, spec).await;
    wait_until("it says why it waits", PATIENCE, || async {
        job(&sidecar, &id).await["waiting"].as_str().is_some_and(|why| why.contains("the oldest mark's age"))
    })
    .await;
    assert_eq!(sidecar.metric("parallax_job_brakes_total", &[("reason", "outbox")]).await, 1.0);
    lock.commit().await.unwrap();
    reaches(&sidecar, &id, "done").await;
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_as_a_command_tells_by_its_exit_status_and_goes_on_where_it_was_killed() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    plant(&redis, 2_000).await;
    let arguments = ["backfill", "--kinds", "user", "--json", "--keys-per-second", "400"];
    let early = program(&redis, &database, &arguments).output().await.unwrap();
    let said = String::from_utf8_lossy(&early.stderr);
    assert!(!early.status.success() && said.contains("raise it to dualwrite first"), "{said}");
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;

    let mut killed = program(&redis, &database, &arguments).spawn().unwrap();
    let rows = async || {
        let row = database.client().await.query_one("SELECT count(*) FROM users", &[]).await.unwrap();
        row.get::<_, i64>(0)
    };
    wait_until("it gets on", PATIENCE, || async { rows().await > 200 }).await;
    killed.kill().await.unwrap();
    let first = sidecar.get("/v1/jobs").await.json()["jobs"][0].clone();
    let path = format!("/v1/jobs/{}", first["id"].as_str().unwrap());
    let refused = program(&redis, &database, &arguments).output().await.unwrap();
    if refused.status.success() {
        // Its lease had ended by then.
    } else {
        assert!(String::from_utf8_lossy(&refused.stderr).contains(first["id"].as_str().unwrap()), "it names the job");
        wait_until("the lease has ended and the same command goes on", PATIENCE, || async {
            program(&redis, &database, &arguments).output().await.unwrap().status.success()
        })
        .await;
    }
    let done = sidecar.get(&path).await.json();
    assert_eq!(done["state"], "done", "the job that was killed is the one that ended: {done}");
    assert!(done["seen"].as_u64().unwrap() < 5_000, "it began anew: {done}");
    assert_eq!(rows().await, 2_000);
    // Nobody waits for a process that runs a job.
    assert_eq!(sidecar.get("/v1/status").await.json()["fleet"].as_array().unwrap().len(), 1);
    sidecar.stop_expecting(&[]).await;
}
