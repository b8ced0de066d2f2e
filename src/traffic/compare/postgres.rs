//! The Postgres side: every live row of the record tables, and collections and logs put together from their elements.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::{StreamExt, TryStreamExt};
use serde_json::Value;
use tokio_postgres::{Client, NoTls, Row};

use crate::model::catalog::{Catalog, Layout, Table};
use crate::model::text;
use crate::traffic::compare::redis::score_bits;
use crate::traffic::compare::{Class, CompareError, Equality, Held, Record, Records};

/// The tables whose rows are whole records.
const RECORD_TABLES: [Table; 8] = [
    Table::ApiKeys,
    Table::Accounts,
    Table::AccountGroups,
    Table::Users,
    Table::QuotaCards,
    Table::Configs,
    Table::UsageCounters,
    Table::Records,
];

/// A collection or a log that is being put together.
struct Header {
    key: Vec<u8>,
    type_name: String,
    is_live: bool,
    expires_at_ms: Option<i64>,
    held: Held,
}

/// Every live record.
pub(super) async fn read(url: &str, catalog: &Catalog, outcome: &mut Equality) -> Result<Records, CompareError> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(failed)?;
    // It ends by itself when the client is dropped; a broken connection shows in the next query.
    tokio::spawn(connection);
    let mut records = Records::new();
    for table in RECORD_TABLES {
        record_table(&client, table, catalog, &mut records, outcome).await?;
    }
    let mut headers = headers(&client, catalog, outcome).await?;
    for table in [Table::Elements, Table::EventLogs] {
        elements(&client, table, &mut headers, outcome).await?;
    }
    for header in headers.into_values().filter(|header| header.is_live) {
        let Header { key, type_name, expires_at_ms, held, .. } = header;
        if records.insert(key.clone(), Record { type_name, held, expires_at_ms }).is_some() {
            outcome.differ(Class::Stray, &catalog.kind_of(&key).name, &key);
        }
    }
    Ok(records)
}

#[expect(clippy::needless_pass_by_value, reason = "it is made for map_err")]
fn failed(error: tokio_postgres::Error) -> CompareError {
    CompareError::Postgres(error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned()))
}

async fn record_table(
    client: &Client,
    table: Table,
    catalog: &Catalog,
    records: &mut Records,
    outcome: &mut Equality,
) -> Result<(), CompareError> {
    let query = format!(
        "SELECT key, type, doc::text, (extract(epoch FROM expires_at) * 1000)::bigint FROM {} \
         WHERE deleted_at IS NULL AND gone_at IS NULL",
        table.name()
    );
    let rows = client.query_raw(&query, std::iter::empty::<i32>()).await.map_err(failed)?;
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        let key = text::decode(&column::<String>(&row, 0)?);
        let type_name: String = column(&row, 1)?;
        let doc: Option<String> = column(&row, 2)?;
        let expires_at_ms = column(&row, 3)?;
        let held = doc.and_then(|doc| document(&type_name, &serde_json::from_str(&doc).ok()?)).unwrap_or(Held::Broken);
        let kind = catalog.kind_of(&key);
        let belongs_here = kind.is_mirrored() && kind.layout == Layout::Document && kind.table == table;
        let is_second = records.insert(key.clone(), Record { type_name, held, expires_at_ms }).is_some();
        if !belongs_here || is_second {
            outcome.differ(Class::Stray, &kind.name, &key);
        }
    }
    Ok(())
}

async fn headers(
    client: &Client,
    catalog: &Catalog,
    outcome: &mut Equality,
) -> Result<HashMap<Vec<u8>, Header>, CompareError> {
    let query = "SELECT key_hash, key, type, (extract(epoch FROM expires_at) * 1000)::bigint, \
                 deleted_at IS NULL AND gone_at IS NULL FROM collections";
    let rows = client.query(query, &[]).await.map_err(failed)?;
    let mut headers = HashMap::new();
    for row in rows {
        let key = text::decode(&column::<String>(&row, 1)?);
        let type_name: String = column(&row, 2)?;
        let is_live = column(&row, 4)?;
        let kind = catalog.kind_of(&key);
        let is_apart = match kind.layout {
            Layout::Collection | Layout::Log => kind.is_mirrored(),
            Layout::Document => false,
        };
        if is_live && !is_apart {
            outcome.differ(Class::Stray, &kind.name, &key);
        }
        let held = empty(&type_name);
        headers.insert(column(&row, 0)?, Header { key, type_name, is_live, expires_at_ms: column(&row, 3)?, held });
    }
    Ok(headers)
}

