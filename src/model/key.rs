//! A Redis key: bytes, their text form, and the hash by which Postgres knows them.

use std::fmt;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::model::text;

/// Everything that Parallax itself keeps in Redis begins with this.
pub const CONTROL_PREFIX: &[u8] = b"parallax:";

/// A Redis key. Cheap to clone. `Debug` shows only its hash, since keys may carry secrets and reach logs by accident.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Bytes);

impl Key {
    /// The key with these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, as Redis knows them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The reversible text form (see [`text`]).
    #[must_use]
    pub fn text(&self) -> String {
        text::encode(&self.0).into_owned()
    }

    /// The key whose text form is `text`.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self::new(text::decode(text))
    }

    /// The 16 bytes by which Postgres knows this key.
    #[must_use]
    pub fn hash(&self) -> Vec<u8> {
        hash16(&self.0)
    }

    /// Whether this is one of our own keys, which no door may name.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.0.starts_with(CONTROL_PREFIX)
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", text::hex(&self.hash()))
    }
}

/// The first 16 bytes of SHA-256: in SQL `substr(sha256(convert_to(key, 'UTF8')), 1, 16)` for a plain key.
#[must_use]
pub fn hash16(bytes: &[u8]) -> Vec<u8> {
    let mut hash = Sha256::digest(bytes).to_vec();
    hash.truncate(16);
    hash
}
