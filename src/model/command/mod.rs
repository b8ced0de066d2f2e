//! A Redis command: its arguments, the server's own table of commands, and what a write leaves behind.

pub mod effect;
mod names;
mod spec;
pub mod table;
pub mod tallied;

use bytes::Bytes;

/// A command and its arguments, as bytes. The first argument is the name.
#[derive(Clone, PartialEq, Eq)]
pub struct Command(pub Vec<Bytes>);

impl Command {
    /// A command from parts.
    pub fn new<I, A>(parts: I) -> Self
    where
        I: IntoIterator<Item = A>,
        A: Into<Bytes>,
    {
        Self(parts.into_iter().map(Into::into).collect())
    }

    /// The name in capitals; empty when there is none.
    #[must_use]
    pub fn name(&self) -> String {
        self.0.first().map(|name| String::from_utf8_lossy(name).to_ascii_uppercase()).unwrap_or_default()
    }

    /// The argument at `index`, counted from the name.
    #[must_use]
    pub fn arg(&self, index: usize) -> Option<&Bytes> {
        self.0.get(index)
    }

    /// Whether the argument at `index` is `word`, in any case.
    #[must_use]
    pub fn is_word(&self, index: usize, word: &str) -> bool {
        self.arg(index).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    }

    /// Whether any argument from `from` on is `word`, in any case.
    #[must_use]
    pub fn has_word(&self, from: usize, word: &str) -> bool {
        (from..self.0.len()).any(|index| self.is_word(index, word))
    }

    /// The argument at `index` as a whole number.
    #[must_use]
    pub fn integer(&self, index: usize) -> Option<i64> {
        std::str::from_utf8(self.arg(index)?).ok()?.parse().ok()
    }
}

/// A command as it stands in what a client sent: nothing is copied.
#[derive(Clone, Copy)]
pub struct Words<'a> {
    /// The whole command, in Redis' array form.
    pub bytes: &'a [u8],
    /// Where its arguments stand.
    pub ranges: &'a [(usize, usize)],
}

impl<'a> Words<'a> {
    /// The argument at `index`, counted from the name.
    #[must_use]
    pub fn arg(&self, index: usize) -> Option<&'a [u8]> {
        let (from, to) = self.ranges.get(index)?;
        self.bytes.get(*from..*to)
    }

    /// The name, as it was written.
    #[must_use]
    pub fn name(&self) -> &'a [u8] {
        self.arg(0).unwrap_or_default()
    }

    /// How many arguments there are, the name included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is not even a name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The command, copied once.
    #[must_use]
    pub fn command(&self) -> Command {
        let bytes = Bytes::copy_from_slice(self.bytes);
        Command(self.ranges.iter().map(|(from, to)| bytes.slice(*from..*to)).collect())
    }
}

/// `Debug` shows the name and the number of arguments alone: arguments are values.
impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} arguments)", self.name(), self.0.len().saturating_sub(1))
    }
}
