//! Answers a read from a value, as Redis would have. Pure; a command that is not here is answered by Redis.

use bytes::Bytes;

use crate::dual::ranges;
use crate::model::command::Command;
use crate::model::frame::Protocol;
use crate::model::reply::Reply;
use crate::model::value::Value;

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
    const ANSWERED: [&str; 34] = [
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
        "ZRANGEBYSCORE",
        "ZREVRANGEBYSCORE",
        "ZCOUNT",
        "ZRANK",
        "ZREVRANK",
        "LRANGE",
        "LLEN",
        "LINDEX",
    ];
    ANSWERED.contains(&command.name().as_str())
}

/// The reply to `command` from its records, one for each key, in the form of `protocol`; `None` when Redis must be asked.
#[must_use]
pub fn reply(command: &Command, records: &[Record], now_ms: i64, protocol: Protocol) -> Option<Reply> {
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
            Value::Zset(members) => ranges::reply(&name, command, members, protocol),
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
        "HGETALL" => {
            let pair = |(field, value): (&Bytes, &Bytes)| (Reply::Bulk(field.clone()), Reply::Bulk(value.clone()));
            Reply::Map(fields.iter().map(pair).collect())
        }
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
        "SMEMBERS" => Reply::Set(members.iter().map(|member| Reply::Bulk(member.clone())).collect()),
        "SISMEMBER" => flag(members.contains(command.arg(2)?)),
        "SMISMEMBER" => Reply::Array(command.0.iter().skip(2).map(|member| flag(members.contains(member))).collect()),
        "SCARD" => count(members.len()),
        _ => return None,
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
pub(super) fn window(length: usize, start: i64, stop: i64) -> std::ops::Range<usize> {
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
    use crate::model::value::Score;

    fn ask(line: &str, value: Value) -> Option<Reply> {
        let command = Command::new(line.split(' ').map(|part| part.as_bytes().to_vec()));
        reply(&command, &[Record { value, expires_at_ms: Some(10_700) }], 10_000, Protocol::Resp2)
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
        assert_eq!(reply(&command, &[record(LATEST_MS)], 10_000, Protocol::Resp2), None);
        assert_eq!(
            reply(&command, &[record(LATEST_MS - 1)], 10_000, Protocol::Resp2),
            Some(Reply::Integer(LATEST_MS - 1))
        );
    }

    #[test]
    fn a_command_of_another_type_is_asked_of_redis() {
        assert_eq!(ask("GET k", zset()), None);
        assert_eq!(ask("HGET k f", Value::String("x".into())), None);
        assert_eq!(ask("HGETALL k", zset()), None);
    }

    #[test]
    fn a_time_to_live_is_rounded_as_redis_rounds_it() {
        assert_eq!(ask("TTL k", zset()), Some(Reply::Integer(1)));
        assert_eq!(ask("PTTL k", zset()), Some(Reply::Integer(700)));
    }
}
