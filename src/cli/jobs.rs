//! `parallax backfill` and its kin: a job in a process of its own, as a Kubernetes Job runs it.
//!
//! It reaches both stores with the settings of the sidecars, shows a bar in a terminal and log lines elsewhere, and tells by its exit status.
//! Over 400 lines, as what each job can be told stands beside how it is run and shown.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::app;
use crate::cli::setting_flags::SettingFlags;
use crate::cli::terminal;
use crate::dual::{Engine, Membership};
use crate::jobs::pace::Limits;
use crate::jobs::spec::{JobName, RepairBound, Spec};
use crate::jobs::{Job, Jobs, State};
use crate::model::key::Key;
use crate::settings;
use crate::shutdown::Shutdown;
use crate::telemetry::logs;
use crate::telemetry::otlp::readings::Readings;

/// Differences that a table shows; the JSON form lists more.
const SHOWN_MAX: usize = 20;
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
    /// One record alone, by its key: brought to Postgres, read back from both stores, and judged
    #[arg(long, value_name = "KEY", conflicts_with_all = ["dry_run", "kinds"])]
    key: Option<String>,
    #[command(flatten)]
    job: JobArguments,
}

/// What a repair can be told.
#[derive(Args)]
pub(super) struct RepairArguments {
    /// Mark what differs, instead of saying what would be marked
    #[arg(long)]
    apply: bool,
    /// Records it may mark at most
    #[arg(long, value_name = "N", default_value_t = RepairBound::default().max_keys)]
    max_keys: u64,
    /// Records it may mark at most for each million keys of Redis
    #[arg(long, value_name = "N", default_value_t = RepairBound::default().max_per_million)]
    max_per_million: u64,
    #[command(flatten)]
    job: JobArguments,
}

/// What a verification can be told.
#[derive(Args)]
pub(super) struct VerifyArguments {
    /// Compare every record, instead of digests first and records where they differ
    #[arg(long)]
    exhaustive: bool,
    /// Show what both stores hold of the records that differ
    #[arg(long)]
    values: bool,
    #[command(flatten)]
    job: JobArguments,
}

/// What a restore can be told.
#[derive(Args)]
pub(super) struct RestoreArguments {
    /// Write what Postgres has also over what Redis holds, of a Redis that was not lost; asks twice
    #[arg(long)]
    overwrite: bool,
    /// Count what would be overwritten, and change nothing
    #[arg(long, requires = "overwrite", conflicts_with_all = ["yes", "records"])]
    dry_run: bool,
    /// Do not ask, as in a script; needs --records
    #[arg(long, requires = "overwrite", requires = "records")]
    yes: bool,
    /// How many records the dry run told of: with any other count nothing is overwritten
    #[arg(long, value_name = "N", requires = "yes")]
    records: Option<u64>,
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
        Spec {
            job,
            kinds: self.kinds.clone(),
            dry_run: false,
            exhaustive: false,
            values: false,
            overwrite: false,
            records: None,
            apply: false,
            bound: RepairBound::default(),
            allow_eviction: self.allow_eviction,
            pace,
        }
    }
}

/// `parallax backfill`.
pub(super) async fn backfill(arguments: BackfillArguments, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    if let Some(key) = arguments.key {
        return Box::pin(one(Key::new(key), arguments.job, shutdown)).await;
    }
    let spec = Spec { dry_run: arguments.dry_run, ..arguments.job.spec(JobName::Backfill) };
    Box::pin(run(spec, arguments.job, shutdown)).await
}

/// `parallax verify`.
pub(super) async fn verify(arguments: VerifyArguments, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let spec =
        Spec { exhaustive: arguments.exhaustive, values: arguments.values, ..arguments.job.spec(JobName::Verify) };
    Box::pin(run(spec, arguments.job, shutdown)).await
}

/// `parallax repair`.
pub(super) async fn repair(arguments: RepairArguments, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let bound = RepairBound { max_keys: arguments.max_keys, max_per_million: arguments.max_per_million };
    let spec = Spec { apply: arguments.apply, bound, ..arguments.job.spec(JobName::Repair) };
    Box::pin(run(spec, arguments.job, shutdown)).await
}

/// `parallax restore`.
pub(super) async fn restore(arguments: RestoreArguments, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let mut spec = arguments.job.spec(JobName::Restore);
    spec.overwrite = arguments.overwrite;
    let is_asking = arguments.overwrite && !arguments.yes && !arguments.dry_run;
    if is_asking && !std::io::stdin().is_terminal() {
        bail!(
            "it would write over what redis holds: look at `parallax restore --overwrite --dry-run`, and repeat it with --yes \
             --records N, the number of records that it told of"
        );
    }
    spec.dry_run = arguments.dry_run || is_asking;
    spec.records = arguments.records;
    spec.check()?;
    let process = Process::begin(&arguments.job, &shutdown).await?;
    let done = Box::pin(overwrite(&process, spec, is_asking, &arguments.job, &shutdown)).await;
    process.end().await;
    done
}

/// Counts what would be overwritten and asks, where it is to be asked for; else runs the job.
async fn overwrite(
    process: &Process,
    spec: Spec,
    is_asking: bool,
    arguments: &JobArguments,
    shutdown: &Shutdown,
) -> anyhow::Result<ExitCode> {
    let counted = Box::pin(process.job(spec.clone(), shutdown)).await?;
    let records = counted.report.as_ref().and_then(|report| report.get("records")?.as_u64()).unwrap_or(0);
    if !is_asking || records == 0 || counted.state != State::Done {
        return outcome(&counted, arguments);
    }
    terminal::say(&table(&counted));
    if !is_sure(records)? {
        bail!("nothing was overwritten");
    }
    let sure = Spec { dry_run: false, records: Some(records), ..spec };
    outcome(&Box::pin(process.job(sure, shutdown)).await?, arguments)
}

