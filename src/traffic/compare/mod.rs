//! A second opinion on equality: reads every key of Redis and every live row of Postgres, and holds them against each other.
//!
//! It shares no code with the engine's own verdict, so that a mistake in one shows in the other. It wants both stores at
//! rest (no writers, an empty outbox) and keeps both in memory: it is made for demos and tests, not for production.

mod postgres;
mod redis;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::model::catalog::{Catalog, Layout};
use crate::model::key::{CONTROL_PREFIX, hash16};
use crate::model::text;

/// How many differences are kept as examples; all of them are counted.
const EXAMPLES_MAX: usize = 20;

/// In which way a record differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Redis has the record, Postgres has no live row.
    MissingInPostgres,
    /// Postgres has a live row, Redis has no such record.
    MissingInRedis,
    /// Both have it, with another type.
    Type,
    /// Both have it, with another value.
    Value,
    /// Both have it, with another expiry.
    Ttl,
    /// Postgres has a live row of a kind that is not mirrored, or in the wrong table, or elements without a header.
    Stray,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MissingInPostgres => "missing_in_postgres",
            Self::MissingInRedis => "missing_in_redis",
            Self::Type => "type",
            Self::Value => "value",
            Self::Ttl => "ttl",
            Self::Stray => "stray",
        })
    }
}

/// One record that differs. Carries the hash of its key, never the key or a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// In which way.
    pub class: Class,
    /// The kind of the record.
    pub kind: String,
    /// The hash of its key, as in Postgres.
    pub key_hash: String,
}

/// The outcome of a comparison of both stores.
#[derive(Clone, Debug, Default)]
pub struct Equality {
    /// Records of mirrored kinds that were compared, from either side.
    pub records: u64,
    /// Keys of Redis that belong to Redis alone.
    pub ephemeral: u64,
    /// Records that expired while we looked, and were left out.
    pub expiring: u64,
    /// Live rows of elements and of log entries that were read.
    pub elements: u64,
    /// Entries of logs that only Postgres still has: Redis has trimmed them.
    pub history: u64,
    /// How many differences there are, by class and kind.
    pub differences: BTreeMap<(Class, String), u64>,
    /// The first of them.
    pub examples: Vec<Difference>,
}

impl Equality {
    /// Whether both stores hold the same.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.differences.is_empty()
    }

    /// How many differences there are in all.
    #[must_use]
    pub fn differences_total(&self) -> u64 {
        self.differences.values().sum()
    }

    fn differ(&mut self, class: Class, kind: &str, key: &[u8]) {
        *self.differences.entry((class, kind.to_owned())).or_default() += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(Difference { class, kind: kind.to_owned(), key_hash: text::hex(&hash16(key)) });
        }
    }
}

/// Why there is no comparison.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// Redis could not be read.
    #[error("redis could not be read: {0}")]
    Redis(String),
    /// Postgres could not be read.
    #[error("postgres could not be read: {0}")]
    Postgres(String),
}

/// A value, in a form that is equal when the values are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    Text(Vec<u8>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    List(Vec<Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    /// Member and the bits of its score: two texts of one number are one score.
    Zset(BTreeMap<Vec<u8>, u64>),
    /// Entry id, and fields and values in turn.
    Stream(BTreeMap<Vec<u8>, Vec<Vec<u8>>>),
    /// Something that Redis would never answer: a document of another form.
    Broken,
}

/// A record as one store holds it.
#[derive(Clone, Debug)]
struct Record {
    type_name: String,
    held: Held,
    expires_at_ms: Option<i64>,
}

/// Everything that one store holds, by key.
type Records = BTreeMap<Vec<u8>, Record>;

/// Reads both stores and compares them.
///
/// # Errors
/// [`CompareError`] when a store cannot be read to its end.
pub async fn stores(redis_url: &str, postgres_url: &str, catalog: &Catalog) -> Result<Equality, CompareError> {
    let mut outcome = Equality::default();
    let in_redis = redis::read(redis_url, catalog, &mut outcome).await?;
    let in_postgres = postgres::read(postgres_url, catalog, &mut outcome).await?;
    // What has expired by now may be seen by one side and not by the other.
    let now_ms = redis::now_ms(redis_url).await?;
    hold_against_each_other(&in_redis, &in_postgres, catalog, now_ms, &mut outcome);
    Ok(outcome)
}

