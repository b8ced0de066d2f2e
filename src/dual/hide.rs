//! Keys and channels of our own are invisible: who may not name them, and what lists them is answered without them.
//!
//! What cannot be seen from outside is a script that spells such a key in pieces: whoever may run scripts of his own may
//! read all of Redis.

use crate::dual::subscribe::Message;
use crate::dual::{Refusal, RefusalCause};
use crate::model::command::Command;
use crate::model::frame::{Frame, Protocol};
use crate::model::key::CONTROL_PREFIX;
use crate::model::reply::Reply;
use crate::stores::redis::script;

/// Why what is ours is refused.
pub(super) const CLOSED: &str = "keys and channels that begin with `parallax:` are closed";

/// The refusal of what is ours.
pub(super) fn closed() -> Refusal {
    Refusal { cause: RefusalCause::ControlKey, message: CLOSED.to_owned() }
}

/// Whether a channel, or a pattern of channels, can only be ours. On ours sidecars tell each other of changed flags.
pub(super) fn is_control_channel(name: &[u8]) -> bool {
    name.starts_with(CONTROL_PREFIX)
}

/// Whether a message would show what is ours: it came over a channel of ours, or it is Redis' notification about a key of
/// ours, which has the key in the name of its channel (`__keyspace@0__:`) or as its payload (`__keyevent@0__:`).
pub(super) fn shows_ours(message: &Message) -> bool {
    let channel: &[u8] = &message.channel;
    let key_of_channel = || {
        let rest = channel.strip_prefix(b"__keyspace@")?;
        rest.iter().position(|byte| *byte == b':').and_then(|at| rest.get(at + 1..))
    };
    is_control_channel(channel)
        || key_of_channel().is_some_and(|key| key.starts_with(CONTROL_PREFIX))
        || (channel.starts_with(b"__keyevent@") && message.payload.starts_with(CONTROL_PREFIX))
}

/// Whether a frame that Redis sends unasked is a message that would show what is ours.
pub(super) fn is_message_of_ours(reply: &Reply) -> bool {
    let (Reply::Array(parts) | Reply::Push(parts)) = reply else { return false };
    let part = |index: usize| parts.get(index).and_then(Reply::as_bulk).cloned().unwrap_or_default();
    let (channel, payload) = match part(0).as_ref() {
        b"message" | b"smessage" => (part(1), part(2)),
        b"pmessage" => (part(2), part(3)),
        _ => return false,
    };
    shows_ours(&Message { pattern: None, channel, payload })
}

/// Whether a command names what is ours where no key stands: channels, keys that a script or a pattern of SORT reaches.
pub(super) fn names_control_keys(name: &str, command: &Command) -> bool {
    let contains = |arg: &bytes::Bytes| arg.windows(CONTROL_PREFIX.len()).any(|window| window == CONTROL_PREFIX);
    match name {
        "EVAL" | "EVALSHA" | "EVAL_RO" | "EVALSHA_RO" | "FCALL" | "FCALL_RO" | "SCRIPT" | "FUNCTION" => {
            command.0.iter().skip(1).any(contains)
        }
        "SORT" | "SORT_RO" => {
            let is_pattern = |index: &usize| command.is_word(index - 1, "GET") || command.is_word(index - 1, "BY");
            (2..command.0.len()).filter(is_pattern).filter_map(|index| command.arg(index)).any(|arg| may_expand(arg))
        }
        "PUBLISH" | "SPUBLISH" | "PUBSUB" | "SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE" => {
            command.0.iter().skip(1).any(|arg| is_control_channel(arg))
        }
        _ => false,
    }
}

/// Whether a pattern of SORT can become one of our keys, whatever stands for its first `*`.
fn may_expand(pattern: &[u8]) -> bool {
    match pattern.iter().position(|byte| *byte == b'*').map(|at| pattern.split_at(at)) {
        Some((head, _)) => CONTROL_PREFIX.starts_with(head) || head.starts_with(CONTROL_PREFIX),
        None => pattern.starts_with(CONTROL_PREFIX),
    }
}

/// What is sent to Redis in the place of a command that would show our keys in a way that its reply no longer tells.
pub(super) fn in_place_of(name: &str, command: Command) -> Command {
    match name {
        "RANDOMKEY" => script::RANDOMKEY.eval(&[], &[]),
        "DBSIZE" => script::DBSIZE.eval(&[], &[]),
        _ => command,
    }
}

/// Whether the command shows keys that it does not name.
pub(super) fn shows_keys(name: &str) -> bool {
    matches!(name, "SCAN" | "KEYS" | "RANDOMKEY" | "DBSIZE" | "PUBSUB")
}

