//! `target-agent doctor`: what both daemons need, the control address, each server, and what only a target needs.

use crate::config::Config;
use crate::sock_diag::SockDiag;
use baton_daemon::config::{self, PlaneKind};
use baton_daemon::doctor::{Check, Status, common, common_without_ebpf, listen_address, print};
use baton_shared::control::Role;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// Time for a server to take a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// Looks, prints, and gives the exit code.
pub(crate) fn run(path: &Path) -> u8 {
    print(&checks(path))
}

fn checks(path: &Path) -> Vec<Check> {
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
    checks.extend(match config.plane.kind {
        PlaneKind::Ebpf => common(Role::Agent, name, uplink, &config.plane.pin_dir, &config.tls),
        PlaneKind::Userspace => common_without_ebpf(Role::Agent, name, uplink, &config.tls),
    });
    checks.push(listen_address("control", *config.control.get_ref()));
    let mut servers: Vec<SocketAddr> = config.allow.iter().map(|allow| *allow.server.get_ref()).collect();
    servers.sort_unstable();
    servers.dedup();
    checks.push(sock_diag(&servers));
    checks.push(congestion_control());
    checks.extend(servers.into_iter().map(server));
    checks
}

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

/// The congestion control that servers get which choose none.
fn congestion_control() -> Check {
    let path = "/proc/sys/net/ipv4/tcp_congestion_control";
    let (status, found) = match std::fs::read_to_string(path) {
        Ok(name) if name.trim().starts_with("bbr") => (Status::Warn, name.trim().to_owned()),
        Ok(name) => (Status::Ok, name.trim().to_owned()),
        Err(e) => (Status::Warn, format!("{path}: {e}")),
    };
    Check::new(
        "congestion control",
        status,
        found,
        "the replayed handshake is local: BBR takes its time for the client's and sends too slowly for 10 s",
        "sysctl -w net.ipv4.tcp_congestion_control=cubic, or a route to the clients with `congctl cubic`",
    )
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
