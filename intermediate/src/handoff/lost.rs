//! Flows of an agent that is gone: which of them go on and which are ended is said by [`LostFlow`]; here its facts are
//! gathered, and what it says is done.
//!
//! The death of an agent harms no flow: its programs and records are pinned. What harms them is the death of the host.
//! So while an agent is gone its host is asked every [`LOOK`] by connecting to the server's port, and a kernel that
//! answers keeps its flows, idle ones too: their ends are reported once the agent is back, or the idle time is over.

use super::unresolved::Lost;
use super::{FREEZE_MARGIN, Migrator, flow_id_text};
use crate::targets::{Target, TargetId};
use baton_loader::monotonic_ns;
use baton_shared::control::FlowRef;
use baton_shared::reason::EndReason;
use baton_shared::state::lost::{LostFlow, LostVerdict};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How often a lost agent's host and flows are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long the host has to answer.
const ANSWER: Duration = Duration::from_secs(1);
/// How many clients are reset at a time: each takes a second, most of it waiting for the client's word.
const AT_A_TIME: usize = 16_384;

/// What a host did when it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    Answers,
    Silent,
    /// We could not ask.
    Unknown,
}

impl Migrator {
    /// Looks after the flows of one target while its agent is gone, for ever.
    pub(super) async fn watch_target(self: Arc<Self>, id: TargetId) {
        let mut watched: HashMap<FlowRef, LostFlow> = HashMap::new();
        let mut silent_since = None;
        let patience = u64::try_from(self.settings().agent_lost.as_nanos()).unwrap_or(u64::MAX);
        let mut cuts = JoinSet::new();
        loop {
            tokio::time::sleep(LOOK.min(self.settings().agent_lost)).await;
            let Some(target) = self.targets.get(id) else { return };
            while cuts.try_join_next().is_some() {}
            if target.is_removed() && target.flows() == 0 {
                watched.clear();
                silent_since = None;
                continue;
            }
            if target.is_up() {
                watched.clear();
                silent_since = None;
                self.cut_disowned(id, &mut cuts);
                continue;
            }
            let asked_ns = monotonic_ns();
            match ask(&target).await {
                Host::Answers => silent_since = None,
                Host::Silent => silent_since = silent_since.or(Some(asked_ns)),
                Host::Unknown => {}
            }
            let now = monotonic_ns();
            let flows = self.flows.marks_on(id);
            let before = std::mem::take(&mut watched);
            for (flow, marks) in flows {
                let mut lost = before.get(&flow).copied().unwrap_or_else(|| LostFlow::new(marks, now));
                match lost.on_look(marks, silent_since, now, patience) {
                    LostVerdict::End if cuts.len() < AT_A_TIME => {
                        cuts.spawn(self.clone().cut(id, flow, EndReason::AgentLost));
                    }
                    _ => {
                        watched.insert(flow, lost);
                    }
                }
            }
        }
    }

    /// Flows which a new agent says it does not have.
    fn cut_disowned(self: &Arc<Self>, id: TargetId, cuts: &mut JoinSet<()>) {
        for flow in self.disowned.take(id, AT_A_TIME.saturating_sub(cuts.len())) {
            cuts.spawn(self.clone().cut(id, flow, EndReason::AgentLost));
        }
    }

    /// Resets a flow's client and removes the flow; `reason` is how it ended.
    pub(super) async fn cut(self: Arc<Self>, target: TargetId, flow: FlowRef, reason: EndReason) {
        let Some(key) = self.flows.key_of(flow) else { return };
        // Before the packets are diverted: none of them may find the queue missing.
        let held = self.hold.begin(key);
        let Some(taken) = self.flows.take_from_target(flow, FREEZE_MARGIN + FREEZE_MARGIN) else {
            return self.hold.release(&held);
        };
        self.unresolved.remember(Lost { flow, target, server: taken.server, connection: taken.client });
        // The last acknowledgement may have been lost on the way, and a reset before the client's next number is
        // ignored without a word.
        self.resetter.ask_client(&taken.client, &held).await;
        self.resetter.reset_client(&taken.client, &held).await;
        self.flows.cut(flow, reason);
        self.hold.discard(&held);
        // Should the server still have it: if the host cannot hear that now, it is told at the agent's return.
        self.resetter.reset_server(&taken.client, taken.server);
        let (client, server, flow) = (taken.client.client, taken.server, flow_id_text(flow.flow_id));
        if reason == EndReason::AgentLost {
            tracing::warn!(%client, %server, %flow,
                "the target of a migrated connection is lost: the client was reset");
        } else {
            // Whoever can make a client do this must not be able to fill the log.
            tracing::debug!(%client, %server, %flow, %reason, "a migrated connection was reset");
        }
    }
}

/// Asks a target's host whether it is there, at all of its servers' addresses at once.
async fn ask(target: &Target) -> Host {
    let mut asked = JoinSet::new();
    for server in target.spec.servers.iter() {
        asked.spawn(tokio::time::timeout(ANSWER, TcpStream::connect(server)));
    }
    let mut host = Host::Unknown;
    while let Some(attempt) = asked.join_next().await {
        let Ok(attempt) = attempt else { continue };
        match meaning(attempt.map(|connected| connected.map(drop)).ok()) {
            Host::Answers => return Host::Answers,
            Host::Silent => host = Host::Silent,
            Host::Unknown => {}
        }
    }
    host
}

/// What an attempt to connect tells; `None` if its time was up.
fn meaning(attempt: Option<io::Result<()>>) -> Host {
    match attempt.map(|result| result.map_err(|e| e.kind())) {
        Some(Ok(()) | Err(io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset)) => {
            Host::Answers
        }
        None | Some(Err(io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable)) => Host::Silent,
        // No route: our own uplink is down. No descriptor, no port: our own trouble.
        Some(Err(_)) => Host::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_an_answer_and_our_own_trouble_is_none() {
        let failed = |kind: io::ErrorKind| meaning(Some(Err(kind.into())));
        assert_eq!(meaning(Some(Ok(()))), Host::Answers);
        assert_eq!(failed(io::ErrorKind::ConnectionRefused), Host::Answers);
        assert_eq!(meaning(None), Host::Silent);
        assert_eq!(failed(io::ErrorKind::HostUnreachable), Host::Silent);
        assert_eq!(failed(io::ErrorKind::NetworkUnreachable), Host::Unknown);
        assert_eq!(meaning(Some(Err(io::Error::from_raw_os_error(libc::EMFILE)))), Host::Unknown);
    }
}
