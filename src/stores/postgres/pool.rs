//! Connections to Postgres.

use std::time::Duration;

use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::stores::postgres::statement::Statement;

/// Why Postgres did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No connection within the deadline.
    #[error("postgres cannot be reached: {0}")]
    Unreachable(String),
    /// It refused a statement, or the connection broke while it ran.
    #[error("postgres refused: {0}")]
    Refused(#[from] diesel::result::Error),
    /// The control row names another epoch than the capture, or its floor is above it (A2).
    #[error("the capture is of another epoch, or below the floor")]
    Superseded,
    /// Its heartbeat is behind the one that Redis knew (P1).
    #[error("postgres went back in time")]
    WentBack,
}

impl PostgresError {
    /// Whether one row is at fault, so that the others can go on without it.
    #[must_use]
    pub fn is_of_a_row(&self) -> bool {
        use diesel::result::{DatabaseErrorKind, Error};
        match self {
            Self::Refused(Error::DatabaseError(kind, info)) => {
                !matches!(
                    kind,
                    DatabaseErrorKind::ClosedConnection
                        | DatabaseErrorKind::UnableToSendCommand
                        | DatabaseErrorKind::SerializationFailure
                        | DatabaseErrorKind::ReadOnlyTransaction
                ) && !is_of_the_server(info.message())
            }
            Self::Refused(Error::SerializationError(_)) => true,
            Self::Refused(_) | Self::Unreachable(_) | Self::Superseded | Self::WentBack => false,
        }
    }
}

/// Whether Postgres' message speaks of the server rather than of a row. Its codes do not reach us through diesel.
fn is_of_the_server(message: &str) -> bool {
    [
        "terminating connection",
        "shutting down",
        "starting up",
        "connection closed",
        "in recovery",
        "deadlock",
        "too many clients",
        "No space left",
        "could not extend",
        "lock timeout",
        "statement timeout",
        "does not exist",
        "permission denied",
        "read-only",
        "remaining connection slots",
        "out of memory",
        "canceling statement",
        "error communicating",
        "db error",
        "current transaction is aborted",
    ]
    .iter()
    .any(|phrase| message.contains(phrase))
}

/// How long a transaction may take before it is given up and repeated: a server that hangs must not hold the drain for ever.
pub const TRANSACTION_DEADLINE: Duration = Duration::from_secs(30);
/// How long a question may take that somebody waits for.
pub const QUESTION_DEADLINE: Duration = Duration::from_secs(3);

/// Waits for `work` no longer than `deadline`; then its outcome is unknown, as with a connection that broke.
///
/// # Errors
/// Those of `work`, or [`PostgresError::Unreachable`].
pub async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, PostgresError>>,
) -> Result<T, PostgresError> {
    let late = |_| Err(PostgresError::Unreachable(format!("no answer within {deadline:?}")));
    tokio::time::timeout(deadline, work).await.unwrap_or_else(late)
}

/// How to reach Postgres.
#[derive(Clone)]
pub struct Options {
    /// Host, port, database, user and password.
    pub config: tokio_postgres::Config,
    /// TLS, where it is asked for; it never falls back.
    pub tls: Option<rustls::ClientConfig>,
    /// Connections at most.
    pub pool_size: usize,
    /// How long a caller waits for a connection.
    pub wait: Duration,
}

/// A pool of connections. Every one commits synchronously: an acknowledgement rests on it (A3, P1).
#[derive(Clone)]
pub struct Postgres {
    pool: Pool<AsyncPgConnection>,
}

impl Postgres {
    /// A pool; connects when first asked.
    ///
    /// # Errors
    /// When the options contradict each other.
    pub fn new(options: Options) -> Result<Self, PostgresError> {
        let (size, wait) = (options.pool_size, options.wait);
        let mut config = ManagerConfig::<AsyncPgConnection>::default();
        config.recycling_method = RecyclingMethod::Fast;
        // A connection is driven by the runtime that the pool was made on, and outlives whoever asked for it.
        let home = tokio::runtime::Handle::current();
        config.custom_setup = Box::new(move |_| {
            let connecting = home.spawn(connect(options.clone()));
            async move {
                connecting.await.unwrap_or_else(|error| Err(diesel::ConnectionError::BadConnection(error.to_string())))
            }
            .boxed()
        });
        let manager = AsyncDieselConnectionManager::new_with_config(String::new(), config);
        let pool = Pool::builder(manager)
            .max_size(size)
            .wait_timeout(Some(wait))
            .create_timeout(Some(wait))
            .runtime(deadpool_runtime())
            .build()
            .map_err(|error| PostgresError::Unreachable(error.to_string()))?;
        Ok(Self { pool })
    }

    /// A connection from the pool.
    ///
    /// # Errors
    /// When there is none within the deadline.
    pub async fn connection(&self) -> Result<Object<AsyncPgConnection>, PostgresError> {
        self.pool.get().await.map_err(|error| PostgresError::Unreachable(error.to_string()))
    }

    /// Connections that exist, that are idle, and callers that wait.
    #[must_use]
    pub fn occupancy(&self) -> (usize, usize, usize) {
        let status = self.pool.status();
        (status.size, status.available, status.waiting)
    }

    /// Drops the connections that are idle, so that each is made and looked at anew (P1).
    pub fn forget_idle(&self) {
        self.pool.retain(|_, _| false);
    }

    /// Whether Postgres answers.
    pub async fn is_alive(&self) -> bool {
        let asked = async {
            let mut connection = self.connection().await?;
            Ok(Statement::new("SELECT 1", Vec::new()).run(&mut connection).await?)
        };
        within(QUESTION_DEADLINE, asked).await.is_ok()
    }
}

fn deadpool_runtime() -> deadpool::Runtime {
    deadpool::Runtime::Tokio1
}

fn connect(options: Options) -> BoxFuture<'static, diesel::ConnectionResult<AsyncPgConnection>> {
    async move {
        let failed = |error: tokio_postgres::Error| diesel::ConnectionError::BadConnection(reason(&error));
        let mut connection = match options.tls {
            None => {
                let (client, connection) = options.config.connect(tokio_postgres::NoTls).await.map_err(failed)?;
                AsyncPgConnection::try_from_client_and_connection(client, connection).await?
            }
            Some(tls) => {
                let tls = tokio_postgres_rustls::MakeRustlsConnect::new(tls);
                let (client, connection) = options.config.connect(tls).await.map_err(failed)?;
                AsyncPgConnection::try_from_client_and_connection(client, connection).await?
            }
        };
        Statement::new("SET synchronous_commit = on", Vec::new())
            .run(&mut connection)
            .await
            .map_err(diesel::ConnectionError::CouldntSetupConfiguration)?;
        Ok(connection)
    }
    .boxed()
}

/// The whole chain of causes: the outermost alone says "error connecting to server".
fn reason(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
