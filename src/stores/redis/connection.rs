//! A connection to Redis that knows which server process it reaches.
//!
//! A connection does not outlive a server process, so the `run_id` read when it is made is the `run_id` of whoever
//! executes its commands (C1). Each lane (`Redis`) has one connection, shared by all its callers and pipelined.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::model::command::Command;
use crate::model::reply::Reply;
use crate::stores::redis::script::{Scripts, accepted};
use crate::telemetry::traces::active::Fault;

/// How long a lane waits before it tries to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Why Redis did not answer, and what that says of the command.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RedisError {
    /// No connection: nothing was sent.
    #[error("redis cannot be reached: {0}")]
    Unreachable(String),
    /// Too much waits already: nothing was sent.
    #[error("too many commands wait")]
    Overloaded,
    /// It waited longer than a command may: nothing was sent.
    #[error("the command waited too long to be sent")]
    Late,
    /// The connection broke or the deadline passed after sending: the outcome is unknown.
    #[error("redis did not answer, the outcome is unknown: {0}")]
    Unknown(String),
    /// Redis answered with an error where none was expected.
    #[error("redis answered: {0}")]
    Answered(String),
    /// The reply does not have the form it must have.
    #[error("redis answered in an unexpected form: {0}")]
    Form(&'static str),
}

impl Fault for RedisError {
    fn class(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Overloaded => "overloaded",
            Self::Late => "deadline",
            Self::Unknown(_) => "unknown_outcome",
            Self::Answered(_) => "refused",
            Self::Form(_) => "unexpected_form",
        }
    }
}

/// One server process, as a connection found it.
#[derive(Clone, Debug)]
pub struct Server {
    /// The id that Redis gives itself at each start.
    pub run_id: String,
    /// For instance `7.0.15`.
    pub version: String,
    /// `master` or `slave`.
    pub role: String,
    /// `standalone`, `cluster` or `sentinel`.
    pub mode: String,
    /// `maxmemory-policy`.
    pub eviction: String,
}

struct Connection {
    multiplexed: MultiplexedConnection,
    server: Server,
}

/// A lane to Redis: one pipelined connection, made again when it breaks.
pub struct Redis {
    client: Client,
    deadline: Duration,
    /// The runtime that drives its connections, which outlive whoever asked for them.
    home: Handle,
    current: ArcSwapOption<Connection>,
    connecting: Mutex<Option<Instant>>,
}

impl Redis {
    /// A lane that answers or gives up within `deadline`. Connects at first use.
    #[must_use]
    pub fn new(client: Client, deadline: Duration) -> Self {
        Self {
            client,
            deadline,
            home: Handle::current(),
            current: ArcSwapOption::empty(),
            connecting: Mutex::new(None),
        }
    }

    /// The server behind the lane.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn server(&self) -> Result<Server, RedisError> {
        Ok(self.connection().await?.server.clone())
    }

    /// Runs `commands` in order in one pipeline; a reply each, errors among them as replies.
    ///
    /// # Errors
    /// When the connection fails. After sending the outcome is unknown.
    ///
    /// # Cancel safety
    /// All of the pipeline is sent, or nothing.
    pub async fn pipeline(&self, commands: &[Command]) -> Result<Vec<Reply>, RedisError> {
        let connection = self.connection().await?;
        self.send(&connection, commands).await
    }

    /// Runs one command.
    ///
    /// # Errors
    /// When the connection fails, or Redis answers with an error.
    pub async fn command(&self, command: Command) -> Result<Reply, RedisError> {
        let reply = self.pipeline(&[command]).await?.pop().ok_or(RedisError::Form("no reply"))?;
        accepted(reply)
    }

    async fn send(&self, connection: &Arc<Connection>, commands: &[Command]) -> Result<Vec<Reply>, RedisError> {
        let mut pipeline = redis::Pipeline::with_capacity(commands.len());
        for command in commands {
            let mut cmd = redis::Cmd::with_capacity(command.0.len(), 0);
            for arg in &command.0 {
                cmd.arg(arg.as_ref());
            }
            pipeline.add_command(cmd);
        }
        let mut multiplexed = connection.multiplexed.clone();
        let sent = multiplexed.send_packed_commands(&pipeline, 0, commands.len()).await;
        match sent {
            Ok(values) => Ok(values.into_iter().map(reply).collect()),
            Err(error) => {
                self.current.compare_and_swap(connection, None);
                Err(RedisError::Unknown(error.to_string()))
            }
        }
    }

    async fn connection(&self) -> Result<Arc<Connection>, RedisError> {
        if let Some(connection) = self.current.load_full() {
            return Ok(connection);
        }
        let mut last_failure = self.connecting.lock().await;
        if let Some(connection) = self.current.load_full() {
            return Ok(connection);
        }
        if last_failure.is_some_and(|at| at.elapsed() < RECONNECT_PAUSE) {
            return Err(RedisError::Unreachable("the last attempt failed a moment ago".to_owned()));
        }
        let connecting = self.home.spawn(connect(self.client.clone(), self.deadline));
        let connected = connecting.await.map_err(|error| error.to_string());
        match connected.and_then(|connected| connected.map_err(|error| error.to_string())) {
            Ok(connection) => {
                let connection = Arc::new(connection);
                self.current.store(Some(Arc::clone(&connection)));
                *last_failure = None;
                Ok(connection)
            }
            Err(error) => {
                *last_failure = Some(Instant::now());
                Err(RedisError::Unreachable(error))
            }
        }
    }
}

impl Scripts for Redis {
    async fn call(&self, command: impl FnOnce(&str) -> Command + Send) -> Result<Reply, RedisError> {
        let connection = self.connection().await?;
        let command = command(&connection.server.run_id);
        self.send(&connection, &[command]).await?.pop().ok_or(RedisError::Form("no reply"))
    }
}

async fn connect(client: Client, deadline: Duration) -> redis::RedisResult<Connection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(deadline.min(Duration::from_secs(5))))
        .set_response_timeout(Some(deadline));
    let mut multiplexed = client.get_multiplexed_async_connection_with_config(&config).await?;
    let info: String = redis::cmd("INFO").query_async(&mut multiplexed).await?;
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    let server = Server {
        run_id: field("run_id"),
        version: field("redis_version"),
        role: field("role"),
        mode: field("redis_mode"),
        eviction: field("maxmemory_policy"),
    };
    Ok(Connection { multiplexed, server })
}

/// Our reply from the client library's value.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library may add forms; none of them occurs in RESP2")]
fn reply(value: redis::Value) -> Reply {
    match value {
        redis::Value::Nil => Reply::Nil,
        redis::Value::Okay => Reply::Status("OK".to_owned()),
        redis::Value::SimpleString(text) => Reply::Status(text),
        redis::Value::Int(number) => Reply::Integer(number),
        redis::Value::BulkString(bytes) => Reply::Bulk(bytes.into()),
        redis::Value::Array(items) | redis::Value::Set(items) => Reply::Array(items.into_iter().map(reply).collect()),
        redis::Value::ServerError(error) => Reply::Error(match error.details() {
            Some(details) => format!("{} {details}", error.code()),
            None => error.code().to_owned(),
        }),
        other => unexpected(&other),
    }
}

/// The lanes speak RESP2, in which the other forms do not occur.
fn unexpected(value: &redis::Value) -> Reply {
    tracing::debug!(form = ?std::mem::discriminant(value), "redis sent a reply of an unexpected form");
    Reply::Error("ERR a reply of an unexpected form".to_owned())
}
