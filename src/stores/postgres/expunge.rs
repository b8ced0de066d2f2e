//! The sweep of what is over: tombstones, and rows past their retention, in small batches (rule A2).
//!
//! Each batch raises the floor of its table to the highest version that it removes, in the same transaction and behind the
//! control row: an apply that was paused across it is refused, and brings nothing back.

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Binary};
use diesel_async::{AsyncConnection, AsyncPgConnection};

use crate::stores::postgres::Postgres;
use crate::stores::postgres::pool::{PostgresError, TRANSACTION_DEADLINE, within};
use crate::stores::postgres::statement::{Bind, Statement};

/// Elements of a collection in one batch.
const BATCH_ROWS: i64 = 500;
/// Rows that one step looks at: a table is walked in the order of its primary key, so that no look reads the whole of it.
const WALK_ROWS: i64 = 2_000;
/// What stands for the element where a row is a record.
const NO_ELEMENT: &str = "''::bytea";

/// What is over in a table: times of Redis, in milliseconds.
#[derive(Clone, Debug)]
pub struct Over {
    /// Tombstones of before.
    pub deleted_before_ms: i64,
    /// Kinds, and before when their records must have gone or expired.
    pub gone: Vec<(String, i64)>,
}

impl Over {
    fn binds(&self) -> Vec<Bind> {
        let (kinds, times) = self.gone.iter().cloned().unzip();
        vec![Bind::Number(self.deleted_before_ms), Bind::TextList(kinds), Bind::NumberList(times)]
    }
}

const TIME: &str = "timestamptz 'epoch' + {} * interval '1 millisecond'";

/// What is over among the rows `r` of a table of records or of headers.
fn is_over() -> String {
    format!(
        "(r.deleted_at < {TIME} OR (r.deleted_at IS NULL AND EXISTS (SELECT 1 FROM unnest({{}}::text[], {{}}::bigint[]) AS k(kind, ms)
            WHERE k.kind = r.kind AND coalesce(r.gone_at, r.expires_at) < timestamptz 'epoch' + k.ms * interval '1 millisecond')))"
    )
}

#[derive(QueryableByName)]
struct Removed {
    #[diesel(sql_type = BigInt)]
    rows: i64,
    #[diesel(sql_type = BigInt)]
    version: i64,
}

/// Where a walk over a table stands: behind this record and element.
#[derive(Clone, Debug, Default, PartialEq, Eq, QueryableByName)]
pub struct Place {
    #[diesel(sql_type = Binary)]
    key_hash: Vec<u8>,
    #[diesel(sql_type = Binary)]
    element_hash: Vec<u8>,
}

impl Place {
    fn binds(&self) -> Vec<Bind> {
        vec![Bind::Bytes(self.key_hash.clone()), Bind::Bytes(self.element_hash.clone())]
    }
}

/// What one step of a walk did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Rows that went.
    pub rows: i64,
    /// Where the walk goes on; at its end it begins anew.
    pub next: Option<Place>,
}

/// The last of the next rows of `table`, or nothing at its end. The primary key bounds what is read.
async fn ahead(postgres: &Postgres, table: &str, keys: &str, after: &Place) -> Result<Option<Place>, PostgresError> {
    let text = format!(
        "SELECT key_hash, element_hash FROM (SELECT key_hash, {keys} AS element_hash FROM {table}
            WHERE (key_hash, {keys}) > ({{}}, {{}}) ORDER BY key_hash, {keys} LIMIT {WALK_ROWS}) AS walked
         ORDER BY key_hash DESC, element_hash DESC LIMIT 1"
    );
    let asked = async { Ok(Statement::new(text, after.binds()).rows(&*postgres.connection().await?).await?.pop()) };
    within(TRANSACTION_DEADLINE, asked).await
}

/// Walks a step further through `table`, which holds one row a record, and removes what is over there.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn records(
    postgres: &Postgres,
    table: &'static str,
    over: &Over,
    after: &Place,
) -> Result<Step, PostgresError> {
    let Some(last) = ahead(postgres, table, NO_ELEMENT, after).await? else { return Ok(Step { rows: 0, next: None }) };
    let text = format!(
        "WITH due AS (SELECT r.key_hash FROM {table} r WHERE r.key_hash > {{}} AND r.key_hash <= {{}} AND {}
            FOR UPDATE SKIP LOCKED),
         gone AS (DELETE FROM {table} t USING due WHERE t.key_hash = due.key_hash RETURNING t.version)
         SELECT count(*) AS rows, coalesce(max(version), 0) AS version FROM gone",
        is_over()
    );
    let mut binds = vec![Bind::Bytes(after.key_hash.clone()), Bind::Bytes(last.key_hash.clone())];
    binds.extend(over.binds());
    Ok(Step { rows: remove(postgres, &[table], text, binds).await?, next: Some(last) })
}

