//! Digests of records and of buckets of them, the same from both stores: what tells, without a comparison of values, which
//! part of the keyspace must be looked at. Pure.
//!
//! A record's digest is SHA-256 over its canonical form, cut in two numbers; a bucket keeps how many records it has and the
//! wrapping sum of each number, so that no order counts and nothing grows with the keyspace.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::dual::answer::LATEST_MS;
use crate::dual::verdict;
use crate::model::catalog::Kind;
use crate::model::key::Key;
use crate::model::value::{Score, Value};

/// Buckets of key hashes. A power of two, at most 65,536.
pub const BUCKETS: usize = 16_384;

/// Two independent numbers.
pub type Digest = [u64; 2];

/// The bucket of a record by the hash under which Postgres knows it.
#[must_use]
pub fn bucket_of(hash: &[u8]) -> usize {
    let [high, low] = [0, 1].map(|at| usize::from(hash.get(at).copied().unwrap_or(0)));
    (high * 256 + low) / (65_536 / BUCKETS)
}

/// The hashes between which a bucket lies: behind the first, up to and with the second.
#[must_use]
pub fn range_of(bucket: usize) -> (Vec<u8>, Vec<u8>) {
    let width = 65_536 / BUCKETS;
    let bytes = |number: usize| u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
    let first = bucket * width;
    // Everything in a bucket is longer than the two bytes that it begins with, so it lies behind them.
    let after = if first == 0 { Vec::new() } else { [bytes(first - 1).as_slice(), &[0xff; 15]].concat() };
    let until = [bytes(first + width - 1).as_slice(), &[0xff; 15]].concat();
    (after, until)
}

/// Hashes without order, such as of the elements of a collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// How many.
    pub count: u64,
    sums: Digest,
}

impl Sums {
    /// Adds one.
    pub fn add(&mut self, digest: Digest) {
        self.count += 1;
        for (sum, number) in self.sums.iter_mut().zip(digest) {
            *sum = sum.wrapping_add(number);
        }
    }
}

/// All buckets of one store.
pub struct Buckets(Vec<Sums>);

impl Default for Buckets {
    fn default() -> Self {
        Self(vec![Sums::default(); BUCKETS])
    }
}

impl Buckets {
    /// Adds a record.
    pub fn add(&mut self, hash: &[u8], digest: Digest) {
        if let Some(sums) = self.0.get_mut(bucket_of(hash)) {
            sums.add(digest);
        }
    }

    /// The buckets in which the stores differ.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<bool> {
        self.0.iter().zip(&other.0).map(|(one, two)| one != two).collect()
    }
}

/// What of a record does not stand in its value.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Its key.
    pub key: &'a Key,
    /// Its type.
    pub type_name: &'a str,
    /// Its expiry, in milliseconds.
    pub expires_at_ms: Option<i64>,
}

/// The digest of a document.
#[must_use]
pub fn document(kind: &Kind, head: Head<'_>, value: &Value) -> Digest {
    let mut hasher = begin(head);
    match verdict::normal(kind, value) {
        Value::String(text) => part(&mut hasher, &text),
        Value::Hash(fields) => fields.iter().for_each(|(name, value)| pair(&mut hasher, name, value)),
        Value::List(items) => items.iter().for_each(|item| part(&mut hasher, item)),
        Value::Set(members) => members.iter().for_each(|member| part(&mut hasher, member)),
        Value::Zset(members) => {
            for (member, score) in &members {
                pair(&mut hasher, member, &score.number().to_bits().to_be_bytes());
            }
        }
        Value::Stream(entries) => {
            for (id, parts) in &entries {
                pair(&mut hasher, id, &parts.len().to_be_bytes());
                parts.iter().for_each(|item| part(&mut hasher, item));
            }
        }
    }
    end(hasher)
}

/// The digest of a collection whose elements are summed.
#[must_use]
pub fn collection(head: Head<'_>, elements: Sums) -> Digest {
    let mut hasher = begin(head);
    let [one, two] = elements.sums;
    for number in [elements.count, one, two] {
        hasher.update(number.to_be_bytes());
    }
    end(hasher)
}

