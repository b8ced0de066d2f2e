//! Key patterns: literal text with named parts, matched against the bytes of each command's keys.
//!
//! No regular expressions: a match is on the path of every command, and a pattern must be readable by an operator.
//!
//! A part is `{name}` (one or more bytes without `:`) or `{name:shape}`:
//!
//! | shape | matches |
//! |---|---|
//! | `rest` | one or more bytes of any kind |
//! | `digits` | one or more decimal digits |
//! | `uuid`, `hex32`, `hex64` | that many hexadecimal digits |
//! | `date`, `month`, `hour`, `week` | `2026-11-23`, `2026-11`, `14`, `2026-11-23T00` |
//! | `a\|b\|c` | one of these texts |

use std::fmt;

use crate::model::catalog::part::{Part, Shape, matches_parts, shape_of};

/// A key pattern.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    source: String,
    parts: Vec<Part>,
}

impl Pattern {
    /// The pattern written as `source`.
    ///
    /// # Errors
    /// Why it can never match, or what of it is unknown.
    pub fn parse(source: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut left = source;
        while let Some(open) = left.find('{') {
            let (literal, from_brace) = left.split_at(open);
            push_literal(&mut parts, literal)?;
            let close = from_brace.find('}').ok_or("has a `{` without its `}`")?;
            let (inside, after) = from_brace.split_at(close);
            push_named(&mut parts, inside.trim_start_matches('{'))?;
            left = after.strip_prefix('}').unwrap_or(after);
        }
        push_literal(&mut parts, left)?;
        if parts.is_empty() {
            return Err("is empty and can never match".to_owned());
        }
        refuse_what_never_matches(&parts)?;
        Ok(Self { source: source.to_owned(), parts })
    }

    /// Whether `key` matches.
    #[must_use]
    pub fn matches(&self, key: &[u8]) -> bool {
        matches_parts(&self.parts, key)
    }

    /// The part of a matching key that names the record: from the first named part to the last, or the whole key where
    /// the pattern names none.
    #[must_use]
    pub fn middle<'k>(&self, key: &'k [u8]) -> &'k [u8] {
        if self.is_literal() {
            return key;
        }
        key.strip_prefix(self.head()).and_then(|rest| rest.strip_suffix(self.tail())).unwrap_or(key)
    }

    /// The key whose [`Pattern::middle`] is `middle`; it need not match.
    #[must_use]
    pub fn around(&self, middle: &[u8]) -> Vec<u8> {
        if self.is_literal() { middle.to_vec() } else { [self.head(), middle, self.tail()].concat() }
    }

    /// Whether the pattern has no named part, and so matches one key alone.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        matches!(self.parts.as_slice(), [Part::Literal(_)])
    }

    /// The names of the parts, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(_) => None,
            Part::Named { name, .. } => Some(name.as_str()),
        })
    }

    /// The texts one of which every matching key begins with.
    #[must_use]
    pub fn prefixes(&self) -> Vec<Vec<u8>> {
        match self.parts.first() {
            Some(Part::Named { shape: Shape::OneOf(texts), .. }) => {
                let then = self.parts.get(1).map_or(&[][..], literal_of);
                texts.iter().map(|text| [text.as_bytes(), then].concat()).collect()
            }
            Some(Part::Literal(_) | Part::Named { .. }) | None => vec![self.head().to_vec()],
        }
    }

    /// Keys that match and that look as different from each other as the pattern allows: what no other pattern
    /// covers by accident. Used to find patterns that earlier ones cover, and by tests.
    #[must_use]
    pub fn examples(&self) -> Vec<Vec<u8>> {
        let widest = self.parts.iter().map(|part| part.examples().len()).max().unwrap_or(1);
        (0..widest)
            .map(|turn| {
                let texts = self.parts.iter().map(|part| {
                    let examples = part.examples();
                    let at = turn.checked_rem(examples.len()).unwrap_or(0);
                    examples.into_iter().nth(at).unwrap_or_default()
                });
                texts.collect::<Vec<_>>().concat()
            })
            .collect()
    }

    fn head(&self) -> &[u8] {
        self.parts.first().map_or(&[], literal_of)
    }

    fn tail(&self) -> &[u8] {
        self.parts.last().map_or(&[], literal_of)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.source)
    }
}

fn literal_of(part: &Part) -> &[u8] {
    match part {
        Part::Literal(literal) => literal,
        Part::Named { .. } => &[],
    }
}

fn push_literal(parts: &mut Vec<Part>, literal: &str) -> Result<(), String> {
    if literal.contains('}') {
        return Err("has a `}` without its `{`".to_owned());
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.as_bytes().to_vec()));
    }
    Ok(())
}

