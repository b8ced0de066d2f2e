//! Bad input: each mistake has its own status and `type`, changes nothing, and shows nothing of ours.

use bytes::Bytes;
use serde_json::{Value as Json, json};

use crate::support;
use crate::support::sidecar::{Answer, Sidecar};

/// The last part of the problem's `type`, once its form is checked.
fn problem(answer: &Answer) -> String {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let body = answer.json();
    assert_eq!(body["status"], answer.status);
    for member in ["title", "detail"] {
        assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    }
    body["type"].as_str().unwrap().strip_prefix("urn:parallax:problem:").unwrap().to_owned()
}

fn told(answer: &Answer) -> (u16, String) {
    (answer.status, problem(answer))
}

fn is(status: u16, kind: &str) -> (u16, String) {
    (status, kind.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_of_a_data_request_has_its_own_type() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start_with(&redis, Some(&database), &[("PARALLAX_BODY_BYTES_MAX", "4096")]).await;
    sidecar.raise("dualwrite").await;
    sidecar.command(&["SADD", "apikey:set", "m"]).await;
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(5000));
    let large_command = format!("[\"SET\",\"apikey:large\",\"{}\"]", "x".repeat(5000));
    let form = ("content-type", "application/x-www-form-urlencoded");
    let merge = ("content-type", "application/merge-patch+json");
    let record = "/v1/records/apikey/k-1";
    let none: &[(&str, &str)] = &[];
    for (method, path, body, headers, expected) in [
        ("GET", "/", "", none, is(404, "not-found")),
        ("GET", "/v1/records", "", none, is(404, "not-found")),
        ("GET", "/v1/records/apikey/a/b", "", none, is(404, "not-found")),
        ("GET", "/redisx", "", none, is(404, "not-found")),
        ("GET", "/v1/records/nobody/x", "", none, is(404, "unknown-kind")),
        ("GET", "/v1/records/%ff/x", "", none, is(404, "unknown-kind")),
        ("GET", record, "", none, is(404, "no-record")),
        ("POST", record, "{}", none, is(405, "method-not-allowed")),
        ("DELETE", "/redis", "", none, is(405, "method-not-allowed")),
        ("PUT", record, "{\"a\":1,\n  \"b\":}", none, is(400, "malformed-json")),
        ("PUT", record, "{\"a\":1} x", none, is(400, "malformed-json")),
        ("PUT", record, "[1]", none, is(400, "malformed-json")),
        ("PUT", record, "{}", none, is(422, "invalid-field")),
        ("PATCH", record, "{\"a\":", &[merge], is(400, "malformed-json")),
        ("POST", "/redis", "[\"GET\",", none, is(400, "malformed-json")),
        ("POST", "/redis", "[\"GET\",[\"a\"]]", none, is(400, "malformed-json")),
        ("POST", "/redis", "[]", none, is(400, "malformed-json")),
        ("POST", "/redis/pipeline", "[\"GET\",\"a\"]", none, is(400, "malformed-json")),
        ("POST", "/redis/multi-exec", "{}", none, is(400, "malformed-json")),
        ("PUT", record, &large, none, is(413, "too-large")),
        ("POST", "/redis", &large_command, none, is(413, "too-large")),
        ("PUT", record, "a=1", &[form], is(415, "unsupported-media-type")),
        ("PATCH", record, "{\"a\":1}", none, is(415, "unsupported-media-type")),
        ("POST", "/redis", "[\"PING\"]", &[form], is(415, "unsupported-media-type")),
        ("PUT", "/v1/records/apikey/set", "{\"a\":1}", none, is(409, "wrong-type")),
        ("PATCH", "/v1/records/apikey/set", "{\"a\":1}", &[merge], is(409, "wrong-type")),
        ("GET", "/v1/records/apikey/a%3Ab", "", none, is(422, "invalid-id")),
        ("GET", "/v1/records/apikey/%ff", "", none, is(422, "invalid-id")),
        ("PUT", "/v1/records/usage_daily/k%3Anot-a-date", "{\"a\":1}", none, is(422, "invalid-id")),
        ("PUT", "/v1/records/apikey/k-1?ttl_seconds=0", "{\"a\":1}", none, is(422, "invalid-field")),
        ("PUT", "/v1/records/apikey/k-1?ttl=1", "{\"a\":1}", none, is(400, "bad-request")),
        ("PUT", record, "{\"a\":1}", &[("if-match", "unquoted")], is(400, "bad-request")),
        ("PUT", record, "{\"a\":1}", &[("parallax-ack", "postgres")], is(400, "bad-request")),
        ("PUT", record, "{\"a\":1}", &[("if-match", "*")], is(412, "precondition-failed")),
        ("GET", "/redis/get/a?_token=x", "", none, is(400, "bad-request")),
        ("GET", record, "", &[("origin", "https://example.com")], is(403, "foreign-origin")),
        ("GET", record, "", &[("host", "example.com")], is(403, "foreign-host")),
        ("GET", "/v1/records/unmatched/parallax%3Aflags", "", none, is(403, "control-key")),
        ("GET", "/v1/records/session/x?limit=1", "", none, is(400, "bad-request")),
        ("GET", "/v1/records/session", "", none, is(409, "conflict")),
    ] {
        let body = (!body.is_empty()).then(|| Bytes::copy_from_slice(body.as_bytes()));
        let answer = sidecar.data(method, path, body, headers).await;
        assert_eq!(told(&answer), expected, "{method} {path}: {:?}", answer.body);
    }
    let position = sidecar.data("PUT", record, Some("{\"a\":1,\n  \"b\":}".into()), &[]).await.json();
    assert_eq!((&position["line"], &position["column"]), (&json!(2), &json!(7)));
    let position = sidecar.data("POST", "/redis", Some("[\"GET\",\n nothing]".into()), &[]).await.json();
    assert_eq!((&position["line"], &position["column"]), (&json!(2), &json!(2)));

    // A command that Redis itself refuses is no problem of ours: it is answered in the form of its clients.
    let wrong = sidecar.ask(&["HGETALL", "apikey:set"], &[]).await;
    assert!(wrong.status == 400 && wrong.json()["error"].as_str().unwrap().starts_with("WRONGTYPE"), "{wrong:?}");
    assert_eq!(sidecar.command(&["DBSIZE"]).await, 1, "nothing was changed");
    assert_eq!(sidecar.command(&["SMEMBERS", "apikey:set"]).await, json!(["m"]));
    sidecar.stop_expecting(&[]).await;
}

