//! Writes Redis' replies as JSON, straight into the body of the answer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::model::frame::{Frame, scan};
use crate::model::reply::Reply;
use crate::model::text;

/// Arrays nested deeper are decoded before they are written.
const PLAIN_DEPTH_MAX: usize = 8;

/// How strings are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strings {
    /// As they are; what is no UTF-8 in text form (`\x` and hex).
    Text,
    /// In base64, which is what Upstash's clients ask for and the only form without ambiguity. They expect one
    /// exception: a status `OK` that is the whole result.
    Base64,
}

/// Appends `{"result":..}`, or `{"error":".."}` for an error, straight from the bytes of a reply.
pub fn write_frame(out: &mut Vec<u8>, frame: &Frame, strings: Strings) {
    let began = out.len();
    out.extend_from_slice(b"{\"result\":");
    if matches!(frame.bytes().first(), Some(b'$' | b':' | b'*'))
        && plain(out, frame.bytes(), strings, 0) == Some(frame.bytes().len())
    {
        out.push(b'}');
        return;
    }
    out.truncate(began);
    write_outcome(out, &frame.decode(), strings);
}

/// Appends strings, integers and arrays of them, and answers how many bytes of `frame` they were. `None`: something else is
/// among them, which is decoded instead.
fn plain(out: &mut Vec<u8>, frame: &[u8], strings: Strings, depth: usize) -> Option<usize> {
    let sign = *frame.first()?;
    if sign == b':' {
        let end = frame.iter().position(|byte| *byte == b'\r')?;
        out.extend_from_slice(frame.get(1..end)?);
        return Some(end + 2);
    }
    let (count, mut at) = scan::number(frame).ok()??;
    let Ok(count) = usize::try_from(count) else {
        out.extend_from_slice(b"null");
        return Some(at);
    };
    match sign {
        b'$' => {
            write_string(out, frame.get(at..at.checked_add(count)?)?, strings);
            Some(at + count + 2)
        }
        b'*' if depth < PLAIN_DEPTH_MAX => {
            out.push(b'[');
            for index in 0..count {
                if index > 0 {
                    out.push(b',');
                }
                at += plain(out, frame.get(at..)?, strings, depth + 1)?;
            }
            out.push(b']');
            Some(at)
        }
        _ => None,
    }
}

/// Appends `{"result":..}`, or `{"error":".."}` for an error reply.
fn write_outcome(out: &mut Vec<u8>, reply: &Reply, strings: Strings) {
    match reply {
        Reply::Error(message) => write_error(out, message),
        Reply::Status(line) if line == "OK" => out.extend_from_slice(b"{\"result\":\"OK\"}"),
        Reply::Nil
        | Reply::Status(_)
        | Reply::Integer(_)
        | Reply::Bulk(_)
        | Reply::Array(_)
        | Reply::Map(_)
        | Reply::Set(_)
        | Reply::Double(_)
        | Reply::Boolean(_)
        | Reply::BigNumber(_)
        | Reply::Verbatim(_)
        | Reply::Push(_) => {
            out.extend_from_slice(b"{\"result\":");
            write_reply(out, reply, strings);
            out.push(b'}');
        }
    }
}

/// Appends `{"error":".."}`.
pub fn write_error(out: &mut Vec<u8>, message: &str) {
    out.extend_from_slice(b"{\"error\":");
    write_json_string(out, message);
    out.push(b'}');
}

fn write_reply(out: &mut Vec<u8>, reply: &Reply, strings: Strings) {
    match reply {
        Reply::Nil => out.extend_from_slice(b"null"),
        Reply::Status(line) => write_string(out, line.as_bytes(), strings),
        Reply::Error(message) => write_error(out, message),
        Reply::Integer(number) => {
            serde_json::to_writer(out, number).expect("writing into memory does not fail");
        }
        Reply::Bulk(bytes) => write_string(out, bytes, strings),
        Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => write_all(out, items.iter(), strings),
        // This door speaks RESP2 with Redis: what has another form in RESP3 is written as RESP2 has it.
        Reply::Map(pairs) => write_all(out, pairs.iter().flat_map(|(name, value)| [name, value]), strings),
        Reply::Double(text) | Reply::BigNumber(text) => write_string(out, text, strings),
        Reply::Boolean(is_so) => out.push(if *is_so { b'1' } else { b'0' }),
        Reply::Verbatim(text) => write_string(out, text.get(4..).unwrap_or_default(), strings),
    }
}

