//! Postgres goes back in time under a running fleet (rule P1): a backup is restored, its data folder is, or another one
//! stands behind the same address. Nothing stale is read, and a new backfill makes both stores equal again.

use std::path::Path;

use parallax::dev::servers::{PostgresOptions, PrivateRedis};
use tokio::process::Command;

use crate::arrows::project;
use crate::chart::text;
use crate::equality::{Load, ask, assert_equal, assert_no_failures, drained};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, Database, wait_until};

const KEY: &str = "apikey:time-traveller";
const GROUP: &str = "account_group_members:time-travellers";

struct Fleet {
    redis: PrivateRedis,
    database: Database,
    sidecars: [Sidecar; 2],
}

impl Fleet {
    /// Two sidecars in stage live, and a record and a collection in both stores.
    async fn start() -> Self {
        let options = PostgresOptions { durable: true, ..PostgresOptions::default() };
        let (redis, database) = (support::redis().await, support::postgres_of_its_own(options).await);
        let sidecars = [Sidecar::start(&redis, &database).await, Sidecar::start(&redis, &database).await];
        sidecars[0].raise("live").await;
        let fleet = Self { redis, database, sidecars };
        fleet.write("first").await;
        fleet
    }

    /// Writes the record and the collection anew, and waits until both sidecars read it from Postgres.
    async fn write(&self, name: &str) {
        self.sidecars[0].command(&["HSET", KEY, "name", name]).await;
        self.sidecars[1].command(&["SADD", GROUP, name]).await;
        drained(&self.redis).await;
        self.is_read_from_postgres(name).await;
    }

    async fn is_read_from_postgres(&self, name: &str) {
        for sidecar in &self.sidecars {
            wait_until("postgres answers", PATIENCE, || async {
                let answer = sidecar.ask(&["HGET", KEY, "name"], &[]).await;
                assert_eq!(answer.json()["result"], name);
                let member = sidecar.ask(&["SISMEMBER", GROUP, name], &[]).await;
                assert_eq!(member.json()["result"], 1);
                let is_postgres =
                    |answer: &support::sidecar::Answer| answer.header("parallax-source") == Some("postgres");
                is_postgres(&answer) && is_postgres(&member)
            })
            .await;
        }
    }

    async fn epoch(&self) -> i64 {
        ask(&self.redis, &["HGET", "parallax:anchor", "epoch"]).await
    }

    async fn beat(&self) -> i64 {
        ask(&self.redis, &["HGET", "parallax:postgres", "beat"]).await
    }

    /// Waits until the heartbeat has gone on by two, so that what was saved before is of the past.
    async fn time_passes(&self) {
        let beat = self.beat().await;
        wait_until("the heart beats", PATIENCE, || async { self.beat().await >= beat + 2 }).await;
    }

    /// Reads through both sidecars until the epoch has risen above `epoch` and a little longer; never reads the past.
    async fn never_reads_the_past(&self, epoch: i64) {
        let mut further = 0;
        let began = tokio::time::Instant::now();
        while further < 50 {
            for sidecar in &self.sidecars {
                assert_eq!(sidecar.command(&["HGET", KEY, "name"]).await, "second", "the past was read");
                assert_eq!(sidecar.command(&["SISMEMBER", GROUP, "second"]).await, 1, "the past was read");
            }
            further += u64::from(self.epoch().await > epoch);
            assert!(began.elapsed() < PATIENCE, "nobody noticed that postgres went back");
        }
        let answer = self.sidecars[1].ask(&["HGET", KEY, "name"], &[]).await;
        assert_eq!(answer.header("parallax-source"), Some("redis"), "a backfill is owed");
        assert!(
            self.sidecars[0].metric("parallax_postgres_went_back_total", &[]).await
                + self.sidecars[1].metric("parallax_postgres_went_back_total", &[]).await
                >= 1.0
        );
    }

