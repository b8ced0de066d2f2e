//! Everything that is explored: which scopes, and in which of them each mutant is hunted.

use crate::explorer::{Outcome, explore};
use crate::mutant::Mutant;
use crate::property::Property;
use crate::{collection, log, pair, record, stages};

/// A model in one of its scopes.
#[derive(Clone, Copy, Debug)]
pub enum Space {
    /// One record.
    Record(record::Scope),
    /// Two records.
    Pair(pair::Scope),
    /// A collection.
    Collection(collection::Scope),
    /// A log.
    Log(log::Scope),
    /// Stages.
    Stages(stages::Scope),
}

impl Space {
    /// The model's name.
    #[must_use]
    pub fn model(&self) -> &'static str {
        match self {
            Self::Record(_) => "record",
            Self::Pair(_) => "pair",
            Self::Collection(_) => "collection",
            Self::Log(_) => "log",
            Self::Stages(_) => "stages",
        }
    }

    /// The scope's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Record(scope) => scope.name,
            Self::Pair(scope) => scope.name,
            Self::Collection(scope) => scope.name,
            Self::Log(scope) => scope.name,
            Self::Stages(scope) => scope.name,
        }
    }

    /// Explores it, with a mutant in the place of its rule.
    #[must_use]
    pub fn explore(&self, mutant: Option<Mutant>, states_max: usize) -> Outcome {
        match *self {
            Self::Record(scope) => explore(&record::Record::new(scope, mutant), states_max),
            Self::Pair(scope) => explore(&pair::Pair::new(scope, mutant), states_max),
            Self::Collection(scope) => explore(&collection::Collection::new(scope, mutant), states_max),
            Self::Log(scope) => explore(&log::Log::new(scope, mutant), states_max),
            Self::Stages(scope) => explore(&stages::Stages::new(scope, mutant), states_max),
        }
    }
}

/// What every run of the tests explores to its end.
#[must_use]
pub fn small() -> Vec<Space> {
    spaces(record::scopes::SMALL, pair::SMALL, collection::SMALL, log::SMALL, stages::SMALL)
}

/// What `make model` explores besides.
#[must_use]
pub fn large() -> Vec<Space> {
    spaces(record::scopes::LARGE, pair::LARGE, collection::LARGE, log::LARGE, stages::LARGE)
}

fn spaces(
    records: &[record::Scope],
    pairs: &[pair::Scope],
    collections: &[collection::Scope],
    logs: &[log::Scope],
    stages: &[stages::Scope],
) -> Vec<Space> {
    let records = records.iter().copied().map(Space::Record);
    let others = pairs.iter().copied().map(Space::Pair).chain(collections.iter().copied().map(Space::Collection));
    let logs = logs.iter().copied().map(Space::Log);
    records.chain(others).chain(logs).chain(stages.iter().copied().map(Space::Stages)).collect()
}

/// States after which a hunt is given up.
pub const HUNT_STATES_MAX: usize = 2_000_000;

/// Where each mutant is hunted, and the property that it is seen to break there.
#[must_use]
pub fn hunt(mutant: Mutant) -> (&'static str, Property) {
    use Property::{
        AckBoth, Convergence, ExpiryIsNoDelete, FlagsNeverBack, GapsNamed, GhostsListed, Linearizable, NeverBackwards,
        NoUnmarkedWrite, Restored, TrueVerdict,
    };
    match mutant {
        Mutant::MarkAfter => ("writes", Convergence),
        Mutant::MarkBefore => ("expiry", Convergence),
        Mutant::NothingSetsBit => ("expiry", ExpiryIsNoDelete),
        Mutant::NoStar => ("collection, replaced", Convergence),
        Mutant::ElementAckWithoutToken => ("collection, elements, more", Convergence),
        Mutant::WholeAckClearsAll => ("collection, deleted", Convergence),
        Mutant::VanishedMarkProves => ("failover", AckBoth),
        Mutant::CaptureWithoutLineage => ("failover", GhostsListed),
        Mutant::RunComesBack => ("two failovers", Convergence),
        Mutant::NoTombstone => ("writes", Convergence),
        Mutant::NoGoneRow => ("expiry", Convergence),
        Mutant::UnseenBelowLast => ("collection, replaced", Convergence),
        Mutant::AbsentChunk | Mutant::NoCollectionFloor => ("collection, deleted", Convergence),
        Mutant::NoGuard => ("writes", NeverBackwards),
        Mutant::PhysicalDelete | Mutant::SweepWithoutFloor | Mutant::FloorInSnapshot => ("writes", Convergence),
        Mutant::AckWithoutToken | Mutant::AckBeforeCommit => ("writes", Convergence),
        Mutant::AckWithoutLineage => ("postgres went back", Convergence),
        Mutant::ReadBeforeFence | Mutant::NoFence => ("writes", Linearizable),
        Mutant::MissIsEmpty => ("backfill", Linearizable),
        Mutant::GoneServed | Mutant::ExpiryIgnored => ("expiry, presence not asked", Linearizable),
        Mutant::FenceWithoutEpoch => ("postgres went back", Linearizable),
        Mutant::NewerRowBelieved | Mutant::SplitRead => ("two records, renamed", Linearizable),
        Mutant::VerdictWithoutClock => ("writes", TrueVerdict),
        Mutant::LaterBackfill => ("backfill", TrueVerdict),
        Mutant::EntryWithoutGuard | Mutant::WholeLeavesDeleted => ("log, deleted by id", Convergence),
        Mutant::ReachedWithoutToken => ("log, begun again", Convergence),
        Mutant::GapUncounted => ("log, trimmed", GapsNamed),
        Mutant::LiftWithoutEpoch | Mutant::LiftListsFirst => ("failover", GhostsListed),
        Mutant::LiftWithoutMarks | Mutant::LiftKeepsToken | Mutant::LiftAnchorsFirst => ("failover", Convergence),
        Mutant::LiftWithoutFloors => ("failover and sweep", Convergence),
        Mutant::LiftForRestore => ("restart with nothing", Restored),
        Mutant::RefillUnchecked => ("restart with nothing", Convergence),
        Mutant::FlagsGoBack => ("stages, flags lost", FlagsNeverBack),
        Mutant::OldConfirmations => ("stages, flags lost", NoUnmarkedWrite),
        Mutant::NoHeartbeat | Mutant::FenceBeatAlone => ("postgres went back", Linearizable),
        Mutant::StagesJumped | Mutant::NoBarrier => ("stages, down", NoUnmarkedWrite),
        Mutant::ConfirmEarly | Mutant::BlockingNotAwaited => ("stages, up", NoUnmarkedWrite),
        Mutant::BlockingOutlivesLease | Mutant::WritesWithoutLease => ("stages, up", NoUnmarkedWrite),
        Mutant::BlockingUnmarked => ("stages, down", NoUnmarkedWrite),
        Mutant::ReadsWithoutLease => ("stages, down", Linearizable),
        Mutant::BackfillEarly | Mutant::LiveEarly => ("stages, up", NoUnmarkedWrite),
        Mutant::CompleteAtCapture => ("postgres went back", Convergence),
    }
}

/// The scope in which a mutant is hunted.
///
/// # Panics
/// When the table of hunts names a scope that there is not.
#[must_use]
pub fn ground(mutant: Mutant) -> Space {
    let (name, _) = hunt(mutant);
    let all = small().into_iter().chain(large());
    all.into_iter().find(|space| space.name() == name).unwrap_or_else(|| panic!("there is no scope {name}"))
}
