//! What must never be broken, in one place, so that every model and the table of mutants use the same words.

/// A property of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Property {
    /// A record without a mark is the same in both stores.
    Convergence,
    /// A row's version only rises.
    NeverBackwards,
    /// A tombstone is written only for what the application deleted.
    ExpiryIsNoDelete,
    /// A read answers what Redis held at some moment between its begin and its end.
    Linearizable,
    /// A mismatch is reported only where there is one.
    TrueVerdict,
    /// A write that waits for Postgres is told that it is there only when it is.
    AckBoth,
    /// What Redis lost and Postgres has is listed.
    GhostsListed,
    /// What Postgres held when Redis was lost is back in Redis, or listed.
    Restored,
    /// Nobody writes without a mark while another sidecar may read Postgres.
    NoUnmarkedWrite,
    /// A sidecar never goes back to older flags.
    FlagsNeverBack,
    /// An entry of a log is in Postgres, or named in a gap.
    GapsNamed,
}

impl Property {
    /// The property in a sentence.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Convergence => "a record without a mark is the same in both stores",
            Self::NeverBackwards => "a row's version only rises",
            Self::ExpiryIsNoDelete => "a tombstone is written only for what the application deleted",
            Self::Linearizable => "a read answers what Redis held at some moment between its begin and its end",
            Self::TrueVerdict => "a mismatch is reported only where there is one",
            Self::AckBoth => "a write is told to be in Postgres only when it is",
            Self::GhostsListed => "what Redis lost and Postgres has is listed",
            Self::Restored => "what Postgres held when Redis was lost is back in Redis, or listed",
            Self::NoUnmarkedWrite => "nobody writes without a mark while another sidecar may read Postgres",
            Self::FlagsNeverBack => "a sidecar never goes back to older flags",
            Self::GapsNamed => "an entry of a log is in Postgres, or named in a gap",
        }
    }

    /// Its name in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Convergence => "convergence",
            Self::NeverBackwards => "never backwards",
            Self::ExpiryIsNoDelete => "expiry is no delete",
            Self::Linearizable => "linearizable reads",
            Self::TrueVerdict => "true verdicts",
            Self::AckBoth => "ack = both",
            Self::GhostsListed => "ghosts listed",
            Self::Restored => "restored",
            Self::NoUnmarkedWrite => "no unmarked write",
            Self::FlagsNeverBack => "flags never back",
            Self::GapsNamed => "gaps named",
        }
    }
}
