//! The jobs against what people would write instead, against their own floors, and against the application beside them.

mod data;
mod floors;
mod plain;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;
use parallax::client::Client;
use parallax::dev::servers::{PrivateRedis, RedisOptions};
use parallax::stores::postgres::Postgres;
use parallax::stores::postgres::pool::Options;
use parallax::traffic::control::Control;
use parallax::traffic::stack::Stack;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::Instant;
use tokio_postgres::NoTls;

use crate::SIDECAR;
use crate::load::wrk;
use crate::measure::{Series, interleaved, resident_mb, series};
use crate::report::{Goal, Report, short};

pub(super) const ABOUT: &str = "Jobs on 300,000 usage counters and 10,000 API keys: backfill against a plain script and its floors, verify, restore, the application's p99 beside them, memory at a million keys.";

const POLL: Duration = Duration::from_millis(20);
/// How long a job or a change of the stores may take.
const PATIENCE: Duration = Duration::from_secs(600);
const CONNECTIONS: u32 = 20;
/// Keys a second of a job that is to be felt by nobody.
const PACED: u64 = 5_000;

pub(super) async fn run(report: &mut Report) -> anyhow::Result<()> {
    let stack = Stack::start(Path::new(SIDECAR), &[]).await?;
    data::fill(&mut data::connect(stack.redis.url()).await?, data::USAGE, data::API_KEYS).await?;
    Control::new(&stack.admin_door).change(&json!({"stage": "dualwrite", "reason": "bench"})).await?;
    throughput(&stack, report).await?;
    beside(&stack, report).await?;
    restore(&stack, report).await?;
    stack.stop().await?;
    memory(report).await
}

/// What is measured in turn.
#[derive(Clone, Debug, PartialEq)]
enum Subject {
    Plain(PathBuf),
    Backfill,
    Verify,
    CaptureFloor,
    RowsFloor,
}

async fn throughput(stack: &Stack, report: &mut Report) -> anyhow::Result<()> {
    let (client, connection) = tokio_postgres::connect(&stack.postgres.url(), NoTls).await?;
    tokio::spawn(connection);
    let config: tokio_postgres::Config = stack.postgres.url().parse()?;
    let postgres = Postgres::new(Options { config, tls: None, pool_size: 4, wait: Duration::from_secs(5) });
    // A verification needs a backfill before it, so these two stand behind each other in every round.
    let mut subjects = vec![Subject::Backfill, Subject::Verify, Subject::CaptureFloor, Subject::RowsFloor];
    match plain::python().await {
        Ok(python) => subjects.push(Subject::Plain(python)),
        Err(error) => report.skip("the plain script", &format!("{error:#}")),
    }
    let empty = "TRUNCATE usage_counters, api_keys";
    let mut version = 1_000_000_000_000_i64;
    let measured = interleaved(&subjects, async |subject: &Subject| match subject {
        Subject::Plain(python) => plain::backfill(python, stack.redis.port(), &stack.postgres.url()).await,
        Subject::Backfill => {
            client.batch_execute(empty).await?;
            Ok(rate(data::KEYS, job(stack, json!({ "job": "backfill", "kinds": ["*"] })).await?))
        }
        Subject::Verify => {
            // Whatever stood before it in this round may have left the tables as it likes.
            job(stack, json!({ "job": "backfill", "kinds": ["*"] })).await?;
            Ok(rate(data::KEYS, job(stack, json!({ "job": "verify", "kinds": ["*"] })).await?))
        }
        Subject::CaptureFloor => floors::capture(redis::Client::open(stack.redis.url())?).await,
        Subject::RowsFloor => {
            client.batch_execute(empty).await?;
            let epoch: i64 = client.query_one("SELECT max(epoch) FROM control", &[]).await?.get(0);
            version += 1;
            floors::rows(&postgres, epoch, version).await
        }
    })
    .await?;
    let [backfill, verify, capture, rows, plain @ ..] = &measured[..] else { return Ok(()) };
    let of = |rounds: &Vec<f64>| series(rounds, |rate| *rate);
    let (backfill, verify, capture, rows) = (of(backfill), of(verify), of(capture), of(rows));
    if let Some(plain) = plain.first().map(of) {
        report.figure("backfill: keys/s, times the plain script", Goal::AtLeast(2.5), &backfill.over(&plain));
        report.note(&format!("the plain script {} keys/s", short(plain.median())));
    }
    let floor = Series(capture.0.iter().zip(&rows.0).map(|(one, other)| one.min(*other)).collect());
    report.figure("backfill: keys/s, times the slower of its floors", Goal::AtLeast(0.6), &backfill.over(&floor));
    report.figure("verify by digests: keys/s, times the backfill", Goal::AtLeast(1.5), &verify.over(&backfill));
    report.note(&format!(
        "backfill {} keys/s, captures alone {}, rows alone {}, verify {}",
        short(backfill.median()),
        short(capture.median()),
        short(rows.median()),
        short(verify.median()),
    ));
    Ok(())
}

