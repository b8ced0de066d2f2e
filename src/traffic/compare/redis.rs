//! The Redis side: every key by SCAN, with type, value and absolute expiry.

use std::collections::BTreeMap;

use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, Pipeline, Value, cmd};

use crate::model::catalog::Catalog;
use crate::model::key::CONTROL_PREFIX;
use crate::traffic::compare::{CompareError, Equality, Held, Record, Records, takes_part};

/// Keys asked for at once.
const SCAN_COUNT: usize = 1_000;
/// How long one answer may take.
const ANSWER_DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

/// Every record of a mirrored kind.
pub(super) async fn read(url: &str, catalog: &Catalog, outcome: &mut Equality) -> Result<Records, CompareError> {
    let mut connection = connect(url).await?;
    let mut records = Records::new();
    let mut cursor = String::from("0");
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(&cursor).arg("COUNT").arg(SCAN_COUNT);
        let (next, keys): (String, Vec<Vec<u8>>) = scan.query_async(&mut connection).await.map_err(failed)?;
        let mut wanted = Vec::new();
        for key in keys {
            if takes_part(catalog, &key) {
                wanted.push(key);
            } else if !key.starts_with(CONTROL_PREFIX) {
                outcome.ephemeral += 1;
            }
        }
        for (key, record) in look(&mut connection, wanted).await? {
            records.insert(key, record);
        }
        cursor = next;
        if cursor == "0" {
            return Ok(records);
        }
    }
}

/// The clock of Redis: by it, and by no other, a key has expired or not.
pub(super) async fn now_ms(url: &str) -> Result<i64, CompareError> {
    let mut connection = connect(url).await?;
    let (seconds, micros): (i64, i64) = cmd("TIME").query_async(&mut connection).await.map_err(failed)?;
    Ok(seconds * 1_000 + micros / 1_000)
}

async fn connect(url: &str) -> Result<MultiplexedConnection, CompareError> {
    let client = Client::open(url).map_err(failed)?;
    // A large collection takes its time, and nobody waits for this comparison but us.
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER_DEADLINE));
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(failed)
}

#[expect(clippy::needless_pass_by_value, reason = "it is made for map_err")]
fn failed(error: redis::RedisError) -> CompareError {
    CompareError::Redis(error.to_string())
}

async fn look(
    connection: &mut MultiplexedConnection,
    keys: Vec<Vec<u8>>,
) -> Result<Vec<(Vec<u8>, Record)>, CompareError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut heads = Pipeline::new();
    for key in &keys {
        heads.cmd("TYPE").arg(key).cmd("PEXPIRETIME").arg(key);
    }
    let heads: Vec<Value> = heads.query_async(connection).await.map_err(failed)?;
    let mut values = Pipeline::new();
    let mut known = Vec::new();
    for (key, head) in keys.into_iter().zip(heads.chunks(2)) {
        let [Value::SimpleString(type_name), Value::Int(expires)] = head else {
            continue;
        };
        let Some(command) = reading(type_name, &key) else {
            continue;
        };
        values.add_command(command);
        known.push((key, type_name.clone(), (*expires >= 0).then_some(*expires)));
    }
    let values: Vec<Value> =
        if known.is_empty() { Vec::new() } else { values.query_async(connection).await.map_err(failed)? };
    let records = known.into_iter().zip(values).filter_map(|((key, type_name, expires_at_ms), value)| {
        let held = held(&type_name, value)?;
        Some((key, Record { type_name, held, expires_at_ms }))
    });
    Ok(records.collect())
}

/// The command that reads a whole key of this type; `None` when the key is gone.
fn reading(type_name: &str, key: &[u8]) -> Option<Cmd> {
    let mut command = cmd(match type_name {
        "string" => "GET",
        "hash" => "HGETALL",
        "list" => "LRANGE",
        "set" => "SMEMBERS",
        "zset" => "ZRANGE",
        "stream" => "XRANGE",
        _ => return None,
    });
    command.arg(key);
    match type_name {
        "list" => command.arg(0).arg(-1),
        "zset" => command.arg(0).arg(-1).arg("WITHSCORES"),
        "stream" => command.arg("-").arg("+"),
        _ => &mut command,
    };
    Some(command)
}

/// The value of an answer; `None` when the key expired between the two questions.
fn held(type_name: &str, answer: Value) -> Option<Held> {
    if let (Value::BulkString(bytes), "string") = (&answer, type_name) {
        return Some(Held::Text(bytes.clone()));
    }
    let Value::Array(items) = answer else { return None };
    if items.is_empty() && type_name != "stream" {
        return None;
    }
    if type_name == "stream" {
        return items.into_iter().map(entry).collect::<Option<BTreeMap<_, _>>>().map(Held::Stream);
    }
    let parts = items.into_iter().map(bytes).collect::<Option<Vec<_>>>()?;
    match type_name {
        "hash" => Some(Held::Hash(pairs(parts).collect())),
        "list" => Some(Held::List(parts)),
        "set" => Some(Held::Set(parts.into_iter().collect())),
        "zset" => pairs(parts)
            .map(|(member, score)| Some((member, score_bits(std::str::from_utf8(&score).ok()?)?)))
            .collect::<Option<_>>()
            .map(Held::Zset),
        _ => None,
    }
}

/// The bits of a score, so that two texts of one number are equal; minus zero is zero.
pub(super) fn score_bits(text: &str) -> Option<u64> {
    text.parse::<f64>().ok().map(|score| (score + 0.0).to_bits())
}

fn entry(item: Value) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let Value::Array(parts) = item else { return None };
    let mut parts = parts.into_iter();
    let id = bytes(parts.next()?)?;
    let Value::Array(fields) = parts.next()? else {
        return None;
    };
    Some((id, fields.into_iter().map(bytes).collect::<Option<_>>()?))
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    if let Value::BulkString(bytes) = value { Some(bytes) } else { None }
}

fn pairs(parts: Vec<Vec<u8>>) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let mut parts = parts.into_iter();
    std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
}
