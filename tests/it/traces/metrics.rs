//! Metrics over OTLP, and what points from a metric to a trace: the same numbers as a scrape, and the ids of spans that a
//! collector has.

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, NumberDataPoint, number_data_point};

use crate::jobs::{plant, program};
use crate::support::collector::Manner;
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::wait_until;
use crate::traces::{FIELD, KEY, Stack, VALUE, hex, stack};

const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3";

async fn openmetrics(sidecar: &Sidecar) -> String {
    let answer = sidecar.admin("GET", "/metrics", None, &[("accept", OPENMETRICS)]).await;
    let media_type = answer.header("content-type");
    assert_eq!(media_type, Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    String::from_utf8(answer.body.to_vec()).unwrap()
}

/// The trace that the first line which begins so points to.
fn pointed_to(text: &str, begin: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(begin) && line.contains(" # {trace_id="))?;
    line.split("trace_id=\"").nth(1)?.split('"').next().map(str::to_owned)
}

fn labelled<'a>(points: &'a [NumberDataPoint], label: &str, value: &str) -> Option<&'a NumberDataPoint> {
    let has = |point: &&NumberDataPoint| {
        point
            .attributes
            .iter()
            .any(|one| one.key == label && format!("{:?}", one.value).contains(&format!("\"{value}\"")))
    };
    points.iter().find(has)
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_go_to_a_collector_as_a_scrape_shows_them_over_http() {
    tells_the_same("http/protobuf").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_go_to_a_collector_as_a_scrape_shows_them_over_grpc() {
    tells_the_same("grpc").await;
}

async fn tells_the_same(protocol: &str) {
    let more = [
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", protocol),
        // For another signal; where it names a path too, metrics still go to their own.
        ("OTEL_SERVICE_NAME", "relay-sidecar"),
    ];
    let Stack { redis: _redis, database: _database, collector, sidecar } = stack(Manner::Willing, &more).await;
    sidecar.raise("dualwrite").await;
    for number in ["1", "2", "3"] {
        sidecar.command(&["HSET", KEY, FIELD, number]).await;
    }
    sidecar.drained().await;
    let written = || {
        let Some(Data::Sum(sum)) = collector.metric("parallax_writes")?.data else { panic!("a counter is a sum") };
        assert!(sum.is_monotonic);
        assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative);
        let point = labelled(&sum.data_points, "kind", "apikey")?.clone();
        assert!(point.start_time_unix_nano > 0 && point.start_time_unix_nano < point.time_unix_nano);
        point.value
    };
    let three = Some(number_data_point::Value::AsDouble(3.0));
    wait_until("the writes are exported", PATIENCE, || async { written() == three }).await;
    assert_eq!(sidecar.metric("parallax_writes_total", &[("kind", "apikey")]).await, 3.0);

    // The writes may have been exported before what was drained of them.
    let lag_of = || {
        let lag = collector.metric("parallax_mirror_lag_seconds")?;
        assert_eq!(lag.unit, "s");
        let Some(Data::Histogram(histogram)) = lag.data else { panic!("a time is a histogram") };
        histogram.data_points.into_iter().find(|point| point.count > 0)
    };
    wait_until("the lag is exported", PATIENCE, || async { lag_of().is_some() }).await;
    let point = lag_of().unwrap();
    assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    let exemplar = &point.exemplars[0];
    collector.span("that a metric points to", |span| span.name == "apply" && span.trace_id == exemplar.trace_id).await;
    assert_eq!(collector.metrics_resource("service.name").as_deref(), Some("relay-sidecar"));
    assert!(sidecar.metric("parallax_metric_exports_total", &[("result", "taken")]).await >= 1.0);
    assert_eq!(sidecar.metric("parallax_metric_exports_total", &[("result", "failed")]).await, 0.0);
    assert!(!collector.text().contains("in-no-span"));
    sidecar.stop_expecting(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mismatch_and_a_latency_point_to_the_traces_that_a_collector_has() {
    let never = [("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0")];
    let Stack { redis: _redis, database, collector, sidecar } = stack(Manner::Willing, &never).await;
    sidecar.raise("live").await;
    sidecar.command(&["HSET", KEY, FIELD, VALUE]).await;
    sidecar.drained().await;
    let before = openmetrics(&sidecar).await;
    assert!(before.ends_with("# EOF\n") && !before.contains("trace_id"), "nothing was kept: {before}");
    let planted = format!("UPDATE api_keys SET doc = jsonb_build_object('{FIELD}', 'planted')");
    assert_eq!(database.client().await.execute(&planted, &[]).await.unwrap(), 1);

    // A request whose caller keeps its trace, and a mismatch, which is kept whatever its caller says.
    let kept = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    sidecar.ask(&["HGETALL", KEY], &[kept]).await;
    let mismatch = collector.span("of the mismatch", |span| span.name == "mismatch").await;
    let text = openmetrics(&sidecar).await;
    let counted = "parallax_mismatches_total{class=\"value\",kind=\"apikey\"} 1 ";
    assert_eq!(pointed_to(&text, counted), Some(hex(&mismatch.trace_id)), "{text}");
    for (begin, trace) in [
        ("parallax_http_request_seconds_bucket{door=\"http\"", &kept.1[3..35]),
        ("parallax_store_latency_seconds_bucket{operation=\"fence\",store=\"redis\"", &kept.1[3..35]),
    ] {
        assert_eq!(pointed_to(&text, begin).as_deref(), Some(trace), "{begin} in {text}");
    }
    assert!(
        text.contains("# TYPE parallax_mismatches counter\n")
            && text.contains("# UNIT parallax_mirror_lag_seconds seconds\n")
    );
    assert!(text.contains("le=\"1.0\"") && text.contains("le=\"+Inf\""));

    // Whoever does not ask for that text gets the other one, which has no room for them.
    let plain = sidecar.get("/metrics").await;
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(!String::from_utf8_lossy(&plain.body).contains("trace_id"));
    sidecar.stop_expecting(&["a mismatch was confirmed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_its_own_process_leaves_its_numbers_and_its_spans_with_the_collector() {
    let Stack { redis, database, collector, sidecar } = stack(Manner::Willing, &[]).await;
    sidecar.raise("dualwrite").await;
    plant(&redis, 20).await;
    let ran = program(&redis, &database, &["backfill", "--kinds", "user"])
        .env("OTEL_METRICS_EXPORTER", "otlp")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .env("OTEL_SERVICE_NAME", "backfill")
        .output()
        .await
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    // It has ended, and what it did is all here already.
    let Some(Data::Sum(keys)) = collector.metric("parallax_job_keys").and_then(|metric| metric.data) else {
        panic!("the keys of the job were not exported")
    };
    let point = labelled(&keys.data_points, "job_name", "backfill").expect("a number of the backfill");
    // It looks at every key, whatever its kind.
    assert!(matches!(point.value, Some(number_data_point::Value::AsDouble(keys)) if keys >= 20.0), "{point:?}");
    assert_eq!(collector.metrics_resource("service.name").as_deref(), Some("backfill"));
    assert!(collector.spans().iter().any(|span| span.name == "job chunk"));
    sidecar.stop_expecting(&[]).await;
}
