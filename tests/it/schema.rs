//! The schema on a real Postgres: up, down and up again; real columns, also from bad data; and the same as in `schema.rs`.

use diesel_async::{AsyncConnection, AsyncMigrationHarness, AsyncPgConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use parallax::dev::servers::{PostgresOptions, PrivatePostgres};
use parallax::model::catalog::{Catalog, Layout, Table};
use parallax::model::key::{Key, hash16};
use tokio_postgres::{Client, NoTls};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");
const SCHEMA: &str = include_str!("../../src/stores/postgres/schema.rs");

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
                &[
                    &record.hash(),
                    &record.text(),
                    &kind.name,
                    &kind.id_of(key),
                    &doc_type,
                    &Jsonb(doc.to_string()),
                ],
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
                &[
                    &hash16(key),
                    &hash16(element),
                    &kind.name,
                    &kind.id_of(key),
                    &element_text,
                    &Jsonb(doc.to_string()),
                ],
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
                    format!(
                        "{} {of_postgres}{}",
                        name.trim_end_matches('_'),
                        if is_nullable { "?" } else { "" }
                    )
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
async fn a_text_that_does_not_fit_its_column_is_null() {
    let database = Database::migrated().await;
    for (cast, good, wanted) in [
        ("bigint", "-9223372036854775808", "-9223372036854775808"),
        ("bigint", "+5", "5"),
        ("numeric", "0.05600499999999999", "0.05600499999999999"),
        ("numeric", "1.5e-7", "0.00000015"),
        ("numeric", "9223372036854775808", "9223372036854775808"),
        ("double", "-inf", "-Infinity"),
        ("double", "1732320590044", "1732320590044"),
        ("boolean", "true", "true"),
        ("boolean", "0", "false"),
        ("jsonb", r#" {"a":[1]}"#, r#"{"a": [1]}"#),
        ("timestamptz", "2026-11-23T06:09:50.044Z", "2026-11-23 06:09:50.044+00"),
        ("timestamptz", "2026-11-23T06:09:50+08:00", "2026-11-22 22:09:50+00"),
        ("timestamptz", "2024-02-29T00:00:00-0330", "2024-02-29 03:30:00+00"),
        ("timestamptz", "1796278189445", "2026-12-03 06:09:49.445+00"),
    ] {
        let sql = format!("SELECT parallax_{cast}('{good}')");
        database.client.batch_execute("SET timezone = 'UTC'").await.unwrap();
        assert_eq!(database.text(&sql).await.as_deref(), Some(wanted), "{cast} {good}");
    }
    for (cast, bad) in [
        ("bigint", "9223372036854775808"),
        ("bigint", "1.5"),
        ("bigint", " 1"),
        ("numeric", "1e400"),
        ("numeric", "NaN"),
        ("numeric", "Infinity"),
        ("numeric", "0x10"),
        ("double", "1e400"),
        ("double", "nan"),
        ("boolean", "yes"),
        ("jsonb", "{"),
        ("jsonb", r#""\u0000""#),
        ("jsonb", "1e1000000"),
        ("timestamptz", "2026-02-30T00:00:00Z"),
        ("timestamptz", "2026-11-23T06:09:50"),
        ("timestamptz", "0000-01-01T00:00:00Z"),
        ("timestamptz", "2026-11-23T24:00:00Z"),
        ("timestamptz", "now"),
        ("timestamptz", "999999999999999"),
        ("short", ""),
    ] {
        assert_eq!(
            database.text(&format!("SELECT parallax_{cast}('{bad}')")).await,
            None,
            "{cast} {bad}"
        );
    }
    for cast in [
        "bigint",
        "numeric",
        "double",
        "boolean",
        "jsonb",
        "timestamptz",
        "short",
    ] {
        assert_eq!(
            database.text(&format!("SELECT parallax_{cast}(NULL)")).await,
            None,
            "{cast}"
        );
        assert_eq!(
            database
                .text(&format!("SELECT parallax_{cast}(repeat('[', 100000))"))
                .await,
            None,
            "{cast}"
        );
    }
}

#[tokio::test]
async fn an_api_key_has_real_columns_and_bad_fields_are_null() {
    let database = Database::migrated().await;
    database.client.batch_execute("SET timezone = 'UTC'").await.unwrap();
    let columns =
        "SELECT format('%s|%s|%s|%s|%s', name, is_active, daily_cost_limit, last_used_at, tags ->> 0) FROM api_keys";
    let good = serde_json::json!({
        "name": "team", "isActive": "true", "dailyCostLimit": "12.50", "lastUsedAt": "2026-11-23T06:09:50.044Z",
        "tags": r#"["odd"]"#, "apiKey": "secret",
    });
    database.put(b"apikey:1", &good).await;
    assert_eq!(
        database.text(columns).await.unwrap(),
        "team|t|12.50|2026-11-23 06:09:50.044+00|odd"
    );
    let bad = serde_json::json!({
        "name": "team", "isActive": "perhaps", "dailyCostLimit": "1e400", "lastUsedAt": "yesterday", "tags": "[",
    });
    database.put(b"apikey:1", &bad).await;
    assert_eq!(database.text(columns).await.unwrap(), "team||||");
    database
        .put(b"apikey:1", &serde_json::json!(["not", "a", "hash"]))
        .await;
    assert_eq!(database.text(columns).await.unwrap(), "||||");
}

#[tokio::test]
async fn accounts_have_the_same_columns_as_hashes_and_as_one_json_text() {
    let database = Database::migrated().await;
    let columns =
        "SELECT format('%s|%s|%s|%s', platform, name, is_schedulable, priority) FROM accounts ORDER BY platform";
    let hash = serde_json::json!({"name": "console-1", "schedulable": "true", "priority": "5"});
    database.put(b"claude_console_account:1", &hash).await;
    let text = serde_json::json!(r#"{"name":"bedrock-1","schedulable":false,"priority":50}"#);
    database.put(b"bedrock_account:1", &text).await;
    let rows: Vec<String> = database.texts(columns).await.into_iter().flatten().collect();
    assert_eq!(rows, ["bedrock|bedrock-1|f|50", "claude-console|console-1|t|5"]);
    database.put(b"bedrock_account:1", &serde_json::json!("{broken")).await;
    assert_eq!(database.text(columns).await.unwrap(), "bedrock|||");
}

#[tokio::test]
async fn a_usage_counter_says_whose_it_is_and_when_in_the_relays_offset() {
    let database = Database::migrated().await;
    database.client.batch_execute("SET timezone = 'UTC'").await.unwrap();
    let tokens = serde_json::json!({
        "requests": "6", "inputTokens": "720", "totalTokens": "9", "realCostMicro": "1932", "ratedCostMicro": "2000001",
    });
    let cost = serde_json::json!("0.0369495");
    for (key, doc, wanted) in [
        (
            "usage:k",
            &tokens,
            "api_key|tokens|total|k|||k||6|720|2.000001|0.001932",
        ),
        (
            "usage:daily:k:2026-11-23",
            &tokens,
            "api_key|tokens|daily|k|||k|2026-11-22 16:00:00+00|6|720|2.000001|0.001932",
        ),
        (
            "usage:k:model:hourly:us.claude-v1:0:2026-11-23:14",
            &tokens,
            "api_key_model|tokens|hourly|k||us.claude-v1:0|k|2026-11-23 06:00:00+00|6|720|2.000001|0.001932",
        ),
        (
            "usage:k:model:alltime:m:1",
            &tokens,
            "api_key_model|tokens|total|k||m:1|k||6|720|2.000001|0.001932",
        ),
        (
            "usage:model:monthly:m:2026-11",
            &tokens,
            "model|tokens|monthly|||m|m|2026-10-31 16:00:00+00|6|720|2.000001|0.001932",
        ),
        (
            "usage:global:total",
            &tokens,
            "global|tokens|total||||global||6|720|2.000001|0.001932",
        ),
        (
            "account_usage:model:daily:a:m:2026-11-23",
            &tokens,
            "account_model|tokens|daily||a|m|a|2026-11-22 16:00:00+00|6|720|2.000001|0.001932",
        ),
        (
            "account_usage:a",
            &tokens,
            "account|tokens|total||a||a||6|720|2.000001|0.001932",
        ),
        (
            "usage:cost:hourly:k:2026-11-23:00",
            &cost,
            "api_key|cost|hourly|k|||k|2026-11-22 16:00:00+00|||0.0369495|",
        ),
        (
            "usage:cost:real:total:k",
            &cost,
            "api_key|real_cost|total|k|||k|||||0.0369495",
        ),
        (
            "usage:opus:weekly:k:2026-11-23T05",
            &cost,
            "api_key|opus_cost|weekly|k|||k|2026-11-22 21:00:00+00|||0.0369495|",
        ),
        (
            "usage:opus:weekly:k:2026-W48",
            &cost,
            "api_key|opus_cost|weekly|k|||k||||0.0369495|",
        ),
        (
            "usage:daily:k:2026-02-30",
            &tokens,
            "api_key|tokens|daily|k|||k||6|720|2.000001|0.001932",
        ),
    ] {
        assert_eq!(database.put(key.as_bytes(), doc).await, Table::UsageCounters, "{key}");
        let sql = format!(
            "SELECT concat_ws('|', scope, measure, granularity, coalesce(api_key_id, ''), coalesce(account_id, ''),
                coalesce(model, ''), subject, coalesce(period_start::text, ''), coalesce(requests::text, ''),
                coalesce(input_tokens::text, ''), coalesce(cost::text, ''), coalesce(real_cost::text, ''))
             FROM usage_counters WHERE key = '{key}'"
        );
        assert_eq!(database.text(&sql).await.unwrap(), wanted, "{key}");
    }
}

#[tokio::test]
async fn the_sql_understands_the_name_of_every_usage_kind() {
    let database = Database::migrated().await;
    for kind in Catalog::embedded()
        .kinds()
        .iter()
        .filter(|kind| kind.table == Table::UsageCounters)
    {
        let sql = format!(
            "SELECT parallax_usage_granularity('{0}') IS NOT NULL AND parallax_usage_scope('{0}') IS NOT NULL",
            kind.name
        );
        assert_eq!(database.text(&sql).await.as_deref(), Some("true"), "{}", kind.name);
    }
    for kind in Catalog::embedded()
        .kinds()
        .iter()
        .filter(|kind| kind.table == Table::Accounts)
    {
        database.put(&kind.pattern.around(b"1"), &serde_json::json!({})).await;
    }
    assert_eq!(
        database
            .text("SELECT count(*) FROM accounts WHERE platform IS NULL")
            .await
            .as_deref(),
        Some("0")
    );
}

#[tokio::test]
async fn a_new_offset_moves_every_period_and_nothing_else() {
    let database = Database::migrated().await;
    database.client.batch_execute("SET timezone = 'UTC'").await.unwrap();
    database
        .put(b"usage:daily:k:2026-11-23", &serde_json::json!({"requests": "1"}))
        .await;
    database.put(b"usage:k", &serde_json::json!({"requests": "1"})).await;
    let period = "SELECT period_start FROM usage_counters WHERE granularity = 'daily'";
    assert_eq!(database.text(period).await.unwrap(), "2026-11-22 16:00:00+00");
    assert_eq!(
        database.text("SELECT parallax_set_offset('-03:30')").await.unwrap(),
        "true"
    );
    assert_eq!(database.text(period).await.unwrap(), "2026-11-23 03:30:00+00");
    assert_eq!(
        database.text("SELECT parallax_set_offset('-03:30')").await.unwrap(),
        "false"
    );
    assert_eq!(
        database.text("SELECT max(version) FROM usage_counters").await.unwrap(),
        "1"
    );
    database
        .put(b"usage:daily:l:2026-11-23", &serde_json::json!({"requests": "1"}))
        .await;
    assert_eq!(
        database
            .text("SELECT count(DISTINCT period_start) FROM usage_counters")
            .await
            .unwrap(),
        "1"
    );
    let refused = database
        .client
        .batch_execute("SELECT parallax_set_offset('Asia/Shanghai')")
        .await
        .unwrap_err();
    assert!(
        format!("{refused:?}").contains("an offset is written like +08:00"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn entries_of_logs_have_columns_whatever_form_they_have() {
    let database = Database::migrated().await;
    database.client.batch_execute("SET timezone = 'UTC'").await.unwrap();
    let record = r#"{"timestamp":"2026-11-23T06:09:53.254Z","model":"m","accountId":"a","requestId":"r","inputTokens":120,"cost":0.00032199999999999997,"realCost":0.0004}"#;
    database
        .put_element(b"usage:records:k", b"1", &serde_json::json!(record))
        .await;
    let event = r#"{"eventId":"e","timestamp":"2026-11-23T06:09:53.254Z","apiKey":{"id":"k2"},"usage":{"model":"m","inputTokens":120},"cost":{"total":0.5},"account":{"id":"a"}}"#;
    database
        .put_element(b"billing:events", b"1-0", &serde_json::json!(["data", event]))
        .await;
    database
        .put_element(
            b"billing:events",
            b"2-0",
            &serde_json::json!(["note", "data", "data", event]),
        )
        .await;
    database
        .put_element(b"billing:events", b"3-0", &serde_json::json!(["data", "{broken"]))
        .await;
    database
        .put_element(b"billing:events", b"4-0", &serde_json::json!(["odd"]))
        .await;
    let sql =
        "SELECT concat_ws('|', element, at, request_id, api_key_id, account_id, model, input_tokens, cost, real_cost)
        FROM event_logs ORDER BY kind DESC, element";
    let rows: Vec<String> = database.texts(sql).await.into_iter().flatten().collect();
    assert_eq!(
        rows,
        [
            "1|2026-11-23 06:09:53.254+00|r|k|a|m|120|0.00032199999999999997|0.0004",
            "1-0|2026-11-23 06:09:53.254+00|e|k2|a|m|120|0.5",
            "2-0|2026-11-23 06:09:53.254+00|e|k2|a|m|120|0.5",
            "3-0",
            "4-0",
        ]
    );
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
    for kind in catalog
        .kinds()
        .iter()
        .filter(|kind| !kind.pattern.is_literal() && kind.is_mirrored())
    {
        let example = kind.pattern.examples().swap_remove(0);
        let example = String::from_utf8(example).unwrap();
        let key = example
            .replacen("~one~", std::str::from_utf8(&long_id).unwrap(), 1)
            .into_bytes();
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
    assert_eq!(
        database
            .text("SELECT max(octet_length(key)) > 65536 FROM api_keys")
            .await
            .as_deref(),
        Some("true")
    );
    assert_eq!(
        database
            .text("SELECT max(octet_length(element)) >= 1048576 FROM elements")
            .await
            .as_deref(),
        Some("true")
    );
}

#[tokio::test]
async fn a_nul_and_bytes_that_are_no_text_are_rows_like_others() {
    let database = Database::migrated().await;
    database
        .put(b"apikey:\xff\0", &serde_json::json!({"name": "\\x00ff"}))
        .await;
    database
        .put_element(b"apikey:idx:name", b"name\0id", &serde_json::json!("0"))
        .await;
    database
        .put(b"usage:daily:\xff:2026-11-23", &serde_json::json!({"requests": "1"}))
        .await;
    assert_eq!(database.text("SELECT id FROM api_keys").await.unwrap(), "\\xff00");
    assert_eq!(
        database
            .text("SELECT element || ' ' || score FROM elements")
            .await
            .unwrap(),
        "\\x6e616d65006964 0"
    );
    let sql = "SELECT coalesce(api_key_id, 'none') || ' ' || requests FROM usage_counters";
    assert_eq!(database.text(sql).await.unwrap(), "none 1");
}
