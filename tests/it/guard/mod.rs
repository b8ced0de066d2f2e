//! Plans and the guard: a kind climbs by itself, and comes back by itself, whatever becomes of stores and leaders.

mod breaches;
mod leaders;
mod plans;

use serde_json::{Value as Json, json};

use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{Database, wait_until};

/// Users that are read.
const USERS: usize = 1_000;

fn user(n: usize) -> String {
    format!("user:u{}", n % USERS)
}

/// A sidecar whose users are in shadow, backfilled and compared in full, every read of them compared.
async fn proven(redis: &parallax::dev::servers::PrivateRedis, database: &Database, more: &[(&str, &str)]) -> Sidecar {
    let sidecar = Sidecar::start_with(redis, Some(database), more).await;
    for stage in ["dualwrite", "shadow"] {
        sidecar.flag("user", json!({ "stage": stage, "sample_rate": 1.0, "deadline_ms": 1000 })).await;
    }
    let writes: Vec<Vec<String>> = (0..USERS).map(|n| vec!["SET".to_owned(), user(n), format!("v{n}")]).collect();
    sidecar.pipeline(&writes).await;
    sidecar.drained().await;
    sidecar.backfill().await;
    sidecar.verified("user").await;
    sidecar
}

/// Reads users one after the other, in pipelines, and answers how many reads were no success.
async fn read(sidecar: &Sidecar, from: usize, count: usize) -> usize {
    let reads: Vec<Vec<String>> = (from..from + count).map(|n| vec!["GET".to_owned(), user(n)]).collect();
    let answers = sidecar.pipeline(&reads).await;
    answers.iter().filter(|answer| answer.get("result").is_none_or(Json::is_null)).count()
}

async fn post(sidecar: &Sidecar, name: &str, spec: Json) -> Json {
    let answer = sidecar.admin("POST", &format!("/v1/flags/{name}/plan"), Some(spec), &[]).await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    answer.json()
}

async fn plan(sidecar: &Sidecar, name: &str) -> Json {
    sidecar.get(&format!("/v1/flags/{name}/plan")).await.json()
}

async fn decisions(sidecar: &Sidecar, name: &str) -> Vec<Json> {
    let answer = sidecar.get(&format!("/v1/flags/{name}/decisions")).await.json();
    answer["decisions"].as_array().unwrap().clone()
}

/// Does with a plan what an operator wants; the status of the answer.
async fn wish(sidecar: &Sidecar, name: &str, verb: &str, reason: Option<&str>) -> u16 {
    let body = reason.map_or(json!({}), |reason| json!({ "reason": reason }));
    sidecar.admin("POST", &format!("/v1/flags/{name}/plan/{verb}"), Some(body), &[]).await.status
}

async fn becomes(sidecar: &Sidecar, name: &str, state: &str) {
    wait_until(&format!("the plan is {state}"), PATIENCE, async || plan(sidecar, name).await["state"] == state).await;
}

/// The flag of users.
async fn flag(sidecar: &Sidecar) -> Json {
    sidecar.get("/v1/flags/user").await.json()["flag"].clone()
}
