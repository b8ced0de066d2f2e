//! Wrong values are refused when the chart is rendered, with a message that names the value and says what is wrong with it.

use crate::chart::{CASES, Case, Tools, text};

const PARALLAX: Case = CASES[0];
const RELAY: Case = CASES[3];

/// What is set, and what Helm must say then.
const WRONG: [(&str, &str); 17] = [
    ("redis.hots=cache", "'/redis': additional properties 'hots' not allowed"),
    ("redis.port=0", "'/redis/port': minimum: got 0, want 1"),
    ("redis.port=cache", "'/redis/port': got string, want integer"),
    (
        "postgres.sslmode=prefer",
        "'/postgres/sslmode': value must be one of 'disable', 'require', 'verify-ca', 'verify-full'",
    ),
    ("postgres.host=", "'/postgres/host': minLength"),
    ("doors.admin.tokensSecret.name=", "'/doors/admin/tokensSecret/name': minLength"),
    ("extraEnv.lower=1", "invalid propertyName 'lower'"),
    ("timezoneOffset=15", "'/timezoneOffset': maximum: got 15, want 14"),
    ("jobs.verify.schedule=often", "'/jobs/verify/schedule': 'often' does not match pattern"),
    ("jobs.backfill.run=My Run", "'/jobs/backfill/run': 'My Run' does not match pattern"),
    ("backup.keep=0", "'/backup/keep': minimum: got 0, want 1"),
    ("backup.size=big", "'/backup/size': 'big' does not match pattern"),
    (
        "monitoring.enabled=true,doors.admin.tokensSecret.viewerKey=",
        "monitoring.enabled needs doors.admin.tokensSecret.viewerKey: Prometheus reads /metrics with that token",
    ),
    ("backup.enabled=true,postgres.enabled=false", "backup.enabled needs postgres.enabled"),
    ("backup.enabled=true,postgres.sslmode=verify-ca", "needs postgres.caSecret"),
    ("jobs.verify.schedule=@daily,postgres.enabled=false", "jobs.verify.schedule needs postgres.enabled"),
    ("doors.http.port=8381", "doors.http.port, doors.resp.port and doors.admin.port must differ, got [8381 6380 8381]"),
];

#[test]
fn wrong_values_are_refused_with_what_is_wrong_with_them() {
    let Some(tools) = Tools::find("the charts") else { return };
    for (wrong, message) in WRONG {
        let output = tools.helm(&["template", "relay"], PARALLAX, &["--set", wrong]);
        assert!(!output.status.success(), "{wrong} was accepted");
        assert!(text(&output).contains(message), "{wrong}: {}", text(&output));
    }
}

#[test]
fn wrong_values_are_refused_from_a_chart_that_depends_on_this_one() {
    let Some(tools) = Tools::find("the charts") else { return };
    for (wrong, message) in [
        ("parallax.redis.port=0", "'/redis/port': minimum: got 0, want 1"),
        ("replicas=-1", "'/replicas': minimum: got -1, want 0"),
        ("terminationGracePeriodSeconds=5", "'/terminationGracePeriodSeconds': minimum: got 5, want 30"),
    ] {
        let output = tools.helm(&["template", "relay"], RELAY, &["--set", wrong]);
        assert!(!output.status.success(), "{wrong} was accepted");
        assert!(text(&output).contains(message), "{wrong}: {}", text(&output));
    }
}
