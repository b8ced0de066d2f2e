//! Logs: every entry that was pushed is in Postgres, what could not be is counted, and no door reads them from there.

use serde_json::json;
use tokio_postgres::Client;

use parallax::dev::servers::PostgresOptions;
use parallax::model::catalog::Catalog;
use parallax::traffic::compare;

use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, wait_until};

const LIST: &str = "usage:records:key-1";
const STREAM: &str = "billing:events";

/// What the relay does for each request: push, then keep the last 200.
fn pushes(key: &str, range: std::ops::Range<u32>) -> Vec<Vec<String>> {
    let push = |n: u32| {
        [
            vec!["LPUSH".to_owned(), key.to_owned(), format!("{{\"requestId\":\"r-{n}\",\"cost\":0.5}}")],
            ["LTRIM", key, "0", "199"].map(str::to_owned).to_vec(),
        ]
    };
    range.flat_map(push).collect()
}

/// The live entries of a log in the order of their ids.
async fn entries(client: &Client, id: &str) -> Vec<String> {
    let rows = "SELECT doc::text FROM event_logs WHERE id = $1 AND deleted_at IS NULL ORDER BY element";
    client.query(rows, &[&id]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_pushes_in_one_pipeline_are_all_kept_though_redis_keeps_two_hundred() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("shadow").await;
    let answers = sidecar.pipeline(&pushes(LIST, 0..500)).await;
    assert!(answers.len() == 1000 && answers.iter().all(|answer| answer.get("error").is_none()));
    sidecar.drained().await;
    assert_eq!(sidecar.command(&["LLEN", LIST]).await, 200);
    let client = database.client().await;
    let rows = "SELECT request_id, element FROM event_logs WHERE api_key_id = 'key-1' AND cost = 0.5 ORDER BY element";
    let rows = client.query(rows, &[]).await.unwrap();
    let found: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected: Vec<_> = (0..500).map(|n| (format!("r-{n}"), format!("{:020}", n + 1))).collect();
    assert_eq!(found, expected);
    assert_eq!(number(&client, "SELECT count(*) FROM log_gaps").await, 0);
    assert_eq!(sidecar.metric("parallax_log_gaps_total", &[]).await, 0.0);
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_trimmed_while_postgres_is_away_is_a_gap_with_its_bounds() {
    let redis = support::redis().await;
    let database = support::postgres_of_its_own(PostgresOptions::default()).await;
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("shadow").await;
    sidecar.pipeline(&pushes(LIST, 0..10)).await;
    sidecar.command(&["XADD", STREAM, "1-1", "data", "{}"]).await;
    sidecar.drained().await;
    database.server.stop().await.unwrap();
    sidecar.pipeline(&pushes(LIST, 10..510)).await;
    // A log that Postgres has never seen: its beginning is lost too.
    sidecar.pipeline(&pushes("usage:records:key-2", 0..250)).await;
    for n in 2..=50 {
        sidecar.command(&["XADD", STREAM, "MAXLEN", "20", &format!("{n}-1"), "data", "{}"]).await;
    }
    wait_until("the outage is noticed", PATIENCE, || async {
        sidecar.get("/v1/status").await.json()["lineage"] == "postgres_down"
    })
    .await;
    database.server.restart().await.unwrap();
    sidecar.drained().await;
    let client = database.client().await;
    let gaps = client.query("SELECT id, first_id, last_id, missing FROM log_gaps ORDER BY id", &[]).await.unwrap();
    let gaps: Vec<(String, Option<String>, Option<String>, i64)> =
        gaps.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    let padded = |n: u32| Some(format!("{n:020}"));
    let stream = |n: u32| Some(format!("{n:020}-{:020}", 1));
    let expected = [
        ("billing:events".to_owned(), stream(1), stream(31), 29),
        ("key-1".to_owned(), padded(10), padded(311), 300),
        ("key-2".to_owned(), None, padded(51), 50),
    ];
    assert_eq!(gaps, expected);
    assert_eq!(entries(&client, "key-1").await.len(), 210);
    assert_eq!(entries(&client, "key-2").await.len(), 200);
    assert_eq!(entries(&client, STREAM).await.len(), 21);
    assert_eq!(sidecar.metric("parallax_log_gap_entries_total", &[("kind", "usage_records")]).await, 350.0);
    assert_eq!(sidecar.metric("parallax_log_gaps_total", &[("kind", "billing_events")]).await, 1.0);
    assert_eq!(sidecar.get("/v1/status").await.json()["postgres"]["log_gaps"], 3);
    sidecar.stop_expecting(&["postgres cannot be reached"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_keeps_what_is_trimmed_and_loses_what_is_deleted() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("shadow").await;
    for n in 1..=60 {
        sidecar
            .command(&[
                "XADD",
                STREAM,
                "MAXLEN",
                "40",
                &format!("{n}-0"),
                "data",
                &format!("{{\"eventId\":\"e-{n}\"}}"),
            ])
            .await;
        if n % 10 == 0 {
            sidecar.drained().await;
        }
    }
    sidecar.command(&["XADD", STREAM, "60-7", "data", "{}", "more", "1"]).await;
    sidecar.drained().await;
    let client = database.client().await;
    assert_eq!(entries(&client, STREAM).await.len(), 61, "trimmed entries are history");
    assert_eq!(entries(&client, STREAM).await[60], r#"["data", "{}", "more", "1"]"#);

    // `60` is `60-0` here, and not every entry of that millisecond.
    assert_eq!(sidecar.command(&["XDEL", STREAM, "30-0", "60", "5-0"]).await, 2);
    sidecar.drained().await;
    let gone = "SELECT element FROM event_logs WHERE deleted_at IS NOT NULL AND doc IS NULL ORDER BY element";
    let gone: Vec<String> = client.query(gone, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let expected = [5, 30, 60].map(|n| format!("{n:020}-{:020}", 0));
    assert_eq!(gone, expected, "an XDEL is a wish to forget, of an entry that was trimmed too");
    assert_eq!(number(&client, "SELECT count(*) FROM event_logs").await, 61);
    assert_eq!(number(&client, "SELECT count(*) FROM log_gaps").await, 0);
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_deleted_and_begun_again_shows_its_new_entries() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("shadow").await;
    let client = database.client().await;
    for (is_captured_between, word) in [(true, "one"), (false, "two")] {
        let old = format!("old-{word}");
        for id in ["5-1", "6-1"] {
            sidecar.command(&["XADD", STREAM, id, "data", &old]).await;
        }
        sidecar.command(&["LPUSH", LIST, &old, &old]).await;
        sidecar.drained().await;
        for key in [STREAM, LIST] {
            sidecar.command(&["DEL", key]).await;
        }
        if is_captured_between {
            sidecar.drained().await;
            let headers = "SELECT count(*) FROM collections WHERE deleted_at IS NOT NULL";
            assert_eq!(number(&client, headers).await, 2);
            assert_eq!((entries(&client, STREAM).await.len(), entries(&client, "key-1").await.len()), (0, 0));
        }
        // The same id as an entry of the log that was deleted.
        let new = format!("new-{word}");
        sidecar.command(&["XADD", STREAM, "5-1", "data", &new]).await;
        sidecar.command(&["LPUSH", LIST, &new]).await;
        sidecar.drained().await;
        let found = entries(&client, STREAM).await;
        assert!(found.contains(&format!("[\"data\", \"{new}\"]")), "{word}: {found:?}");
        assert_eq!(found.len(), 1, "{word}: what was deleted is gone: {found:?}");
        let found = entries(&client, "key-1").await;
        assert_eq!(found.last(), Some(&format!("\"{new}\"")), "{word}: {found:?}");
        assert_eq!(number(&client, "SELECT count(*) FROM collections WHERE deleted_at IS NULL").await, 2);
        for key in [STREAM, LIST] {
            sidecar.command(&["DEL", key]).await;
        }
        sidecar.drained().await;
    }
    assert_eq!(sidecar.metric("parallax_mismatches_total", &[]).await, 0.0);
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_appended_while_a_stream_is_captured_is_never_lost() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("shadow").await;
    let client = database.client().await;
    for round in 1..=3 {
        sidecar.command(&["XADD", "other", &format!("{round}-1"), "data", "{}"]).await;
        // A rename marks the stream whole; its apply is held until more was appended.
        client.batch_execute("BEGIN; LOCK TABLE event_logs").await.unwrap();
        sidecar.command(&["RENAME", "other", STREAM]).await;
        let waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'event_logs'::regclass AND NOT granted";
        wait_until("the apply waits", PATIENCE, || async { number(&client, waiting).await >= 1 }).await;
        sidecar.command(&["XADD", STREAM, &format!("{round}-2"), "data", "{}"]).await;
        client.batch_execute("COMMIT").await.unwrap();
        sidecar.drained().await;
        let equality = compare::stores(&redis.url(), &database.url(), &Catalog::embedded()).await.unwrap();
        assert!(equality.holds() && equality.records == 1, "round {round}: {:?}", equality.differences);
        assert_eq!(number(&client, "SELECT count(*) FROM log_gaps").await, 0);
    }
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_no_log_any_more_is_unverifiable_and_stays_where_it_is() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("shadow").await;
    sidecar.backfill().await;
    let unverifiable = || async { sidecar.get("/v1/status").await.json()["unverifiable"].clone() };
    sidecar.command(&["LPUSH", LIST, "a", "b", "c"]).await;
    sidecar.command(&["LTRIM", LIST, "0", "199"]).await;
    assert_eq!(unverifiable().await, json!({}));
    for (kind, command, told) in [
        ("usage_records", &["LSET", LIST, "1", "x"][..], "rewritten"),
        ("error_history", &["RPUSH", "error_history:claude:a-1", "x"], "other end"),
    ] {
        sidecar.command(command).await;
        wait_until("the status says so", PATIENCE, || async {
            unverifiable().await[kind].as_str().is_some_and(|reason| reason.contains(told))
        })
        .await;
        assert!(sidecar.metric("parallax_unverifiable_total", &[("kind", kind)]).await >= 1.0);
        let refused = sidecar.try_flag(kind, json!({ "stage": "live" })).await;
        assert_eq!(refused.status, 409);
        let unmet = refused.json()["unmet"].to_string();
        assert!(unmet.contains("unverifiable") && unmet.contains(told), "{unmet}");
    }
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_door_reads_a_log_from_postgres() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.command(&["LPUSH", LIST, "first", "second"]).await;
    sidecar.command(&["XADD", STREAM, "1-1", "data", "first"]).await;
    sidecar.raise("live").await;
    let client = database.client().await;
    assert_eq!(number(&client, "SELECT count(*) FROM event_logs WHERE deleted_at IS NULL").await, 3);
    // Were anything read from there, it would show.
    client.batch_execute("UPDATE event_logs SET doc = '\"planted\"'").await.unwrap();
    for (command, expected) in [
        (&["LRANGE", LIST, "0", "-1"][..], json!(["second", "first"])),
        (&["LLEN", LIST], json!(2)),
        (&["LINDEX", LIST, "0"], json!("second")),
        (&["TYPE", STREAM], json!("stream")),
        (&["XRANGE", STREAM, "-", "+"], json!([["1-1", ["data", "first"]]])),
    ] {
        let answer = sidecar.ask(command, &[]).await;
        assert_eq!(
            (&answer.json()["result"], answer.header("parallax-source")),
            (&expected, Some("redis")),
            "{command:?}"
        );
    }
    for (path, expected) in [
        ("/v1/records/usage_records/key-1", json!(["second", "first"])),
        ("/v1/records/billing_events/billing%3Aevents", json!([["1-1", ["data", "first"]]])),
    ] {
        let answer = sidecar.data("GET", path, None, &[]).await;
        assert_eq!(
            (answer.status, answer.header("parallax-source")),
            (200, Some("redis")),
            "{path}: {:?}",
            answer.body
        );
        assert_eq!(answer.json(), expected);
    }
    for kind in ["usage_records", "billing_events"] {
        assert_eq!(sidecar.metric("parallax_reads_total", &[("kind", kind), ("store", "postgres")]).await, 0.0);
        assert!(sidecar.metric("parallax_reads_total", &[("kind", kind), ("reason", "not_readable")]).await >= 1.0);
    }
    assert_eq!(
        sidecar.metric("parallax_mismatches_total", &[]).await,
        0.0,
        "a log holds more by design, and is not compared"
    );
    sidecar.stop_expecting(&[]).await;
}
