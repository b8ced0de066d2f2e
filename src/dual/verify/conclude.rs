//! What is judged of records, where it is put down, and the proof in the end.

use std::sync::Arc;

use serde_json::json;

use crate::dual::Engine;
use crate::dual::compare::Judged;
use crate::dual::task::TaskError;
use crate::dual::verdict::Verdict;
use crate::dual::verify::{At, Difference, LISTED_MAX, VALUES_MAX, Values, Verify};
use crate::model::catalog::Kind;
use crate::model::key::Key;
use crate::model::text;
use crate::stores::postgres::ghosts;
use crate::stores::postgres::journal::{self, Mismatch};
use crate::stores::postgres::proofs::{self, Proof};
use crate::stores::redis::lease;
use crate::telemetry::traces::Origin;

/// How often a record is looked at when a look says nothing, and in the end.
const LOOKS: u32 = 2;
const LOOKS_LATER: u32 = 8;
/// Records that wait for the end at most, and are looked at together then; what does not fit is counted as unsettled.
const LATER_MAX: usize = 20_000;
const LATER_AT_ONCE: usize = 512;
/// Why a kind is left out that was left behind.
const OWED: &str = "its marking ended while it was compared: what differs is owed by the next backfill";

impl Engine {
    pub(super) async fn verify_later(&self, verify: &mut Verify) -> Result<(u64, At), TaskError> {
        let rest = verify.later.split_off(verify.later.len().min(LATER_AT_ONCE));
        let wanted = std::mem::replace(&mut verify.later, rest);
        if wanted.is_empty() {
            return Ok((0, At::End));
        }
        let judged = self.judge_all(wanted, LOOKS_LATER).await?.judged;
        self.leave_out_owed(verify, &judged).await?;
        for judged in judged {
            verify.found.unsettled += u64::from(matches!(judged.verdict, Verdict::InFlight | Verdict::ReadAgain));
            self.conclude(verify, judged).await?;
        }
        Ok((0, At::Later))
    }

    pub(super) async fn judge(&self, verify: &mut Verify, wanted: Vec<(Arc<Kind>, Key)>) -> Result<(), TaskError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let comparison = self.judge_all(wanted, LOOKS).await?;
        for (kind, count) in comparison.modules {
            *verify.found.modules.entry(kind).or_default() += count;
        }
        self.leave_out_owed(verify, &comparison.judged).await?;
        for judged in comparison.judged {
            match judged.verdict {
                Verdict::InFlight | Verdict::ReadAgain if verify.later.len() < LATER_MAX => {
                    verify.later.push((judged.kind, judged.key));
                }
                Verdict::InFlight | Verdict::ReadAgain => verify.found.unsettled += 1,
                Verdict::Match
                | Verdict::Value(_)
                | Verdict::Type
                | Verdict::Ttl
                | Verdict::MissingInPostgres
                | Verdict::MissingInRedis => self.conclude(verify, judged).await?,
            }
        }
        Ok(())
    }

    /// Leaves out the kinds of what differs whose backfill does not count any more: marking ended while they were compared, so what
    /// differs is owed by the next backfill. Asked behind the looks, as the step that ends marking takes the backfill away before
    /// any write goes unmarked.
    async fn leave_out_owed(&self, verify: &mut Verify, judged: &[Judged]) -> Result<(), TaskError> {
        if judged.iter().all(|judged| judged.verdict.class().is_none()) {
            return Ok(());
        }
        let backfilled = lease::backfilled(&self.jobs).await?;
        for judged in judged.iter().filter(|judged| judged.verdict.class().is_some()) {
            let name = &judged.kind.name;
            if backfilled.get(name) != Some(&verify.epoch) && verify.has(&judged.kind) {
                verify.left_out.insert(name.clone(), OWED.to_owned());
                verify.kinds.retain(|kind| kind.name != *name);
                verify.names.retain(|kind| kind != name);
            }
        }
        Ok(())
    }

    async fn conclude(&self, verify: &mut Verify, judged: Judged) -> Result<(), TaskError> {
        if !verify.has(&judged.kind) {
            return Ok(());
        }
        verify.found.compared += 1;
        self.metrics.compared(&judged.kind.name, judged.verdict.label());
        let Some(class) = judged.verdict.class() else { return Ok(()) };
        if !verify.found.known.insert(judged.key.hash()) {
            return Ok(());
        }
        if verify.found.known.len() > LISTED_MAX * 2 {
            // So many differences need no list; then a key that a scan shows twice may be counted twice.
            verify.found.known.clear();
        }
        if let Some(class) = judged.verdict.label().mismatch() {
            self.traces.mismatch(&self.metrics, &judged.kind.name, class, &judged.key, &Origin::default());
        }
        let fields = judged.verdict.fields();
        *verify.found.classes.entry(class.to_owned()).or_default() += 1;
        *verify.found.kinds.entry(judged.kind.name.clone()).or_default() += 1;
        let mismatch = mismatch(&judged, class, &fields);
        if verify.found.listed.len() < LISTED_MAX {
            let has_values = verify.values == Values::Shown && verify.found.listed.len() < VALUES_MAX;
            let values = if has_values { Some(self.values(&judged.kind, &judged.key).await?) } else { None };
            let (redis, postgres) = values.unzip();
            verify.found.listed.push(Difference {
                kind: mismatch.kind.clone(),
                id: mismatch.id.clone(),
                key_hash: text::hex(&judged.key.hash()),
                class: class.to_owned(),
                fields,
                redis,
                postgres,
            });
        }
        if let Some(postgres) = &self.postgres {
            journal::mismatch(postgres, &mismatch).await?;
        }
        Ok(())
    }

    /// Writes down what was proven. Another Redis or epoch than at the beginning proves nothing.
    pub(super) async fn prove(&self, verify: &Verify) -> Result<(), TaskError> {
        if !verify.holds(self).await? {
            return Err(TaskError::Overtaken);
        }
        let Some(postgres) = &self.postgres else { return Ok(()) };
        let proof = Proof {
            kinds: verify.names.clone(),
            keys: verify.found.in_redis,
            bytes: verify.found.bytes,
            duration_ms: u64::try_from(verify.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            differences: json!(verify.found.classes),
            version: verify.version,
            is_clean: verify.is_clean(),
        };
        if proof.is_clean {
            ghosts::settle_kinds(postgres, &proof.kinds, proof.version).await?;
        }
        Ok(proofs::write(postgres, &proof).await?)
    }
}

/// A judgement as it is written down.
fn mismatch(judged: &Judged, class: &'static str, fields: &[String]) -> Mismatch {
    Mismatch {
        kind: judged.kind.name.clone(),
        key: judged.key.clone(),
        id: judged.kind.id_of(judged.key.as_bytes()),
        class,
        fields: fields.to_vec(),
        redis_version: judged.versions.0,
        postgres_version: judged.versions.1,
    }
}
