//! The table of one part: what, the goal, what was measured, how far the rounds lay apart, and whether the goal was met.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;
use parallax::dev::servers::{postgres_version, redis_version};
use tokio::process::Command;

use crate::measure::Series;

/// What a figure is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// Nothing is promised of it.
    Told,
}

impl Goal {
    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!(">= {bound}"),
            Self::AtMost(bound) => format!("<= {bound}"),
            Self::Told => String::new(),
        }
    }

    fn verdict(self, value: f64) -> &'static str {
        let is_met = match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
            Self::Told => return "",
        };
        if is_met { "met" } else { "MISSED" }
    }
}

/// One table on its way.
pub(crate) struct Report {
    part: &'static str,
    text: String,
}

const WHAT_WIDTH: usize = 74;

impl Report {
    /// An empty table, headed by what it was measured on.
    pub(crate) async fn new(part: &'static str, about: &str) -> Self {
        let mut text = format!("make bench ARGS={part}\n{about}\n\n{}\n", machine().await);
        let _ = writeln!(text, "{:WHAT_WIDTH$} {:>9} {:>10}  {:15} verdict", "what", "goal", "measured", "spread");
        Self { part, text }
    }

    /// A figure of some rounds: its median counts.
    pub(crate) fn figure(&mut self, what: &str, goal: Goal, rounds: &Series) {
        let (low, high) = rounds.spread();
        let spread = format!("{} .. {}", short(low), short(high));
        self.row(what, goal, rounds.median(), &spread);
    }

    /// A figure that is one number.
    pub(crate) fn number(&mut self, what: &str, goal: Goal, value: f64) {
        self.row(what, goal, value, "");
    }

    fn row(&mut self, what: &str, goal: Goal, value: f64, spread: &str) {
        let (bound, verdict) = (goal.text(), goal.verdict(value));
        let line = format!("{what:WHAT_WIDTH$} {bound:>9} {:>10}  {spread:15} {verdict}", short(value));
        self.line(line.trim_end());
    }

    /// A line that explains the figures beside it.
    pub(crate) fn note(&mut self, text: &str) {
        self.line(&format!("    {text}"));
    }

    /// Something that could not be measured, and why.
    pub(crate) fn skip(&mut self, what: &str, why: &str) {
        self.line(&format!("SKIPPED {what}: {why}"));
    }

    fn line(&mut self, line: &str) {
        println!("{line}");
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Keeps the table in `folder`.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(format!("bench-{}.txt", self.part));
        fs::write(&path, &self.text).with_context(|| format!("writing the results of {}", self.part))
    }
}

/// Three digits that count.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// What it was measured on, without a name of it.
async fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("an unknown processor", |(_, name)| name.trim());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let mut text = format!("machine: {cores} cores of {model}, Linux {kernel}, load when it began {load}\n");
    let profile = if cfg!(debug_assertions) { "debug" } else { "optimised" };
    let _ = write!(text, "versions: parallax {} ({profile})", env!("CARGO_PKG_VERSION"));
    for server in [redis_version(), postgres_version()] {
        let _ = write!(text, ", {}", server.map_or_else(|_| "none".to_owned(), |version| first_words(&version)));
    }
    for (package, program) in
        [("webdis", "webdis"), ("nutcracker", "nutcracker"), ("haproxy", "haproxy"), ("wrk", "wrk")]
    {
        if crate::load::program(program).is_some() {
            let _ = write!(text, ", {package} {}", package_version(package).await);
        }
    }
    if let Ok(node) = Command::new("node").arg("--version").output().await {
        let _ = write!(text, ", Node.js {}", String::from_utf8_lossy(&node.stdout).trim());
    }
    text.push('\n');
    text
}

/// Enough of `Redis server v=7.0.15 sha=... malloc=...` and of `postgres (PostgreSQL) 15.14 (Debian ...)`.
fn first_words(version: &str) -> String {
    version.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

async fn package_version(package: &str) -> String {
    let asked = Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]).output().await;
    let told = asked.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if told.is_empty() { "of an unknown version".to_owned() } else { told }
}
