//! Where the keys of a command stand, by the server's own key specifications (the ninth part of a row of `COMMAND`).

use crate::model::command::Command;
use crate::model::reply::Reply;

/// Where the search for keys begins.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Begin {
    /// At this argument.
    At(usize),
    /// Behind this word, which is looked for from this argument on; from behind where it is negative.
    Behind(String, i64),
}

/// Which arguments from there on are keys.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Find {
    /// Up to the `last` one, counted from the first key or, where it is negative, from the end; of the rest the `limit`th part.
    Range { last: i64, step: usize, limit: usize },
    /// As many as an argument says.
    Counted { count_at: usize, first: usize, step: usize },
}

/// One rule by which keys are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    begin: Begin,
    find: Find,
}

impl Spec {
    /// The rules of a row; `None` when they do not tell of all keys.
    pub(super) fn all_of(reply: &Reply) -> Option<Vec<Self>> {
        let mut specs = Vec::new();
        for spec in reply.as_array()? {
            let flags = member(spec, "flags")?.as_array()?;
            let has = |flag: &str| flags.iter().any(|word| text(word).as_deref() == Some(flag));
            if has("incomplete") {
                return None;
            }
            // Channels and the like are found by the same rules.
            if !has("not_key") {
                specs.push(Self {
                    begin: begin(member(spec, "begin_search")?)?,
                    find: find(member(spec, "find_keys")?)?,
                });
            }
        }
        Some(specs)
    }

    /// The positions of the keys that it finds.
    pub(super) fn positions(&self, command: &Command) -> Vec<usize> {
        let count = command.0.len();
        let Some(first) = self.first(command) else { return Vec::new() };
        let (first, last, step) = match self.find {
            Find::Range { last, step, limit } => {
                let rest = count.saturating_sub(first) / limit.max(1);
                let back = usize::try_from(last.unsigned_abs()).unwrap_or(usize::MAX);
                let last = if last >= 0 { Some(first.saturating_add(back)) } else { (first + rest).checked_sub(back) };
                (first, last, step)
            }
            Find::Counted { count_at, first: offset, step } => {
                let keys = command.integer(first + count_at).and_then(|keys| usize::try_from(keys).ok()).unwrap_or(0);
                let begin = first + offset;
                (begin, keys.checked_sub(1).map(|more| begin.saturating_add(more.saturating_mul(step))), step)
            }
        };
        let Some(last) = last else { return Vec::new() };
        (first..last.saturating_add(1).min(count)).step_by(step).collect()
    }

    fn first(&self, command: &Command) -> Option<usize> {
        let count = command.0.len();
        match &self.begin {
            Begin::At(index) => Some(*index),
            Begin::Behind(word, from) => {
                let is_it = |index: &usize| command.is_word(*index, word);
                let found = match usize::try_from(*from) {
                    Ok(from) => (from..count).find(is_it),
                    Err(_) => {
                        let back = usize::try_from(from.unsigned_abs()).unwrap_or(count);
                        (1..=count.checked_sub(back)?).rev().find(is_it)
                    }
                };
                found.map(|index| index + 1)
            }
        }
    }
}

fn begin(reply: &Reply) -> Option<Begin> {
    let spec = member(reply, "spec")?;
    match text(member(reply, "type")?)?.as_str() {
        "index" => Some(Begin::At(usize::try_from(member(spec, "index")?.integer()?).ok()?)),
        "keyword" => Some(Begin::Behind(text(member(spec, "keyword")?)?, member(spec, "startfrom")?.integer()?)),
        _ => None,
    }
}

fn find(reply: &Reply) -> Option<Find> {
    let spec = member(reply, "spec")?;
    let number = |name: &str| member(spec, name)?.integer();
    let size = |name: &str| usize::try_from(number(name)?).ok();
    let step = || size("keystep").map(|step| step.max(1));
    match text(member(reply, "type")?)?.as_str() {
        "range" => Some(Find::Range { last: number("lastkey")?, step: step()?, limit: size("limit")? }),
        "keynum" => Some(Find::Counted { count_at: size("keynumidx")?, first: size("firstkey")?, step: step()? }),
        _ => None,
    }
}

