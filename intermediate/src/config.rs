//! The intermediate's configuration, `intermediate.toml`.

mod access_log;
mod certificate;
mod effective;
mod headers;
mod health;
mod keepalive;
mod limits;
mod listener;
mod maglev;
mod own_limits;
mod pool;
mod route;
mod sticky;
mod stream;
mod target;
#[cfg(test)]
mod tests;
mod tracing;

pub use access_log::AccessLog;
pub use certificate::Certificate;
pub use headers::RequestHeaders;
pub use health::Health;
pub use limits::{HandoffTimes, Limits};
pub use listener::{Listener, Protocol};
pub use maglev::Maglev;
pub use own_limits::{ListenerLimits, RouteLimits};
pub use pool::{DEFAULT_POOL, PoolEntry, PoolTarget};
pub use route::{Pairs, RouteEntry};
pub use sticky::{First, Sticky};
pub use stream::StreamTimes;
pub use target::TargetEntry;
pub use tracing::Tracing;

use crate::front::{FrontLimits, ListenOptions};
use crate::handoff::HandoffSettings;
use crate::hold::HoldLimits;
use crate::targets::TargetSpec;
use baton_daemon::config::{
    AdminSettings, ConfigError, PlaneSettings, Problems, Sources, Spanned, TlsFiles, Validate, check_device,
    load_parts,
};
use baton_daemon::cpu_latency::{When, Wish};
use baton_daemon::tun::interface_index;
use baton_shared::control::Lane;
use baton_shared::control::Role;
use baton_shared::route::{KeepAlive, Mode, Route};
use baton_shared::translate::Leg;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// Migration records kept for `/v1/migrations`.
pub const HISTORY: usize = 10_000;
/// After this time without a packet a flow is given up, should its agent never say anything. Agents judge after
/// an hour by default.
const IDLE_BACKSTOP: Duration = Duration::from_secs(4 * 3600);

/// What an included file may have.
const PARTS: [&str; 4] = ["listener", "target", "pool", "route"];

/// More threads than this accept no faster.
const WORKERS_MAX: usize = 256;
/// No more threads than this hand off if nothing else is said.
const HANDOFF_WORKERS: usize = 4;

/// The whole file.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node's name, as in its certificate.
    pub name: Spanned<String>,
    /// The device on which clients' packets arrive and through which targets are reached.
    pub uplink: Option<Spanned<String>>,
    /// Threads that accept and proxy; one for each processor if it is not given.
    pub workers: Option<Spanned<usize>>,
    /// How many of them accept connections which may be given away, and hand them off, each by a control channel of its own to each
    /// agent; half of them, 4 at most, if it is not given.
    pub handoff_workers: Option<Spanned<usize>>,
    /// When this host's processors are held awake: while handoffs come often, if it is not given.
    pub cpu_latency: Option<Spanned<When>>,
    /// Microseconds within which they are to wake while they are held awake; what their first state allows that halts, and in a
    /// virtual machine 0, if it is not given.
    pub cpu_latency_us: Option<Spanned<u32>>,
    /// This host's addresses, at most one of each family, that packets to targets are encapsulated with; those the
    /// kernel would choose if there are none.
    #[serde(default)]
    pub leg_source: Vec<Spanned<IpAddr>>,
    /// This node's certificate.
    pub tls: Option<TlsFiles>,
    /// Addresses clients connect to.
    #[serde(default)]
    pub listener: Vec<Listener>,
    /// Where requests can go.
    #[serde(default)]
    pub target: Vec<TargetEntry>,
    /// Which targets can serve the same requests; one of all targets if there are none.
    #[serde(default)]
    pub pool: Vec<PoolEntry>,
    /// Further files with listeners, targets, pools and routes: a pattern, relative to this file.
    pub include: Option<Spanned<String>>,
    /// Which requests go to which pool.
    #[serde(default)]
    pub route: Vec<RouteEntry>,
    /// One record for each request.
    pub access_log: Option<Spanned<AccessLog>>,
    /// Spans of requests for a collector of traces.
    pub tracing: Option<Tracing>,
    /// What a client may ask of us.
    #[serde(default)]
    pub limits: Limits,
    /// How long a handoff may take.
    #[serde(default)]
    pub handoff: HandoffTimes,
    /// The data plane.
    #[serde(default)]
    pub plane: PlaneSettings,
    /// The admin endpoint.
    #[serde(default)]
    pub admin: AdminSettings,
}

/// What migrating needs of the file; there if any listener migrates.
#[derive(Clone, Copy, Debug)]
pub struct MigrationNeeds<'a> {
    /// [`Config::uplink`].
    pub uplink: &'a str,
    /// [`Config::tls`].
    pub tls: &'a TlsFiles,
}

