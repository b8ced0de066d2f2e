//! The schema: the migrations that are part of the program, applied in order, by one process at a time.

use std::error::Error;

use diesel::migration::Migration;
use diesel::pg::Pg;
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::settings::PostgresSettings;
use crate::stores::tls::{self, TlsError};

/// Every migration, in the order of their names. Added to, never edited.
const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// Held while migrating, so that a fleet that starts at once does it once. Any number will do that nobody else uses.
const LOCK: i64 = 0x7061_7261_6c6c_6178;

/// Why the schema is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// TLS cannot be spoken as it was asked for.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No connection.
    #[error("postgres cannot be reached: {0}")]
    Unreachable(String),
    /// A migration was refused. Those before it stay.
    #[error("a migration was refused: {0}")]
    Refused(String),
}

/// Applies what is missing and returns the names of what was applied. Afterwards dates in keys are read with
/// `timezone_offset_hours`.
///
/// # Errors
/// When Postgres cannot be reached or refuses; what was applied before stays.
pub async fn apply(settings: &PostgresSettings, timezone_offset_hours: i8) -> Result<Vec<String>, MigrateError> {
    let mut connection = connect(settings).await?;
    let refused = |error: diesel::result::Error| MigrateError::Refused(error.to_string());
    // The lock goes with the connection, on every way out.
    connection.batch_execute(&format!("SELECT pg_advisory_lock({LOCK})")).await.map_err(refused)?;
    let (mut connection, applied) = blocking(connection, |harness| {
        let applied = harness.run_pending_migrations(MIGRATIONS)?;
        Ok(applied.iter().map(ToString::to_string).collect())
    })
    .await?;
    diesel::sql_query("SELECT parallax_set_offset($1)")
        .bind::<diesel::sql_types::Text, _>(format!("{timezone_offset_hours:+03}:00"))
        .execute(&mut connection)
        .await
        .map_err(refused)?;
    Ok(applied)
}

/// The names of the migrations that were not applied yet; empty when the schema is up to date.
///
/// # Errors
/// When Postgres cannot be reached or refuses.
pub async fn pending(settings: &PostgresSettings) -> Result<Vec<String>, MigrateError> {
    let connection = connect(settings).await?;
    let (_, pending) = blocking(connection, |harness| {
        let pending = harness.pending_migrations(MIGRATIONS)?;
        Ok(pending.iter().map(|migration| Migration::<Pg>::name(migration).to_string()).collect())
    })
    .await?;
    Ok(pending)
}

/// A connection outside any pool.
async fn connect(settings: &PostgresSettings) -> Result<AsyncPgConnection, MigrateError> {
    let target = tls::postgres_target(settings);
    let unreachable = |error: tokio_postgres::Error| MigrateError::Unreachable(causes(&error));
    let connection = match tls::postgres_config(settings)? {
        None => {
            let (client, connection) = target.connect(tokio_postgres::NoTls).await.map_err(unreachable)?;
            AsyncPgConnection::try_from_client_and_connection(client, connection).await
        }
        Some(config) => {
            let tls = tokio_postgres_rustls::MakeRustlsConnect::new(config);
            let (client, connection) = target.connect(tls).await.map_err(unreachable)?;
            AsyncPgConnection::try_from_client_and_connection(client, connection).await
        }
    };
    connection.map_err(|error| MigrateError::Unreachable(error.to_string()))
}

type Harness = AsyncMigrationHarness<AsyncPgConnection>;
type Names = Result<Vec<String>, Box<dyn Error + Send + Sync>>;

/// Migrations are a blocking affair: they run on a thread that may block, in every flavour of runtime.
async fn blocking(
    connection: AsyncPgConnection,
    work: impl FnOnce(&mut Harness) -> Names + Send + 'static,
) -> Result<(AsyncPgConnection, Vec<String>), MigrateError> {
    let done = tokio::task::spawn_blocking(move || {
        let mut harness = AsyncMigrationHarness::new(connection);
        let names = work(&mut harness);
        (harness.into_inner(), names)
    });
    let (connection, names) = done.await.map_err(|error| MigrateError::Refused(error.to_string()))?;
    Ok((connection, names.map_err(|error| MigrateError::Refused(causes(error.as_ref())))?))
}

/// The whole chain of causes: the outermost alone says "db error".
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
