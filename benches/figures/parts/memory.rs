//! Memory over ten million commands with nobody scraping `/metrics`: it must not grow with what was done.

use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use parallax::client::Client;
use parallax::traffic::control::Control;
use parallax::traffic::stack::Stack;
use serde_json::json;

use crate::SIDECAR;
use crate::measure::resident_mb;
use crate::report::{Goal, Report, short};

pub(super) const ABOUT: &str = "Memory of the sidecar over 10 million commands in pipelines of 200, a tenth of them mirrored, nobody scraping /metrics.";

const CLIENTS: usize = 4;
const COMMANDS: usize = 200;
const STEPS: usize = 10;
const COMMANDS_A_STEP: usize = 1_000_000;

pub(super) async fn run(report: &mut Report) -> anyhow::Result<()> {
    let stack = Stack::start(Path::new(SIDECAR), &[]).await?;
    let process = stack.sidecar_id()?;
    report.number("idle, MB", Goal::AtMost(20.0), resident_mb(process)?);
    Control::new(&stack.admin_door).change(&json!({"stage": "dualwrite", "reason": "bench"})).await?;
    let mut held = Vec::new();
    for _ in 0..STEPS {
        let clients = (0..CLIENTS).map(|client| tokio::spawn(send(stack.data_door.clone(), client)));
        for client in clients.collect::<Vec<_>>() {
            client.await??;
        }
        held.push(resident_mb(process)?);
    }
    // The first two million fill buffers and pools.
    let early = held.get(1).copied().context("a figure for each step")?;
    let last = held.last().copied().context("a figure for each step")?;
    report.number("after 10 million commands, MB", Goal::AtMost(60.0), last);
    report.number("after 10 million commands, times after 2 million", Goal::AtMost(1.05), last / early);
    report.note(&format!("MB after each million: {}", held.iter().map(|mb| short(*mb)).collect::<Vec<_>>().join(", ")));
    stack.stop().await.map(drop)
}

async fn send(door: String, client: usize) -> anyhow::Result<()> {
    let commands: Vec<_> = (0..COMMANDS)
        .map(|number| {
            let key = client * COMMANDS + number;
            match number % 10 {
                0 => json!(["HINCRBY", format!("usage:{key}"), "totalTokens", 1]),
                1..5 => json!(["SET", format!("bench:{key}"), "a-value-of-forty-bytes-as-sessions-are-x"]),
                _ => json!(["GET", format!("bench:{}", key - 5)]),
            }
        })
        .collect();
    let body = Bytes::from(json!(commands).to_string());
    let mut client = Client::new(door);
    for _ in 0..COMMANDS_A_STEP / COMMANDS / CLIENTS {
        let headers = [("content-type", "application/json")];
        let answer = client.send(http::Method::POST, "/redis/pipeline", &headers, body.clone()).await?;
        anyhow::ensure!(answer.status.is_success(), "a pipeline was answered with {}", answer.status);
    }
    Ok(())
}