/// Whether the reply is a list of keys or of channels.
pub(super) fn lists_keys(command: &Command) -> bool {
    match command.name().as_str() {
        "SCAN" | "KEYS" => true,
        "PUBSUB" => command.is_word(1, "CHANNELS") || command.is_word(1, "SHARDCHANNELS"),
        _ => false,
    }
}

/// A list of keys without ours, where one of them is in it.
pub(super) fn shown(frame: Frame, protocol: Protocol) -> Frame {
    let has_ours = frame.bytes().windows(CONTROL_PREFIX.len()).any(|window| window == CONTROL_PREFIX);
    if has_ours { Frame::of(&without_ours(frame.decode()), protocol) } else { frame }
}

/// A list of keys without ours. The cursor before it is a number and stays.
fn without_ours(reply: Reply) -> Reply {
    let is_ours = |reply: &Reply| matches!(reply, Reply::Bulk(key) if key.starts_with(CONTROL_PREFIX));
    let Reply::Array(items) = reply else { return reply };
    Reply::Array(items.into_iter().filter(|item| !is_ours(item)).map(without_ours).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(line: &str) -> bool {
        let command = Command::new(line.split(' ').map(|part| part.as_bytes().to_vec()));
        names_control_keys(&command.name(), &command)
    }

    #[test]
    fn a_pattern_that_may_become_a_key_of_ours_names_it() {
        for line in
            ["SORT s BY nosort GET *", "SORT s GET par*", "SORT s BY parallax:*->x", "SORT_RO s GET parallax:clock"]
        {
            assert!(names(line), "{line}");
        }
        for line in
            ["SORT s BY weight_* GET object_*->f GET #", "SORT s BY nosort LIMIT 0 5", "SORT s", "EVAL x 0 parallax"]
        {
            assert!(!names(line), "{line}");
        }
    }

    #[test]
    fn a_script_that_is_only_loaded_is_read_too() {
        assert!(names("SCRIPT LOAD redis.call('GET','parallax:clock')"));
        assert!(names("EVAL x 1 k parallax:clock"));
        assert!(!names("SCRIPT LOAD x"));
    }

    #[test]
    fn our_channels_can_be_named_by_nobody_and_are_not_listed() {
        for line in ["PUBLISH parallax:flags:changed 1", "SPUBLISH parallax:x 1", "PUBSUB NUMSUB a parallax:x"] {
            assert!(names(line), "{line}");
        }
        for line in ["PUBLISH a parallax", "PUBSUB CHANNELS", "PUBSUB CHANNELS par*", "PUBSUB NUMPAT"] {
            assert!(!names(line), "{line}");
        }
        let lists = |line: &str| lists_keys(&Command::new(line.split(' ').map(|part| part.as_bytes().to_vec())));
        assert!(lists("pubsub channels") && lists("SCAN 0") && !lists("PUBSUB NUMSUB a") && !lists("GET a"));
    }

    #[test]
    fn a_message_about_ours_is_known_by_its_channel_or_as_a_notification() {
        let shows = |channel: &'static str, payload: &'static str| {
            shows_ours(&Message { pattern: None, channel: channel.into(), payload: payload.into() })
        };
        assert!(shows("parallax:flags:changed", "7"));
        assert!(shows("__keyspace@0__:parallax:outbox", "hset"));
        assert!(shows("__keyevent@15__:hset", "parallax:outbox"));
        assert!(!shows("news", "parallax:outbox"), "what people write to each other is theirs");
        let frame = |parts: [&'static str; 3]| Reply::Push(parts.map(Reply::bulk).to_vec());
        assert!(is_message_of_ours(&frame(["message", "parallax:flags:changed", "7"])));
        assert!(!is_message_of_ours(&frame(["message", "news", "7"])) && !is_message_of_ours(&Reply::Nil));
        assert!(!shows("__keyspace@0__:a:parallax:outbox", "hset"));
        assert!(!shows("__keyevent@0__:hset", "a"));
    }

    #[test]
    fn a_page_of_a_scan_keeps_its_cursor_and_loses_our_keys() {
        let keys = |names: &[&'static str]| Reply::Array(names.iter().map(|name| Reply::bulk(*name)).collect());
        let page = Reply::Array(vec![Reply::bulk("17"), keys(&["a", "parallax:outbox", "parallaxx"])]);
        assert_eq!(without_ours(page), Reply::Array(vec![Reply::bulk("17"), keys(&["a", "parallaxx"])]));
    }
}