fn hold_against_each_other(
    in_redis: &Records,
    in_postgres: &Records,
    catalog: &Catalog,
    now_ms: i64,
    outcome: &mut Equality,
) {
    let has_expired = |record: &Record| record.expires_at_ms.is_some_and(|at| at <= now_ms);
    for (key, redis) in in_redis {
        if has_expired(redis) {
            outcome.expiring += 1;
            continue;
        }
        outcome.records += 1;
        let kind = catalog.kind_of(key);
        let Some(postgres) = in_postgres.get(key).filter(|record| !has_expired(record)) else {
            // A row that says "expired" while Redis says "lives" has the wrong expiry.
            let class = if in_postgres.contains_key(key) { Class::Ttl } else { Class::MissingInPostgres };
            outcome.differ(class, &kind.name, key);
            continue;
        };
        if redis.type_name != postgres.type_name {
            outcome.differ(Class::Type, &kind.name, key);
            continue;
        }
        let same = match kind.layout {
            Layout::Document | Layout::Collection => redis.held == postgres.held,
            Layout::Log => contains(&postgres.held, &redis.held, &mut outcome.history),
        };
        if !same {
            outcome.differ(Class::Value, &kind.name, key);
        }
        if redis.expires_at_ms != postgres.expires_at_ms {
            outcome.differ(Class::Ttl, &kind.name, key);
        }
    }
    for (key, postgres) in in_postgres {
        if !in_redis.contains_key(key) && !has_expired(postgres) {
            outcome.records += 1;
            outcome.differ(Class::MissingInRedis, &catalog.kind_of(key).name, key);
        }
    }
}

/// Whether the `history` of a log has every entry that is in Redis, as often as it is there.
fn contains(history: &Held, current: &Held, beyond: &mut u64) -> bool {
    match (history, current) {
        (Held::List(history), Held::List(current)) => {
            let mut counts: BTreeMap<&[u8], usize> = BTreeMap::new();
            for entry in history {
                *counts.entry(entry).or_default() += 1;
            }
            *beyond += history.len().saturating_sub(current.len()) as u64;
            current.iter().all(|entry| match counts.get_mut(entry.as_slice()) {
                Some(count) if *count > 0 => {
                    *count -= 1;
                    true
                }
                _ => false,
            })
        }
        (Held::Stream(history), Held::Stream(current)) => {
            *beyond += history.len().saturating_sub(current.len()) as u64;
            current.iter().all(|(id, entry)| history.get(id) == Some(entry))
        }
        (history, current) => history == current,
    }
}

/// Whether this key of Redis takes part.
fn takes_part(catalog: &Catalog, key: &[u8]) -> bool {
    !key.starts_with(CONTROL_PREFIX) && catalog.kind_of(key).is_mirrored()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(held: Held, expires_at_ms: Option<i64>) -> Record {
        let type_name = match &held {
            Held::Text(_) | Held::Broken => "string",
            Held::Hash(_) => "hash",
            Held::List(_) => "list",
            Held::Set(_) => "set",
            Held::Zset(_) => "zset",
            Held::Stream(_) => "stream",
        };
        Record { type_name: type_name.to_owned(), held, expires_at_ms }
    }

    fn text_of(value: &str) -> Held {
        Held::Text(value.as_bytes().to_vec())
    }

    fn outcome(key: &str, redis: Option<Record>, postgres: Option<Record>) -> Vec<Class> {
        let side =
            |record: Option<Record>| record.map(|record| (key.as_bytes().to_vec(), record)).into_iter().collect();
        let mut outcome = Equality::default();
        let (redis, postgres): (Records, Records) = (side(redis), side(postgres));
        hold_against_each_other(&redis, &postgres, &Catalog::embedded(), 1_000, &mut outcome);
        outcome.differences.into_keys().map(|(class, _)| class).collect()
    }

    #[test]
    fn every_way_to_differ_is_named() {
        let one = || record(text_of("1"), None);
        let key = "usage:cost:total:k";
        assert_eq!(outcome(key, Some(one()), Some(one())), []);
        assert_eq!(outcome(key, Some(one()), None), [Class::MissingInPostgres]);
        assert_eq!(outcome(key, None, Some(one())), [Class::MissingInRedis]);
        assert_eq!(outcome(key, Some(one()), Some(record(text_of("2"), None))), [Class::Value]);
        assert_eq!(outcome(key, Some(one()), Some(record(text_of("1"), Some(5_000)))), [Class::Ttl]);
        assert_eq!(outcome(key, Some(one()), Some(record(Held::Set(BTreeSet::new()), None))), [Class::Type]);
    }

    #[test]
    fn what_has_expired_on_both_sides_is_left_out_and_on_one_side_is_a_wrong_expiry() {
        let at = |ms| Some(record(text_of("1"), Some(ms)));
        let key = "usage:cost:daily:k:2026-11-23";
        assert_eq!(outcome(key, None, at(999)), []);
        assert_eq!(outcome(key, at(999), None), []);
        assert_eq!(outcome(key, at(5_000), at(999)), [Class::Ttl]);
    }

    #[test]
    fn a_log_may_hold_more_in_postgres_and_never_less() {
        let list = |entries: &[&str]| {
            Some(record(Held::List(entries.iter().map(|entry| entry.as_bytes().to_vec()).collect()), None))
        };
        let key = "usage:records:k";
        assert_eq!(outcome(key, list(&["b", "b"]), list(&["a", "b", "b"])), []);
        assert_eq!(outcome(key, list(&["b", "b"]), list(&["a", "b"])), [Class::Value]);
    }
}
