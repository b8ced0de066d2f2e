//! The two floors of a backfill: its captures without its rows, and its rows without its captures.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use parallax::model::catalog::Catalog;
use parallax::model::command::Command;
use parallax::model::key::Key;
use parallax::stores::postgres::Postgres;
use parallax::stores::postgres::apply::{self, Basis, STATEMENT_ROWS_MAX};
use parallax::stores::postgres::rows::{Fate, Item, RecordRow};
use parallax::stores::redis::Redis;
use parallax::stores::redis::capture::{self, CAPTURE_RECORDS_MAX, Purpose, Shape};
use parallax::stores::redis::marks;
use tokio::time::Instant;

use super::data::{USAGE, usage_fields, usage_key};

/// Keys that one page of a scan asks for, and calls under way at once: as a job that is not paced has it.
const PAGE_KEYS: &str = "1000";
const AT_ONCE: usize = 4;

/// Keys a second of SCAN and captures alone.
pub(super) async fn capture(client: redis::Client) -> anyhow::Result<f64> {
    let redis = Redis::new(client, Duration::from_secs(10));
    let (mut cursor, mut count, began) = ("0".to_owned(), 0_usize, Instant::now());
    loop {
        let scan = Command::new(["SCAN", &cursor, "COUNT", PAGE_KEYS].map(str::to_owned));
        let (next, keys) = marks::scanned(redis.command(scan).await?)?;
        let wanted: Vec<_> =
            keys.into_iter().filter(|key| !key.is_control()).map(|key| (key, Shape::Document, Bytes::new())).collect();
        count += wanted.len();
        let calls = wanted.chunks(CAPTURE_RECORDS_MAX).map(|chunk| capture::capture(&redis, chunk, Purpose::Backfill));
        let captured: Vec<_> = futures_util::stream::iter(calls).buffered(AT_ONCE).try_collect().await?;
        anyhow::ensure!(captured.iter().map(|(_, records)| records.len()).sum::<usize>() == wanted.len(), "too few");
        cursor = next;
        if cursor == "0" {
            return Ok(super::rate(count, began.elapsed()));
        }
    }
}

/// Rows a second of the guarded UNNEST into an empty table, over as many connections.
pub(super) async fn rows(postgres: &Postgres, epoch: i64, version: i64) -> anyhow::Result<f64> {
    let catalog = Catalog::embedded();
    let items: Vec<Item> = (0..USAGE)
        .map(|number| {
            let key = Key::new(usage_key(number));
            let kind = catalog.kind_of(key.as_bytes());
            let mut row = RecordRow::new(kind, &key, version, 1_700_000_000_000_000, Fate::Present);
            row.expires_at_ms = Some(4_000_000_000_000);
            row.type_name = "hash".to_owned();
            let fields: serde_json::Map<String, serde_json::Value> =
                usage_fields(number).into_iter().map(|(name, value)| (name, value.into())).collect();
            row.doc = Some(serde_json::Value::Object(fields).to_string());
            Item::Record(kind.table, row)
        })
        .collect();
    let began = Instant::now();
    let applies = items.chunks(STATEMENT_ROWS_MAX).map(|batch| apply::apply(postgres, Basis { epoch, beat: 0 }, batch));
    let done: Vec<_> = futures_util::stream::iter(applies).buffered(AT_ONCE).try_collect().await.context("an apply")?;
    anyhow::ensure!(!done.is_empty(), "nothing was applied");
    Ok(super::rate(items.len(), began.elapsed()))
}
