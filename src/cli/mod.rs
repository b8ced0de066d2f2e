//! The command line: one binary, roles as subcommands, the same settings for all of them.

pub mod catalog;
pub mod config;
pub mod demo;
pub mod dev;
pub mod ghosts;
pub mod jobs;
pub mod migrate;
mod operate;
mod reference;
pub mod serve;
mod setting_flags;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;

use crate::cli::setting_flags::SettingFlags;
use crate::failure;
use crate::settings::SettingErrors;
use crate::shutdown;
use crate::stores::tls;

const EXAMPLES: &str = "\
Try it, with nothing but this program, redis-server and PostgreSQL on the machine:
  parallax dev
  curl -H 'Content-Type: application/json' -d '[\"HSET\",\"apikey:1\",\"name\",\"first\"]' http://127.0.0.1:8380/redis

Beside an application:
  parallax config check                  what holds, and who said so
  parallax migrate                       bring the schema to Postgres
  parallax catalog check                 which of the application's keys are known
  parallax serve                         both doors, until SIGTERM
  parallax repair                        what differs, and with --apply marks it
  parallax restore                       after Redis came back empty
  parallax verify                        whether both stores hold the same, record by record
  parallax backfill                      what was in Redis before, once every sidecar marks writes

Operating it, in the sidecar's container or with --admin HOST:PORT:
  parallax status --watch                how the mirror does, on one screen
  parallax flags set apikey --stage shadow --reason \"compare\"
  parallax rollback                      reads go back to Redis, everywhere, at once

Every flag of `parallax serve --help` is also a variable and a line of the file that --config names; a flag wins over a
variable, that over the file. Passwords and tokens come from variables or files (NAME_FILE), never from a command line.";

const SERVE_HELP: &str = "\
Signals:
  SIGTERM, SIGINT   stop accepting, answer what was received, bring marks to Postgres, leave; a second one leaves at once
  SIGHUP            read settings, catalog and certificates again; what cannot be used is refused, and what held goes on
  SIGUSR2           take all reads back to Redis, everywhere

Exit codes:
  0          it was asked to end, and has
  1          it failed while it ran
  2          the command line, a setting or the catalog cannot be used
  3          what it stands on is missing or not as it must be: Redis, Postgres, the schema, a port
  130, 143   a second SIGINT or SIGTERM cut the end short

Under systemd it tells READY, RELOADING and STOPPING (Type=notify or notify-reload); see docs/operations.md.";

/// A sidecar that takes an application's data from Redis to Redis + PostgreSQL without a stop, and proves that nothing
/// was lost.
///
/// Parallax stands next to an application and answers for its Redis. Every write leaves a mark in Redis in the same step
/// and reaches Postgres within milliseconds; a sample of the reads is compared on both; a flag for each kind of key moves
/// reads over; one call takes all of them back.
#[derive(Parser)]
#[command(name = "parallax", version, after_long_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Stand next to an application: both doors, until SIGTERM
    #[command(after_long_help = SERVE_HELP)]
    Serve(SettingFlags),
    /// As serve, with a private Redis and a private Postgres for what is not configured
    Dev(SettingFlags),
    /// Walk a whole move under traffic, on private servers, and compare both stores at the end
    Demo(demo::DemoArguments),
    /// Apply the database migrations that are missing, and leave
    Migrate(SettingFlags),
    /// Show where each kind stands, or move one
    Flags(operate::flags::FlagsArguments),
    /// Take reads back to Redis, everywhere, at once
    Rollback(operate::rollback::RollbackArguments),
    /// Let a kind or group climb step by step, guarded, and bring it back by itself
    Plan(operate::plan::PlanArguments),
    /// Show on one screen how the mirror does
    Status(operate::status::StatusArguments),
    /// Bring to Postgres what Redis held before the sidecars came, while the application goes on writing
    Backfill(jobs::BackfillArguments),
    /// Compare both stores while everybody writes; exit with 1 when anything differs
    Verify(jobs::VerifyArguments),
    /// Mark again what verify or the shadow found to differ; a dry run unless told to apply
    Repair(jobs::RepairArguments),
    /// Bring back from Postgres what a Redis that came back empty has lost
    Restore(jobs::RestoreArguments),
    /// List what could have missed a write, and which kinds owe a verification since
    Gaps(operate::gaps::GapsArguments),
    /// List the writes that Postgres had and Redis lost
    Ghosts(ghosts::GhostsArguments),
    /// Settings
    #[command(subcommand)]
    Config(Config),
    /// The description of the application's keys
    #[command(subcommand)]
    Catalog(Catalog),
    /// Print what this version knows, as a page in Markdown
    Reference(reference::ReferenceArguments),
}

#[derive(Subcommand)]
enum Config {
    /// Print what holds and who said so, secrets masked; exit with 2 when something cannot be used
    Check(SettingFlags),
}

#[derive(Subcommand)]
enum Catalog {
    /// Check the catalog, and count which keys of the configured Redis each kind matches
    Check(catalog::CheckArguments),
}

/// Runs what the command line asks for.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    tls::install_provider();
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("the runtime could not be started")),
    };
    match runtime.block_on(dispatch(arguments.command)) {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

async fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(flags) => serve::run(flags.inputs(), shutdown::on_signals()?).await,
        Command::Dev(flags) => dev::run(flags.inputs(), shutdown::on_signals()?).await,
        Command::Demo(arguments) => demo::run(&arguments, shutdown::on_signals()?).await,
        Command::Migrate(flags) => migrate::run(&flags.inputs()).await,
        Command::Flags(arguments) => operate::flags::run(arguments).await,
        Command::Rollback(arguments) => operate::rollback::run(arguments).await,
        Command::Plan(arguments) => operate::plan::run(arguments).await,
        Command::Status(arguments) => operate::status::run(arguments).await,
        Command::Backfill(arguments) => jobs::backfill(arguments, shutdown::on_signals()?).await,
        Command::Repair(arguments) => jobs::repair(arguments, shutdown::on_signals()?).await,
        Command::Restore(arguments) => jobs::restore(arguments, shutdown::on_signals()?).await,
        Command::Gaps(arguments) => operate::gaps::run(arguments).await,
        Command::Ghosts(arguments) => ghosts::run(arguments).await,
        Command::Verify(arguments) => jobs::verify(arguments, shutdown::on_signals()?).await,
        Command::Config(Config::Check(flags)) => Ok(config::check(&flags.inputs())),
        Command::Catalog(Catalog::Check(arguments)) => catalog::check(arguments).await,
        Command::Reference(arguments) => Ok(reference::run(&arguments)),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<SettingErrors>() {
        Some(errors) => terminal::complain(&errors.to_string()),
        None => terminal::complain(&format!("parallax: {error:#}")),
    }
    ExitCode::from(failure::exit_code(error))
}
