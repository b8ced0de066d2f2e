//! A long proof in parts: what is done stands in `target/tmp`, one line for each part, and the next run goes on behind it.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

/// After so long a run begins no further part: the next run goes on.
const RUN_MAX: Duration = Duration::from_secs(50 * 60);

/// The parts of one proof.
pub(crate) struct Parts {
    place: PathBuf,
    lines: Vec<String>,
    count: usize,
    began: Instant,
}

impl Parts {
    /// What is done of `count` parts; all of it done, it begins anew.
    pub(crate) fn of(name: &str, count: usize) -> Self {
        let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-soak.txt"));
        let kept = std::fs::read_to_string(&place).unwrap_or_default();
        let lines: Vec<String> = kept.lines().map(str::to_owned).collect();
        let lines = if lines.len() >= count { Vec::new() } else { lines };
        Self { place, lines, count, began: Instant::now() }
    }

    /// The number of the part that is due; none when all are done, or the run has had its time.
    pub(crate) fn next(&self) -> Option<usize> {
        (self.lines.len() < self.count && self.began.elapsed() < RUN_MAX).then_some(self.lines.len())
    }

    /// Notes the part that was due as done.
    pub(crate) fn done(&mut self, line: String) {
        println!("part {} of {}: {line}", self.lines.len() + 1, self.count);
        self.lines.push(line);
        std::fs::write(&self.place, self.lines.join("\n") + "\n").unwrap();
    }

    /// What each part told, once all are done.
    pub(crate) fn all(&self) -> Option<&[String]> {
        (self.lines.len() >= self.count).then_some(&self.lines)
    }
}
