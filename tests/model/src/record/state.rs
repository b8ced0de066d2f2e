//! The state of the model of one record: both stores, and whoever stands between two of his steps.

use std::fmt;

use parallax::stores::postgres::rows;

use crate::property::Property;

/// Drainers that there is room for.
pub(super) const DRAINERS: usize = 2;
/// Restorers that there is room for.
pub(super) const RESTORERS: usize = 2;
/// No value, no token, no anchor.
pub(super) const NONE: u8 = 0;

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Left {
    /// SET.
    pub sets: u8,
    /// DEL.
    pub deletes: u8,
    /// HDEL of the only field.
    pub takes: u8,
    /// EXPIRE, to the next tick.
    pub expires: u8,
    /// Ticks of the clock.
    pub ticks: u8,
    /// Evictions.
    pub evictions: u8,
    /// Failovers of Redis.
    pub failovers: u8,
    /// Restarts of Redis with nothing.
    pub restarts: u8,
    /// Postgres restored from a backup.
    pub restored: u8,
    /// Heartbeats.
    pub beats: u8,
    /// Sweeps of rows.
    pub sweeps: u8,
    /// Backfills.
    pub backfills: u8,
    /// Lifts begun.
    pub lifts: u8,
    /// Restores begun.
    pub restores: u8,
}

/// What became of a record, as a row or a capture says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Fate {
    /// There is no row.
    #[default]
    None,
    /// It is there.
    Present,
    /// Absent without the bit.
    Gone,
    /// A tombstone.
    Deleted,
}

impl Fate {
    pub(super) fn is_present(self) -> bool {
        self == Self::Present
    }
}

impl From<rows::Fate> for Fate {
    fn from(fate: rows::Fate) -> Self {
        match fate {
            rows::Fate::Present => Self::Present,
            rows::Fate::Gone => Self::Gone,
            rows::Fate::Deleted => Self::Deleted,
        }
    }
}

