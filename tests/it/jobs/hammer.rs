//! A repair among writers of the very records that it repairs: the last acknowledged write stands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::Method;
use parallax::client::Client;
use serde_json::json;
use tokio::task::JoinSet;

use crate::equality::{assert_equal, drained};
use crate::jobs::{begin, plant, reaches};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, wait_until};

/// Records that writers and a repair fight over when nobody asks for more, and of `make soak`.
const HAMMERED: usize = 500;
const SOAK_HAMMERED: usize = 10_000;
const HAMMERERS: usize = 4;

/// Writes and deletes every fourth record again and again until `stop`; what each was last. Each writer has records of its own,
/// so that the last write of each is known.
async fn hammer(door: String, writer: usize, records: usize, stop: Arc<AtomicBool>) -> BTreeMap<usize, Option<String>> {
    let own: Vec<usize> = (0..records).filter(|record| record % HAMMERERS == writer).collect();
    let (mut client, mut last) = (Client::new(door), BTreeMap::new());
    let mut round = 0;
    while !stop.load(Ordering::Acquire) {
        for chunk in own.chunks(100) {
            let value =
                |record: usize| Some(format!("{writer}-{round}")).filter(|_| !(record + round).is_multiple_of(7));
            let command = |record: &usize| match value(*record) {
                Some(text) => json!(["SET", format!("user:{record}"), text]),
                None => json!(["DEL", format!("user:{record}")]),
            };
            let commands: Vec<_> = chunk.iter().map(command).collect();
            let headers = [("content-type", "application/json")];
            let body = Bytes::from(json!(commands).to_string());
            let answer = client.send(Method::POST, "/redis/pipeline", &headers, body).await.unwrap();
            assert!(answer.status.is_success(), "{}", answer.status);
            last.extend(chunk.iter().map(|record| (*record, value(*record))));
        }
        round += 1;
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_a_repair_among_writers_of_the_same_records_overrules_and_resurrects_none() {
    let records = if std::env::var_os("PARALLAX_SOAK").is_some() { SOAK_HAMMERED } else { HAMMERED };
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    plant(&redis, u32::try_from(records).unwrap()).await;
    sidecar.backfill().await;
    let client = database.client().await;
    // Every record is a suspect, and its row is bent again and again beneath the guard.
    let suspects = "INSERT INTO mismatches (kind, key_hash, id, class) SELECT kind, key_hash, id, 'value' FROM users";
    client.batch_execute(suspects).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..HAMMERERS {
        writers.spawn(hammer(sidecar.data.clone(), writer, records, Arc::clone(&stop)));
    }
    let bound = json!({ "max_keys": 1_000_000, "max_per_million": 1_000_000 });
    for _ in 0..3 {
        let bend = "UPDATE users SET doc = to_jsonb('bent'::text), deleted_at = NULL, gone_at = NULL WHERE abs(hashtext(key)) % 3 = 0";
        // It takes the locks of many rows, and so do applies: Postgres may end it for that.
        wait_until("rows are bent", PATIENCE, || async { client.batch_execute(bend).await.is_ok() }).await;
        let spec = json!({ "job": "repair", "kinds": ["user"], "apply": true, "bound": bound });
        let id = begin(&sidecar, spec).await;
        reaches(&sidecar, &id, "done").await;
    }
    stop.store(true, Ordering::Release);
    let mut expected = BTreeMap::new();
    for last in writers.join_all().await {
        expected.extend(last);
    }
    // What was bent after its last write is repaired when nobody writes any more.
    drained(&redis).await;
    let spec = json!({ "job": "repair", "kinds": ["user"], "apply": true, "bound": bound });
    reaches(&sidecar, &begin(&sidecar, spec).await, "done").await;
    drained(&redis).await;
    let rows = client
        .query("SELECT id, doc::text FROM users WHERE deleted_at IS NULL AND gone_at IS NULL", &[])
        .await
        .unwrap();
    let rows: BTreeMap<usize, String> = rows
        .iter()
        .map(|row| (row.get::<_, &str>(0).parse().unwrap(), row.get::<_, String>(1).trim_matches('"').to_owned()))
        .collect();
    let (mut clobbered, mut resurrected) = (0, 0);
    for (record, last) in &expected {
        match (last, rows.get(record)) {
            (Some(text), Some(row)) if text == row => {}
            (Some(_), _) => clobbered += 1,
            (None, None) => {}
            (None, Some(_)) => resurrected += 1,
        }
    }
    assert_eq!((clobbered, resurrected, expected.len()), (0, 0, records), "clobbered, resurrected, of all");
    assert_equal(&redis, &database).await;
    sidecar.stop_expecting(&[]).await;
}
