//! The rules of capturing and applying (C, A), each in the order of steps that broke the protocol without it.

use bytes::Bytes;
use parallax::model::key::Key;
use parallax::model::reply::Reply;
use parallax::stores::postgres::apply::{self, Basis};
use parallax::stores::postgres::pool::PostgresError;
use parallax::stores::postgres::rows::{ElementRow, Fate, Item, RecordRow, Whole};
use parallax::stores::redis::capture;
use parallax::stores::redis::marks;
use serde_json::json;

use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::stores::Stores;
use crate::support::{self, raw, source, standing, wait_until, waiting, words};

const USER: &str = "user:u1";
const GROUP: &str = "account_group_members:g1";

#[tokio::test]
async fn nothing_gets_a_version_outside_the_lineage() {
    let stores = Stores::start().await;
    stores.write("t1", &["SET user:u1 v", "SADD account_group_members:g1 a"]).await;
    let (carried, clock) = (stores.carry(USER).await, stores.raw("GET parallax:clock").await);
    for breach in ["HSET parallax:anchor run_id another", "DEL parallax:anchor"] {
        stores.raw(breach).await;
        let refusals = [
            stores.take(USER).await.err().map(|error| error.to_string()),
            capture::whole_begin(&stores.redis, &Key::new(GROUP)).await.err().map(|error| error.to_string()),
            marks::repair(&stores.redis, "r", &[Key::new("user:u2")], false).await.err().map(|error| error.to_string()),
            stores.ack(&carried).await.err().map(|error| error.to_string()),
        ];
        for refusal in refusals {
            assert!(refusal.as_ref().is_some_and(|text| text.contains("LINEAGE")), "{breach}: {refusal:?}");
        }
        assert_eq!(stores.mark(USER).await.as_deref(), Some("t1"), "{breach}");
    }
    assert_eq!(stores.raw("GET parallax:clock").await, clock, "the clock gave no version");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_anchor_writes_are_marked_and_nothing_is_captured() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    sidecar.command(&["SET", "user:before", "v"]).await;
    sidecar.drained().await;
    let client = database.client().await;
    let rows = || async { client.query_one("SELECT count(*) FROM users", &[]).await.unwrap().get::<_, i64>(0) };
    raw(&redis, "RENAME parallax:anchor test:anchor").await;
    sidecar.command(&["SET", USER, "v"]).await;
    standing(&sidecar, "redis_lost").await;
    assert_eq!(raw(&redis, "HEXISTS parallax:outbox user:u1").await, redis::Value::Int(1));
    assert_eq!((rows().await, raw(&redis, "EXISTS parallax:anchor").await), (1, redis::Value::Int(0)));
    raw(&redis, "RENAME test:anchor parallax:anchor").await;
    sidecar.drained().await;
    assert_eq!(rows().await, 2);
    standing(&sidecar, "good").await;
    sidecar.stop_expecting(&["redis has no anchor"]).await;
}

