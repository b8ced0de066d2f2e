//! What a write leaves behind, told from its arguments alone: rule W2 (is the key surely there afterwards?) and
//! rule W3 (which elements were touched?).

use bytes::Bytes;

use crate::model::command::Command;
use crate::model::key::Key;

/// Whether a key is there after the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The key is there, whatever was before.
    Sure,
    /// The command deletes the key by name (DEL, UNLINK): the gone bit is set.
    Deleted,
    /// It may or may not be there: only a look before and after can tell.
    Unsure,
}

/// The end of a list at which entries are pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// LPUSH.
    Left,
    /// RPUSH.
    Right,
}

/// What of a collection or a log was touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// The whole of it, or nobody knows what.
    Whole,
    /// Only what belongs to the key: its expiry, or what a trim took.
    Header,
    /// These fields, members or stream entries.
    Elements(Vec<Bytes>),
    /// Entries were appended to a stream.
    Appended,
    /// `count` entries were pushed to a list; `creates` is false for the X forms.
    Pushed {
        /// Which end.
        end: End,
        /// How many.
        count: usize,
        /// Whether the push makes a list that was not there.
        creates: bool,
    },
    /// A list was rewritten in its middle, so that the places of its entries no longer tell their ids (G2).
    Rewritten,
}

/// What a command does to one of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touch {
    /// The key.
    pub key: Key,
    /// Whether it is there afterwards.
    pub presence: Presence,
    /// What of it was touched.
    pub touched: Touched,
}

/// What `command` does to its keys, which stand at `positions`. A command that is not known by name may do anything to each of them.
#[must_use]
pub fn touches(command: &Command, positions: &[usize]) -> Vec<Touch> {
    let name = command.name();
    let key = |index: &usize| command.arg(*index).map(|key| Key::new(key.clone()));
    let all = |presence, touched: &Touched| {
        let touch = |key| Touch { key, presence, touched: touched.clone() };
        positions.iter().filter_map(key).map(touch).collect::<Vec<_>>()
    };
    match name.as_str() {
        "DEL" | "UNLINK" => all(Presence::Deleted, &Touched::Whole),
        // It fails when the source is absent, and then it has deleted nothing.
        "RENAME" => two_keys(command, (Presence::Unsure, Touched::Whole), (Presence::Unsure, Touched::Whole)),
        "SMOVE" => {
            let member = Touched::Elements(command.arg(3).cloned().into_iter().collect());
            two_keys(command, (Presence::Unsure, member.clone()), (Presence::Unsure, member))
        }
        "COPY" => only(command, 2, Presence::Unsure, Touched::Whole),
        "SORT" | "GEORADIUS" | "GEORADIUSBYMEMBER" => {
            positions.iter().skip(1).filter_map(key).map(|key| whole(key, Presence::Unsure)).collect()
        }
        "ZUNIONSTORE" | "ZINTERSTORE" | "ZDIFFSTORE" | "SUNIONSTORE" | "SINTERSTORE" | "SDIFFSTORE" | "ZRANGESTORE"
        | "GEOSEARCHSTORE" | "PFMERGE" => only(command, 1, Presence::Unsure, Touched::Whole),
        "BITOP" => only(command, 2, Presence::Unsure, Touched::Whole),
        "MSET" if command.0.len() % 2 == 1 => all(Presence::Sure, &Touched::Whole),
        _ => {
            let (presence, touched) = single(&name, command);
            all(presence, &touched)
        }
    }
}

fn whole(key: Key, presence: Presence) -> Touch {
    Touch { key, presence, touched: Touched::Whole }
}

fn only(command: &Command, index: usize, presence: Presence, touched: Touched) -> Vec<Touch> {
    command.arg(index).map(|key| Touch { key: Key::new(key.clone()), presence, touched }).into_iter().collect()
}

