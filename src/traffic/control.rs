//! The operator's hand in the demo and the bench: flags, jobs, rollback and mismatches over the admin door, as anybody would use it.

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::client::{Client, ClientError};
use crate::traffic::figures::Figures;

/// How long a change may wait for a barrier or for another change.
const CHANGE_DEADLINE: Duration = Duration::from_secs(40);

/// How long a job over the demo's keyspace may take.
const JOB_DEADLINE: Duration = Duration::from_secs(90);

const POLL: Duration = Duration::from_millis(50);

/// A client of the admin door.
pub struct Control {
    client: Client,
}

impl Control {
    /// A client of the admin door at this address.
    #[must_use]
    pub fn new(admin_door: &str) -> Self {
        Self { client: Client::new(admin_door) }
    }

    /// Changes the flag of all kinds that have none of their own, as [`Self::change_of`].
    ///
    /// # Errors
    /// Those of [`Self::change_of`].
    pub async fn change(&mut self, change: &Value) -> anyhow::Result<Duration> {
        self.change_of("*", change).await
    }

    /// Changes the flag of a kind. Waits where a barrier is not yet reached; returns how long it took.
    ///
    /// # Errors
    /// When the door refuses the change, or does not take it within the deadline.
    pub async fn change_of(&mut self, kind: &str, change: &Value) -> anyhow::Result<Duration> {
        let began = Instant::now();
        loop {
            let flags = self.client.json(Method::GET, "/v1/flags", &[], None).await?;
            let version = flags.get("version").and_then(Value::as_u64).context("the flags have no version")?;
            let tag = format!("\"{version}\"");
            let headers = [("if-match", tag.as_str())];
            match self.client.json(Method::PATCH, &format!("/v1/flags/{kind}"), &headers, Some(change)).await {
                Ok(_) => return Ok(began.elapsed()),
                // Somebody else changed it, or a sidecar has not confirmed yet.
                Err(ClientError::Status { status: StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED, .. })
                    if began.elapsed() < CHANGE_DEADLINE => {}
                Err(error) => return Err(error).with_context(|| format!("changing the flag of {kind} to {change}")),
            }
            sleep(POLL).await;
        }
    }

    /// What stands in the way of a change of the flag of all kinds, in the gates' own words, and whether a reason may stand
    /// in the place of all of it.
    ///
    /// # Errors
    /// When the door does not judge the change.
    pub async fn in_the_way(&mut self, change: &Value) -> anyhow::Result<(Vec<String>, bool)> {
        let flags = self.client.json(Method::GET, "/v1/flags", &[], None).await?;
        let tag = format!("\"{}\"", flags.get("version").context("the flags have no version")?);
        let headers = [("if-match", tag.as_str())];
        let judged = self.client.json(Method::PATCH, "/v1/flags/*?dry_run=true", &headers, Some(change)).await?;
        let conditions = judged.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let is = |condition: &Value, member: &str| condition.get(member) == Some(&Value::Bool(true));
        let unmet = || conditions.iter().filter(|condition| !is(condition, "met"));
        let told = unmet().filter_map(|condition| condition.get("detail")?.as_str().map(str::to_owned)).collect();
        Ok((told, unmet().all(|condition| is(condition, "overridable"))))
    }

    /// Copies everything that was there before marking began; returns how long it took.
    ///
    /// # Errors
    /// When the job fails or does not end within its deadline.
    pub async fn backfill(&mut self) -> anyhow::Result<Duration> {
        self.job("backfill").await
    }

    /// Compares every record of both stores; returns how long it took.
    ///
    /// # Errors
    /// When the job fails or does not end within its deadline. A difference is no failure of the job: the gates know it.
    pub async fn verification(&mut self) -> anyhow::Result<Duration> {
        self.job("verify").await
    }

    async fn job(&mut self, name: &str) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let body = json!({"job": name, "kinds": ["*"]});
        let started = self.client.json(Method::POST, "/v1/jobs", &[], Some(&body)).await?;
        let id = started.get("id").and_then(Value::as_str).context("the job has no id")?.to_owned();
        loop {
            let job = self.client.json(Method::GET, &format!("/v1/jobs/{id}"), &[], None).await?;
            match job.get("state").and_then(Value::as_str) {
                Some("done") => return Ok(began.elapsed()),
                Some("failed") => bail!("the {name} job failed: {}", job.get("error").unwrap_or(&Value::Null)),
                // Still running, or not listed yet.
                Some(_) | None => {}
            }
            if began.elapsed() > JOB_DEADLINE {
                bail!("the {name} job did not finish within {JOB_DEADLINE:?}");
            }
            sleep(POLL).await;
        }
    }

    /// Takes all reads back to Redis; returns what the sidecar reports.
    ///
    /// # Errors
    /// When the door does not answer with success.
    pub async fn rollback(&mut self, reason: &str) -> anyhow::Result<Value> {
        let body = json!({"scope": "*", "reason": reason});
        Ok(self.client.json(Method::POST, "/v1/rollback", &[], Some(&body)).await?)
    }

    /// The classes of the stored mismatches of `kind`.
    ///
    /// # Errors
    /// When the door does not answer with success.
    pub async fn mismatch_classes(&mut self, kind: &str) -> anyhow::Result<Vec<String>> {
        let list = self.client.json(Method::GET, &format!("/v1/mismatches?kind={kind}"), &[], None).await?;
        let rows = list.get("mismatches").unwrap_or(&list).as_array().cloned().unwrap_or_default();
        Ok(rows.iter().filter_map(|row| row.get("class")?.as_str().map(str::to_owned)).collect())
    }

    /// All figures.
    ///
    /// # Errors
    /// When the page cannot be read.
    pub async fn figures(&mut self) -> anyhow::Result<Figures> {
        let answer = self.client.send(Method::GET, "/metrics", &[], Bytes::new()).await?;
        if !answer.status.is_success() {
            bail!("/metrics was answered with {}", answer.status);
        }
        Ok(Figures::parse(&String::from_utf8_lossy(&answer.body)))
    }
}
