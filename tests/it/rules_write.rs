//! The rules of writing (W): a mark before every write, a bit for what it left absent, and acknowledgements by token.

use parallax::model::key::Key;
use parallax::model::reply::Reply;
use parallax::stores::redis::capture::Found;
use parallax::stores::redis::marks::{self, Ack};
use serde_json::json;

use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::stores::Stores;
use crate::support::{self, raw, source, standing, wait_until, waiting, words};

const USER: &str = "user:u1";
const KEY: &str = "apikey:k1";
const GROUP: &str = "account_group_members:g1";
const EVENTS: &str = "billing:events";

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_redis_refuses_to_queue_fails_alone() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    raw(&redis, "ACL SETUSER default -getset").await;
    let lines = ["SET user:a 1", "GETSET user:b 2", "SET user:c 3"];
    let answers = sidecar.pipeline(&lines.map(words)).await;
    assert_eq!((&answers[0]["result"], &answers[2]["result"]), (&json!("OK"), &json!("OK")), "{answers:?}");
    assert!(answers[1]["error"].as_str().unwrap().starts_with("NOPERM"), "{answers:?}");
    sidecar.drained().await;
    let rows = database.client().await.query("SELECT key FROM users ORDER BY key", &[]).await.unwrap();
    let keys: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(keys, ["user:a", "user:c"]);
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_memory_refuses_writes_and_their_marks_but_not_a_delete_and_its_mark() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    sidecar.command(&["SET", "user:old", "1"]).await;
    sidecar.drained().await;
    raw(&redis, "CONFIG SET maxmemory 1").await;
    let answers = sidecar.pipeline(&["SET user:new 1", "DEL user:old"].map(words)).await;
    assert!(answers[0]["error"].as_str().unwrap().starts_with("OOM"), "{answers:?}");
    assert_eq!(answers[1]["result"], 1, "{answers:?}");
    sidecar.drained().await;
    raw(&redis, "CONFIG SET maxmemory 0").await;
    let rows = database.client().await.query("SELECT key, deleted_at IS NOT NULL FROM users", &[]).await.unwrap();
    let rows: Vec<(String, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(rows, [("user:old".to_owned(), true)]);
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_failed_closes_the_gates_of_the_whole_fleet() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let (one, other) = (Sidecar::start(&redis, &database).await, Sidecar::start(&redis, &database).await);
    one.flag("*", json!({ "stage": "dualwrite" })).await;
    one.command(&["SET", USER, "first"]).await;
    one.raise_from_dualwrite().await;
    wait_until("both read postgres", PATIENCE, || async {
        source(&one, USER).await.1 == "postgres" && source(&other, USER).await.1 == "postgres"
    })
    .await;
    raw(&redis, "SET parallax:outbox overwritten").await;
    // The write runs, since EXEC does not roll back; its mark cannot.
    one.command(&["SET", USER, "second"]).await;
    raw(&redis, "DEL parallax:outbox").await;
    assert_eq!(source(&one, USER).await, ("second".to_owned(), "redis".to_owned()));
    assert_eq!(one.get("/v1/status").await.json()["marks_broken"], true);
    wait_until("the other sidecar stops reading postgres", PATIENCE, || async {
        source(&other, USER).await == ("second".to_owned(), "redis".to_owned())
    })
    .await;
    assert_eq!(one.metric("parallax_mark_failures_total", &[]).await, 1.0);
    one.stop_expecting(&["a mark failed though its write ran"]).await;
    other.stop_expecting(&[]).await;
}