#[tokio::test]
async fn every_capture_raises_the_version_also_when_nothing_changed() {
    let stores = Stores::start().await;
    let mut last = 0;
    for token in ["t1", "t2", "t3"] {
        stores.write(token, &["SET user:u1 same"]).await;
        stores.bring(USER).await;
        let row = stores.row(USER).await.unwrap();
        assert!(row.version > last, "{row:?} after {last}");
        last = row.version;
    }
    // A clock ahead of the server's time goes on from where it is.
    stores.raw("SET parallax:clock 8000000000000000").await;
    stores.write("t4", &["SET user:u1 same"]).await;
    stores.bring(USER).await;
    assert_eq!(stores.row(USER).await.unwrap().version, 8_000_000_000_000_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_ignores_absent_keys_and_marks_live_rows_without_a_key() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    for key in ["user:kept", "user:lost"] {
        sidecar.command(&["SET", key, "v"]).await;
    }
    sidecar.drained().await;
    raw(&redis, "DEL user:lost").await;
    sidecar.backfill().await;
    sidecar.drained().await;
    // Nobody deleted it through a sidecar: it is gone, not a tombstone, and its document is kept.
    let client = database.client().await;
    let text = "SELECT key, doc IS NOT NULL, gone_at IS NOT NULL, deleted_at IS NOT NULL FROM users ORDER BY key";
    let rows = client.query(text, &[]).await.unwrap();
    let rows: Vec<(String, bool, bool, bool)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    let expected = [("user:kept".to_owned(), true, false, false), ("user:lost".to_owned(), true, true, false)];
    assert_eq!(rows, expected);
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test]
async fn what_was_planned_while_a_table_was_empty_does_not_read_it_whole_when_it_is_full() {
    let stores = Stores::start().await;
    let client = stores.database.client().await;
    // Of a table that was looked at when it was empty, Postgres believes that it stays so.
    client.batch_execute("VACUUM users").await.unwrap();
    let write = async |token: &str| {
        stores.write(token, &["SET user:u1 v"]).await;
        stores.bring(USER).await;
    };
    write("t1").await;
    let fill = "INSERT INTO users (key_hash, key, kind, id, type, doc, version)
        SELECT decode(md5(n::text), 'hex'), 'user:f' || n, 'user', 'f' || n, 'string', '\"v\"', 1 FROM generate_series(1, 5000) n";
    client.batch_execute(fill).await.unwrap();
    let read = async || {
        let text = "SELECT idx_scan, seq_tup_read FROM pg_stat_user_tables WHERE relname = 'users'";
        let row = client.query_one(text, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    for token in ["t2", "t3", "t4"] {
        write(token).await;
    }
    // A connection tells what it read when it ends.
    stores.postgres.forget_idle();
    wait_until("the connection has told", PATIENCE, || async { read().await != (0, 0) }).await;
    let (_, rows) = read().await;
    assert!(rows < 5_000, "{rows} rows were read to write one three times");
}

#[tokio::test]
async fn absence_is_written_down_with_its_cause_also_where_there_is_no_row() {
    let stores = Stores::start().await;
    stores.write("t1", &["SET user:deleted v"]).await;
    stores.write("t2", &["DEL user:deleted"]).await;
    stores.bring("user:deleted").await;
    let row = stores.row("user:deleted").await.unwrap();
    assert_eq!((row.state.as_str(), row.doc), ("deleted", None));

    stores.write("t3", &["SET user:evicted v"]).await;
    stores.raw("DEL user:evicted").await;
    stores.bring("user:evicted").await;
    let row = stores.row("user:evicted").await.unwrap();
    assert_eq!((row.state.as_str(), row.doc), ("gone", None));

    // On a tombstone only the version rises.
    let before = stores.row("user:deleted").await.unwrap();
    stores.raw("HSET parallax:outbox user:deleted t4").await;
    stores.bring("user:deleted").await;
    let after = stores.row("user:deleted").await.unwrap();
    assert_eq!((after.state.as_str(), after.doc), ("deleted", None));
    assert!(after.version > before.version);
}

/// Begins a whole capture of `{a, b}` and writes its one chunk; answers what the end needs.
async fn chunk_of_two(stores: &Stores) -> (Basis, capture::WholeBegin, Whole) {
    stores.write("t1", &["SADD account_group_members:g1 a b"]).await;
    let begin = stores.whole(GROUP).await;
    let chunk = capture::whole_chunk(&stores.redis, &Key::new(GROUP), "set", &Bytes::from_static(b"0")).await.unwrap();
    assert_eq!(chunk.elements.len(), 2);
    let basis = Basis { epoch: chunk.epoch, beat: begin.stamp.beat };
    let header = header(stores, &begin, chunk.version);
    let row = |(element, _): &(Bytes, Reply)| ElementRow {
        element: element.clone(),
        doc: Some("true".to_owned()),
        version: chunk.version,
    };
    let rows: Vec<ElementRow> = chunk.elements.iter().map(row).collect();
    let table = stores.kind(GROUP).table;
    apply::chunk(&stores.postgres, basis, table, &header, &rows).await.unwrap();
    let whole = Whole { header, table, first_version: begin.stamp.version, stream: None };
    (basis, begin, whole)
}

fn header(stores: &Stores, begin: &capture::WholeBegin, version: i64) -> RecordRow {
    let kind = stores.kind(GROUP);
    let mut header = parallax::dual::settle::header(kind, &Key::new(GROUP), &begin.stamp, Fate::Present);
    header.type_name = "set".to_owned();
    header.version = version;
    header
}

async fn is_complete(stores: &Stores) -> bool {
    let row = stores.look.query_one("SELECT complete FROM collections WHERE key = $1", &[&GROUP]).await.unwrap();
    row.get(0)
}

#[tokio::test]
async fn unseen_elements_go_below_the_first_chunk_and_no_higher() {
    let stores = Stores::start().await;
    stores.raw("SADD account_group_members:g1 stale").await;
    stores.write("t0", &["SADD account_group_members:g1 stale"]).await;
    stores.bring(GROUP).await;
    stores.write("t0", &["DEL account_group_members:g1"]).await;
    let (basis, _, mut whole) = chunk_of_two(&stores).await;
    assert!(!is_complete(&stores).await, "a chunk says nothing of the whole");
    // Behind the first chunk's back an element comes and is captured by its own mark.
    stores.write("t2", &["SADD account_group_members:g1 c"]).await;
    let (stamp, _) = stores.take(GROUP).await.unwrap();
    let c = ElementRow { element: Bytes::from_static(b"c"), doc: Some("true".to_owned()), version: stamp.version };
    let item = Item::Elements(whole.header.clone(), vec![c]);
    apply::apply(&stores.postgres, basis, &[item]).await.unwrap();
    // The last chunk comes later than that.
    whole.header.version = stores.take(GROUP).await.unwrap().0.version;
    apply::finalise(&stores.postgres, basis, &whole, &[]).await.unwrap();
    assert!(is_complete(&stores).await);
    assert_eq!(stores.live_elements(GROUP).await, ["a", "b", "c"]);
    let stale = &stores.elements(GROUP).await["stale"];
    assert_eq!((stale.state.as_str(), stale.version), ("deleted", whole.first_version));
}

#[tokio::test]
async fn an_element_captured_by_a_paused_drainer_stays_dead_after_its_collection_was_deleted() {
    let stores = Stores::start().await;
    stores.raw("SADD account_group_members:g1 a").await;
    stores.write("t1", &["SADD account_group_members:g1 e"]).await;
    let paused = stores.carry(GROUP).await;
    stores.write("t2", &["DEL account_group_members:g1"]).await;
    let begin = stores.whole(GROUP).await;
    let absent = stores.absent(GROUP, begin);
    stores.apply(&absent).await.unwrap();
    assert_eq!(stores.ack(&absent).await.unwrap(), 1);
    stores.apply(&paused).await.unwrap();
    assert_eq!(stores.live_elements(GROUP).await, Vec::<String>::new());
    assert_eq!(stores.row(GROUP).await.unwrap().state, "deleted");
}

#[tokio::test]
async fn a_whole_capture_that_a_deletion_overtook_does_not_end() {
    let stores = Stores::start().await;
    let (basis, _, whole) = chunk_of_two(&stores).await;
    stores.write("t2", &["DEL account_group_members:g1"]).await;
    let begin = stores.whole(GROUP).await;
    let absent = stores.absent(GROUP, begin);
    stores.apply(&absent).await.unwrap();
    apply::finalise(&stores.postgres, basis, &whole, &[]).await.unwrap();
    assert!(!is_complete(&stores).await);
    assert_eq!(stores.row(GROUP).await.unwrap().state, "deleted");
    assert_eq!(stores.live_elements(GROUP).await, Vec::<String>::new());
}

#[tokio::test]
async fn an_absent_element_leaves_a_tombstone_also_where_there_was_no_row() {
    let stores = Stores::start().await;
    stores.raw("SADD account_group_members:g1 a e").await;
    stores.write("t1", &["SREM account_group_members:g1 e"]).await;
    stores.bring(GROUP).await;
    assert_eq!(stores.elements(GROUP).await["e"].state, "deleted");
}

#[tokio::test]
async fn an_apply_is_refused_after_the_epoch_rose_or_the_floor_passed_it() {
    let stores = Stores::start().await;
    stores.write("t1", &["SET user:u1 v"]).await;
    let carried = stores.carry(USER).await;
    let floor = format!("UPDATE control SET floor = {} WHERE table_name = 'users'", carried.stamp.version);
    let back = "UPDATE control SET epoch = 1, floor = 0";
    for raise in ["UPDATE control SET epoch = 2 WHERE table_name = 'users'", &floor] {
        stores.sql(raise).await;
        assert!(matches!(stores.apply(&carried).await, Err(PostgresError::Superseded)), "{raise}");
        assert_eq!(stores.row(USER).await, None);
        stores.sql(back).await;
    }
    stores.apply(&carried).await.unwrap();
    assert_eq!(stores.row(USER).await.unwrap().state, "live");
}

#[tokio::test]
async fn an_apply_waits_for_a_sweep_under_way_instead_of_trusting_its_snapshot() {
    let stores = Stores::start().await;
    stores.write("t1", &["SET user:u1 v"]).await;
    let carried = stores.carry(USER).await;
    let mut sweeper = stores.database.client().await;
    let sweep = sweeper.transaction().await.unwrap();
    let raised = format!("UPDATE control SET floor = {} WHERE table_name = 'users'", carried.stamp.version);
    sweep.batch_execute(&raised).await.unwrap();
    let (postgres, basis) = (stores.postgres.clone(), Basis { epoch: 1, beat: 0 });
    let apply = tokio::spawn(async move { apply::apply(&postgres, basis, &[carried.item]).await });
    wait_until("the apply waits for the sweep, or did not", PATIENCE, || async {
        apply.is_finished() || waiting(&stores.database).await > 0
    })
    .await;
    sweep.commit().await.unwrap();
    assert!(matches!(apply.await.unwrap(), Err(PostgresError::Superseded)));
    assert_eq!(stores.row(USER).await, None);
}

#[tokio::test]
async fn an_ack_of_another_lineage_removes_nothing() {
    let stores = Stores::start().await;
    stores.write("t1", &["SET user:u1 v"]).await;
    let carried = stores.carry(USER).await;
    stores.apply(&carried).await.unwrap();
    stores.raw("HSET parallax:anchor epoch 2").await;
    let refused = stores.ack(&carried).await.unwrap_err().to_string();
    assert!(refused.contains("LINEAGE"), "{refused}");
    assert_eq!(stores.mark(USER).await.as_deref(), Some("t1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_stays_until_its_commit() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    let mut locker = database.client().await;
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await.unwrap();
    sidecar.command(&["SET", USER, "v"]).await;
    wait_until("the apply waits", PATIENCE, || async { waiting(&database).await > 0 }).await;
    assert_eq!(raw(&redis, "HEXISTS parallax:outbox user:u1").await, redis::Value::Int(1));
    lock.commit().await.unwrap();
    sidecar.drained().await;
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_postgres_refuses_keeps_its_mark_and_holds_up_nobody() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    let client = database.client().await;
    let poison = "ALTER TABLE users ADD CHECK (doc::text NOT LIKE '%poison%') NOT VALID;
        ALTER TABLE elements ADD CHECK (element <> 'poison') NOT VALID";
    sidecar.command(&["SET", "user:quiet", "first"]).await;
    sidecar.raise("live").await;
    client.batch_execute(poison).await.unwrap();
    let lines = [
        "SET user:bad poison",
        "SADD account_group_members:bad poison",
        "SET user:good fine",
        "SADD account_group_members:good fine",
    ];
    sidecar.pipeline(&lines.map(words)).await;
    wait_until("the bad ones alone are left", PATIENCE, || async {
        sidecar.get("/v1/status").await.json()["outbox"]["depth"] == 2
            && sidecar.metric("parallax_dead_letters_total", &[]).await >= 2.0
    })
    .await;
    for key in ["user:bad", "account_group_members:bad"] {
        assert_eq!(raw(&redis, &format!("HEXISTS parallax:outbox {key}")).await, redis::Value::Int(1), "{key}");
    }
    assert_eq!(source(&sidecar, "user:bad").await, ("poison".to_owned(), "redis".to_owned()));
    assert_eq!(source(&sidecar, "user:good").await, ("fine".to_owned(), "postgres".to_owned()));

    // A backfill comes upon a record that nobody marked, and cannot write it: what Postgres has is older.
    raw(&redis, "SET user:quiet poison").await;
    sidecar.backfill().await;
    assert_eq!(source(&sidecar, "user:quiet").await, ("poison".to_owned(), "redis".to_owned()));

    for key in ["user:bad", "user:quiet"] {
        sidecar.command(&["SET", key, "fine"]).await;
    }
    sidecar.command(&["DEL", "account_group_members:bad"]).await;
    sidecar.drained().await;
    wait_until("no dead letter is left", PATIENCE, || async {
        client.query_one("SELECT count(*) FROM dead_letters", &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    sidecar.stop_expecting(&["is among the dead letters"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_of_a_dead_host_whose_clock_is_ahead_is_swept_all_the_same() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    raw(&redis, "SET user:u1 v").await;
    raw(&redis, "HSET parallax:outbox user:u1 9999999999999-dead-1").await;
    sidecar.drained().await;
    let row = database.client().await.query_one("SELECT doc#>>'{}' FROM users WHERE key = $1", &[&USER]).await;
    assert_eq!(row.unwrap().get::<_, &str>(0), "v");
    sidecar.stop_expecting(&[]).await;
}
