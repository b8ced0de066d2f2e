//! The generated and the recorded traffic against a real Redis, and the second opinion against stores filled by hand.

use std::path::PathBuf;
use std::time::Duration;

use parallax::dev::servers::PrivateRedis;
use parallax::model::catalog::Catalog;
use parallax::model::key::hash16;
use parallax::model::text;
use parallax::traffic::compare::{self, Class, Equality};
use parallax::traffic::world::Shape;
use parallax::traffic::{Command, generator, recording};
use redis::aio::MultiplexedConnection;
use tokio_postgres::Client;

use crate::support::sidecar::Sidecar;
use crate::support::{self, Database};

const SHAPE: Shape = Shape { seed: 7, api_keys: 12, days: 3, now_ms: 1_795_435_200_000 };

struct Stores {
    redis: PrivateRedis,
    postgres: Database,
    connection: MultiplexedConnection,
    client: Client,
}

impl Stores {
    async fn start() -> Self {
        let (redis, postgres) = tokio::join!(support::redis(), support::postgres());
        let (connection, client) = tokio::join!(connection(&redis), postgres.client());
        Self { redis, postgres, connection, client }
    }

    async fn redis(&mut self, parts: &[&str]) {
        let mut command = redis::cmd(parts[0]);
        command.arg(&parts[1..]);
        let _: redis::Value = command.query_async(&mut self.connection).await.unwrap();
    }

