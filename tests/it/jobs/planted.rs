//! Corruptions of many classes, planted in Postgres behind the engine's back, and what comparisons of the usual kinds find
//! of them: the measure of the verifier's power.

use std::collections::BTreeMap;

use parallax::dev::servers::PrivateRedis;
use parallax::model::catalog::{Catalog, Layout};
use parallax::model::key::Key;
use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::equality::connection;
use crate::support::sidecar::Sidecar;
use crate::support::{Database, words};

/// A class of corruptions.
pub(crate) struct Class {
    pub(crate) name: &'static str,
    /// The verdict's class.
    pub(crate) verdict: &'static str,
    /// The key, `{}` for the number.
    key: &'static str,
    /// Commands that make the record, `KEY` for its key; none for a record that only Postgres shall have.
    commands: &'static [&'static str],
    /// What corrupts all records of the class: `LIKE` stands for the condition on their keys.
    sql: &'static str,
}

const fn class(
    name: &'static str,
    verdict: &'static str,
    key: &'static str,
    commands: &'static [&'static str],
    sql: &'static str,
) -> Class {
    Class { name, verdict, key, commands, sql }
}

/// The classes.
#[rustfmt::skip]
pub(crate) const CLASSES: &[Class] = &[
    class("one bit flipped", "value", "user:flip-{}", &["SET KEY value-A"],
        "UPDATE users SET doc = to_jsonb(replace(doc #>> '{}', 'A', '@')) WHERE LIKE"),
    class("two fields swapped, same lengths", "value", "account:test_config:p:swap-{}", &["HSET KEY a one b two"],
        "UPDATE records SET doc = jsonb_build_object('a', doc ->> 'b', 'b', doc ->> 'a') WHERE LIKE"),
    class("a field missing", "value", "account:test_config:p:field-{}", &["HSET KEY a one b two"],
        "UPDATE records SET doc = doc - 'b' WHERE LIKE"),
    class("another type", "type", "account:test_config:p:type-{}", &["HSET KEY a one"],
        "UPDATE records SET type = 'string', doc = to_jsonb('one'::text) WHERE LIKE"),
    class("expiry moved", "ttl", "user:later-{}", &["SET KEY value EX 7200"],
        "UPDATE users SET expires_at = expires_at + interval '1 minute' WHERE LIKE"),
    class("expiry lost", "ttl", "user:never-{}", &["SET KEY value EX 7200"],
        "UPDATE users SET expires_at = NULL WHERE LIKE"),
    class("row missing", "missing_in_postgres", "user:missing-{}", &["SET KEY value"],
        "DELETE FROM users WHERE LIKE"),
    class("row taken for deleted", "missing_in_postgres", "user:buried-{}", &["SET KEY value"],
        "UPDATE users SET deleted_at = now() WHERE LIKE"),
    class("extra row", "missing_in_redis", "user:extra-{}", &[],
        "INSERT INTO users (key_hash, key, kind, id, type, doc, version)
         SELECT substr(sha256(convert_to('user:extra-' || n, 'UTF8')), 1, 16), 'user:extra-' || n, 'user', 'extra-' || n,
            'string', '\"x\"', 1 FROM generate_series(0, COUNT - 1) AS n"),
    class("resurrected", "missing_in_redis", "user:risen-{}", &["SET KEY value", "DEL KEY"],
        "UPDATE users SET deleted_at = NULL, type = 'string', doc = to_jsonb('value'::text) WHERE LIKE"),
    class("list truncated", "value", "account:test_history:p:short-{}", &["RPUSH KEY 1 2 3"],
        "UPDATE records SET doc = doc - 2 WHERE LIKE"),
    class("list reordered", "value", "account:test_history:p:turned-{}", &["RPUSH KEY 1 2 3"],
        "UPDATE records SET doc = jsonb_build_array(doc -> 1, doc -> 0, doc -> 2) WHERE LIKE"),
    class("score off by one ulp", "value", "cost_rank:ulp-{}", &["ZADD KEY 0.1 member"],
        "UPDATE elements SET doc = to_jsonb('0.10000000000000002'::text) WHERE ELEMENTS LIKE"),
    class("member missing", "value", "apikey:set:lost-{}", &["SADD KEY one two"],
        "DELETE FROM elements WHERE element = 'two' AND ELEMENTS LIKE"),
    class("stale version", "value", "account:test_config:p:stale-{}", &["HSET KEY n 2"],
        "UPDATE records SET doc = jsonb_build_object('n', '1'), version = version - 1000000 WHERE LIKE"),
    class("case only", "value", "user:case-{}", &["SET KEY Value"],
        "UPDATE users SET doc = to_jsonb(lower(doc #>> '{}')) WHERE LIKE"),
    class("trailing space only", "value", "user:space-{}", &["SET KEY value"],
        "UPDATE users SET doc = to_jsonb((doc #>> '{}') || ' ') WHERE LIKE"),
    class("encoding", "value", "user:latin-{}", &["SET KEY caf\u{e9}"],
        "UPDATE users SET doc = to_jsonb('\\x636166e9'::text) WHERE LIKE"),
    class("log entry missing", "value", "usage:records:gap-{}", &["LPUSH KEY first", "LPUSH KEY second"],
        "DELETE FROM event_logs WHERE element LIKE '%1' AND ELEMENTS LIKE"),
    class("log entry changed", "value", "usage:records:bent-{}", &["LPUSH KEY first", "LPUSH KEY second"],
        "UPDATE event_logs SET doc = to_jsonb('First'::text) WHERE element LIKE '%1' AND ELEMENTS LIKE"),
];

impl Class {
    pub(crate) fn key(&self, number: usize) -> String {
        self.key.replace("{}", &number.to_string())
    }
}

/// Makes `each` records of every class: those that are deleted again through the sidecar, the others past it.
pub(crate) async fn make(redis: &PrivateRedis, sidecar: &Sidecar, each: usize) {
    let mut connection = connection(redis).await;
    for class in CLASSES {
        for from in (0..each).step_by(500) {
            let numbers = from..each.min(from + 500);
            let commands: Vec<Vec<String>> = numbers
                .flat_map(|number| {
                    let key = class.key(number);
                    class.commands.iter().map(move |line| {
                        words(line).into_iter().map(|word| if word == "KEY" { key.clone() } else { word }).collect()
                    })
                })
                .collect();
            if class.commands.len() == 2 && class.name == "resurrected" {
                for commands in commands.chunks(100) {
                    sidecar.pipeline(commands).await;
                }
            } else if !commands.is_empty() {
                let mut pipeline = redis::pipe();
                for command in &commands {
                    pipeline.cmd(&command[0]).arg(&command[1..]).ignore();
                }
                let () = pipeline.query_async(&mut connection).await.unwrap();
            }
        }
    }
}

/// Corrupts them. Answers the hash of each key and its class.
pub(crate) async fn corrupt(database: &Database, each: usize) -> BTreeMap<String, &'static Class> {
    let client = database.client().await;
    for class in CLASSES {
        let like = format!("key LIKE '{}'", class.key.replace("{}", "%").replace('_', "\\_"));
        let elements = format!("key_hash IN (SELECT key_hash FROM collections WHERE {like})");
        let sql = class
            .sql
            .replace("ELEMENTS LIKE", &elements)
            .replace("WHERE LIKE", &format!("WHERE {like}"))
            .replace("COUNT", &each.to_string());
        let changed = client.execute(&sql, &[]).await.unwrap_or_else(|error| panic!("{}: {error:?}", class.name));
        assert_eq!(changed, each as u64, "{}: {sql}", class.name);
    }
    let planted =
        CLASSES.iter().flat_map(|class| (0..each).map(move |number| (hex(&Key::new(class.key(number)).hash()), class)));
    planted.collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a comparison by lengths and one by types and expiries find of each class, walking over Redis' keys as tools that
/// compare two servers do, and over what only Postgres has besides.
pub(crate) async fn usual_comparisons(
    redis: &PrivateRedis,
    database: &Database,
    each: usize,
) -> BTreeMap<&'static str, (usize, usize)> {
    let (mut connection, client) = (connection(redis).await, database.client().await);
    let catalog = Catalog::embedded();
    let mut found = BTreeMap::new();
    for class in CLASSES {
        let (mut by_length, mut by_type) = (0, 0);
        for number in 0..each {
            let key = class.key(number);
            let kind = catalog.kind_of(key.as_bytes());
            let one = of_redis(&mut connection, &key).await;
            let table = if kind.layout == Layout::Document { kind.table.name() } else { "collections" };
            let size = match kind.layout {
                Layout::Document => {
                    "CASE type WHEN 'string' THEN octet_length(doc #>> '{}')
                        WHEN 'hash' THEN (SELECT count(*) FROM jsonb_object_keys(doc)) ELSE jsonb_array_length(doc) END::bigint"
                        .to_owned()
                }
                Layout::Collection | Layout::Log => format!(
                    "(SELECT count(*) FROM {} e WHERE e.key_hash = r.key_hash AND e.deleted_at IS NULL)",
                    kind.table.name()
                ),
            };
            let text = format!(
                "SELECT type, {size}, coalesce(round(extract(epoch FROM expires_at))::bigint, -1) FROM {table} r
                 WHERE key = $1 AND deleted_at IS NULL AND gone_at IS NULL"
            );
            let row = client.query_opt(&text, &[&key]).await.unwrap();
            let two = row.map(|row| (row.get::<_, String>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)));
            match (one, two) {
                (Some((type_one, size_one, expiry_one)), Some((type_two, size_two, expiry_two))) => {
                    by_length += usize::from(size_one != size_two);
                    by_type += usize::from(type_one != type_two || (expiry_one - expiry_two).abs() > 1);
                }
                (None, None) => {}
                (Some(_), None) | (None, Some(_)) => {
                    by_length += 1;
                    by_type += 1;
                }
            }
        }
        found.insert(class.name, (by_length, by_type));
    }
    found
}

