//! Spans of the Redis door: of what the engine runs and of what is handed on as bytes, and never a word that only a client
//! could have written.

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use crate::resp_door::client::Raw;
use crate::support::collector::{Manner, attribute};
use crate::support::sidecar::PATIENCE;
use crate::support::wait_until;
use crate::traces::{FIELD, KEY, Stack, VALUE, assert_attributes, below, links_to, stack};

#[tokio::test(flavor = "multi_thread")]
async fn the_redis_door_makes_a_span_of_each_run_of_commands() {
    let Stack { redis: _redis, database: _database, collector, sidecar } = stack(Manner::Willing, &[]).await;
    sidecar.raise("dualwrite").await;
    let mut client = Raw::connect(&sidecar.resp).await;

    client.ask(&format!("HSET {KEY} {FIELD} {VALUE}")).await;
    let write = collector.span("of the write", |span| span.name == "HSET" && span.parent_span_id.is_empty()).await;
    assert_eq!(write.kind(), SpanKind::Server);
    assert_attributes(&write, &[("parallax.door", "resp"), ("db.operation.name", "HSET")]);
    collector.span("of the redis step", below("MULTI HSET", &write)).await;
    collector.span("of the apply", links_to("apply", &write)).await;

    // Handed on as bytes: one command, several at once, and one that Redis refuses.
    client.ask("SET session:a-k3y-in-no-span v4lue-in-no-span").await;
    let alone = collector.span("of one", |span| span.name == "SET").await;
    assert_attributes(&alone, &[("parallax.door", "resp"), ("db.operation.name", "SET")]);
    client.write(b"*2\r\n$3\r\nGET\r\n$9\r\nsession:b\r\n*2\r\n$3\r\nget\r\n$9\r\nsession:c\r\n").await;
    client.frames(2).await;
    let several = collector.span("of several", |span| span.name == "PIPELINE GET").await;
    assert_attributes(&several, &[("db.operation.batch.size", "2")]);
    client.ask("INCR session:a-k3y-in-no-span").await;
    let refused = collector.span("of the refusal", |span| span.name == "INCR").await;
    assert_attributes(&refused, &[("db.response.status_code", "ERR"), ("error.type", "ERR")]);

    for line in ["MULTI", "SET session:d in-no-span", "EXEC"] {
        client.ask(line).await;
    }
    collector.span("of a transaction", |span| span.name == "EXEC" && span.kind() == SpanKind::Server).await;
    client.ask("in-no-span nonsense").await;
    collector.span("of nonsense", |span| span.name == "_OTHER").await;

    // Over connections of their own: one that blocks, one that flows, one that subscribes, and all in another database.
    client.ask("RPUSH session:list in-no-span").await;
    client.ask("BLPOP session:list 1").await;
    let large =
        [b"*3\r\n$3\r\nSET\r\n$9\r\nsession:l\r\n$400000\r\n", "x".repeat(400_000).as_bytes(), b"\r\n"].concat();
    client.write(&large).await;
    client.frame().await;
    client.ask("SELECT 1").await;
    client.ask("LPUSH session:e in-no-span").await;
    client.ask("INCR session:e").await;
    client.ask("SELECT 0").await;
    client.ask("SUBSCRIBE in-no-span").await;
    let answered = |name: &'static str| {
        move |span: &Span| span.name == name && span.kind() == SpanKind::Server && span.parent_span_id.is_empty()
    };
    for name in ["BLPOP", "SELECT", "LPUSH", "SUBSCRIBE"] {
        let span = collector.span(name, answered(name)).await;
        assert_attributes(&span, &[("parallax.door", "resp"), ("db.operation.name", name)]);
        assert!(span.status.is_none_or(|status| status.code() != StatusCode::Error), "{name} failed");
    }
    let sets = async || collector.spans().into_iter().filter(|span| span.name == "SET").count();
    wait_until("the large command has a span", PATIENCE, async || sets().await == 2).await;
    let failed =
        |span: &Span| span.name == "INCR" && attribute(span, "db.response.status_code").as_deref() == Some("WRONGTYPE");
    collector.span("of what another database refuses", failed).await;
    assert!(!collector.text().contains("in-no-span") && !collector.text().contains("IN-NO-SPAN"));
    sidecar.stop_expecting(&[]).await;
}
