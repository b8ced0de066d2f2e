//! Capture gaps: what could have missed a write, and for which kinds no comparison has shown since that nothing is missing.
//!
//! A gap is open for a kind until a clean proof of a higher version names that kind; nothing is written when it closes, so
//! gap and proof can never contradict each other.

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Text};
use serde::Serialize;
use serde_json::Value as Json;

use crate::stores::postgres::Postgres;
use crate::stores::postgres::pool::{PostgresError, QUESTION_DEADLINE, within};
use crate::stores::postgres::statement::{Bind, Statement};

/// A gap to write down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewGap<'a> {
    /// The kind, or `*`.
    pub kind: &'a str,
    /// Its cause.
    pub cause: &'a str,
    /// The version up to which nothing was missed.
    pub from_version: i64,
    /// The version from which on nothing is missed any more.
    pub version: i64,
    /// What more is known of it; empty where nothing is.
    pub detail: &'a str,
}

/// A gap as it stands in Postgres.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, QueryableByName)]
pub struct Gap {
    /// Its number.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// When it was found.
    #[diesel(sql_type = Text)]
    pub at: String,
    /// The kind, or `*` for all.
    #[diesel(sql_type = Text)]
    pub kind: String,
    /// `lifted`, `restored`, `postgres_went_back`, `mark_failed`, `marking_ended` or `bypassed`.
    #[diesel(sql_type = Text)]
    pub cause: String,
    /// The version up to which nothing was missed.
    #[diesel(sql_type = BigInt)]
    pub from_version: i64,
    /// The version from which on nothing is missed any more.
    #[diesel(sql_type = BigInt)]
    pub version: i64,
    /// What more is known of it; empty where nothing is.
    #[diesel(sql_type = Text)]
    pub detail: String,
}

#[derive(QueryableByName)]
struct JsonRow {
    #[diesel(sql_type = Text)]
    row: String,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

/// The condition that gap `g` is open for kind `k`.
const IS_OPEN: &str = "g.kind IN (k, '*') AND NOT EXISTS (SELECT 1 FROM proofs p
    WHERE p.version > g.version AND k = ANY(p.kinds) AND p.differences = jsonb_build_object())";

/// Writes a gap down; one that is there already stays. Answers whether it was new.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn record(postgres: &Postgres, gap: NewGap<'_>) -> Result<bool, PostgresError> {
    let statement = Statement::new(
        "INSERT INTO capture_gaps (kind, cause, from_version, version, detail) VALUES ({}, {}, {}, {}, {}) ON CONFLICT DO NOTHING",
        vec![
            Bind::Text(gap.kind.to_owned()),
            Bind::Text(gap.cause.to_owned()),
            Bind::Number(gap.from_version),
            Bind::Number(gap.version),
            Bind::Text(gap.detail.to_owned()),
        ],
    );
    let asked = async { Ok(statement.run(&*postgres.connection().await?).await?) };
    Ok(within(QUESTION_DEADLINE, asked).await? > 0)
}

/// The gaps that are open for `kind`, oldest first.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn open(postgres: &Postgres, kind: &str) -> Result<Vec<Gap>, PostgresError> {
    let text = format!(
        "SELECT g.id, g.at::text AS at, g.kind, g.cause, g.from_version, g.version, g.detail
         FROM capture_gaps g, (SELECT {{}}::text AS k) AS asked WHERE {IS_OPEN} ORDER BY g.id"
    );
    let statement = Statement::new(text, vec![Bind::Text(kind.to_owned())]);
    let asked = async { Ok(statement.rows(&*postgres.connection().await?).await?) };
    within(QUESTION_DEADLINE, asked).await
}

/// How many gaps are open for at least one of `kinds`.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn open_count(postgres: &Postgres, kinds: &[String]) -> Result<u64, PostgresError> {
    let text = format!(
        "SELECT count(*) AS number FROM capture_gaps g WHERE EXISTS (SELECT 1 FROM unnest({{}}) AS k WHERE {IS_OPEN})"
    );
    let statement = Statement::new(text, vec![Bind::TextList(kinds.to_vec())]);
    let asked = async { Ok(statement.row::<Count>(&*postgres.connection().await?).await?) };
    Ok(u64::try_from(within(QUESTION_DEADLINE, asked).await?.number).unwrap_or(0))
}

/// Gaps, newest first: for which of `kinds` each is open, and the proofs that closed it for the others. Of one kind, if asked.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn listed(
    postgres: &Postgres,
    kinds: &[String],
    kind: Option<&str>,
    limit: i64,
) -> Result<Vec<Json>, PostgresError> {
    let text = format!(
        "SELECT json_build_object('id', g.id, 'at', g.at, 'kind', g.kind, 'cause', g.cause, 'from_version', g.from_version,
            'version', g.version, 'detail', g.detail,
            'open_for', (SELECT coalesce(json_agg(k ORDER BY k), json_build_array()) FROM unnest({{}}) AS k WHERE {IS_OPEN}),
            'closed_by', (SELECT coalesce(json_agg(DISTINCT first.id), json_build_array()) FROM unnest({{}}) AS k,
                LATERAL (SELECT min(p.id) AS id FROM proofs p WHERE p.version > g.version AND k = ANY(p.kinds)
                    AND p.differences = jsonb_build_object()) AS first
                WHERE g.kind IN (k, '*') AND first.id IS NOT NULL))::text AS row
         FROM capture_gaps g WHERE g.kind IN (coalesce({{}}, g.kind), '*') ORDER BY g.id DESC LIMIT {{}}"
    );
    let kinds = || Bind::TextList(kinds.to_vec());
    let binds = vec![kinds(), kinds(), Bind::NullableText(kind.map(str::to_owned)), Bind::Number(limit)];
    let statement = Statement::new(text, binds);
    let asked = async { Ok(statement.rows::<JsonRow>(&*postgres.connection().await?).await?) };
    let rows = within(QUESTION_DEADLINE, asked).await?;
    Ok(rows.iter().filter_map(|row| serde_json::from_str(&row.row).ok()).collect())
}
