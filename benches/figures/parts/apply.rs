//! The apply against bare upserts: what guards and epochs cost where rows come in batches, and what typed columns cost beside.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use parallax::model::catalog::{Catalog, Table};
use parallax::model::key::Key;
use parallax::stores::postgres::Postgres;
use parallax::stores::postgres::apply::{self, Basis, STATEMENT_ROWS_MAX};
use parallax::stores::postgres::pool::Options;
use parallax::stores::postgres::rows::{Fate, Item, RecordRow};
use parallax::traffic::stack::Stack;
use tokio::time::Instant;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement};

use crate::SIDECAR;
use crate::measure::{interleaved, series};
use crate::report::{Goal, Report, short};

pub(super) const ABOUT: &str = "Rows a second of the guarded apply against a bare UNNEST upsert of the same rows: 5,000 rows, 500 a transaction, one connection.";

const ROWS: usize = 5_000;
const LASTING: Duration = Duration::from_secs(2);

/// The fields of a usage counter.
pub(super) const TOKENS: [&str; 9] = [
    "tokens",
    "inputTokens",
    "outputTokens",
    "cacheCreateTokens",
    "cacheReadTokens",
    "allTokens",
    "requests",
    "ephemeral5mTokens",
    "ephemeral1hTokens",
];

pub(super) async fn run(report: &mut Report) -> anyhow::Result<()> {
    let stack = Stack::start(Path::new(SIDECAR), &[]).await?;
    let (client, connection) = tokio_postgres::connect(&stack.postgres.url(), NoTls).await?;
    tokio::spawn(connection);
    let config: tokio_postgres::Config = stack.postgres.url().parse()?;
    let options = Options { config, tls: None, pool_size: 1, wait: Duration::from_secs(5) };
    let postgres = Postgres::new(options);
    let epoch: i64 = client.query_one("SELECT max(epoch) FROM control", &[]).await?.get(0);
    let mut version = 1_000_000_i64;
    for (what, table, rows) in [
        ("session bindings (table records)", Table::Records, rows(|row| format!("original_session_binding:{row}"))?),
        (
            "daily usage counters (table usage_counters)",
            Table::UsageCounters,
            rows(|row| format!("usage:daily:key-{row}:2026-01-02"))?,
        ),
    ] {
        let same = Bare::same_table(&client, table.name()).await?;
        let least = Bare::least_table(&client).await?;
        let mut items = rows;
        let measured = interleaved(&[None, Some(&same), Some(&least)], async |bare: &Option<&Bare<'_>>| {
            let (mut count, began) = (0_usize, Instant::now());
            while began.elapsed() < LASTING {
                version += 1;
                for batch in items.chunks_mut(STATEMENT_ROWS_MAX) {
                    batch.iter_mut().for_each(|item| raise(item, version));
                    match bare {
                        None => drop(apply::apply(&postgres, Basis { epoch, beat: 0 }, batch).await?),
                        Some(bare) => bare.upsert(batch).await?,
                    }
                    count += batch.len();
                }
            }
            Ok(rate(count, began.elapsed()))
        })
        .await?;
        let [guarded, same, least] = &measured[..] else { continue };
        let of = |rates: &Vec<f64>| series(rates, |rate| *rate);
        let (guarded, same, least) = (of(guarded), of(same), of(least));
        report.figure(
            &format!("{what}: rows/s, times bare into such a table"),
            Goal::AtLeast(0.7),
            &guarded.over(&same),
        );
        report.figure(
            &format!("{what}: rows/s, times bare into a table with one index"),
            Goal::AtLeast(0.7),
            &guarded.over(&least),
        );
        for (name, rates) in [("apply", &guarded), ("bare, such a table", &same), ("bare, one index", &least)] {
            report.note(&format!("{name}: {} rows/s, {} us a row", short(rates.median()), short(1e6 / rates.median())));
        }
    }
    stack.stop().await.map(drop)
}

