//! A look at the whole keyspace of a server, past the door: what each key holds, when it ends, and which marks there are.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use parallax::model::catalog::{Kind, Layout, PushSide};

use super::wire::{Frame, Heard, Wire, encoded, words};

const OUTBOX: &str = "parallax:outbox";
const ELEMENTS: &str = "parallax:elements:";

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    of: String,
    /// A digest that does not depend on the order of hash tables.
    digest: Frame,
    /// Milliseconds since 1970; -1 for never.
    pub(crate) expires_at_ms: i64,
    /// By element: what a hash, set or sorted set holds, and the entries of a stream.
    pub(crate) elements: BTreeMap<Bytes, Bytes>,
    /// Of a stream: its groups, last id and counters.
    more: Option<Frame>,
}

impl State {
    /// Whether a collection of this type is kept by element; another one is captured whole.
    pub(crate) fn is_kept_by_element(&self) -> bool {
        matches!(self.of.as_str(), "hash" | "set" | "zset")
    }

    /// Whether the tables of a kind can hold it.
    pub(crate) fn fits(&self, kind: &Kind) -> bool {
        match (kind.layout, kind.log.map(|log| log.push)) {
            (Layout::Log, Some(PushSide::Stream)) => self.of == "stream",
            (Layout::Log, _) => self.of == "list",
            (Layout::Collection, _) => self.is_kept_by_element(),
            (Layout::Document, _) => true,
        }
    }

    /// Whether its time has passed by now.
    pub(crate) fn has_expired(&self) -> bool {
        (1..=chrono::Utc::now().timestamp_millis()).contains(&self.expires_at_ms)
    }

    /// Whether both hold the same; expiries may be two seconds apart, since they were set relative to now.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let is_near = self.expires_at_ms.abs_diff(other.expires_at_ms) < 2_000;
        self.of == other.of && self.digest == other.digest && is_near
    }
}

/// The marks of the outbox.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// By key: the token.
    pub(crate) tokens: BTreeMap<Bytes, Bytes>,
    /// By key: what is noted beside the mark.
    pub(crate) companions: BTreeMap<Bytes, BTreeSet<Bytes>>,
}

/// A connection that passes the door by.
pub(crate) struct Look(Wire);

impl Look {
    pub(crate) async fn at(address: &str) -> Self {
        Self(Wire::connect(address).await)
    }

    async fn all(&mut self, lines: Vec<Vec<Bytes>>) -> Vec<Frame> {
        let bytes: Vec<u8> = lines.iter().flat_map(|line| encoded(line)).collect();
        self.0.send(&bytes).await;
        let mut replies = Vec::new();
        for line in &lines {
            match self.0.hear().await {
                Heard::Frame(frame, _) => replies.push(frame),
                Heard::Nonsense(_) | Heard::Closed | Heard::Silence => panic!("{}", super::wire::shown(line)),
            }
        }
        replies
    }

    async fn keys(&mut self, pattern: &str) -> Vec<Bytes> {
        let Frame::Many(_, Some(keys)) = self.0.ask(&format!("KEYS {pattern}")).await else { panic!("no keys") };
        keys.iter().map(blob).collect()
    }

