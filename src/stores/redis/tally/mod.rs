//! What callers' commands came to leave for Redis, by name: so that writes which bypass every sidecar show as the rest of
//! what the server counts.
//!
//! Counted as sent is a command before its bytes leave, and as answered not before its reply came; what Redis has executed
//! lies between the two at any moment. What a caller's script may call is counted under names of its own.

mod lane;
mod words;

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::model::command::tallied::{self, Called, NAMES};
use crate::stores::redis::script;

pub(super) use lane::{Apart, OfLane};

/// Scripts of callers that are remembered, by text and by digest; what a further one calls is not known.
const SCRIPTS_MAX: usize = 512;
/// What each count stands for: a name, the same in a script, any name in a script.
const PLACES: usize = 2 * NAMES.len() + 1;

/// Counts by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts([u64; PLACES]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; PLACES])
    }
}

impl Counts {
    fn add(&mut self, place: usize) {
        if let Some(count) = self.0.get_mut(place) {
            *count += 1;
        }
    }

    fn add_all(&mut self, more: &Self) {
        self.0.iter_mut().zip(more.0).for_each(|(count, more)| *count += more);
    }

    fn called(&mut self, called: &Called) {
        match called {
            Called::Names(places) => places.iter().for_each(|place| self.add(NAMES.len() + place)),
            Called::Any => self.add(PLACES - 1),
        }
    }

    /// What was counted: names, `script` and a name, `script *`.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        let name = |place: usize| match NAMES.get(place) {
            Some(name) => (*name).to_owned(),
            None => in_script(NAMES.get(place - NAMES.len()).copied()),
        };
        self.0.iter().enumerate().filter(|(_, count)| **count > 0).map(|(at, count)| (name(at), *count)).collect()
    }
}

/// How that is counted which a script may have called; of no name, any.
#[must_use]
pub fn in_script(name: Option<&str>) -> String {
    format!("script {}", name.unwrap_or("*"))
}

/// What is known of all ways of callers to one Redis.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// What was sent.
    pub sent: Counts,
    /// What was answered of it.
    pub answered: Counts,
    /// How often a connection ended with commands whose outcome is unknown: these are told as answered.
    pub breaks: u64,
}

/// A way that keeps counts of its own.
pub(super) trait Counting: Send + Sync {
    /// Adds what it has counted.
    fn tell(&self, told: &mut Told);
}

/// Counts what leaves over all ways of callers to one Redis.
pub struct Tally {
    ways: Mutex<Vec<Weak<dyn Counting>>>,
    /// What was counted by ways that are over, and by connections of one client.
    rest: Mutex<(Counts, Counts)>,
    breaks: AtomicU64,
    scripts: Mutex<Scripts>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            ways: Mutex::default(),
            rest: Mutex::default(),
            breaks: AtomicU64::new(0),
            scripts: Mutex::new(Scripts::ours()),
        }
    }
}

impl Tally {
    /// What was counted until now.
    #[must_use]
    pub fn told(&self) -> Told {
        let mut told = Told::default();
        let mut ways = lock(&self.ways);
        ways.retain(|way| way.strong_count() > 0);
        let live: Vec<_> = ways.iter().filter_map(Weak::upgrade).collect();
        drop(ways);
        // Held before the rest is read, and let go after it, so that none is counted twice.
        live.iter().for_each(|way| way.tell(&mut told));
        {
            let rest = lock(&self.rest);
            told.sent.add_all(&rest.0);
            told.answered.add_all(&rest.1);
        }
        told.breaks = self.breaks.load(Ordering::Acquire);
        told
    }

    pub(super) fn also(&self, way: Weak<dyn Counting>) {
        lock(&self.ways).push(way);
    }

    /// A way is over: what it sent is told as answered.
    pub(super) fn over(&self, sent: &Counts) {
        let mut rest = lock(&self.rest);
        rest.0.add_all(sent);
        rest.1.add_all(sent);
    }

    pub(super) fn broke(&self) {
        self.breaks.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts the commands that `bytes` are.
    fn count(&self, bytes: &[u8], counts: &mut Counts) {
        words::commands(bytes, |name, first, second| self.count_one(name, first, second, counts));
    }

    fn count_one(&self, name: &[u8], first: &[u8], second: &[u8], counts: &mut Counts) {
        if let Some(place) = tallied::place(name) {
            return counts.add(place);
        }
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        if is("EVAL") {
            counts.called(&lock(&self.scripts).of_text(first));
        } else if is("EVALSHA") {
            counts.called(&lock(&self.scripts).of_digest(first));
        } else if is("FCALL") {
            counts.called(&Called::Any);
        } else if is("SCRIPT") && first.eq_ignore_ascii_case(b"LOAD") {
            lock(&self.scripts).of_text(second);
        }
    }
}

/// What scripts may call.
struct Scripts {
    texts: HashMap<u64, Called>,
    digests: HashMap<Vec<u8>, Called>,
}

impl Scripts {
    /// Ours call nothing that is watched, or say so where it is looked for.
    fn ours() -> Self {
        let mut ours = Self { texts: HashMap::new(), digests: HashMap::new() };
        script::ALL.iter().for_each(|script| ours.learn(script.text().as_bytes(), &Called::Names(Vec::new())));
        ours
    }

