//! What belongs to a connection: transactions, watches, databases, subscriptions, tracking, the end of it. Each story is
//! told on fresh connections to both sides, one step after the other, and every frame that comes is compared.
//!
//! A step is the connection that it is about (`a` or `b`), how many frames come back, and the line that is sent; without a
//! line the frames come by themselves. `a0` hears nothing for a moment, `ax` hears the end of the connection.

use std::time::Duration;

use super::excuses::{Fields, agree};
use super::pair::{Protocol, text};
use super::policy::Policy;
use super::wire::{Frame, Heard, Wire, Words, encoded, words};

/// How long nothing must come where nothing should.
const SILENCE: Duration = Duration::from_millis(60);

pub(super) type Story = (&'static str, &'static [&'static str]);

pub(super) const STORIES: &[Story] = &[
    ("a transaction", &["a1 MULTI", "a1 SET %d 1", "a1 INCR %d", "a1 GET %u", "a1 HGETALL %c", "a1 EXEC", "a1 GET %d"]),
    (
        "a transaction in one write",
        &["a7 MULTI | SET %d v | GET %d | SADD %c m | SET %u x | TTL %d | EXEC", "a1 GET %d"],
    ),
    ("an empty transaction", &["a1 MULTI", "a1 EXEC", "a1 EXEC", "a1 DISCARD"]),
    ("a transaction in a transaction", &["a1 MULTI", "a1 MULTI", "a1 SET %d v", "a1 EXEC"]),
    ("discarded", &["a1 MULTI", "a1 SET %d v", "a1 DISCARD", "a1 GET %d", "a1 EXEC"]),
    ("refused when it is queued", &["a1 MULTI", "a1 SET %d v", "a1 SET %d", "a1 SET %d w", "a1 EXEC", "a1 GET %d"]),
    ("an unknown command in it", &["a1 MULTI", "a1 NOSUCH %d", "a1 SET %d v", "a1 EXEC", "a1 GET %d", "a1 PING"]),
    (
        "failing when it runs",
        &["a1 MULTI", "a1 SET %d v", "a1 LPUSH %d x", "a1 HINCRBY %c f z", "a1 INCR %u", "a1 EXEC"],
    ),
    ("a watch in a transaction", &["a1 MULTI", "a1 WATCH %d", "a1 SET %d v", "a1 EXEC"]),
    ("a watch that sees nothing", &["a1 WATCH %d %u", "a1 GET %d", "a1 MULTI", "a1 SET %d v", "a1 EXEC"]),
    (
        "a watch of a mirrored key that is written",
        &["a1 WATCH %d", "b1 SET %d other", "a1 MULTI", "a1 SET %d v", "a1 EXEC", "a1 GET %d"],
    ),
    (
        "a watch of an element",
        &["a1 WATCH %c", "b1 SADD %c other", "a1 MULTI", "a1 SADD %c v", "a1 EXEC", "a1 SCARD %c"],
    ),
    (
        "a watch of a key that is not mirrored",
        &["a1 WATCH %u", "b1 SET %u other", "a1 MULTI", "a1 SET %d v", "a1 EXEC", "a1 EXISTS %d"],
    ),
    ("a watch that our own write breaks", &["a1 WATCH %d", "a1 SET %d mine", "a1 MULTI", "a1 GET %d", "a1 EXEC"]),
    (
        "a watch that was taken back",
        &["a1 WATCH %d", "b1 SET %d other", "a1 UNWATCH", "a1 MULTI", "a1 GET %d", "a1 EXEC"],
    ),
    (
        "a watch that ended with a discard",
        &["a1 WATCH %d", "a1 MULTI", "a1 DISCARD", "b1 SET %d x", "a1 MULTI", "a1 GET %d", "a1 EXEC"],
    ),
    (
        "a watch of a key that a read leaves alone",
        &["b1 SET %d v", "a1 WATCH %d", "b1 GET %d", "b1 EXISTS %d", "a1 MULTI", "a1 GET %d", "a1 EXEC"],
    ),
    (
        "scripts in a transaction",
        &[
            "a1 MULTI",
            "a1 EVAL 'return redis.call(\"SET\",KEYS[1],\"v\")' 1 %d",
            "a1 GET %d",
            "a1 EVAL 'return 1' x",
            "a1 EXEC",
            "a1 GET %d",
        ],
    ),
    (
        "a blocking command in a transaction",
        &["a1 MULTI", "a1 BLPOP %u 5", "a1 RPUSH %u v", "a1 BLPOP %u 5", "a1 EXEC"],
    ),
    (
        "subcommands in a transaction",
        &["a1 MULTI", "a1 OBJECT ENCODING %d", "a1 CLIENT GETNAME", "a1 XGROUP NOSUCH", "a1 EXEC"],
    ),
    ("what a transaction may not hold", &["a1 MULTI", "a1 SUBSCRIBE c", "a1 EXEC"]),
    (
        "another database",
        &[
            "a1 SET %d zero",
            "a1 SELECT 1",
            "a1 GET %d",
            "a1 SET %d one",
            "a1 DBSIZE",
            "a1 SELECT 0",
            "a1 GET %d",
            "b1 GET %d",
            "a1 SELECT 1",
            "a1 DEL %d",
        ],
    ),
    (
        "a transaction in another database",
        &["a1 SELECT 1", "a1 MULTI", "a1 SET %d one", "a1 EXEC", "a1 SELECT 0", "a1 GET %d"],
    ),
    ("what a browser says", &["a1 PING", "ax POST / HTTP/1.1", "b1 PING"]),
    ("what a browser says in a transaction", &["a1 MULTI", "ax host: x", "b1 PING"]),
    (
        "a name",
        &[
            "a1 CLIENT SETNAME me",
            "a1 CLIENT GETNAME",
            "a1 SET %d v",
            "a1 CLIENT GETNAME",
            "b1 CLIENT GETNAME",
            "a1 RESET",
            "a1 CLIENT GETNAME",
        ],
    ),
    (
        "a greeting in the middle",
        &[
            "a1 HELLO 3",
            "a1 HGETALL %c",
            "a1 GET nobody",
            "a1 HELLO 2",
            "a1 GET nobody",
            "a1 HELLO 3 SETNAME you",
            "a1 CLIENT GETNAME",
            "a1 HELLO 4",
            "a1 SMEMBERS %c",
        ],
    ),
    ("a reset", &["a1 SELECT 1", "a1 HELLO 3", "a1 MULTI", "a1 RESET", "a1 EXEC", "a1 GET nobody", "a1 DBSIZE"]),
    ("the end", &["a1 SET %d v", "a1 QUIT", "ax"]),
    ("the end within a pipeline", &["a2 GET nobody | QUIT | SET %d late", "ax", "b1 GET %d"]),
    (
        "a channel",
        &[
            "a1 SUBSCRIBE differential:a",
            "b1 PUBLISH differential:a hello",
            "a1",
            "a1 UNSUBSCRIBE differential:a",
            "b1 PUBLISH differential:a late",
            "a1 PING",
        ],
    ),
    (
        "channels and patterns",
        &[
            "a2 SUBSCRIBE differential:a differential:b",
            "a1 PSUBSCRIBE differential:*",
            "b1 PUBLISH differential:a x",
            "a2",
            "a2 UNSUBSCRIBE differential:b differential:a",
            "b1 PUBLISH differential:b y",
            "a1",
            "a1 PUNSUBSCRIBE",
            "a1 PING",
        ],
    ),
    (
        "a shard channel",
        &["a1 SSUBSCRIBE differential:s", "b1 SPUBLISH differential:s x", "a1", "a1 SUNSUBSCRIBE", "a1 PING"],
    ),
    (
        "while subscribed",
        &[
            "a1 SUBSCRIBE differential:a",
            "a1 GET %d",
            "a1 SET %d v",
            "a1 PING",
            "a1 PING word",
            "a1 MULTI",
            "a1 EXEC",
            "a1 NOSUCH",
            "a1 RESET",
            "a1 GET %d",
        ],
    ),
    ("subscribed in a pipeline", &["a4 SET %u before | SUBSCRIBE differential:p | PING | UNSUBSCRIBE", "a1 GET %u"]),
    (
        "published in a transaction",
        &["b1 SUBSCRIBE differential:t", "a1 MULTI", "a1 PUBLISH differential:t x", "a1 SET %d v", "a1 EXEC", "b1"],
    ),
    ("subscribed and done", &["a1 SUBSCRIBE differential:a", "a1 QUIT", "ax"]),
    ("a wait that another ends", &["a0 BLPOP %u 5", "b1 RPUSH %u v w", "a1", "a1 LLEN %u"]),
    ("a wait that nobody ends", &["a1 BLPOP %u 0.05", "a1 PING"]),
    ("a wait with others behind it", &["a0 BLPOP %u 5 | SET %d after | GET %d", "b1 RPUSH %u v", "a3"]),
    ("a wait for a stream", &["a0 XREAD BLOCK 2000 STREAMS %u $", "b1 XADD %u 5-1 f v", "a1"]),
    (
        "a wait that is ended from outside",
        &["a1 CLIENT REPLY ON", "a1 BZPOPMIN %u 0.05", "a1 BRPOP %u 0.01", "a1 PING"],
    ),
    ("answers switched off", &["a0 CLIENT REPLY OFF", "a0 SET %d v", "a0 PING", "a1 CLIENT REPLY ON", "a1 GET %d"]),
    ("one answer left out", &["a0 CLIENT REPLY SKIP", "a0 SET %d v", "a1 GET %d", "a1 SET %u w"]),
    ("answers left out in a pipeline", &["a2 CLIENT REPLY SKIP | SET %d v | GET %d | GET %u"]),
    (
        "tracking",
        &[
            "a1 HELLO 3",
            "a1 CLIENT TRACKING ON",
            "a1 GET %d",
            "b1 SET %d changed",
            "a1",
            "a1 GET %d",
            "a1 CLIENT TRACKINGINFO",
            "a1 CLIENT TRACKING OFF",
        ],
    ),
    (
        "tracking of a prefix",
        &[
            "a1 HELLO 3",
            "a1 CLIENT TRACKING ON BCAST PREFIX user:differential-d",
            "b1 SET %d changed",
            "a1",
            "a1 CLIENT TRACKING OFF",
            "a1 PING",
        ],
    ),
    (
        "tracking without a way to tell",
        &["a1 HELLO 2", "a1 CLIENT TRACKING ON", "a1 CLIENT TRACKING ON REDIRECT 99999999", "a1 GET %d"],
    ),
    ("a stream of what is done", &["a1 MONITOR", "b1 ECHO seen", "a1"]),
    (
        "scripts that were loaded",
        &[
            "a1 SCRIPT LOAD 'return redis.call(\"INCR\",KEYS[1])'",
            "a1 EVALSHA 69fb1aae3ce94c7ee7b2d3d4dcbfb7cb35f82fe9 1 %d",
            "a1 EVALSHA 0000000000000000000000000000000000000000 1 %d",
        ],
    ),
    ("keys of our own are not there", &["a1 DBSIZE", "a1 KEYS *", "a1 SCAN 0 COUNT 10000", "a1 SET %d v", "a1 DBSIZE"]),
    ("every case of a name", &["a1 sEt %d v", "a1 gEt %d", "a1 multi", "a1 Get %d", "a1 exec", "a1 quit", "ax"]),
    ("an empty name", &["a1 ''", "a1 '' x", "a1 PING"]),
    ("strange names", &["a1 'G E T'", "a1 'GE\\r\\nT' x", "a1 '\\x00\\xff' y", "a1 MULTI", "a1 '\\x01'", "a1 EXEC"]),
];

/// The names of the commands that the stories tell of.
pub(super) fn named() -> std::collections::BTreeSet<String> {
    let mut named = std::collections::BTreeSet::new();
    for line in STORIES.iter().flat_map(|(_, steps)| *steps).filter_map(|step| step.split_once(' ')) {
        for part in line.1.split(" | ") {
            let mut words = part.split(' ').map(str::to_ascii_lowercase);
            let name = words.next().unwrap();
            named.extend(words.next().map(|second| format!("{name}|{second}")));
            named.insert(name);
        }
    }
    named
}

/// Tells one story to both sides; what was not the same.
pub(super) async fn tell(story: &Story, addresses: [&str; 2], protocol: Protocol, policy: Policy) -> Vec<String> {
    let (name, steps) = story;
    let mut sides = Vec::new();
    for address in addresses {
        sides.push(Side::connect(address, protocol).await);
    }
    let mut differences = Vec::new();
    let mut queued = Vec::new();
    for step in *steps {
        let (head, line) = step.split_once(' ').unwrap_or((step, ""));
        let commands: Vec<Words> =
            line.split(" | ").filter(|line| !line.is_empty()).map(|line| words(&filled(line))).collect();
        let mut heard = Vec::new();
        for side in &mut sides {
            heard.push(side.step(head, &commands).await);
        }
        let is_told_wrong = !head.ends_with('0') && heard[0].contains(&Heard::Silence);
        assert!(!is_told_wrong, "{name}: {step}: a bare redis says less: {:?}", heard[0]);
        if !same(&heard[0], &heard[1], &commands, &mut queued, policy.fields()) {
            let told: Vec<String> =
                heard.iter().map(|all| all.iter().map(text).collect::<Vec<_>>().join(" ")).collect();
            differences.push(format!("{name}: {step}\n    redis {}\n    door  {}", told[0], told[1]));
        }
    }
    differences
}

fn filled(line: &str) -> String {
    line.replace("%d", "user:differential-d")
        .replace("%c", "account_group_members:c")
        .replace("%u", "lock:differential-u")
}

/// The connections of one side.
struct Side {
    a: Wire,
    b: Wire,
}

impl Side {
    async fn connect(address: &str, protocol: Protocol) -> Self {
        let mut side = Self { a: Wire::connect(address).await, b: Wire::connect(address).await };
        for line in ["SELECT 0", "DEL %d %c %u", "SADD %c one", "DEL %c"] {
            side.b.ask(&filled(line)).await;
        }
        if protocol == Protocol::Resp3 {
            side.a.ask("HELLO 3").await;
        }
        side
    }

    async fn step(&mut self, head: &str, commands: &[Words]) -> Vec<Heard> {
        let wire = if head.starts_with('a') { &mut self.a } else { &mut self.b };
        let bytes: Vec<u8> = commands.iter().flat_map(|command| encoded(command)).collect();
        wire.send(&bytes).await;
        match &head[1..] {
            "0" => vec![wire.hear_within(SILENCE).await],
            "x" => vec![wire.hear().await],
            count => {
                let mut heard = Vec::new();
                for _ in 0..count.parse::<usize>().unwrap() {
                    // Two sides that both say nothing would be waited for long.
                    heard.push(wire.hear_within(Duration::from_secs(3)).await);
                }
                heard
            }
        }
    }
}

fn same(one: &[Heard], other: &[Heard], commands: &[Words], queued: &mut Vec<Words>, fields: Fields) -> bool {
    let mut all = one.len() == other.len();
    for (place, (one, other)) in one.iter().zip(other).enumerate() {
        let command = commands.get(place);
        let is = |name: &str| command.is_some_and(|command| command[0].eq_ignore_ascii_case(name.as_bytes()));
        let line = |heard: &Heard| matches!(heard, Heard::Frame(Frame::Line(b'+', text), _) if text.contains(&b'['));
        all &= match (one, other) {
            (Heard::Frame(one, bytes), Heard::Frame(other, other_bytes)) if bytes != other_bytes => {
                match (one, other) {
                    (Frame::Many(b'*', Some(ones)), Frame::Many(b'*', Some(others))) if is("EXEC") => {
                        ones.len() == others.len()
                            && ones
                                .iter()
                                .zip(others)
                                .zip(queued.iter())
                                .all(|((one, other), of)| agree(of, one, other, fields))
                    }
                    (Frame::Line(..), Frame::Line(..)) if command.is_none() => {
                        // MONITOR tells the time, and who asked.
                        line(&Heard::Frame(one.clone(), bytes.clone()))
                            && line(&Heard::Frame(other.clone(), other_bytes.clone()))
                    }
                    (Frame::Many(..) | Frame::Line(..) | Frame::Blob(..), _) => {
                        command.is_some_and(|command| agree(command, one, other, fields))
                    }
                }
            }
            (Heard::Frame(..) | Heard::Nonsense(_) | Heard::Closed | Heard::Silence, _) => one == other,
        };
        match (one, command) {
            (Heard::Frame(Frame::Line(b'+', text), _), Some(command)) if text.as_ref() == b"QUEUED" => {
                queued.push(command.clone())
            }
            _ if is("EXEC") || is("DISCARD") => queued.clear(),
            _ => {}
        }
    }
    all
}
