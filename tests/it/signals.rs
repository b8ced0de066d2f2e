//! The sidecar as its supervisor sees it: signals, exit codes, what it tells systemd, and a reload that loses nothing.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::arrows::project;
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, signal, wait_until};

/// A kind that is mirrored, and nothing else.
const CATALOG: &str =
    "[[family]]\nabout = 'things'\npolicy = 'mirror'\nkinds = [{ name = 'thing', pattern = 'thing:{id}' }]\n";
/// One more behind it.
const MORE: &str =
    "[[family]]\nabout = 'others'\npolicy = 'mirror'\nkinds = [{ name = 'other', pattern = 'other:{id}' }]\n";

fn parallax(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parallax"));
    command.args(arguments).env_clear().output().unwrap()
}

async fn kinds(sidecar: &Sidecar) -> Vec<String> {
    let flags = sidecar.get("/v1/flags").await.json();
    let names = flags["kinds"].as_array().unwrap().iter().map(|kind| kind["kind"].as_str().unwrap().to_owned());
    names.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_up_the_catalog_and_the_tokens_and_refuses_no_connection() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let folder = tempfile::tempdir().unwrap();
    let (catalog, token) = (folder.path().join("catalog.toml"), folder.path().join("token"));
    fs::write(&catalog, CATALOG).unwrap();
    fs::write(&token, "first\n").unwrap();
    let variables =
        [("PARALLAX_CATALOG", catalog.to_str().unwrap()), ("PARALLAX_HTTP_TOKEN_FILE", token.to_str().unwrap())];
    let sidecar = Sidecar::start_with(&redis, Some(&database), &variables).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    assert_eq!(kinds(&sidecar).await, ["thing"]);

    // Somebody connects anew all the time.
    let (is_over, address) = (Arc::new(AtomicBool::new(false)), sidecar.data.clone());
    let knocking = tokio::spawn({
        let is_over = Arc::clone(&is_over);
        async move {
            let mut knocks = 0;
            while !is_over.load(Ordering::Relaxed) {
                TcpStream::connect(&address).await.expect("the port is open");
                knocks += 1;
            }
            knocks
        }
    });
    fs::write(&catalog, format!("{CATALOG}{MORE}")).unwrap();
    fs::write(&token, "second\n").unwrap();
    signal(&sidecar, "HUP").await;
    wait_until("the new kind is there", PATIENCE, || async { kinds(&sidecar).await == ["thing", "other"] }).await;
    is_over.store(true, Ordering::Relaxed);
    assert!(knocking.await.unwrap() > 0);
    for (token, status) in [("first", 401), ("second", 200)] {
        let header = format!("Bearer {token}");
        let written = sidecar.ask(&["HSET", "other:1", "name", "n"], &[("authorization", &header)]).await;
        assert_eq!(written.status, status, "{token}");
    }
    // The stage is kept, and what is written now reaches Postgres under the new kind.
    sidecar.drained().await;
    let count = "SELECT count(*) FROM records WHERE key = 'other:1'";
    assert_eq!(database.client().await.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 1);
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_refused_with_the_reason_and_what_held_goes_on() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let folder = tempfile::tempdir().unwrap();
    let catalog = folder.path().join("catalog.toml");
    fs::write(&catalog, CATALOG).unwrap();
    let settings = folder.path().join("settings.toml");
    fs::write(&settings, "").unwrap();
    let variables = [("PARALLAX_CATALOG", catalog.to_str().unwrap()), ("PARALLAX_CONFIG", settings.to_str().unwrap())];
    let sidecar = Sidecar::start_with(&redis, Some(&database), &variables).await;
    sidecar.flag("*", json!({ "stage": "dualwrite" })).await;
    let mut refusals = Vec::new();
    for (broken, why) in [
        ("nonsense = 1".to_owned(), "catalog.toml:"),
        (CATALOG.replace("thing:{id}", "thing:{id:rest}"), "must keep its pattern: take it to off first"),
        (CATALOG.replace("'mirror'", "'ephemeral'"), "must keep its policy: take it to off first"),
        (MORE.to_owned(), "the kind thing is in stage dualwrite and must not go"),
        (
            format!("{}{CATALOG}", MORE.replace("other:{id}", "thing:special")),
            "must keep its place behind other patterns",
        ),
    ] {
        fs::write(&catalog, broken).unwrap();
        signal(&sidecar, "HUP").await;
        refusals.push(why);
        wait_until(why, PATIENCE, || async { sidecar.has_logged(why) }).await;
        assert_eq!(kinds(&sidecar).await, ["thing"], "{why}");
    }
    fs::write(&catalog, CATALOG).unwrap();
    for (setting, why) in [
        ("[limits]\nlease_ms = 1", "lease_ms"),
        ("timezone_offset = 3", "the offset of the time zone changes only with a restart"),
        ("[redis]\npassword = 'wrong'", "redis does not answer"),
    ] {
        fs::write(&settings, setting).unwrap();
        signal(&sidecar, "HUP").await;
        refusals.push(why);
        wait_until(why, PATIENCE, || async { sidecar.has_logged(why) }).await;
    }
    // With everything put right it reloads, and a kind that is off may change.
    fs::write(&settings, "").unwrap();
    sidecar.flag("*", json!({ "stage": "off" })).await;
    fs::write(&catalog, CATALOG.replace("'thing'", "'another'")).unwrap();
    signal(&sidecar, "HUP").await;
    wait_until("the kind has another name", PATIENCE, || async { kinds(&sidecar).await == ["another"] }).await;
    sidecar.stop_expecting(&refusals).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_leaves_at_once_and_says_so_by_its_exit_code() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    for (name, code) in [("TERM", 143), ("INT", 130)] {
        let sidecar = Sidecar::start(&redis, &database).await;
        // A request whose body does not come holds the end up.
        let mut slow = TcpStream::connect(&sidecar.data).await.unwrap();
        slow.write_all(b"POST /redis HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n[").await.unwrap();
        wait_until("it has begun", PATIENCE, || async { sidecar.ask(&["PING"], &[]).await.status == 200 }).await;
        signal(&sidecar, name).await;
        wait_until("the end has begun", PATIENCE, || async { sidecar.has_logged("shutdown was asked for") }).await;
        signal(&sidecar, name).await;
        assert_eq!(sidecar.exit_code().await, Some(code), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_cause_has_its_exit_code() {
    let redis = support::redis().await;
    let held = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = held.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("catalog.toml");
    fs::write(&broken, "nonsense = 1").unwrap();
    let url = redis.url();
    let serve = ["serve", "--enable-postgres=false", "--redis-url", &url, "--http-listen", "127.0.0.1:0"];
    for (more, code) in [
        (vec!["--admin-listen", "127.0.0.1:0", "--no-such-flag"], 2),
        (vec!["--admin-listen", "nowhere"], 2),
        (vec!["--admin-listen", "127.0.0.1:0", "--catalog", broken.to_str().unwrap()], 2),
    ] {
        let arguments: Vec<&str> = serve.iter().copied().chain(more).collect();
        let output = tokio::task::block_in_place(|| parallax(&arguments));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    }
    let arguments: Vec<&str> = serve.iter().copied().chain(["--admin-listen", &taken]).collect();
    let output = tokio::task::block_in_place(|| parallax(&arguments));
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be listened on"), "{output:?}");
    let nobody = "postgres://nobody@127.0.0.1:1/none";
    let output = tokio::task::block_in_place(|| parallax(&["migrate", "--database-url", nobody]));
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_of_the_start_the_reload_and_the_end() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut bytes = [0; 256];
        let length = tokio::task::block_in_place(|| socket.recv(&mut bytes)).expect("something is told");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let sidecar = Sidecar::start_with(&redis, Some(&database), &[("NOTIFY_SOCKET", path.to_str().unwrap())]).await;
    assert_eq!(heard().trim(), "READY=1");
    signal(&sidecar, "HUP").await;
    let reloading = heard();
    assert!(reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert_eq!(heard().trim(), "READY=1");
    sidecar.terminate().await;
    assert_eq!(heard().trim(), "STOPPING=1");
    sidecar.ended_with(&[], &[]).await;
}

#[test]
fn the_example_unit_is_what_systemd_understands() {
    let unit = project().join("docs/systemd/parallax.service");
    let text = fs::read_to_string(&unit).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert!(lines.clone().all(|line| line.starts_with('[') || line.contains('=')), "{text}");
    let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/parallax ")).unwrap();
    let help = parallax(&["serve", "--help"]);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(start.split(' ').filter(|word| word.starts_with("--")).all(|flag| help.contains(flag)), "{start}");
    for word in ["SIGTERM", "SIGHUP", "SIGUSR2", "Exit codes:"] {
        assert!(help.contains(word), "serve --help says nothing of {word}");
    }
    // The program of the unit is not installed here; with ours in its place the whole file is judged.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("parallax.service");
    fs::write(&copy, text.replace("/usr/local/bin/parallax", env!("CARGO_BIN_EXE_parallax"))).unwrap();
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let ours: Vec<&str> = said.lines().filter(|line| is_about(line, &copy)).collect();
            assert!(ours.is_empty(), "{said}");
        }
        Err(_) => println!("SKIPPED systemd's own look at the example unit: no systemd-analyze"),
    }
}

/// Whether a line of systemd-analyze speaks of this file; it speaks of the machine's units as well.
fn is_about(line: &str, unit: &Path) -> bool {
    line.contains(unit.to_str().unwrap()) || line.starts_with("parallax.service:")
}
