//! The RESP door against a bare Redis: the same bytes to both, in every stage, and the same bytes back; and the marks of
//! every command against what it changed.

pub(crate) mod cases;
mod connections;
mod escapes;
pub(crate) mod excuses;
pub(crate) mod look;
mod marks;
pub(crate) mod pair;
pub(crate) mod policy;
mod sequences;
mod stages;
pub(crate) mod wire;

use std::collections::BTreeSet;

use parallax::traffic::world::Dice;

use self::cases::Case;
use self::look::Look;
use self::pair::{Pair, Protocol};
use self::policy::Policy;
use self::wire::{Frame, Wire, Words};

/// Pipelines of a random sequence, and how many sequences a run tells.
const PIPELINES: usize = 400;
const SEQUENCES: u64 = 1;
/// The same with `make soak`.
const SOAK_SEQUENCES: u64 = 200;
/// How many of a hundred cases a run tells in each stage and protocol; all of them with `make soak`.
const SHARE: u64 = 25;

/// Whether this is `make soak`.
pub(crate) fn is_soak() -> bool {
    std::env::var_os("PARALLAX_SOAK").is_some()
}

/// Commands that no case names, and why.
const NOT_ASKED: &[(&str, &str)] = &[
    ("sync", "turns the connection into a replica's"),
    ("psync", "turns the connection into a replica's"),
    ("shutdown", "ends the server"),
    ("save", "writes a file"),
    ("bgsave", "starts a child, whose state the next answer depends on"),
    ("bgrewriteaof", "starts a child, whose state the next answer depends on"),
    ("config|rewrite", "writes a file"),
    ("pfselftest", "counts for seconds, longer than a command may take"),
    ("script|debug", "is refused: the next script would be stepped through by hand"),
    ("client|pause", "stops the other tests' servers"),
    ("restore-asking", "is for the slots of a cluster, as RESTORE"),
];

/// What the door refuses is asked for by a story of its own.
const REFUSED: &[&str] = &["flushall", "flushdb", "swapdb", "debug", "replicaof", "slaveof", "config|set", "shutdown"];

#[tokio::test(flavor = "multi_thread")]
async fn every_command_and_subcommand_of_the_server_is_asked() {
    let server = pair::server().await;
    let mut wire = Wire::connect(&pair::address(&server)).await;
    let Frame::Many(_, Some(rows)) = wire.ask("COMMAND").await else { panic!("COMMAND answers an array") };
    let mut wanted = BTreeSet::new();
    for row in &rows {
        let Frame::Many(_, Some(parts)) = row else { panic!("{row:?}") };
        let name = |frame: &Frame| match frame {
            Frame::Blob(_, Some(name)) => String::from_utf8_lossy(name).into_owned(),
            Frame::Blob(_, None) | Frame::Line(..) | Frame::Many(..) => panic!("{frame:?}"),
        };
        wanted.insert(name(&parts[0]));
        if let Some(Frame::Many(_, Some(subcommands))) = parts.get(9) {
            for row in subcommands {
                let Frame::Many(_, Some(parts)) = row else { panic!("{row:?}") };
                wanted.insert(name(&parts[0]));
            }
        }
    }
    assert!(wanted.len() > 300, "{wanted:?}");
    let named: BTreeSet<String> = cases::named().into_iter().chain(connections::named()).collect();
    let is_excused = |name: &str| NOT_ASKED.iter().any(|(of, _)| *of == name) || REFUSED.contains(&name);
    let missing: Vec<&String> = wanted.iter().filter(|name| !named.contains(*name) && !is_excused(name)).collect();
    assert!(missing.is_empty(), "no case names {missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bare_redises_differ_in_nothing_but_what_is_excused() {
    let servers = tokio::join!(pair::server(), pair::server());
    let (one, other) = (pair::address(&servers.0), pair::address(&servers.1));
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        cases_and_stories(&one, &other, protocol, Policy::Bare).await;
        random(&one, &other, protocol, Policy::Bare).await;
        hold_the_same(&one, &other).await;
    }
}

async fn cases_and_stories(bare: &str, other: &str, protocol: Protocol, policy: Policy) {
    let share = if is_soak() { 100 } else { SHARE };
    let seed: u64 = rand::random();
    let what = format!("{policy:?} {protocol:?} seed {seed}");
    let began = tokio::time::Instant::now();
    let mut dice = Dice::new(seed);
    let mut told = cases::all();
    told.extend(cases::misfits(&mut Wire::connect(bare).await).await.into_iter().filter(is_harmless));
    told.retain(|_| dice.below(100) < share);
    let mut pair = Pair::connect(bare, other, protocol, policy).await;
    pair.run(&told).await;
    let compared = pair.judge(&what);
    let mut differences = Vec::new();
    for story in connections::STORIES {
        differences.extend(connections::tell(story, [bare, other], protocol, policy).await);
    }
    assert!(differences.is_empty(), "{what}\n  {}", differences.join("\n  "));
    eprintln!("{what}: {compared} replies to cases compared in {:?}", began.elapsed());
}

/// Random sequences, each on an empty keyspace of its own making.
async fn random(bare: &str, other: &str, protocol: Protocol, policy: Policy) {
    let sequences = if is_soak() { SOAK_SEQUENCES } else { SEQUENCES };
    for _ in 0..sequences {
        let seed: u64 = rand::random();
        let what = format!("{policy:?} {protocol:?} sequence of seed {seed}");
        let mut pair = Pair::connect(bare, other, protocol, policy).await;
        pair.tell(&clean_slate()).await;
        for pipeline in sequences::sequence(&mut Dice::new(seed), PIPELINES) {
            pair.tell(&pipeline).await;
            if !pair.differences.is_empty() {
                break;
            }
        }
        eprintln!("{what}: {} replies compared", pair.judge(&what));
    }
}

fn clean_slate() -> Vec<Words> {
    sequences::keys().into_iter().map(|key| wire::words(&format!("DEL {key}"))).collect()
}

/// Panics when the two servers do not hold the same.
async fn hold_the_same(bare: &str, behind: &str) {
    let (bare, behind) = (Look::at(bare).await.states().await, Look::at(behind).await.states().await);
    let keys: BTreeSet<_> = bare.keys().chain(behind.keys()).collect();
    let is_like = |key: &&&bytes::Bytes| match (bare.get(**key), behind.get(**key)) {
        (Some(one), Some(other)) => one.is_like(other),
        (Some(_) | None, _) => false,
    };
    let unlike: Vec<_> = keys.iter().filter(|key| !is_like(key)).collect();
    assert!(unlike.is_empty(), "not the same in both: {unlike:?}");
}

/// Whether a command leaves the connection as it is, so that others may follow it.
fn is_harmless(case: &Case) -> bool {
    const STATEFUL: [&[u8]; 9] =
        [b"multi", b"monitor", b"sync", b"psync", b"quit", b"reset", b"subscribe", b"psubscribe", b"ssubscribe"];
    !STATEFUL.contains(&case.command[0].as_ref())
}
