//! The one reversible text form of bytes: Redis values are bytes, `jsonb` and `text` are not.
//!
//! Valid UTF-8 without NUL is itself. Everything else is `\x` and lower-case hex, and so is a text that itself begins
//! with `\x`, so that the form can always be undone.

use std::borrow::Cow;

/// The text form of `bytes`.
#[must_use]
pub fn encode(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with("\\x") && !bytes.contains(&0) => Cow::Borrowed(text),
        _ => {
            let mut text = String::with_capacity(2 + bytes.len() * 2);
            text.push_str("\\x");
            for byte in bytes {
                text.push(hex_digit(byte >> 4));
                text.push(hex_digit(byte & 15));
            }
            Cow::Owned(text)
        }
    }
}

/// The bytes of a text form. A text that begins with `\x` but is no hex is taken as it stands: no encoder wrote it.
#[must_use]
pub fn decode(text: &str) -> Vec<u8> {
    text.strip_prefix("\\x").and_then(unhex).unwrap_or_else(|| text.as_bytes().to_vec())
}

/// `bytes` as lower-case hex, two digits a byte.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [hex_digit(byte >> 4), hex_digit(byte & 15)]).collect()
}

fn hex_digit(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).expect("a nibble is below 16")
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_text_is_itself_and_the_rest_is_hex() {
        assert_eq!(encode("名前".as_bytes()), "名前");
        assert_eq!(encode(b"name\0id"), "\\x6e616d65006964");
        assert_eq!(encode(b"\\xzz"), "\\x5c787a7a");
        assert_eq!(decode("\\x5c787a7a"), b"\\xzz");
        assert_eq!(encode(b""), "");
    }

    proptest! {
        #[test]
        fn every_byte_string_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(decode(&encode(&bytes)), bytes);
        }
    }
}
