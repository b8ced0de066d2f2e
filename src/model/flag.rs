//! Flags and stages: where a kind stands on the way from Redis to Redis + PostgreSQL, and who answers its reads.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a kind stands. The order is the order of the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Redis alone, no mark.
    Off,
    /// Every write leaves a mark and reaches Postgres; Redis answers.
    Dualwrite,
    /// As dualwrite, and a sample of reads is compared.
    Shadow,
    /// As shadow, and `percent` of the keys are read from Postgres.
    Live,
}

impl Stage {
    /// Every stage, lowest first.
    pub const ALL: [Self; 4] = [Self::Off, Self::Dualwrite, Self::Shadow, Self::Live];

    /// Whether writes leave a mark.
    #[must_use]
    pub fn marks(self) -> bool {
        match self {
            Self::Off => false,
            Self::Dualwrite | Self::Shadow | Self::Live => true,
        }
    }

    /// Whether a sample of the reads is compared.
    #[must_use]
    pub fn compares(self) -> bool {
        match self {
            Self::Off | Self::Dualwrite => false,
            Self::Shadow | Self::Live => true,
        }
    }

    /// Whether some reads are answered by Postgres.
    #[must_use]
    pub fn reads_postgres(self) -> bool {
        match self {
            Self::Off | Self::Dualwrite | Self::Shadow => false,
            Self::Live => true,
        }
    }

    /// The name in flags, metrics and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Dualwrite => "dualwrite",
            Self::Shadow => "shadow",
            Self::Live => "live",
        }
    }

    /// Whether `self` and `next` are the same stage or neighbours: one stage at a time (S1).
    #[must_use]
    pub fn is_step_to(self, next: Self) -> bool {
        (self as u8).abs_diff(next as u8) <= 1
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|stage| stage.name() == name)
            .ok_or_else(|| format!("unknown stage `{name}`: one of off, dualwrite, shadow, live"))
    }
}

/// When the caller gets the answer of a mirrored write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// When Redis has it.
    #[default]
    Redis,
    /// When Postgres has committed it.
    Both,
}

/// What a flag says for one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flag {
    /// Where the kind stands.
    pub stage: Stage,
    /// Percent of the keys read from Postgres in stage live: 0 to 100, at most three decimals.
    pub percent: f64,
    /// Share of the reads that are compared: 0 to 1.
    pub sample_rate: f64,
    /// When a mirrored write is answered.
    pub ack: Ack,
    /// How long a read may wait for Postgres before Redis is asked, in milliseconds: 1 to 10,000.
    pub deadline_ms: u64,
    /// Set by a rollback: the stage cannot be raised until somebody resumes with a reason.
    #[serde(default)]
    pub latched: bool,
}

impl Default for Flag {
    fn default() -> Self {
        Self { stage: Stage::Off, percent: 0.0, sample_rate: 0.01, ack: Ack::Redis, deadline_ms: 5, latched: false }
    }
}

/// A wish to change a flag; what is `None` stays. Unknown fields are refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlagChange {
    /// See [`Flag::stage`].
    pub stage: Option<Stage>,
    /// See [`Flag::percent`].
    pub percent: Option<f64>,
    /// See [`Flag::sample_rate`].
    pub sample_rate: Option<f64>,
    /// See [`Flag::ack`].
    pub ack: Option<Ack>,
    /// See [`Flag::deadline_ms`].
    pub deadline_ms: Option<u64>,
    /// `true` takes the latch of a rollback away; needs a reason.
    pub resume: Option<bool>,
    /// `true` goes past the gates that say whether a step is wise, never past a rule; needs a reason.
    #[serde(rename = "override")]
    pub overrides: Option<bool>,
    /// Why, for the audit row.
    pub reason: Option<String>,
}

impl FlagChange {
    /// The flag after this change.
    ///
    /// # Errors
    /// The field that is wrong and why.
    pub fn applied_to(&self, flag: &Flag) -> Result<Flag, FieldError> {
        if let Some(percent) = self.percent
            && (!(0.0..=100.0).contains(&percent) || has_more_than_three_decimals(percent))
        {
            return Err(FieldError::new("percent", "must be 0 to 100 with at most three decimals"));
        }
        if let Some(rate) = self.sample_rate
            && !(0.0..=1.0).contains(&rate)
        {
            return Err(FieldError::new("sample_rate", "must be 0 to 1"));
        }
        if let Some(deadline) = self.deadline_ms
            && !(1..=10_000).contains(&deadline)
        {
            return Err(FieldError::new("deadline_ms", "must be 1 to 10000"));
        }
        let resumes = self.resume == Some(true);
        let has_reason = self.reason.as_deref().is_some_and(|reason| !reason.trim().is_empty());
        if resumes && !has_reason {
            return Err(FieldError::new("reason", "is needed to resume after a rollback"));
        }
        if self.overrides == Some(true) && !has_reason {
            return Err(FieldError::new("reason", "is needed to override a gate"));
        }
        Ok(Flag {
            stage: self.stage.unwrap_or(flag.stage),
            percent: self.percent.unwrap_or(flag.percent),
            sample_rate: self.sample_rate.unwrap_or(flag.sample_rate),
            ack: self.ack.unwrap_or(flag.ack),
            deadline_ms: self.deadline_ms.unwrap_or(flag.deadline_ms),
            latched: flag.latched && !resumes,
        })
    }
}

