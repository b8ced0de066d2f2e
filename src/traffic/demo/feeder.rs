//! Sends the traffic in the background while the stages change, up to gates that the walk opens.
//!
//! The gates keep the story in order: however fast the machine is, each stage sees its share of the traffic.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::ClientError;
use crate::traffic::Burst;
use crate::traffic::replay::{Replay, Tally};

/// How far the traffic has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) bursts: usize,
    pub(super) commands: u64,
}

/// The traffic on its way.
pub(super) struct Feeder {
    gate: watch::Sender<usize>,
    progress: watch::Receiver<Progress>,
    total: usize,
    task: JoinHandle<Result<Tally, ClientError>>,
}

impl Feeder {
    /// Traffic to the data door at `door`; nothing is sent before the first gate opens.
    pub(super) fn start(door: &str, bursts: Vec<Burst>) -> Self {
        let total = bursts.len();
        let (gate, open_until) = watch::channel(0);
        let (report, progress) = watch::channel(Progress::default());
        let task = tokio::spawn(send(Replay::new(door), Arc::new(bursts), open_until, report));
        Self { gate, progress, total, task }
    }

    /// How many bursts there are in all.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// How far it has come.
    pub(super) fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// A view of the progress for a bar.
    pub(super) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Lets the traffic go on to `percent` of its bursts.
    pub(super) fn open(&self, percent: usize) {
        self.gate.send_replace(self.total * percent.min(100) / 100);
    }

    /// Waits until `percent` of the bursts are answered. Ends early when the traffic did.
    pub(super) async fn reach(&mut self, percent: usize) {
        let wanted = self.total * percent.min(100) / 100;
        // An error means that the task has ended; its reason comes out of `finish`.
        let _ = self.progress.wait_for(|progress| progress.bursts >= wanted).await;
    }

    /// Sends what is left and returns what was counted.
    pub(super) async fn finish(self) -> anyhow::Result<Tally> {
        self.open(100);
        Ok(self.task.await??)
    }
}

async fn send(
    mut replay: Replay,
    bursts: Arc<Vec<Burst>>,
    mut open_until: watch::Receiver<usize>,
    report: watch::Sender<Progress>,
) -> Result<Tally, ClientError> {
    for (number, burst) in bursts.iter().enumerate() {
        if open_until.wait_for(|gate| *gate > number).await.is_err() {
            // The walk is gone; what was sent so far is all there is.
            break;
        }
        replay.send(burst).await?;
        report.send_replace(Progress { bursts: number + 1, commands: replay.tally.commands });
    }
    Ok(replay.tally)
}
