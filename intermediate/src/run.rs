//! The daemon's life: what needs privileges, then the runtime, then the end.

use crate::access_log::AccessLog;
use crate::admin::Admin;
use crate::config::Config;
use crate::front::{
    Aside, Departed, Drains, Front, LaterRouter, Migration, StopControl, Waiting, listen_shared,
};
use crate::handoff::{History, LegSink, Migrator, carry_errors6};
use crate::metrics::Metrics;
use crate::proxy::Upstreams;
use crate::reload::{ReloadHandle, Reloader};
use crate::site::Site;
use crate::targets::Targets;
use crate::workers::Workers;
use arc_swap::ArcSwap;
use baton_daemon::admin::AdminError;
use baton_daemon::config::PlaneKind;
use baton_daemon::control::ControlError;
use baton_daemon::cpu_latency::CpuLatency;
use baton_daemon::privileges::{Capability, PrivilegeError};
use baton_daemon::random::random;
use baton_daemon::service;
use baton_daemon::tls::TlsFiles;
use baton_daemon::tun::{Tun, interface_index, interface_mtu};
use baton_loader::{Plane, PlaneConfig, PlaneError, Side, UserspaceConfig};
use baton_shared::control::{Hello, PROTOCOL_VERSION, Role};
use baton_shared::record::LegSettings;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// On packets that come back from the hold TUN, so that the program knows them; "BA" in ASCII.
const REINJECT_MARK: u32 = 0x4241;
/// How long tasks get to notice that the runtime ends.
const RUNTIME_END: Duration = Duration::from_millis(200);
/// How long the access log gets to be written to its end.
const ACCESS_LOG_END: Duration = Duration::from_secs(2);

/// How long a start waits for the agents before it accepts connections.
const AGENTS_UP: Duration = Duration::from_millis(300);

/// What this daemon keeps of its capabilities: a reload may bring a listener on a port below 1024.
const KEPT: [Capability; 5] = {
    let [a, b, c, d] = baton_daemon::privileges::KEPT;
    [a, b, c, d, Capability::CAP_NET_BIND_SERVICE]
};

