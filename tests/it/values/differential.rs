//! The same question to Redis itself and through the door, and the answers held against each other.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use parallax::dev::servers::PrivateRedis;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde_json::{Value as Json, json};

use crate::support::sidecar::{Answer, PATIENCE, Sidecar};

pub(super) type Parts = Vec<Vec<u8>>;

pub(super) fn parts(words: &[&[u8]]) -> Parts {
    words.iter().map(|word| word.to_vec()).collect()
}

/// A line of words without spaces in them.
pub(super) fn line(text: &str) -> Parts {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

pub(super) async fn connection(redis: &PrivateRedis) -> redis::aio::MultiplexedConnection {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

/// A command of any bytes through the door: as JSON where it is text, else by the path, its last argument as the body.
pub(super) async fn through_the_door(sidecar: &Sidecar, command: &Parts) -> Answer {
    let headers = [("upstash-encoding", "base64")];
    let texts: Option<Vec<&str>> = command.iter().map(|part| std::str::from_utf8(part).ok()).collect();
    if let Some(texts) = texts {
        return sidecar.ask(&texts, &headers).await;
    }
    let (last, first) = command.split_last().unwrap();
    let mut path = String::from("/redis");
    for part in first {
        path.push('/');
        path.push_str(&percent_encode(part, NON_ALPHANUMERIC).to_string());
    }
    // An empty body is no argument, an empty part of the path is one.
    path.push_str(if last.is_empty() { "/" } else { "" });
    sidecar.data("POST", &path, Some(Bytes::from(last.clone())), &headers).await
}

/// What Redis itself answers, in the door's form with base64.
pub(super) async fn from_redis(redis: &mut redis::aio::MultiplexedConnection, command: &Parts) -> Json {
    let mut cmd = redis::Cmd::new();
    for part in command {
        cmd.arg(part);
    }
    match cmd.query_async::<redis::Value>(redis).await {
        Ok(redis::Value::Okay) => json!({ "result": "OK" }),
        Ok(value) => json!({ "result": shown(value) }),
        Err(error) => {
            json!({ "error": format!("{} {}", error.code().unwrap_or_default(), error.detail().unwrap_or_default()) })
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library may add forms; none of them occurs in RESP2")]
fn shown(value: redis::Value) -> Json {
    match value {
        redis::Value::Nil => Json::Null,
        redis::Value::Int(number) => json!(number),
        redis::Value::BulkString(bytes) => json!(STANDARD.encode(bytes)),
        redis::Value::SimpleString(text) => json!(STANDARD.encode(text)),
        redis::Value::Okay => json!(STANDARD.encode("OK")),
        redis::Value::Array(items) => items.into_iter().map(shown).collect(),
        other => panic!("not a form of RESP2: {other:?}"),
    }
}

/// The answer, with the order taken away where Redis promises none.
fn settled(command: &Parts, mut answer: Json) -> Json {
    let size = match command[0].as_slice() {
        b"HGETALL" => 2,
        b"SMEMBERS" | b"HKEYS" | b"HVALS" => 1,
        _ => return answer,
    };
    if let Some(items) = answer["result"].as_array_mut() {
        let mut groups: Vec<Vec<Json>> = items.chunks(size).map(<[Json]>::to_vec).collect();
        groups.sort_by_key(|group| group.iter().map(Json::to_string).collect::<Vec<_>>());
        *items = groups.into_iter().flatten().collect();
    }
    answer
}

/// Every command that Postgres may answer, on this key, with arguments that hit, miss and make no sense.
pub(super) fn reads(key: &[u8], names: &[&[u8]]) -> Vec<Parts> {
    let mut reads = Vec::new();
    let mut read = |name: &str, rest: &[&[u8]]| {
        let mut command = parts(&[name.as_bytes(), key]);
        command.extend(rest.iter().map(|part| part.to_vec()));
        reads.push(command);
    };
    let plain = "GET MGET STRLEN EXISTS TYPE EXPIRETIME PEXPIRETIME HGETALL HKEYS HVALS HLEN SMEMBERS SCARD ZCARD LLEN";
    plain.split(' ').for_each(|name| read(name, &[]));
    for name in names.iter().copied().chain([&b"nobody"[..]]) {
        for command in ["HGET", "HEXISTS", "HSTRLEN", "SISMEMBER", "ZSCORE", "ZRANK", "ZREVRANK"] {
            read(command, &[name]);
        }
    }
    let mut several = names.to_vec();
    several.push(b"nobody");
    for command in ["HMGET", "SMISMEMBER", "ZMSCORE"] {
        read(command, &several);
    }
    for (from, to) in [
        ("0", "-1"),
        ("1", "2"),
        ("-100", "100"),
        ("-2", "-1"),
        ("5", "1"),
        ("x", "1"),
        ("-9223372036854775808", "9223372036854775807"),
    ] {
        for command in ["LRANGE", "ZRANGE", "ZREVRANGE"] {
            read(command, &[from.as_bytes(), to.as_bytes()]);
        }
        read("ZRANGE", &[from.as_bytes(), to.as_bytes(), b"WITHSCORES"]);
        read("ZREVRANGE", &[from.as_bytes(), to.as_bytes(), b"withscores"]);
    }
    read("ZRANGE", &[b"-inf", b"+inf", b"BYSCORE"]);
    read("ZRANGE", &[b"0", b"-1", b"REV"]);
    read("HGET", &[]);
    for index in ["0", "-1", "3", "-99", "99", "x", "-9223372036854775808"] {
        read("LINDEX", &[index.as_bytes()]);
    }
    reads
}

/// Asks both the same and holds the answers against each other.
pub(super) async fn agree(sidecar: &Sidecar, redis: &mut redis::aio::MultiplexedConnection, commands: Vec<Parts>) {
    let texts: Option<Vec<Vec<String>>> = commands
        .iter()
        .map(|command| command.iter().map(|part| String::from_utf8(part.clone()).ok()).collect())
        .collect();
    let answers: Vec<Json> = match texts {
        Some(texts) => {
            let body = Bytes::from(json!(texts).to_string());
            let answer = sidecar.data("POST", "/redis/pipeline", Some(body), &[("upstash-encoding", "base64")]).await;
            answer.json().as_array().unwrap().clone()
        }
        None => {
            let mut answers = Vec::new();
            for command in &commands {
                answers.push(through_the_door(sidecar, command).await.json());
            }
            answers
        }
    };
    assert_eq!(answers.len(), commands.len());
    for (command, answer) in commands.iter().zip(answers) {
        let expected = from_redis(redis, command).await;
        let (one, two) = (settled(command, expected), settled(command, answer));
        // Values may be long; the command tells enough.
        let shown: Vec<_> = command.iter().map(|part| String::from_utf8_lossy(&part[..part.len().min(60)])).collect();
        assert!(one == two, "{shown:?}: redis {:.300}, the door {:.300}", one.to_string(), two.to_string());
    }
}
