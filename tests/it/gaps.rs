//! Capture gaps: whatever could have missed a write is written down, ends what was proven before, and stays open until a
//! clean comparison that began behind it.

use parallax::dev::servers::PrivateRedis;
use parallax::model::command::Command;
use serde_json::{Value as Json, json};

use crate::equality::{self, Load};
use crate::gates::{preview, unmet};
use crate::jobs::{begin, program, reaches};
use crate::resp_door::client::Raw;
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
    let client = database.client().await;
    let lasts = "SELECT bool_and(valid_until = at + interval '24 hours') FROM proofs WHERE valid_until > at";
    assert!(client.query_one(lasts, &[]).await.unwrap().get::<_, bool>(0), "a proof lasts a day");
    client.batch_execute("UPDATE proofs SET at = at - interval '1 day', valid_until = now()").await.unwrap();
    assert!(is_unproven(&sidecar, "user").await, "a proof of yesterday holds");
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

/// Looks for bypasses.
const WATCHES: [(&str, &str); 1] = [("PARALLAX_REDIS_BYPASS", "watch")];

/// How often the first sidecar has told the fleet what it has counted.
async fn told(redis: &PrivateRedis) -> u64 {
    let told: Vec<String> = redis::from_redis_value(raw(redis, "HVALS parallax:figures").await).unwrap();
    let figures = told.first().map(|figures| serde_json::from_str::<Json>(figures).unwrap());
    figures.and_then(|figures| figures["told"].as_u64()).unwrap_or(0)
}

/// Waits until the fleet has been looked at several times: each look waits until all have told behind it.
async fn looked_at(redis: &PrivateRedis) {
    let wanted = told(redis).await + 8;
    wait_until("the fleet was looked at", PATIENCE, || async { told(redis).await >= wanted }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_beside_every_sidecar_open_a_gap_that_names_the_commands() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start_with(&redis, Some(&database), &WATCHES).await;
    sidecar.raise("shadow").await;
    sidecar.backfill().await;
    verify(&sidecar, &["*"]).await;
    sidecar.command(&["SET", "user:1", "through the sidecar"]).await;
    looked_at(&redis).await;
    assert_eq!(gaps(&sidecar, "bypassed").await, Vec::<Json>::new());
    assert!(!is_unproven(&sidecar, "user").await);
    raw(&redis, "SET user:1 beside").await;
    raw(&redis, "SET user:2 beside").await;
    raw(&redis, "HSET apikey:k1 name beside").await;
    wait_until("the bypass is told", PATIENCE, || async { !gaps(&sidecar, "bypassed").await.is_empty() }).await;
    let gap = gaps(&sidecar, "bypassed").await.remove(0);
    assert_eq!((&gap["kind"], &gap["detail"]), (&json!("*"), &json!("hset 1, set 2")), "{gap}");
    assert!(is_open_for(&gap, "user") && gap["from_version"].as_i64() < gap["version"].as_i64(), "{gap}");
    assert!(is_unproven(&sidecar, "user").await, "a proof from before the bypass still holds");
    let live = preview(&sidecar, json!({ "stage": "live", "percent": 1.0 })).await.json();
    assert!(unmet(&live).contains(&"capture_gap".to_owned()), "the gate is open: {live}");
    // Counted anew: nothing is found for it, and what comes later is.
    raw(&redis, "CONFIG RESETSTAT").await;
    looked_at(&redis).await;
    assert_eq!(gaps(&sidecar, "bypassed").await.len(), 1);
    raw(&redis, "SADD apikey:set:x beside").await;
    wait_until("the next is told", PATIENCE, || async { gaps(&sidecar, "bypassed").await.len() == 2 }).await;
    assert_eq!(gaps(&sidecar, "bypassed").await[0]["detail"], "sadd 1");
    sidecar.stop_with(&["writes bypassed every sidecar", "writes may have been missed"], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_fleet_that_nobody_bypasses_has_no_gap() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let one = Sidecar::start_with(&redis, Some(&database), &WATCHES).await;
    let two = Sidecar::start_with(&redis, Some(&database), &WATCHES).await;
    one.raise("dualwrite").await;
    one.backfill().await;
    one.flag("*", json!({ "stage": "shadow", "sample_rate": 1.0 })).await;
    let loads = [Load::start(&one.data, 4, false), Load::start(&two.data, 4, false)];
    let mut client = Raw::connect(&two.resp).await;
    let until = told(&redis).await + 8;
    let mut round = 0;
    while told(&redis).await < until {
        round += 1;
        for line in [
            format!("SET user:r{round} v EX 100"),
            format!("DEL user:r{}", round - 1),
            format!("EXPIRE user:r{round} 50"),
            "LPUSH usage:records:r entry".to_owned(),
            "HINCRBY usage:r n 1".to_owned(),
            "SET session:x unmirrored".to_owned(),
            "MULTI".to_owned(),
            "SADD apikey:set:r a b".to_owned(),
            "SET user:m v".to_owned(),
            "EXEC".to_owned(),
            "LPUSH queue:x job".to_owned(),
            "BLPOP queue:x 1".to_owned(),
            "SPOP user:r1 too many".to_owned(),
        ] {
            client.ask(&line).await;
        }
        let script = ["EVAL", "return redis.call('ZADD', KEYS[1], 1, 'a')", "1", "concurrency:x"];
        client.send(&[Command::new(script)]).await;
        client.frame().await;
        if round == 5 {
            raw(&redis, "CONFIG RESETSTAT").await;
        }
        if round % 20 == 1 {
            let backfill = json!({ "job": "backfill", "kinds": ["user", "apikey"] });
            reaches(&one, &begin(&one, backfill).await, "done").await;
        }
    }
    for load in loads {
        equality::assert_no_failures(&load.finish().await);
    }
    looked_at(&redis).await;
    assert_eq!(gaps(&one, "bypassed").await, Vec::<Json>::new(), "after {round} rounds");
    raw(&redis, "SADD apikey:set:r beside").await;
    wait_until("a bypass would be told", PATIENCE, || async { !gaps(&one, "bypassed").await.is_empty() }).await;
    assert_eq!(gaps(&one, "bypassed").await[0]["detail"], "sadd 1");
    one.stop_with(&[], &["writes bypassed every sidecar", "writes may have been missed"]).await;
    two.stop_with(&[], &["writes bypassed every sidecar", "writes may have been missed"]).await;
}
