//! What a count of comparisons says about the rate of mismatches, however often somebody looks at it.
//!
//! A bound that holds for one look is broken sooner or later by whoever looks every few seconds. Both answers here rest on
//! a mixture of likelihood ratios, which starts at 1, is a supermartingale under every rate of the hypothesis, and therefore
//! exceeds 1/alpha at any time with a probability of at most alpha (Ville's inequality). Sources: Ville, "Étude critique de
//! la notion de collectif" (1939); Wald, "Sequential tests of statistical hypotheses" (1945), for the likelihood ratio;
//! Ramdas, Grünwald, Vovk and Shafer, "Game-theoretic statistics and safe anytime-valid inference" (2023), for the mixture.

use serde::{Deserialize, Serialize};

/// The chance that an answer is wrong at any time, while the count goes on.
pub const ALPHA: f64 = 0.05;
/// Bisection halves the interval so often: closer than any rate that matters.
const HALVINGS: u32 = 60;
/// Rates below the bound that are thought of, as shares of it, with their weights: no mismatch at all, few, and not so few.
const BELOW: [(f64, f64); 3] = [(0.0, 0.5), (0.1, 0.25), (0.5, 0.25)];
/// Rates above the budget that are thought of, as multiples of it.
const ABOVE: [f64; 4] = [3.0, 10.0, 100.0, 1000.0];
/// A rate that is thought of is no higher.
const RATE_MAX: f64 = 0.5;

/// How many were compared, and how many of them differed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Comparisons that came to a verdict.
    pub compared: u64,
    /// Confirmed mismatches among them.
    pub mismatched: u64,
}

/// The upper end of the rates that this count leaves possible, at 95 %, whenever somebody looks.
#[must_use]
pub fn upper_bound(count: Count) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..HALVINGS {
        let middle = (low + high) / 2.0;
        let weighted = BELOW.iter().map(|(share, weight)| weight * log_ratio(count, share * middle, middle).exp());
        // The evidence against a rate of at least `middle` grows with `middle`.
        if weighted.sum::<f64>() >= 1.0 / ALPHA { high = middle } else { low = middle }
    }
    high
}

/// How many comparisons without a mismatch bring the bound below `rate`.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the number of comparisons is small and positive"
)]
pub fn samples_needed(rate: f64) -> u64 {
    ((1.0 / (ALPHA * BELOW.first().map_or(1.0, |(_, weight)| *weight))).ln() / -(-rate).ln_1p()).ceil() as u64
}

/// The logarithm of how much better `rate` explains the count than `than`.
fn log_ratio(count: Count, rate: f64, than: f64) -> f64 {
    let mismatched = as_f64(count.mismatched.min(count.compared));
    let matched = as_f64(count.compared) - mismatched;
    let of_mismatches = if mismatched > 0.0 { mismatched * (rate / than).ln() } else { 0.0 };
    let of_matches = if matched > 0.0 { matched * ((-rate).ln_1p() - (-than).ln_1p()) } else { 0.0 };
    of_mismatches + of_matches
}

/// Watches a rate for ever, and knows when it has risen above its budget.
///
/// It thinks of several rates, and of a rise at every look, each with a weight; so the thousands of clean comparisons from
/// before a rise do not hide it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    looks: u32,
    /// The logarithm of the evidence for each of the rates thought of; none before the first look.
    evidence: Vec<f64>,
}

impl Alarm {
    /// Takes up what was compared since the last look. Answers the logarithm of the evidence that the rate is above
    /// `budget`.
    pub fn look(&mut self, budget: f64, since: Count) -> f64 {
        self.looks = self.looks.saturating_add(1);
        let start = start_weight(self.looks).ln();
        self.evidence.resize(ABOVE.len(), f64::NEG_INFINITY);
        for (evidence, times) in self.evidence.iter_mut().zip(ABOVE) {
            *evidence = log_sum(*evidence, start) + log_ratio(since, (budget * times).min(RATE_MAX), budget);
        }
        // What begins at a later look has not begun yet: its evidence is 1.
        let later = later_weight(self.looks).ln();
        let weight = as_f64(ABOVE.len() as u64).ln();
        self.evidence.iter().fold(later, |sum, evidence| log_sum(sum, evidence - weight))
    }

