//! Relay traffic at a steady pace: how many rows it costs, and how far Postgres is behind.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use parallax::client::Client;
use parallax::traffic::Burst;
use parallax::traffic::control::Control;
use parallax::traffic::figures::Figures;
use parallax::traffic::generator;
use parallax::traffic::replay::Replay;
use parallax::traffic::stack::Stack;
use parallax::traffic::world::Shape;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::SIDECAR;
use crate::measure::{ROUNDS, Series, cpu_seconds, resident_mb};
use crate::report::{Goal, Report, short};

pub(super) const ABOUT: &str =
    "Relayed requests at 50 a second (276 writes each) and single writes at 2,000 a second: rows, lag and memory.";

/// Connections that share the relayed requests: the relay has one, several relays have several.
const RELAYS: usize = 4;
const REQUESTS_A_SECOND: usize = 50;
const WINDOW: Duration = Duration::from_secs(4);
const WRITERS: usize = 8;
const WRITES_A_SECOND: usize = 2_000;
const UPSERTS: &str = "parallax_row_upserts_total";
const LAG: &str = "parallax_mirror_lag_seconds";

pub(super) async fn run(report: &mut Report) -> anyhow::Result<()> {
    relayed(report).await?;
    steady(report).await
}

async fn dualwrite() -> anyhow::Result<(Stack, Control)> {
    let stack = Stack::start(Path::new(SIDECAR), &[]).await?;
    let mut control = Control::new(&stack.admin_door);
    control.change(&json!({"stage": "dualwrite", "reason": "bench"})).await?;
    Ok((stack, control))
}

async fn relayed(report: &mut Report) -> anyhow::Result<()> {
    let (stack, mut control) = dualwrite().await?;
    let shape = Shape { seed: 42, api_keys: 40, days: 3, now_ms: 1_795_435_200_000 };
    let mut replay = Replay::new(&stack.data_door);
    for burst in generator::keyspace(&shape).chunks(200) {
        replay.send(&burst.to_vec()).await?;
    }
    stack.wait_for_empty_outbox(Duration::from_secs(60)).await?;
    let seconds = usize::try_from(WINDOW.as_secs())? * (ROUNDS + 1);
    let requests = by_request(generator::requests(&shape, REQUESTS_A_SECOND * seconds));
    let began = Instant::now();
    let relays: Vec<_> = (0..RELAYS)
        .map(|relay| {
            let own: Vec<(usize, Vec<Burst>)> =
                requests.iter().cloned().enumerate().skip(relay).step_by(RELAYS).collect();
            tokio::spawn(send_paced(Replay::new(&stack.data_door), own, began))
        })
        .collect();
    // The first window warms up.
    let (mut rows, mut lags, mut rates) = (Series::default(), Series::default(), Series::default());
    let (mut at, mut before) = (began, Figures::default());
    for window in 0..=ROUNDS {
        at += WINDOW;
        sleep_until(at).await;
        let figures = control.figures().await?;
        if window > 0 {
            let commands = of_window(&figures, &before, "parallax_commands_total");
            let requests = commands / f64::from(u32::try_from(generator::COMMANDS_A_REQUEST)?);
            rows.0.push(of_window(&figures, &before, UPSERTS) / requests);
            rates.0.push(requests / WINDOW.as_secs_f64());
            lags.0.push(figures.quantile_since(&before, LAG, 0.99).context("nothing was mirrored")? * 1e3);
        }
        before = figures;
    }
    let mut late = Duration::ZERO;
    for relay in relays {
        late = late.max(relay.await??);
    }
    report.figure("relay: row upserts for a relayed request's 276 writes", Goal::AtMost(40.0), &rows);
    report.figure("relay: lag of the mirror, p99, ms (counters wait their interval)", Goal::Told, &lags);
    report.note(&format!(
        "{} requests/s of {REQUESTS_A_SECOND}, at most {} ms late",
        short(rates.median()),
        late.as_millis()
    ));
    for table in ["usage_counters", "elements", "event_logs", "collections", "api_keys", "accounts", "records"] {
        let all = before.sum(UPSERTS, &[("table", table)]);
        report.note(&format!("{table}: {} of the rows", short(all / before.sum(UPSERTS, &[]))));
    }
    let drained = stack.wait_for_empty_outbox(Duration::from_secs(60)).await?;
    report.note(&format!("the outbox was empty {} ms after the last request", drained.as_millis()));
    stack.stop().await.map(drop)
}

