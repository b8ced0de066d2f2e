//! The recorded traffic through the Redis door, over one connection and with its own pipelining, beside a Redis that stands
//! alone: answer for answer, and both stores equal at the end.

use parallax::dev::servers::PrivateRedis;
use parallax::model::catalog::Catalog;
use parallax::model::command::Command;
use parallax::model::frame::Frame;
use parallax::model::reply::Reply;
use parallax::model::text;
use parallax::traffic::{Burst, compare, recording};

use crate::resp_door::client::Raw;
use crate::support::sidecar::Sidecar;
use crate::support::{self, Database};

/// After so many bursts the outbox may empty, so that reads find records that are not pending.
const BURSTS_BETWEEN_RESTS: usize = 60;

struct Pair {
    sidecar: Sidecar,
    through: Raw,
    alone: Raw,
    answers: usize,
    redis: PrivateRedis,
    postgres: Database,
    _other: PrivateRedis,
}

impl Pair {
    async fn start() -> Self {
        let (redis, other, postgres) = tokio::join!(support::redis(), support::redis(), support::postgres());
        let sidecar = Sidecar::start(&redis, &postgres).await;
        let through = Raw::connect(&sidecar.resp).await;
        let alone = Raw::connect(&format!("127.0.0.1:{}", other.port())).await;
        Self { sidecar, through, alone, answers: 0, redis, postgres, _other: other }
    }

    /// Sends a burst to both in one write each and holds the answers against each other.
    async fn send(&mut self, burst: &Burst) {
        let commands: Vec<Command> = burst.iter().map(|parts| Command::new(parts.clone())).collect();
        let ask = async |raw: &mut Raw| {
            raw.send(&commands).await;
            raw.frames(commands.len()).await
        };
        let (through, alone) = tokio::join!(ask(&mut self.through), ask(&mut self.alone));
        for ((command, through), alone) in commands.iter().zip(through).zip(alone) {
            self.answers += 1;
            let words = || text::encode(&command.0.join(&b' ')).into_owned();
            assert_eq!(normal(command, &through), normal(command, &alone), "{}", words());
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

/// What may differ is taken out: orders that Redis does not promise, ids and times that are made at the moment. Everything
/// else must be the same to the byte.
fn normal(command: &Command, frame: &Frame) -> Vec<Vec<u8>> {
    let whole = || vec![frame.bytes().to_vec()];
    if frame.is_error() {
        return whole();
    }
    let parts = || frame.parts().unwrap_or_default();
    let sorted = |mut items: Vec<Vec<u8>>| {
        items.sort();
        items
    };
    match command.name().as_str() {
        "XADD" | "SCAN" | "INFO" => Vec::new(),
        // A second may pass between the two; whether there is an expiry may not differ.
        "TTL" => vec![frame.decode().integer().unwrap().min(0).to_string().into_bytes()],
        "SMEMBERS" | "KEYS" => sorted(parts().iter().map(|part| part.bytes().to_vec()).collect()),
        "HGETALL" => {
            let pair = |pair: &[Frame]| [pair[0].bytes().as_ref(), pair[1].bytes()].concat();
            sorted(parts().chunks(2).map(pair).collect())
        }
        _ => whole(),
    }
}

/// The whole recording in one stage.
async fn replay(stage: &str) {
    let Some(folder) = crate::traffic::recording_folder() else { return };
    let mut pair = Pair::start().await;
    let keyspace = recording::keyspace(&folder.join(recording::KEYSPACE_FILE)).unwrap();
    pair.send_all(keyspace.chunks(100).map(<[parallax::traffic::Command]>::to_vec)).await;
    pair.sidecar.raise(stage).await;
    pair.send_all(recording::bursts(&folder.join(recording::TRACE_FILE)).unwrap().into_iter()).await;
    assert!(pair.answers > 26_000, "only {} answers", pair.answers);
    if stage == "live" {
        let from_postgres = pair.sidecar.metric("parallax_reads_total", &[("store", "postgres")]).await;
        assert!(from_postgres > 1000.0, "only {from_postgres} reads were answered by Postgres");
    }
    if stage != "dualwrite" {
        let matches = pair.sidecar.metric("parallax_comparisons_total", &[("verdict", "match")]).await;
        assert!(matches > 100.0, "only {matches} comparisons");
    }
    assert!(pair.sidecar.metric("parallax_mismatches_total", &[]).await.abs() < 0.5);
    // What was there before the stage was raised is owed by the backfill alone.
    pair.sidecar.backfill().await;
    pair.sidecar.drained().await;
    let equality = compare::stores(&pair.redis.url(), &pair.postgres.url(), &Catalog::embedded()).await.unwrap();
    assert!(equality.holds(), "{equality:?}");
    assert!(pair.sidecar.metric("parallax_mark_failures_total", &[]).await.abs() < 0.5);
    assert_eq!(pair.through.ask("PING").await, Reply::Status("PONG".to_owned()));
    pair.sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recording_leaves_both_stores_equal_in_dualwrite() {
    replay("dualwrite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recording_has_no_mismatch_in_shadow() {
    replay("shadow").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recording_gets_the_answers_of_redis_in_live() {
    replay("live").await;
}