/// Walks a step further through the elements or entries of `table`, and removes the tombstones that are over there.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn elements(
    postgres: &Postgres,
    table: &'static str,
    over: &Over,
    after: &Place,
) -> Result<Step, PostgresError> {
    let last = ahead(postgres, table, "element_hash", after).await?;
    let Some(last) = last else { return Ok(Step { rows: 0, next: None }) };
    let text = format!(
        "WITH due AS (SELECT r.key_hash, r.element_hash FROM {table} r WHERE (r.key_hash, r.element_hash) > ({{}}, {{}})
            AND (r.key_hash, r.element_hash) <= ({{}}, {{}}) AND r.deleted_at < {TIME} FOR UPDATE SKIP LOCKED),
         gone AS (DELETE FROM {table} t USING due WHERE t.key_hash = due.key_hash AND t.element_hash = due.element_hash
            RETURNING t.version)
         SELECT count(*) AS rows, coalesce(max(version), 0) AS version FROM gone"
    );
    let mut binds = after.binds();
    binds.extend(last.binds());
    binds.push(Bind::Number(over.deleted_before_ms));
    Ok(Step { rows: remove(postgres, &[table], text, binds).await?, next: Some(last) })
}

#[derive(QueryableByName)]
struct Header {
    #[diesel(sql_type = Binary)]
    key_hash: Vec<u8>,
}

/// Walks a step further through the headers, and removes one batch of the collections and logs that are over there.
///
/// Their elements go first, then their headers. The walk stays where it is until nothing of them is left.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn collections(postgres: &Postgres, over: &Over, after: &Place) -> Result<Step, PostgresError> {
    let last = ahead(postgres, "collections", NO_ELEMENT, after).await?;
    let Some(last) = last else { return Ok(Step { rows: 0, next: None }) };
    let text = format!(
        "SELECT r.key_hash FROM collections r WHERE r.key_hash > {{}} AND r.key_hash <= {{}} AND {} LIMIT 50",
        is_over()
    );
    let mut binds = vec![Bind::Bytes(after.key_hash.clone()), Bind::Bytes(last.key_hash.clone())];
    binds.extend(over.binds());
    let due: Vec<Header> = Statement::new(text, binds).rows(&*postgres.connection().await?).await?;
    let hashes: Vec<Vec<u8>> = due.into_iter().map(|header| header.key_hash).collect();
    let rows = if hashes.is_empty() { 0 } else { whole_collections(postgres, over, hashes).await? };
    Ok(Step { rows, next: Some(if rows > 0 { after.clone() } else { last }) })
}

async fn whole_collections(postgres: &Postgres, over: &Over, hashes: Vec<Vec<u8>>) -> Result<i64, PostgresError> {
    for table in ["elements", "event_logs"] {
        // The header is held, so that nobody gives it new elements meanwhile; one that is alive again is left alone.
        let text = format!(
            "WITH held AS (SELECT r.key_hash FROM collections r WHERE r.key_hash = ANY({{}}) AND {} FOR UPDATE),
             due AS (SELECT e.key_hash, e.element_hash FROM {table} e JOIN held USING (key_hash) LIMIT {BATCH_ROWS}),
             gone AS (DELETE FROM {table} t USING due WHERE t.key_hash = due.key_hash AND t.element_hash = due.element_hash
                RETURNING t.version)
             SELECT count(*) AS rows, coalesce(max(version), 0) AS version FROM gone",
            is_over()
        );
        let mut binds = vec![Bind::BytesList(hashes.clone())];
        binds.extend(over.binds());
        let removed = remove(postgres, &["collections", table], text, binds).await?;
        if removed > 0 {
            return Ok(removed);
        }
    }
    let text = format!(
        "WITH due AS (SELECT r.key_hash FROM collections r WHERE r.key_hash = ANY({{}}) AND {}
            AND NOT EXISTS (SELECT 1 FROM elements e WHERE e.key_hash = r.key_hash)
            AND NOT EXISTS (SELECT 1 FROM event_logs e WHERE e.key_hash = r.key_hash) FOR UPDATE),
         gone AS (DELETE FROM collections t USING due WHERE t.key_hash = due.key_hash
            RETURNING greatest(t.version, t.last_version) AS version)
         SELECT count(*) AS rows, coalesce(max(version), 0) AS version FROM gone",
        is_over()
    );
    let mut binds = vec![Bind::BytesList(hashes)];
    binds.extend(over.binds());
    remove(postgres, &["collections"], text, binds).await
}

async fn remove(
    postgres: &Postgres,
    tables: &[&'static str],
    text: String,
    binds: Vec<Bind>,
) -> Result<i64, PostgresError> {
    let mut pooled = postgres.connection().await?;
    let connection: &mut AsyncPgConnection = &mut pooled;
    let names = || Bind::TextList(tables.iter().map(|table| (*table).to_owned()).collect());
    let done = connection.transaction(async |connection: &mut AsyncPgConnection| {
        let hold = "SELECT floor AS rows, epoch AS version FROM control WHERE table_name = ANY({}) ORDER BY table_name FOR UPDATE";
        Statement::new(hold, vec![names()]).rows::<Removed>(connection).await?;
        let removed: Removed = Statement::new(text, binds).row(connection).await?;
        if removed.rows > 0 {
            let raise = "UPDATE control SET floor = greatest(floor, {}) WHERE table_name = ANY({})";
            Statement::new(raise, vec![Bind::Number(removed.version), names()]).run(connection).await?;
        }
        Ok(removed.rows)
    });
    within(TRANSACTION_DEADLINE, done).await
}
