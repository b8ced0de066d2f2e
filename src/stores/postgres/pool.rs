//! Connections to Postgres.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use crate::stores::postgres::statement::Statement;
use crate::telemetry::traces::active::Fault;

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

impl Fault for PostgresError {
    fn class(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Refused(_) => "refused",
            Self::Superseded => "superseded",
            Self::WentBack => "went_back",
        }
    }
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

/// What every connection of ours is set to.
///
/// * A commit is on disk before it is answered: an acknowledgement rests on it (A3, P1).
/// * A prepared statement is planned once. Left to itself Postgres takes every list of keys for a reason to plan again, which
///   takes twice as long as the look-up that follows; all of our statements find rows by their keys or page along an index.
/// * So a plan has to be right for the table that there will be: one that is made while a table is small reads all of it, and
///   would go on doing so for every statement while a backfill fills it. What these planner settings leave is the look-up by
///   key ([`WHOLE_TABLES`] gives the rest back). What has no index is read whole all the same, and the cost that is to keep
///   Postgres from it would have such a plan compiled at every execution: hence no `jit`.
/// * A transaction in which nobody asks anything ends: a sidecar that freezes in one holds control rows, and a lift could
///   not raise their epoch.
const SESSION: &str = "SET synchronous_commit = on;
    SET plan_cache_mode = force_generic_plan;
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off;
    SET jit = off;
    SET idle_in_transaction_session_timeout = '10s'";

/// For a transaction whose statements ask of every row: they are planned as Postgres would by itself.
pub(super) const WHOLE_TABLES: &str =
    "SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on;
    SET LOCAL enable_material = on";

/// How to reach Postgres.
#[derive(Clone)]
pub struct Options {
    /// Host, port, database, user and password.
    pub config: tokio_postgres::Config,
    /// TLS, where it is asked for; it never falls back.
    pub tls: Option<rustls::ClientConfig>,
    /// Connections of a pool at most.
    pub pool_size: usize,
    /// How long a caller waits for a connection.
    pub wait: Duration,
}

/// A pool of connections.
#[derive(Clone)]
pub struct Postgres {
    pool: Pool<AsyncPgConnection>,
    options: Arc<Options>,
    /// All pools that were made of one another.
    family: Arc<Mutex<Vec<Pool<AsyncPgConnection>>>>,
}

impl Postgres {
    /// A pool, driven by the runtime that calls this; connects when first asked.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let options = Arc::new(options);
        let pool = pool(&options, options.pool_size);
        let family = Arc::new(Mutex::new(vec![pool.clone()]));
        Self { pool, options, family }
    }

    /// Another pool like this one, of `size` connections at most, driven by the runtime that calls this: a connection answers
    /// soonest to who asks from where it is driven.
    #[must_use]
    pub fn here(&self, size: usize) -> Self {
        let pool = pool(&self.options, size);
        self.family().push(pool.clone());
        Self { pool, options: Arc::clone(&self.options), family: Arc::clone(&self.family) }
    }

    /// Connections of this pool at most.
    #[must_use]
    pub fn size_max(&self) -> usize {
        self.pool.status().max_size
    }

    fn family(&self) -> MutexGuard<'_, Vec<Pool<AsyncPgConnection>>> {
        // Nothing that holds it can panic half way.
        self.family.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection from the pool.
    ///
    /// # Errors
    /// When there is none within the deadline.
    pub async fn connection(&self) -> Result<Object<AsyncPgConnection>, PostgresError> {
        self.pool.get().await.map_err(|error| PostgresError::Unreachable(error.to_string()))
    }

    /// Connections that exist, that are idle, and callers that wait: of this pool and all that were made of it.
    #[must_use]
    pub fn occupancy(&self) -> (usize, usize, usize) {
        let add = |sum: (usize, usize, usize), pool: &Pool<AsyncPgConnection>| {
            let status = pool.status();
            (sum.0 + status.size, sum.1 + status.available, sum.2 + status.waiting)
        };
        self.family().iter().fold((0, 0, 0), add)
    }

    /// Drops the connections that are idle, so that each is made and looked at anew (P1).
    pub fn forget_idle(&self) {
        for pool in self.family().iter() {
            pool.retain(|_, _| false);
        }
    }

    /// Whether Postgres answers.
    pub async fn is_alive(&self) -> bool {
        let asked = async {
            let connection = self.connection().await?;
            Ok(Statement::new("SELECT 1", Vec::new()).run(&connection).await?)
        };
        within(QUESTION_DEADLINE, asked).await.is_ok()
    }
}

fn pool(options: &Arc<Options>, size: usize) -> Pool<AsyncPgConnection> {
    let mut config = ManagerConfig::<AsyncPgConnection>::default();
    config.recycling_method = RecyclingMethod::Fast;
    // A connection outlives whoever asked for it.
    let (home, wait, options) = (Handle::current(), options.wait, Arc::clone(options));
    config.custom_setup = Box::new(move |_| {
        let connecting = home.spawn(connect(Options::clone(&options)));
        async move {
            connecting.await.unwrap_or_else(|error| Err(diesel::ConnectionError::BadConnection(error.to_string())))
        }
        .boxed()
    });
    Pool::builder(AsyncDieselConnectionManager::new_with_config(String::new(), config))
        .max_size(size)
        .wait_timeout(Some(wait))
        .create_timeout(Some(wait))
        .runtime(deadpool::Runtime::Tokio1)
        .build()
        .expect("a pool whose runtime is named can be made")
}

fn connect(options: Options) -> BoxFuture<'static, diesel::ConnectionResult<AsyncPgConnection>> {
    async move {
        let failed = |error: tokio_postgres::Error| diesel::ConnectionError::BadConnection(reason(&error));
        let connection = match options.tls {
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
        (&connection).batch_execute(SESSION).await.map_err(diesel::ConnectionError::CouldntSetupConfiguration)?;
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
