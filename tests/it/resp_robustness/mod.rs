//! The RESP door under clients that are many, slow, silent, greedy or gone: what each of them costs, and that the others
//! do not notice.

mod crowds;
mod drain;
mod greed;
mod large;

use std::time::Duration;

use parallax::dev::servers::PrivateRedis;
use tokio::time::Instant;

use crate::resp_differential::wire::{Frame, Heard, Wire, encoded, words};
use crate::support::sidecar::Sidecar;
use crate::support::{self, Database};

/// How late an answer to somebody else may be, on a machine that does more than this test.
const UNNOTICED: Duration = Duration::from_secs(3);

/// A sidecar whose writes are mirrored, with its stores.
struct Stage {
    sidecar: Sidecar,
    // They end when they are dropped.
    redis: PrivateRedis,
    _database: Database,
}

async fn stage() -> Stage {
    stage_with(&[]).await
}

async fn stage_with(settings: &[(&str, &str)]) -> Stage {
    let (redis, database) = tokio::join!(support::redis(), support::postgres());
    let sidecar = Sidecar::start_with(&redis, Some(&database), settings).await;
    sidecar.raise("dualwrite").await;
    Stage { sidecar, redis, _database: database }
}

/// The memory of a process that is in RAM, in bytes.
pub(crate) fn memory_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Asks for a mirrored and an unmirrored key until `done`; the longest that an answer took.
async fn others(address: &str, mut done: impl FnMut() -> bool) -> Duration {
    let mut wire = Wire::connect(address).await;
    let mut longest = Duration::ZERO;
    while !done() {
        for line in ["SET user:other v", "GET user:other", "SET lock:other v", "GET lock:other", "PING"] {
            let began = Instant::now();
            wire.send(&encoded(&words(line))).await;
            let heard = wire.hear().await;
            assert!(matches!(&heard, Heard::Frame(frame, _) if !frame.is_error("")), "{line}: {heard:?}");
            longest = longest.max(began.elapsed());
        }
    }
    longest
}

/// The whole number that a command answers with.
async fn number(wire: &mut Wire, line: &str) -> i64 {
    match wire.ask(line).await {
        Frame::Line(b':', text) | Frame::Blob(b'$', Some(text)) => std::str::from_utf8(&text).unwrap().parse().unwrap(),
        Frame::Blob(b'$', None) => 0,
        other @ (Frame::Line(..) | Frame::Blob(..) | Frame::Many(..)) => panic!("{line}: {other:?}"),
    }
}
