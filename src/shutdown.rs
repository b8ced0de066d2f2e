//! The end of the process as a value: whoever works holds a [`Shutdown`], and it says when to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Says when to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown {
    requested: watch::Receiver<bool>,
}

/// Asks everybody who holds its [`Shutdown`] to stop. Dropping it asks as well: nobody else could any more.
#[derive(Debug)]
pub struct Trigger {
    sender: watch::Sender<bool>,
}

impl Trigger {
    /// Asks.
    pub fn request(&self) {
        self.sender.send_replace(true);
    }
}

/// A shutdown and what asks for it.
#[must_use]
pub fn pair() -> (Trigger, Shutdown) {
    let (sender, requested) = watch::channel(false);
    (Trigger { sender }, Shutdown { requested })
}

/// A shutdown that SIGTERM and SIGINT ask for. A second one ends the process at once: somebody is in a hurry.
///
/// # Errors
/// When the signals cannot be listened to.
pub fn on_signals() -> std::io::Result<Shutdown> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (trigger, shutdown) = pair();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "shutdown was asked for");
        trigger.request();
        let code = tokio::select! {
            _ = terminate.recv() => 143,
            _ = interrupt.recv() => 130,
        };
        tracing::warn!("shutdown was asked for a second time: left without draining");
        std::process::exit(code);
    });
    Ok(shutdown)
}

impl Shutdown {
    /// Whether it was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow() || self.requested.has_changed().is_err()
    }

    /// Waits until it is asked for.
    ///
    /// # Cancel safety
    /// Nothing is lost: the request stays.
    pub async fn requested(&self) {
        // An error means that the trigger was dropped, which asks as well.
        drop(self.requested.clone().wait_for(|requested| *requested).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_who_holds_it_hears_the_request_also_those_who_ask_late() {
        let (trigger, shutdown) = pair();
        let early = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.requested().await }
        });
        assert!(!shutdown.is_requested());
        trigger.request();
        early.await.unwrap();
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }

    #[tokio::test]
    async fn a_dropped_trigger_asks_as_well() {
        let (trigger, shutdown) = pair();
        drop(trigger);
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }
}
