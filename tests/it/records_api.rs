//! The life of a record through the records API, in stage live: what is written, what comes back and from where.

use bytes::Bytes;
use serde_json::{Value as Json, json};

use crate::support;
use crate::support::sidecar::{Answer, Sidecar};

const BOTH: (&str, &str) = ("parallax-ack", "both");

async fn put(sidecar: &Sidecar, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
    sidecar.data("PUT", path, Some(Bytes::copy_from_slice(body.as_bytes())), headers).await
}

fn etag(answer: &Answer) -> &str {
    answer.header("etag").unwrap_or_else(|| panic!("no ETag: {answer:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_lives_changes_and_ends_through_the_records_api() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("live").await;
    let path = "/v1/records/apikey/life";
    assert_eq!(sidecar.data("GET", path, None, &[]).await.status, 404);

    let sent = r#"{"name": "first", "isActive": true, "limit": 1.10, "tags": ["a", 1], "none": null}"#;
    let created = put(&sidecar, path, sent, &[("if-none-match", "*"), BOTH]).await;
    assert_eq!((created.status, created.header("parallax-mirror")), (201, Some("applied")));
    let read = sidecar.data("GET", path, None, &[]).await;
    assert_eq!((read.status, read.header("parallax-source")), (200, Some("postgres")));
    let shown = json!({"name": "first", "isActive": "true", "limit": "1.10", "tags": "[\"a\",1]", "none": ""});
    assert_eq!(read.json(), shown);
    assert_eq!(etag(&read), etag(&created), "redis computed one, we the other");
    let again = put(&sidecar, path, sent, &[("if-none-match", "*")]).await;
    assert_eq!((again.status, &again.json()["type"]), (412, &json!("urn:parallax:problem:precondition-failed")));

    let patch = |tag: &str, body: Json| {
        let headers = [("content-type", "application/merge-patch+json".to_owned()), ("if-match", tag.to_owned())];
        let (sidecar, body) = (&sidecar, Bytes::from(body.to_string()));
        async move {
            let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            sidecar.data("PATCH", path, Some(body), &headers).await
        }
    };
    let patched = patch(etag(&read), json!({ "name": "second", "none": null })).await;
    assert_eq!((patched.status, patched.header("parallax-mirror")), (204, Some("pending")));
    assert_eq!(patch(etag(&read), json!({ "name": "third" })).await.status, 412);
    sidecar.drained().await;
    let read = sidecar.data("GET", path, None, &[]).await;
    assert_eq!((read.header("parallax-source"), etag(&read)), (Some("postgres"), etag(&patched)));
    let shown = json!({"name": "second", "isActive": "true", "limit": "1.10", "tags": "[\"a\",1]"});
    assert_eq!(read.json(), shown);
    let known = sidecar.data("GET", path, None, &[("if-none-match", etag(&read))]).await;
    assert_eq!((known.status, known.body.len()), (304, 0));

    let timed =
        put(&sidecar, &format!("{path}?ttl_seconds=600"), r#"{"name": "timed"}"#, &[("if-match", etag(&read)), BOTH])
            .await;
    assert_eq!(timed.status, 204, "{:?}", timed.body);
    let read = sidecar.data("GET", path, None, &[]).await;
    assert_eq!((read.header("parallax-source"), read.json()), (Some("postgres"), json!({ "name": "timed" })));
    assert!(read.header("parallax-expires-at").is_some_and(|at| at.ends_with('Z')), "{read:?}");
    let ttl = sidecar.command(&["TTL", "apikey:life"]).await.as_i64().unwrap();
    assert!((590..=600).contains(&ttl), "{ttl}");

    assert_eq!(sidecar.data("DELETE", path, None, &[("if-match", "\"other\"")]).await.status, 412);
    let deleted = sidecar.data("DELETE", path, None, &[("if-match", etag(&read)), BOTH]).await;
    assert_eq!((deleted.status, deleted.header("parallax-mirror")), (204, Some("applied")));
    assert_eq!(sidecar.data("GET", path, None, &[]).await.status, 404);
    assert_eq!(sidecar.data("DELETE", path, None, &[]).await.status, 404);
    let row = database.client().await;
    let row =
        row.query_one("SELECT deleted_at IS NOT NULL FROM api_keys WHERE key = 'apikey:life'", &[]).await.unwrap();
    assert!(row.get::<_, bool>(0));
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_goes_through_all_live_records_once_and_in_order() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("dualwrite").await;
    let mut expected: Vec<String> =
        (0..25).map(|n| format!("id-{n:02}")).chain(["Ä".to_owned(), "z".repeat(300)]).collect();
    for id in &expected {
        sidecar.command(&["HSET", &format!("apikey:{id}"), "name", id]).await;
    }
    for command in [
        &["SET", "apikey:expired", "v", "PX", "1"][..],
        &["HSET", "apikey:deleted", "a", "b"],
        &["DEL", "apikey:deleted"],
    ] {
        sidecar.command(command).await;
    }
    sidecar.drained().await;
    expected.sort();
    let (mut listed, mut after) = (Vec::new(), String::new());
    loop {
        let page = sidecar.data("GET", &format!("/v1/records/apikey?limit=4{after}"), None, &[]).await;
        assert_eq!((page.status, page.header("parallax-source")), (200, Some("postgres")));
        let page = page.json();
        for record in page["records"].as_array().unwrap() {
            assert_eq!(record["value"]["name"], record["id"]);
            listed.push(record["id"].as_str().unwrap().to_owned());
        }
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={}", percent_encoding::utf8_percent_encode(next, percent_encoding::NON_ALPHANUMERIC));
    }
    assert_eq!(listed, expected);
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_family_of_json_texts_comes_back_to_the_byte_from_both_stores() {
    let (redis, database) = (support::redis().await, support::postgres().await);
    let sidecar = Sidecar::start(&redis, &database).await;
    sidecar.raise("live").await;
    let texts = [
        " {\"b\" : 1.50,\n \"a\":[ ], \"a\": 1e2 } ",
        r#"{"name":"\u00e4 \ud83d\ude00 \/","secret":"a\u0000b"}"#,
        "\"\\\\x41\"",
        "12345678901234567890.000",
        "null",
    ];
    for (index, text) in texts.iter().enumerate() {
        let path = format!("/v1/records/bedrock_account/b-{index}");
        let written = put(&sidecar, &path, text, &[]).await;
        assert_eq!((written.status, written.header("parallax-mirror")), (201, Some("pending")), "{text}");
        sidecar.drained().await;
        for (percent, source) in [(0.0, "redis"), (100.0, "postgres")] {
            sidecar.flag("bedrock_account", json!({ "percent": percent })).await;
            let read = sidecar.data("GET", &path, None, &[]).await;
            assert_eq!((&read.body[..], read.header("parallax-source")), (text.as_bytes(), Some(source)));
            assert_eq!((etag(&read), read.header("content-type")), (etag(&written), Some("application/json")));
        }
    }
    let client = database.client().await;
    let row = "SELECT parsed ->> 'b', (SELECT parsed IS NULL FROM accounts WHERE key = 'bedrock_account:b-1')
        FROM accounts WHERE key = 'bedrock_account:b-0'";
    let row = client.query_one(row, &[]).await.unwrap();
    assert_eq!(
        (row.get::<_, &str>(0), row.get::<_, bool>(1)),
        ("1.50", true),
        "a NUL fits no jsonb, and refuses no row"
    );
    sidecar.stop_expecting(&[]).await;
}
