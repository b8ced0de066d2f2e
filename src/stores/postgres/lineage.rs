//! Which Postgres this is, its heartbeat, and the epoch (A2, L2, P1).

use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Text};

use crate::model::catalog::{Layout, Table};
use crate::stores::postgres::Postgres;
use crate::stores::postgres::pool::PostgresError;
use crate::stores::postgres::statement::{Bind, Statement};

/// Which Postgres answers, and the heartbeat it has committed.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Identity {
    /// The system identifier of the cluster.
    #[diesel(sql_type = Text)]
    pub system: String,
    /// The timeline that it writes.
    #[diesel(sql_type = Text)]
    pub timeline: String,
    /// The heartbeat.
    #[diesel(sql_type = BigInt)]
    pub beat: i64,
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

const IDENTITY: &str = "(SELECT system_identifier::text FROM pg_control_system()) AS system,
    substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS timeline";

/// Who answers, without a beat of the heart.
///
/// # Errors
/// When Postgres cannot be reached, or is a replica.
pub async fn identity(postgres: &Postgres) -> Result<Identity, PostgresError> {
    let text = format!("SELECT {IDENTITY}, coalesce((SELECT beat FROM heartbeat), 0) AS beat");
    Ok(Statement::new(text, Vec::new()).row(&*postgres.connection().await?).await?)
}

/// Raises the heartbeat by one and commits it, unless it is behind `known`: a counter that went back must not catch up with
/// what readers expect before the epoch was raised.
///
/// # Errors
/// When Postgres cannot be reached or written.
pub async fn beat(postgres: &Postgres, known: i64) -> Result<Identity, PostgresError> {
    let text = format!(
        "INSERT INTO heartbeat AS h (\"only\", beat, at) VALUES (true, 1, now())
         ON CONFLICT (\"only\") DO UPDATE SET beat = h.beat + 1, at = now() WHERE h.beat >= {{}}
         RETURNING {IDENTITY}, h.beat AS beat"
    );
    let statement = Statement::new(text, vec![Bind::Number(known)]);
    let mut rows: Vec<Identity> = statement.rows(&*postgres.connection().await?).await?;
    match rows.pop() {
        Some(identity) => Ok(identity),
        None => identity(postgres).await,
    }
}

/// The epoch of the control rows: the highest, should they differ.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn epoch(postgres: &Postgres) -> Result<i64, PostgresError> {
    let statement = Statement::new("SELECT coalesce(max(epoch), 0) AS number FROM control", Vec::new());
    let row: Number = statement.row(&*postgres.connection().await?).await?;
    Ok(row.number)
}

/// Raises the epoch of every control row to at least `epoch`, which ends what was captured before.
///
/// # Errors
/// When Postgres cannot be reached or written.
pub async fn raise_epoch(postgres: &Postgres, epoch: i64) -> Result<(), PostgresError> {
    let statement = Statement::new("UPDATE control SET epoch = greatest(epoch, {})", vec![Bind::Number(epoch)]);
    statement.run(&*postgres.connection().await?).await?;
    Ok(())
}

/// The highest version of any row, floor, proof or capture gap: a clock must go on above it.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn highest_version(postgres: &Postgres) -> Result<i64, PostgresError> {
    let tables = Table::ALL.iter().map(|table| table.name()).chain(["collections", "proofs", "capture_gaps"]);
    let each: Vec<String> = tables.map(|table| format!("(SELECT max(version) FROM {table})")).collect();
    let text = format!("SELECT coalesce(greatest((SELECT max(floor) FROM control), {}), 0) AS number", each.join(", "));
    let row: Number = Statement::new(text, Vec::new()).row(&*postgres.connection().await?).await?;
    Ok(row.number)
}

/// Whether Postgres holds any live row.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn has_rows(postgres: &Postgres) -> Result<bool, PostgresError> {
    let documents = Table::ALL.iter().filter(|table| table.layout() == Layout::Document).map(|table| table.name());
    let each: Vec<String> = documents
        .chain(["collections"])
        .map(|table| format!("EXISTS (SELECT 1 FROM {table} WHERE deleted_at IS NULL AND gone_at IS NULL)"))
        .collect();
    let text = format!("SELECT ({})::int::bigint AS number", each.join(" OR "));
    let row: Number = Statement::new(text, Vec::new()).row(&*postgres.connection().await?).await?;
    Ok(row.number == 1)
}

/// What the start checks ask.
#[derive(Clone, Debug, QueryableByName)]
pub struct Facts {
    /// `server_version_num`.
    #[diesel(sql_type = BigInt)]
    pub version: i64,
    /// 1 on a replica.
    #[diesel(sql_type = BigInt)]
    pub is_replica: i64,
    /// Tables that are not there.
    #[diesel(sql_type = Array<Text>)]
    pub missing: Vec<String>,
    /// Tables that this role may not read and write.
    #[diesel(sql_type = Array<Text>)]
    pub forbidden: Vec<String>,
}

/// Version, role, and which of `tables` are missing or closed to us.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn facts(postgres: &Postgres, tables: &[&str]) -> Result<Facts, PostgresError> {
    let text = "SELECT current_setting('server_version_num')::bigint AS version, pg_is_in_recovery()::int::bigint AS is_replica,
            coalesce(array_agg(t) FILTER (WHERE to_regclass(t) IS NULL), ARRAY[]::text[]) AS missing,
            coalesce(array_agg(t) FILTER (WHERE to_regclass(t) IS NOT NULL
                AND NOT has_table_privilege(to_regclass(t), 'SELECT, INSERT, UPDATE')), ARRAY[]::text[]) AS forbidden
         FROM unnest({}) AS t";
    let tables = tables.iter().map(|table| (*table).to_owned()).collect();
    let statement = Statement::new(text, vec![Bind::TextList(tables)]);
    Ok(statement.row(&*postgres.connection().await?).await?)
}