impl Config {
    /// Reads and checks the file; all that is wrong is reported together.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        Self::load_with_sources(path).map(|(config, _)| config)
    }

    /// As [`Config::load`], with the files it was read from.
    pub fn load_with_sources(path: &Path) -> Result<(Config, Sources), ConfigError> {
        load_parts(path, &PARTS, |config: &Config, problems| config.validate(problems))
    }

    /// Without looking for what the types do not say.
    pub fn load_unchecked(path: &Path) -> Result<Config, ConfigError> {
        load_parts(path, &PARTS, |_: &Config, _| {}).map(|(config, _)| config)
    }

    /// When processors are held awake, and how.
    pub fn cpu_latency(&self) -> Wish<'_> {
        Wish { when: self.cpu_latency.as_ref(), us: self.cpu_latency_us.as_ref() }
    }

    /// Whether any listener gives connections away.
    pub fn migrates(&self) -> bool {
        self.modes().any(|mode| mode == Mode::Migrate)
    }

    fn modes(&self) -> impl Iterator<Item = Mode> {
        let of_routes = self.route.iter().filter_map(|route| route.mode.as_ref().map(|mode| *mode.get_ref()));
        self.listener.iter().map(Listener::mode).chain(of_routes)
    }

    /// `None` if all listeners proxy: then neither data plane nor control channels are needed.
    pub fn migration_needs(&self) -> Option<MigrationNeeds<'_>> {
        let (uplink, tls) = (self.uplink.as_ref()?, self.tls.as_ref()?);
        self.migrates().then_some(MigrationNeeds { uplink: uplink.get_ref(), tls })
    }

    /// How many threads accept connections.
    pub fn workers(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, |processors| processors.get());
        self.workers.as_ref().map_or_else(all, |workers| *workers.get_ref()).min(WORKERS_MAX)
    }

    /// How many of those threads hand connections off. By default half of them: each handoff of several threads costs more.
    pub fn handoff_workers(&self) -> usize {
        let few = (self.workers() / 2).clamp(1, HANDOFF_WORKERS);
        self.handoff_workers.as_ref().map_or(few, |workers| (*workers.get_ref()).min(self.workers()))
    }

    /// How many of those threads accept on a VIP. Where connections may be given away it is those that have control channels: a
    /// handoff then wakes no other thread, which costs more than all its system calls.
    pub fn accepting(&self, vip: SocketAddr) -> usize {
        let by_routes = self.route.iter().filter_map(|route| route.mode.as_ref());
        let by_routes = by_routes.into_iter().any(|mode| *mode.get_ref() == Mode::Migrate);
        let gives = |l: &Listener| l.protocol() == Protocol::Http && (l.mode() == Mode::Migrate || by_routes);
        let gives = self.listener.iter().any(|l| *l.vip.get_ref() == vip && gives(l));
        if gives && self.migration_needs().is_some() { self.handoff_workers() } else { self.workers() }
    }

    /// The addresses clients connect to.
    pub fn vips(&self) -> Vec<SocketAddr> {
        self.listener.iter().map(|listener| *listener.vip.get_ref()).collect()
    }

    /// For [`crate::targets::Targets`].
    pub fn targets(&self) -> Vec<TargetSpec> {
        self.target.iter().map(TargetEntry::spec).collect()
    }

    /// The servers to which packets go in outer headers.
    pub fn encapsulated_servers(&self) -> impl Iterator<Item = SocketAddr> {
        let targets = self.target.iter().filter(|t| t.leg() != Leg::Rewrite);
        targets.flat_map(TargetEntry::servers).map(|server| *server.get_ref())
    }

    /// The configured source of outer headers.
    pub fn leg_source(&self, v4: bool) -> Option<IpAddr> {
        self.leg_source.iter().map(|source| *source.get_ref()).find(|source| source.is_ipv4() == v4)
    }

    /// How large clients' segments may be so that they fit the way to every target of the VIP's family, over links of
    /// this MTU; `None`: nothing stands in front of them.
    pub fn segment_bytes(&self, vip: SocketAddr, mtu: u32) -> Option<u32> {
        let encapsulated = self.target.iter().filter(|t| t.leg() != Leg::Rewrite);
        let of_family = encapsulated.filter(|t| t.servers().any(|s| s.get_ref().is_ipv4() == vip.is_ipv4()));
        of_family.map(|t| t.leg().segment_bytes(mtu, vip.is_ipv4())).min().filter(|_| self.migrates())
    }

    /// For a VIP's listening sockets, where links have this MTU.
    pub fn listen_options(&self, vip: SocketAddr, mtu: u32) -> ListenOptions {
        ListenOptions { segment_bytes: self.segment_bytes(vip, mtu), deferred: self.is_deferred(vip) }
    }

    /// Whether the kernel keeps a VIP's connections until their clients have spoken.
    pub fn is_deferred(&self, vip: SocketAddr) -> bool {
        self.listener.iter().any(|listener| *listener.vip.get_ref() == vip && listener.is_deferred())
    }

    /// For the front, where a listener says nothing else.
    pub fn front_limits(&self) -> FrontLimits {
        self.limits.front(self.serves_connect())
    }

    /// Those in force on a listener.
    pub fn listener_limits(&self, listener: &Listener) -> FrontLimits {
        let own = listener.limits.as_ref().map(|own| own.over(&self.limits));
        own.as_ref().unwrap_or(&self.limits).front(self.serves_connect())
    }

    /// Whether CONNECT is to be had anywhere.
    fn serves_connect(&self) -> bool {
        let of_routes = self.route.iter().filter_map(|route| route.connect.as_ref());
        let all = self.listener.iter().filter_map(|listener| listener.connect.as_ref()).chain(of_routes);
        all.into_iter().any(|connect| *connect.get_ref())
    }

    /// For the migrator; `out_ifindex` is the uplink's number.
    pub fn handoff_settings(&self, out_ifindex: u32) -> HandoffSettings {
        let ms = |value: &Spanned<u64>| Duration::from_millis(*value.get_ref());
        HandoffSettings {
            out_ifindex,
            deadline: ms(&self.handoff.deadline_ms),
            freeze: ms(&self.handoff.freeze_ms),
            agent_lost: ms(&self.handoff.agent_lost_ms),
            prefetch_bytes: *self.limits.prefetch_bytes.get_ref(),
            hold: HoldLimits {
                per_flow: *self.limits.hold_bytes_per_flow.get_ref(),
                total: *self.limits.hold_bytes.get_ref(),
            },
            linger: ms(&self.plane.linger_ms),
            idle: IDLE_BACKSTOP,
            history: HISTORY,
        }
    }

    /// The routes, compiled, of a file that was validated.
    pub fn routes(&self) -> Vec<Route> {
        self.compile_routes(&mut Problems::new(&Sources::one(Path::new(""), "")))
    }

    /// The keys that are read at the start alone, and their values.
    pub fn static_keys(&self) -> Vec<(&'static str, serde_json::Value)> {
        fn value(of: &impl Serialize) -> serde_json::Value {
            serde_json::to_value(of).unwrap_or_default()
        }
        vec![
            ("name", value(&self.name)),
            ("uplink", value(&self.uplink)),
            ("workers", value(&self.workers)),
            ("handoff_workers", value(&self.handoff_workers)),
            ("cpu_latency", value(&self.cpu_latency)),
            ("cpu_latency_us", value(&self.cpu_latency_us)),
            ("leg_source", value(&self.leg_source)),
            ("[tls]", value(&self.tls)),
            ("[tracing]", value(&self.tracing)),
            ("[plane]", value(&self.plane)),
            ("[admin]", value(&self.admin)),
        ]
    }

    /// The same with the keys that are read at the start alone as another has them.
    #[must_use]
    pub fn with_static_keys_of(&self, started: &Config) -> Config {
        Config {
            name: started.name.clone(),
            uplink: started.uplink.clone(),
            workers: started.workers.clone(),
            handoff_workers: started.handoff_workers.clone(),
            cpu_latency: started.cpu_latency.clone(),
            cpu_latency_us: started.cpu_latency_us.clone(),
            leg_source: started.leg_source.clone(),
            tls: started.tls.clone(),
            tracing: started.tracing.clone(),
            plane: started.plane.clone(),
            admin: started.admin.clone(),
            ..self.clone()
        }
    }

    /// What the file means, for `check`.
    pub fn meaning(&self) -> String {
        let mut out = format!("intermediate {:?}", self.name.get_ref());
        if let Some(needs) = self.migration_needs() {
            let _ = write!(out, ", clients' packets arrive on {}", needs.uplink);
        }
        out.push('\n');
        let routes = self.routes();
        for l in &self.listener {
            let what = match (l.protocol(), l.mode(), l.keepalive()) {
                (Protocol::Https, _, _) => "ends TLS and proxies all requests",
                (Protocol::Tls, Mode::Migrate, _) => {
                    "gives TLS connections to targets, by the name they ask for"
                }
                (Protocol::Tcp, Mode::Migrate, _) => "gives connections to targets at their first bytes",
                (Protocol::Tls | Protocol::Tcp, Mode::Proxy, _) => "relays all connections",
                (_, Mode::Proxy, _) => "proxies all requests",
                (_, _, KeepAlive::Pinned) => {
                    "gives connections to targets, with all their requests, which nobody reads"
                }
                (_, _, KeepAlive::Single) => {
                    "gives connections to targets, which close them after one request"
                }
                (_, _, KeepAlive::Tracked) => {
                    "gives connections to targets, each request to the one its route says"
                }
            };
            let vip = l.vip.get_ref();
            let rest = match self.default_pool(l).and_then(|pool| self.pool_names().get(pool.0).copied()) {
                Some(pool) => format!("what no route takes goes to pool {pool:?}"),
                None if l.protocol().is_http() => "what no route takes is answered 404".to_owned(),
                None => "what no route takes is closed".to_owned(),
            };
            let _ = writeln!(out, "  listener {vip}: {what}; {rest}");
        }
        for route in &routes {
            let pool = self.pool_names().get(route.pool.0).copied().unwrap_or_default().to_owned();
            let _ = writeln!(out, "  route {:?}: to pool {pool:?}", route.name);
        }
        for p in &self.pool {
            let members: Vec<&str> = p.targets.iter().map(|t| t.get_ref().target.as_str()).collect();
            let _ = writeln!(out, "  pool {:?}: {}", p.name.get_ref(), members.join(", "));
        }
        for t in &self.target {
            let servers: Vec<String> = t.servers().map(|server| server.get_ref().to_string()).collect();
            let (name, agent) = (t.name.get_ref(), t.agent.get_ref());
            let leg = match t.leg() {
                Leg::Rewrite => String::new(),
                leg => format!(", packets encapsulated ({})", leg.name()),
            };
            let _ = writeln!(out, "  target {name:?}: server {}, agent {agent}{leg}", servers.join(" and "));
        }
        out
    }
}

