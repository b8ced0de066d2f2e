//! Where the model asks the product: which mark a command leaves, what an absent record is taken for, whether a row may answer,
//! and what a comparison means. These are the product's own pure functions, so a wrong decision there breaks the model.

use std::sync::Arc;

use parallax::dual::plan::{self, MirroredTouch, Step};
use parallax::dual::settle::{self, Due};
use parallax::dual::verdict;
use parallax::model::catalog::{Catalog, Kind};
use parallax::model::command::Command;
use parallax::model::command::effect;
use parallax::model::key::Key;
use parallax::model::value::Value;
use parallax::stores::postgres::read::{Control, Row};
use parallax::stores::postgres::rows::{Fate, Item};
use parallax::stores::redis::capture::{Captured, Found, Stamp, Token};
use parallax::stores::redis::fence::{Fence, Look};

/// The key of the models, of a kind that is mirrored as a document.
pub const KEY: &str = "claude:account:one";
/// A second key of the same kind.
pub const OTHER: &str = "claude:account:two";

/// How the product marks one key of an EXEC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The mark carries the bit from the beginning.
    pub is_gone: bool,
    /// Whether the key is there is looked at after the commands, and the older mark put back if nothing changed.
    pub is_settled: bool,
    /// Absent at the end means deleted, also when it was absent before.
    pub is_decided: bool,
}

/// What the product decides.
pub struct Product {
    kind: Arc<Kind>,
    catalog: Catalog,
}

/// What the fence said, as far as a decision looks at it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    /// The last version given.
    pub clock: u8,
    /// The epoch; `None` outside the lineage.
    pub epoch: Option<u8>,
    /// Redis' time, in ticks.
    pub time: u8,
    /// The heartbeat that Redis knew.
    pub beat: u8,
}

/// What Postgres held, the control row and the record's row in one statement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    /// The epoch of the control row.
    pub epoch: u8,
    /// Its floor.
    pub floor: u8,
    /// The heartbeat.
    pub beat: u8,
    /// The row.
    pub row: Option<HeldRow>,
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub struct HeldRow {
    /// Its version.
    pub version: u8,
    /// Its value.
    pub value: u8,
    /// Its expiry in ticks; 0 for none.
    pub expires: u8,
    /// What became of the record.
    pub fate: Fate,
    /// Whether all of it is there.
    pub is_complete: bool,
}

impl Default for Product {
    fn default() -> Self {
        let catalog = Catalog::embedded();
        let kind = Arc::clone(catalog.kind_of(KEY.as_bytes()));
        assert!(kind.is_mirrored(), "the model's key belongs to a mirrored kind");
        Self { kind, catalog }
    }
}

impl Product {
    /// How the product marks the keys of `command`; `positions` says where they stand in it.
    #[must_use]
    pub fn plans(&self, command: &str, positions: &[usize]) -> Vec<Plan> {
        let command = Command::new(command.split(' ').map(str::to_owned));
        let keys: Vec<_> = positions.iter().filter_map(|at| command.arg(*at).cloned()).collect();
        let mirrored = |touch: effect::Touch| MirroredTouch {
            kind: Arc::clone(self.catalog.kind_of(touch.key.as_bytes())),
            touch,
        };
        let touches = effect::touches(&command, positions).into_iter().map(mirrored).collect();
        let exec = plan::exec(&[Step { command, touches }], "token");
        keys.iter()
            .map(|key| exec.commands.iter().fold(Plan::default(), |plan, command| read_mark(plan, command, key)))
            .collect()
    }

    /// What the product makes of a captured record.
    #[must_use]
    pub fn fate(&self, is_present: bool, is_gone: bool) -> Fate {
        let stamp = Stamp { version: 1, epoch: 1, time_us: 1, beat: 1 };
        let found = if is_present {
            Found::Value { value: Value::String("value".into()), expires_at_ms: None }
        } else {
            Found::Absent
        };
        let token = Token(if is_gone { "token!".into() } else { "token".into() });
        match settle::due(&self.kind, &stamp, Captured { key: Key::new(KEY), token, found }) {
            Due::Write(item, _) => match *item {
                Item::Record(_, row) => row.fate,
                item @ (Item::Elements(..) | Item::Absent(..) | Item::Log { .. }) => panic!("no document: {item:?}"),
            },
            due @ (Due::Nothing | Due::Later | Due::Whole | Due::Dead(_)) => panic!("a marked document owes: {due:?}"),
        }
    }

