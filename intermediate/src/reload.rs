//! Taking a changed configuration into service: all of it or nothing, and without touching a connection.
//!
//! What can fail comes first: the file, the sockets of new listeners, the channels to new agents. Then the new
//! snapshot of the site is put in the old one's place; connections under way finish with the one they began with. Those
//! that have reached a listener which goes are accepted before it is closed, which takes about a second.

use crate::access_log::{AccessLog, Prepared};
use crate::config::{self, Config};
use crate::front::{Front, Migration, listen_shared};
use crate::run::{hello, hint};
use crate::site::Site;
use crate::workers::Workers;
use arc_swap::ArcSwap;
use baton_daemon::admin::events::{self, Kind};
use baton_daemon::config::{ConfigError, PlaneKind, Problems};
use baton_daemon::control::ControlError;
use baton_daemon::service;
use baton_daemon::tun::interface_mtu;
use baton_shared::route::Mode;
use baton_shared::translate::Leg;
use serde::Serialize;
use serde_json::json;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long the access log's file before gets to be written to its end.
const ACCESS_LOG_CHANGE: Duration = Duration::from_secs(2);

/// Where no uplink is named.
const ETHERNET_MTU: u32 = 1500;

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A new listener's port.
    #[error("cannot listen on {vip}: {source}{}", hint(.source))]
    Listen {
        /// The address.
        vip: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The plane in user space was given its addresses at the start.
    #[error(
        "a listener on {0} cannot be added without a restart: the plane in user space takes its addresses at the start"
    )]
    Addresses(SocketAddr),
    /// A target's packets would not fit.
    #[error(
        "packets to target {0:?} would be encapsulated, and listeners were opened without room for that: restart"
    )]
    Leg(String),
    /// This node's own certificate.
    #[error("control channel: {0}")]
    Control(#[from] ControlError),
    /// The daemon is stopping.
    #[error("the intermediate is stopping")]
    Stopping,
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// Listeners that are new.
    pub listeners_added: Vec<SocketAddr>,
    /// Listeners that are gone, their sockets closed; their connections go on.
    pub listeners_removed: Vec<SocketAddr>,
    /// Targets that are new.
    pub targets_added: Vec<String>,
    /// Targets that are gone; their flows go on.
    pub targets_removed: Vec<String>,
    /// Keys that changed and take effect only after a restart.
    pub needs_restart: Vec<String>,
}

/// The file, and the access log it wants, opened.
fn load(path: &Path, log: &AccessLog) -> Result<(Config, Prepared), ConfigError> {
    let (config, sources) = Config::load_with_sources(path)?;
    let mut problems = Problems::new(&sources);
    match log.prepare(config::AccessLog::wanted(config.access_log.as_ref())) {
        Ok(prepared) => return Ok((config, prepared)),
        Err(e) => {
            if let Some(log) = &config.access_log {
                let path = &log.get_ref().path;
                problems.with(path, format!("access_log.path {:?} cannot be written: {e}", path.get_ref()));
            }
        }
    }
    // There is no error without the section.
    problems.finish().map(|()| (config, Prepared::as_it_is()))
}

type Answer = Result<Reloaded, ReloadError>;

/// The configuration that is served.
pub(crate) type InForce = Arc<ArcSwap<Config>>;

/// Asks for a reload from anywhere. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReloadHandle {
    ask: mpsc::Sender<oneshot::Sender<Answer>>,
    in_force: InForce,
    path: Arc<Path>,
}

impl ReloadHandle {
    /// One, and where its requests come.
    pub(crate) fn new(in_force: InForce, path: &Path) -> (Self, mpsc::Receiver<oneshot::Sender<Answer>>) {
        let (ask, asked) = mpsc::channel(4);
        (ReloadHandle { ask, in_force, path: path.into() }, asked)
    }

    /// The configuration's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration that is served: what of it is read at the start alone, as it was then.
    pub fn in_force(&self) -> Arc<Config> {
        self.in_force.load_full()
    }

    /// Reads the file again and takes it into service.
    pub async fn reload(&self) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.ask.send(answer).await.map_err(|_| ReloadError::Stopping)?;
        answered.await.map_err(|_| ReloadError::Stopping)?
    }
}

/// Does it; there is one, on the main thread.
pub(crate) struct Reloader {
    pub(crate) path: PathBuf,
    /// The file as it was at the start: what of it is static is in force to the end.
    pub(crate) started: Config,
    pub(crate) front: Arc<Front>,
    pub(crate) workers: Workers,
    /// Shown by the admin endpoint.
    pub(crate) in_force: InForce,
}

impl Reloader {
    /// Reads the file again and takes it into service.
    pub(crate) async fn reload(&mut self) -> Answer {
        service::reloading();
        let answer = self.try_reload().await;
        service::ready();
        self.front.metrics.on_reload(answer.is_ok());
        events::publish(Kind::Reload, || match &answer {
            Ok(reloaded) => json!({ "applied": true, "did": reloaded }),
            Err(error) => json!({ "applied": false, "error": error.to_string() }),
        });
        match &answer {
            Ok(reloaded) => {
                tracing::info!(
                    listeners_added = ?reloaded.listeners_added,
                    listeners_removed = ?reloaded.listeners_removed,
                    targets_added = ?reloaded.targets_added,
                    targets_removed = ?reloaded.targets_removed,
                    "configuration reloaded"
                );
                for key in &reloaded.needs_restart {
                    tracing::warn!("reload: {key} changed, which takes effect after a restart");
                }
            }
            Err(error) => {
                for line in error.to_string().lines() {
                    tracing::error!("reload refused, nothing was changed: {line}");
                }
            }
        }
        answer
    }