/// How often snapshots of listeners that left are looked at.
const SWEEP_DEPARTED: Duration = Duration::from_secs(5);
/// Where no uplink is named.
const ETHERNET_MTU: u32 = 1500;

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A VIP's port.
    #[error("cannot listen on {vip}: {source}{}", hint(.source))]
    Listen {
        /// The address.
        vip: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The uplink.
    #[error("uplink {name}: {source}")]
    Uplink {
        /// The device.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// No own address for outer headers.
    #[error(
        "no address of this host to encapsulate packets to {server} with: {source}; name it in leg_source"
    )]
    LegSource {
        /// The target's server.
        server: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The data plane.
    #[error("data plane: {0}")]
    Plane(#[from] PlaneError),
    /// The hold queue's device.
    #[error("TUN device {name}: {source}")]
    Tun {
        /// The device.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// Traces.
    #[error("[tracing]: {0}")]
    Tracing(String),
    /// The access log.
    #[error("access log {path}: {source}")]
    AccessLog {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The control channels.
    #[error("control channel: {0}")]
    Control(#[from] ControlError),
    /// The admin endpoint.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Capabilities.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// The limit of the processors' sleep.
    #[error("cpu_latency: {0}")]
    CpuLatency(io::Error),
    /// Threads, signals.
    #[error("runtime: {0}")]
    Runtime(#[from] io::Error),
}

/// What an operator does about it.
pub(crate) fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => "; the address is not on this host (ip address add ...)",
        io::ErrorKind::AddrInUse => "; another process listens there (ss -ltnp shows it)",
        io::ErrorKind::PermissionDenied => {
            "; ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE or root"
        }
        _ if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            "; the socket is not of plain TCP: is multipath TCP forced on this process (mptcpize)?"
        }
        _ => "",
    }
}

/// What was opened while all privileges were there.
struct Opened {
    /// For each vip, a socket for each worker.
    listeners: Vec<(SocketAddr, Vec<TcpListener>)>,
    migration: Option<OpenedPlane>,
}

/// The data plane, and what the migrator needs with it.
struct OpenedPlane {
    plane: Arc<Plane>,
    uplink: u32,
    tls: TlsFiles,
}

/// Serves until SIGTERM or SIGINT.
pub fn run(config: &Config, path: &Path) -> Result<(), StartError> {
    baton_daemon::logging::init();
    let opened = open(config, service::inherited_listeners()?)?;
    let latency = CpuLatency::start(config.cpu_latency()).map_err(StartError::CpuLatency)?;
    // Capabilities are a thread's own: those that the runtime starts inherit what is left here.
    let kept = baton_daemon::privileges::drop_to(&KEPT)?;
    tracing::debug!(?kept, "capabilities dropped");
    // Both have threads.
    let access_log = open_access_log(config)?;
    if let Some(tracing) = &config.tracing {
        crate::trace::start(tracing, config.name.get_ref()).map_err(StartError::Tracing)?;
    }
    // A list of many flows must not hold up handoffs: the admin endpoint has a thread to itself.
    let aside = Builder::new_multi_thread().worker_threads(1).thread_name("admin").enable_all().build()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(serve(config, path, opened, latency, access_log, aside.handle()));
    runtime.shutdown_timeout(RUNTIME_END);
    aside.shutdown_timeout(RUNTIME_END);
    served
}

fn open(config: &Config, mut inherited: Vec<(SocketAddr, TcpListener)>) -> Result<Opened, StartError> {
    if config.migration_needs().is_some() {
        match config.plane.kind {
            PlaneKind::Ebpf => baton_daemon::privileges::require()?,
            PlaneKind::Userspace => baton_daemon::privileges::require_without_ebpf()?,
        }
    }
    let mut listeners = Vec::new();
    let mtu = config.migration_needs().map_or(Ok(ETHERNET_MTU), |needs| {
        interface_mtu(needs.uplink)
            .map_err(|source| StartError::Uplink { name: needs.uplink.to_owned(), source })
    })?;
    for vip in config.vips() {
        let options = config.listen_options(vip, mtu);
        let (ours, others) = inherited.into_iter().partition::<Vec<_>, _>(|(addr, _)| *addr == vip);
        inherited = others;
        let ours = ours.into_iter().map(|(_, listener)| listener).collect();
        let sockets = listen_shared(vip, config.accepting(vip), options, ours)
            .map_err(|source| StartError::Listen { vip, source })?;
        listeners.push((vip, sockets));
    }
    for (addr, _) in inherited {
        tracing::warn!(%addr, "a socket of the service manager's is no listener of the configuration: closed");
        service::forget(addr);
    }
    let migration = match config.migration_needs() {
        None => None,
        Some(needs) => {
            let fail = |source| StartError::Uplink { name: needs.uplink.to_owned(), source };
            let uplink = interface_index(needs.uplink).map_err(fail)?;
            let legs = leg_settings(config)?;
            let plane = open_plane(config, needs.uplink)?;
            plane.set_legs(&legs)?;
            Some(OpenedPlane { plane: Arc::new(plane), uplink, tls: needs.tls.clone() })
        }
    };
    Ok(Opened { listeners, migration })
}

fn open_access_log(config: &Config) -> Result<AccessLog, StartError> {
    let Some(log) = &config.access_log else { return Ok(AccessLog::off()) };
    let log = log.get_ref();
    AccessLog::open(log.format, log.destination())
        .map_err(|source| StartError::AccessLog { path: log.path.get_ref().clone(), source })
}

/// Opens the access log anew at each SIGUSR1, for ever. Without a log the signal is taken all the same: by default it
/// would end the process.
fn reopen_on_signal(log: AccessLog) -> io::Result<()> {
    let mut signals = signal(SignalKind::user_defined1())?;
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            log.reopen();
        }
    });
    Ok(())
}

