//! `make bench`: what Parallax costs and gains, measured against what people would use instead, on the machine at hand.
//!
//! Figures are ratios of things measured in turn in one run: absolute numbers of a shared machine say little, and two runs
//! are two machines. Every part writes its own table to `docs/results/`, so that no number is typed in by hand.

#![expect(clippy::print_stdout, reason = "a bench is read on its output")]

mod load;
mod measure;
mod parts;
mod peers;
mod report;
mod wire;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::report::Report;

/// The sidecar's program, built with the same profile.
pub(crate) const SIDECAR: &str = env!("CARGO_BIN_EXE_parallax");

/// Where the tables go.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/results");

fn main() -> ExitCode {
    // `cargo bench` adds an argument of its own.
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("bench: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&asked)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(asked: &[String]) -> anyhow::Result<()> {
    let names: Vec<&str> = parts::ALL.iter().map(|part| part.name).collect();
    if let Some(unknown) = asked.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("there is no part `{unknown}`; the parts are: {}", names.join(", "));
    }
    for part in parts::ALL.iter().filter(|part| asked.is_empty() || asked.iter().any(|name| name == part.name)) {
        println!("\n== {}: {}", part.name, part.about);
        let mut report = Report::new(part.name, part.about).await;
        (part.run)(&mut report).await.with_context(|| format!("part {}", part.name))?;
        report.write(Path::new(RESULTS))?;
    }
    Ok(())
}
