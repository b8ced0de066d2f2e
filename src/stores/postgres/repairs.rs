//! Repairs: what was found to differ and may be marked again, and the audit of what was.

use diesel::QueryableByName;
use diesel::sql_types::Text;

use crate::model::key::Key;
use crate::stores::postgres::Postgres;
use crate::stores::postgres::pool::PostgresError;
use crate::stores::postgres::statement::{Bind, Statement};

/// A record that was once found to differ, or whose newest write Redis has lost.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Suspect {
    /// Its kind.
    #[diesel(sql_type = Text)]
    pub kind: String,
    /// Its id within the kind.
    #[diesel(sql_type = Text)]
    pub id: String,
}

/// Suspects of these kinds in the order of kind and id, behind one of them: each once, however often it was found.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn suspects(
    postgres: &Postgres,
    kinds: &[String],
    after: (&str, &str),
    limit: i64,
) -> Result<Vec<Suspect>, PostgresError> {
    let text = "SELECT DISTINCT kind COLLATE \"C\" AS kind, id FROM (
            SELECT kind, id FROM mismatches UNION ALL SELECT kind, id FROM ghosts WHERE settled_at IS NULL) AS suspects
         WHERE kind = ANY({}) AND (kind COLLATE \"C\", id) > ({}, {}) ORDER BY kind, id LIMIT {}";
    let binds = vec![
        Bind::TextList(kinds.to_vec()),
        Bind::Text(after.0.to_owned()),
        Bind::Text(after.1.to_owned()),
        Bind::Number(limit),
    ];
    Ok(Statement::new(text, binds).rows(&*postgres.connection().await?).await?)
}

/// A record that is marked again.
#[derive(Clone, Debug)]
pub struct Repair {
    /// The job.
    pub job: String,
    /// The kind.
    pub kind: String,
    /// The record.
    pub key: Key,
    /// Its id within the kind.
    pub id: String,
    /// What differed.
    pub class: String,
    /// The version of its row.
    pub version: i64,
}

/// Writes down a repair before it is made.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn before(postgres: &Postgres, repair: &Repair) -> Result<(), PostgresError> {
    let statement = Statement::new(
        "INSERT INTO repairs (job, kind, key_hash, id, class_before, version_before) VALUES ({}, {}, {}, {}, {}, {})",
        vec![
            Bind::Text(repair.job.clone()),
            Bind::Text(repair.kind.clone()),
            Bind::Bytes(repair.key.hash()),
            Bind::Text(repair.id.clone()),
            Bind::Text(repair.class.clone()),
            Bind::Number(repair.version),
        ],
    );
    statement.run(&*postgres.connection().await?).await?;
    Ok(())
}

/// Writes down what was found after a repair.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn after(
    postgres: &Postgres,
    job: &str,
    key: &Key,
    verdict: &str,
    version: i64,
) -> Result<(), PostgresError> {
    let statement = Statement::new(
        "UPDATE repairs SET verdict_after = {}, version_after = {} WHERE job = {} AND key_hash = {}",
        vec![
            Bind::Text(verdict.to_owned()),
            Bind::Number(version),
            Bind::Text(job.to_owned()),
            Bind::Bytes(key.hash()),
        ],
    );
    statement.run(&*postgres.connection().await?).await?;
    Ok(())
}
