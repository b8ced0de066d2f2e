//! The Redis side: connections that know which server they reach, and the scripts that stand in one atomic step.
//!
//! Everything that Parallax keeps in Redis is named here, and begins with `parallax:`.

pub mod capture;
pub mod change;
pub mod commands;
pub mod connection;
pub mod fence;
pub mod figures;
pub mod gaps;
pub mod lane;
pub mod lease;
pub mod lineage;
pub mod marks;
mod parts;
pub mod refill;
pub mod script;
pub mod subscription;
pub mod tally;
pub mod wire;

pub use connection::Redis;

/// The hash of marks: key -> token, with `!` at the end when the write left the key absent.
pub const OUTBOX: &str = "parallax:outbox";
/// The companion hash of a collection: what was touched -> token (W3).
pub const ELEMENTS_PREFIX: &str = "parallax:elements:";
/// What is known of a log: `counter` of pushes, `captured` (the last entry that Postgres has).
pub const LOG_PREFIX: &str = "parallax:log:";
/// Notes of presence and older marks, alive only inside one EXEC (W2).
pub const NOTE: &str = "parallax:note";
/// The last version given, in microseconds.
pub const CLOCK: &str = "parallax:clock";
/// Which server and which epoch versions belong to (C1).
pub const ANCHOR: &str = "parallax:anchor";
/// Which Postgres we knew, and its heartbeat (P1).
pub const POSTGRES: &str = "parallax:postgres";
/// Flags: kind -> JSON, and `version`.
pub const FLAGS: &str = "parallax:flags";
/// Audit rows of changed flags that Postgres may not have yet.
pub const AUDITS: &str = "parallax:audits";
/// Capture gaps that Postgres may not have yet: kind and cause -> versions.
pub const GAPS: &str = "parallax:gaps";
/// Sidecars: instance -> lease and confirmed version (S2).
pub const SIDECARS: &str = "parallax:sidecars";
/// What each sidecar has counted: instance -> JSON.
pub const FIGURES: &str = "parallax:figures";
/// Backfilled kinds: kind -> the epoch in which the backfill was committed (S4).
pub const BACKFILLED: &str = "parallax:backfilled";
/// Kinds with writes that no mark can follow: kind -> reason (G2).
pub const UNVERIFIABLE: &str = "parallax:unverifiable";
/// The channel on which a change of flags is told.
pub const FLAGS_CHANNEL: &str = "parallax:flags:changed";
/// Where collections and logs are gathered that go back to a Redis that was lost.
pub const REFILL_PREFIX: &str = "parallax:refill:";
/// Plans: kind or group -> JSON.
pub const PLANS: &str = "parallax:plans";
/// What the leader saw of each plan last: kind or group -> JSON.
pub const JUDGEMENTS: &str = "parallax:judgements";
/// The decisions about a plan, newest first.
pub const DECISIONS_PREFIX: &str = "parallax:decisions:";
/// The lease of the one sidecar that sweeps tombstones.
pub const EXPUNGE_LEASE: &str = "parallax:lease:expunge";
/// Raised whenever a script of ours calls a command that is watched for writes which bypass every sidecar.
pub const UNWATCHED: &str = "parallax:unwatched";
/// The lease of the one sidecar that looks for writes which bypass every sidecar.
pub const BYPASS_LEASE: &str = "parallax:lease:bypass";
/// The lease of the one sidecar that sweeps the outbox.
pub const SWEEP_LEASE: &str = "parallax:lease:sweep";
