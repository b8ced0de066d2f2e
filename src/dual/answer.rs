//! Answers a read from a value, as Redis would have. Pure; a command that is not here is answered by Redis.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::model::command::Command;
use crate::model::reply::Reply;
use crate::model::value::{Score, Value};

/// The latest expiry that a row can hold, in milliseconds: the end of the year 9999.
pub(super) const LATEST_MS: i64 = 253_402_300_799_000;

/// A record that a read may be answered from.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its value.
    pub value: Value,
    /// Its expiry, in milliseconds.
    pub expires_at_ms: Option<i64>,
}

/// Elements that the command asks for by name, where it does; a collection then need not be read whole.
#[must_use]
pub fn named_elements(command: &Command) -> Option<Vec<Bytes>> {
    match command.name().as_str() {
        "HGET" | "HEXISTS" | "SISMEMBER" | "ZSCORE" | "HMGET" | "SMISMEMBER" | "ZMSCORE" | "HSTRLEN" => {
            Some(command.0.iter().skip(2).cloned().collect())
        }
        _ => None,
    }
}

/// Whether the command is one that [`reply`] may answer.
#[must_use]
pub fn is_answerable(command: &Command) -> bool {
    const ANSWERED: [&str; 31] = [
        "GET",
        "MGET",
        "STRLEN",
        "EXISTS",
        "TYPE",
        "TTL",
        "PTTL",
        "EXPIRETIME",
        "PEXPIRETIME",
        "HGET",
        "HMGET",
        "HGETALL",
        "HKEYS",
        "HVALS",
        "HLEN",
        "HEXISTS",
        "HSTRLEN",
        "SMEMBERS",
        "SISMEMBER",
        "SMISMEMBER",
        "SCARD",
        "ZSCORE",
        "ZMSCORE",
        "ZCARD",
        "ZRANGE",
        "ZREVRANGE",
        "ZRANK",
        "ZREVRANK",
        "LRANGE",
        "LLEN",
        "LINDEX",
    ];
    ANSWERED.contains(&command.name().as_str())
}

/// The reply to `command` from its records, one for each key; `None` when Redis must be asked.
#[must_use]
pub fn reply(command: &Command, records: &[Record], now_ms: i64) -> Option<Reply> {
    let name = command.name();
    let record = records.first()?;
    match name.as_str() {
        "MGET" => {
            let string = |record: &Record| match &record.value {
                Value::String(bytes) => Reply::Bulk(bytes.clone()),
                Value::Hash(_) | Value::List(_) | Value::Set(_) | Value::Zset(_) | Value::Stream(_) => Reply::Nil,
            };
            Some(Reply::Array(records.iter().map(string).collect()))
        }
        "EXISTS" => Some(count(records.len())),
        "TYPE" => Some(Reply::Status(record.value.type_name().to_owned())),
        "TTL" | "PTTL" | "EXPIRETIME" | "PEXPIRETIME" => expiry(&name, record, now_ms),
        _ => match &record.value {
            Value::String(bytes) => string(&name, bytes),
            Value::Hash(fields) => hash(&name, command, fields),
            Value::Set(members) => set(&name, command, members),
            Value::Zset(members) => zset(&name, command, members),
            Value::List(items) => list(&name, command, items),
            Value::Stream(_) => None,
        },
    }
}

fn count(number: usize) -> Reply {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn flag(is_so: bool) -> Reply {
    Reply::Integer(i64::from(is_so))
}

fn bulk(bytes: Option<&Bytes>) -> Reply {
    bytes.map_or(Reply::Nil, |bytes| Reply::Bulk(bytes.clone()))
}

fn bulks<'a>(items: impl Iterator<Item = &'a Bytes>) -> Reply {
    Reply::Array(items.map(|item| Reply::Bulk(item.clone())).collect())
}

