//! The Redis door against the proxies that people put before Redis, and what its marks and its reads from Postgres cost.

use std::path::Path;

use anyhow::Context;
use parallax::traffic::control::Control;
use parallax::traffic::stack::Stack;
use parallax::traffic::world::Shape;
use parallax::traffic::{Burst, Command, command, generator};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::Duration;

use crate::SIDECAR;
use crate::load::{Commands, Load, redis_benchmark};
use crate::measure::{ROUNDS, Series, interleaved, resident_mb, series};
use crate::parts::live;
use crate::peers::{self, port_of};
use crate::report::{Goal, Report, short};
use crate::wire::{Wire, p50_us, packed};

pub(super) const ABOUT: &str =
    "The Redis door against nutcracker and haproxy on the same Redis, redis-benchmark as the client.";

const VALUE: &str = "a-value-of-forty-bytes-as-sessions-are-x";
const KEYS: u32 = 1_000;
const IDLE_CONNECTIONS: u32 = 1_000;
const LASTING: Duration = Duration::from_secs(1);
/// How many relayed requests one measurement replays.
const REQUESTS: usize = 20;

struct Subject {
    name: &'static str,
    port: u16,
    process: u32,
}

pub(super) async fn run(report: &mut Report) -> anyhow::Result<()> {
    let stack = Stack::start(Path::new(SIDECAR), &[]).await?;
    let process = stack.sidecar_id()?;
    let before = resident_mb(process)?;
    let redis = stack.redis.process_id().context("redis has ended")?;
    let mut subjects = vec![
        Subject { name: "direct", port: stack.redis.port(), process: redis },
        Subject { name: "door", port: port_of(&stack.redis_door)?, process },
    ];
    let started = (peers::nutcracker(stack.redis.port()).await?, peers::haproxy(stack.redis.port()).await?);
    for (name, peer) in [("nutcracker", &started.0), ("haproxy", &started.1)] {
        match peer {
            Some(peer) => subjects.push(Subject { name, port: peer.port()?, process: peer.id()? }),
            None => report.skip(name, "it is not on this machine"),
        }
    }
    unmirrored(report, &subjects).await?;
    report.number("memory with 50 connections used, MB", Goal::AtMost(20.0), resident_mb(process)?);
    idle_connections(report, &stack.redis_door, process, before).await?;
    Control::new(&stack.admin_door).change(&json!({"stage": "dualwrite", "reason": "bench"})).await?;
    mirrored(report, &subjects).await?;
    relayed(report, &stack).await?;
    stack.stop().await?;
    live_reads(report).await
}

