//! The end of a sidecar under load: every command that it received is answered before its connection closes, so that a
//! client which sends again what was not answered counts nothing twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{number, stage};
use crate::resp_differential::pair::address;
use crate::resp_differential::wire::{Wire, encoded, words};
use crate::support::sidecar::PATIENCE;
use crate::support::wait_until;

/// Commands in a pipeline, and pipelines that a client sends before it is answered.
const PIPELINE: usize = 50;

/// Counts one key up, pipeline after pipeline, until the door closes; how many replies came, all of them whole.
async fn count(door: String, key: String, replies: Arc<AtomicI64>) -> i64 {
    let mut stream = TcpStream::connect(&door).await.unwrap();
    let (mut reading, mut writing) = stream.split();
    let pipeline = encoded(&words(&format!("INCR {key}"))).repeat(PIPELINE);
    let write = async { while writing.write_all(&pipeline).await.is_ok() {} };
    let read = async {
        let (mut heard, mut piece) = (Vec::new(), [0_u8; 64 * 1024]);
        let mut count = 0;
        loop {
            let length = reading.read(&mut piece).await.unwrap_or_else(|error| panic!("{key}: cut off: {error}"));
            if length == 0 {
                assert!(heard.is_empty(), "{key}: half a reply: {}", heard.escape_ascii());
                return count;
            }
            heard.extend_from_slice(&piece[..length]);
            let whole = heard.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            for line in heard[..whole].split_inclusive(|byte| *byte == b'\n') {
                count += 1;
                assert_eq!(line, format!(":{count}\r\n").as_bytes(), "{key}");
            }
            heard.drain(..whole);
            replies.store(count, Ordering::Relaxed);
        }
    };
    // The reader knows of the end first; what is written after it is not of interest.
    tokio::select! {
        counted = read => counted,
        () = async { write.await; std::future::pending::<()>().await } => unreachable!("it waits"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sigterm_every_command_received_is_answered_and_nothing_counts_twice() {
    let stage = stage().await;
    let door = stage.sidecar.resp.clone();
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let key = if client % 2 == 0 { format!("user:count-{client}") } else { format!("lock:count-{client}") };
            let replies = Arc::new(AtomicI64::new(0));
            let task = tokio::spawn(count(door.clone(), key.clone(), Arc::clone(&replies)));
            (key, replies, task)
        })
        .collect();
    wait_until("everybody counts", PATIENCE, || async {
        clients.iter().all(|(_, replies, _)| replies.load(Ordering::Relaxed) > 500)
    })
    .await;
    stage.sidecar.terminate().await;
    let mut look = Wire::connect(&address(&stage.redis)).await;
    for (key, _, task) in clients {
        let replies = timeout(PATIENCE, task).await.expect("the door closes").unwrap();
        assert_eq!(number(&mut look, &format!("GET {key}")).await, replies, "{key}");
    }
    stage.sidecar.ended_with(&[], &["left with marks"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sigterm_a_transaction_that_was_received_whole_is_answered_and_half_of_one_does_nothing() {
    let stage = stage().await;
    let door = stage.sidecar.resp.clone();
    let (mut whole, mut half, mut idle) =
        (Wire::connect(&door).await, Wire::connect(&door).await, Wire::connect(&door).await);
    half.ask("MULTI").await;
    half.ask("SET user:half v").await;
    idle.ask("PING").await;
    let lines = ["MULTI", "SET user:whole v", "INCR user:whole-count", "EXEC"];
    let bytes: Vec<u8> = lines.iter().flat_map(|line| encoded(&words(line))).collect();
    whole.send(&bytes).await;
    for _ in lines {
        whole.hear().await;
    }
    stage.sidecar.terminate().await;
    for wire in [&mut whole, &mut half, &mut idle] {
        assert_eq!(wire.hear().await, crate::resp_differential::wire::Heard::Closed);
    }
    let mut look = Wire::connect(&address(&stage.redis)).await;
    assert_eq!(number(&mut look, "GET user:whole-count").await, 1);
    assert_eq!(number(&mut look, "EXISTS user:half").await, 0);
    stage.sidecar.ended_with(&[], &["left with marks"]).await;
}