    async fn try_reload(&mut self) -> Answer {
        let path = self.path.clone();
        // Files and certificates are read: not on the thread that serves connections.
        let log = self.front.access_log.clone();
        let loaded = tokio::task::spawn_blocking(move || load(&path, &log)).await;
        let (config, log) = loaded.map_err(|_| ReloadError::Stopping)??;
        let mut reloaded = Reloaded { needs_restart: self.needs_restart(&config), ..Reloaded::default() };

        self.check_legs(&config)?;
        let now: Vec<SocketAddr> = self.workers.vips().collect();
        let wanted = config.vips();
        let mut sockets = Vec::new();
        for vip in wanted.iter().filter(|vip| !now.contains(vip)) {
            sockets.push((*vip, self.bind(*vip, &config)?));
        }
        let targets = &self.front.targets;
        let names = || targets.iter().map(|target| (target.id, target.spec.name.clone())).collect::<Vec<_>>();
        let before = names();
        targets.prepare(config.targets());
        if let (Migration::On(migrator), Some(needs)) =
            (&self.front.migration, self.started.migration_needs())
        {
            migrator.connect(needs.tls, &hello(&self.started))?;
        }

        // Nothing fails from here on.
        let old = self.front.site.load_full();
        self.front.install(Site::new(&config, targets, Some(&old)));
        if let Migration::On(migrator) = &self.front.migration {
            migrator.change_settings(&config.handoff_settings(0));
        }
        let access_log = self.front.access_log.clone();
        // It waits for what the file before is to have yet.
        let changed = tokio::task::spawn_blocking(move || access_log.change(log, ACCESS_LOG_CHANGE));
        for (vip, sockets) in sockets {
            self.workers.listen(vip, sockets, &config);
            reloaded.listeners_added.push(vip);
        }
        reloaded.listeners_removed = now.into_iter().filter(|vip| !wanted.contains(vip)).collect();
        reloaded.listeners_removed.sort();
        let leaving: Vec<_> =
            reloaded.listeners_removed.iter().map(|vip| self.workers.unlisten(*vip)).collect();
        // The next reload may want their addresses again.
        for left in leaving {
            left.await;
        }
        self.front.departed.closed(&reloaded.listeners_removed);
        let _ = changed.await;
        let after = names();
        let only = |some: &[(_, String)], others: &[(_, String)]| {
            some.iter().filter(|target| !others.contains(target)).map(|(_, name)| name.clone()).collect()
        };
        reloaded.targets_added = only(&after, &before);
        reloaded.targets_removed = only(&before, &after);
        self.in_force.store(Arc::new(config.with_static_keys_of(&self.started)));
        Ok(reloaded)
    }

    /// Clients of listeners that are open were told how large segments may be, and the plane with which address to
    /// encapsulate.
    fn check_legs(&self, config: &Config) -> Result<(), ReloadError> {
        if !matches!(self.front.migration, Migration::On(_)) {
            return Ok(());
        }
        for target in config.targets() {
            let room = |server: &SocketAddr| {
                let bytes = |config: &Config| config.segment_bytes(*server, ETHERNET_MTU).unwrap_or(u32::MAX);
                target.leg.segment_bytes(ETHERNET_MTU, server.is_ipv4()) < bytes(&self.started)
            };
            if target.leg != Leg::Rewrite && target.servers.iter().any(|server| room(&server)) {
                return Err(ReloadError::Leg(target.name));
            }
        }
        Ok(())
    }

    fn bind(&self, vip: SocketAddr, config: &Config) -> Result<Vec<TcpListener>, ReloadError> {
        let migrates = matches!(self.front.migration, Migration::On(_));
        let is_new = !self.started.vips().contains(&vip);
        if migrates && is_new && self.started.plane.kind == PlaneKind::Userspace {
            return Err(ReloadError::Addresses(vip));
        }
        let mtu = self.started.migration_needs().and_then(|needs| interface_mtu(needs.uplink).ok());
        let options = config.listen_options(vip, mtu.unwrap_or(ETHERNET_MTU));
        // How many threads there are stays as it was.
        let sockets = config.accepting(vip).min(self.started.workers());
        listen_shared(vip, sockets, options, Vec::new()).map_err(|source| ReloadError::Listen { vip, source })
    }

    /// What changed of the keys that are read at the start alone.
    fn needs_restart(&self, config: &Config) -> Vec<String> {
        let (was, is) = (self.started.static_keys(), config.static_keys());
        let mut keys: Vec<String> = was
            .iter()
            .zip(&is)
            .filter(|(was, is)| was != is)
            .map(|((key, _), _)| (*key).to_owned())
            .collect();
        let wants =
            config.listener.iter().any(|listener| listener.mode() == Mode::Migrate) || config.migrates();
        for listener in &config.listener {
            // As its sockets were opened, be it at the start or by a reload.
            let opened = self.workers.is_deferred(*listener.vip.get_ref());
            if opened.is_some_and(|deferred| deferred != listener.is_deferred()) {
                keys.push(format!("defer_accept of listener {}", listener.name()));
            }
        }
        if matches!(self.front.migration, Migration::Off(_)) && wants {
            keys.push(
                "mode = \"migrate\" (nothing migrated at the start, so there is no data plane)".to_owned(),
            );
        }
        keys
    }
}
