//! Proofs: what was compared as a whole, when, how much, with which result, and until when it holds.

use serde_json::Value as Json;

use crate::stores::postgres::Postgres;
use crate::stores::postgres::pool::{PostgresError, QUESTION_DEADLINE, within};
use crate::stores::postgres::statement::{Bind, Statement};

/// How long a clean comparison is worth something, in hours. A capture gap ends it earlier.
const VALID_HOURS: i64 = 24;

/// A full comparison that came to its end.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The kinds that were compared.
    pub kinds: Vec<String>,
    /// Records in Redis.
    pub keys: u64,
    /// Bytes of values that were read from Redis.
    pub bytes: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// Class and number of differences.
    pub differences: Json,
    /// Redis' clock when it began.
    pub version: i64,
    /// Whether nothing differed: else it is written down, and holds for nothing.
    pub is_clean: bool,
}

/// Writes a proof down.
///
/// # Errors
/// When Postgres cannot be reached.
pub async fn write(postgres: &Postgres, proof: &Proof) -> Result<(), PostgresError> {
    let number = |number: u64| Bind::Number(i64::try_from(number).unwrap_or(i64::MAX));
    let statement = Statement::new(
        "INSERT INTO proofs (kinds, keys, bytes, duration_ms, differences, version, valid_until)
         VALUES ({}, {}, {}, {}, {}::jsonb, {}, now() + {} * interval '1 hour')",
        vec![
            Bind::TextList(proof.kinds.clone()),
            number(proof.keys),
            number(proof.bytes),
            number(proof.duration_ms),
            Bind::Text(proof.differences.to_string()),
            Bind::Number(proof.version),
            Bind::Number(if proof.is_clean { VALID_HOURS } else { 0 }),
        ],
    );
    let asked = async { Ok(statement.run(&mut *postgres.connection().await?).await?) };
    within(QUESTION_DEADLINE, asked).await.map(drop)
}
