//! The gates upward: a step that sends more reads to Postgres says what it lacks, with figures; and why a read goes where it goes.

use serde_json::{Value as Json, json};

use crate::support::sidecar::{Answer, PATIENCE, Sidecar};
use crate::support::{self, raw, source, wait_until};

const USER: &str = "user:u1";

/// A sidecar in stage shadow, everything compared, with one backfilled user.
async fn compared(redis: &parallax::dev::servers::PrivateRedis, database: &support::Database) -> Sidecar {
    let sidecar = Sidecar::start(redis, database).await;
    sidecar.raise("shadow").await;
    sidecar.command(&["SET", USER, "v"]).await;
    sidecar.drained().await;
    sidecar.backfill().await;
    sidecar
}

/// The conditions of a refusal or preview that are not met, by name.
pub(crate) fn unmet(answer: &Json) -> Vec<String> {
    let conditions = answer.get("unmet").or_else(|| answer.get("conditions")).unwrap().as_array().unwrap();
    let unmet = conditions.iter().filter(|condition| condition["met"] == false);
    unmet.map(|condition| condition["condition"].as_str().unwrap().to_owned()).collect()
}

pub(crate) async fn preview(sidecar: &Sidecar, change: Json) -> Answer {
    let version = format!("\"{}\"", sidecar.get("/v1/flags").await.json()["version"]);
    sidecar.admin("PATCH", "/v1/flags/user?dry_run=true", Some(change), &[("if-match", &version)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_was_not_proven_is_refused_with_each_condition_and_its_figures_until_it_is() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = compared(&redis, &database).await;
    let live = json!({ "stage": "live", "percent": 100.0, "deadline_ms": 5000 });
    let refused = sidecar.try_flag("user", live.clone()).await;
    assert_eq!(refused.status, 409);
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    let refused = refused.json();
    assert_eq!(unmet(&refused), ["proof", "mismatch_bound"], "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("user: it was never compared in full: run a verification"));
    let bound = refused["unmet"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&bound["figures"]["budget"], &bound["figures"]["compared_needed"]), (&json!(0.001), &json!(3688.0)));

    // A dry run says the same and changes nothing.
    let before = sidecar.get("/v1/flags").await.json()["version"].clone();
    let judged = preview(&sidecar, live.clone()).await;
    assert_eq!((judged.status, &judged.json()["allowed"]), (200, &json!(false)));
    assert_eq!(unmet(&judged.json()), ["proof", "mismatch_bound"]);
    assert_eq!(sidecar.get("/v1/flags").await.json()["version"], before);

    sidecar.verified("user").await;
    let judged = preview(&sidecar, live.clone()).await.json();
    assert_eq!((&judged["allowed"], unmet(&judged)), (&json!(true), vec![]), "{judged}");
    assert_eq!(sidecar.try_flag("user", live).await.status, 200);
    wait_until("postgres answers", PATIENCE, async || source(&sidecar, USER).await.1 == "postgres").await;
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mismatch_shuts_the_gate_and_only_a_reason_opens_it_which_the_audit_keeps() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = compared(&redis, &database).await;
    sidecar.verified("user").await;
    let client = database.client().await;
    client.batch_execute("UPDATE users SET doc = '\"planted\"' WHERE key = 'user:u1'").await.unwrap();
    wait_until("the mismatch is found", PATIENCE, async || {
        sidecar.command(&["GET", USER]).await;
        let refused = preview(&sidecar, json!({ "stage": "live", "percent": 1.0 })).await.json();
        unmet(&refused) == ["mismatch_bound"]
    })
    .await;
    let past = |reason: Option<&str>| json!({ "stage": "live", "percent": 1.0, "override": true, "reason": reason });
    let unreasoned = sidecar.try_flag("user", json!({ "stage": "live", "percent": 1.0, "override": true })).await;
    assert_eq!((unreasoned.status, &unreasoned.json()["field"]), (422, &json!("reason")));
    assert_eq!(sidecar.try_flag("user", past(Some("it is known"))).await.status, 200);
    wait_until("the audit says so", PATIENCE, async || {
        let changes = sidecar.get("/v1/flags/user/history").await.json()["changes"].clone();
        let reason = changes[0]["reason"].as_str().unwrap_or_default().to_owned();
        reason.starts_with("it is known (override of: ") && reason.contains("mismatches were found")
    })
    .await;
    // No reason goes past a rule of the protocol.
    raw(&redis, "HDEL parallax:backfilled user").await;
    wait_until("its backfill is owed", PATIENCE, async || {
        let raised = json!({ "percent": 2.0, "override": true, "reason": "again" });
        unmet(&preview(&sidecar, raised).await.json()).contains(&"backfill".to_owned())
    })
    .await;
    let refused = sidecar.try_flag("user", json!({ "percent": 2.0, "override": true, "reason": "again" })).await;
    assert_eq!(refused.status, 409, "{:?}", refused.body);
    sidecar.stop_expecting(&["a mismatch was confirmed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn enough_comparisons_of_any_sidecar_open_the_gate_of_a_kind_with_many_records() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let (one, other) = (compared(&redis, &database).await, Sidecar::start(&redis, &database).await);
    one.verified("user").await;
    // As if there had been so many: then a sample is asked for.
    database.client().await.batch_execute("UPDATE proofs SET keys = 1000000").await.unwrap();
    let live = json!({ "stage": "live", "percent": 100.0 });
    assert_eq!(unmet(&preview(&one, live.clone()).await.json()), ["mismatch_bound"]);
    let reads: Vec<Vec<String>> = (0..500).map(|_| vec!["GET".to_owned(), USER.to_owned()]).collect();
    wait_until("enough was compared", PATIENCE * 2, async || {
        one.pipeline(&reads).await;
        other.pipeline(&reads).await;
        unmet(&preview(&one, live.clone()).await.json()).is_empty()
    })
    .await;
    let compared =
        async |sidecar: &Sidecar| sidecar.metric("parallax_comparisons_total", &[("verdict", "match")]).await;
    let (here, there) = (compared(&one).await, compared(&other).await);
    assert!(here + there >= 3688.0 && here > 0.0 && there > 0.0, "{here} and {there}");
    other.stop_expecting(&[]).await;
    one.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_is_told_why_a_read_goes_where_it_goes() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = compared(&redis, &database).await;
    let explained = async |key: &str| sidecar.get(&format!("/v1/routing/explain?key={key}")).await.json();
    let shadow = explained(USER).await;
    assert_eq!(
        (&shadow["kind"], &shadow["stage"], &shadow["store"]),
        (&json!("user"), &json!("shadow"), &json!("redis"))
    );
    assert_eq!((&shadow["reason"], &shadow["verdict"]), (&json!("stage"), &json!("match")), "{shadow}");
    sidecar.flag("user", json!({ "stage": "live", "percent": 100.0, "deadline_ms": 5000 })).await;
    let live = explained(USER).await;
    assert_eq!(
        (&live["store"], &live["reason"], &live["pending"]),
        (&json!("postgres"), &json!("live"), &json!(false))
    );
    let (row, clock) = (live["postgres"]["version"].as_i64().unwrap(), live["redis"]["clock"].as_i64().unwrap());
    assert!(row > 0 && row <= clock, "{live}");
    assert_eq!((&live["postgres"]["fate"], &live["last_mismatch"]), (&json!("present"), &Json::Null));
    let bucket = live["bucket"].as_f64().unwrap();
    assert!((0.0..100.0).contains(&bucket), "{bucket}");
    sidecar.flag("user", json!({ "percent": (bucket * 1000.0).floor() / 1000.0 })).await;
    let outside = explained(USER).await;
    assert_eq!((&outside["store"], &outside["reason"]), (&json!("redis"), &json!("percent")), "{outside}");
    let absent = explained("user:nobody").await;
    assert_eq!((&absent["redis"]["present"], &absent["postgres"]), (&json!(false), &Json::Null));
    let ephemeral = explained("session:s").await;
    assert_eq!((&ephemeral["policy"], &ephemeral["stage"]), (&json!("ephemeral"), &json!("off")));
    assert_eq!(sidecar.get("/v1/routing/explain?key=parallax:flags").await.status, 403);
    assert_eq!(sidecar.get("/v1/routing/explain").await.status, 422);
    sidecar.stop_expecting(&[]).await;
}
