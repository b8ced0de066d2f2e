//! The ten invariants of the design, each with the story that it is named after.

use std::time::Duration;

use parallax::dev::servers::PrivateRedis;
use parallax::model::catalog::Catalog;
use parallax::traffic::compare;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::stores::Stores;
use crate::support::{self, raw, source, wait_until};

const USER: &str = "user:u1";
const GROUP: &str = "account_group_members:g1";

#[tokio::test(flavor = "multi_thread")]
async fn both_or_neither_the_write_and_its_mark_are_one_transaction_and_the_mark_comes_first() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    // One sort of mark for a document, another for a collection, a third where only a look after it tells.
    for command in [vec!["SET", USER, "v"], vec!["SADD", GROUP, "m"], vec!["EXPIRE", USER, "100"]] {
        let mut monitor = Monitor::start(&redis).await;
        sidecar.command(&command).await;
        let lines = monitor.until_transaction_of(command[0], command[1]).await;
        let place = |found: &dyn Fn(&str) -> bool| lines.iter().position(|line| found(line));
        let mark = place(&|line| line.contains("\"parallax:outbox\""));
        let write = place(&|line| line.contains(&format!("\"{}\" \"{}\"", command[0], command[1])));
        assert!(mark.is_some() && mark < write, "{lines:#?}");
    }
    sidecar.drained().await;
    sidecar.stop_expecting(&[]).await;
}

/// What Redis executes, as it tells it.
struct Monitor(tokio::io::Lines<BufReader<TcpStream>>);

impl Monitor {
    async fn start(redis: &PrivateRedis) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", redis.port())).await.unwrap();
        stream.write_all(b"MONITOR\r\n").await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "+OK");
        Self(lines)
    }

    /// What the transaction that holds this command executed, from MULTI to EXEC, scripts' own commands left out.
    async fn until_transaction_of(&mut self, command: &str, key: &str) -> Vec<String> {
        let wanted = format!("\"{command}\" \"{key}\"");
        let mut lines: Vec<String> = Vec::new();
        loop {
            let line = timeout(PATIENCE, self.0.next_line()).await.expect("it is executed").unwrap().unwrap();
            let is_end = line.ends_with("\"EXEC\"");
            lines.push(line);
            let address = lines.iter().find(|line| line.contains(&wanted)).map(|line| client_of(line).to_owned());
            if let (true, Some(address)) = (is_end, address) {
                let own: Vec<String> = lines.iter().filter(|line| client_of(line) == address).cloned().collect();
                let write = own.iter().position(|line| line.contains(&wanted)).unwrap();
                let begin = own[..write].iter().rposition(|line| line.ends_with("\"MULTI\""));
                let end = own[write..].iter().position(|line| line.ends_with("\"EXEC\"")).map(|end| write + end);
                if let (Some(begin), Some(end)) = (begin, end) {
                    assert!(!own[begin..write].iter().any(|line| line.ends_with("\"EXEC\"")), "outside: {own:#?}");
                    return own[begin..=end].to_vec();
                }
                panic!("not in a transaction: {own:#?}");
            }
        }
    }
}

/// The address in `1700000000.000000 [0 127.0.0.1:40000] "SET" ...`.
fn client_of(line: &str) -> &str {
    line.split(['[', ']']).nth(1).unwrap_or_default()
}

#[tokio::test]
async fn never_backwards_an_apply_that_comes_late_changes_nothing() {
    let stores = Stores::start().await;
    stores.write("t1", &["SET user:u1 first"]).await;
    stores.raw("SADD account_group_members:g1 a").await;
    stores.write("t1", &["SADD account_group_members:g1 e"]).await;
    let late = [stores.carry(USER).await, stores.carry(GROUP).await];
    stores.write("t2", &["SET user:u1 second", "SREM account_group_members:g1 e"]).await;
    stores.bring(USER).await;
    stores.bring(GROUP).await;
    let (row, header, elements) = (stores.row(USER).await, stores.row(GROUP).await, stores.elements(GROUP).await);
    for late in &late {
        let applied = stores.apply(late).await.unwrap();
        assert!(applied.upserts.iter().all(|(_, rows)| *rows == 0), "{applied:?}");
    }
    assert_eq!(stores.row(USER).await, row);
    assert_eq!((stores.row(GROUP).await, stores.elements(GROUP).await), (header, elements));
    assert_eq!(row.unwrap().doc.unwrap(), "\"second\"");

    // Nor does it raise what was deleted.
    stores.write("t3", &["DEL user:u1"]).await;
    stores.bring(USER).await;
    stores.apply(&late[0]).await.unwrap();
    assert_eq!(stores.row(USER).await.unwrap().state, "deleted");
}

