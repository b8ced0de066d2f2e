//! What waits: for a command that Redis takes long over, for a Redis or a Postgres that fails on the way, for the end of the
//! sidecar.

use std::time::Duration;

use parallax::dev::servers::PrivateRedis;
use parallax::model::reply::Reply;
use serde_json::json;
use tokio::time::Instant;

use crate::resp_door::client::{Raw, command};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, wait_until};

/// Keeps Redis busy for about a second of its processor's time.
const SLOW: &str = "for turn = 1, 2e8 do end return 1";
/// Far less than a drain may take, and more than a busy machine needs.
const AT_ONCE: Duration = Duration::from_secs(10);

async fn blocked(redis: &PrivateRedis, count: usize) {
    wait_until("they are blocked", PATIENCE, || async {
        let info: String = redis::from_redis_value(support::raw(redis, "INFO clients").await).unwrap();
        info.contains(&format!("blocked_clients:{count}\r\n"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_takes_longer_than_the_deadline_is_waited_for_and_fails_nobody() {
    let redis = support::redis().await;
    let sidecar = Sidecar::start_with(&redis, None, &[("PARALLAX_COMMAND_DEADLINE_MS", "200")]).await;
    // On a busy machine it takes longer, and Redis would say so.
    support::raw(&redis, "CONFIG SET busy-reply-threshold 60000").await;
    let (mut slow, mut other) = (Raw::connect(&sidecar.resp).await, Raw::connect(&sidecar.resp).await);
    other.ask("SET session:a 1").await;
    let script = ["EVAL", SLOW, "1", "session:slow"].map(str::to_owned);
    slow.send(&[parallax::model::command::Command::new(script)]).await;
    // It may come before the script or while it runs; an answer it gets in any case.
    for _ in 0..3 {
        assert_eq!(other.ask("GET session:a").await, Reply::bulk("1"));
    }
    assert_eq!(slow.frame().await.decode(), Reply::Integer(1));
    assert_eq!(other.ask("GET session:a").await, Reply::bulk("1"));
    drop(slow);
    drop(other);
    sidecar.stop_with(&["postgres"], &["renewed", "redis"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_sigterm_a_blocked_client_is_freed_at_once_by_redis_itself_and_nothing_was_popped() {
    let redis = support::redis().await;
    let sidecar = Sidecar::start_with(&redis, None, &[]).await;
    let mut clients = Vec::new();
    for lines in [
        &["BLPOP session:q 0", "BLPOP session:q 0"][..],
        &["XREAD BLOCK 0 STREAMS session:s $"],
        &["WAIT 1 0"],
        &["SELECT 3", "BRPOP session:q 0"],
        &["CLIENT ID", "BLMOVE session:q session:r LEFT RIGHT 0"],
    ] {
        let mut client = Raw::connect(&sidecar.resp).await;
        client.send(&lines.iter().map(|line| command(line)).collect::<Vec<_>>()).await;
        if !lines[0].contains("session") && lines.len() > 1 {
            client.frame().await;
        }
        clients.push((client, lines.iter().filter(|line| line.contains(" 0")).count()));
    }
    blocked(&redis, clients.len()).await;
    let began = Instant::now();
    sidecar.terminate().await;
    for (mut client, owed) in clients {
        for _ in 0..owed.max(1) {
            let text = String::from_utf8_lossy(client.frame().await.bytes()).into_owned();
            assert!(text.starts_with("-UNBLOCKED"), "{text}");
        }
        assert_eq!(client.next().await, None);
    }
    sidecar.ended_with(&["postgres"], &[]).await;
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
    support::raw(&redis, "RPUSH session:q a b").await;
    let left: i64 = redis::from_redis_value(support::raw(&redis, "LLEN session:q").await).unwrap();
    assert_eq!(left, 2, "nobody waits any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_run_fails_on_the_way_each_command_is_answered_with_what_is_known_of_it() {
    let (redis, postgres) = tokio::join!(support::redis(), support::postgres());
    let sidecar = Sidecar::start_with(&redis, Some(&postgres), &[("PARALLAX_COMMAND_DEADLINE_MS", "1000")]).await;
    sidecar.raise("dualwrite").await;
    sidecar.flag("*", json!({ "stage": "dualwrite", "ack": "both" })).await;
    let mut client = Raw::connect(&sidecar.resp).await;
    client.ask("SET session:a 1").await;
    // Nothing is applied while somebody holds the tables.
    let mut holder = postgres.client().await;
    let held = holder.transaction().await.unwrap();
    held.batch_execute("LOCK TABLE control IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let unknown = "-PARALLAX the outcome is unknown: redis has the write";
    let not_sent = "-PARALLAX redis cannot be reached: it was not sent, as a command before it failed\r\n";
    // What Postgres is not owed is answered; and a log that must be captured before more is pushed has others behind it.
    let log = format!("RPUSH usage:records:k{}", " entry".repeat(101));
    for (lines, expected) in [
        (["HSET user:known name one", "GET session:a"], [unknown, "$1\r\n1\r\n"]),
        ([log.as_str(), "SET session:a 2"], [unknown, not_sent]),
    ] {
        client.send(&lines.map(command)).await;
        for (line, expected) in lines.iter().zip(expected) {
            let text = String::from_utf8_lossy(client.frame().await.bytes()).into_owned();
            assert!(text.starts_with(expected), "{line}: {text}");
        }
    }
    held.rollback().await.unwrap();
    assert_eq!(client.ask("GET session:a").await, Reply::bulk("1"));
    drop(client);
    sidecar.stop_with(&[], &["left with marks", "postgres", "appl"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_change_a_connection_at_exec_is_refused_in_every_database() {
    let redis = support::redis().await;
    let sidecar = Sidecar::start_with(&redis, None, &[]).await;
    let mut client = Raw::connect(&sidecar.resp).await;
    for (database, line) in [("0", "HELLO 3"), ("3", "HELLO 3"), ("3", "SELECT 0"), ("3", "AUTH x")] {
        client.ask(&format!("SELECT {database}")).await;
        client.ask("MULTI").await;
        assert_eq!(client.see("SET a 1").await, "+QUEUED\r\n");
        let refused = client.see(line).await;
        assert!(refused.starts_with("-PARALLAX") && refused.contains("inside MULTI"), "{line}: {refused}");
        assert_eq!(client.see("EXEC").await, "-EXECABORT Transaction discarded because of previous errors.\r\n");
        // It still speaks as it did, and stands where it stood.
        assert_eq!(client.see("GET a").await, "$-1\r\n", "{database}: {line}");
    }
    drop(client);
    sidecar.stop_expecting(&["postgres"]).await;
}
