//! Private servers and the real sidecar beside them, as a child process on free ports: what the demo and the bench run on.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, bail};
use redis::aio::MultiplexedConnection;
use tokio::process::{Child, Command};
use tokio::time::{Duration, Instant, sleep, timeout};

use crate::client::Client;
use crate::dev::servers::{PostgresOptions, PrivatePostgres, PrivateRedis, RedisOptions};

/// How long the sidecar may take to be ready: it migrates first.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// How long the sidecar may take to leave: longer than its own drain deadline.
const LEAVE_DEADLINE: Duration = Duration::from_secs(45);

const POLL: Duration = Duration::from_millis(5);

/// How much of the sidecar's log an error shows.
const LOG_LINES_SHOWN: usize = 20;

/// Everything that runs.
pub struct Stack {
    /// The private Redis.
    pub redis: PrivateRedis,
    /// The private Postgres.
    pub postgres: PrivatePostgres,
    /// Where the data door listens.
    pub data_door: String,
    /// Where the Redis door listens.
    pub redis_door: String,
    /// Where the admin door listens.
    pub admin_door: String,
    /// From the start of the sidecar's process until it was ready.
    pub ready_after: Duration,
    sidecar: Child,
    scratch: tempfile::TempDir,
}

impl Stack {
    /// Starts both stores and `program serve` with further `settings` (variables), and waits until it is ready.
    ///
    /// # Errors
    /// When a server is missing or something does not start, with the end of the sidecar's log.
    pub async fn start(program: &Path, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let durable = PostgresOptions { durable: true, ..PostgresOptions::default() };
        let (redis, postgres) =
            tokio::try_join!(PrivateRedis::start(RedisOptions::default()), PrivatePostgres::start(durable))?;
        Self::start_between(redis, postgres, program, settings).await
    }

    /// As [`Stack::start`], between stores that run already.
    ///
    /// # Errors
    /// As [`Stack::start`].
    pub async fn start_between(
        redis: PrivateRedis,
        postgres: PrivatePostgres,
        program: &Path,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let scratch = tempfile::tempdir().context("making a scratch folder")?;
        let (data_door, redis_door, admin_door) = (free_address()?, free_address()?, free_address()?);
        let log = std::fs::File::create(scratch.path().join("sidecar.log")).context("creating the sidecar's log")?;
        let mut command = Command::new(program);
        // The caller's environment may name the caller's own stores, which must not be touched.
        command.env_clear();
        for name in ["PATH", "HOME", "TMPDIR", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let began = Instant::now();
        let sidecar = command
            .arg("serve")
            .env("REDIS_URL", redis.url())
            .env("DATABASE_URL", postgres.url())
            .env("PARALLAX_HTTP_LISTEN", &data_door)
            .env("PARALLAX_RESP_LISTEN", &redis_door)
            .env("PARALLAX_ADMIN_LISTEN", &admin_door)
            .env("PARALLAX_MIGRATE_ON_START", "true")
            .env("PARALLAX_LOG", "info")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("starting the sidecar")?;
        let mut stack =
            Self { redis, postgres, data_door, redis_door, admin_door, ready_after: Duration::ZERO, sidecar, scratch };
        stack.wait_until_ready().await?;
        stack.ready_after = began.elapsed();
        Ok(stack)
    }

    /// The process id of the sidecar.
    ///
    /// # Errors
    /// When it has ended.
    pub fn sidecar_id(&self) -> anyhow::Result<u32> {
        self.sidecar.id().context("the sidecar has already ended")
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let mut admin = Client::new(&self.admin_door);
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            if let Some(status) = self.sidecar.try_wait().context("watching the sidecar")? {
                bail!("the sidecar ended with {status}:\n{}", self.log_end());
            }
            let answer = admin.send(http::Method::GET, "/readyz", &[], bytes::Bytes::new()).await;
            if answer.is_ok_and(|answer| answer.status.is_success()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the sidecar was not ready within {READY_DEADLINE:?}:\n{}", self.log_end());
            }
            sleep(POLL).await;
        }
    }

    /// The last lines of the sidecar's log.
    pub fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.scratch.path().join("sidecar.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(LOG_LINES_SHOWN)).copied().collect::<Vec<_>>().join("\n")
    }

    /// A connection to the private Redis itself, past the sidecar.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn redis_connection(&self) -> anyhow::Result<MultiplexedConnection> {
        let client = redis::Client::open(self.redis.url())?;
        Ok(client.get_multiplexed_async_connection().await?)
    }

    /// How many marks wait in the outbox.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn outbox_depth(&self) -> anyhow::Result<u64> {
        let mut connection = self.redis_connection().await?;
        Ok(redis::cmd("HLEN").arg("parallax:outbox").query_async(&mut connection).await?)
    }

    /// Waits until no mark waits; returns how long it took.
    ///
    /// # Errors
    /// When marks still wait at the deadline.
    pub async fn wait_for_empty_outbox(&self, deadline: Duration) -> anyhow::Result<Duration> {
        let began = Instant::now();
        loop {
            let depth = self.outbox_depth().await?;
            if depth == 0 {
                return Ok(began.elapsed());
            }
            if began.elapsed() > deadline {
                bail!("{depth} marks still waited after {deadline:?}:\n{}", self.log_end());
            }
            sleep(POLL).await;
        }
    }

    /// Ends the sidecar as Kubernetes would (SIGTERM), and returns how long it took to leave.
    ///
    /// # Errors
    /// When it does not leave in good order within its deadline.
    pub async fn stop(mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let id = self.sidecar_id()?;
        let sent = Command::new("kill").args(["-TERM", &id.to_string()]).status().await.context("sending SIGTERM")?;
        if !sent.success() {
            bail!("the sidecar could not be asked to leave");
        }
        let Ok(status) = timeout(LEAVE_DEADLINE, self.sidecar.wait()).await else {
            bail!("the sidecar did not leave within {LEAVE_DEADLINE:?}:\n{}", self.log_end());
        };
        let status = status.context("waiting for the sidecar")?;
        if !status.success() {
            bail!("the sidecar left with {status}:\n{}", self.log_end());
        }
        Ok(began.elapsed())
    }
}

/// A free port of loopback. Somebody else may take it before whoever it is for; then that one says so and ends.
///
/// # Errors
/// When the system gives none.
pub fn free_address() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
    Ok(listener.local_addr()?.to_string())
}
