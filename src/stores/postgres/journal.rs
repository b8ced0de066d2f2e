//! What Parallax writes down for people: changes of flags, mismatches, dead letters, jobs.

use bytes::Bytes;
use diesel::QueryableByName;
use diesel::sql_types::Text;
use diesel_async::AsyncPgConnection;
use serde_json::Value as Json;

use crate::model::key::Key;
use crate::stores::postgres::Postgres;
use crate::stores::postgres::pool::{PostgresError, QUESTION_DEADLINE, within};
use crate::stores::postgres::rows::RecordRow;
use crate::stores::postgres::statement::{Bind, Statement};

/// A change of a flag.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct FlagAudit {
    /// The version that it made.
    pub version: u64,
    /// The kind, or `*`.
    pub kind: String,
    /// The flag before, as JSON.
    pub before: String,
    /// The flag after, as JSON.
    pub after: String,
    /// Who changed it.
    pub who: String,
    /// From where.
    pub origin: String,
    /// Why.
    pub reason: String,
}

/// A confirmed mismatch.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// The kind.
    pub kind: String,
    /// The record.
    pub key: Key,
    /// Its id within the kind.
    pub id: String,
    /// The class: `value`, `type`, `ttl`, `missing_in_postgres`, `missing_in_redis`.
    pub class: &'static str,
    /// Names of the fields that differ.
    pub fields: Vec<String>,
    /// Redis' clock at the look.
    pub redis_version: i64,
    /// The row's version, if there is a row.
    pub postgres_version: i64,
}

/// A capture that Postgres refuses, or that cannot be made.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The record.
    pub key: Key,
    /// The token of its mark, which stays.
    pub token: Bytes,
    /// The kind.
    pub kind: String,
    /// Why.
    pub reason: String,
}

#[derive(QueryableByName)]
struct JsonRow {
    #[diesel(sql_type = Text)]
    row: String,
}

async fn rows(postgres: &Postgres, statement: Statement) -> Result<Vec<Json>, PostgresError> {
    let asked = async { Ok(statement.rows::<JsonRow>(&*postgres.connection().await?).await?) };
    let rows = within(QUESTION_DEADLINE, asked).await?;
    Ok(rows.iter().filter_map(|row| serde_json::from_str(&row.row).ok()).collect())
}

async fn run(postgres: &Postgres, statement: Statement) -> Result<(), PostgresError> {
    let asked = async { Ok(statement.run(&*postgres.connection().await?).await?) };
    within(QUESTION_DEADLINE, asked).await.map(drop)
}

/// Writes an audit row; a row that is there already stays.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn audit(postgres: &Postgres, audit: &FlagAudit) -> Result<(), PostgresError> {
    let statement = Statement::new(
        "INSERT INTO flag_changes (version, kind, flag_before, flag_after, who, origin, reason, at)
         VALUES ({}, {}, {}::jsonb, {}::jsonb, {}, {}, {}, now()) ON CONFLICT DO NOTHING",
        vec![
            Bind::Number(i64::try_from(audit.version).unwrap_or(i64::MAX)),
            Bind::Text(audit.kind.clone()),
            Bind::Text(audit.before.clone()),
            Bind::Text(audit.after.clone()),
            Bind::Text(audit.who.clone()),
            Bind::Text(audit.origin.clone()),
            Bind::Text(audit.reason.clone()),
        ],
    );
    run(postgres, statement).await
}

/// The changes of a kind's flag, newest first; those of `*` among them.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn history(postgres: &Postgres, kind: &str, limit: i64) -> Result<Vec<Json>, PostgresError> {
    let text = "SELECT json_build_object('version', version, 'kind', kind, 'before', flag_before, 'after', flag_after,
            'who', who, 'from', origin, 'reason', reason, 'at', at)::text AS row
         FROM flag_changes WHERE kind IN ({}, '*') ORDER BY version DESC, id DESC LIMIT {}";
    rows(postgres, Statement::new(text, vec![Bind::Text(kind.to_owned()), Bind::Number(limit)])).await
}

/// The flags of the highest version that Postgres knows: kind and flag, for a Redis that lost them (L3).
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn latest_flags(postgres: &Postgres) -> Result<Option<(u64, Vec<(String, String)>)>, PostgresError> {
    let text = "SELECT json_build_object('kind', f.kind, 'flag', f.flag_after::text,
            'version', (SELECT max(version) FROM flag_changes))::text AS row
         FROM (SELECT DISTINCT ON (kind) kind, flag_after FROM flag_changes ORDER BY kind, version DESC, id DESC) f";
    let rows = rows(postgres, Statement::new(text, Vec::new())).await?;
    let Some(version) = rows.first().and_then(|row| row.get("version")?.as_u64()) else {
        return Ok(None);
    };
    let text = |row: &Json, name: &str| row.get(name).and_then(Json::as_str).unwrap_or_default().to_owned();
    Ok(Some((version, rows.iter().map(|row| (text(row, "kind"), text(row, "flag"))).collect())))
}

