//! The aspects put together: whether a member may be given a request.

use super::{Checked, Passive};

/// What the operator wants of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admin {
    /// It is used.
    #[default]
    Ready,
    /// It gets nothing new; what it has goes on to its end.
    Draining,
    /// It gets nothing new, not even checks.
    Down,
}

/// What the operator orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdminOrder {
    /// Nothing new for it.
    Drain,
    /// Use it again; takes back either of the others.
    Undrain,
    /// Out of service.
    Disable,
}

impl AdminOrder {
    /// All of them.
    pub const ALL: [AdminOrder; 3] = [AdminOrder::Drain, AdminOrder::Undrain, AdminOrder::Disable];
}

impl Admin {
    /// Its name in the admin API and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Admin::Ready => "ready",
            Admin::Draining => "draining",
            Admin::Down => "down",
        }
    }

    /// The state after an order.
    pub const fn on(self, order: AdminOrder) -> Admin {
        match (self, order) {
            (_, AdminOrder::Undrain) => Admin::Ready,
            (_, AdminOrder::Disable) | (Admin::Down, AdminOrder::Drain) => Admin::Down,
            (_, AdminOrder::Drain) => Admin::Draining,
        }
    }
}

/// The control channel's end at the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Agent {
    /// Not connected: requests for this target are proxied.
    #[default]
    Gone,
    /// Connected, takes handoffs.
    Up,
    /// Connected, but it is stopping and takes no more.
    Stopping,
}

/// What happens on the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentEvent {
    /// It came up.
    Connected,
    /// It broke.
    Disconnected,
    /// A handoff was refused as `draining`.
    RefusedDraining,
    /// A handoff was answered otherwise.
    Answered,
}

impl AgentEvent {
    /// All of them.
    pub const ALL: [AgentEvent; 4] =
        [AgentEvent::Connected, AgentEvent::Disconnected, AgentEvent::RefusedDraining, AgentEvent::Answered];

    /// Whether its channel came or went with it, whatever was known of the agent before.
    pub const fn is_of_the_channel(self) -> bool {
        matches!(self, AgentEvent::Connected | AgentEvent::Disconnected)
    }
}

impl Agent {
    /// Its name in the admin API and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Agent::Gone => "gone",
            Agent::Up => "up",
            Agent::Stopping => "stopping",
        }
    }

    /// The state after an event. An agent that stops does not change its mind; its successor connects anew.
    pub const fn on(self, event: AgentEvent) -> Agent {
        match (self, event) {
            (_, AgentEvent::Connected) => Agent::Up,
            (_, AgentEvent::Disconnected) => Agent::Gone,
            (Agent::Up, AgentEvent::RefusedDraining) => Agent::Stopping,
            (state, AgentEvent::RefusedDraining | AgentEvent::Answered) => state,
        }
    }
}

/// Whether a member of a pool may be given a request, and if not, why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is well.
    #[default]
    Up,
    /// It is used, though something failed lately.
    Suspect,
    /// Requests failed there: not used for a time.
    Ejected,
    /// Its checks fail.
    Failing,
    /// The operator drains it.
    Draining,
    /// The operator took it out of service.
    Down,
}

impl Standing {
    /// All of them.
    pub const ALL: [Standing; 6] = [
        Standing::Up,
        Standing::Suspect,
        Standing::Ejected,
        Standing::Failing,
        Standing::Draining,
        Standing::Down,
    ];

    /// Of a member; the operator's word counts most, then the checks.
    pub const fn of(admin: Admin, checked: Checked, passive: Passive) -> Standing {
        match (admin, checked, passive) {
            (Admin::Down, ..) => Standing::Down,
            (Admin::Draining, ..) => Standing::Draining,
            (_, Checked::Down, _) => Standing::Failing,
            (_, _, Passive::Ejected) => Standing::Ejected,
            (_, _, Passive::Suspect) => Standing::Suspect,
            (_, _, Passive::Clear) => Standing::Up,
        }
    }

    /// Its name in the admin API and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Standing::Up => "up",
            Standing::Suspect => "suspect",
            Standing::Ejected => "ejected",
            Standing::Failing => "failing",
            Standing::Draining => "draining",
            Standing::Down => "down",
        }
    }

    /// Whether it is used in ordinary times.
    pub const fn is_healthy(self) -> bool {
        matches!(self, Standing::Up | Standing::Suspect)
    }

    /// Whether it counts as a member at all: the operator wants it used.
    pub const fn is_wanted(self) -> bool {
        !matches!(self, Standing::Draining | Standing::Down)
    }

    /// Whether it takes requests; in a panic all that are wanted do.
    pub const fn takes_requests(self, panic: bool) -> bool {
        self.is_healthy() || (panic && self.is_wanted())
    }
}

/// Whether a pool has too few healthy members to go by health: the few would be overrun by everybody's requests, and so
/// many failures at once speak rather against the checks. `wanted` are those the operator wants used. With none healthy
/// it is so whatever the threshold, percent: a request that may fail is better than one that must.
pub fn in_panic(healthy: usize, wanted: usize, percent: u32) -> bool {
    let percent = usize::try_from(percent).unwrap_or(100);
    wanted > 0 && (healthy == 0 || healthy.saturating_mul(100) < wanted.saturating_mul(percent))
}

/// Since when a member has been taking requests, for slow start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    healthy: bool,
    /// `None` while it is not, or if it was so from the start.
    since_ns: Option<u64>,
    known: bool,
}

impl Serving {
    /// Its standing now.
    pub fn note(&mut self, standing: Standing, now_ns: u64) {
        let healthy = standing.is_healthy();
        if self.known && healthy && !self.healthy {
            self.since_ns = Some(now_ns);
        } else if !healthy {
            self.since_ns = None;
        }
        *self = Serving { healthy, known: true, ..*self };
    }

    /// For how long, milliseconds; `None` if it is not, or was so from the start.
    pub fn for_ms(&self, now_ns: u64) -> Option<u64> {
        self.since_ns.map(|since| now_ns.saturating_sub(since) / 1_000_000)
    }
}
