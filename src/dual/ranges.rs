//! Answers reads of sorted sets from a value, as Redis would have: by rank, by score and by name, in either order. Pure; what
//! Redis would refuse, and what nobody but Redis knows, is `None`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::model::command::Command;
use crate::model::frame::Protocol;
use crate::model::reply::Reply;
use crate::model::value::Score;

type Members = BTreeMap<Bytes, Score>;

/// The reply to a read of a sorted set.
pub(super) fn reply(name: &str, command: &Command, members: &Members, protocol: Protocol) -> Option<Reply> {
    let score = |member: &Bytes| members.get(member).map_or(Reply::Nil, |score| Reply::Double(score.text().clone()));
    Some(match name {
        "ZSCORE" => score(command.arg(2)?),
        "ZMSCORE" => Reply::Array(command.0.iter().skip(2).map(score).collect()),
        "ZCARD" => count(members.len()),
        "ZCOUNT" if command.0.len() == 4 => {
            let (min, max) = (Bound::score(command.arg(2)?)?, Bound::score(command.arg(3)?)?);
            count(members.values().filter(|score| min.is_below(score.number()) && max.is_above(score.number())).count())
        }
        "ZRANK" | "ZREVRANK" if command.0.len() == 3 => {
            let order = ordered(members, name == "ZREVRANK");
            let member = command.arg(2)?;
            order.iter().position(|(name, _)| *name == member).map_or(Reply::Nil, count)
        }
        "ZRANGE" | "ZREVRANGE" | "ZRANGEBYSCORE" | "ZREVRANGEBYSCORE" => {
            return Range::of(name, command)?.reply(members, protocol);
        }
        _ => return None,
    })
}

fn count(number: usize) -> Reply {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn ordered(members: &Members, is_reversed: bool) -> Vec<(&Bytes, &Score)> {
    let mut order: Vec<_> = members.iter().collect();
    // Zero and minus zero are one score; only then does the name decide.
    let by_score = |one: &Score, two: &Score| one.number().partial_cmp(&two.number()).unwrap_or(Ordering::Equal);
    order.sort_by(|one, two| by_score(one.1, two.1).then_with(|| one.0.cmp(two.0)));
    if is_reversed {
        order.reverse();
    }
    order
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Name,
}

/// A range that was asked for.
struct Range<'a> {
    by: By,
    from: &'a Bytes,
    to: &'a Bytes,
    is_reversed: bool,
    with_scores: bool,
    limit: Option<(i64, i64)>,
}

impl<'a> Range<'a> {
    fn of(name: &str, command: &'a Command) -> Option<Self> {
        let by = if name.ends_with("BYSCORE") { By::Score } else { By::Rank };
        let mut range = Self {
            by,
            from: command.arg(2)?,
            to: command.arg(3)?,
            is_reversed: name.starts_with("ZREV"),
            with_scores: false,
            limit: None,
        };
        let mut at = 4;
        while at < command.0.len() {
            let is_range = name == "ZRANGE";
            if command.is_word(at, "WITHSCORES") {
                range.with_scores = true;
            } else if command.is_word(at, "LIMIT") && name != "ZREVRANGE" {
                range.limit = Some((command.integer(at + 1)?, command.integer(at + 2)?));
                at += 2;
            } else if is_range && command.is_word(at, "REV") {
                range.is_reversed = true;
            } else if is_range && range.by == By::Rank && command.is_word(at, "BYSCORE") {
                range.by = By::Score;
            } else if is_range && range.by == By::Rank && command.is_word(at, "BYLEX") {
                range.by = By::Name;
            } else {
                return None;
            }
            at += 1;
        }
        let is_refused = (range.limit.is_some() && range.by == By::Rank) || (range.with_scores && range.by == By::Name);
        let skips_backwards = range.limit.is_some_and(|(offset, _)| offset < 0);
        (!is_refused && !skips_backwards).then_some(range)
    }

    fn reply(&self, members: &Members, protocol: Protocol) -> Option<Reply> {
        let order = ordered(members, self.is_reversed);
        let (low, high) = if self.is_reversed { (self.to, self.from) } else { (self.from, self.to) };
        let chosen: Vec<(&Bytes, &Score)> = match self.by {
            By::Rank => {
                let number = |text: &Bytes| std::str::from_utf8(text).ok()?.parse::<i64>().ok();
                let window = super::answer::window(order.len(), number(self.from)?, number(self.to)?);
                order.get(window)?.to_vec()
            }
            By::Score => {
                let (low, high) = (Bound::score(low)?, Bound::score(high)?);
                let is_in = |score: &Score| low.is_below(score.number()) && high.is_above(score.number());
                self.limited(order.into_iter().filter(|(_, score)| is_in(score)))
            }
            By::Name => {
                // By name Redis walks in the order of scores: only where all are the same is that the order of names.
                let first = members.values().next().map(Score::number);
                if members.values().any(|score| Some(score.number()) != first) {
                    return None;
                }
                let (low, high) = (Edge::of(low)?, Edge::of(high)?);
                self.limited(order.into_iter().filter(|(name, _)| low.is_below(name) && high.is_above(name)))
            }
        };
        let pair =
            |(member, score): (&Bytes, &Score)| [Reply::Bulk(member.clone()), Reply::Double(score.text().clone())];
        Some(Reply::Array(match (self.with_scores, protocol) {
            (false, _) => chosen.into_iter().map(|(member, _)| Reply::Bulk(member.clone())).collect(),
            (true, Protocol::Resp2) => chosen.into_iter().flat_map(pair).collect(),
            (true, Protocol::Resp3) => chosen.into_iter().map(|one| Reply::Array(pair(one).into())).collect(),
        }))
    }