fn expiry(name: &str, record: &Record, now_ms: i64) -> Option<Reply> {
    let Some(expires) = record.expires_at_ms else { return Some(Reply::Integer(-1)) };
    if expires >= LATEST_MS {
        // What lies beyond is kept as this moment, and only Redis knows what it was.
        return None;
    }
    let left = (expires - now_ms).max(0);
    Some(Reply::Integer(match name {
        "TTL" => (left + 500) / 1000,
        "PTTL" => left,
        "EXPIRETIME" => (expires + 500) / 1000,
        _ => expires,
    }))
}

fn string(name: &str, bytes: &Bytes) -> Option<Reply> {
    match name {
        "GET" => Some(Reply::Bulk(bytes.clone())),
        "STRLEN" => Some(count(bytes.len())),
        _ => None,
    }
}

fn hash(name: &str, command: &Command, fields: &std::collections::BTreeMap<Bytes, Bytes>) -> Option<Reply> {
    let asked = || command.0.iter().skip(2);
    Some(match name {
        "HGET" => bulk(fields.get(command.arg(2)?)),
        "HMGET" => Reply::Array(asked().map(|field| bulk(fields.get(field))).collect()),
        "HGETALL" => bulks(fields.iter().flat_map(|(field, value)| [field, value])),
        "HKEYS" => bulks(fields.keys()),
        "HVALS" => bulks(fields.values()),
        "HLEN" => count(fields.len()),
        "HEXISTS" => flag(fields.contains_key(command.arg(2)?)),
        "HSTRLEN" => count(fields.get(command.arg(2)?).map_or(0, Bytes::len)),
        _ => return None,
    })
}

fn set(name: &str, command: &Command, members: &std::collections::BTreeSet<Bytes>) -> Option<Reply> {
    Some(match name {
        "SMEMBERS" => bulks(members.iter()),
        "SISMEMBER" => flag(members.contains(command.arg(2)?)),
        "SMISMEMBER" => Reply::Array(command.0.iter().skip(2).map(|member| flag(members.contains(member))).collect()),
        "SCARD" => count(members.len()),
        _ => return None,
    })
}

type Members = std::collections::BTreeMap<Bytes, Score>;

fn zset(name: &str, command: &Command, members: &Members) -> Option<Reply> {
    let score = |member: &Bytes| bulk(members.get(member).map(Score::text));
    Some(match name {
        "ZSCORE" => score(command.arg(2)?),
        "ZMSCORE" => Reply::Array(command.0.iter().skip(2).map(score).collect()),
        "ZCARD" => count(members.len()),
        "ZRANK" | "ZREVRANK" if command.0.len() == 3 => {
            let order = ordered(members, name == "ZREVRANK");
            let member = command.arg(2)?;
            order.iter().position(|(name, _)| *name == member).map_or(Reply::Nil, count)
        }
        "ZRANGE" | "ZREVRANGE" => return ranked(command, members, name == "ZREVRANGE"),
        _ => return None,
    })
}

fn ordered(members: &Members, is_reversed: bool) -> Vec<(&Bytes, &Score)> {
    let mut order: Vec<_> = members.iter().collect();
    // Zero and minus zero are one score; only then does the name decide.
    let by_score = |one: &Score, two: &Score| one.number().partial_cmp(&two.number()).unwrap_or(Ordering::Equal);
    order.sort_by(|one, two| by_score(one.1, two.1).then_with(|| one.0.cmp(two.0)));
    if is_reversed {
        order.reverse();
    }
    order
}

/// ZRANGE and ZREVRANGE by rank; the forms by score and by name are Redis' to answer.
fn ranked(command: &Command, members: &Members, is_reversed: bool) -> Option<Reply> {
    let with_scores = match (command.0.len(), command.is_word(4, "WITHSCORES")) {
        (4, _) => false,
        (5, true) => true,
        _ => return None,
    };
    let order = ordered(members, is_reversed);
    let window = window(order.len(), command.integer(2)?, command.integer(3)?);
    let chosen = order.get(window)?;
    Some(if with_scores {
        bulks(chosen.iter().flat_map(|(member, score)| [*member, score.text()]))
    } else {
        bulks(chosen.iter().map(|(member, _)| *member))
    })
}

