//! The way back that needs no door: SIGUSR2, and a file that appears. Both work with the admin door gone.
//!
//! Either takes all reads back to Redis in this sidecar at once, and in the fleet as soon as the store of the flags answers;
//! the log says which. A file stays in force: as long as it is there and the fleet's flags could not be written, they are
//! tried again, and touching it asks once more.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time;

use crate::dual::Engine;
use crate::dual::flags::Actor;

/// How often it is looked whether the file is there.
const POLL: Duration = Duration::from_millis(500);
/// What a rollback goes for that nobody could give a scope.
const ALL_KINDS: &str = "*";

/// What asks for a rollback without a door.
pub struct Triggers {
    signals: Signal,
    file: Option<PathBuf>,
}

impl Triggers {
    /// Listens to SIGUSR2 from now on, so that one that comes during the start does not end the process.
    ///
    /// # Errors
    /// When the signal cannot be listened to.
    pub fn listen(file: Option<PathBuf>) -> std::io::Result<Self> {
        Ok(Self { signals: signal(SignalKind::user_defined2())?, file })
    }

    /// Rolls back whenever one of them asks, for ever.
    pub async fn run(self, engine: Arc<Engine>) {
        let Self { mut signals, file } = self;
        let on_signal = async {
            while signals.recv().await.is_some() {
                roll_back(&engine, "SIGUSR2").await;
            }
        };
        let on_file = async {
            let Some(file) = file else { return };
            let mut done = None;
            loop {
                let touched = touched(&file).await;
                if touched.is_some() && touched != done && roll_back(&engine, "file").await {
                    done = touched;
                }
                time::sleep(POLL).await;
            }
        };
        tokio::join!(on_signal, on_file);
    }
}

/// When the file was touched last; `None` while there is none.
async fn touched(file: &std::path::Path) -> Option<SystemTime> {
    tokio::fs::metadata(file).await.ok()?.modified().ok()
}

/// Takes all reads back. Answers whether the fleet's flags say so.
async fn roll_back(engine: &Engine, trigger: &'static str) -> bool {
    let actor = Actor { who: trigger.to_owned(), origin: "this machine".to_owned() };
    let reason = format!("asked for by {trigger}");
    match engine.rollback(ALL_KINDS, reason, actor).await {
        Ok(report) => {
            let waiting = report.waiting.len();
            tracing::warn!(trigger, this_sidecar = true, fleet = report.fleet, waiting, "a rollback was triggered");
            report.fleet
        }
        Err(error) => {
            tracing::error!(trigger, %error, "a rollback was triggered and refused");
            false
        }
    }
}
