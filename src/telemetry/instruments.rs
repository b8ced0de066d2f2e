//! Every instrument of Parallax in one struct: its doc comment is its help text, its name is the one that Prometheus shows.

use crate::model::catalog::Table;
use crate::telemetry::commands::COMMANDS;
use crate::telemetry::labels::{
    ApplyFailure, Brake, CaptureRefusal, Compared, ComparisonDrop, Door, Export, GapCause, Job, JobEnd, Label,
    MismatchClass, Operation, Outcome, Quantile, RouteReason, SpanDrop, StatusClass, Store,
};
use crate::telemetry::series::{Counter, Gauge, Histogram, Registrar};

/// The table of the headers, which no kind names and every collection has a row in.
const HEADERS: &str = "collections";

/// The tables that rows are upserted into, as the label `table` knows them.
pub(super) fn tables() -> impl Iterator<Item = &'static str> {
    Table::ALL.iter().map(|table| table.name()).chain([HEADERS])
}

/// An instrument as the reference describes it.
pub(super) struct Described {
    /// Its name, without `_total`.
    pub(super) name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub(super) shape: &'static str,
    /// What it counts.
    pub(super) help: &'static str,
    /// Its labels and their values.
    pub(super) labels: &'static [(&'static str, Told)],
}

/// The values of a label.
pub(super) enum Told {
    /// Known at the start only, in words.
    Open(&'static str),
    /// A closed set.
    Closed {
        /// What the set says.
        about: &'static str,
        /// Its values.
        names: &'static [&'static str],
        /// What each of them means.
        meanings: &'static [&'static str],
    },
}

/// What a label may be: the catalog's kinds, our tables, our version, or a closed enum.
macro_rules! values {
    ($registrar:ident, kind) => {
        $registrar.kinds()
    };
    ($registrar:ident, table) => {
        tables().map(str::to_owned).collect()
    };
    ($registrar:ident, command) => {
        COMMANDS.iter().map(|&name| name.to_owned()).collect()
    };
    ($registrar:ident, version) => {
        vec![env!("CARGO_PKG_VERSION").to_owned()]
    };
    ($registrar:ident, $set:ident) => {
        $set::NAMES.iter().map(|&name| name.to_owned()).collect()
    };
}

/// What a label may be, as the reference tells it.
macro_rules! told {
    (kind) => {
        Told::Open("the kinds of the catalog")
    };
    (table) => {
        Told::Open("the tables of Postgres that hold records")
    };
    (command) => {
        Told::Open("the commands of Redis in lower case, `other` for every other name")
    };
    (version) => {
        Told::Open("the version of the program")
    };
    ($set:ident) => {
        Told::Closed { about: $set::ABOUT, names: $set::NAMES, meanings: $set::MEANINGS }
    };
}

macro_rules! instrument_type {
    (counter) => {
        Counter
    };
    (gauge) => {
        Gauge
    };
    (histogram) => {
        Histogram
    };
}

