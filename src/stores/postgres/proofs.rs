//! Proofs: what was compared as a whole, when, how much, with which result, and until when it holds.
//!
//! A proof holds for a kind while it is clean, not too old, and of a higher version than every capture gap of that kind.

use std::collections::BTreeMap;
use std::time::Duration;

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Bool, Text};
use serde::Serialize;
use serde_json::Value as Json;

use crate::stores::postgres::Postgres;
use crate::stores::postgres::pool::{PostgresError, QUESTION_DEADLINE, within};
use crate::stores::postgres::statement::{Bind, Statement};

/// How long a clean comparison is worth something, in hours. A capture gap ends it earlier.
const VALID_HOURS: i64 = 24;

/// A full comparison that came to its end.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The kinds that were compared.
    pub kinds: Vec<String>,
    /// Records in Redis.
    pub keys: u64,
    /// Bytes of values that were read from Redis.
    pub bytes: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// Class and number of differences.
    pub differences: Json,
    /// The version that Redis gave when it began: a capture gap of a lower one is closed by it.
    pub version: i64,
    /// Whether nothing differed: else it is written down, and holds for nothing.
    pub is_clean: bool,
}

/// Writes a proof down.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn write(postgres: &Postgres, proof: &Proof) -> Result<(), PostgresError> {
    let number = |number: u64| Bind::Number(i64::try_from(number).unwrap_or(i64::MAX));
    let statement = Statement::new(
        "INSERT INTO proofs (kinds, keys, bytes, duration_ms, differences, version, valid_until)
         VALUES ({}, {}, {}, {}, {}::jsonb, {}, now() + {} * interval '1 hour')",
        vec![
            Bind::TextList(proof.kinds.clone()),
            number(proof.keys),
            number(proof.bytes),
            number(proof.duration_ms),
            Bind::Text(proof.differences.to_string()),
            Bind::Number(proof.version),
            Bind::Number(if proof.is_clean { VALID_HOURS } else { 0 }),
        ],
    );
    let asked = async { Ok(statement.run(&*postgres.connection().await?).await?) };
    within(QUESTION_DEADLINE, asked).await.map(drop)
}

/// A proof that holds for a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, QueryableByName)]
pub struct Holding {
    /// The kind.
    #[diesel(sql_type = Text)]
    pub kind: String,
    /// The number of the proof.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// When the comparison ended.
    #[diesel(sql_type = Text)]
    pub at: String,
    /// How long ago that is, in seconds.
    #[diesel(sql_type = BigInt)]
    pub age_seconds: i64,
    /// Until when it holds.
    #[diesel(sql_type = Text)]
    pub valid_until: String,
    /// The version that Redis gave when it began.
    #[diesel(sql_type = BigInt)]
    pub version: i64,
}

/// The newest proof that holds for each of `kinds`; nothing for a kind that owes a comparison.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn holding(postgres: &Postgres, kinds: &[String]) -> Result<Vec<Holding>, PostgresError> {
    let statement = Statement::new(
        "SELECT DISTINCT ON (k) k AS kind, p.id, p.at::text AS at, p.valid_until::text AS valid_until, p.version,
            floor(extract(epoch FROM now() - p.at))::bigint AS age_seconds
         FROM unnest({}) AS k JOIN proofs p ON k = ANY(p.kinds)
         WHERE p.valid_until > now() AND p.differences = jsonb_build_object()
            AND NOT EXISTS (SELECT 1 FROM capture_gaps g WHERE g.kind IN (k, '*') AND g.version >= p.version)
         ORDER BY k, p.version DESC",
        vec![Bind::TextList(kinds.to_vec())],
    );
    let asked = async { Ok(statement.rows(&*postgres.connection().await?).await?) };
    within(QUESTION_DEADLINE, asked).await
}

/// How the newest full comparison of a kind stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which one: kinds that were compared together share it.
    pub id: i64,
    /// How long ago it ended.
    pub age: Duration,
    /// Whether it found no difference.
    pub is_clean: bool,
    /// Records that it compared, those of other kinds among them.
    pub keys: u64,
    /// Mismatches of the kind that were found since it began.
    pub mismatched: u64,
    /// Whether writes of the kind may have been missed after it began.
    pub has_gap: bool,
}

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = BigInt)]
    age_ms: i64,
    #[diesel(sql_type = Bool)]
    is_clean: bool,
    #[diesel(sql_type = BigInt)]
    keys: i64,
    #[diesel(sql_type = BigInt)]
    mismatched: i64,
    #[diesel(sql_type = Bool)]
    has_gap: bool,
}

/// The newest full comparison of each of these kinds; a kind that was never compared is left out.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn standings(postgres: &Postgres, kinds: &[String]) -> Result<BTreeMap<String, Standing>, PostgresError> {
    let statement = Statement::new(
        "SELECT asked.kind, p.id, (extract(epoch FROM now() - p.at) * 1000)::bigint AS age_ms,
            coalesce(p.valid_until > p.at, false) AS is_clean, p.keys,
            (SELECT coalesce(sum(m.times), 0)::bigint FROM mismatches m WHERE m.kind = asked.kind
                AND m.at > p.at - p.duration_ms * interval '1 millisecond') AS mismatched,
            EXISTS (SELECT 1 FROM capture_gaps g WHERE g.kind IN (asked.kind, '*') AND g.version >= p.version) AS has_gap
         FROM unnest({}) AS asked(kind)
         CROSS JOIN LATERAL (SELECT * FROM proofs WHERE kinds @> ARRAY[asked.kind] ORDER BY id DESC LIMIT 1) p",
        vec![Bind::TextList(kinds.to_vec())],
    );
    let asked = async { Ok(statement.rows::<Found>(&*postgres.connection().await?).await?) };
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let standing = |found: Found| {
        let Found { kind, id, age_ms, is_clean, keys, mismatched, has_gap } = found;
        let age = Duration::from_millis(count(age_ms));
        (kind, Standing { id, age, is_clean, keys: count(keys), mismatched: count(mismatched), has_gap })
    };
    Ok(within(QUESTION_DEADLINE, asked).await?.into_iter().map(standing).collect())
}
