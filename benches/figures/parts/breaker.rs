//! What a Postgres that hangs costs the reads of a live kind, once the breaker has opened: they should be as in dualwrite.

use std::time::Duration;

use anyhow::ensure;
use http::Method;
use parallax::client::Client;
use parallax::traffic::control::Control;
use parallax::traffic::stack::Stack;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::live::{KEYS, live_stack};
use crate::load::wrk;
use crate::measure::{interleaved, series};
use crate::report::{Goal, Report, short};

pub(super) const ABOUT: &str = "Reads of a kind that is live at 100 % while Postgres hangs, behind the open breaker, against the same reads in stage dualwrite.";

const PATH: &str = "/redis/get/original_session_binding:%d";
/// Its kind. The guard takes it back after each round, and then it has a flag of its own.
const KIND: &str = "session_binding";
const CONNECTIONS: u32 = 10;
/// The usual deadline: now and then one read tries whether Postgres is well again, and waits for so long. `wrk` counts what the
/// others of its connection would have waited as well.
const DEADLINE_MS: u64 = 5;
/// How long Postgres may take to be read again, and the breaker to open.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

pub(super) async fn run(report: &mut Report) -> anyhow::Result<()> {
    let stack = live_stack().await?;
    let mut control = Control::new(&stack.admin_door);
    let process = stack.sidecar_id()?;
    let measured = interleaved(&[true, false], async |hangs: &bool| {
        control.change_of(KIND, &json!({"stage": "shadow", "sample_rate": 0, "reason": "bench"})).await?;
        if !*hangs {
            control.change_of(KIND, &json!({"stage": "dualwrite", "reason": "bench"})).await?;
            return wrk(&stack.data_door, PATH, KEYS, CONNECTIONS, process).await;
        }
        let live = json!({"stage": "live", "percent": 100, "deadline_ms": DEADLINE_MS, "override": true, "resume": true, "reason": "bench"});
        control.change_of(KIND, &live).await?;
        postgres_answers(&stack).await?;
        stack.postgres.pause()?;
        breaker_opens(&stack, &mut control).await?;
        let load = wrk(&stack.data_door, PATH, KEYS, CONNECTIONS, process).await;
        stack.postgres.resume()?;
        load
    })
    .await?;
    let [open, dualwrite] = &measured[..] else { return Ok(()) };
    let (p50, plain_p50) = (series(open, |load| load.p50_us), series(dualwrite, |load| load.p50_us));
    let (p99, plain_p99) = (series(open, |load| load.p99_us), series(dualwrite, |load| load.p99_us));
    report.figure("behind the open breaker: p99, times dualwrite", Goal::AtMost(1.2), &p99.over(&plain_p99));
    report.figure("behind the open breaker: p50, times dualwrite", Goal::Told, &p50.over(&plain_p50));
    report.note(&format!(
        "p50 {} us and p99 {} us; in dualwrite {} and {}",
        short(p50.median()),
        short(p99.median()),
        short(plain_p50.median()),
        short(plain_p99.median()),
    ));
    stack.stop().await.map(drop)
}

/// Who answers a read.
async fn source(stack: &Stack) -> anyhow::Result<String> {
    let path = PATH.replace("%d", "7");
    let answer = Client::new(&stack.data_door).send(Method::GET, &path, &[], bytes::Bytes::new()).await?;
    ensure!(answer.status.is_success(), "{path} was answered with {}", answer.status);
    let source = answer.headers.get("parallax-source").and_then(|source| source.to_str().ok());
    Ok(source.unwrap_or("nobody").to_owned())
}

async fn postgres_answers(stack: &Stack) -> anyhow::Result<()> {
    let began = Instant::now();
    while source(stack).await? != "postgres" {
        ensure!(began.elapsed() < PATIENCE, "postgres does not answer");
        sleep(POLL).await;
    }
    Ok(())
}

/// Reads until the breaker has opened.
async fn breaker_opens(stack: &Stack, control: &mut Control) -> anyhow::Result<()> {
    let began = Instant::now();
    while control.figures().await?.sum("parallax_breaker_open", &[]) == 0.0 {
        ensure!(began.elapsed() < PATIENCE, "the breaker does not open");
        source(stack).await?;
    }
    Ok(())
}