fn push_named(parts: &mut Vec<Part>, inside: &str) -> Result<(), String> {
    let (name, shape) = inside.split_once(':').map_or((inside, None), |(name, shape)| (name, Some(shape)));
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
        return Err(format!("has a part `{{{inside}}}` whose name is not lower-case letters"));
    }
    let known = |other: &Part| matches!(other, Part::Named { name: known, .. } if known == name);
    if parts.iter().any(known) {
        return Err(format!("names the part `{name}` twice"));
    }
    parts.push(Part::Named { name: name.to_owned(), shape: shape_of(shape)? });
    Ok(())
}

/// A part of open length takes all it can, so what follows it must be something that it cannot take.
fn refuse_what_never_matches(parts: &[Part]) -> Result<(), String> {
    for (part, next) in parts.iter().zip(parts.iter().skip(1)) {
        let Part::Named { name, shape } = part else { continue };
        let Part::Literal(after) = next else {
            return Err(format!("has a part side by side with `{{{name}}}`: nothing tells where one ends"));
        };
        let is_taken = match shape {
            Shape::Segment => after.first() != Some(&b':'),
            Shape::Digits => after.first().is_some_and(u8::is_ascii_digit),
            Shape::Rest | Shape::Mask(_) | Shape::OneOf(_) => false,
        };
        if is_taken {
            return Err(format!("can never match: `{{{name}}}` takes what follows it"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(source: &str) -> Pattern {
        Pattern::parse(source).expect("a good pattern")
    }

    #[test]
    fn a_plain_part_takes_any_bytes_but_a_colon() {
        let apikey = pattern("apikey:{id}");
        assert!(apikey.matches(b"apikey:1"));
        assert!(apikey.matches(b"apikey:\xff\0x"));
        assert!(!apikey.matches(b"apikey:"));
        assert!(!apikey.matches(b"apikey:idx:all"));
        assert!(!apikey.matches(b"apikey"));
    }

    #[test]
    fn a_wide_part_leaves_the_end_to_what_follows() {
        let daily = pattern("usage:{key}:model:daily:{model:rest}:{date:date}");
        let bedrock = b"usage:k:model:daily:us.anthropic.claude-v1:0:2026-11-23";
        assert!(daily.matches(bedrock));
        assert_eq!(daily.middle(bedrock), b"k:model:daily:us.anthropic.claude-v1:0:2026-11-23");
        assert!(!daily.matches(b"usage:k:model:daily:2026-11-23"));
        assert!(!daily.matches(b"usage:k:model:daily:m:2026-11"));
    }

    #[test]
    fn a_choice_may_hold_colons() {
        let index = pattern("{family:claude:account|user}:index");
        assert!(index.matches(b"claude:account:index"));
        assert!(index.matches(b"user:index"));
        assert!(!index.matches(b"droid:index"));
        assert_eq!(index.prefixes(), [b"claude:account:index".to_vec(), b"user:index".to_vec()]);
    }

    #[test]
    fn the_middle_and_the_whole_key_name_each_other() {
        let empty = pattern("usage:daily:index:{date:date}:empty");
        let key = b"usage:daily:index:2026-11-23:empty";
        assert_eq!(empty.middle(key), b"2026-11-23");
        assert_eq!(empty.around(b"2026-11-23"), key);
        let whole = pattern("billing:events");
        assert_eq!(whole.middle(b"billing:events"), b"billing:events");
        assert_eq!(whole.around(b"billing:events"), b"billing:events");
    }

    #[test]
    fn every_example_matches_its_pattern() {
        for source in
            ["a", "a:{b}", "{a:rest}:empty", "x:{d:date}:{h:hour}", "{a:uuid}-{b:x|y:z}", "c:{n:digits}", "{w:week}"]
        {
            let pattern = pattern(source);
            for example in pattern.examples() {
                assert!(pattern.matches(&example), "{source}: {}", String::from_utf8_lossy(&example));
            }
        }
    }

    #[test]
    fn a_pattern_that_can_never_match_is_refused_with_the_reason() {
        for (source, reason) in [
            ("", "empty"),
            ("a:{id", "without its `}`"),
            ("a:id}", "without its `{`"),
            ("a:{id}:{id}", "twice"),
            ("a:{id:uid}", "unknown type `uid`"),
            ("a:{id}b", "takes what follows"),
            ("a:{n:digits}0", "takes what follows"),
            ("a:{id}{date:date}", "side by side"),
            ("a:{x:b|}", "empty choice"),
            ("a:{}", "name is not lower-case"),
        ] {
            let error = Pattern::parse(source).expect_err(source);
            assert!(error.contains(reason), "{source}: {error}");
        }
    }
}
