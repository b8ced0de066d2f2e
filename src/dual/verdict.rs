//! Verdicts: what the outcome of a comparison means (rule R2), and whether a row may answer (R1). Pure: a look at Redis or a
//! fence, a row of Postgres, and the kind.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::dual::answer::LATEST_MS;
use crate::model::catalog::Kind;
use crate::model::text;
use crate::model::value::{Score, Value};
use crate::stores::postgres::pages::LogRows;
use crate::stores::postgres::read::{Control, Row};
use crate::stores::postgres::rows::Fate;
use crate::stores::redis::fence::{ElementsLook, Fence, Header, LogPage, Look};
use crate::telemetry::labels::{Compared, RouteReason};

/// The outcome of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both stores say the same.
    Match,
    /// The record has a mark: lag, not a mismatch.
    InFlight,
    /// Nothing can be said from this look.
    ReadAgain,
    /// The values differ, in these fields where they have names.
    Value(Vec<String>),
    /// The types differ.
    Type,
    /// The expiry differs.
    Ttl,
    /// Redis has it, Postgres not.
    MissingInPostgres,
    /// Postgres has it, Redis not.
    MissingInRedis,
}

impl Verdict {
    /// The class of a mismatch; `None` when it is none.
    #[must_use]
    pub fn class(&self) -> Option<&'static str> {
        match self {
            Self::Match | Self::InFlight | Self::ReadAgain => None,
            Self::Value(_) => Some("value"),
            Self::Type => Some("type"),
            Self::Ttl => Some("ttl"),
            Self::MissingInPostgres => Some("missing_in_postgres"),
            Self::MissingInRedis => Some("missing_in_redis"),
        }
    }

    /// The names of the fields that differ, where they have names.
    #[must_use]
    pub fn fields(&self) -> Vec<String> {
        match self {
            Self::Value(fields) => fields.clone(),
            Self::Match
            | Self::InFlight
            | Self::ReadAgain
            | Self::Type
            | Self::Ttl
            | Self::MissingInPostgres
            | Self::MissingInRedis => Vec::new(),
        }
    }

    /// How it is counted.
    #[must_use]
    pub fn label(&self) -> Compared {
        match self {
            Self::Match => Compared::Match,
            Self::InFlight => Compared::InFlight,
            Self::ReadAgain => Compared::ReadAgain,
            Self::Value(_) => Compared::Value,
            Self::Type => Compared::Type,
            Self::Ttl => Compared::Ttl,
            Self::MissingInPostgres => Compared::MissingInPostgres,
            Self::MissingInRedis => Compared::MissingInRedis,
        }
    }
}

/// Names of differing fields in a report at most.
pub const FIELDS_MAX: usize = 20;

/// Judges what does not stand in the elements of a collection: its type and its expiry.
#[must_use]
pub fn judge_header(kind: &Kind, header: &Header, control: &Control, row: Option<&Row>) -> Verdict {
    if header.is_pending {
        return Verdict::InFlight;
    }
    if !is_comparable(&header.fence, control, row) {
        return Verdict::ReadAgain;
    }
    let Some(row) = row.filter(|row| row.fate == Fate::Present && row.is_complete) else {
        return Verdict::MissingInPostgres;
    };
    if row.value.as_ref().is_some_and(|value| value.type_name() != header.type_name) {
        return Verdict::Type;
    }
    compare_expiry(kind, header.expires_at_ms, row.expires_at_ms)
}

/// Judges one page of a log against the entries that Postgres has in its place: history below it is no difference (G4).
#[must_use]
pub fn judge_log(page: &LogPage, rows: &LogRows, entries: &BTreeMap<String, String>) -> Verdict {
    if page.is_pending {
        return Verdict::InFlight;
    }
    let row = rows.version.map(|version| Row {
        version,
        fate: Fate::Present,
        expires_at_ms: None,
        value: None,
        is_complete: true,
    });
    if !is_comparable(&page.fence, &rows.control, row.as_ref()) {
        return Verdict::ReadAgain;
    }
    if row.is_none() {
        return if entries.is_empty() { Verdict::Match } else { Verdict::MissingInPostgres };
    }
    let json = |text: &String| serde_json::from_str::<serde_json::Value>(text).ok();
    let held: BTreeMap<&String, &String> = rows.entries.iter().map(|(id, doc)| (id, doc)).collect();
    let is_same = |id: &&String| match (entries.get(*id), held.get(id)) {
        (Some(one), Some(two)) => json(one) == json(two),
        (None | Some(_), None | Some(_)) => false,
    };
    let ids: BTreeSet<&String> = entries.keys().chain(held.keys().copied()).collect();
    let differing: Vec<String> = ids.into_iter().filter(|id| !is_same(id)).take(FIELDS_MAX).cloned().collect();
    if differing.is_empty() { Verdict::Match } else { Verdict::Value(differing) }
}

/// Whether what Postgres said can be compared with the fence at all: same lineage, and nothing newer than the fence.
#[must_use]
pub fn is_comparable(fence: &Fence, control: &Control, row: Option<&Row>) -> bool {
    fence.epoch >= 0
        && fence.epoch == control.epoch
        && control.beat >= fence.beat
        && match row {
            Some(row) => row.version <= fence.clock,
            None => control.floor <= fence.clock,
        }
}

