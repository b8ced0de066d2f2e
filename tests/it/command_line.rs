//! The program as a person runs it: exit codes, what it prints, and that nothing of it stays behind.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use parallax::stores::migrations;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support;

/// The program with these arguments and no environment but the path.
fn parallax(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parallax"));
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn config_check_prints_what_holds_or_leaves_with_2() {
    let fine =
        parallax(&["config", "check", "--redis-port", "7000"]).env("POSTGRES_PASSWORD", "s3cret").output().unwrap();
    assert_eq!(fine.status.code(), Some(0), "{}", text(&fine));
    assert!(text(&fine).contains("--redis-port") && !text(&fine).contains("s3cret"), "{}", text(&fine));

    let wrong = parallax(&["config", "check", "--redis-port", "x"]).env("POSTGRES_PORT", "y").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        text(&wrong).contains("--redis-port: `x`") && text(&wrong).contains("POSTGRES_PORT: `y`"),
        "{}",
        text(&wrong)
    );

    let serve = parallax(&["serve", "--redis-port", "x"]).output().unwrap();
    assert_eq!(serve.status.code(), Some(2), "{}", text(&serve));
}

#[test]
fn a_broken_catalog_is_refused_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("catalog.toml");
    std::fs::write(&file, "\n[[kind]]\nnonsense = 1\n").unwrap();
    let path = file.to_str().unwrap();
    for command in [["catalog", "check"], ["config", "check"]] {
        let refused = parallax(&command).args(["--catalog", path]).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
        assert!(text(&refused).contains(&format!("{path}:")), "{}", text(&refused));
    }
}

#[tokio::test]
async fn catalog_check_counts_the_keys_of_a_live_redis() {
    let server = support::redis().await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut pipeline = redis::pipe();
    for number in 0..2500 {
        pipeline.set(format!("nonsense:{number}"), "x").ignore();
    }
    pipeline.hset("apikey:5b1bd4d9-4b32-4a25-9c0c-0b8f5b6d9a11", "name", "first").ignore();
    let () = pipeline.query_async(&mut connection).await.unwrap();
    let command = parallax(&["catalog", "check", "--redis-url", &server.url()]);
    let output = tokio::process::Command::from(command).output().await.unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.starts_with("2501 keys, 1 of "), "{text}");
    assert!(text.contains("2500  nonsense:"), "{text}");
}

#[tokio::test]
async fn migrate_brings_the_schema_once_and_the_offset_of_the_dates_with_it() {
    let database = support::postgres_of_its_own(Default::default()).await;
    assert!(migrations::pending(&database.settings()).await.unwrap().is_empty());
    database.client().await.batch_execute("CREATE DATABASE fresh").await.unwrap();
    let url = database.server.url_of("fresh");
    let migrate = || async {
        let command = parallax(&["migrate", "--timezone-offset=-5", "--database-url", &url]);
        let output = tokio::process::Command::from(command).output().await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        text(&output)
    };
    // Two at once, as two sidecars that start together: each migration is applied by one of them.
    let (one, other) = tokio::join!(migrate(), migrate());
    let applied = format!("{one}{other}").lines().filter(|line| line.starts_with("applied ")).count();
    assert_eq!(applied, std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap().count());
    assert!(migrate().await.contains("nothing to do"));
    let offset = support::client(&url).await.query_one("SELECT parallax_offset()::text", &[]).await.unwrap();
    assert_eq!(offset.get::<_, String>(0), "-05:00:00");
}

#[tokio::test]
async fn dev_starts_what_is_missing_prints_where_it_is_and_leaves_nothing_behind() {
    for signal in ["TERM", "KILL"] {
        let mut command = tokio::process::Command::from(parallax(&["dev"]));
        command.args(["--http-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--resp-listen", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut redis, mut postgres) = (None, None);
        while let Some(line) = lines.next_line().await.unwrap() {
            let word = |at: usize| line.split_whitespace().nth(at).map(str::to_owned);
            match word(0).as_deref() {
                Some("redis") => redis = word(3),
                Some("postgres") => postgres = word(2),
                Some("Ctrl-C") => break,
                Some(_) | None => {}
            }
        }
        let (redis, postgres) = (format!("redis://127.0.0.1:{}", redis.unwrap()), postgres.unwrap());
        assert!(reaches_redis(&redis).await);
        support::wait_until("the schema is there", Duration::from_secs(20), || async {
            let client = support::client(&postgres).await;
            client.query_one("SELECT count(*) FROM api_keys", &[]).await.is_ok()
        })
        .await;
        let id = child.id().unwrap().to_string();
        assert!(Command::new("sh").args(["-c", "kill -s $0 $1", signal, &id]).status().unwrap().success());
        let status = child.wait().await.unwrap();
        assert_eq!(status.success(), signal == "TERM", "{status}");
        support::wait_until("both servers have ended", Duration::from_secs(10), || async {
            !reaches_redis(&redis).await && tokio_postgres::connect(&postgres, tokio_postgres::NoTls).await.is_err()
        })
        .await;
    }
}

async fn reaches_redis(url: &str) -> bool {
    let client = redis::Client::open(url).expect("an address");
    client.get_multiplexed_async_connection().await.is_ok()
}
