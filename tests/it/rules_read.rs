//! The rules of reading from Postgres (R) and of logs (G): whenever a row may not be believed, Redis answers, and answers
//! the whole command.

use parallax::model::catalog::Catalog;
use parallax::model::flag::{Flag, Stage};
use parallax::stores::redis::fence;
use serde_json::json;

use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::stores::Stores;
use crate::support::{self, raw, source, wait_until, waiting};

const USER: &str = "user:u1";
const GROUP: &str = "account_group_members:g1";
const RECORDS: &str = "usage:records:k1";
const EVENTS: &str = "billing:events";

#[tokio::test(flavor = "multi_thread")]
async fn redis_answers_whenever_the_row_may_not_be_believed() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    sidecar.command(&["SET", USER, "redis"]).await;
    sidecar.raise_from_dualwrite().await;
    let client = database.client().await;
    // What Postgres holds is another text, so that each answer tells where it is from.
    let reset =
        "UPDATE users SET doc = '\"postgres\"', type = 'string', version = 1, deleted_at = NULL, gone_at = NULL,
        expires_at = NULL WHERE key = 'user:u1'; UPDATE control SET floor = 0";
    let cases = [
        ("gone", "UPDATE users SET deleted_at = now(), doc = NULL, type = ''"),
        ("gone", "UPDATE users SET gone_at = now()"),
        ("gone", "UPDATE users SET expires_at = now() - interval '1 second'"),
        ("newer_than_fence", "UPDATE users SET version = 9000000000000000"),
        ("incomplete", "UPDATE control SET floor = 9000000000000000"),
        ("no_row", "DELETE FROM users"),
    ];
    for (reason, breach) in cases {
        client.batch_execute(reset).await.unwrap();
        assert_eq!(source(&sidecar, USER).await, told("postgres"), "before {breach}");
        client.batch_execute(breach).await.unwrap();
        let before = sidecar.metric("parallax_reads_total", &[("reason", reason)]).await;
        assert_eq!(source(&sidecar, USER).await, told("redis"), "{breach}");
        let after = sidecar.metric("parallax_reads_total", &[("reason", reason)]).await;
        assert_eq!(after - before, 1.0, "{reason}: {breach}");
    }
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_answers_for_records_that_are_pending_or_absent() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    sidecar.command(&["SET", USER, "redis"]).await;
    sidecar.raise_from_dualwrite().await;
    let client = database.client().await;
    client.batch_execute("UPDATE users SET doc = '\"postgres\"'").await.unwrap();
    assert_eq!(source(&sidecar, USER).await, told("postgres"));
    // A mark of another sidecar, which is alive and will see to it.
    let redis::Value::Array(time) = raw(&redis, "TIME").await else { panic!() };
    let redis::Value::BulkString(seconds) = &time[0] else { panic!() };
    let token = format!("{}000-other-1", String::from_utf8_lossy(seconds));
    raw(&redis, &format!("HSET parallax:outbox user:u1 {token}")).await;
    assert_eq!(source(&sidecar, USER).await, told("redis"));
    raw(&redis, "HDEL parallax:outbox user:u1").await;
    raw(&redis, "DEL user:u1").await;
    assert_eq!(source(&sidecar, USER).await, ("nil".to_owned(), "redis".to_owned()));
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_another_epoch_is_not_believed() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    sidecar.command(&["SET", USER, "redis"]).await;
    sidecar.raise_from_dualwrite().await;
    let client = database.client().await;
    client.batch_execute("UPDATE users SET doc = '\"postgres\"'").await.unwrap();
    assert_eq!(source(&sidecar, USER).await, told("postgres"));
    client.batch_execute("UPDATE control SET epoch = epoch + 1 WHERE table_name = 'users'").await.unwrap();
    // At once, and when the anchor has followed: then the backfill is of another epoch.
    assert_eq!(source(&sidecar, USER).await, told("redis"));
    wait_until("the anchor follows", PATIENCE, || async {
        raw(&redis, "HGET parallax:anchor epoch").await == redis::Value::BulkString(b"2".to_vec())
    })
    .await;
    assert_eq!(source(&sidecar, USER).await, told("redis"));
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_torn_or_not_complete_is_not_believed() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    sidecar.command(&["SADD", GROUP, "a", "b"]).await;
    sidecar.raise_from_dualwrite().await;
    let client = database.client().await;
    let reset = "UPDATE collections SET complete = true, version = 1, last_version = 1;
        UPDATE elements SET version = 1, deleted_at = NULL, doc = 'true'";
    let cases = [
        "UPDATE collections SET complete = false",
        "UPDATE collections SET version = 9000000000000000",
        "UPDATE collections SET last_version = 9000000000000000",
        "UPDATE elements SET version = 9000000000000000 WHERE element = 'a'",
        "UPDATE elements SET version = 9000000000000000, deleted_at = now(), doc = NULL WHERE element = 'a'",
    ];
    let ask = async |command: &[&str]| {
        let answer = sidecar.ask(command, &[]).await;
        (answer.json()["result"].clone(), answer.header("parallax-source").unwrap().to_owned())
    };
    for breach in cases {
        client.batch_execute(reset).await.unwrap();
        assert_eq!(ask(&["SCARD", GROUP]).await, (json!(2), "postgres".to_owned()), "before {breach}");
        assert_eq!(ask(&["SISMEMBER", GROUP, "b"]).await, (json!(1), "postgres".to_owned()), "before {breach}");
        assert_eq!(
            ask(&["SISMEMBER", GROUP, "c"]).await,
            (json!(0), "redis".to_owned()),
            "absence is for redis to tell"
        );
        client.batch_execute(breach).await.unwrap();
        assert_eq!(ask(&["SCARD", GROUP]).await, (json!(2), "redis".to_owned()), "{breach}");
        assert_eq!(ask(&["SISMEMBER", GROUP, "a"]).await, (json!(1), "redis".to_owned()), "{breach}");
    }
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_percent_splits_is_answered_by_redis_as_a_whole() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    let half = Flag { stage: Stage::Live, percent: 50.0, ..Flag::default() };
    let keys: Vec<String> = (0..100).map(|number| format!("user:{number}")).collect();
    let inside = keys.iter().find(|key| half.sends_to_postgres("user", key.as_bytes())).unwrap().as_str();
    let outside = keys.iter().find(|key| !half.sends_to_postgres("user", key.as_bytes())).unwrap().as_str();
    for key in [inside, outside] {
        sidecar.command(&["SET", key, "redis"]).await;
    }
    sidecar.raise_from_dualwrite().await;
    sidecar.flag("*", json!({ "percent": 50.0 })).await;
    database.client().await.batch_execute("UPDATE users SET doc = '\"postgres\"'").await.unwrap();
    for (keys, answers, from) in [
        (vec![inside], json!(["postgres"]), "postgres"),
        (vec![outside], json!(["redis"]), "redis"),
        (vec![inside, outside], json!(["redis", "redis"]), "redis"),
        (vec![outside, inside], json!(["redis", "redis"]), "redis"),
    ] {
        let answer = sidecar.ask(&[vec!["MGET"], keys.clone()].concat(), &[]).await;
        assert_eq!((&answer.json()["result"], answer.header("parallax-source")), (&answers, Some(from)), "{keys:?}");
    }
    // One of two that may not be believed takes the other with it.
    sidecar.flag("*", json!({ "percent": 100.0 })).await;
    database.client().await.execute("UPDATE users SET gone_at = now() WHERE key = $1", &[&outside]).await.unwrap();
    let answer = sidecar.ask(&["MGET", inside, outside], &[]).await;
    assert_eq!(
        (&answer.json()["result"], answer.header("parallax-source")),
        (&json!(["redis", "redis"]), Some("redis"))
    );
    sidecar.stop_expecting(&[]).await;
}

