//! Reads from Postgres: one statement for all rows of a read and the control row, so that both are of one moment (R1).

use std::collections::HashMap;

use bytes::Bytes;
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text};

use crate::model::catalog::{Kind, Layout, Table};
use crate::model::key::{Key, hash16};
use crate::model::text;
use crate::model::value::{Score, Value};
use crate::stores::postgres::Postgres;
use crate::stores::postgres::pool::PostgresError;
use crate::stores::postgres::rows::Fate;
use crate::stores::postgres::statement::{Bind, Statement};

/// The control row, as it was when the rows were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// The epoch of the table.
    pub epoch: i64,
    /// Below it rows were swept.
    pub floor: i64,
    /// The heartbeat.
    pub beat: i64,
}

/// A record as Postgres holds it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its version, or the highest version of anything of it.
    pub version: i64,
    /// What became of it.
    pub fate: Fate,
    /// Its expiry, in milliseconds.
    pub expires_at_ms: Option<i64>,
    /// Its value; `None` on a tombstone, or for a document that has not the form of its type.
    pub value: Option<Value>,
    /// For a collection: whether all of it is here.
    pub is_complete: bool,
}

/// The expiry of a row `r`, in milliseconds.
pub(super) const EXPIRES_MS: &str = "round(extract(epoch FROM r.expires_at) * 1000)::bigint";
const FATE: &str = "(CASE WHEN r.deleted_at IS NOT NULL THEN 2 WHEN r.gone_at IS NOT NULL THEN 1 ELSE 0 END)::bigint";

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = BigInt)]
    epoch: i64,
    #[diesel(sql_type = BigInt)]
    floor: i64,
    #[diesel(sql_type = BigInt)]
    beat: i64,
    #[diesel(sql_type = Nullable<Binary>)]
    key_hash: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Text>)]
    type_name: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    doc: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    version: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    expires_ms: Option<i64>,
    #[diesel(sql_type = BigInt)]
    fate: i64,
}

impl Found {
    fn control(&self) -> Control {
        Control { epoch: self.epoch, floor: self.floor, beat: self.beat }
    }

    fn row(&self) -> Option<Row> {
        let value = self.doc.as_ref().and_then(|doc| serde_json::from_str(doc).ok());
        let type_name = self.type_name.as_deref().unwrap_or_default();
        Some(Row {
            version: self.version?,
            fate: fate(self.fate),
            expires_at_ms: self.expires_ms,
            value: value.and_then(|doc| Value::from_doc(type_name, &doc)),
            is_complete: true,
        })
    }
}

fn fate(code: i64) -> Fate {
    match code {
        0 => Fate::Present,
        1 => Fate::Gone,
        _ => Fate::Deleted,
    }
}

/// The documents of `keys`, in their order, and the control row of their table.
///
/// # Errors
/// When Postgres cannot be reached, or has no control row (the schema is missing).
pub async fn documents(
    postgres: &Postgres,
    table: Table,
    keys: &[Key],
) -> Result<(Control, Vec<Option<Row>>), PostgresError> {
    let name = table.name();
    let text = format!(
        "SELECT c.epoch, c.floor, coalesce((SELECT beat FROM heartbeat), 0) AS beat, r.key_hash, r.type AS type_name,
            r.doc::text AS doc, r.version, {EXPIRES_MS} AS expires_ms, {FATE} AS fate
         FROM control c LEFT JOIN {name} r ON r.key_hash = ANY({{}}) WHERE c.table_name = {{}}"
    );
    let hashes: Vec<Vec<u8>> = keys.iter().map(Key::hash).collect();
    let binds = vec![Bind::BytesList(hashes.clone()), Bind::Text(name.to_owned())];
    let found: Vec<Found> = Statement::new(text, binds).rows(&*postgres.connection().await?).await?;
    let control = found.first().map(Found::control).ok_or(diesel::result::Error::NotFound)?;
    let by_hash: HashMap<&[u8], &Found> =
        found.iter().filter_map(|row| Some((row.key_hash.as_deref()?, row))).collect();
    Ok((control, hashes.iter().map(|hash| by_hash.get(hash.as_slice()).and_then(|row| row.row())).collect()))
}

#[derive(QueryableByName)]
struct FoundElement {
    #[diesel(sql_type = BigInt)]
    epoch: i64,
    #[diesel(sql_type = BigInt)]
    floor: i64,
    #[diesel(sql_type = BigInt)]
    beat: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    version: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    type_name: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    expires_ms: Option<i64>,
    #[diesel(sql_type = BigInt)]
    fate: i64,
    #[diesel(sql_type = Nullable<Bool>)]
    complete: Option<bool>,
    #[diesel(sql_type = Nullable<Text>)]
    element: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    doc: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    element_version: Option<i64>,
}

