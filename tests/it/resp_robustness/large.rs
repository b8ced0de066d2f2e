//! Large values that need nothing from us flow through: they take no memory, a client that stops in the middle of one harms
//! nobody, and half of one changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{UNNOTICED, memory_bytes, number, others, stage};
use crate::resp_differential::pair::{address, server};
use crate::resp_differential::wire::{Wire, encoded, words};
use crate::support;
use crate::support::sidecar::{PATIENCE, Sidecar};

const MIB: usize = 1024 * 1024;
/// The value that is sent and read.
const VALUE_BYTES: usize = 200 * MIB;
/// What it may make the sidecar hold, at most.
const FLOWING_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What is sent or read at once.
const PIECE: usize = 251 * 1024;

/// The highest memory of a process until it is told that it is over.
async fn highest(pid: u32, is_over: Arc<AtomicBool>) -> u64 {
    let mut turns = tokio::time::interval(Duration::from_millis(5));
    let mut most = 0;
    while !is_over.load(Ordering::Acquire) {
        turns.tick().await;
        most = most.max(memory_bytes(pid));
    }
    most
}

/// The bytes of a large value from `at` on: each says where it stands.
fn piece(at: usize, length: usize) -> Vec<u8> {
    (at..at + length).map(|place| u8::try_from(place % 251).unwrap()).collect()
}

async fn write_value(stream: &mut TcpStream, length: usize) {
    // Every piece is the same, as its length is a multiple of what a byte repeats after.
    let whole = piece(0, PIECE);
    let mut rest = length;
    while rest > 0 {
        let here = rest.min(PIECE);
        stream.write_all(&whole[..here]).await.unwrap();
        rest -= here;
    }
}

async fn read_value(stream: &mut TcpStream, length: usize) {
    let whole = piece(0, PIECE);
    let (mut rest, mut heard) = (length, vec![0; PIECE]);
    while rest > 0 {
        let here = rest.min(PIECE);
        timeout(PATIENCE, stream.read_exact(&mut heard[..here])).await.expect("more comes").unwrap();
        assert!(heard[..here] == whole[..here], "{rest} bytes before the end");
        rest -= here;
    }
}

async fn expect(stream: &mut TcpStream, text: &str) {
    let mut heard = vec![0; text.len()];
    timeout(PATIENCE, stream.read_exact(&mut heard)).await.unwrap_or_else(|_| panic!("{text:?} comes")).unwrap();
    assert_eq!(heard.escape_ascii().to_string(), text.as_bytes().escape_ascii().to_string());
}

