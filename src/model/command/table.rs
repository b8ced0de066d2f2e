//! The command table of the very server behind us, read from its `COMMAND`: who writes, and where the keys stand.

use std::collections::HashMap;

use crate::model::command::Command;
use crate::model::reply::Reply;

/// What the server says of one command.
#[derive(Clone, Debug, Default)]
pub struct Info {
    arity: i64,
    is_write: bool,
    is_blocking: bool,
    is_plain: bool,
    first_key: i64,
    last_key: i64,
    step: i64,
}

/// How a command stands to its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may change its keys.
    Write,
    /// It changes nothing.
    Read,
}

/// What a door does with a command before it looks at keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Goes to the engine.
    Data(Access),
    /// Blocks until data comes (BLPOP ...), and writes when it does.
    Blocking,
    /// Belongs to a connection (MULTI, SUBSCRIBE, SELECT ...), which a request over HTTP has not.
    Connection,
    /// Acts on the server or on all of its data at once (FLUSHALL, SHUTDOWN, CONFIG SET ...).
    Administrative,
    /// Asks the server about itself, or tends it, and leaves the data alone (CONFIG GET, SLOWLOG, BGSAVE ...).
    Server,
    /// Not in the server's table.
    Unknown,
}

/// Bytes of the longest name of a command that is looked for.
const NAME_BYTES_MAX: usize = 32;

impl Info {
    /// The positions of its keys among `count` arguments and how it stands to them, where the table alone can tell; `None`
    /// when the arguments must be read.
    #[must_use]
    pub fn plain(&self, count: usize) -> Option<(Access, std::iter::StepBy<std::ops::Range<usize>>)> {
        if !self.is_plain {
            return None;
        }
        let access = if self.is_write { Access::Write } else { Access::Read };
        let (range, step) = span(self, count);
        Some((access, range.step_by(step)))
    }

    /// Whether it may have so many arguments, its name included.
    #[must_use]
    pub fn takes(&self, count: usize) -> bool {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        if self.arity < 0 { count >= -self.arity } else { count == self.arity }
    }
}

/// The server's command table. Limits: none of its own; the server has about 240 commands.
#[derive(Clone, Debug, Default)]
pub struct Table {
    commands: HashMap<String, Info>,
}

const CONNECTION: [&str; 24] = [
    "MULTI",
    "EXEC",
    "DISCARD",
    "WATCH",
    "UNWATCH",
    "SUBSCRIBE",
    "PSUBSCRIBE",
    "SSUBSCRIBE",
    "UNSUBSCRIBE",
    "PUNSUBSCRIBE",
    "SUNSUBSCRIBE",
    "SELECT",
    "AUTH",
    "HELLO",
    "RESET",
    "QUIT",
    "CLIENT",
    "MONITOR",
    "SYNC",
    "PSYNC",
    "REPLCONF",
    "ASKING",
    "READONLY",
    "READWRITE",
];
const ADMINISTRATIVE: [&str; 12] = [
    "FLUSHALL",
    "FLUSHDB",
    "SWAPDB",
    "SHUTDOWN",
    "REPLICAOF",
    "SLAVEOF",
    "DEBUG",
    "FAILOVER",
    "MIGRATE",
    "PFDEBUG",
    "RESTORE-ASKING",
    "MOVE",
];
const SERVER: [&str; 9] =
    ["CONFIG", "SAVE", "BGSAVE", "BGREWRITEAOF", "CLUSTER", "ACL", "MODULE", "LATENCY", "SLOWLOG"];
/// Commands whose arguments must be read to know their keys or what they do; of all others the table knows it.
const NOT_PLAIN: [&str; 36] = [
    "EVAL",
    "EVALSHA",
    "EVAL_RO",
    "EVALSHA_RO",
    "FCALL",
    "FCALL_RO",
    "SCRIPT",
    "FUNCTION",
    "ZUNIONSTORE",
    "ZINTERSTORE",
    "ZDIFFSTORE",
    "ZUNION",
    "ZINTER",
    "ZDIFF",
    "SINTERCARD",
    "ZINTERCARD",
    "LMPOP",
    "ZMPOP",
    "XREAD",
    "XREADGROUP",
    "SORT",
    "SORT_RO",
    "GEORADIUS",
    "GEORADIUSBYMEMBER",
    "OBJECT",
    "XINFO",
    "XGROUP",
    "MEMORY",
    "SCAN",
    "KEYS",
    "RANDOMKEY",
    "DBSIZE",
    "WAIT",
    "PUBLISH",
    "SPUBLISH",
    "PUBSUB",
];
const CONTAINERS_WITH_KEY: [&str; 4] = ["OBJECT", "XINFO", "XGROUP", "MEMORY"];
/// Commands that write only with their last word: without it they are in the table as writes all the same.
const SCRIPTS: [&str; 3] = ["EVAL", "EVALSHA", "FCALL"];
/// The server calls it a reader, and yet it writes the count that it found into the key's bytes.
const WRITING_READER: &str = "PFCOUNT";