async fn of_redis(connection: &mut MultiplexedConnection, key: &str) -> Option<(String, i64, i64)> {
    let kind: String = redis::cmd("TYPE").arg(key).query_async(connection).await.unwrap();
    let length = match kind.as_str() {
        "string" => "STRLEN",
        "hash" => "HLEN",
        "list" => "LLEN",
        "set" => "SCARD",
        "zset" => "ZCARD",
        _ => return None,
    };
    let size: i64 = redis::cmd(length).arg(key).query_async(connection).await.unwrap();
    let expiry: i64 = redis::cmd("EXPIRETIME").arg(key).query_async(connection).await.unwrap();
    Some((kind, size, expiry))
}

/// The differences that a report lists: hash of the key and class.
pub(crate) fn listed(report: &Json) -> BTreeMap<String, String> {
    let lists = ["missingInPostgres", "missingInRedis", "dataInconsistencies"];
    let items = lists.iter().flat_map(|list| report[list].as_array().unwrap());
    let pair =
        |item: &Json| (item["key_hash"].as_str().unwrap().to_owned(), item["class"].as_str().unwrap().to_owned());
    items.map(pair).collect()
}

/// What was found of one planting; a line for each part of a soak.
#[derive(Serialize, Deserialize)]
pub(crate) struct Findings {
    /// Of each class.
    planted: usize,
    /// What comparisons of lengths, and of types with expiries, found of each class.
    usual: BTreeMap<String, (usize, usize)>,
    /// What each way to verify took: by both, all of it was found.
    ways: BTreeMap<String, Way>,
}

