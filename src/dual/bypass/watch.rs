//! Judges whether the server counted what no sidecar sent. Pure: looks go in, and a bypass comes out.
//!
//! What bypassed the fleet until a moment is at most what the server had counted less what the fleet had been answered
//! before, and at least what it had counted less what the fleet had sent by some time after. The first never falls below
//! the second, but for a bypass in between.

use std::collections::{BTreeMap, VecDeque};

use crate::dual::figures::Figures;
use crate::model::command::tallied::NAMES;
use crate::stores::redis::commands::Counted;
use crate::stores::redis::tally::in_script;

/// Looks that later ones are compared with: what bypasses slowly adds up over so many.
const PAST_MAX: usize = 100;
/// A sidecar must have told so many times since what it told first behind the look: the first of these may have been put together
/// before it.
const TELLS: u64 = 2;

/// One look.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// What each sidecar had told before the server was asked.
    pub(super) fleet: BTreeMap<String, Figures>,
    /// What the server had counted.
    pub(super) counted: Counted,
    /// How often each had told by the time that the server had answered.
    pub(super) told: BTreeMap<String, u64>,
}

/// Writes that no sidecar sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bypass {
    /// How many, at least, by name.
    pub(super) commands: BTreeMap<String, u64>,
    /// The version until which there were none.
    pub(super) since: i64,
}

/// What is known from look to look.
#[derive(Default)]
pub(super) struct Watch {
    /// The look before, of which not all is known yet.
    open: Option<Look>,
    last: Option<Look>,
    past: VecDeque<Look>,
    owed: Option<Bypass>,
}

impl Watch {
    /// Takes up a look. Answers what bypassed the fleet until the one before.
    pub(super) fn take(&mut self, look: Look) -> Option<Bypass> {
        let is_comparable = self.last.as_ref().is_some_and(|last| is_comparable(last, &look));
        if !is_comparable {
            // What was under way when the fleet or the server changed counts for nobody.
            (self.open, self.last) = (None, Some(look));
            self.past.clear();
            return self.owed.take();
        }
        self.last = Some(look.clone());
        let Some(open) = self.open.take() else {
            self.open = Some(look);
            return self.owed.take();
        };
        if !has_told_since(&open, &look) {
            self.open = Some(open);
            return self.owed.take();
        }
        let found = self.judge(&open, &look);
        if found.is_some() {
            self.past.clear();
        }
        if self.past.len() >= PAST_MAX {
            self.past.pop_front();
        }
        self.past.push_back(open);
        self.open = Some(look);
        found.or_else(|| self.owed.take())
    }

    /// What was found could not be noted: the next look tells it again.
    pub(super) fn again(&mut self, bypass: Bypass) {
        self.owed = Some(bypass);
    }

    /// What bypassed the fleet between a look of the past and `open`, by what the fleet had sent at `after`.
    fn judge(&self, open: &Look, after: &Look) -> Option<Bypass> {
        let (mut commands, mut since) = (BTreeMap::new(), i64::MAX);
        for name in NAMES {
            let least = called(open, name) - sum(after, name, |figures| &figures.sent);
            let beyond = |past: &Look| {
                let may_be_in_a_script = [Some(name), None].into_iter().any(|name| {
                    let name = in_script(name);
                    sum(after, &name, |figures| &figures.sent) != sum(past, &name, |figures| &figures.answered)
                });
                let most = called(past, name) - sum(past, name, |figures| &figures.answered);
                (!may_be_in_a_script && least > most).then_some((least - most, past.counted.clock))
            };
            if let Some((count, clock)) = self.past.iter().filter_map(beyond).max_by_key(|(count, _)| *count) {
                commands.insert(name.to_owned(), u64::try_from(count).unwrap_or(0));
                since = since.min(clock);
            }
        }
        (!commands.is_empty()).then_some(Bypass { commands, since })
    }
}

/// Whether both are of the same server and the same fleet, and nothing was counted anew in between.
fn is_comparable(last: &Look, look: &Look) -> bool {
    let runs = |look: &Look| -> Vec<(String, String, u64)> {
        let run = |(name, figures): (&String, &Figures)| (name.clone(), figures.run.clone(), figures.breaks);
        look.fleet.iter().map(run).collect()
    };
    let (one, two) = (&last.counted, &look.counted);
    one.run_id == two.run_id
        && one.unwatched == two.unwatched
        && runs(last) == runs(look)
        // CONFIG RESETSTAT.
        && NAMES.iter().all(|name| called(last, name) <= called(look, name))
}

