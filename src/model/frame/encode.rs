//! Writes commands and replies as bytes of either protocol.

use bytes::BufMut;

use crate::model::command::Command;
use crate::model::frame::Protocol;
use crate::model::reply::Reply;

/// Appends a command as Redis takes it.
pub fn command(out: &mut impl BufMut, command: &Command) {
    head(out, b'*', command.0.len());
    for part in &command.0 {
        string(out, b'$', part);
    }
}

/// Appends a reply in the form of `protocol`.
pub fn reply(out: &mut impl BufMut, reply: &Reply, protocol: Protocol) {
    let is_three = protocol == Protocol::Resp3;
    match reply {
        Reply::Nil => out.put_slice(if is_three { b"_\r\n" } else { b"$-1\r\n" }),
        Reply::Status(text) => line(out, b'+', text.as_bytes()),
        Reply::Error(text) => line(out, b'-', text.as_bytes()),
        Reply::Integer(number) => line(out, b':', number.to_string().as_bytes()),
        Reply::Bulk(bytes) => string(out, b'$', bytes),
        Reply::Array(items) => all(out, b'*', items, protocol),
        Reply::Map(pairs) => {
            if is_three {
                head(out, b'%', pairs.len());
            } else {
                head(out, b'*', pairs.len() * 2);
            }
            for (name, value) in pairs {
                self::reply(out, name, protocol);
                self::reply(out, value, protocol);
            }
        }
        Reply::Set(items) => all(out, if is_three { b'~' } else { b'*' }, items, protocol),
        Reply::Double(text) if is_three => line(out, b',', text),
        Reply::BigNumber(text) if is_three => line(out, b'(', text),
        Reply::Double(text) | Reply::BigNumber(text) => string(out, b'$', text),
        Reply::Boolean(is_so) => match (is_three, is_so) {
            (true, true) => out.put_slice(b"#t\r\n"),
            (true, false) => out.put_slice(b"#f\r\n"),
            (false, true) => out.put_slice(b":1\r\n"),
            (false, false) => out.put_slice(b":0\r\n"),
        },
        Reply::Verbatim(text) if is_three => string(out, b'=', text),
        // What stands before the text is `txt:` or `mkd:`.
        Reply::Verbatim(text) => string(out, b'$', text.get(4..).unwrap_or_default()),
        Reply::Push(items) => all(out, if is_three { b'>' } else { b'*' }, items, protocol),
    }
}

fn all(out: &mut impl BufMut, sign: u8, items: &[Reply], protocol: Protocol) {
    head(out, sign, items.len());
    for item in items {
        reply(out, item, protocol);
    }
}

/// Appends the head of something with a length or a count.
pub fn head(out: &mut impl BufMut, sign: u8, number: usize) {
    let (mut digits, mut at, mut rest) = ([0_u8; 20], 20, number);
    loop {
        at -= 1;
        if let (Some(digit), Ok(value)) = (digits.get_mut(at), u8::try_from(rest % 10)) {
            *digit = b'0' + value;
        }
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    line(out, sign, digits.get(at..).unwrap_or_default());
}

fn line(out: &mut impl BufMut, sign: u8, text: &[u8]) {
    out.put_u8(sign);
    out.put_slice(text);
    out.put_slice(b"\r\n");
}

fn string(out: &mut impl BufMut, sign: u8, bytes: &[u8]) {
    head(out, sign, bytes.len());
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_strings() {
        let mut out = Vec::new();
        command(&mut out, &Command::new(["SET", "k", "a value of 16 by"]));
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$16\r\na value of 16 by\r\n");
        let mut out = Vec::new();
        head(&mut out, b'$', 0);
        head(&mut out, b'*', 1_234_567_890);
        assert_eq!(out, b"$0\r\n*1234567890\r\n");
    }
}