#[tokio::test]
async fn deletes_are_rows_with_a_version_of_their_own() {
    let stores = Stores::start().await;
    stores.write("t1", &["SET user:u1 v"]).await;
    stores.bring(USER).await;
    let before = stores.row(USER).await.unwrap();
    stores.write("t2", &["DEL user:u1"]).await;
    stores.bring(USER).await;
    let after = stores.row(USER).await.expect("a delete is no DELETE");
    assert_eq!((after.state.as_str(), after.doc), ("deleted", None));
    assert!(after.version > before.version);
    // Begun again, it is a row like any other.
    stores.write("t3", &["SET user:u1 again"]).await;
    stores.bring(USER).await;
    let again = stores.row(USER).await.unwrap();
    assert_eq!((again.state.as_str(), again.doc.as_deref()), ("live", Some("\"again\"")));

    stores.raw("SADD account_group_members:g1 a b").await;
    stores.write("t1", &["SADD account_group_members:g1 a b"]).await;
    stores.bring(GROUP).await;
    stores.write("t2", &["SREM account_group_members:g1 a"]).await;
    stores.bring(GROUP).await;
    let elements = stores.elements(GROUP).await;
    assert_eq!((elements["a"].state.as_str(), elements["b"].state.as_str()), ("deleted", "live"));
}

#[tokio::test]
async fn expiry_and_eviction_are_not_deletes_and_the_document_stays() {
    let stores = Stores::start().await;
    // Expired while its mark waits: Redis took it, nobody deleted it.
    stores.write("t1", &["SET user:u1 v", "PEXPIRE user:u1 200"]).await;
    stores.bring(USER).await;
    stores.write("t2", &["SET user:u1 w PX 200"]).await;
    wait_until("it has expired", PATIENCE, || async {
        stores.raw("EXISTS user:u1").await == parallax::model::reply::Reply::Integer(0)
    })
    .await;
    let applied = stores.bring(USER).await;
    let row = stores.row(USER).await.unwrap();
    assert_eq!((row.state.as_str(), row.doc.as_deref()), ("gone", Some("\"v\"")));
    assert_eq!(applied.evicted, Vec::<String>::new(), "its expiry had passed");

    // Evicted: gone though nothing had expired, which is counted.
    stores.write("t1", &["SET user:u2 v", "SET user:u3 v EX 1000"]).await;
    for key in ["user:u2", "user:u3"] {
        stores.bring(key).await;
    }
    stores.raw("DEL user:u2 user:u3").await;
    stores.raw("HSET parallax:outbox user:u2 t2 user:u3 t2").await;
    for key in ["user:u2", "user:u3"] {
        assert_eq!(stores.bring(key).await.evicted, ["user"], "{key}");
        let row = stores.row(key).await.unwrap();
        assert_eq!((row.state.as_str(), row.doc.as_deref()), ("gone", Some("\"v\"")), "{key}");
    }

    // And a delete of a record with an expiry is a delete.
    stores.write("t1", &["SET user:u4 v EX 1000", "DEL user:u4"]).await;
    stores.bring("user:u4").await;
    assert_eq!(stores.row("user:u4").await.unwrap().state, "deleted");
}

