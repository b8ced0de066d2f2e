//! Jobs: one at a time in the fleet, with a pace, a place to go on at, and an end that can be asked for.

mod backfill;
mod bad_input;
mod hammer;
mod overwrite;
mod planted;
mod races;
mod repair;
mod restore;
mod runner;
mod verify;

use std::process::Stdio;

use parallax::dev::servers::PrivateRedis;
use serde_json::{Value as Json, json};
use tokio::process::Command;

use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{Database, wait_until};

/// Begins a job, which must be accepted; answers its id. Where the story says nothing of its pace, a busy machine is not
/// taken for a store that suffers.
pub(crate) async fn begin(sidecar: &Sidecar, mut spec: Json) -> String {
    let pace = spec.as_object_mut().unwrap().entry("pace").or_insert(json!({})).as_object_mut().unwrap();
    for limit in ["redis_p99_ms", "postgres_ms", "outbox_age_ms"] {
        pace.entry(limit).or_insert(json!(60_000));
    }
    let started = sidecar.admin("POST", "/v1/jobs", Some(spec), &[]).await;
    assert_eq!(started.status, 202, "{:?}", started.body);
    started.json()["id"].as_str().unwrap().to_owned()
}

/// A job as it stands.
pub(crate) async fn job(sidecar: &Sidecar, id: &str) -> Json {
    sidecar.get(&format!("/v1/jobs/{id}")).await.json()
}

/// Tells a job something.
pub(crate) async fn tell(sidecar: &Sidecar, id: &str, wish: &str) -> u16 {
    sidecar.admin("POST", &format!("/v1/jobs/{id}/{wish}"), Some(json!({})), &[]).await.status
}

/// Waits until a job is in this state.
pub(crate) async fn reaches(sidecar: &Sidecar, id: &str, state: &str) -> Json {
    wait_until(&format!("{id} is {state}"), PATIENCE, || async {
        let job = job(sidecar, id).await;
        assert!(job["state"] == state || job["finished_at"].is_null(), "{job}");
        job["state"] == state
    })
    .await;
    job(sidecar, id).await
}

/// The program as a job, with both stores.
pub(crate) fn program(redis: &PrivateRedis, database: &Database, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parallax"));
    command.args(arguments);
    if !["ghosts", "gaps"].contains(&arguments[0]) {
        command.args(["--redis-p99-ms", "60000", "--postgres-ms", "60000", "--outbox-age-ms", "60000"]);
    }
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("REDIS_URL", redis.url()).env("DATABASE_URL", database.url());
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Puts `count` users into Redis past every sidecar.
pub(crate) async fn plant(redis: &PrivateRedis, count: u32) {
    let mut connection = crate::equality::connection(redis).await;
    let numbers: Vec<u32> = (0..count).collect();
    for chunk in numbers.chunks(1_000) {
        let mut pipeline = redis::pipe();
        for number in chunk {
            pipeline.cmd("SET").arg(format!("user:{number}")).arg(format!("{{\"n\":{number}}}")).ignore();
        }
        let () = pipeline.query_async(&mut connection).await.unwrap();
    }
}