fn write_all<'a>(out: &mut Vec<u8>, items: impl Iterator<Item = &'a Reply>, strings: Strings) {
    out.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_reply(out, item, strings);
    }
    out.push(b']');
}

fn write_string(out: &mut Vec<u8>, bytes: &[u8], strings: Strings) {
    match (strings, std::str::from_utf8(bytes)) {
        (Strings::Base64, _) => {
            out.push(b'"');
            let at = out.len();
            out.resize(at + base64::encoded_len(bytes.len(), true).unwrap_or(0), 0);
            let room = out.get_mut(at..).unwrap_or_default();
            STANDARD.encode_slice(bytes, room).expect("the room was measured");
            out.push(b'"');
        }
        (Strings::Text, Ok(text)) => write_json_string(out, text),
        (Strings::Text, Err(_)) => write_json_string(out, &text::encode(bytes)),
    }
}

/// Appends `text` as a JSON string.
pub(super) fn write_json_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing into memory does not fail");
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::frame::Protocol;

    fn written(reply: &Reply, strings: Strings) -> Value {
        let mut out = Vec::new();
        write_outcome(&mut out, reply, strings);
        serde_json::from_slice(&out).expect("JSON")
    }

    #[test]
    fn the_bytes_of_a_reply_are_written_as_the_reply_would_be() {
        let nested = (0..12).fold(Reply::Integer(7), |inner, _| Reply::Array(vec![inner]));
        let mixed = Reply::Array(vec![Reply::Status("OK".into()), bulk(b"x")]);
        let flat = vec![Reply::Nil, Reply::Integer(-5), bulk(b"a\"\x00\xc3\xa9"), bulk(b"\xff"), Reply::Array(vec![])];
        let error = Reply::Array(vec![bulk(b"x"), Reply::Error("ERR inside".into())]);
        let all = [Reply::Array(flat), nested, mixed, error, Reply::Nil, bulk(b""), Reply::Status("OK".into())];
        for reply in all.iter().chain([&Reply::Error("ERR no".into()), &Reply::Integer(i64::MIN)]) {
            for strings in [Strings::Text, Strings::Base64] {
                let (mut straight, mut decoded) = (Vec::new(), Vec::new());
                write_frame(&mut straight, &Frame::of(reply, Protocol::Resp2), strings);
                write_outcome(&mut decoded, reply, strings);
                assert_eq!(String::from_utf8_lossy(&straight), String::from_utf8_lossy(&decoded));
            }
        }
    }

    fn bulk(bytes: &'static [u8]) -> Reply {
        Reply::Bulk(Bytes::from_static(bytes))
    }

    #[test]
    fn each_kind_of_reply_has_its_json() {
        let nested = Reply::Array(vec![
            Reply::Nil,
            Reply::Integer(i64::MIN),
            Reply::Status("PONG".into()),
            bulk(b"a \"quoted\"\0 \xf0\x9f\x98\x80"),
            Reply::Array(vec![]),
            Reply::Error("ERR inside a script".into()),
        ]);
        let expected = json!([null, i64::MIN, "PONG", "a \"quoted\"\0 😀", [], {"error": "ERR inside a script"}]);
        assert_eq!(written(&nested, Strings::Text), json!({ "result": expected }));
    }

    #[test]
    fn an_error_is_no_result() {
        assert_eq!(written(&Reply::Error("ERR \"no\"".into()), Strings::Text), json!({"error": "ERR \"no\""}));
    }

    #[test]
    fn bytes_that_are_no_text_come_in_text_form() {
        assert_eq!(written(&bulk(b"\xff\x00"), Strings::Text), json!({"result": "\\xff00"}));
    }

    #[test]
    fn in_base64_everything_is_encoded_but_a_status_ok_that_is_the_whole_result() {
        assert_eq!(written(&Reply::Status("OK".into()), Strings::Base64), json!({"result": "OK"}));
        assert_eq!(written(&bulk(b"OK"), Strings::Base64), json!({"result": "T0s="}));
        let replies = Reply::Array(vec![
            Reply::Status("OK".into()),
            Reply::Status("PONG".into()),
            bulk(b"OK"),
            bulk(b"\xff"),
            bulk(b""),
            Reply::Integer(1),
        ]);
        let expected = json!({"result": ["T0s=", "UE9ORw==", "T0s=", "/w==", "", 1]});
        assert_eq!(written(&replies, Strings::Base64), expected);
    }
}
