//! Reads what a caller sent in bodies, and the version in `If-Match`. Parsed here once; behind it types are trusted.

use http::header::{self, HeaderMap};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::doors::problem::{Problem, ProblemKind};
use crate::doors::server::Request;
use crate::jobs::Spec;
use crate::jobs::pace::Limits;
use crate::jobs::spec::{JobName, RepairBound};
use crate::model::flag::{Ack, Flag, FlagChange, Stage};

/// Characters of a reason, which goes into the audit row.
const REASON_CHARS_MAX: usize = 1000;

/// What a job and its pace must be.
const JOB_MUST: &str = "must be backfill, verify, repair or restore";
const PACE_MUST: &str =
    "must be an object of whole numbers: keys_per_second, bytes_per_second, redis_p99_ms, postgres_ms, outbox_age_ms";

/// What a flag's new value is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlagMode {
    /// What is left out gets its default.
    Replace,
    /// What is left out stays.
    Patch,
}

/// A wish to take reads back to Redis.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rollback {
    /// A kind, or `*`.
    pub(super) scope: String,
    pub(super) reason: String,
    /// Whether it is only rehearsed.
    pub(super) is_drill: bool,
}

/// Checks that the body says it is JSON, or says nothing.
///
/// # Errors
/// 415.
pub(super) fn require_json(request: &Request) -> Result<(), Problem> {
    let Some(value) = request.headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let media_type = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let known = ["application/json", "application/merge-patch+json"];
    if known.iter().any(|known| media_type.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    Err(Problem::new(ProblemKind::UnsupportedMediaType, "send application/json"))
}

/// The flags' version that the caller has seen.
///
/// # Errors
/// 428 without one, 400 for what is none.
pub(super) fn version(headers: &HeaderMap) -> Result<u64, Problem> {
    let mut values = headers.get_all(header::IF_MATCH).iter();
    let (Some(value), more) = (values.next(), values.next()) else {
        let detail = "send the ETag of the flag you have seen, such as `If-Match: \"12\"`";
        return Err(Problem::new(ProblemKind::PreconditionRequired, detail));
    };
    let tag = value.to_str().unwrap_or_default().trim();
    let digits = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag);
    match (digits.parse(), more) {
        // Rust reads a plus sign too.
        (Ok(version), None) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(version),
        (Ok(_) | Err(_), _) => {
            Err(Problem::new(ProblemKind::BadRequest, "If-Match must be one version, such as `If-Match: \"12\"`"))
        }
    }
}

/// The change of a flag that a body asks for.
///
/// # Errors
/// 400 for a body that is no JSON object, 422 with the field that is wrong.
pub(super) fn flag_change(body: &[u8], mode: FlagMode) -> Result<FlagChange, Problem> {
    let mut fields = Fields::of(body)?;
    let stage: Option<Stage> = fields.take("stage", "must be off, dualwrite, shadow or live")?;
    let percent: Option<f64> = fields.take("percent", "must be a number")?;
    let sample_rate: Option<f64> = fields.take("sample_rate", "must be a number")?;
    let ack: Option<Ack> = fields.take("ack", "must be redis or both")?;
    let deadline_ms: Option<u64> = fields.take("deadline_ms", "must be a whole number")?;
    let resume = fields.take("resume", "must be true or false")?;
    let overrides = fields.take("override", "must be true or false")?;
    let reason = fields.reason()?;
    fields.end()?;
    let given = FlagChange { stage, percent, sample_rate, ack, deadline_ms, resume, overrides, reason };
    // A value that no flag can have is told first, whatever version the caller has seen.
    given.applied_to(&Flag::default()).map_err(|error| wrong(error.field, &error.reason))?;
    Ok(match mode {
        FlagMode::Patch => given,
        FlagMode::Replace => replaced(given),
    })
}

fn replaced(given: FlagChange) -> FlagChange {
    let default = Flag::default();
    FlagChange {
        stage: given.stage.or(Some(default.stage)),
        percent: given.percent.or(Some(default.percent)),
        sample_rate: given.sample_rate.or(Some(default.sample_rate)),
        ack: given.ack.or(Some(default.ack)),
        deadline_ms: given.deadline_ms.or(Some(default.deadline_ms)),
        resume: given.resume,
        overrides: given.overrides,
        reason: given.reason,
    }
}

/// The rollback that a body asks for. Its media type is not looked at: a way back must not fail for a header.
///
/// # Errors
/// 400 for a body that is no JSON object, 422 with the field that is wrong or missing.
pub(super) fn rollback(body: &[u8]) -> Result<Rollback, Problem> {
    let mut fields = Fields::of(body)?;
    let scope: Option<String> = fields.take("scope", "must be a kind or *")?;
    let drill: Option<bool> = fields.take("drill", "must be true or false")?;
    let reason = fields.reason()?;
    fields.end()?;
    let scope = scope.ok_or_else(|| wrong("scope", "is needed: a kind, or * for all"))?;
    let reason = reason.filter(|reason| !reason.trim().is_empty());
    let reason = reason.ok_or_else(|| wrong("reason", "is needed for the audit"))?;
    Ok(Rollback { scope, reason, is_drill: drill.unwrap_or_default() })
}

