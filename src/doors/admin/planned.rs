//! Reads what a caller sent about plans.

use std::collections::BTreeMap;

use crate::doors::admin::input::{Fields, wrong};
use crate::doors::problem::Problem;
use crate::model::plan::{Check, Confirmation, PlanSpec, Step, Wish};

/// What the checks of a plan must be.
const CHECKS_MUST: &str = "must be an object of limits: mismatch_ratio, trouble_ratio, p99_ratio, oldest_mark_seconds, \
     proof_age_hours";

/// The plan that a body asks for.
///
/// # Errors
/// 400 for a body that is no JSON object, 422 with the field that is wrong or missing.
pub(super) fn plan(body: &[u8]) -> Result<PlanSpec, Problem> {
    let mut fields = Fields::of(body)?;
    let steps: Option<Vec<Step>> = fields.take("steps", "must be an array of { percent, bake_seconds }")?;
    let checks: Option<BTreeMap<Check, f64>> = fields.take("checks", CHECKS_MUST)?;
    let confirm: Option<Vec<Confirmation>> = fields.take("confirm", "must be an array of first, last")?;
    let reason = fields.reason()?;
    fields.end()?;
    let spec = PlanSpec {
        steps: steps.ok_or_else(|| wrong("steps", "are needed: an array of { percent, bake_seconds }"))?,
        checks: checks.unwrap_or_default(),
        confirm: confirm.unwrap_or_default(),
        reason: reason.unwrap_or_default(),
    };
    match spec.check() {
        Ok(()) => Ok(spec),
        Err(error) => Err(wrong(error.field, &error.reason)),
    }
}

/// Why somebody changes a plan. To go on after a stop and to give up need a reason.
///
/// # Errors
/// As for [`plan`].
pub(super) fn plan_reason(body: &[u8], wish: Wish) -> Result<String, Problem> {
    let mut fields = Fields::of(if body.is_empty() { b"{}" } else { body })?;
    let reason = fields.reason()?.unwrap_or_default();
    fields.end()?;
    match wish {
        Wish::Resume | Wish::Abort if reason.trim().is_empty() => Err(wrong("reason", "is needed for the audit")),
        Wish::Promote | Wish::Pause | Wish::Resume | Wish::Abort => Ok(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::admin::input::tests::refusal;
    use crate::doors::problem::ProblemKind;

    #[test]
    fn a_plan_names_what_is_wrong_with_it() {
        let steps = r#""steps": [{"percent": 1, "bake_seconds": 60}, {"percent": 100, "bake_seconds": 60}]"#;
        let whole = plan(format!(r#"{{{steps}, "checks": {{"p99_ratio": 9}}, "reason": "r"}}"#).as_bytes()).unwrap();
        assert_eq!((whole.steps.len(), whole.limit(Check::P99Ratio)), (2, 9.0));
        for (body, field) in [
            (r#"{"reason": "r"}"#.to_owned(), "steps "),
            (r#"{"steps": [{"percent": 1}], "reason": "r"}"#.to_owned(), "steps "),
            (r#"{"steps": [{"percent": 1, "bake_seconds": 0}], "reason": "r"}"#.to_owned(), "steps "),
            (r#"{"steps": [{"percent": 0.0001, "bake_seconds": 1}], "reason": "r"}"#.to_owned(), "steps "),
            (r#"{"steps": [{"percent": 1, "bake_seconds": 1, "rest": 1}], "reason": "r"}"#.to_owned(), "steps "),
            (format!(r#"{{{steps}, "checks": {{"p98_ratio": 9}}, "reason": "r"}}"#), "checks "),
            (format!(r#"{{{steps}, "checks": {{"p99_ratio": -1}}, "reason": "r"}}"#), "checks "),
            (format!(r#"{{{steps}, "confirm": ["middle"], "reason": "r"}}"#), "confirm "),
            (format!(r#"{{{steps}}}"#), "reason "),
            (format!(r#"{{{steps}, "reason": "r", "stage": "live"}}"#), "stage "),
        ] {
            let (kind, told) = refusal(plan(body.as_bytes()));
            assert!(kind == ProblemKind::InvalidField && told.starts_with(field), "{body}: {told}");
        }
        assert!(plan_reason(b"", Wish::Promote).is_ok());
        for wish in [Wish::Resume, Wish::Abort] {
            assert!(refusal(plan_reason(br#"{"reason": ""}"#, wish)).1.starts_with("reason "));
        }
    }
}
