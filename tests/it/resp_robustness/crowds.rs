//! Many clients: ten thousand that are idle, and a thousand that come and go each second.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::{UNNOTICED, memory_bytes, others, stage, stage_with};
use crate::resp_differential::wire::Wire;
use crate::support::sidecar::PATIENCE;
use crate::support::wait_until;

const IDLE: usize = 10_000;
const IDLE_BYTES_MAX: u64 = 10 * 1024;
/// What this process needs beside the connections.
const OTHER_FILES: usize = 1_000;
const CONNECTS_A_SECOND: u32 = 1_000;
const CONNECT_SECONDS: u32 = 3;

/// How many files this process may open.
fn files_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap_or(usize::MAX)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_cost_less_than_ten_kilobytes_each() {
    let count = IDLE.min(files_max().saturating_sub(OTHER_FILES));
    if count < IDLE {
        eprintln!("SKIPPED: {count} of {IDLE} connections, since this process may not open more files");
    }
    let stage = stage_with(&[("PARALLAX_RESP_CONNECTIONS_MAX", "11000")]).await;
    let door = stage.sidecar.resp.clone();
    // What the first connections bring to life belongs to none of them.
    let mut crowd: Vec<Wire> = Vec::new();
    for _ in 0..100 {
        crowd.push(Wire::connect(&door).await);
        crowd.last_mut().unwrap().ask("PING").await;
    }
    let before = memory_bytes(stage.sidecar.pid());
    while crowd.len() < count {
        let mut wire = Wire::connect(&door).await;
        // Each has spoken once, as the connections of a pool have.
        wire.ask("GET user:nobody").await;
        crowd.push(wire);
    }
    let after = memory_bytes(stage.sidecar.pid());
    let each = after.saturating_sub(before) / (count as u64 - 100);
    eprintln!("{count} idle connections, {each} bytes each");
    assert!(each < IDLE_BYTES_MAX, "{each} bytes for each idle connection");
    let mut turns = 0..100;
    let longest = others(&door, || turns.next().is_none()).await;
    assert!(longest < UNNOTICED, "an answer took {longest:?}");
    // Idle is not forgotten.
    for wire in crowd.iter_mut().step_by(97) {
        wire.ask("PING").await;
    }
    drop(crowd);
    stage.sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_come_and_go_each_second() {
    let stage = stage().await;
    let door = stage.sidecar.resp.clone();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / CONNECTS_A_SECOND);
    // A tick that was missed is made up for: so many clients come whatever else the machine does.
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut clients = JoinSet::new();
    let began = Instant::now();
    for _ in 0..CONNECTS_A_SECOND * CONNECT_SECONDS {
        tick.tick().await;
        let door = door.clone();
        clients.spawn(async move {
            let began = Instant::now();
            Wire::connect(&door).await.ask("SET user:visitor v").await;
            began.elapsed()
        });
    }
    let mut longest = Duration::ZERO;
    while let Some(took) = clients.join_next().await {
        longest = longest.max(took.unwrap());
    }
    eprintln!("{} clients in {:?}, the slowest {longest:?}", CONNECTS_A_SECOND * CONNECT_SECONDS, began.elapsed());
    assert!(longest < UNNOTICED, "a client waited {longest:?}");
    // Nothing of them stays: neither here nor at Redis.
    let redis = crate::resp_differential::pair::address(&stage.redis);
    let mut look = Wire::connect(&redis).await;
    wait_until("redis has few connections again", PATIENCE, || async {
        clients_of(&mut Wire::connect(&redis).await).await < 40
    })
    .await;
    assert!(clients_of(&mut look).await < 40);
    stage.sidecar.stop_expecting(&[]).await;
}

/// How many connections Redis has.
async fn clients_of(wire: &mut Wire) -> usize {
    let crate::resp_differential::wire::Frame::Blob(_, Some(info)) = wire.ask("INFO clients").await else { panic!() };
    let info = String::from_utf8_lossy(&info).into_owned();
    info.lines().find_map(|line| line.strip_prefix("connected_clients:")).unwrap().trim().parse().unwrap()
}
