//! Mutants: each is one rule left out or turned round. A model with a mutant must be seen to break a property.

macro_rules! mutants {
    ($($(#[doc = $about:literal])+ $variant:ident = $name:literal, $rule:literal;)+) => {
        /// A rule left out or turned round.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Mutant { $($(#[doc = $about])+ $variant),+ }

        impl Mutant {
            /// Every mutant, in the order of the rules.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name on the command line and in the table.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The rule that it breaks.
            #[must_use]
            pub fn rule(self) -> &'static str {
                match self { $(Self::$variant => $rule),+ }
            }
        }
    };
}

mutants! {
    /// The write first, the mark in a step after it.
    MarkAfter = "mark-after-the-write", "W1";
    /// The mark in a step of its own before the write.
    MarkBefore = "mark-in-a-step-before", "W1";
    /// A command that changed nothing sets the gone bit.
    NothingSetsBit = "nothing-changed-sets-the-bit", "W2";
    /// A write to the whole leaves no `*` in the companion.
    NoStar = "whole-without-star", "W3";
    /// An element's ack removes whatever token is there.
    ElementAckWithoutToken = "element-ack-without-token", "W3";
    /// A whole ack removes every token.
    WholeAckClearsAll = "whole-ack-clears-everything", "W3";
    /// A mark that is gone counts as a commit.
    VanishedMarkProves = "vanished-mark-proves", "W4";
    /// A capture does not look at the anchor.
    CaptureWithoutLineage = "capture-without-lineage", "C1";
    /// A failover leads back to a server that kept its run_id, before the lift is done.
    RunComesBack = "run-id-comes-back", "C1";
    /// An absence with the bit and without a row writes nothing.
    NoTombstone = "absent-without-row-leaves-no-tombstone", "C3";
    /// An absence without the bit and without a row writes nothing.
    NoGoneRow = "absent-without-bit-writes-no-row", "C3";
    /// Unseen elements go below the version of the last chunk.
    UnseenBelowLast = "unseen-removed-below-the-last-chunk", "C4";
    /// A chunk of a collection that is gone meanwhile is applied as if it were an empty one.
    AbsentChunk = "chunk-of-an-absent-collection-applied", "C4";
    /// Elements at or below the collection's floor are applied.
    NoCollectionFloor = "no-floor-of-the-collection", "C4";
    /// An apply overwrites whatever is there.
    NoGuard = "no-version-guard", "A1";
    /// A delete removes the row.
    PhysicalDelete = "physical-delete", "A1";
    /// The sweep does not raise the floor.
    SweepWithoutFloor = "sweep-without-floor", "A2";
    /// The control row is read in a snapshot, not held.
    FloorInSnapshot = "floor-checked-in-a-snapshot", "A2";
    /// An ack removes whatever mark is there.
    AckWithoutToken = "ack-without-token", "A3";
    /// An ack goes out before the commit.
    AckBeforeCommit = "ack-before-commit", "A3";
    /// An ack does not look at the anchor.
    AckWithoutLineage = "ack-without-lineage", "A3";
    /// Postgres is read first, the fence after it.
    ReadBeforeFence = "postgres-read-before-the-fence", "R1";
    /// Postgres is read without a fence.
    NoFence = "no-fence", "R1";
    /// No row is answered as empty.
    MissIsEmpty = "miss-answered-as-empty", "R1";
    /// A row of what is gone is answered.
    GoneServed = "gone-row-served", "R1";
    /// A row's expiry is not looked at.
    ExpiryIgnored = "expiry-ignored", "R1";
    /// Epochs are not compared.
    FenceWithoutEpoch = "fence-without-epoch", "R1";
    /// A row above the fence's clock is believed.
    NewerRowBelieved = "row-above-the-clock-believed", "R1";
    /// A command over two keys is answered by both stores, in two steps.
    SplitRead = "split-mget-in-two-steps", "R1";
    /// A verdict does not compare the row with the clock of the look.
    VerdictWithoutClock = "verdict-without-the-clock", "R2";
    /// A verdict asks after its look whether the backfill is complete.
    LaterBackfill = "verdict-with-a-later-backfill", "R2";
    /// An entry is inserted if absent.
    EntryWithoutGuard = "log-entries-without-the-guard", "G1";
    /// A whole capture of a log writes no tombstones of the ids that its companion names.
    WholeLeavesDeleted = "whole-log-leaves-deleted-ids", "G1";
    /// An ack notes how far the log was captured whatever was written since.
    ReachedWithoutToken = "log-progress-without-token", "G3";
    /// What was trimmed before its capture is not counted.
    GapUncounted = "gap-not-counted", "G3";
    /// The lift does not raise the epoch.
    LiftWithoutEpoch = "lift-without-epoch", "L1";
    /// The lift marks no ghosts.
    LiftWithoutMarks = "lift-without-marks", "L1";
    /// The lift leaves a mark that is there its token.
    LiftKeepsToken = "lift-marks-keep-an-old-token", "L1";
    /// The lift does not look at floors.
    LiftWithoutFloors = "lift-without-floors", "L1";
    /// The lift looks for ghosts before it raises the epoch.
    LiftListsFirst = "lift-in-another-order-ghosts-first", "L1";
    /// The lift writes the anchor before the marks.
    LiftAnchorsFirst = "lift-in-another-order-anchor-first", "L1";
    /// A Redis without an anchor is lifted rather than restored.
    LiftForRestore = "lift-in-place-of-a-restore", "L2";
    /// A refill does not check that the anchor is still missing.
    RefillUnchecked = "refill-without-the-missing-anchor", "L2";
    /// A sidecar takes up a lower version of the flags.
    FlagsGoBack = "lower-flags-taken-up", "L3";
    /// What sidecars confirmed before a failover counts after it.
    OldConfirmations = "confirmations-outlive-a-failover", "L3";
    /// Nobody notices that Postgres went back.
    NoHeartbeat = "p1-left-out", "P1";
    /// A new connection to Postgres does not ask whom it reaches: the heartbeat of the fence or capture alone is compared.
    FenceBeatAlone = "p1-heartbeat-of-the-fence-alone", "P1";
    /// Stages are left out on the way.
    StagesJumped = "s1-left-out", "S1";
    /// A sidecar confirms while commands run under its older view.
    ConfirmEarly = "s2-left-out", "S2";
    /// Marking ends without a barrier.
    NoBarrier = "s2-no-barrier", "S2";
    /// A blocking write goes out unmarked and is not waited for.
    BlockingUnmarked = "s2b-left-out", "S2b";
    /// A blocking write that began under stage off is waited for no longer than `barrier_wait_ms`.
    BlockingNotAwaited = "s2b-blocking-write-not-awaited", "S2b";
    /// A blocking write stays in Redis after its sidecar's lease and deadline have ended.
    BlockingOutlivesLease = "s2b-blocking-write-outlives-the-lease", "S2b";
    /// Without a lease a sidecar reads Postgres as before.
    ReadsWithoutLease = "s3-left-out-reads", "S3";
    /// Without a lease a sidecar writes as its last view says.
    WritesWithoutLease = "s3-left-out-writes", "S3";
    /// The backfill begins before the barrier.
    BackfillEarly = "s4-backfill-before-the-barrier", "S4";
    /// Live begins without a backfill.
    LiveEarly = "s4-live-before-the-backfill", "S4";
    /// A backfill counts as complete when its captures are made.
    CompleteAtCapture = "backfill-complete-at-capture", "S4";
}

impl Mutant {
    /// The mutant of that name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mutant| mutant.name() == name)
    }
}
