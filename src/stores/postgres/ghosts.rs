//! Ghosts: rows whose versions are above the clock of the Redis that came up, so writes that it lost (L1).

use diesel::QueryableByName;
use diesel::sql_types::Text;
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use serde_json::Value as Json;

use crate::model::catalog::{Layout, Table};
use crate::model::key::Key;
use crate::stores::postgres::Postgres;
use crate::stores::postgres::pool::{PostgresError, WHOLE_TABLES};
use crate::stores::postgres::statement::{Bind, Statement};

#[derive(QueryableByName)]
struct Named {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Writes down every ghost above `clock` with the value that was lost, and answers their keys, each once.
///
/// # Errors
/// When Postgres cannot be reached or written.
pub async fn list(postgres: &Postgres, epoch: i64, clock: i64) -> Result<Vec<Key>, PostgresError> {
    let mut pooled = postgres.connection().await?;
    let connection: &mut AsyncPgConnection = &mut pooled;
    let keys = connection.transaction(async |connection: &mut AsyncPgConnection| {
        connection.batch_execute(WHOLE_TABLES).await?;
        for statement in statements() {
            let binds = vec![Bind::Number(epoch), Bind::Number(clock)];
            Statement::new(statement, binds).run(connection).await?;
        }
        // A row that has no key of its own takes it from its header.
        let each: Vec<String> = tables()
            .map(|table| format!("SELECT key, version FROM {table}"))
            .chain([Table::Elements, Table::EventLogs].map(|table| {
                let name = table.name();
                format!("SELECT c.key, e.version FROM {name} e JOIN collections c USING (key_hash)")
            }))
            .collect();
        let text = format!("SELECT DISTINCT key AS name FROM ({}) AS r WHERE version > {{}}", each.join(" UNION ALL "));
        Statement::new(text, vec![Bind::Number(clock)]).rows::<Named>(connection).await
    });
    Ok(keys.await?.iter().map(|row| Key::from_text(&row.name)).collect())
}

/// Tables whose floor is above `clock`: rows above it may have been swept.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn swept(postgres: &Postgres, clock: i64) -> Result<Vec<String>, PostgresError> {
    let statement =
        Statement::new("SELECT table_name AS name FROM control WHERE floor > {}", vec![Bind::Number(clock)]);
    let rows: Vec<Named> = statement.rows(&*postgres.connection().await?).await?;
    Ok(rows.into_iter().map(|row| row.name).collect())
}

/// Writes down the rows of these keys of one table, headers and elements included, as ghosts; what is listed in this epoch
/// already is not listed again. Answers how many records were.
///
/// # Errors
/// When Postgres cannot be reached or written.
pub async fn list_keys(postgres: &Postgres, epoch: i64, table: Table, keys: &[Key]) -> Result<usize, PostgresError> {
    let hashes: Vec<Vec<u8>> = keys.iter().map(Key::hash).collect();
    let mut pooled = postgres.connection().await?;
    let connection: &mut AsyncPgConnection = &mut pooled;
    let done = connection.transaction(async |connection: &mut AsyncPgConnection| {
        let mut records = 0;
        for source in sources(table) {
            let text = format!(
                "{INSERT} SELECT * FROM ({source} WHERE key_hash = ANY({{}})) AS n(epoch, kind, key_hash, id, element, type, doc, version)
                 WHERE NOT EXISTS (SELECT 1 FROM ghosts g WHERE g.epoch = n.epoch AND g.key_hash = n.key_hash
                    AND g.element IS NOT DISTINCT FROM n.element)"
            );
            let binds = vec![Bind::Number(epoch), Bind::BytesList(hashes.clone())];
            // The last source has one row a record.
            records = Statement::new(text, binds).run(connection).await?;
        }
        Ok(records)
    });
    done.await
}

/// Ghosts, newest first: what was lost, with its value.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn listed(postgres: &Postgres, kind: Option<&str>, limit: i64) -> Result<Vec<Json>, PostgresError> {
    let text = "SELECT json_build_object('at', at, 'epoch', epoch, 'kind', kind, 'key_hash', encode(key_hash, 'hex'), 'id', id,
            'element', element, 'type', type, 'doc', doc, 'version', version, 'settled_at', settled_at)::text AS name
         FROM ghosts WHERE kind = coalesce({}, kind) ORDER BY seq DESC LIMIT {}";
    let statement = Statement::new(text, vec![Bind::NullableText(kind.map(str::to_owned)), Bind::Number(limit)]);
    let rows: Vec<Named> = statement.rows(&*postgres.connection().await?).await?;
    Ok(rows.iter().filter_map(|row| serde_json::from_str(&row.name).ok()).collect())
}

/// Notes that these records are the same in both stores again: their ghosts are settled. Answers how many ghosts were.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn settle(postgres: &Postgres, keys: &[Key]) -> Result<usize, PostgresError> {
    let statement = Statement::new(
        "UPDATE ghosts SET settled_at = now() WHERE key_hash = ANY({}) AND settled_at IS NULL",
        vec![Bind::BytesList(keys.iter().map(Key::hash).collect())],
    );
    Ok(statement.run(&*postgres.connection().await?).await?)
}

/// Notes that whole kinds were found the same in both stores by a comparison that began at `version`: all their ghosts of
/// before are settled.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn settle_kinds(postgres: &Postgres, kinds: &[String], version: i64) -> Result<usize, PostgresError> {
    let statement = Statement::new(
        "UPDATE ghosts SET settled_at = now() WHERE kind = ANY({}) AND version < {} AND settled_at IS NULL",
        vec![Bind::TextList(kinds.to_vec()), Bind::Number(version)],
    );
    Ok(statement.run(&*postgres.connection().await?).await?)
}

fn tables() -> impl Iterator<Item = &'static str> {
    let documents = Table::ALL.iter().filter(|table| table.layout() == Layout::Document);
    documents.map(|table| table.name()).chain(["collections"])
}

const INSERT: &str = "INSERT INTO ghosts (epoch, kind, key_hash, id, element, type, doc, version)";

/// Where the rows of a table, and their headers, are taken from.
fn sources(table: Table) -> Vec<String> {
    let name = table.name();
    match table.layout() {
        Layout::Document => {
            vec![format!("SELECT {{}}::bigint, kind, key_hash, id, NULL::text, type, doc, version FROM {name}")]
        }
        Layout::Collection | Layout::Log => {
            vec![
                format!("SELECT {{}}::bigint, kind, key_hash, id, element, '', doc, version FROM {name}"),
                HEADERS.to_owned(),
            ]
        }
    }
}

const HEADERS: &str = "SELECT {}::bigint, kind, key_hash, id, NULL::text, type, NULL::jsonb, version FROM collections";

fn statements() -> Vec<String> {
    // Both kinds of elements have their headers in one table, which is listed once.
    let mut sources: Vec<String> = Table::ALL.iter().flat_map(|table| sources(*table)).collect();
    sources.sort_unstable();
    sources.dedup();
    sources.into_iter().map(|source| format!("{INSERT} {source} WHERE version > {{}}")).collect()
}
