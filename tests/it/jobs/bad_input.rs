//! What a job refuses: each with a sentence that says what to do.

use parallax::dev::servers::{PostgresOptions, PrivatePostgres, PrivateRedis, RedisOptions};
use serde_json::{Value as Json, json};

use crate::jobs::{begin, plant, program, reaches, tell};
use crate::support::sidecar::Sidecar;
use crate::support::{self, Database, raw};

/// Where Debian puts a module with types of its own.
const MODULE: &str = "/usr/lib/redis/modules/redisearch.so";

async fn failed(redis: &PrivateRedis, database: &Database, arguments: &[&str], more: &[(&str, &str)]) -> String {
    let output = program(redis, database, arguments).envs(more.iter().copied()).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?} did not fail: {said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_there_is_not_and_limits_that_make_no_sense_are_named() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    let post = async |spec: Json| sidecar.admin("POST", "/v1/jobs", Some(spec), &[]).await;
    for job in ["backfill", "verify", "repair"] {
        let answer = post(json!({ "job": job, "kinds": ["usr"] })).await;
        assert_eq!(answer.status, 404, "{job}: {:?}", answer.body);
        let said = failed(&redis, &database, &[job, "--kinds", "usr"], &[]).await;
        assert!(said.contains("no such kind"), "{job}: {said}");
    }
    let ephemeral = post(json!({ "job": "backfill", "kinds": ["session"] })).await;
    assert_eq!(ephemeral.status, 409, "{:?}", ephemeral.body);
    for limit in ["keys_per_second", "bytes_per_second", "redis_p99_ms", "postgres_ms", "outbox_age_ms"] {
        for value in [json!(0), json!(-1), json!("much"), json!(1.5), json!(1e30)] {
            let answer = post(json!({ "job": "verify", "kinds": ["user"], "pace": { limit: value } })).await;
            assert_eq!(answer.status, 422, "{limit} = {value}: {:?}", answer.body);
        }
        let flag = format!("--{}", limit.replace('_', "-"));
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_parallax"));
        command.args(["backfill", &flag, "0"]).env("REDIS_URL", redis.url()).env("DATABASE_URL", database.url());
        let output = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(&format!("{limit} must be at least 1")), "{said}");
    }
    for bound in [json!({ "max_keys": -1 }), json!({ "max_per_million": "all" }), json!({ "max": 1 })] {
        let answer = post(json!({ "job": "repair", "kinds": ["user"], "bound": bound })).await;
        assert_eq!(answer.status, 422, "{bound}: {:?}", answer.body);
    }
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_job_is_told_the_id_of_the_first_whoever_asks_and_whatever_for() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    sidecar.backfill().await;
    plant(&redis, 3_000).await;
    let slow = json!({ "job": "backfill", "kinds": ["user"], "pace": { "keys_per_second": 100 } });
    let id = begin(&sidecar, slow).await;
    for job in ["backfill", "verify", "repair", "restore"] {
        let kinds = if job == "restore" { "*" } else { "user" };
        let answer = sidecar.admin("POST", "/v1/jobs", Some(json!({ "job": job, "kinds": [kinds] })), &[]).await;
        assert_eq!((answer.status, &answer.json()["id"]), (409, &json!(id)), "{job}: {:?}", answer.body);
        let said = failed(&redis, &database, &[job, "--kinds", kinds], &[]).await;
        assert!(said.contains(&id), "{job}: {said}");
    }
    assert_eq!(tell(&sidecar, &id, "cancel").await, 202);
    reaches(&sidecar, &id, "cancelled").await;
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_without_the_schema_and_a_redis_without_scripts_are_told_with_the_remedy() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let empty = PrivatePostgres::start(PostgresOptions::default()).await.unwrap();
    raw(&redis, "ACL SETUSER mute on >secret ~* &* +@all -eval -evalsha").await;
    let mute = format!("redis://mute:secret@127.0.0.1:{}", redis.port());
    for job in ["backfill", "verify", "repair", "restore"] {
        let said = failed(&redis, &database, &[job], &[("DATABASE_URL", &empty.url())]).await;
        assert!(said.contains("parallax migrate"), "{job}: {said}");
        let said = failed(&redis, &database, &[job], &[("REDIS_URL", &mute)]).await;
        assert!(said.contains("scripts are not allowed") && said.contains("EVAL"), "{job}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_evicts_is_refused_by_every_job_until_it_is_allowed() {
    let config = vec![("maxmemory-policy".to_owned(), "allkeys-lru".to_owned())];
    let redis = PrivateRedis::start(RedisOptions { config, ..Default::default() }).await.unwrap();
    let database = support::postgres().await;
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    for job in ["backfill", "verify", "repair"] {
        let said = failed(&redis, &database, &[job, "--kinds", "user"], &[]).await;
        let is_told = said.contains("allkeys-lru") && said.contains("--allow-eviction");
        assert!(is_told || (job == "verify" && said.contains("backfill")), "{job}: {said}");
        let output = program(&redis, &database, &[job, "--kinds", "user", "--allow-eviction"]).output().await.unwrap();
        assert!(output.status.success(), "{job}: {}", String::from_utf8_lossy(&output.stderr));
    }
    sidecar.stop_expecting(&["maxmemory-policy is allkeys-lru"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_a_modules_type_are_listed_and_counted_and_everything_else_goes_on() {
    if !std::path::Path::new(MODULE).exists() {
        eprintln!("SKIPPED: no module at {MODULE} (the Debian package redis-redisearch)");
        return;
    }
    let config = vec![("loadmodule".to_owned(), MODULE.to_owned())];
    let redis = PrivateRedis::start(RedisOptions { config, ..Default::default() }).await.unwrap();
    let database = support::postgres().await;
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.flag("user", json!({ "stage": "dualwrite" })).await;
    for line in ["FT.CREATE words SCHEMA text TEXT", "FT.ADD words one 1.0 FIELDS text hello"] {
        raw(&redis, line).await;
    }
    // A record of a mirrored kind that is of a module's type.
    raw(&redis, "RENAME ft:words/hello user:module").await;
    plant(&redis, 50).await;
    let done = reaches(&sidecar, &begin(&sidecar, json!({ "job": "backfill", "kinds": ["user"] })).await, "done").await;
    assert_eq!(done["report"]["modules"], json!({ "ft_invidx": 1 }), "{done}");
    let client = database.client().await;
    let rows = client.query_one("SELECT count(*) FROM users", &[]).await.unwrap().get::<_, i64>(0);
    let letters = "SELECT count(*) FROM dead_letters WHERE kind = 'user'";
    let letters = client.query_one(letters, &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!((rows, letters), (50, 1));
    for exhaustive in [false, true] {
        let spec = json!({ "job": "verify", "kinds": ["user"], "exhaustive": exhaustive });
        let done = reaches(&sidecar, &begin(&sidecar, spec).await, "done").await;
        assert_eq!(done["report"]["modules"], json!({ "ft_invidx": 1 }), "{done}");
    }
    let one = sidecar.admin("POST", "/v1/records/user/module/migrate", Some(json!({})), &[]).await;
    assert!(one.status == 409 && one.json()["detail"].as_str().unwrap().contains("module"), "{:?}", one.body);
    sidecar.stop_with(&[], &["dead letter", "cannot be mirrored", "module"]).await;
}