    fn limited<'m>(&self, found: impl Iterator<Item = (&'m Bytes, &'m Score)>) -> Vec<(&'m Bytes, &'m Score)> {
        let (offset, count) = self.limit.unwrap_or((0, -1));
        let found = found.skip(usize::try_from(offset).unwrap_or(0));
        // A negative count means all.
        found.take(usize::try_from(count).unwrap_or(usize::MAX)).collect()
    }
}

/// An end of a range of scores.
struct Bound {
    score: f64,
    is_open: bool,
}

impl Bound {
    fn score(text: &Bytes) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (text, is_open) = text.strip_prefix('(').map_or((text, false), |rest| (rest, true));
        // What C reads as a number and Rust does not, and the other way round, is Redis' to read.
        let is_infinite = matches!(text.trim_start_matches(['+', '-']), "inf");
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        let score: f64 = (is_infinite || is_plain).then(|| text.parse().ok()).flatten()?;
        Some(Self { score, is_open })
    }

    fn is_below(&self, score: f64) -> bool {
        if self.is_open { self.score < score } else { self.score <= score }
    }

    fn is_above(&self, score: f64) -> bool {
        if self.is_open { self.score > score } else { self.score >= score }
    }
}

/// An end of a range of names.
enum Edge<'a> {
    Lowest,
    Highest,
    Closed(&'a [u8]),
    Open(&'a [u8]),
}

impl<'a> Edge<'a> {
    fn of(text: &'a Bytes) -> Option<Self> {
        Some(match text.split_first()? {
            (b'-', []) => Self::Lowest,
            (b'+', []) => Self::Highest,
            (b'[', name) => Self::Closed(name),
            (b'(', name) => Self::Open(name),
            _ => return None,
        })
    }

    fn is_below(&self, name: &[u8]) -> bool {
        match self {
            Self::Lowest => true,
            Self::Highest => false,
            Self::Closed(edge) => *edge <= name,
            Self::Open(edge) => *edge < name,
        }
    }

    fn is_above(&self, name: &[u8]) -> bool {
        match self {
            Self::Lowest => false,
            Self::Highest => true,
            Self::Closed(edge) => *edge >= name,
            Self::Open(edge) => *edge > name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str, protocol: Protocol) -> Option<Reply> {
        let members = [("b", "1"), ("a", "1"), ("c", "-2.5"), ("d", "inf")];
        let members: Members = members.map(|(member, score)| (member.into(), Score::new(score))).into();
        let command = Command::new(line.split(' ').map(|part| part.as_bytes().to_vec()));
        reply(&command.name(), &command, &members, protocol)
    }

    fn names(line: &str) -> Vec<String> {
        let Some(Reply::Array(items)) = ask(line, Protocol::Resp2) else { panic!("{line}") };
        let text = |item: &Reply| {
            let (Reply::Bulk(bytes) | Reply::Double(bytes)) = item else { panic!("{item:?}") };
            String::from_utf8_lossy(bytes).into_owned()
        };
        items.iter().map(text).collect()
    }

    #[test]
    fn a_range_is_taken_by_rank_by_score_and_from_either_end() {
        assert_eq!(names("ZRANGE k 0 1"), ["c", "a"]);
        assert_eq!(names("ZREVRANGE k 1 1 WITHSCORES"), ["b", "1"]);
        assert_eq!(names("ZRANGE k 0 0 REV"), ["d"]);
        assert_eq!(names("ZRANGEBYSCORE k (-2.5 1"), ["a", "b"]);
        assert_eq!(names("ZRANGEBYSCORE k -inf +inf LIMIT 1 2"), ["a", "b"]);
        assert_eq!(names("ZREVRANGEBYSCORE k (inf -inf LIMIT 0 -1"), ["b", "a", "c"]);
        assert_eq!(names("ZRANGE k 1 -inf BYSCORE REV WITHSCORES"), ["b", "1", "a", "1", "c", "-2.5"]);
        assert_eq!(ask("ZCOUNT k -inf (inf", Protocol::Resp2), Some(Reply::Integer(3)));
        assert_eq!(ask("ZRANK k b", Protocol::Resp2), Some(Reply::Integer(2)));
    }

    #[test]
    fn what_redis_refuses_or_alone_can_tell_is_asked_of_redis() {
        for line in [
            "ZRANGE k 0 1 LIMIT 0 1",
            "ZRANGE k - + BYLEX",
            "ZRANGE k a b",
            "ZRANGE k 0 1 BYSCORE BYLEX",
            "ZREVRANGE k 0 1 LIMIT 0 1",
            "ZRANGEBYSCORE k x 1",
            "ZRANGEBYSCORE k 0x1 1",
            "ZRANGEBYSCORE k nan 1",
            "ZRANGEBYSCORE k 0 1 LIMIT -1 1",
            "ZRANGEBYSCORE k 0 1 LIMIT 1",
        ] {
            assert_eq!(ask(line, Protocol::Resp2), None, "{line}");
        }
    }

    #[test]
    fn scores_stand_in_pairs_in_resp3() {
        let pair = Reply::Array(vec![Reply::bulk("c"), Reply::Double(Bytes::from_static(b"-2.5"))]);
        assert_eq!(ask("ZRANGE k 0 0 WITHSCORES", Protocol::Resp3), Some(Reply::Array(vec![pair])));
    }
}
