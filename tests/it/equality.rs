//! How a story of chaos ends: both stores hold the same by the independent comparison, and writers remember what was
//! acknowledged to them, so that "nothing lost" is counted and not believed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::{Method, StatusCode};
use parallax::client::Client;
use parallax::dev::servers::PrivateRedis;
use parallax::model::catalog::Catalog;
use parallax::traffic::compare::{self, Equality};
use redis::aio::MultiplexedConnection;
use serde_json::{Value as Json, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::sidecar::PATIENCE;
use crate::support::{Database, wait_until};

/// A connection to look behind the sidecar.
pub(crate) async fn connection(redis: &PrivateRedis) -> MultiplexedConnection {
    redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// What Redis itself answers.
pub(crate) async fn ask<T: redis::FromRedisValue>(redis: &PrivateRedis, command: &[&str]) -> T {
    let mut connection = connection(redis).await;
    redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await.unwrap()
}

/// How many records are marked, by Redis itself.
pub(crate) async fn marks(redis: &PrivateRedis) -> i64 {
    ask(redis, &["HLEN", "parallax:outbox"]).await
}

/// Waits until no record is marked, whoever drains it.
pub(crate) async fn drained(redis: &PrivateRedis) {
    wait_until("the outbox is empty", PATIENCE, || async { marks(redis).await == 0 }).await;
    let companions: Vec<String> = ask(redis, &["KEYS", "parallax:elements:*"]).await;
    assert_eq!(companions, Vec::<String>::new(), "a companion outlived its mark");
}

/// Both stores hold the same, record by record.
pub(crate) async fn assert_equal(redis: &PrivateRedis, database: &Database) -> Equality {
    let equality = compare::stores(&redis.url(), &database.url(), &Catalog::embedded()).await.unwrap();
    assert!(equality.holds(), "{:?}, for example {:?}", equality.differences, equality.examples);
    equality
}

/// Writers through the door that each own some records and write nothing but rising numbers to them.
pub(crate) struct Load {
    door: watch::Sender<String>,
    stop: watch::Sender<bool>,
    acknowledged: watch::Receiver<u64>,
    writers: JoinSet<Ledger>,
}

/// What one writer was told.
#[derive(Default)]
pub(crate) struct Ledger {
    writer: usize,
    /// Record, highest number that was acknowledged, and highest that was sent.
    numbers: BTreeMap<String, (u64, u64)>,
    /// Increments that were acknowledged, and sent.
    increments: (u64, u64),
    /// Entries of the log that were acknowledged.
    entries: BTreeSet<String>,
    /// Answers that were none, with the reason.
    pub(crate) failures: Vec<String>,
}

impl Load {
    /// `writers` writers to the data door at `door`. Every fourth asks for the commit in Postgres where `acks_both`.
    pub(crate) fn start(door: &str, writers: usize, acks_both: bool) -> Self {
        let (door, doors) = watch::channel(door.to_owned());
        let (stop, stopped) = watch::channel(false);
        let (count, acknowledged) = watch::channel(0);
        let mut tasks = JoinSet::new();
        for writer in 0..writers {
            let ack = if acks_both && writer % 4 == 0 { "both" } else { "redis" };
            tasks.spawn(write(writer, ack, doors.clone(), stopped.clone(), count.clone()));
        }
        Self { door, stop, acknowledged, writers: tasks }
    }

    /// From now on the data door is there.
    pub(crate) fn go_to(&self, door: &str) {
        self.door.send_replace(door.to_owned());
    }

    /// Waits until `more` further pipelines are acknowledged.
    pub(crate) async fn goes_on(&mut self, more: u64) {
        let wanted = *self.acknowledged.borrow() + more;
        let reached = self.acknowledged.wait_for(|count| *count >= wanted);
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        assert!(reached.is_ok(), "the writers do not get on");
    }

    /// Ends the writers, when their last answers are there.
    pub(crate) async fn finish(self) -> Vec<Ledger> {
        self.stop.send_replace(true);
        self.writers.join_all().await
    }
}

/// How many records of its own a writer has.
const RECORDS: u64 = 5;

async fn write(
    writer: usize,
    ack: &str,
    mut doors: watch::Receiver<String>,
    stop: watch::Receiver<bool>,
    count: watch::Sender<u64>,
) -> Ledger {
    let mut ledger = Ledger { writer, ..Ledger::default() };
    let mut door = doors.borrow_and_update().clone();
    let mut client = Client::new(door.clone());
    for number in 1.. {
        if *stop.borrow() {
            break;
        }
        let key = format!("apikey:writer-{writer}-{}", number % RECORDS);
        let text = number.to_string();
        let member = format!("writer-{writer}-{}", number % 50);
        let commands = json!([
            ["HSET", key, "seq", text, "name", "a writer"],
            ["HINCRBY", format!("usage:writer-{writer}"), "requests", "1"],
            ["ZADD", "apikey:idx:lastUsedAt", text, member],
            ["LPUSH", format!("usage:records:writer-{writer}"), text],
            if number % 3 == 0 {
                json!(["SET", format!("user:writer-{writer}"), text])
            } else {
                json!(["DEL", format!("user:writer-{writer}")])
            },
            ["HGET", key, "seq"],
        ]);
        ledger.numbers.entry(key.clone()).or_default().1 = number;
        ledger.increments.1 += 1;
        match pipeline(&mut client, &commands, ack).await {
            Ok(replies) => {
                if replies[5]["result"] != text {
                    ledger.failures.push(format!("wrote {text} to {key} and read {}", replies[5]));
                }
                ledger.numbers.entry(key).or_default().0 = number;
                ledger.increments.0 += 1;
                ledger.entries.insert(text);
                count.send_modify(|count| *count += 1);
            }
            Err(reason) => {
                ledger.failures.push(reason);
                // Where the door is gone, another one is told of; where there is none yet, the next try comes a little later.
                let _ = tokio::time::timeout(std::time::Duration::from_millis(20), doors.changed()).await;
                door.clone_from(&doors.borrow_and_update());
                client = Client::new(door.clone());
            }
        }
    }
    ledger
}

/// The replies of a pipeline, none of them an error.
async fn pipeline(client: &mut Client, commands: &Json, ack: &str) -> Result<Vec<Json>, String> {
    let headers = [("content-type", "application/json"), ("parallax-ack", ack)];
    let sent = client.send(Method::POST, "/redis/pipeline", &headers, Bytes::from(commands.to_string())).await;
    let answer = sent.map_err(|error| error.to_string())?;
    let body = answer.json().map_err(|error| error.to_string())?;
    let replies = body.as_array().filter(|_| answer.status == StatusCode::OK).cloned();
    let replies = replies.ok_or_else(|| format!("{}: {body}", answer.status))?;
    match replies.iter().find(|reply| reply.get("result").is_none()) {
        Some(error) => Err(error.to_string()),
        None => Ok(replies),
    }
}

/// Every write that was acknowledged is in Postgres; and nothing is there that nobody sent.
pub(crate) async fn assert_nothing_lost(ledgers: &[Ledger], database: &Database) {
    let client = database.client().await;
    for ledger in ledgers {
        for (key, (acknowledged, sent)) in &ledger.numbers {
            let row =
                client.query_opt("SELECT (doc->>'seq')::bigint FROM api_keys WHERE key = $1", &[key]).await.unwrap();
            let found = row.map_or(0, |row| row.get::<_, i64>(0)).cast_unsigned();
            assert!((*acknowledged..=*sent).contains(&found), "{key}: {found} not in {acknowledged}..={sent}");
        }
        let key = format!("usage:writer-{}", ledger.writer);
        let row = client
            .query_one("SELECT (doc->>'requests')::bigint FROM usage_counters WHERE key = $1", &[&key])
            .await
            .unwrap();
        let found = row.get::<_, i64>(0).cast_unsigned();
        let (acknowledged, sent) = ledger.increments;
        assert!((acknowledged..=sent).contains(&found), "{key}: {found} not in {acknowledged}..={sent}");
        let rows = client
            .query(
                "SELECT e.doc #>> '{}' FROM event_logs e JOIN collections c USING (key_hash)
                 WHERE c.key = $1 AND e.deleted_at IS NULL",
                &[&format!("usage:records:writer-{}", ledger.writer)],
            )
            .await
            .unwrap();
        let entries: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        let lost: Vec<&String> = ledger.entries.difference(&entries).collect();
        assert!(lost.is_empty(), "entries of a log were lost: {lost:?}");
        assert_eq!(entries.len(), rows.len(), "an entry of the log stands twice");
    }
}

/// No writer was ever told anything but what it hoped for.
pub(crate) fn assert_no_failures(ledgers: &[Ledger]) {
    let failures: Vec<&String> = ledgers.iter().flat_map(|ledger| &ledger.failures).take(5).collect();
    assert!(failures.is_empty(), "{failures:?}");
}