/// The application's p99 through the door: alone, beside a backfill as fast as it goes, and beside a paced one.
async fn beside(stack: &Stack, report: &mut Report) -> anyhow::Result<()> {
    let paces = [None, Some(json!({})), Some(json!({ "keys_per_second": PACED }))];
    let process = stack.sidecar_id()?;
    let path = format!("/redis/hgetall/{}", data::api_key(1));
    let measured = interleaved(&paces, async |pace: &Option<Value>| {
        let mut id = None;
        if let Some(pace) = pace {
            let spec = json!({ "job": "backfill", "kinds": ["*"], "pace": pace });
            id = Some(begin(stack, &spec).await?);
        }
        let load = wrk(&stack.data_door, &path, 1, CONNECTIONS, process).await?;
        if let Some(id) = id {
            let mut admin = Client::new(&stack.admin_door);
            // It may have come to its end by itself.
            let _ = admin.json(Method::POST, &format!("/v1/jobs/{id}/cancel"), &[], Some(&json!({}))).await;
            ended(stack, &id).await?;
        }
        Ok(load.p99_us)
    })
    .await?;
    let [alone, unpaced, paced] = &measured[..] else { return Ok(()) };
    let of = |rounds: &Vec<f64>| series(rounds, |p99| *p99);
    let (alone, unpaced, paced) = (of(alone), of(unpaced), of(paced));
    report.figure("p99 beside a backfill, times alone", Goal::AtMost(2.0), &unpaced.over(&alone));
    report.figure("p99 beside a backfill of 5,000 keys/s, times alone", Goal::AtMost(1.2), &paced.over(&alone));
    report.note(&format!("p99 alone {} us over {CONNECTIONS} connections", short(alone.median())));
    Ok(())
}

/// A Redis that came back empty, refilled; against a bare pipelined restore of the same data.
async fn restore(stack: &Stack, report: &mut Report) -> anyhow::Result<()> {
    job(stack, json!({ "job": "backfill", "kinds": ["*"] })).await?;
    let bare = PrivateRedis::start(RedisOptions::default()).await?;
    let measured = interleaved(&[true, false], async |is_job: &bool| {
        if !*is_job {
            let mut redis = data::connect(bare.url()).await?;
            let () = redis::cmd("FLUSHALL").query_async(&mut redis).await?;
            let began = Instant::now();
            data::fill(&mut redis, data::USAGE, data::API_KEYS).await?;
            return Ok(rate(data::KEYS, began.elapsed()));
        }
        stack.redis.stop().await?;
        stack.redis.restart().await?;
        lost(stack).await?;
        let began = Instant::now();
        let id = begin(stack, &json!({ "job": "restore", "kinds": ["*"] })).await?;
        // From then on captures go on; the verification behind it is measured by itself.
        anchored(stack).await?;
        let took = began.elapsed();
        ended(stack, &id).await?;
        Ok(rate(data::KEYS, took))
    })
    .await?;
    let [restored, plain] = &measured[..] else { return Ok(()) };
    let (restored, plain) = (series(restored, |rate| *rate), series(plain, |rate| *rate));
    report.figure("restore: keys/s", Goal::Told, &restored);
    // Either of the two is enough: 60,000 keys a second, or 0.6 of the bare one.
    let enough = Series(restored.0.iter().zip(&plain.0).map(|(own, bare)| own / (0.6 * bare).min(60_000.0)).collect());
    report.figure("restore: times 60,000 keys/s or 0.6 of a bare one, whichever is less", Goal::AtLeast(1.0), &enough);
    report.note(&format!("a bare pipelined restore {} keys/s", short(plain.median())));
    Ok(())
}

