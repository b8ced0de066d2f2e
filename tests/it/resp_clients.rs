//! Clients that exist, unmodified, on the Redis door: redis-py and redis-cli, in RESP2 and in RESP3. Those of Node.js stand in
//! tests/client.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::arrows::project;
use crate::support;
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::wait_until;

/// The version whose users' habits the script has.
const REDIS_PY: &str = "redis==8.1.0";
/// What redis-py counts to while one sidecar goes and the next one comes.
const COUNTED: &str = "2000";

/// Python with redis-py, installed into target/ the first time. `None` after saying so, where it cannot be had.
fn python() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join(REDIS_PY.replace("==", "-py-"));
    let python = folder.join("bin/python");
    let run = |program: &Path, arguments: &[&str]| {
        std::process::Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    let has_it = || run(&python, &["-c", "import redis"]);
    // Two tests may come here at once: each installs in a folder of its own, and the first one stays.
    let install = || {
        let own = tempfile::tempdir_in(folder.parent().unwrap()).unwrap().keep();
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", REDIS_PY];
        let is_made =
            run(Path::new("python3"), &["-m", "venv", &own.to_string_lossy()]) && run(&own.join("bin/python"), &pip);
        if !is_made || std::fs::rename(&own, &folder).is_err() {
            drop(std::fs::remove_dir_all(&own));
        }
    };
    if !has_it() {
        install();
    }
    if has_it() {
        return Some(python);
    }
    assert!(std::env::var_os("CI").is_none(), "CI must have redis-py: python3 with venv, and a package index");
    println!("SKIPPED redis-py on the Redis door: it cannot be installed here (python3 with venv, PyPI)");
    None
}

