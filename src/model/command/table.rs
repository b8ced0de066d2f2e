//! The command table of the very server behind us, read from its `COMMAND`: who writes, and where the keys stand.

use std::collections::HashMap;

use crate::model::command::Command;
use crate::model::command::names::{ADMINISTRATIVE, CONNECTION, NOT_PLAIN, SCRIPTS, SERVER, SORTING, WRITING_READER};
use crate::model::command::spec::{Spec, text};
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
    /// Its arguments tell where the keys stand, not their number alone.
    has_movable_keys: bool,
    /// The server's rules for these; none when they leave keys out.
    rules: Option<Vec<Spec>>,
    /// What its second word may be.
    subcommands: HashMap<String, Info>,
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

    /// What holds for this very command: the row of its second word, where it has one.
    fn of(&self, command: &Command) -> &Self {
        let word = command.arg(1).filter(|_| !self.subcommands.is_empty());
        let word = word.map(|word| String::from_utf8_lossy(word).to_ascii_uppercase());
        word.and_then(|word| self.subcommands.get(&word)).unwrap_or(self)
    }

    fn key_positions(&self, command: &Command) -> Option<Vec<usize>> {
        if !self.has_movable_keys {
            return Some(ranged(self, command.0.len()));
        }
        Some(self.rules.as_ref()?.iter().flat_map(|rule| rule.positions(command)).collect())
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

impl Table {
    /// The table that a `COMMAND` reply holds; rows that cannot be read are left out, and so unknown.
    #[must_use]
    pub fn from_reply(reply: &Reply) -> Self {
        let Reply::Array(rows) = reply else {
            return Self::default();
        };
        Self { commands: rows.iter().filter_map(info).collect() }
    }

    /// The same with one more row of `COMMAND INFO`, under the name that was asked for; `None` when it is no row.
    #[must_use]
    pub fn with(&self, name: &str, row: &Reply) -> Option<Self> {
        let (_, info) = info(row)?;
        let mut commands = self.commands.clone();
        commands.insert(name.to_owned(), info);
        Some(Self { commands })
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
        let Some(info) = self.commands.get(&name).map(|info| info.of(command)) else {
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
        self.commands.get(&command.name()).is_some_and(|info| info.of(command).takes(command.0.len()))
    }

    /// The positions of the command's keys among its arguments; empty for a command without keys, and for one that is not in
    /// the table. `None` when only the server can tell (`COMMAND GETKEYS`).
    #[must_use]
    pub fn key_positions(&self, command: &Command) -> Option<Vec<usize>> {
        let name = command.name();
        if SORTING.contains(&name.as_str()) {
            return Some(stored(command));
        }
        self.commands.get(&name).map_or(Some(Vec::new()), |info| info.of(command).key_positions(command))
    }
}

fn info(row: &Reply) -> Option<(String, Info)> {
    let Reply::Array(parts) = row else { return None };
    let Reply::Bulk(name) = parts.first()? else { return None };
    let flags: Vec<String> = parts.get(2)?.as_array()?.iter().filter_map(text).collect();
    let number = |index: usize| parts.get(index).and_then(Reply::integer).unwrap_or(0);
    let has = |flag: &str| flags.iter().any(|word| word == flag);
    let name = String::from_utf8_lossy(name).to_ascii_uppercase();
    let is_special =
        [&CONNECTION[..], &ADMINISTRATIVE, &SERVER, &NOT_PLAIN].iter().any(|list| list.contains(&name.as_str()));
    let has_keys = number(3) > 0;
    let rows = parts.get(9).and_then(Reply::as_array).unwrap_or_default();
    let second = |(name, info): (String, Info)| Some((name.split_once('|')?.1.to_owned(), info));
    let subcommands: HashMap<String, Info> = rows.iter().filter_map(info).filter_map(second).collect();
    let info = Info {
        arity: number(1),
        is_write: has("write") || name == WRITING_READER,
        is_blocking: has("blocking"),
        // A write without a key, and what has keys that only its arguments tell, are looked at closely.
        is_plain: !is_special
            && !has("blocking")
            && !has("movablekeys")
            && (has_keys || !has("write"))
            && subcommands.is_empty(),
        first_key: number(3),
        last_key: number(4),
        step: number(5),
        has_movable_keys: has("movablekeys"),
        rules: parts.get(8).and_then(Spec::all_of),
        subcommands,
    };
    Some((name, info))
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
            row("eval", &["noscript", "movablekeys"], 0, 0, 0),
            row("xread", &["readonly", "blocking", "movablekeys"], 0, 0, 0),
            Reply::Array(
                (0..9)
                    .map(|part| match part {
                        0 => Reply::bulk("object"),
                        1 => Reply::Integer(-2),
                        _ => Reply::Array(Vec::new()),
                    })
                    .chain([Reply::Array(vec![row("object|encoding", &["readonly"], 2, 2, 1)])])
                    .collect(),
            ),
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
        assert_eq!(keys("GET a"), Some(vec![1]));
        assert_eq!(keys("MSET a 1 b 2"), Some(vec![1, 3]));
        assert_eq!(keys("BLPOP a b 0"), Some(vec![1, 2]));
        assert_eq!(keys("SORT a BY w_* STORE d"), Some(vec![1, 5]));
        assert_eq!(keys("OBJECT encoding a"), Some(vec![2]));
        assert_eq!(keys("OBJECT HELP"), Some(Vec::new()));
        assert_eq!(keys("NOSUCH a"), Some(Vec::new()));
        // Here the row has no rules, and only the server can tell.
        assert_eq!(keys("EVAL text 2 a b c"), None);
    }

    #[test]
    fn a_command_that_was_learned_is_known_by_the_name_it_was_asked_for() {
        let row = Reply::Array(vec![
            Reply::bulk("sort"),
            Reply::Integer(-2),
            Reply::Array(["write", "movablekeys"].map(|flag| Reply::Status(flag.to_owned())).to_vec()),
        ]);
        let table = table().with("MYSORT", &row).expect("a row");
        assert_eq!(table.class(&command("mysort a")), Class::Data(Access::Write));
        assert_eq!(table.key_positions(&command("mysort a")), None);
        assert!(table.with("NOSUCH", &Reply::Nil).is_none());
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
