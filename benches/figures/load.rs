//! The tools that make load: `wrk` and `redis-benchmark`, as anybody would run them, and Node.js for what people write.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::process::Command;

use crate::measure::cpu_seconds;

/// Seconds of one measurement.
pub(crate) const SECONDS: u32 = 2;

const WRK_SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/load/wrk.lua");
const NODE_FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/node");

/// What one measurement gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Requests or commands a second.
    pub(crate) per_second: f64,
    /// The median of one, in microseconds.
    pub(crate) p50_us: f64,
    /// The slowest of a hundred, in microseconds.
    pub(crate) p99_us: f64,
    /// Processor time of the watched process for one, in microseconds.
    pub(crate) cpu_us: f64,
}

/// The program `name`, if it is on the machine.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers where only root has them on the path.
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// GET requests over `connections` kept-alive connections; `%d` in the path goes through `keys` keys.
pub(crate) async fn wrk(door: &str, path: &str, keys: u32, connections: u32, watched: u32) -> anyhow::Result<Load> {
    let arguments = [
        "-t1".to_owned(),
        format!("-c{connections}"),
        format!("-d{SECONDS}s"),
        "-s".to_owned(),
        WRK_SCRIPT.to_owned(),
        format!("http://{door}/"),
        "--".to_owned(),
        path.to_owned(),
        keys.to_string(),
    ];
    let before = cpu_seconds(watched)?;
    let text = output(Path::new("wrk"), &arguments).await?;
    let used = cpu_seconds(watched)? - before;
    let line = text.lines().find_map(|line| line.strip_prefix("FIGURES ")).context("wrk printed no figures")?;
    let figures: Vec<f64> = line.split(' ').filter_map(|figure| figure.parse().ok()).collect();
    let [requests, errors, took_us, p50_us, p99_us] = figures[..] else { bail!("wrk printed other figures: {line}") };
    if errors > 0.0 || requests < 1.0 {
        bail!("{errors} of {requests} requests for {path} failed");
    }
    Ok(Load { per_second: requests / took_us * 1e6, p50_us, p99_us, cpu_us: used / requests * 1e6 })
}

/// What `redis-benchmark` is to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commands<'a> {
    /// The command; `__rand_int__` in it is one of `keys`.
    pub(crate) command: &'a [&'a str],
    /// How many keys.
    pub(crate) keys: u32,
    /// Connections.
    pub(crate) connections: u32,
    /// Commands in a pipeline.
    pub(crate) pipeline: u32,
    /// Commands in all.
    pub(crate) count: u32,
}

/// Redis commands to the server at `port` of loopback.
pub(crate) async fn redis_benchmark(port: u16, commands: Commands<'_>, watched: u32) -> anyhow::Result<Load> {
    let options = [
        ("-h", "127.0.0.1".to_owned()),
        ("-p", port.to_string()),
        ("-c", commands.connections.to_string()),
        ("-P", commands.pipeline.to_string()),
        ("-n", commands.count.to_string()),
        ("-r", commands.keys.to_string()),
    ];
    let mut arguments: Vec<String> = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
    arguments.push("--csv".to_owned());
    arguments.extend(commands.command.iter().map(|part| (*part).to_owned()));
    let before = cpu_seconds(watched)?;
    let text = output(Path::new("redis-benchmark"), &arguments).await?;
    let used = cpu_seconds(watched)? - before;
    if let Some(error) = text.lines().find(|line| line.contains("rror")) {
        bail!("redis-benchmark: {error}");
    }
    // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms".
    let line = text.lines().last().context("redis-benchmark printed nothing")?;
    let fields: Vec<f64> = line.rsplit("\",\"").filter_map(|field| field.trim_matches('"').parse().ok()).collect();
    let [_max, p99, _p95, p50, _min, _average, per_second, ..] = fields[..] else {
        bail!("redis-benchmark printed something else: {line}");
    };
    let count = f64::from(commands.count);
    Ok(Load { per_second, p50_us: p50 * 1e3, p99_us: p99 * 1e3, cpu_us: used / count * 1e6 })
}

/// Runs a script of `benches/node` and reads the one line of JSON that it prints.
pub(crate) async fn node(script: &str, arguments: &serde_json::Value) -> anyhow::Result<serde_json::Value> {
    let script = Path::new(NODE_FOLDER).join(script).display().to_string();
    let text = output(Path::new("node"), &[script, arguments.to_string()]).await?;
    serde_json::from_str(text.lines().last().unwrap_or_default()).with_context(|| format!("node printed: {text}"))
}

/// Fetches the locked packages that the scripts for Node.js use.
pub(crate) async fn install_node_packages() -> anyhow::Result<()> {
    let arguments = ["ci", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", NODE_FOLDER];
    output(Path::new("npm"), &arguments.map(str::to_owned)).await.map(drop)
}

async fn output(program: &Path, arguments: &[String]) -> anyhow::Result<String> {
    let name = program.display();
    let run = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let run = run.with_context(|| format!("{name} could not be started: run `scripts/setup --bench`"))?;
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    if !run.status.success() {
        bail!("{name} ended with {}: {text}{}", run.status, String::from_utf8_lossy(&run.stderr));
    }
    Ok(text)
}
