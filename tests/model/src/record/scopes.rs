//! The scopes in which one record is explored: small ones for every run of the tests, larger ones for `make model`.

use super::{Left, Scope};

const NOTHING: Left = Left {
    sets: 0,
    deletes: 0,
    takes: 0,
    expires: 0,
    ticks: 0,
    evictions: 0,
    failovers: 0,
    restarts: 0,
    restored: 0,
    beats: 0,
    sweeps: 0,
    backfills: 0,
    lifts: 0,
    restores: 0,
};

const PLAIN: Scope = Scope {
    name: "",
    left: NOTHING,
    drainers: 2,
    restorers: 0,
    reads: true,
    asks_presence: true,
    is_gated: false,
    was_there: false,
    repeats: true,
    waits: false,
};

/// Writes, deletes, and the sweep of their tombstones, with two drainers, a writer that waits and a reader.
pub const WRITES: Scope =
    Scope { name: "writes", left: Left { sets: 2, deletes: 1, sweeps: 1, ..NOTHING }, waits: true, ..PLAIN };

/// Expiry and commands that may change nothing.
pub const EXPIRY: Scope =
    Scope { name: "expiry", left: Left { sets: 1, expires: 2, ticks: 1, takes: 1, sweeps: 1, ..NOTHING }, ..PLAIN };

/// Evictions.
pub const EVICTION: Scope = Scope {
    name: "eviction",
    left: Left { sets: 1, expires: 1, takes: 1, evictions: 1, sweeps: 1, ..NOTHING },
    ..PLAIN
};

/// As expiry, where the fence does not ask whether the record is there: then the row's own fate and expiry must do.
pub const BLIND: Scope = Scope {
    name: "expiry, presence not asked",
    left: Left { sets: 1, expires: 1, ticks: 1, deletes: 1, sweeps: 1, ..NOTHING },
    asks_presence: false,
    ..PLAIN
};

/// A record that was there before anything was mirrored, and the backfill.
pub const BACKFILL: Scope = Scope {
    name: "backfill",
    left: Left { sets: 1, deletes: 1, sweeps: 1, backfills: 1, ..NOTHING },
    was_there: true,
    drainers: 1,
    ..PLAIN
};

/// A failover that loses writes, and the lift.
pub const FAILOVER: Scope = Scope {
    name: "failover",
    left: Left { sets: 2, deletes: 0, failovers: 1, lifts: 1, ..NOTHING },
    repeats: false,
    waits: true,
    ..PLAIN
};

/// Two failovers.
pub const FAILOVERS: Scope = Scope {
    name: "two failovers",
    left: Left { sets: 1, failovers: 2, lifts: 2, ..NOTHING },
    drainers: 1,
    repeats: false,
    ..PLAIN
};

/// A failover after which a tombstone or a row has been swept.
pub const FAILOVER_SWEEP: Scope = Scope {
    name: "failover and sweep",
    left: Left { sets: 1, deletes: 1, failovers: 1, lifts: 1, sweeps: 1, ..NOTHING },
    repeats: false,
    ..PLAIN
};

/// A restart with nothing, and two restores at once.
pub const RESTART: Scope = Scope {
    name: "restart with nothing",
    left: Left { sets: 1, deletes: 1, restarts: 1, restores: 2, lifts: 1, ..NOTHING },
    drainers: 1,
    restorers: 2,
    repeats: false,
    ..PLAIN
};

/// Postgres goes back to a backup; its backfill and the other direction make up for it.
pub const WENT_BACK: Scope = Scope {
    name: "postgres went back",
    left: Left { sets: 2, deletes: 1, restored: 1, beats: 2, backfills: 1, ..NOTHING },
    drainers: 1,
    is_gated: true,
    repeats: false,
    ..PLAIN
};

/// What every run of the tests explores to its end.
pub const SMALL: &[Scope] =
    &[WRITES, EXPIRY, EVICTION, BLIND, BACKFILL, FAILOVER, FAILOVERS, FAILOVER_SWEEP, RESTART, WENT_BACK];

/// What `make model` explores besides.
pub const LARGE: &[Scope] = &[
    Scope { name: "writes, more", left: Left { sets: 3, deletes: 1, sweeps: 1, ..NOTHING }, ..WRITES },
    Scope {
        name: "expiry, more",
        left: Left { sets: 2, expires: 1, ticks: 1, takes: 1, deletes: 0, sweeps: 1, ..NOTHING },
        ..EXPIRY
    },
    Scope {
        name: "eviction, more",
        left: Left { sets: 2, expires: 1, takes: 1, evictions: 1, sweeps: 1, ..NOTHING },
        ..EVICTION
    },
    Scope {
        name: "backfill, two drainers",
        left: Left { sets: 1, deletes: 1, expires: 1, ticks: 1, sweeps: 1, backfills: 1, ..NOTHING },
        drainers: 2,
        ..BACKFILL
    },
    Scope {
        name: "failover, more",
        left: Left { sets: 2, deletes: 1, failovers: 1, lifts: 2, ..NOTHING },
        waits: false,
        ..FAILOVER
    },
    Scope {
        name: "failover and expiry",
        left: Left { sets: 1, expires: 1, ticks: 1, failovers: 1, lifts: 1, sweeps: 1, ..NOTHING },
        waits: false,
        ..FAILOVER
    },
    Scope {
        name: "failover and eviction",
        left: Left { sets: 1, deletes: 1, evictions: 1, failovers: 1, lifts: 1, ..NOTHING },
        waits: false,
        ..FAILOVER
    },
    Scope {
        name: "two failovers, more",
        left: Left { sets: 1, deletes: 1, failovers: 2, lifts: 3, ..NOTHING },
        drainers: 2,
        ..FAILOVERS
    },
    Scope {
        name: "restart with nothing, more",
        left: Left { sets: 2, deletes: 1, expires: 1, ticks: 1, restarts: 1, restores: 2, ..NOTHING },
        ..RESTART
    },
    Scope {
        name: "restart with nothing, two drainers",
        left: Left { sets: 1, deletes: 1, restarts: 1, restores: 2, ..NOTHING },
        drainers: 2,
        ..RESTART
    },
    Scope {
        name: "postgres went back, expiry",
        left: Left {
            sets: 1,
            deletes: 1,
            expires: 1,
            ticks: 1,
            restored: 1,
            beats: 1,
            backfills: 1,
            sweeps: 1,
            ..NOTHING
        },
        ..WENT_BACK
    },
    Scope {
        name: "postgres went back, two drainers",
        left: Left { sets: 2, restored: 1, beats: 1, backfills: 1, ..NOTHING },
        drainers: 2,
        ..WENT_BACK
    },
];
