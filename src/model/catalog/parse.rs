//! Reads a catalog file and says everything that is wrong with it at once, each with its line.
//!
//! A file is a list of families: a family gives settings to its kinds, and each kind may have its own. Nothing is
//! guessed: an unknown field or word is an error, and so is a kind that no key could ever reach.

use std::sync::Arc;

use toml::de::DeTable;

use crate::model::catalog::errors::{CatalogError, Errors};
use crate::model::catalog::fields::Fields;
use crate::model::catalog::kind::{Kind, Policy};
use crate::model::catalog::pattern::Pattern;
use crate::model::catalog::settings::{Settings, is_word};
use crate::model::catalog::{Catalog, UNMATCHED};

/// A kind as it stands in the file, before it has a place among the others.
struct Draft {
    at: usize,
    name: String,
    pattern: Pattern,
    settings: Settings,
}

/// The catalog that `text` describes.
pub(super) fn catalog(file: &str, text: &str) -> Result<Catalog, Vec<CatalogError>> {
    let mut errors = Errors::new(file, text);
    let (root, syntax) = DeTable::parse_recoverable(text);
    for error in syntax {
        errors.push(error.span().map_or(0, |span| span.start), error.message());
    }
    if !errors.is_empty() {
        return errors.or(None);
    }
    let mut fields = Fields::new(root.get_ref(), root.span().start);
    let unmatched = read_unmatched(&mut fields, &mut errors);
    let mut drafts = Vec::new();
    for family in fields.tables("family", &mut errors) {
        read_family(family, &mut drafts, &mut errors);
    }
    fields.refuse_the_rest(&mut errors);
    refuse_twins(&drafts, &mut errors);
    refuse_groups_named_as_kinds(&drafts, &mut errors);
    let places: Vec<usize> = drafts.iter().map(|draft| draft.at).collect();
    let mut kinds: Vec<Arc<Kind>> = Vec::new();
    for draft in drafts.into_iter().chain([unmatched]) {
        let kind = finish(draft, &kinds, &mut errors);
        kinds.push(Arc::new(kind));
    }
    let catalog = kinds.pop().map(|unmatched| Catalog::of_kinds(kinds, unmatched));
    if let Some(catalog) = &catalog {
        refuse_what_is_covered(catalog, &places, &mut errors);
    }
    errors.or(catalog)
}

/// `[unmatched]`: what becomes of keys that no pattern matches. Redis only, where the file says nothing.
fn read_unmatched(root: &mut Fields<'_>, errors: &mut Errors<'_>) -> Draft {
    let base = Settings { policy: Some(Policy::Ephemeral), ..Settings::default() };
    let (at, settings) = match root.table("unmatched", errors) {
        None => (root.at(), base),
        Some(mut fields) => {
            let at = fields.at();
            let settings = base.with(&mut fields, errors);
            fields.refuse_the_rest(errors);
            (at, settings)
        }
    };
    let pattern = Pattern::parse("{key:rest}").expect("a part of type rest is a pattern");
    Draft { at, name: UNMATCHED.to_owned(), pattern, settings }
}

fn read_family(mut family: Fields<'_>, drafts: &mut Vec<Draft>, errors: &mut Errors<'_>) {
    let _ = family.text("about", errors);
    let settings = Settings::default().with(&mut family, errors);
    let kinds = family.tables("kinds", errors);
    if kinds.is_empty() {
        errors.push(family.at(), "a family needs `kinds`");
    }
    family.refuse_the_rest(errors);
    for mut kind in kinds {
        let at = kind.at();
        let name = kind.text("name", errors);
        let pattern = kind.text("pattern", errors);
        let settings = settings.clone().with(&mut kind, errors);
        kind.refuse_the_rest(errors);
        let name = name.or_else(|| missing(at, "name", errors)).and_then(|name| checked_name(name, errors));
        let pattern = pattern.or_else(|| missing(at, "pattern", errors)).and_then(|(at, source)| {
            Pattern::parse(source).map_err(|reason| errors.push(at, format!("pattern `{source}` {reason}"))).ok()
        });
        if settings.policy.is_none() {
            errors.push(at, "a kind or its family needs `policy`");
        }
        if let (Some(name), Some(pattern)) = (name, pattern) {
            drafts.push(Draft { at, name, pattern, settings });
        }
    }
}