/// What a verification took.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Way {
    redis: u64,
    postgres: u64,
    compared: u64,
    ms: u64,
}

impl Way {
    pub(crate) fn of(report: &Json) -> Self {
        let number = |name: &str| report[name].as_u64().unwrap();
        Self {
            redis: number("totalRedis"),
            postgres: number("totalPostgres"),
            compared: number("compared"),
            ms: number("duration_ms"),
        }
    }
}

impl Findings {
    pub(crate) fn new(
        planted: usize,
        usual: &BTreeMap<&'static str, (usize, usize)>,
        ways: BTreeMap<String, Way>,
    ) -> Self {
        Self { planted, usual: usual.iter().map(|(name, found)| ((*name).to_owned(), *found)).collect(), ways }
    }
}

/// How `docs/results/verifier.txt` begins, which a soak writes.
const HEAD: &str = "\
Corruptions planted in PostgreSQL while writers run, and how many of them each comparison finds.
by length: what redis-full-check compares by default; type+ttl: types and expiries, both walking the keys of Redis.

";

/// What each comparison found of each class, and what the verifications took, over all of `parts`.
pub(crate) fn table(parts: &[Findings]) -> String {
    let planted: usize = parts.iter().map(|part| part.planted).sum();
    let row = |name: &str, planted: usize, (length, kind): (usize, usize)| {
        format!("{name:<36} {planted:>8} {planted:>10} {length:>12} {kind:>10}\n")
    };
    let mut text = HEAD.to_owned();
    text += &format!("{:<36} {:>8} {:>10} {:>12} {:>10}\n", "planted", "", "parallax", "by length", "type+ttl");
    let mut all = (0, 0);
    for class in CLASSES {
        let add = |sum: (usize, usize), part: &Findings| {
            let (length, kind) = part.usual[class.name];
            (sum.0 + length, sum.1 + kind)
        };
        let found = parts.iter().fold((0, 0), add);
        all = (all.0 + found.0, all.1 + found.1);
        text += &row(class.name, planted, found);
    }
    text += &row("all", planted * CLASSES.len(), all);
    for name in ["digests", "exhaustive"] {
        let sum = |of: fn(&Way) -> u64| parts.iter().map(|part| of(&part.ways[name])).sum::<u64>();
        text += &format!(
            "{name}: {} records in redis, {} in postgres, {} compared one by one, {} ms in {} runs\n",
            sum(|way| way.redis),
            sum(|way| way.postgres),
            sum(|way| way.compared),
            sum(|way| way.ms),
            parts.len()
        );
    }
    text
}
