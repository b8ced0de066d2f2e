//! Capture gaps: whatever could have missed a write is written down, ends what was proven before, and stays open until a
//! clean comparison that began behind it.

use serde_json::{Value as Json, json};

use crate::jobs::{begin, program, reaches};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, raw, wait_until};

/// The gaps of one cause, newest first.
async fn gaps(sidecar: &Sidecar, cause: &str) -> Vec<Json> {
    // A connection to a Redis that was killed may cost one answer.
    wait_until("gaps are told", PATIENCE, || async { sidecar.get("/v1/gaps").await.status == 200 }).await;
    let answer = sidecar.get("/v1/gaps").await;
    let gaps = answer.json()["gaps"].as_array().unwrap().clone();
    gaps.into_iter().filter(|gap| gap["cause"] == cause).collect()
}

/// Whether a comparison is owed for a kind.
async fn is_unproven(sidecar: &Sidecar, kind: &str) -> bool {
    sidecar.get("/v1/gaps").await.json()["unproven"].as_array().unwrap().contains(&json!(kind))
}

async fn verify(sidecar: &Sidecar, kinds: &[&str]) -> Json {
    let spec = json!({ "job": "verify", "kinds": kinds });
    let report = reaches(sidecar, &begin(sidecar, spec).await, "done").await["report"].clone();
    assert_eq!(report["differences"], json!({}), "{report}");
    report
}

fn is_open_for(gap: &Json, kind: &str) -> bool {
    gap["open_for"].as_array().unwrap().contains(&json!(kind))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lift_opens_a_gap_of_all_kinds_that_only_a_verification_behind_it_closes() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    sidecar.command(&["SET", "user:1", "{}"]).await;
    sidecar.drained().await;
    sidecar.backfill().await;
    assert!(is_unproven(&sidecar, "user").await);
    verify(&sidecar, &["*"]).await;
    assert!(!is_unproven(&sidecar, "user").await);
    raw(&redis, "SAVE").await;
    redis.kill().unwrap();
    redis.restart().await.unwrap();
    wait_until("the lift has left a gap", PATIENCE, || async { !gaps(&sidecar, "lifted").await.is_empty() }).await;
    assert!(is_unproven(&sidecar, "user").await, "a proof from before the gap still holds");
    sidecar.backfill().await;
    verify(&sidecar, &["user"]).await;
    let gap = gaps(&sidecar, "lifted").await.remove(0);
    assert!(!is_open_for(&gap, "user") && is_open_for(&gap, "apikey") && gap["kind"] == "*", "{gap}");
    assert_eq!(gap["closed_by"].as_array().map(Vec::len), Some(1), "{gap}");
    assert!(!is_unproven(&sidecar, "user").await && is_unproven(&sidecar, "apikey").await);
    wait_until("it is counted", PATIENCE, || async { sidecar.metric("parallax_capture_gaps_open", &[]).await >= 1.0 })
        .await;
    verify(&sidecar, &["*"]).await;
    wait_until("none is open", PATIENCE, || async { sidecar.metric("parallax_capture_gaps_open", &[]).await == 0.0 })
        .await;
    assert!(sidecar.metric("parallax_capture_gaps_total", &[("cause", "lifted")]).await >= 1.0);
    let mut command = program(&redis, &database, &["gaps"]);
    let output = command.args(["--admin", &sidecar.admin]).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("lifted"), "{said} {output:?}");
    sidecar
        .stop_with(&["the anchor names another run", "redis is lifted"], &["could not be renewed", "could not be made"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn marking_that_ended_ends_the_proof_of_its_kind_and_of_no_other() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    sidecar.flag("apikey", json!({ "stage": "dualwrite" })).await;
    sidecar.backfill().await;
    verify(&sidecar, &["user", "apikey"]).await;
    sidecar.flag("user", json!({ "stage": "off" })).await;
    sidecar.command(&["SET", "user:1", "unmarked"]).await;
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    let gap = gaps(&sidecar, "marking_ended").await.remove(0);
    assert!(gap["kind"] == "user" && is_open_for(&gap, "user"), "{gap}");
    assert!(is_unproven(&sidecar, "user").await && !is_unproven(&sidecar, "apikey").await);
    sidecar.backfill().await;
    verify(&sidecar, &["user"]).await;
    assert!(!is_open_for(&gaps(&sidecar, "marking_ended").await[0], "user"));
    assert!(!is_unproven(&sidecar, "user").await);
    sidecar.stop_with(&["writes may have been missed"], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_that_found_something_closes_no_gap_and_one_that_began_before_neither() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    crate::jobs::plant(&redis, 300).await;
    sidecar.backfill().await;
    // One that goes on while the mark of a write fails.
    let pace = json!({ "keys_per_second": 100 });
    let before = begin(&sidecar, json!({ "job": "verify", "kinds": ["user"], "pace": pace })).await;
    wait_until("it has begun", PATIENCE, || async {
        crate::jobs::job(&sidecar, &before).await["seen"].as_u64() > Some(0)
    })
    .await;
    raw(&redis, "SET parallax:outbox broken").await;
    sidecar.command(&["SET", "user:0", "unmarked"]).await;
    raw(&redis, "DEL parallax:outbox").await;
    reaches(&sidecar, &before, "done").await;
    let gap = || async { gaps(&sidecar, "mark_failed").await.remove(0) };
    assert!(is_open_for(&gap().await, "user") && is_unproven(&sidecar, "user").await, "{}", gap().await);
    // A difference that Postgres alone knows of.
    sidecar.backfill().await;
    let client = database.client().await;
    client.batch_execute("UPDATE users SET doc = to_jsonb('another'::text) WHERE id = '1'").await.unwrap();
    let spec = json!({ "job": "verify", "kinds": ["user"] });
    let report = reaches(&sidecar, &begin(&sidecar, spec).await, "done").await["report"].clone();
    assert_eq!(report["differences"], json!({ "value": 1 }));
    assert!(is_open_for(&gap().await, "user"), "a comparison that found something closed a gap");
    let repair = json!({ "job": "repair", "kinds": ["user"], "apply": true });
    reaches(&sidecar, &begin(&sidecar, repair).await, "done").await;
    verify(&sidecar, &["user"]).await;
    assert!(!is_open_for(&gap().await, "user"));
    sidecar.stop_with(&["a mark failed", "writes may have been missed"], &["could not be"]).await;
}
