//! Reads the nested replies of our scripts, part by part.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::model::reply::Reply;
use crate::stores::redis::connection::RedisError;

/// The parts of an array reply, taken from the front.
pub(crate) struct Parts(std::vec::IntoIter<Reply>);

impl Parts {
    /// The parts of `reply`.
    pub(crate) fn of(reply: Reply) -> Result<Self, RedisError> {
        let items = reply.into_array().ok_or(RedisError::Form("not an array"))?;
        Ok(Self(items.into_iter()))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn next(&mut self) -> Result<Reply, RedisError> {
        self.0.next().ok_or(RedisError::Form("too short"))
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, RedisError> {
        match self.next()? {
            Reply::Bulk(bytes) => Ok(bytes),
            Reply::Status(text) => Ok(text.into()),
            Reply::Nil => Ok(Bytes::new()),
            Reply::Integer(number) => Ok(number.to_string().into()),
            Reply::Error(_)
            | Reply::Array(_)
            | Reply::Map(_)
            | Reply::Set(_)
            | Reply::Double(_)
            | Reply::Boolean(_)
            | Reply::BigNumber(_)
            | Reply::Verbatim(_)
            | Reply::Push(_) => Err(RedisError::Form("not a string")),
        }
    }

    pub(crate) fn text(&mut self) -> Result<String, RedisError> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    /// A whole number, whether Redis sent it as one or as text; an empty text is -1.
    pub(crate) fn integer(&mut self) -> Result<i64, RedisError> {
        let text = self.text()?;
        if text.is_empty() {
            return Ok(-1);
        }
        text.parse().map_err(|_| RedisError::Form("not a number"))
    }

    pub(crate) fn parts(&mut self) -> Result<Self, RedisError> {
        Self::of(self.next()?)
    }

    /// All that is left, as bytes.
    pub(crate) fn all_bytes(mut self) -> Result<Vec<Bytes>, RedisError> {
        let mut all = Vec::with_capacity(self.len());
        while self.len() > 0 {
            all.push(self.bytes()?);
        }
        Ok(all)
    }

    /// All that is left, as pairs of names and values.
    pub(crate) fn all_pairs(mut self) -> Result<Vec<(Bytes, Bytes)>, RedisError> {
        let mut all = Vec::with_capacity(self.len() / 2);
        while self.len() > 0 {
            all.push((self.bytes()?, self.bytes()?));
        }
        Ok(all)
    }
}

/// Pairs of names and values, as text.
pub(crate) fn texts(parts: Parts) -> Result<BTreeMap<String, String>, RedisError> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(parts.all_pairs()?.iter().map(|(name, value)| (text(name), text(value))).collect())
}

/// Redis' `PEXPIRETIME`: milliseconds since the epoch, or negative for none.
pub(crate) fn expiry(milliseconds: i64) -> Option<i64> {
    (milliseconds >= 0).then_some(milliseconds)
}
