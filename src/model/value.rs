//! The value of a record: any of Redis' six types, and its lossless form as a `jsonb` document.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::Value as Json;

use crate::model::text;

/// The score of a sorted-set member: Redis' own text of it, so that an answer from Postgres is Redis' answer.
///
/// Two scores are equal when their numbers are, since the text of a number differs between Redis versions.
#[derive(Clone, Debug, Eq)]
pub struct Score(Bytes);

impl Score {
    /// The score whose text is `text`.
    pub fn new(text: impl Into<Bytes>) -> Self {
        Self(text.into())
    }

    /// Redis' text.
    #[must_use]
    pub fn text(&self) -> &Bytes {
        &self.0
    }

    /// The number; a text that is none (which Redis never sends) counts as zero.
    #[must_use]
    pub fn number(&self) -> f64 {
        std::str::from_utf8(&self.0).ok().and_then(|text| text.parse().ok()).unwrap_or(0.0)
    }
}

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || self.number().to_bits() == other.number().to_bits()
    }
}

/// An entry of a stream: its id, and fields and values in turn.
pub type StreamEntry = (Bytes, Vec<Bytes>);

/// The value of a Redis key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string.
    String(Bytes),
    /// A hash; the order of fields does not count.
    Hash(BTreeMap<Bytes, Bytes>),
    /// A list, head first.
    List(Vec<Bytes>),
    /// A set.
    Set(BTreeSet<Bytes>),
    /// A sorted set.
    Zset(BTreeMap<Bytes, Score>),
    /// A stream, oldest entry first.
    Stream(Vec<StreamEntry>),
}

impl Value {
    /// The name that Redis' `TYPE` gives.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::String(_) => "string",
            Self::Hash(_) => "hash",
            Self::List(_) => "list",
            Self::Set(_) => "set",
            Self::Zset(_) => "zset",
            Self::Stream(_) => "stream",
        }
    }

    /// A value of the named type from the flat list of bytes that `GET`, `HGETALL`, `LRANGE`, `SMEMBERS` or
    /// `ZRANGE .. WITHSCORES` answer. `None` for a type that has no such form (streams, modules).
    #[must_use]
    pub fn from_flat(type_name: &str, mut parts: Vec<Bytes>) -> Option<Self> {
        match type_name {
            "string" => Some(Self::String(parts.pop()?)),
            "hash" => Some(Self::Hash(pairs(parts).collect())),
            "list" => Some(Self::List(parts)),
            "set" => Some(Self::Set(parts.into_iter().collect())),
            "zset" => Some(Self::Zset(pairs(parts).map(|(member, score)| (member, Score(score))).collect())),
            _ => None,
        }
    }

    /// Whether a hash has this field, or a set or sorted set this member.
    #[must_use]
    pub fn has_element(&self, name: &[u8]) -> bool {
        self.element(name).is_some()
    }

    /// The value of a field, the score of a member (`""` for a set's); `None` where there is none.
    #[must_use]
    pub fn element(&self, name: &[u8]) -> Option<Bytes> {
        match self {
            Self::Hash(fields) => fields.get(name).cloned(),
            Self::Set(members) => members.contains(name).then(Bytes::new),
            Self::Zset(members) => members.get(name).map(|score| score.text().clone()),
            Self::String(_) | Self::List(_) | Self::Stream(_) => None,
        }
    }

    /// The JSON text of the document form (see the table in `docs/architecture.md`).
    #[must_use]
    pub fn to_doc(&self) -> String {
        let mut doc = String::new();
        match self {
            Self::String(bytes) => push_string(&mut doc, bytes),
            Self::Hash(fields) => push_object(&mut doc, fields.iter()),
            Self::List(items) => push_array(&mut doc, items.iter()),
            Self::Set(members) => push_array(&mut doc, members.iter()),
            Self::Zset(members) => push_object(&mut doc, members.iter().map(|(member, score)| (member, &score.0))),
            Self::Stream(entries) => {
                doc.push('[');
                for (index, (id, parts)) in entries.iter().enumerate() {
                    doc.push_str(if index == 0 { "[" } else { ",[" });
                    push_string(&mut doc, id);
                    doc.push(',');
                    push_array(&mut doc, parts.iter());
                    doc.push(']');
                }
                doc.push(']');
            }
        }
        doc
    }

    /// The value whose document form is `doc`; `None` when the document is not of that type's form.
    #[must_use]
    pub fn from_doc(type_name: &str, doc: &Json) -> Option<Self> {
        match type_name {
            "string" => Some(Self::String(string(doc)?)),
            "hash" => Some(Self::Hash(object(doc)?.collect::<Option<_>>()?)),
            "list" => Some(Self::List(strings(doc)?)),
            "set" => Some(Self::Set(strings(doc)?.into_iter().collect())),
            "zset" => {
                Some(Self::Zset(object(doc)?.map(|pair| pair.map(|(m, s)| (m, Score(s)))).collect::<Option<_>>()?))
            }
            "stream" => {
                let entry = |entry: &Json| Some((string(entry.get(0)?)?, strings(entry.get(1)?)?));
                Some(Self::Stream(doc.as_array()?.iter().map(entry).collect::<Option<_>>()?))
            }
            _ => None,
        }
    }

    /// The names of fields, members or positions in which two values differ, for a report without values; at most `limit`.
    #[must_use]
    pub fn differing_names(&self, other: &Self, limit: usize) -> Vec<String> {
        match (self, other) {
            (Self::Hash(one), Self::Hash(two)) => differing(one, two, limit),
            (Self::Zset(one), Self::Zset(two)) => differing(one, two, limit),
            _ => Vec::new(),
        }
    }
}