/// A collection, or the named elements of it, and the control row. Tombstones above `clock` count for the row's version,
/// so that a torn collection shows (R1); older ones do not exist for a reader.
///
/// # Errors
/// As [`documents`].
pub async fn collection(
    postgres: &Postgres,
    table: Table,
    key: &Key,
    names: Option<&[Bytes]>,
    clock: i64,
) -> Result<(Control, Option<Row>), PostgresError> {
    let name = table.name();
    let only = if names.is_some() { "AND e.element_hash = ANY({})" } else { "" };
    // `last_version` is the last chunk's; the header's own version rises with each capture that touches it.
    let text = format!(
        "SELECT c.epoch, least(c.floor, d.floor) AS floor, coalesce((SELECT beat FROM heartbeat), 0) AS beat,
            greatest(r.version, r.last_version) AS version, r.type AS type_name, {EXPIRES_MS} AS expires_ms, {FATE} AS fate,
            r.complete, e.element, e.doc::text AS doc, e.version AS element_version
         FROM control c JOIN control d ON d.table_name = 'collections' LEFT JOIN collections r ON r.key_hash = {{}}
            LEFT JOIN {name} e ON e.key_hash = r.key_hash AND (e.deleted_at IS NULL OR e.version > {{}}) {only}
         WHERE c.table_name = {{}}"
    );
    let mut binds = vec![Bind::Bytes(key.hash()), Bind::Number(clock)];
    if let Some(names) = names {
        binds.push(Bind::BytesList(names.iter().map(|name| hash16(name)).collect()));
    }
    binds.push(Bind::Text(name.to_owned()));
    let found: Vec<FoundElement> = Statement::new(text, binds).rows(&*postgres.connection().await?).await?;
    let first = found.first().ok_or(diesel::result::Error::NotFound)?;
    let control = Control { epoch: first.epoch, floor: first.floor, beat: first.beat };
    let Some(header_version) = first.version else {
        return Ok((control, None));
    };
    let elements = found.iter().filter_map(|row| row.element_version).max().unwrap_or(0);
    let type_name = first.type_name.clone().unwrap_or_default();
    let row = Row {
        version: header_version.max(elements),
        fate: fate(first.fate),
        expires_at_ms: first.expires_ms,
        value: assemble(&type_name, &found),
        is_complete: first.complete.unwrap_or(false),
    };
    Ok((control, Some(row)))
}

/// The value that the live elements make; `None` where one has not the form of the type.
fn assemble(type_name: &str, found: &[FoundElement]) -> Option<Value> {
    let live = found.iter().filter_map(|row| Some((row.element.as_ref()?, row.doc.as_ref()?)));
    let pairs = live.map(|(element, doc)| {
        let name = Bytes::from(text::decode(element));
        let doc: serde_json::Value = serde_json::from_str(doc).ok()?;
        let value = doc.as_str().map(|value| Bytes::from(text::decode(value))).unwrap_or_default();
        Some((name, value))
    });
    let pairs: Vec<(Bytes, Bytes)> = pairs.collect::<Option<_>>()?;
    match type_name {
        "hash" => Some(Value::Hash(pairs.into_iter().collect())),
        "set" => Some(Value::Set(pairs.into_iter().map(|(member, _)| member).collect())),
        "zset" => Some(Value::Zset(pairs.into_iter().map(|(member, score)| (member, Score::new(score))).collect())),
        _ => None,
    }
}

#[derive(QueryableByName)]
struct Listed {
    #[diesel(sql_type = Text)]
    id: String,
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = Text)]
    type_name: String,
    #[diesel(sql_type = Nullable<Text>)]
    doc: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    expires_ms: Option<i64>,
}

/// A record in a list.
#[derive(Clone, Debug)]
pub struct ListedRecord {
    /// Its id within the kind.
    pub id: String,
    /// Its key.
    pub key: Key,
    /// Its expiry, in milliseconds.
    pub expires_at_ms: Option<i64>,
    /// Its value.
    pub value: Option<Value>,
}

/// Live records of a kind by id, after `after`, at most `limit`. Collections are listed without their elements.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn list(
    postgres: &Postgres,
    kind: &Kind,
    after: &str,
    limit: i64,
    now_ms: i64,
) -> Result<Vec<ListedRecord>, PostgresError> {
    let (table, doc) = match kind.layout {
        Layout::Document => (kind.table.name(), "r.doc::text"),
        Layout::Collection | Layout::Log => ("collections", "NULL::text"),
    };
    let text = format!(
        "SELECT r.id, r.key, r.type AS type_name, {doc} AS doc, {EXPIRES_MS} AS expires_ms FROM {table} r
         WHERE r.kind = {{}} AND left(r.id, 128) >= left({{}}, 128) AND r.id > {{}} AND r.deleted_at IS NULL AND r.gone_at IS NULL
            AND (r.expires_at IS NULL OR r.expires_at > timestamptz 'epoch' + {{}} * interval '1 millisecond')
         ORDER BY left(r.id, 128), r.id LIMIT {{}}"
    );
    let binds = vec![
        Bind::Text(kind.name.clone()),
        Bind::Text(after.to_owned()),
        Bind::Text(after.to_owned()),
        Bind::Number(now_ms),
        Bind::Number(limit),
    ];
    let rows: Vec<Listed> = Statement::new(text, binds).rows(&*postgres.connection().await?).await?;
    let listed = rows.into_iter().map(|row| {
        let doc = row.doc.as_ref().and_then(|doc| serde_json::from_str(doc).ok());
        ListedRecord {
            key: Key::from_text(&row.key),
            value: doc.and_then(|doc| Value::from_doc(&row.type_name, &doc)),
            id: row.id,
            expires_at_ms: row.expires_ms,
        }
    });
    Ok(listed.collect())
}
