//! Rounds, medians, and what a process has used: the part of a bench that has to be right before any number is.

use std::fs;

use anyhow::Context;

/// Rounds of each comparison. Odd, so that the median is a round that happened.
pub(crate) const ROUNDS: usize = 7;

/// What the kernel counts the time of processes in, on every Linux.
const TICKS_A_SECOND: f64 = 100.0;

/// The same thing measured once a round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(pub(crate) Vec<f64>);

impl Series {
    /// The middle one.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The lowest and the highest.
    pub(crate) fn spread(&self) -> (f64, f64) {
        self.0.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), one| (low.min(*one), high.max(*one)))
    }

    /// Round by round, how many times `other` it is.
    pub(crate) fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(own, others)| own / others).collect())
    }
}

/// Measures each of `subjects` once a round, in turn; the first of a round is another one each time.
pub(crate) async fn interleaved<S, T>(
    subjects: &[S],
    mut once: impl AsyncFnMut(&S) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<Vec<T>>> {
    let mut measured: Vec<Vec<T>> = subjects.iter().map(|_| Vec::with_capacity(ROUNDS)).collect();
    for round in 0..ROUNDS {
        for turn in 0..subjects.len() {
            let at = (round + turn) % subjects.len();
            let subject = subjects.get(at).context("a subject of this turn")?;
            let value = once(subject).await?;
            measured.get_mut(at).context("a list for each subject")?.push(value);
        }
    }
    Ok(measured)
}

/// One figure of each round.
pub(crate) fn series<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> Series {
    Series(rounds.iter().map(figure).collect())
}

/// Seconds of processor time that a process and its children have used.
pub(crate) fn cpu_seconds(process: u32) -> anyhow::Result<f64> {
    let mut ticks = own_ticks(process)?;
    // Postgres does its work in a child for each connection.
    for child in children(process) {
        // One that has ended in this moment was counted by its parent.
        ticks += own_ticks(child).unwrap_or(0.0);
    }
    Ok(ticks / TICKS_A_SECOND)
}

fn own_ticks(process: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).context("reading what a process has used")?;
    // The second field is a name in brackets that may hold anything.
    let after = stat.rsplit(')').next().unwrap_or_default();
    // utime, stime, cutime, cstime.
    Ok(after.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum())
}

fn children(process: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

/// Megabytes (2^20 bytes) of memory that a process holds.
pub(crate) fn resident_mb(process: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("reading the memory of a process")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process without memory")?;
    let kilobytes: f64 = line.split_whitespace().next().unwrap_or_default().parse().context("reading VmRSS")?;
    Ok(kilobytes / 1024.0)
}
