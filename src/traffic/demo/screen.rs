//! What the demo shows while it runs: progress bars on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::traffic::demo::feeder::Progress;

/// The screen of one run.
pub(super) struct Screen {
    began: Instant,
    bar: Option<ProgressBar>,
    follower: Option<JoinHandle<()>>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(1);
            let style = ProgressStyle::with_template("{elapsed:>4} {bar:30} {percent:>3} % of the traffic  {msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { began: Instant::now(), bar, follower: None }
    }

    /// How long the demo runs.
    pub(super) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Lets the bar follow the traffic.
    pub(super) fn follow(&mut self, total: usize, mut progress: watch::Receiver<Progress>) {
        let Some(bar) = self.bar.clone() else { return };
        bar.set_length(total as u64);
        self.follower = Some(tokio::spawn(async move {
            while progress.changed().await.is_ok() {
                bar.set_position(progress.borrow_and_update().bursts as u64);
            }
        }));
    }

    /// Says what is going on now.
    pub(super) fn doing(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
        }
    }

    /// Says what is done.
    pub(super) fn done(&self, step: &str, what: &str) {
        let line = format!("{:>6.1} s  {step:<12} {what}", self.seconds());
        match &self.bar {
            Some(bar) => bar.println(line),
            // A closed stderr is no reason to stop.
            None => drop(writeln!(std::io::stderr(), "{line}")),
        }
    }

    /// Takes the bar away.
    pub(super) fn clear(&mut self) {
        if let Some(follower) = self.follower.take() {
            follower.abort();
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.clear();
    }
}