#[tokio::test]
async fn the_bit_says_whether_the_write_left_the_key_absent() {
    let stores = Stores::start().await;
    let two = "HSET apikey:k1 f 1 g 2";
    let cases: &[(&[&str], &[&str], Option<&str>)] = &[
        (&[two], &["DEL apikey:k1"], Some("t!")),
        (&[two], &["UNLINK apikey:k1"], Some("t!")),
        (&[two], &["HDEL apikey:k1 f"], Some("t")),
        (&[two], &["HDEL apikey:k1 f g"], Some("t!")),
        (&[two], &["EXPIRE apikey:k1 -1"], Some("t!")),
        (&[two], &["EXPIRE apikey:k1 100"], Some("t")),
        (&[two], &["RENAME apikey:k1 apikey:z"], Some("t!")),
        (&[two], &["DEL apikey:k1", "HSET apikey:k1 f 3"], Some("t")),
        (&[two], &["HSET apikey:k1 f 3", "DEL apikey:k1"], Some("t!")),
        (&["RPUSH apikey:k1 a"], &["LPOP apikey:k1"], Some("t!")),
        (&["SET apikey:k1 a"], &["GETDEL apikey:k1"], Some("t!")),
        // Made and taken away in one EXEC: deleted, also when it was not there before.
        (&[], &["HSET apikey:k1 f 1", "HDEL apikey:k1 f"], Some("t!")),
        (&[], &["DEL apikey:k1"], Some("t!")),
    ];
    for (before, lines, expected) in cases {
        stores.raw("DEL apikey:k1 apikey:z parallax:outbox").await;
        for line in *before {
            stores.raw(line).await;
        }
        stores.write("t", lines).await;
        assert_eq!(stores.mark(KEY).await.as_deref(), *expected, "{before:?} {lines:?}");
        assert_eq!(stores.raw("EXISTS parallax:note").await, Reply::Integer(0), "{lines:?}");
    }
}

#[tokio::test]
async fn a_command_that_changed_nothing_leaves_the_older_mark_as_it_was() {
    let stores = Stores::start().await;
    for line in ["EXPIRE apikey:k1 100", "EXPIRE apikey:k1 -1", "HDEL apikey:k1 f", "PERSIST apikey:k1"] {
        for older in [None, Some("older"), Some("older!")] {
            stores.raw("DEL apikey:k1 parallax:outbox").await;
            if let Some(older) = older {
                stores.raw(&format!("HSET parallax:outbox apikey:k1 {older}")).await;
            }
            assert_eq!(stores.write("t", &[line]).await, [Reply::Integer(0)], "{line}");
            assert_eq!(stores.mark(KEY).await.as_deref(), older, "{line} after {older:?}");
        }
    }
}

#[tokio::test]
async fn a_rename_of_nothing_deletes_nothing() {
    let stores = Stores::start().await;
    let replies = stores.write("t", &["RENAME apikey:k1 apikey:z"]).await;
    assert!(replies[0].error().unwrap().contains("no such key"), "{replies:?}");
    assert_eq!((stores.mark(KEY).await, stores.mark("apikey:z").await), (None, None));
    // Expired while its mark waits: the failed RENAME may not make a deletion of it.
    stores.raw("HSET parallax:outbox apikey:k1 older").await;
    stores.write("t", &["RENAME apikey:k1 apikey:z"]).await;
    assert_eq!(stores.mark(KEY).await.as_deref(), Some("older"));
}

#[tokio::test]
async fn an_expire_on_an_absent_key_leaves_its_live_row_alone() {
    let stores = Stores::start().await;
    stores.write("t1", &["SET user:u1 v"]).await;
    stores.bring(USER).await;
    let before = stores.row(USER).await.unwrap();
    // Lost from Redis behind everybody's back.
    stores.raw("DEL user:u1").await;
    stores.write("t2", &["EXPIRE user:u1 100"]).await;
    assert_eq!(stores.take(USER).await.unwrap().1.found, Found::Clean);
    assert_eq!(stores.row(USER).await.unwrap(), before);
}

