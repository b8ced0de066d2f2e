//! Jobs as they are kept: one row each, of which at most one in the whole fleet is under way.
//!
//! The row is the lease: whoever runs a job renews it with every word on its progress, and only the holder writes to it.
//! Others leave a wish. A job whose lease has ended was left behind, and goes on where its row says.

use std::time::Duration;

use diesel::QueryableByName;
use diesel::sql_types::Text;
use diesel_async::{AsyncConnection, AsyncPgConnection};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::stores::postgres::Postgres;
use crate::stores::postgres::pool::{PostgresError, QUESTION_DEADLINE, within};
use crate::stores::postgres::statement::{Bind, Statement};

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Under way.
    Running,
    /// Under way, and resting until it is resumed.
    Paused,
    /// At its end.
    Done,
    /// Ended before its end, for a reason.
    Failed,
    /// Ended because somebody wished it.
    Cancelled,
}

impl State {
    /// The word in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will come of it.
    #[must_use]
    pub fn is_end(self) -> bool {
        match self {
            Self::Running | Self::Paused => false,
            Self::Done | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// What somebody wants of a job that another process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// Rest.
    Pause,
    /// Go on.
    Resume,
    /// End.
    Cancel,
}

impl Wish {
    fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
        }
    }
}

/// Who takes up a job that was left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Any sidecar, by itself.
    Sidecar,
    /// The same command, run again.
    Command,
}

impl Origin {
    fn name(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Command => "command",
        }
    }
}

/// How far a job has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Keys or rows looked at.
    pub seen: u64,
    /// Records that it dealt with.
    pub done: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Keys or rows that it will look at, as far as one could tell at the start.
    pub total: Option<u64>,
    /// Keys a second, lately.
    pub rate: u64,
    /// Why it goes slower than it could.
    pub waiting: Option<String>,
}

impl Progress {
    fn text(&self) -> String {
        serde_json::to_string(self).expect("numbers and a text are always JSON")
    }
}

/// A job and how far it has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobRow {
    /// Its id.
    pub id: String,
    /// `backfill`, `verify`, `repair` or `restore`.
    pub job: String,
    /// The kinds that it is about.
    pub kinds: Vec<String>,
    /// How it stands.
    pub state: State,
    /// What was asked for.
    pub spec: Json,
    /// Where it goes on.
    pub place: Option<Json>,
    /// The process that runs it.
    pub holder: String,
    /// Whether the lease of the holder holds.
    pub is_held: bool,
    /// What the holder has not heeded yet.
    pub wish: Option<Wish>,
    /// How far it has come.
    pub progress: Progress,
    /// Why it failed.
    pub error: Option<String>,
    /// What it found.
    pub report: Option<Json>,
    /// When it began.
    pub started_at: String,
    /// When it was last heard of.
    pub updated_at: String,
    /// When it ended.
    pub finished_at: Option<String>,
}

const ROW: &str = "json_build_object('id', id, 'job', job, 'kinds', kinds, 'state', state, 'spec', spec, 'place', place,
    'holder', holder, 'is_held', lease_until > now(), 'wish', wish, 'progress', progress, 'error', error, 'report', report, 'started_at', started_at, 'updated_at', updated_at,
    'finished_at', finished_at)::text AS row";
const UNDER_WAY: &str = "state IN ('running', 'paused')";

/// A job that is to begin.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its id.
    pub id: String,
    /// Its name.
    pub job: &'static str,
    /// Its kinds.
    pub kinds: Vec<String>,
    /// What was asked for.
    pub spec: Json,
    /// Who takes it up when it is left behind.
    pub origin: Origin,
    /// Who runs it.
    pub holder: String,
}

/// What came of the wish to begin a job.
#[derive(Debug)]
pub enum Start {
    /// It begins, or goes on where its like was left behind.
    Ours(Box<JobRow>),
    /// This one is under way.
    Running(String),
}

#[derive(QueryableByName)]
struct RowText {
    #[diesel(sql_type = Text)]
    row: String,
}

fn parsed(rows: &[RowText]) -> Vec<JobRow> {
    // A row that another version of the program wrote in another form is not shown, rather than misread.
    rows.iter().filter_map(|row| serde_json::from_str(&row.row).ok()).collect()
}

