//! The metrics as an operator's tools see them: their names are an interface, and Prometheus' own linter has no complaint.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use parallax::model::flag::Flag;
use parallax::telemetry::Metrics;
use parallax::telemetry::labels::{
    ApplyFailure, Brake, CaptureRefusal, Compared, ComparisonDrop, Door, Export, GapCause, Job, JobEnd, Operation,
    Outcome, Quantile, RouteReason, SpanDrop, Store,
};

/// The metrics after every fact was counted once.
fn after_every_fact() -> Metrics {
    let metrics = Metrics::new("sidecar-1", &["apikey".to_owned(), "unmatched".to_owned()]);
    let took = Duration::from_millis(2);
    metrics.command(Door::Http, Outcome::Ok);
    metrics.read_routed("apikey", Store::Postgres, RouteReason::Live);
    metrics.written("apikey", 3);
    metrics.upserted("api_keys", 1);
    metrics.applied();
    metrics.expunged("api_keys", 1);
    metrics.apply_failed(ApplyFailure::Epoch, 1);
    metrics.mirror_lag("apikey", took);
    metrics.set_outbox(1, took);
    metrics.outbox_queue_dropped(1);
    metrics.captured(2);
    metrics.capture_refused(CaptureRefusal::NoAnchor);
    metrics.mark_failed();
    metrics.dead_letter("apikey");
    metrics.log_gap("apikey", 12);
    metrics.evicted_while_pending("apikey");
    metrics.unverifiable("apikey");
    metrics.not_cut_over("hscan");
    metrics.keyless_write("no such command");
    metrics.compared("apikey", Compared::Value);
    metrics.comparison_dropped(ComparisonDrop::QueueFull);
    metrics.store_latency(Store::Redis, Operation::Write, took);
    metrics.store_error(Store::Postgres, Operation::Apply);
    metrics.set_pool(4, 3, 0);
    metrics.postgres_went_back();
    metrics.capture_gap(GapCause::Lifted);
    metrics.set_capture_gaps_open(1);
    metrics.set_proof("apikey", Some(took));
    metrics.set_flags_version(7);
    metrics.set_lease_valid(true);
    metrics.set_flag("apikey", &Flag::default());
    metrics.rolled_back(took);
    metrics.drilled(took);
    metrics.guard_breached("apikey");
    metrics.set_latency_difference(Operation::Read, Quantile::P99, 0.001);
    metrics.backfilled("apikey", 5);
    metrics.set_job_running(Job::Backfill, true);
    metrics.job_advanced(Job::Backfill, 5, 500);
    metrics.job_ended(Job::Backfill, JobEnd::Done);
    metrics.job_braked(Brake::Redis);
    metrics.http_request(Door::Admin, 200, took);
    metrics.auth_failed(Door::Admin);
    metrics.spans_exported(4);
    metrics.spans_dropped(SpanDrop::QueueFull, 1);
    metrics.metrics_exported(Export::Taken);
    metrics
}

#[test]
fn the_names_of_the_metrics_change_only_with_their_list() {
    let text = after_every_fact().render();
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    names.sort_unstable();
    let listed: Vec<&str> = include_str!("metric-names.txt").lines().collect();
    assert_eq!(names, listed, "tests/it/metric-names.txt should be:\n{}", names.join("\n"));
}

#[test]
fn a_name_has_its_unit_once() {
    let text = after_every_fact().render();
    assert!(text.contains("parallax_mirror_lag_seconds_bucket{kind=\"apikey\",le=\"0.0025\"} 1"), "{text}");
    assert!(!text.contains("seconds_seconds") && !text.contains("total_total"), "{text}");
}

#[test]
fn promtool_has_no_complaint() {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = spawned else {
        println!("SKIPPED: promtool is not installed (Debian: apt install prometheus)");
        return;
    };
    let text = after_every_fact().render();
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaint.is_empty(), "{complaint}");
}
