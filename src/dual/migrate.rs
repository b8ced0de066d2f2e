//! One record, brought to Postgres now: captured and applied, read back from both stores, and judged.

use std::sync::Arc;

use serde::Serialize;

use crate::dual::Engine;
use crate::dual::flags::ChangeError;
use crate::dual::task::TaskError;
use crate::model::catalog::Kind;
use crate::model::key::Key;
use crate::telemetry::labels::Label;

/// How often the record is looked at when a look says nothing.
const LOOKS: u32 = 8;

/// What came of one record.
#[derive(Clone, Debug, Serialize)]
pub struct Migrated {
    /// Its kind.
    pub kind: String,
    /// Its id within the kind.
    pub id: String,
    /// Whether a capture of it was committed; an absent record has none, since its deletion has its own mark.
    pub committed: bool,
    /// `match`, `in_flight` when it is being written all the time, or what differs.
    pub verdict: &'static str,
    /// Names of fields that differ.
    pub fields: Vec<String>,
    /// The version of its row.
    pub version: i64,
}

impl Engine {
    /// The kind and key of a record by its id.
    ///
    /// # Errors
    /// When there is no such kind, or the id breaks its pattern.
    pub fn record_named(&self, kind: &str, id: &str) -> Result<(Arc<Kind>, Key), TaskError> {
        let kind = self.catalog.by_name(kind).ok_or(ChangeError::UnknownKind)?;
        let key = kind.key_of(id).map_err(TaskError::Unmet)?;
        Ok((Arc::clone(kind), key))
    }

    /// Brings one record to Postgres and judges it.
    ///
    /// # Errors
    /// When its kind is not marked, or a store fails.
    pub async fn migrate(&self, kind: &Arc<Kind>, key: &Key) -> Result<Migrated, TaskError> {
        self.marked_kinds(std::slice::from_ref(&kind.name))?;
        let wanted = || vec![(Arc::clone(kind), key.clone())];
        let brought = self.bring(wanted()).await?;
        let comparison = self.judge_all(wanted(), LOOKS).await?;
        let Some(judged) = comparison.judged.into_iter().next() else {
            return Err(TaskError::Unmet("the record is of a module's type, which cannot be mirrored".to_owned()));
        };
        Ok(Migrated {
            kind: kind.name.clone(),
            id: kind.id_of(key.as_bytes()),
            committed: brought.committed > 0,
            verdict: judged.verdict.label().name(),
            fields: judged.verdict.fields(),
            version: judged.versions.1,
        })
    }
}
