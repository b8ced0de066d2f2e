//! Ghosts: rows whose versions are above the clock of the Redis that came up, so writes that it lost (L1).

use diesel::QueryableByName;
use diesel::sql_types::Text;
use diesel_async::AsyncConnection;
use diesel_async::AsyncPgConnection;

use crate::model::catalog::{Layout, Table};
use crate::model::key::Key;
use crate::stores::postgres::Postgres;
use crate::stores::postgres::pool::PostgresError;
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
    let rows: Vec<Named> = statement.rows(&mut *postgres.connection().await?).await?;
    Ok(rows.into_iter().map(|row| row.name).collect())
}

fn tables() -> impl Iterator<Item = &'static str> {
    let documents = Table::ALL.iter().filter(|table| table.layout() == Layout::Document);
    documents.map(|table| table.name()).chain(["collections"])
}

fn statements() -> Vec<String> {
    let insert = "INSERT INTO ghosts (epoch, kind, key_hash, id, element, type, doc, version)";
    let documents = Table::ALL.iter().map(|table| match table.layout() {
        Layout::Document => format!(
            "{insert} SELECT {{}}, kind, key_hash, id, NULL, type, doc, version FROM {} WHERE version > {{}}",
            table.name()
        ),
        Layout::Collection | Layout::Log => format!(
            "{insert} SELECT {{}}, kind, key_hash, id, element, '', doc, version FROM {} WHERE version > {{}}",
            table.name()
        ),
    });
    let headers = format!(
        "{insert} SELECT {{}}, kind, key_hash, id, NULL, type, NULL, version FROM collections WHERE version > {{}}"
    );
    documents.chain([headers]).collect()
}
