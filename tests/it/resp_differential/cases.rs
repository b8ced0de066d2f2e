//! What is asked: the lines of `tests/data/redis-commands.txt` on keys of every layout and type, and the forms with too few
//! and too many words, which are made from the server's own table.

use bytes::Bytes;

use super::wire::{Frame, Wire, Words, words};

const LINES: &str = include_str!("../../data/redis-commands.txt");

/// The types of keys that a case may begin with, and what makes them.
const TYPES: [&str; 10] = ["string", "int", "hash", "list", "set", "intset", "zset", "geo", "hll", "stream"];

/// A family of keys that the catalog keeps alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// One row a record.
    Document,
    /// One row an element.
    Collection,
    /// A list whose pushes are kept.
    ListLog,
    /// A stream whose entries are kept.
    StreamLog,
    /// An index, kept by element and never read from Postgres.
    Derived,
    /// Named in the catalog, and not mirrored.
    Ephemeral,
    /// Not named in the catalog.
    Unmatched,
}

impl Family {
    pub(crate) const ALL: [Self; 7] = [
        Self::Document,
        Self::Collection,
        Self::ListLog,
        Self::StreamLog,
        Self::Derived,
        Self::Ephemeral,
        Self::Unmatched,
    ];

    pub(crate) fn is_mirrored(self) -> bool {
        match self {
            Self::Document | Self::Collection | Self::ListLog | Self::StreamLog | Self::Derived => true,
            Self::Ephemeral | Self::Unmatched => false,
        }
    }

    /// Whether the tables of its kinds can hold a value of this type.
    fn holds(self, of: &str) -> bool {
        match self {
            Self::Document | Self::Ephemeral | Self::Unmatched => true,
            Self::Collection | Self::Derived => ["hash", "set", "intset", "zset", "geo"].contains(&of),
            Self::ListLog => of == "list",
            Self::StreamLog => of == "stream",
        }
    }

    /// The key that plays `role`.
    pub(crate) fn key(self, role: &str) -> String {
        match self {
            Self::Document => format!("user:differential-{role}"),
            Self::Collection => format!("account_group_members:{role}"),
            Self::ListLog => format!("usage:records:{role}"),
            // The catalog knows one stream; it plays the first role.
            Self::StreamLog if role.starts_with('k') => "billing:events".to_owned(),
            Self::StreamLog => format!("usage:records:{role}"),
            Self::Derived => format!("apikey:set:{role}"),
            Self::Ephemeral => format!("lock:differential-{role}"),
            Self::Unmatched => format!("differential:{role}"),
        }
    }
}

/// One command, and what is done before it so that its keys are what it wants.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) seeds: Vec<Words>,
    pub(crate) command: Words,
}

/// A line of the file.
struct Line {
    types: (&'static str, Option<&'static str>),
    command: &'static str,
}

fn lines() -> impl Iterator<Item = Line> {
    LINES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let (types, command) = line.split_once(' ').unwrap();
        let types = match types.split_once('/') {
            Some((first, second)) => (first, Some(second)),
            None => (types, None),
        };
        Line { types, command }
    })
}

/// The commands of the file alone.
pub(super) fn lines_of_commands() -> impl Iterator<Item = &'static str> {
    lines().map(|line| line.command)
}

/// The commands and subcommands that the file holds, as `COMMAND` and `COMMAND DOCS` name them.
pub(crate) fn named() -> std::collections::BTreeSet<String> {
    let mut named = std::collections::BTreeSet::new();
    for line in lines() {
        let mut words = line.command.split(' ').map(str::to_ascii_lowercase);
        let name = words.next().unwrap();
        if let Some(second) = words.next() {
            named.insert(format!("{name}|{second}"));
        }
        named.insert(name);
    }
    named
}

/// Every line on keys of every family, and on keys of every other type in one family after the other.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (number, line) in lines().enumerate() {
        if line.types.0 == "-" {
            cases.push(case(&line, Family::Unmatched, line.types, cases.len()));
            continue;
        }
        for family in Family::ALL {
            cases.push(case(&line, family, line.types, cases.len()));
        }
        if line.command.contains("%k") {
            let others = TYPES.iter().copied().chain(["none"]).filter(|other| *other != line.types.0);
            for (turn, other) in others.enumerate() {
                let family = Family::ALL[(number + turn) % Family::ALL.len()];
                cases.push(case(&line, family, (other, line.types.1), cases.len()));
            }
        }
    }
    cases
}

