//! Traces as a collector receives them, over both forms of OTLP, from the real process: the tree of a write, of a read and
//! of a mismatch, and that nothing in it is a key, a value or a secret.

mod collectors;
mod metrics;
mod redis_door;
mod settings;

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use parallax::dev::servers::PrivateRedis;
use serde_json::json;

use crate::support::collector::{Collector, Manner, attribute};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, Database, wait_until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const KEY: &str = "apikey:5b1bd4d9-k3y-in-no-span";
const VALUE: &str = "v4lue-in-no-span";
const FIELD: &str = "f1eld-in-no-span";
const TOKEN: &str = "t0ken-in-no-span";
const COLLECTOR_TOKEN: &str = "c0llector-in-no-span";

struct Stack {
    redis: PrivateRedis,
    database: Database,
    collector: Collector,
    sidecar: Sidecar,
}

/// A sidecar whose spans go to a collector soon.
async fn stack(manner: Manner, more: &[(&str, &str)]) -> Stack {
    let (redis, database, collector) =
        (support::redis().await, support::postgres().await, Collector::start(manner).await);
    let sidecar = sidecar(&redis, &database, &collector.url(), more).await;
    Stack { redis, database, collector, sidecar }
}

async fn sidecar(redis: &PrivateRedis, database: &Database, endpoint: &str, more: &[(&str, &str)]) -> Sidecar {
    let mut variables = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
    variables.extend(more);
    Sidecar::start_with(redis, Some(database), &variables).await
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

/// Whether `span` is named so and is a child of `parent`.
fn below<'a>(name: &'a str, parent: &'a Span) -> impl Fn(&Span) -> bool + 'a {
    move |span| span.name == name && span.parent_span_id == parent.span_id && span.trace_id == parent.trace_id
}

fn links_to<'a>(name: &'a str, linked: &'a Span) -> impl Fn(&Span) -> bool + 'a {
    move |span| {
        span.name == name
            && span.links.iter().any(|link| link.trace_id == linked.trace_id && link.span_id == linked.span_id)
    }
}

fn assert_attributes(span: &Span, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(attribute(span, name).as_deref(), Some(*value), "{name} of {span:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_a_request_to_the_apply_over_http() {
    tells_the_whole_story("http/protobuf").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_a_request_to_the_apply_over_grpc() {
    tells_the_whole_story("grpc").await;
}

async fn tells_the_whole_story(protocol: &str) {
    let headers = format!("authorization=Bearer%20{COLLECTOR_TOKEN},x-team=relay");
    let more = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_EXPORTER_OTLP_HEADERS", headers.as_str()),
        ("OTEL_SERVICE_NAME", "relay-sidecar"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
        ("PARALLAX_HTTP_TOKEN", TOKEN),
        ("PARALLAX_HTTP_HOSTS", "localhost"),
    ];
    let Stack { redis, database, collector, sidecar } = stack(Manner::Willing, &more).await;
    sidecar.raise("live").await;
    the_write(&sidecar, &collector, &redis).await;
    the_read_and_the_mismatch(&sidecar, &collector, &database).await;
    the_work_of_operators(&collector).await;

    assert_eq!(collector.resource("service.name").as_deref(), Some("relay-sidecar"));
    assert_eq!(collector.resource("deployment.environment.name").as_deref(), Some("test"));
    assert!(collector.headers("authorization").iter().all(|sent| *sent == format!("Bearer {COLLECTOR_TOKEN}")));
    let text = collector.text();
    for secret in [KEY, VALUE, FIELD, TOKEN, COLLECTOR_TOKEN] {
        assert!(!text.contains(secret), "{secret} is in a span");
    }
    assert!(sidecar.metric("parallax_spans_exported_total", &[]).await > 0.0);
    assert_eq!(sidecar.metric("parallax_spans_dropped_total", &[]).await, 0.0);
    sidecar.stop_expecting(&["a mismatch was confirmed"]).await;
}

async fn the_write(sidecar: &Sidecar, collector: &Collector, redis: &PrivateRedis) {
    let parent = traceparent("01");
    let authorization = format!("Bearer {TOKEN}");
    let headers = [("traceparent", parent.as_str()), ("tracestate", "vendor=1"), ("authorization", &authorization)];
    let answer = sidecar.ask(&["HSET", KEY, FIELD, VALUE], &headers).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);

    let door = collector.span("of the door", |span| hex(&span.parent_span_id) == CALLER).await;
    assert_eq!((hex(&door.trace_id).as_str(), door.name.as_str()), (TRACE, "POST /redis"));
    assert_eq!((door.kind(), door.trace_state.as_str()), (SpanKind::Server, "vendor=1"));
    assert_attributes(
        &door,
        &[("http.request.method", "POST"), ("http.route", "/redis"), ("http.response.status_code", "200")],
    );
    let told = format!("00-{TRACE}-{}-01", hex(&door.span_id));
    assert_eq!(answer.header("traceresponse"), Some(told.as_str()));

    let step = collector.span("of the redis step", below("MULTI HSET", &door)).await;
    assert_eq!(step.kind(), SpanKind::Client);
    let port = redis.port().to_string();
    assert_attributes(
        &step,
        &[
            ("db.system.name", "redis"),
            ("db.operation.name", "MULTI HSET"),
            ("db.namespace", "0"),
            ("server.address", "127.0.0.1"),
            ("server.port", &port),
            ("parallax.kind", "apikey"),
        ],
    );
    let apply = collector.span("of the apply", links_to("apply", &door)).await;
    assert_ne!(apply.trace_id, door.trace_id);
    for name in ["EVALSHA capture", "INSERT", "EVALSHA ack"] {
        let step = collector.span(name, below(name, &apply)).await;
        assert_eq!(step.kind(), SpanKind::Client, "{name}");
    }
}

async fn the_read_and_the_mismatch(sidecar: &Sidecar, collector: &Collector, database: &Database) {
    let authorization = format!("Bearer {TOKEN}");
    let read = async |span: &str| {
        let parent = format!("00-{TRACE}-{span}-01");
        let headers = [("traceparent", parent.as_str()), ("authorization", &authorization)];
        let answer = sidecar.ask(&["HGETALL", KEY], &headers).await;
        assert_eq!((answer.status, answer.header("parallax-source")), (200, Some("postgres")), "{:?}", answer.body);
        collector.span("of the door", |door| hex(&door.parent_span_id) == span).await
    };
    sidecar.drained().await;
    let door = read("00000000000000a1").await;
    let reading = collector.span("of the read", below("read", &door)).await;
    assert_attributes(&reading, &[("parallax.kind", "apikey"), ("parallax.read.store", "postgres")]);
    assert_attributes(&reading, &[("parallax.read.reason", "live")]);
    collector.span("of the fence", below("EVALSHA fence", &reading)).await;
    let rows = collector.span("of the rows", below("SELECT api_keys", &reading)).await;
    assert_attributes(
        &rows,
        &[("db.system.name", "postgresql"), ("db.operation.name", "SELECT"), ("db.collection.name", "api_keys")],
    );
    let comparison = collector.span("of the comparison", below("compare", &door)).await;
    assert_attributes(&comparison, &[("parallax.kind", "apikey"), ("parallax.verdict", "match")]);

    let planted = format!("UPDATE api_keys SET doc = jsonb_build_object('{FIELD}', '{VALUE}-planted')");
    assert_eq!(database.client().await.execute(&planted, &[]).await.unwrap(), 1);
    let door = read("00000000000000a2").await;
    let comparison = collector.span("of the comparison", below("compare", &door)).await;
    assert_attributes(&comparison, &[("parallax.verdict", "value")]);
    let mismatch = collector.span("of the mismatch", links_to("mismatch", &door)).await;
    assert!(links_to("mismatch", &comparison)(&mismatch), "{mismatch:?}");
    assert_attributes(&mismatch, &[("parallax.kind", "apikey"), ("parallax.mismatch.class", "value")]);
    assert_eq!(attribute(&mismatch, "parallax.key.hash").unwrap().len(), 32);
}

/// What the walk to live has left: the changes of flags below their requests, and the chunks of the backfill.
async fn the_work_of_operators(collector: &Collector) {
    let door = collector.span("of the admin door", |span| span.name == "PATCH /v1/flags/{name}").await;
    assert_attributes(&door, &[("http.route", "/v1/flags/{name}"), ("parallax.door", "admin")]);
    let change = collector.span("of the change", below("flag change", &door)).await;
    assert_attributes(&change, &[("parallax.flag.scope", "*")]);
    let chunk = collector.span("of the job", |span| span.name == "job chunk").await;
    assert_attributes(&chunk, &[("parallax.job", "backfill")]);
    let names: BTreeSet<String> = collector.spans().into_iter().map(|span| span.name).collect();
    assert!(!names.iter().any(|name| name.contains("readyz") || name.contains("metrics")), "{names:?}");
    let document = include_str!("../../../docs/telemetry.md");
    for attribute in collector.spans().into_iter().flat_map(|span| span.attributes) {
        assert!(document.contains(&format!("`{}`", attribute.key)), "{} is not in docs/telemetry.md", attribute.key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_sampled_is_not_sent_but_mismatches_and_errors_are() {
    let Stack { redis, database, collector, sidecar } = stack(
        Manner::Willing,
        &[("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0")],
    )
    .await;
    sidecar.raise("live").await;
    sidecar.command(&["HSET", KEY, FIELD, VALUE]).await;
    sidecar.drained().await;
    let planted = format!("UPDATE api_keys SET doc = jsonb_build_object('{FIELD}', 'planted')");
    assert_eq!(database.client().await.execute(&planted, &[]).await.unwrap(), 1);
    let parent = traceparent("00");
    let read = sidecar.ask(&["HGETALL", KEY], &[("traceparent", &parent)]).await;
    assert!(read.header("traceresponse").unwrap().ends_with("-00"), "{:?}", read.headers);
    let mismatch = collector.span("of the mismatch", |span| span.name == "mismatch").await;
    // The trace of the request is not here, but whoever has its id finds the mismatch by it.
    assert_eq!(hex(&mismatch.links[0].trace_id), TRACE);

    redis.kill().unwrap();
    let refused = sidecar.ask(&["HSET", KEY, FIELD, VALUE], &[("traceparent", &parent)]).await;
    assert!(refused.status >= 500, "{refused:?}");
    let failed = collector.span("of the refusal", |span| span.name == "POST /redis").await;
    assert_eq!(hex(&failed.links[0].trace_id), TRACE);
    assert_attributes(&failed, &[("http.response.status_code", &refused.status.to_string())]);
    assert_eq!(failed.status.as_ref().unwrap().code(), StatusCode::Error);
    let step = collector.span("of the redis step", |span| span.name == "MULTI HSET").await;
    assert!(attribute(&step, "error.type").is_some(), "{step:?}");

    for span in collector.spans() {
        let is_error = span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
        assert!(is_error || span.name == "mismatch", "{span:?}");
        assert!(span.status.unwrap_or_default().message.is_empty());
    }
    wait_until("the spans were counted", PATIENCE, || async {
        sidecar.metric("parallax_spans_exported_total", &[]).await >= 3.0
    })
    .await;
    assert!(!collector.text().contains("in-no-span"));
    sidecar.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_sends_no_context_or_nonsense_begins_a_trace() {
    let Stack { redis: _redis, database: _database, collector, sidecar } = stack(Manner::Willing, &[]).await;
    for (nonsense, number) in
        [("", 1), ("00-zz-zz-01", 2), ("00-00000000000000000000000000000000-0000000000000000-01", 3)]
    {
        let headers = [("traceparent", nonsense)];
        let answer = sidecar.ask(&["GET", "unmatched"], if nonsense.is_empty() { &[] } else { &headers }).await;
        assert!(answer.header("traceresponse").unwrap().ends_with("-01"), "{number}: {:?}", answer.headers);
    }
    // Neither a path that is none of ours nor a method that is none is shown as it is.
    let lost = sidecar.data("S3CRET", "/s3cret?s3cret=s3cret", None, &[]).await;
    assert_eq!(lost.status, 404);
    let door = collector.span("of the lost request", |span| span.name == "HTTP").await;
    assert_attributes(&door, &[("http.request.method", "_OTHER"), ("http.response.status_code", "404")]);
    let path = sidecar.data("GET", "/redis/get/s3cret", None, &[]).await;
    assert_eq!(path.status, 200);
    collector.span("of the path", |span| span.name == "GET /redis/{command}").await;
    let wrong = sidecar.ask(&["SET", "one"], &[]).await;
    assert_eq!(wrong.status, 400);
    let step = collector.span("of the refused command", |span| span.name == "SET").await;
    assert_attributes(&step, &[("db.response.status_code", "ERR"), ("error.type", "ERR")]);
    let roots = collector.spans().into_iter().filter(|span| span.name == "POST /redis");
    assert!(roots.map(|span| span.parent_span_id).all(|parent| parent.is_empty()));
    assert!(!collector.text().to_lowercase().contains("s3cret"));
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_and_a_refused_change_are_spans_too() {
    let Stack { redis: _redis, database: _database, collector, sidecar } = stack(Manner::Willing, &[]).await;
    let rollback = json!({ "scope": "*", "reason": "r3ason-in-no-span" });
    let answer = sidecar.admin("POST", "/v1/rollback", Some(rollback), &[]).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let span = collector.span("of the rollback", |span| span.name == "rollback").await;
    assert_attributes(&span, &[("parallax.flag.scope", "*")]);
    let answer = sidecar.try_flag("k3y-in-no-span", json!({ "stage": "dualwrite" })).await;
    assert_eq!(answer.status, 422, "{:?}", answer.body);
    let span = collector.span("of the change", |span| span.name == "flag change").await;
    assert_attributes(&span, &[("parallax.flag.scope", "unknown"), ("error.type", "unknown_kind")]);
    assert!(!collector.text().contains("in-no-span"));
    sidecar.stop_expecting(&[]).await;
}
