//! The restore that writes over what Redis holds: told twice, bounded by what the dry run told, and never over a write that
//! came in between.

use std::process::Stdio;

use bytes::Bytes;
use parallax::model::key::Key;
use parallax::model::reply::Reply;
use parallax::model::value::Value;
use parallax::stores::redis::capture::Shape;
use parallax::stores::redis::fence;
use parallax::stores::redis::refill::{self, Document, Refill, Replacement};
use serde_json::{Value as Json, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::equality::{ask, assert_equal};
use crate::jobs::{begin, program, reaches};
use crate::support::sidecar::Sidecar;
use crate::support::stores::{EPOCH, Stores};
use crate::support::{self, Database, raw};

/// Records of four kinds that were written over past every sidecar: Postgres alone still holds what they were.
async fn spoiled() -> (parallax::dev::servers::PrivateRedis, Database, Sidecar) {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    for command in [
        &["SET", "user:one", "right"][..],
        &["SET", "user:two", "right", "EX", "7200"],
        &["HSET", "apikey:one", "name", "right"],
        &["SADD", "apikey:set:active", "one", "two"],
        &["SET", "user:fine", "right"],
        &["LPUSH", "usage:records:one", "right"],
    ] {
        sidecar.command(command).await;
    }
    sidecar.drained().await;
    sidecar.backfill().await;
    for line in [
        "SET user:one wrong",
        "SET user:two wrong",
        "DEL apikey:one",
        "SREM apikey:set:active two",
        "LPUSH usage:records:one wrong",
    ] {
        raw(&redis, line).await;
    }
    (redis, database, sidecar)
}

fn wish(more: Json) -> Json {
    let mut spec = json!({ "job": "restore", "kinds": ["*"], "overwrite": true });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

async fn is_right(redis: &parallax::dev::servers::PrivateRedis, database: &Database) {
    assert_eq!(ask::<String>(redis, &["GET", "user:one"]).await, "right");
    assert!(ask::<i64>(redis, &["TTL", "user:two"]).await > 7_000, "the expiry came back with the value");
    assert_eq!(ask::<String>(redis, &["HGET", "apikey:one", "name"]).await, "right");
    assert_eq!(ask::<Vec<i64>>(redis, &["SMISMEMBER", "apikey:set:active", "one", "two"]).await, [1, 1]);
    assert_eq!(ask::<String>(redis, &["LINDEX", "usage:records:one", "0"]).await, "wrong", "logs are left");
    let text = "SELECT count(*) FROM users WHERE doc = to_jsonb('right'::text) AND deleted_at IS NULL";
    assert_eq!(database.client().await.query_one(text, &[]).await.unwrap().get::<_, i64>(0), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_overwrites_is_counted_first_and_writes_only_what_was_told() {
    let (redis, database, sidecar) = spoiled().await;
    let untold = sidecar.admin("POST", "/v1/jobs", Some(wish(json!({}))), &[]).await;
    assert!(untold.status == 422 && untold.json()["detail"].as_str().unwrap().contains("dry run"), "{untold:?}");
    let counted = reaches(&sidecar, &begin(&sidecar, wish(json!({ "dry_run": true }))).await, "done").await;
    assert_eq!(
        (&counted["report"]["records"], &counted["report"]["overwritten"]),
        (&json!(4), &json!({})),
        "{counted}"
    );
    assert_eq!(ask::<String>(&redis, &["GET", "user:one"]).await, "wrong", "a dry run wrote");
    let wrong = reaches(&sidecar, &begin(&sidecar, wish(json!({ "records": 3 }))).await, "failed").await;
    assert!(wrong["error"].as_str().unwrap().contains("there are 4 now"), "{wrong}");
    assert_eq!(ask::<String>(&redis, &["GET", "user:one"]).await, "wrong", "it wrote what was not told");
    let versions = || async {
        let text = "SELECT version FROM users WHERE key IN ('user:one', 'user:fine') ORDER BY key DESC";
        let rows = database.client().await.query(text, &[]).await.unwrap();
        (rows[0].get::<_, i64>(0), rows[1].get::<_, i64>(0))
    };
    let before = versions().await;
    let done = reaches(&sidecar, &begin(&sidecar, wish(json!({ "records": 4 }))).await, "done").await;
    let overwritten = json!({ "user": 2, "apikey": 1, "apikey_set": 1 });
    assert_eq!(done["report"]["overwritten"], overwritten, "{done}");
    sidecar.drained().await;
    is_right(&redis, &database).await;
    let after = versions().await;
    assert!(
        after.0 > before.0 && after.1 == before.1,
        "{before:?} {after:?}: only what is overwritten is captured anew"
    );
    sidecar.stop_expecting(&["the restore failed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_asks_twice_on_a_terminal_and_wants_the_number_in_a_script() {
    let (redis, database, sidecar) = spoiled().await;
    let output = program(&redis, &database, &["restore", "--overwrite"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("--yes --records N"), "{said}");
    let output = program(&redis, &database, &["restore", "--overwrite", "--yes"]).output().await.unwrap();
    assert!(!output.status.success(), "without a number");
    // A terminal: `script` makes one, and what is typed comes through its input.
    let command = format!(
        "{} restore --overwrite --redis-p99-ms 60000 --postgres-ms 60000 --outbox-age-ms 60000",
        env!("CARGO_BIN_EXE_parallax")
    );
    for (typed, is_done) in [("yes\n5\n", false), ("no\n4\n", false), ("yes\n4\n", true)] {
        let mut terminal = Command::new("script");
        terminal.args(["-qec", &command, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        terminal.env("REDIS_URL", redis.url()).env("DATABASE_URL", database.url()).kill_on_drop(true);
        let mut child = terminal.spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(typed.as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("of 4 records. Overwrite them?"), "{said}");
        assert_eq!(!said.contains("nothing was overwritten"), is_done, "{typed}: {said}");
        assert_eq!(ask::<String>(&redis, &["GET", "user:one"]).await == "right", is_done, "{typed}");
    }
    sidecar.drained().await;
    is_right(&redis, &database).await;
    raw(&redis, "DEL usage:records:one").await;
    sidecar.command(&["DEL", "usage:records:one"]).await;
    sidecar.drained().await;
    assert_equal(&redis, &database).await;
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overwrite_leaves_alone_what_is_marked_or_is_not_what_was_looked_at() {
    let stores = Stores::start().await;
    for line in ["SET user:as-seen v", "SET user:changed v", "SET user:expiring v", "SET user:marked v"] {
        stores.raw(line).await;
    }
    let mut replacements = Vec::new();
    for key in ["user:as-seen", "user:changed", "user:expiring", "user:marked", "user:made"] {
        let (look, _) = fence::look(&stores.redis, "user", &Key::new(key)).await.unwrap();
        let value = Value::String(Bytes::from_static(b"of postgres"));
        replacements.push(Replacement {
            document: Document { key: Key::new(key), value, expires_at_ms: None },
            seen_etag: look.etag,
            seen_expires_at_ms: look.expires_at_ms,
            shape: Shape::Document,
        });
    }
    stores.raw("SET user:changed newer").await;
    stores.raw("PEXPIRE user:expiring 600000").await;
    stores.write("1-a-1", &["SET user:marked newer"]).await;
    stores.raw("SET user:made newer").await;
    let outcomes = refill::overwrite(&stores.redis, EPOCH, "2-b-1", &replacements).await.unwrap();
    assert_eq!(outcomes, [Refill::Filled, Refill::Changed, Refill::Changed, Refill::Marked, Refill::Changed]);
    assert_eq!(stores.raw("GET user:as-seen").await, Reply::bulk("of postgres"));
    assert_eq!(stores.mark("user:as-seen").await.as_deref(), Some("2-b-1"), "it is captured anew");
    for key in ["user:changed", "user:marked", "user:made"] {
        assert_eq!(stores.raw(&format!("GET {key}")).await, Reply::bulk("newer"), "{key}");
    }
    let other = refill::overwrite(&stores.redis, EPOCH + 1, "2-b-2", &replacements).await;
    assert!(other.unwrap_err().to_string().contains("LINEAGE"));
}