/// Whether a row may answer in the place of Redis (R1), or why Redis has to.
///
/// # Errors
/// The reason for which Redis answers.
pub fn believe(fence: &Fence, control: &Control, row: Option<&Row>) -> Result<(), RouteReason> {
    if control.epoch != fence.epoch || control.beat < fence.beat {
        return Err(RouteReason::Epoch);
    }
    let Some(row) = row else { return Err(RouteReason::NoRow) };
    if !is_comparable(fence, control, Some(row)) {
        return Err(RouteReason::NewerThanFence);
    }
    if row.fate != Fate::Present || row.expires_at_ms.is_some_and(|expires| expires <= fence.time_us / 1000) {
        return Err(RouteReason::Gone);
    }
    if !row.is_complete || control.floor > fence.clock {
        return Err(RouteReason::Incomplete);
    }
    Ok(())
}

/// Judges a record by a look at Redis and the row that was read after it.
///
/// While the backfill of its kind is owed no difference is a mismatch: Postgres may not have the record yet, or have it from
/// before marking ended.
#[must_use]
pub fn judge(kind: &Kind, is_backfilled: bool, look: &Look, control: &Control, row: Option<&Row>) -> Verdict {
    unless_owed(is_backfilled, judge_backfilled(kind, look, control, row))
}

/// Judges named elements of a collection, in the order in which they were asked of Redis.
#[must_use]
pub fn judge_elements(
    is_backfilled: bool,
    look: &ElementsLook,
    names: &[Bytes],
    control: &Control,
    row: Option<&Row>,
) -> Verdict {
    unless_owed(is_backfilled, judge_elements_backfilled(look, names, control, row))
}

fn unless_owed(is_backfilled: bool, verdict: Verdict) -> Verdict {
    if !is_backfilled && verdict.class().is_some() { Verdict::InFlight } else { verdict }
}

fn judge_elements_backfilled(look: &ElementsLook, names: &[Bytes], control: &Control, row: Option<&Row>) -> Verdict {
    if look.is_pending {
        return Verdict::InFlight;
    }
    if !is_comparable(&look.fence, control, row) {
        return Verdict::ReadAgain;
    }
    let Some(row) = row.filter(|row| row.fate == Fate::Present && row.is_complete) else {
        let has_any = look.elements.iter().any(Option::is_some);
        return if has_any { Verdict::MissingInPostgres } else { Verdict::InFlight };
    };
    let held = |name: &Bytes| row.value.as_ref().and_then(|value| value.element(name));
    let is_same = |(name, redis): &(&Bytes, &Option<Bytes>)| match (redis, held(name)) {
        (Some(one), Some(two)) => {
            look.type_name == "zset" && Score::new(one.clone()) == Score::new(two.clone()) || *one == two
        }
        (None, None) => true,
        (None, Some(_)) | (Some(_), None) => false,
    };
    let differing: Vec<String> = names
        .iter()
        .zip(&look.elements)
        .filter(|pair| !is_same(pair))
        .take(FIELDS_MAX)
        .map(|(name, _)| text::encode(name).into_owned())
        .collect();
    if differing.is_empty() { Verdict::Match } else { Verdict::Value(differing) }
}

fn judge_backfilled(kind: &Kind, look: &Look, control: &Control, row: Option<&Row>) -> Verdict {
    if look.is_pending {
        return Verdict::InFlight;
    }
    if !is_comparable(&look.fence, control, row) {
        return Verdict::ReadAgain;
    }
    let time_ms = look.fence.time_us / 1000;
    let live = row.filter(|row| row.fate == Fate::Present);
    match (&look.value, live) {
        (None, None) => Verdict::Match,
        (None, Some(row)) => match row.expires_at_ms {
            Some(expires) if expires <= time_ms => Verdict::Match,
            Some(_) | None => Verdict::MissingInRedis,
        },
        // It may have expired and been swept since the look.
        (Some(_), None) if row.is_none() && look.expires_at_ms.is_some() && control.floor > 0 => Verdict::ReadAgain,
        (Some(_), None) => Verdict::MissingInPostgres,
        (Some(value), Some(row)) => compare(kind, value, look.expires_at_ms, row),
    }
}

fn compare(kind: &Kind, redis: &Value, redis_expires_ms: Option<i64>, row: &Row) -> Verdict {
    let Some(postgres) = &row.value else { return Verdict::Value(Vec::new()) };
    if redis.type_name() != postgres.type_name() {
        return Verdict::Type;
    }
    let (one, two) = (normal(kind, redis), normal(kind, postgres));
    if one != two {
        return Verdict::Value(one.differing_names(&two, FIELDS_MAX));
    }
    compare_expiry(kind, redis_expires_ms, row.expires_at_ms)
}

