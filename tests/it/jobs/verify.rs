//! The verification finds whatever differs, calls it by its name, and never cries wolf, while everybody writes.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::arrows::project;
use crate::equality::{self, Load};
use crate::jobs::planted::{self, Findings, Way};
use crate::jobs::{begin, plant, program, reaches};
use crate::support::parts::Parts;
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, Database, raw, wait_until};

/// Corruptions of each of the classes, and clean comparisons; of `make soak` in each of its parts.
const EACH: usize = 50;
const CLEAN: u64 = 100_000;
/// Parts of a soak: 10,000 corruptions, and 3 million clean comparisons.
const SOAK_PLANTED_PARTS: usize = 10;
const SOAK_CLEAN_PARTS: usize = 30;

fn is_soak() -> bool {
    std::env::var_os("PARALLAX_SOAK").is_some()
}

/// Verifies by the command; its exit status and its report.
async fn verify(redis: &parallax::dev::servers::PrivateRedis, database: &Database, more: &[&str]) -> (i32, Json) {
    let arguments = [&["verify", "--json"], more].concat();
    let output = program(redis, database, &arguments).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    (output.status.code().unwrap(), report)
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_every_planted_corruption_is_found_by_its_class_while_writers_run() {
    if !is_soak() {
        eprintln!("{}", planted::table(&[finds_what_is_planted().await]));
        return;
    }
    let mut parts = Parts::of("verifier", SOAK_PLANTED_PARTS);
    while parts.next().is_some() {
        parts.done(serde_json::to_string(&finds_what_is_planted().await).unwrap());
    }
    let Some(lines) = parts.all() else { return };
    let found: Vec<Findings> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    std::fs::write(project().join("docs/results/verifier.txt"), planted::table(&found)).unwrap();
}

/// Plants corruptions of every class, which both ways to verify must find, and nothing else.
async fn finds_what_is_planted() -> Findings {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    planted::make(&redis, &sidecar, EACH).await;
    plant(&redis, 5_000).await;
    sidecar.drained().await;
    sidecar.backfill().await;
    sidecar.flag("*", json!({ "stage": "shadow", "sample_rate": 0.0 })).await;
    let load = Load::start(&sidecar.data, 4, false);
    let (status, clean) = verify(&redis, &database, &[]).await;
    assert_eq!((status, &clean["differences"]), (0, &json!({})), "{clean}");
    assert!(clean["totalRedis"].as_u64() > Some(5_000), "{clean}");

    let corruptions = planted::corrupt(&database, EACH).await;
    let expected = corruptions.iter().map(|(hash, class)| (hash.clone(), class.verdict.to_owned())).collect();
    let mut ways = BTreeMap::new();
    for (way, more) in [("digests", &[][..]), ("exhaustive", &["--exhaustive"])] {
        let (status, report) = verify(&redis, &database, more).await;
        assert_eq!(status, 1, "{way}");
        let found = planted::listed(&report);
        for (hash, class) in &corruptions {
            assert_eq!(found.get(hash).map(String::as_str), Some(class.verdict), "{}, {way}", class.name);
        }
        assert_eq!(found, expected, "something was found that nobody planted");
        ways.insert(way.to_owned(), Way::of(&report));
    }
    equality::assert_no_failures(&load.finish().await);
    let usual = planted::usual_comparisons(&redis, &database, EACH).await;
    let row = database
        .client()
        .await
        .query_one("SELECT count(*), count(*) FILTER (WHERE valid_until > now()) FROM proofs", &[])
        .await
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (3, 1), "only the clean one holds");
    // A busy machine keeps Postgres waiting.
    sidecar.stop_with(&[], &["postgres"]).await;
    Findings::new(EACH, &usual, ways)
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_clean_stores_are_never_called_different_while_everybody_writes() {
    if !is_soak() {
        finds_nothing_where_nothing_is().await;
        return;
    }
    let mut parts = Parts::of("clean", SOAK_CLEAN_PARTS);
    while parts.next().is_some() {
        let compared = finds_nothing_where_nothing_is().await;
        parts.done(format!("{compared} records compared, no difference"));
    }
}

/// Compares clean stores again and again while everybody writes. Answers how many comparisons were made.
async fn finds_nothing_where_nothing_is() -> u64 {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    plant(&redis, 20_000).await;
    sidecar.backfill().await;
    sidecar.flag("*", json!({ "stage": "shadow", "sample_rate": 0.0 })).await;
    let mut load = Load::start(&sidecar.data, 4, false);
    let mut compared = 0;
    while compared < CLEAN {
        let spec = json!({ "job": "verify", "kinds": ["*"], "exhaustive": true });
        let job = reaches(&sidecar, &begin(&sidecar, spec).await, "done").await;
        assert_eq!(job["report"]["differences"], json!({}), "{job}");
        compared += job["report"]["compared"].as_u64().unwrap();
        load.goes_on(1).await;
    }
    equality::assert_no_failures(&load.finish().await);
    // A busy machine keeps Postgres waiting.
    sidecar.stop_with(&[], &["postgres"]).await;
    compared
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_collection_is_compared_part_by_part() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    let mut connection = equality::connection(&redis).await;
    let mut pipeline = redis::pipe();
    for number in 0..5_000 {
        pipeline.cmd("ZADD").arg("cost_rank:large").arg(number).arg(format!("member-{number}")).ignore();
    }
    let () = pipeline.query_async(&mut connection).await.unwrap();
    sidecar.backfill().await;
    let spec = json!({ "job": "verify", "kinds": ["cost_rank"] });
    let clean = reaches(&sidecar, &begin(&sidecar, spec.clone()).await, "done").await;
    assert_eq!(clean["report"]["differences"], json!({}), "{clean}");
    let client = database.client().await;
    client.batch_execute("DELETE FROM elements WHERE element = 'member-17'").await.unwrap();
    client.batch_execute("UPDATE elements SET element_hash = '\\x00112233445566778899aabbccddeeff', element = 'nobody' WHERE element = 'member-4000'").await.unwrap();
    let found = reaches(&sidecar, &begin(&sidecar, spec).await, "done").await;
    let fields = &found["report"]["dataInconsistencies"][0]["fields"];
    assert_eq!(fields, &json!(["member-17", "member-4000"]), "{found}");
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_shown_on_request_and_to_whoever_may_see_them() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let tokens = [("PARALLAX_ADMIN_OPERATOR_TOKEN", "op"), ("PARALLAX_ADMIN_SECRETS_TOKEN", "sec")];
    let sidecar = Sidecar::start_with(&redis, Some(&database), &tokens).await;
    let (operator, secrets) = ([("authorization", "Bearer op")], [("authorization", "Bearer sec")]);
    let change = json!({ "stage": "dualwrite" });
    let headers = [operator[0], ("if-match", "\"0\"")];
    assert_eq!(sidecar.admin("PATCH", "/v1/flags/user", Some(change), &headers).await.status, 200);
    sidecar.command(&["SET", "user:one", "in redis"]).await;
    sidecar.command(&["SET", "user:two", "in redis alone"]).await;
    let client = database.client().await;
    wait_until("both are in postgres", PATIENCE, || async {
        client.query_one("SELECT count(*) FROM users", &[]).await.unwrap().get::<_, i64>(0) == 2
    })
    .await;
    let output = program(&redis, &database, &["backfill"]).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    client.batch_execute("UPDATE users SET doc = to_jsonb('in postgres'::text) WHERE key = 'user:one'").await.unwrap();
    client.batch_execute("DELETE FROM users WHERE key = 'user:two'").await.unwrap();
    let spec = json!({ "job": "verify", "kinds": ["user"], "values": true });
    let refused = sidecar.admin("POST", "/v1/jobs", Some(spec.clone()), &operator).await;
    assert!(refused.status == 403 && refused.json()["detail"].as_str().unwrap().contains("secrets"), "{refused:?}");
    let begin = async || sidecar.admin("POST", "/v1/jobs", Some(spec.clone()), &secrets).await;
    let mut begun = begin().await;
    // The sidecar hears of the backfill of another process with its next renewal.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while begun.status == 409 && tokio::time::Instant::now() < deadline {
        tokio::task::yield_now().await;
        begun = begin().await;
    }
    let path = format!("/v1/jobs/{}", begun.json()["id"].as_str().unwrap());
    let report =
        async |headers: &[(&str, &str)]| sidecar.admin("GET", &path, None, headers).await.json()["report"].clone();
    wait_until("it is done", PATIENCE, || async { !report(&secrets).await.is_null() }).await;
    let shown = report(&secrets).await;
    let differing = &shown["dataInconsistencies"][0];
    assert_eq!(
        (&differing["redis"]["doc"], &differing["postgres"]["doc"]),
        (&json!("in redis"), &json!("in postgres"))
    );
    assert_eq!(shown["missingInPostgres"][0]["postgres"], json!(null), "{shown}");
    assert_eq!(shown["missingInPostgres"][0]["redis"]["doc"], "in redis alone", "{shown}");
    let masked = report(&operator).await.to_string();
    assert!(!masked.contains("in redis") && !masked.contains("in postgres") && !masked.contains("one\""), "{masked}");
    for (more, has_values) in [(&[][..], false), (&["--values"], true)] {
        let (status, told) = verify(&redis, &database, more).await;
        assert_eq!((status, told.to_string().contains("in postgres")), (1, has_values), "{told}");
        assert_eq!(told["dataInconsistencies"][0]["id"], "one", "ids always");
    }
    sidecar.stop_with(&[], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_since_marking_ended_under_a_verification_is_owed_and_no_difference() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    plant(&redis, 300).await;
    sidecar.backfill().await;
    let spec = json!({ "job": "verify", "kinds": ["user"], "exhaustive": true, "pace": { "keys_per_second": 60 } });
    let id = begin(&sidecar, spec).await;
    wait_until("it has begun", PATIENCE, || async { crate::jobs::job(&sidecar, &id).await["seen"].as_u64() > Some(0) })
        .await;
    sidecar.flag("user", json!({ "stage": "off" })).await;
    for number in 0..300 {
        sidecar.command(&["SET", &format!("user:{number}"), "unmarked"]).await;
    }
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    let report = reaches(&sidecar, &id, "done").await["report"].clone();
    assert_eq!(report["differences"], json!({}), "{report}");
    assert!(report["left_out"]["user"].as_str().unwrap().contains("owed by the next backfill"), "{report}");
    let unproven = sidecar.get("/v1/gaps").await.json()["unproven"].clone();
    assert_eq!(unproven, json!(["user"]), "a proof of what was left out");
    sidecar.stop_with(&[], &["writes may have been missed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_backfilled_or_cannot_be_followed_is_not_called_verified() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    sidecar.flag("apikey", json!({ "stage": "dualwrite" })).await;
    let wish = json!({ "job": "verify", "kinds": ["user"] });
    let early = sidecar.admin("POST", "/v1/jobs", Some(wish), &[]).await;
    assert!(early.status == 409 && early.json()["detail"].as_str().unwrap().contains("backfill"), "{:?}", early.body);
    raw(&redis, "HSET parallax:unverifiable apikey somebody").await;
    sidecar.backfill().await;
    wait_until("it knows", PATIENCE, || async {
        sidecar.get("/v1/status").await.json()["unverifiable"]["apikey"] == "somebody"
    })
    .await;
    let spec = json!({ "job": "verify", "kinds": ["*"] });
    let done = reaches(&sidecar, &begin(&sidecar, spec).await, "done").await;
    assert!(done["report"]["left_out"]["apikey"].as_str().unwrap().contains("somebody"), "{done}");
    sidecar.stop_expecting(&[]).await;
}
