//! Private servers as child processes: real ones, on free ports of loopback, in a scratch folder that goes with them.
//!
//! [`PrivateRedis`] and [`PrivatePostgres`] can be stopped, killed, frozen and started again on the same port and data,
//! since that is what the stores of a pod do. The death of this process ends them too.

mod binaries;
mod postgres;
mod process;
mod redis;
mod scratch;
mod spawner;

use std::path::PathBuf;

pub use self::binaries::{postgres_version, redis_version};
pub use self::postgres::{PostgresOptions, PrivatePostgres};
pub use self::redis::{PrivateRedis, RedisOptions};

/// A certificate and its key, both in PEM, with which a private server offers TLS.
#[derive(Clone)]
pub struct ServerTls {
    /// The server's certificate.
    pub certificate_pem: String,
    /// The key of it.
    pub key_pem: String,
}

/// Why a private server is not running.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A program that the server needs is not on this machine.
    #[error("{program} was not found: {remedy} (or run `make setup`, which does that)")]
    Missing {
        /// What was looked for.
        program: &'static str,
        /// How to get it.
        remedy: String,
    },
    /// Postgres refuses to run as root, and there is nobody else to run it as.
    #[error("Postgres does not run as root, and {0}")]
    NobodyToRunAs(String),
    /// The server ended, or never became ready. Carries the end of its log.
    #[error("{server} did not start: {reason}")]
    NotReady {
        /// Which one.
        server: &'static str,
        /// What it said.
        reason: String,
    },
    /// The server was asked to end, did not, and was killed.
    #[error("{0} did not stop in time and was killed")]
    Stuck(&'static str),
    /// The operation needs a running server.
    #[error("{0} is not running")]
    NotRunning(&'static str),
    /// The operating system refused.
    #[error("{doing} {path}: {source}", path = .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl ServerError {
    /// For `map_err`: what was being done, and to what.
    fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}

/// A password as it stands in an address.
fn url_part(text: &str) -> percent_encoding::PercentEncode<'_> {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

/// Runs blocking work away from the async threads: starting a server is file copies and waiting.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServerError> + Send + 'static,
) -> Result<T, ServerError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failure) => Err(ServerError::NotReady { server: "the server", reason: failure.to_string() }),
    }
}