/// A gate in front of the control row that stops one sort of statement at a time, after its snapshot was taken.
const GATES: &str = "
    ALTER TABLE control RENAME TO control_rows;
    CREATE FUNCTION passes() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        IF current_query() LIKE '%doc::text AS doc%' THEN PERFORM pg_advisory_xact_lock_shared(42); END IF;
        IF current_query() LIKE '%FOR SHARE%' THEN PERFORM pg_advisory_xact_lock_shared(43); END IF;
        RETURN true;
    END $$;
    CREATE VIEW control AS SELECT table_name, epoch, floor FROM control_rows WHERE passes()";

#[tokio::test(flavor = "multi_thread")]
async fn the_fence_is_taken_before_postgres_is_read() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    sidecar.command(&["SET", USER, "first"]).await;
    sidecar.raise_from_dualwrite().await;
    sidecar.flag("*", json!({ "deadline_ms": 10000, "sample_rate": 0.0 })).await;
    let client = database.client().await;
    client.batch_execute(GATES).await.unwrap();
    assert_eq!(source(&sidecar, USER).await, ("first".to_owned(), "postgres".to_owned()));
    client.batch_execute("SELECT pg_advisory_lock(42), pg_advisory_lock(43)").await.unwrap();
    // The write is answered, and its apply held up. Whoever reads now must see it.
    sidecar.command(&["SET", USER, "second"]).await;
    // The fence says that the record is pending, so nobody comes to the gate. A read of Postgres that begins before the fence
    // would stand there with a snapshot of the time before the apply, while the mark goes.
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted";
    let mut read = Box::pin(source(&sidecar, USER));
    let early = loop {
        tokio::select! {
            answer = &mut read => break Some(answer),
            row = client.query_one(waits, &[]) => if row.unwrap().get::<_, i64>(0) > 0 { break None },
        }
    };
    client.batch_execute("SELECT pg_advisory_unlock(43)").await.unwrap();
    sidecar.drained().await;
    client.batch_execute("SELECT pg_advisory_unlock(42)").await.unwrap();
    let (value, _) = match early {
        Some(answer) => answer,
        None => (&mut read).await,
    };
    drop(read);
    assert_eq!(value, "second");
    sidecar.stop_expecting(&[]).await;
}

