//! The admin door with real sockets and a real engine behind it: who may do what, and what comes back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use parallax::doors::admin::{self, AdminDoor};
use parallax::doors::server;
use parallax::dual::Engine;
use parallax::settings::AdminSettings;
use parallax::telemetry::Metrics;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;

const VIEWER: &str = "viewer-token";
const OPERATOR: &str = "operator-token";
/// A kind of the built-in catalog.
const KIND: &str = "apikey";
const SECRETS: &str = "secrets-token";

struct Door {
    address: SocketAddr,
    metrics: Metrics,
}

struct Reply {
    status: StatusCode,
    etag: Option<String>,
    media_type: String,
    text: String,
    body: Value,
}

impl Door {
    async fn open(tokens: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let some = |token: &str| {
            if tokens { vec![token.to_owned().into()] } else { Vec::new() }
        };
        let settings = AdminSettings {
            listen: address,
            viewer_tokens: some(VIEWER),
            operator_tokens: some(OPERATOR),
            secrets_tokens: some(SECRETS),
            hosts: Vec::new(),
        };
        let metrics = Metrics::new("sidecar-1", &["unmatched".to_owned()]);
        let guard = admin::guard(address, &settings).expect("loopback");
        let door = Arc::new(AdminDoor::new(Arc::new(Engine), guard, metrics.clone()));
        tokio::spawn(server::serve(listener, admin::limits(), door, std::future::pending()));
        Self { address, metrics }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Reply {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let response = client.request(request.body(Full::from(body)).expect("a request")).await.expect("an answer");
        let status = response.status();
        let text_of = |name| response.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
        let (etag, media_type) = (text_of(header::ETAG), text_of(header::CONTENT_TYPE).unwrap_or_default());
        let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Reply { status, etag, media_type, text, body }
    }
    async fn get(&self, path: &str, token: Option<&str>) -> Reply {
        self.ask(Method::GET, path, token, None, &[]).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_need_no_token_and_everything_else_does() {
    let door = Door::open(true).await;
    assert_eq!(door.get("/livez", None).await.status, StatusCode::OK);
    assert_eq!(door.get("/readyz", None).await.status, StatusCode::OK);
    for path in ["/metrics", "/healthz", "/v1/flags", "/v1/status", "/v1/mismatches", "/v1/jobs", "/nowhere"] {
        let began = Instant::now();
        let reply = door.get(path, Some("guess")).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{path}");
        assert!(!reply.text.contains("guess"));
        assert!(began.elapsed() >= Duration::from_millis(250), "a wrong token is answered slowly");
    }
    let seen = door.get("/metrics", Some(VIEWER)).await;
    assert_eq!((seen.status, &*seen.media_type), (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(door.metrics.sum("parallax_auth_failures_total", &[("door", "admin")]), 7.0);
    assert_eq!(door.get("/nowhere", Some(VIEWER)).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_changes_nothing() {
    let door = Door::open(true).await;
    for (method, path) in [
        (Method::PUT, "/v1/flags/*"),
        (Method::PATCH, "/v1/flags/*"),
        (Method::POST, "/v1/rollback"),
        (Method::POST, "/v1/jobs"),
    ] {
        let reply = door.ask(method, path, Some(VIEWER), Some(json!({})), &[]).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(reply.body["type"], "urn:parallax:problem:forbidden");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_changes_nothing() {
    let door = Door::open(false).await;
    let wish = json!({"scope": "*", "reason": "a page said so"});
    let reply =
        door.ask(Method::POST, "/v1/rollback", None, Some(wish.clone()), &[("origin", "https://example.com")]).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    let reply = door.ask(Method::POST, "/v1/rollback", None, Some(wish), &[("host", "example.com")]).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
}

impl Door {
    async fn change(&self, method: Method, kind: &str, version: Option<u64>, body: Value) -> Reply {
        let tag = version.map(|version| format!("\"{version}\""));
        let headers: Vec<_> = tag.iter().map(|tag| ("if-match", tag.as_str())).collect();
        self.ask(method, &format!("/v1/flags/{kind}"), Some(OPERATOR), Some(body), &headers).await
    }

    /// The version of the flags, as the `ETag` tells it.
    async fn version(&self) -> u64 {
        let reply = self.get("/v1/flags", Some(VIEWER)).await;
        let tag = reply.etag.expect("flags have an ETag");
        assert_eq!(reply.body.get("version").map(Value::to_string).as_deref(), Some(tag.trim_matches('"')));
        tag.trim_matches('"').parse().expect("a number")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_is_changed_only_by_who_has_seen_its_version() {
    let door = Door::open(true).await;
    let version = door.version().await;
    let raise = json!({ "stage": "dualwrite", "reason": "the way up begins" });
    assert_eq!(door.change(Method::PATCH, KIND, None, raise.clone()).await.status, StatusCode::PRECONDITION_REQUIRED);
    let changed = door.change(Method::PATCH, KIND, Some(version), raise.clone()).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
    assert_eq!(changed.body["flag"]["stage"], "dualwrite");
    let stale = door.change(Method::PATCH, KIND, Some(version), raise).await;
    assert_eq!(stale.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(stale.etag, changed.etag, "the refusal names the version that would do");
    let history = door.get(&format!("/v1/flags/{KIND}/history"), Some(VIEWER)).await;
    let last = &history.body["changes"][0];
    assert_eq!(last["who"], "operator", "{}", history.text);
    assert_eq!(last["reason"], "the way up begins");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_its_name() {
    let door = Door::open(true).await;
    let version = door.version().await;
    let wrong = door.change(Method::PATCH, KIND, Some(version), json!({ "percent": 101 })).await;
    assert_eq!((wrong.status, &wrong.body["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("percent")));
    let leap = door.change(Method::PATCH, KIND, Some(version), json!({ "stage": "live" })).await;
    assert_eq!(leap.status, StatusCode::CONFLICT, "{}", leap.text);
    assert!(leap.body["unmet"].as_array().is_some_and(|unmet| !unmet.is_empty()), "{}", leap.text);
    let unknown = door.change(Method::PATCH, "no-such-kind", Some(version), json!({ "percent": 1 })).await;
    assert_eq!(
        (unknown.status, &unknown.body["type"]),
        (StatusCode::NOT_FOUND, &json!("urn:parallax:problem:unknown-kind"))
    );
    assert_eq!(door.version().await, version, "a refusal changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_takes_reads_back_and_says_who_has_confirmed() {
    let door = Door::open(true).await;
    let wish = json!({ "scope": "*", "reason": "the p99 rose" });
    let reply = door.ask(Method::POST, "/v1/rollback", Some(OPERATOR), Some(wish), &[]).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(reply.body["waiting"], json!([]));
    assert_eq!(door.metrics.sum("parallax_rollbacks_total", &[]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_has_the_checks_of_the_original_plan() {
    let door = Door::open(true).await;
    let reply = door.get("/healthz", Some(VIEWER)).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(reply.body["status"], "healthy");
    assert_eq!(reply.body["checks"], json!({ "postgres": true, "redis": true, "dataConsistency": true }));
}