    /// Whether the product lets the row answer (R1).
    #[must_use]
    pub fn believes(&self, said: &Said, held: &Held) -> bool {
        verdict::believe(&fence(said), &control(held), row(held).as_ref()).is_ok()
    }

    /// The class of the mismatch that the product sees (R2). `value` and `expires` are what Redis held at the look.
    #[must_use]
    pub fn mismatch(
        &self,
        is_backfilled: bool,
        said: &Said,
        (value, expires): (u8, u8),
        held: &Held,
    ) -> Option<&'static str> {
        let look = Look {
            fence: fence(said),
            is_pending: false,
            type_name: String::new(),
            expires_at_ms: (expires > 0).then_some(i64::from(expires) * 1_000_000),
            etag: String::new(),
            value: (value > 0).then(|| text(value)),
        };
        verdict::judge(&self.kind, is_backfilled, &look, &control(held), row(held).as_ref()).class()
    }
}

/// What one command of the EXEC says of the mark of `key`.
fn read_mark(mut plan: Plan, command: &Command, key: &[u8]) -> Plan {
    let args = &command.0;
    match command.name().as_str() {
        "HMSET" => {
            let token = args.iter().position(|arg| arg == key).and_then(|at| args.get(at + 1));
            plan.is_gone |= token.is_some_and(|token| token.ends_with(b"!"));
        }
        "EVAL" => {
            let count: usize = String::from_utf8_lossy(&args[2]).parse().expect("EVAL counts its keys");
            let (keys, rest) = args[3..].split_at(count);
            let Some(place) = keys.iter().position(|named| named == key).map(|at| at - 2) else { return plan };
            if rest.len() == count - 1 {
                plan.is_settled = true;
                plan.is_decided = &rest[1 + place][..] == b"d";
            } else {
                let mut at = 1;
                for _ in 0..place {
                    let fields: usize = String::from_utf8_lossy(&rest[at + 1]).parse().expect("a number of fields");
                    at += 2 + fields;
                }
                plan.is_gone |= rest[at].contains(&b'g');
            }
        }
        _ => {}
    }
    plan
}

fn fence(said: &Said) -> Fence {
    Fence {
        clock: i64::from(said.clock),
        epoch: said.epoch.map_or(-1, i64::from),
        time_us: i64::from(said.time) * 1_000_000_000,
        beat: i64::from(said.beat),
    }
}

fn control(held: &Held) -> Control {
    Control { epoch: held.epoch.into(), floor: held.floor.into(), beat: held.beat.into() }
}

fn row(held: &Held) -> Option<Row> {
    held.row.map(|row| Row {
        version: row.version.into(),
        fate: row.fate,
        expires_at_ms: (row.expires > 0).then_some(i64::from(row.expires) * 1_000_000),
        value: (row.fate == Fate::Present).then(|| text(row.value)),
        is_complete: row.is_complete,
    })
}

fn text(value: u8) -> Value {
    Value::String(vec![b'0' + value].into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_says_how_each_command_marks() {
        let product = Product::default();
        let one = |command: &str| product.plans(&command.replace("KEY", KEY), &[1])[0];
        assert_eq!(one("SET KEY v"), Plan::default());
        assert_eq!(one("DEL KEY"), Plan { is_gone: true, ..Plan::default() });
        assert_eq!(one("HDEL KEY f"), Plan { is_settled: true, ..Plan::default() });
        assert_eq!(one("EXPIRE KEY 10"), Plan { is_settled: true, ..Plan::default() });
        let both = product.plans(&format!("RENAME {KEY} {OTHER}"), &[1, 2]);
        assert_eq!(both, [Plan { is_settled: true, ..Plan::default() }; 2]);
    }

    #[test]
    fn the_product_says_what_an_absence_is() {
        let product = Product::default();
        assert_eq!(product.fate(true, false), Fate::Present);
        assert_eq!(product.fate(false, true), Fate::Deleted);
        assert_eq!(product.fate(false, false), Fate::Gone);
    }
}
