//! `parallax backfill` and its kin: a job in a process of its own, as a Kubernetes Job runs it.
//!
//! It reaches both stores with the settings of the sidecars, shows a bar in a terminal and log lines elsewhere, and tells by its exit status.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::app;
use crate::cli::setting_flags::SettingFlags;
use crate::cli::terminal;
use crate::dual::Membership;
use crate::jobs::pace::Limits;
use crate::jobs::spec::{JobName, Spec};
use crate::jobs::{Job, Jobs, State};
use crate::settings;
use crate::shutdown::Shutdown;
use crate::telemetry::logs;

/// How often a line of the log tells of the progress where there is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// What every job can be told.
#[derive(Args)]
pub(super) struct JobArguments {
    /// The kinds it is about, with commas between them; * for all
    #[arg(long, value_delimiter = ',', default_value = "*", value_name = "KINDS")]
    kinds: Vec<String>,
    /// Go on although the maxmemory-policy of Redis lets it evict records
    #[arg(long)]
    allow_eviction: bool,
    /// Keys a second at most; without it as fast as it goes without hurting
    #[arg(long, value_name = "N")]
    keys_per_second: Option<u64>,
    /// Bytes of values a second at most
    #[arg(long, value_name = "N")]
    bytes_per_second: Option<u64>,
    /// Slow down while the 99th percentile of Redis' answers is above this
    #[arg(long, value_name = "MS", default_value_t = Limits::default().redis_p99_ms)]
    redis_p99_ms: u64,
    /// Slow down while Postgres takes longer to answer
    #[arg(long, value_name = "MS", default_value_t = Limits::default().postgres_ms)]
    postgres_ms: u64,
    /// Slow down while the oldest mark in the outbox is older
    #[arg(long, value_name = "MS", default_value_t = Limits::default().outbox_age_ms)]
    outbox_age_ms: u64,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

/// What a backfill can be told.
#[derive(Args)]
pub(super) struct BackfillArguments {
    /// Count what there is, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    job: JobArguments,
}

impl JobArguments {
    fn spec(&self, job: JobName) -> Spec {
        let pace = Limits {
            keys_per_second: self.keys_per_second,
            bytes_per_second: self.bytes_per_second,
            redis_p99_ms: self.redis_p99_ms,
            postgres_ms: self.postgres_ms,
            outbox_age_ms: self.outbox_age_ms,
        };
        Spec { job, kinds: self.kinds.clone(), dry_run: false, allow_eviction: self.allow_eviction, pace }
    }
}

/// `parallax backfill`.
pub(super) async fn backfill(arguments: BackfillArguments, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let spec = Spec { dry_run: arguments.dry_run, ..arguments.job.spec(JobName::Backfill) };
    Box::pin(run(spec, arguments.job, shutdown)).await
}

async fn run(spec: Spec, arguments: JobArguments, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    spec.check()?;
    let loaded = settings::load(&arguments.settings.inputs())?;
    logs::start(&loaded.settings.log)?;
    let settings = loaded.settings;
    if settings.postgres.is_none() {
        bail!("a job needs Postgres, and ENABLE_POSTGRES is false");
    }
    let Some(engine) = app::engine(&settings, Membership::Guest, &shutdown).await? else {
        bail!("interrupted before it began");
    };
    let progress = Progress::new();
    let name = spec.job.name();
    let ran = tokio::select! {
        ran = Jobs::run(engine, spec, move |job| progress.show(job)) => ran,
        () = shutdown.requested() => {
            bail!("interrupted; the same command goes on where it was");
        }
    };
    let job = ran.with_context(|| format!("the {name} did not begin"))?;
    if arguments.json {
        terminal::say(&serde_json::to_string_pretty(&job)?);
    } else {
        terminal::say(&table(&job));
    }
    match job.state {
        State::Done => Ok(ExitCode::SUCCESS),
        State::Failed => bail!("the {name} failed: {}", job.error.unwrap_or_default()),
        State::Cancelled => bail!("the {name} was cancelled"),
        State::Running | State::Paused => bail!("the {name} is run by another process now"),
    }
}

/// The outcome for people.
fn table(job: &Job) -> String {
    let mut lines =
        vec![format!("{} {}: {} keys seen, {} records, {} bytes", job.job, state(job), job.seen, job.done, job.bytes)];
    let Some(report) = job.report.as_ref().and_then(|report| report.as_object()) else { return lines.concat() };
    for (name, value) in report {
        match value.as_object() {
            Some(counts) => {
                lines.extend(counts.iter().map(|(kind, count)| format!("  {name:<20} {kind:<30} {count:>12}")));
            }
            None => lines.push(format!("  {name:<20} {value}")),
        }
    }
    lines.join("\n")
}

fn state(job: &Job) -> &'static str {
    job.state.name()
}

/// Shows how far a job is: a bar in a terminal, lines of the log elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    last_line: Mutex<Option<Instant>>,
}

impl Progress {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} keys, {per_sec}, {eta} left {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(0).with_style(style));
        Self { bar, last_line: Mutex::default() }
    }

    fn show(&self, job: &Job) {
        if let Some(bar) = &self.bar {
            bar.set_length(job.total.unwrap_or(job.seen).max(job.seen));
            bar.set_position(job.seen);
            bar.set_message(job.waiting.clone().unwrap_or_default());
            if job.state.is_end() {
                bar.finish_and_clear();
            }
            return;
        }
        let mut last = self.last_line.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.is_some_and(|at| at.elapsed() < LINE_PERIOD) && !job.state.is_end() {
            return;
        }
        *last = Some(Instant::now());
        tracing::info!(
            job = job.id,
            state = job.state.name(),
            seen = job.seen,
            total = job.total,
            done = job.done,
            rate_per_second = job.rate_per_second,
            eta_seconds = job.eta_seconds,
            waiting = job.waiting,
            "the job goes on"
        );
    }
}