/// Asks twice, and in two ways, so that no habit answers.
fn is_sure(records: u64) -> anyhow::Result<bool> {
    let asked = |question: &str| {
        terminal::say(question);
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).context("no answer could be read")?;
        anyhow::Ok(line.trim().to_owned())
    };
    let question = format!("Redis will lose what it holds of {records} records. Overwrite them? (yes or no)");
    Ok(asked(&question)? == "yes"
        && asked("How many records are they? Writes that come meanwhile stand.")? == records.to_string())
}

/// `parallax backfill --key`.
async fn one(key: Key, arguments: JobArguments, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let process = Process::begin(&arguments, &shutdown).await?;
    let kind = Arc::clone(process.engine.catalog().kind_of(key.as_bytes()));
    let migrated = process.engine.migrate(&kind, &key).await;
    process.end().await;
    let migrated = migrated.context("the record was not brought to Postgres")?;
    terminal::say(&serde_json::to_string_pretty(&migrated)?);
    let is_fine = matches!(migrated.verdict, "match" | "in_flight");
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(spec: Spec, arguments: JobArguments, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    spec.check()?;
    let process = Process::begin(&arguments, &shutdown).await?;
    let ran = Box::pin(process.job(spec, &shutdown)).await;
    process.end().await;
    outcome(&ran?, &arguments)
}

/// What a process has that runs jobs and nothing else.
struct Process {
    engine: Arc<Engine>,
    readings: Readings,
}

impl Process {
    async fn begin(arguments: &JobArguments, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let settings = settings::load(&arguments.settings.clone().inputs())?.settings;
        logs::start(&settings.log)?;
        if settings.postgres.is_none() {
            bail!("a job needs Postgres, and ENABLE_POSTGRES is false");
        }
        let background = Handle::current();
        let engine = app::engine(&settings, Membership::Guest, shutdown, &background)
            .await?
            .context("interrupted before it began")?;
        let readings = app::readings(&settings, engine.metrics(), &background)?;
        Ok(Self { engine, readings })
    }

    /// Runs a job to its end.
    async fn job(&self, spec: Spec, shutdown: &Shutdown) -> anyhow::Result<Job> {
        let progress = Progress::new();
        let name = spec.job.name();
        let ran = tokio::select! {
            ran = Jobs::run(Arc::clone(&self.engine), spec, move |job| progress.show(job)) => ran,
            () = shutdown.requested() => {
                bail!("interrupted; the same command goes on where it was");
            }
        };
        ran.with_context(|| format!("the {name} did not begin"))
    }

    /// Tells collectors what they do not know yet: nobody could scrape a process that is gone.
    async fn end(&self) {
        tokio::join!(self.engine.traces().stop(), self.readings.stop());
    }
}

/// Tells what came of it, by text and by exit status.
fn outcome(job: &Job, arguments: &JobArguments) -> anyhow::Result<ExitCode> {
    if arguments.json {
        terminal::say(&serde_json::to_string_pretty(&flat(job)?)?);
    } else {
        terminal::say(&table(job));
    }
    let name = &job.job;
    match job.state {
        // Whoever asks whether both stores hold the same reads it from the status.
        State::Done if differences(job) > 0 => Ok(ExitCode::FAILURE),
        State::Done => Ok(ExitCode::SUCCESS),
        State::Failed => bail!("the {name} failed: {}", job.error.clone().unwrap_or_default()),
        State::Cancelled => bail!("the {name} was cancelled"),
        State::Running | State::Paused => bail!("the {name} is run by another process now"),
    }
}

/// How many differences a verification found.
fn differences(job: &Job) -> u64 {
    let classes = job.report.as_ref().and_then(|report| report.get("differences")?.as_object().cloned());
    classes.unwrap_or_default().values().filter_map(serde_json::Value::as_u64).sum()
}

/// The outcome for machines: what was found stands beside what the job was.
fn flat(job: &Job) -> anyhow::Result<serde_json::Value> {
    let mut job = job.clone();
    let report = job.report.take();
    let mut flat = serde_json::to_value(&job)?;
    if let (Some(members), Some(serde_json::Value::Object(report))) = (flat.as_object_mut(), report) {
        members.remove("report");
        members.extend(report);
    }
    Ok(flat)
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
            None => lines.push(match value.as_array() {
                Some(items) => {
                    let shown: Vec<String> = items.iter().take(SHOWN_MAX).map(named).collect();
                    let more = items.len().saturating_sub(SHOWN_MAX);
                    let more =
                        if more > 0 { format!("\n    and {more} more (--json lists them)") } else { String::new() };
                    format!("  {name:<20} {}{}{more}", items.len(), shown.concat())
                }
                None => format!("  {name:<20} {value}"),
            }),
        }
    }
    lines.join("\n")
}

/// A difference in a line: kind and id, and what differs.
fn named(item: &serde_json::Value) -> String {
    let text = |name: &str| item.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
    let fields = item.get("fields").and_then(serde_json::Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let fields: Vec<&str> = fields.iter().filter_map(serde_json::Value::as_str).collect();
    let held = |store: &str| item.get(store).map(|held| format!("\n      {store} {held}")).unwrap_or_default();
    let values = held("redis") + &held("postgres");
    format!("\n    {}/{} {} {}{values}", text("kind"), text("id"), text("class"), fields.join(","))
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