/// Declares the instruments: the doc comment is the help text, and the name is the one in Prometheus (without `_total`).
macro_rules! instruments {
    ($($(#[doc = $help:literal])+ $field:ident: $type:ident $name:literal { $($label:ident: $set:ident),* },)+) => {
        /// Every instrument as the reference describes it.
        pub(super) const DESCRIBED: &[Described] = &[
            $(Described {
                name: $name,
                shape: stringify!($type),
                help: concat!($($help),+).trim_ascii(),
                labels: &[$((stringify!($label), told!($set))),*],
            },)+
        ];

        /// All instruments of one sidecar.
        pub(super) struct Instruments {
            $($(#[doc = $help])+ pub(super) $field: instrument_type!($type),)+
        }

        impl Instruments {
            /// The instruments, made by `registrar`.
            pub(super) fn new(registrar: &Registrar) -> Self {
                Self {
                    $($field: registrar.$type(
                        $name,
                        concat!($($help),+).trim_ascii(),
                        &[$((stringify!($label), values!(registrar, $set))),*],
                    ),)+
                }
            }
        }
    };
}

instruments! {
    /// Commands that callers sent, by door and by how they ended.
    commands: counter "parallax_commands" { door: Door, result: Outcome },
    /// Reads answered, by the store that answered and the reason why it did.
    reads: counter "parallax_reads" { kind: kind, store: Store, reason: RouteReason },
    /// Reads of live kinds that Redis answered because Postgres cannot be asked for this command.
    not_cut_over: counter "parallax_not_cut_over" { command: command },
    /// Commands that may write and were forwarded without a mark, because no key of theirs is known.
    keyless_writes: counter "parallax_keyless_writes" { command: command },
    /// Write commands to mirrored kinds.
    writes: counter "parallax_writes" { kind: kind },
    /// Rows sent to Postgres by applies.
    row_upserts: counter "parallax_row_upserts" { table: table },
    /// Tombstones and rows past their retention that were swept.
    expunged_rows: counter "parallax_expunged_rows" { table: table },
    /// Apply transactions that committed.
    applies: counter "parallax_applies" {},
    /// Applies, or rows of them, that did not commit.
    apply_failures: counter "parallax_apply_failures" { reason: ApplyFailure },
    /// Time from a mark to the commit of its record in Postgres.
    mirror_lag: histogram "parallax_mirror_lag_seconds" { kind: kind },
    /// Records that Postgres owes a look: the marks in the outbox.
    outbox_depth: gauge "parallax_outbox_depth" {},
    /// Age of the oldest mark in the outbox.
    outbox_oldest: gauge "parallax_outbox_oldest_seconds" {},
    /// Wake-ups of the drain that found its queue full; the sweep of the outbox takes up their marks.
    outbox_queue_dropped: counter "parallax_outbox_queue_dropped" {},
    /// Calls of the capture script.
    captures: counter "parallax_captures" {},
    /// Records read by captures.
    captured_records: counter "parallax_captured_records" {},
    /// Captures that were refused a version.
    capture_refused: counter "parallax_capture_refused" { reason: CaptureRefusal },
    /// Marks that could not be set with their write: the outbox key is broken.
    mark_failures: counter "parallax_mark_failures" {},
    /// Records put among the dead letters because Postgres refused them.
    dead_letters: counter "parallax_dead_letters" { kind: kind },
    /// Gaps in logs: entries trimmed before they were captured.
    log_gaps: counter "parallax_log_gaps" { kind: kind },
    /// Entries lost to gaps in logs.
    log_gap_entries: counter "parallax_log_gap_entries" { kind: kind },
    /// Records that Redis evicted while Postgres was owed them.
    evicted_while_pending: counter "parallax_evicted_while_pending" { kind: kind },
    /// Writes that could not be mirrored in a way that is provable.
    unverifiable: counter "parallax_unverifiable" { kind: kind },
    /// Comparisons of both stores, by what they found.
    comparisons: counter "parallax_comparisons" { kind: kind, verdict: Compared },
    /// Proven differences between the stores.
    mismatches: counter "parallax_mismatches" { kind: kind, class: MismatchClass },
    /// Sampled comparisons that were given up.
    comparisons_dropped: counter "parallax_comparisons_dropped" { reason: ComparisonDrop },
    /// Time that a store took, by operation.
    store_latency: histogram "parallax_store_latency_seconds" { store: Store, operation: Operation },
    /// How much longer Postgres took than Redis for the same kind of work, over the last minute; 0 where one was not asked.
    latency_difference: gauge "parallax_store_latency_difference_seconds" { operation: Operation, percentile: Quantile },
    /// Failed calls to a store.
    store_errors: counter "parallax_store_errors" { store: Store, operation: Operation },
    /// Connections in the Postgres pool.
    pool_size: gauge "parallax_postgres_pool_size" {},
    /// Idle connections in the Postgres pool.
    pool_idle: gauge "parallax_postgres_pool_idle" {},
    /// Callers waiting for a connection of the Postgres pool.
    pool_waiting: gauge "parallax_postgres_pool_waiting" {},
    /// Postgres was found to have gone back in time, or to be another server.
    postgres_went_back: counter "parallax_postgres_went_back" {},
    /// Capture gaps that this sidecar wrote down, by what could have missed a write.
    capture_gaps: counter "parallax_capture_gaps" { cause: GapCause },
    /// Capture gaps that no comparison has closed for every marked kind.
    capture_gaps_open: gauge "parallax_capture_gaps_open" {},
    /// 1 while a proof holds for a kind: a clean comparison of all its records within a day and behind every capture gap.
    proof_holds: gauge "parallax_proof_holds" { kind: kind },
    /// Age of the proof that holds for a kind; 0 without one.
    proof_age: gauge "parallax_proof_age_seconds" { kind: kind },
    /// Version of the flags that this sidecar acts on.
    flags_version: gauge "parallax_flags_version" {},
    /// 1 while this sidecar holds a valid lease on the flags, else 0.
    lease_valid: gauge "parallax_lease_valid" {},
    /// Stage of a kind: 0 off, 1 dualwrite, 2 shadow, 3 live.
    stage: gauge "parallax_stage" { kind: kind },
    /// Share of a kind's keys that is read from Postgres in stage live: 0 to 1.
    live_share: gauge "parallax_live_ratio" { kind: kind },
    /// 1 while reads of a kind go to Redis because Postgres is in trouble, else 0.
    breaker_open: gauge "parallax_breaker_open" { kind: kind },
    /// Rollbacks asked of this sidecar.
    rollbacks: counter "parallax_rollbacks" {},
    /// Time from the last rollback's call to the confirmation of every sidecar.
    last_rollback: gauge "parallax_last_rollback_seconds" {},
    /// Time that the last drill of a rollback took until every sidecar had confirmed it.
    last_drill: gauge "parallax_last_drill_seconds" {},
    /// Times that the guard took the reads of a kind back to Redis.
    guard_breaches: counter "parallax_guard_breaches" { kind: kind },
    /// Records captured by backfills.
    backfill_records: counter "parallax_backfill_records" { kind: kind },
    /// Subscriptions over HTTP at this moment; each has a connection to Redis.
    subscriptions: gauge "parallax_subscriptions" {},
    /// Published messages that a subscriber did not take in time, so that they were dropped.
    subscription_messages_dropped: counter "parallax_subscription_messages_dropped" {},
    /// 1 while a job of this name runs here.
    job_running: gauge "parallax_job_running" { job_name: Job },
    /// Keys or rows that jobs looked at.
    job_keys: counter "parallax_job_keys" { job_name: Job },
    /// Bytes of values that jobs carried or compared.
    job_bytes: counter "parallax_job_bytes" { job_name: Job },
    /// Jobs that ended here, by how.
    jobs: counter "parallax_jobs" { job_name: Job, result: JobEnd },
    /// Times that a job began to slow down, by what suffered.
    job_brakes: counter "parallax_job_brakes" { reason: Brake },
    /// HTTP requests answered, by class of status.
    http_requests: counter "parallax_http_requests" { door: Door, status: StatusClass },
    /// Time from an HTTP request's header to its answer.
    http_request: histogram "parallax_http_request_seconds" { door: Door },
    /// Requests turned away for a wrong or missing token, or for one with too little right.
    auth_failures: counter "parallax_auth_failures" { door: Door },
    /// Spans that a collector took.
    spans_exported: counter "parallax_spans_exported" {},
    /// Spans that were lost on their way to the collector.
    spans_dropped: counter "parallax_spans_dropped" { reason: SpanDrop },
    /// Exports of metrics to a collector, by what came of them.
    metric_exports: counter "parallax_metric_exports" { result: Export },
    /// 1, with the version of the program.
    build_info: gauge "parallax_build_info" { version: version },
}
