//! `parallax ghosts`: the writes that Redis lost and Postgres had, with what was lost.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use crate::app;
use crate::cli::setting_flags::SettingFlags;
use crate::cli::terminal;
use crate::settings;
use crate::stores::postgres::ghosts;

/// What can be asked of ghosts.
#[derive(Args)]
pub(super) struct GhostsArguments {
    /// Those of one kind
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// At most so many, newest first
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    /// Show the values that were lost
    #[arg(long)]
    values: bool,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

/// Lists them.
pub(super) async fn run(arguments: GhostsArguments) -> anyhow::Result<ExitCode> {
    let settings = settings::load(&arguments.settings.inputs())?.settings;
    let Some(postgres) = &settings.postgres else { bail!("ghosts are kept in Postgres, and ENABLE_POSTGRES is false") };
    let deadline = std::time::Duration::from_millis(settings.limits.command_deadline_ms);
    let postgres = app::pool(postgres, deadline)?;
    let listed = ghosts::listed(&postgres, arguments.kind.as_deref(), i64::from(arguments.limit)).await;
    let mut listed = listed.context("the ghosts could not be read")?;
    if !arguments.values {
        for ghost in listed.iter_mut().filter_map(serde_json::Value::as_object_mut) {
            ghost.remove("doc");
        }
    }
    if arguments.json {
        terminal::say(&serde_json::to_string_pretty(&listed)?);
        return Ok(ExitCode::SUCCESS);
    }
    if listed.is_empty() {
        terminal::say("no ghosts: Redis lost nothing that Postgres had");
    }
    for ghost in &listed {
        let text = |name: &str| match ghost.get(name) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(serde_json::Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        };
        let line = ["at", "settled_at", "kind", "id", "element", "type", "doc"].map(text).join("  ");
        terminal::say(line.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}
