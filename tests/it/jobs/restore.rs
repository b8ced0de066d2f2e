//! A Redis that came back empty is filled again from Postgres (rule L2), and one that failed over to a replica that was behind
//! is lifted (rule L1): nothing is taken for deleted, whatever was lost is listed, and both stores are equal at the end.

use bytes::Bytes;
use parallax::dev::servers::PrivateRedis;
use parallax::model::key::Key;
use parallax::model::value::Value;
use parallax::stores::redis::capture::Shape;
use parallax::stores::redis::lineage;
use parallax::stores::redis::refill::{self, Document, Part, Refill};
use serde_json::{Value as Json, json};

use crate::equality::{ask, assert_equal};
use crate::jobs::{begin, program, reaches};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::stores::Stores;
use crate::support::{self, Database, raw, standing, wait_until};

/// Records of every type and layout.
const COMMANDS: &[&[&str]] = &[
    &["SET", "user:plain", "{\"name\":\"first\"}"],
    &["SET", "user:short-lived", "v", "EX", "7200"],
    &["HSET", "apikey:one", "name", "first", "odd", "\u{1}\u{e9}"],
    &["HSET", "usage:counted", "requests", "41"],
    &["RPUSH", "account:test_history:p:a", "1", "2", "3"],
    &["SADD", "apikey:set:active", "one", "two"],
    &["ZADD", "cost_rank:today", "0.1", "one", "inf", "two"],
    &["HSET", "apikey:hash_map", "h1", "one", "h2", "two"],
    &["LPUSH", "usage:records:one", "{\"n\":1}"],
    &["LPUSH", "usage:records:one", "{\"n\":2}"],
    &["XADD", "billing:events", "1700000000000-0", "data", "{\"n\":1}"],
    &["XADD", "billing:events", "1700000000000-1", "data", "{\"n\":2}"],
];

async fn is_emptied(redis: &PrivateRedis) {
    redis.stop().await.unwrap();
    redis.restart().await.unwrap();
    assert_eq!(ask::<i64>(redis, &["EXISTS", "user:plain"]).await, 0, "it kept its data");
}

async fn dead_rows(database: &Database) -> i64 {
    let text = "SELECT (SELECT count(*) FROM users WHERE deleted_at IS NOT NULL OR gone_at IS NOT NULL)
        + (SELECT count(*) FROM elements WHERE deleted_at IS NOT NULL)
        + (SELECT count(*) FROM event_logs WHERE deleted_at IS NOT NULL)";
    database.client().await.query_one(text, &[]).await.unwrap().get(0)
}

/// The ids of ghosts of a kind.
async fn ghosts(sidecar: &Sidecar, kind: &str) -> Vec<Json> {
    sidecar.get(&format!("/v1/ghosts?kind={kind}")).await.json()["ghosts"].as_array().unwrap().clone()
}

