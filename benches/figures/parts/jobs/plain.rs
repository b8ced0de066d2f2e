//! The plain script of `benches/python`, in an environment of its own under the target folder.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::process::Command;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/python");
const ENVIRONMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench-python");

/// Makes the environment, once; answers its Python, or why there is none.
pub(super) async fn python() -> anyhow::Result<PathBuf> {
    let python = Path::new(ENVIRONMENT).join("bin/python");
    if !python.is_file() {
        run("python3".as_ref(), &["-m", "venv", ENVIRONMENT]).await?;
    }
    let requirements = format!("{FOLDER}/requirements.txt");
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", &requirements];
    run(&python, &install).await?;
    Ok(python)
}

/// Keys a second of the script.
pub(super) async fn backfill(python: &Path, redis_port: u16, postgres_url: &str) -> anyhow::Result<f64> {
    let script = format!("{FOLDER}/plain_backfill.py");
    let said = run(python, &[&script, &redis_port.to_string(), postgres_url]).await?;
    let figures: Value =
        serde_json::from_str(said.lines().last().unwrap_or_default()).context("the script's figures")?;
    let figure = |name: &str| figures.get(name).and_then(Value::as_f64).context("a figure of the script");
    Ok(figure("keys")? / figure("seconds")?)
}

async fn run(program: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let run = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let run = run.with_context(|| format!("{} could not be started", program.display()))?;
    if !run.status.success() {
        bail!("{} ended with {}: {}", program.display(), run.status, String::from_utf8_lossy(&run.stderr));
    }
    Ok(String::from_utf8_lossy(&run.stdout).into_owned())
}
