//! Turns what the walk has seen into the table and into judgements: what must hold, and what is a problem when it does not.

use crate::traffic::compare::Equality;
use crate::traffic::demo::plant;
use crate::traffic::demo::report::{Report, grouped};
use crate::traffic::demo::walk::Seen;
use crate::traffic::figures::Figures;

/// A rollback with a healthy fleet must not take longer, in seconds.
const ROLLBACK_BUDGET_SECONDS: f64 = 2.0;

/// The table and the problems.
pub(super) fn report(seen: &Seen, equality: &Equality) -> Report {
    let mut report = Report::default();
    traffic(seen, &mut report);
    mirroring(seen, &mut report);
    comparing(seen, &mut report);
    disturbances(seen, &mut report);
    equal(equality, &mut report);
    report
}

fn traffic(seen: &Seen, report: &mut Report) {
    let tally = &seen.tally;
    report.line("commands through the HTTP door", grouped(tally.commands));
    let (p50, p99) = (tally.latency_us.value_at_quantile(0.5), tally.latency_us.value_at_quantile(0.99));
    let milliseconds = |us: u64| us as f64 / 1_000.0;
    report.line(
        "HTTP requests, p50 / p99",
        format!("{}, {:.2} / {:.2} ms", grouped(tally.requests), milliseconds(p50), milliseconds(p99)),
    );
    let errors: Vec<String> = tally.redis_errors.iter().map(|(word, count)| format!("{count} {word}")).collect();
    report.line(
        "errors that Redis gave, as to the application",
        if errors.is_empty() { "0".into() } else { errors.join(", ") },
    );
    let failures: Vec<String> = tally.failures.iter().map(|(what, count)| format!("{count} {what}")).collect();
    report.line("commands without an answer of a store", tally.failures_total().to_string());
    report.require(failures.is_empty(), || format!("commands failed: {}", failures.join(", ")));
}

fn mirroring(seen: &Seen, report: &mut Report) {
    let upserts = "parallax_row_upserts_total";
    let (progress, figures) = &seen.after_backfill;
    let commands = seen.tally.commands.saturating_sub(seen.loaded + progress.commands);
    let rows = seen.last.count(upserts, &[]).saturating_sub(figures.count(upserts, &[]));
    report.line("row upserts, backfill included", grouped(seen.last.count(upserts, &[])));
    report.line(
        "after the backfill",
        format!(
            "{} commands, {} rows: {:.1} to 1",
            grouped(commands),
            grouped(rows),
            commands as f64 / rows.max(1) as f64
        ),
    );
    report.require(rows > 0, || "no row was written to Postgres after the backfill".to_owned());
    let lag = |share| seen.before_outage.quantile_since(figures, "parallax_mirror_lag_seconds", share);
    match (lag(0.5), lag(0.99)) {
        (Some(p50), Some(p99)) => {
            report.line(
                "mirror lag p50 / p99, between backfill and outage",
                format!("{:.1} / {:.1} ms", p50 * 1e3, p99 * 1e3),
            );
        }
        _ => report.require(false, || "no mirror lag was measured".to_owned()),
    }
    report.line("backfill", format!("{:.2} s", seen.backfill.as_secs_f64()));
    for (metric, what) in [
        ("parallax_dead_letters_total", "dead letters"),
        ("parallax_mark_failures_total", "failed marks"),
        ("parallax_evicted_while_pending_total", "records evicted while pending"),
    ] {
        let count = seen.last.count(metric, &[]);
        report.require(count == 0, || format!("{count} {what}"));
    }
}

fn comparing(seen: &Seen, report: &mut Report) {
    let compared = |figures: &Figures| figures.count("parallax_comparisons_total", &[]);
    let routed = |store| seen.last.count("parallax_reads_total", &[("store", store)]);
    report.line(
        "reads answered by Redis / Postgres",
        format!("{} / {}", grouped(routed("redis")), grouped(routed("postgres"))),
    );
    report.require(routed("postgres") > 0, || "no read was answered by Postgres".to_owned());
    report.line("sampled comparisons", grouped(compared(&seen.last)));
    report.require(compared(&seen.last) > 0, || "nothing was compared".to_owned());
    let all = seen.last.count("parallax_mismatches_total", &[]);
    let planted = seen.last.count("parallax_mismatches_total", &[("kind", plant::KIND), ("class", "value")]);
    report.line("mismatches, the planted one apart", (all - planted.min(all)).to_string());
    report.require(all == planted, || format!("{} mismatches beyond the planted one", all - planted.min(all)));
    if let Some(found) = &seen.found {
        let after = found.after.as_secs_f64();
        let text = format!("found as `{}` by {} reads in {after:.2} s, repaired", found.class, found.reads);
        report.line("planted corruption", text);
        report.require(found.class == "value", || format!("the planted corruption was classed `{}`", found.class));
    }
}

fn disturbances(seen: &Seen, report: &mut Report) {
    report.line(
        "Postgres stopped and started",
        format!(
            "away {:.1} s, {} marks, outbox at 0 {:.2} s after its stage",
            seen.outage.as_secs_f64(),
            grouped(seen.outage_depth),
            seen.outage_recovery.as_secs_f64()
        ),
    );
    report.require(seen.outage_depth > 0, || "no mark waited while Postgres was away".to_owned());
    report.require(seen.last_outbox == 0, || format!("{} marks in the outbox at the end", seen.last_outbox));
    let rollback = seen.rollback_wall.as_secs_f64();
    report.line("rollback", format!("{rollback:.2} s"));
    report.require(rollback < ROLLBACK_BUDGET_SECONDS, || format!("the rollback took {rollback:.2} s"));
    let is_whole = seen.rollback_report.get("fleet").and_then(serde_json::Value::as_bool) != Some(false);
    report.require(is_whole, || "the rollback was not confirmed by every sidecar".to_owned());
    let from_postgres = |figures: &Figures| figures.count("parallax_reads_total", &[("store", "postgres")]);
    let late = from_postgres(&seen.last).saturating_sub(from_postgres(&seen.after_rollback));
    report.require(late == 0, || format!("{late} reads were answered by Postgres after the rollback"));
    let gaps = seen.last.count("parallax_log_gap_entries_total", &[]);
    report.line("log entries trimmed before they were captured", gaps.to_string());
}

fn equal(equality: &Equality, report: &mut Report) {
    report.line(
        "records compared at the end",
        format!("{} ({} elements and entries)", grouped(equality.records), grouped(equality.elements)),
    );
    report.line("history that only Postgres keeps", format!("{} entries", grouped(equality.history)));
    report.line("differences", equality.differences_total().to_string());
    for ((class, kind), count) in &equality.differences {
        report.require(false, || format!("{count} records of {kind} differ: {class}"));
    }
    if let Some(example) = equality.examples.first() {
        report.require(false, || format!("for example the key with hash {}: {}", example.key_hash, example.class));
    }
    report.require(equality.records > 0, || "there was nothing to compare".to_owned());
}