/// The sources of outer headers: those in the configuration, else what the kernel would send with to a target.
fn leg_settings(config: &Config) -> Result<LegSettings, StartError> {
    let mut legs = LegSettings::default();
    for v4 in [true, false] {
        let Some(server) = config.encapsulated_servers().find(|server| server.is_ipv4() == v4) else {
            continue;
        };
        let source = match config.leg_source(v4) {
            Some(source) => source,
            None => own_address(server).map_err(|source| StartError::LegSource { server, source })?,
        };
        tracing::info!(%source, "source address of encapsulated packets");
        *(if v4 { &mut legs.source_v4 } else { &mut legs.source_v6 }) = source.into();
    }
    Ok(legs)
}

/// This host's address for sending to a server.
fn own_address(server: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    // Sends nothing.
    socket.connect(server)?;
    Ok(socket.local_addr()?.ip())
}

fn open_plane(config: &Config, uplink: &str) -> Result<Plane, PlaneError> {
    let flows = *config.plane.flows.get_ref();
    match config.plane.kind {
        PlaneKind::Ebpf => Plane::open(&PlaneConfig {
            side: Side::Intermediate,
            uplink: uplink.to_owned(),
            pin_dir: config.plane.pin_dir.clone(),
            flows,
        }),
        PlaneKind::Userspace => Plane::open_userspace(&UserspaceConfig {
            side: Side::Intermediate,
            uplink: uplink.to_owned(),
            flows,
            addresses: config.vips(),
        }),
    }
}

async fn serve(
    config: &Config,
    path: &Path,
    opened: Opened,
    latency: Arc<CpuLatency>,
    access_log: AccessLog,
    aside: &Handle,
) -> Result<(), StartError> {
    // Before anything begins: a signal from here on stops in good order.
    let mut signals = Signals::new()?;
    reopen_on_signal(access_log.clone())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let targets = Arc::new(Targets::default());
    let site = Site::new(config, &targets, None);
    let plane = opened.migration.as_ref().map(|m| Arc::clone(&m.plane));
    let migration = match opened.migration {
        None => Migration::Off(Arc::new(History::new(crate::config::HISTORY))),
        Some(opened) => Migration::On(start_migrator(config, opened, &targets, latency)?),
    };
    let front = Arc::new(Front {
        targets,
        metrics: Metrics::default(),
        migration,
        site: ArcSwap::from_pointee(site),
        departed: Departed::default(),
        waiting: Waiting::default(),
        upstreams: Upstreams::default(),
        drains: Drains::default(),
        access_log: access_log.clone(),
        aside: Aside::default(),
    });
    if let Some(migrator) = front.migration.migrator() {
        migrator.flows().tell_ends_to(access_log.clone());
    }
    let in_force = Arc::new(ArcSwap::from_pointee(config.clone()));
    let (reload, mut reloads) = ReloadHandle::new(Arc::clone(&in_force), path);
    let admin = Admin::new(Arc::clone(&front), plane, Some(reload));
    let (settings, router) = (config.admin.clone(), Arc::clone(&admin).router());
    let endpoint = aside.spawn(async move { baton_daemon::admin::serve(&settings, router).await });
    let endpoint = endpoint.await.map_err(io::Error::other)??;
    let control = StopControl::default();
    if let Some(migrator) = front.migration.migrator() {
        migrator.set_router(Arc::new(LaterRouter::new(&front, control.stop())));
        agents_up(&front.targets).await;
    }
    let beside = config.workers().saturating_sub(1);
    let mut workers = Workers::start(&front, beside, config.handoff_workers(), &control)?;
    if let (Some(migrator), Some(needs)) = (front.migration.migrator(), config.migration_needs()) {
        migrator.connect_beside(workers.handing_off(), needs.tls, &hello(config))?;
    }
    for (vip, sockets) in opened.listeners {
        workers.listen(vip, sockets, config);
    }
    // Beside the workers: checks must not hold up handoffs.
    aside.spawn(crate::health::run(Arc::clone(&front), control.stop()));
    for l in &front.site.load().listeners {
        tracing::info!(vip = %l.vip, mode = l.mode.name(), keepalive = l.keepalive.name(), "listening");
    }

    tokio::spawn(service::watchdog(workers.runtimes()));
    service::ready();
    let mut reloader = Reloader { path: path.to_owned(), started: config.clone(), front, workers, in_force };
    let mut sweep = tokio::time::interval(SWEEP_DEPARTED);
    loop {
        tokio::select! {
            () = signals.wait() => break,
            _ = sweep.tick() => reloader.front.sweep_departed(),
            _ = hangup.recv() => drop(reloader.reload().await),
            Some(asked) = reloads.recv() => drop(asked.send(reloader.reload().await)),
        }
    }
    service::stopping();
    drop(reloads);
    let workers = reloader.workers;
    tracing::info!("stopping: nothing new is accepted, handoffs under way are waited for");
    admin.set_stopping();
    let patience = config.handoff_settings(0);
    tokio::select! {
        all = control.stop_and_wait(patience.deadline + patience.agent_lost) => {
            if !all {
                tracing::warn!("stopped with requests under way: their time was up");
            }
        }
        () = signals.wait() => tracing::warn!("stopped at once, at the second signal"),
    }
    drop(workers);
    drop(endpoint);
    access_log.finish(ACCESS_LOG_END);
    tracing::info!("stopped; connections given to targets go on by the data plane");
    Ok(())
}