/// The member of this name of a map, which in RESP2 is a flat array.
fn member<'a>(reply: &'a Reply, name: &str) -> Option<&'a Reply> {
    let is_it = |key: &Reply| text(key).as_deref() == Some(name);
    if let Reply::Map(pairs) = reply {
        return pairs.iter().find(|(key, _)| is_it(key)).map(|(_, value)| value);
    }
    let parts = reply.as_array()?;
    parts.chunks_exact(2).find_map(|pair| pair.first().filter(|key| is_it(key)).and_then(|_| pair.get(1)))
}

/// A word of the server, which is a status line or a string.
pub(super) fn text(reply: &Reply) -> Option<String> {
    if let Reply::Status(text) = reply {
        return Some(text.clone());
    }
    reply.as_bulk().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(begin: Begin, find: Find, line: &str) -> Vec<usize> {
        Spec { begin, find }.positions(&Command::new(line.split(' ').map(|part| part.as_bytes().to_vec())))
    }

    #[test]
    fn keys_are_found_as_the_server_describes_them() {
        let one = Find::Range { last: 0, step: 1, limit: 0 };
        let all = |limit| Find::Range { last: -1, step: 1, limit };
        let counted = || Find::Counted { count_at: 0, first: 1, step: 1 };
        let behind = |word: &str, from| Begin::Behind(word.to_owned(), from);
        assert_eq!(positions(Begin::At(1), one.clone(), "GET a"), [1]);
        assert_eq!(positions(Begin::At(1), one.clone(), "GET"), Vec::<usize>::new());
        assert_eq!(positions(Begin::At(1), Find::Range { last: -1, step: 2, limit: 0 }, "MSET a 1 b 2"), [1, 3]);
        assert_eq!(positions(Begin::At(1), Find::Range { last: -2, step: 1, limit: 0 }, "BLPOP a b 0"), [1, 2]);
        assert_eq!(positions(Begin::At(2), counted(), "EVAL text 2 a b c"), [3, 4]);
        assert_eq!(positions(Begin::At(2), counted(), "EVAL text 0 c"), Vec::<usize>::new());
        assert_eq!(positions(Begin::At(2), counted(), "EVAL text 99999999999999999999 a"), Vec::<usize>::new());
        assert_eq!(positions(Begin::At(2), counted(), "EVAL text 9223372036854775807 a"), [3]);
        assert_eq!(positions(behind("STREAMS", 1), all(2), "XREAD COUNT 1 streams a b 0 0"), [4, 5]);
        assert_eq!(positions(behind("STREAMS", 1), all(2), "XREAD COUNT 1"), Vec::<usize>::new());
        assert_eq!(positions(behind("STORE", 6), one.clone(), "GEORADIUS a 1 1 1 m ASC STORE b"), [8]);
        assert_eq!(positions(behind("KEYS", -2), all(0), "MIGRATE h 1 x 0 1 KEYS a b"), [7, 8]);
    }

    #[test]
    fn rules_that_leave_keys_out_are_no_rules() {
        let word = |text: &str| Reply::Status(text.to_owned());
        let pairs = |pairs: Vec<(&str, Reply)>| {
            Reply::Array(pairs.into_iter().flat_map(|(name, value)| [Reply::bulk(name.to_owned()), value]).collect())
        };
        let spec = |flags: &[&str], kind: &str| {
            let flags = Reply::Array(flags.iter().map(|flag| word(flag)).collect());
            let begin = pairs(vec![
                ("type", Reply::bulk(kind.to_owned())),
                ("spec", pairs(vec![("index", Reply::Integer(2))])),
            ]);
            let range = pairs(vec![
                ("lastkey", Reply::Integer(0)),
                ("keystep", Reply::Integer(1)),
                ("limit", Reply::Integer(0)),
            ]);
            let find = pairs(vec![("type", Reply::bulk("range")), ("spec", range)]);
            pairs(vec![("flags", flags), ("begin_search", begin), ("find_keys", find)])
        };
        let all = |specs: Vec<Reply>| Spec::all_of(&Reply::Array(specs)).map(|specs| specs.len());
        assert_eq!(all(vec![spec(&["RO", "access"], "index")]), Some(1));
        assert_eq!(all(vec![spec(&["not_key"], "index")]), Some(0));
        assert_eq!(all(vec![spec(&["RO"], "index"), spec(&["incomplete"], "index")]), None);
        assert_eq!(all(vec![spec(&["RO"], "unknown")]), None);
    }
}
