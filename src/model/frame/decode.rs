//! Makes a [`Reply`] of the bytes of a frame, for the doors and the parts of the engine that look into replies.

use bytes::Bytes;

use crate::model::frame::scan::{DEPTH_MAX, number};
use crate::model::reply::Reply;

/// What stands for bytes that are no whole frame; the scanner lets none of them come here.
const BROKEN: &str = "ERR a reply that cannot be read";

/// The reply in `frame`. Attributes are left out; strings are slices of the frame.
#[must_use]
pub fn reply(frame: &Bytes) -> Reply {
    let mut reader = Reader { frame, at: 0 };
    reader.reply(0).unwrap_or_else(|| Reply::Error(BROKEN.to_owned()))
}

struct Reader<'a> {
    frame: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn reply(&mut self, depth: usize) -> Option<Reply> {
        if depth > DEPTH_MAX {
            return None;
        }
        let sign = *self.frame.get(self.at)?;
        let reply = match sign {
            b'+' => Reply::Status(text(&self.line()?)),
            b'-' => Reply::Error(text(&self.line()?)),
            b':' => Reply::Integer(std::str::from_utf8(&self.line()?).ok()?.parse().ok()?),
            b',' => Reply::Double(self.line()?),
            b'(' => Reply::BigNumber(self.line()?),
            b'#' => Reply::Boolean(self.line()?.first() == Some(&b't')),
            b'_' => {
                self.line()?;
                Reply::Nil
            }
            b'$' => self.string()?.map_or(Reply::Nil, Reply::Bulk),
            b'=' => self.string()?.map_or(Reply::Nil, Reply::Verbatim),
            b'!' => self.string()?.map_or(Reply::Nil, |bytes| Reply::Error(text(&bytes))),
            b'*' => self.items(depth)?.map_or(Reply::Nil, Reply::Array),
            b'~' => Reply::Set(self.items(depth)?.unwrap_or_default()),
            b'>' => Reply::Push(self.items(depth)?.unwrap_or_default()),
            b'%' => Reply::Map(self.pairs(depth)?),
            b'|' => {
                self.pairs(depth)?;
                self.reply(depth + 1)?
            }
            _ => return None,
        };
        Some(reply)
    }

    fn line(&mut self) -> Option<Bytes> {
        let rest = self.frame.get(self.at..)?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let line = self.frame.slice(self.at + 1..self.at + end.checked_sub(1)?.max(1));
        self.at += end + 1;
        Some(line)
    }

    fn number(&mut self) -> Option<i64> {
        let (number, used) = number(self.frame.get(self.at..)?).ok()??;
        self.at += used;
        Some(number)
    }

    fn string(&mut self) -> Option<Option<Bytes>> {
        let Ok(length) = usize::try_from(self.number()?) else { return Some(None) };
        let end = self.at.checked_add(length)?;
        if end > self.frame.len() {
            return None;
        }
        let bytes = self.frame.slice(self.at..end);
        self.at = end + 2;
        Some(Some(bytes))
    }

    fn items(&mut self, depth: usize) -> Option<Option<Vec<Reply>>> {
        let Ok(count) = usize::try_from(self.number()?) else { return Some(None) };
        // A frame has at least three bytes for each of its items, so a wrong count takes no memory.
        let mut items = Vec::with_capacity(count.min(self.frame.len() / 3 + 1));
        for _ in 0..count {
            items.push(self.reply(depth + 1)?);
        }
        Some(Some(items))
    }

    fn pairs(&mut self, depth: usize) -> Option<Vec<(Reply, Reply)>> {
        let count = usize::try_from(self.number()?).unwrap_or(0);
        let mut pairs = Vec::with_capacity(count.min(self.frame.len() / 6 + 1));
        for _ in 0..count {
            pairs.push((self.reply(depth + 1)?, self.reply(depth + 1)?));
        }
        Some(pairs)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::frame::{Frame, Protocol};

    #[test]
    fn what_is_written_is_read_again_in_its_own_protocol() {
        let all = Reply::Array(vec![
            Reply::Nil,
            Reply::Status("OK".into()),
            Reply::Error("ERR x".into()),
            Reply::Integer(-7),
            Reply::bulk("a\r\nb"),
            Reply::Map(vec![(Reply::bulk("k"), Reply::Double(Bytes::from_static(b"1.5")))]),
            Reply::Set(vec![Reply::Boolean(true), Reply::Boolean(false)]),
            Reply::BigNumber(Bytes::from_static(b"123456789012345678901")),
            Reply::Verbatim(Bytes::from_static(b"txt:x")),
            Reply::Push(vec![Reply::Array(Vec::new())]),
        ]);
        assert_eq!(Frame::of(&all, Protocol::Resp3).decode(), all);
        let flat = Reply::Array(vec![Reply::bulk("k"), Reply::bulk("1.5")]);
        let map = Reply::Map(vec![(Reply::bulk("k"), Reply::Double(Bytes::from_static(b"1.5")))]);
        assert_eq!(Frame::of(&map, Protocol::Resp2).decode(), flat);
        assert_eq!(Frame::of(&Reply::Boolean(true), Protocol::Resp2).decode(), Reply::Integer(1));
        assert_eq!(
            Frame::of(&Reply::Verbatim(Bytes::from_static(b"txt:x")), Protocol::Resp2).decode(),
            Reply::bulk("x")
        );
    }

    #[test]
    fn an_attribute_is_left_out() {
        assert_eq!(
            reply(&Bytes::from_static(b"|1\r\n+ttl\r\n:3\r\n*1\r\n#t\r\n")),
            Reply::Array(vec![Reply::Boolean(true)])
        );
    }

    #[test]
    fn bytes_that_are_no_frame_become_an_error_and_take_no_memory() {
        for bytes in [&b""[..], b"$5\r\nab\r\n", b"*999999999\r\n", b"x\r\n", b"+", b"\n"] {
            assert_eq!(reply(&Bytes::from_static(bytes)), Reply::Error(BROKEN.to_owned()), "{bytes:?}");
        }
    }
}
