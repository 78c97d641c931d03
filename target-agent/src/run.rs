//! Starts everything, and stops it.

use crate::admin;
use crate::config::{Config, Policy};
use crate::flows::table::Table;
use crate::local_vip;
use crate::metrics::Metrics;
use crate::serve::engine::{self, Engine, Shared};
use crate::serve::preflight::{NoProgram, Preflight};
use crate::serve::ways::{Way, Ways};
use crate::sock_diag::SockDiag;
use anyhow::Context;
use baton_daemon::config::PlaneKind;
use baton_daemon::control::{Server, ServerSpec};
use baton_daemon::cpu_latency::CpuLatency;
use baton_daemon::random::random;
use baton_daemon::service;
use baton_daemon::tun::Tun;
use baton_loader::{Plane, PlaneConfig, PlaneError, Side, UserspaceConfig, monotonic_ns};
use baton_shared::control::{Hello, PROTOCOL_VERSION, Role};
use baton_shared::translate::adopt::is_adopted;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

/// How long a stopping agent waits for the handoffs under way, and for intermediates to know that it stops.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs the agent until it is told to stop.
///
/// One thread does it all: a handoff passes from the socket through the TUN and back without waking another. The
/// admin endpoint has its own.
pub(crate) fn run(config: &Config, path: &Path, detach: bool) -> anyhow::Result<()> {
    baton_daemon::logging::init();
    match config.plane.kind {
        PlaneKind::Ebpf => baton_daemon::privileges::require()?,
        PlaneKind::Userspace => baton_daemon::privileges::require_without_ebpf()?,
    }
    let latency = CpuLatency::start(config.cpu_latency()).context("cpu_latency")?;
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    let ended = serve(config, path, &runtime, latency);
    // Everything that holds the plane goes with the runtime.
    drop(runtime);
    let plane = ended?;
    if detach {
        let plane = Arc::into_inner(plane).context("the data plane is still in use")?;
        plane.detach()?;
        local_vip::settle(&[], config.uplink.get_ref())
            .context("cannot take the VIPs' addresses, routes and rules away")?;
        tracing::info!("data plane removed");
    }
    Ok(())
}

/// The engine, once there is one: the server is bound first.
type LateEngine = Arc<OnceLock<Arc<Mutex<Engine>>>>;

/// Binds the control address. No event comes before the runtime runs.
fn bind(config: &Config, policy: &Policy, engine: &LateEngine) -> anyhow::Result<Server> {
    let engine = Arc::clone(engine);
    let events = move |event| {
        if let Some(engine) = engine.get() {
            engine.lock().unwrap_or_else(PoisonError::into_inner).on_event(event);
        }
    };
    let spec = ServerSpec {
        addr: *config.control.get_ref(),
        tls: &config.tls,
        hello: Hello {
            protocol: PROTOCOL_VERSION,
            role: Role::Agent,
            name: config.name.get_ref().clone(),
            instance: random(),
            software: concat!("target-agent ", env!("CARGO_PKG_VERSION")).to_owned(),
        },
        allowed: policy.peers().to_vec(),
    };
    Ok(Server::bind(spec, Arc::new(events))?)
}

/// On packets from the TUN, by which the program knows the agent's.
const ADOPT_MARK: u32 = 0x4241;

/// The data plane, and whether it adopts.
fn open_plane(config: &Config) -> Result<(Plane, Result<(), NoProgram>), PlaneError> {
    let uplink = config.uplink.get_ref().clone();
    let flows = *config.plane.flows.get_ref();
    match config.plane.kind {
        PlaneKind::Ebpf => {
            let pin_dir = config.plane.pin_dir.clone();
            let plane = Plane::open(&PlaneConfig { side: Side::Target, uplink, pin_dir, flows })?;
            let wanted = *config.serve.way.get_ref() != Way::Translate;
            // Flows that an earlier run adopted need the program whatever the configuration says by now.
            let adopting = if wanted || plane.recovered().iter().any(|(_, record)| is_adopted(record)) {
                plane.adopt().map_err(NoProgram::from)
            } else {
                Err(NoProgram { function: true, text: "serve.way is \"translate\"".to_owned() })
            };
            if let (true, Err(no)) = (wanted, &adopting) {
                tracing::warn!("connections are not adopted: {}", no.text);
            }
            plane.set_legs(&config.legs())?;
            Ok((plane, adopting))
        }
        PlaneKind::Userspace => {
            let mut addresses: Vec<_> = config.allow.iter().map(|a| *a.server.get_ref()).collect();
            addresses.sort_unstable();
            addresses.dedup();
            let plane =
                Plane::open_userspace(&UserspaceConfig { side: Side::Target, uplink, flows, addresses })?;
            let text = "plane.kind is \"userspace\"".to_owned();
            Ok((plane, Err(NoProgram { function: true, text })))
        }
    }
}

/// Brings in order what earlier runs did to have VIPs delivered here. Flows that they adopted need it whatever the
/// configuration says by now. For which VIPs there was something.
fn settle_vips(config: &Config, plane: &Plane) -> Vec<IpAddr> {
    let allowed = config.allow.iter().map(|allow| allow.vip.get_ref().ip());
    let is_wanted = config.serve.local_vip && *config.serve.way.get_ref() != Way::Translate;
    let of_flows = plane.recovered().into_iter().filter(|(_, record)| is_adopted(record));
    let of_flows = of_flows.map(|(_, record)| record.key.local_addr().ip());
    // Each once, however many flows there are under it.
    let wanted: Vec<_> =
        of_flows.chain(allowed.filter(|_| is_wanted)).collect::<BTreeSet<_>>().into_iter().collect();
    local_vip::settle(&wanted, config.uplink.get_ref()).unwrap_or_else(|e| {
        tracing::warn!("cannot bring addresses, routes and rules of earlier runs in order: {e}");
        Vec::new()
    })
}

