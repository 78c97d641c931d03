//! `intermediate doctor`: what both daemons need, the VIPs, and each target.

use crate::config::Config;
use crate::run::hello;
use crate::targets::TargetSpec;
use baton_daemon::config::PlaneKind;
use baton_daemon::control::ClientSpec;
use baton_daemon::doctor::{Check, common, common_without_ebpf, listen_address, peer, print};
use baton_shared::control::Role;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Time for a server to take a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// Looks, prints, and gives the exit code.
pub fn run(path: &Path) -> std::io::Result<u8> {
    look(path).map(|checks| print(&checks))
}

/// Looks.
pub fn look(path: &Path) -> std::io::Result<Vec<Check>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(checks(path)))
}

async fn checks(path: &Path) -> Vec<Check> {
    let why = "the daemon starts only with a configuration that is right";
    let result = match Config::load(path) {
        Ok(_) => Ok(path.display().to_string()),
        Err(e) => Err(e.to_string().replace('\n', "; ")),
    };
    let mut checks =
        vec![Check::of("configuration", result, why, "correct the file; `check` lists the places")];
    // What is wrong by its meaning does not keep the rest from being looked at.
    let Ok(config) = Config::load_unchecked(path) else { return checks };
    if let (Some(needs), true) = (config.migration_needs(), config.migrates()) {
        let name = config.name.get_ref();
        checks.extend(match config.plane.kind {
            PlaneKind::Ebpf => {
                common(Role::Intermediate, name, needs.uplink, &config.plane.pin_dir, needs.tls)
            }
            PlaneKind::Userspace => common_without_ebpf(Role::Intermediate, name, needs.uplink, needs.tls),
        });
    }
    for vip in config.vips() {
        checks.push(listen_address(&format!("vip {vip}"), vip));
    }
    // All at once: each may have to wait for an answer that does not come.
    let config = Arc::new(config);
    let mut looks = JoinSet::new();
    for (place, target) in config.targets().into_iter().enumerate() {
        let config = Arc::clone(&config);
        looks.spawn(async move { (place, of_target(&config, target).await) });
    }
    let mut looked = looks.join_all().await;
    looked.sort_by_key(|(place, _)| *place);
    checks.extend(looked.into_iter().flat_map(|(_, checks)| checks));
    checks
}

/// Its servers and its agent.
async fn of_target(config: &Config, target: TargetSpec) -> Vec<Check> {
    let servers = async {
        let mut checks = Vec::new();
        for addr in target.servers.iter() {
            checks.push(server(&target.name, addr).await);
        }
        checks
    };
    let agent = async {
        let needs = config.migration_needs()?;
        let expect = (Role::Agent, target.agent_name.clone());
        let spec = ClientSpec { addr: target.agent, expect, tls: needs.tls, hello: hello(config) };
        Some(peer(spec).await)
    };
    let (mut checks, agent) = tokio::join!(servers, agent);
    checks.extend(agent);
    checks
}

async fn server(name: &str, addr: SocketAddr) -> Check {
    let result = match timeout(CONNECT, TcpStream::connect(addr)).await {
        Ok(Ok(_)) => Ok(format!("{addr} takes connections")),
        Ok(Err(e)) => Err(format!("{addr}: {e}")),
        Err(_) => Err(format!("{addr}: no answer in {} s", CONNECT.as_secs())),
    };
    let why = "requests that cannot migrate are proxied to it from this host";
    let mend =
        "start the server there; open its port to this host; compare [[target]] with what it listens on";
    Check::of(&format!("server {name}"), result, why, mend)
}