impl Table {
    /// The table that a `COMMAND` reply holds; rows that cannot be read are left out, and so unknown.
    #[must_use]
    pub fn from_reply(reply: &Reply) -> Self {
        let Reply::Array(rows) = reply else {
            return Self::default();
        };
        Self { commands: rows.iter().filter_map(info).collect() }
    }

    /// How many commands the table has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// Whether the table has no command.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// What the server says of the command of this name, in any case.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&Info> {
        let mut upper = [0; NAME_BYTES_MAX];
        let upper = upper.get_mut(..name.len())?;
        upper.copy_from_slice(name);
        upper.make_ascii_uppercase();
        self.commands.get(std::str::from_utf8(upper).ok()?)
    }

    /// What a door does with this command.
    #[must_use]
    pub fn class(&self, command: &Command) -> Class {
        let name = command.name();
        if CONNECTION.contains(&name.as_str()) {
            return Class::Connection;
        }
        if ADMINISTRATIVE.contains(&name.as_str()) {
            return Class::Administrative;
        }
        if SERVER.contains(&name.as_str()) {
            let acts = ["SET", "REWRITE", "LOAD", "LOADEX", "UNLOAD"].iter().any(|word| command.is_word(1, word));
            return if acts { Class::Administrative } else { Class::Server };
        }
        if name == "SCRIPT" && command.is_word(1, "DEBUG") {
            return Class::Connection;
        }
        if (name == "SCRIPT" || name == "FUNCTION") && (command.is_word(1, "FLUSH") || command.is_word(1, "KILL")) {
            return Class::Server;
        }
        let Some(info) = self.commands.get(&name) else {
            return Class::Unknown;
        };
        let is_blocking = info.is_blocking && (!name.starts_with("XREAD") || command.has_word(1, "BLOCK"));
        if is_blocking && name != "WAIT" && name != "WAITAOF" {
            return Class::Blocking;
        }
        let is_script = SCRIPTS.contains(&name.as_str());
        let is_group_write = name == "XGROUP" || name == "XREADGROUP";
        if info.is_write || is_script || is_group_write {
            Class::Data(Access::Write)
        } else {
            Class::Data(Access::Read)
        }
    }

    /// Whether the command has as many arguments as the server wants. One that has not is refused before it runs, and inside
    /// a transaction would take the others with it.
    #[must_use]
    pub fn fits_arity(&self, command: &Command) -> bool {
        self.commands.get(&command.name()).is_some_and(|info| info.takes(command.0.len()))
    }

    /// The positions of the command's keys among its arguments; empty for a command without keys.
    #[must_use]
    pub fn key_positions(&self, command: &Command) -> Vec<usize> {
        let name = command.name();
        let count = command.0.len();
        match name.as_str() {
            "EVAL" | "EVALSHA" | "EVAL_RO" | "EVALSHA_RO" | "FCALL" | "FCALL_RO" => counted(command, 2),
            "ZUNIONSTORE" | "ZINTERSTORE" | "ZDIFFSTORE" => with_first(command, counted(command, 2)),
            "ZUNION" | "ZINTER" | "ZDIFF" | "SINTERCARD" | "ZINTERCARD" | "LMPOP" | "ZMPOP" => counted(command, 1),
            "BLMPOP" | "BZMPOP" => counted(command, 2),
            "XREAD" | "XREADGROUP" => after_streams(command),
            "SORT" | "SORT_RO" | "GEORADIUS" | "GEORADIUSBYMEMBER" => stored(command),
            _ if CONTAINERS_WITH_KEY.contains(&name.as_str()) => (2..3).filter(|index| *index < count).collect(),
            _ => self.commands.get(&name).map(|info| ranged(info, count)).unwrap_or_default(),
        }
    }
}

fn info(row: &Reply) -> Option<(String, Info)> {
    let Reply::Array(parts) = row else { return None };
    let Reply::Bulk(name) = parts.first()? else { return None };
    let flags: Vec<String> = parts.get(2)?.as_array()?.iter().filter_map(word).collect();
    let number = |index: usize| parts.get(index).and_then(Reply::integer).unwrap_or(0);
    let has = |flag: &str| flags.iter().any(|word| word == flag);
    let name = String::from_utf8_lossy(name).to_ascii_uppercase();
    let is_special =
        [&CONNECTION[..], &ADMINISTRATIVE, &SERVER, &NOT_PLAIN].iter().any(|list| list.contains(&name.as_str()));
    let has_keys = number(3) > 0;
    let info = Info {
        arity: number(1),
        is_write: has("write") || name == WRITING_READER,
        is_blocking: has("blocking"),
        // A write without a key, and what has keys that only its arguments tell, are looked at closely.
        is_plain: !is_special && !has("blocking") && !has("movablekeys") && (has_keys || !has("write")),
        first_key: number(3),
        last_key: number(4),
        step: number(5),
    };
    Some((name, info))
}

