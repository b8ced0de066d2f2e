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
/// How many of its single commands are sent in turn.
const SEQUENTIAL: usize = 41;
/// Connections at which the throughput of reads from Postgres is measured.
const READERS: u32 = 50;

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
    flat(report, &subjects, process).await?;
    idle_connections(report, &stack.redis_door, process, before).await?;
    let relay = Relay::load(&stack).await?;
    relay.sequential(report, "stage off", &subjects).await?;
    let mut control = Control::new(&stack.admin_door);
    control.change(&json!({"stage": "dualwrite", "reason": "bench"})).await?;
    mirrored(report, &subjects).await?;
    relay.bursts(report, &stack).await?;
    let two = subjects.get(..2).context("Redis and the door")?;
    relay.sequential(report, "stage dualwrite", two).await?;
    stack.wait_for_empty_outbox(Duration::from_secs(60)).await?;
    control.change(&json!({"stage": "shadow", "reason": "bench"})).await?;
    relay.sequential(report, "stage shadow", two).await?;
    control.backfill().await?;
    stack.wait_for_empty_outbox(Duration::from_secs(60)).await?;
    control.change(&json!({"stage": "live", "percent": 100, "override": true, "reason": "bench"})).await?;
    relay.sequential(report, "stage live, 100 %", two).await?;
    stack.stop().await?;
    live_reads(report).await
}

/// Memory after ten times as many commands: it must not grow with what was done.
async fn flat(report: &mut Report, subjects: &[Subject], process: u32) -> anyhow::Result<()> {
    let door = subjects.get(1).context("the door")?;
    let before = resident_mb(process)?;
    let set = ["SET", "bench:__rand_int__", VALUE];
    let commands = Commands { command: &set, keys: KEYS, connections: 50, pipeline: 1, count: 1_000_000 };
    redis_benchmark(door.port, commands, door.process).await?;
    report.number(
        "memory after 1,000,000 commands more at 50 connections, times before",
        Goal::AtMost(1.05),
        resident_mb(process)? / before,
    );
    Ok(())
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

/// The relay's own commands.
struct Relay {
    bursts: Vec<Burst>,
}

impl Relay {
    /// Puts what the relay finds into the stack.
    async fn load(stack: &Stack) -> anyhow::Result<Self> {
        let shape = Shape { seed: 7, api_keys: 12, days: 3, now_ms: 1_795_435_200_000 };
        let keyspace: Vec<Command> = generator::keyspace(&shape);
        let bursts: Vec<Burst> = generator::requests(&shape, REQUESTS).collect();
        let mut wire = Wire::connect(&stack.redis_door).await?;
        for chunk in keyspace.chunks(100) {
            wire.exchange(&packed(chunk), chunk.len()).await?;
        }
        Ok(Self { bursts })
    }

    /// Requests with the relay's own pipelining over one connection: a burst is sent when the one before it is answered.
    async fn bursts(&self, report: &mut Report, stack: &Stack) -> anyhow::Result<()> {
        let direct = format!("127.0.0.1:{}", stack.redis.port());
        let exchanges: Vec<(Vec<u8>, usize)> = self.bursts.iter().map(|burst| (packed(burst), burst.len())).collect();
        let mut wires = [Wire::connect(&direct).await?, Wire::connect(&stack.redis_door).await?];
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
        Ok(())
    }

    /// The commands that the relay runs one after another before it may call its upstream, over one connection.
    async fn sequential(&self, report: &mut Report, stage: &str, subjects: &[Subject]) -> anyhow::Result<()> {
        let singles = self.bursts.iter().filter(|burst| burst.len() == 1).take(SEQUENTIAL);
        let singles: Vec<(Vec<u8>, usize)> = singles.map(|burst| (packed(burst), 1)).collect();
        let measured = interleaved(subjects, async |subject: &Subject| {
            let mut wire = Wire::connect(&format!("127.0.0.1:{}", subject.port)).await?;
            let histogram = wire.latencies(&singles, LASTING).await?;
            Ok((p50_us(&histogram), histogram.mean() / 1e3))
        })
        .await?;
        let what = format!("the relay's 41 sequential commands, {stage}");
        let of = |name: &str, figure: fn(&(f64, f64)) -> f64| {
            let at = subjects.iter().position(|subject| subject.name == name)?;
            Some(series(measured.get(at)?, figure))
        };
        let (p50, mean) = (|figures: &(f64, f64)| figures.0, |figures: &(f64, f64)| figures.1);
        let door = of("door", p50).context("the door")?;
        if let (Some(peer_p50), Some(peer_mean), Some(door_mean)) =
            (of("haproxy", p50), of("haproxy", mean), of("door", mean))
        {
            // One after another: as many a second as one takes less time.
            report.figure(
                &format!("{what}: throughput, times haproxy"),
                Goal::AtLeast(1.0),
                &peer_mean.over(&door_mean),
            );
            report.figure(&format!("{what}: p50, times haproxy"), Goal::AtMost(1.0), &door.over(&peer_p50));
        }
        let all = |p50: &Series| Series(p50.0.iter().map(|p50| p50 * 41.0 / 1e3).collect());
        report.figure(&format!("{what}: ms"), Goal::Told, &all(&door));
        let direct = of("direct", p50).context("redis")?;
        report.note(&format!("direct {} ms", short(all(&direct).median())));
        Ok(())
    }
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
        let measured = interleaved(&[true, false], async |through_door: &bool| {
            if *through_door {
                live::gets_a_second(&stack.redis_door, &exchanges, READERS).await
            } else {
                live::selects_a_second(&stack, key, READERS).await
            }
        })
        .await?;
        let [door, plain] = &measured[..] else { continue };
        let (door, plain) = (series(door, |rate| *rate), series(plain, |rate| *rate));
        report.figure(
            &format!("live, {name} from Postgres: throughput at 50 connections, times bare select"),
            Goal::AtLeast(0.6),
            &door.over(&plain),
        );
        report.note(&format!("door {}/s, bare select {}/s", short(door.median()), short(plain.median())));
    }
    stack.stop().await.map(drop)
}
