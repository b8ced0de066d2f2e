//! Messages that others publish, from a connection of its own: a connection that is subscribed can do nothing else.
//!
//! Redis keeps no message. What is published while a subscription is broken is lost, so a broken one ends, and whoever
//! reads it learns that something may be missing.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use redis::aio::PubSubStream;

use crate::stores::redis::connection::RedisError;

/// What is subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Channels, by their names.
    Channels,
    /// Every channel that matches a pattern.
    Patterns,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The pattern that its channel matched, where patterns are subscribed to.
    pub pattern: Option<Bytes>,
    /// Where it was published.
    pub channel: Bytes,
    /// What was published.
    pub payload: Bytes,
}

/// A subscription under way. It ends with the connection; dropping it closes the connection.
pub struct Subscription {
    messages: PubSubStream,
}

impl Subscription {
    /// Subscribes to all `names`.
    ///
    /// # Errors
    /// When Redis cannot be reached within `deadline`; [`RedisError::Answered`] with the code (`NOPERM`) when it refuses.
    pub async fn open(
        client: &redis::Client,
        deadline: Duration,
        kind: Names,
        names: &[Bytes],
    ) -> Result<Self, RedisError> {
        let names: Vec<&[u8]> = names.iter().map(AsRef::as_ref).collect();
        let opened = async {
            let mut connection = client.get_async_pubsub().await?;
            match kind {
                Names::Channels => connection.subscribe(&names).await?,
                Names::Patterns => connection.psubscribe(&names).await?,
            }
            Ok(Self { messages: connection.into_on_message() })
        };
        match tokio::time::timeout(deadline, opened).await {
            Ok(opened) => opened.map_err(|error: redis::RedisError| match error.code() {
                Some(code) => RedisError::Answered(code.to_owned()),
                None => RedisError::Unreachable(error.to_string()),
            }),
            Err(_) => Err(RedisError::Late),
        }
    }

    /// The next message; none when the connection has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<Message> {
        let message = self.messages.next().await?;
        let bytes = |text: redis::RedisResult<Vec<u8>>| text.map(Bytes::from).unwrap_or_default();
        let pattern = message.from_pattern().then(|| bytes(message.get_pattern()));
        let payload = Bytes::copy_from_slice(message.get_payload_bytes());
        Some(Message { pattern, channel: bytes(message.get_channel()), payload })
    }
}
