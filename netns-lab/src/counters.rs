//! The byte and packet counters of every link, as the kernel keeps them at both ends.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::ops::Sub;

/// What one end of a link counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndCounters {
    /// Bytes received, link-layer headers included.
    pub rx_bytes: u64,
    /// Packets received; a super-packet of GSO counts once.
    pub rx_packets: u64,
    /// Packets that were to be received and were dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that were to be sent and were dropped.
    pub tx_dropped: u64,
}

impl Sub for EndCounters {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            rx_bytes: self.rx_bytes.saturating_sub(before.rx_bytes),
            rx_packets: self.rx_packets.saturating_sub(before.rx_packets),
            rx_dropped: self.rx_dropped.saturating_sub(before.rx_dropped),
            tx_bytes: self.tx_bytes.saturating_sub(before.tx_bytes),
            tx_packets: self.tx_packets.saturating_sub(before.tx_packets),
            tx_dropped: self.tx_dropped.saturating_sub(before.tx_dropped),
        }
    }
}

/// One link: a node's `eth0` and its peer on the router, named after the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCounters {
    /// The node's name, which is the link's.
    pub link: String,
    /// At the node's end: `tx` is what the node sent.
    pub node: EndCounters,
    /// At the router's end: `rx` is what the node sent.
    pub router: EndCounters,
}

/// What links counted between two readings, in the order of the later one.
pub fn difference(before: &[LinkCounters], after: &[LinkCounters]) -> Vec<LinkCounters> {
    after
        .iter()
        .map(|a| {
            let b = before.iter().find(|b| b.link == a.link).cloned().unwrap_or_default();
            LinkCounters { link: a.link.clone(), node: a.node - b.node, router: a.router - b.router }
        })
        .collect()
}

#[derive(Deserialize)]
struct Device {
    ifname: String,
    stats64: Stats,
}

#[derive(Deserialize)]
struct Stats {
    rx: Side,
    tx: Side,
}

#[derive(Deserialize)]
struct Side {
    bytes: u64,
    packets: u64,
    dropped: u64,
}

/// The counters of all devices in a namespace, by `ip -s -j link`.
pub(crate) fn of_netns(netns: &str) -> Result<Vec<(String, EndCounters)>> {
    let text = crate::command::ip(&format!("-n {netns} -s -j link show"))?;
    let devices: Vec<Device> =
        serde_json::from_str(&text).with_context(|| format!("cannot read the counters of {netns}"))?;
    Ok(devices
        .into_iter()
        .map(|d| {
            let Stats { rx, tx } = d.stats64;
            let end = EndCounters {
                rx_bytes: rx.bytes,
                rx_packets: rx.packets,
                rx_dropped: rx.dropped,
                tx_bytes: tx.bytes,
                tx_packets: tx.packets,
                tx_dropped: tx.dropped,
            };
            (d.ifname, end)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_taken_link_by_link() {
        let link = |name: &str, tx| LinkCounters {
            link: name.into(),
            node: EndCounters { tx_bytes: tx, ..Default::default() },
            router: EndCounters::default(),
        };
        let d = difference(&[link("b", 5), link("a", 7)], &[link("a", 10), link("b", 6), link("new", 3)]);
        assert_eq!(d, [link("a", 3), link("b", 1), link("new", 3)]);
    }
}