/// Whether a percent says more than buckets can tell.
pub(super) fn has_more_than_three_decimals(percent: f64) -> bool {
    let thousandths = percent * 1000.0;
    (thousandths - thousandths.round()).abs() > 1e-6
}

/// A field of a request that is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {reason}")]
pub struct FieldError {
    /// The field's name as the caller wrote it.
    pub field: &'static str,
    /// What it must be.
    pub reason: String,
}

impl FieldError {
    /// An error of `field`.
    pub fn new(field: &'static str, reason: impl Into<String>) -> Self {
        Self { field, reason: reason.into() }
    }
}

/// The bucket of a key, 0 to 99,999.
///
/// It is flagd's fractional bucketing (murmur3, 32 bit, seed 0, of flag key + entity key), so that any `OpenFeature`
/// provider resolves the same store. Source: flagd's `fractional` operation, in hundred-thousandths.
#[must_use]
pub fn bucket(kind: &str, key: &[u8]) -> u32 {
    let mut text = kind.as_bytes().to_vec();
    text.extend_from_slice(key);
    let hash = murmur3::murmur3_32(&mut text.as_slice(), 0).expect("reading from memory does not fail");
    u32::try_from((u64::from(hash) * 100_000) >> 32).expect("below 100,000")
}

impl Flag {
    /// Whether this flag sends reads of `key` to Postgres. The Postgres bucket comes first, so widening never moves a key back.
    #[must_use]
    pub fn sends_to_postgres(&self, kind: &str, key: &[u8]) -> bool {
        self.stage.reads_postgres() && f64::from(bucket(kind, key)) < self.percent * 1000.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stage_is_climbed_one_step_at_a_time() {
        assert!(Stage::Off.is_step_to(Stage::Dualwrite));
        assert!(!Stage::Off.is_step_to(Stage::Shadow));
        assert!(Stage::Live.is_step_to(Stage::Shadow));
        assert!(!Stage::Live.is_step_to(Stage::Dualwrite));
    }

    #[test]
    fn a_percent_outside_its_range_names_the_field() {
        let change = |percent| FlagChange { percent: Some(percent), ..FlagChange::default() };
        for wrong in [-0.1, 100.1, 0.0001, f64::NAN] {
            let error = change(wrong).applied_to(&Flag::default()).expect_err("refused");
            assert_eq!(error.field, "percent");
        }
        assert!(change(33.333).applied_to(&Flag::default()).is_ok());
    }

    #[test]
    fn a_latch_goes_only_with_a_reason() {
        let latched = Flag { latched: true, ..Flag::default() };
        let resume = FlagChange { resume: Some(true), ..FlagChange::default() };
        assert_eq!(resume.applied_to(&latched).expect_err("refused").field, "reason");
        let past = FlagChange { overrides: Some(true), reason: Some(" ".into()), ..FlagChange::default() };
        assert_eq!(past.applied_to(&latched).expect_err("refused").field, "reason");
        let reasoned = FlagChange { reason: Some("fixed the index".into()), ..resume };
        assert!(!reasoned.applied_to(&latched).expect("accepted").latched);
    }

    proptest! {
        #[test]
        fn widening_never_moves_a_key_back(key in ".{1,24}", low in 0.0..100.0f64, more in 0.0..50.0f64) {
            let live = |percent| Flag { stage: Stage::Live, percent, ..Flag::default() };
            if live(low).sends_to_postgres("apikey", key.as_bytes()) {
                prop_assert!(live((low + more).min(100.0)).sends_to_postgres("apikey", key.as_bytes()));
            }
        }

        #[test]
        fn everything_is_postgres_at_a_hundred_and_nothing_at_zero(key in ".{0,24}") {
            let live = |percent| Flag { stage: Stage::Live, percent, ..Flag::default() };
            prop_assert!(live(100.0).sends_to_postgres("apikey", key.as_bytes()));
            prop_assert!(!live(0.0).sends_to_postgres("apikey", key.as_bytes()));
        }
    }
}
