//! Corrupts one row of Postgres behind everybody's back, to see that sampled comparisons find it and a write repairs it.

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Method;
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};
use tokio_postgres::NoTls;

use crate::client::Client;
use crate::traffic::control::Control;

/// The kind of the record that is corrupted, and its id: no traffic touches it.
pub(super) const KIND: &str = "account_group";
const ID: &str = "00000000-0000-4000-8000-00000000d3e0";

/// How long the comparisons may take to find it.
const FIND_DEADLINE: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(10);

/// How the corruption was found.
#[derive(Debug)]
pub(super) struct Found {
    /// How many reads it took.
    pub(super) reads: u64,
    /// How long it took.
    pub(super) after: Duration,
    /// The class that the mismatch was given.
    pub(super) class: String,
}

/// Writes a record through the door, corrupts its row, reads until the mismatch is listed, and repairs it by a write.
pub(super) async fn corrupt_find_repair(
    data_door: &str,
    postgres_url: &str,
    control: &mut Control,
) -> anyhow::Result<Found> {
    let mut door = Client::new(data_door);
    let path = format!("/v1/records/{KIND}/{ID}");
    let committed = [("parallax-ack", "both")];
    let record = json!({"id": ID, "name": "as it should be", "platform": "claude", "description": "demo"});
    door.json(Method::PUT, &path, &committed, Some(&record)).await.context("writing the record")?;

    let (postgres, connection) =
        tokio_postgres::connect(postgres_url, NoTls).await.context("connecting to Postgres")?;
    tokio::spawn(connection);
    let corrupt =
        "UPDATE account_groups SET doc = jsonb_set(doc, '{name}', '\"corrupted\"') WHERE kind = $1 AND id = $2";
    let rows = postgres.execute(corrupt, &[&KIND, &ID]).await.context("corrupting the row")?;
    if rows != 1 {
        bail!("{rows} rows were corrupted instead of one");
    }

    let found = find(&mut door, &path, control).await?;
    let repair = json!({"name": "as it should be"});
    let headers = [("parallax-ack", "both"), ("content-type", "application/merge-patch+json")];
    door.json(Method::PATCH, &path, &headers, Some(&repair)).await.context("repairing the record")?;
    let name: Option<String> = postgres
        .query_one("SELECT doc->>'name' FROM account_groups WHERE kind = $1 AND id = $2", &[&KIND, &ID])
        .await
        .context("looking at the repaired row")?
        .get(0);
    if name.as_deref() != Some("as it should be") {
        bail!("the row was still wrong after the record was written again");
    }
    Ok(found)
}

async fn find(door: &mut Client, path: &str, control: &mut Control) -> anyhow::Result<Found> {
    let began = Instant::now();
    let mut reads = 0;
    while began.elapsed() < FIND_DEADLINE {
        let answer = door.send(Method::GET, path, &[], Bytes::new()).await?;
        if !answer.status.is_success() {
            bail!("the corrupted record was answered with {}", answer.status);
        }
        // The caller has its answer from Redis: it must never see what was corrupted.
        if String::from_utf8_lossy(&answer.body).contains("corrupted") {
            bail!("a reader was given the corrupted value");
        }
        reads += 1;
        if let Some(class) = control.mismatch_classes(KIND).await?.into_iter().next() {
            return Ok(Found { reads, after: began.elapsed(), class });
        }
        sleep(POLL).await;
    }
    bail!("{reads} reads within {FIND_DEADLINE:?} did not find the corrupted row")
}
