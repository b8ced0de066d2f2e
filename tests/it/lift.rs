//! Redis restarts with its data, or with older data: the lift names what was lost, Redis wins, and the mirror goes on (L1).

use serde_json::json;

use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restarted_redis_lost_is_listed_and_redis_wins() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("live").await;
    sidecar.command(&["HSET", "apikey:kept", "name", "before"]).await;
    sidecar.command(&["SADD", "apikey:idx:all", "kept"]).await;
    sidecar.drained().await;
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("SAVE").query_async(&mut connection).await.unwrap();
    // What follows reaches Postgres and is lost by Redis.
    sidecar.command(&["HSET", "apikey:kept", "name", "after"]).await;
    sidecar.command(&["HSET", "apikey:lost", "name", "never seen again"]).await;
    sidecar.command(&["SADD", "apikey:idx:all", "lost"]).await;
    sidecar.drained().await;
    redis.kill().unwrap();
    redis.restart().await.unwrap();

    let postgres = database.client().await;
    let ghosts = || async {
        let rows =
            postgres.query("SELECT id, doc->>'name' FROM ghosts WHERE kind = 'apikey' ORDER BY id", &[]).await.unwrap();
        rows.iter().map(|row| (row.get::<_, String>(0), row.get::<_, String>(1))).collect::<Vec<_>>()
    };
    wait_until("the lift has listed what was lost", PATIENCE, || async { ghosts().await.len() == 2 }).await;
    let pair = |id: &str, name: &str| (id.to_owned(), name.to_owned());
    assert_eq!(ghosts().await, [pair("kept", "after"), pair("lost", "never seen again")]);
    wait_until("the mirror goes on", PATIENCE, || async {
        let status = sidecar.get("/v1/status").await.json();
        status["lineage"] == "good" && status["outbox"]["depth"] == 0
    })
    .await;

    // Redis wins: the older value is back, and what it lost is gone, not deleted.
    let row = postgres.query_one("SELECT name FROM api_keys WHERE key = 'apikey:kept'", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "before");
    let row = postgres
        .query_one("SELECT gone_at IS NOT NULL, deleted_at IS NULL FROM api_keys WHERE key = 'apikey:lost'", &[])
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0) && row.get::<_, bool>(1));
    let row = postgres
        .query_one("SELECT count(*) FROM elements WHERE element = 'lost' AND deleted_at IS NULL", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 0);

    // Nothing is read from Postgres before the backfill that is owed. The first command finds the old connection broken.
    wait_until("commands are answered again", PATIENCE, || async { sidecar.try_command(&["PING"], &[]).await.is_ok() })
        .await;
    let answer = sidecar.ask(&["HGET", "apikey:kept", "name"], &[]).await;
    assert_eq!((answer.json()["result"].clone(), answer.header("parallax-source")), (json!("before"), Some("redis")));
    sidecar.backfill().await;
    let answer = sidecar.ask(&["HGET", "apikey:kept", "name"], &[]).await;
    assert_eq!(
        (answer.json()["result"].clone(), answer.header("parallax-source")),
        (json!("before"), Some("postgres"))
    );
    // A repair looks at every ghost again, and settles those whose record is the same in both stores.
    let unsettled = || async {
        let text = "SELECT count(*) FROM ghosts WHERE settled_at IS NULL";
        postgres.query_one(text, &[]).await.unwrap().get::<_, i64>(0)
    };
    assert!(unsettled().await > 0);
    let spec = json!({ "job": "repair", "kinds": ["*"] });
    crate::jobs::reaches(&sidecar, &crate::jobs::begin(&sidecar, spec).await, "done").await;
    assert!(unsettled().await > 0, "a dry run settled a ghost");
    let spec = json!({ "job": "repair", "kinds": ["*"], "apply": true });
    crate::jobs::reaches(&sidecar, &crate::jobs::begin(&sidecar, spec).await, "done").await;
    assert_eq!(unsettled().await, 0);
    sidecar.stop_expecting(&["the anchor names another run of redis", "redis is lifted"]).await;
}