fn list(name: &str, command: &Command, items: &[Bytes]) -> Option<Reply> {
    Some(match name {
        "LRANGE" => {
            let window = window(items.len(), command.integer(2)?, command.integer(3)?);
            bulks(items.get(window)?.iter())
        }
        "LLEN" => count(items.len()),
        "LINDEX" => {
            let index = command.integer(2)?;
            let length = i64::try_from(items.len()).ok()?;
            let place = if index < 0 { index + length } else { index };
            bulk(usize::try_from(place).ok().and_then(|place| items.get(place)))
        }
        _ => return None,
    })
}

/// The places from `start` to `stop` inclusive, both counted from the end where negative.
fn window(length: usize, start: i64, stop: i64) -> std::ops::Range<usize> {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let place = |index: i64| if index < 0 { index.saturating_add(length) } else { index };
    let from = place(start).max(0);
    let to = place(stop).min(length - 1).saturating_add(1);
    if from >= to {
        return 0..0;
    }
    let index = |number: i64| usize::try_from(number).unwrap_or(0);
    index(from)..index(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str, value: Value) -> Option<Reply> {
        let command = Command::new(line.split(' ').map(|part| part.as_bytes().to_vec()));
        reply(&command, &[Record { value, expires_at_ms: Some(10_700) }], 10_000)
    }

    fn zset() -> Value {
        Value::Zset([("b", "1"), ("a", "1"), ("c", "-2.5")].map(|(m, s)| (m.into(), Score::new(s))).into())
    }

    #[test]
    fn a_range_counts_from_both_ends() {
        let list = || Value::List(["a", "b", "c"].map(Bytes::from).into());
        let items = |names: &[&'static str]| Some(Reply::Array(names.iter().map(|name| Reply::bulk(*name)).collect()));
        assert_eq!(ask("LRANGE k 0 -1", list()), items(&["a", "b", "c"]));
        assert_eq!(ask("LRANGE k -2 1", list()), items(&["b"]));
        assert_eq!(ask("LRANGE k 5 9", list()), items(&[]));
        assert_eq!(ask("LRANGE k 2 1", list()), items(&[]));
        assert_eq!(ask("LINDEX k -1", list()), Some(Reply::bulk("c")));
        assert_eq!(ask("ZRANGE k 0 1", zset()), items(&["c", "a"]));
        assert_eq!(ask("ZREVRANGE k 0 0 WITHSCORES", zset()), items(&["b", "1"]));
        assert_eq!(ask("ZRANK k b", zset()), Some(Reply::Integer(2)));
    }

    #[test]
    fn zero_and_minus_zero_are_one_score() {
        let zset = Value::Zset([("b", "-0"), ("a", "0")].map(|(m, s)| (m.into(), Score::new(s))).into());
        assert_eq!(ask("ZRANGE k 0 0", zset), Some(Reply::Array(vec![Reply::bulk("a")])));
    }

    #[test]
    fn an_expiry_beyond_what_a_row_holds_is_asked_of_redis() {
        let command = Command::new(["PEXPIRETIME", "k"]);
        let record = |expires| Record { value: zset(), expires_at_ms: Some(expires) };
        assert_eq!(reply(&command, &[record(LATEST_MS)], 10_000), None);
        assert_eq!(reply(&command, &[record(LATEST_MS - 1)], 10_000), Some(Reply::Integer(LATEST_MS - 1)));
    }

    #[test]
    fn a_command_of_another_type_is_asked_of_redis() {
        assert_eq!(ask("GET k", zset()), None);
        assert_eq!(ask("HGET k f", Value::String("x".into())), None);
        assert_eq!(ask("ZRANGE k 0 1 BYSCORE", zset()), None);
    }

    #[test]
    fn a_time_to_live_is_rounded_as_redis_rounds_it() {
        assert_eq!(ask("TTL k", zset()), Some(Reply::Integer(1)));
        assert_eq!(ask("PTTL k", zset()), Some(Reply::Integer(700)));
    }
}
