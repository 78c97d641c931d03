//! Stopping in good order: nobody begins anything, what is under way is waited for.

use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

/// How long a stop waits for the first bytes on a new connection.
const FIRST_BYTES: Duration = Duration::from_millis(500);

/// A task's view of the stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop {
    stopped: watch::Receiver<bool>,
    busy: mpsc::WeakSender<()>,
}

/// Held by whoever is to be waited for.
#[derive(Debug)]
pub struct Busy(#[expect(dead_code, reason = "its drop is what counts")] Option<mpsc::Sender<()>>);

/// The one that gives the word.
#[derive(Debug)]
pub struct StopControl {
    stopped: watch::Sender<bool>,
    busy: mpsc::Sender<()>,
    idle: mpsc::Receiver<()>,
}

impl Default for StopControl {
    fn default() -> Self {
        let (busy, idle) = mpsc::channel(1);
        StopControl { stopped: watch::Sender::new(false), busy, idle }
    }
}

impl StopControl {
    /// For a task.
    pub fn stop(&self) -> Stop {
        Stop { stopped: self.stopped.subscribe(), busy: self.busy.downgrade() }
    }

    /// Gives the word and waits, at most `limit`, until nobody is busy. Whether all were done.
    pub async fn stop_and_wait(self, limit: Duration) -> bool {
        let StopControl { stopped, busy, mut idle } = self;
        stopped.send_replace(true);
        drop(busy);
        timeout(limit, idle.recv()).await.is_ok()
    }
}

impl Stop {
    /// Until the word is given.
    pub async fn wait(&mut self) {
        // An error means that the control is gone, which is as good as its word.
        let _ = self.stopped.wait_for(|stopped| *stopped).await;
    }

    /// Until the word is given and a client that has connected has had the time to send its first bytes. A request is on its
    /// way to each connection that was just accepted.
    pub async fn wait_for_first_bytes(&mut self) {
        self.wait().await;
        sleep(FIRST_BYTES).await;
    }

    /// Makes the stop wait until the guard is dropped.
    pub fn busy(&self) -> Busy {
        Busy(self.busy.upgrade())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_stop_waits_for_the_busy_but_not_for_ever() {
        let control = StopControl::default();
        let mut stop = control.stop();
        let busy = stop.busy();
        let task = tokio::spawn(async move {
            stop.wait().await;
            drop(busy);
        });
        assert!(control.stop_and_wait(Duration::from_secs(5)).await);
        task.await.unwrap();

        let control = StopControl::default();
        let _busy = control.stop().busy();
        assert!(!control.stop_and_wait(Duration::from_millis(10)).await);
    }
}