fn has_told_since(open: &Look, look: &Look) -> bool {
    open.told.iter().all(|(name, told)| look.fleet.get(name).is_some_and(|figures| figures.told >= told + TELLS))
}

fn called(look: &Look, name: &str) -> i64 {
    signed(look.counted.calls.get(name))
}

fn sum(look: &Look, name: &str, of: impl Fn(&Figures) -> &BTreeMap<String, u64>) -> i64 {
    look.fleet.values().map(|figures| signed(of(figures).get(name))).sum()
}

fn signed(count: Option<&u64>) -> i64 {
    count.and_then(|count| i64::try_from(*count).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look at second `at`: calls of HSET, and what one sidecar tells of it.
    fn look(at: u64, calls: u64, sent: u64, answered: u64) -> Look {
        let count = |number: u64| BTreeMap::from([("hset".to_owned(), number)]);
        let figures = Figures { told: at, sent: count(sent), answered: count(answered), ..Figures::default() };
        let counted = Counted { calls: count(calls), clock: i64::try_from(at).unwrap(), ..Counted::default() };
        Look {
            fleet: BTreeMap::from([("a".to_owned(), figures)]),
            counted,
            told: BTreeMap::from([("a".to_owned(), at)]),
        }
    }

    fn found(looks: impl IntoIterator<Item = Look>) -> Vec<(u64, i64)> {
        let mut watch = Watch::default();
        let found = looks.into_iter().filter_map(|look| watch.take(look));
        found.map(|bypass| (bypass.commands["hset"], bypass.since)).collect()
    }

    #[test]
    fn what_nobody_sent_is_found_and_what_is_under_way_is_not() {
        let quiet = [look(3, 100, 100, 100), look(6, 100, 100, 100), look(9, 100, 100, 100)];
        let beside = [look(12, 102, 100, 100), look(15, 102, 100, 100), look(18, 102, 100, 100)];
        assert_eq!(found(quiet.clone().into_iter().chain(beside)), [(2, 9)]);
        // The server has counted what was told as sent only later, and less than what was sent by then.
        let busy = (1..20).map(|at| look(at * 3, at * 1_000 + 900, at * 1_000 + 100, at * 1_000));
        assert_eq!(found(busy), []);
    }

    #[test]
    fn what_bypasses_a_busy_fleet_adds_up_until_it_shows() {
        let busy =
            |extra: fn(u64) -> u64| (1..40).map(move |at| look(at * 3, at * 1_000 + extra(at), at * 1_000, at * 1_000));
        assert_eq!(found(busy(|_| 0)), []);
        let (count, _) = found(busy(|at| at * 40))[0];
        assert!(count >= 40, "{count}");
    }

    #[test]
    fn a_look_waits_until_everybody_has_told_behind_it() {
        let mut late = look(9, 105, 100, 100);
        late.fleet.get_mut("a").unwrap().told = 7;
        let told = look(12, 105, 105, 105);
        let looks = [look(3, 100, 100, 100), look(6, 100, 100, 100), look(8, 105, 100, 100), late, told];
        assert_eq!(found(looks), [], "what it had sent it told only afterwards");
    }

    #[test]
    fn counts_that_fall_or_a_fleet_that_changes_begin_anew_and_hide_nothing_that_comes_later() {
        let before = [look(3, 100, 100, 100), look(6, 100, 100, 100), look(9, 100, 100, 100)];
        let after = [look(12, 1, 101, 101), look(15, 1, 101, 101), look(18, 1, 101, 101)];
        let beside = [look(21, 4, 101, 101), look(24, 4, 101, 101)];
        assert_eq!(found(before.clone().into_iter().chain(after.clone()).chain(beside)), [(3, 18)]);
        let mut joined = vec![look(12, 150, 100, 100), look(15, 150, 100, 100), look(18, 150, 100, 100)];
        for look in &mut joined {
            look.fleet.get_mut("a").unwrap().breaks = 1;
        }
        assert_eq!(found(before.into_iter().chain(joined)), []);
    }

    #[test]
    fn what_a_script_of_a_caller_may_have_called_is_not_judged() {
        let mut looks = vec![look(3, 100, 100, 100), look(6, 100, 100, 100), look(9, 100, 100, 100)];
        looks.extend([look(12, 107, 100, 100), look(15, 107, 100, 100)]);
        for (name, is_found) in [("script hset", false), ("script *", false), ("script zadd", true)] {
            let mut looks = looks.clone();
            for look in &mut looks[3..] {
                look.fleet.get_mut("a").unwrap().sent.insert(name.to_owned(), 1);
            }
            assert_eq!(!found(looks).is_empty(), is_found, "{name}");
        }
    }
}
