//! What the sidecar stands on is checked at its start: it leaves with the reason and the remedy, or goes on with a warning.

use std::process::Stdio;
use std::time::Duration;

use parallax::dev::servers::{PostgresOptions, PrivateRedis, RedisOptions};
use parallax::settings::{Inputs, load};
use parallax::stores::migrations;
use serde_json::json;
use tokio::process::Command;

use crate::requirements::{block, words};
use crate::support::sidecar::Sidecar;
use crate::support::{self, Database};

/// What `parallax serve` says when it leaves at once, which it must.
async fn refusal(redis_url: &str, postgres_url: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parallax"));
    command.arg("serve").env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("REDIS_URL", redis_url).env("DATABASE_URL", postgres_url);
    command.env("PARALLAX_HTTP_LISTEN", "127.0.0.1:0").env("PARALLAX_ADMIN_LISTEN", "127.0.0.1:0");
    command.env("PARALLAX_RESP_LISTEN", "127.0.0.1:0");
    let child = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(30), child).await.expect("it leaves by itself").unwrap();
    assert!(!output.status.success());
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn ask(redis: &PrivateRedis, command: &[&str]) {
    let mut connection = redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let mut cmd = redis::Cmd::new();
    cmd.arg(command);
    let _: redis::Value = cmd.query_async(&mut connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_refused_with_the_remedy() {
    let (primary, replica, database) = (support::redis().await, support::redis().await, support::postgres().await);
    ask(&replica, &["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).await;
    let said = refusal(&replica.url(), &database.url()).await;
    assert!(said.contains("this redis is a replica: give the address of its primary"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_refused_with_the_reason() {
    let options =
        RedisOptions { config: vec![("cluster-enabled".to_owned(), "yes".to_owned())], ..RedisOptions::default() };
    let (redis, database) = (PrivateRedis::start(options).await.unwrap(), support::postgres().await);
    let said = refusal(&redis.url(), &database.url()).await;
    assert!(said.contains("redis runs in mode cluster"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_scripts_is_refused_with_the_remedy() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    ask(&redis, &["ACL", "SETUSER", "limited", "on", ">x", "~*", "+@all", "-@scripting"]).await;
    let url = format!("redis://limited:x@127.0.0.1:{}", redis.port());
    let said = refusal(&url, &database.url()).await;
    assert!(said.contains("scripts are not allowed") && said.contains("docs/requirements.md"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_schema_names_the_command_that_brings_it() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let said = refusal(&redis.url(), &database.server.url()).await;
    assert!(said.contains("the schema is not complete") && said.contains("parallax migrate"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_grants_is_refused_with_the_tables() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let role = format!("reader_{}", database.name);
    database.client().await.batch_execute(&format!("CREATE ROLE {role} LOGIN")).await.unwrap();
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let said = refusal(&redis.url(), &url).await;
    assert!(said.contains("may not read and write") && said.contains("usage_counters"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicting_redis_is_warned_of() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    ask(&redis, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.stop_expecting(&["maxmemory-policy is allkeys-lru"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_suffice_for_the_whole_way() {
    let (redis, database) = (support::redis().await, support::postgres_of_its_own(PostgresOptions::default()).await);
    ask(&redis, &words(block("ACL SETUSER").trim())).await;
    // The page's own database, beside the one that the harness made.
    let script = block("CREATE ROLE").replace("CREATE DATABASE parallax ", "CREATE DATABASE documented ");
    let (roles, grants) = script.split_once("\\connect parallax\n").expect("the page says where to connect");
    let admin = database.client().await;
    for statement in roles.split_inclusive(";\n") {
        admin.batch_execute(statement).await.unwrap();
    }
    support::client(&database.server.url_of("documented")).await.batch_execute(grants).await.unwrap();
    let url = |role: &str| format!("postgres://{role}:x@127.0.0.1:{}/documented", database.server.port());
    let migrating = load(&Inputs::of_variables(&[("DATABASE_URL", &url("parallax_migrate"))])).unwrap();
    migrations::apply(&migrating.settings.postgres.unwrap(), 8).await.unwrap();

    let served = Database { server: database.server.clone(), name: "documented".to_owned() };
    let redis_url = format!("redis://parallax:choose-a-password@127.0.0.1:{}", redis.port());
    let serving = url("parallax_serve");
    let more = [("REDIS_URL", redis_url.as_str()), ("DATABASE_URL", serving.as_str())];
    let sidecar = Sidecar::start_with(&redis, Some(&served), &more).await;
    sidecar.raise("live").await;
    for command in [
        &["HSET", "apikey:a", "name", "first"][..],
        &["SADD", "apikey:idx:all", "a"],
        &["LPUSH", "usage:records:a", "{}"],
        &["XADD", "billing:events", "*", "data", "{}"],
        &["EXPIRE", "apikey:a", "100"],
        &["DEL", "apikey:idx:all"],
    ] {
        sidecar.command(command).await;
    }
    sidecar.drained().await;
    let answer = sidecar.ask(&["HGETALL", "apikey:a"], &[]).await;
    assert_eq!(answer.header("parallax-source"), Some("postgres"), "{:?}", answer.body);
    let report = sidecar.admin("POST", "/v1/rollback", Some(json!({ "scope": "*", "reason": "a story" })), &[]).await;
    assert_eq!(report.status, 200, "{:?}", report.body);
    sidecar.stop_expecting(&[]).await;
}
