//! Reads the JSON that callers send, without copying strings that need no unescaping.
//!
//! A general parser would turn `1.10` into `1.1` and 20 digits into a float; Redis takes text, so a number stays the
//! text that was sent. Only arrays of scalars and flat objects have to be understood; anything nested is kept as text.

mod object;

use bytes::Bytes;
use serde::de::IgnoredAny;

use crate::doors::problem::{Problem, ProblemKind};

pub(super) use object::Field;

/// A place in a JSON text.
pub(super) struct Scanner<'a> {
    source: &'a Bytes,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// A scanner at the start of `source`.
    ///
    /// # Errors
    /// Like every method here: 400 with line and column.
    pub(super) fn new(source: &'a Bytes) -> Result<Self, Problem> {
        match std::str::from_utf8(source) {
            Ok(_) => Ok(Self { source, at: 0 }),
            Err(error) => Err(Self { source, at: error.valid_up_to() }.malformed("this is not UTF-8")),
        }
    }

    /// An array; `item` reads each of its items.
    pub(super) fn array(&mut self, item: impl FnMut(&mut Self) -> Result<(), Problem>) -> Result<(), Problem> {
        self.sequence(b'[', b']', "an array", item)
    }

    /// A string, number or boolean, as the bytes that Redis takes for it.
    pub(super) fn scalar(&mut self) -> Result<Bytes, Problem> {
        const EXPECTED: &str = "expected a string, a number or a boolean";
        self.skip_space();
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9' | b't' | b'f') => self.word(EXPECTED),
            _ => Err(self.malformed(EXPECTED)),
        }
    }

    /// The end of the text.
    pub(super) fn end(&mut self) -> Result<(), Problem> {
        self.skip_space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.malformed("expected the end of the text")),
        }
    }

    /// Whether an array comes next.
    pub(super) fn is_at_array(&mut self) -> bool {
        self.skip_space();
        self.peek() == Some(b'[')
    }

    /// Where the scanner stands.
    pub(super) fn place(&self) -> usize {
        self.at
    }

    /// Stands at an earlier `place` again, for an error that begins there.
    pub(super) fn go_back(&mut self, place: usize) {
        self.at = place;
    }

    /// 400, naming this place.
    pub(super) fn malformed(&self, reason: &str) -> Problem {
        let before = self.source.get(..self.at).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        Problem::new(ProblemKind::MalformedJson, format!("line {line}, column {column}: {reason}"))
            .with("line", line)
            .with("column", column)
    }

    fn sequence(
        &mut self,
        open: u8,
        close: u8,
        what: &str,
        mut item: impl FnMut(&mut Self) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        self.skip_space();
        self.expect(open, &format!("expected {what}"))?;
        self.skip_space();
        if self.skip(close) {
            return Ok(());
        }
        loop {
            item(self)?;
            self.skip_space();
            if self.skip(close) {
                return Ok(());
            }
            self.expect(b',', &format!("expected `,` or the end of {what}"))?;
        }
    }

    /// A string, at its opening quote.
    fn string(&mut self) -> Result<Bytes, Problem> {
        let quote = self.at;
        let mut end = quote + 1;
        let mut is_escaped = false;
        loop {
            let rest = self.source.get(end..).unwrap_or_default();
            let Some(skipped) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)) else {
                self.at = self.source.len();
                return Err(self.malformed("the string has no end"));
            };
            end += skipped;
            match self.source.get(end) {
                Some(b'"') => break,
                Some(b'\\') => {
                    is_escaped = true;
                    end += 2;
                }
                _ => {
                    self.at = end;
                    return Err(self.malformed("a control character in a string must be escaped"));
                }
            }
        }
        let string = if is_escaped {
            let quoted = self.source.get(quote..=end).unwrap_or_default();
            let unescaped: String =
                serde_json::from_slice(quoted).map_err(|_| self.malformed("the string has an escape that is none"))?;
            Bytes::from(unescaped)
        } else {
            self.source.slice(quote + 1..end)
        };
        self.at = end + 1;
        Ok(string)
    }

    /// A number, `true`, `false` or `null`.
    fn word(&mut self, expected: &str) -> Result<Bytes, Problem> {
        let rest = self.source.get(self.at..).unwrap_or_default();
        let length = rest
            .iter()
            .position(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b']' | b'}' | b':'))
            .unwrap_or(rest.len());
        let word = self.source.slice(self.at..self.at + length);
        if serde_json::from_slice::<IgnoredAny>(&word).is_err() {
            return Err(self.malformed(expected));
        }
        self.at += length;
        Ok(word)
    }

    fn peek(&self) -> Option<u8> {
        self.source.get(self.at).copied()
    }

    fn skip(&mut self, byte: u8) -> bool {
        let is_here = self.peek() == Some(byte);
        self.at += usize::from(is_here);
        is_here
    }

    fn expect(&mut self, byte: u8, expected: &str) -> Result<(), Problem> {
        if self.skip(byte) { Ok(()) } else { Err(self.malformed(expected)) }
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn scalars(json: &str) -> Result<Vec<Bytes>, Problem> {
        let source = Bytes::copy_from_slice(json.as_bytes());
        let mut scanner = Scanner::new(&source)?;
        let mut scalars = Vec::new();
        scanner.array(|scanner| {
            scalars.push(scanner.scalar()?);
            Ok(())
        })?;
        scanner.end()?;
        Ok(scalars)
    }

    #[test]
    fn numbers_and_booleans_stay_the_text_that_was_sent() {
        let scalars = scalars(" [ \"SET\" ,1.10,-5e3, 123456789012345678901234567890,true,false,\"\"] ").expect("JSON");
        assert_eq!(scalars, ["SET", "1.10", "-5e3", "123456789012345678901234567890", "true", "false", ""]);
    }

    #[test]
    fn a_string_without_escapes_is_not_copied() {
        let source = Bytes::from_static(b"\"plain\"");
        let string = Scanner::new(&source).expect("UTF-8").scalar().expect("a string");
        assert_eq!(string.as_ptr(), source[1..].as_ptr());
    }

    #[test]
    fn what_is_malformed_is_named_by_line_and_column() {
        for (json, line, column) in [
            ("", 1, 1),
            ("{}", 1, 1),
            ("[\"a\"", 1, 5),
            ("[\"a\",]", 1, 6),
            ("[\"a\"\n \"b\"]", 2, 2),
            ("[null]", 1, 2),
            ("[[\"a\"]]", 1, 2),
            ("[\"a\n\"]", 1, 4),
            ("[\"\\q\"]", 1, 2),
            ("[\"\\ud800\"]", 1, 2),
            ("[\"a", 1, 4),
            ("[01]", 1, 2),
            ("[1x]", 1, 2),
            ("[tru]", 1, 2),
            ("[1] 2", 1, 5),
        ] {
            let problem = scalars(json).expect_err(json);
            assert_eq!(problem.kind(), ProblemKind::MalformedJson);
            assert!(problem.detail().starts_with(&format!("line {line}, column {column}: ")), "{json}: {problem:?}");
        }
    }

    #[test]
    fn invalid_utf8_is_malformed_where_it_stands() {
        let source = Bytes::from_static(b"[\"a\xff\"]");
        let problem = Scanner::new(&source).err().expect("refused");
        assert!(problem.detail().starts_with("line 1, column 4: "), "{problem:?}");
    }

    proptest! {
        #[test]
        fn every_array_of_strings_is_read_as_a_general_parser_reads_it(strings in prop::collection::vec(".*", 0..6)) {
            let read = scalars(&json!(strings).to_string()).expect("JSON");
            prop_assert_eq!(read, strings);
        }

        #[test]
        fn whatever_is_sent_is_read_or_refused_as_a_general_parser_would(text in "[\\[\\]\\{\\}\",:0-9a-z\\\\ \n.-]{0,24}") {
            match scalars(&text) {
                Ok(_) => prop_assert!(serde_json::from_str::<Vec<Value>>(&text).is_ok(), "accepted"),
                Err(_) => {
                    let flat = |values: &Vec<Value>| {
                        values.iter().all(|value| value.is_string() || value.is_number() || value.is_boolean())
                    };
                    prop_assert!(!serde_json::from_str::<Vec<Value>>(&text).is_ok_and(|values| flat(&values)));
                }
            }
        }
    }
}