/// What goes through untouched, in the three ways in which clients send it.
async fn unmirrored(report: &mut Report, subjects: &[Subject]) -> anyhow::Result<()> {
    let all = Commands { command: &[], keys: KEYS, connections: 50, pipeline: 1, count: 100_000 };
    let one = Commands { connections: 1, count: 20_000, ..all };
    let piped = Commands { connections: 10, pipeline: 16, count: 400_000, ..all };
    let get = ["GET", "bench:__rand_int__"];
    let set = ["SET", "bench:__rand_int__", VALUE];
    let hset = ["HSET", "benchhash:__rand_int__", "field", VALUE];
    for (what, commands, peer) in [
        ("GET, 50 connections", Commands { command: &get, ..all }, "nutcracker"),
        ("SET, 50 connections", Commands { command: &set, ..all }, "nutcracker"),
        ("HSET, 50 connections", Commands { command: &hset, ..all }, "nutcracker"),
        ("GET, one connection", Commands { command: &get, ..one }, "haproxy"),
        ("SET, one connection", Commands { command: &set, ..one }, "haproxy"),
        ("GET, pipelines of 16, 10 connections", Commands { command: &get, ..piped }, "haproxy"),
        ("SET, pipelines of 16, 10 connections", Commands { command: &set, ..piped }, "haproxy"),
    ] {
        let measured = interleaved(subjects, async |subject: &Subject| {
            redis_benchmark(subject.port, commands, subject.process).await
        })
        .await?;
        let of = |name: &str| {
            let at = subjects.iter().position(|subject| subject.name == name);
            at.and_then(|at| measured.get(at)).map(Vec::as_slice).unwrap_or_default()
        };
        let rate = |name: &str| series(of(name), |load: &Load| load.per_second);
        if !of(peer).is_empty() {
            report.figure(
                &format!("{what}: throughput, times {peer}"),
                Goal::AtLeast(1.0),
                &rate("door").over(&rate(peer)),
            );
            if peer == "nutcracker" {
                let cpu = |name: &str| series(of(name), |load: &Load| load.cpu_us);
                report.figure(
                    &format!("{what}: CPU a command, times {peer}"),
                    Goal::AtMost(1.0),
                    &cpu("door").over(&cpu(peer)),
                );
            } else if commands.connections == 1 {
                let p50 = |name: &str| series(of(name), |load: &Load| load.p50_us);
                report.figure(&format!("{what}: p50, times {peer}"), Goal::AtMost(1.0), &p50("door").over(&p50(peer)));
            }
        }
        report.figure(&format!("{what}: throughput, times direct"), Goal::Told, &rate("door").over(&rate("direct")));
        note_all(report, subjects, &measured);
    }
    Ok(())
}

fn note_all(report: &mut Report, subjects: &[Subject], measured: &[Vec<Load>]) {
    for (subject, loads) in subjects.iter().zip(measured) {
        let of = |figure: fn(&Load) -> f64| short(series(loads, figure).median());
        let (rate, p50, p99, cpu) =
            (of(|load| load.per_second), of(|load| load.p50_us), of(|load| load.p99_us), of(|load| load.cpu_us));
        report.note(&format!("{}: {rate}/s, p50 {p50} us, p99 {p99} us, {cpu} us of CPU", subject.name));
    }
}

async fn idle_connections(report: &mut Report, door: &str, process: u32, idle: f64) -> anyhow::Result<()> {
    let before = resident_mb(process)?;
    let mut connections = Vec::new();
    for _ in 0..IDLE_CONNECTIONS {
        let connection = TcpStream::connect(door).await?;
        connections.push(connection);
    }
    // The last one answers when the ones before it were taken.
    Wire::connect(door).await?.exchange(b"*1\r\n$4\r\nPING\r\n", 1).await?;
    let each = (resident_mb(process)? - before) * 1024.0 / f64::from(IDLE_CONNECTIONS);
    report.number("memory of an idle connection, KB", Goal::AtMost(10.0), each);
    report.note(&format!("{} MB when it was started", short(idle)));
    Ok(())
}

async fn mirrored(report: &mut Report, subjects: &[Subject]) -> anyhow::Result<()> {
    let two = subjects.get(..2).context("Redis and the door")?;
    let all = Commands { command: &[], keys: KEYS, connections: 50, pipeline: 1, count: 100_000 };
    for (what, command) in [
        ("mirrored HINCRBY over 1,000 keys", &["HINCRBY", "usage:__rand_int__", "totalTokens", "7"][..]),
        ("mirrored HSET over 1,000 keys", &["HSET", "redemption:__rand_int__", "status", VALUE][..]),
    ] {
        let commands = Commands { command, ..all };
        let measured =
            interleaved(two, async |subject: &Subject| redis_benchmark(subject.port, commands, subject.process).await)
                .await?;
        let [direct, door] = &measured[..] else { continue };
        let rate = |loads: &[Load]| series(loads, |load| load.per_second);
        report.figure(
            &format!("{what}: throughput, times direct"),
            Goal::AtLeast(0.6),
            &rate(door).over(&rate(direct)),
        );
        note_all(report, two, &measured);
    }
    Ok(())
}

