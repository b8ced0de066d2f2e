//! Long random sequences of commands over all types, layouts and policies, and the relay's own traffic: afterwards both
//! stores are equal by the independent comparison, and no sampled read found a difference.

use parallax::model::catalog::Catalog;
use parallax::traffic::generator;
use parallax::traffic::replay::Replay;
use parallax::traffic::world::{Dice, Shape};
use proptest::prelude::*;
use serde_json::json;

use crate::equality::{assert_equal, drained};
use crate::support;
use crate::support::sidecar::Sidecar;

/// Records that may be of any type, those of other kinds that stay in Redis among them.
const DOCUMENTS: [&str; 7] =
    ["user:a", "user:b", "apikey:a", "apikey:b", "usage:cost:total:a", "quota_card:a", "lock:elsewhere"];
/// Collections: hashes, sets and sorted sets.
const COLLECTIONS: [&str; 5] =
    ["apikey:set:a", "apikey:set:b", "apikey:idx:a", "account_group_members:a", "account_group_members:b"];
const LOGS: [&str; 2] = ["usage:records:a", "error_history:claude:a"];
const STREAM: &str = "billing:events";

/// `length` random commands.
pub(crate) fn sequence(dice: &mut Dice, length: usize) -> Vec<Vec<String>> {
    (0..length).map(|_| command(dice)).collect()
}

fn command(dice: &mut Dice) -> Vec<String> {
    match dice.below(10) {
        0..=4 => document(dice),
        5..=7 => collection(dice),
        8 => log(dice),
        _ => stream(dice),
    }
}

fn value(dice: &mut Dice) -> String {
    let choices = ["", "v", "7", "3.25", "-1", "1e3", "\u{0}", "\\x00", "\u{1f980}", "{\"a\":[1,null]}", "null", " "];
    if dice.below(20) == 0 { "long ".repeat(1_000) } else { (*dice.pick(&choices)).to_owned() }
}

fn field(dice: &mut Dice) -> String {
    (*dice.pick(&["f", "g", "", "\u{0}m", "name", "7"])).to_owned()
}

fn number(dice: &mut Dice) -> String {
    (*dice.pick(&["1", "-2", "7", "0", "2.5", "x", "inf"])).to_owned()
}

/// Times to live: of the past, of the near future, and long ones.
fn ttl(dice: &mut Dice) -> String {
    (*dice.pick(&["-1", "0", "100", "5000", "86400"])).to_owned()
}

fn words<const N: usize>(parts: [&str; N]) -> Vec<String> {
    parts.map(str::to_owned).to_vec()
}

fn of_any_type(dice: &mut Dice, key: &str, other: &str) -> Vec<String> {
    let (value, field, number) = (value(dice), field(dice), number(dice));
    match dice.below(22) {
        0 => words(["DEL", key]),
        1 => words(["UNLINK", key, other]),
        2 => words(["RENAME", key, other]),
        3 => words(["RENAMENX", key, other]),
        4 => words(["COPY", key, other, "REPLACE"]),
        5 => words(["EXPIRE", key, &ttl(dice)]),
        6 => words(["PEXPIRE", key, &format!("{}0", dice.below(30))]),
        7 => words(["PERSIST", key]),
        8 => words(["HSET", key, &field, &value]),
        9 => words(["HDEL", key, &field, "f"]),
        10 => words(["HINCRBY", key, &field, &number]),
        11 => words(["HSETNX", key, &field, &value]),
        12 => words(["SADD", key, &field, &value]),
        13 => words(["SREM", key, &field, &value]),
        14 => words(["SPOP", key]),
        15 => words(["ZADD", key, &number, &field]),
        16 => words(["ZADD", key, "XX", "INCR", &number, &field]),
        17 => words(["ZREM", key, &field]),
        18 => words(["ZINCRBY", key, &number, &field]),
        19 => words(["ZPOPMIN", key]),
        20 => words(["ZREMRANGEBYSCORE", key, "-inf", &number]),
        _ => words(["HINCRBYFLOAT", key, &field, &number]),
    }
}

