//! Questions to agents about single flows that wait for their answer.

use crate::targets::{Agent, AgentId, NotSent};
use baton_shared::control::{FlowRef, FlowReport, Message, TargetFlow};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long an agent is waited for: it answers at once, between two packets.
const PATIENCE: Duration = Duration::from_secs(1);

type Waiting = HashMap<(AgentId, FlowRef), Vec<oneshot::Sender<FlowReport>>>;

/// Why there is nothing from an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotInspected {
    /// No channel.
    #[error("the agent is not connected")]
    Down,
    /// No room in the channel's queue.
    #[error("the agent's channel is full")]
    Busy,
    /// No answer.
    #[error("the agent did not answer in a second")]
    Silent,
    /// It does not know the flow.
    #[error(
        "the agent does not know the flow: it has ended and its linger time there is over, or was never taken"
    )]
    Unknown,
}

/// Those under way.
#[derive(Debug, Default)]
pub struct Inspections(Mutex<Waiting>);

impl Inspections {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks an agent about a flow.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(&self, agent: &Agent, flow: FlowRef) -> Result<TargetFlow, NotInspected> {
        let (to, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            // What nobody waits for any more goes.
            waiting.values_mut().for_each(|all| all.retain(|to| !to.is_closed()));
            waiting.retain(|_, all| !all.is_empty());
            waiting.entry((agent.id, flow)).or_default().push(to);
        }
        agent.send(Message::Inspect(flow)).map_err(|e| match e {
            NotSent::Down => NotInspected::Down,
            NotSent::Busy => NotInspected::Busy,
        })?;
        match timeout(PATIENCE, answer).await {
            Ok(Ok(report)) => report.held.map(|held| *held).ok_or(NotInspected::Unknown),
            _ => Err(NotInspected::Silent),
        }
    }

    /// An agent answers.
    pub(crate) fn on_report(&self, from: AgentId, report: FlowReport) {
        let asked = self.waiting().remove(&(from, report.flow)).unwrap_or_default();
        for to in asked {
            // Nobody waits any more if that fails.
            let _ = to.send(report.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::{AgentLink, Servers, TargetSpec, Targets};
    use baton_shared::translate::Leg;
    use std::sync::Arc;

    /// Keeps what it is sent.
    #[derive(Default)]
    struct Kept(Mutex<Vec<Message>>);

    impl AgentLink for Kept {
        fn send(&self, message: Message) -> Result<(), NotSent> {
            self.0.lock().unwrap().push(message);
            Ok(())
        }

        fn is_up(&self) -> bool {
            true
        }
    }

    fn agents() -> Vec<Arc<Agent>> {
        let spec = |name: &str, agent: &str| TargetSpec {
            name: name.into(),
            servers: Servers::new(["10.0.0.1:80".parse().unwrap()]),
            agent: agent.parse().unwrap(),
            agent_name: name.into(),
            leg: Leg::Rewrite,
        };
        let targets = Targets::new([spec("a", "10.0.0.1:7400"), spec("b", "10.0.0.2:7400")]);
        targets.agents()
    }

    const FLOW: FlowRef = FlowRef { flow_id: 7, generation: 2 };

    #[tokio::test]
    async fn only_the_agent_that_was_asked_is_heard_and_all_who_ask_get_its_answer() {
        let agents = agents();
        let link = Arc::new(Kept::default());
        agents[0].add_link(Arc::clone(&link) as Arc<dyn AgentLink>);
        let inspections = Inspections::default();
        let answer = async {
            while link.0.lock().unwrap().len() < 2 {
                tokio::task::yield_now().await;
            }
            inspections.on_report(agents[1].id, FlowReport { flow: FLOW, held: None });
            assert_eq!(inspections.waiting().len(), 1, "a stranger's word counts for nothing");
            inspections.on_report(agents[0].id, FlowReport { flow: FLOW, held: None });
        };
        let (one, two, ()) =
            tokio::join!(inspections.ask(&agents[0], FLOW), inspections.ask(&agents[0], FLOW), answer);
        assert_eq!((one, two), (Err(NotInspected::Unknown), Err(NotInspected::Unknown)));
        assert_eq!(*link.0.lock().unwrap(), [Message::Inspect(FLOW), Message::Inspect(FLOW)]);
        assert!(inspections.waiting().is_empty());
    }

    #[tokio::test]
    async fn an_agent_that_is_gone_is_not_waited_for() {
        let agents = agents();
        let inspections = Inspections::default();
        assert_eq!(inspections.ask(&agents[0], FLOW).await, Err(NotInspected::Down));
    }
}