fn of_window(now: &Figures, before: &Figures, name: &str) -> f64 {
    now.sum(name, &[]) - before.sum(name, &[])
}

/// Bursts, request by request: each begins with the look for its API key. What an administrator does goes with the request before it.
fn by_request(bursts: impl Iterator<Item = Burst>) -> Vec<Vec<Burst>> {
    let mut requests: Vec<Vec<Burst>> = Vec::new();
    for burst in bursts {
        let begins = burst
            .first()
            .is_some_and(|first| first.get(1).is_some_and(|key| key == b"apikey:hash_map") && burst.len() == 1);
        match requests.last_mut() {
            Some(request) if !begins => request.push(burst),
            Some(_) | None => requests.push(vec![burst]),
        }
    }
    requests
}

/// Sends requests when their time has come; answers how late the latest was.
async fn send_paced(
    mut replay: Replay,
    requests: Vec<(usize, Vec<Burst>)>,
    began: Instant,
) -> anyhow::Result<Duration> {
    let mut late = Duration::ZERO;
    for (number, bursts) in requests {
        let due = began + Duration::from_secs(1) * u32::try_from(number)? / u32::try_from(REQUESTS_A_SECOND)?;
        sleep_until(due).await;
        late = late.max(due.elapsed());
        for burst in &bursts {
            replay.send(burst).await?;
        }
    }
    Ok(late)
}

/// Single writes to records and counters at a steady pace.
async fn steady(report: &mut Report) -> anyhow::Result<()> {
    let (stack, mut control) = dualwrite().await?;
    let process = stack.sidecar_id()?;
    let idle = resident_mb(process)?;
    let began = Instant::now();
    let lasting = WINDOW * u32::try_from(ROUNDS + 1)?;
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write_paced(stack.data_door.clone(), writer, began, lasting))).collect();
    let (mut lags, mut memory, mut cpu) = (Series::default(), Series::default(), Series::default());
    let (mut at, mut before, mut used) = (began, Figures::default(), 0.0);
    for window in 0..=ROUNDS {
        at += WINDOW;
        sleep_until(at).await;
        let figures = control.figures().await?;
        let now_used = cpu_seconds(process)?;
        if window > 0 {
            lags.0.push(figures.quantile_since(&before, LAG, 0.99).context("nothing was mirrored")? * 1e3);
            memory.0.push(resident_mb(process)?);
            cpu.0.push((now_used - used) / WINDOW.as_secs_f64() * 100.0);
        }
        (before, used) = (figures, now_used);
    }
    for writer in writers {
        writer.await??;
    }
    report.figure("2,000 writes/s: lag of the mirror, p99, ms", Goal::AtMost(50.0), &lags);
    report.number("idle: memory of the sidecar, MB", Goal::AtMost(20.0), idle);
    report.figure("2,000 writes/s: memory of the sidecar, MB", Goal::AtMost(60.0), &memory);
    report.figure("2,000 writes/s: CPU of the sidecar, % of a core", Goal::Told, &cpu);
    stack.stop().await.map(drop)
}

/// One of the writers: every millisecond in which it is behind its pace it writes, a record and a counter in turn.
async fn write_paced(door: String, writer: usize, began: Instant, lasting: Duration) -> anyhow::Result<()> {
    let mut client = Client::new(door);
    let every = Duration::from_secs(1) * u32::try_from(WRITERS)? / u32::try_from(WRITES_A_SECOND)?;
    let mut number = 0_usize;
    let mut due = began;
    while due < began + lasting {
        sleep_until(due).await;
        let key = (number * WRITERS + writer) % 5_000;
        let path = if number.is_multiple_of(2) {
            format!("/redis/set/original_session_binding:{key}/value-{number}")
        } else {
            format!("/redis/hincrby/usage:{key}/totalTokens/1")
        };
        let answer = client.send(http::Method::GET, &path, &[], bytes::Bytes::new()).await?;
        anyhow::ensure!(answer.status.is_success(), "a write was answered with {}", answer.status);
        number += 1;
        due += every;
    }
    Ok(())
}