fn script(python: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(python);
    command.arg(project().join("tests/client/resp/redis_py.py")).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn port(sidecar: &Sidecar) -> String {
    sidecar.resp.rsplit(':').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_py_finds_a_redis_behind_the_door() {
    let Some(python) = python() else { return };
    let (redis, database) = tokio::join!(support::redis(), support::postgres());
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    let run = script(&python, &["commands", &port(&sidecar)]).output();
    let output = timeout(PATIENCE * 2, run).await.expect("it ends").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(sidecar.metric("parallax_writes_total", &[]).await > 1000.0);
    sidecar.drained().await;
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_py_counts_on_through_the_next_sidecar_and_nothing_twice() {
    let Some(python) = python() else { return };
    let (redis, database) = tokio::join!(support::redis(), support::postgres());
    let first = Sidecar::start(&redis, &database).await;
    first.raise("dualwrite").await;
    let place = first.resp.clone();
    let mut counting = script(&python, &["count", &port(&first), COUNTED]).spawn().unwrap();
    let mut lines = BufReader::new(counting.stdout.take().unwrap()).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.expect("it begins").unwrap();
    assert_eq!(line.as_deref(), Some("counting"));
    first.stop_with(&[], &["left with marks"]).await;
    let second = Sidecar::start_with(&redis, Some(&database), &[("PARALLAX_RESP_LISTEN", &place)]).await;
    let output = timeout(PATIENCE * 2, counting.wait_with_output()).await.expect("it ends").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("counted"));
    second.drained().await;
    second.stop_expecting(&[]).await;
}

/// What redis-cli says to what it is told over its standard input.
async fn cli(sidecar: &Sidecar, arguments: &[&str], input: &[u8]) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &port(sidecar)]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let write = async move { stdin.write_all(input).await };
    let (written, output) =
        timeout(PATIENCE, async { tokio::join!(write, child.wait_with_output()) }).await.expect("it ends");
    let output = output.unwrap();
    assert!(written.is_ok() && output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn has_cli() -> bool {
    let is_there = std::process::Command::new("redis-cli").arg("--version").output().is_ok();
    assert!(is_there || std::env::var_os("CI").is_none(), "CI must have redis-cli");
    if !is_there {
        println!("SKIPPED redis-cli on the Redis door: it is not installed here");
    }
    is_there
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_cli_finds_a_redis_behind_the_door() {
    if !has_cli() {
        return;
    }
    let (redis, database) = tokio::join!(support::redis(), support::postgres());
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    for version in ["-2", "-3"] {
        let key = format!("user:cli{version}");
        let ask = async |arguments: &[&str]| cli(&sidecar, &[&[version], arguments].concat(), b"").await;
        assert_eq!(ask(&["HSET", &key, "name", "one"]).await, "1\n");
        let (pair, shown) =
            if version == "-2" { ("name\none\n", "1) \"name\"") } else { ("name one\n", "1# \"name\" =>") };
        assert_eq!(ask(&["HGETALL", &key]).await, pair);
        assert!(ask(&["--no-raw", "HGETALL", &key]).await.starts_with(shown));
        let input =
            format!("MULTI\nHINCRBY {key} n 2\nHGET {key} n\nEXEC\nHINCRBY {key} name 1\nMULTI\nNOSUCH\nEXEC\n");
        let told = cli(&sidecar, &[version], input.as_bytes()).await;
        let lines: Vec<&str> = told.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines[..6], ["OK", "QUEUED", "QUEUED", "2", "2", "ERR hash value is not an integer"], "{told}");
        assert!(lines[8].starts_with("EXECABORT"), "{told}");
        // A value from its standard input, large and mirrored or not.
        let big = "v".repeat(1_000_000);
        for name in [format!("{key}-big"), format!("session:cli{version}-big")] {
            assert_eq!(cli(&sidecar, &[version, "-x", "SET", &name], big.as_bytes()).await, "OK\n");
            assert_eq!(ask(&["GET", &name]).await.trim_end(), big);
        }
        // Mass insertion: it counts replies and looks for its own ECHO behind them.
        let mut many = Vec::new();
        for number in 0..2_000 {
            let name = format!("user:piped{version}-{number}");
            many.extend_from_slice(format!("*3\r\n$3\r\nSET\r\n${}\r\n{name}\r\n$1\r\nx\r\n", name.len()).as_bytes());
        }
        let told = cli(&sidecar, &[version, "--pipe"], &many).await;
        assert!(told.contains("errors: 0, replies: 2000"), "{told}");
        let scanned = ask(&["--scan", "--pattern", &format!("user:piped{version}-*")]).await;
        assert_eq!(scanned.lines().count(), 2_000);
        assert!(!ask(&["--scan"]).await.contains("parallax:"));
    }
    sidecar.drained().await;
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_cli_hears_messages_and_comes_back_after_its_connection_broke() {
    if !has_cli() {
        return;
    }
    let redis = support::redis().await;
    let sidecar = Sidecar::start_with(&redis, None, &[]).await;
    for version in ["-2", "-3"] {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &port(&sidecar), version, "SUBSCRIBE", "news"]);
        let mut subscriber = command.stdout(Stdio::piped()).stdin(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(subscriber.stdout.take().unwrap()).lines();
        wait_until("somebody listens", PATIENCE, || async {
            cli(&sidecar, &["PUBLISH", "news", "hello"], b"").await == "1\n"
        })
        .await;
        let heard = async { while lines.next_line().await.unwrap().expect("more") != "hello" {} };
        timeout(PATIENCE, heard).await.expect("it is heard");
        subscriber.kill().await.unwrap();
        // One that stays connected: its connection of its own breaks between two commands.
        let mut command = Command::new("redis-cli");
        command.args(["-p", &port(&sidecar), version]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut stays = command.kill_on_drop(true).spawn().unwrap();
        let (mut told, mut lines) = (stays.stdin.take().unwrap(), BufReader::new(stays.stdout.take().unwrap()).lines());
        told.write_all(b"WATCH session:a\n").await.unwrap();
        assert_eq!(timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().as_deref(), Some("OK"));
        support::raw(&redis, "CLIENT KILL TYPE normal SKIPME yes").await;
        wait_until("it is answered again", PATIENCE, || async { cli(&sidecar, &["PING"], b"").await == "PONG\n" })
            .await;
        told.write_all(b"PING\nPING\n").await.unwrap();
        let heard = async { while lines.next_line().await.unwrap().expect("more") != "PONG" {} };
        timeout(PATIENCE, heard).await.expect("it comes back");
        drop(told);
        drop(stays.wait().await);
    }
    sidecar.stop_with(&["postgres"], &["renewed", "redis"]).await;
}