fn two_keys(command: &Command, one: (Presence, Touched), two: (Presence, Touched)) -> Vec<Touch> {
    let mut touches = only(command, 1, one.0, one.1);
    touches.extend(only(command, 2, two.0, two.1));
    touches
}

/// Presence and touch of a command with one key (or several that fare alike).
fn single(name: &str, command: &Command) -> (Presence, Touched) {
    let sure_if = |is_sure: bool| if is_sure { Presence::Sure } else { Presence::Unsure };
    let elements =
        |from: usize, step: usize| Touched::Elements(command.0.iter().skip(from).step_by(step).cloned().collect());
    match name {
        "SET" => (sure_if(set_options_are_plain(command)), Touched::Whole),
        "SETNX" | "GETSET" | "INCR" | "DECR" | "PFADD" => (Presence::Sure, Touched::Whole),
        "SETEX" | "PSETEX" => (sure_if(command.integer(2).is_some_and(|ttl| ttl > 0)), Touched::Whole),
        "INCRBY" | "DECRBY" => (sure_if(command.integer(2).is_some()), Touched::Whole),
        "INCRBYFLOAT" => (sure_if(is_number(command, 2)), Touched::Whole),
        "APPEND" => (sure_if(command.arg(2).is_some_and(|text| !text.is_empty())), Touched::Whole),
        "HSET" | "HMSET" => (sure_if(command.0.len() >= 4 && command.0.len().is_multiple_of(2)), elements(2, 2)),
        "HSETNX" => (Presence::Sure, elements(2, 2)),
        "HINCRBY" => (sure_if(command.integer(3).is_some()), elements(2, 2)),
        "HINCRBYFLOAT" => (sure_if(is_number(command, 3)), elements(2, 2)),
        "HDEL" | "SREM" | "ZREM" => (Presence::Unsure, elements(2, 1)),
        "XDEL" => (Presence::Unsure, Touched::Elements(command.0.iter().skip(2).map(entry_id).collect())),
        "SADD" => (Presence::Sure, elements(2, 1)),
        "ZADD" => zadd(command),
        "ZINCRBY" => (sure_if(is_number(command, 2)), elements(3, usize::MAX)),
        "LPUSH" => (Presence::Sure, pushed(command, End::Left, true)),
        "RPUSH" => (Presence::Sure, pushed(command, End::Right, true)),
        "LPUSHX" => (Presence::Unsure, pushed(command, End::Left, false)),
        "RPUSHX" => (Presence::Unsure, pushed(command, End::Right, false)),
        "LSET" | "LINSERT" | "LREM" | "LPOP" | "RPOP" | "LMOVE" | "RPOPLPUSH" | "LMPOP" => {
            (Presence::Unsure, Touched::Rewritten)
        }
        "XADD" => (Presence::Unsure, Touched::Appended),
        "EXPIRE" | "PEXPIRE" | "EXPIREAT" | "PEXPIREAT" | "PERSIST" | "LTRIM" | "XTRIM" | "XGROUP" | "XACK"
        | "XCLAIM" | "XAUTOCLAIM" | "XREADGROUP" => (Presence::Unsure, Touched::Header),
        _ => (Presence::Unsure, Touched::Whole),
    }
}

/// Whether a SET surely sets: it has only options that neither refuse nor end the key. A wrong option or an expiry that is
/// not positive is refused when it runs, and leaves the key as it was.
fn set_options_are_plain(command: &Command) -> bool {
    let mut index = 3;
    while index < command.0.len() {
        let is_ttl = command.is_word(index, "EX") || command.is_word(index, "PX");
        let is_plain = ["NX", "KEEPTTL", "GET"].iter().any(|word| command.is_word(index, word));
        match (is_ttl, is_plain) {
            (true, _) if command.integer(index + 1).is_some_and(|ttl| ttl > 0) => index += 2,
            (false, true) => index += 1,
            (true | false, _) => return false,
        }
    }
    true
}

