//! What a sidecar believes of the flags: one version of them, seen as a whole.
//!
//! Every operation holds the view it was decided under until it is answered. A version is confirmed when nobody holds an
//! older view any more (S2).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::catalog::{Catalog, Kind};
use crate::model::flag::{Flag, Stage};
use crate::stores::redis::lease::Renewal;

/// The name under which the default of all kinds is kept.
pub const DEFAULT: &str = "*";

/// One version of the flags.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The version; 0 before any flag was set.
    pub version: u64,
    /// Flags as they are kept: kind or `*`.
    pub stored: BTreeMap<String, Flag>,
    /// The flag of each kind, by its index.
    flags: Vec<Flag>,
    /// Kinds that a rollback took out of stage live before the flags said so.
    pub lowered: BTreeSet<String>,
    /// For a kind of another catalog: off.
    fallback: Flag,
    /// The epoch in which each kind's backfill was committed, by its index.
    backfilled: Vec<Option<i64>>,
    /// The epoch that holds; -1 outside the lineage.
    epoch: i64,
    /// Kinds with writes that no mark can follow, and why.
    pub unverifiable: BTreeMap<String, String>,
}

impl View {
    /// The view that a renewal gives. A flag that cannot be read counts as not set: its kind falls back to its default.
    #[must_use]
    pub fn of(catalog: &Catalog, renewal: &Renewal) -> Self {
        let parse = |(kind, flag): (&String, &String)| Some((kind.clone(), serde_json::from_str(flag).ok()?));
        let stored: BTreeMap<String, Flag> = renewal.flags.iter().filter_map(parse).collect();
        let view =
            Self::from_stored(catalog, renewal.version, stored, &renewal.backfilled, renewal.unverifiable.clone());
        Self { epoch: renewal.epoch, ..view }
    }

    fn from_stored(
        catalog: &Catalog,
        version: u64,
        stored: BTreeMap<String, Flag>,
        backfilled: &BTreeMap<String, i64>,
        unverifiable: BTreeMap<String, String>,
    ) -> Self {
        let flags = catalog.kinds().iter().map(|kind| effective(&stored, kind)).collect();
        let backfilled = catalog.kinds().iter().map(|kind| backfilled.get(&kind.name).copied()).collect();
        Self {
            version,
            stored,
            flags,
            lowered: BTreeSet::new(),
            fallback: Flag::default(),
            backfilled,
            epoch: -1,
            unverifiable,
        }
    }

    /// A view without any flag, as a sidecar boots (S3).
    #[must_use]
    pub fn empty(catalog: &Catalog) -> Self {
        Self::from_stored(catalog, 0, BTreeMap::new(), &BTreeMap::new(), BTreeMap::new())
    }

    /// The flag of a kind: its own, the default of all kinds, or what the catalog says.
    #[must_use]
    pub fn flag(&self, kind: &Kind) -> &Flag {
        self.flags.get(kind.index).unwrap_or(&self.fallback)
    }

    /// Whether the flags let Postgres answer reads of this kind.
    pub(super) fn reads_postgres(&self, kind: &Kind) -> bool {
        let flag = self.flag(kind);
        flag.stage == Stage::Live && flag.percent > 0.0
    }

    /// The flag of a kind as the store has it, whatever this sidecar lowered by itself.
    #[must_use]
    pub fn stored_flag(&self, kind: &Kind) -> Flag {
        effective(&self.stored, kind)
    }

    /// The epoch in which the backfill of a kind was committed.
    #[must_use]
    pub fn backfilled(&self, kind: &Kind) -> Option<i64> {
        self.backfilled.get(kind.index).copied().flatten()
    }

    /// Whether the backfill of a kind was committed in the epoch that holds: another one makes it owed again (P1).
    #[must_use]
    pub fn is_backfilled(&self, kind: &Kind) -> bool {
        self.epoch >= 0 && self.backfilled(kind) == Some(self.epoch)
    }

    /// Whether the kind has a flag of its own.
    #[must_use]
    pub fn is_own(&self, kind: &Kind) -> bool {
        self.stored.contains_key(&kind.name)
    }

    /// Takes these kinds out of stage live.
    pub fn lower(&mut self, catalog: &Catalog, names: &[String]) {
        self.lowered.extend(names.iter().cloned());
        for kind in catalog.kinds().iter().filter(|kind| names.contains(&kind.name)) {
            if let Some(flag) = self.flags.get_mut(kind.index) {
                *flag = rolled_back(flag);
            }
        }
    }

    /// Kinds whose reads were taken back under `before`, and are read from Postgres again under this view.
    #[must_use]
    pub fn forgotten_rollbacks(&self, before: &Self, catalog: &Catalog) -> Vec<String> {
        let is_forgotten = |kind: &&Arc<Kind>| {
            let was_taken_back = before.stored_flag(kind).latched || before.lowered.contains(&kind.name);
            was_taken_back && self.flag(kind).stage.reads_postgres()
        };
        catalog.kinds().iter().filter(is_forgotten).map(|kind| kind.name.clone()).collect()
    }

    /// Whether it says all that `other` says. Not the version alone: after a failover two versions may have one number (L3).
    #[must_use]
    pub fn has_all_of(&self, other: &Self) -> bool {
        self.version == other.version
            && self.stored == other.stored
            && self.backfilled == other.backfilled
            && self.epoch == other.epoch
            && self.unverifiable == other.unverifiable
    }
}

/// A flag after a rollback: no reads from Postgres, marking and comparing go on, and it stays there until somebody resumes.
#[must_use]
pub fn rolled_back(flag: &Flag) -> Flag {
    Flag { stage: flag.stage.min(Stage::Shadow), latched: true, ..flag.clone() }
}

fn effective(stored: &BTreeMap<String, Flag>, kind: &Kind) -> Flag {
    stored.get(&kind.name).or_else(|| stored.get(DEFAULT)).cloned().unwrap_or_else(|| kind.flag.clone())
}
