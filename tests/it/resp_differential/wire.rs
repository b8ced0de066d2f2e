//! One connection that speaks bytes: what it sends is exactly what a test says, what it hears is kept as it came. It leans
//! on no client library and on nothing of the door, so that neither can hide a difference.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::sidecar::PATIENCE;

/// The words of a command.
pub(crate) type Words = Vec<Bytes>;

/// A frame of RESP2 or RESP3, by the byte that it begins with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Frame {
    /// `+ - : _ # , (`: one line.
    Line(u8, Bytes),
    /// `$ = !`: counted bytes; none for the nil of RESP2.
    Blob(u8, Option<Bytes>),
    /// `* ~ % > |`: frames (two for each pair of a map); none for the nil of RESP2.
    Many(u8, Option<Vec<Frame>>),
}

impl Frame {
    /// The byte that the frame begins with.
    pub(crate) fn mark(&self) -> u8 {
        let (Self::Line(mark, _) | Self::Blob(mark, _) | Self::Many(mark, _)) = self;
        *mark
    }

    /// Whether it is an error that begins so.
    pub(crate) fn is_error(&self, beginning: &str) -> bool {
        matches!(self, Self::Line(b'-', text) if text.starts_with(beginning.as_bytes()))
    }

    /// Whether these bytes stand anywhere in it.
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Line(_, text) | Self::Blob(_, Some(text)) => {
                text.windows(bytes.len().max(1)).any(|part| part == bytes)
            }
            Self::Many(_, Some(items)) => items.iter().any(|item| item.holds(bytes)),
            Self::Blob(_, None) | Self::Many(_, None) => false,
        }
    }

    /// Whether a string of more bytes stands anywhere in it.
    pub(crate) fn holds_longer(&self, bytes: usize) -> bool {
        match self {
            Self::Line(_, text) | Self::Blob(_, Some(text)) => text.len() > bytes,
            Self::Many(_, Some(items)) => items.iter().any(|item| item.holds_longer(bytes)),
            Self::Blob(_, None) | Self::Many(_, None) => false,
        }
    }
}

/// What came over the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A frame, and its bytes.
    Frame(Frame, Bytes),
    /// Bytes that are no frame, to the end of the connection.
    Nonsense(Bytes),
    /// The other side closed.
    Closed,
    /// Nothing, for as long as was waited.
    Silence,
}

/// A connection.
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Wire {
    pub(crate) async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: BytesMut::new() }
    }

    /// Sends bytes; that the other side has closed meanwhile is heard, not sent.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next frame.
    pub(crate) async fn hear(&mut self) -> Heard {
        self.hear_within(PATIENCE).await
    }

    /// The next frame, if it comes in time.
    pub(crate) async fn hear_within(&mut self, patience: Duration) -> Heard {
        tokio::time::timeout(patience, self.next()).await.unwrap_or(Heard::Silence)
    }

    async fn next(&mut self) -> Heard {
        loop {
            match scan(&self.buffer) {
                Scan::Whole(frame, length) => return Heard::Frame(frame, self.buffer.split_to(length).freeze()),
                Scan::Nonsense => {
                    while self.stream.read_buf(&mut self.buffer).await.is_ok_and(|count| count > 0) {}
                    return Heard::Nonsense(self.buffer.split().freeze());
                }
                Scan::Part => {}
            }
            self.buffer.reserve(64 * 1024);
            if !self.stream.read_buf(&mut self.buffer).await.is_ok_and(|count| count > 0) {
                return if self.buffer.is_empty() {
                    Heard::Closed
                } else {
                    Heard::Nonsense(self.buffer.split().freeze())
                };
            }
        }
    }

    /// Sends a command and answers its reply.
    pub(crate) async fn ask(&mut self, line: &str) -> Frame {
        self.send(&encoded(&words(line))).await;
        match self.hear().await {
            Heard::Frame(frame, _) => frame,
            Heard::Nonsense(_) | Heard::Closed | Heard::Silence => panic!("no answer to {line}"),
        }
    }
}