/// The job that a body asks for.
///
/// # Errors
/// 400 for a body that is no JSON object, 422 with the field that is wrong or missing.
pub(super) fn job(body: &[u8]) -> Result<Spec, Problem> {
    let mut fields = Fields::of(body)?;
    let job: Option<JobName> = fields.take("job", JOB_MUST)?;
    let kinds: Option<Vec<String>> = fields.take("kinds", "must be an array of kinds")?;
    let dry_run: Option<bool> = fields.take("dry_run", "must be true or false")?;
    let exhaustive: Option<bool> = fields.take("exhaustive", "must be true or false")?;
    let values: Option<bool> = fields.take("values", "must be true or false")?;
    let overwrite: Option<bool> = fields.take("overwrite", "must be true or false")?;
    let records: Option<u64> = fields.take("records", "must be a whole number")?;
    let apply: Option<bool> = fields.take("apply", "must be true or false")?;
    let bound: Option<RepairBound> =
        fields.take("bound", "must be an object of whole numbers: max_keys, max_per_million")?;
    let allow_eviction: Option<bool> = fields.take("allow_eviction", "must be true or false")?;
    let pace: Option<Limits> = fields.take("pace", PACE_MUST)?;
    fields.end()?;
    let spec = Spec {
        job: job.ok_or_else(|| wrong("job", JOB_MUST))?,
        kinds: kinds.unwrap_or_default(),
        dry_run: dry_run.unwrap_or_default(),
        exhaustive: exhaustive.unwrap_or_default(),
        values: values.unwrap_or_default(),
        overwrite: overwrite.unwrap_or_default(),
        records,
        apply: apply.unwrap_or_default(),
        bound: bound.unwrap_or_default(),
        allow_eviction: allow_eviction.unwrap_or_default(),
        pace: pace.unwrap_or_default(),
    };
    match spec.check() {
        Ok(()) => Ok(spec),
        Err(error) => Err(wrong(error.field, error.reason)),
    }
}

/// The members of a JSON object, taken one by one; each mistake names its member.
pub(super) struct Fields {
    members: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Fields {
    pub(super) fn of(body: &[u8]) -> Result<Self, Problem> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(members)) => Ok(Self { members, known: Vec::new() }),
            Ok(_) => Err(Problem::new(ProblemKind::MalformedJson, "the body must be a JSON object")),
            Err(error) => Err(Problem::new(ProblemKind::MalformedJson, error.to_string())
                .with("line", error.line())
                .with("column", error.column())),
        }
    }

    pub(super) fn take<T: DeserializeOwned>(&mut self, name: &'static str, must: &str) -> Result<Option<T>, Problem> {
        self.known.push(name);
        let Some(value) = self.members.remove(name) else {
            return Ok(None);
        };
        serde_json::from_value(value).map(Some).map_err(|_| wrong(name, must))
    }

    pub(super) fn reason(&mut self) -> Result<Option<String>, Problem> {
        let reason: Option<String> = self.take("reason", "must be a text")?;
        match reason {
            Some(reason) if reason.chars().count() > REASON_CHARS_MAX => {
                Err(wrong("reason", &format!("must have at most {REASON_CHARS_MAX} characters")))
            }
            reason => Ok(reason),
        }
    }

    pub(super) fn end(self) -> Result<(), Problem> {
        match self.members.keys().next() {
            None => Ok(()),
            Some(name) => Err(wrong(name, &format!("is not known here: {}", self.known.join(", ")))),
        }
    }
}

