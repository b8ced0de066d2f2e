//! The schema on a real Postgres: up, down and up again, the same as in `schema.rs`, with room for what Redis has room for.

mod columns;

use diesel_async::{AsyncConnection, AsyncMigrationHarness, AsyncPgConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use parallax::dev::servers::{PostgresOptions, PrivatePostgres};
use parallax::model::catalog::{Catalog, Layout, Table};
use parallax::model::key::{Key, hash16};
use tokio_postgres::{Client, NoTls};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");
const SCHEMA: &str = include_str!("../../../src/stores/postgres/schema.rs");

/// A private Postgres and a client of it.
struct Database {
    server: PrivatePostgres,
    client: Client,
}

impl Database {
    async fn empty() -> Self {
        let server = PrivatePostgres::start(PostgresOptions::default()).await.unwrap();
        let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        Self { server, client }
    }

    async fn migrated() -> Self {
        let database = Self::empty().await;
        database.up().await;
        database
    }

    async fn harness(&self) -> AsyncMigrationHarness<AsyncPgConnection> {
        AsyncMigrationHarness::new(AsyncPgConnection::establish(&self.server.url()).await.unwrap())
    }

    async fn up(&self) {
        let mut harness = self.harness().await;
        let applied = tokio::task::spawn_blocking(move || harness.run_pending_migrations(MIGRATIONS).unwrap().len());
        assert!(applied.await.unwrap() > 0);
    }

    async fn down(&self) {
        let mut harness = self.harness().await;
        let reverted = tokio::task::spawn_blocking(move || harness.revert_all_migrations(MIGRATIONS).unwrap().len());
        assert!(reverted.await.unwrap() > 0);
    }

    /// The first column of the first row, as text.
    async fn text(&self, sql: &str) -> Option<String> {
        self.texts(sql).await.into_iter().next().flatten()
    }

    /// The first column of every row, as text.
    async fn texts(&self, sql: &str) -> Vec<Option<String>> {
        let sql = format!("SELECT one::text FROM ({sql}) AS rows(one)");
        let rows = self.client.query(&sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Puts a record in its table, as the engine does: no generated column is named.
    async fn put(&self, key: &[u8], doc: &serde_json::Value) -> Table {
        let catalog = Catalog::embedded();
        let kind = catalog.kind_of(key);
        let (record, doc_type) = (Key::new(key.to_vec()), if doc.is_string() { "string" } else { "hash" });
        let sql = format!(
            "INSERT INTO {} (key_hash, key, kind, id, type, doc, version) VALUES ($1, $2, $3, $4, $5, $6, 1)
             ON CONFLICT (key_hash) DO UPDATE SET doc = excluded.doc, version = excluded.version",
            kind.table.name()
        );
        self.client
            .execute(
                &sql,
                &[&record.hash(), &record.text(), &kind.name, &kind.id_of(key), &doc_type, &Jsonb(doc.to_string())],
            )
            .await
            .unwrap();
        kind.table
    }

    /// Puts an entry in a log, or an element in a collection.
    async fn put_element(&self, key: &[u8], element: &[u8], doc: &serde_json::Value) {
        let catalog = Catalog::embedded();
        let kind = catalog.kind_of(key);
        let element_text = Key::new(element.to_vec()).text();
        let sql = format!(
            "INSERT INTO {} (key_hash, element_hash, kind, id, element, doc, version) VALUES ($1, $2, $3, $4, $5, $6, 1)",
            kind.table.name()
        );
        self.client
            .execute(
                &sql,
                &[&hash16(key), &hash16(element), &kind.name, &kind.id_of(key), &element_text, &Jsonb(doc.to_string())],
            )
            .await
            .unwrap();
    }
}

/// A jsonb parameter, given as its text.
#[derive(Debug)]
struct Jsonb(String);

impl tokio_postgres::types::ToSql for Jsonb {
    fn to_sql(
        &self,
        _: &tokio_postgres::types::Type,
        out: &mut bytes::BytesMut,
    ) -> Result<tokio_postgres::types::IsNull, Box<dyn std::error::Error + Sync + Send>> {
        // Version 1 of the binary form of jsonb is its text.
        out.extend_from_slice(&[1]);
        out.extend_from_slice(self.0.as_bytes());
        Ok(tokio_postgres::types::IsNull::No)
    }

    fn accepts(wanted: &tokio_postgres::types::Type) -> bool {
        *wanted == tokio_postgres::types::Type::JSONB
    }

    tokio_postgres::types::to_sql_checked!();
}

const OURS: &str =
    "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE '\\_\\_diesel%'
    UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1";

#[tokio::test]
async fn the_migrations_go_down_to_nothing_and_up_to_the_same() {
    let database = Database::migrated().await;
    let before = database.texts(OURS).await;
    assert!(before.len() > 50);
    database.down().await;
    assert_eq!(database.texts(OURS).await, []);
    database.up().await;
    assert_eq!(database.texts(OURS).await, before);
}

/// `table (column type, ...)` for each table of `schema.rs`, in the words of `information_schema`.
fn tables_of_the_source() -> Vec<String> {
    let mut tables: Vec<String> = SCHEMA
        .split("diesel::table! {")
        .skip(1)
        .map(|block| {
            let mut lines = block.lines().map(str::trim).filter(|line| !line.is_empty());
            let (name, key) = lines.next().unwrap().split_once(" (").unwrap();
            let key = key.trim_end_matches(") {");
            let columns: Vec<String> = lines
                .filter_map(|line| line.trim_end_matches(',').split_once(" -> "))
                .map(|(name, of_diesel)| {
                    let bare = of_diesel.trim_start_matches("Nullable<").trim_end_matches('>');
                    let is_nullable = of_diesel.starts_with("Nullable<");
                    let of_postgres = match bare {
                        "Binary" => "bytea",
                        "Text" => "text",
                        "Jsonb" => "jsonb",
                        "Int8" => "int8",
                        "Bool" => "bool",
                        "Timestamptz" => "timestamptz",
                        "Array<Text" => "_text",
                        other => panic!("{other} is new here"),
                    };
                    format!("{} {of_postgres}{}", name.trim_end_matches('_'), if is_nullable { "?" } else { "" })
                })
                .collect();
            format!("{name} [{key}] {}", columns.join(", "))
        })
        .collect();
    tables.sort();
    tables
}

#[tokio::test]
async fn the_tables_that_diesel_knows_are_those_of_the_database() {
    let database = Database::migrated().await;
    let of_the_database = database
        .texts(
            "SELECT format('%s [%s] %s', t.table_name,
                (SELECT string_agg(a.attname, ', ' ORDER BY array_position(i.indkey, a.attnum))
                 FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
                 WHERE i.indisprimary AND i.indrelid = t.table_name::regclass),
                (SELECT string_agg(c.column_name || ' ' || c.udt_name || CASE c.is_nullable WHEN 'YES' THEN '?' ELSE '' END,
                    ', ' ORDER BY c.ordinal_position)
                 FROM information_schema.columns c
                 WHERE c.table_schema = 'public' AND c.table_name = t.table_name AND c.is_generated = 'NEVER'))
             FROM information_schema.tables t
             WHERE t.table_schema = 'public' AND t.table_type = 'BASE TABLE' AND t.table_name NOT LIKE '\\_\\_diesel%'
             ORDER BY t.table_name COLLATE \"C\"",
        )
        .await;
    let of_the_database: Vec<String> = of_the_database.into_iter().flatten().collect();
    assert_eq!(tables_of_the_source(), of_the_database);
}

#[tokio::test]
async fn every_table_of_the_catalog_has_its_control_row_and_its_comment() {
    let database = Database::migrated().await;
    let controlled = database.texts("SELECT table_name FROM control").await;
    for table in Table::ALL {
        assert!(controlled.contains(&Some(table.name().to_owned())), "{}", table.name());
    }
    assert!(controlled.contains(&Some("collections".to_owned())));
    let silent = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')
        AND relname NOT LIKE '\\_\\_diesel%' AND obj_description(oid, 'pg_class') IS NULL";
    assert_eq!(database.texts(silent).await, []);
}

#[tokio::test]
async fn a_key_of_64_kib_and_a_member_of_a_megabyte_find_room_in_every_table() {
    let database = Database::migrated().await;
    // Text that does not compress: an index would be too small for it, were it to hold the whole.
    let long = |length: usize| -> Vec<u8> {
        (0..length.div_ceil(32))
            .flat_map(|turn| parallax::model::text::hex(&hash16(&turn.to_le_bytes())).into_bytes())
            .collect()
    };
    let (long_id, member) = (long(64 * 1024), long(1024 * 1024));
    let text = String::from_utf8(member.clone()).unwrap();
    let wide = serde_json::json!({"name": text, "userId": text, "tags": serde_json::json!([text]).to_string(), "status": text});
    let (catalog, mut done) = (Catalog::embedded(), Vec::new());
    for kind in catalog.kinds().iter().filter(|kind| !kind.pattern.is_literal() && kind.is_mirrored()) {
        let example = kind.pattern.examples().swap_remove(0);
        let example = String::from_utf8(example).unwrap();
        let key = example.replacen("~one~", std::str::from_utf8(&long_id).unwrap(), 1).into_bytes();
        if catalog.kind_of(&key).name != kind.name || done.contains(&kind.table) {
            continue;
        }
        done.push(kind.table);
        match kind.layout {
            Layout::Document => {
                database.put(&key, &wide).await;
            }
            Layout::Collection | Layout::Log => database.put_element(&key, &member, &serde_json::json!(text)).await,
        }
    }
    database.put(b"user:1", &serde_json::json!(wide.to_string())).await;
    for table in Table::ALL {
        if *table != Table::Configs {
            let sql = format!("SELECT max(octet_length(doc::text)) > 1000000 FROM {}", table.name());
            assert_eq!(database.text(&sql).await.as_deref(), Some("true"), "{}", table.name());
        }
    }
    assert_eq!(database.text("SELECT max(octet_length(key)) > 65536 FROM api_keys").await.as_deref(), Some("true"));
    assert_eq!(
        database.text("SELECT max(octet_length(element)) >= 1048576 FROM elements").await.as_deref(),
        Some("true")
    );
}

#[tokio::test]
async fn a_nul_and_bytes_that_are_no_text_are_rows_like_others() {
    let database = Database::migrated().await;
    database.put(b"apikey:\xff\0", &serde_json::json!({"name": "\\x00ff"})).await;
    database.put_element(b"apikey:idx:name", b"name\0id", &serde_json::json!("0")).await;
    database.put(b"usage:daily:\xff:2026-11-23", &serde_json::json!({"requests": "1"})).await;
    assert_eq!(database.text("SELECT id FROM api_keys").await.unwrap(), "\\xff00");
    assert_eq!(database.text("SELECT element || ' ' || score FROM elements").await.unwrap(), "\\x6e616d65006964 0");
    let sql = "SELECT coalesce(api_key_id, 'none') || ' ' || requests FROM usage_counters";
    assert_eq!(database.text(sql).await.unwrap(), "none 1");
}