async fn rows(postgres: &Postgres, statement: Statement) -> Result<Vec<JobRow>, PostgresError> {
    let asked = async { Ok(statement.rows::<RowText>(&*postgres.connection().await?).await?) };
    Ok(parsed(&within(QUESTION_DEADLINE, asked).await?))
}

fn seconds(lease: Duration) -> Bind {
    Bind::Number(i64::try_from(lease.as_secs()).unwrap_or(i64::MAX))
}

/// Begins a job, unless another one is under way. One that was left behind goes on when it is the same; else it ends here.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn start(postgres: &Postgres, new: &NewJob, lease: Duration) -> Result<Start, PostgresError> {
    let mut pooled = postgres.connection().await?;
    let connection: &mut AsyncPgConnection = &mut pooled;
    let begun = connection.transaction(async |connection: &mut AsyncPgConnection| {
        // Two that begin at once: the second waits for the first, by the index of the one row that may be under way.
        let text = format!("SELECT {ROW} FROM jobs WHERE {UNDER_WAY} FOR UPDATE");
        if let Some(row) = parsed(&Statement::new(text, Vec::new()).rows(connection).await?).pop() {
            if row.is_held {
                return Ok(Start::Running(row.id));
            }
            if row.spec == new.spec && row.job == new.job && row.kinds == new.kinds {
                let text = format!(
                    "UPDATE jobs SET holder = {{}}, origin = {{}}, state = 'running', wish = NULL,
                        lease_until = now() + {{}} * interval '1 second', updated_at = now() WHERE id = {{}} RETURNING {ROW}"
                );
                let binds = vec![
                    Bind::Text(new.holder.clone()),
                    Bind::Text(new.origin.name().to_owned()),
                    seconds(lease),
                    Bind::Text(row.id),
                ];
                return ours(&Statement::new(text, binds).rows(connection).await?);
            }
            let text = "UPDATE jobs SET state = 'failed', finished_at = now(), error = 'its runner ended, and another job took its place'
                WHERE id = {}";
            Statement::new(text, vec![Bind::Text(row.id)]).run(connection).await?;
        }
        let text = format!(
            "INSERT INTO jobs (id, job, kinds, state, spec, origin, holder, lease_until)
             VALUES ({{}}, {{}}, {{}}, 'running', {{}}::jsonb, {{}}, {{}}, now() + {{}} * interval '1 second') RETURNING {ROW}"
        );
        let binds = vec![
            Bind::Text(new.id.clone()),
            Bind::Text(new.job.to_owned()),
            Bind::TextList(new.kinds.clone()),
            Bind::Text(new.spec.to_string()),
            Bind::Text(new.origin.name().to_owned()),
            Bind::Text(new.holder.clone()),
            seconds(lease),
        ];
        ours(&Statement::new(text, binds).rows(connection).await?)
    });
    match within(QUESTION_DEADLINE, begun).await {
        Err(PostgresError::Refused(diesel::result::Error::DatabaseError(
            diesel::result::DatabaseErrorKind::UniqueViolation,
            _,
        ))) => {
            let text = format!("SELECT {ROW} FROM jobs WHERE {UNDER_WAY}");
            let found = rows(postgres, Statement::new(text, Vec::new())).await?.pop();
            Ok(Start::Running(found.map(|row| row.id).unwrap_or_default()))
        }
        begun => begun,
    }
}

fn ours(rows: &[RowText]) -> Result<Start, PostgresError> {
    let row = parsed(rows).pop().ok_or(diesel::result::Error::NotFound)?;
    Ok(Start::Ours(Box::new(row)))
}

/// Takes up the job that a dead sidecar left behind, if there is one.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn adopt(postgres: &Postgres, holder: &str, lease: Duration) -> Result<Option<JobRow>, PostgresError> {
    let text = format!(
        "UPDATE jobs SET holder = {{}}, lease_until = now() + {{}} * interval '1 second', updated_at = now()
         WHERE {UNDER_WAY} AND origin = 'sidecar' AND lease_until < now() RETURNING {ROW}"
    );
    Ok(rows(postgres, Statement::new(text, vec![Bind::Text(holder.to_owned()), seconds(lease)])).await?.pop())
}

