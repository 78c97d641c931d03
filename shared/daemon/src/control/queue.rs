//! What waits to be written to one peer. Frames are encoded straight into the buffer the writer takes whole.

use super::{QUEUE_BYTES, QUEUE_MESSAGES, SendError};
use baton_shared::control::{FlowRef, Message, encode_into};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The queue between [`send`](Queue::send) and the writer's task.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    open: bool,
    /// Whole frames, not yet taken by the writer.
    bytes: Vec<u8>,
    /// Frames in `bytes`.
    messages: usize,
    /// Bytes and frames the writer has taken and not finished.
    in_hand_bytes: usize,
    in_hand_messages: usize,
    /// Where `bytes` begins in the stream of this channel.
    base: u64,
    /// How much of that stream the socket's layer has accepted.
    written: u64,
    /// Handoffs of which no byte has been accepted, with the place where each begins in the stream.
    handoffs: VecDeque<(u64, FlowRef)>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere cannot leave it half changed: every change is complete before anything can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a channel: empty and open.
    pub(super) fn open(&self) {
        *self.lock() = Inner { open: true, ..Inner::default() };
    }

    /// Ends the channel; gives the handoffs of which not one byte was written.
    pub(super) fn close(&self) -> Vec<FlowRef> {
        let mut inner = self.lock();
        let undelivered = inner.handoffs.drain(..).map(|(_, flow)| flow).collect();
        *inner = Inner::default();
        undelivered
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().open
    }

    /// Queues a message and wakes the writer.
    pub(super) fn send(&self, message: &Message) -> Result<(), SendError> {
        let mut inner = self.lock();
        let inner_ref = &mut *inner;
        if !inner_ref.open {
            return Err(SendError::Down);
        }
        if inner_ref.messages + inner_ref.in_hand_messages >= QUEUE_MESSAGES
            || inner_ref.bytes.len() + inner_ref.in_hand_bytes >= QUEUE_BYTES
        {
            return Err(SendError::Busy);
        }
        let at = inner_ref.base + inner_ref.bytes.len() as u64;
        encode_into(message, &mut inner_ref.bytes).map_err(|e| {
            tracing::warn!("a message cannot be sent: {e}");
            SendError::Busy
        })?;
        inner_ref.messages += 1;
        if let Message::Handoff(handoff) = message {
            inner_ref.handoffs.push_back((at, handoff.flow));
        }
        drop(inner);
        self.wake.notify_one();
        Ok(())
    }

    /// Waits until there is something to write and swaps it into `out`, which must be empty. False once closed.
    pub(super) async fn take(&self, out: &mut Vec<u8>) -> bool {
        loop {
            {
                let mut inner = self.lock();
                inner.in_hand_bytes = 0;
                inner.in_hand_messages = 0;
                if !inner.open {
                    return false;
                }
                if !inner.bytes.is_empty() {
                    std::mem::swap(&mut inner.bytes, out);
                    inner.base += out.len() as u64;
                    inner.in_hand_bytes = out.len();
                    inner.in_hand_messages = std::mem::take(&mut inner.messages);
                    return true;
                }
            }
            self.wake.notified().await;
        }
    }

    /// The next `count` bytes of the stream are about to be, or were, accepted for writing: a handoff that begins
    /// among them may reach the peer.
    pub(super) fn accepted(&self, count: usize) {
        let mut inner = self.lock();
        inner.written += count as u64;
        let written = inner.written;
        while inner.handoffs.front().is_some_and(|(at, _)| *at < written) {
            inner.handoffs.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_shared::control::encode;

    #[tokio::test]
    async fn what_was_queued_is_taken_at_once_and_bounds_count_what_the_writer_holds() {
        let queue = Queue::default();
        let status = |n| Message::Status(FlowRef { flow_id: n, generation: 1 });
        assert_eq!(queue.send(&status(0)), Err(SendError::Down));
        queue.open();
        let mut expected = Vec::new();
        for n in 0..QUEUE_MESSAGES as u64 {
            queue.send(&status(n)).unwrap();
            expected.extend(encode(&status(n)).unwrap());
        }
        assert_eq!(queue.send(&status(0)), Err(SendError::Busy));
        let mut batch = Vec::new();
        assert!(queue.take(&mut batch).await);
        assert_eq!(batch, expected, "all of it, in order");
        assert_eq!(queue.send(&status(0)), Err(SendError::Busy), "it is not written yet");
        batch.clear();
        let empty = tokio::time::timeout(std::time::Duration::from_millis(50), queue.take(&mut batch)).await;
        assert!(empty.is_err(), "nothing is left");
        queue.send(&status(0)).unwrap();
        queue.close();
        assert_eq!(queue.send(&status(0)), Err(SendError::Down));
        assert!(!queue.take(&mut batch).await);
    }
}
