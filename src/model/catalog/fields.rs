//! Reads the fields of one table of a catalog file, remembers which were asked for, and refuses the others.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::model::catalog::errors::Errors;

/// The fields of a table that nobody has asked for yet.
pub(super) struct Fields<'t> {
    at: usize,
    left: Vec<(&'t str, usize, &'t Spanned<DeValue<'t>>)>,
}

impl<'t> Fields<'t> {
    /// The fields of `table`, which begins at byte `at`.
    pub(super) fn new(table: &'t DeTable<'t>, at: usize) -> Self {
        let left = table.iter().map(|(name, value)| (name.get_ref().as_ref(), name.span().start, value)).collect();
        Self { at, left }
    }

    /// Where the table begins.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The text of `name`.
    pub(super) fn text(&mut self, name: &str, errors: &mut Errors<'_>) -> Option<(usize, &'t str)> {
        let value = self.take(name)?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            errors.push(value.span().start, format!("`{name}` must be a text"));
        }
        Some((value.span().start, text?))
    }

    /// What the text of `name` means, where `meaning` knows it; `choices` says what it may be.
    pub(super) fn word<T>(
        &mut self,
        name: &str,
        choices: &str,
        meaning: impl Fn(&str) -> Option<T>,
        errors: &mut Errors<'_>,
    ) -> Option<(usize, T)> {
        let (at, text) = self.text(name, errors)?;
        let value = meaning(text);
        if value.is_none() {
            errors.push(at, format!("unknown {name} `{text}`: one of {choices}"));
        }
        Some((at, value?))
    }

    /// The whole number of `name`.
    pub(super) fn number(&mut self, name: &str, errors: &mut Errors<'_>) -> Option<u64> {
        let value = self.take(name)?;
        let number = value.get_ref().as_integer().and_then(|integer| integer.as_str().parse().ok());
        if number.is_none() {
            errors.push(value.span().start, format!("`{name}` must be a whole number, 0 or more"));
        }
        number
    }

    /// The number of `name`, with or without a fraction.
    pub(super) fn fraction(&mut self, name: &str, errors: &mut Errors<'_>) -> Option<f64> {
        let value = self.take(name)?;
        let text = value.get_ref().as_float().map(toml::de::DeFloat::as_str);
        let text = text.or_else(|| value.get_ref().as_integer().map(toml::de::DeInteger::as_str));
        let number = text.and_then(|text| text.parse().ok());
        if number.is_none() {
            errors.push(value.span().start, format!("`{name}` must be a number"));
        }
        number
    }

    /// The truth of `name`.
    pub(super) fn truth(&mut self, name: &str, errors: &mut Errors<'_>) -> Option<bool> {
        let value = self.take(name)?;
        let truth = value.get_ref().as_bool();
        if truth.is_none() {
            errors.push(value.span().start, format!("`{name}` must be true or false"));
        }
        truth
    }

    /// The list of texts of `name`.
    pub(super) fn texts(&mut self, name: &str, errors: &mut Errors<'_>) -> Option<Vec<String>> {
        let value = self.take(name)?;
        let Some(list) = value.get_ref().as_array() else {
            errors.push(value.span().start, format!("`{name}` must be a list of texts"));
            return None;
        };
        let mut texts = Vec::new();
        for item in list {
            match item.get_ref().as_str() {
                Some(text) => texts.push(text.to_owned()),
                None => errors.push(item.span().start, format!("`{name}` must hold texts only")),
            }
        }
        Some(texts)
    }

    /// The table of `name`.
    pub(super) fn table(&mut self, name: &str, errors: &mut Errors<'_>) -> Option<Fields<'t>> {
        let value = self.take(name)?;
        let table = value.get_ref().as_table();
        if table.is_none() {
            errors.push(value.span().start, format!("`{name}` must be a table"));
        }
        table.map(|table| Fields::new(table, value.span().start))
    }

    /// The tables in the list of `name`.
    pub(super) fn tables(&mut self, name: &str, errors: &mut Errors<'_>) -> Vec<Fields<'t>> {
        let Some(value) = self.take(name) else {
            return Vec::new();
        };
        let Some(list) = value.get_ref().as_array() else {
            errors.push(value.span().start, format!("`{name}` must be a list of tables"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in list {
            match item.get_ref().as_table() {
                Some(table) => tables.push(Fields::new(table, item.span().start)),
                None => errors.push(item.span().start, format!("`{name}` must hold tables only")),
            }
        }
        tables
    }

    /// Refuses every field that nobody asked for.
    pub(super) fn refuse_the_rest(self, errors: &mut Errors<'_>) {
        for (name, at, _) in self.left {
            errors.push(at, format!("unknown field `{name}`"));
        }
    }

    fn take(&mut self, name: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        let at = self.left.iter().position(|(known, _, _)| *known == name)?;
        Some(self.left.swap_remove(at).2)
    }
}