fn begun(command: &str, length: usize) -> Vec<u8> {
    let words = words(command);
    let mut bytes = format!("*{}\r\n", words.len() + 1).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(&word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("${length}\r\n").as_bytes());
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_value_flows_both_ways_at_the_pace_of_its_client_and_takes_no_memory() {
    let stage = stage().await;
    let door = stage.sidecar.resp.clone();
    // What the first clients bring to life belongs to none of them.
    let mut turns = 0..50;
    others(&door, || turns.next().is_none()).await;
    let before = memory_bytes(stage.sidecar.pid());
    let is_over = Arc::new(AtomicBool::new(false));
    let watched = tokio::spawn(highest(stage.sidecar.pid(), Arc::clone(&is_over)));
    let mut stream = TcpStream::connect(&door).await.unwrap();
    stream.write_all(&begun("SET lock:large", VALUE_BYTES)).await.unwrap();
    write_value(&mut stream, VALUE_BYTES).await;
    stream.write_all(b"\r\n").await.unwrap();
    expect(&mut stream, "+OK\r\n").await;
    // It reads the beginning and then nothing, while others come and go.
    stream.write_all(&encoded(&words("GET lock:large"))).await.unwrap();
    expect(&mut stream, &format!("${VALUE_BYTES}\r\n")).await;
    let mut turns = 0..200;
    let longest = others(&door, || turns.next().is_none()).await;
    assert!(longest < UNNOTICED, "others waited {longest:?}");
    // What it asks meanwhile is answered behind it.
    stream
        .write_all(&[encoded(&words("INCR lock:count")), encoded(&words("SET user:behind v"))].concat())
        .await
        .unwrap();
    read_value(&mut stream, VALUE_BYTES).await;
    expect(&mut stream, "\r\n:1\r\n+OK\r\n").await;
    is_over.store(true, Ordering::Release);
    let more = watched.await.unwrap().saturating_sub(before);
    eprintln!("{more} bytes more, others waited {longest:?}");
    assert!(more < FLOWING_BYTES_MAX, "{more} bytes more");
    drop(stream);
    stage.sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_in_the_middle_of_a_value_harms_nobody_and_changes_nothing() {
    let stage = stage().await;
    let door = stage.sidecar.resp.clone();
    let mut stream = TcpStream::connect(&door).await.unwrap();
    stream.write_all(&begun("SET lock:torn", 8 * MIB)).await.unwrap();
    write_value(&mut stream, 4 * MIB).await;
    let mut turns = 0..50;
    let longest = others(&door, || turns.next().is_none()).await;
    assert!(longest < UNNOTICED, "others waited {longest:?}");
    // A change of flags waits for all that was decided before it, and not for this.
    stage.sidecar.flag("*", serde_json::json!({ "stage": "shadow" })).await;
    drop(stream);
    // Another one is still at it when the sidecar goes.
    let mut last = TcpStream::connect(&door).await.unwrap();
    last.write_all(&begun("SET lock:last", 8 * MIB)).await.unwrap();
    write_value(&mut last, 4 * MIB).await;
    stage.sidecar.terminate().await;
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, last.read_to_end(&mut rest)).await.expect("the door closes");
    assert!(rest.is_empty(), "{}", rest.escape_ascii());
    drop(last);
    let mut look = Wire::connect(&address(&stage.redis)).await;
    assert_eq!(number(&mut look, "EXISTS lock:torn lock:last").await, 0);
    stage.sidecar.ended_with(&[], &["left with marks"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_whose_kind_comes_to_be_mirrored_on_its_way_is_not_written_behind_the_marks() {
    let (redis, database) = tokio::join!(support::redis(), support::postgres());
    let sidecar = Sidecar::start(&redis, &database).await;
    let mut stream = TcpStream::connect(&sidecar.resp).await.unwrap();
    stream.write_all(&begun("SET user:large", MIB)).await.unwrap();
    write_value(&mut stream, MIB / 2).await;
    sidecar.raise("dualwrite").await;
    write_value(&mut stream, MIB / 2).await;
    stream.write_all(b"\r\n").await.unwrap();
    let text = "-PARALLAX the flags of this key have changed while its value was on the way, and nothing was written: \
                send it again\r\n";
    expect(&mut stream, text).await;
    stream.write_all(&encoded(&words("EXISTS user:large"))).await.unwrap();
    expect(&mut stream, ":0\r\n").await;
    // Sent again it is gathered, marked and mirrored.
    stream.write_all(&begun("SET user:large", MIB)).await.unwrap();
    write_value(&mut stream, MIB).await;
    stream.write_all(b"\r\n").await.unwrap();
    expect(&mut stream, "+OK\r\n").await;
    assert!(sidecar.metric("parallax_writes_total", &[("kind", "user")]).await > 0.5);
    drop(stream);
    sidecar.stop_with(&[], &["left with marks"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_commands_among_small_ones_are_answered_in_order_and_as_by_redis() {
    let (stage, bare) = tokio::join!(stage(), server());
    let large = "v".repeat(300 * 1024);
    let many = "RPUSH lock:list".to_owned() + &" element".repeat(100_000);
    let mut bytes = Vec::new();
    for line in [
        "SET lock:small v".to_owned(),
        format!("HSET lock:hash one {large} two {large}"),
        "HLEN lock:hash".to_owned(),
        format!("SET user:mirrored {large}"),
        format!("SET lock:large {large}"),
        "GET lock:large".to_owned(),
        format!("SET lock:large {large} GET"),
        many,
        format!("LPUSH lock:small {large}"),
        format!("GET lock:large {large}"),
        format!("MSET lock:one {large} lock:two {large}"),
        "GET lock:small".to_owned(),
        "MULTI".to_owned(),
        format!("SET lock:large {large}"),
        "EXEC".to_owned(),
        format!("SELECT 3{}", &large[..0]),
        format!("SET lock:elsewhere {large}"),
    ] {
        bytes.extend_from_slice(&encoded(&words(&line)));
    }
    let cut = [begun("APPEND lock:large", 300 * 1024), large.into_bytes(), b"xx*1\r\n$4\r\nPING\r\n".to_vec()].concat();
    let wrong = b"*5\r\n$4\r\nHSET\r\n$9\r\nlock:hash\r\n$3\r\none\r\n$300000\r\n".to_vec();
    let wrong = [wrong, vec![b'v'; 300_000], b"\r\n$-7\r\n".to_vec()].concat();
    for bytes in [bytes, cut, wrong] {
        let mut heard = Vec::new();
        for side in [address(&bare), stage.sidecar.resp.clone()] {
            let mut stream = TcpStream::connect(&side).await.unwrap();
            let (mut reading, mut writing) = stream.split();
            let write = async {
                for piece in bytes.chunks(100_000) {
                    writing.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                writing.shutdown().await.unwrap();
            };
            let mut all = Vec::new();
            let read = async { timeout(PATIENCE, reading.read_to_end(&mut all)).await.expect("the end").unwrap() };
            tokio::join!(write, read);
            heard.push(all);
        }
        let text = |all: &[u8]| all.escape_ascii().to_string().replace(&"v".repeat(1024), "");
        assert!(heard[0] == heard[1], "redis {}\ndoor  {}", text(&heard[0]), text(&heard[1]));
    }
    stage.sidecar.stop_with(&[], &["left with marks"]).await;
}
