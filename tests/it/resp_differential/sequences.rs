//! Random sequences over few keys: every line of the command file on keys of random families that hold whatever the
//! sequence left in them, in pipelines of random length, with transactions, watches and another database between.

use parallax::traffic::world::Dice;

use super::cases::{self, Family};
use super::policy::is_refused;
use super::wire::{Words, words};

/// Lines whose effect depends on the time or on a lot, so that the two sides would part for good; and what the door
/// refuses in a transaction.
const PARTING: [&str; 14] = [
    " * ",
    "-* ",
    "nosort",
    "DUMP",
    "RESTORE",
    "MIGRATE",
    "CONFIG",
    "SELECT",
    "HELLO",
    "AUTH",
    "SPOP %n",
    "100 GT",
    "100 LT",
    "100000 GT",
];

/// The keys of each family.
const ROLES: [&str; 3] = ["k", "r1", "r2"];

/// Pipelines of a sequence.
pub(super) fn sequence(dice: &mut Dice, pipelines: usize) -> Vec<Vec<Words>> {
    let lines: Vec<&str> = cases::lines_of_commands()
        .filter(|line| !PARTING.iter().any(|part| line.contains(part)) && !is_refused(&words(line)))
        .collect();
    (0..pipelines).map(|_| pipeline(dice, &lines)).collect()
}

fn pipeline(dice: &mut Dice, lines: &[&str]) -> Vec<Words> {
    let mut commands = Vec::new();
    let length = if dice.below(4) == 0 { 1 + dice.below(40) } else { 1 + dice.below(4) };
    let frame = dice.below(10);
    match frame {
        0..=2 => commands.push(words("MULTI")),
        3 => commands.extend([words(&format!("WATCH {}", key(dice))), words("MULTI")]),
        4 => commands.push(words("SELECT 1")),
        _ => {}
    }
    for _ in 0..length {
        commands.push(random(dice, lines));
    }
    match frame {
        0..=3 if dice.below(6) == 0 => commands.push(words("DISCARD")),
        0..=3 => commands.push(words("EXEC")),
        4 => commands.push(words("SELECT 0")),
        _ => {}
    }
    commands
}

fn random(dice: &mut Dice, lines: &[&str]) -> Words {
    // What makes keys is drawn more often, so that there is something to act on.
    let line = match dice.below(5) {
        0 => makes(dice).to_owned(),
        _ => (*dice.pick(lines)).to_owned(),
    };
    let mut filled = line;
    for role in ["%k", "%j", "%d", "%n", "%u"] {
        while filled.contains(role) {
            filled = filled.replacen(role, &key(dice), 1);
        }
    }
    words(&filled)
}

fn makes(dice: &mut Dice) -> &'static str {
    const MAKING: [&str; 8] = [
        "SET %k 10",
        "SET %k 'hello world' EX 1000",
        "HSET %k f v g w n 10",
        "RPUSH %k a b c",
        "SADD %k a b c",
        "SADD %k 1 2 3",
        "ZADD %k 1 a 2 b 3.5 c",
        "DEL %k",
    ];
    dice.pick::<&str>(&MAKING)
}

/// The keys of a sequence.
pub(super) fn keys() -> Vec<String> {
    Family::ALL.iter().flat_map(|family| ROLES.iter().map(|role| family.key(role))).collect()
}

fn key(dice: &mut Dice) -> String {
    let family = *dice.pick(&Family::ALL);
    family.key(dice.pick::<&str>(&ROLES))
}