fn document(dice: &mut Dice) -> Vec<String> {
    let (key, other) = (*dice.pick(&DOCUMENTS), *dice.pick(&DOCUMENTS));
    let (value, number) = (value(dice), number(dice));
    match dice.below(40) {
        0 => words(["SET", key, &value]),
        1 => words(["SET", key, &value, "NX"]),
        2 => words(["SET", key, &value, "XX", "GET"]),
        3 => words(["SET", key, &value, "EX", &ttl(dice)]),
        4 => words(["SET", key, &value, "KEEPTTL"]),
        5 => words(["SETEX", key, &ttl(dice), &value]),
        6 => words(["INCRBY", key, &number]),
        7 => words(["INCRBYFLOAT", key, &number]),
        8 => words(["APPEND", key, &value]),
        9 => words(["GETDEL", key]),
        10 => words(["SETRANGE", key, "3", &value]),
        11 => words(["MSET", key, &value, other, "mset"]),
        12 => words(["MSETNX", key, &value, other, "mset"]),
        13 => words(["GETEX", key, "EX", "100"]),
        14 => words(["RPUSH", key, &value, "r"]),
        15 => words(["LPOP", key]),
        16 => words(["LSET", key, "0", &value]),
        17 => words(["LMOVE", key, other, "LEFT", "RIGHT"]),
        18 => words(["LTRIM", key, "1", "3"]),
        19 => words(["XADD", key, "*", "f", &value]),
        20 => words(["SORT", key, "ALPHA", "STORE", other]),
        21 => words(["GET", key]),
        22 => words(["HGETALL", key]),
        23 => words(["MGET", key, other]),
        24 => words(["TTL", key]),
        25 => words(["EXISTS", key, other]),
        26 => words(["BITOP", "NOT", other, key]),
        27 => words(["SETBIT", key, "9", "1"]),
        28 => words(["EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", "1", key, &value]),
        29 => words(["EVAL", "return redis.call('DEL', KEYS[1])", "1", key]),
        30 => words(["PFADD", key, &value]),
        31 => words(["GEOADD", key, "13.3", "38.1", "Palermo"]),
        _ => of_any_type(dice, key, other),
    }
}

fn collection(dice: &mut Dice) -> Vec<String> {
    let (key, other) = (*dice.pick(&COLLECTIONS), *dice.pick(&COLLECTIONS));
    let (one, two) = (*dice.pick(&COLLECTIONS), field(dice));
    match dice.below(30) {
        0 => words(["SDIFFSTORE", other, key, one]),
        1 => words(["SUNIONSTORE", other, key, one]),
        2 => words(["SMOVE", key, other, &two]),
        3 => words(["ZUNIONSTORE", other, "2", key, one]),
        4 => words(["ZRANGESTORE", other, key, "0", "1"]),
        5 => words(["SMEMBERS", key]),
        6 => words(["ZRANGE", key, "0", "-1", "WITHSCORES"]),
        7 => words(["SISMEMBER", key, &two]),
        8 => words(["HGETALL", key]),
        9 => words(["ZSCORE", key, &two]),
        10 => words(["EVAL", "return redis.call('SADD', KEYS[1], ARGV[1])", "1", key, &two]),
        _ => of_any_type(dice, key, other),
    }
}

fn log(dice: &mut Dice) -> Vec<String> {
    let (key, value) = (*dice.pick(&LOGS), value(dice));
    match dice.below(12) {
        0 => words(["DEL", key]),
        1 => words(["EXPIRE", key, &ttl(dice)]),
        2 => words(["LTRIM", key, "0", "4"]),
        3 => words(["LTRIM", key, "0", "199"]),
        4 => words(["LPUSHX", key, &value]),
        5 => words(["LRANGE", key, "0", "-1"]),
        _ => words(["LPUSH", key, &value, "and another"]),
    }
}

