//! The keys marked cover the keys changed: the keyspace before a command and after it, held against the marks that the
//! command left. What a rule of marking would have to know of a command is not asked; only what the command did.
//!
//! Postgres is frozen meanwhile, so that no mark is taken away but by us.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use parallax::model::catalog::{Catalog, Layout};

use super::look::{Marks, State};
use super::wire::{Words, shown};

/// What is wrong with the marks of a command, in words; nothing when they cover what it changed.
pub(super) fn missed(
    catalog: &Catalog,
    commands: &[Words],
    before: &BTreeMap<Bytes, State>,
    after: &BTreeMap<Bytes, State>,
    marks: &Marks,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let keys: BTreeSet<&Bytes> = before.keys().chain(after.keys()).chain(marks.tokens.keys()).collect();
    for key in keys {
        let kind = catalog.kind_of(key);
        let mark = marks.tokens.get(key);
        let (old, new) = (before.get(key), after.get(key));
        let says_gone = mark.is_some_and(|mark| mark.ends_with(b"!"));
        let fault = match (kind.is_mirrored(), mark) {
            (false, None) => None,
            (false, Some(_)) => Some("a mark of a key that is not mirrored"),
            // What ran out by itself meanwhile was changed by nobody.
            (true, None) if new.is_none() && old.is_some_and(State::has_expired) => None,
            (true, None) => (old != new).then_some("changed without a mark"),
            (true, Some(_)) if old.is_some() && new.is_none() && !says_gone => Some("deleted without the gone bit"),
            (true, Some(_)) if new.is_some() && says_gone => Some("there, and marked as gone"),
            (true, Some(_)) => match (kind.layout, new) {
                (Layout::Collection, Some(new)) if old != Some(new) && new.is_kept_by_element() => {
                    companion_fault(old, new, marks.companions.get(key))
                }
                // What is gone is captured as gone, whatever is noted of its elements.
                (Layout::Collection | Layout::Document | Layout::Log, _) => None,
            },
        };
        if let Some(fault) = fault {
            let told: Vec<String> = commands.iter().map(|command| shown(command)).collect();
            wrong.push(format!("{:.300}: {} {fault}: {marks:?}", told.join(" | "), key.escape_ascii()));
        }
    }
    wrong
}

/// What the companion of a collection lacks, or none.
fn companion_fault(old: Option<&State>, new: &State, companion: Option<&BTreeSet<Bytes>>) -> Option<&'static str> {
    let Some(companion) = companion else { return Some("a collection marked without a companion") };
    if companion.contains(b"*".as_slice()) {
        return None;
    }
    let none = BTreeMap::new();
    let olds = old.map_or(&none, |old| &old.elements);
    let names: BTreeSet<&Bytes> = olds.keys().chain(new.elements.keys()).collect();
    let is_noted = |name: &Bytes| companion.contains([b"e", name.as_ref()].concat().as_slice());
    if names.into_iter().any(|name| olds.get(name) != new.elements.get(name) && !is_noted(name)) {
        return Some("an element changed that is not noted");
    }
    let has_moved = old.is_some_and(|old| old.expires_at_ms != new.expires_at_ms);
    (has_moved && !companion.contains(b"h".as_slice())).then_some("an expiry changed that is not noted")
}
