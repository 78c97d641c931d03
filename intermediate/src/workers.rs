//! The threads that accept connections. Each has a runtime of its own.
//!
//! The first worker is the main thread, where the hold queue is served too. It and some more hand connections off, each by control
//! channels of its own ([`Lane`]): a handoff wakes no other thread, which would cost more than all its system calls. HTTP
//! connections that may be given away are accepted there alone ([`Config::accepting`](crate::config::Config::accepting)). What of
//! them is proxied after all goes to the others, if there are any ([`Aside`](crate::front::Aside)). On a VIP each worker that
//! accepts has its own socket (`SO_REUSEPORT`), and the kernel spreads connections over them.

use crate::config::Config;
use crate::front::{Front, StopControl};
use crate::handoff::lane;
use baton_daemon::service;
use baton_shared::control::Lane;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, watch};

/// A socket to accept on, until the watch says `true`: then what waits is accepted, and the socket closed.
struct Post {
    socket: TcpListener,
    vip: SocketAddr,
    /// Held until the socket is closed.
    left: watch::Receiver<bool>,
}

/// A VIP's sockets.
struct Listening {
    leave: watch::Sender<bool>,
    /// They were opened with `defer_accept`.
    deferred: bool,
}

/// All workers, and what they listen on. Dropping it ends those beside the main thread, with all that runs on them.
pub(crate) struct Workers {
    front: Arc<Front>,
    stop: crate::front::Stop,
    threads: Vec<JoinHandle<()>>,
    /// To each thread. One that is gone ends its thread.
    posts: Vec<mpsc::UnboundedSender<Post>>,
    /// What those threads run.
    runtimes: Vec<Handle>,
    /// So many of all hand off, the main one and the first beside it.
    handing_off: usize,
    /// What is listened on.
    vips: HashMap<SocketAddr, Listening>,
}

impl Workers {
    /// Starts so many threads beside the main one; with that so many hand off. In its runtime.
    pub(crate) fn start(
        front: &Arc<Front>,
        beside: usize,
        handing_off: usize,
        control: &StopControl,
    ) -> io::Result<Self> {
        let mut workers = Workers {
            front: Arc::clone(front),
            stop: control.stop(),
            threads: Vec::new(),
            posts: Vec::new(),
            runtimes: Vec::new(),
            handing_off,
            vips: HashMap::new(),
        };
        for n in 0..beside {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            workers.runtimes.push(runtime.handle().clone());
            let (front, stop) = (Arc::clone(front), control.stop());
            let (post, mut posts) = mpsc::unbounded_channel();
            let lane = (n + 1 < handing_off).then(|| Lane::nth(n + 1));
            let thread = std::thread::Builder::new().name(format!("worker{}", n + 2)).spawn(move || {
                lane.into_iter().for_each(lane::enter);
                runtime.block_on(async {
                    while let Some(post) = posts.recv().await {
                        accept(&front, post, &stop);
                    }
                });
            })?;
            workers.threads.push(thread);
            workers.posts.push(post);
        }
        lane::enter(Lane::FIRST);
        front.aside.set(workers.runtimes.iter().skip(handing_off.saturating_sub(1)).cloned().collect());
        Ok(workers)
    }

    /// Accepts on a VIP's sockets, the first in the main thread's runtime, where this is called, the others each in a
    /// worker's, on no more than there are to accept; and has them kept for the next run. They were opened with this
    /// configuration.
    pub(crate) fn listen(&mut self, vip: SocketAddr, sockets: Vec<TcpListener>, config: &Config) {
        let accepting = config.accepting(vip);
        let (leave, left) = watch::channel(false);
        for (n, socket) in sockets.into_iter().enumerate() {
            service::keep(vip, &socket);
            let post = Post { socket, vip, left: left.clone() };
            match worker_of(n, accepting, self.posts.len()).and_then(|n| self.posts.get(n)) {
                None => accept(&self.front, post, &self.stop),
                Some(worker) => drop(worker.send(post)),
            }
        }
        self.vips.insert(vip, Listening { leave, deferred: config.is_deferred(vip) });
    }

    /// Has a VIP listened on no more, from now on; the future is over when its sockets are closed. What waits in their
    /// queues is accepted before, and what was accepted goes on.
    pub(crate) fn unlisten(&mut self, vip: SocketAddr) -> impl Future<Output = ()> + use<> {
        service::forget(vip);
        let leave = self.vips.remove(&vip).map(|listening| listening.leave);
        if let Some(leave) = &leave {
            leave.send_replace(true);
        }
        async move {
            if let Some(leave) = leave {
                leave.closed().await;
            }
        }
    }

    /// What the threads beside the main one run that hand off.
    pub(crate) fn handing_off(&self) -> Vec<Handle> {
        self.runtimes.iter().take(self.handing_off.saturating_sub(1)).cloned().collect()
    }

    /// What the threads beside the main one run.
    pub(crate) fn runtimes(&self) -> Vec<Handle> {
        self.runtimes.clone()
    }

    /// The VIPs that are listened on.
    pub(crate) fn vips(&self) -> impl Iterator<Item = SocketAddr> {
        self.vips.keys().copied()
    }

    /// Whether a VIP's sockets were opened with `defer_accept`; `None` if it is not listened on.
    pub(crate) fn is_deferred(&self, vip: SocketAddr) -> Option<bool> {
        self.vips.get(&vip).map(|listening| listening.deferred)
    }
}

/// Who accepts on a VIP's `n`th socket: `None` the main thread, else one of so many beside it. Sockets that were taken over
/// may be more than the `accepting` workers, and something may wait in each.
fn worker_of(n: usize, accepting: usize, beside: usize) -> Option<usize> {
    let workers = accepting.clamp(1, beside.saturating_add(1));
    n.checked_rem(workers)?.checked_sub(1)
}

/// Accepts on this socket, in a task of the current runtime.
fn accept(front: &Arc<Front>, post: Post, stop: &crate::front::Stop) {
    let Post { socket, vip, left } = post;
    let mut told = left.clone();
    let leave = async move {
        // An error means that the workers are gone, which is as good as their word.
        let _ = told.wait_for(|left| *left).await;
    };
    let run = Arc::clone(front).run_until(socket, vip, stop.clone(), leave);
    tokio::spawn(async move {
        run.await;
        drop(left);
    });
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.posts.clear();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker had panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::worker_of;

    #[test]
    fn sockets_go_round_the_workers_that_accept_and_no_others() {
        let of = |accepting, beside| (0..5).map(|n| worker_of(n, accepting, beside)).collect::<Vec<_>>();
        assert_eq!(of(3, 2), [None, Some(0), Some(1), None, Some(0)]);
        assert_eq!(
            of(1, 2),
            [None; 5],
            "what may migrate is accepted on the main thread, however many there are"
        );
        assert_eq!(of(9, 1), [None, Some(0), None, Some(0), None], "there are fewer than were asked for");
        assert_eq!(of(0, 0), [None; 5]);
    }
}