fn stream(dice: &mut Dice) -> Vec<String> {
    let value = value(dice);
    match dice.below(12) {
        0 => words(["DEL", STREAM]),
        1 => words(["XTRIM", STREAM, "MAXLEN", "3"]),
        2 => words(["XADD", STREAM, "MAXLEN", "5", "*", "f", &value]),
        3 => words(["XDEL", STREAM, "1-1"]),
        4 => words(["XADD", STREAM, "1-1", "f", &value]),
        5 => words(["EXPIRE", STREAM, &ttl(dice)]),
        _ => words(["XADD", STREAM, "*", "f", &value, "g", "2"]),
    }
}

/// Sends `commands` through the door, cut into single commands, pipelines and transactions by `dice`.
async fn send(sidecar: &Sidecar, dice: &mut Dice, mut commands: &[Vec<String>]) {
    while !commands.is_empty() {
        let (count, path) = match dice.below(3) {
            0 => (1, "/redis"),
            1 => (1 + dice.below(40), "/redis/pipeline"),
            _ => (1 + dice.below(6), "/redis/multi-exec"),
        };
        let (now, later) = commands.split_at(usize::try_from(count).unwrap().min(commands.len()));
        let body = if path == "/redis" { json!(now[0]) } else { json!(now) };
        let answer = sidecar.data("POST", path, Some(body.to_string().into()), &[]).await;
        assert!(matches!(answer.status, 200 | 400), "{body}: {} {:?}", answer.status, answer.body);
        commands = later;
    }
}

/// One case: a sequence in a stage, drained, and both stores compared.
async fn holds(stage: &str, commands: &[Vec<String>], cut: u64) {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise(stage).await;
    send(&sidecar, &mut Dice::new(cut), commands).await;
    drained(&redis).await;
    assert_equal(&redis, &database).await;
    assert_eq!(
        sidecar.metric("parallax_mismatches_total", &[]).await,
        0.0,
        "{:?}",
        sidecar.get("/v1/mismatches").await
    );
    sidecar.stop_expecting(&[]).await;
}

proptest! {
    // Few and long: a case starts a Redis, a database and a sidecar.
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_sequence_of_commands_both_stores_are_equal(
        rolls in prop::collection::vec(any::<u64>(), 400..600),
        cut in any::<u64>(),
        is_live in any::<bool>(),
    ) {
        let commands: Vec<Vec<String>> = rolls.iter().map(|roll| command(&mut Dice::new(*roll))).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let stage = if is_live { "live" } else { "shadow" };
        let outcome = runtime.block_on(async { tokio::spawn(async move { holds(stage, &commands, cut).await }).await });
        prop_assert!(outcome.is_ok(), "{:?}", outcome);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relays_traffic_in_shadow_has_no_mismatch_and_leaves_both_stores_equal() {
    let shape = Shape { seed: 11, api_keys: 6, days: 2, now_ms: chrono::Utc::now().timestamp_millis() };
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("shadow").await;
    let mut replay = Replay::new(sidecar.data.clone());
    for burst in generator::keyspace(&shape).chunks(500).map(<[_]>::to_vec).chain(generator::requests(&shape, 8)) {
        replay.send(&burst).await.unwrap();
    }
    assert_eq!(replay.tally.failures_total(), 0, "{:?}", replay.tally.failures);
    drained(&redis).await;
    let equality = assert_equal(&redis, &database).await;
    assert!(equality.records > 200, "{equality:?}");
    let compared = sidecar.metric("parallax_comparisons_total", &[("verdict", "match")]).await;
    assert!(compared > 0.0, "nothing was compared");
    assert_eq!(sidecar.metric("parallax_mismatches_total", &[]).await, 0.0);
    sidecar.stop_expecting(&[]).await;
}

#[test]
fn every_record_of_a_sequence_is_of_the_layout_that_it_stands_for() {
    use parallax::model::catalog::Layout;
    let catalog = Catalog::embedded();
    let layout = |key: &str| catalog.kind_of(key.as_bytes()).layout;
    assert!(DOCUMENTS.iter().all(|key| layout(key) == Layout::Document));
    assert!(COLLECTIONS.iter().all(|key| layout(key) == Layout::Collection));
    assert!(LOGS.iter().chain([&STREAM]).all(|key| layout(key) == Layout::Log));
}
