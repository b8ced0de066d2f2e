//! Writing flags and plans: one step in Redis, refused when somebody else was there first, or when a leader has lost its lease.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::command::Command;
use crate::stores::redis::connection::{Redis, RedisError};
use crate::stores::redis::parts::{Parts, texts};
use crate::stores::redis::script::Scripts;
use crate::stores::redis::{DECISIONS_PREFIX, JUDGEMENTS, PLANS, script};

/// Decisions of one plan that are read at most; as many are kept.
pub const DECISIONS_MAX: usize = 500;

/// What is written in one step. What is left empty is not touched.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Change {
    expected: String,
    next: String,
    flags: Map,
    unmarked: Vec<String>,
    audits: Vec<String>,
    lease: String,
    plans: BTreeMap<String, PlanWrite>,
    judgements: Map,
    decisions: Map,
    outlasts_ms: String,
}

type Map = BTreeMap<String, String>;

#[derive(Clone, Debug, Serialize)]
struct PlanWrite {
    revision: u64,
    json: String,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was written; the flags are at this version.
    Done(u64),
    /// The flags are at another version than expected.
    Stale(u64),
    /// A plan is at another revision than expected.
    PlanMoved,
    /// The lease of the leader is not that of whoever wrote.
    NotLeading,
    /// A sidecar that may still act has not renewed its lease since Redis failed over.
    Unrenewed,
}

impl Change {
    /// Flags under the version `next`, if the version is still `expected`.
    #[must_use]
    pub fn of_flags(expected: u64, next: u64, flags: BTreeMap<String, String>) -> Self {
        Self { expected: expected.to_string(), next: next.to_string(), flags, ..Self::default() }
    }

    /// With audit rows, as JSON.
    #[must_use]
    pub fn audited(mut self, rows: Vec<String>) -> Self {
        self.audits = rows;
        self
    }

    /// The backfills of these kinds, whose writes leave no mark any more, are forgotten in the same step.
    #[must_use]
    pub fn unmarking(mut self, kinds: &[String]) -> Self {
        self.unmarked = kinds.to_vec();
        self
    }

    /// With a plan, if it is still at `revision`; 0 is a plan that is not there.
    #[must_use]
    pub fn with_plan(mut self, name: &str, revision: u64, json: String) -> Self {
        self.plans.insert(name.to_owned(), PlanWrite { revision, json });
        self
    }

    /// With what was seen of a plan last.
    #[must_use]
    pub fn with_judgement(mut self, name: &str, json: String) -> Self {
        self.judgements.insert(name.to_owned(), json);
        self
    }

    /// With a decision about a plan, before its older ones.
    #[must_use]
    pub fn with_decision(mut self, name: &str, json: String) -> Self {
        self.decisions.insert(name.to_owned(), json);
        self
    }

    /// Only if this is still the lease of the leader.
    #[must_use]
    pub fn under(mut self, lease: &str) -> Self {
        lease.clone_into(&mut self.lease);
        self
    }

    /// Only if every sidecar has renewed its lease in this run of Redis, or can do nothing any more: commands outlast a lease by
    /// `outlasts_ms` milliseconds (L3). What takes reads back does not wait for that.
    #[must_use]
    pub fn of_a_known_fleet(mut self, outlasts_ms: u64) -> Self {
        self.outlasts_ms = outlasts_ms.to_string();
        self
    }

    /// Writes it.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn write(&self, redis: &Redis) -> Result<Written, RedisError> {
        let asked = serde_json::to_string(self).expect("a change is always JSON");
        let mut parts = Parts::of(redis.script(&script::CHANGE, &[], &[asked.as_bytes()]).await?)?;
        let (what, version) = (parts.text()?, u64::try_from(parts.integer()?).unwrap_or(0));
        match what.as_str() {
            "written" => Ok(Written::Done(version)),
            "stale" => Ok(Written::Stale(version)),
            "moved" => Ok(Written::PlanMoved),
            "not_leading" => Ok(Written::NotLeading),
            "unrenewed" => Ok(Written::Unrenewed),
            _ => Err(RedisError::Form("a change with an unknown outcome")),
        }
    }
}

/// Takes or keeps the lease of the leader for `who`. Answers it, with its number, or nothing when another has it.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn lead(redis: &Redis, who: &str, lease_ms: u64) -> Result<Option<String>, RedisError> {
    let lease_ms = lease_ms.to_string();
    let lease = redis.script(&script::LEAD, &[], &[who.as_bytes(), lease_ms.as_bytes()]).await?;
    let lease = lease.as_bulk().map(|lease| String::from_utf8_lossy(lease).into_owned());
    Ok(lease.filter(|lease| !lease.is_empty()))
}

/// All plans: name and JSON.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn plans(redis: &Redis) -> Result<BTreeMap<String, String>, RedisError> {
    texts(Parts::of(redis.command(Command::new(["HGETALL", PLANS])).await?)?)
}

/// What was seen of each plan last: name and JSON.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn judgements(redis: &Redis) -> Result<BTreeMap<String, String>, RedisError> {
    texts(Parts::of(redis.command(Command::new(["HGETALL", JUDGEMENTS])).await?)?)
}

/// The decisions about a plan, newest first, as JSON.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn decisions(redis: &Redis, name: &str) -> Result<Vec<String>, RedisError> {
    let list = format!("{DECISIONS_PREFIX}{name}");
    let last = (DECISIONS_MAX - 1).to_string();
    let found = redis.command(Command::new(["LRANGE", &list, "0", &last].map(str::to_owned))).await?;
    let found = Parts::of(found)?.all_bytes()?;
    Ok(found.iter().map(|row| String::from_utf8_lossy(row).into_owned()).collect())
}
