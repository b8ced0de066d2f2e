//! The catalog: which kinds of keys there are, and what each of them is to Parallax.
//!
//! Everything that is particular to one application stands in a catalog file; the engine only knows kinds. The default
//! is the file of Claude Relay Service, `catalog/claude-relay.toml`.

mod errors;
mod fields;
mod index;
mod kind;
mod parse;
mod part;
mod pattern;
mod settings;

use std::sync::Arc;

pub use errors::CatalogError;
pub use kind::{Body, Kind, Layout, LogShape, Policy, PushSide, Retain, Table};
pub use pattern::Pattern;

/// The name of the embedded file in error messages.
const EMBEDDED_FILE: &str = "catalog/claude-relay.toml";

/// The name of the kind of every key that no pattern matches.
pub const UNMATCHED: &str = "unmatched";

/// All kinds, in the order in which they are tried.
#[derive(Clone, Debug)]
pub struct Catalog {
    kinds: Vec<Arc<Kind>>,
    unmatched: Arc<Kind>,
    index: index::Index,
}

impl Catalog {
    /// The catalog of Claude Relay Service, which is part of the program.
    #[must_use]
    pub fn embedded() -> Self {
        Self::parse(EMBEDDED_FILE, Self::embedded_text()).expect("a test reads the embedded catalog")
    }

    /// The text of the embedded catalog.
    #[must_use]
    pub fn embedded_text() -> &'static str {
        include_str!("../../../catalog/claude-relay.toml")
    }

    /// The catalog that `text` describes; `file` is its name in errors.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of the file.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<CatalogError>> {
        parse::catalog(file, text)
    }

    /// The kinds in the order in which they are tried; the last one is `unmatched`.
    #[must_use]
    pub fn kinds(&self) -> &[Arc<Kind>] {
        &self.kinds
    }

    /// The kind called `name`.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Arc<Kind>> {
        self.kinds.iter().find(|kind| kind.name == name)
    }

    /// The kind of `key`: the first whose pattern matches, else `unmatched`.
    #[must_use]
    pub fn kind_of(&self, key: &[u8]) -> &Arc<Kind> {
        self.index
            .candidates(key)
            .iter()
            .filter_map(|at| self.kinds.get(*at))
            .find(|kind| kind.pattern.matches(key))
            .unwrap_or(&self.unmatched)
    }

    /// The catalog of these kinds, `unmatched` after them.
    fn of_kinds(mut kinds: Vec<Arc<Kind>>, unmatched: Arc<Kind>) -> Self {
        kinds.push(Arc::clone(&unmatched));
        let index = index::Index::new(&kinds);
        Self { kinds, unmatched, index }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(key: &str) -> String {
        Catalog::embedded().kind_of(key.as_bytes()).name.clone()
    }

    #[test]
    fn the_first_pattern_that_matches_names_the_kind() {
        assert_eq!(name_of("apikey:hash_map"), "apikey_hash_map");
        assert_eq!(name_of("apikey:7c1"), "apikey");
        assert_eq!(name_of("claude:account:index"), "account_index");
        assert_eq!(name_of("claude:account:index:empty"), "account_index_empty");
        assert_eq!(name_of("apikey:tag:empty"), "apikey_tag");
        assert_eq!(name_of("usage:daily:index:2026-11-23"), "usage_index");
        assert_eq!(name_of("usage:k:model:daily:us.anthropic.claude-v1:0:2026-11-23"), "usage_key_model_daily");
        assert_eq!(name_of("nobody knows me"), UNMATCHED);
        assert_eq!(name_of(""), UNMATCHED);
    }

    #[test]
    fn unmatched_is_always_there_and_last() {
        for text in ["", "[unmatched]\npolicy = 'mirror'\n"] {
            let catalog = Catalog::parse("c.toml", text).expect("a small catalog");
            assert_eq!(catalog.kinds().last().expect("one kind").name, UNMATCHED);
            assert_eq!(catalog.kind_of(b"k").is_mirrored(), !text.is_empty());
            assert_eq!(catalog.kind_of(b"k").id_of(b"k\0"), "\\x6b00");
        }
    }

    #[test]
    fn the_position_of_a_kind_is_its_index() {
        let catalog = Catalog::embedded();
        assert!(catalog.kinds().iter().enumerate().all(|(at, kind)| kind.index == at));
    }

    #[test]
    fn an_id_and_its_key_lead_to_each_other() {
        let catalog = Catalog::embedded();
        for kind in catalog.kinds() {
            for key in kind.pattern.examples() {
                if catalog.kind_of(&key).index == kind.index {
                    let id = kind.id_of(&key);
                    assert_eq!(kind.key_of(&id).expect(&kind.name).as_bytes(), key, "{}", kind.name);
                }
            }
        }
        let apikey = catalog.by_name("apikey").expect("a kind");
        assert_eq!(apikey.key_of(&apikey.id_of(b"apikey:\xff\0")).expect("an id").as_bytes(), b"apikey:\xff\0");
    }

    #[test]
    fn an_id_that_breaks_its_pattern_is_refused() {
        let catalog = Catalog::embedded();
        let apikey = catalog.by_name("apikey").expect("a kind");
        for (id, reason) in [
            ("", "does not fit"),
            ("a:b", "does not fit"),
            ("hash_map", "belongs to kind `apikey_hash_map`"),
            ("\\x61", "plain text"),
        ] {
            let error = apikey.key_of(id).expect_err(id);
            assert!(error.contains(reason), "{id}: {error}");
        }
        let daily = catalog.by_name("usage_daily").expect("a kind");
        assert!(daily.key_of("k:2026-11-23").is_ok());
        assert!(daily.key_of("k:yesterday").is_err());
    }
}
