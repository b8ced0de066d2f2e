//! Many hands on the same records: writers without pause, two sidecars, preconditions, and a Redis that is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::Method;
use parallax::client::Client;
use parallax::dev::servers::PrivateRedis;
use parallax::traffic::world::Dice;
use serde_json::json;

use crate::equality::{ask, assert_equal, connection, drained};
use crate::properties::sequence;
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, wait_until};

const INDEX: &str = "apikey:idx:createdAt";

async fn send(client: &mut Client, path: &str, body: serde_json::Value) -> serde_json::Value {
    let headers = [("content-type", "application/json")];
    let answer = client.send(Method::POST, path, &headers, body.to_string().into()).await.unwrap();
    assert_eq!(answer.status, 200, "{body}: {:?}", answer.body);
    answer.json().unwrap()
}

/// Fills a sorted set behind the sidecar's back.
async fn fill(redis: &PrivateRedis, key: &str, members: usize) {
    let mut connection = connection(redis).await;
    for first in (0..members).step_by(1_000) {
        let mut zadd = redis::cmd("ZADD");
        zadd.arg(key);
        for n in first..first + 1_000 {
            zadd.arg(n).arg(format!("member-{n}"));
        }
        let _: i64 = zadd.query_async(&mut connection).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_to_a_collection_of_100000_members_costs_one_element() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    fill(&redis, INDEX, 100_000).await;
    sidecar.raise("dualwrite").await;
    let upserts = async |table| sidecar.metric("parallax_row_upserts_total", &[("table", table)]).await;
    sidecar.command(&["ZADD", INDEX, "7", "member-1"]).await;
    sidecar.drained().await;
    assert_eq!((upserts("elements").await, upserts("collections").await), (1.0, 1.0), "one element and its header");
    sidecar.command(&["ZREM", INDEX, "member-2"]).await;
    sidecar.drained().await;
    assert_eq!((upserts("elements").await, upserts("collections").await), (2.0, 2.0));
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_written_without_pause_while_it_is_captured_whole_ends_equal() {
    const RANK: &str = "cost_rank:today";
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    fill(&redis, RANK, 15_000).await;
    sidecar.raise("dualwrite").await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..3).map(|seed| {
        let (stop, mut client) = (Arc::clone(&stop), Client::new(sidecar.data.clone()));
        tokio::spawn(async move {
            let mut dice = Dice::new(seed);
            while !stop.load(Ordering::Relaxed) {
                let member = format!("member-{}", dice.below(20_000));
                let command = match dice.below(3) {
                    0 => json!(["ZREM", RANK, member]),
                    _ => json!(["ZADD", RANK, dice.below(1_000_000).to_string(), member]),
                };
                send(&mut client, "/redis", command).await;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    sidecar.backfill().await;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    drained(&redis).await;
    let equality = assert_equal(&redis, &database).await;
    assert!(equality.elements > 10_000, "{equality:?}");
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sidecars_that_write_the_same_records_at_once_leave_both_stores_equal() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecars = [Sidecar::start(&redis, &database).await, Sidecar::start(&redis, &database).await];
    sidecars[0].raise("live").await;
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let writers = (0..4_u64).map(|writer| {
        let mut client = Client::new(sidecars[usize::try_from(writer % 2).unwrap()].data.clone());
        tokio::spawn(async move {
            for commands in sequence(&mut Dice::new(seed ^ writer), 500).chunks(5) {
                send(&mut client, "/redis/pipeline", json!(commands)).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    drained(&redis).await;
    assert_equal(&redis, &database).await;
    for sidecar in sidecars {
        assert_eq!(sidecar.metric("parallax_mismatches_total", &[]).await, 0.0);
        sidecar.stop_expecting(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_32_writers_with_if_match_each_success_counts_once() {
    const EACH: u64 = 3;
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("live").await;
    let path = "/v1/records/apikey/contended";
    let made = sidecar.data("PUT", path, Some(json!({ "count": 0 }).to_string().into()), &[]).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let (successes, refusals) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let writers = (0..32).map(|_| {
        let (successes, refusals) = (Arc::clone(&successes), Arc::clone(&refusals));
        let mut client = Client::new(sidecar.data.clone());
        tokio::spawn(async move {
            let mut own = 0;
            while own < EACH {
                let read = client.send(Method::GET, path, &[], bytes::Bytes::new()).await.unwrap();
                let etag = read.headers.get("etag").unwrap().to_str().unwrap().to_owned();
                let count: u64 = read.json().unwrap()["count"].as_str().unwrap().parse().unwrap();
                let body = json!({ "count": count + 1 }).to_string();
                let headers = [("content-type", "application/json"), ("if-match", etag.as_str())];
                let written = client.send(Method::PUT, path, &headers, body.into()).await.unwrap();
                match written.status.as_u16() {
                    412 => refusals.fetch_add(1, Ordering::Relaxed),
                    200 | 204 => {
                        own += 1;
                        successes.fetch_add(1, Ordering::Relaxed)
                    }
                    other => panic!("{other}: {:?}", written.body),
                };
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(successes.load(Ordering::Relaxed), 32 * EACH);
    assert!(refusals.load(Ordering::Relaxed) > 0, "nobody was ever in the way of another");
    assert_eq!(sidecar.command(&["HGET", "apikey:contended", "count"]).await, (32 * EACH).to_string());
    drained(&redis).await;
    assert_equal(&redis, &database).await;
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_goes_through_a_full_redis_and_reaches_postgres() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    for n in 0..12 {
        sidecar.command(&["SET", &format!("user:{n}"), "{}"]).await;
        sidecar.command(&["HSET", &format!("apikey:{n}"), "name", "n", "tags", "t"]).await;
    }
    sidecar.command(&["ZADD", INDEX, "1", "a", "2", "b"]).await;
    sidecar.drained().await;
    // Less than an empty Redis uses: it is full, whatever is deleted.
    let _: () = ask(&redis, &["CONFIG", "SET", "maxmemory", "100kb"]).await;
    assert_eq!(sidecar.command(&["DEL", "user:0"]).await, 1);
    assert_eq!(sidecar.command(&["HDEL", "apikey:0", "tags"]).await, 1);
    assert_eq!(sidecar.command(&["ZREM", INDEX, "a"]).await, 1);
    assert_eq!(sidecar.command(&["UNLINK", "apikey:1"]).await, 1);
    // In one pipeline, and from many callers at once: whoever is refused is refused alone.
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let replies = sidecar.pipeline(&["DEL user:1", "SET user:1 anew", "DEL user:2", "GET user:3"].map(words)).await;
    let is_oom = |reply: &serde_json::Value| reply["error"].as_str().is_some_and(|error| error.starts_with("OOM"));
    assert_eq!(
        (&replies[0]["result"], &replies[2]["result"], &replies[3]["result"]),
        (&json!(1), &json!(1), &json!("{}"))
    );
    assert!(is_oom(&replies[1]), "{replies:?}");
    let callers = (4..12).map(|n| {
        let mut client = Client::new(sidecar.data.clone());
        tokio::spawn(async move {
            let command =
                if n % 2 == 0 { json!(["DEL", format!("user:{n}")]) } else { json!(["SET", format!("user:{n}"), "x"]) };
            let headers = [("content-type", "application/json")];
            let answer = client.send(Method::POST, "/redis", &headers, command.to_string().into()).await.unwrap();
            (n, answer.json().unwrap())
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        let (n, reply) = caller.await.unwrap();
        assert!(if n % 2 == 0 { reply["result"] == 1 } else { is_oom(&reply) }, "{n}: {reply}");
    }
    drained(&redis).await;
    let client = database.client().await;
    let row = client.query_one("SELECT count(*) FROM users WHERE deleted_at IS NOT NULL", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 7);
    assert_equal(&redis, &database).await;
    let _: () = ask(&redis, &["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(sidecar.command(&["SET", "user:1", "anew"]).await, "OK");
    wait_until("the lease holds", PATIENCE, || async { sidecar.get("/v1/status").await.json()["lease_valid"] == true })
        .await;
    drained(&redis).await;
    assert_equal(&redis, &database).await;
    sidecar.stop_expecting(&[]).await;
}
