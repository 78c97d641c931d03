//! The threads that accept connections. Each has a runtime of its own, and a connection stays on the thread that
//! accepted it: a handoff then costs no wakeup of another thread, which takes longer than all its system calls.
//!
//! The first worker is the main thread, where the control channels and the hold queue are served too. With more than
//! one, each has its own socket on every VIP (`SO_REUSEPORT`), and the kernel spreads connections over them.

use crate::front::{Front, StopControl};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::runtime::Builder;
use tokio::sync::watch;

/// A worker's listening sockets, one for each `[[listener]]`, and its vip.
pub(crate) type Listeners = Vec<(TcpListener, SocketAddr)>;

/// The workers beside the main thread. Dropping it ends them, with all that runs on them.
#[derive(Debug)]
pub(crate) struct Workers {
    threads: Vec<JoinHandle<()>>,
    running: Option<watch::Sender<()>>,
}

impl Workers {
    /// Starts one thread for each set of sockets.
    pub(crate) fn start(
        front: &Arc<Front>,
        sets: impl IntoIterator<Item = Listeners>,
        control: &StopControl,
    ) -> io::Result<Self> {
        let (running, ended) = watch::channel(());
        let mut workers = Workers { threads: Vec::new(), running: Some(running) };
        for (n, listeners) in sets.into_iter().enumerate() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (front, stop, mut ended) = (Arc::clone(front), control.stop(), ended.clone());
            let thread = std::thread::Builder::new().name(format!("worker{}", n + 2)).spawn(move || {
                runtime.block_on(async {
                    accept(&front, listeners, &stop);
                    // An error: the workers are dropped.
                    let _ = ended.changed().await;
                });
            })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }
}

/// Accepts on these sockets, in tasks of the current runtime.
pub(crate) fn accept(front: &Arc<Front>, listeners: Listeners, stop: &crate::front::Stop) {
    for (listener, vip) in listeners {
        tokio::spawn(Arc::clone(front).run(listener, vip, stop.clone()));
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        drop(self.running.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker had panicked");
            }
        }
    }
}