/// Notes a mismatch; the same one found again raises its count.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn mismatch(postgres: &Postgres, mismatch: &Mismatch) -> Result<(), PostgresError> {
    let statement = Statement::new(
        "WITH again AS (UPDATE mismatches SET times = times + 1, at = now()
            WHERE key_hash = {} AND class = {} AND postgres_version = {} RETURNING 1)
         INSERT INTO mismatches (at, kind, key_hash, id, class, fields, redis_version, postgres_version, times)
         SELECT now(), {}, {}, {}, {}, {}, {}, {}, 1 WHERE NOT EXISTS (SELECT 1 FROM again)",
        vec![
            Bind::Bytes(mismatch.key.hash()),
            Bind::Text(mismatch.class.to_owned()),
            Bind::Number(mismatch.postgres_version),
            Bind::Text(mismatch.kind.clone()),
            Bind::Bytes(mismatch.key.hash()),
            Bind::Text(mismatch.id.clone()),
            Bind::Text(mismatch.class.to_owned()),
            Bind::TextList(mismatch.fields.clone()),
            Bind::Number(mismatch.redis_version),
            Bind::Number(mismatch.postgres_version),
        ],
    );
    run(postgres, statement).await
}

/// Mismatches, newest first: the hash of the key and the names of fields, never values.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn mismatches(postgres: &Postgres, kind: Option<&str>, limit: i64) -> Result<Vec<Json>, PostgresError> {
    let text = "SELECT json_build_object('at', at, 'kind', kind, 'key_hash', encode(key_hash, 'hex'), 'id', id, 'class', class,
            'fields', fields, 'redis_version', redis_version, 'postgres_version', postgres_version, 'times', times)::text AS row
         FROM mismatches WHERE kind = coalesce({}, kind) ORDER BY at DESC, seq DESC LIMIT {}";
    rows(postgres, Statement::new(text, vec![Bind::NullableText(kind.map(str::to_owned)), Bind::Number(limit)])).await
}

/// The last mismatch of one record, without its id: class, names of fields, when, and how often.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn last_mismatch(postgres: &Postgres, key: &Key) -> Result<Option<Json>, PostgresError> {
    let text = "SELECT json_build_object('at', at, 'class', class, 'fields', fields, 'times', times)::text AS row
         FROM mismatches WHERE key_hash = {} ORDER BY at DESC, seq DESC LIMIT 1";
    Ok(rows(postgres, Statement::new(text, vec![Bind::Bytes(key.hash())])).await?.pop())
}

/// Puts a record among the dead letters.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn dead_letter(postgres: &Postgres, letter: &DeadLetter) -> Result<(), PostgresError> {
    let statement = Statement::new(
        "INSERT INTO dead_letters (key_hash, element_hash, token, kind, reason, at) VALUES ({}, ''::bytea, {}, {}, {}, now())
         ON CONFLICT (key_hash, element_hash) DO UPDATE SET token = excluded.token, reason = excluded.reason, at = excluded.at",
        vec![
            Bind::Bytes(letter.key.hash()),
            Bind::Text(String::from_utf8_lossy(&letter.token).into_owned()),
            Bind::Text(letter.kind.clone()),
            Bind::Text(letter.reason.clone()),
        ],
    );
    run(postgres, statement).await
}

/// Takes what is now written from the dead letters, whoever put it there. In the same transaction, so that a letter never
/// outlives its reason; the table is nearly always empty.
pub(super) async fn forget_letters(connection: &AsyncPgConnection, keys: Vec<Vec<u8>>) -> Result<(), PostgresError> {
    let statement = Statement::new("DELETE FROM dead_letters WHERE key_hash = ANY({})", vec![Bind::BytesList(keys)]);
    statement.run(connection).await?;
    Ok(())
}

/// Notes that entries of a log were trimmed before they were captured (G3), with the entries on both sides of the gap.
pub(super) async fn note_gap(
    connection: &AsyncPgConnection,
    header: &RecordRow,
    first_id: &str,
    missing: i64,
) -> Result<(), PostgresError> {
    let statement = Statement::new(
        "INSERT INTO log_gaps (at, kind, key_hash, id, first_id, last_id, missing)
         SELECT now(), {}, {}, {}, (SELECT max(element) FROM event_logs WHERE key_hash = {} AND element < {}), {}, {}",
        vec![
            Bind::Text(header.kind.clone()),
            Bind::Bytes(header.key.hash()),
            Bind::Text(header.id.clone()),
            Bind::Bytes(header.key.hash()),
            Bind::Text(first_id.to_owned()),
            Bind::Text(first_id.to_owned()),
            Bind::Number(missing),
        ],
    );
    statement.run(connection).await?;
    Ok(())
}

/// How many dead letters, log gaps, mismatches and ghosts there are.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn counts(postgres: &Postgres) -> Result<Json, PostgresError> {
    let text = "SELECT json_build_object('dead_letters', (SELECT count(*) FROM dead_letters),
            'log_gaps', (SELECT count(*) FROM log_gaps), 'mismatches', (SELECT count(*) FROM mismatches), 'ghosts', (SELECT count(*) FROM ghosts),
            'ghosts_unsettled', (SELECT count(*) FROM ghosts WHERE settled_at IS NULL))::text AS row";
    Ok(rows(postgres, Statement::new(text, Vec::new())).await?.pop().unwrap_or_default())
}
