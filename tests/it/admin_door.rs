//! The admin door with real sockets and a real engine behind it: who may do what, and what comes back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use parallax::dev::servers::{PostgresOptions, PrivateRedis};
use parallax::doors::admin::{self, AdminDoor};
use parallax::doors::server;
use parallax::dual::{Engine, Membership, Parts};
use parallax::jobs::Jobs;
use parallax::model::catalog::Catalog;
use parallax::settings::AdminSettings;
use parallax::stores::postgres::{Postgres, pool};
use parallax::stores::redis::wire::Upstream;
use parallax::telemetry::{Metrics, Traces};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::support::{self, Database, wait_until};

/// Longer than anything here may take; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(20);
const VIEWER: &str = "viewer-token";
const OPERATOR: &str = "operator-token";
/// A kind of the built-in catalog.
const KIND: &str = "apikey";
const SECRETS: &str = "secrets-token";

/// An admin door, and what its engine stands on.
struct Door {
    address: SocketAddr,
    metrics: Metrics,
    _redis: PrivateRedis,
    database: Database,
}

struct Reply {
    status: StatusCode,
    etag: Option<String>,
    media_type: String,
    text: String,
    body: Value,
}

fn settings(listen: SocketAddr, has_tokens: bool) -> AdminSettings {
    let tokens = |token: &str| if has_tokens { vec![token.to_owned().into()] } else { Vec::new() };
    AdminSettings {
        listen,
        viewer_tokens: tokens(VIEWER),
        operator_tokens: tokens(OPERATOR),
        secrets_tokens: tokens(SECRETS),
        hosts: Vec::new(),
        origins: Vec::new(),
    }
}

fn postgres_of(database: &Database) -> Postgres {
    let config = database.url().parse().expect("an address");
    Postgres::new(pool::Options { config, tls: None, pool_size: 4, wait: PATIENCE })
}

impl Door {
    /// A door that asks for tokens, or one on loopback that does not.
    async fn open(has_tokens: bool) -> Self {
        Self::open_with(has_tokens, support::postgres().await).await
    }

