//! Two leaders never act at once: what a leader writes after it lost its lease is refused, and so is a change of an older version.

use std::time::Duration;

use parallax::dual::guard::Decision;
use parallax::stores::redis::Redis;
use parallax::stores::redis::change::{self, Change, Written};
use serde_json::json;

use super::{becomes, decisions, plan, post, proven, read};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, raw, signal, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_lease_another_one_has_writes_nothing() {
    let server = support::redis().await;
    let redis = Redis::new(redis::Client::open(server.url()).unwrap(), Duration::from_secs(5));
    let lead = async |who| change::lead(&redis, who, 60_000).await.unwrap();
    let flags = |percent: f64| [("user".to_owned(), json!({ "percent": percent }).to_string())].into();
    let first = lead("one/a").await.unwrap();
    assert_eq!((lead("one/a").await, lead("two/b").await), (Some(first.clone()), None));
    assert_eq!(Change::of_flags(0, 1, flags(1.0)).under(&first).write(&redis).await.unwrap(), Written::Done(1));

    // It decides for so long that its lease ends, and another one leads.
    raw(&server, "DEL parallax:lease:guard").await;
    let second = lead("two/b").await.unwrap();
    assert_eq!(Change::of_flags(1, 2, flags(2.0)).under(&first).write(&redis).await.unwrap(), Written::NotLeading);
    let late = Change::default().with_plan("user", 0, "{}".to_owned()).under(&first);
    assert_eq!(late.write(&redis).await.unwrap(), Written::NotLeading);
    assert_eq!(Change::of_flags(1, 2, flags(3.0)).under(&second).write(&redis).await.unwrap(), Written::Done(2));
    // Back in office it is another leader: what it decided before counts no more.
    raw(&server, "DEL parallax:lease:guard").await;
    let third = lead("one/a").await.unwrap();
    assert_ne!(first, third);
    assert_eq!(Change::of_flags(2, 3, flags(4.0)).under(&first).write(&redis).await.unwrap(), Written::NotLeading);

    assert_eq!(Change::of_flags(1, 2, flags(5.0)).under(&third).write(&redis).await.unwrap(), Written::Stale(2));
    assert_eq!(Change::of_flags(1, 2, flags(6.0)).write(&redis).await.unwrap(), Written::Stale(2));
    let planned =
        |revision| Change::default().with_plan("user", revision, json!({ "revision": revision + 1 }).to_string());
    assert_eq!(planned(0).write(&redis).await.unwrap(), Written::Done(2));
    assert_eq!(planned(0).write(&redis).await.unwrap(), Written::PlanMoved);
    assert_eq!(planned(1).write(&redis).await.unwrap(), Written::Done(2));
    assert!(format!("{:?}", raw(&server, "HGET parallax:flags user").await).contains("3.0"), "the leader's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_frozen_takes_no_step_that_another_took() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let frozen = proven(&redis, &database, &[]).await;
    let steps: Vec<_> = (1..=4).map(|n| json!({ "percent": 25.0 * f64::from(n), "bake_seconds": 1 })).collect();
    post(&frozen, "user", json!({ "steps": steps, "reason": "a story" })).await;
    becomes(&frozen, "user", "baking").await;
    let other = Sidecar::start(&redis, &database).await;
    signal(&frozen, "STOP").await;
    raw(&redis, "DEL parallax:lease:guard").await;
    wait_until("the other one has taken a step", PATIENCE, async || {
        read(&other, 0, 200).await;
        plan(&other, "user").await["step"].as_u64() >= Some(1)
    })
    .await;
    signal(&frozen, "CONT").await;
    wait_until("the plan is done", PATIENCE * 2, async || {
        read(&other, 0, 200).await;
        read(&frozen, 200, 200).await;
        plan(&other, "user").await["state"] == "done"
    })
    .await;
    let decided = decisions(&other, "user").await;
    let decided: Vec<Decision> = decided.into_iter().map(|row| serde_json::from_value(row).unwrap()).collect();
    let steps: Vec<usize> = decided.iter().rev().filter(|row| row.decision == "stepped").map(|row| row.step).collect();
    assert_eq!(steps, [0, 1, 2, 3], "each step once, in its order");
    other.stop_expecting(&[]).await;
    frozen.stop_with(&[], &["lease", "postgres"]).await;
}