/// Renews the lease with a word on the progress. Answers the row, or `None` when the job is not `row.holder`'s any more.
/// The wish in the answer counts as heeded when the next word is given.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn beat(postgres: &Postgres, row: &JobRow, lease: Duration) -> Result<Option<JobRow>, PostgresError> {
    let text = format!(
        "UPDATE jobs SET state = {{}}, place = {{}}::jsonb, progress = {{}}::jsonb,
            lease_until = now() + {{}} * interval '1 second', updated_at = now(),
            wish = CASE WHEN wish = {{}} THEN NULL ELSE wish END
         WHERE id = {{}} AND holder = {{}} AND {UNDER_WAY} RETURNING {ROW}"
    );
    let binds = vec![
        Bind::Text(row.state.name().to_owned()),
        Bind::NullableText(row.place.as_ref().map(Json::to_string)),
        Bind::Text(row.progress.text()),
        seconds(lease),
        Bind::Text(row.wish.map(Wish::name).unwrap_or_default().to_owned()),
        Bind::Text(row.id.clone()),
        Bind::Text(row.holder.clone()),
    ];
    Ok(rows(postgres, Statement::new(text, binds)).await?.pop())
}

/// Writes down the end of a job. Answers whether it was still `row.holder`'s.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn end(postgres: &Postgres, row: &JobRow) -> Result<bool, PostgresError> {
    let text = format!(
        "UPDATE jobs SET state = {{}}, progress = {{}}::jsonb, error = {{}}, report = {{}}::jsonb, wish = NULL,
            finished_at = now(), updated_at = now()
         WHERE id = {{}} AND holder = {{}} AND {UNDER_WAY} RETURNING {ROW}"
    );
    let binds = vec![
        Bind::Text(row.state.name().to_owned()),
        Bind::Text(row.progress.text()),
        Bind::NullableText(row.error.clone()),
        Bind::NullableText(row.report.as_ref().map(Json::to_string)),
        Bind::Text(row.id.clone()),
        Bind::Text(row.holder.clone()),
    ];
    Ok(!rows(postgres, Statement::new(text, binds)).await?.is_empty())
}

/// Leaves a wish for a job that is under way. One that was left behind is cancelled at once. `None` when there is no such job.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn wish(postgres: &Postgres, id: &str, wish: Wish) -> Result<Option<JobRow>, PostgresError> {
    if wish == Wish::Cancel {
        let text = format!(
            "UPDATE jobs SET state = 'cancelled', finished_at = now(), updated_at = now()
             WHERE id = {{}} AND {UNDER_WAY} AND lease_until < now() RETURNING {ROW}"
        );
        let cancelled = rows(postgres, Statement::new(text, vec![Bind::Text(id.to_owned())])).await?;
        if let Some(row) = cancelled.into_iter().next() {
            return Ok(Some(row));
        }
    }
    let text = format!("UPDATE jobs SET wish = {{}} WHERE id = {{}} AND {UNDER_WAY} RETURNING {ROW}");
    let binds = vec![Bind::Text(wish.name().to_owned()), Bind::Text(id.to_owned())];
    match rows(postgres, Statement::new(text, binds)).await?.pop() {
        Some(row) => Ok(Some(row)),
        None => get(postgres, id).await,
    }
}

/// One job.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn get(postgres: &Postgres, id: &str) -> Result<Option<JobRow>, PostgresError> {
    let text = format!("SELECT {ROW} FROM jobs WHERE id = {{}}");
    Ok(rows(postgres, Statement::new(text, vec![Bind::Text(id.to_owned())])).await?.pop())
}

/// The last jobs, newest last.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn list(postgres: &Postgres, limit: i64) -> Result<Vec<JobRow>, PostgresError> {
    let text =
        format!("SELECT {ROW} FROM (SELECT * FROM jobs ORDER BY started_at DESC LIMIT {{}}) AS j ORDER BY started_at");
    rows(postgres, Statement::new(text, vec![Bind::Number(limit)])).await
}
