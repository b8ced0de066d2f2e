//! Flat objects: the fields of a record, as the bytes that Redis stores for them.

use std::collections::HashSet;

use bytes::Bytes;
use serde::de::IgnoredAny;

use crate::doors::http::json::Scanner;
use crate::doors::problem::Problem;
use crate::model::text;

/// What a field of a flat object holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::doors::http) enum Field {
    /// The bytes that Redis is to store.
    Value(Bytes),
    /// A JSON null.
    Null,
}

impl Scanner<'_> {
    /// A flat object. Strings are taken out of their text form; what is nested becomes compact JSON text.
    pub(in crate::doors::http) fn object(&mut self) -> Result<Vec<(Bytes, Field)>, Problem> {
        let mut fields = Vec::new();
        let mut names = HashSet::new();
        self.sequence(b'{', b'}', "an object", |scanner| {
            scanner.skip_space();
            let began = scanner.at;
            if scanner.peek() != Some(b'"') {
                return Err(scanner.malformed("expected the name of a field"));
            }
            let name = from_text_form(scanner.string()?);
            if !names.insert(name.clone()) {
                scanner.at = began;
                return Err(scanner.malformed("the field stands here a second time"));
            }
            scanner.skip_space();
            scanner.expect(b':', "expected `:`")?;
            scanner.skip_space();
            let field = match scanner.peek() {
                Some(b'n') => {
                    scanner.word("expected a value")?;
                    Field::Null
                }
                Some(b'"') => Field::Value(from_text_form(scanner.string()?)),
                Some(b'[' | b'{') => Field::Value(scanner.nested()?),
                _ => Field::Value(scanner.scalar()?),
            };
            fields.push((name, field));
            Ok(())
        })?;
        Ok(fields)
    }

    /// An array or object, as compact text.
    fn nested(&mut self) -> Result<Bytes, Problem> {
        let rest = self.source.get(self.at..).unwrap_or_default();
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<IgnoredAny>();
        if !matches!(values.next(), Some(Ok(_))) {
            self.at += values.byte_offset();
            return Err(self.malformed("the nested value that begins here is malformed"));
        }
        let length = values.byte_offset();
        self.at += length;
        Ok(compact(rest.get(..length).unwrap_or_default()))
    }
}

/// The bytes whose text form is `string`; plain text is itself.
fn from_text_form(string: Bytes) -> Bytes {
    match std::str::from_utf8(&string) {
        Ok(form) if form.starts_with("\\x") => Bytes::from(text::decode(form)),
        _ => string,
    }
}

/// Valid JSON without the space between its tokens.
fn compact(json: &[u8]) -> Bytes {
    let mut text = Vec::with_capacity(json.len());
    let mut is_in_string = false;
    let mut is_escaped = false;
    for byte in json {
        if is_in_string || !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            text.push(*byte);
        }
        if is_escaped {
            is_escaped = false;
        } else {
            is_escaped = is_in_string && *byte == b'\\';
            is_in_string ^= *byte == b'"';
        }
    }
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use crate::doors::problem::ProblemKind;

    use super::*;

    fn object(json: &str) -> Result<Vec<(Bytes, Field)>, Problem> {
        let source = Bytes::copy_from_slice(json.as_bytes());
        let mut scanner = Scanner::new(&source)?;
        let fields = scanner.object()?;
        scanner.end()?;
        Ok(fields)
    }

    fn value(bytes: impl Into<Bytes>) -> Field {
        Field::Value(bytes.into())
    }

    #[test]
    fn fields_become_what_the_relay_would_store() {
        let fields = object(
            r#"{"name":"a\nb", "isActive": true, "limit":12, "rate": 1.50, "none":null,
                "tags": [ "x y", 1 ], "nested": { "a" : { "b" : "\" c" } }, "": ""}"#,
        )
        .expect("JSON");
        let expected = [
            ("name", value("a\nb")),
            ("isActive", value("true")),
            ("limit", value("12")),
            ("rate", value("1.50")),
            ("none", Field::Null),
            ("tags", value("[\"x y\",1]")),
            ("nested", value("{\"a\":{\"b\":\"\\\" c\"}}")),
            ("", value("")),
        ];
        assert_eq!(fields, expected.map(|(name, field)| (Bytes::from(name), field)));
    }

    #[test]
    fn bytes_that_are_no_text_travel_in_text_form() {
        let fields = object(r#"{"\\x6e00": "\\xff00", "plain": "\\x is no hex"}"#).expect("JSON");
        assert_eq!(fields[0], (Bytes::from_static(b"n\0"), value(&b"\xff\0"[..])));
        assert_eq!(fields[1].1, value("\\x is no hex"));
    }

    #[test]
    fn an_object_with_a_field_twice_or_a_broken_value_is_malformed() {
        for (json, column) in [
            ("{\"a\":1,\"a\":2}", 8),
            ("{a:1}", 2),
            ("{\"a\" 1}", 6),
            ("{\"a\":}", 6),
            ("{\"a\":[1,}", 6),
            ("{\"a\":nul}", 6),
            ("{\"a\":1,}", 8),
        ] {
            let problem = object(json).expect_err(json);
            assert!(problem.detail().starts_with(&format!("line 1, column {column}: ")), "{json}: {problem:?}");
        }
    }

    #[test]
    fn nesting_without_end_is_malformed_and_not_a_crash() {
        let deep = format!("{{\"a\":{}", "[".repeat(200_000));
        assert_eq!(object(&deep).expect_err("refused").kind(), ProblemKind::MalformedJson);
    }
}