    async fn postgres(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    /// A row of a record table, as an apply would write it.
    async fn row(&self, table: &str, key: &str, type_name: &str, doc: &str) {
        let sql = format!(
            "INSERT INTO {table} (key_hash, key, kind, id, type, doc, version) VALUES ($1, $2, '', '', '{type_name}', \
             $3::text::jsonb, 1)"
        );
        self.client.execute(&sql, &[&hash16(key.as_bytes()), &key, &doc]).await.unwrap();
    }

    async fn header(&self, key: &str, type_name: &str) {
        let sql = format!(
            "INSERT INTO collections (key_hash, key, kind, id, type, version, complete) VALUES ($1, $2, '', '', \
             '{type_name}', 1, true)"
        );
        self.client.execute(&sql, &[&hash16(key.as_bytes()), &key]).await.unwrap();
    }

    async fn element(&self, table: &str, key: &str, element: &[u8], doc: &str) {
        let sql = format!(
            "INSERT INTO {table} (key_hash, element_hash, kind, id, element, doc, version) VALUES ($1, $2, '', '', $3, \
             $4::text::jsonb, 1)"
        );
        let (key_hash, element_hash) = (hash16(key.as_bytes()), hash16(element));
        self.client.execute(&sql, &[&key_hash, &element_hash, &text::encode(element), &doc]).await.unwrap();
    }

    async fn compare(&self) -> Equality {
        compare::stores(&self.redis.url(), &self.postgres.url(), &Catalog::embedded()).await.unwrap()
    }

    async fn classes(&self) -> Vec<Class> {
        let equality = self.compare().await;
        equality.differences.into_keys().map(|(class, _)| class).collect()
    }
}

async fn connection(redis: &PrivateRedis) -> MultiplexedConnection {
    redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// Sends commands as one pipeline and returns the errors that Redis gave.
async fn send(connection: &mut MultiplexedConnection, commands: &[Command]) -> Vec<String> {
    let mut pipeline = redis::Pipeline::new();
    pipeline.ignore_errors();
    for command in commands {
        let mut one = redis::Cmd::new();
        for part in command {
            one.arg(part);
        }
        pipeline.add_command(one);
    }
    let answers: Vec<redis::Value> = pipeline.query_async(connection).await.unwrap();
    let errors = answers.into_iter().filter_map(|answer| {
        if let redis::Value::ServerError(error) = answer {
            return Some(error.code().to_owned());
        }
        None
    });
    errors.collect()
}

async fn keys(connection: &mut MultiplexedConnection) -> u64 {
    redis::cmd("DBSIZE").query_async(connection).await.unwrap()
}

pub(crate) fn recording_folder() -> Option<PathBuf> {
    let folder = std::env::var_os("PARALLAX_RECORDING").map(PathBuf::from);
    if folder.is_none() {
        println!("SKIPPED: PARALLAX_RECORDING does not name the folder of a recording");
    }
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_traffic_makes_the_mistakes_of_the_relay_and_no_others() {
    let redis = support::redis().await;
    let mut connection = connection(&redis).await;
    assert_eq!(send(&mut connection, &generator::keyspace(&SHAPE)).await, [""; 0]);
    assert!(keys(&mut connection).await > 300);
    let mut errors = Vec::new();
    for burst in generator::requests(&SHAPE, 48) {
        errors.extend(send(&mut connection, &burst).await);
    }
    // One administrator's page that asks for the account that is a JSON string as if it were a hash.
    assert_eq!(errors, ["WRONGTYPE"]);
    let records: u64 = redis::cmd("XLEN").arg("billing:events").query_async(&mut connection).await.unwrap();
    assert!(records >= 48);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recorded_traffic_has_the_known_counts() {
    let Some(folder) = recording_folder() else { return };
    let redis = support::redis().await;
    let mut connection = connection(&redis).await;
    let keyspace = recording::keyspace(&folder.join(recording::KEYSPACE_FILE)).unwrap();
    assert_eq!(send(&mut connection, &keyspace).await, [""; 0]);
    assert_eq!(keys(&mut connection).await, 549);

    let _: redis::Value = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
    let bursts = recording::bursts(&folder.join(recording::TRACE_FILE)).unwrap();
    assert_eq!(bursts.iter().map(Vec::len).sum::<usize>(), 26_096);
    let mut errors = Vec::new();
    for burst in &bursts {
        errors.extend(send(&mut connection, burst).await);
    }
    assert_eq!(errors.len(), 53);
    assert!(errors.iter().all(|error| error == "WRONGTYPE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_stores_are_found_equal_whatever_the_type_and_layout() {
    let mut stores = Stores::start().await;
    stores.redis(&["SET", "usage:cost:total:k", "0.1"]).await;
    stores.row("usage_counters", "usage:cost:total:k", "string", "\"0.1\"").await;
    stores.redis(&["HSET", "apikey:k", "name", "Schlüssel", "odd\0", "n\0v"]).await;
    let doc = r#"{"name": "Schlüssel", "\\x6f646400": "\\x6e0076"}"#;
    stores.row("api_keys", "apikey:k", "hash", doc).await;
    stores.redis(&["ZADD", "apikey:idx:name", "0", "name\0id", "0.1", "b"]).await;
    stores.header("apikey:idx:name", "set").await;
    stores.element("elements", "apikey:idx:name", b"name\0id", "\"0\"").await;
    stores.element("elements", "apikey:idx:name", b"b", "\"0.10000000000000001\"").await;
    stores.redis(&["SADD", "apikey:idx:all", "k"]).await;
    stores.redis(&["RPUSH", "usage:records:k", "{}", "{}"]).await;
    stores.header("usage:records:k", "list").await;
    for id in ["1", "2", "3"] {
        stores.element("event_logs", "usage:records:k", id.as_bytes(), "\"{}\"").await;
    }
    stores.redis(&["XADD", "billing:events", "5-0", "data", "{}"]).await;
    stores.header("billing:events", "stream").await;
    stores.element("event_logs", "billing:events", b"5-0", r#"["data", "{}"]"#).await;
    stores.redis(&["SET", "parallax:flags", "not yours"]).await;
    stores.redis(&["SET", "rate_limit:requests:k", "1"]).await;

    // A set without its header is no set.
    assert_eq!(stores.classes().await, [Class::MissingInPostgres, Class::Type]);
    stores.postgres("UPDATE collections SET type = 'zset' WHERE key = 'apikey:idx:name'").await;
    stores.header("apikey:idx:all", "set").await;
    stores.element("elements", "apikey:idx:all", b"k", "true").await;
    let equality = stores.compare().await;
    assert!(equality.holds(), "{equality:?}");
    assert_eq!((equality.records, equality.ephemeral, equality.history), (6, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_disturbance_of_a_store_is_found_and_classed() {
    let mut stores = Stores::start().await;
    stores.redis(&["SET", "usage:cost:total:k", "1"]).await;
    stores.row("usage_counters", "usage:cost:total:k", "string", "\"1\"").await;
    stores.redis(&["HSET", "apikey:hash_map", "f", "k"]).await;
    stores.header("apikey:hash_map", "hash").await;
    stores.element("elements", "apikey:hash_map", b"f", "\"k\"").await;
    assert_eq!(stores.classes().await, []);

    let cases = [
        ("UPDATE usage_counters SET doc = '\"2\"'", "UPDATE usage_counters SET doc = '\"1\"'", Class::Value),
        ("UPDATE usage_counters SET type = 'list'", "UPDATE usage_counters SET type = 'string'", Class::Type),
        (
            "UPDATE usage_counters SET expires_at = now() + interval '1 hour'",
            "UPDATE usage_counters SET expires_at = NULL",
            Class::Ttl,
        ),
        (
            "UPDATE usage_counters SET deleted_at = now()",
            "UPDATE usage_counters SET deleted_at = NULL",
            Class::MissingInPostgres,
        ),
        (
            "UPDATE usage_counters SET gone_at = now()",
            "UPDATE usage_counters SET gone_at = NULL",
            Class::MissingInPostgres,
        ),
        ("UPDATE elements SET doc = '\"other\"'", "UPDATE elements SET doc = '\"k\"'", Class::Value),
        ("UPDATE elements SET deleted_at = now()", "UPDATE elements SET deleted_at = NULL", Class::Value),
        (
            "UPDATE collections SET deleted_at = now()",
            "UPDATE collections SET deleted_at = NULL",
            Class::MissingInPostgres,
        ),
    ];
    for (disturb, mend, class) in cases {
        stores.postgres(disturb).await;
        assert_eq!(stores.classes().await, [class], "{disturb}");
        stores.postgres(mend).await;
        assert_eq!(stores.classes().await, [], "{mend}");
    }
    stores.redis(&["DEL", "usage:cost:total:k"]).await;
    assert_eq!(stores.classes().await, [Class::MissingInRedis]);
    stores.redis(&["SET", "usage:cost:total:k", "1"]).await;
    stores.element("elements", "apikey:tag:orphan", b"m", "true").await;
    assert_eq!(stores.classes().await, [Class::Stray]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_of_a_long_pipeline_stands_at_its_command() {
    let (redis, postgres) = tokio::join!(support::redis(), support::postgres());
    let sidecar = Sidecar::start(&redis, &postgres).await;
    sidecar.raise("dualwrite").await;
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let mut commands = Vec::new();
    for number in 0..500 {
        let (cost, text) = (format!("usage:cost:total:{number}"), number.to_string());
        commands.push(words(&["SET", &cost, &text]));
        commands.push(words(&["GET", &cost]));
    }
    let answers = sidecar.pipeline(&commands).await;
    assert_eq!(answers.len(), commands.len());
    for (number, pair) in answers.chunks(2).enumerate() {
        assert_eq!(pair[0]["result"], "OK", "{number}");
        assert_eq!(pair[1]["result"], number.to_string(), "{number}");
    }
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_walks_its_whole_way_and_finds_both_stores_equal() {
    let arguments = ["demo", "--requests", "24", "--api-keys", "8", "--days", "2", "--seed", "5"];
    let demo = tokio::process::Command::new(env!("CARGO_BIN_EXE_parallax"))
        .args(arguments)
        .env_remove("PARALLAX_RECORDING")
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(180), demo).await.unwrap().unwrap();
    let (table, story) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{story}{table}");
    assert!(table.ends_with("Both stores hold the same.\n"), "{table}");
}