    fn learn(&mut self, text: &[u8], called: &Called) {
        self.texts.insert(hash(text), called.clone());
        let digest = redis::Script::new(&String::from_utf8_lossy(text)).get_hash().to_owned();
        self.digests.insert(digest.into_bytes(), called.clone());
    }

    fn of_text(&mut self, text: &[u8]) -> Called {
        if let Some(known) = self.texts.get(&hash(text)) {
            return known.clone();
        }
        let called = tallied::called_by(text);
        if self.texts.len() < SCRIPTS_MAX {
            self.learn(text, &called);
        }
        called
    }

    fn of_digest(&self, digest: &[u8]) -> Called {
        self.digests.get(&digest.to_ascii_lowercase()).cloned().unwrap_or(Called::Any)
    }
}

fn hash(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// What is counted on a connection that one client has to itself.
pub struct OfWire {
    tally: Arc<Tally>,
    open: Counts,
}

impl OfWire {
    pub(super) fn new(tally: Arc<Tally>) -> Self {
        Self { tally, open: Counts::default() }
    }

    /// Counts commands that are about to leave.
    pub fn send(&mut self, bytes: &[u8]) {
        let mut counts = Counts::default();
        self.tally.count(bytes, &mut counts);
        self.add(&counts);
    }

    /// Counts one command, of which the first words are known.
    pub fn send_begun(&mut self, name: &[u8], first: &[u8], second: &[u8]) {
        let mut counts = Counts::default();
        self.tally.count_one(name, first, second, &mut counts);
        self.add(&counts);
    }

    fn add(&mut self, counts: &Counts) {
        if *counts != Counts::default() {
            self.open.add_all(counts);
            lock(&self.tally.rest).0.add_all(counts);
        }
    }

    /// All that was sent is answered.
    pub fn answer(&mut self) {
        if self.open != Counts::default() {
            lock(&self.tally.rest).1.add_all(&std::mem::take(&mut self.open));
        }
    }
}

impl Drop for OfWire {
    fn drop(&mut self) {
        if self.open != Counts::default() {
            self.tally.broke();
            self.answer();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counts are whole after each statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::model::command::Command;
    use crate::model::frame::encode;

    pub(super) fn bytes(lines: &[&str]) -> BytesMut {
        let mut bytes = BytesMut::new();
        for line in lines {
            encode::command(&mut bytes, &Command::new(line.split(' ').map(|part| part.as_bytes().to_vec())));
        }
        bytes
    }

    fn counted(lines: &[&str]) -> BTreeMap<String, u64> {
        let mut counts = Counts::default();
        Tally::default().count(&bytes(lines), &mut counts);
        counts.by_name()
    }

    pub(super) fn pairs(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
        pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn commands_are_counted_by_name_and_scripts_by_what_they_may_call() {
        let lines = [
            "MULTI",
            "hset k f v",
            "HSET k f *1",
            "GET k",
            "EXEC",
            "EVAL redis.call('ZADD',KEYS[1],1,2) 1 k",
            "FCALL f 0",
        ];
        assert_eq!(counted(&lines), pairs(&[("hset", 2), ("script zadd", 1), ("script *", 1)]));
        let mut counts = Counts::default();
        Tally::default().count(b"SET k v\r\nPING\r\n", &mut counts);
        assert_eq!(counts.by_name(), pairs(&[("set", 1)]));
    }

    #[test]
    fn a_digest_is_known_once_its_text_was_seen() {
        let text = "redis.call('SADD',KEYS[1],1)";
        let digest = redis::Script::new(text).get_hash().to_uppercase();
        let called = format!("EVALSHA {digest} 1 k");
        assert_eq!(counted(&[&called]), pairs(&[("script *", 1)]));
        assert_eq!(counted(&[&format!("SCRIPT LOAD {text}"), &called]), pairs(&[("script sadd", 1)]));
        assert_eq!(counted(&[&format!("EVALSHA {} 0", redis::Script::new(script::ACK.text()).get_hash())]), pairs(&[]));
    }

    #[test]
    fn a_connection_that_ends_before_its_answer_is_a_break() {
        let tally = Arc::new(Tally::default());
        let mut wire = OfWire::new(Arc::clone(&tally));
        wire.send(&bytes(&["DEL k"]));
        assert_eq!((tally.told().sent.by_name(), tally.told().answered.by_name()), (pairs(&[("del", 1)]), pairs(&[])));
        wire.answer();
        assert_eq!((tally.told().answered.by_name(), tally.told().breaks), (pairs(&[("del", 1)]), 0));
        wire.send(&bytes(&["DEL k"]));
        drop(wire);
        assert_eq!((tally.told().answered.by_name(), tally.told().breaks), (pairs(&[("del", 2)]), 1));
    }
}
