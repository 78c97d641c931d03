//! Namespaces, links, addresses and routes.

use crate::command::{self, ip};
use crate::interrupt;
use crate::plan;
use crate::spec::{Balancer, LabSpec, Rate};
use crate::state::NodeState;
use anyhow::{Context, Result, bail};
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// The nodes a lab of this kind has, with their addresses.
pub(crate) fn nodes(spec: &LabSpec) -> Vec<NodeState> {
    let clients = (1..=spec.clients).map(|i| (plan::client(i), vec![plan::client_addr(i)]));
    let targets = (1..=spec.targets).map(|j| (plan::target(j), vec![plan::target_addr(j)]));
    let mut at_intermediate = vec![plan::INTERMEDIATE_ADDR];
    if spec.balancer != Balancer::None {
        at_intermediate.push(*plan::VIP.ip());
    }
    let leaves: Vec<_> =
        clients.chain([(plan::INTERMEDIATE.to_owned(), at_intermediate)]).chain(targets).collect();
    let at_router = leaves.iter().filter_map(|(_, a)| a.first()).map(|a| plan::router_addr(*a)).collect();
    let mut all = leaves;
    all.insert(usize::from(spec.clients), (plan::ROUTER.to_owned(), at_router));
    let named = |(name, addresses): (String, Vec<Ipv4Addr>)| {
        let has_daemon =
            spec.balancer == Balancer::Baton && (name == plan::INTERMEDIATE || name.starts_with("target"));
        let admin = has_daemon.then(|| plan::run_dir(&spec.name).join(&name).join("admin.sock"));
        NodeState {
            netns: plan::netns_name(&spec.name, &name),
            addresses: addresses.iter().map(Ipv4Addr::to_string).collect(),
            admin,
            name,
        }
    };
    all.into_iter().map(named).collect()
}

/// Makes the namespaces and everything between them.
pub(crate) fn build(spec: &LabSpec, nodes: &[NodeState]) -> Result<()> {
    for node in nodes {
        interrupt::check()?;
        ip(&format!("netns add {}", node.netns))?;
        ip(&format!("-n {} link set lo up", node.netns))?;
        // Before devices are made, so that they inherit it.
        let sysctls: &[(&str, &str)] = match node.name.as_str() {
            plan::ROUTER => &[("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "0")],
            // Strict, as careful operators have it: Baton must work with that.
            name if name.starts_with("target") => &[("ipv4/conf/all/rp_filter", "1")],
            _ => &[("ipv4/conf/all/rp_filter", "0")],
        };
        let rp_filter = if node.name.starts_with("target") { "1" } else { "0" };
        set_sysctls(node, sysctls)?;
        set_sysctls(node, &[("ipv4/conf/default/rp_filter", rp_filter)])?;
        // Nothing but the lab's own packets shall be in the counters.
        try_sysctls(node, &[("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")]);
    }
    let router = nodes.iter().find(|n| n.name == plan::ROUTER).context("a lab has a router")?;
    for node in nodes.iter().filter(|n| n.name != plan::ROUTER) {
        interrupt::check()?;
        link(spec, router, node)?;
    }
    Ok(())
}

/// One veth pair, created inside the router's namespace with its peer inside the node's.
fn link(spec: &LabSpec, router: &NodeState, node: &NodeState) -> Result<()> {
    let (r, n, name) = (&router.netns, &node.netns, &node.name);
    ip(&format!("-n {r} link add {name} type veth peer name eth0 netns {n}"))?;
    let addresses: Vec<Ipv4Addr> = node.addresses.iter().map(|a| a.parse()).collect::<Result<_, _>>()?;
    for address in &addresses {
        ip(&format!("-n {n} addr add {address}/24 brd + dev eth0"))?;
    }
    let gateway = plan::router_addr(*addresses.first().context("a node has an address")?);
    ip(&format!("-n {r} addr add {gateway}/24 brd + dev {name}"))?;
    ip(&format!("-n {n} link set eth0 up"))?;
    ip(&format!("-n {r} link set {name} up"))?;
    let route = format!("-n {n} route add default via {gateway}");
    // The replayed handshake is local, and BBR would keep its tiny round-trip time for ten seconds. By the route, since a
    // namespace may not choose its default among those the machine restricts.
    let cubic = name.starts_with("target") && ip(&format!("{route} congctl cubic")).is_ok();
    if !cubic {
        ip(&route)?;
    }
    let rate = match name.as_str() {
        plan::INTERMEDIATE => spec.rate_intermediate,
        target if target.starts_with("target") => spec.rate_target,
        _ => None,
    };
    if let Some(rate) = rate {
        limit(n, "eth0", rate)?;
        limit(r, name, rate)?;
    }
    Ok(())
}

/// A token bucket on what a device sends. TBF cuts super-packets that do not fit its bucket.
fn limit(netns: &str, device: &str, Rate(bits): Rate) -> Result<()> {
    // Four milliseconds' worth, so that the timer's grain does not lower the rate.
    let burst = (bits / 8 / 250).max(64 * 1024);
    let words =
        format!("-n {netns} qdisc add dev {device} root tbf rate {bits}bit burst {burst} latency 50ms");
    command::run("tc", &words.split(' ').collect::<Vec<_>>())?;
    Ok(())
}

/// Sets values under /proc/sys/net, which shows those of the namespace one is in.
fn set_sysctls(node: &NodeState, values: &[(&str, &str)]) -> Result<()> {
    let values: Vec<(PathBuf, String)> = values
        .iter()
        .map(|(name, value)| (PathBuf::from("/proc/sys/net").join(name), (*value).to_owned()))
        .collect();
    inside(node, move || {
        for (path, value) in &values {
            std::fs::write(path, value)
                .with_context(|| format!("cannot write {value} to {}", path.display()))?;
        }
        Ok(())
    })?
}

/// The same for settings a kernel may lack.
fn try_sysctls(node: &NodeState, values: &[(&str, &str)]) {
    for value in values {
        let _ = set_sysctls(node, &[*value]);
    }
}

/// Runs `work` on a thread of its own inside a node's namespace.
///
/// # Errors
/// When the namespace is gone.
pub(crate) fn inside<T: Send + 'static>(
    node: &NodeState,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let path = plan::netns_path(&node.netns);
    let file = std::fs::File::open(&path)
        .with_context(|| format!("cannot open the namespace {}", path.display()))?;
    let thread = std::thread::Builder::new().spawn(move || {
        crate::sys::enter_netns(&file).context("cannot enter the namespace").map(|()| work())
    })?;
    match thread.join() {
        Ok(result) => result,
        Err(_) => bail!("the thread in namespace {} panicked", node.netns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_come_in_the_order_of_a_packets_way() {
        let nodes = nodes(&LabSpec::new("x").clients(2));
        let names: Vec<_> = nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["client1", "client2", "router", "intermediate", "target1", "target2"]);
        assert_eq!(nodes[3].addresses, ["10.90.1.2", "10.90.1.100"]);
        assert_eq!(
            nodes[2].addresses,
            ["10.90.11.1", "10.90.12.1", "10.90.1.1", "10.90.101.1", "10.90.102.1"]
        );
        assert!(nodes[5].admin.is_some() && nodes[2].admin.is_none());
    }
}
