//! Collectors that are not there, slow, picky or wrong, and none at all: answers stay as they are, and what was lost is
//! counted.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::collector::{Collector, Manner};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::{self, wait_until};
use crate::tls::Authority;
use crate::traces::{KEY, Stack, TOKEN, sidecar, stack};

/// Waits until more spans are dropped for this reason, and makes some.
async fn dropped(sidecar: &Sidecar, reason: &str) {
    let count = async || sidecar.metric("parallax_spans_dropped_total", &[("reason", reason)]).await;
    let before = count().await;
    wait_until(&format!("spans were dropped: {reason}"), PATIENCE, || async {
        sidecar.get("/v1/status").await;
        count().await > before
    })
    .await;
}

/// A write and a read that answer as they always do.
async fn answers_as_always(sidecar: &Sidecar) {
    for number in ["1", "2", "3"] {
        let written = sidecar.ask(&["HSET", KEY, "name", number], &[]).await;
        assert_eq!(
            (written.status, written.header("parallax-mirror")),
            (200, Some("pending")),
            "{:?}",
            written.headers
        );
        assert_eq!(sidecar.command(&["HGET", KEY, "name"]).await, number);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_collector_changes_no_answer_and_is_told_of_once() {
    for protocol in ["http/protobuf", "grpc"] {
        let (redis, database) = (support::redis().await, support::postgres().await);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let more = [("OTEL_EXPORTER_OTLP_PROTOCOL", protocol), ("OTEL_BSP_EXPORT_TIMEOUT", "200")];
        let sidecar = sidecar(&redis, &database, &endpoint, &more).await;
        sidecar.raise("dualwrite").await;
        answers_as_always(&sidecar).await;
        dropped(&sidecar, "export_failed").await;
        answers_as_always(&sidecar).await;
        dropped(&sidecar, "export_failed").await;
        assert_eq!(sidecar.log().matches("traces cannot be exported").count(), 1, "{}", sidecar.log());
        sidecar.drained().await;
        sidecar.stop_expecting(&["traces cannot be exported"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_collector_fills_a_queue_and_nothing_else() {
    let more = [("OTEL_BSP_MAX_QUEUE_SIZE", "2"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")];
    let Stack { redis: _redis, database: _database, collector: _collector, sidecar } =
        stack(Manner::Silent, &more).await;
    sidecar.raise("dualwrite").await;
    answers_as_always(&sidecar).await;
    dropped(&sidecar, "queue_full").await;
    sidecar.drained().await;
    let began = tokio::time::Instant::now();
    sidecar.stop_expecting(&["left without having exported all traces"]).await;
    assert!(began.elapsed() < PATIENCE / 2, "it ended after {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_refuses_is_not_quoted() {
    for (manner, protocol, reason) in [
        (Manner::Refusing, "http/protobuf", "export_failed"),
        (Manner::Refusing, "grpc", "export_failed"),
        (Manner::Picky, "http/protobuf", "rejected"),
        (Manner::Picky, "grpc", "rejected"),
    ] {
        let headers = format!("authorization={TOKEN}");
        let more = [("OTEL_EXPORTER_OTLP_PROTOCOL", protocol), ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", &headers)];
        let Stack { redis: _redis, database: _database, collector: _collector, sidecar } = stack(manner, &more).await;
        sidecar.raise("dualwrite").await;
        answers_as_always(&sidecar).await;
        dropped(&sidecar, reason).await;
        assert!(!sidecar.log().contains(TOKEN), "{}", sidecar.log());
        let expected: &[&str] = if manner == Manner::Picky { &[] } else { &["traces cannot be exported"] };
        sidecar.stop_expecting(expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_endpoint_or_switched_off_nobody_is_called() {
    let collector = Collector::start(Manner::Willing).await;
    let url = collector.url();
    let off: [&[(&str, &str)]; 3] = [
        &[],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url), ("OTEL_SDK_DISABLED", "true")],
        &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &url), ("OTEL_TRACES_EXPORTER", "none")],
    ];
    for variables in off {
        let (redis, database) = (support::redis().await, support::postgres().await);
        let sidecar = Sidecar::start_with(&redis, Some(&database), variables).await;
        sidecar.raise("dualwrite").await;
        answers_as_always(&sidecar).await;
        let headers = [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")];
        assert_eq!(sidecar.ask(&["GET", "unmatched"], &headers).await.header("traceresponse"), None);
        sidecar.drained().await;
        assert_eq!(sidecar.metric("parallax_spans_exported_total", &[]).await, 0.0);
        sidecar.stop_expecting(&[]).await;
    }
    assert_eq!(collector.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_exported_at_the_end() {
    let more = [("OTEL_BSP_SCHEDULE_DELAY", "3600000")];
    let Stack { redis: _redis, database: _database, collector, sidecar } = stack(Manner::Willing, &more).await;
    sidecar.raise("dualwrite").await;
    answers_as_always(&sidecar).await;
    assert!(collector.spans().is_empty());
    sidecar.stop_expecting(&[]).await;
    assert!(collector.spans().iter().any(|span| span.name == "POST /redis"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_behind_tls_is_believed_only_with_its_authority() {
    let (ours, other) = (Authority::new(), Authority::new());
    let shown = ours.certificate_for("localhost");
    let chain = vec![CertificateDer::from_pem_slice(shown.certificate_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(shown.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    for protocol in ["http/protobuf", "grpc"] {
        for (authority, is_believed) in [(&ours, true), (&other, false)] {
            let (redis, database) = (support::redis().await, support::postgres().await);
            let collector = Collector::start_tls(acceptor.clone()).await;
            let (endpoint, file) = (format!("https://localhost:{}", collector.port()), authority.file());
            let more = [
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", file.to_str().unwrap()),
                ("OTEL_BSP_EXPORT_TIMEOUT", "500"),
            ];
            let sidecar = sidecar(&redis, &database, &endpoint, &more).await;
            sidecar.raise("dualwrite").await;
            answers_as_always(&sidecar).await;
            if is_believed {
                collector.span("of the door", |span| span.name == "POST /redis").await;
                sidecar.stop_expecting(&[]).await;
            } else {
                dropped(&sidecar, "export_failed").await;
                assert!(collector.spans().is_empty());
                sidecar.stop_expecting(&["traces cannot be exported"]).await;
            }
        }
    }
}
