//! A handler's call that is finished even when nobody waits for it any more.
//!
//! Hyper drops the call of a client that went away. A write that is dropped half way would be neither done nor undone,
//! so a call that was begun is carried to its end in the background instead. Where the client stays, this costs one box.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;

type Call<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A call that outlives its caller. It holds its connection's slot, so that abandoned calls are bounded with the
/// connections and a drain waits for them.
pub(super) struct Finishing<T: Send + 'static> {
    call: Option<Call<T>>,
    slot: Arc<OwnedSemaphorePermit>,
}

impl<T: Send + 'static> Finishing<T> {
    pub(super) fn new(call: impl Future<Output = T> + Send + 'static, slot: Arc<OwnedSemaphorePermit>) -> Self {
        Self { call: Some(Box::pin(call)), slot }
    }
}

impl<T: Send + 'static> Future for Finishing<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(call) = self.call.as_mut() else {
            return Poll::Pending;
        };
        let polled = call.as_mut().poll(cx);
        if polled.is_ready() {
            self.call = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Finishing<T> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take()
            && let Ok(runtime) = Handle::try_current()
        {
            let slot = Arc::clone(&self.slot);
            runtime.spawn(async move {
                call.await;
                drop(slot);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{Semaphore, oneshot};

    use super::*;

    #[tokio::test]
    async fn a_call_that_was_dropped_half_way_still_ends_and_then_frees_its_slot() {
        let slots = Arc::new(Semaphore::new(1));
        let slot = Arc::new(Arc::clone(&slots).acquire_owned().await.expect("open"));
        let (go, gate) = oneshot::channel::<()>();
        let (done, ended) = oneshot::channel::<()>();
        let mut call = Finishing::new(
            async move {
                gate.await.expect("opened");
                done.send(()).expect("somebody listens");
            },
            slot,
        );
        assert!(futures_util::poll!(&mut call).is_pending());
        drop(call);
        assert_eq!(slots.available_permits(), 0, "an abandoned call keeps its slot");
        go.send(()).expect("the call still waits");
        ended.await.expect("the call went on to its end");
        let _slot = slots.acquire().await.expect("the slot came back");
    }
}
