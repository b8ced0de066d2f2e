//! Judges a history of reads and writes: whether some order of them, in which none is moved out of its time, explains every
//! answer. Pure.
//!
//! Each key has one writer, which writes 1, 2, 3 ..., each once; so an order exists if and only if no read returns less than
//! what was acknowledged, or read by somebody, before it began, nor more than what somebody had begun to write before it ended.

use std::collections::BTreeMap;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A value was written; whether it took effect is not known unless `is_acknowledged`.
    Wrote { is_acknowledged: bool },
    /// A value was read; 0 is none.
    Read,
}

/// One operation, with the nanoseconds between which it took effect.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub(super) key: usize,
    pub(super) what: What,
    pub(super) value: u64,
    pub(super) began: u64,
    pub(super) ended: u64,
}

/// What no order explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// Less than what was acknowledged before it began.
    Stale { key: usize, read: u64, acknowledged: u64 },
    /// Less than what another read had returned before it began.
    Backwards { key: usize, read: u64, before: u64 },
    /// What nobody had begun to write.
    Unwritten { key: usize, read: u64 },
}

/// The first violation of each kind and key.
pub(super) fn violations(history: &[Operation]) -> Vec<Violation> {
    let mut keys: BTreeMap<usize, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(operation.key).or_default().push(operation);
    }
    keys.into_iter().flat_map(|(key, operations)| of_key(key, &operations)).collect()
}

fn of_key(key: usize, operations: &[&Operation]) -> Vec<Violation> {
    let is_acknowledged = |operation: &&&Operation| operation.what == What::Wrote { is_acknowledged: true };
    let is_read = |operation: &&&Operation| operation.what == What::Read;
    let acknowledged = Rising::of(operations.iter().filter(is_acknowledged).map(|done| (done.ended, done.value)));
    let read = Rising::of(operations.iter().filter(is_read).map(|done| (done.ended, done.value)));
    let begun =
        Rising::of(operations.iter().filter(|done| done.what != What::Read).map(|done| (done.began, done.value)));
    let mut found = Vec::new();
    for operation in operations.iter().filter(is_read) {
        let value = operation.value;
        let (least, seen) = (acknowledged.before(operation.began), read.before(operation.began));
        if value < least {
            found.push(Violation::Stale { key, read: value, acknowledged: least });
        } else if value < seen {
            found.push(Violation::Backwards { key, read: value, before: seen });
        } else if value > begun.before(operation.ended) {
            found.push(Violation::Unwritten { key, read: value });
        }
    }
    found.truncate(3);
    found
}

/// The highest value up to each moment.
struct Rising(Vec<(u64, u64)>);

impl Rising {
    fn of(moments: impl Iterator<Item = (u64, u64)>) -> Self {
        let mut all: Vec<(u64, u64)> = moments.collect();
        all.sort_unstable();
        let mut highest = 0;
        for (_, value) in &mut all {
            highest = highest.max(*value);
            *value = highest;
        }
        Self(all)
    }

    fn before(&self, moment: u64) -> u64 {
        let at = self.0.partition_point(|(at, _)| *at < moment);
        at.checked_sub(1).map_or(0, |at| self.0[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrote(value: u64, began: u64, ended: u64) -> Operation {
        Operation { key: 1, what: What::Wrote { is_acknowledged: true }, value, began, ended }
    }

    fn read(value: u64, began: u64, ended: u64) -> Operation {
        Operation { key: 1, what: What::Read, value, began, ended }
    }

    #[test]
    fn reads_beside_a_write_may_see_either_and_reads_after_it_only_the_new_value() {
        assert_eq!(violations(&[wrote(1, 0, 10), wrote(2, 20, 40), read(1, 30, 35), read(2, 36, 50)]), []);
        let stale = violations(&[wrote(1, 0, 10), wrote(2, 20, 40), read(1, 41, 50)]);
        assert_eq!(stale, [Violation::Stale { key: 1, read: 1, acknowledged: 2 }]);
    }

    #[test]
    fn once_a_value_was_read_nobody_reads_an_older_one() {
        let back = violations(&[wrote(1, 0, 10), wrote(2, 20, 90), read(2, 30, 40), read(1, 41, 50)]);
        assert_eq!(back, [Violation::Backwards { key: 1, read: 1, before: 2 }]);
        assert_eq!(violations(&[wrote(1, 0, 10), wrote(2, 20, 90), read(2, 30, 45), read(1, 41, 50)]), []);
    }

    #[test]
    fn a_write_of_unknown_outcome_may_be_seen_or_not_and_nothing_is_read_before_it_is_written() {
        let unknown = Operation { what: What::Wrote { is_acknowledged: false }, ..wrote(2, 20, 30) };
        assert_eq!(violations(&[wrote(1, 0, 10), unknown, read(1, 40, 50)]), []);
        assert_eq!(violations(&[wrote(1, 0, 10), unknown, read(2, 40, 50)]), []);
        assert_eq!(
            violations(&[wrote(1, 0, 10), read(2, 12, 15), wrote(2, 20, 30)]),
            [Violation::Unwritten { key: 1, read: 2 }]
        );
    }
}