fn missing<'t>(at: usize, field: &str, errors: &mut Errors<'_>) -> Option<(usize, &'t str)> {
    errors.push(at, format!("a kind needs `{field}`"));
    None
}

/// Names stand in paths, flags and metric labels.
fn checked_name((at, name): (usize, &str), errors: &mut Errors<'_>) -> Option<String> {
    if !is_word(name) {
        errors.push(at, format!("the name `{name}` must be lower-case letters, digits and `_`"));
        return None;
    }
    if name == UNMATCHED {
        errors.push(at, "the name `unmatched` is taken: it stands for the keys that no pattern matches");
        return None;
    }
    Some(name.to_owned())
}

fn refuse_twins(drafts: &[Draft], errors: &mut Errors<'_>) {
    for (place, draft) in drafts.iter().enumerate() {
        let Some(earlier) = drafts.iter().take(place).find(|earlier| earlier.name == draft.name) else {
            continue;
        };
        let line = errors.line(earlier.at);
        errors.push(draft.at, format!("the name `{}` is taken by the kind on line {line}", draft.name));
    }
}

/// A plan is named by a kind or a group, so no name may mean both.
fn refuse_groups_named_as_kinds(drafts: &[Draft], errors: &mut Errors<'_>) {
    for draft in drafts {
        let group = draft.settings.group.as_deref();
        if let Some(kind) = drafts.iter().find(|kind| Some(kind.name.as_str()) == group) {
            errors.push(draft.at, format!("the group `{}` has the name of a kind", kind.name));
        }
    }
}

/// A kind must be the first to match at least one of the keys that are typical for it.
fn refuse_what_is_covered(catalog: &Catalog, places: &[usize], errors: &mut Errors<'_>) {
    for (kind, at) in catalog.kinds().iter().zip(places) {
        let takers: Vec<_> = kind.pattern.examples().iter().map(|key| Arc::clone(catalog.kind_of(key))).collect();
        if let Some(taker) = takers.first()
            && takers.iter().all(|taker| taker.index != kind.index)
        {
            let line = places.get(taker.index).map_or(0, |at| errors.line(*at));
            let reason = format!(
                "pattern `{}` can never match: `{}` of kind `{}` on line {line} takes its keys",
                kind.pattern, taker.pattern, taker.name
            );
            errors.push(*at, reason);
        }
    }
}

fn finish(draft: Draft, before: &[Arc<Kind>], errors: &mut Errors<'_>) -> Kind {
    let Draft { at, name, pattern, settings } = draft;
    let table = settings.checked_table(errors);
    let log = settings.checked_log(at, errors);
    let earlier = before
        .iter()
        .filter(|other| may_meet(&other.pattern, &pattern))
        .map(|other| (Arc::from(other.name.as_str()), other.pattern.clone()))
        .collect();
    Kind {
        index: before.len(),
        name,
        pattern,
        policy: settings.policy.unwrap_or(Policy::Ephemeral),
        layout: settings.layout,
        table,
        retain: settings.retain,
        min_interval_ms: settings.min_interval_ms,
        log,
        body: settings.body,
        credentials: settings.credentials,
        ignored_fields: settings.ignored_fields,
        numbers_by_value: settings.numbers_by_value,
        expiry_tolerance_ms: settings.expiry_tolerance_ms,
        group: settings.group,
        flag: settings.flag,
        earlier,
    }
}

/// Whether two patterns begin alike, so that one key might match both.
fn may_meet(one: &Pattern, other: &Pattern) -> bool {
    let others = other.prefixes();
    one.prefixes().iter().any(|one| others.iter().any(|other| one.starts_with(other) || other.starts_with(one)))
}
