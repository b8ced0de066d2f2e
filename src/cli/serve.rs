//! `parallax serve`: the sidecar itself.

use std::process::ExitCode;

use tokio::runtime::Handle;

use crate::app;
use crate::cli::migrate;
use crate::settings::sources::Inputs;
use crate::settings::{self, Loaded};
use crate::shutdown::Shutdown;
use crate::telemetry::logs;

/// Serves until `shutdown`.
pub(super) async fn run(inputs: Inputs, shutdown: Shutdown, background: &Handle) -> anyhow::Result<ExitCode> {
    let loaded = settings::load(&inputs)?;
    logs::start(&loaded.settings.log)?;
    serve(loaded, shutdown, background).await
}

/// Serves with these settings until `shutdown`.
pub(super) async fn serve(loaded: Loaded, shutdown: Shutdown, background: &Handle) -> anyhow::Result<ExitCode> {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let settings = loaded.settings;
    if settings.migrate_on_start && settings.postgres.is_some() {
        let applied = migrate::apply(&settings).await?;
        tracing::info!(applied = applied.len(), "the schema is up to date");
    }
    // On the heap: it is one future, and everything that a sidecar is.
    Box::pin(app::serve(settings, shutdown, background)).await?;
    Ok(ExitCode::SUCCESS)
}