/// The digest of one element: a field and its value, a member, a member and its score.
#[must_use]
pub fn element(type_name: &str, name: &Bytes, value: &Bytes) -> Digest {
    let mut hasher = Sha256::new();
    match type_name {
        "zset" => pair(&mut hasher, name, &Score::new(value.clone()).number().to_bits().to_be_bytes()),
        _ => pair(&mut hasher, name, value),
    }
    end(hasher)
}

fn begin(head: Head<'_>) -> Sha256 {
    let mut hasher = Sha256::new();
    pair(&mut hasher, head.key.as_bytes(), head.type_name.as_bytes());
    hasher.update(head.expires_at_ms.map_or(-1, |at| at.min(LATEST_MS)).to_be_bytes());
    hasher
}

fn pair(hasher: &mut Sha256, one: &[u8], two: &[u8]) {
    part(hasher, one);
    part(hasher, two);
}

/// With its length, so that two parts are never taken for two others.
fn part(hasher: &mut Sha256, bytes: &[u8]) {
    hasher.update(bytes.len().to_be_bytes());
    hasher.update(bytes);
}

fn end(hasher: Sha256) -> Digest {
    let hash = hasher.finalize();
    [0, 8].map(|from| {
        let bytes = hash.get(from..from + 8).and_then(|bytes| bytes.try_into().ok());
        u64::from_be_bytes(bytes.expect("a SHA-256 has 32 bytes"))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::catalog::Catalog;

    #[test]
    fn every_hash_lies_in_the_range_of_its_bucket_and_in_no_other() {
        for hash in [[0_u8; 16], [0xff; 16], [7; 16], [0x80; 16]] {
            let bucket = bucket_of(&hash);
            let holds = |bucket: usize| {
                let (after, until) = range_of(bucket);
                hash.as_slice() > after.as_slice() && hash.as_slice() <= until.as_slice()
            };
            assert!(holds(bucket), "{hash:?}");
            assert!(bucket == 0 || !holds(bucket - 1));
            assert!(bucket + 1 == BUCKETS || !holds(bucket + 1));
        }
    }

    #[test]
    fn whatever_differs_in_a_record_differs_in_its_digest_and_the_order_of_fields_does_not() {
        let catalog = Catalog::embedded();
        let kind = catalog.by_name("unmatched").unwrap();
        let (key, other) = (Key::new("k"), Key::new("l"));
        let head = |key, expires_at_ms| Head { key, type_name: "hash", expires_at_ms };
        let hash = |pairs: &[(&'static str, &'static str)]| {
            Value::Hash(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect::<BTreeMap<_, _>>())
        };
        let one = document(kind, head(&key, None), &hash(&[("a", "1"), ("b", "2")]));
        assert_eq!(one, document(kind, head(&key, None), &hash(&[("b", "2"), ("a", "1")])));
        for (head, value) in [
            (head(&other, None), hash(&[("a", "1"), ("b", "2")])),
            (head(&key, Some(5)), hash(&[("a", "1"), ("b", "2")])),
            (head(&key, None), hash(&[("a", "12"), ("b", "")])),
            (head(&key, None), hash(&[("a", "1"), ("b", "2 ")])),
        ] {
            assert_ne!(one, document(kind, head, &value));
        }
        let score = |text: &'static str| element("zset", &"m".into(), &text.into());
        assert_eq!(score("1"), score("1.0"));
        assert_ne!(score("0.1"), score("0.10000000000000002"));
    }

    #[test]
    fn a_bucket_that_holds_a_record_twice_is_another_bucket() {
        let (mut one, mut two) = (Buckets::default(), Buckets::default());
        one.add(&[1; 16], [5, 6]);
        two.add(&[1; 16], [5, 6]);
        assert!(!one.differing(&two).contains(&true));
        two.add(&[1; 16], [5, 6]);
        assert_eq!(one.differing(&two).iter().filter(|differs| **differs).count(), 1);
    }
}
