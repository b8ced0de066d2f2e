//! What the door refuses, as a closed table: what acts on the server behind everybody's back, and what would block while
//! it writes a mirrored record. Everything else it does as Redis does.

use super::cases::Family;
use super::excuses::Fields;
use super::wire::Words;

/// Who stands on the other side, and so what it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Another bare Redis: nothing.
    Bare,
    /// The door, with nothing mirrored.
    Off,
    /// The door, while writes are mirrored.
    Mirrored,
    /// The door, while reads are answered by Postgres too.
    Live,
}

/// Where a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Between MULTI and EXEC.
    Queued,
    /// In another database, where nothing is mirrored.
    Elsewhere,
    /// Anywhere else.
    Alone,
}

/// What the door refuses while anything is mirrored, each in a form that Redis would do.
pub(crate) const REFUSED: &[&str] = &[
    "FLUSHALL",
    "FLUSHDB",
    "FLUSHDB ASYNC",
    "SWAPDB 0 1",
    "SHUTDOWN NOSAVE",
    "DEBUG JMAP",
    "REPLICAOF NO ONE",
    "SLAVEOF NO ONE",
    "CONFIG SET maxmemory 0",
    "CONFIG REWRITE",
    // Replaces the users, or code of the server.
    "ACL LOAD",
    "MODULE LOAD nosuch",
    "MODULE LOADEX nosuch",
    "MODULE UNLOAD nosuch",
    // Another server writes afterwards, or keys go to one.
    "FAILOVER ABORT",
    "MIGRATE 127.0.0.1 1 nobody 0 50",
    // A key leaves the database, and may come into it from another one.
    "MOVE user:kept 1",
    // Writes past every rule, for the tests of Redis itself and for clusters.
    "PFDEBUG ENCODING user:kept",
    "RESTORE-ASKING user:kept 0 nonsense",
];

/// The first words of `REFUSED` that stand for their subcommand alone.
const CONTAINERS: &[&str] = &["CONFIG", "ACL", "MODULE"];

/// What blocks, and writes when it does.
const BLOCKING: &[&str] = &["BLPOP", "BRPOP", "BLMOVE", "BRPOPLPUSH", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP"];

impl Policy {
    pub(crate) fn fields(self) -> Fields {
        match self {
            Self::Bare | Self::Off | Self::Mirrored => Fields::AsWritten,
            Self::Live => Fields::InAnyOrder,
        }
    }

    /// Whether the command is answered with an error of the door's own.
    pub(crate) fn refuses(self, command: &Words, place: Place) -> bool {
        match self {
            Self::Bare | Self::Off => false,
            Self::Mirrored | Self::Live => {
                // Between MULTI and EXEC nothing blocks.
                is_refused(command) || (place == Place::Alone && blocks_a_mirrored_key(command))
            }
        }
    }
}

fn name_of(command: &Words, count: usize) -> String {
    let words = command.iter().take(count).map(|word| String::from_utf8_lossy(word).to_ascii_uppercase());
    words.collect::<Vec<_>>().join(" ")
}

/// Whether the command acts on the server, and not on what it names alone.
pub(crate) fn is_refused(command: &Words) -> bool {
    let count = if CONTAINERS.contains(&name_of(command, 1).as_str()) { 2 } else { 1 };
    let name = name_of(command, count);
    let first = |line: &str| line.split(' ').take(count).collect::<Vec<_>>().join(" ");
    REFUSED.iter().any(|line| first(line) == name)
}

fn blocks_a_mirrored_key(command: &Words) -> bool {
    let name = name_of(command, 1);
    let blocks_a_group = name == "XREADGROUP" && command.iter().any(|word| word.eq_ignore_ascii_case(b"BLOCK"));
    let is_mirrored = |word: &bytes::Bytes| {
        let families = Family::ALL.into_iter().filter(|family| family.is_mirrored());
        let mut heads = families.map(|family| family.key("k"));
        heads.any(|key| word.starts_with(key.trim_end_matches('k').as_bytes()))
    };
    (BLOCKING.contains(&name.as_str()) || blocks_a_group) && command.iter().skip(1).any(is_mirrored)
}