/// What a Redis holds. A replica holds the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Redis {
    pub(super) value: u8,
    pub(super) expires: u8,
    pub(super) token: u8,
    pub(super) is_gone: bool,
    pub(super) clock: u8,
    pub(super) run: u8,
    pub(super) anchor_run: u8,
    pub(super) anchor_epoch: u8,
    pub(super) beat: u8,
    pub(super) timeline: u8,
    pub(super) backfilled: u8,
    /// For judging alone: why the record is absent, whether it was ever marked, and what this lineage has seen written.
    pub(super) was_deleted: bool,
    pub(super) was_evicted: bool,
    pub(super) is_unmirrored: bool,
    pub(super) history: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Row {
    pub(super) version: u8,
    pub(super) value: u8,
    pub(super) expires: u8,
    pub(super) fate: Fate,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Postgres {
    pub(super) row: Row,
    pub(super) floor: u8,
    pub(super) epoch: u8,
    pub(super) beat: u8,
    /// What a failover or a restore from a backup changes, and a data folder that is put back does not.
    pub(super) timeline: u8,
    /// For judging alone: every write that was ever applied, or overtaken by one that was.
    pub(super) applied: u16,
}

/// How far whoever holds a capture has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Phase {
    #[default]
    Idle,
    Captured,
    /// Of a mutant: between two steps that the rule makes one.
    Checked,
    Applied,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Captured {
    pub(super) phase: Phase,
    pub(super) token: u8,
    pub(super) version: u8,
    pub(super) run: u8,
    pub(super) epoch: u8,
    pub(super) beat: u8,
    pub(super) value: u8,
    pub(super) expires: u8,
    pub(super) fate: Fate,
    pub(super) history: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Backfill {
    pub(super) is_running: bool,
    pub(super) is_captured: bool,
    pub(super) is_reversed: bool,
    pub(super) epoch: u8,
    pub(super) capture: Captured,
}

/// A read and a comparison behind the same fence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Reader {
    pub(super) is_reading: bool,
    pub(super) is_comparing: bool,
    pub(super) clock: u8,
    pub(super) epoch: u8,
    pub(super) is_outside: bool,
    pub(super) time: u8,
    pub(super) beat: u8,
    pub(super) value: u8,
    pub(super) expires: u8,
    pub(super) was_evicted: bool,
    pub(super) backfilled: u8,
    /// Of a mutant: what was read before the fence.
    pub(super) row: Row,
    pub(super) floor: u8,
    pub(super) row_epoch: u8,
    pub(super) row_beat: u8,
    /// What Redis held at any moment since the read began, by value.
    pub(super) seen: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Lift {
    pub(super) step: u8,
    pub(super) run: u8,
    pub(super) epoch: u8,
    pub(super) clock: u8,
    pub(super) has_ghost: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Restorer {
    pub(super) step: u8,
    pub(super) run: u8,
    pub(super) epoch: u8,
    pub(super) value: u8,
    pub(super) expires: u8,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub(super) left: Left,
    pub(super) now: u8,
    /// The next number: of a value, of a token, of both.
    pub(super) next: u8,
    pub(super) redis: Redis,
    pub(super) has_replica: bool,
    pub(super) replica: Redis,
    pub(super) runs: u8,
    pub(super) postgres: Postgres,
    pub(super) has_backup: bool,
    pub(super) backup: Postgres,
    /// The epoch in which Postgres went back; 0 when it did not.
    pub(super) went_back: u8,
    pub(super) drainers: [Captured; DRAINERS],
    pub(super) backfill: Backfill,
    pub(super) reader: Reader,
    pub(super) lift: Lift,
    pub(super) restorers: [Restorer; RESTORERS],
    /// Of a mutant: a write between its two steps.
    pub(super) half: u8,
    /// A writer that waits: its token.
    pub(super) waiter: u8,
    /// Values that Redis lost, and those of them that are listed.
    pub(super) lost: u16,
    pub(super) listed: u16,
    /// What Postgres held when Redis was lost, until the application writes the record again.
    pub(super) owed: u8,
    pub(super) broken: Option<Property>,
}

impl State {
    pub(super) fn first(left: Left, was_there: bool) -> Self {
        let redis = Redis {
            run: 1,
            anchor_run: 1,
            anchor_epoch: 1,
            beat: 1,
            timeline: 1,
            value: u8::from(was_there),
            is_unmirrored: was_there,
            history: u16::from(was_there) << 1,
            backfilled: u8::from(!was_there),
            ..Redis::default()
        };
        Self {
            left,
            now: 0,
            next: 2,
            redis,
            has_replica: false,
            replica: Redis::default(),
            runs: 1,
            postgres: Postgres { epoch: 1, beat: 1, timeline: 1, ..Postgres::default() },
            has_backup: false,
            backup: Postgres::default(),
            went_back: 0,
            drainers: [Captured::default(); DRAINERS],
            backfill: Backfill::default(),
            reader: Reader::default(),
            lift: Lift::default(),
            restorers: [Restorer::default(); RESTORERS],
            half: 0,
            waiter: 0,
            lost: 0,
            listed: 0,
            owed: 0,
            broken: None,
        }
    }

    /// A number that nothing else has: a value, a token.
    pub(super) fn number(&mut self) -> u8 {
        let number = self.next;
        self.next += 1;
        assert!(number < 16, "a scope with more writes and marks than a history has bits");
        number
    }

    /// P1: whether this is the Postgres that Redis knows, and not an earlier moment of it. A connection is made anew when the
    /// server was replaced, and every new one asks this before it reads or applies.
    pub(super) fn knows_postgres(&self) -> bool {
        let (redis, postgres) = (&self.redis, &self.postgres);
        redis.timeline == NONE || postgres.timeline == redis.timeline && postgres.beat >= redis.beat
    }

    /// Whether a backfill of the epoch that holds is complete.
    pub(super) fn is_backfilled(&self) -> bool {
        self.redis.backfilled == self.redis.anchor_epoch
    }

    /// Postgres went back, and nothing has made up for it.
    pub(super) fn owes_backfill(&self) -> bool {
        self.went_back > 0 && (!self.is_backfilled() || self.redis.anchor_epoch <= self.went_back)
    }

    /// What Redis holds has changed: whoever reads now may be answered with it.
    pub(super) fn changed(&mut self) {
        if self.reader.is_reading {
            self.reader.seen |= 1 << self.redis.value;
        }
    }

    pub(super) fn breaks(&mut self, property: Property) {
        self.broken = self.broken.or(Some(property));
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Redis { value, expires, token, is_gone, clock, run, anchor_run, anchor_epoch, .. } = &self.redis;
        let bit = if *is_gone { "!" } else { "" };
        let held = if *value == NONE { "absent".to_owned() } else { format!("v{value}") };
        write!(f, "redis: {held}")?;
        if *expires > 0 {
            write!(f, " until {expires} (now {})", self.now)?;
        }
        let mark = if *token == NONE { "no mark".to_owned() } else { format!("mark {token}{bit}") };
        write!(f, ", {mark}, clock {clock}, run {run}, anchor {anchor_run}/{anchor_epoch}")?;
        let Row { version, value, fate, expires } = &self.postgres.row;
        match fate {
            Fate::None => write!(f, " | postgres: no row")?,
            Fate::Present => write!(f, " | postgres: v{value} @{version}")?,
            Fate::Gone => write!(f, " | postgres: gone (v{value}) @{version}")?,
            Fate::Deleted => write!(f, " | postgres: tombstone @{version}")?,
        }
        if *expires > 0 {
            write!(f, " until {expires}")?;
        }
        write!(
            f,
            ", floor {}, epoch {}, beat {}/{}",
            self.postgres.floor, self.postgres.epoch, self.postgres.beat, self.redis.beat
        )
    }
}
