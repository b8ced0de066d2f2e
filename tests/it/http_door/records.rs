//! Stories of the records API.

use std::sync::Arc;

use http::{Method, StatusCode};
use parallax::model::catalog::{Body, Catalog, Kind};
use serde_json::json;

use super::Door;

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_created_replaced_patched_and_deleted() {
    let door = Door::start().await;
    let path = "/v1/records/apikey/k-1";
    assert_eq!(door.get(path).await.problem(), "no-record");

    let created = door.put(path, r#"{"name":"alice","isActive":true,"limit":12,"tags":["a", 1],"note":null}"#).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
    let read = door.get(path).await;
    assert_eq!((read.status, read.header("parallax-source")), (StatusCode::OK, "redis"));
    let stored = json!({"name": "alice", "isActive": "true", "limit": "12", "tags": "[\"a\",1]", "note": ""});
    assert_eq!(read.json(), stored);
    assert_eq!(read.header("etag"), created.header("etag"), "a write says the etag that a read will");
    assert_eq!(door.in_redis::<String>(&["HGET", "apikey:k-1", "isActive"]).await, "true");

    let headers = [("content-type", "application/merge-patch+json")];
    let patched = door.send(Method::PATCH, path, &headers, r#"{"name":"bob","limit":null}"#).await;
    assert_eq!(patched.status, StatusCode::NO_CONTENT, "{patched:?}");
    let fields: Vec<String> = door.in_redis(&["HMGET", "apikey:k-1", "name", "isActive"]).await;
    assert_eq!(fields, ["bob", "true"]);
    assert_eq!(door.in_redis::<i64>(&["HEXISTS", "apikey:k-1", "limit"]).await, 0);

    let replaced = door.put(path, r#"{"name":"carol"}"#).await;
    assert_eq!(replaced.status, StatusCode::NO_CONTENT);
    assert_eq!(door.get(path).await.json(), json!({"name": "carol"}), "a replacement leaves nothing behind");

    assert_eq!(door.send(Method::DELETE, path, &[], "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(door.send(Method::DELETE, path, &[], "").await.problem(), "no-record");
    assert_eq!(door.in_redis::<i64>(&["EXISTS", "apikey:k-1"]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_with_a_precondition_happens_only_if_it_holds() {
    let door = Door::start().await;
    let path = "/v1/records/apikey/k-1";
    assert_eq!(door.put_if(path, ("if-match", "*"), r#"{"n":"0"}"#).await.problem(), "precondition-failed");
    assert_eq!(door.put_if(path, ("if-none-match", "*"), r#"{"n":"1"}"#).await.status, StatusCode::CREATED);
    assert_eq!(door.put_if(path, ("if-none-match", "*"), r#"{"n":"2"}"#).await.problem(), "precondition-failed");
    let seen = door.get(path).await;
    assert_eq!(
        door.put_if(path, ("if-match", seen.header("etag")), r#"{"n":"3"}"#).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        door.put_if(path, ("if-match", seen.header("etag")), r#"{"n":"4"}"#).await.problem(),
        "precondition-failed"
    );
    let gone = door.send(Method::DELETE, path, &[("if-match", seen.header("etag"))], "").await;
    assert_eq!(gone.problem(), "precondition-failed");
    let now = door.get(path).await;
    assert_eq!(now.json(), json!({"n": "3"}));
    let known = door.send(Method::GET, path, &[("if-none-match", now.header("etag"))], "").await;
    assert_eq!((known.status, known.body.len()), (StatusCode::NOT_MODIFIED, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_thirty_two_writers_with_if_match_each_success_counts_once() {
    let door = Arc::new(Door::start().await);
    door.put("/v1/records/apikey/counter", r#"{"n":"0"}"#).await;
    let writers: Vec<_> = (0..32)
        .map(|_| {
            let door = Arc::clone(&door);
            tokio::spawn(async move {
                let mut wins = 0;
                for _ in 0..8 {
                    let seen = door.get("/v1/records/apikey/counter").await;
                    let n: i64 = seen.json()["n"].as_str().expect("a field").parse().expect("a number");
                    let headers = [("if-match", seen.header("etag"))];
                    let body = json!({"n": n + 1}).to_string();
                    let written = door.send(Method::PUT, "/v1/records/apikey/counter", &headers, body).await;
                    match written.status {
                        StatusCode::NO_CONTENT => wins += 1,
                        StatusCode::PRECONDITION_FAILED => {}
                        status => panic!("{status}: {written:?}"),
                    }
                }
                wins
            })
        })
        .collect();
    let mut wins = 0;
    for writer in writers {
        wins += writer.await.expect("no panic");
    }
    assert!(wins > 0);
    assert_eq!(door.in_redis::<i64>(&["HGET", "apikey:counter", "n"]).await, wins);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_text_comes_back_to_the_byte() {
    let door = Door::start().await;
    let catalog = Catalog::embedded();
    let is_text = |kind: &&Arc<Kind>| kind.body == Body::Text && kind.is_mirrored();
    let kind = catalog.kinds().iter().find(is_text).expect("the relay has an account family of JSON strings");
    let key = kind.pattern.examples().into_iter().find(|key| catalog.kind_of(key).index == kind.index).expect("a key");
    let path = format!("/v1/records/{}/{}", kind.name, kind.id_of(&key));
    let sent = " {\"b\" : 1.50,\n \"a\":[ ] } ";
    assert_eq!(door.put(&path, sent).await.status, StatusCode::CREATED);
    let read = door.get(&path).await;
    assert_eq!((&read.body[..], read.header("content-type")), (sent.as_bytes(), "application/json"));
    assert_eq!(door.put(&path, "{\n\"a\":}").await.problem(), "malformed-json");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_live_is_set_with_the_write() {
    let door = Door::start().await;
    let path = "/v1/records/apikey/k-1";
    assert_eq!(door.put(&format!("{path}?ttl_seconds=600"), r#"{"n":"1"}"#).await.status, StatusCode::CREATED);
    let ttl = door.in_redis::<i64>(&["TTL", "apikey:k-1"]).await;
    assert!((590..=600).contains(&ttl), "{ttl}");
    assert!(door.get(path).await.header("parallax-expires-at").ends_with('Z'));
    for wrong in ["0", "-5", "1.5", "soon"] {
        assert_eq!(door.put(&format!("{path}?ttl_seconds={wrong}"), "{\"n\":1}").await.problem(), "invalid-field");
    }
    assert_eq!(door.put(path, r#"{"n":"2"}"#).await.status, StatusCode::NO_CONTENT);
    assert_eq!(door.in_redis::<i64>(&["TTL", "apikey:k-1"]).await, -1, "a replacement replaces the expiry too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirrored_write_says_how_far_it_came_and_is_listed() {
    let door = Door::start().await;
    door.mirror_everything().await;
    for id in ["c", "a", "b"] {
        let headers = [("parallax-ack", "both")];
        let path = format!("/v1/records/apikey/{id}");
        let written = door.send(Method::PUT, &path, &headers, format!(r#"{{"name":"{id}"}}"#)).await;
        assert_eq!((written.status, written.header("parallax-mirror")), (StatusCode::CREATED, "applied"));
    }
    let first = door.get("/v1/records/apikey?limit=2").await;
    assert_eq!(first.header("parallax-source"), "postgres");
    let record = |id: &str| json!({"id": id, "value": {"name": id}, "expires_at": null});
    assert_eq!(first.json(), json!({"records": [record("a"), record("b")], "next": "b"}));
    let second = door.get("/v1/records/apikey?limit=2&after=b").await;
    assert_eq!(second.json(), json!({"records": [record("c")], "next": null}));
    let refused = door.send(Method::PUT, "/v1/records/apikey/a", &[("parallax-ack", "postgres")], "{\"a\":1}").await;
    assert_eq!(refused.problem(), "bad-request");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_record_request_is_told_apart() {
    let door = Door::start_with(&[("PARALLAX_BODY_BYTES_MAX", "4096")]).await;
    let path = "/v1/records/apikey/k-1";
    assert_eq!(door.get("/nothing").await.problem(), "not-found");
    assert_eq!(door.get("/v1/records/nobody/x").await.problem(), "unknown-kind");
    assert_eq!(door.get("/v1/records/apikey/a%3Ab").await.problem(), "invalid-id");
    assert_eq!(door.get("/v1/records/unmatched/parallax%3Aflags").await.problem(), "control-key");
    assert_eq!(door.get("/v1/records/apikey?limit=0").await.problem(), "invalid-field");
    assert_eq!(door.get("/v1/records/apikey?page=2").await.problem(), "bad-request");
    let posted = door.send(Method::POST, path, &[], "{}").await;
    assert_eq!(
        (posted.problem(), posted.header("allow")),
        ("method-not-allowed".into(), "GET, HEAD, PUT, PATCH, DELETE")
    );
    let malformed = door.put(path, "{\"a\":1,\n  \"b\":}").await;
    assert_eq!(malformed.problem(), "malformed-json");
    assert_eq!((&malformed.json()["line"], &malformed.json()["column"]), (&json!(2), &json!(7)));
    let text = door.send(Method::PUT, path, &[("content-type", "text/plain")], "{}").await;
    assert_eq!(text.problem(), "unsupported-media-type");
    assert_eq!(door.put(path, format!("{{\"a\":\"{}\"}}", "x".repeat(5000))).await.problem(), "too-large");
    door.in_redis::<i64>(&["SADD", "apikey:k-2", "member"]).await;
    assert_eq!(door.put("/v1/records/apikey/k-2", "{\"a\":1}").await.problem(), "wrong-type");
    assert_eq!(door.in_redis::<i64>(&["SCARD", "apikey:k-2"]).await, 1, "nothing was changed");
}
