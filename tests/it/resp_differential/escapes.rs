//! No way round the marks: whatever state a connection was in before, a write of a mirrored record is marked or refused.

use parallax::dev::servers::PostgresOptions;

use super::look::Look;
use super::pair::{address, server};
use super::wire::{Frame, Heard, Wire};
use crate::support;
use crate::support::sidecar::Sidecar;

/// What a client does before it writes, with `refused` behind a line that the door must refuse.
const WAYS: &[&[&str]] = &[
    &[],
    &["MONITOR", "RESET"],
    &["REPLCONF listening-port 1"],
    &["SELECT 1", "SELECT 0"],
    &["SELECT 1", "RESET"],
    &["SELECT 1", "MULTI", "EXEC", "SELECT 0"],
    &["SELECT 1", "MULTI", "SELECT 0 refused", "EXEC", "SELECT 0"],
    &["SELECT 1", "SET lock:x v", "COPY lock:x user:escaped DB 0 refused", "SELECT 0"],
    &["MULTI", "SELECT 1 refused", "DISCARD"],
    &["MULTI", "HELLO 3 refused", "DISCARD"],
    &["MULTI", "SUBSCRIBE differential:a", "EXEC", "RESET"],
    &["MULTI", "CLIENT TRACKING OFF", "EXEC"],
    &["SUBSCRIBE differential:a", "UNSUBSCRIBE differential:a"],
    &["SUBSCRIBE differential:a", "RESET"],
    &["SCRIPT DEBUG YES refused"],
    &["MULTI", "SCRIPT DEBUG YES refused", "DISCARD"],
    &["SELECT 1", "SCRIPT DEBUG YES refused", "SELECT 0"],
    &["CLIENT ID"],
    &["CLIENT NO-EVICT on"],
    &["HELLO 3", "CLIENT TRACKING ON"],
    &["HELLO 3", "SUBSCRIBE differential:a"],
    &["WATCH lock:watched"],
    &["WATCH user:escaped", "MULTI", "DISCARD"],
    &["MULTI", "NOSUCH", "EXEC"],
    &["BLPOP lock:nobody 0.01"],
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_connection_did_before_its_write_is_marked() {
    let behind = server().await;
    let database = support::postgres_of_its_own(PostgresOptions::default()).await;
    let sidecar = Sidecar::start(&behind, &database).await;
    sidecar.raise("dualwrite").await;
    sidecar.drained().await;
    // What is marked stays marked: nobody captures into a store that does not answer.
    database.server.pause().unwrap();
    let mut look = Look::at(&address(&behind)).await;
    for way in WAYS {
        look.forget_marks().await;
        let mut wire = Wire::connect(&sidecar.resp).await;
        for line in *way {
            let (line, is_refused) = line.strip_suffix(" refused").map_or((*line, false), |line| (line, true));
            let mut reply = wire.ask(line).await;
            // What a monitor is still shown comes before the answer to its RESET.
            while line == "RESET" && !matches!(&reply, Frame::Line(b'+', word) if word.as_ref() == b"RESET") {
                let Heard::Frame(next, _) = wire.hear().await else { panic!("{way:?}: no answer to {line}") };
                reply = next;
            }
            assert_eq!(reply.is_error("PARALLAX "), is_refused, "{way:?}: {line}: {reply:?}");
        }
        for lines in [&["SET user:escaped v"][..], &["MULTI", "SADD account_group_members:escaped m", "EXEC"]] {
            for line in lines {
                let reply = wire.ask(line).await;
                assert!(!reply.is_error(""), "{way:?}: {line}: {reply:?}");
            }
        }
        let marks = look.marks().await;
        for key in ["user:escaped", "account_group_members:escaped"] {
            assert!(marks.tokens.contains_key(key.as_bytes()), "{way:?}: {key} was written unmarked: {marks:?}");
        }
    }
    database.server.resume().unwrap();
    sidecar.stop_with(&[], &["postgres", "Postgres", "left with marks"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_our_own_can_neither_be_seen_nor_touched() {
    let (behind, database) = tokio::join!(server(), support::postgres());
    let sidecar = Sidecar::start(&behind, &database).await;
    sidecar.raise("dualwrite").await;
    let mut door = Wire::connect(&sidecar.resp).await;
    for line in [
        "GET parallax:clock",
        "DEL parallax:outbox",
        "HSET parallax:outbox k t",
        "RENAME lock:x parallax:outbox",
        "COPY parallax:flags lock:x",
        "MGET lock:x parallax:clock",
        "EVAL 'return 1' 1 parallax:clock",
        "EVAL 'return redis.call(\"GET\",\"parallax:clock\")' 0",
        "SORT lock:x BY parallax:*",
        "SORT lock:x STORE parallax:outbox",
        "OBJECT ENCODING parallax:flags",
        "XREAD STREAMS parallax:x 0",
        "BLPOP parallax:x 1",
        "WATCH parallax:clock",
        "ZUNIONSTORE lock:x 1 parallax:x",
        "TYPE parallax:flags",
        "DUMP parallax:flags",
        "MEMORY USAGE parallax:flags",
        "TOUCH parallax:flags",
    ] {
        let reply = door.ask(line).await;
        assert!(reply.is_error("PARALLAX "), "{line}: {reply:?}");
        door.ask("MULTI").await;
        let reply = door.ask(line).await;
        assert!(reply.is_error("PARALLAX ") || line.starts_with("WATCH"), "queued: {line}: {reply:?}");
        door.ask("DISCARD").await;
    }
    for line in ["KEYS *", "SCAN 0 COUNT 10000", "RANDOMKEY", "DBSIZE"] {
        let reply = door.ask(line).await;
        assert!(!reply.holds(b"parallax:"), "{line}: {reply:?}");
        for line in ["MULTI", line] {
            door.ask(line).await;
        }
        let reply = door.ask("EXEC").await;
        assert!(!reply.holds(b"parallax:"), "{line} in a transaction: {reply:?}");
    }
    assert_eq!(door.ask("DBSIZE").await, Frame::Line(b':', "0".into()));
    sidecar.stop_expecting(&[]).await;
}