/// What everything that was written reads as, through Redis alone.
async fn contents(redis: &PrivateRedis) -> Vec<redis::Value> {
    let asks: [&[&str]; 10] = [
        &["GET", "user:plain"],
        &["EXPIRETIME", "user:short-lived"],
        &["HGETALL", "apikey:one"],
        &["LRANGE", "account:test_history:p:a", "0", "-1"],
        &["SMISMEMBER", "apikey:set:active", "one", "two", "three"],
        &["ZRANGE", "cost_rank:today", "0", "-1", "WITHSCORES"],
        &["HMGET", "apikey:hash_map", "h1", "h2"],
        &["LRANGE", "usage:records:one", "0", "-1"],
        &["XRANGE", "billing:events", "-", "+"],
        &["PTTL", "apikey:one"],
    ];
    let mut found = Vec::new();
    for question in asks {
        found.push(ask::<redis::Value>(redis, question).await);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_came_back_empty_gets_everything_back_and_loses_nothing_that_was_written_meanwhile() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start_with(&redis, Some(&database), &[("PARALLAX_DRAIN_DEADLINE_MS", "300")]).await;
    sidecar.raise("live").await;
    for command in COMMANDS {
        sidecar.command(command).await;
    }
    for number in 0..3_000 {
        if number % 500 == 0 {
            let chunk: Vec<Vec<String>> = (number..number + 500)
                .map(|n| vec!["ZADD".to_owned(), "cost_rank:large".to_owned(), n.to_string(), format!("m{n}")])
                .collect();
            sidecar.pipeline(&chunk).await;
        }
    }
    sidecar.drained().await;
    let (before, version) = (contents(&redis).await, sidecar.get("/v1/flags").await.json()["version"].as_u64());
    let refused =
        reaches(&sidecar, &begin(&sidecar, json!({ "job": "restore", "kinds": ["*"] })).await, "failed").await;
    assert!(refused["error"].as_str().unwrap().contains("redis has its anchor"), "{refused}");

    is_emptied(&redis).await;
    standing(&sidecar, "redis_lost").await;
    // Somebody counts on, from nothing; somebody writes past the sidecar.
    wait_until("redis is reached again", PATIENCE, || async {
        sidecar.try_command(&["HINCRBY", "usage:counted", "requests", "1"], &[]).await.is_ok()
    })
    .await;
    raw(&redis, "SET user:plain bypassed").await;
    let done = reaches(&sidecar, &begin(&sidecar, json!({ "job": "restore", "kinds": ["*"] })).await, "done").await;
    assert_eq!(done["report"]["differences"], json!({}), "{done}");
    assert_eq!(done["report"]["ghosts"], 2, "{done}");
    standing(&sidecar, "good").await;
    sidecar.drained().await;
    let after = contents(&redis).await;
    assert_eq!(after[1..], before[1..], "what was restored is not what there was");
    let listed = program(&redis, &database, &["ghosts", "--values", "--json"]).output().await.unwrap();
    let listed: Vec<Json> = serde_json::from_slice(&listed.stdout).unwrap();
    let mut lost: Vec<(Json, Json)> = listed.iter().map(|ghost| (ghost["id"].clone(), ghost["doc"].clone())).collect();
    lost.sort_by_key(|(id, _)| id.to_string());
    let first = json!("{\"name\":\"first\"}");
    assert_eq!(lost, [(json!("counted"), json!({ "requests": "41" })), (json!("plain"), first)]);
    assert!(ghosts(&sidecar, "user").await[0].get("doc").is_none(), "a value was shown without the right to secrets");
    assert_eq!(dead_rows(&database).await, 0, "a row was taken for deleted");
    assert!(sidecar.get("/v1/flags").await.json()["version"].as_u64() >= version, "flags went back");

    // Logs go on where they were.
    sidecar.command(&["LPUSH", "usage:records:one", "{\"n\":3}"]).await;
    sidecar.command(&["XADD", "billing:events", "1700000000001-0", "data", "{\"n\":3}"]).await;
    sidecar.drained().await;
    let row = database.client().await.query_one("SELECT count(*) FROM log_gaps", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 0);
    assert_equal(&redis, &database).await;
    sidecar.backfill().await;
    sidecar
        .stop_with(&["redis was lost", "the restore failed"], &["could not be renewed", "flags were written back"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_killed_goes_on_as_a_command_and_lists_no_ghost_of_its_own_making() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start_with(&redis, Some(&database), &[("PARALLAX_DRAIN_DEADLINE_MS", "300")]).await;
    sidecar.raise("dualwrite").await;
    crate::jobs::plant(&redis, 4_000).await;
    raw(&redis, "SET user:plain v").await;
    sidecar.backfill().await;
    is_emptied(&redis).await;
    standing(&sidecar, "redis_lost").await;
    let arguments = ["restore", "--keys-per-second", "1500", "--json"];
    let mut killed = program(&redis, &database, &arguments).spawn().unwrap();
    wait_until("it has begun to fill", PATIENCE, || async { ask::<i64>(&redis, &["DBSIZE"]).await > 100 }).await;
    killed.kill().await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE * 2;
    let report: Json = loop {
        let output = program(&redis, &database, &arguments).output().await.unwrap();
        if output.status.success() {
            break serde_json::from_slice(&output.stdout).unwrap();
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("is under way") && tokio::time::Instant::now() < deadline, "{said}");
    };
    assert_eq!((&report["ghosts"], &report["restored"]["user"].as_u64().is_some()), (&json!(0), &true), "{report}");
    for number in [0, 1_999, 3_999] {
        let value: Option<String> = ask(&redis, &["GET", &format!("user:{number}")]).await;
        assert_eq!(value, Some(format!("{{\"n\":{number}}}")));
    }
    standing(&sidecar, "good").await;
    sidecar.drained().await;
    assert_equal(&redis, &database).await;
    sidecar.stop_with(&["redis was lost"], &["could not be renewed", "flags were written back"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refill_never_writes_over_anything_and_only_while_the_anchor_is_missing() {
    let stores = Stores::start().await;
    let run_id = stores.redis.server().await.unwrap().run_id;
    let document = |key: &'static str| Document {
        key: Key::new(key),
        value: Value::String(Bytes::from_static(b"lost")),
        expires_at_ms: None,
    };
    let key = Key::new("apikey:set:all");
    let anchored = refill::documents(&stores.redis, &run_id, &[document("user:absent")]).await;
    assert!(anchored.unwrap_err().to_string().contains("LINEAGE"), "it refilled beside an anchor");
    let part = refill::part(&stores.redis, &run_id, &key, "SADD", Part::First, &[Bytes::from_static(b"one")]).await;
    assert!(part.is_err());
    assert!(refill::end(&stores.redis, &run_id, &key, None, None, Shape::Collection).await.is_err());

    stores.raw("DEL parallax:anchor").await;
    assert!(refill::documents(&stores.redis, "another-run", &[document("user:absent")]).await.is_err());
    stores.raw("SET user:there newer").await;
    stores.write("1-a-1", &["DEL user:there-not"]).await;
    stores.write("1-a-2", &["SET user:written v", "DEL user:written"]).await;
    let documents = ["user:absent", "user:there", "user:written"].map(document);
    let outcomes = refill::documents(&stores.redis, &run_id, &documents).await.unwrap();
    assert_eq!(outcomes, [Refill::Filled, Refill::Present, Refill::Marked]);
    assert_eq!(stores.raw("GET user:there").await, parallax::model::reply::Reply::bulk("newer"));
    assert_eq!(stores.raw("EXISTS user:written").await, parallax::model::reply::Reply::Integer(0));
    let expired = Document { expires_at_ms: Some(1_000), ..document("user:over") };
    assert_eq!(refill::documents(&stores.redis, &run_id, &[expired]).await.unwrap(), [Refill::Expired]);

    refill::part(&stores.redis, &run_id, &key, "SADD", Part::First, &[Bytes::from_static(b"one")]).await.unwrap();
    stores.raw("SADD apikey:set:all another").await;
    let overtaken = refill::end(&stores.redis, &run_id, &key, None, None, Shape::Collection).await.unwrap();
    assert_eq!(overtaken, Refill::Present);
    let gone = Key::new("account_group_members:g1");
    refill::part(&stores.redis, &run_id, &gone, "SADD", Part::First, &[Bytes::from_static(b"one")]).await.unwrap();
    stores.write("1-a-3", &["SADD account_group_members:g1 another", "DEL account_group_members:g1"]).await;
    let overtaken = refill::end(&stores.redis, &run_id, &gone, None, None, Shape::Collection).await.unwrap();
    assert_eq!(overtaken, Refill::Marked, "it was deleted meanwhile");
    assert_eq!(stores.raw("EXISTS account_group_members:g1").await, parallax::model::reply::Reply::Integer(0));
    let known = lineage::Postgres { system: "1".to_owned(), timeline: "1".to_owned(), beat: 0 };
    assert!(lineage::anchor(&stores.redis, 2, 0, &known).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_that_was_behind_is_lifted_and_what_it_lost_is_listed_and_settled() {
    let (primary, replica, database) = (support::redis().await, support::redis().await, support::postgres().await);
    let one = Sidecar::start_with(&primary, Some(&database), &[]).await;
    let other = Sidecar::start_with(&primary, Some(&database), &[]).await;
    one.raise("live").await;
    one.command(&["HSET", "apikey:kept", "name", "before"]).await;
    one.drained().await;
    ask::<redis::Value>(&replica, &["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).await;
    wait_until("the replica is in step", PATIENCE, || async {
        ask::<Option<String>>(&replica, &["HGET", "apikey:kept", "name"]).await.as_deref() == Some("before")
    })
    .await;
    // From here on it is behind.
    ask::<redis::Value>(&replica, &["REPLICAOF", "NO", "ONE"]).await;
    one.command(&["HSET", "apikey:kept", "name", "after"]).await;
    other.command(&["HSET", "apikey:lost", "name", "never seen again"]).await;
    one.drained().await;
    let port = primary.port().to_string();
    primary.kill().unwrap();
    ask::<redis::Value>(&replica, &["CONFIG", "SET", "port", &port]).await;
    wait_until("the lift has listed what was lost", PATIENCE, || async { ghosts(&one, "apikey").await.len() == 2 })
        .await;
    for sidecar in [&one, &other] {
        standing(sidecar, "good").await;
    }
    one.drained().await;
    let row =
        database.client().await.query_one("SELECT name FROM api_keys WHERE key = 'apikey:kept'", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "before", "redis wins");
    one.backfill().await;
    let verified = reaches(&one, &begin(&one, json!({ "job": "verify", "kinds": ["*"] })).await, "done").await;
    assert_eq!(verified["report"]["differences"], json!({}), "{verified}");
    let listed = program(&primary, &database, &["ghosts", "--kind", "apikey", "--values"]).output().await.unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("never seen again") && listed.contains("after"), "{listed}");
    // The clean verification has looked at them again.
    for ghost in ghosts(&one, "apikey").await {
        assert!(ghost["settled_at"].is_string(), "{ghost}");
    }
    assert_eq!(one.get("/v1/status").await.json()["postgres"]["ghosts_unsettled"], 0);
    let lifted = ["the anchor names another run", "redis is lifted", "could not be renewed"];
    one.stop_with(&[], &lifted).await;
    other.stop_with(&[], &lifted).await;
}
