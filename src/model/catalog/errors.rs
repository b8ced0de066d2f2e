//! What is wrong with a catalog file: everything, each with its line.

/// Something that is wrong with a catalog file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{file}:{line}: {reason}")]
pub struct CatalogError {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
}

/// The errors found so far, and what turns a place in the text into a line.
pub(super) struct Errors<'a> {
    file: &'a str,
    text: &'a str,
    found: Vec<CatalogError>,
}

impl<'a> Errors<'a> {
    /// No errors yet in `text`, called `file`.
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, found: Vec::new() }
    }

    /// Notes that something is wrong at byte `at`.
    pub(super) fn push(&mut self, at: usize, reason: impl Into<String>) {
        let line = self.line(at);
        self.found.push(CatalogError { file: self.file.to_owned(), line, reason: reason.into() });
    }

    /// The line of byte `at`, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
    }

    /// `value`, unless anything is wrong.
    pub(super) fn or(mut self, value: Option<super::Catalog>) -> Result<super::Catalog, Vec<CatalogError>> {
        self.found.sort();
        self.found.dedup();
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            Some(_) | None => Err(self.found),
        }
    }

    /// Whether nothing is wrong so far.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}
