//! A read that Postgres answers, over HTTP, against the least that such a read can be: a fence and a prepared select.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use parallax::client::Client;
use parallax::model::key::Key;
use parallax::stores::redis::script::FENCE;
use parallax::traffic::control::Control;
use parallax::traffic::stack::Stack;
use serde_json::json;
use tokio::time::Instant;
use tokio_postgres::{NoTls, Statement};

use crate::SIDECAR;
use crate::load::wrk;
use crate::measure::{Series, interleaved, series};
use crate::report::{Goal, Report, short};
use crate::wire::{Wire, p50_us, packed};

pub(super) const ABOUT: &str = "Stage live, 100 %: a read that Postgres answers, over HTTP, against a bare fence script and a bare prepared select.";

pub(super) const KEYS: u32 = 1_000;
pub(super) const LASTING: Duration = Duration::from_secs(2);

pub(super) async fn run(report: &mut Report) -> anyhow::Result<()> {
    let stack = live_stack().await?;
    let process = stack.sidecar_id()?;
    let mut bare = Bare::connect(&stack).await?;
    for (what, path, name) in [
        ("GET", "/redis/get/original_session_binding:%d", "original_session_binding"),
        ("HGETALL", "/redis/hgetall/usage:%d", "usage"),
    ] {
        ensure_postgres_answers(&stack, &path.replace("%d", "7")).await?;
        let measured = interleaved(&[true, false], async |through_door: &bool| {
            if *through_door {
                Ok(wrk(&stack.data_door, path, KEYS, 1, process).await?.p50_us)
            } else {
                bare.p50_us(name).await
            }
        })
        .await?;
        let [door, plain] = &measured[..] else { continue };
        let (door, plain) = (series(door, |p50| *p50), series(plain, |p50| *p50));
        tell(report, &format!("{what} over HTTP"), &door, &plain);
    }
    stack.stop().await.map(drop)
}

pub(super) fn tell(report: &mut Report, what: &str, door: &Series, bare: &Series) {
    report.figure(&format!("{what}: p50 at one connection, times bare"), Goal::AtMost(1.3), &door.over(bare));
    report.note(&format!("door {} us, bare fence and select {} us", short(door.median()), short(bare.median())));
}

