//! What a broken or a hostile client sends: commands that were well formed once, cut, stretched, and filled with wrong
//! lengths, among lines and noise.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A piece of what a client sends.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => command(),
        3 => lengths(),
        3 => inline(),
        1 => vec(any::<u8>(), 0..24),
        1 => vec(select(b"*$:+-\r\n 0123456789'\"\\x\x0b\x0c\0".to_vec()), 0..24),
        1 => select(vec![b"\r\n".to_vec(), b"\n".to_vec(), b"*0\r\n".to_vec(), b"*-1\r\n".to_vec(), b"*1\r\n$0\r\n\r\n".to_vec()]),
    ]
}

/// Commands that do no harm, on few keys, mirrored and not.
fn command() -> impl Strategy<Value = Vec<u8>> {
    let key = select(vec!["user:fuzz", "lock:fuzz", "user:fuzz-2"]);
    let value = vec(any::<u8>(), 0..40);
    (select(vec!["GET", "SET", "get", "ECHO", "PING", "MULTI", "EXEC", "NOSUCH", "STRLEN", "APPEND"]), key, value)
        .prop_map(|(name, key, value)| match name {
            "PING" | "MULTI" | "EXEC" => encoded(&[name.as_bytes()]),
            "GET" | "get" | "STRLEN" => encoded(&[name.as_bytes(), key.as_bytes()]),
            "ECHO" => encoded(&[name.as_bytes(), &value]),
            _ => encoded(&[name.as_bytes(), key.as_bytes(), &value]),
        })
}

/// Lines as a person types them.
fn inline() -> impl Strategy<Value = Vec<u8>> {
    let word = select(vec![
        "PING",
        "GET",
        "SET",
        "user:fuzz",
        "lock:fuzz",
        "'quoted word'",
        "\"esc\\x41\\n\"",
        "\"open",
        "'open",
        "'a'b",
        "\"a\"b",
        "\\",
        "ECHO",
        "a\x0bb",
        "\x0c",
        "a\0b",
        "x",
    ]);
    (vec(word, 0..5), select(vec!["\r\n", "\n", " \r\n", "\t\n", "\r\r\n"])).prop_map(|(words, end)| {
        let mut line = words.join(" ").into_bytes();
        line.extend_from_slice(end.as_bytes());
        line
    })
}

/// Heads with counts and lengths that are no such thing.
fn lengths() -> impl Strategy<Value = Vec<u8>> {
    let number = select(vec![
        "-1",
        "-2",
        "0",
        "1",
        "2",
        "01",
        "+1",
        " 1",
        "1 ",
        "",
        "x",
        "1x",
        "1048576",
        "1048577",
        "536870912",
        "536870913",
        "2147483647",
        "2147483648",
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "99999999999999999999999",
    ]);
    (number.clone(), number, select(vec!["*", "$", "%", "~", ">", "-"]), any::<bool>()).prop_map(
        |(count, length, sign, has_second)| {
            let mut bytes = format!("{sign}{count}\r\n");
            if has_second {
                bytes.push_str(&format!("${length}\r\nabc\r\n"));
            }
            bytes.into_bytes()
        },
    )
}

/// What is done to the whole of it.
#[derive(Clone, Debug)]
enum Harm {
    None,
    Cut(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        2 => Just(Harm::None),
        1 => any::<prop::sample::Index>().prop_map(Harm::Cut),
        1 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Harm::Flip(at, byte)),
        1 => (any::<prop::sample::Index>(), vec(any::<u8>(), 1..4)).prop_map(|(at, bytes)| Harm::Insert(at, bytes)),
        1 => (any::<prop::sample::Index>(), 1..6_usize).prop_map(|(at, count)| Harm::Remove(at, count)),
    ]
}

fn harmed(mut bytes: Vec<u8>, harm: Harm) -> Vec<u8> {
    if bytes.is_empty() {
        return bytes;
    }
    match harm {
        Harm::None => {}
        Harm::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Harm::Flip(at, byte) => {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        Harm::Insert(at, more) => {
            let at = at.index(bytes.len());
            bytes.splice(at..at, more);
        }
        Harm::Remove(at, count) => {
            let at = at.index(bytes.len());
            bytes.drain(at..(at + count).min(bytes.len()));
        }
    }
    bytes
}

/// All that one client sends, and where it stops to breathe.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) bytes: Vec<u8>,
    pub(super) splits: Vec<usize>,
}

impl Sent {
    /// The writes.
    pub(super) fn writes(&self) -> Vec<&[u8]> {
        let (mut writes, mut from) = (Vec::new(), 0);
        for split in self.splits.iter().copied().chain([self.bytes.len()]) {
            writes.push(&self.bytes[from..split.max(from)]);
            from = split.max(from);
        }
        writes
    }
}

/// What clients send.
pub(super) fn sent() -> impl Strategy<Value = Sent> {
    (vec(piece(), 1..8), harm(), vec(any::<prop::sample::Index>(), 0..4)).prop_map(|(pieces, harm, splits)| {
        let bytes = harmed(pieces.concat(), harm);
        let mut splits: Vec<usize> = splits.iter().map(|at| at.index(bytes.len() + 1)).collect();
        splits.sort_unstable();
        Sent { bytes, splits }
    })
}

fn encoded(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