    async fn open_with(has_tokens: bool, database: Database) -> Self {
        let redis = support::redis().await;
        let catalog = Arc::new(Catalog::embedded());
        let kinds: Vec<String> = catalog.kinds().iter().map(|kind| kind.name.clone()).collect();
        let metrics = Metrics::new("sidecar-1", &kinds);
        let client = redis::Client::open(redis.url()).expect("an address");
        let engine = Engine::start(Parts {
            traces: Traces::default(),
            catalog,
            instance: "sidecar-1".to_owned(),
            membership: Membership::Sidecar,
            upstream: Arc::new(Upstream::of(&client, None).expect("plain text")),
            redis: client,
            postgres: Some(postgres_of(&database)),
            command_deadline: PATIENCE,
            lease: Duration::from_secs(20),
            barrier_wait: PATIENCE,
            outbox_queue_max: 1000,
            shadow_queue_max: 100,
            watches_for_bypasses: false,
            metrics: metrics.clone(),
            background: tokio::runtime::Handle::current(),
        });
        let engine = engine.await.expect("the stores are there");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let guard = admin::guard(address, &settings(address, has_tokens)).expect("loopback");
        let door = Arc::new(AdminDoor::new(Arc::clone(&engine), Jobs::start(engine), guard, &[], metrics.clone()));
        tokio::spawn(server::serve(listener, admin::limits(), door, std::future::pending()));
        Self { address, metrics, _redis: redis, database }
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
    // The audit row is carried to Postgres after the change was answered.
    wait_until("the change is in the history", PATIENCE, || async {
        let history = door.get(&format!("/v1/flags/{KIND}/history"), Some(VIEWER)).await;
        let changes = history.body["changes"].as_array().cloned().unwrap_or_default();
        changes.first().is_some_and(|last| last["who"] == "operator" && last["reason"] == "the way up begins")
    })
    .await;
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
    assert_eq!((unknown.status, &unknown.body["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("kind")));
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

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_postgres_makes_it_unhealthy_and_leaves_it_ready() {
    let database = support::postgres_of_its_own(PostgresOptions::default()).await;
    let door = Door::open_with(true, database).await;
    door.database.server.stop().await.unwrap();
    let health = door.get("/healthz", Some(VIEWER)).await;
    assert_eq!(health.status, StatusCode::SERVICE_UNAVAILABLE, "{}", health.text);
    assert_eq!(health.body["status"], "unhealthy");
    assert_eq!((&health.body["checks"]["postgres"], &health.body["checks"]["redis"]), (&json!(false), &json!(true)));
    assert_eq!(door.get("/readyz", None).await.status, StatusCode::OK);
    let mismatches = door.get("/v1/mismatches", Some(VIEWER)).await;
    assert_eq!(mismatches.status, StatusCode::SERVICE_UNAVAILABLE, "{}", mismatches.text);
    let wish = json!({ "scope": "*", "reason": "postgres is gone" });
    let rollback = door.ask(Method::POST, "/v1/rollback", Some(OPERATOR), Some(wish), &[]).await;
    assert_eq!((rollback.status, &rollback.body["fleet"]), (StatusCode::OK, &json!(true)), "{}", rollback.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_a_mismatch_is_for_the_right_to_secrets() {
    let door = Door::open(true).await;
    let planted = "INSERT INTO mismatches (kind, key_hash, id, class, fields) \
                   VALUES ('apikey', '\\x00ff', 'CODE-1', 'value', '{name}'), ('user', '\\x01ff', 'u1', 'ttl', '{}')";
    door.database.client().await.batch_execute(planted).await.unwrap();
    for (token, id) in [(VIEWER, Value::Null), (OPERATOR, Value::Null), (SECRETS, json!("CODE-1"))] {
        let reply = door.get("/v1/mismatches?kind=apikey&limit=5", Some(token)).await;
        let rows = reply.body["mismatches"].as_array().cloned().unwrap_or_default();
        assert_eq!(rows.len(), 1, "{}", reply.text);
        assert_eq!((&rows[0]["class"], &rows[0]["fields"], &rows[0]["id"]), (&json!("value"), &json!(["name"]), &id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_names_the_fleet_and_what_is_owed() {
    let door = Door::open(true).await;
    let status = door.get("/v1/status", Some(VIEWER)).await;
    assert_eq!(status.status, StatusCode::OK);
    assert_eq!(status.body["fleet"][0]["instance"], "sidecar-1", "{}", status.text);
    assert_eq!(status.body["outbox"]["depth"], 0, "{}", status.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn live_waits_for_the_backfill_and_the_backfill_for_the_marks() {
    let door = Door::open(true).await;
    let step = async |change: Value| door.change(Method::PATCH, KIND, Some(door.version().await), change).await;
    let backfill = json!({ "job": "backfill", "kinds": [KIND] });
    let start = async |token| door.ask(Method::POST, "/v1/jobs", Some(token), Some(backfill.clone()), &[]).await;

    let early = start(OPERATOR).await;
    assert_eq!(early.status, StatusCode::CONFLICT, "nothing is marked yet: {}", early.text);
    for stage in ["dualwrite", "shadow"] {
        let raised = step(json!({ "stage": stage })).await;
        assert_eq!(raised.status, StatusCode::OK, "{}", raised.text);
    }
    let refused = step(json!({ "stage": "live", "percent": 100 })).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.body["unmet"].to_string().contains("backfill"), "{}", refused.text);

    let started = start(OPERATOR).await;
    assert_eq!(started.status, StatusCode::ACCEPTED, "{}", started.text);
    let place = format!("/v1/jobs/{}", started.body["id"].as_str().unwrap());
    wait_until("the backfill is done", PATIENCE, || async {
        let job = door.get(&place, Some(VIEWER)).await;
        assert_ne!(job.body["state"], "failed", "{}", job.text);
        job.body["state"] == "done"
    })
    .await;
    assert_eq!(door.get("/v1/jobs", Some(VIEWER)).await.body["jobs"][0]["id"], started.body["id"]);
    assert_eq!(door.get("/v1/jobs/none", Some(VIEWER)).await.status, StatusCode::NOT_FOUND);
    let unproven = step(json!({ "stage": "live", "percent": 100 })).await;
    assert!(
        unproven.status == StatusCode::CONFLICT && unproven.text.contains("run a verification"),
        "{}",
        unproven.text
    );
    let live = step(json!({ "stage": "live", "percent": 100, "override": true, "reason": "an empty kind" })).await;
    assert_eq!((live.status, &live.body["flag"]["stage"]), (StatusCode::OK, &json!("live")), "{}", live.text);

    let wish = json!({ "scope": KIND, "reason": "enough" });
    let back = door.ask(Method::POST, "/v1/rollback", Some(OPERATOR), Some(wish), &[]).await;
    assert_eq!((back.status, &back.body["landed"]), (StatusCode::OK, &json!("shadow")), "{}", back.text);
    let latched = step(json!({ "stage": "live" })).await;
    assert_eq!(latched.status, StatusCode::CONFLICT, "{}", latched.text);
    let resumed =
        step(json!({ "stage": "live", "resume": true, "override": true, "reason": "found and mended" })).await;
    assert_eq!(resumed.status, StatusCode::OK, "{}", resumed.text);
}