/// A stack whose reads Postgres answers, with strings and hashes in it.
pub(super) async fn live_stack() -> anyhow::Result<Stack> {
    let stack = Stack::start(Path::new(SIDECAR), &[]).await?;
    let mut control = Control::new(&stack.admin_door);
    control.change(&json!({"stage": "dualwrite", "reason": "bench"})).await?;
    let mut client = Client::new(&stack.data_door);
    for chunk in (1..=KEYS).collect::<Vec<_>>().chunks(100) {
        let commands: Vec<_> = chunk
            .iter()
            .flat_map(|key| {
                let text =
                    format!(r#"{{"accountId":"{key}","accountType":"claude","boundAt":"2026-01-02T03:04:05.678Z"}}"#);
                [
                    json!(["SET", format!("original_session_binding:{key}"), text]),
                    json!([
                        "HSET",
                        format!("usage:{key}"),
                        "totalTokens",
                        "1",
                        "totalRequests",
                        "2",
                        "totalInputTokens",
                        "3"
                    ]),
                ]
            })
            .collect();
        client.json(http::Method::POST, "/redis/pipeline", &[], Some(&json!(commands))).await?;
    }
    control.backfill().await?;
    stack.wait_for_empty_outbox(Duration::from_secs(30)).await?;
    control.change(&json!({"stage": "shadow", "sample_rate": 0, "reason": "bench"})).await?;
    // A deadline that a loaded machine keeps: what is measured is Postgres, not the way around it.
    let live = json!({"stage": "live", "percent": 100, "deadline_ms": 200, "override": true, "reason": "bench"});
    control.change(&live).await?;
    Ok(stack)
}

async fn ensure_postgres_answers(stack: &Stack, path: &str) -> anyhow::Result<()> {
    let answer = Client::new(&stack.data_door).send(http::Method::GET, path, &[], bytes::Bytes::new()).await?;
    let source = answer.headers.get("parallax-source").and_then(|source| source.to_str().ok());
    ensure!(source == Some("postgres"), "{path} was answered by {source:?}");
    Ok(())
}

/// The two round trips that such a read cannot do without, each as bare as it gets.
pub(super) struct Bare {
    wire: Wire,
    run_id: String,
    client: tokio_postgres::Client,
    texts: Statement,
    hashes: Statement,
}

impl Bare {
    pub(super) async fn connect(stack: &Stack) -> anyhow::Result<Self> {
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut stack.redis_connection().await?).await?;
        let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:")).context("a server without run_id")?;
        let wire = Wire::connect(&format!("127.0.0.1:{}", stack.redis.port())).await?;
        let (client, connection) = tokio_postgres::connect(&stack.postgres.url(), NoTls).await?;
        tokio::spawn(connection);
        let texts = client.prepare("SELECT version, doc::text FROM records WHERE key_hash = $1").await?;
        let hashes = client.prepare("SELECT version, doc::text FROM usage_counters WHERE key_hash = $1").await?;
        Ok(Self { wire, run_id: run_id.trim().to_owned(), client, texts, hashes })
    }

    /// The median of a fence and a select of keys `name:1` and following.
    pub(super) async fn p50_us(&mut self, name: &str) -> anyhow::Result<f64> {
        let statement = if name == "usage" { &self.hashes } else { &self.texts };
        let mut histogram = Histogram::<u64>::new(3)?;
        let began = Instant::now();
        while began.elapsed() < LASTING {
            for number in 1..=KEYS {
                let key = Key::new(format!("{name}:{number}"));
                let fence = FENCE.evalsha(&[key.as_bytes()], &[self.run_id.as_bytes()]);
                let fence = packed([&fence.0.iter().map(|part| part.to_vec()).collect()]);
                let hash = key.hash();
                let sent = Instant::now();
                self.wire.exchange(&fence, 1).await?;
                let row = self.client.query_one(statement, &[&hash]).await?;
                histogram.record(u64::try_from(sent.elapsed().as_nanos())?)?;
                ensure!(row.get::<_, Option<String>>(1).is_some(), "a row without a document");
            }
        }
        Ok(p50_us(&histogram))
    }
}

/// Reads a second that so many connections to the door have answered, each one after another.
pub(super) async fn gets_a_second(
    address: &str,
    exchanges: &[(Vec<u8>, usize)],
    connections: u32,
) -> anyhow::Result<f64> {
    let mut readers = Vec::new();
    for _ in 0..connections {
        let (mut wire, exchanges) = (Wire::connect(address).await?, exchanges.to_vec());
        readers.push(tokio::spawn(async move { Ok(wire.latencies(&exchanges, LASTING).await?.len()) }));
    }
    a_second(readers).await
}

/// Rows a second that so many connections to Postgres read, each with a prepared select and nothing else.
pub(super) async fn selects_a_second(stack: &Stack, name: &str, connections: u32) -> anyhow::Result<f64> {
    let table = if name == "usage" { "usage_counters" } else { "records" };
    let hashes: Vec<_> = (1..=KEYS).map(|number| Key::new(format!("{name}:{number}")).hash()).collect();
    let mut readers = Vec::new();
    for _ in 0..connections {
        let (client, connection) = tokio_postgres::connect(&stack.postgres.url(), NoTls).await?;
        tokio::spawn(connection);
        let select = format!("SELECT version, doc::text FROM {table} WHERE key_hash = $1");
        let (statement, hashes) = (client.prepare(&select).await?, hashes.clone());
        readers.push(tokio::spawn(async move {
            let (mut count, began) = (0_u64, Instant::now());
            for hash in hashes.iter().cycle() {
                client.query_one(&statement, &[hash]).await?;
                count += 1;
                if began.elapsed() >= LASTING {
                    break;
                }
            }
            Ok(count)
        }));
    }
    a_second(readers).await
}

async fn a_second(readers: Vec<tokio::task::JoinHandle<anyhow::Result<u64>>>) -> anyhow::Result<f64> {
    let mut count = 0;
    for reader in readers {
        count += reader.await??;
    }
    Ok(f64::from(u32::try_from(count)?) / LASTING.as_secs_f64())
}
