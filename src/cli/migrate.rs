//! `parallax migrate`: brings the schema to Postgres.

use std::process::ExitCode;

use anyhow::Context;

use crate::cli::terminal;
use crate::failure::Failure;
use crate::settings::sources::Inputs;
use crate::settings::{self, Settings};
use crate::stores::migrations;

/// Applies what is missing.
pub(super) async fn run(inputs: &Inputs) -> anyhow::Result<ExitCode> {
    let settings = settings::load(inputs)?.settings;
    let applied = apply(&settings).await?;
    for name in &applied {
        terminal::say(&format!("applied {name}"));
    }
    if applied.is_empty() {
        terminal::say("nothing to do: the schema is up to date");
    }
    Ok(ExitCode::SUCCESS)
}

/// Applies what is missing and returns the names of what was applied.
pub(super) async fn apply(settings: &Settings) -> anyhow::Result<Vec<String>> {
    let postgres = settings.postgres.as_ref().context("there is no Postgres to migrate: ENABLE_POSTGRES is false")?;
    let place = format!("{}:{}, database {}, role {}", postgres.host, postgres.port, postgres.database, postgres.user);
    let applied = migrations::apply(postgres, settings.timezone_offset_hours).await;
    applied.with_context(|| Failure::Foundation(format!("the schema could not be brought to Postgres at {place}")))
}
