//! Commands and keys that the table of the start does not tell of: the server is asked, and what no mark can follow is said.

use parallax::dev::servers::{PrivateRedis, RedisOptions};
use parallax::model::command::Command;
use parallax::model::reply::Reply;

use crate::resp_door::client::Raw;
use crate::support;
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::wait_until;

const LIBRARY: &str = "#!lua name=lib
redis.register_function('put', function(keys, args) return redis.call('HSET', keys[1], 'name', args[1]) end)
redis.register_function('bare', function() return redis.call('SET', 'session:bare', 'x') end)";

async fn unverifiable(sidecar: &Sidecar) -> String {
    sidecar.get("/v1/status").await.json()["unverifiable"].to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_asked_about_a_command_and_keys_that_the_table_does_not_tell_of() {
    // As if the command had come with a module: nothing of ours knows this name, and its keys move with its words.
    let options = RedisOptions { config: vec![("rename-command".into(), "SORT MYSORT".into())], ..Default::default() };
    let (redis, postgres) = tokio::join!(PrivateRedis::start(options), support::postgres());
    let redis = redis.unwrap();
    let sidecar = Sidecar::start(&redis, &postgres).await;
    sidecar.raise("dualwrite").await;
    let mut client = Raw::connect(&sidecar.resp).await;
    client.ask("RPUSH session:list 3 1 2").await;
    let written = async || sidecar.metric("parallax_writes_total", &[]).await;
    assert!(written().await < 0.5);
    assert_eq!(client.ask("MYSORT session:list LIMIT 0 2 STORE user:sorted").await, Reply::Integer(2));
    assert!((written().await - 1.0).abs() < 0.5, "its key is found behind its words");
    assert_eq!(client.ask("mysort session:list STORE session:sorted").await, Reply::Integer(3));
    assert!((written().await - 1.0).abs() < 0.5, "what is not mirrored leaves no mark");
    client.ask("MULTI").await;
    client.ask("MYSORT session:list STORE user:sorted").await;
    assert_eq!(client.ask("EXEC").await, Reply::Array(vec![Reply::Integer(3)]));
    assert!((written().await - 2.0).abs() < 0.5, "in a transaction as well");
    let refused = client.see("MYSORT session:list STORE parallax:outbox").await;
    assert!(refused.starts_with("-PARALLAX keys and channels that begin"), "{refused}");
    // What the server itself does not know changes nothing, and hides nothing.
    let unknown = client.see("SORT session:list STORE user:sorted").await;
    assert!(unknown.starts_with("-ERR unknown command 'SORT'"), "{unknown}");
    let unknown = client.see("NOSUCH user:a b").await;
    assert!(unknown.starts_with("-ERR unknown command 'NOSUCH', with args beginning with: 'user:a' 'b'"), "{unknown}");
    assert!(sidecar.metric("parallax_keyless_writes_total", &[]).await > 0.5);
    assert_eq!(unverifiable(&sidecar).await, "{}");
    drop(client);
    sidecar.drained().await;
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_leaves_marks_for_the_keys_it_names_and_makes_the_rest_unverifiable() {
    let (redis, postgres) = tokio::join!(support::redis(), support::postgres());
    let sidecar = Sidecar::start(&redis, &postgres).await;
    sidecar.raise("dualwrite").await;
    let mut client = Raw::connect(&sidecar.resp).await;
    client.send(&[Command::new(["FUNCTION", "LOAD", LIBRARY].map(str::to_owned))]).await;
    assert_eq!(client.frame().await.decode(), Reply::bulk("lib"));
    assert_eq!(client.ask("FCALL put 1 user:function one").await, Reply::Integer(1));
    sidecar.drained().await;
    let row = "SELECT doc->>'name' FROM users WHERE key = 'user:function'";
    assert_eq!(postgres.client().await.query_one(row, &[]).await.unwrap().get::<_, String>(0), "one");
    assert_eq!(unverifiable(&sidecar).await, "{}");
    // It writes a key that it does not name.
    assert_eq!(client.ask("FCALL bare 0").await, Reply::Status("OK".to_owned()));
    wait_until("what nobody can follow is said", PATIENCE, || async {
        unverifiable(&sidecar).await.contains("\"unmatched\":\"a write without a key was forwarded\"")
    })
    .await;
    assert!(sidecar.metric("parallax_keyless_writes_total", &[("command", "fcall")]).await > 0.5);
    drop(client);
    sidecar.stop_expecting(&[]).await;
}
