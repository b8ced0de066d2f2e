//! The closed sets of label values: whatever a metric is split by stands here, so a label can never grow with the input.

/// A closed set of label values.
pub trait Label: Copy + 'static {
    /// Every value's name, in the order of [`Label::position`].
    const NAMES: &'static [&'static str];

    /// What each value means, in the same order.
    const MEANINGS: &'static [&'static str];

    /// What the set says, as a title.
    const ABOUT: &'static str;

    /// Where this value stands in [`Label::NAMES`].
    fn position(self) -> usize;

    /// The name as metrics and logs show it.
    fn name(self) -> &'static str {
        Self::NAMES.get(self.position()).copied().unwrap_or("unknown")
    }
}

macro_rules! labels {
    ($(#[doc = $about:literal] $set:ident { $(#[doc = $help:literal] $value:ident = $name:literal,)+ })+) => {$(
        #[doc = $about]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $set {
            $(#[doc = $help] $value,)+
        }

        impl $set {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$value),+];
        }

        impl Label for $set {
            const NAMES: &'static [&'static str] = &[$($name),+];
            const MEANINGS: &'static [&'static str] = &[$($help.trim_ascii()),+];
            const ABOUT: &'static str = $about.trim_ascii();

            fn position(self) -> usize {
                self as usize
            }
        }
    )+};
}

