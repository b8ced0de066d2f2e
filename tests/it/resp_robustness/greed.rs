//! Clients that take and do not give: they never read, they send a byte a second, they announce what they never send.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{UNNOTICED, memory_bytes, others, stage};
use crate::resp_differential::pair::{address, server};
use crate::resp_differential::wire::{Heard, Wire, encoded, words};

const MIB: u64 = 1024 * 1024;
/// What one client that never reads may make the sidecar hold.
const UNREAD_BYTES_MAX: u64 = 256 * MIB;
/// What each of them asks for, a MiB each time.
const GREEDY_COMMANDS: usize = 500;
/// What many clients that announce much and send nothing may.
const ANNOUNCED_BYTES_MAX: u64 = 32 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_takes_little_memory_and_is_noticed_by_nobody() {
    let stage = stage().await;
    let door = stage.sidecar.resp.clone();
    let big = "b".repeat(usize::try_from(MIB).unwrap());
    let mut wire = Wire::connect(&door).await;
    for key in ["lock:big", "user:big"] {
        wire.send(&encoded(&["SET".into(), key.into(), big.clone().into()])).await;
        assert!(matches!(wire.hear().await, Heard::Frame(..)));
    }
    let before = memory_bytes(stage.sidecar.pid());
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let greedy = async {
        // Two of them: one on what passes through, one on what is mirrored and between writes of its own.
        let mut streams = Vec::new();
        for line in ["GET lock:big", "GET user:big"] {
            let mut stream = TcpStream::connect(&door).await.unwrap();
            let ask = encoded(&words(line)).repeat(GREEDY_COMMANDS);
            // It blocks when the door has had enough, and that is what it should do.
            let _ = timeout(Duration::from_secs(2), stream.write_all(&ask)).await;
            streams.push(stream);
        }
        let mut most = 0;
        // Time in which a door without bounds would fill its memory.
        let mut turns = tokio::time::interval(Duration::from_millis(100));
        for _ in 0..20 {
            turns.tick().await;
            most = most.max(memory_bytes(stage.sidecar.pid()));
        }
        over.store(true, Ordering::Release);
        (streams, most)
    };
    let ((streams, most), longest) = tokio::join!(greedy, others(&door, || is_over.load(Ordering::Acquire)));
    eprintln!("{} bytes more, others waited {longest:?}", most.saturating_sub(before));
    assert!(most.saturating_sub(before) < UNREAD_BYTES_MAX, "{} bytes more", most.saturating_sub(before));
    assert!(longest < UNNOTICED, "others waited {longest:?}");
    drop(streams);
    stage.sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_a_byte_a_second_is_served_and_noticed_by_nobody() {
    let stage = stage().await;
    let door = stage.sidecar.resp.clone();
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let slow = async {
        let mut wire = Wire::connect(&door).await;
        let bytes = encoded(&words("SET user:slow v"));
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let (slow, rest) = bytes.split_at(4);
        for byte in slow {
            second.tick().await;
            wire.send(&[*byte]).await;
        }
        // The others would take most of a minute; each is still a write of its own.
        for byte in rest {
            wire.send(&[*byte]).await;
            tokio::task::yield_now().await;
        }
        let heard = wire.hear().await;
        over.store(true, Ordering::Release);
        heard
    };
    let (heard, longest) = tokio::join!(slow, others(&door, || is_over.load(Ordering::Acquire)));
    assert!(matches!(&heard, Heard::Frame(_, bytes) if bytes.as_ref() == b"+OK\r\n"), "{heard:?}");
    assert!(longest < UNNOTICED, "others waited {longest:?}");
    stage.sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_and_not_sent_takes_no_memory() {
    let stage = stage().await;
    let door = stage.sidecar.resp.clone();
    let before = memory_bytes(stage.sidecar.pid());
    let mut clients = Vec::new();
    for head in
        ["*1048576\r\n", "*1048576\r\n$536870912\r\n", "*2\r\n$3\r\nGET\r\n$536870912\r\n", "*3\r\n$3\r\nSET\r\n"]
    {
        for _ in 0..100 {
            let mut wire = Wire::connect(&door).await;
            wire.send(head.as_bytes()).await;
            clients.push(wire);
        }
    }
    let mut turns = 0..50;
    let longest = others(&door, || turns.next().is_none()).await;
    let more = memory_bytes(stage.sidecar.pid()).saturating_sub(before);
    assert!(more < ANNOUNCED_BYTES_MAX, "{more} bytes more");
    assert!(longest < UNNOTICED, "others waited {longest:?}");
    stage.sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_deep_or_many_is_refused_in_the_words_of_redis() {
    let (stage, bare) = tokio::join!(stage(), server());
    let deep = "*1\r\n".repeat(2_000);
    let long_line = "x".repeat(70_000);
    let long_count = format!("*{}", "1".repeat(70_000));
    let long_length = format!("*1\r\n${}", "1".repeat(70_000));
    let many = "*2147483648\r\n";
    let large = "*1\r\n$536870913\r\nx";
    for bytes in [deep.as_str(), &long_line, &long_count, &long_length, many, large] {
        let mut heard = Vec::new();
        for side in [address(&bare), stage.sidecar.resp.clone()] {
            let mut wire = Wire::connect(&side).await;
            wire.send(bytes.as_bytes()).await;
            heard.push((wire.hear().await, wire.hear().await));
        }
        assert_eq!(heard[0], heard[1], "{:.60}", bytes);
        assert!(matches!(heard[0].1, Heard::Closed), "{:?}", heard[0]);
    }
    stage.sidecar.stop_expecting(&[]).await;
}
