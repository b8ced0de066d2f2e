//! A private Redis.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::dev::servers::process::{ServerProcess, free_port};
use crate::dev::servers::scratch::Scratch;
use crate::dev::servers::{ServerError, ServerTls, binaries, blocking, url_part};

const NAME: &str = "Redis";
const PORT_TRIES_MAX: usize = 5;

/// How a private Redis is to be. The default keeps everything in memory and asks for no password.
#[derive(Clone, Default)]
pub struct RedisOptions {
    /// Writes are on disk before they are answered (`appendonly yes`, `appendfsync always`).
    pub durable: bool,
    /// What clients must say (`requirepass`).
    pub password: Option<String>,
    /// The port speaks TLS and nothing else.
    pub tls: Option<ServerTls>,
    /// Further lines for `redis.conf`, e.g. `("maxmemory", "10mb")`.
    pub config: Vec<(String, String)>,
}

/// A Redis of our own: a child process on a free port of 127.0.0.1. Dropping it ends it and removes its data.
#[derive(Clone)]
pub struct PrivateRedis {
    inner: Arc<Inner>,
}

// The process stands before the folder: fields are dropped in this order, and the server must end before its data go.
struct Inner {
    process: ServerProcess,
    port: u16,
    options: RedisOptions,
    scratch: Scratch,
}

impl PrivateRedis {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// When there is no `redis-server` or `valkey-server`, or it does not start.
    pub async fn start(options: RedisOptions) -> Result<Self, ServerError> {
        blocking(move || start(&options)).await
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.inner.port
    }

    /// Where it is, password included: `redis://127.0.0.1:6379`, or `rediss://` with TLS.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.inner.options.tls.is_some() { "rediss" } else { "redis" };
        let login = self
            .inner
            .options
            .password
            .as_ref()
            .map(|password| format!(":{}@", url_part(password)))
            .unwrap_or_default();
        format!("{scheme}://{login}127.0.0.1:{}", self.port())
    }

    /// Ends it in good order (SIGTERM).
    ///
    /// # Errors
    /// When it does not run, or had to be killed.
    pub async fn stop(&self) -> Result<(), ServerError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.process.stop("TERM")).await
    }

    /// Starts it again on the same port, after `stop` or `kill`. Its data are those that were on disk.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&self) -> Result<(), ServerError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.start()).await
    }

    /// Ends it without a warning (SIGKILL).
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self) -> Result<(), ServerError> {
        self.inner.process.kill()
    }

    /// Freezes it (SIGSTOP): connections stay open and nothing is answered.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<(), ServerError> {
        self.inner.process.signal("STOP")
    }

    /// Lets it go on after `pause`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<(), ServerError> {
        self.inner.process.signal("CONT")
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.inner.process.id()
    }
}

impl Inner {
    fn start(&self) -> Result<(), ServerError> {
        let socket = socket_path(&self.scratch);
        self.process.start(|_| is_ready(&socket, self.options.password.as_deref()))
    }
}

fn start(options: &RedisOptions) -> Result<PrivateRedis, ServerError> {
    let program = binaries::redis()?;
    let mut failure = ServerError::NotRunning(NAME);
    // Between finding a free port and taking it, somebody else may: then another one is tried.
    for _ in 0..PORT_TRIES_MAX {
        let scratch = Scratch::new(None)?;
        let port = free_port()?;
        let config = write_config(&scratch, port, options)?;
        let log = scratch.path().join("redis.log");
        let arguments = vec![config.display().to_string()];
        let process = ServerProcess::new(NAME, program.clone(), arguments, None, log);
        let inner = Inner { process, port, options: options.clone(), scratch };
        match inner.start() {
            Ok(()) => return Ok(PrivateRedis { inner: Arc::new(inner) }),
            Err(error) if error.to_string().contains("in use") => failure = error,
            Err(error) => return Err(error),
        }
    }
    Err(failure)
}

