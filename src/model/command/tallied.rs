//! Which commands are counted to find writes that bypass every sidecar, and which of them a script may call.
//!
//! `INFO commandstats` counts calls by name, those inside scripts among them. Our own scripts call no name of the list, or say
//! that they do (`lua/unwatched.lua`), so that what the server counts of these names is what callers sent.

/// The names, in order.
///
/// What is missing writes as well, and is not watched: names that our own scripts use (HMSET, HDEL, UNLINK, MSET,
/// HSETNX, PEXPIRE, PEXPIREAT, PSETEX, LREM), and blocking ones, which the server counts in its own way.
pub const NAMES: [&str; 60] = [
    "append",
    "bitfield",
    "bitop",
    "copy",
    "decr",
    "decrby",
    "del",
    "expire",
    "expireat",
    "flushall",
    "flushdb",
    "geoadd",
    "geosearchstore",
    "getdel",
    "getex",
    "getset",
    "hincrby",
    "hincrbyfloat",
    "hset",
    "incr",
    "incrby",
    "incrbyfloat",
    "linsert",
    "lmove",
    "lpop",
    "lpush",
    "lpushx",
    "lset",
    "ltrim",
    "move",
    "msetnx",
    "persist",
    "pfadd",
    "pfmerge",
    "rename",
    "renamenx",
    "restore",
    "rpop",
    "rpoplpush",
    "rpush",
    "rpushx",
    "sadd",
    "sdiffstore",
    "set",
    "setbit",
    "setex",
    "setnx",
    "setrange",
    "sinterstore",
    "smove",
    "spop",
    "srem",
    "sunionstore",
    "xadd",
    "xdel",
    "xtrim",
    "zadd",
    "zincrby",
    "zrem",
    "zremrangebyscore",
];

/// The place of a name in the list, whatever its case.
#[must_use]
pub fn place(name: &[u8]) -> Option<usize> {
    const LONGEST: usize = 16;
    let mut lower = [0; LONGEST];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    NAMES.binary_search_by(|known| known.as_bytes().cmp(lower)).ok()
}

/// What a script may call of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Called {
    /// These alone.
    Names(Vec<usize>),
    /// It does not say.
    Any,
}

/// What a script may call, by its text: a name that does not stand there in quotes, behind `redis.call(` or `redis.pcall(`,
/// could be any.
#[must_use]
pub fn called_by(script: &[u8]) -> Called {
    let text = String::from_utf8_lossy(script);
    // Other ways to the same functions; or the table that holds them, handed on or kept under another name.
    let is_handed_on = |behind: &str| behind.is_empty() || behind.starts_with(['[', ';', ',', ')', '}', '\n', '\r']);
    let is_hidden = ["server.", "_G", "loadstring", "= redis ", "=redis "].iter().any(|way| text.contains(way));
    if is_hidden || text.split("redis").skip(1).any(is_handed_on) {
        return Called::Any;
    }
    let mut names = Vec::new();
    for behind in text.split("redis.").skip(1) {
        let Some(rest) = ["call", "pcall"].iter().find_map(|way| behind.strip_prefix(way)) else { continue };
        let Some(quoted) = rest.trim_start().strip_prefix('(').map(str::trim_start) else { return Called::Any };
        let Some(quote) = quoted.chars().next().filter(|quote| ['\'', '"'].contains(quote)) else { return Called::Any };
        let Some((name, behind)) = quoted.get(1..).and_then(|name| name.split_once(quote)) else { return Called::Any };
        if !behind.trim_start().starts_with([',', ')']) {
            return Called::Any;
        }
        names.extend(place(name.as_bytes()));
    }
    names.sort_unstable();
    names.dedup();
    Called::Names(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_in_any_case_and_no_other_is() {
        assert!(NAMES.is_sorted());
        for (at, name) in NAMES.iter().enumerate() {
            assert_eq!((place(name.as_bytes()), place(name.to_uppercase().as_bytes())), (Some(at), Some(at)));
        }
        assert_eq!((place(b"get"), place(b""), place(b"a-very-long-name-of-a-command")), (None, None, None));
    }

    #[test]
    fn a_script_tells_by_its_text_what_it_may_call() {
        let names = |text: &str| match called_by(text.as_bytes()) {
            Called::Names(places) => Some(places.into_iter().map(|place| NAMES[place]).collect::<Vec<_>>()),
            Called::Any => None,
        };
        assert_eq!(names("return redis.call('GET', KEYS[1])"), Some(vec![]));
        assert_eq!(
            names("redis.call( \"ZADD\", KEYS[1], 1, 'a') redis.pcall('del',KEYS[1])"),
            Some(vec!["del", "zadd"])
        );
        assert_eq!(names("return redis.sha1hex('')"), Some(vec![]));
        for hidden in [
            "redis.call(ARGV[1], KEYS[1])",
            "local c = redis.call; c('SET', 'a', 1)",
            "redis.call('S' .. 'ET', 'a', 1)",
            "redis['call']('SET', 'a', 1)",
            "server.call('SET', 'a', 1)",
            "local r = redis\nr.call('SET', 'a', 1)",
        ] {
            assert_eq!(names(hidden), None, "{hidden}");
        }
    }
}
