//! The verification: both stores compared as a whole, in both directions, while everybody writes.
//!
//! By default two passes of digests, one over each store, and a comparison record by record only where a bucket differs; a
//! record that was written between the two passes makes its bucket differ and is then judged like any other. Whatever is
//! judged is judged by the verdict table, so lag is never taken for a difference. The job around it stands in `jobs`.
//!
//! The passes hand over to each other here; what sums stands in `sums`, what is put down in `conclude`.

mod conclude;
mod sums;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use crate::dual::Engine;
use crate::dual::digest::{self, Buckets};
use crate::dual::task::{Advance, Effort, TaskError, is_among, names_in, tables_of};
use crate::model::catalog::{Kind, Layout, Table};
use crate::model::key::Key;
use crate::stores::postgres::pages::{self, LiveRow, Range};
use crate::stores::redis::capture::{self, Purpose};
use crate::stores::redis::fence;

/// Rows in one page from Postgres' side.
const PAGE_ROWS: i64 = 500;
/// Records whose presence is asked for in one step.
const STANDINGS_AT_ONCE: usize = 500;
/// Buckets that are looked through in one step; each holds one in [`digest::BUCKETS`] of all records.
const BUCKETS_AT_ONCE: usize = 64;
/// Differences that a report lists; all are counted.
pub const LISTED_MAX: usize = 10_000;

/// How a verification goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Digests first, and records where buckets differ.
    Digests,
    /// Every record.
    Exhaustive,
}

/// Whether a report shows the values that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Ids and names of fields alone.
    Hidden,
    /// The values of both stores as well, of the first [`VALUES_MAX`] differences.
    Shown,
}

/// Differences whose values a report shows at most.
const VALUES_MAX: usize = 200;

/// A difference, as it is listed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Difference {
    /// The kind.
    pub kind: String,
    /// Its id within the kind.
    pub id: String,
    /// The hash of its key, by which both stores' rows are found.
    pub key_hash: String,
    /// `value`, `type`, `ttl`, `missing_in_postgres` or `missing_in_redis`.
    pub class: String,
    /// Names of the fields that differ.
    pub fields: Vec<String>,
    /// What Redis holds, where values were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<Json>,
    /// What Postgres holds, where values were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Json>,
}

/// The kinds that can be compared.
#[derive(Debug)]
pub struct Verifiable {
    /// They.
    pub kinds: Vec<Arc<Kind>>,
    /// Kinds that were asked for and cannot be compared, and why.
    pub left_out: BTreeMap<String, String>,
}

/// A verification under way.
pub struct Verify {
    kinds: Vec<Arc<Kind>>,
    names: Vec<String>,
    tables: Vec<Table>,
    /// Kinds that were asked for and cannot be compared, and why.
    left_out: BTreeMap<String, String>,
    mode: Mode,
    values: Values,
    run_id: String,
    epoch: i64,
    version: i64,
    began: Instant,
    at: At,
    redis: Buckets,
    postgres: Buckets,
    differing: Vec<bool>,
    found: Found,
    /// Records that had a mark whenever they were looked at: they are looked at once more in the end.
    later: Vec<(Arc<Kind>, Key)>,
}

/// What was found so far.
#[derive(Default)]
struct Found {
    in_redis: u64,
    in_postgres: u64,
    compared: u64,
    bytes: u64,
    unsettled: u64,
    classes: BTreeMap<String, u64>,
    kinds: BTreeMap<String, u64>,
    modules: BTreeMap<String, u64>,
    listed: Vec<Difference>,
    /// What is listed, since a scan may come upon a key twice.
    known: BTreeSet<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum At {
    /// The digests of Redis, or all of its records.
    Redis(String),
    /// The digests of Postgres, or what it alone has.
    Postgres(usize, Vec<u8>),
    /// Records of Redis in buckets that differ.
    RedisAgain(String),
    /// Rows of Postgres in buckets that differ: from this bucket on, of this table.
    PostgresAgain(usize, usize),
    /// What was under way all the time.
    Later,
    End,
}

impl Verify {
    /// The kinds that it is about.
    #[must_use]
    pub fn kinds(&self) -> &[Arc<Kind>] {
        &self.kinds
    }

    fn has(&self, kind: &Kind) -> bool {
        is_among(&self.kinds, kind)
    }

    /// Whether records of a kind are judged at once. Logs always: Postgres holds more of them than Redis.
    fn is_direct(&self, kind: &Kind) -> bool {
        self.mode == Mode::Exhaustive || kind.layout == Layout::Log
    }

    /// Whether anything differs.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.found.classes.is_empty()
    }