fn write_config(scratch: &Scratch, port: u16, options: &RedisOptions) -> Result<PathBuf, ServerError> {
    let mut lines = vec![
        "bind 127.0.0.1".to_owned(),
        "daemonize no".to_owned(),
        format!("dir \"{}\"", scratch.path().display()),
        // The way by which we ask whether it is ready, whatever the port speaks.
        format!("unixsocket \"{}\"", socket_path(scratch).display()),
        "unixsocketperm 700".to_owned(),
        "save \"\"".to_owned(),
        "maxmemory-policy noeviction".to_owned(),
    ];
    match &options.tls {
        Some(tls) => {
            let certificate = scratch.write("redis.crt", &tls.certificate_pem)?;
            let key = scratch.write("redis.key", &tls.key_pem)?;
            lines.push("port 0".to_owned());
            lines.push(format!("tls-port {port}"));
            lines.push(format!("tls-cert-file \"{}\"", certificate.display()));
            lines.push(format!("tls-key-file \"{}\"", key.display()));
            lines.push("tls-auth-clients no".to_owned());
        }
        None => lines.push(format!("port {port}")),
    }
    if options.durable {
        lines.push("appendonly yes".to_owned());
        lines.push("appendfsync always".to_owned());
    }
    if let Some(password) = &options.password {
        lines.push(format!("requirepass \"{}\"", password.replace('\\', "\\\\").replace('"', "\\\"")));
    }
    lines.extend(options.config.iter().map(|(name, value)| format!("{name} {value}")));
    scratch.write("redis.conf", &(lines.join("\n") + "\n"))
}

fn socket_path(scratch: &Scratch) -> PathBuf {
    scratch.path().join("redis.sock")
}

/// Whether it answers a ping: a socket that is open may belong to a server that is still loading its data.
fn is_ready(socket: &Path, password: Option<&str>) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        if let Some(password) = password {
            write!(stream, "*2\r\n$4\r\nAUTH\r\n${}\r\n{password}\r\n", password.len())?;
        }
        stream.write_all(b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nQUIT\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.contains("+PONG"))
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(redis: &PrivateRedis, command: &[&str]) -> redis::RedisResult<Option<String>> {
        let mut connection = redis::Client::open(redis.url())?.get_multiplexed_async_connection().await?;
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await
    }

    #[tokio::test]
    async fn a_durable_redis_keeps_its_data_and_port_over_a_kill() {
        let redis = PrivateRedis::start(RedisOptions { durable: true, ..RedisOptions::default() }).await.unwrap();
        ask(&redis, &["SET", "k", "v"]).await.unwrap();
        redis.kill().unwrap();
        assert!(ask(&redis, &["PING"]).await.is_err());
        redis.restart().await.unwrap();
        assert_eq!(ask(&redis, &["GET", "k"]).await.unwrap().as_deref(), Some("v"));
    }

    #[tokio::test]
    async fn a_redis_with_a_password_refuses_everybody_else() {
        let options = RedisOptions { password: Some("s3cret @/:%".to_owned()), ..RedisOptions::default() };
        let redis = PrivateRedis::start(options).await.unwrap();
        assert_eq!(ask(&redis, &["PING"]).await.unwrap().as_deref(), Some("PONG"));
        let without = redis::Client::open(format!("redis://127.0.0.1:{}", redis.port())).unwrap();
        let mut connection = without.get_multiplexed_async_connection().await.unwrap();
        let refused = redis::cmd("GET").arg("k").query_async::<Option<String>>(&mut connection).await.unwrap_err();
        assert_eq!(refused.code(), Some("NOAUTH"));
    }

    #[tokio::test]
    async fn a_frozen_redis_answers_when_it_is_let_go_and_can_be_stopped_while_frozen() {
        let redis = PrivateRedis::start(RedisOptions::default()).await.unwrap();
        redis.pause().unwrap();
        let late = tokio::time::timeout(Duration::from_millis(100), ask(&redis, &["PING"])).await;
        assert!(late.is_err(), "a frozen server answered");
        redis.resume().unwrap();
        assert_eq!(ask(&redis, &["PING"]).await.unwrap().as_deref(), Some("PONG"));
        redis.pause().unwrap();
        redis.stop().await.unwrap();
        assert!(matches!(redis.stop().await, Err(ServerError::NotRunning(_))));
    }

    #[tokio::test]
    async fn a_setting_that_redis_does_not_know_is_reported_with_its_own_words() {
        let config = vec![("no-such-setting".to_owned(), "1".to_owned())];
        let refused = PrivateRedis::start(RedisOptions { config, ..RedisOptions::default() }).await.err().unwrap();
        assert!(refused.to_string().contains("no-such-setting"), "{refused}");
    }
}