/// The most memory that a job's own process held over a million keys.
async fn memory(report: &mut Report) -> anyhow::Result<()> {
    let stack = Stack::start(Path::new(SIDECAR), &[]).await?;
    data::fill(&mut data::connect(stack.redis.url()).await?, data::MANY, 0).await?;
    Control::new(&stack.admin_door).change(&json!({"stage": "dualwrite", "reason": "bench"})).await?;
    for name in ["backfill", "verify"] {
        let mut command = Command::new(SIDECAR);
        // The caller's environment may name the caller's own stores, which must not be touched.
        command.env_clear().env("REDIS_URL", stack.redis.url()).env("DATABASE_URL", stack.postgres.url()).arg(name);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let process = child.id().context("the job has ended already")?;
        let mut most: f64 = 0.0;
        while child.try_wait()?.is_none() {
            most = most.max(resident_mb(process).unwrap_or(0.0));
            tokio::time::sleep(POLL).await;
        }
        anyhow::ensure!(child.wait().await?.success(), "the {name} failed");
        report.number(&format!("{name} of a million keys: MB at most"), Goal::AtMost(80.0), most);
    }
    stack.stop().await.map(drop)
}

#[expect(clippy::cast_precision_loss, reason = "some hundred thousand keys")]
fn rate(keys: usize, took: Duration) -> f64 {
    keys as f64 / took.as_secs_f64()
}

/// Runs a job to its end; how long it took.
async fn job(stack: &Stack, spec: Value) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let id = begin(stack, &spec).await?;
    ended(stack, &id).await?;
    Ok(began.elapsed())
}

async fn begin(stack: &Stack, spec: &Value) -> anyhow::Result<String> {
    let mut admin = Client::new(&stack.admin_door);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match admin.json(Method::POST, "/v1/jobs", &[], Some(spec)).await {
            Ok(begun) => return begun.get("id").and_then(Value::as_str).map(str::to_owned).context("a job without id"),
            // The sidecar hears of a backfill's end with its next renewal; a Redis that came back costs an answer.
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

async fn ended(stack: &Stack, id: &str) -> anyhow::Result<()> {
    let mut admin = Client::new(&stack.admin_door);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let job = admin.json(Method::GET, &format!("/v1/jobs/{id}"), &[], None).await?;
        match job.get("state").and_then(Value::as_str) {
            Some("done" | "cancelled") => return Ok(()),
            Some("failed") => bail!("the job failed: {job}"),
            Some(_) | None => tokio::time::sleep(POLL).await,
        }
    }
    bail!("the job {id} did not come to its end within {PATIENCE:?}")
}

/// Waits until the sidecar knows that its Redis was lost.
async fn lost(stack: &Stack) -> anyhow::Result<()> {
    let mut admin = Client::new(&stack.admin_door);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let status = admin.json(Method::GET, "/v1/status", &[], None).await?;
        if status.get("lineage").and_then(Value::as_str) == Some("redis_lost") {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("the sidecar did not find its Redis lost within {PATIENCE:?}")
}

/// Waits until Redis has its anchor again: that is the last step of a restore.
async fn anchored(stack: &Stack) -> anyhow::Result<()> {
    let mut redis = data::connect(stack.redis.url()).await?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if redis::cmd("EXISTS").arg("parallax:anchor").query_async::<bool>(&mut redis).await? {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("Redis was not restored within {PATIENCE:?}")
}
