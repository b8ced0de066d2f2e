//! A client's own transactions, and pipelines with everything in them.

use parallax::model::reply::Reply;

use crate::resp_door::client::{Raw, command};
use crate::support;
use crate::support::sidecar::Sidecar;

const USER: &str = "user:0123456789abcdef0123456789abcdef";

fn status(text: &str) -> Reply {
    Reply::Status(text.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_own_transaction_runs_as_redis_runs_it_and_its_writes_reach_postgres() {
    let (redis, postgres) = tokio::join!(support::redis(), support::postgres());
    let sidecar = Sidecar::start(&redis, &postgres).await;
    sidecar.raise("dualwrite").await;
    let mut client = Raw::connect(&sidecar.resp).await;
    // One after the other, as a person types.
    assert_eq!(client.ask("MULTI").await, status("OK"));
    assert_eq!(client.ask(&format!("HSET {USER} name one age 7")).await, status("QUEUED"));
    assert_eq!(client.ask("INCR session:n").await, status("QUEUED"));
    assert_eq!(client.ask(&format!("HGET {USER} name")).await, status("QUEUED"));
    assert_eq!(client.ask(&format!("LPUSH {USER} x")).await, status("QUEUED"));
    assert_eq!(client.ask("MULTI").await, Reply::Error("ERR MULTI calls can not be nested".to_owned()));
    let exec = client.see("EXEC").await;
    let wrong = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
    assert_eq!(exec, format!("*4\r\n:2\r\n:1\r\n$3\r\none\r\n{wrong}"));
    sidecar.drained().await;
    let found =
        postgres.client().await.query_one("SELECT doc->>'age' FROM users WHERE key = $1", &[&USER]).await.unwrap();
    assert_eq!(found.get::<_, String>(0), "7");
    // In one write, as a library sends it; and a delete leaves a tombstone.
    let lines = ["MULTI", &format!("DEL {USER}"), "SET session:x 1", "EXEC"];
    client.send(&lines.map(command)).await;
    let frames = client.frames(4).await;
    assert_eq!(frames[3].bytes(), &b"*2\r\n:1\r\n+OK\r\n"[..]);
    sidecar.drained().await;
    let sql = "SELECT deleted_at IS NOT NULL FROM users WHERE key = $1";
    assert!(postgres.client().await.query_one(sql, &[&USER]).await.unwrap().get::<_, bool>(0));
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_fails_as_redis_lets_it_fail() {
    let (redis, postgres) = tokio::join!(support::redis(), support::postgres());
    let sidecar = Sidecar::start(&redis, &postgres).await;
    sidecar.raise("dualwrite").await;
    let (mut one, mut other) = (Raw::connect(&sidecar.resp).await, Raw::connect(&sidecar.resp).await);
    // A watched key changes, by another client and by the client itself.
    for other_writes in [true, false] {
        assert_eq!(one.ask(&format!("WATCH {USER}")).await, status("OK"));
        let writer = if other_writes { &mut other } else { &mut one };
        assert!(writer.ask(&format!("HSET {USER} name two")).await.integer().is_some());
        assert_eq!(one.ask("MULTI").await, status("OK"));
        assert_eq!(one.ask(&format!("HSET {USER} name three")).await, status("QUEUED"));
        assert_eq!(one.see("EXEC").await, "*-1\r\n");
    }
    // A command that cannot be queued takes the others with it; a refusal of ours does too.
    for (line, error) in [("HSET", "-ERR wrong number"), ("GET parallax:outbox", "-PARALLAX keys")] {
        assert_eq!(one.ask("MULTI").await, status("OK"));
        assert_eq!(one.ask(&format!("HSET {USER} name three")).await, status("QUEUED"));
        let refused = one.see(line).await;
        assert!(refused.starts_with(error), "{refused}");
        let aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n";
        assert_eq!(one.see("EXEC").await, aborted);
    }
    // DISCARD and UNWATCH leave nothing behind.
    assert_eq!(one.ask(&format!("WATCH {USER}")).await, status("OK"));
    assert_eq!(one.ask("UNWATCH").await, status("OK"));
    assert_eq!(one.ask("MULTI").await, status("OK"));
    assert_eq!(one.ask(&format!("HSET {USER} name four")).await, status("QUEUED"));
    assert_eq!(one.ask("DISCARD").await, status("OK"));
    assert_eq!(one.ask("EXEC").await, Reply::Error("ERR EXEC without MULTI".to_owned()));
    assert_eq!(other.ask(&format!("HGET {USER} name")).await, Reply::bulk("two"));
    sidecar.drained().await;
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reply_of_a_mixed_pipeline_stands_in_its_place() {
    let (redis, other, postgres) = tokio::join!(support::redis(), support::redis(), support::postgres());
    let sidecar = Sidecar::start(&redis, &postgres).await;
    sidecar.raise("dualwrite").await;
    let lines = [
        "SET session:a 1",
        &format!("HSET {USER} name one"),
        "GET session:a",
        &format!("LPUSH {USER} x"),
        "NOSUCHCOMMAND",
        &format!("HSET {USER}"),
        "EVAL return{1,{redis.call('GET',KEYS[1]),2},{err='E'}} 1 session:a",
        &format!("HINCRBY {USER} n 5"),
        "PING",
        "KEYS *",
        "DBSIZE",
        "MGET session:a nothing",
        "OBJECT ENCODING session:a",
        "SET session:b",
        "ECHO last",
    ];
    for version in ["2", "3"] {
        let mut through = Raw::connect(&sidecar.resp).await;
        let mut alone = Raw::connect(&format!("127.0.0.1:{}", other.port())).await;
        let commands = lines.map(command);
        for raw in [&mut through, &mut alone] {
            raw.send(&[command(&format!("HELLO {version}")), command("FLUSHALL_NOT"), command(&format!("DEL {USER}"))])
                .await;
            raw.frames(3).await;
            raw.send(&commands).await;
        }
        let (through, alone) = (through.frames(lines.len()).await, alone.frames(lines.len()).await);
        for ((line, through), alone) in lines.iter().zip(&through).zip(&alone) {
            if *line == "KEYS *" {
                assert_eq!(through.parts().unwrap().len(), alone.parts().unwrap().len());
            } else {
                assert_eq!(through.bytes(), alone.bytes(), "{line} in RESP{version}");
            }
        }
    }
    sidecar.drained().await;
    sidecar.stop_expecting(&[]).await;
}