/// The cases that only read, each family and type under keys of its own, and what makes these keys.
pub(crate) fn reads(is_read: impl Fn(&str) -> bool) -> (Vec<Words>, Vec<Words>) {
    let (mut seeds, mut reads) = (Vec::new(), std::collections::BTreeSet::new());
    for family in Family::ALL {
        for of in TYPES.iter().filter(|of| family.holds(of)) {
            seeds.extend(seeded(&family.key(&format!("k-{of}")), of, 0));
            if family != Family::StreamLog {
                seeds.extend(seeded(&family.key(&format!("j-{of}")), of, 1));
            }
        }
        for of in TYPES {
            let lines = lines().filter(|line| line.types.0 != "-");
            for line in lines.filter(|line| is_read(line.command.split(' ').next().unwrap())) {
                let second = line.types.1.unwrap_or(of);
                let filled = line.command.replace("%k", &family.key(&format!("k-{of}")));
                let filled = filled.replace("%j", &family.key(&format!("j-{second}")));
                let filled = filled.replace("%u", &Family::Ephemeral.key(&format!("k-{of}")));
                reads.insert(words(&filled.replace("%n", &family.key("none")).replace("%d", &family.key("none"))));
            }
        }
    }
    (seeds, reads.into_iter().collect())
}

/// The commands with too few words and with too many, from the server's own table; none of them does anything.
pub(crate) async fn misfits(server: &mut Wire) -> Vec<Case> {
    let Frame::Many(_, Some(rows)) = server.ask("COMMAND").await else { panic!("COMMAND answers an array") };
    let mut commands = Vec::new();
    for row in &rows {
        let Frame::Many(_, Some(parts)) = row else { panic!("{row:?}") };
        let (Frame::Blob(_, Some(name)), Frame::Line(_, arity)) = (&parts[0], &parts[1]) else { panic!("{row:?}") };
        let arity: i64 = std::str::from_utf8(arity).unwrap().parse().unwrap();
        let count = |count: i64| usize::try_from(count).unwrap();
        let mut lengths: Vec<usize> = (1..count(arity.abs())).collect();
        lengths.extend((arity > 0).then(|| count(arity) + 1));
        for length in lengths {
            let mut command = vec![name.clone()];
            command.resize(length, Bytes::from_static(b"x"));
            commands.push(command);
        }
        // A subcommand that is not there; a command without any takes the word for a key.
        if matches!(parts.get(9), Some(Frame::Many(_, Some(subcommands))) if !subcommands.is_empty()) {
            commands.push(vec![name.clone(), Bytes::from_static(b"nosuch")]);
            commands.push(vec![name.clone(), Bytes::from_static(b"NoSuch"), Bytes::from_static(b"x")]);
        }
    }
    commands.sort();
    commands.into_iter().map(|command| Case { seeds: Vec::new(), command }).collect()
}

fn case(line: &Line, family: Family, types: (&str, Option<&str>), number: usize) -> Case {
    let first = if types.0 == "none" { "none" } else { types.0 };
    let roles = [
        ("%k", family.key("k"), first, 0),
        ("%j", family.key("j"), types.1.unwrap_or(first), 1),
        ("%d", family.key("d"), "none", 0),
        ("%n", family.key("n"), "none", 0),
        ("%u", Family::Ephemeral.key("u"), first, 0),
    ];
    let (mut seeds, mut filled) = (Vec::new(), line.command.to_owned());
    for (role, key, of, variant) in roles.iter().filter(|(role, ..)| line.command.contains(role)) {
        filled = filled.replace(role, key);
        seeds.push(words(&format!("DEL {key}")));
        seeds.extend(seeded(key, of, *variant));
        // Half of the keys expire, so that what keeps or drops an expiry is seen.
        if number % 2 == 1 && *of != "none" {
            seeds.push(words(&format!("PEXPIRE {key} 100000000")));
        }
    }
    Case { seeds, command: words(&filled) }
}

/// What makes a key of a type; the second variant has other elements, some of them in both.
fn seeded(key: &str, of: &str, variant: usize) -> Vec<Words> {
    let one = |texts: [&str; 2]| vec![words(&texts[variant].replace("KEY", key))];
    match of {
        "string" => one(["SET KEY 'hello world'", "SET KEY 'hollow'"]),
        "int" => one(["SET KEY 10", "SET KEY -3"]),
        "hash" => one(["HSET KEY f v g w n 10", "HSET KEY f other z 1"]),
        "list" => one(["RPUSH KEY a b c b", "RPUSH KEY x y"]),
        "set" => one(["SADD KEY a b c", "SADD KEY b c d"]),
        "intset" => one(["SADD KEY 1 2 3", "SADD KEY 3 4"]),
        "zset" => one(["ZADD KEY 1 a 2 b 3.5 c", "ZADD KEY 5 b 6 d"]),
        "geo" => {
            one(["GEOADD KEY 13.361389 38.115556 Palermo 15.087269 37.502669 Catania", "GEOADD KEY 2.35 48.85 Paris"])
        }
        "hll" => one(["PFADD KEY a b c", "PFADD KEY c d"]),
        "stream" => [
            "XADD KEY 1-1 f a",
            "XADD KEY 2-1 f b",
            "XADD KEY 3-1 f c",
            "XGROUP CREATE KEY g 0",
            "XREADGROUP GROUP g c COUNT 1 STREAMS KEY >",
        ]
        .iter()
        .map(|line| words(&line.replace("KEY", key)))
        .collect(),
        "none" => Vec::new(),
        other => panic!("no key of type {other}"),
    }
}