/// How many reads at once.
const TOGETHER: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_share_an_exchange_have_each_its_own_answer() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    let user = |number: usize| format!("user:{number}");
    for number in 0..TOGETHER {
        sidecar.command(&["SET", &user(number), &format!("v{number}")]).await;
        sidecar.command(&["HSET", &format!("usage:{number}"), "totalTokens", &number.to_string()]).await;
    }
    sidecar.raise_from_dualwrite().await;
    sidecar.flag("*", json!({ "deadline_ms": 10000, "sample_rate": 0.0 })).await;
    let client = database.client().await;
    // One of them may not be believed, and another one is not there at all.
    client.execute("UPDATE users SET gone_at = now() WHERE key = $1", &[&user(7)]).await.unwrap();
    redis::cmd("DEL").arg(user(8)).exec_async(&mut crate::equality::connection(&redis).await).await.unwrap();
    client.batch_execute(GATES).await.unwrap();
    client.batch_execute("SELECT pg_advisory_lock(42)").await.unwrap();
    let (sidecar, postgres, from_redis) = (std::sync::Arc::new(sidecar), "postgres", "redis");
    let mut reads = Vec::new();
    for number in 0..TOGETHER {
        let (hash, next) = (format!("usage:{number}"), (number + 1) % TOGETHER);
        let (told, source) = (json!(format!("v{number}")), if number == 7 { from_redis } else { postgres });
        let (told, source) = if number == 8 { (json!(null), from_redis) } else { (told, source) };
        reads.push((vec!["GET".to_owned(), user(number)], told, source));
        reads.push((vec!["HGET".to_owned(), hash, "totalTokens".to_owned()], json!(number.to_string()), postgres));
        if ![6, 7, 8].contains(&number) {
            let both = json!([format!("v{number}"), format!("v{next}")]);
            reads.push((vec!["MGET".to_owned(), user(number), user(next)], both, postgres));
        }
    }
    let asked = reads.into_iter().map(|(command, told, source)| {
        let sidecar = std::sync::Arc::clone(&sidecar);
        tokio::spawn(async move {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let answer = sidecar.ask(&words, &[]).await;
            let found = (answer.json()["result"].clone(), answer.header("parallax-source").map(str::to_owned));
            assert_eq!(found, (told, Some(source.to_owned())), "{command:?}");
        })
    });
    let asked: Vec<_> = asked.collect();
    // The first ones stand at the gate, and the others gather behind them.
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted";
    wait_until("reads stand at the gate", PATIENCE, async || {
        client.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
    client.batch_execute("SELECT pg_advisory_unlock(42)").await.unwrap();
    for read in asked {
        read.await.unwrap();
    }
    std::sync::Arc::into_inner(sidecar).unwrap().stop_expecting(&[]).await;
}

#[tokio::test]
async fn the_fence_tells_of_all_keys_in_one_moment() {
    let stores = Stores::start().await;
    stores.write("t1", &["SET user:u1 v"]).await;
    stores.bring(USER).await;
    stores.write("t2", &["SET user:u2 v"]).await;
    let keys = ["user:u1", "user:u2", "user:u3"].map(parallax::model::key::Key::new);
    let (fence, standings) = fence::fence(&stores.redis, &keys).await.unwrap();
    let told: Vec<(bool, bool)> = standings.iter().map(|standing| (standing.is_pending, standing.is_present)).collect();
    assert_eq!(told, [(false, true), (true, true), (false, false)]);
    assert_eq!((fence.epoch, fence.clock), (1, stores.row(USER).await.unwrap().version));
    stores.raw("HSET parallax:anchor run_id another").await;
    assert_eq!(fence::fence(&stores.redis, &keys).await.unwrap().0.epoch, -1, "outside the lineage nothing compares");
}

#[tokio::test]
async fn a_log_that_begins_anew_replaces_entries_of_the_same_ids() {
    let stores = Stores::start().await;
    stores.write("t0", &["XADD billing:events 1-1 f old", "XADD billing:events 2-1 f old"]).await;
    stores.bring(EVENTS).await;
    stores.write("t1", &["DEL billing:events"]).await;
    stores.bring(EVENTS).await;
    assert_eq!(stores.live_elements(EVENTS).await, Vec::<String>::new());
    stores.write("t2", &["XADD billing:events 1-1 f new"]).await;
    stores.bring(EVENTS).await;
    let entries = stores.elements(EVENTS).await;
    let live: Vec<_> = entries.values().filter(|row| row.state == "live").map(|row| row.doc.clone().unwrap()).collect();
    assert_eq!(live, [r#"["f", "new"]"#]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_history_when_trimmed_and_tombstones_when_entries_are_deleted() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    for id in ["1-0", "2-0", "3-0", "3-1", "4-0"] {
        sidecar.command(&["XADD", EVENTS, id, "f", id]).await;
    }
    sidecar.drained().await;
    // `3` is short for `3-0`, and not for `3-1`.
    sidecar.command(&["XDEL", EVENTS, "3"]).await;
    sidecar.command(&["XTRIM", EVENTS, "MAXLEN", "2"]).await;
    sidecar.drained().await;
    let text = "SELECT doc->>1, deleted_at IS NOT NULL FROM event_logs ORDER BY element";
    let rows = database.client().await.query(text, &[]).await.unwrap();
    let rows: Vec<(Option<String>, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let live = |id: &str| (Some(id.to_owned()), false);
    assert_eq!(rows, [live("1-0"), live("2-0"), (None, true), live("3-1"), live("4-0")]);
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_a_list_keep_their_ids_and_what_was_trimmed_too_early_is_a_gap() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    let push = async |from: usize, to: usize| {
        for number in from..to {
            let lines = [format!("LPUSH {RECORDS} entry-{number}"), format!("LTRIM {RECORDS} 0 4")];
            sidecar.pipeline(&lines.map(|line| line.split(' ').map(str::to_owned).collect())).await;
        }
    };
    push(0, 3).await;
    sidecar.drained().await;
    // Postgres is held up while the list goes round twice.
    let mut locker = database.client().await;
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE collections IN ACCESS EXCLUSIVE MODE").await.unwrap();
    push(3, 4).await;
    wait_until("the apply waits", PATIENCE, || async { waiting(&database).await > 0 }).await;
    push(4, 14).await;
    lock.commit().await.unwrap();
    sidecar.drained().await;
    let client = database.client().await;
    let rows = client.query("SELECT doc#>>'{}', element FROM event_logs ORDER BY element", &[]).await.unwrap();
    let rows: Vec<(String, i64)> =
        rows.iter().map(|row| (row.get(0), row.get::<_, &str>(1).parse().unwrap())).collect();
    let expected: Vec<(String, i64)> =
        [0, 1, 2, 3, 9, 10, 11, 12, 13].map(|number| (format!("entry-{number}"), number + 1)).into();
    assert_eq!(rows, expected);
    let gap = client.query_one("SELECT missing, first_id::bigint, last_id::bigint FROM log_gaps", &[]).await.unwrap();
    assert_eq!((gap.get::<_, i64>(0), gap.get::<_, i64>(1), gap.get::<_, i64>(2)), (5, 4, 10));
    assert_eq!(sidecar.metric("parallax_log_gap_entries_total", &[]).await, 5.0);
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_pipeline_of_pushes_is_captured_before_the_list_forgets_them() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    let lines: Vec<Vec<String>> = (0..400)
        .flat_map(|number| [format!("LPUSH {RECORDS} entry-{number}"), format!("LTRIM {RECORDS} 0 199")])
        .map(|line| line.split(' ').map(str::to_owned).collect())
        .collect();
    sidecar.pipeline(&lines).await;
    sidecar.drained().await;
    let client = database.client().await;
    let row = client.query_one("SELECT (SELECT count(*) FROM event_logs), (SELECT count(*) FROM log_gaps)", &[]).await;
    let row = row.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (400, 0));
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_never_read_from_postgres_and_one_rewritten_in_its_middle_cannot_be_verified() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    sidecar.command(&["LPUSH", RECORDS, "a", "b"]).await;
    sidecar.raise_from_dualwrite().await;
    let answer = sidecar.ask(&["LRANGE", RECORDS, "0", "-1"], &[]).await;
    assert_eq!((answer.json()["result"].clone(), answer.header("parallax-source")), (json!(["b", "a"]), Some("redis")));
    let catalog = Catalog::embedded();
    assert!(catalog.kinds().iter().filter(|kind| kind.log.is_some()).all(|kind| !kind.is_readable()));
    sidecar.command(&["LREM", RECORDS, "0", "a"]).await;
    wait_until("it is told", PATIENCE, || async {
        sidecar.get("/v1/status").await.json()["unverifiable"]["usage_records"].is_string()
    })
    .await;
    sidecar.stop_expecting(&[]).await;
}

fn told(store: &str) -> (String, String) {
    (store.to_owned(), store.to_owned())
}
