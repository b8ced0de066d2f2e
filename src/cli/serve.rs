//! `parallax serve`: the sidecar itself.

use std::process::ExitCode;

use crate::cli::migrate;
use crate::reload;
use crate::settings::sources::Inputs;
use crate::settings::{self, Loaded};
use crate::shutdown::Shutdown;
use crate::telemetry::logs;

/// Serves until `shutdown`.
pub(super) async fn run(inputs: Inputs, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let loaded = settings::load(&inputs)?;
    logs::start(&loaded.settings.log)?;
    serve(&inputs, loaded, shutdown).await
}

/// Serves with these settings until `shutdown`.
pub(super) async fn serve(inputs: &Inputs, loaded: Loaded, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let settings = &loaded.settings;
    if settings.migrate_on_start && settings.postgres.is_some() {
        let applied = migrate::apply(settings).await?;
        tracing::info!(applied = applied.len(), "the schema is up to date");
    }
    // On the heap: it is one future, and everything that a sidecar is.
    Box::pin(reload::serve(inputs, loaded, shutdown)).await?;
    Ok(ExitCode::SUCCESS)
}