/// Commands that act on the server or belong to a connection.
const ADMINISTRATIVE: &[&str] = &[
    "FLUSHALL",
    "flushdb ASYNC",
    "SWAPDB 0 1",
    "SHUTDOWN NOSAVE",
    "CONFIG SET maxmemory 1",
    "CONFIG GET *",
    "REPLICAOF NO ONE",
    "SLAVEOF h 1",
    "DEBUG SLEEP 0",
    "SAVE",
    "BGSAVE",
    "BGREWRITEAOF",
    "FAILOVER",
    "CLUSTER INFO",
    "ACL LIST",
    "MODULE LIST",
    "MIGRATE h 1 k 0 1",
    "MOVE apikey:a 1",
    "SCRIPT FLUSH",
    "SCRIPT KILL",
    "FUNCTION FLUSH",
    "SUBSCRIBE c",
    "MULTI",
    "EXEC",
    "WATCH k",
    "SELECT 1",
    "AUTH x",
    "HELLO 3",
    "CLIENT LIST",
    "QUIT",
    "MONITOR",
    "BLPOP apikey:a 0",
    "NOSUCHCOMMAND x",
];
const SCRIPT: &str = "return redis.call('GET', 'parallax:clock')";
/// Commands that name keys of our own, in every place where a key can stand.
const NAMING: &[&[&str]] = &[
    &["GET", "parallax:clock"],
    &["DEL", "x", "parallax:outbox"],
    &["MGET", "a", "parallax:clock"],
    &["MSET", "a", "1", "parallax:clock", "2"],
    &["RENAME", "apikey:a", "parallax:clock"],
    &["COPY", "parallax:clock", "mine"],
    &["OBJECT", "ENCODING", "parallax:clock"],
    &["MEMORY", "USAGE", "parallax:clock"],
    &["DUMP", "parallax:flags"],
    &["HGETALL", "parallax:flags"],
    &["HSCAN", "parallax:outbox", "0"],
    &["BITOP", "NOT", "parallax:x", "a"],
    &["SUNIONSTORE", "mine", "parallax:x"],
    &["ZUNIONSTORE", "mine", "1", "parallax:x"],
    &["XREAD", "STREAMS", "parallax:x", "0"],
    &["EVAL", "return 1", "1", "parallax:outbox"],
    &["EVAL", SCRIPT, "0"],
    &["EVAL", "return redis.call('GET', ARGV[1])", "0", "parallax:clock"],
    &["EVAL_RO", "return redis.call('GET', ARGV[1])", "0", "parallax:clock"],
    &["SCRIPT", "LOAD", SCRIPT],
    &["SORT", "apikey:l", "BY", "parallax:*"],
    &["SORT", "apikey:l", "BY", "nosort", "GET", "parallax:clock"],
    &["SORT", "apikey:l", "BY", "nosort", "GET", "*"],
    &["SORT_RO", "apikey:l", "GET", "par*"],
    &["SORT", "apikey:l", "STORE", "parallax:x"],
];

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_act_on_the_server_and_keys_of_our_own_are_refused() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    sidecar.command(&["SET", "apikey:a", "v"]).await;
    sidecar.drained().await;
    for command in ADMINISTRATIVE {
        let words: Vec<&str> = command.split(' ').collect();
        let answer = sidecar.ask(&words, &[]).await;
        assert_eq!(told(&answer), is(403, "command-refused"), "{command}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.to_uppercase().contains(&words[0].to_uppercase()), "the reason names the command: {detail}");
        assert!(answer.json()["error"].as_str().unwrap().starts_with("PARALLAX "), "for clients of another form");
    }
    for command in NAMING {
        assert_eq!(told(&sidecar.ask(command, &[]).await), is(403, "control-key"), "{command:?}");
    }
    let answers =
        sidecar.pipeline(&[vec!["GET".into(), "parallax:clock".into()], vec!["GET".into(), "apikey:a".into()]]).await;
    assert!(
        answers[0]["error"].as_str().unwrap().starts_with("PARALLAX ") && answers[1]["result"] == "v",
        "{answers:?}"
    );
    let atomic = json!([["SET", "apikey:a", "w"], ["GET", "parallax:clock"]]).to_string();
    let refused = sidecar.data("POST", "/redis/multi-exec", Some(atomic.into()), &[]).await;
    assert_eq!(told(&refused), is(403, "control-key"));
    assert_eq!(sidecar.command(&["GET", "apikey:a"]).await, "v", "a transaction is refused whole");
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_our_own_are_invisible() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    assert_eq!((sidecar.command(&["RANDOMKEY"]).await, sidecar.command(&["DBSIZE"]).await), (Json::Null, json!(0)));
    sidecar.raise("dualwrite").await;
    let mut mine = vec!["usage:records:k".to_owned(), "parallaxed".to_owned()];
    sidecar.command(&["LPUSH", &mine[0], "x"]).await;
    sidecar.command(&["SET", &mine[1], "x"]).await;
    for n in 0..30 {
        mine.push(format!("account_group_members:{n}"));
        sidecar.command(&["SADD", &mine[n + 2], "x"]).await;
    }
    mine.sort();
    let mut direct = redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let all: i64 = redis::cmd("DBSIZE").query_async(&mut direct).await.unwrap();
    assert!(all > 32, "ours are there: {all}");
    let sorted = |keys: Json| {
        let mut keys: Vec<String> = serde_json::from_value(keys).unwrap();
        keys.sort();
        keys
    };
    assert_eq!(sidecar.command(&["DBSIZE"]).await, 32);
    assert_eq!(sorted(sidecar.command(&["KEYS", "*"]).await), mine);
    assert_eq!(sidecar.command(&["KEYS", "parallax:*"]).await, json!([]));
    let (mut scanned, mut cursor) = (Vec::new(), "0".to_owned());
    loop {
        let page = sidecar.command(&["SCAN", &cursor, "COUNT", "10"]).await;
        scanned.extend(sorted(page[1].clone()));
        cursor = page[0].as_str().unwrap().to_owned();
        if cursor == "0" {
            break;
        }
    }
    scanned.sort();
    scanned.dedup();
    assert_eq!(scanned, mine);
    for _ in 0..50 {
        let key = sidecar.command(&["RANDOMKEY"]).await;
        assert!(mine.iter().any(|mine| key == mine.as_str()), "{key}");
    }
    let atomic = json!([["KEYS", "*"], ["DBSIZE"], ["RANDOMKEY"], ["SCAN", "0", "COUNT", "1000"]]).to_string();
    let answers = sidecar.data("POST", "/redis/multi-exec", Some(atomic.into()), &[]).await.json();
    assert_eq!(sorted(answers[0]["result"].clone()), mine);
    assert_eq!(answers[1]["result"], 32);
    assert!(mine.iter().any(|mine| answers[2]["result"] == mine.as_str()), "{answers}");
    assert_eq!(sorted(answers[3]["result"][1].clone()), mine);
    sidecar.drained().await;
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_every_request_is_told_when_to_come_again() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    sidecar.command(&["HSET", "apikey:a", "name", "x"]).await;
    sidecar.drained().await;
    redis.stop().await.unwrap();
    // The first to notice as well: a read has no outcome that could be in doubt.
    let asks = json!([["HGET", "apikey:a", "name"], ["GET", "other"]]).to_string();
    for (method, path, body) in [
        ("POST", "/redis", Some("[\"HGET\",\"apikey:a\",\"name\"]")),
        ("GET", "/redis/get/other", None),
        ("POST", "/redis/pipeline", Some(asks.as_str())),
        ("GET", "/v1/records/apikey/a", None),
        ("PUT", "/v1/records/apikey/a", Some("{\"name\":\"y\"}")),
        ("DELETE", "/v1/records/apikey/a", None),
        ("POST", "/redis", Some("[\"HSET\",\"apikey:a\",\"name\",\"y\"]")),
        ("POST", "/redis/multi-exec", Some("[[\"INCR\",\"n\"]]")),
    ] {
        let answer = sidecar.data(method, path, body.map(|body| Bytes::copy_from_slice(body.as_bytes())), &[]).await;
        assert_eq!(told(&answer), is(503, "redis-unreachable"), "{method} {path}: {:?}", answer.body);
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert!(!String::from_utf8_lossy(&answer.body).contains(&redis.port().to_string()), "the address stays behind");
    }
    let flag = sidecar.admin("PATCH", "/v1/flags/*", Some(json!({ "percent": 1 })), &[("if-match", "\"1\"")]).await;
    assert_eq!((told(&flag), flag.header("retry-after")), (is(503, "redis-unreachable"), Some("1")));
    let health = sidecar.get("/healthz").await;
    assert_eq!((health.status, &health.json()["checks"]["redis"]), (503, &json!(false)));
    assert_eq!(sidecar.get("/livez").await.status, 200);
    sidecar.kill().await;
}

