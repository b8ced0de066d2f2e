//! The passes of digests: what makes of records and rows the sums of their buckets.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value as Json;

use crate::dual::digest::{self, Head, Sums};
use crate::dual::task::TaskError;
use crate::dual::verify::Verify;
use crate::dual::{Engine, settle};
use crate::model::catalog::{Kind, Layout, Table};
use crate::model::key::Key;
use crate::model::text;
use crate::model::value::Value;
use crate::stores::postgres::pages::{self, LiveRow};
use crate::stores::redis::fence::{self, Seen};

/// Records in one call of the script.
const LOOK_RECORDS_MAX: usize = 64;

impl Engine {
    /// Adds these records of Redis to its buckets.
    pub(super) async fn digest_redis(
        &self,
        verify: &mut Verify,
        mut wanted: Vec<(Arc<Kind>, Key)>,
    ) -> Result<(), TaskError> {
        while !wanted.is_empty() {
            let asked: Vec<Vec<_>> = wanted
                .chunks(LOOK_RECORDS_MAX)
                .map(|chunk| chunk.iter().map(|(kind, key)| (key.clone(), settle::shape(kind))).collect())
                .collect();
            let seen = futures_util::future::join_all(asked.iter().map(|chunk| fence::looks(&self.jobs, chunk))).await;
            let mut all = Vec::with_capacity(wanted.len());
            for chunk in seen {
                all.extend(chunk?);
            }
            let mut later = Vec::new();
            for ((kind, key), seen) in wanted.into_iter().zip(all) {
                let head = |type_name, expires_at_ms| Head { key: &key, type_name, expires_at_ms };
                let digest = match &seen {
                    Seen::Later => {
                        later.push((kind, key));
                        continue;
                    }
                    Seen::Module(type_name) => {
                        *verify.found.modules.entry(type_name.clone()).or_default() += 1;
                        continue;
                    }
                    Seen::Parts(header) => {
                        let sums = self.sum_redis(verify, &kind, &key, &header.type_name).await?;
                        digest::collection(head(&header.type_name, header.expires_at_ms), sums)
                    }
                    Seen::Whole(look) => {
                        let Some(value) = &look.value else { continue };
                        verify.found.bytes += bytes_of(value);
                        let head = head(&look.type_name, look.expires_at_ms);
                        match kind.layout {
                            Layout::Document => digest::document(&kind, head, value),
                            Layout::Collection | Layout::Log => digest::collection(head, sums_of(value)),
                        }
                    }
                };
                verify.found.in_redis += 1;
                verify.redis.add(&key.hash(), digest);
            }
            wanted = later;
        }
        Ok(())
    }

    async fn sum_redis(&self, verify: &mut Verify, kind: &Kind, key: &Key, type_name: &str) -> Result<Sums, TaskError> {
        let (mut sums, mut cursor) = (Sums::default(), "0".to_owned());
        if kind.layout != Layout::Collection {
            return Ok(sums);
        }
        loop {
            let (next, elements) = fence::elements_page(&self.jobs, key, type_name, &cursor).await?;
            for (name, value) in &elements {
                verify.found.bytes += u64::try_from(name.len() + value.len()).unwrap_or(0);
                sums.add(digest::element(type_name, name, value));
            }
            cursor = next;
            if cursor == "0" {
                return Ok(sums);
            }
        }
    }

    /// Adds these rows to the buckets of Postgres.
    pub(super) async fn digest_postgres(
        &self,
        verify: &mut Verify,
        at: usize,
        rows: Vec<LiveRow>,
    ) -> Result<(), TaskError> {
        let Some(table) = verify.tables.get(at).copied() else { return Ok(()) };
        let mut sums = self.sum_postgres(table, &rows).await?;
        for row in rows {
            let (key, Some(kind)) = (row.key(), self.catalog.by_name(&row.kind)) else { continue };
            let head = Head { key: &key, type_name: &row.type_name, expires_at_ms: row.expires_ms };
            let hash = key.hash();
            let digest = match kind.layout {
                Layout::Document => {
                    let doc = row.doc.as_ref().and_then(|doc| serde_json::from_str(doc).ok());
                    // A document that has not the form of its type makes its bucket differ.
                    let Some(value) = doc.and_then(|doc| Value::from_doc(&row.type_name, &doc)) else { continue };
                    digest::document(kind, head, &value)
                }
                Layout::Collection | Layout::Log if !row.complete => continue,
                Layout::Collection | Layout::Log => digest::collection(head, sums.remove(&hash).unwrap_or_default()),
            };
            verify.postgres.add(&hash, digest);
        }
        Ok(())
    }

    /// The sums of the elements of these headers.
    async fn sum_postgres(&self, table: Table, rows: &[LiveRow]) -> Result<BTreeMap<Vec<u8>, Sums>, TaskError> {
        let mut sums: BTreeMap<Vec<u8>, Sums> = BTreeMap::new();
        let (Some(postgres), Layout::Collection) = (&self.postgres, table.layout()) else { return Ok(sums) };
        let types: BTreeMap<Vec<u8>, &str> =
            rows.iter().map(|row| (row.key().hash(), row.type_name.as_str())).collect();
        let hashes: Vec<Vec<u8>> = types.keys().cloned().collect();
        let mut after = (Vec::new(), Vec::new());
        while !hashes.is_empty() {
            let page = pages::elements(postgres, table, &hashes, (&after.0, &after.1)).await?;
            let Some(last) = page.last() else { break };
            after = (last.key_hash.clone(), last.element_hash.clone());
            for element in page {
                let type_name = types.get(&element.key_hash).copied().unwrap_or_default();
                let name = Bytes::from(text::decode(&element.element));
                let doc: Option<Json> = element.doc.as_ref().and_then(|doc| serde_json::from_str(doc).ok());
                let value = doc.as_ref().and_then(Json::as_str).map(|value| Bytes::from(text::decode(value)));
                let digest = digest::element(type_name, &name, &value.unwrap_or_default());
                sums.entry(element.key_hash).or_default().add(digest);
            }
        }
        Ok(sums)
    }
}

fn sums_of(value: &Value) -> Sums {
    let mut sums = Sums::default();
    match value {
        Value::Hash(fields) => fields.iter().for_each(|(name, value)| sums.add(digest::element("hash", name, value))),
        Value::Set(members) => members.iter().for_each(|name| sums.add(digest::element("set", name, &Bytes::new()))),
        Value::Zset(members) => {
            members.iter().for_each(|(name, score)| sums.add(digest::element("zset", name, score.text())));
        }
        // Not the type of a collection: the digest of none, so that the bucket differs and the record is judged.
        Value::String(_) | Value::List(_) | Value::Stream(_) => {}
    }
    sums
}

fn bytes_of(value: &Value) -> u64 {
    let bytes = match value {
        Value::String(text) => text.len(),
        Value::Hash(fields) => fields.iter().map(|(name, value)| name.len() + value.len()).sum(),
        Value::List(items) => items.iter().map(Bytes::len).sum(),
        Value::Set(members) => members.iter().map(Bytes::len).sum(),
        Value::Zset(members) => members.iter().map(|(name, score)| name.len() + score.text().len()).sum(),
        Value::Stream(entries) => {
            entries.iter().map(|(id, parts)| id.len() + parts.iter().map(Bytes::len).sum::<usize>()).sum()
        }
    };
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