fn word(reply: &Reply) -> Option<String> {
    if let Reply::Status(text) = reply {
        return Some(text.clone());
    }
    reply.as_bulk().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

fn ranged(info: &Info, count: usize) -> Vec<usize> {
    let (range, step) = span(info, count);
    range.step_by(step).collect()
}

/// Where keys stand among `count` arguments, and the step between them.
fn span(info: &Info, count: usize) -> (std::ops::Range<usize>, usize) {
    let first = usize::try_from(info.first_key).unwrap_or(0);
    let step = usize::try_from(info.step).unwrap_or(1).max(1);
    let last = match usize::try_from(info.last_key) {
        Ok(last) => last,
        Err(_) => count.saturating_sub(usize::try_from(info.last_key.unsigned_abs()).unwrap_or(count)),
    };
    if first == 0 { (0..0, step) } else { (first..(last + 1).min(count), step) }
}

fn counted(command: &Command, at: usize) -> Vec<usize> {
    let keys = command.integer(at).and_then(|number| usize::try_from(number).ok()).unwrap_or(0);
    (at + 1..=at.saturating_add(keys)).filter(|index| *index < command.0.len()).collect()
}

fn with_first(command: &Command, mut keys: Vec<usize>) -> Vec<usize> {
    if command.0.len() > 1 {
        keys.insert(0, 1);
    }
    keys
}

fn after_streams(command: &Command) -> Vec<usize> {
    let Some(streams) = (1..command.0.len()).find(|index| command.is_word(*index, "STREAMS")) else {
        return Vec::new();
    };
    let rest = command.0.len() - streams - 1;
    (streams + 1..=streams + rest / 2).collect()
}

fn stored(command: &Command) -> Vec<usize> {
    let is_store = |index: &usize| command.is_word(*index, "STORE") || command.is_word(*index, "STOREDIST");
    let target = (2..command.0.len()).filter(is_store).map(|index| index + 1).filter(|index| *index < command.0.len());
    (1..2).filter(|index| *index < command.0.len()).chain(target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let row = |name: &str, flags: &[&str], first, last, step| {
            Reply::Array(vec![
                Reply::bulk(name.to_owned()),
                Reply::Integer(-2),
                Reply::Array(flags.iter().map(|flag| Reply::Status((*flag).to_owned())).collect()),
                Reply::Integer(first),
                Reply::Integer(last),
                Reply::Integer(step),
            ])
        };
        Table::from_reply(&Reply::Array(vec![
            row("get", &["readonly"], 1, 1, 1),
            row("mset", &["write"], 1, -1, 2),
            row("blpop", &["write", "blocking"], 1, -2, 1),
            row("eval", &["noscript"], 0, 0, 0),
            row("zinterstore", &["write"], 1, 1, 1),
            row("xread", &["readonly", "blocking"], 0, 0, 0),
            row("sort", &["write"], 1, 1, 1),
            row("pfcount", &["readonly"], 1, -1, 1),
        ]))
    }

    fn command(line: &str) -> Command {
        Command::new(line.split(' ').map(|part| part.as_bytes().to_vec()))
    }

    #[test]
    fn keys_stand_where_the_server_says() {
        let table = table();
        let keys = |line: &str| table.key_positions(&command(line));
        assert_eq!(keys("GET a"), [1]);
        assert_eq!(keys("MSET a 1 b 2"), [1, 3]);
        assert_eq!(keys("BLPOP a b 0"), [1, 2]);
        assert_eq!(keys("EVAL text 2 a b c"), [3, 4]);
        assert_eq!(keys("EVAL text 0 c"), Vec::<usize>::new());
        assert_eq!(keys("EVAL text 99999999999999999999 a"), Vec::<usize>::new());
        assert_eq!(keys("ZINTERSTORE d 2 a b WEIGHTS 0 1"), [1, 3, 4]);
        assert_eq!(keys("XREAD COUNT 1 STREAMS a b 0 0"), [4, 5]);
        assert_eq!(keys("SORT a BY w_* STORE d"), [1, 5]);
        assert_eq!(keys("OBJECT ENCODING a"), [2]);
    }

    #[test]
    fn a_class_says_what_a_door_does() {
        let table = table();
        let class = |line: &str| table.class(&command(line));
        assert_eq!(class("get a"), Class::Data(Access::Read));
        assert_eq!(class("EVAL x 0"), Class::Data(Access::Write));
        assert_eq!(class("PFCOUNT a"), Class::Data(Access::Write));
        assert_eq!(class("BLPOP a 0"), Class::Blocking);
        assert_eq!(class("XREAD STREAMS a 0"), Class::Data(Access::Read));
        assert_eq!(class("XREAD BLOCK 0 STREAMS a 0"), Class::Blocking);
        assert_eq!(class("FlushAll"), Class::Administrative);
        assert_eq!(class("MULTI"), Class::Connection);
        assert_eq!(class("NOSUCH a"), Class::Unknown);
    }
}