/// Starts and serves; gives the data plane back. Whatever tells of another agent at work on this host, the address
/// and the TUN device, is taken before its data plane is touched.
fn serve(
    config: &Config,
    path: &Path,
    runtime: &Runtime,
    latency: Arc<CpuLatency>,
) -> anyhow::Result<Arc<Plane>> {
    let _entered = runtime.enter();
    let policy = Arc::new(Policy::new(config));
    let late = LateEngine::default();
    let listening = bind(config, &policy, &late)?;
    let tun_name = config.plane.tun.get_ref();
    let tun = Tun::open(tun_name).with_context(|| format!("cannot open the TUN device {tun_name:?}"))?;
    let (plane, adopting) = open_plane(config)?;
    let plane = Arc::new(plane);
    if let Some(carrier) = plane.carrier() {
        tun.copy_mtu_of(config.uplink.get_ref()).context("cannot give the TUN device the uplink's MTU")?;
        tun.carry_by(carrier);
    }
    let delivered_earlier = settle_vips(config, &plane);
    let mark = if adopting.is_ok() { ADOPT_MARK } else { 0 };
    plane.attach_tun(tun.name(), mark)?;
    let shared = Shared {
        table: Arc::new(Mutex::new(Table::new(
            plane.slots().capacity(),
            policy.allowed().map(|(_, _, server)| server),
        ))),
        plane: Arc::clone(&plane),
        metrics: Arc::new(Metrics::default()),
        policy,
        ways: Arc::new(Ways::new(*config.serve.way.get_ref())),
        latency,
    };
    let preflight = Preflight::new(config.uplink.get_ref().clone(), config.serve.local_vip, adopting);
    let server = Arc::new(OnceLock::new());
    let diag = SockDiag::open().context("cannot open a NETLINK_SOCK_DIAG socket")?;
    let mut engine = Engine::new(shared.clone(), tun, Arc::clone(&server), diag, preflight);
    engine.look_around(monotonic_ns());
    let found = engine.recover(&mut shared.table(), monotonic_ns());
    engine.end_strays(&shared.table(), &delivered_earlier);
    let engine = Arc::new(Mutex::new(engine));
    let _ = late.set(Arc::clone(&engine));
    let addr = listening.local_addr();
    let _ = server.set(listening);
    baton_daemon::privileges::drop_after_start()?;
    let admin = Admin::start(config, path, &shared, &server)?;
    tracing::info!(
        control = %addr, uplink = %config.uplink.get_ref(), hook = ?plane.hook(), flows = plane.slots().capacity(),
        taken_over = found.taken_over, lost = found.lost, withdrawn = found.withdrawn, stray = found.stray,
        "target agent {} ready", config.name.get_ref()
    );
    let ended = runtime.block_on(async {
        // All that handoffs need runs here.
        tokio::spawn(service::watchdog(Vec::new()));
        service::ready();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        };
        attend(&engine, stop).await?;
        service::stopping();
        tracing::info!("stopping: no new handoffs");
        let (leaving, until) = (Arc::clone(&engine), Instant::now() + DRAIN);
        leaving.lock().unwrap_or_else(PoisonError::into_inner).begin_leaving();
        let has_left = move || leaving.lock().unwrap_or_else(PoisonError::into_inner).has_left();
        let idle = async move {
            while !has_left() && Instant::now() < until {
                sleep(Duration::from_millis(5)).await;
            }
            // Answers on their way out.
            sleep(Duration::from_millis(20)).await;
        };
        attend(&engine, idle).await
    });
    admin.stop();
    ended.context("the agent cannot go on")?;
    Ok(plane)
}

/// [`engine::run`] as a task of its own: each wakeup of what the runtime blocks on costs a write to a descriptor and a
/// further turn of the event loop.
async fn attend(
    engine: &Arc<Mutex<Engine>>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let engine = Arc::clone(engine);
    tokio::spawn(async move { engine::run(&engine, stop).await }).await.map_err(std::io::Error::other)?
}

/// The admin endpoint, in a thread of its own: a list of many flows must not hold up handoffs.
struct Admin {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Admin {
    fn start(
        config: &Config,
        path: &Path,
        shared: &Shared,
        server: &Arc<OnceLock<Server>>,
    ) -> anyhow::Result<Self> {
        let settings = config.admin.clone();
        let router = admin::router(shared.clone(), server, config, path);
        let (stop, stopped) = oneshot::channel::<()>();
        let (started, start) = mpsc::channel();
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(e) => return drop(started.send(Err(e.into()))),
            };
            runtime.block_on(async move {
                match baton_daemon::admin::serve(&settings, router).await {
                    Ok(serving) => {
                        let _ = started.send(Ok(()));
                        let _ = stopped.await;
                        drop(serving);
                    }
                    Err(e) => drop(started.send(Err(anyhow::Error::from(e)))),
                }
            });
        })?;
        start.recv().context("the admin endpoint did not start")??;
        Ok(Admin { stop, thread })
    }

    fn stop(self) {
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::warn!("the admin endpoint had panicked");
        }
    }
}
