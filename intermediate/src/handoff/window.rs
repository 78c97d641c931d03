//! What is held of a committed flow goes on as far as the window of the server's socket takes it.
//!
//! The client sent it into the window that this kernel had promised, which may be larger: by what its socket's buffer has grown,
//! or by what the server has not read yet. What reaches beyond its window the server's kernel drops, and the client has to send
//! it again. So that waits here, with what comes behind it, and the agent is asked how far the window reaches by now.

use super::pending::Told;
use super::{LaterFlow, Migrator};
use crate::flows::InHand;
use crate::hold::{Ends, HeldFlow};
use crate::targets::TargetId;
use baton_shared::control::{FlowRef, Message};
use baton_shared::state::window::Window;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::time::sleep_until;

/// How long a window is waited for: less than a client that hears nothing takes to send again (200 ms; RFC 6298 has a second).
const PATIENCE: Duration = Duration::from_millis(150);
/// How long after its first answer the agent is asked again; every time twice as long.
const AGAIN: Duration = Duration::from_millis(1);

/// A flow of which packets may be held beyond the server's window.
pub(super) struct AwaitingWindow {
    pub(super) flow: FlowRef,
    /// Who has it.
    pub(super) target: TargetId,
    pub(super) held: Arc<HeldFlow>,
    /// Who reads it, if it is tracked.
    pub(super) later: Option<Arc<LaterFlow>>,
    pub(super) window: Window,
    /// What comes queues behind what is held, and if nothing is.
    pub(super) in_hand: InHand,
}

impl Migrator {
    /// Lets go what is held as far as the window takes it, the rest as it opens.
    pub(super) fn let_through(self: &Arc<Self>, mut waiting: AwaitingWindow) {
        if !self.let_go(&mut waiting) {
            self.follow_window(waiting);
        }
    }

    /// Lets go what is held as the window opens, in a task of its own.
    pub(super) fn follow_window(self: &Arc<Self>, mut waiting: AwaitingWindow) {
        let migrator = Arc::clone(self);
        self.spawn(async move {
            if !migrator.ask_on(&mut waiting).await {
                migrator.impatient.fetch_add(1, Ordering::Relaxed);
                // The server's kernel answers what it does not take.
                waiting.window.give_up();
                migrator.let_go(&mut waiting);
            }
        });
    }

    /// Until all is gone; whether it is, or there is nothing more to wait for. What comes meanwhile and fits goes on at once.
    async fn ask_on(self: &Arc<Self>, waiting: &mut AwaitingWindow) -> bool {
        let Some(target) = self.targets.get(waiting.target) else { return false };
        let until = Instant::now() + PATIENCE;
        let mut told = self.pending.register(waiting.flow, waiting.target);
        let mut over = false;
        let (mut next, mut again) = (until, AGAIN);
        let mut heard = target.send_of(waiting.flow, Message::Status(waiting.flow)).is_ok();
        while heard && !over {
            tokio::select! {
                answer = told.recv() => match answer {
                    Some(Told::Migrated(answer)) => {
                        waiting.window.on_told(answer.window_end);
                        next = until.min(Instant::now() + again);
                        again = again.saturating_mul(2);
                    }
                    _ => heard = false,
                },
                () = waiting.held.packet_arrived() => {}
                () = sleep_until(next.into()) => {
                    heard = next < until && target.send_of(waiting.flow, Message::Status(waiting.flow)).is_ok();
                    next = until;
                }
            }
            over = self.let_go(waiting);
        }
        over
    }

    fn let_go(self: &Arc<Self>, waiting: &mut AwaitingWindow) -> bool {
        let (held, window) = (&waiting.held, &mut waiting.window);
        match &waiting.later {
            None => {
                let slot = Some(waiting.in_hand.slot());
                let write = |packet: &[u8], offload| self.hold.write_back(slot, packet, offload);
                self.hold.release_into(held, window, Ends::All, write)
            }
            Some(flow) => self.read_held(flow, &mut flow.lock(), held, window),
        }
    }
}