/// The JSON text of one string in text form.
#[must_use]
pub fn string_doc(bytes: &[u8]) -> String {
    let mut doc = String::with_capacity(bytes.len() + 2);
    push_string(&mut doc, bytes);
    doc
}

/// The JSON text of an array of strings in text form.
#[must_use]
pub fn strings_doc(parts: &[Bytes]) -> String {
    let mut doc = String::new();
    push_array(&mut doc, parts.iter());
    doc
}

fn pairs(parts: Vec<Bytes>) -> impl Iterator<Item = (Bytes, Bytes)> {
    let mut parts = parts.into_iter();
    std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
}

fn push_string(doc: &mut String, bytes: &[u8]) {
    let text = text::encode(bytes);
    // Most strings stand in JSON as they are.
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        doc.extend(["\"", &text, "\""]);
    } else {
        doc.push_str(&serde_json::to_string(&text).expect("a string is always JSON"));
    }
}

fn push_array<'a>(doc: &mut String, items: impl Iterator<Item = &'a Bytes>) {
    doc.push('[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            doc.push(',');
        }
        push_string(doc, item);
    }
    doc.push(']');
}

fn push_object<'a>(doc: &mut String, pairs: impl Iterator<Item = (&'a Bytes, &'a Bytes)>) {
    doc.push('{');
    for (index, (name, value)) in pairs.enumerate() {
        if index > 0 {
            doc.push(',');
        }
        push_string(doc, name);
        doc.push(':');
        push_string(doc, value);
    }
    doc.push('}');
}

fn string(doc: &Json) -> Option<Bytes> {
    Some(Bytes::from(text::decode(doc.as_str()?)))
}

fn strings(doc: &Json) -> Option<Vec<Bytes>> {
    doc.as_array()?.iter().map(string).collect()
}

fn object(doc: &Json) -> Option<impl Iterator<Item = Option<(Bytes, Bytes)>>> {
    Some(doc.as_object()?.iter().map(|(name, value)| Some((Bytes::from(text::decode(name)), string(value)?))))
}

fn differing<V: PartialEq>(one: &BTreeMap<Bytes, V>, two: &BTreeMap<Bytes, V>, limit: usize) -> Vec<String> {
    let names: BTreeSet<&Bytes> = one.keys().chain(two.keys()).collect();
    let differs = |name: &&&Bytes| one.get(**name) != two.get(**name);
    names.iter().filter(differs).take(limit).map(|name| text::encode(name).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blob() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(Bytes::from)
    }

    fn value() -> impl Strategy<Value = Value> {
        let score = any::<f64>().prop_filter("no NaN", |s| !s.is_nan()).prop_map(|s| Score::new(s.to_string()));
        prop_oneof![
            blob().prop_map(Value::String),
            proptest::collection::btree_map(blob(), blob(), 0..6).prop_map(Value::Hash),
            proptest::collection::vec(blob(), 0..6).prop_map(Value::List),
            proptest::collection::btree_set(blob(), 0..6).prop_map(Value::Set),
            proptest::collection::btree_map(blob(), score, 0..6).prop_map(Value::Zset),
            proptest::collection::vec((blob(), proptest::collection::vec(blob(), 0..4)), 0..4).prop_map(Value::Stream),
        ]
    }

    proptest! {
        #[test]
        fn a_document_gives_every_value_back(value in value()) {
            let doc: Json = serde_json::from_str(&value.to_doc()).expect("JSON");
            prop_assert_eq!(Value::from_doc(value.type_name(), &doc), Some(value));
        }
    }

    #[test]
    fn a_score_is_its_number() {
        assert_eq!(Score::new("0.1"), Score::new("0.10000000000000001"));
        assert_ne!(Score::new("0.1"), Score::new("0.10000000000000002"));
        assert_eq!(Score::new("inf").number(), f64::INFINITY);
    }
}
