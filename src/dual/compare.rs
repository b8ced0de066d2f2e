//! Many records judged at once: looks at Redis first, rows of Postgres second, and the verdict table over both (rule R2).
//!
//! What says nothing yet is looked at again a few times. Logs and large collections are judged part by part, so that neither
//! store nor this process ever holds one of them as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;

use crate::dual::task::TaskError;
use crate::dual::verdict::{self, Verdict};
use crate::dual::{Engine, read, settle};
use crate::model::catalog::{Kind, Layout};
use crate::model::key::Key;
use crate::model::text;
use crate::model::value::{string_doc, strings_doc};
use crate::stores::postgres::rows::padded_id;
use crate::stores::postgres::{Postgres, pages, read as rows};
use crate::stores::redis::fence::{self, Header, Look, Seen};

/// Records in one call of the script.
const LOOK_RECORDS_MAX: usize = 64;
/// Calls and reads under way at once.
const AT_ONCE: usize = 4;
/// How long between two looks, at first; it doubles.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// An id behind that of every entry.
const LAST_ID: &str = "~";

/// A record and what came of its comparison.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Its kind.
    pub kind: Arc<Kind>,
    /// The record.
    pub key: Key,
    /// The verdict.
    pub verdict: Verdict,
    /// Redis' clock at the look, and the version of the row.
    pub versions: (i64, i64),
}

/// What came of a comparison of many.
#[derive(Default)]
pub struct Comparison {
    /// Each record once.
    pub judged: Vec<Judged>,
    /// Records of modules' types by type: they cannot be compared.
    pub modules: BTreeMap<String, u64>,
}

type Wanted = (Arc<Kind>, Key);

