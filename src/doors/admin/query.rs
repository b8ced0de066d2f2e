//! Reads the queries of requests: which page, which key, and whether a change is made or only judged.

use url::form_urlencoded;

use crate::doors::admin::input::wrong;
use crate::doors::problem::{Problem, ProblemKind};
use crate::model::key::Key;
use crate::model::text;

/// Mismatches a page when nothing else is asked for, and at most.
const MISMATCHES_DEFAULT: usize = 100;
const MISMATCHES_MAX: usize = 1000;

/// Which mismatches are asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MismatchPage {
    pub(super) limit: usize,
    pub(super) kind: Option<String>,
}

/// Whether a change is made, or only judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Earnest {
    Made,
    Judged,
}

/// Whether a query asks only what a change would do.
///
/// # Errors
/// 422 with the parameter that is wrong.
pub(super) fn earnest(query: &str) -> Result<Earnest, Problem> {
    let mut earnest = Earnest::Made;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        earnest = match (&*name, &*value) {
            ("dry_run", "true") => Earnest::Judged,
            ("dry_run", "false") => Earnest::Made,
            ("dry_run", _) => return Err(wrong("dry_run", "must be true or false")),
            (other, _) => return Err(wrong(other, "is not known here: dry_run")),
        };
    }
    Ok(earnest)
}

/// The key that a query asks about, from its text form.
///
/// # Errors
/// 422 with the parameter that is wrong or missing, 403 for a key of ours.
pub(super) fn asked_key(query: &str) -> Result<Key, Problem> {
    let mut key = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "key" => key = Some(Key::new(text::decode(&value))),
            other => return Err(wrong(other, "is not known here: key")),
        }
    }
    match key {
        Some(key) if key.is_control() => {
            Err(Problem::new(ProblemKind::ControlKey, "keys that begin with `parallax:` belong to the sidecar"))
        }
        Some(key) if !key.as_bytes().is_empty() => Ok(key),
        Some(_) | None => Err(wrong("key", "is needed: the whole key as Redis holds it")),
    }
}

/// Which mismatches a query asks for.
///
/// # Errors
/// 422 with the parameter that is wrong.
pub(super) fn mismatch_page(query: &str) -> Result<MismatchPage, Problem> {
    let mut page = MismatchPage { limit: MISMATCHES_DEFAULT, kind: None };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MISMATCHES_MAX).contains(limit));
                page.limit = limit.ok_or_else(|| wrong("limit", &format!("must be 1 to {MISMATCHES_MAX}")))?;
            }
            // Postgres takes no NUL in a text.
            "kind" if value.contains('\0') => return Err(wrong("kind", "must be the name of a kind")),
            "kind" => page.kind = Some(value.into_owned()),
            other => return Err(wrong(other, "is not known here: limit, kind")),
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::admin::input::tests::refusal;

    #[test]
    fn a_query_says_whether_a_change_is_made_and_which_key_is_meant() {
        assert_eq!((earnest("").unwrap(), earnest("dry_run=false").unwrap()), (Earnest::Made, Earnest::Made));
        assert_eq!(earnest("dry_run=true").unwrap(), Earnest::Judged);
        for query in ["dry_run=1", "dry_run", "dryrun=true"] {
            assert_eq!(refusal(earnest(query)).0, ProblemKind::InvalidField, "{query}");
        }
        assert_eq!(asked_key("key=user%3Au1").unwrap().as_bytes(), b"user:u1");
        assert_eq!(asked_key("key=%5Cxff00").unwrap().as_bytes(), b"\xff\0");
        for query in ["", "key=", "keys=a"] {
            assert_eq!(refusal(asked_key(query)).0, ProblemKind::InvalidField, "{query}");
        }
        assert_eq!(refusal(asked_key("key=parallax:flags")).0, ProblemKind::ControlKey);
    }

    #[test]
    fn a_page_of_mismatches_has_a_limit() {
        assert_eq!(mismatch_page("").unwrap(), MismatchPage { limit: 100, kind: None });
        let page = mismatch_page("kind=api%6Bey&limit=5").unwrap();
        assert_eq!(page, MismatchPage { limit: 5, kind: Some("apikey".into()) });
        for query in ["limit=0", "limit=1001", "limit=x", "limits=5", "kind=%00"] {
            assert_eq!(refusal(mismatch_page(query)).0, ProblemKind::InvalidField, "{query}");
        }
    }
}
