//! Namespaces, links, addresses and routes.

use crate::command::{self, ip};
use crate::interrupt;
use crate::plan;
use crate::spec::{Balancer, LabSpec, Rate};
use crate::state::NodeState;
use anyhow::{Context, Result, bail};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// What clients take their path's MTU to be: they announce the segment size that belongs to it.
const ETHERNET_MTU: u32 = 1500;

/// The nodes a lab of this kind has, with their addresses.
pub(crate) fn nodes(spec: &LabSpec) -> Vec<NodeState> {
    let family = spec.family;
    let clients =
        (1..=spec.clients).map(|i| (plan::client(i), family.of(plan::client_addr(i), plan::client_addr6(i))));
    let targets = (1..=spec.targets).map(|j| (plan::target(j), plan::target_addrs(family, j)));
    let mut at_intermediate = family.of(plan::INTERMEDIATE_ADDR, plan::INTERMEDIATE_ADDR6);
    if spec.balancer != Balancer::None {
        at_intermediate.extend(plan::vips(family).iter().map(SocketAddr::ip));
    }
    let mut all: Vec<_> =
        clients.chain([(plan::INTERMEDIATE.to_owned(), at_intermediate)]).chain(targets).collect();
    let at_router = all.iter().flat_map(|(_, a)| gateways(a)).collect();
    all.insert(usize::from(spec.clients), (plan::ROUTER.to_owned(), at_router));
    let named = |(name, addresses): (String, Vec<IpAddr>)| {
        let has_daemon =
            spec.balancer == Balancer::Baton && (name == plan::INTERMEDIATE || name.starts_with("target"));
        let admin = has_daemon.then(|| plan::run_dir(&spec.name).join(&name).join("admin.sock"));
        NodeState {
            netns: plan::netns_name(&spec.name, &name),
            addresses: addresses.iter().map(IpAddr::to_string).collect(),
            admin,
            name,
        }
    };
    all.into_iter().map(named).collect()
}

/// The router's addresses towards a node: one of each IP version it has.
fn gateways(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first = |v4: bool| addresses.iter().find(|a| a.is_ipv4() == v4).map(|a| plan::router_addr(*a));
    first(true).into_iter().chain(first(false)).collect()
}

/// Makes the namespaces.
pub(crate) fn namespaces(spec: &LabSpec, nodes: &[NodeState]) -> Result<()> {
    for node in nodes {
        interrupt::check()?;
        ip(&format!("netns add {}", node.netns))?;
        ip(&format!("-n {} link set lo up", node.netns))?;
        // Before devices are made, so that they inherit it.
        let router = node.name == plan::ROUTER;
        // Strict on targets, as careful operators have it: Baton must work with that.
        let strict = node.name.starts_with("target") || (router && spec.urpf);
        let rp_filter = if strict { "1" } else { "0" };
        set_sysctls(
            node,
            &[("ipv4/conf/all/rp_filter", rp_filter), ("ipv4/conf/default/rp_filter", rp_filter)],
        )?;
        if router {
            set_sysctls(node, &[("ipv4/ip_forward", "1")])?;
        }
        if spec.family.has_v6() {
            for conf in ["all", "default"] {
                let value = |name: &str| format!("ipv6/conf/{conf}/{name}");
                let forwarding = if router { "1" } else { "0" };
                set_sysctls(
                    node,
                    &[
                        (&value("disable_ipv6"), "0"),
                        (&value("forwarding"), forwarding),
                        (&value("accept_ra"), "0"),
                        // An address can be used at once.
                        (&value("accept_dad"), "0"),
                    ],
                )
                .context("this kernel or machine has no IPv6")?;
            }
        } else {
            // Nothing but the lab's own packets shall be in the counters.
            try_sysctls(
                node,
                &[("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")],
            );
        }
    }
    Ok(())
}

/// Makes the links, with addresses and routes. The devices of those with an impairment box are there.
pub(crate) fn links(spec: &LabSpec, nodes: &[NodeState]) -> Result<()> {
    let router = nodes.iter().find(|n| n.name == plan::ROUTER).context("a lab has a router")?;
    for node in nodes.iter().filter(|n| n.name != plan::ROUTER) {
        interrupt::check()?;
        link(spec, router, node)?;
    }
    Ok(())
}