fn compare_expiry(kind: &Kind, redis: Option<i64>, postgres: Option<i64>) -> Verdict {
    let tolerance = i64::try_from(kind.expiry_tolerance_ms).unwrap_or(i64::MAX);
    match (redis, postgres) {
        (None, None) => Verdict::Match,
        (Some(one), Some(two)) if (one.min(LATEST_MS) - two).abs() <= tolerance => Verdict::Match,
        (None | Some(_), None | Some(_)) => Verdict::Ttl,
    }
}

/// A value without what the kind ignores, and with numbers in one form where the kind compares them by value.
#[must_use]
pub fn normal(kind: &Kind, value: &Value) -> Value {
    let mut value = value.clone();
    if let Value::Hash(fields) = &mut value {
        for name in &kind.ignored_fields {
            fields.remove(name.as_bytes());
        }
        if kind.numbers_by_value {
            fields.values_mut().for_each(number);
        }
    }
    if let (Value::String(text), true) = (&mut value, kind.numbers_by_value) {
        number(text);
    }
    value
}

fn number(text: &mut Bytes) {
    let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok());
    if let Some(number) = parsed {
        *text = number.to_string().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::catalog::Catalog;

    fn string(text: &'static str) -> Value {
        Value::String(text.into())
    }

    fn look(value: Option<Value>) -> Look {
        let fence = Fence { clock: 100, epoch: 1, time_us: 5_000_000, beat: 7 };
        Look { fence, is_pending: false, type_name: String::new(), expires_at_ms: None, etag: String::new(), value }
    }

    fn row(version: i64, value: Option<Value>) -> Row {
        Row { version, fate: Fate::Present, expires_at_ms: None, value, is_complete: true }
    }

    const CONTROL: Control = Control { epoch: 1, floor: 0, beat: 7 };

    fn verdict(look: &Look, control: &Control, row: Option<&Row>) -> Verdict {
        let catalog = Catalog::embedded();
        judge(catalog.by_name("unmatched").expect("always there"), true, look, control, row)
    }

    #[test]
    fn a_pending_record_is_never_a_mismatch() {
        let pending = Look { is_pending: true, ..look(Some(string("a"))) };
        assert_eq!(verdict(&pending, &CONTROL, Some(&row(1, Some(string("b"))))), Verdict::InFlight);
    }

    #[test]
    fn while_the_backfill_is_owed_no_difference_is_a_mismatch() {
        let catalog = Catalog::embedded();
        let kind = catalog.by_name("unmatched").expect("always there");
        let present = look(Some(string("a")));
        assert_eq!(judge(kind, false, &present, &CONTROL, None), Verdict::InFlight);
        let differing = row(1, Some(string("b")));
        assert_eq!(judge(kind, false, &present, &CONTROL, Some(&differing)), Verdict::InFlight);
        assert_eq!(judge(kind, true, &present, &CONTROL, Some(&differing)), Verdict::Value(Vec::new()));
        assert_eq!(judge(kind, false, &look(None), &CONTROL, Some(&differing)), Verdict::InFlight);
    }

    #[test]
    fn a_row_above_the_clock_or_of_another_lineage_is_read_again() {
        let (look, newer) = (look(Some(string("a"))), row(101, Some(string("b"))));
        assert_eq!(verdict(&look, &CONTROL, Some(&newer)), Verdict::ReadAgain);
        let old = row(1, Some(string("b")));
        for control in [Control { epoch: 2, ..CONTROL }, Control { beat: 6, ..CONTROL }] {
            assert_eq!(verdict(&look, &control, Some(&old)), Verdict::ReadAgain);
        }
        assert_eq!(verdict(&look, &Control { floor: 101, ..CONTROL }, None), Verdict::ReadAgain);
    }

    #[test]
    fn every_difference_has_its_class() {
        let present = look(Some(string("a")));
        assert_eq!(verdict(&present, &CONTROL, Some(&row(1, Some(string("a"))))), Verdict::Match);
        assert_eq!(verdict(&present, &CONTROL, Some(&row(1, Some(string("b"))))), Verdict::Value(Vec::new()));
        assert_eq!(verdict(&present, &CONTROL, Some(&row(1, Some(Value::List(Vec::new()))))), Verdict::Type);
        assert_eq!(verdict(&present, &CONTROL, None), Verdict::MissingInPostgres);
        let expiring = Row { expires_at_ms: Some(9_000), ..row(1, Some(string("a"))) };
        assert_eq!(verdict(&present, &CONTROL, Some(&expiring)), Verdict::Ttl);
        let absent = look(None);
        assert_eq!(verdict(&absent, &CONTROL, Some(&row(1, Some(string("a"))))), Verdict::MissingInRedis);
        let expired = Row { expires_at_ms: Some(4_000), ..row(1, Some(string("a"))) };
        assert_eq!(verdict(&absent, &CONTROL, Some(&expired)), Verdict::Match);
        let gone = Row { fate: Fate::Gone, ..row(1, Some(string("a"))) };
        assert_eq!(verdict(&absent, &CONTROL, Some(&gone)), Verdict::Match);
        assert_eq!(verdict(&present, &CONTROL, Some(&gone)), Verdict::MissingInPostgres);
    }
}
