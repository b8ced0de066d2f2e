//! Writes what the engine reports as answers, and what it refuses as problems.

use http::header::{self, HeaderValue};
use http::{Response as HttpResponse, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::doors::admin::input;
use crate::doors::guard::Role;
use crate::doors::problem::{Problem, ProblemKind};
use crate::doors::server::Response;
use crate::dual::EngineError;
use crate::dual::flags::{ChangeError, FlagsReport};
use crate::dual::guard::PlanError;
use crate::dual::status::Health;
use crate::dual::task::TaskError;
use crate::jobs::JobsError;

/// A JSON answer.
pub(super) fn json(status: StatusCode, body: &Value) -> Response {
    whole(status, "application/json", body.to_string())
}

/// What this door understands and answers, as `OpenAPI` 3.1.
pub(super) fn description() -> Response {
    whole(StatusCode::OK, "application/json", include_str!("openapi.json").to_owned())
}

/// One line for a probe.
pub(super) fn text(status: StatusCode, line: &str) -> Response {
    whole(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

fn whole(status: StatusCode, media_type: &'static str, body: String) -> Response {
    let mut response = HttpResponse::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    // Flags and health are true for a moment only.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A report as JSON.
///
/// # Errors
/// 500 for a report that is no JSON, which is our own mistake.
pub(super) fn value(report: &impl Serialize) -> Result<Value, Problem> {
    serde_json::to_value(report).map_err(|error| {
        tracing::error!(%error, "a report could not be written as JSON");
        Problem::new(ProblemKind::Internal, "the report could not be written")
    })
}

/// A job that was begun.
pub(super) fn accepted(id: &str) -> Response {
    let mut response = json(StatusCode::ACCEPTED, &json!({ "id": id }));
    if let Ok(place) = HeaderValue::from_str(&format!("/v1/jobs/{id}")) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

/// The health, by the checks of the original plan.
pub(super) fn health(health: &Health) -> Response {
    let is_healthy = health.postgres && health.redis && health.data_consistency;
    let (status, word) =
        if is_healthy { (StatusCode::OK, "healthy") } else { (StatusCode::SERVICE_UNAVAILABLE, "unhealthy") };
    let checks =
        json!({ "postgres": health.postgres, "redis": health.redis, "dataConsistency": health.data_consistency });
    json(status, &json!({ "status": word, "checks": checks, "details": health.details }))
}

/// All flags.
///
/// # Errors
/// As [`value`].
pub(super) fn flags(report: &FlagsReport) -> Result<Response, Problem> {
    Ok(tagged(json(StatusCode::OK, &value(report)?), report.version))
}

/// The flag of `kind`, or of `*`.
///
/// # Errors
/// 404 for a kind that the catalog does not have.
pub(super) fn flag(report: &FlagsReport, kind: &str) -> Result<Response, Problem> {
    let mut body = if kind == "*" {
        json!({ "kind": "*", "flag": value(&report.default)? })
    } else {
        let found = report.kinds.iter().find(|flag| flag.kind == kind);
        value(found.ok_or_else(unknown_kind)?)?
    };
    if let Value::Object(members) = &mut body {
        members.insert("version".into(), json!(report.version));
        members.insert("lease_valid".into(), json!(report.lease_valid));
    }
    Ok(tagged(json(StatusCode::OK, &body), report.version))
}

fn tagged(mut response: Response, version: u64) -> Response {
    response.headers_mut().insert(header::ETAG, etag(version));
    response
}

fn etag(version: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).expect("digits in quotes are a header value")
}

/// Mismatches and ghosts as `role` may see them: an id can be a secret (a code that can be redeemed), and so can what a record
/// holds, so only `secrets` sees them. The
/// key's hash finds the rows of both stores for everybody who may look there.
pub(super) fn masked(mut mismatches: Vec<Value>, role: Role) -> Vec<Value> {
    match role {
        Role::Secrets => {}
        Role::Viewer | Role::Operator => {
            for mismatch in mismatches.iter_mut().filter_map(Value::as_object_mut) {
                for secret in ["id", "element", "doc", "redis", "postgres"] {
                    mismatch.remove(secret);
                }
            }
        }
    }
    mismatches
}

/// A job as `role` may see it: the differences that it lists are named by ids for `secrets` alone, as [`masked`] has it.
pub(super) fn masked_job(mut job: Value, role: Role) -> Value {
    let lists = job.get_mut("report").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut);
    for list in lists.filter_map(Value::as_array_mut) {
        *list = masked(std::mem::take(list), role);
    }
    job
}

fn unknown_kind() -> Problem {
    Problem::new(ProblemKind::UnknownKind, "the catalog has no such kind")
}

/// Why a change was not made.
pub(super) fn change_problem(error: ChangeError) -> Problem {
    match error {
        ChangeError::UnknownKind => unknown_kind(),
        ChangeError::Stale { current } => {
            Problem::new(ProblemKind::PreconditionFailed, format!("the flags are at version {current} now"))
                .with("version", current)
                .with_header(header::ETAG, etag(current))
        }
        ChangeError::Field(error) => input::wrong(error.field, &error.reason),
        ChangeError::Refused { unmet } => {
            let told: Vec<&str> = unmet.iter().map(|condition| condition.detail.as_str()).collect();
            let told = format!("not yet: {}", told.join("; "));
            Problem::new(ProblemKind::Conflict, told).with("unmet", serde_json::to_value(&unmet).unwrap_or_default())
        }
        ChangeError::Barrier { waiting } => {
            let detail = format!("these sidecars have not confirmed the last change: {}", waiting.join(", "));
            Problem::new(ProblemKind::Conflict, detail).with("waiting", waiting)
        }
        ChangeError::Store(reason) => {
            tracing::warn!(reason, "a change asked for at the admin door could not be stored");
            Problem::new(ProblemKind::RedisUnreachable, "the flags could not be stored")
        }
    }
}

/// Why a flag was not changed: a kind that there is not is a mistake in the path.
pub(super) fn flag_problem(error: ChangeError) -> Problem {
    unless_unknown(error, "kind", "must be a kind of the catalog, or * for the default of all")
}

/// Why a rollback was not made: a kind that there is not is a mistake in the body.
pub(super) fn scope_problem(error: ChangeError) -> Problem {
    unless_unknown(error, "scope", "must be a kind of the catalog, or * for all")
}

fn unless_unknown(error: ChangeError, field: &'static str, must: &'static str) -> Problem {
    match error {
        ChangeError::UnknownKind => input::wrong(field, must),
        ChangeError::Stale { .. }
        | ChangeError::Field(_)
        | ChangeError::Refused { .. }
        | ChangeError::Barrier { .. }
        | ChangeError::Store(_) => change_problem(error),
    }
}

/// Why a plan was not posted: a name that there is not is a mistake in the path.
pub(super) fn posting_problem(error: PlanError) -> Problem {
    match error {
        PlanError::UnknownName => input::wrong("kind", "must be a kind or a group of the catalog"),
        PlanError::NoPlan | PlanError::Field(_) | PlanError::Conflict(_) | PlanError::Store(_) => plan_problem(error),
    }
}

/// Why a plan was not changed, or cannot be shown.
pub(super) fn plan_problem(error: PlanError) -> Problem {
    match error {
        PlanError::UnknownName => Problem::new(ProblemKind::UnknownKind, error.to_string()),
        PlanError::NoPlan => Problem::new(ProblemKind::NotFound, error.to_string()),
        PlanError::Field(error) => input::wrong(error.field, &error.reason),
        PlanError::Conflict(reason) => Problem::new(ProblemKind::Conflict, reason),
        PlanError::Store(reason) => {
            tracing::warn!(reason, "a plan asked for at the admin door could not be stored");
            Problem::new(ProblemKind::RedisUnreachable, "the plans could not be stored or read")
        }
    }
}

/// Why a job did not start, or cannot be told what is wished of it.
pub(super) fn jobs_problem(error: JobsError) -> Problem {
    match error {
        JobsError::Running(ref id) => Problem::new(ProblemKind::Conflict, error.to_string()).with("id", id.clone()),
        JobsError::Field(error) => input::wrong(error.field, error.reason),
        JobsError::Task(error) => task_problem(error),
        JobsError::Unknown => Problem::new(ProblemKind::NotFound, error.to_string()),
        JobsError::Ended(_) => Problem::new(ProblemKind::Conflict, error.to_string()),
        JobsError::Postgres(reason) => {
            tracing::warn!(reason, "postgres was asked for jobs in vain");
            Problem::new(ProblemKind::PostgresUnavailable, "Postgres, where jobs are kept, does not answer")
        }
    }
}

/// Why a task may not run, or did not get on.
pub(super) fn task_problem(error: TaskError) -> Problem {
    match error {
        TaskError::Change(error) => change_problem(error),
        TaskError::Unmet(reason) => Problem::new(ProblemKind::Conflict, reason),
        TaskError::NoAnchor | TaskError::Unmarked | TaskError::Overtaken => {
            Problem::new(ProblemKind::Conflict, error.to_string())
        }
        TaskError::Store(reason) => {
            tracing::warn!(reason, "a task asked for at the admin door could not reach a store");
            Problem::new(ProblemKind::RedisUnreachable, "a store does not answer")
        }
    }
}

/// Why a report could not be made.
pub(super) fn engine_problem(error: EngineError) -> Problem {
    tracing::warn!(%error, "a report asked for at the admin door could not be made");
    match error {
        EngineError::RedisUnreachable(_) => Problem::new(ProblemKind::RedisUnreachable, "Redis does not answer"),
        EngineError::PostgresUnavailable(_) => {
            Problem::new(ProblemKind::PostgresUnavailable, "Postgres does not answer")
        }
        EngineError::Overloaded => Problem::new(ProblemKind::Overloaded, "too much waits already"),
        EngineError::Timeout => Problem::new(ProblemKind::Timeout, "the stores took too long"),
        EngineError::UnknownOutcome(_) => Problem::new(ProblemKind::UnknownOutcome, "the outcome is not known"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dual::flags::KindFlag;
    use crate::dual::gate::{Asked, Condition};
    use crate::model::flag::{FieldError, Flag};

    fn report() -> FlagsReport {
        let kind = KindFlag {
            kind: "apikey".into(),
            flag: Flag::default(),
            own: true,
            backfilled: false,
            meaning: "Redis alone".into(),
        };
        FlagsReport { version: 12, lease_valid: true, kinds: vec![kind], default: Flag::default() }
    }

    #[test]
    fn a_flag_is_shown_with_the_version_that_changes_it() {
        for kind in ["apikey", "*"] {
            let response = flag(&report(), kind).unwrap();
            assert_eq!(response.headers()[header::ETAG], "\"12\"", "{kind}");
        }
        assert_eq!(flag(&report(), "apikeys").unwrap_err().kind(), ProblemKind::UnknownKind);
    }

    #[test]
    fn a_refused_change_says_what_to_do_about_it() {
        let unmet = vec![Condition::unmet(Asked::Backfill, "backfill apikey")];
        let field = FieldError::new("percent", "must be 0 to 100");
        for (error, kind, status, told) in [
            (ChangeError::Stale { current: 13 }, ProblemKind::PreconditionFailed, 412, "version 13"),
            (ChangeError::Refused { unmet }, ProblemKind::Conflict, 409, "backfill apikey"),
            (ChangeError::Barrier { waiting: vec!["pod-2".into()] }, ProblemKind::Conflict, 409, "pod-2"),
            (ChangeError::Field(field), ProblemKind::InvalidField, 422, "percent must be"),
            (ChangeError::UnknownKind, ProblemKind::UnknownKind, 404, "kind"),
        ] {
            let problem = change_problem(error);
            assert!(problem.detail().contains(told), "{}", problem.detail());
            assert_eq!(problem.kind(), kind);
            assert_eq!(problem.into_response().status().as_u16(), status);
        }
    }

    #[test]
    fn only_the_right_to_secrets_sees_the_id_of_a_mismatch() {
        let found = vec![json!({ "id": "CODE-1", "key_hash": "00ff", "fields": ["name"] })];
        for role in [Role::Viewer, Role::Operator] {
            assert_eq!(masked(found.clone(), role), [json!({ "key_hash": "00ff", "fields": ["name"] })]);
        }
        assert_eq!(masked(found.clone(), Role::Secrets), found);
    }

    #[test]
    fn only_the_right_to_secrets_sees_the_ids_in_a_report() {
        let job = json!({ "id": "verify-1", "report": { "totalRedis": 1, "missingInRedis": [{ "id": "CODE-1", "class": "x" }] } });
        assert_eq!(masked_job(job.clone(), Role::Viewer)["report"]["missingInRedis"], json!([{ "class": "x" }]));
        assert_eq!(masked_job(job.clone(), Role::Viewer)["id"], "verify-1");
        assert_eq!(masked_job(job.clone(), Role::Secrets), job);
    }

    #[test]
    fn one_failed_check_makes_the_whole_unhealthy() {
        let with = |postgres| Health { postgres, redis: true, data_consistency: true, details: json!({}) };
        assert_eq!(health(&with(true)).status(), StatusCode::OK);
        assert_eq!(health(&with(false)).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
