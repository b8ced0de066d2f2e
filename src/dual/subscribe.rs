//! Subscriptions of callers: who may listen to what, how many, and how far one that reads slowly may fall behind.
//!
//! Redis is read at once whatever the subscriber does: a connection that falls behind would be cut by Redis, and first
//! hold its memory. What a subscriber does not take in time is dropped and counted; Redis promises no more than that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::dual::{Engine, EngineError, Refusal, RefusalCause, hide};
use crate::stores::redis::connection::RedisError;
use crate::stores::redis::subscription::Subscription as Connection;
use crate::telemetry::metrics::Metrics;

pub use crate::stores::redis::subscription::{Message, Names};

/// Subscriptions of one sidecar at one time: each has a connection to Redis.
pub const SUBSCRIPTIONS_MAX: usize = 256;
/// Messages that wait for one subscriber.
pub const MESSAGES_WAITING_MAX: usize = 1024;
/// Bytes of payloads that wait for one subscriber; one message may always wait.
pub const BYTES_WAITING_MAX: usize = 4 << 20;

/// Messages as they come. Dropping it ends the subscription.
pub struct Subscription {
    messages: mpsc::Receiver<Message>,
    waiting: Arc<AtomicUsize>,
}

impl Subscription {
    /// The next message; none when the connection to Redis has ended, and messages may have been missed.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<Message> {
        let message = self.messages.recv().await?;
        self.waiting.fetch_sub(message.payload.len(), Ordering::AcqRel);
        Some(message)
    }
}

impl Engine {
    /// Subscribes to channels or patterns. Messages of our own channels are never among what comes.
    ///
    /// # Errors
    /// The refusal of a name that is ours; when Redis cannot be reached, or too many subscribe already.
    pub async fn subscribe(&self, kind: Names, names: &[Bytes]) -> Result<Result<Subscription, Refusal>, EngineError> {
        if names.iter().any(|name| hide::is_control_channel(name)) {
            return Ok(Err(hide::closed()));
        }
        if names.is_empty() {
            let message = "name at least one channel".to_owned();
            return Ok(Err(Refusal { cause: RefusalCause::Connection, message }));
        }
        let place = Arc::clone(&self.subscriptions).try_acquire_owned().map_err(|_| EngineError::Overloaded)?;
        let opened = Connection::open(&self.client, self.command_deadline, kind, names).await;
        let connection = match opened {
            Ok(connection) => connection,
            Err(RedisError::Answered(code)) => {
                let message = format!("redis refuses it ({code}): the sidecar's user needs these channels in its ACL");
                return Ok(Err(Refusal { cause: RefusalCause::Connection, message }));
            }
            Err(error) => return Err(EngineError::of_a_read(error)),
        };
        let (sender, messages) = mpsc::channel(MESSAGES_WAITING_MAX);
        let waiting = Arc::new(AtomicUsize::new(0));
        let reader = Reader { sender, waiting: Arc::clone(&waiting), metrics: self.metrics.clone(), _place: place };
        tokio::spawn(reader.run(connection));
        Ok(Ok(Subscription { messages, waiting }))
    }
}

/// Reads one connection for one subscriber.
struct Reader {
    sender: mpsc::Sender<Message>,
    waiting: Arc<AtomicUsize>,
    metrics: Metrics,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    async fn run(self, mut connection: Connection) {
        self.metrics.subscriptions_changed(1.0);
        loop {
            let next = tokio::select! {
                biased;
                () = self.sender.closed() => break,
                next = connection.next() => next,
            };
            let Some(message) = next else { break };
            if !hide::shows_ours(&message) {
                self.hand_over(message);
            }
        }
        self.metrics.subscriptions_changed(-1.0);
    }

    fn hand_over(&self, message: Message) {
        let bytes = message.payload.len();
        let before = self.waiting.fetch_add(bytes, Ordering::AcqRel);
        let has_room = before == 0 || before.saturating_add(bytes) <= BYTES_WAITING_MAX;
        if !has_room || self.sender.try_send(message).is_err() {
            self.waiting.fetch_sub(bytes, Ordering::AcqRel);
            self.metrics.message_dropped();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    fn message(payload: Vec<u8>) -> Message {
        Message { pattern: None, channel: Bytes::from_static(b"c"), payload: payload.into() }
    }

    async fn reader() -> (Reader, Subscription, Metrics) {
        let (sender, messages) = mpsc::channel(MESSAGES_WAITING_MAX);
        let (waiting, metrics) = (Arc::new(AtomicUsize::new(0)), Metrics::new("one", &[]));
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.expect("open");
        let reader = Reader { sender, waiting: Arc::clone(&waiting), metrics: metrics.clone(), _place: place };
        (reader, Subscription { messages, waiting }, metrics)
    }

    fn dropped(metrics: &Metrics) -> f64 {
        metrics.sum("parallax_subscription_messages_dropped_total", &[])
    }

    #[tokio::test]
    async fn what_a_slow_subscriber_does_not_take_is_dropped_and_counted() {
        let (reader, mut subscription, metrics) = reader().await;
        for number in 0..MESSAGES_WAITING_MAX + 2 {
            reader.hand_over(message(number.to_string().into_bytes()));
        }
        assert_eq!(dropped(&metrics), 2.0);
        assert_eq!(subscription.next().await, Some(message(b"0".to_vec())), "the older ones stay, in their order");
        reader.hand_over(message(b"again".to_vec()));
        assert_eq!(dropped(&metrics), 2.0, "there was room again");
    }

    #[tokio::test]
    async fn large_messages_are_bounded_by_their_bytes_but_one_may_always_wait() {
        let (reader, mut subscription, metrics) = reader().await;
        reader.hand_over(message(vec![b'x'; BYTES_WAITING_MAX + 1]));
        assert_eq!(dropped(&metrics), 0.0);
        reader.hand_over(message(vec![b'y']));
        assert_eq!(dropped(&metrics), 1.0);
        subscription.next().await.expect("the large one");
        reader.hand_over(message(vec![b'z']));
        assert_eq!(dropped(&metrics), 1.0);
    }
}
