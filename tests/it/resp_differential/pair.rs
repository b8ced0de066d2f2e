//! A bare Redis and another place that must answer as it does: the door, or, to see what two Redises differ in by
//! themselves, a second bare Redis. The same bytes go to both; what comes back is held against each other.

use parallax::dev::servers::{PrivateRedis, RedisOptions};

use super::cases::Case;
use super::excuses::{Fields, LISTPACK_BYTES_MAX, agree};
use super::policy::{self, Place};
use super::wire::{Frame, Heard, Wire, Words, encoded, shown, words};

/// Cases that go out in one write.
const CASES_AT_ONCE: usize = 40;
/// Differences that are told before a run gives up.
const DIFFERENCES_MAX: usize = 40;

/// The version of the protocol that a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Resp2,
    Resp3,
}

/// A Redis whose state can be looked at.
pub(crate) async fn server() -> PrivateRedis {
    let config = vec![("enable-debug-command".to_owned(), "local".to_owned())];
    PrivateRedis::start(RedisOptions { config, ..RedisOptions::default() })
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Where a server listens.
pub(crate) fn address(redis: &PrivateRedis) -> String {
    format!("127.0.0.1:{}", redis.port())
}

/// Two connections that are told the same.
pub(crate) struct Pair {
    addresses: (String, String),
    pub(crate) bare: Wire,
    pub(crate) other: Wire,
    protocol: Protocol,
    /// In which order short hashes stand, after what was told so far.
    fields: Fields,
    policy: policy::Policy,
    /// What stands between a MULTI and its EXEC, so that each reply in it is held against its own command.
    queued: Vec<Words>,
    place: Place,
    /// What was not the same, in words.
    pub(crate) differences: Vec<String>,
    /// Replies that were compared.
    pub(crate) compared: usize,
}

impl Pair {
    pub(crate) async fn connect(bare: &str, other: &str, protocol: Protocol, policy: policy::Policy) -> Self {
        let mut pair = Self {
            bare: Wire::connect(bare).await,
            other: Wire::connect(other).await,
            addresses: (bare.to_owned(), other.to_owned()),
            protocol,
            fields: policy.fields(),
            policy,
            queued: Vec::new(),
            place: Place::Alone,
            differences: Vec::new(),
            compared: 0,
        };
        pair.greet().await;
        pair
    }

    async fn greet(&mut self) {
        if self.protocol == Protocol::Resp3 {
            self.tell(&[words("HELLO 3")]).await;
        }
    }

    /// Runs the cases, many at once.
    pub(crate) async fn run(&mut self, cases: &[Case]) {
        for chunk in cases.chunks(CASES_AT_ONCE) {
            self.fields = self.policy.fields();
            let mut commands = Vec::new();
            for case in chunk {
                commands.extend(case.seeds.iter().cloned());
                commands.push(case.command.clone());
            }
            self.tell(&commands).await;
            if self.differences.len() >= DIFFERENCES_MAX {
                return;
            }
        }
    }

    /// Sends commands to both in one write each, and compares a reply for each of them. What the door refuses is not told
    /// to the bare Redis, which would do it.
    pub(crate) async fn tell(&mut self, commands: &[Words]) {
        let refused: Vec<bool> = commands.iter().map(|command| self.refuses(command)).collect();
        let allowed = commands.iter().zip(&refused).filter(|(_, refused)| !**refused);
        let to_bare: Vec<u8> = allowed.flat_map(|(command, _)| encoded(command)).collect();
        let to_other: Vec<u8> = commands.iter().flat_map(|command| encoded(command)).collect();
        tokio::join!(self.bare.send(&to_bare), self.other.send(&to_other));
        for (command, refused) in commands.iter().zip(refused) {
            let heard = self.other.hear().await;
            if refused {
                if !matches!(&heard, Heard::Frame(frame, _) if frame.is_error("PARALLAX ")) {
                    self.differ(command, "a refusal", &heard);
                }
                continue;
            }
            let expected = self.bare.hear().await;
            self.compared += 1;
            self.note_queue(command, &expected);
            self.note_length(command, &expected);
            if !self.same(command, &expected, &heard) {
                self.differ(command, &text(&expected), &heard);
            }
            if !matches!((&expected, &heard), (Heard::Frame(..), Heard::Frame(..))) {
                // Nothing that follows can be told apart any more.
                self.reconnect().await;
                return;
            }
        }
    }

    /// Whether the door refuses this, which is sent next.
    fn refuses(&mut self, command: &Words) -> bool {
        let is = |names: &[&str]| names.iter().any(|name| command[0].eq_ignore_ascii_case(name.as_bytes()));
        if is(&["SELECT"]) {
            self.place =
                if command.get(1).is_some_and(|word| word.as_ref() == b"1") { Place::Elsewhere } else { Place::Alone };
        } else if is(&["MULTI"]) && self.place == Place::Alone {
            self.place = Place::Queued;
        } else if is(&["EXEC", "DISCARD", "RESET"]) && self.place == Place::Queued {
            self.place = Place::Alone;
        }
        self.policy.refuses(command, self.place)
    }

    /// Keeps what was queued until the command after the one that ends its transaction.
    fn note_queue(&mut self, command: &Words, expected: &Heard) {
        match expected {
            Heard::Frame(Frame::Line(b'+', text), _) if text.as_ref() == b"QUEUED" => self.queued.push(command.clone()),
            Heard::Frame(..) if command[0].eq_ignore_ascii_case(b"EXEC") => {}
            Heard::Frame(..) | Heard::Nonsense(_) | Heard::Closed | Heard::Silence => {
                // An error leaves the transaction as it is.
                if !matches!(expected, Heard::Frame(frame, _) if frame.is_error("")) {
                    self.queued.clear();
                }
            }
        }
    }

    /// What is long makes a hash table of the hash that it is put into.
    fn note_length(&mut self, command: &Words, expected: &Heard) {
        let is_answered_long = matches!(expected, Heard::Frame(frame, _) if frame.holds_longer(LISTPACK_BYTES_MAX));
        if is_answered_long || command.iter().any(|word| word.len() > LISTPACK_BYTES_MAX) {
            self.fields = Fields::InAnyOrder;
        }
    }

    fn same(&self, command: &Words, expected: &Heard, heard: &Heard) -> bool {
        match (expected, heard) {
            (Heard::Frame(one, bytes), Heard::Frame(other, other_bytes)) if bytes != other_bytes => {
                let is_exec = command[0].eq_ignore_ascii_case(b"EXEC");
                match (one, other) {
                    (Frame::Many(b'*', Some(ones)), Frame::Many(b'*', Some(others))) if is_exec => {
                        let pairs = ones.iter().zip(others).zip(&self.queued);
                        ones.len() == others.len()
                            && pairs.into_iter().all(|((one, other), command)| agree(command, one, other, self.fields))
                    }
                    (Frame::Many(..) | Frame::Line(..) | Frame::Blob(..), _) => agree(command, one, other, self.fields),
                }
            }
            (Heard::Frame(..) | Heard::Nonsense(_) | Heard::Closed | Heard::Silence, _) => expected == heard,
        }
    }

    fn differ(&mut self, command: &Words, expected: &str, heard: &Heard) {
        let difference = format!("{:.200}\n    redis {expected:.300}\n    door  {:.300}", shown(command), text(heard));
        self.differences.push(difference);
    }

    async fn reconnect(&mut self) {
        self.bare = Wire::connect(&self.addresses.0).await;
        self.other = Wire::connect(&self.addresses.1).await;
        Box::pin(self.greet()).await;
    }

    /// Panics when anything was not the same.
    pub(crate) fn judge(self, what: &str) -> usize {
        let told = self.differences.join("\n  ");
        assert!(self.differences.is_empty(), "{what}: {} differences\n  {told}", self.differences.len());
        self.compared
    }
}

/// What was heard, for a person to read.
pub(crate) fn text(heard: &Heard) -> String {
    match heard {
        Heard::Frame(_, bytes) => bytes.escape_ascii().to_string(),
        Heard::Nonsense(bytes) => format!("no frame: {}", bytes.escape_ascii()),
        Heard::Closed => "closed".to_owned(),
        Heard::Silence => "silence".to_owned(),
    }
}
