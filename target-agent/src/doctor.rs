//! `target-agent doctor`: what both daemons need, the control address, each server, and what only a target needs.

use crate::config::Config;
use crate::serve::preflight::{NoProgram, Preflight};
use crate::serve::ways::Way;
use crate::sock_diag::SockDiag;
use baton_daemon::config::{self, PlaneKind};
use baton_daemon::doctor::{
    Check, Status, common, common_without_ebpf, listen_address, print, ways_to_clients,
};
use baton_loader::Hook;
use baton_shared::control::Role;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// Time for a server to take a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// Looks, prints, and gives the exit code.
pub(crate) fn run(path: &Path) -> u8 {
    print(&checks(path, &[]))
}

/// Looks. `clients`: some that were there lately.
pub(crate) fn checks(path: &Path, clients: &[IpAddr]) -> Vec<Check> {
    let why = "the daemon starts only with a configuration that is right";
    let result = match Config::load(path) {
        Ok(_) => Ok(path.display().to_string()),
        Err(e) => Err(e.to_string().replace('\n', "; ")),
    };
    let mut checks =
        vec![Check::of("configuration", result, why, "correct the file; `check` lists the places")];
    // What is wrong by its meaning does not keep the rest from being looked at.
    let Ok(config) = config::load::<Config>(path) else { return checks };
    let uplink = config.uplink.get_ref();
    let name = config.name.get_ref();
    match config.plane.kind {
        PlaneKind::Ebpf => {
            checks.extend(common(Role::Agent, name, uplink, &config.plane.pin_dir, &config.tls));
            let addresses =
                config.allow.iter().flat_map(|allow| [allow.server.get_ref(), allow.vip.get_ref()]);
            let sources: BTreeSet<IpAddr> = addresses.map(SocketAddr::ip).collect();
            checks.extend(ways_to_clients(uplink, clients, &sources.into_iter().collect::<Vec<_>>()));
        }
        PlaneKind::Userspace => checks.extend(common_without_ebpf(Role::Agent, name, uplink, &config.tls)),
    }
    checks.push(listen_address("control", *config.control.get_ref()));
    let mut servers: Vec<SocketAddr> = config.allow.iter().map(|allow| *allow.server.get_ref()).collect();
    servers.sort_unstable();
    servers.dedup();
    checks.push(sock_diag(&servers));
    checks.extend(servers.into_iter().map(server));
    checks.extend(adopting(&config));
    checks
}

/// Whether connections can be adopted, for each server: what fails, where the configuration wants it, is a failure of
/// the host with "adopt" and something to look at with "auto".
fn adopting(config: &Config) -> Vec<Check> {
    let status = match *config.serve.way.get_ref() {
        Way::Translate => return Vec::new(),
        Way::Auto => Status::Warn,
        Way::Adopt => Status::Fail,
    };
    // The program itself is not attached here: whether the kernel takes it is seen when the agent starts.
    let program = baton_loader::adopt::check(Hook::of_this_kernel()).map_err(NoProgram::from);
    let preflight = Preflight::new(config.uplink.get_ref().clone(), config.serve.local_vip, program);
    let mut diag = match SockDiag::open() {
        Ok(diag) => diag,
        Err(e) => return vec![Check::new("adopt", status, e.to_string(), WHY_ADOPT, "see sock_diag")],
    };
    let mut checks = Vec::new();
    for allow in &config.allow {
        let (vip, server) = (*allow.vip.get_ref(), *allow.server.get_ref());
        let name = format!("adopt {vip} for {server}");
        let missing = preflight.lacks(vip, server, &mut diag);
        if missing.is_empty() {
            checks.push(Check::new(&name, Status::Ok, "connections can be adopted", WHY_ADOPT, ""));
        }
        checks.extend(
            missing.iter().map(|need| Check::new(&name, status, need.name(), WHY_ADOPT, need.explanation())),
        );
    }
    checks
}

const WHY_ADOPT: &str =
    "serve.way asks that the kernel make the server's sockets, which costs least (docs/adopt.md)";

/// The kernel's answers about sockets of the families in use.
fn sock_diag(servers: &[SocketAddr]) -> Check {
    let mut nobody = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 9))];
    if servers.iter().any(SocketAddr::is_ipv6) {
        nobody.push(SocketAddr::from((Ipv6Addr::LOCALHOST, 9)));
    }
    let result = SockDiag::open()
        .and_then(|mut diag| nobody.iter().try_for_each(|addr| diag.socket(*addr, *addr).map(drop)))
        .map(|()| "answers about one socket by its 4-tuple".to_owned())
        .map_err(|e| e.to_string());
    let why = "whether the server's socket still exists tells the end of a flow";
    Check::of("sock_diag", result, why, "modprobe tcp_diag (CONFIG_INET_TCP_DIAG)")
}

fn server(addr: SocketAddr) -> Check {
    let result = TcpStream::connect_timeout(&addr, CONNECT)
        .map(|_| "takes connections".to_owned())
        .map_err(|e| e.to_string());
    let why = "handoffs are refused (server_refused) if nothing listens there";
    Check::of(
        &format!("server {addr}"),
        result,
        why,
        "start the server; compare [[allow]] with what it listens on",
    )
}