    /// Whether the stores are still those that it began with.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn holds(&self, engine: &Engine) -> Result<bool, TaskError> {
        Ok(engine.lineage_now().await? == (self.run_id.clone(), self.epoch))
    }

    /// What it found, in the words of the original plan and in ours.
    #[must_use]
    pub fn report(&self) -> Json {
        let found = &self.found;
        let ids = |class: &str| {
            let of_class = found.listed.iter().filter(|difference| difference.class == class);
            of_class.collect::<Vec<_>>()
        };
        let inconsistent = found.listed.iter().filter(|difference| !difference.class.starts_with("missing"));
        json!({
            "totalRedis": found.in_redis,
            "totalPostgres": found.in_postgres,
            "missingInPostgres": ids("missing_in_postgres"),
            "missingInRedis": ids("missing_in_redis"),
            "dataInconsistencies": inconsistent.collect::<Vec<_>>(),
            "differences": found.classes,
            "differing_kinds": found.kinds,
            "differing_buckets": self.differing.iter().filter(|differs| **differs).count(),
            "compared": found.compared,
            "unsettled": found.unsettled,
            "modules": found.modules,
            "left_out": self.left_out,
            "bytes": found.bytes,
            "duration_ms": u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }
}

impl Engine {
    /// Begins a verification of these kinds; `*` is all that can be compared.
    ///
    /// # Errors
    /// When there is nothing to compare, or a store fails.
    pub async fn verify_begin(&self, names: &[String], mode: Mode, values: Values) -> Result<Verify, TaskError> {
        let Verifiable { kinds, left_out } = self.verifiable_kinds(names)?;
        self.verify_kinds(kinds, left_out, mode, values).await
    }

    /// Begins a verification of kinds that are known to be whole.
    ///
    /// # Errors
    /// When a store fails.
    pub(super) async fn verify_kinds(
        &self,
        kinds: Vec<Arc<Kind>>,
        left_out: BTreeMap<String, String>,
        mode: Mode,
        values: Values,
    ) -> Result<Verify, TaskError> {
        let (run_id, epoch) = self.lineage_now().await?;
        // A version of its own: the proof must stand behind every gap from before, and before every gap to come.
        let (stamp, _) = capture::capture(&self.jobs, &[], Purpose::Backfill).await?;
        Ok(Verify {
            names: kinds.iter().map(|kind| kind.name.clone()).collect(),
            tables: tables_of(&kinds),
            kinds,
            left_out,
            mode,
            values,
            run_id,
            epoch,
            version: stamp.version,
            began: Instant::now(),
            at: At::Redis("0".to_owned()),
            redis: Buckets::default(),
            postgres: Buckets::default(),
            differing: Vec::new(),
            found: Found::default(),
            later: Vec::new(),
        })
    }

    /// The kinds that a wish for a verification means, and those that are left out with the reason.
    ///
    /// # Errors
    /// Which kinds there are not, or cannot be compared.
    pub fn verifiable_kinds(&self, names: &[String]) -> Result<Verifiable, TaskError> {
        let view = self.keeper.view();
        let is_all = names.iter().any(|name| name == crate::dual::view::DEFAULT);
        let (mut kinds, mut left_out) = (Vec::new(), BTreeMap::new());
        for kind in self.marked_kinds(names)? {
            let reason = if !view.is_backfilled(&kind) {
                Some("its backfill is not complete, so what postgres does not have is not missing yet".to_owned())
            } else {
                view.unverifiable.get(&kind.name).map(|reason| format!("no mark can follow its writes: {reason}"))
            };
            match reason {
                None => kinds.push(kind),
                Some(reason) => drop(left_out.insert(kind.name.clone(), reason)),
            }
        }
        if kinds.is_empty() || (!is_all && !left_out.is_empty()) {
            let reasons: Vec<String> = left_out.iter().map(|(kind, reason)| format!("{kind}: {reason}")).collect();
            return Err(TaskError::Unmet(reasons.join("; ")));
        }
        Ok(Verifiable { kinds, left_out })
    }

    /// Takes a verification one step further.
    ///
    /// # Errors
    /// When a store fails, and then the step may be repeated; or for good.
    pub async fn verify_step(&self, verify: &mut Verify, effort: Effort) -> Result<Advance, TaskError> {
        let (seen, before) = ((verify.found.compared, verify.found.bytes), verify.at.clone());
        let (advanced, next) = match before {
            At::Redis(cursor) => self.verify_keys(verify, &cursor, effort, Pass::First).await?,
            At::RedisAgain(cursor) => self.verify_keys(verify, &cursor, effort, Pass::Second).await?,
            At::Postgres(table, after) => self.verify_rows(verify, table, &after).await?,
            At::PostgresAgain(bucket, table) => self.verify_buckets(verify, bucket, table).await?,
            At::Later => self.verify_later(verify).await?,
            At::End => (0, At::End),
        };
        let is_end = matches!(next, At::End);
        if is_end {
            self.prove(verify).await?;
        }
        verify.at = next;
        let (done, bytes) = (verify.found.compared - seen.0, verify.found.bytes - seen.1);
        Ok(Advance { seen: advanced, done, bytes, is_end, ..Advance::default() })
    }

    async fn verify_keys(
        &self,
        verify: &mut Verify,
        cursor: &str,
        effort: Effort,
        pass: Pass,
    ) -> Result<(u64, At), TaskError> {
        let (next, keys) = self.scan(cursor, effort.keys).await?;
        let seen = u64::try_from(keys.len()).unwrap_or(u64::MAX);
        let (mut direct, mut digested) = (Vec::new(), Vec::new());
        for key in keys.into_iter().filter(|key| !key.is_control()) {
            let kind = self.catalog.kind_of(key.as_bytes());
            if !verify.has(kind) {
                continue;
            }
            match pass {
                Pass::First if verify.is_direct(kind) => direct.push((Arc::clone(kind), key)),
                Pass::First => digested.push((Arc::clone(kind), key)),
                Pass::Second => {
                    let differs = verify.differing.get(digest::bucket_of(&key.hash())).copied().unwrap_or(false);
                    if differs && !verify.is_direct(kind) {
                        direct.push((Arc::clone(kind), key));
                    }
                }
            }
        }
        if pass == Pass::First {
            verify.found.in_redis += u64::try_from(direct.len()).unwrap_or(u64::MAX);
        }
        self.digest_redis(verify, digested).await?;
        self.judge(verify, direct).await?;
        let next = match (next.as_str(), pass) {
            ("0", Pass::First) => At::Postgres(0, Vec::new()),
            ("0", Pass::Second) => At::PostgresAgain(0, 0),
            (_, Pass::First) => At::Redis(next),
            (_, Pass::Second) => At::RedisAgain(next),
        };
        Ok((seen, next))
    }

    /// One page of rows: digests, and for kinds that are judged at once what Redis does not have.
    async fn verify_rows(&self, verify: &mut Verify, at: usize, after: &[u8]) -> Result<(u64, At), TaskError> {
        let rows = self.live_rows(verify, at, after).await?;
        let seen = u64::try_from(rows.len()).unwrap_or(u64::MAX);
        verify.found.in_postgres += seen;
        let last = rows.last().map(|row| row.key().hash());
        let (direct, digested): (Vec<LiveRow>, Vec<LiveRow>) =
            rows.into_iter().partition(|row| self.catalog.by_name(&row.kind).is_none_or(|kind| verify.is_direct(kind)));
        self.digest_postgres(verify, at, digested).await?;
        let absent = self.absent(direct.iter().map(LiveRow::key).collect()).await?;
        self.judge(verify, absent).await?;
        Ok((
            seen,
            match last {
                Some(last) => At::Postgres(at, last),
                None if at + 1 < verify.tables.len() => At::Postgres(at + 1, Vec::new()),
                None => {
                    verify.differing = verify.redis.differing(&verify.postgres);
                    if verify.differing.contains(&true) { At::RedisAgain("0".to_owned()) } else { At::Later }
                }
            },
        ))
    }

    /// Rows of a table in some of the buckets that differ: what Redis does not have is judged.
    async fn verify_buckets(&self, verify: &mut Verify, from: usize, at: usize) -> Result<(u64, At), TaskError> {
        let differing = verify.differing.iter().enumerate().skip(from).filter(|(_, differs)| **differs);
        let buckets: Vec<usize> = differing.map(|(bucket, _)| bucket).take(BUCKETS_AT_ONCE).collect();
        let (Some(last), Some(postgres)) = (buckets.last().copied(), &self.postgres) else { return Ok((0, At::Later)) };
        let Some(table) = verify.tables.get(at).copied() else { return Ok((0, At::PostgresAgain(last + 1, 0))) };
        let digested = |kind: &&Arc<Kind>| kind.table == table && !verify.is_direct(kind);
        let kinds: Vec<String> = verify.kinds.iter().filter(digested).map(|kind| kind.name.clone()).collect();
        let ranges: Vec<_> = buckets.into_iter().map(digest::range_of).collect();
        let (fence, _) = fence::fence(&self.jobs, &[]).await?;
        let keys = pages::keys_in(postgres, table, &kinds, &ranges, fence.time_us / 1000).await?;
        let seen = u64::try_from(keys.len()).unwrap_or(u64::MAX);
        let absent = self.absent(keys).await?;
        self.judge(verify, absent).await?;
        Ok((seen, At::PostgresAgain(from, at + 1)))
    }

    async fn live_rows(&self, verify: &Verify, at: usize, after: &[u8]) -> Result<Vec<LiveRow>, TaskError> {
        let (Some(postgres), Some(table)) = (&self.postgres, verify.tables.get(at)) else { return Ok(Vec::new()) };
        let (fence, _) = fence::fence(&self.jobs, &[]).await?;
        let kinds = names_in(&verify.kinds, *table);
        let time_ms = fence.time_us / 1000;
        let range = Range { table: *table, kinds: &kinds, after, time_ms, limit: PAGE_ROWS };
        Ok(pages::live(postgres, &range).await?)
    }

    /// Those of `keys` that Redis does not have.
    async fn absent(&self, keys: Vec<Key>) -> Result<Vec<(Arc<Kind>, Key)>, TaskError> {
        let mut absent = Vec::new();
        for keys in keys.chunks(STANDINGS_AT_ONCE) {
            let (_, standings) = fence::fence(&self.jobs, keys).await?;
            let missing = keys.iter().zip(standings).filter(|(_, standing)| !standing.is_present);
            absent.extend(missing.map(|(key, _)| (Arc::clone(self.catalog.kind_of(key.as_bytes())), key.clone())));
        }
        Ok(absent)
    }
}

/// Which time a key is come upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    First,
    Second,
}