    /// A backfill makes the stores equal, and Postgres answers again.
    async fn becomes_whole_by_a_backfill(&self) {
        // What was proven before holds no longer, until a comparison that began behind the accident.
        let gaps = self.sidecars[0].get("/v1/gaps").await.json();
        assert!(
            gaps["gaps"][0]["cause"] == "postgres_went_back" && gaps["unproven"] != serde_json::json!([]),
            "{gaps}"
        );
        self.sidecars[1].backfill().await;
        drained(&self.redis).await;
        assert_equal(&self.redis, &self.database).await;
        self.is_read_from_postgres("second").await;
        self.write("third").await;
    }

    async fn stop(self) {
        for sidecar in self.sidecars {
            sidecar.stop_with(&[], &["postgres went back in time", "postgres cannot be reached"]).await;
        }
    }
}

async fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Puts `copy` in the place of the data folder; `cp -a` keeps owners and modes, which Postgres insists on.
async fn put_in_place(copy: &Path, folder: &Path) {
    run("rm", &["-rf", &folder.display().to_string()]).await;
    run("cp", &["-a", &copy.display().to_string(), &folder.display().to_string()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_restored_under_a_running_fleet_is_never_read_as_the_present() {
    let fleet = Fleet::start().await;
    let scratch = tempfile::tempdir().unwrap();
    let dump = scratch.path().join("backup").display().to_string();
    let url = fleet.database.url();
    run("pg_dump", &["--format=custom", "--file", &dump, &url]).await;
    fleet.time_passes().await;
    fleet.write("second").await;
    fleet.sidecars[0].command(&["DEL", "user:written-and-deleted"]).await;
    let epoch = fleet.epoch().await;
    let mut load = Load::start(&fleet.sidecars[0].data, 4, false);
    load.goes_on(20).await;

    let server = support::client(&fleet.database.server.url()).await;
    server.batch_execute("CREATE DATABASE restored").await.unwrap();
    let restored = fleet.database.server.url_of("restored");
    run("pg_restore", &["--exit-on-error", "--dbname", &restored, &dump]).await;
    let swap = [
        "ALTER DATABASE parallax ALLOW_CONNECTIONS false",
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'parallax'",
        "ALTER DATABASE parallax RENAME TO before_the_accident",
        "ALTER DATABASE restored RENAME TO parallax",
    ];
    for statement in swap {
        server.batch_execute(statement).await.unwrap();
    }
    fleet.never_reads_the_past(epoch).await;
    load.goes_on(40).await;
    assert_no_failures(&load.finish().await);
    fleet.becomes_whole_by_a_backfill().await;
    fleet.stop().await;
}

/// Runs a script of the chart's backup, as its `CronJob` does; what it said.
async fn script(fleet: &Fleet, name: &str, folder: &Path) -> Result<String, String> {
    let file = project().join("helm/parallax/files").join(name);
    let output = Command::new("sh")
        .arg(file)
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", fleet.database.server.port().to_string())
        .env("PGUSER", "postgres")
        .env("PGDATABASE", &fleet.database.name)
        .env("BACKUP_FOLDER", folder)
        .env("BACKUP_KEEP", "2")
        .output()
        .await
        .unwrap();
    let said = text(&output);
    if output.status.success() { Ok(said) } else { Err(said) }
}

fn dumps(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_the_chart_is_dropped_on_restored_and_verified_under_a_running_fleet() {
    let fleet = Fleet::start().await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    std::fs::write(folder.join("parallax-20000101T000000Z-1.dump"), "of long ago").unwrap();
    std::fs::write(folder.join("notes.txt"), "not a dump").unwrap();
    for kept in [2, 2] {
        let said = script(&fleet, "backup.sh", folder).await.unwrap();
        assert!(said.contains(&format!("{kept} dumps are kept")), "{said}");
    }
    let left = dumps(folder);
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(left.contains(&"notes.txt".to_owned()) && !left.iter().any(|name| name.contains("2000")), "{left:?}");
    let refused = script(&fleet, "restore.sh", folder).await.unwrap_err();
    assert!(refused.contains("tables already: drop and create it first"), "{refused}");

    fleet.time_passes().await;
    fleet.write("second").await;
    let epoch = fleet.epoch().await;
    let mut load = Load::start(&fleet.sidecars[0].data, 4, false);
    load.goes_on(20).await;
    let server = support::client(&fleet.database.server.url()).await;
    server.batch_execute("DROP DATABASE parallax WITH (FORCE)").await.unwrap();
    load.goes_on(20).await;
    let lost = script(&fleet, "backup.sh", folder).await.unwrap_err();
    assert!(lost.contains("does not exist"), "{lost}");
    assert_eq!(dumps(folder), left, "a backup that failed leaves nothing and removes nothing");
    server.batch_execute("CREATE DATABASE parallax TEMPLATE template0").await.unwrap();
    script(&fleet, "restore.sh", folder).await.unwrap();
    fleet.never_reads_the_past(epoch).await;
    load.goes_on(20).await;
    assert_no_failures(&load.finish().await);

    fleet.becomes_whole_by_a_backfill().await;
    let verified = Command::new(env!("CARGO_BIN_EXE_parallax"))
        .args(["verify", "--json"])
        .env("REDIS_URL", fleet.redis.url())
        .env("DATABASE_URL", fleet.database.url())
        .output()
        .await
        .unwrap();
    assert!(verified.status.success(), "{}", text(&verified));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_put_back_after_a_crash_is_never_read_as_the_present() {
    let fleet = Fleet::start().await;
    let (server, scratch) = (&fleet.database.server, tempfile::tempdir().unwrap());
    let copy = scratch.path().join("copy");
    server.stop().await.unwrap();
    put_in_place(&server.data_folder(), &copy).await;
    server.restart().await.unwrap();
    fleet.time_passes().await;
    fleet.write("second").await;
    let epoch = fleet.epoch().await;
    server.kill().unwrap();
    put_in_place(&copy, &server.data_folder()).await;
    server.restart().await.unwrap();
    fleet.never_reads_the_past(epoch).await;
    fleet.becomes_whole_by_a_backfill().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_postgres_behind_the_same_address_is_not_taken_for_the_one_we_knew() {
    let fleet = Fleet::start().await;
    fleet.write("second").await;
    let other = support::postgres_of_its_own(PostgresOptions { durable: true, ..PostgresOptions::default() }).await;
    // Its heart has beaten longer than the one we knew: only its name gives it away.
    other.client().await.batch_execute("UPDATE heartbeat SET beat = 1000000").await.unwrap();
    let epoch = fleet.epoch().await;
    let (server, scratch) = (&fleet.database.server, tempfile::tempdir().unwrap());
    let (copy, settings) = (scratch.path().join("copy"), scratch.path().join("settings"));
    other.server.stop().await.unwrap();
    put_in_place(&other.server.data_folder(), &copy).await;
    server.stop().await.unwrap();
    put_in_place(&server.data_folder().join("postgresql.auto.conf"), &settings).await;
    put_in_place(&settings, &copy.join("postgresql.auto.conf")).await;
    put_in_place(&copy, &server.data_folder()).await;
    server.restart().await.unwrap();
    fleet.never_reads_the_past(epoch).await;
    fleet.becomes_whole_by_a_backfill().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_promoted_while_it_was_behind_is_never_read_as_the_present() {
    let fleet = Fleet::start().await;
    let (server, scratch) = (&fleet.database.server, tempfile::tempdir().unwrap());
    let copy = scratch.path().join("replica");
    server.stop().await.unwrap();
    put_in_place(&server.data_folder(), &copy).await;
    server.restart().await.unwrap();
    fleet.time_passes().await;
    fleet.write("second").await;
    let epoch = fleet.epoch().await;
    server.kill().unwrap();
    // It recovers to where it had come, is promoted, and writes a timeline of its own.
    let mut settings = std::fs::OpenOptions::new().append(true).open(copy.join("postgresql.auto.conf")).unwrap();
    std::io::Write::write_all(&mut settings, b"restore_command = 'false'\n").unwrap();
    std::fs::write(copy.join("recovery.signal"), "").unwrap();
    put_in_place(&copy, &server.data_folder()).await;
    server.restart().await.unwrap();
    fleet.never_reads_the_past(epoch).await;
    let timeline: String = ask(&fleet.redis, &["HGET", "parallax:postgres", "timeline"]).await;
    assert_eq!(timeline, "00000002", "it was not promoted");
    fleet.becomes_whole_by_a_backfill().await;
    fleet.stop().await;
}