/// The words of a line: spaces stand between them, `'...'` holds spaces or nothing, `\n`, `\r` and `\xNN` in it are bytes.
pub(crate) fn words(line: &str) -> Words {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (word, left) = match rest.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'').unwrap_or_else(|| panic!("no end of a quote: {line}")),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(unescaped(word));
        rest = left.trim_start();
    }
    words
}

fn unescaped(word: &str) -> Bytes {
    let mut bytes = Vec::new();
    let mut rest = word;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let taken = match escape.as_bytes()[0] {
            b'n' => (b'\n', 1),
            b'r' => (b'\r', 1),
            b'x' => (u8::from_str_radix(&escape[1..3], 16).unwrap(), 3),
            other => (other, 1),
        };
        bytes.push(taken.0);
        rest = &escape[taken.1..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes.into()
}

/// A command as clients send it.
pub(crate) fn encoded(words: &[Bytes]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Words for a person to read.
pub(crate) fn shown(words: &[Bytes]) -> String {
    words.iter().map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
}

enum Scan {
    Whole(Frame, usize),
    Part,
    Nonsense,
}

fn scan(bytes: &[u8]) -> Scan {
    let Some(mark) = bytes.first().copied() else { return Scan::Part };
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Scan::Part };
    let (line, after) = (&bytes[1..end], end + 2);
    let number = || std::str::from_utf8(line).ok().and_then(|text| text.parse::<i64>().ok());
    match mark {
        b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => Scan::Whole(Frame::Line(mark, line.to_vec().into()), after),
        b'$' | b'=' | b'!' => match number() {
            Some(-1) => Scan::Whole(Frame::Blob(mark, None), after),
            Some(length) => {
                let end = after + usize::try_from(length).unwrap_or(0);
                let whole = bytes.get(after..end + 2);
                whole.map_or(Scan::Part, |blob| {
                    Scan::Whole(Frame::Blob(mark, Some(blob[..blob.len() - 2].to_vec().into())), end + 2)
                })
            }
            None => Scan::Nonsense,
        },
        b'*' | b'~' | b'%' | b'>' | b'|' => match number() {
            Some(-1) => Scan::Whole(Frame::Many(mark, None), after),
            Some(count) => scan_many(bytes, mark, if mark == b'%' || mark == b'|' { count * 2 } else { count }, after),
            None => Scan::Nonsense,
        },
        _ => Scan::Nonsense,
    }
}

fn scan_many(bytes: &[u8], mark: u8, count: i64, mut at: usize) -> Scan {
    let mut items = Vec::new();
    for _ in 0..count {
        match scan(bytes.get(at..).unwrap_or_default()) {
            Scan::Whole(item, length) => {
                items.push(item);
                at += length;
            }
            Scan::Part => return Scan::Part,
            Scan::Nonsense => return Scan::Nonsense,
        }
    }
    Scan::Whole(Frame::Many(mark, Some(items)), at)
}

#[test]
fn a_line_is_read_as_it_is_written() {
    assert_eq!(words("SET k 'a b' '' \\x00z"), ["SET", "k", "a b", "", "\0z"].map(Bytes::from));
    assert_eq!(encoded(&words("GET k")), b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
}

#[test]
fn every_form_of_a_frame_is_told_from_half_of_it() {
    let whole: [&[u8]; 8] = [
        b"+OK\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"$3\r\na\r\n\r\n",
        b"*2\r\n:1\r\n*1\r\n$0\r\n\r\n",
        b"%1\r\n+a\r\n~1\r\n,1.5\r\n",
        b">2\r\n+message\r\n_\r\n",
        b"=7\r\ntxt:abc\r\n",
    ];
    for bytes in whole {
        assert!(matches!(scan(bytes), Scan::Whole(_, length) if length == bytes.len()), "{}", bytes.escape_ascii());
        for end in 0..bytes.len() {
            assert!(matches!(scan(&bytes[..end]), Scan::Part), "{}", bytes[..end].escape_ascii());
        }
    }
    assert!(matches!(scan(b"HTTP/1.1 400\r\n"), Scan::Nonsense));
}
