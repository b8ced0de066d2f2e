//! OFREP on the admin door: it names the store that the sidecar itself reads a key from, and tells mistakes in the form of
//! the protocol. The providers that applications use are run against it in tests/client/ofrep.

use futures_util::{StreamExt, stream};
use serde_json::{Value as Json, json};

use crate::support::sidecar::{Answer, PATIENCE, Sidecar};
use crate::support::{self, wait_until};

/// Keys that are asked for at each percent.
const KEYS: usize = 2000;
/// Questions under way at one time.
const TOGETHER: usize = 32;
const BULK: &str = "/ofrep/v1/evaluate/flags";

async fn evaluate(sidecar: &Sidecar, flag: &str, key: Option<&str>) -> Answer {
    let context = key.map_or(json!({}), |key| json!({ "targetingKey": key }));
    sidecar.admin("POST", &format!("{BULK}/{flag}"), Some(json!({ "context": context })), &[]).await
}

/// The value, the reason and the cause of an evaluation that must succeed.
async fn evaluated(sidecar: &Sidecar, flag: &str, key: Option<&str>) -> (String, String, String) {
    let answer = evaluate(sidecar, flag, key).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let body = answer.json();
    assert_eq!(body["value"], body["variant"]);
    let text = |value: &Json| value.as_str().unwrap().to_owned();
    (text(&body["value"]), text(&body["reason"]), text(&body["metadata"]["cause"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn for_thousands_of_keys_the_evaluation_names_the_store_that_answers_the_read() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    let keys: Vec<String> = (0..KEYS).map(|number| format!("apikey:{number}")).collect();
    sidecar.pipeline(&keys.iter().map(|key| support::words(&format!("HSET {key} name n"))).collect::<Vec<_>>()).await;
    sidecar.raise("live").await;
    sidecar.flag("*", json!({ "sample_rate": 0.0 })).await;
    sidecar.drained().await;
    for percent in [0.0, 0.1, 12.5, 50.0, 99.9, 100.0] {
        sidecar.flag("*", json!({ "percent": percent })).await;
        let of_both = stream::iter(&keys).map(async |key| {
            let (named, reason, _) = evaluated(&sidecar, "apikey", Some(key)).await;
            let read = sidecar.ask(&["HGET", key, "name"], &[]).await;
            assert_eq!(read.header("parallax-source"), Some(&*named), "{key} at {percent} %");
            assert_eq!(reason, if (0.1..=99.9).contains(&percent) { "SPLIT" } else { "STATIC" });
            usize::from(named == "postgres")
        });
        let postgres: usize = of_both.buffer_unordered(TOGETHER).collect::<Vec<_>>().await.into_iter().sum();
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        let share = postgres as f64 / KEYS as f64 * 100.0;
        assert!((share - percent).abs() < 4.0, "{share} % of the keys at {percent} %");
    }
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_that_cannot_be_followed_is_disabled_and_says_why() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start_with(&redis, Some(&database), &[("PARALLAX_LEASE_MS", "1500")]).await;
    assert_eq!(evaluated(&sidecar, "apikey", None).await, ("redis".into(), "STATIC".into(), "stage".into()));
    sidecar.command(&["HSET", "apikey:1", "name", "n"]).await;
    sidecar.raise("live").await;
    assert_eq!(evaluated(&sidecar, "apikey", None).await, ("postgres".into(), "STATIC".into(), "live".into()));
    assert_eq!(evaluated(&sidecar, "*", Some("apikey:1")).await.0, "postgres");
    let session = evaluate(&sidecar, "*", Some("session:1")).await.json();
    assert_eq!((&session["value"], &session["metadata"]["stage"]), (&json!("redis"), &json!("off")));
    // An index of the application is never read from Postgres, whatever its flag says.
    let index = evaluated(&sidecar, "apikey_hash_map", None).await;
    assert_eq!(index, ("redis".into(), "STATIC".into(), "not_readable".into()));
    // The backfill of another epoch does not count.
    support::raw(&redis, "HSET parallax:backfilled apikey 99").await;
    wait_until("the backfill is owed", PATIENCE, || async {
        evaluated(&sidecar, "apikey", None).await == ("redis".into(), "DISABLED".into(), "not_backfilled".into())
    })
    .await;
    support::raw(&redis, "CLIENT PAUSE 60000 ALL").await;
    wait_until("the lease has ended", PATIENCE, || async {
        let body = evaluate(&sidecar, "user", None).await.json();
        body["metadata"]["lease"] == false && body["reason"] == "DISABLED" && body["metadata"]["cause"] == "no_lease"
    })
    .await;
    sidecar.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_flags_are_evaluated_at_once_and_only_sent_again_when_something_has_changed() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    let context = |key: &str| json!({ "context": { "targetingKey": key } });
    let first = sidecar.admin("POST", BULK, Some(context("apikey:1")), &[]).await;
    assert_eq!(first.status, 200, "{:?}", first.body);
    let body = first.json();
    let flags = body["flags"].as_array().unwrap();
    let shown = sidecar.get("/v1/flags").await.json()["kinds"].as_array().unwrap().len();
    assert_eq!(flags.len(), shown + 1, "every mirrored kind, and `*`");
    assert!(flags.iter().all(|flag| flag["value"] == "redis"), "{flags:?}");

    let etag = first.header("etag").unwrap().to_owned();
    let again = sidecar.admin("POST", BULK, Some(context("apikey:1")), &[("if-none-match", &etag)]).await;
    assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, Some(&*etag)));
    let other = sidecar.admin("POST", BULK, Some(context("user:1")), &[("if-none-match", &etag)]).await;
    assert_eq!(other.status, 200, "another context is another answer");
    sidecar.flag("apikey", json!({ "stage": "dualwrite" })).await;
    let changed = sidecar.admin("POST", BULK, Some(context("apikey:1")), &[("if-none-match", &etag)]).await;
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), Some(&*etag));

    // Without a key a flag that needs one fails alone.
    let keyless = sidecar.admin("POST", BULK, Some(json!({})), &[]).await;
    let body = keyless.json();
    let of = |name: &str| body["flags"].as_array().unwrap().iter().find(|flag| flag["key"] == name).unwrap();
    assert_eq!(of("apikey")["metadata"]["stage"], "dualwrite");
    assert_eq!(of("*")["errorCode"], "TARGETING_KEY_MISSING");
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_have_the_codes_of_the_protocol_and_name_no_key() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    for (flag, body, status, code) in [
        ("apikey", json!([]), 400, "PARSE_ERROR"),
        ("apikey", json!({ "context": [] }), 400, "INVALID_CONTEXT"),
        ("apikey", json!({ "context": { "targetingKey": 5 } }), 400, "INVALID_CONTEXT"),
        ("apikey", json!({ "context": { "targetingKey": "user:s3cret" } }), 400, "INVALID_CONTEXT"),
        ("apikey", json!({ "context": { "targetingKey": "parallax:outbox" } }), 400, "INVALID_CONTEXT"),
        ("*", json!({}), 400, "TARGETING_KEY_MISSING"),
        ("no%20such%20kind", json!({}), 404, "FLAG_NOT_FOUND"),
    ] {
        let answer = sidecar.admin("POST", &format!("{BULK}/{flag}"), Some(body.clone()), &[]).await;
        let shown = answer.json();
        assert_eq!((answer.status, &shown["errorCode"]), (status, &json!(code)), "{flag} {body}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(shown["key"], flag.replace("%20", " "));
        assert!(!shown.to_string().contains("s3cret"));
        if flag == "apikey" {
            let bulk = sidecar.admin("POST", BULK, Some(body), &[]).await;
            // There one key cannot be of every kind.
            assert_eq!(bulk.status, if shown.to_string().contains("is a key of the kind") { 200 } else { 400 });
        }
    }
    assert_eq!(sidecar.get(BULK).await.status, 405);
    sidecar.stop_expecting(&[]).await;
}
