//! A repair marks what differs and writes nothing itself; one record alone is brought to Postgres and judged; and what is
//! long over leaves Postgres, by floor.

use parallax::stores::postgres::expunge::{self, Over, Place};
use serde_json::{Value as Json, json};

use crate::equality::{Load, assert_equal, assert_no_failures, assert_nothing_lost, drained};
use crate::jobs::{begin, plant, program, reaches};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::stores::Stores;
use crate::support::{self, raw, wait_until};

async fn verified(sidecar: &Sidecar) -> Json {
    let id = begin(sidecar, json!({ "job": "verify", "kinds": ["*"] })).await;
    reaches(sidecar, &id, "done").await["report"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_marks_what_differs_says_so_first_and_knows_when_it_is_too_much() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    plant(&redis, 3_000).await;
    sidecar.command(&["LPUSH", "usage:records:one", "first"]).await;
    sidecar.command(&["LPUSH", "usage:records:one", "second"]).await;
    sidecar.drained().await;
    sidecar.backfill().await;
    sidecar.flag("*", json!({ "stage": "shadow", "sample_rate": 0.0 })).await;
    let client = database.client().await;
    client.batch_execute("UPDATE users SET doc = to_jsonb('bent'::text) WHERE key = 'user:1'").await.unwrap();
    client.batch_execute("DELETE FROM users WHERE key = 'user:2'").await.unwrap();
    client.batch_execute("DELETE FROM event_logs WHERE element LIKE '%1'").await.unwrap();
    assert_eq!(verified(&sidecar).await["differences"], json!({ "value": 2, "missing_in_postgres": 1 }));

    // Writers are at work all the time.
    let load = Load::start(&sidecar.data, 4, false);
    let wish = |more: Json| {
        let mut spec = json!({ "job": "repair", "kinds": ["*"] });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let dry = reaches(&sidecar, &begin(&sidecar, wish(json!({}))).await, "done").await;
    assert_eq!(dry["report"]["dry_run"], true, "{dry}");
    assert_eq!(dry["report"]["differing"], json!({ "value": 2, "missing_in_postgres": 1 }), "{dry}");
    assert_eq!(verified(&sidecar).await["differences"], json!({ "value": 2, "missing_in_postgres": 1 }));

    let tight = wish(json!({ "apply": true, "bound": { "max_keys": 2 } }));
    let refused = reaches(&sidecar, &begin(&sidecar, tight).await, "failed").await;
    assert!(refused["error"].as_str().unwrap().contains("more than 2 records"), "{refused}");
    assert_eq!(client.query_one("SELECT count(*) FROM repairs", &[]).await.unwrap().get::<_, i64>(0), 0);

    let done = reaches(&sidecar, &begin(&sidecar, wish(json!({ "apply": true }))).await, "done").await;
    assert_eq!(done["report"]["after"], json!({ "match": 3 }), "{done}");
    assert_eq!(verified(&sidecar).await["differences"], json!({}));
    let audited = "SELECT count(*) FROM repairs WHERE verdict_after = 'match' AND version_after > version_before";
    assert_eq!(client.query_one(audited, &[]).await.unwrap().get::<_, i64>(0), 3);
    let ledgers = load.finish().await;
    assert_no_failures(&ledgers);
    drained(&redis).await;
    assert_nothing_lost(&ledgers, &database).await;
    assert_equal(&redis, &database).await;
    sidecar.stop_expecting(&["the repair failed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_record_is_brought_over_and_judged_in_the_answer() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    let migrate = async |path: &str| sidecar.admin("POST", path, Some(json!({})), &[]).await;
    assert_eq!(migrate("/v1/records/user/one/migrate").await.status, 409, "its writes are not marked");
    assert_eq!(migrate("/v1/records/usr/one/migrate").await.status, 404);
    sidecar.raise("dualwrite").await;
    raw(&redis, "SET user:one v").await;
    raw(&redis, "SADD apikey:set:all a b").await;
    for (path, committed) in [("user/one", true), ("apikey_set/all", true), ("user/nobody", false)] {
        let answer = migrate(&format!("/v1/records/{path}/migrate")).await;
        let answer = answer.json();
        assert_eq!((&answer["committed"], &answer["verdict"]), (&json!(committed), &json!("match")), "{answer}");
    }
    let rows = database.client().await.query_one("SELECT count(*) FROM users", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 1);
    let output = program(&redis, &database, &["backfill", "--key", "user:one"]).output().await.unwrap();
    let said: Json = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success() && said["verdict"] == "match", "{said}");
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_walks_a_table_in_bounded_steps_and_misses_nothing() {
    let stores = Stores::start().await;
    let sql = "INSERT INTO users (key_hash, key, id, kind, type, doc, version, deleted_at)
        SELECT decode(md5(n::text), 'hex'), 'user:' || n, n::text, 'user', 'string', to_jsonb('v'::text), n,
            CASE WHEN n % 100 = 0 THEN now() - interval '2 days' END FROM generate_series(1, 9000) AS n";
    stores.look.batch_execute(sql).await.unwrap();
    let now_ms = chrono::Utc::now().timestamp_millis();
    let over = Over { deleted_before_ms: now_ms - 24 * 3_600_000, gone: Vec::new() };
    let (mut place, mut steps, mut gone) = (Place::default(), 0, 0);
    loop {
        let step = expunge::records(&stores.postgres, "users", &over, &place).await.unwrap();
        assert!(step.rows <= 90, "a step that takes all");
        gone += step.rows;
        let Some(next) = step.next else { break };
        (place, steps) = (next, steps + 1);
    }
    assert_eq!((gone, steps), (90, 5), "9,000 rows in steps of 2,000");
    let left = stores.look.query_one("SELECT count(*), count(deleted_at) FROM users", &[]).await.unwrap();
    assert_eq!((left.get::<_, i64>(0), left.get::<_, i64>(1)), (8_910, 0));
    let floor = stores.look.query_one("SELECT floor FROM control WHERE table_name = 'users'", &[]).await.unwrap();
    assert_eq!(floor.get::<_, i64>(0), 9_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_long_over_leaves_postgres_and_raises_the_floor_of_its_table() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    for command in [
        &["SET", "user:old", "v"][..],
        &["SET", "user:young", "v"],
        &["SADD", "apikey:set:old", "a", "b"],
        &["SADD", "apikey:set:kept", "a", "b"],
        &["SET", "user:alive", "v"],
    ] {
        sidecar.command(command).await;
    }
    sidecar.drained().await;
    for command in [
        &["DEL", "user:old"][..],
        &["DEL", "user:young"],
        &["DEL", "apikey:set:old"],
        &["SREM", "apikey:set:kept", "b"],
    ] {
        sidecar.command(command).await;
    }
    sidecar.drained().await;
    let client = database.client().await;
    let version = "SELECT max(version) FROM users WHERE key = 'user:old'";
    let version: i64 = client.query_one(version, &[]).await.unwrap().get(0);
    for sql in [
        "UPDATE users SET deleted_at = now() - interval '2 days' WHERE key = 'user:old'",
        "UPDATE collections SET deleted_at = now() - interval '2 days' WHERE key = 'apikey:set:old'",
        "UPDATE elements SET deleted_at = now() - interval '2 days' WHERE deleted_at IS NOT NULL",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    wait_until("what is over is gone", PATIENCE * 2, || async {
        let text = "SELECT (SELECT count(*) FROM users WHERE key = 'user:old')
            + (SELECT count(*) FROM collections WHERE key = 'apikey:set:old') + (SELECT count(*) FROM elements WHERE deleted_at IS NOT NULL)";
        client.query_one(text, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    let left = client.query_one("SELECT count(*) FROM users", &[]).await.unwrap();
    assert_eq!(left.get::<_, i64>(0), 2, "what is young stays");
    for table in ["users", "elements", "collections"] {
        let text = format!("SELECT floor FROM control WHERE table_name = '{table}'");
        let floor: i64 = client.query_one(&text, &[]).await.unwrap().get(0);
        assert!(floor > 0, "{table}: its floor did not rise");
        if table == "users" {
            assert_eq!(floor, version, "the floor is the highest version that went");
        }
    }
    // The mirror goes on above the floor.
    sidecar.command(&["SET", "user:old", "again"]).await;
    sidecar.command(&["SADD", "apikey:set:old", "c"]).await;
    sidecar.drained().await;
    assert_equal(&redis, &database).await;
    assert!(sidecar.metric("parallax_expunged_rows_total", &[("table", "users")]).await >= 1.0);
    sidecar.stop_expecting(&[]).await;
}