impl Engine {
    /// Judges these records, each of them once; one about which a look says nothing is looked at up to `looks` times.
    ///
    /// # Errors
    /// When a store fails.
    pub async fn judge_all(&self, wanted: Vec<Wanted>, looks: u32) -> Result<Comparison, TaskError> {
        let Some(postgres) = &self.postgres else { return Ok(Comparison::default()) };
        let mut comparison = Comparison::default();
        let (mut wanted, mut pause) = (wanted, LOOK_PAUSE);
        for look in 1..=looks {
            let mut again = self.judge_once(postgres, wanted, &mut comparison).await?;
            if look == looks {
                comparison.judged.append(&mut again);
            }
            if again.is_empty() {
                break;
            }
            wanted = again.into_iter().map(|judged| (judged.kind, judged.key)).collect();
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(comparison)
    }

    /// Judges all of them once; answers those about which nothing could be said.
    async fn judge_once(
        &self,
        postgres: &Postgres,
        mut wanted: Vec<Wanted>,
        comparison: &mut Comparison,
    ) -> Result<Vec<Judged>, TaskError> {
        let mut again = Vec::new();
        while !wanted.is_empty() {
            let chunks: Vec<Vec<Wanted>> = wanted.chunks(LOOK_RECORDS_MAX).map(<[Wanted]>::to_vec).collect();
            let chunks = futures_util::stream::iter(chunks).map(|chunk| self.judge_chunk(postgres, chunk));
            let done: Vec<_> = chunks.buffered(AT_ONCE).collect().await;
            wanted = Vec::new();
            for chunk in done {
                let chunk = chunk?;
                wanted.extend(chunk.later);
                for kind in chunk.modules {
                    *comparison.modules.entry(kind).or_default() += 1;
                }
                for judged in chunk.judged {
                    match judged.verdict {
                        Verdict::ReadAgain | Verdict::InFlight => again.push(judged),
                        Verdict::Match
                        | Verdict::Value(_)
                        | Verdict::Type
                        | Verdict::Ttl
                        | Verdict::MissingInPostgres
                        | Verdict::MissingInRedis => comparison.judged.push(judged),
                    }
                }
            }
        }
        Ok(again)
    }

    async fn judge_chunk(&self, postgres: &Postgres, wanted: Vec<Wanted>) -> Result<Chunk, TaskError> {
        let asked: Vec<_> = wanted.iter().map(|(kind, key)| (key.clone(), settle::shape(kind))).collect();
        let seen = fence::looks(&self.jobs, &asked).await?;
        let mut chunk = Chunk::default();
        let mut documents: BTreeMap<&'static str, Vec<(Wanted, Box<Look>)>> = BTreeMap::new();
        let mut others = Vec::new();
        for (wanted, seen) in wanted.into_iter().zip(seen) {
            match seen {
                Seen::Later => chunk.later.push(wanted),
                Seen::Module(type_name) => chunk.modules.push(type_name),
                Seen::Parts(header) => others.push((wanted, Other::Parts(header))),
                Seen::Whole(look) if wanted.0.layout == Layout::Document => {
                    documents.entry(wanted.0.table.name()).or_default().push((wanted, look));
                }
                Seen::Whole(look) => others.push((wanted, Other::Whole(look))),
            }
        }
        for looked in documents.into_values() {
            chunk.judged.extend(judge_documents(postgres, looked).await?);
        }
        let others =
            futures_util::stream::iter(others).map(|(wanted, other)| self.judge_other(postgres, wanted, other));
        for judged in others.buffered(AT_ONCE).collect::<Vec<_>>().await {
            chunk.judged.push(judged?);
        }
        Ok(chunk)
    }

    async fn judge_other(&self, postgres: &Postgres, (kind, key): Wanted, other: Other) -> Result<Judged, TaskError> {
        let (verdict, versions) = match other {
            Other::Whole(look) => {
                let (control, row) = read::row(postgres, &kind, &key, None, look.fence.clock).await?;
                let versions = (look.fence.clock, row.as_ref().map_or(0, |row| row.version));
                (verdict::judge(&kind, true, &look, &control, row.as_ref()), versions)
            }
            Other::Parts(_) if kind.layout == Layout::Log => self.judge_log(postgres, &kind, &key).await?,
            Other::Parts(header) => self.judge_parts(postgres, &kind, &key, &header).await?,
        };
        Ok(Judged { kind, key, verdict, versions })
    }

    /// A large collection: its header, then the elements that Redis has, then those that Postgres has.
    async fn judge_parts(
        &self,
        postgres: &Postgres,
        kind: &Kind,
        key: &Key,
        header: &Header,
    ) -> Result<(Verdict, (i64, i64)), TaskError> {
        let (control, row) = read::row(postgres, kind, key, Some(&[]), header.fence.clock).await?;
        let versions = (header.fence.clock, row.as_ref().map_or(0, |row| row.version));
        let verdict = verdict::judge_header(kind, header, &control, row.as_ref());
        if !matches!(verdict, Verdict::Match | Verdict::InFlight) {
            return Ok((verdict, versions));
        }
        let mut differing = Vec::new();
        let mut worst = verdict;
        let mut cursor = "0".to_owned();
        loop {
            let (next, elements) = fence::elements_page(&self.jobs, key, &header.type_name, &cursor).await?;
            let names: Vec<Bytes> = elements.into_iter().map(|(name, _)| name).collect();
            self.judge_elements(postgres, kind, key, &names, &mut differing, &mut worst).await?;
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        let (hashes, mut after) = ([key.hash()], (Vec::new(), Vec::new()));
        loop {
            let page = pages::elements(postgres, kind.table, &hashes, (&after.0, &after.1)).await?;
            let Some(last) = page.last() else { break };
            after = (last.key_hash.clone(), last.element_hash.clone());
            let names: Vec<Bytes> = page.iter().map(|row| Bytes::from(text::decode(&row.element))).collect();
            for names in names.chunks(crate::stores::redis::capture::CHUNK_ELEMENTS) {
                self.judge_elements(postgres, kind, key, names, &mut differing, &mut worst).await?;
            }
        }
        differing.sort_unstable();
        differing.dedup();
        differing.truncate(verdict::FIELDS_MAX);
        Ok((if differing.is_empty() { worst } else { Verdict::Value(differing) }, versions))
    }

    async fn judge_elements(
        &self,
        postgres: &Postgres,
        kind: &Kind,
        key: &Key,
        names: &[Bytes],
        differing: &mut Vec<String>,
        worst: &mut Verdict,
    ) -> Result<(), TaskError> {
        if names.is_empty() || differing.len() > verdict::FIELDS_MAX {
            return Ok(());
        }
        let (look, _) = fence::look_elements(&self.jobs, &kind.name, key, names).await?;
        let (control, row) = read::row(postgres, kind, key, Some(names), look.fence.clock).await?;
        match verdict::judge_elements(true, &look, names, &control, row.as_ref()) {
            Verdict::Value(fields) => differing.extend(fields),
            Verdict::Match => {}
            verdict @ (Verdict::InFlight
            | Verdict::ReadAgain
            | Verdict::Type
            | Verdict::Ttl
            | Verdict::MissingInPostgres
            | Verdict::MissingInRedis) => *worst = verdict,
        }
        Ok(())
    }

    /// A log, page by page, oldest first.
    async fn judge_log(&self, postgres: &Postgres, kind: &Kind, key: &Key) -> Result<(Verdict, (i64, i64)), TaskError> {
        let (shape, mut after) = (settle::shape(kind), Bytes::new());
        loop {
            let page = fence::log_page(&self.jobs, key, shape, &after).await?;
            let entries: BTreeMap<String, String> =
                page.entries.iter().map(|(id, parts)| (padded_id(id), entry_doc(&page.type_name, parts))).collect();
            let oldest = padded_id(&page.oldest);
            // What lies between two pages belongs to the second, unless it was trimmed meanwhile.
            let first = if !after.is_empty() && oldest.as_str() <= padded_id(&after).as_str() {
                format!("{}!", padded_id(&after))
            } else {
                entries.keys().next().cloned().unwrap_or(oldest)
            };
            let last = match entries.keys().next_back() {
                Some(last) if !page.is_last => last.clone(),
                Some(_) | None => LAST_ID.to_owned(),
            };
            let rows = pages::log(postgres, key, &first, &last, i64::MAX).await?;
            let verdict = verdict::judge_log(&page, &rows, &entries);
            if verdict != Verdict::Match || page.is_last {
                return Ok((verdict, (page.fence.clock, rows.version.unwrap_or(0))));
            }
            let Some((id, _)) = page.entries.last() else { return Ok((verdict, (page.fence.clock, 0))) };
            after = id.clone();
        }
    }
}

/// What came of one call.
#[derive(Default)]
struct Chunk {
    judged: Vec<Judged>,
    later: Vec<Wanted>,
    modules: Vec<String>,
}

/// What was seen of a record that is no document.
enum Other {
    Whole(Box<Look>),
    Parts(Header),
}

async fn judge_documents(postgres: &Postgres, looked: Vec<(Wanted, Box<Look>)>) -> Result<Vec<Judged>, TaskError> {
    let Some(table) = looked.first().map(|((kind, _), _)| kind.table) else { return Ok(Vec::new()) };
    let keys: Vec<Key> = looked.iter().map(|((_, key), _)| key.clone()).collect();
    let (control, rows) = rows::documents(postgres, table, &keys).await?;
    let judge = |((kind, key), look): (Wanted, Box<Look>), row: Option<rows::Row>| {
        let versions = (look.fence.clock, row.as_ref().map_or(0, |row| row.version));
        let verdict = verdict::judge(&kind, true, &look, &control, row.as_ref());
        Judged { kind, key, verdict, versions }
    };
    Ok(looked.into_iter().zip(rows).map(|(looked, row)| judge(looked, row)).collect())
}

/// The document of an entry, as the capture writes it.
fn entry_doc(type_name: &str, parts: &[Bytes]) -> String {
    match parts.first() {
        Some(entry) if type_name != "stream" => string_doc(entry),
        Some(_) | None => strings_doc(parts),
    }
}
