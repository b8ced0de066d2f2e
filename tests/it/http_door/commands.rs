//! Stories of the command API.

use http::{Method, StatusCode};
use serde_json::json;

use super::Door;

#[tokio::test(flavor = "multi_thread")]
async fn commands_come_alone_in_pipelines_in_transactions_and_in_paths() {
    let door = Door::start().await;
    assert_eq!(door.post("/redis", json!(["HSET", "apikey:k", "n", 1, "b", true])).await.json(), json!({"result": 2}));
    assert_eq!(door.post("/redis", json!(["HGET", "apikey:k", "b"])).await.json(), json!({"result": "true"}));
    assert_eq!(door.post("/redis", json!(["HGET", "apikey:k", "none"])).await.json(), json!({"result": null}));
    let wrong = door.post("/redis", json!(["GET", "apikey:k"])).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert!(wrong.json()["error"].as_str().expect("an error").starts_with("WRONGTYPE"), "{wrong:?}");

    let pipeline = json!([["SET", "p", "v"], ["GET", "apikey:k"], ["FLUSHALL"], ["LRANGE", "l", 0, -1], ["INCR", "i"]]);
    let answers = door.post("/redis/pipeline", pipeline).await.json();
    assert_eq!(
        (&answers[0], &answers[3], &answers[4]),
        (&json!({"result": "OK"}), &json!({"result": []}), &json!({"result": 1}))
    );
    assert!(answers[1]["error"].as_str().expect("an error").starts_with("WRONGTYPE"), "{answers}");
    assert!(answers[2]["error"].as_str().expect("an error").starts_with("PARALLAX"), "{answers}");

    let transaction = json!([["INCR", "i"], ["HINCRBY", "apikey:k", "n", 4], ["LPUSH", "p", "x"]]);
    let answers = door.post("/redis/multi-exec", transaction).await.json();
    assert_eq!((&answers[0], &answers[1]), (&json!({"result": 2}), &json!({"result": 5})));
    assert!(answers[2]["error"].as_str().expect("an error").starts_with("WRONGTYPE"), "{answers}");
    let aborted = door.post("/redis/multi-exec", json!([["INCR", "i"], ["INCR"]])).await;
    assert_eq!(aborted.status, StatusCode::BAD_REQUEST, "{aborted:?}");
    assert_eq!(door.in_redis::<i64>(&["GET", "i"]).await, 2, "nothing of an aborted transaction was executed");

    let set = door.send(Method::POST, "/redis/set/a%2Fb?EX=100", &[], &b"\x00\xff"[..]).await;
    assert_eq!(set.json(), json!({"result": "OK"}));
    assert!(door.in_redis::<i64>(&["TTL", "a/b"]).await > 0);
    assert_eq!(door.get("/redis/get/a%2Fb").await.json(), json!({"result": "\\x00ff"}));
    let base64 = door.send(Method::GET, "/redis/get/a%2Fb", &[("upstash-encoding", "base64")], "").await;
    assert_eq!(base64.json(), json!({"result": "AP8="}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_refused_is_answered_403_with_the_reason() {
    let door = Door::start().await;
    for command in [
        json!(["FLUSHALL"]),
        json!(["shutdown"]),
        json!(["CONFIG", "SET", "maxmemory", "1"]),
        json!(["REPLICAOF", "NO", "ONE"]),
        json!(["DEBUG", "SLEEP", "1"]),
        json!(["SUBSCRIBE", "c"]),
        json!(["MULTI"]),
        json!(["MONITOR"]),
    ] {
        let refused = door.post("/redis", command.clone()).await;
        assert_eq!((refused.status, refused.problem()), (StatusCode::FORBIDDEN, "command-refused".into()), "{command}");
        assert!(refused.json()["error"].as_str().expect("for client libraries").starts_with("PARALLAX "));
    }
    for command in [
        json!(["GET", "parallax:flags"]),
        json!(["DEL", "a", "parallax:outbox"]),
        json!(["EVAL", "return 1", 1, "parallax:outbox"]),
        json!(["RENAME", "a", "parallax:clock"]),
        json!(["PUBLISH", "parallax:flags:changed", "1"]),
        json!(["PUBSUB", "NUMSUB", "parallax:flags:changed"]),
    ] {
        let refused = door.post("/redis", command.clone()).await;
        assert_eq!((refused.status, refused.problem()), (StatusCode::FORBIDDEN, "control-key".into()), "{command}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_command_request_is_told_apart() {
    let door = Door::start().await;
    let malformed = door.send(Method::POST, "/redis", &[], "[\"GET\",\n \"a\"").await;
    assert_eq!((malformed.problem(), &malformed.json()["line"]), ("malformed-json".into(), &json!(2)));
    assert_eq!(door.post("/redis", json!([])).await.problem(), "malformed-json");
    assert_eq!(door.post("/redis/pipeline", json!(["GET", "a"])).await.problem(), "malformed-json");
    assert_eq!(door.send(Method::GET, "/redis", &[], "").await.problem(), "method-not-allowed");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(door.send(Method::POST, "/redis", &form, "[\"PING\"]").await.problem(), "unsupported-media-type");
}
