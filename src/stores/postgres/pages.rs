//! Pages of live rows, for sweeps from Postgres' side: in the order of the hashes by which both stores know a record, so
//! that a bucket of hashes is a range of the index.

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text};

use crate::model::catalog::{Layout, Table};
use crate::model::key::Key;
use crate::stores::postgres::Postgres;
use crate::stores::postgres::pool::PostgresError;
use crate::stores::postgres::read::{Control, EXPIRES_MS};
use crate::stores::postgres::statement::{Bind, Statement};

/// Which rows a page is taken from.
#[derive(Clone, Debug)]
pub struct Range<'a> {
    /// Where the records' rows or headers stand.
    pub table: Table,
    /// Names of the kinds.
    pub kinds: &'a [String],
    /// Behind this hash.
    pub after: &'a [u8],
    /// Live at this time of Redis, in milliseconds.
    pub time_ms: i64,
    /// At most so many.
    pub limit: i64,
}

impl Range<'_> {
    fn binds(&self) -> Vec<Bind> {
        vec![Bind::TextList(self.kinds.to_vec()), Bind::Bytes(self.after.to_vec()), Bind::Number(self.time_ms)]
    }
}

/// Where the rows or headers of a table's records stand.
fn rows_of(table: Table) -> &'static str {
    match table.layout() {
        Layout::Document => table.name(),
        Layout::Collection | Layout::Log => "collections",
    }
}

/// Live at a time of Redis in milliseconds, which is bound.
const LIVE: &str = "r.deleted_at IS NULL AND r.gone_at IS NULL
    AND (r.expires_at IS NULL OR r.expires_at > timestamptz 'epoch' + {} * interval '1 millisecond')";

/// A live row.
#[derive(Clone, Debug, QueryableByName)]
pub struct LiveRow {
    /// The key in text form.
    #[diesel(sql_type = Text)]
    pub key: String,
    /// Its kind.
    #[diesel(sql_type = Text)]
    pub kind: String,
    /// Its type.
    #[diesel(sql_type = Text)]
    pub type_name: String,
    /// Its document; none on a header.
    #[diesel(sql_type = Nullable<Text>)]
    pub doc: Option<String>,
    /// Its version.
    #[diesel(sql_type = BigInt)]
    pub version: i64,
    /// Its expiry, in milliseconds.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub expires_ms: Option<i64>,
    /// For a header: whether all elements are here.
    #[diesel(sql_type = Bool)]
    pub complete: bool,
    /// For the header of a log: the oldest entry that Redis had, and the newest.
    #[diesel(sql_type = Nullable<Text>)]
    pub first_id: Option<String>,
    /// The newest entry.
    #[diesel(sql_type = Nullable<Text>)]
    pub last_id: Option<String>,
}

impl LiveRow {
    /// The key.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::from_text(&self.key)
    }
}

/// Live rows in the order of their hashes.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn live(postgres: &Postgres, range: &Range<'_>) -> Result<Vec<LiveRow>, PostgresError> {
    let own = match range.table.layout() {
        Layout::Document => "r.doc::text AS doc, true AS complete, NULL::text AS first_id, NULL::text AS last_id",
        Layout::Collection | Layout::Log => "NULL::text AS doc, r.complete, r.first_id, r.last_id",
    };
    let text = format!(
        "SELECT r.key, r.kind, r.type AS type_name, r.version, {EXPIRES_MS} AS expires_ms, {own} FROM {} r
         WHERE r.kind = ANY({{}}) AND r.key_hash > {{}} AND {LIVE} ORDER BY r.key_hash LIMIT {}",
        rows_of(range.table),
        range.limit
    );
    Ok(Statement::new(text, range.binds()).rows(&*postgres.connection().await?).await?)
}

#[derive(QueryableByName)]
struct Keyed {
    #[diesel(sql_type = Text)]
    key: String,
}

async fn found_keys(postgres: &Postgres, statement: Statement) -> Result<Vec<Key>, PostgresError> {
    let found: Vec<Keyed> = statement.rows(&*postgres.connection().await?).await?;
    Ok(found.iter().map(|row| Key::from_text(&row.key)).collect())
}

/// Keys of live rows in some ranges of hashes, each behind its first and up to its second.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn keys_in(
    postgres: &Postgres,
    table: Table,
    kinds: &[String],
    ranges: &[(Vec<u8>, Vec<u8>)],
    time_ms: i64,
) -> Result<Vec<Key>, PostgresError> {
    let text = format!(
        "SELECT r.key FROM unnest({{}}::bytea[], {{}}::bytea[]) AS b(after, until) CROSS JOIN LATERAL (
            SELECT r.key FROM {} r WHERE r.key_hash > b.after AND r.key_hash <= b.until AND r.kind = ANY({{}}) AND {LIVE}) AS r",
        rows_of(table)
    );
    let (after, until) = ranges.iter().cloned().unzip();
    let binds =
        vec![Bind::BytesList(after), Bind::BytesList(until), Bind::TextList(kinds.to_vec()), Bind::Number(time_ms)];
    found_keys(postgres, Statement::new(text, binds)).await
}

/// Keys of rows that say that their record is there, in the order of their hashes: also of those whose time is over, which
/// nobody has written down yet.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn standing_keys(
    postgres: &Postgres,
    table: Table,
    kinds: &[String],
    after: &[u8],
    limit: i64,
) -> Result<Vec<Key>, PostgresError> {
    let text = format!(
        "SELECT r.key FROM {} r WHERE r.kind = ANY({{}}) AND r.key_hash > {{}} AND r.deleted_at IS NULL
            AND r.gone_at IS NULL ORDER BY r.key_hash LIMIT {limit}",
        rows_of(table)
    );
    let binds = vec![Bind::TextList(kinds.to_vec()), Bind::Bytes(after.to_vec())];
    found_keys(postgres, Statement::new(text, binds)).await
}