#[tokio::test]
async fn an_ack_never_loses_a_newer_write() {
    let stores = Stores::start().await;
    stores.write("t1", &["SET user:u1 first"]).await;
    let first = stores.carry(USER).await;
    stores.write("t2", &["SET user:u1 second"]).await;
    stores.apply(&first).await.unwrap();
    assert_eq!(stores.ack(&first).await.unwrap(), 0);
    assert_eq!(stores.mark(USER).await.as_deref(), Some("t2"));
    // The same with a list log and with a stream, whose acknowledgements say how far they came.
    for (key, lines) in [
        ("usage:records:k1", ["LPUSH usage:records:k1 a", "LPUSH usage:records:k1 b"]),
        ("billing:events", ["XADD billing:events 1-1 f a", "XADD billing:events 2-1 f b"]),
    ] {
        stores.raw(lines[0]).await;
        stores.write("t1", &[lines[1]]).await;
        let log = stores.carry(key).await;
        stores.write("t2", &[&lines[1].replace("2-1", "3-1")]).await;
        stores.apply(&log).await.unwrap();
        assert_eq!(stores.ack(&log).await.unwrap(), 0, "{key}");
        assert_eq!(stores.mark(key).await.as_deref(), Some("t2"), "{key}");
        stores.bring(key).await;
        assert_eq!((stores.mark(key).await, stores.live_elements(key).await.len()), (None, 3), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn convergence_when_nobody_writes_and_nothing_is_marked_both_stores_are_equal() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let (one, other) = (Sidecar::start(&redis, &database).await, Sidecar::start(&redis, &database).await);
    one.flag("*", json!({ "stage": "dualwrite" })).await;
    wait_until("the other one marks too", PATIENCE, || async { other.get("/v1/flags").await.json()["version"] == 1 })
        .await;
    let seed = rand::random::<u64>();
    let write = async |sidecar: &Sidecar, salt: u64| {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(salt));
        for _ in 0..25 {
            let lines: Vec<Vec<String>> = (0..20).map(|_| any_write(&mut random)).collect();
            sidecar.pipeline(&lines).await;
        }
    };
    tokio::join!(write(&one, 1), write(&other, 2), write(&one, 3), write(&other, 4));
    one.drained().await;
    let outcome = compare::stores(&redis.url(), &database.url(), &Catalog::embedded()).await.unwrap();
    assert!(outcome.records >= 5, "{outcome:?}");
    assert!(outcome.holds(), "seed {seed}: {:?} {:?}", outcome.differences, outcome.examples);
    assert_eq!(one.metric("parallax_dead_letters_total", &[]).await, 0.0);
    one.stop_expecting(&[]).await;
    other.stop_expecting(&[]).await;
}

/// Any write of any sort to one of a few keys, so that they meet.
fn any_write(random: &mut StdRng) -> Vec<String> {
    let (n, m, v) = (random.random_range(0..4), random.random_range(0..4), random.random_range(0..1000));
    let line = match random.random_range(0..26) {
        0 => format!("SET user:{n} {v}"),
        1 => format!("SET user:{n} {v} EX 1000"),
        2 => format!("DEL user:{n}"),
        3 => format!("RENAME user:{n} user:{m}"),
        4 => format!("EXPIRE user:{n} -1"),
        5 => format!("PERSIST user:{n}"),
        6 => format!("HSET apikey:{n} f{m} {v}"),
        7 => format!("HDEL apikey:{n} f0 f1 f{m}"),
        8 => format!("EXPIREAT apikey:{n} 4000000000"),
        9 => format!("HINCRBY usage:k{n} totalTokens {v}"),
        10 => format!("HINCRBYFLOAT usage:k{n} cost 0.{v}"),
        11 => format!("SADD account_group_members:{n} {m} {v}"),
        12 => format!("SREM account_group_members:{n} {m} {v}"),
        13 => format!("SPOP account_group_members:{n}"),
        14 => format!("RENAME account_group_members:{n} account_group_members:{m}"),
        15 => format!("DEL account_group_members:{n}"),
        16 => format!("SINTERSTORE account_group_members:{n} account_group_members:{m} account_group_members:0"),
        17 => format!("ZADD request_detail:index:day:2026-01-0{n} {v} r{m}"),
        18 => format!("ZREMRANGEBYSCORE request_detail:index:day:2026-01-0{n} 0 {v}"),
        19 => format!("ZINCRBY request_detail:index:day:2026-01-0{n} {v} r{m}"),
        20 => format!("XADD billing:events * f {v}"),
        21 => format!("XTRIM billing:events MAXLEN {v}"),
        22 => format!("LPUSH usage:records:k{n} {v} {m}"),
        23 => format!("SMOVE account_group_members:{n} account_group_members:{m} {m}"),
        24 => format!("COPY user:{n} user:{m} REPLACE"),
        _ => format!("SET user:{n} {v} XX GET"),
    };
    line.split(' ').map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn absence_is_believed_from_redis_alone() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    sidecar.command(&["HSET", "apikey:kept", "name", "a"]).await;
    sidecar.command(&["HSET", "apikey:lost", "name", "b"]).await;
    sidecar.raise_from_dualwrite().await;
    let ask = async |key: &str| {
        let answer = sidecar.ask(&["HGETALL", key], &[]).await;
        (answer.json()["result"].clone(), answer.header("parallax-source").unwrap().to_owned())
    };
    assert_eq!(ask("apikey:kept").await, (json!(["name", "a"]), "postgres".to_owned()));
    // Postgres has lost a row: that is no answer.
    database.client().await.execute("DELETE FROM api_keys WHERE key = 'apikey:kept'", &[]).await.unwrap();
    assert_eq!(ask("apikey:kept").await, (json!(["name", "a"]), "redis".to_owned()));
    // Redis has none, whatever Postgres says.
    raw(&redis, "DEL apikey:lost").await;
    assert_eq!(ask("apikey:lost").await, (json!([]), "redis".to_owned()));
    assert_eq!(ask("apikey:never").await, (json!([]), "redis".to_owned()));
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_your_writes_through_any_sidecar_at_any_moment() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let (one, other) = (Sidecar::start(&redis, &database).await, Sidecar::start(&redis, &database).await);
    one.raise("live").await;
    wait_until("the other one is live too", PATIENCE, || async {
        other.get("/v1/flags").await.json()["version"] == one.get("/v1/flags").await.json()["version"]
    })
    .await;
    let reader = async |name: usize| {
        let key = format!("user:{name}");
        let mut from_postgres = 0;
        for round in 0..60 {
            let (writer, reader) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
            let value = round.to_string();
            writer.command(&["SET", &key, &value]).await;
            for sidecar in [reader, writer, reader] {
                let (found, store) = source(sidecar, &key).await;
                assert_eq!(found, value, "from {store}");
                from_postgres += usize::from(store == "postgres");
            }
        }
        from_postgres
    };
    let (a, b, c) = tokio::join!(reader(0), reader(1), reader(2));
    assert!(a + b + c > 0, "some of the answers were of postgres");
    // While the apply is held up the record is pending, and Redis answers.
    let mut locker = database.client().await;
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE users IN EXCLUSIVE MODE").await.unwrap();
    one.command(&["SET", "user:0", "last"]).await;
    assert_eq!(source(&other, "user:0").await, ("last".to_owned(), "redis".to_owned()));
    lock.commit().await.unwrap();
    one.drained().await;
    assert_eq!(source(&other, "user:0").await, ("last".to_owned(), "postgres".to_owned()));
    one.stop_expecting(&[]).await;
    other.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shadow_never_hurts_when_postgres_is_frozen() {
    let (redis, database) = (support::redis().await, support::postgres_of_its_own(Default::default()).await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("shadow").await;
    let answers = async |most: Duration| {
        database.server.pause().unwrap();
        let began = Instant::now();
        for round in 0..50 {
            let value = round.to_string();
            sidecar.command(&["SET", USER, &value]).await;
            assert_eq!(source(&sidecar, USER).await, (value, "redis".to_owned()));
        }
        assert_eq!(sidecar.get("/readyz").await.status, 200);
        let took = began.elapsed();
        database.server.resume().unwrap();
        assert!(took < most, "{took:?}");
        sidecar.drained().await;
    };
    answers(Duration::from_secs(3)).await;
    sidecar.raise_from_shadow().await;
    sidecar.flag("*", json!({ "deadline_ms": 20 })).await;
    // In stage live a read may wait for its deadline, and then Redis answers.
    answers(Duration::from_secs(4)).await;
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stale_after_a_rollback_through_any_sidecar() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let (one, other) = (Sidecar::start(&redis, &database).await, Sidecar::start(&redis, &database).await);
    one.flag("*", json!({ "stage": "dualwrite" })).await;
    one.command(&["SET", USER, "first"]).await;
    one.raise_from_dualwrite().await;
    wait_until("both read postgres", PATIENCE, || async {
        source(&one, USER).await.1 == "postgres" && source(&other, USER).await.1 == "postgres"
    })
    .await;
    let report = one.admin("POST", "/v1/rollback", Some(json!({ "scope": "*", "reason": "a story" })), &[]).await;
    assert_eq!((report.status, report.json()["waiting"].clone()), (200, json!([])));
    assert_eq!(report.json()["confirmed"].as_array().unwrap().len(), 2, "{:?}", report.body);
    assert!(report.json()["elapsed_ms"].as_u64().unwrap() < 2_000, "{:?}", report.body);
    // What Postgres does not know is seen at once, so nobody reads it any more; marking goes on.
    raw(&redis, "SET user:u1 second").await;
    for sidecar in [&other, &one] {
        assert_eq!(source(sidecar, USER).await, ("second".to_owned(), "redis".to_owned()));
    }
    other.command(&["SET", USER, "third"]).await;
    other.drained().await;
    let row = database.client().await.query_one("SELECT doc#>>'{}' FROM users", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "third");
    one.stop_expecting(&[]).await;
    other.stop_expecting(&[]).await;
}