/// Waits a moment for the agents. What has connected meanwhile waits in the listening sockets' queues: it would be
/// proxied if it were accepted at once, and a long response with it.
async fn agents_up(targets: &Targets) {
    let all_up = async {
        while !targets.iter().all(|target| target.is_up()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    if tokio::time::timeout(AGENTS_UP, all_up).await.is_err() {
        tracing::info!("begins to accept without all agents");
    }
}

fn start_migrator(
    config: &Config,
    opened: OpenedPlane,
    targets: &Arc<Targets>,
    latency: Arc<CpuLatency>,
) -> Result<Arc<Migrator>, StartError> {
    let OpenedPlane { plane, uplink, tls } = opened;
    let name = config.plane.tun.get_ref();
    let fail = |source| StartError::Tun { name: name.clone(), source };
    let carrier = plane.carrier();
    // A carrier rewrites packets, and so needs whole ones.
    let tun = if carrier.is_some() { Tun::open(name) } else { Tun::open_offloading(name) }.map_err(fail)?;
    if let Some(carrier) = carrier.clone() {
        let uplink = config.uplink.as_ref().map_or("", |u| u.get_ref());
        tun.copy_mtu_of(uplink).map_err(fail)?;
        tun.carry_by(carrier);
    }
    let tun = Arc::new(tun);
    plane.attach_tun(tun.name(), REINJECT_MARK)?;
    tracing::info!(hook = ?plane.hook(), tun = tun.name(), "data plane attached");
    let sink = Arc::new(LegSink::new(Arc::clone(&tun), Arc::clone(&plane)));
    let migrator = Migrator::new(plane, sink, Arc::clone(targets), config.handoff_settings(uplink), latency);
    migrator.start(Arc::clone(&tun), &tls, &hello(config))?;
    if let Some(carrier) = carrier.filter(|_| config.vips().iter().any(SocketAddr::is_ipv6)) {
        tokio::spawn(carry_errors6(tun, carrier));
    }
    Ok(migrator)
}

/// Tells this process from others of this node's.
static INSTANCE: LazyLock<u64> = LazyLock::new(random);

/// What this node says first on each control channel.
pub(crate) fn hello(config: &Config) -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        role: Role::Intermediate,
        name: config.name.get_ref().clone(),
        instance: *INSTANCE,
        software: concat!("baton intermediate ", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
