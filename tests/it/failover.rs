//! What Redis forgets of the flags when it fails over, and what the fleet makes of it (L3): no rollback is lost, and nothing is
//! changed while a sidecar may act on flags that Redis does not know any more.

use parallax::dev::servers::PrivateRedis;
use serde_json::json;

use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, raw, signal, wait_until};

const SHORT: [(&str, &str); 3] =
    [("PARALLAX_LEASE_MS", "6000"), ("PARALLAX_COMMAND_DEADLINE_MS", "500"), ("PARALLAX_BARRIER_WAIT_MS", "300")];

/// Redis is what it was when it was saved last, and another process: what a failover to a replica that lagged looks like.
async fn fails_over(redis: &PrivateRedis) {
    redis.kill().unwrap();
    redis.restart().await.unwrap();
}

async fn run_id(redis: &PrivateRedis) -> String {
    let info = format!("{:?}", raw(redis, "INFO server").await);
    let at = info.find("run_id:").unwrap() + "run_id:".len();
    info[at..at + 40].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_flags_change_only_when_every_sidecar_has_renewed_or_can_act_no_more_and_a_rollback_at_once() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let one = Sidecar::start_with(&redis, Some(&database), &SHORT).await;
    let frozen = Sidecar::start_with(&redis, Some(&database), &SHORT).await;
    one.flag("user", json!({ "stage": "dualwrite" })).await;
    wait_until("both have confirmed that", PATIENCE, || async {
        let fleet = one.get("/v1/fleet").await.json();
        fleet["sidecars"].as_array().unwrap().iter().filter(|row| row["confirmed"] == 1).count() == 2
    })
    .await;
    signal(&frozen, "STOP").await;
    raw(&redis, "SAVE").await;
    fails_over(&redis).await;
    let run = run_id(&redis).await;
    wait_until("the one has renewed its lease here", PATIENCE, || async {
        format!("{:?}", raw(&redis, "HVALS parallax:sidecars").await).contains(&run)
    })
    .await;
    // The first question finds the old connection broken.
    wait_until("the fleet is told of", PATIENCE, || async { one.get("/v1/fleet").await.status == 200 }).await;
    let fleet = one.get("/v1/fleet").await.json();
    let lease = |row: &&serde_json::Value| row["lease_ends_in_ms"].as_i64().unwrap();
    let sleeper = fleet["sidecars"].as_array().unwrap().iter().min_by_key(lease).unwrap();
    assert_eq!(sleeper["confirmed"], 0, "what was confirmed to the former run counts no more: {fleet}");
    let change = json!({ "stage": "shadow" });
    let refused = one.try_flag("user", change.clone()).await;
    assert_eq!(refused.status, 409, "{:?}", refused.body);
    assert!(String::from_utf8_lossy(&refused.body).contains("not confirmed"), "{:?}", refused.body);
    let wish = json!({ "scope": "user", "reason": "a story" });
    let rolled_back = one.admin("POST", "/v1/rollback", Some(wish), &[]).await.json();
    assert_eq!(rolled_back["fleet"], true, "a rollback waits for nobody: {rolled_back}");
    let change = json!({ "stage": "shadow", "resume": true, "reason": "a story" });
    wait_until("the lease of the frozen one has ended", PATIENCE, || async {
        one.try_flag("user", change.clone()).await.status == 200
    })
    .await;
    frozen.kill().await;
    one.stop_with(&[], &["the anchor names another run", "redis is lifted", "lease", "redis"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_redis_lost_in_a_failover_is_made_again_also_where_others_wrote_flags_meanwhile() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start_with(&redis, Some(&database), &SHORT).await;
    sidecar.command(&["SET", "user:u1", "v"]).await;
    sidecar.raise("live").await;
    let redis::Value::BulkString(live) = raw(&redis, "HGET parallax:flags *").await else { panic!("no flag") };
    raw(&redis, "SAVE").await;
    let wish = json!({ "scope": "user", "reason": "a story" });
    let report = sidecar.admin("POST", "/v1/rollback", Some(wish), &[]).await.json();
    assert_eq!((&report["fleet"], &report["waiting"]), (&json!(true), &json!([])), "{report}");
    // It sleeps through the failover, and through what others write there: as many versions as it knows, and other flags.
    signal(&sidecar, "STOP").await;
    fails_over(&redis).await;
    let version = &report["version"];
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("HSET")
        .arg("parallax:flags")
        .arg("version")
        .arg(version.to_string())
        .arg("user")
        .arg(live)
        .query_async(&mut connection)
        .await
        .unwrap();
    signal(&sidecar, "CONT").await;
    wait_until("the flags say so again", PATIENCE, || async {
        let flags = format!("{:?}", raw(&redis, "HGET parallax:flags user").await);
        flags.contains("shadow") && flags.contains(r#"\"latched\":true"#)
    })
    .await;
    let flag = sidecar.get("/v1/flags/user").await.json()["flag"].clone();
    assert_eq!((&flag["stage"], &flag["latched"]), (&json!("shadow"), &json!(true)), "{flag}");
    let possible = ["the anchor names another run", "redis is lifted", "lease", "redis", "flags were written back"];
    sidecar.stop_with(&["a rollback that redis had lost was made again"], &possible).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn that_redis_failed_over_is_written_down_before_the_lift_so_that_a_way_back_to_the_former_run_is_noticed_too() {
    let (redis, database) = (support::redis().await, support::postgres_of_its_own(Default::default()).await);
    let sidecar = Sidecar::start_with(&redis, Some(&database), &SHORT).await;
    let former = run_id(&redis).await;
    let anchor = async || format!("{:?}", raw(&redis, "HGET parallax:anchor run_id").await);
    assert!(anchor().await.contains(&former));
    raw(&redis, "SAVE").await;
    // The lift cannot be done: Postgres does not answer.
    database.server.pause().unwrap();
    fails_over(&redis).await;
    wait_until("the anchor names no run", PATIENCE, async || anchor().await.contains("left")).await;
    database.server.resume().unwrap();
    let now = run_id(&redis).await;
    wait_until("it is lifted", PATIENCE, async || anchor().await.contains(&now)).await;
    sidecar.stop_with(&["redis is lifted"], &["the anchor names another run", "lease", "redis", "postgres"]).await;
}
