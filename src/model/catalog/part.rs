//! The parts of a pattern, and how each takes its share of a key.

/// A piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// This text.
    Literal(Vec<u8>),
    /// Any text of the shape.
    Named { name: String, shape: Shape },
}

/// What a named part may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One or more bytes without ':'.
    Segment,
    /// One or more bytes.
    Rest,
    /// One or more decimal digits.
    Digits,
    /// A mask: `9` is a decimal digit, `x` a hexadecimal one, anything else is itself.
    Mask(&'static str),
    /// One of these texts.
    OneOf(Vec<String>),
}

const MASKS: [(&str, &str); 7] = [
    ("uuid", "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"),
    ("hex32", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
    ("hex64", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
    ("date", "9999-99-99"),
    ("month", "9999-99"),
    ("hour", "99"),
    ("week", "9999-99-99T99"),
];

impl Part {
    /// Texts that fit, as different as can be.
    pub(super) fn examples(&self) -> Vec<Vec<u8>> {
        let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        match self {
            Self::Literal(literal) => vec![literal.clone()],
            Self::Named { shape: Shape::Segment, .. } => texts(&["~one~", "~2"]),
            Self::Named { shape: Shape::Rest, .. } => texts(&["~any~", "~any~:~of~:~these~:~five~:~parts~"]),
            Self::Named { shape: Shape::Digits, .. } => texts(&["7", "1795414190204"]),
            Self::Named { shape: Shape::Mask(mask), .. } => {
                texts(&[&mask.replace(['9', 'x'], "0"), &mask.replace('9', "7").replace('x', "e")])
            }
            Self::Named { shape: Shape::OneOf(alternatives), .. } => {
                alternatives.iter().map(|text| text.as_bytes().to_vec()).collect()
            }
        }
    }
}

/// The shape that the word after the colon names.
pub(super) fn shape_of(shape: Option<&str>) -> Result<Shape, String> {
    match shape {
        None => Ok(Shape::Segment),
        Some("rest") => Ok(Shape::Rest),
        Some("digits") => Ok(Shape::Digits),
        Some(texts) if texts.contains('|') => {
            if texts.split('|').any(str::is_empty) {
                return Err(format!("has an empty choice in `{texts}`"));
            }
            Ok(Shape::OneOf(texts.split('|').map(str::to_owned).collect()))
        }
        Some(name) => match MASKS.iter().find(|(known, _)| *known == name) {
            Some((_, mask)) => Ok(Shape::Mask(mask)),
            None => Err(format!("has a part of the unknown type `{name}`")),
        },
    }
}

/// Whether `key` is made of `parts`.
pub(super) fn matches_parts(parts: &[Part], key: &[u8]) -> bool {
    let Some((part, rest)) = parts.split_first() else {
        return key.is_empty();
    };
    match part {
        Part::Literal(literal) => key.strip_prefix(literal.as_slice()).is_some_and(|left| matches_parts(rest, left)),
        Part::Named { shape, .. } => match shape {
            Shape::Segment => matches_run(rest, key, |byte| *byte != b':'),
            Shape::Digits => matches_run(rest, key, u8::is_ascii_digit),
            Shape::Mask(mask) => matches_mask(mask, rest, key),
            Shape::OneOf(texts) => {
                texts.iter().any(|text| key.strip_prefix(text.as_bytes()).is_some_and(|left| matches_parts(rest, left)))
            }
            Shape::Rest => matches_rest(rest, key),
        },
    }
}

fn matches_run(rest: &[Part], key: &[u8], takes: impl Fn(&u8) -> bool) -> bool {
    let length = key.iter().position(|byte| !takes(byte)).unwrap_or(key.len());
    length > 0 && key.get(length..).is_some_and(|left| matches_parts(rest, left))
}

fn matches_mask(mask: &str, rest: &[Part], key: &[u8]) -> bool {
    let Some((head, left)) = key.split_at_checked(mask.len()) else {
        return false;
    };
    let fits = mask.bytes().zip(head).all(|(mask, byte)| match mask {
        b'9' => byte.is_ascii_digit(),
        b'x' => byte.is_ascii_hexdigit(),
        literal => literal == *byte,
    });
    fits && matches_parts(rest, left)
}

/// The longest first: what follows such a part is as a rule a date at the very end.
fn matches_rest(rest: &[Part], key: &[u8]) -> bool {
    if rest.is_empty() {
        return !key.is_empty();
    }
    (1..=key.len()).rev().any(|length| key.get(length..).is_some_and(|left| matches_parts(rest, left)))
}