    /// Every key but our own.
    pub(crate) async fn states(&mut self) -> BTreeMap<Bytes, State> {
        let mut keys = self.keys("*").await;
        keys.retain(|key| !key.starts_with(b"parallax:"));
        let types = self.all(keys.iter().map(|key| vec!["TYPE".into(), key.clone()]).collect()).await;
        let mut asked = Vec::new();
        let mut spans = Vec::new();
        for (key, of) in keys.iter().zip(&types) {
            let of = line(of);
            let begin = asked.len();
            asked.push(vec!["DEBUG".into(), "DIGEST-VALUE".into(), key.clone()]);
            asked.push(vec!["PEXPIRETIME".into(), key.clone()]);
            let key = key.clone();
            match of.as_str() {
                "hash" => asked.push(vec!["HGETALL".into(), key]),
                "set" => asked.push(vec!["SMEMBERS".into(), key]),
                "zset" => asked.push(vec!["ZRANGE".into(), key, "0".into(), "-1".into(), "WITHSCORES".into()]),
                "stream" => {
                    asked.push(vec!["XRANGE".into(), key.clone(), "-".into(), "+".into()]);
                    asked.push(vec!["XINFO".into(), "STREAM".into(), key, "FULL".into()]);
                }
                _ => {}
            }
            spans.push((of, begin..asked.len()));
        }
        let replies = self.all(asked).await;
        let state = |(of, span): (String, std::ops::Range<usize>)| {
            let replies = &replies[span];
            let Frame::Many(_, Some(digest)) = &replies[0] else { panic!("{:?}", replies[0]) };
            State {
                digest: digest[0].clone(),
                expires_at_ms: line(&replies[1]).parse().unwrap(),
                elements: replies.get(2).map(|all| elements(&of, all)).unwrap_or_default(),
                more: replies.get(3).cloned(),
                of,
            }
        };
        keys.into_iter().zip(spans.into_iter().map(state)).collect()
    }

    /// The marks, all of them.
    pub(crate) async fn marks(&mut self) -> Marks {
        let mut marks = Marks::default();
        let Frame::Many(_, Some(parts)) = self.0.ask(&format!("HGETALL {OUTBOX}")).await else { panic!("no outbox") };
        // The drain goes on reading what it cannot bring over, and marks again what it finds unmarked: that is no write's mark.
        let is_of_a_write =
            |token: &Bytes| !token.rsplit(|byte| *byte == b'-').next().is_some_and(|end| end.starts_with(b"r"));
        let told = parts.chunks(2).map(|pair| (blob(&pair[0]), blob(&pair[1])));
        marks.tokens.extend(told.filter(|(_, token)| is_of_a_write(token)));
        let companions = self.keys(&format!("{ELEMENTS}*")).await;
        let asked = companions.iter().map(|key| vec!["HKEYS".into(), key.clone()]).collect();
        for (key, fields) in companions.iter().zip(self.all(asked).await) {
            let Frame::Many(_, Some(fields)) = fields else { panic!("{fields:?}") };
            let key = key.slice(ELEMENTS.len()..);
            marks.companions.insert(key, fields.iter().map(blob).collect());
        }
        marks
    }

    /// Takes all marks away, so that those of the next command stand alone. Sound only while nothing drains.
    pub(crate) async fn forget_marks(&mut self) {
        let mut command = words(&format!("DEL {OUTBOX}"));
        command.extend(self.keys(&format!("{ELEMENTS}*")).await);
        self.all(vec![command]).await;
    }
}

fn elements(of: &str, all: &Frame) -> BTreeMap<Bytes, Bytes> {
    let Frame::Many(_, Some(items)) = all else { return BTreeMap::new() };
    match of {
        "set" => items.iter().map(|item| (blob(item), Bytes::new())).collect(),
        "stream" => {
            let id = |entry: &Frame| match entry {
                Frame::Many(_, Some(parts)) => blob(&parts[0]),
                Frame::Many(_, None) | Frame::Line(..) | Frame::Blob(..) => panic!("{entry:?}"),
            };
            items.iter().map(|entry| (id(entry), Bytes::new())).collect()
        }
        _ => items.chunks(2).map(|pair| (blob(&pair[0]), blob(&pair[1]))).collect(),
    }
}

fn blob(frame: &Frame) -> Bytes {
    match frame {
        Frame::Blob(_, Some(bytes)) => bytes.clone(),
        Frame::Blob(_, None) | Frame::Line(..) | Frame::Many(..) => panic!("{frame:?}"),
    }
}

fn line(frame: &Frame) -> String {
    match frame {
        Frame::Line(_, text) => String::from_utf8_lossy(text).into_owned(),
        Frame::Blob(..) | Frame::Many(..) => panic!("{frame:?}"),
    }
}