fn a_plan() -> Json {
    json!({ "steps": [{ "percent": 1, "bake_seconds": 60 }], "reason": "x" })
}

/// It goes round, so it never ends.
fn endless() -> Json {
    let step = |percent| json!({ "percent": percent, "bake_seconds": 60 });
    json!({ "steps": [step(1), step(10), step(1)], "reason": "x" })
}

fn of_an_unknown_check() -> Json {
    json!({ "steps": [{ "percent": 1, "bake_seconds": 60 }], "checks": { "p98_ratio": 2 }, "reason": "x" })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_of_an_admin_request_has_its_own_type() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let tokens = [("PARALLAX_ADMIN_VIEWER_TOKEN", "viewer-word"), ("PARALLAX_ADMIN_OPERATOR_TOKEN", "operator-word")];
    let sidecar = Sidecar::start_with(&redis, Some(&database), &tokens).await;
    let (viewer, operator) = (("authorization", "Bearer viewer-word"), ("authorization", "Bearer operator-word"));
    let seen = ("if-match", "\"0\"");
    let flags = sidecar.admin("GET", "/v1/flags", None, &[viewer]).await;
    assert_eq!((flags.status, flags.header("etag")), (200, Some("\"0\"")));
    let rollback = json!({ "scope": "*", "reason": "a story" });
    let none: &[(&str, &str)] = &[];
    for (method, path, body, headers, expected) in [
        ("GET", "/v1/flags", Json::Null, none, is(401, "unauthorized")),
        ("GET", "/metrics", Json::Null, &[("authorization", "Bearer operator-wor")], is(401, "unauthorized")),
        ("POST", "/v1/rollback", rollback.clone(), &[viewer], is(403, "forbidden")),
        ("PATCH", "/v1/flags/*", json!({ "percent": 1 }), &[viewer, seen], is(403, "forbidden")),
        ("POST", "/v1/rollback", rollback, &[operator, ("origin", "https://example.com")], is(403, "foreign-origin")),
        ("GET", "/v1/nothing", Json::Null, &[viewer], is(404, "not-found")),
        ("DELETE", "/v1/flags", Json::Null, &[operator], is(405, "method-not-allowed")),
        ("PATCH", "/v1/flags/*", json!({ "percent": 1 }), &[operator], is(428, "precondition-required")),
        ("PUT", "/v1/flags/*", json!({ "percent": 1 }), &[operator], is(428, "precondition-required")),
        (
            "PATCH",
            "/v1/flags/*",
            json!({ "percent": 1 }),
            &[operator, ("if-match", "\"7\"")],
            is(412, "precondition-failed"),
        ),
        ("PATCH", "/v1/flags/*", json!({ "percent": 1 }), &[operator, ("if-match", "seven")], is(400, "bad-request")),
        ("PATCH", "/v1/flags/nobody", json!({ "percent": 1 }), &[operator, seen], is(422, "invalid-field")),
        ("PATCH", "/v1/flags/*", json!({ "percent": 101 }), &[operator, seen], is(422, "invalid-field")),
        ("PATCH", "/v1/flags/*", json!({ "stage": "sideways" }), &[operator, seen], is(422, "invalid-field")),
        ("PATCH", "/v1/flags/*", json!({ "per_cent": 1 }), &[operator, seen], is(422, "invalid-field")),
        ("PATCH", "/v1/flags/*", json!([]), &[operator, seen], is(400, "malformed-json")),
        ("PATCH", "/v1/flags/*", json!({ "stage": "live" }), &[operator, seen], is(409, "conflict")),
        ("PATCH", "/v1/flags/session", json!({ "stage": "dualwrite" }), &[operator, seen], is(409, "conflict")),
        ("POST", "/v1/rollback", json!({ "scope": "*" }), &[operator], is(422, "invalid-field")),
        ("POST", "/v1/rollback", json!({ "scope": "nobody", "reason": "x" }), &[operator], is(422, "invalid-field")),
        (
            "POST",
            "/v1/rollback",
            json!({ "scope": "*", "reason": "x", "drill": true }),
            &[operator],
            is(422, "invalid-field"),
        ),
        (
            "POST",
            "/v1/rollback",
            json!({ "scope": "user", "reason": "x", "drill": true }),
            &[operator],
            is(409, "conflict"),
        ),
        ("PATCH", "/v1/flags/*", json!({ "percent": 0.0001 }), &[operator, seen], is(422, "invalid-field")),
        ("PATCH", "/v1/flags/*", json!({ "override": true }), &[operator, seen], is(422, "invalid-field")),
        ("PATCH", "/v1/flags/*", json!({ "resume": true }), &[operator, seen], is(422, "invalid-field")),
        ("PATCH", "/v1/flags/*?dry_run=maybe", json!({ "percent": 1 }), &[operator, seen], is(422, "invalid-field")),
        ("GET", "/v1/routing/explain?key=", Json::Null, &[viewer], is(422, "invalid-field")),
        ("GET", "/v1/routing/explain?key=parallax:flags", Json::Null, &[viewer], is(403, "control-key")),
        ("POST", "/v1/flags/user/plan", json!({ "reason": "x" }), &[operator], is(422, "invalid-field")),
        ("POST", "/v1/flags/user/plan", endless(), &[operator], is(422, "invalid-field")),
        ("POST", "/v1/flags/user/plan", of_an_unknown_check(), &[operator], is(422, "invalid-field")),
        ("POST", "/v1/flags/nobody/plan", a_plan(), &[operator], is(422, "invalid-field")),
        ("POST", "/v1/flags/usage_records/plan", a_plan(), &[operator], is(409, "conflict")),
        ("POST", "/v1/flags/user/plan", a_plan(), &[viewer], is(403, "forbidden")),
        ("GET", "/v1/flags/user/plan", Json::Null, &[viewer], is(404, "not-found")),
        ("POST", "/v1/flags/user/plan/resume", json!({}), &[operator], is(422, "invalid-field")),
        ("POST", "/v1/flags/user/plan/promote", json!({}), &[operator], is(404, "not-found")),
        ("POST", "/v1/jobs", json!({ "job": "backfill", "kinds": [] }), &[operator], is(422, "invalid-field")),
        ("POST", "/v1/jobs", json!({ "job": "backfill", "kinds": ["*"] }), &[operator], is(409, "conflict")),
        ("GET", "/v1/jobs/none", Json::Null, &[viewer], is(404, "not-found")),
        ("GET", "/v1/mismatches?limit=0", Json::Null, &[viewer], is(422, "invalid-field")),
    ] {
        let answer = sidecar.admin(method, path, (!body.is_null()).then_some(body), headers).await;
        assert_eq!(told(&answer), expected, "{method} {path}: {:?}", answer.body);
        assert!(!String::from_utf8_lossy(&answer.body).contains("-word"), "no token comes back");
    }
    let flags = sidecar.admin("GET", "/v1/flags", None, &[viewer]).await;
    assert_eq!(flags.json()["version"], 0, "nothing was changed");
    assert_eq!(sidecar.get("/readyz").await.status, 200, "probes need no token");
    sidecar.stop_expecting(&[]).await;
}