async fn elements(
    client: &Client,
    table: Table,
    headers: &mut HashMap<Vec<u8>, Header>,
    outcome: &mut Equality,
) -> Result<(), CompareError> {
    let query = format!(
        "SELECT key_hash, kind, element, doc::text FROM {} WHERE deleted_at IS NULL ORDER BY seq",
        table.name()
    );
    let rows = client.query_raw(&query, std::iter::empty::<i32>()).await.map_err(failed)?;
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.next().await {
        let row = row.map_err(failed)?;
        let key_hash: Vec<u8> = column(&row, 0)?;
        outcome.elements += 1;
        let Some(header) = headers.get_mut(&key_hash) else {
            outcome.differ(Class::Stray, &column::<String>(&row, 1)?, &key_hash);
            continue;
        };
        let element = text::decode(&column::<String>(&row, 2)?);
        let doc: Option<String> = column(&row, 3)?;
        let doc = doc.and_then(|doc| serde_json::from_str(&doc).ok()).unwrap_or(Value::Null);
        if add(&mut header.held, element, &doc).is_none() {
            header.held = Held::Broken;
        }
    }
    Ok(())
}

fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, index: usize) -> Result<T, CompareError> {
    row.try_get(index).map_err(failed)
}

fn string(value: &Value) -> Option<Vec<u8>> {
    value.as_str().map(text::decode)
}

fn strings(value: &Value) -> Option<Vec<Vec<u8>>> {
    value.as_array()?.iter().map(string).collect()
}

/// The value of a document; `None` when it does not have the form of its type.
fn document(type_name: &str, doc: &Value) -> Option<Held> {
    match type_name {
        "string" => string(doc).map(Held::Text),
        "hash" => {
            let fields = doc.as_object()?.iter().map(|(field, value)| Some((text::decode(field), string(value)?)));
            fields.collect::<Option<_>>().map(Held::Hash)
        }
        "list" => strings(doc).map(Held::List),
        "set" => strings(doc).map(|members| Held::Set(members.into_iter().collect())),
        "zset" => {
            let members = doc.as_object()?.iter();
            let members = members.map(|(member, score)| Some((text::decode(member), score_bits(score.as_str()?)?)));
            members.collect::<Option<_>>().map(Held::Zset)
        }
        "stream" => {
            let entries = doc.as_array()?.iter().map(|entry| Some((string(entry.get(0)?)?, strings(entry.get(1)?)?)));
            entries.collect::<Option<_>>().map(Held::Stream)
        }
        _ => None,
    }
}

fn empty(type_name: &str) -> Held {
    match type_name {
        "hash" => Held::Hash(BTreeMap::new()),
        "list" => Held::List(Vec::new()),
        "set" => Held::Set(BTreeSet::new()),
        "zset" => Held::Zset(BTreeMap::new()),
        "stream" => Held::Stream(BTreeMap::new()),
        _ => Held::Broken,
    }
}

/// Adds one element; `None` when its document does not have the form of the collection's type.
fn add(held: &mut Held, element: Vec<u8>, doc: &Value) -> Option<()> {
    match held {
        Held::Hash(fields) => {
            fields.insert(element, string(doc)?);
        }
        Held::List(entries) => entries.push(string(doc)?),
        Held::Set(members) => {
            if doc != &Value::Bool(true) {
                return None;
            }
            members.insert(element);
        }
        Held::Zset(members) => {
            members.insert(element, score_bits(doc.as_str()?)?);
        }
        Held::Stream(entries) => {
            entries.insert(entry_id(&element)?, strings(doc)?);
        }
        Held::Text(_) | Held::Broken => return None,
    }
    Some(())
}

/// The id of a stream entry as Redis writes it: Postgres pads both halves, so that ids sort as text.
fn entry_id(element: &[u8]) -> Option<Vec<u8>> {
    let (milliseconds, sequence) = std::str::from_utf8(element).ok()?.split_once('-')?;
    let (milliseconds, sequence): (u64, u64) = (milliseconds.parse().ok()?, sequence.parse().ok()?);
    Some(format!("{milliseconds}-{sequence}").into_bytes())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_of_another_form_is_never_taken_for_the_value() {
        assert_eq!(document("hash", &json!({"a": 1})), None);
        assert_eq!(document("string", &json!("\\x6e00")), Some(Held::Text(b"n\0".to_vec())));
        assert_eq!(document("zset", &json!({"m": "1e1"})), document("zset", &json!({"m": "10"})));
        assert_eq!(entry_id(b"00000001795450394848-00000000000000000000"), Some(b"1795450394848-0".to_vec()));
        let mut set = empty("set");
        assert_eq!(add(&mut set, b"m".to_vec(), &json!("true")), None);
    }
}
