//! The values of a record that differs, as both stores hold them: for whoever asked and may see them.

use serde_json::{Value as Json, json};

use crate::dual::task::TaskError;
use crate::dual::{Engine, read, settle};
use crate::model::catalog::{Kind, Layout};
use crate::model::key::Key;
use crate::model::value::Value;
use crate::stores::postgres::rows::Fate;
use crate::stores::redis::fence::{self, Seen};

impl Engine {
    /// Type, expiry and document of a record in Redis and in Postgres; null where it is not there, and for what is too large to
    /// be read as a whole.
    pub(super) async fn values(&self, kind: &Kind, key: &Key) -> Result<(Json, Json), TaskError> {
        let Some(postgres) = &self.postgres else { return Ok((Json::Null, Json::Null)) };
        let seen = fence::looks(&self.jobs, &[(key.clone(), settle::shape(kind))]).await?.pop();
        let Some(Seen::Whole(look)) = seen else { return Ok((Json::Null, Json::Null)) };
        let redis = look.value.as_ref().map_or(Json::Null, |value| shown(value, look.expires_at_ms));
        if kind.layout == Layout::Log {
            return Ok((redis, Json::Null));
        }
        let (_, row) = read::row(postgres, kind, key, None, look.fence.clock).await?;
        let row = row.filter(|row| row.fate == Fate::Present);
        let held = row.and_then(|row| row.value.map(|value| shown(&value, row.expires_at_ms)));
        Ok((redis, held.unwrap_or_default()))
    }
}

fn shown(value: &Value, expires_at_ms: Option<i64>) -> Json {
    let doc: Json = serde_json::from_str(&value.to_doc()).unwrap_or_default();
    json!({ "type": value.type_name(), "expires_at_ms": expires_at_ms, "doc": doc })
}