labels! {
    /// Which door a request came through.
    Door {
        /// Records and commands over HTTP.
        Http = "http",
        /// Flags, status, jobs and probes.
        Admin = "admin",
        /// The Redis protocol.
        Resp = "resp",
    }
    /// How a command ended, as its caller sees it.
    Outcome {
        /// Answered with a value.
        Ok = "ok",
        /// Answered with an error of Redis' own.
        Error = "error",
        /// Not let through: administrative, a control key, stateful, blocking.
        Refused = "refused",
        /// Answered by no store: unreachable, late, or the outcome is not known.
        Failed = "failed",
    }
    /// Which store.
    Store {
        /// Redis.
        Redis = "redis",
        /// Postgres.
        Postgres = "postgres",
    }
    /// Why a read was answered by the store that answered it.
    RouteReason {
        /// The stage of the kind reads Redis.
        Stage = "stage",
        /// The key lies outside the kind's percent.
        Percent = "percent",
        /// This sidecar has no valid lease on the flags.
        NoLease = "no_lease",
        /// The kind has no finished backfill.
        NotBackfilled = "not_backfilled",
        /// Postgres is switched off.
        PostgresOff = "postgres_off",
        /// A mark has failed: nobody knows any more what Postgres is owed.
        MarksBroken = "marks_broken",
        /// The record has a mark.
        Pending = "pending",
        /// Redis does not hold the record, and absence is believed from Redis alone.
        AbsentInRedis = "absent_in_redis",
        /// Postgres has no row.
        NoRow = "no_row",
        /// The row is a tombstone, gone, or past its expiry.
        Gone = "gone",
        /// The collection's header does not say complete.
        Incomplete = "incomplete",
        /// The row is newer than the fence taken before the read.
        NewerThanFence = "newer_than_fence",
        /// Row and fence belong to different lineages.
        Epoch = "epoch",
        /// Postgres did not answer within the kind's deadline.
        Deadline = "deadline",
        /// Postgres answered with an error or could not be reached.
        PostgresError = "postgres_error",
        /// Postgres was in trouble a moment ago, and was not asked.
        Breaker = "breaker",
        /// The command or the kind cannot be read from Postgres.
        NotReadable = "not_readable",
        /// Postgres answered.
        Live = "live",
    }
    /// What a comparison found.
    Compared {
        /// Both stores hold the same.
        Match = "match",
        /// The record has a mark: lag, not a mismatch.
        InFlight = "in_flight",
        /// The row is newer than the look at Redis: looked at once more.
        ReadAgain = "read_again",
        /// The values differ.
        Value = "value",
        /// The Redis types differ.
        Type = "type",
        /// The expiries differ by more than the tolerance.
        Ttl = "ttl",
        /// Redis holds the record, Postgres does not.
        MissingInPostgres = "missing_in_postgres",
        /// Postgres holds the record, Redis does not.
        MissingInRedis = "missing_in_redis",
        /// As missing in Redis, where Redis may evict.
        Evicted = "evicted",
    }
    /// The class of a proven mismatch.
    MismatchClass {
        /// The values differ.
        Value = "value",
        /// The Redis types differ.
        Type = "type",
        /// The expiries differ by more than the tolerance.
        Ttl = "ttl",
        /// Redis holds the record, Postgres does not.
        MissingInPostgres = "missing_in_postgres",
        /// Postgres holds the record, Redis does not.
        MissingInRedis = "missing_in_redis",
    }
    /// Why a sampled comparison was given up.
    ComparisonDrop {
        /// More samples waited than the queue holds.
        QueueFull = "queue_full",
        /// It was asked to read again more often than the limit.
        GaveUp = "gave_up",
        /// Redis could not be read.
        RedisError = "redis_error",
        /// Postgres could not be read.
        PostgresError = "postgres_error",
    }
    /// Why the capture script refused to assign a version.
    CaptureRefusal {
        /// The anchor is missing: Redis was lost.
        NoAnchor = "no_anchor",
        /// The anchor names another run of the server: failover or restart.
        OtherRun = "other_run",
        /// The record is above the limit of one capture.
        TooLarge = "too_large",
        /// The script failed.
        Error = "error",
    }
    /// What could have missed a write.
    GapCause {
        /// Redis restarted or failed over, and was lifted (L1).
        Lifted = "lifted",
        /// Redis came back empty, and was restored (L2).
        Restored = "restored",
        /// Postgres went back in time, or is another one (P1).
        PostgresWentBack = "postgres_went_back",
        /// A mark failed though its write ran (W1).
        MarkFailed = "mark_failed",
        /// Marking of the kind was ended on purpose.
        MarkingEnded = "marking_ended",
        /// Writes came to Redis that no sidecar sent.
        Bypassed = "bypassed",
    }
    /// Why an apply did not commit.
    ApplyFailure {
        /// Postgres refused a row.
        RowRefused = "row_refused",
        /// The table's epoch is another than the capture's.
        Epoch = "epoch",
        /// The capture lies at or below the table's floor.
        Floor = "floor",
        /// Postgres could not be reached or broke off.
        Unavailable = "unavailable",
        /// Any other error of the statement.
        Statement = "statement",
    }
    /// What a store was asked to do.
    Operation {
        /// Reads for a caller.
        Read = "read",
        /// Writes for a caller, their marks included.
        Write = "write",
        /// The fence before a read from Postgres.
        Fence = "fence",
        /// Captures of marked records.
        Capture = "capture",
        /// The upsert of captured records.
        Apply = "apply",
        /// The removal of marks.
        Ack = "ack",
        /// One page of a scan.
        Scan = "scan",
        /// One page of a list.
        List = "list",
        /// A read for a comparison.
        Compare = "compare",
        /// Flags, leases and their audit.
        Flags = "flags",
        /// Heartbeats and health checks.
        Heartbeat = "heartbeat",
    }
    /// How much of a distribution lies below.
    Quantile {
        /// Half of it.
        P50 = "p50",
        /// 99 of 100.
        P99 = "p99",
    }
    /// Long work beside the doors.
    Job {
        /// Everything that Redis holds goes to Postgres.
        Backfill = "backfill",
        /// Both stores are compared.
        Verify = "verify",
        /// What differs is marked again.
        Repair = "repair",
        /// Postgres goes back to a Redis that was lost.
        Restore = "restore",
    }
    /// How a job ended.
    JobEnd {
        /// At its end.
        Done = "done",
        /// For a reason of its own.
        Failed = "failed",
        /// Because somebody wished it.
        Cancelled = "cancelled",
    }
    /// What slows a job down.
    Brake {
        /// The 99th percentile of Redis' answers.
        Redis = "redis",
        /// The latency of Postgres.
        Postgres = "postgres",
        /// The age of the oldest mark.
        Outbox = "outbox",
    }
    /// Why a span was lost on its way to the collector.
    SpanDrop {
        /// More spans waited than the queue holds.
        QueueFull = "queue_full",
        /// The collector could not be reached, was too slow, or refused.
        ExportFailed = "export_failed",
        /// The collector took the export and rejected these spans of it.
        Rejected = "rejected",
    }
    /// What came of an export of metrics.
    Export {
        /// The collector took all of it.
        Taken = "taken",
        /// The collector took the export and rejected points of it.
        Rejected = "rejected",
        /// The collector could not be reached, was too slow, or refused; the next export has all of it.
        Failed = "failed",
    }
    /// The first digit of an HTTP status.
    StatusClass {
        /// Informational.
        Informational = "1xx",
        /// Success.
        Success = "2xx",
        /// Redirection.
        Redirection = "3xx",
        /// The client's mistake.
        ClientError = "4xx",
        /// Ours, or a store's.
        ServerError = "5xx",
    }
}

impl StatusClass {
    /// The class of `status`.
    #[must_use]
    pub fn of(status: u16) -> Self {
        match status {
            0..200 => Self::Informational,
            200..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }
}

impl Compared {
    /// The mismatch class of this verdict, if it is a mismatch.
    #[must_use]
    pub fn mismatch(self) -> Option<MismatchClass> {
        match self {
            Self::Value => Some(MismatchClass::Value),
            Self::Type => Some(MismatchClass::Type),
            Self::Ttl => Some(MismatchClass::Ttl),
            Self::MissingInPostgres => Some(MismatchClass::MissingInPostgres),
            Self::MissingInRedis => Some(MismatchClass::MissingInRedis),
            Self::Match | Self::InFlight | Self::ReadAgain | Self::Evicted => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_the_name_at_its_position() {
        assert_eq!(RouteReason::Live.name(), "live");
        assert_eq!(Compared::Evicted.name(), "evicted");
        assert_eq!(StatusClass::of(503).name(), "5xx");
        assert_eq!(StatusClass::of(412), StatusClass::ClientError);
    }
}
