//! Malformed and hostile bytes: the door says of them what Redis says, closes where Redis closes, keeps its memory, and
//! never panics.

mod bytes;
mod scanner;

use std::path::Path;
use std::time::Duration;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use self::bytes::{Sent, sent};
use crate::resp_differential::is_soak;
use crate::resp_differential::pair::{address, server};
use crate::resp_robustness::memory_bytes;
use crate::support;
use crate::support::sidecar::{PATIENCE, Sidecar};

/// How long new bytes are thought up.
const FUZZED: Duration = Duration::from_secs(8);
/// The same with `make soak`: in all, in one run, and in one piece, after which what was done is written down. A run that is
/// broken off loses a piece; the next one goes on behind it.
const SOAK_FUZZED: Duration = Duration::from_secs(3600);
const SOAK_RUN: Duration = Duration::from_secs(1200);
const SOAK_PIECE: Duration = Duration::from_secs(60);

/// How much the door may grow meanwhile.
const MEMORY_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What once was answered otherwise, or may be; a line each, with `\xNN` for bytes.
const CORPUS: &str = include_str!("../../data/resp-fuzz.txt");

/// Sends all of it, ends the sending, and answers all that came back to the end of the connection.
async fn answered(address: &str, sent: &Sent) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut reading, mut writing) = stream.split();
    let write = async {
        for part in sent.writes() {
            // What is told after the other side closed is not of interest.
            if writing.write_all(part).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let _ = writing.shutdown().await;
    };
    let mut heard = Vec::new();
    let read = async {
        let mut piece = vec![0_u8; 4096];
        while let Ok(count @ 1..) = reading.read(&mut piece).await {
            heard.extend_from_slice(&piece[..count]);
        }
    };
    let both = tokio::time::timeout(PATIENCE, async { tokio::join!(write, read) }).await;
    assert!(both.is_ok(), "the connection stays open after {}", sent.bytes.escape_ascii());
    heard
}

fn corpus() -> Vec<Sent> {
    let line = |line: &str| {
        let words = crate::resp_differential::wire::words(&format!("'{line}'"));
        let bytes = words[0].to_vec();
        // In one write, and in as many writes as there are bytes.
        [Sent { splits: Vec::new(), bytes: bytes.clone() }, Sent { splits: (1..bytes.len()).collect(), bytes }]
    };
    CORPUS.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).flat_map(line).collect()
}

async fn agree(bare: &str, other: &str, sent: &Sent) -> bool {
    let (one, two) = tokio::join!(answered(bare, sent), answered(other, sent));
    one == two
}

/// The corpus, and new bytes for as long as asked; panics with the shortest bytes that are answered otherwise.
async fn fuzz(bare: &str, other: &str, duration: Duration) {
    for sent in corpus() {
        let (one, two) = tokio::join!(answered(bare, &sent), answered(other, &sent));
        assert!(one == two, "{}: {} and {}", sent.bytes.escape_ascii(), one.escape_ascii(), two.escape_ascii());
    }
    let seed: u64 = rand::random();
    let mut runner = TestRunner::new(Config { rng_seed: RngSeed::Fixed(seed), ..Config::default() });
    let (end, mut count) = (Instant::now() + duration, 0_u64);
    while Instant::now() < end {
        let mut tree = sent().new_tree(&mut runner).unwrap();
        count += 1;
        if agree(bare, other, &tree.current()).await {
            continue;
        }
        let mut shortest = tree.current();
        let mut goes_on = tree.simplify();
        while goes_on {
            let is_still_wrong = !agree(bare, other, &tree.current()).await;
            goes_on = if is_still_wrong {
                shortest = tree.current();
                tree.simplify()
            } else {
                tree.complicate()
            };
        }
        let (one, two) = tokio::join!(answered(bare, &shortest), answered(other, &shortest));
        let (one, two) = (one.escape_ascii(), two.escape_ascii());
        panic!(
            "seed {seed}: {} in writes at {:?}:\n  redis {one}\n  door  {two}",
            shortest.bytes.escape_ascii(),
            shortest.splits
        );
    }
    eprintln!("seed {seed}: {count} clients");
    assert!(count > 100, "only {count} clients");
}

/// The next part of the hour, from where the last run stopped. When all of it is done, the next run begins anew.
async fn soak(bare: &str, other: &str) {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("resp-fuzz-soaked-seconds");
    let read = || std::fs::read_to_string(&kept).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let mut done = Duration::from_secs(read());
    if done >= SOAK_FUZZED {
        done = Duration::ZERO;
    }
    let end = (done + SOAK_RUN).min(SOAK_FUZZED);
    while done < end {
        fuzz(bare, other, SOAK_PIECE).await;
        done += SOAK_PIECE;
        std::fs::write(&kept, done.as_secs().to_string()).unwrap();
    }
    println!("broken bytes: {} of {} s are done", done.as_secs(), SOAK_FUZZED.as_secs());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bare_redises_say_the_same_of_broken_bytes() {
    let servers = tokio::join!(server(), server());
    fuzz(&address(&servers.0), &address(&servers.1), Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_the_door_says_of_broken_bytes_what_redis_says_and_keeps_its_memory() {
    let (bare, behind, database) = tokio::join!(server(), server(), support::postgres());
    let sidecar = Sidecar::start(&behind, &database).await;
    sidecar.raise("dualwrite").await;
    // What the first clients bring to life belongs to none of them.
    fuzz(&address(&bare), &sidecar.resp, Duration::from_secs(1)).await;
    let before = memory_bytes(sidecar.pid());
    if is_soak() {
        soak(&address(&bare), &sidecar.resp).await;
    } else {
        fuzz(&address(&bare), &sidecar.resp, FUZZED).await;
    }
    let more = memory_bytes(sidecar.pid()).saturating_sub(before);
    assert!(more < MEMORY_BYTES_MAX, "{more} bytes more");
    sidecar.stop_expecting(&[]).await;
}
