//! What people would use instead, started beside us on the same Redis: webdis, nutcracker (twemproxy), haproxy.
//!
//! Each runs with the configuration that its package brings, but for addresses. One that is missing is left out, and the
//! table says so.

use std::net::TcpStream;
use std::process::Stdio;

use anyhow::{Context, bail};
use parallax::traffic::stack::free_address;
use tokio::process::{Child, Command};
use tokio::time::{Duration, Instant, sleep};

use crate::load::program;

const READY_DEADLINE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// A peer under way; it ends when it is dropped.
pub(crate) struct Peer {
    /// Where it listens.
    pub(crate) address: String,
    process: Child,
    _scratch: tempfile::TempDir,
}

impl Peer {
    /// Its process id.
    pub(crate) fn id(&self) -> anyhow::Result<u32> {
        self.process.id().context("a peer has ended")
    }

    /// Its port on loopback.
    pub(crate) fn port(&self) -> anyhow::Result<u16> {
        port_of(&self.address)
    }
}

/// The port of an address.
pub(crate) fn port_of(address: &str) -> anyhow::Result<u16> {
    let (_, port) = address.rsplit_once(':').context("an address without a port")?;
    Ok(port.parse()?)
}

/// HTTP in front of Redis.
pub(crate) async fn webdis(redis_port: u16) -> anyhow::Result<Option<Peer>> {
    start("webdis", "webdis.json", &[], |port, folder| {
        format!(
            r#"{{"redis_host": "127.0.0.1", "redis_port": {redis_port}, "http_host": "127.0.0.1", "http_port": {port},
"threads": 2, "daemonize": false, "database": 0, "verbosity": 3, "logfile": "{folder}/webdis.log"}}"#
        )
    })
    .await
}

/// A proxy that shares one pipelined connection to Redis among all clients.
pub(crate) async fn nutcracker(redis_port: u16) -> anyhow::Result<Option<Peer>> {
    start("nutcracker", "nutcracker.yml", &["-c"], |port, _| {
        format!(
            "bench:\n  listen: 127.0.0.1:{port}\n  redis: true\n  hash: fnv1a_64\n  distribution: ketama\n  \
             servers:\n   - 127.0.0.1:{redis_port}:1\n"
        )
    })
    .await
}

/// A proxy that copies bytes, a connection for each client.
pub(crate) async fn haproxy(redis_port: u16) -> anyhow::Result<Option<Peer>> {
    start("haproxy", "haproxy.cfg", &["-db", "-f"], |port, _| {
        format!(
            "global\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  \
             timeout server 1m\nlisten bench\n  bind 127.0.0.1:{port}\n  server redis 127.0.0.1:{redis_port}\n"
        )
    })
    .await
}

async fn start(
    name: &'static str,
    file: &str,
    arguments: &[&str],
    config: impl Fn(u16, &str) -> String,
) -> anyhow::Result<Option<Peer>> {
    let Some(program) = program(name) else { return Ok(None) };
    let scratch = tempfile::tempdir().context("making a scratch folder")?;
    let address = free_address()?;
    let path = scratch.path().join(file);
    std::fs::write(&path, config(port_of(&address)?, &scratch.path().display().to_string()))
        .context("writing the configuration of a peer")?;
    let mut process = Command::new(program)
        .args(arguments)
        .arg(&path)
        .current_dir(scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    let began = Instant::now();
    while TcpStream::connect(&address).is_err() {
        if let Some(status) = process.try_wait()? {
            bail!("{name} ended with {status}");
        }
        if began.elapsed() > READY_DEADLINE {
            bail!("{name} did not listen within {READY_DEADLINE:?}");
        }
        sleep(POLL).await;
    }
    Ok(Some(Peer { address, process, _scratch: scratch }))
}