    /// Whether evidence of this strength proves the rise.
    #[must_use]
    pub fn is_proof(evidence: f64) -> bool {
        evidence >= (1.0 / ALPHA).ln()
    }
}

/// The weight of a rise at this look. All of them together weigh 1: 1/(1*2) + 1/(2*3) + ...
fn start_weight(look: u32) -> f64 {
    1.0 / (f64::from(look) * (f64::from(look) + 1.0))
}

/// The weight of all rises after this look.
fn later_weight(look: u32) -> f64 {
    1.0 / (f64::from(look) + 1.0)
}

/// ln(e^one + e^other), where neither need be a number that fits.
fn log_sum(one: f64, other: f64) -> f64 {
    let (high, low) = if one > other { (one, other) } else { (other, one) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

#[expect(clippy::cast_precision_loss, reason = "counts of comparisons are far below 2^53")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    const BUDGET: f64 = 0.0001;

    fn count(compared: u64, mismatched: u64) -> Count {
        Count { compared, mismatched }
    }

    #[test]
    fn nothing_compared_leaves_everything_possible() {
        assert!(upper_bound(count(0, 0)) > 0.999_999);
        assert!(upper_bound(count(1, 1)) > 0.999_999);
    }

    #[test]
    fn the_samples_needed_are_as_many_as_bring_the_bound_below() {
        for rate in [0.1, 0.01, 0.001, 0.0001] {
            let needed = samples_needed(rate);
            assert!(upper_bound(count(needed, 0)) <= rate, "{rate}: {needed}");
            assert!(upper_bound(count(needed * 3 / 4, 0)) > rate, "{rate}: {needed}");
        }
        assert_eq!(samples_needed(0.001), 3688);
    }

    #[test]
    fn a_million_clean_comparisons_raise_no_alarm() {
        let mut alarm = Alarm::default();
        for _ in 0..10_000 {
            assert!(!Alarm::is_proof(alarm.look(BUDGET, count(100, 0))));
        }
    }

    #[test]
    fn a_rate_at_the_budget_is_seldom_taken_for_one_above_it_however_long_one_looks() {
        let mut random = StdRng::seed_from_u64(1);
        let alarmed = |random: &mut StdRng| {
            let mut alarm = Alarm::default();
            (0..500).any(|_| {
                let mismatched = (0..200).filter(|_| random.random_bool(0.001)).count();
                Alarm::is_proof(alarm.look(0.001, count(200, u64::try_from(mismatched).expect("few"))))
            })
        };
        let alarms = (0..60).filter(|_| alarmed(&mut random)).count();
        assert!(alarms <= 6, "{alarms} of 60");
    }

    #[test]
    fn one_in_a_thousand_is_found_soon_also_after_a_long_time_of_peace() {
        for peace in [0, 20_000] {
            let mut alarm = Alarm::default();
            for _ in 0..peace {
                alarm.look(BUDGET, count(5_000, 0));
            }
            let looks = (1..).find(|_| Alarm::is_proof(alarm.look(BUDGET, count(5_000, 5))));
            assert!(looks.is_some_and(|looks| looks <= 5), "after {peace} looks it took {looks:?}");
        }
    }

    #[test]
    fn one_mismatch_alone_is_no_alarm_after_some_comparisons() {
        let mut alarm = Alarm::default();
        assert!(!Alarm::is_proof(alarm.look(BUDGET, count(2_000, 1))));
    }

    #[test]
    fn proof_is_what_a_rate_within_the_budget_shows_once_in_twenty_times_at_most() {
        assert!(Alarm::is_proof(20.1_f64.ln()) && !Alarm::is_proof(19.9_f64.ln()));
    }

    proptest! {
        #[test]
        fn more_mismatches_never_lower_the_bound_and_more_matches_never_raise_it(
            compared in 1..100_000u64, mismatched in 0..50u64, more in 1..1000u64
        ) {
            let mismatched = mismatched.min(compared);
            let bound = upper_bound(count(compared, mismatched));
            prop_assert!(upper_bound(count(compared + more, mismatched)) <= bound + 1e-9);
            prop_assert!(upper_bound(count(compared + 1, mismatched + 1)) >= bound - 1e-9);
            prop_assert!(bound * as_f64(compared) >= as_f64(mismatched));
        }
    }
}