/// Keys of live rows above `clock` among these: what a Redis that ends there has lost of what it holds.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn keys_above(
    postgres: &Postgres,
    table: Table,
    keys: &[Key],
    clock: i64,
    time_ms: i64,
) -> Result<Vec<Key>, PostgresError> {
    let text =
        format!("SELECT r.key FROM {} r WHERE r.key_hash = ANY({{}}) AND r.version > {{}} AND {LIVE}", rows_of(table));
    let hashes = keys.iter().map(Key::hash).collect();
    let binds = vec![Bind::BytesList(hashes), Bind::Number(clock), Bind::Number(time_ms)];
    found_keys(postgres, Statement::new(text, binds)).await
}

#[derive(QueryableByName)]
struct Estimate {
    #[diesel(sql_type = BigInt)]
    rows: i64,
}

/// About how many rows stand for the records of these tables, as Postgres keeps count of them: dead ones among them, and
/// none of what was written a moment ago.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn about(postgres: &Postgres, tables: &[Table]) -> Result<u64, PostgresError> {
    let names = tables.iter().map(|table| rows_of(*table).to_owned()).collect();
    let statement = Statement::new(
        "SELECT coalesce(sum(n_live_tup), 0)::bigint AS rows FROM pg_stat_user_tables
         WHERE schemaname = current_schema() AND relname = ANY({})",
        vec![Bind::TextList(names)],
    );
    let estimate: Estimate = statement.row(&*postgres.connection().await?).await?;
    Ok(u64::try_from(estimate.rows).unwrap_or(0))
}

/// A live element of a collection, or entry of a log.
#[derive(Clone, Debug, QueryableByName)]
pub struct LiveElement {
    /// The hash of its record's key.
    #[diesel(sql_type = Binary)]
    pub key_hash: Vec<u8>,
    /// The hash of its name.
    #[diesel(sql_type = Binary)]
    pub element_hash: Vec<u8>,
    /// Its name in text form.
    #[diesel(sql_type = Text)]
    pub element: String,
    /// Its document.
    #[diesel(sql_type = Nullable<Text>)]
    pub doc: Option<String>,
}

/// Elements in one page.
pub const ELEMENTS_MAX: i64 = 2_000;

/// Live elements of these records, in order, behind one of them.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn elements(
    postgres: &Postgres,
    table: Table,
    keys: &[Vec<u8>],
    after: (&[u8], &[u8]),
) -> Result<Vec<LiveElement>, PostgresError> {
    let text = format!(
        "SELECT e.key_hash, e.element_hash, e.element, e.doc::text AS doc FROM {} e
         WHERE e.key_hash = ANY({{}}) AND (e.key_hash, e.element_hash) > ({{}}, {{}}) AND e.deleted_at IS NULL
         ORDER BY e.key_hash, e.element_hash LIMIT {ELEMENTS_MAX}",
        table.name()
    );
    let binds = vec![Bind::BytesList(keys.to_vec()), Bind::Bytes(after.0.to_vec()), Bind::Bytes(after.1.to_vec())];
    Ok(Statement::new(text, binds).rows(&*postgres.connection().await?).await?)
}

/// A part of a log as Postgres holds it, and its header.
#[derive(Clone, Debug)]
pub struct LogRows {
    /// The control row.
    pub control: Control,
    /// The highest version of anything of it; `None` without a live header.
    pub version: Option<i64>,
    /// Ids and documents of live entries.
    pub entries: Vec<(String, String)>,
}

#[derive(QueryableByName)]
struct LogRow {
    #[diesel(sql_type = BigInt)]
    epoch: i64,
    #[diesel(sql_type = BigInt)]
    floor: i64,
    #[diesel(sql_type = BigInt)]
    beat: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    version: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    element: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    doc: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    element_version: Option<i64>,
    #[diesel(sql_type = Bool)]
    is_live: bool,
}

/// The entries of a log from `first` to `last`, both included, at most `limit`.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn log(
    postgres: &Postgres,
    key: &Key,
    first: &str,
    last: &str,
    limit: i64,
) -> Result<LogRows, PostgresError> {
    let text = format!(
        "SELECT c.epoch, least(c.floor, d.floor) AS floor, coalesce((SELECT beat FROM heartbeat), 0) AS beat,
            greatest(r.version, r.last_version) AS version, e.element, e.doc::text AS doc, e.version AS element_version,
            (e.deleted_at IS NULL) AS is_live
         FROM control c JOIN control d ON d.table_name = 'collections'
            LEFT JOIN collections r ON r.key_hash = {{}} AND r.deleted_at IS NULL AND r.gone_at IS NULL
            LEFT JOIN event_logs e ON e.key_hash = r.key_hash AND e.element >= {{}} AND e.element <= {{}}
         WHERE c.table_name = 'event_logs' ORDER BY e.element LIMIT {limit}"
    );
    let binds = vec![Bind::Bytes(key.hash()), Bind::Text(first.to_owned()), Bind::Text(last.to_owned())];
    let rows: Vec<LogRow> = Statement::new(text, binds).rows(&*postgres.connection().await?).await?;
    let head = rows.first().ok_or(diesel::result::Error::NotFound)?;
    let control = Control { epoch: head.epoch, floor: head.floor, beat: head.beat };
    let elements = rows.iter().filter_map(|row| row.element_version).max().unwrap_or(0);
    let version = head.version.map(|version| version.max(elements));
    let live = rows.into_iter().filter(|row| row.is_live).filter_map(|row| Some((row.element?, row.doc?)));
    Ok(LogRows { control, version, entries: live.collect() })
}