/// Relayed requests with the relay's own pipelining over one connection: a burst is sent when the one before it is answered.
async fn relayed(report: &mut Report, stack: &Stack) -> anyhow::Result<()> {
    let direct = format!("127.0.0.1:{}", stack.redis.port());
    let shape = Shape { seed: 7, api_keys: 12, days: 3, now_ms: 1_795_435_200_000 };
    let keyspace: Vec<Command> = generator::keyspace(&shape);
    let bursts: Vec<Burst> = generator::requests(&shape, REQUESTS).collect();
    let exchanges: Vec<(Vec<u8>, usize)> = bursts.iter().map(|burst| (packed(burst), burst.len())).collect();
    let mut wires = Vec::new();
    for address in [&direct, &stack.redis_door] {
        let mut wire = Wire::connect(address).await?;
        for chunk in keyspace.chunks(100) {
            wire.exchange(&packed(chunk), chunk.len()).await?;
        }
        wires.push(wire);
    }
    let mut series = [Series::default(), Series::default()];
    for round in 0..ROUNDS {
        for turn in 0..2 {
            let at = (round + turn) % 2;
            let (wire, times) = (wires.get_mut(at).context("a wire")?, series.get_mut(at).context("a series")?);
            let began = tokio::time::Instant::now();
            for (bytes, replies) in &exchanges {
                wire.exchange(bytes, *replies).await?;
            }
            times.0.push(began.elapsed().as_secs_f64() * 1e3 / f64::from(u32::try_from(REQUESTS)?));
        }
    }
    let [bare, door] = &series;
    report.figure(
        "a relayed request's 328 commands, all mirrored: time, times direct",
        Goal::AtMost(1.5),
        &door.over(bare),
    );
    report.note(&format!("door {} ms, direct {} ms", short(door.median()), short(bare.median())));
    sequential(report, &bursts, "stage dualwrite", &direct, &stack.redis_door).await
}

/// The commands that the relay runs one after another before it may call its upstream.
async fn sequential(
    report: &mut Report,
    bursts: &[Burst],
    stage: &str,
    direct: &str,
    door: &str,
) -> anyhow::Result<()> {
    let singles: Vec<(Vec<u8>, usize)> =
        bursts.iter().filter(|burst| burst.len() == 1).take(38).map(|burst| (packed(burst), 1)).collect();
    let measured = interleaved(&[door, direct], async |address: &&str| {
        let mut wire = Wire::connect(address).await?;
        Ok(p50_us(&wire.latencies(&singles, LASTING).await?))
    })
    .await?;
    let [door, bare] = &measured[..] else { return Ok(()) };
    let (door, bare) = (series(door, |p50| p50 * 41.0 / 1e3), series(bare, |p50| p50 * 41.0 / 1e3));
    report.figure(&format!("the relay's 41 sequential commands, {stage}: ms"), Goal::Told, &door);
    report.note(&format!("direct {} ms", short(bare.median())));
    Ok(())
}

async fn live_reads(report: &mut Report) -> anyhow::Result<()> {
    let stack = live::live_stack().await?;
    let mut bare = live::Bare::connect(&stack).await?;
    for (name, key) in [("GET", "original_session_binding"), ("HGETALL", "usage")] {
        let exchanges: Vec<(Vec<u8>, usize)> =
            (1..=live::KEYS).map(|number| (packed([&command(&[name, &format!("{key}:{number}")])]), 1)).collect();
        let measured = interleaved(&[true, false], async |through_door: &bool| {
            if *through_door {
                let mut wire = Wire::connect(&stack.redis_door).await?;
                Ok(p50_us(&wire.latencies(&exchanges, live::LASTING).await?))
            } else {
                bare.p50_us(key).await
            }
        })
        .await?;
        let [door, plain] = &measured[..] else { continue };
        let (door, plain) = (series(door, |p50| *p50), series(plain, |p50| *p50));
        live::tell(report, &format!("live, {name} from Postgres"), &door, &plain);
    }
    stack.stop().await.map(drop)
}