/// One link: a veth pair, created inside the router's namespace with its peer inside the node's, or the TAP devices of
/// a box.
fn link(spec: &LabSpec, router: &NodeState, node: &NodeState) -> Result<()> {
    let (r, n, name) = (&router.netns, &node.netns, &node.name);
    let ends = [(n.as_str(), "eth0"), (r.as_str(), name.as_str())];
    if spec.impaired_links().contains(name) {
        for (netns, device) in ends {
            // The kernel drops what does not fit into a TAP's queue; the usual 500 or 1000 are soon full.
            ip(&format!("-n {netns} link set {device} txqueuelen 10000"))?;
        }
    } else {
        ip(&format!("-n {r} link add {name} type veth peer name eth0 netns {n}"))?;
    }
    let client = name.starts_with("client");
    let mtu = match name.as_str() {
        _ if client => spec.mtu_client,
        target if target.starts_with("target") => spec.mtu_target,
        _ => None,
    };
    if let Some(mtu) = mtu {
        for (netns, device) in ends {
            ip(&format!("-n {netns} link set {device} mtu {mtu}"))?;
        }
    }
    let addresses: Vec<IpAddr> = node.addresses.iter().map(|a| a.parse()).collect::<Result<_, _>>()?;
    for address in &addresses {
        let rest = match address {
            IpAddr::V4(_) => "/24 brd +",
            // Not to be chosen as the source of the intermediate's own connections.
            IpAddr::V6(v6) if v6 == plan::VIP6.ip() => "/64 nodad preferred_lft 0",
            IpAddr::V6(_) => "/64 nodad",
        };
        ip(&format!("-n {n} addr add {address}{rest} dev eth0"))?;
    }
    let gateways = gateways(&addresses);
    for gateway in &gateways {
        let rest = if gateway.is_ipv4() { "/24 brd +" } else { "/64 nodad" };
        ip(&format!("-n {r} addr add {gateway}{rest} dev {name}"))?;
    }
    for (netns, device) in ends {
        ip(&format!("-n {netns} link set {device} up"))?;
    }
    if spec.urpf {
        for gateway in gateways.iter().filter(|g| g.is_ipv6()) {
            check_sources(r, name, *gateway)?;
        }
    }
    for gateway in gateways {
        let (version, headers) = if gateway.is_ipv4() { ("-4", 40) } else { ("-6", 60) };
        let mut route = format!("{version} -n {n} route add default via {gateway}");
        if client && spec.mtu_client.is_some() {
            route.push_str(&format!(" advmss {}", ETHERNET_MTU - headers));
        }
        // The same on every machine. By the route, since a namespace may not choose its default among those the machine
        // restricts.
        match (&spec.congestion, name.starts_with("target")) {
            (Some(control), true) => {
                ip(&format!("{route} congctl {control}")).map(drop)?;
            }
            (None, true) if ip(&format!("{route} congctl cubic")).is_ok() => {}
            _ => {
                ip(&route)?;
            }
        }
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

/// What comes over a link of the router is only forwarded if the link's network is where it comes from: IPv6 has no
/// rp_filter. Before the table `main`, after `local`.
fn check_sources(router: &str, link: &str, gateway: IpAddr) -> Result<()> {
    ip(&format!("-6 -n {router} rule add pref 100 from {gateway}/64 iif {link} lookup main"))?;
    ip(&format!("-6 -n {router} rule add pref 101 iif {link} blackhole")).map(drop)
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
    use crate::spec::Family;

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
        let dual = super::nodes(&LabSpec::new("x").family(Family::Dual));
        assert_eq!(dual[2].addresses, ["10.90.1.2", "fd90:1::2", "10.90.1.100", "fd90:1::100"]);
        assert_eq!(dual[1].addresses[..2], ["10.90.11.1", "fd90:11::1"]);
        assert!(nodes[5].admin.is_some() && nodes[2].admin.is_none());
    }
}