impl Validate for Config {
    fn validate(&self, problems: &mut Problems<'_>) {
        problems.require(&self.name, !self.name.get_ref().is_empty(), "name must not be empty");
        if self.listener.is_empty() {
            problems.at(0..0, "there must be at least one [[listener]]");
        }
        if self.target.is_empty() {
            problems.at(0..0, "there must be at least one [[target]]");
        }
        if let Some(workers) = &self.workers {
            let range = 1..=WORKERS_MAX;
            let problem = format!("workers must be from 1 to {WORKERS_MAX}");
            problems.require(workers, range.contains(workers.get_ref()), problem);
        }
        if let Some(workers) = &self.handoff_workers {
            let range = 1..=Lane::MOST;
            let problem = format!("handoff_workers must be from 1 to {}", Lane::MOST);
            problems.require(workers, range.contains(workers.get_ref()), problem);
        }
        self.cpu_latency().validate(problems);
        self.validate_migration(problems);
        self.validate_listeners(problems);
        self.validate_targets(problems);
        self.validate_pools(problems);
        self.validate_routes(problems);
        if let Some(log) = &self.access_log {
            AccessLog::validate(log, problems);
        }
        if let Some(tracing) = &self.tracing {
            tracing.validate(problems);
        }
        self.validate_leg_source(problems);
        self.limits.validate(problems);
        self.handoff.validate(problems);
        self.plane.validate(Role::Intermediate, problems);
        self.admin.validate(problems);
    }
}

