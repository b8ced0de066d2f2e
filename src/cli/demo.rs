//! `parallax demo`: the whole move on real input, in under three minutes.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use chrono::Utc;
use clap::Args;

use crate::cli::terminal;
use crate::shutdown::Shutdown;
use crate::traffic::demo::{self, Source};
use crate::traffic::world::Shape;

/// Starts private stores and a real sidecar, walks it through every stage under traffic, and compares both stores at the end.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Recorded commands to send instead of generated ones (`relay-trace.jsonl.gz`).
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Recorded keys to load instead of generated ones (`relay-keyspace.json.gz`).
    #[arg(long, value_name = "FILE")]
    keyspace: Option<PathBuf>,
    /// Folder with both of them.
    #[arg(long, value_name = "FOLDER", env = "PARALLAX_RECORDING")]
    recording: Option<PathBuf>,
    /// How many relayed requests to generate, 328 commands each.
    #[arg(long, default_value_t = 120)]
    requests: usize,
    /// How many API keys the generated keyspace has.
    #[arg(long, default_value_t = 40)]
    api_keys: usize,
    /// How many days of history the generated keyspace has, at most 30.
    #[arg(long, default_value_t = 7)]
    days: usize,
    /// The same seed generates the same traffic.
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

impl DemoArguments {
    fn source(&self) -> Source {
        let Self { requests, api_keys, days, seed, .. } = *self;
        let shape = Shape { seed, api_keys, days, now_ms: Utc::now().timestamp_millis() };
        let mut source = Source { trace: self.trace.clone(), keyspace: self.keyspace.clone(), requests, shape };
        if let Some(folder) = self.recording.as_deref().filter(|folder| !folder.as_os_str().is_empty()) {
            source.use_folder(folder);
        }
        source
    }
}

/// Runs the demo and prints its table.
pub(super) async fn run(arguments: &DemoArguments, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let source = arguments.source();
    // Whoever interrupts the demo ends its servers too: they are dropped with this future.
    let report = tokio::select! {
        report = demo::run(&source) => report.context("the demo did not come to its end")?,
        () = shutdown.requested() => bail!("interrupted"),
    };
    terminal::say(&format!("\n{report}"));
    let problems = report.problems().len();
    if problems > 0 {
        bail!("{problems} things are not as they must be (see above)");
    }
    terminal::say("Both stores hold the same.");
    Ok(ExitCode::SUCCESS)
}