#[tokio::test]
async fn a_later_write_replaces_the_bit_and_a_repair_never_touches_it() {
    let stores = Stores::start().await;
    stores.write("t1", &["SET user:u1 v"]).await;
    stores.write("t2", &["DEL user:u1"]).await;
    let key = [Key::new(USER)];
    assert_eq!(marks::repair(&stores.redis, "r1", &key, false).await.unwrap(), 0);
    assert_eq!(stores.mark(USER).await.as_deref(), Some("t2!"));
    stores.write("t3", &["SET user:u1 w"]).await;
    assert_eq!(stores.mark(USER).await.as_deref(), Some("t3"));
    stores.bring(USER).await;
    assert_eq!(marks::repair(&stores.redis, "r2", &key, true).await.unwrap(), 0, "only absent ones were meant");
    assert_eq!(marks::repair(&stores.redis, "r3", &key, false).await.unwrap(), 1);
    assert_eq!(stores.mark(USER).await.as_deref(), Some("r3"));
}

#[tokio::test]
async fn the_ack_of_an_element_leaves_the_mark_of_a_rename_onto_its_collection() {
    let stores = Stores::start().await;
    stores.raw("SADD account_group_members:g1 a").await;
    stores.raw("SADD account_group_members:g2 x y").await;
    stores.write("t1", &["SADD account_group_members:g1 e"]).await;
    let element = stores.carry(GROUP).await;
    stores.write("t2", &["RENAME account_group_members:g2 account_group_members:g1"]).await;
    stores.apply(&element).await.unwrap();
    assert_eq!(stores.ack(&element).await.unwrap(), 0);
    assert_eq!(stores.mark(GROUP).await.as_deref(), Some("t2"));
    assert_eq!(stores.companion(GROUP).await.get("*").map(String::as_str), Some("t2"));
}

#[tokio::test]
async fn the_ack_of_an_element_leaves_a_newer_write_to_the_same_element() {
    let stores = Stores::start().await;
    stores.raw("SADD account_group_members:g1 a").await;
    stores.write("t1", &["SADD account_group_members:g1 e"]).await;
    let element = stores.carry(GROUP).await;
    stores.write("t2", &["SREM account_group_members:g1 e"]).await;
    stores.apply(&element).await.unwrap();
    assert_eq!(stores.ack(&element).await.unwrap(), 0);
    assert_eq!(stores.companion(GROUP).await, [("ee".to_owned(), "t2".to_owned())].into());
    stores.bring(GROUP).await;
    assert_eq!(stores.mark(GROUP).await, None);
    assert_eq!(stores.elements(GROUP).await["e"].state, "deleted");
}

#[tokio::test]
async fn a_whole_ack_clears_its_own_tokens_and_no_others() {
    let stores = Stores::start().await;
    stores.write("t1", &["SADD account_group_members:g1 a b"]).await;
    let begin = stores.whole(GROUP).await;
    stores.write("t2", &["SADD account_group_members:g1 b c"]).await;
    let ack = Ack::Whole(begin.token, begin.tokens);
    assert_eq!(marks::ack(&stores.redis, 1, &[(Key::new(GROUP), ack)]).await.unwrap(), 0);
    let left = stores.companion(GROUP).await;
    assert_eq!(left, [("eb".to_owned(), "t2".to_owned()), ("ec".to_owned(), "t2".to_owned())].into());
    assert_eq!(stores.mark(GROUP).await.as_deref(), Some("t2"));
}