impl Config {
    fn validate_migration(&self, problems: &mut Problems<'_>) {
        if let Some(uplink) = &self.uplink {
            check_device(uplink, "uplink", problems);
            let name = uplink.get_ref();
            problems.require(
                uplink,
                interface_index(name).is_ok(),
                format!("uplink {name:?} is no network device of this host"),
            );
        } else if self.migrates() {
            problems.at(0..0, "uplink is missing; a listener that migrates needs it");
        }
        if let Some(tls) = &self.tls {
            tls.validate(Role::Intermediate, self.name.get_ref(), problems);
        } else if self.migrates() {
            problems.at(0..0, "[tls] is missing; a listener that migrates needs it");
        }
    }

    fn validate_leg_source(&self, problems: &mut Problems<'_>) {
        for (n, source) in self.leg_source.iter().enumerate() {
            let is = *source.get_ref();
            if is.is_unspecified()
                || is.is_multicast()
                || self.listener.iter().any(|l| l.vip.get_ref().ip() == is)
            {
                problems
                    .with(source, format!("leg_source must be this host's own address and no vip, is {is}"));
            }
            if self.leg_source.iter().take(n).any(|other| other.get_ref().is_ipv4() == is.is_ipv4()) {
                problems.with(source, "leg_source has one address of each family");
            }
        }
    }
}

/// An address that packets can be sent to and that names one place.
fn check_address(address: &Spanned<SocketAddr>, key: &str, problems: &mut Problems<'_>) {
    let is = address.get_ref();
    if is.ip().is_unspecified() || is.ip().is_multicast() {
        problems.with(address, format!("{key} must be one host's address, is {is}"));
    } else if is.port() == 0 {
        problems.with(address, format!("{key} must have a port, is {is}"));
    }
}
