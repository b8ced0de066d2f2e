//! A row that Postgres refuses: it is told, it holds up nobody, Redis answers for it, and it heals.

use serde_json::json;

use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, Database, wait_until};

/// What the log says of each.
const LETTER: &str = "among the dead letters";

async fn count(database: &Database, query: &str) -> i64 {
    database.client().await.query_one(&format!("SELECT count(*) FROM {query}"), &[]).await.unwrap().get(0)
}

async fn depth(sidecar: &Sidecar) -> serde_json::Value {
    sidecar.get("/v1/status").await.json()["outbox"]["depth"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_row_keeps_its_mark_and_holds_up_nobody() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("live").await;
    sidecar.command(&["HSET", "apikey:bad", "name", "before"]).await;
    sidecar.drained().await;
    let client = database.client().await;
    let constraint = "ALTER TABLE api_keys ADD CONSTRAINT story CHECK (name IS DISTINCT FROM 'refused')";
    client.batch_execute(constraint).await.unwrap();

    let mut commands = vec![vec!["HSET".to_owned(), "apikey:bad".into(), "name".into(), "refused".into()]];
    commands.extend((0..40).map(|n| vec!["HSET".to_owned(), format!("apikey:good-{n}"), "name".into(), "fine".into()]));
    sidecar.pipeline(&commands).await;
    wait_until("all but one are there", PATIENCE, || async { depth(&sidecar).await == 1 }).await;
    wait_until("the letter is written", PATIENCE, || async { count(&database, "dead_letters").await == 1 }).await;
    assert_eq!(count(&database, "api_keys WHERE name = 'fine'").await, 40);
    assert_eq!(count(&database, "api_keys WHERE name = 'before'").await, 1);
    let letter = client.query_one("SELECT kind, reason, key_hash FROM dead_letters", &[]).await.unwrap();
    assert_eq!(letter.get::<_, &str>(0), "apikey");
    assert!(
        letter.get::<_, &str>(1).contains("story") && !letter.get::<_, &str>(1).contains("refused\""),
        "{letter:?}"
    );
    assert_eq!(letter.get::<_, Vec<u8>>(2), parallax::model::key::hash16(b"apikey:bad"));
    assert_eq!(sidecar.metric("parallax_dead_letters_total", &[("kind", "apikey")]).await, 1.0);
    assert_eq!(sidecar.get("/v1/status").await.json()["postgres"]["dead_letters"], 1);

    let answer = sidecar.ask(&["HGET", "apikey:bad", "name"], &[]).await;
    assert_eq!((answer.json()["result"].as_str(), answer.header("parallax-source")), (Some("refused"), Some("redis")));
    let answer = sidecar.ask(&["HGET", "apikey:good-7", "name"], &[]).await;
    assert_eq!((answer.json()["result"].as_str(), answer.header("parallax-source")), (Some("fine"), Some("postgres")));
    let waited = sidecar.ask(&["HSET", "apikey:bad", "more", "1"], &[("parallax-ack", "both")]).await;
    assert_eq!((waited.status, &waited.json()["type"]), (504, &json!("urn:parallax:problem:unknown-outcome")));

    client.batch_execute("ALTER TABLE api_keys DROP CONSTRAINT story").await.unwrap();
    sidecar.command(&["HSET", "apikey:bad", "more", "2"]).await;
    sidecar.drained().await;
    assert_eq!(count(&database, "dead_letters").await, 0);
    let answer = sidecar.ask(&["HGET", "apikey:bad", "name"], &[]).await;
    assert_eq!(
        (answer.json()["result"].as_str(), answer.header("parallax-source")),
        (Some("refused"), Some("postgres"))
    );
    assert_eq!(sidecar.metric("parallax_mismatches_total", &[]).await, 0.0);
    sidecar.stop_expecting(&[LETTER]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_element_buries_its_collection_and_no_other() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("live").await;
    sidecar.command(&["SADD", "account_group_members:known", "a", "b"]).await;
    sidecar.drained().await;
    let client = database.client().await;
    let constraint = "ALTER TABLE elements ADD CONSTRAINT story CHECK (element <> 'refused')";
    client.batch_execute(constraint).await.unwrap();

    // One is captured by element, the other as a whole, since it is new.
    sidecar.command(&["SADD", "account_group_members:known", "refused"]).await;
    sidecar.command(&["SADD", "account_group_members:new", "c", "refused"]).await;
    for n in 0..10 {
        sidecar.command(&["SADD", &format!("account_group_members:good-{n}"), "d"]).await;
    }
    wait_until("all but two are there", PATIENCE, || async { depth(&sidecar).await == 2 }).await;
    wait_until("both letters are written", PATIENCE, || async { count(&database, "dead_letters").await == 2 }).await;
    for (group, members) in [("known", 3), ("new", 2)] {
        let answer = sidecar.ask(&["SCARD", &format!("account_group_members:{group}")], &[]).await;
        assert_eq!(
            (answer.json()["result"].as_i64(), answer.header("parallax-source")),
            (Some(members), Some("redis"))
        );
    }
    let answer = sidecar.ask(&["SMEMBERS", "account_group_members:good-9"], &[]).await;
    assert_eq!((answer.json()["result"].clone(), answer.header("parallax-source")), (json!(["d"]), Some("postgres")));

    // Nobody writes again: a successor finds the marks, and takes away letters that another has written.
    client.batch_execute("ALTER TABLE elements DROP CONSTRAINT story").await.unwrap();
    sidecar.stop_expecting(&[LETTER]).await;
    let successor = Sidecar::start(&redis, &database).await;
    successor.drained().await;
    assert_eq!(count(&database, "dead_letters").await, 0);
    let answer = successor.ask(&["SCARD", "account_group_members:new"], &[]).await;
    assert_eq!((answer.json()["result"].as_i64(), answer.header("parallax-source")), (Some(2), Some("postgres")));
    successor.stop_expecting(&[]).await;
}