/// The id of a stream entry with its second half, which a command may leave away where it is 0.
fn entry_id(id: &Bytes) -> Bytes {
    if id.contains(&b'-') { id.clone() } else { [id.as_ref(), b"-0"].concat().into() }
}

fn is_number(command: &Command, index: usize) -> bool {
    let text = command.arg(index).and_then(|arg| std::str::from_utf8(arg).ok());
    text.and_then(|text| text.parse::<f64>().ok()).is_some_and(f64::is_finite)
}

fn pushed(command: &Command, end: End, creates: bool) -> Touched {
    Touched::Pushed { end, count: command.0.len().saturating_sub(2), creates }
}

fn zadd(command: &Command) -> (Presence, Touched) {
    const OPTIONS: [&str; 6] = ["NX", "XX", "GT", "LT", "CH", "INCR"];
    let is_option = |index: usize| OPTIONS.iter().any(|option| command.is_word(index, option));
    let first = (2..command.0.len()).find(|index| !is_option(*index)).unwrap_or(command.0.len());
    let scores_are_numbers = (first..command.0.len()).step_by(2).all(|index| is_number(command, index));
    let options_are_plain = first == 2 || (first == 3 && !command.is_word(2, "XX") && !command.is_word(2, "INCR"));
    let is_sure = scores_are_numbers && options_are_plain && (command.0.len() - first).is_multiple_of(2);
    let members = command.0.iter().skip(first + 1).step_by(2).cloned().collect();
    (if is_sure { Presence::Sure } else { Presence::Unsure }, Touched::Elements(members))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(line: &str) -> (Presence, Touched) {
        let command = Command::new(line.split(' ').map(|part| part.as_bytes().to_vec()));
        let touch = touches(&command, &[1]).remove(0);
        (touch.presence, touch.touched)
    }

    fn elements(names: &[&'static str]) -> Touched {
        Touched::Elements(names.iter().map(|name| Bytes::from_static(name.as_bytes())).collect())
    }

    #[test]
    fn a_command_that_may_do_nothing_is_never_sure() {
        for line in [
            "SET k v XX",
            "SET k v EX 0",
            "SET k v PXAT 1",
            "SETEX k -1 v",
            "INCRBY k x",
            "HINCRBY k f 1.5",
            "EXPIRE k 10",
            "ZADD k XX 1 m",
            "ZADD k nan m",
            "LPUSHX k v",
            "GETDEL k",
            "SPOP k",
            "NOSUCH k",
            "APPEND k ",
            "SET k v FOO",
            "HSET k f",
            "ZADD k 1 m 2",
        ] {
            assert_eq!(touch(line).0, Presence::Unsure, "{line}");
        }
        for line in ["SET k v", "SET k v EX 10 NX", "HSET k f v", "SADD k m", "ZADD k GT 1 m", "LPUSH k v", "INCR k"] {
            assert_eq!(touch(line).0, Presence::Sure, "{line}");
        }
    }

    #[test]
    fn elements_are_named_by_the_command() {
        assert_eq!(touch("HSET k f 1 g 2").1, elements(&["f", "g"]));
        assert_eq!(touch("HINCRBY k f 1").1, elements(&["f"]));
        assert_eq!(touch("ZADD k NX CH 1 a 2 b").1, elements(&["a", "b"]));
        assert_eq!(touch("ZINCRBY k 2 m").1, elements(&["m"]));
        assert_eq!(touch("SREM k a b").1, elements(&["a", "b"]));
        assert_eq!(touch("XDEL k 5 7-1").1, elements(&["5-0", "7-1"]));
        assert_eq!(touch("SPOP k").1, Touched::Whole);
    }

    #[test]
    fn a_rename_may_fail_and_touches_both_keys_whole() {
        let command = Command::new(["RENAME", "a", "b"]);
        let touches = touches(&command, &[1, 2]);
        assert_eq!((touches[0].presence, touches[1].presence), (Presence::Unsure, Presence::Unsure));
    }
}
