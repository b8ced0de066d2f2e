//! The caller cannot tell the sidecar from Redis: the same traffic through the door, with every readable record read from
//! Postgres, and to a Redis of its own, answer for answer.

use parallax::dev::servers::PrivateRedis;
use parallax::model::text;
use parallax::traffic::world::Shape;
use parallax::traffic::{Burst, Command, generator, recording};
use redis::Value;
use redis::aio::MultiplexedConnection;
use serde_json::{Value as Json, json};

use crate::support::sidecar::Sidecar;
use crate::support::{self, Database};

/// After so many bursts the outbox may empty, so that reads find records that are not pending.
const BURSTS_BETWEEN_RESTS: usize = 60;

struct Pair {
    sidecar: Sidecar,
    alone: MultiplexedConnection,
    answers: usize,
    // They end when they are dropped.
    _servers: (PrivateRedis, PrivateRedis, Database),
}

impl Pair {
    async fn start() -> Self {
        let (redis, other, postgres) = tokio::join!(support::redis(), support::redis(), support::postgres());
        let sidecar = Sidecar::start(&redis, &postgres).await;
        let client = redis::Client::open(other.url()).unwrap();
        let alone = client.get_multiplexed_async_connection().await.unwrap();
        Self { sidecar, alone, answers: 0, _servers: (redis, other, postgres) }
    }

    /// Sends a burst to both and holds the answers against each other.
    async fn send(&mut self, burst: &Burst) {
        // What a MULTI brackets is one request of its own over HTTP; its commands answer alike without it.
        let inside = |command: &&Command| !["multi", "exec"].contains(&name(command).as_str());
        let commands: Vec<&Command> = burst.iter().filter(inside).collect();
        let texts: Vec<Vec<String>> = commands
            .iter()
            .map(|command| command.iter().map(|part| String::from_utf8(part.clone()).unwrap()).collect())
            .collect();
        let mut pipeline = redis::Pipeline::new();
        pipeline.ignore_errors();
        for command in &commands {
            let mut one = redis::Cmd::new();
            for part in *command {
                one.arg(part);
            }
            pipeline.add_command(one);
        }
        let (through, alone) =
            tokio::join!(self.sidecar.pipeline(&texts), pipeline.query_async::<Vec<Value>>(&mut self.alone));
        let alone = alone.unwrap();
        assert_eq!(through.len(), alone.len());
        for ((command, through), alone) in commands.iter().zip(through).zip(alone) {
            self.answers += 1;
            let (through, alone) = (normal(command, through), normal(command, json_of(&alone)));
            assert_eq!(through, alone, "{}", text::encode(&command.join(&b' ')));
        }
    }

    async fn send_all(&mut self, bursts: impl Iterator<Item = Burst>) {
        for (number, burst) in bursts.enumerate() {
            if number.is_multiple_of(BURSTS_BETWEEN_RESTS) {
                self.sidecar.drained().await;
            }
            self.send(&burst).await;
        }
    }
}

fn name(command: &Command) -> String {
    String::from_utf8_lossy(&command[0]).to_ascii_lowercase()
}

/// A reply as the door writes it.
#[expect(clippy::wildcard_enum_match_arm, reason = "the client knows more types than RESP2 has")]
fn json_of(reply: &Value) -> Json {
    match reply {
        Value::ServerError(error) => {
            json!({"error": format!("{} {}", error.code(), error.details().unwrap_or_default())})
        }
        reply => json!({"result": result(reply)}),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the client knows more types than RESP2 has")]
fn result(reply: &Value) -> Json {
    match reply {
        Value::Nil => Json::Null,
        Value::Int(number) => json!(number),
        Value::BulkString(bytes) => json!(text::encode(bytes)),
        Value::SimpleString(text) => json!(text),
        Value::Okay => json!("OK"),
        Value::Array(items) => items.iter().map(result).collect(),
        other => panic!("{other:?} is not of RESP2"),
    }
}

/// What may differ is taken out: orders that Redis does not promise, ids and times that are made at the moment.
fn normal(command: &Command, mut reply: Json) -> Json {
    let sorted = |items: &mut Vec<Json>| items.sort_by_key(Json::to_string);
    match (name(command).as_str(), reply.get_mut("result")) {
        ("xadd" | "scan" | "info", Some(_)) => Json::Null,
        // A second may pass between the two; whether there is an expiry may not differ.
        ("ttl", Some(Json::Number(seconds))) => json!(seconds.as_i64().unwrap().min(0)),
        ("smembers" | "keys", Some(Json::Array(members))) => {
            sorted(members);
            reply
        }
        ("hgetall", Some(Json::Array(parts))) => {
            let mut fields: Vec<Json> = parts.chunks(2).map(|pair| json!(pair)).collect();
            sorted(&mut fields);
            json!(fields)
        }
        _ => reply,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_traffic_gets_the_answers_of_redis_while_postgres_gives_them() {
    let shape = Shape { seed: 11, api_keys: 10, days: 2, now_ms: chrono::Utc::now().timestamp_millis() };
    let mut pair = Pair::start().await;
    pair.send_all(generator::keyspace(&shape).chunks(100).map(<[Command]>::to_vec)).await;
    pair.sidecar.raise("live").await;
    pair.send_all(generator::requests(&shape, 48)).await;
    assert!(pair.answers > 48 * 328);
    let from_postgres = pair.sidecar.metric("parallax_reads_total", &[("store", "postgres")]).await;
    assert!(from_postgres > 100.0, "only {from_postgres} reads were answered by Postgres");
    assert!(pair.sidecar.metric("parallax_mismatches_total", &[]).await.abs() < 0.5);
    pair.sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_traffic_gets_the_answers_of_redis_while_postgres_gives_them() {
    let Some(folder) = crate::traffic::recording_folder() else { return };
    let mut pair = Pair::start().await;
    let keyspace = recording::keyspace(&folder.join(recording::KEYSPACE_FILE)).unwrap();
    pair.send_all(keyspace.chunks(100).map(<[Command]>::to_vec)).await;
    pair.sidecar.raise("live").await;
    pair.send_all(recording::bursts(&folder.join(recording::TRACE_FILE)).unwrap().into_iter()).await;
    assert!(pair.answers > 25_000);
    assert!(pair.sidecar.metric("parallax_mismatches_total", &[]).await.abs() < 0.5);
    pair.sidecar.stop_expecting(&[]).await;
}