#[expect(clippy::cast_precision_loss, reason = "some thousands of rows")]
fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// As many records of one kind as the relay might have, each with the document that it keeps.
fn rows(key: impl Fn(usize) -> String) -> anyhow::Result<Vec<Item>> {
    let catalog = Catalog::embedded();
    let row = |number: usize| {
        let key = Key::new(key(number));
        let kind = catalog.kind_of(key.as_bytes());
        let mut row = RecordRow::new(kind, &key, 0, 1_700_000_000_000_000, Fate::Present);
        row.expires_at_ms = Some(4_000_000_000_000);
        if kind.table == Table::UsageCounters {
            let fields: serde_json::Map<String, serde_json::Value> =
                TOKENS.iter().map(|field| ((*field).to_owned(), (number * 7).to_string().into())).collect();
            row.type_name = "hash".to_owned();
            row.doc = Some(serde_json::Value::Object(fields).to_string());
        } else {
            let text =
                format!(r#"{{"accountId":"{number}","accountType":"claude","boundAt":"2026-01-02T03:04:05.678Z"}}"#);
            row.type_name = "string".to_owned();
            row.doc = Some(serde_json::Value::String(text).to_string());
        }
        Ok(Item::Record(kind.table, row))
    };
    (0..ROWS).map(row).collect::<anyhow::Result<Vec<Item>>>().context("making rows")
}

fn raise(item: &mut Item, version: i64) {
    match item {
        Item::Record(_, row) | Item::Elements(row, _) | Item::Absent(_, row) => row.version = version,
        Item::Log { header, .. } => header.version = version,
    }
}

/// A bare upsert: one statement, and nothing that guards it.
struct Bare<'a> {
    client: &'a Client,
    statement: Statement,
}

impl<'a> Bare<'a> {
    /// Into a table like the one that the apply writes, typed columns and indexes included.
    async fn same_table(client: &'a Client, table: &str) -> anyhow::Result<Self> {
        Self::of(client, &format!("CREATE TABLE bare_{table} (LIKE {table} INCLUDING ALL)"), &format!("bare_{table}"))
            .await
    }

    /// Into the least that holds the rows: one index, no typed columns.
    async fn least_table(client: &'a Client) -> anyhow::Result<Self> {
        let table = "CREATE TABLE bare (key_hash bytea PRIMARY KEY, key text, kind text, id text, type text,
            doc jsonb, version bigint, expires_at timestamptz, updated_at timestamptz)";
        Self::of(client, table, "bare").await
    }

    async fn of(client: &'a Client, create: &str, table: &str) -> anyhow::Result<Self> {
        client.batch_execute(&format!("DROP TABLE IF EXISTS {table}; {create}")).await?;
        let statement = client
            .prepare(&format!(
                "INSERT INTO {table} (key_hash, key, kind, id, type, doc, version, expires_at, updated_at)
                 SELECT key_hash, key, kind, id, type, doc::jsonb, version, to_timestamp(expires / 1000.0), now()
                 FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
                    $8::bigint[]) AS g(key_hash, key, kind, id, type, doc, version, expires)
                 ON CONFLICT (key_hash) DO UPDATE SET type = excluded.type, doc = excluded.doc, version = excluded.version,
                    expires_at = excluded.expires_at, updated_at = excluded.updated_at"
            ))
            .await?;
        Ok(Self { client, statement })
    }

    async fn upsert(&self, items: &[Item]) -> anyhow::Result<()> {
        let rows: Vec<&RecordRow> = items.iter().map(Item::header).collect();
        let texts = |of: fn(&RecordRow) -> String| rows.iter().map(|row| of(row)).collect::<Vec<_>>();
        let (keys, kinds, ids) =
            (texts(|row| row.key.text()), texts(|row| row.kind.clone()), texts(|row| row.id.clone()));
        let types = texts(|row| row.type_name.clone());
        let hashes: Vec<Vec<u8>> = rows.iter().map(|row| row.key.hash()).collect();
        let docs: Vec<Option<String>> = rows.iter().map(|row| row.doc.clone()).collect();
        let versions: Vec<i64> = rows.iter().map(|row| row.version).collect();
        let expiries: Vec<Option<i64>> = rows.iter().map(|row| row.expires_at_ms).collect();
        let binds: [&(dyn ToSql + Sync); 8] = [&hashes, &keys, &kinds, &ids, &types, &docs, &versions, &expiries];
        self.client.execute(&self.statement, &binds).await?;
        Ok(())
    }
}