#[tokio::test]
async fn a_whole_ack_of_a_stream_leaves_the_mark_of_an_entry_that_came_after_its_capture() {
    let stores = Stores::start().await;
    stores.raw("XADD session:events 1-1 f 1").await;
    stores.write("t1", &["RENAME session:events billing:events"]).await;
    let begin = stores.whole(EVENTS).await;
    stores.write("t2", &["XADD billing:events 2-1 f 2"]).await;
    let (token, reached, evidence) = (begin.token, "1-1".into(), "1".into());
    let ack = Ack::Log { token, reached, evidence, is_complete: true, touched: begin.tokens };
    assert_eq!(marks::ack(&stores.redis, 1, &[(Key::new(EVENTS), ack)]).await.unwrap(), 0);
    assert_eq!(stores.mark(EVENTS).await.as_deref(), Some("t2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_ack_of_a_stream_says_nothing_of_one_that_was_begun_anew_under_the_same_ids() {
    let stores = Stores::start().await;
    stores.write("t1", &["XADD billing:events 1-1 f former"]).await;
    let late = stores.carry(EVENTS).await;
    stores.apply(&late).await.unwrap();
    stores.write("t2", &["DEL billing:events"]).await;
    let gone = stores.whole(EVENTS).await;
    let gone = stores.absent(EVENTS, gone);
    stores.apply(&gone).await.unwrap();
    stores.ack(&gone).await.unwrap();
    stores.write("t3", &["XADD billing:events 1-1 f latter"]).await;
    stores.ack(&late).await.unwrap();
    stores.bring(EVENTS).await;
    let entries = stores.elements(EVENTS).await;
    let doc = entries.values().next().and_then(|row| row.doc.clone()).unwrap_or_default();
    assert!(entries.len() == 1 && doc.contains("latter"), "{entries:?}");
    assert_eq!(stores.mark(EVENTS).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_waits_for_both_is_committed_when_it_is_answered() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    let client = database.client().await;
    for round in 0..20 {
        let value = round.to_string();
        let answer = sidecar.ask(&["SET", USER, &value], &[("parallax-ack", "both")]).await;
        assert_eq!((answer.status, answer.header("parallax-mirror")), (200, Some("applied")));
        let row = client.query_one("SELECT doc#>>'{}' FROM users WHERE key = $1", &[&USER]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), value);
    }
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_vanished_proves_nothing_to_somebody_who_waits() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    let mut locker = database.client().await;
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE").await.unwrap();
    // Both rounds of the drain are held up, so that the next record waits for its capture.
    for key in ["apikey:a", "apikey:b"] {
        sidecar.command(&["HSET", key, "f", "1"]).await;
        let wanted = if key == "apikey:a" { 1 } else { 2 };
        wait_until("the drain is held up", PATIENCE, || async { waiting(&database).await >= wanted }).await;
    }
    let both = [("parallax-ack", "both")];
    let asked = sidecar.ask(&["SET", USER, "v"], &both);
    let unmarked = async {
        wait_until("the record is marked", PATIENCE, || async {
            raw(&redis, "HEXISTS parallax:outbox user:u1").await == redis::Value::Int(1)
        })
        .await;
        raw(&redis, "HDEL parallax:outbox user:u1").await;
        lock.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(asked, unmarked);
    assert_eq!((answer.status, answer.header("parallax-mirror")), (200, Some("applied")));
    let row = database.client().await.query_one("SELECT doc#>>'{}' FROM users WHERE key = $1", &[&USER]).await;
    assert_eq!(row.unwrap().get::<_, &str>(0), "v");
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_the_outcome_of_a_write_to_both_is_unknown_and_not_undone() {
    let (redis, database) = (support::redis().await, support::postgres_of_its_own(Default::default()).await);
    let deadline = [("PARALLAX_COMMAND_DEADLINE_MS", "1000")];
    let sidecar = Sidecar::start_with(&redis, Some(&database), &deadline).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    database.server.stop().await.unwrap();
    let answer = sidecar.ask(&["SET", USER, "v"], &[("parallax-ack", "both")]).await;
    assert_eq!(answer.status, 504, "{:?}", answer.body);
    assert!(answer.json()["type"].as_str().unwrap().contains("unknown"), "{:?}", answer.body);
    assert_eq!(raw(&redis, "GET user:u1").await, redis::Value::BulkString(b"v".to_vec()));
    assert_eq!(raw(&redis, "HEXISTS parallax:outbox user:u1").await, redis::Value::Int(1));
    standing(&sidecar, "postgres_down").await;
    database.server.restart().await.unwrap();
    sidecar.drained().await;
    standing(&sidecar, "good").await;
    let row = database.client().await.query_one("SELECT doc#>>'{}' FROM users WHERE key = $1", &[&USER]).await;
    assert_eq!(row.unwrap().get::<_, &str>(0), "v");
    sidecar.stop_expecting(&["postgres cannot be reached"]).await;
}
