//! A stand-in for the sidecar itself until the engine is there.

use crate::settings::Settings;
use crate::shutdown::Shutdown;

/// Serves until `shutdown`.
///
/// # Errors
/// None yet.
pub async fn serve(_settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    shutdown.requested().await;
    Ok(())
}