/// 422 for `field`.
pub(super) fn wrong(field: &str, reason: &str) -> Problem {
    Problem::new(ProblemKind::InvalidField, format!("{field} {reason}")).with("field", field)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::doors::admin) fn refusal<T: std::fmt::Debug>(result: Result<T, Problem>) -> (ProblemKind, String) {
        let problem = result.expect_err("refused");
        (problem.kind(), problem.detail().to_owned())
    }

    fn if_match(value: &str) -> HeaderMap {
        [(header::IF_MATCH, value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn a_change_must_name_the_version_it_has_seen() {
        assert_eq!(version(&if_match("\"12\"")).unwrap(), 12);
        assert_eq!(version(&if_match("12")).unwrap(), 12);
        assert_eq!(refusal(version(&HeaderMap::new())).0, ProblemKind::PreconditionRequired);
        for wrong in ["*", "\"12", "\"12\", \"13\"", "W/\"12\"", "\"-1\"", "\"+1\"", ""] {
            assert_eq!(refusal(version(&if_match(wrong))).0, ProblemKind::BadRequest, "{wrong}");
        }
    }

    #[test]
    fn a_patch_leaves_and_a_put_resets_what_it_does_not_name() {
        let body = br#"{"percent": 25, "reason": "first quarter"}"#;
        let patch = flag_change(body, FlagMode::Patch).unwrap();
        assert_eq!((patch.percent, patch.stage, patch.deadline_ms), (Some(25.0), None, None));
        assert_eq!(patch.reason.as_deref(), Some("first quarter"));
        let live = Flag { stage: Stage::Live, deadline_ms: 50, latched: true, ..Flag::default() };
        let put = flag_change(body, FlagMode::Replace).unwrap().applied_to(&live).unwrap();
        assert_eq!(put, Flag { percent: 25.0, latched: true, ..Flag::default() });
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (body, field) in [
            (r#"{"stage": "lively"}"#, "stage"),
            (r#"{"percent": "50"}"#, "percent"),
            (r#"{"percent": null}"#, "percent"),
            (r#"{"deadline_ms": 1.5}"#, "deadline_ms"),
            (r#"{"ack": true}"#, "ack"),
            (r#"{"percent": 100.5}"#, "percent"),
            (r#"{"resume": true}"#, "reason"),
            (r#"{"override": true}"#, "reason"),
            (r#"{"override": "yes", "reason": "r"}"#, "override"),
            (r#"{"latched": false}"#, "latched"),
        ] {
            let (kind, detail) = refusal(flag_change(body.as_bytes(), FlagMode::Patch));
            assert_eq!(kind, ProblemKind::InvalidField, "{body}");
            assert!(detail.starts_with(&format!("{field} ")), "{detail}");
        }
    }

    #[test]
    fn malformed_json_is_told_with_its_position() {
        let (kind, detail) = refusal(rollback(b"{\"scope\": \n nothing}"));
        assert_eq!(kind, ProblemKind::MalformedJson);
        assert!(detail.contains("line 2"), "{detail}");
        assert_eq!(refusal(rollback(b"[1]")).0, ProblemKind::MalformedJson);
        assert_eq!(refusal(rollback(b"")).0, ProblemKind::MalformedJson);
    }

    #[test]
    fn a_rollback_says_what_and_why() {
        let wish = rollback(br#"{"scope": "*", "reason": "p99"}"#).unwrap();
        assert_eq!(wish, Rollback { scope: "*".into(), reason: "p99".into(), is_drill: false });
        assert!(rollback(br#"{"scope": "user", "reason": "p99", "drill": true}"#).unwrap().is_drill);
        assert!(refusal(rollback(br#"{"scope": "user", "reason": "p99", "drill": 1}"#)).1.starts_with("drill "));
        assert!(refusal(rollback(br#"{"reason": "p99"}"#)).1.starts_with("scope "));
        assert!(refusal(rollback(br#"{"scope": "*", "reason": " "}"#)).1.starts_with("reason "));
        let long = serde_json::json!({ "scope": "*", "reason": "x".repeat(REASON_CHARS_MAX + 1) }).to_string();
        assert!(refusal(rollback(long.as_bytes())).1.starts_with("reason "));
    }

    #[test]
    fn a_job_has_a_name_kinds_and_limits_that_make_sense() {
        let spec = job(br#"{"job": "backfill", "kinds": ["apikey"], "pace": {"keys_per_second": 100}}"#).unwrap();
        assert_eq!((spec.kinds, spec.pace.keys_per_second), (vec!["apikey".to_owned()], Some(100)));
        for (body, field) in [
            (&br#"{"job": "rebuild", "kinds": ["apikey"]}"#[..], "job "),
            (br#"{"kinds": ["apikey"]}"#, "job "),
            (br#"{"job": "backfill", "kinds": []}"#, "kinds "),
            (br#"{"job": "backfill", "kinds": "*"}"#, "kinds "),
            (br#"{"job": "backfill", "kinds": ["*"], "pace": {"keys_per_second": -1}}"#, "pace "),
            (br#"{"job": "backfill", "kinds": ["*"], "pace": {"keys_per_second": 0}}"#, "keys_per_second "),
            (br#"{"job": "backfill", "kinds": ["*"], "page": {}}"#, "page "),
            (br#"{"job": "backfill", "kinds": ["*"], "values": true}"#, "values "),
            (br#"{"job": "repair", "kinds": ["*"], "overwrite": true}"#, "overwrite "),
            (br#"{"job": "restore", "kinds": ["*"], "overwrite": true}"#, "records "),
            (br#"{"job": "restore", "kinds": ["*"], "records": 3}"#, "records "),
            (br#"{"job": "restore", "kinds": ["*"], "overwrite": true, "dry_run": true, "records": 3}"#, "records "),
            (br#"{"job": "restore", "kinds": ["user"]}"#, "kinds "),
            (br#"{"job": "verify", "kinds": ["*"], "dry_run": true}"#, "dry_run "),
        ] {
            let told = refusal(job(body)).1;
            assert!(told.starts_with(field), "{told}");
        }
    }
}
