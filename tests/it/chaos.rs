//! Postgres stops, hangs and comes back; the sidecar is asked to end in the middle of its work. No client is told of it.

use std::time::Duration;

use http::Method;
use parallax::client::Client;
use parallax::dev::servers::PostgresOptions;
use serde_json::json;
use tokio::time::Instant;

use crate::equality::{Load, assert_equal, assert_no_failures, assert_nothing_lost, drained, marks};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, wait_until};

fn durable() -> PostgresOptions {
    PostgresOptions { durable: true, ..PostgresOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_that_stops_and_comes_back_under_load_is_noticed_by_no_client() {
    let (redis, database) = (support::redis().await, support::postgres_of_its_own(durable()).await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("live").await;
    let mut load = Load::start(&sidecar.data, 4, false);
    load.goes_on(40).await;
    for crash in [false, true] {
        if crash {
            database.server.kill().unwrap()
        } else {
            database.server.stop().await.unwrap()
        }
        load.goes_on(150).await;
        wait_until("it is seen that postgres is gone", PATIENCE, || async {
            sidecar.get("/v1/status").await.json()["lineage"] == "postgres_down"
        })
        .await;
        // Four writers own five keys, a user, a counter and a log each, and share an index.
        assert!((1..=33).contains(&marks(&redis).await), "the marks of one record coalesce");
        assert_eq!(sidecar.get("/readyz").await.status, 200, "Postgres never makes it unready");
        database.server.restart().await.unwrap();
        load.goes_on(40).await;
    }
    let ledgers = load.finish().await;
    sidecar.drained().await;
    drained(&redis).await;
    assert_no_failures(&ledgers);
    assert_nothing_lost(&ledgers, &database).await;
    assert_equal(&redis, &database).await;
    sidecar.read_again("apikey").await;
    let read = sidecar.ask(&["HGET", "apikey:writer-0-1", "name"], &[]).await;
    assert_eq!((read.json()["result"].as_str(), read.header("parallax-source")), (Some("a writer"), Some("postgres")));
    sidecar.stop_with(&["postgres cannot be reached"], &["postgres is in trouble", "the guard took reads back"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_that_hangs_costs_a_read_its_deadline_and_a_write_nothing() {
    let (redis, database) = (support::redis().await, support::postgres_of_its_own(durable()).await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("live").await;
    sidecar.flag("*", json!({ "deadline_ms": 200 })).await;
    for n in 0..20 {
        sidecar.command(&["HSET", &format!("apikey:hung-{n}"), "name", "before"]).await;
    }
    sidecar.drained().await;
    let source = async |key: &str| {
        let answer = sidecar.ask(&["HGET", key, "name"], &[]).await;
        (answer.json()["result"].as_str().unwrap().to_owned(), answer.header("parallax-source").unwrap().to_owned())
    };
    assert_eq!(source("apikey:hung-1").await, ("before".to_owned(), "postgres".to_owned()));

    database.server.pause().unwrap();
    let began = Instant::now();
    let reads = (0..20).map(|n| {
        let source = &source;
        async move { source(&format!("apikey:hung-{n}")).await }
    });
    for answer in futures_util::future::join_all(reads).await {
        assert_eq!(answer, ("before".to_owned(), "redis".to_owned()));
    }
    // The deadline is 200 ms; the rest is for a machine with other things to do.
    assert!(began.elapsed() < Duration::from_millis(2_000), "{:?}", began.elapsed());
    let began = Instant::now();
    sidecar.command(&["HSET", "apikey:hung-1", "name", "after"]).await;
    assert_eq!(source("apikey:hung-1").await.0, "after");
    assert!(began.elapsed() < Duration::from_millis(2_000), "{:?}", began.elapsed());
    wait_until("it is seen that postgres hangs", PATIENCE, || async {
        sidecar.get("/v1/status").await.json()["lineage"] == "postgres_down"
    })
    .await;

    database.server.resume().unwrap();
    sidecar.drained().await;
    wait_until("postgres answers again", PATIENCE, || async {
        sidecar.read_again("apikey").await;
        source("apikey:hung-1").await == ("after".to_owned(), "postgres".to_owned())
    })
    .await;
    assert_equal(&redis, &database).await;
    let expected = ["postgres cannot be reached", "postgres is in trouble"];
    sidecar.stop_with(&expected, &["the guard took reads back"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_asked_to_end_answers_what_it_received_and_drains_its_marks() {
    let (redis, database) = (support::redis().await, support::postgres_of_its_own(durable()).await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    database.server.pause().unwrap();
    let requests = (0..16).map(|n| {
        let mut client = Client::new(sidecar.data.clone());
        tokio::spawn(async move {
            let body = json!(["HSET", format!("apikey:ending-{n}"), "name", "last words"]).to_string();
            let headers = [("content-type", "application/json"), ("parallax-ack", "both")];
            client.send(Method::POST, "/redis", &headers, body.into()).await.unwrap()
        })
    });
    let requests: Vec<_> = requests.collect();
    wait_until("all of them are in redis", PATIENCE, || async { marks(&redis).await == 16 }).await;
    sidecar.terminate().await;
    database.server.resume().unwrap();
    for request in requests {
        let answer = request.await.unwrap();
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        assert_eq!(answer.headers.get("parallax-mirror").unwrap(), "applied");
    }
    sidecar.ended_with(&[], &["postgres cannot be reached"]).await;
    assert_eq!(marks(&redis).await, 0);
    assert_equal(&redis, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_asked_to_end_under_load_leaves_no_mark() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    let mut load = Load::start(&sidecar.data, 8, false);
    load.goes_on(60).await;
    sidecar.terminate().await;
    sidecar.ended_with(&[], &[]).await;
    let ledgers = load.finish().await;
    // No successor has come: what is in Postgres was drained by the one that ended.
    assert_eq!(marks(&redis).await, 0);
    assert_nothing_lost(&ledgers, &database).await;
    assert_equal(&redis, &database).await;
}
