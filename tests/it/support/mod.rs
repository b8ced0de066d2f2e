//! What the stories share: real servers, and waiting for a condition instead of sleeping.

pub(crate) mod collector;
pub(crate) mod parts;
pub(crate) mod proxy;
pub(crate) mod sidecar;
pub(crate) mod stores;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parallax::dev::servers::{PostgresOptions, PrivatePostgres, PrivateRedis, RedisOptions};
use parallax::settings::{Inputs, PostgresSettings, load};
use parallax::stores::migrations;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::support::sidecar::{PATIENCE, Sidecar};

/// A migrated database that no test writes to: the others are copies of it.
const TEMPLATE: &str = "migrated";

/// The Postgres of this process. Held weakly, so that it ends with the last test that uses it.
static SHARED: Mutex<Weak<PrivatePostgres>> = Mutex::const_new(Weak::new());

/// A Redis for one test. It is ready in ten milliseconds, so nobody has to share.
pub(crate) async fn redis() -> PrivateRedis {
    PrivateRedis::start(RedisOptions::default()).await.unwrap_or_else(|error| panic!("{error}"))
}

/// A migrated database for one test, in a Postgres that it shares with others: not for a test that stops it.
pub(crate) async fn postgres() -> Database {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let mut shared = SHARED.lock().await;
    let server = match shared.upgrade() {
        Some(server) => server,
        None => {
            let server = Arc::new(server(PostgresOptions::default()).await);
            create(&server, TEMPLATE, "template1").await;
            migrate(&server, TEMPLATE).await;
            *shared = Arc::downgrade(&server);
            server
        }
    };
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    create(&server, &name, TEMPLATE).await;
    Database { server, name }
}

/// A migrated database in a Postgres of its own, which the test may stop, kill and freeze.
pub(crate) async fn postgres_of_its_own(options: PostgresOptions) -> Database {
    let server = Arc::new(server(options).await);
    let name = "parallax".to_owned();
    create(&server, &name, "template1").await;
    migrate(&server, &name).await;
    Database { server, name }
}

/// A database, and the server that it is in.
pub(crate) struct Database {
    pub(crate) server: Arc<PrivatePostgres>,
    pub(crate) name: String,
}

impl Database {
    /// Where it is, for a client.
    pub(crate) fn url(&self) -> String {
        self.server.url_of(&self.name)
    }

    /// Where it is, for the stores.
    pub(crate) fn settings(&self) -> PostgresSettings {
        settings(&self.url())
    }

    /// A connection to look with.
    pub(crate) async fn client(&self) -> tokio_postgres::Client {
        client(&self.url()).await
    }
}

/// A connection to the Postgres at `url`.
pub(crate) async fn client(url: &str) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap_or_else(|error| panic!("{error:?}"));
    tokio::spawn(connection);
    client
}

/// Waits until `condition` holds; panics when it does not within `deadline`, naming `what` was waited for.
pub(crate) async fn wait_until<F, C>(what: &str, deadline: Duration, mut condition: C)
where
    F: Future<Output = bool>,
    C: FnMut() -> F,
{
    let end = Instant::now() + deadline;
    while !condition().await {
        assert!(Instant::now() < end, "waited {deadline:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The words of a command.
pub(crate) fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// A command that passes the sidecar by.
pub(crate) async fn raw(redis: &PrivateRedis, line: &str) -> redis::Value {
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = redis::Cmd::new();
    command.arg(words(line));
    command.query_async(&mut connection).await.unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Sends a signal to a sidecar: `STOP`, `CONT`, `USR2` ...
pub(crate) async fn signal(sidecar: &Sidecar, name: &str) {
    let arguments = [format!("-{name}"), sidecar.pid().to_string()];
    assert!(tokio::process::Command::new("kill").args(arguments).status().await.unwrap().success());
}

/// The value of a string, and who answered.
pub(crate) async fn source(sidecar: &Sidecar, key: &str) -> (String, String) {
    let answer = sidecar.ask(&["GET", key], &[]).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let value = answer.json()["result"].as_str().unwrap_or("nil").to_owned();
    (value, answer.header("parallax-source").unwrap_or_default().to_owned())
}

/// Waits until the sidecar says this of the stores.
pub(crate) async fn standing(sidecar: &Sidecar, expected: &str) {
    wait_until(&format!("the standing is {expected}"), PATIENCE, || async {
        sidecar.get("/v1/status").await.json()["lineage"] == expected
    })
    .await;
}

/// How many statements of this database wait for a lock.
pub(crate) async fn waiting(database: &Database) -> i64 {
    let text = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    database.client().await.query_one(text, &[]).await.unwrap().get(0)
}

async fn server(options: PostgresOptions) -> PrivatePostgres {
    let template = Some(PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    PrivatePostgres::start(PostgresOptions { template, ..options }).await.unwrap_or_else(|error| panic!("{error}"))
}

async fn create(server: &PrivatePostgres, name: &str, template: &str) {
    let statement = format!("CREATE DATABASE {name} TEMPLATE {template}");
    client(&server.url()).await.batch_execute(&statement).await.unwrap();
}

async fn migrate(server: &PrivatePostgres, name: &str) {
    let applied = migrations::apply(&settings(&server.url_of(name)), 8).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(!applied.is_empty());
}

fn settings(url: &str) -> PostgresSettings {
    load(&Inputs::of_variables(&[("DATABASE_URL", url)])).unwrap().settings.postgres.unwrap()
}

#[tokio::test]
async fn two_tests_share_a_server_and_no_row() {
    let (one, other) = (postgres().await, postgres().await);
    assert_eq!(one.server.port(), other.server.port());
    one.client()
        .await
        .batch_execute("INSERT INTO jobs (id, job, state) VALUES ('mine', 'backfill', 'running')")
        .await
        .unwrap();
    for (database, jobs) in [(&one, 1), (&other, 0)] {
        let row = database.client().await.query_one("SELECT count(*) FROM jobs", &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), jobs);
    }
}
