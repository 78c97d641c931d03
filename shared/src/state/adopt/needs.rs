//! Whether a server's connections can be adopted: what was found on the host, and what of it is missing.

use crate::reason::AdoptNeed;

/// What was found. `None` where a fact could not be had, which is not held against the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The kernel has the function.
    pub function: bool,
    /// The program hangs on the uplink by a TCX link.
    pub tcx: bool,
    /// `net.ipv4.tcp_syncookies`.
    pub syncookies: Option<u32>,
    /// `net.ipv4.tcp_timestamps`.
    pub timestamps: Option<u32>,
    /// `net.ipv4.tcp_sack`.
    pub sack: Option<u32>,
    /// `net.ipv4.tcp_window_scaling`.
    pub window_scaling: Option<u32>,
    /// The VIP is a local address of the host.
    pub vip_local: bool,
    /// The VIP is in a network of the uplink's, where hosts ask for it by ARP.
    pub vip_on_link: bool,
    /// The larger of `net.ipv4.conf.all.arp_ignore` and the uplink's.
    pub arp_ignore: Option<u32>,
    /// The server's listening socket is MPTCP's.
    pub mptcp: Option<bool>,
    /// `net.netfilter.nf_conntrack_tcp_loose`; `None` without connection tracking.
    pub conntrack_loose: Option<u32>,
}

impl Surroundings {
    /// Whether this host would answer ARP for the VIP if the VIP were local.
    pub fn would_answer_arp(&self) -> bool {
        self.vip_on_link && self.arp_ignore.unwrap_or(0) == 0
    }
}

/// What is missing; nothing: connections can be adopted.
pub fn needs(found: &Surroundings) -> Vec<AdoptNeed> {
    let off = |setting: Option<u32>| setting == Some(0);
    [
        (!found.function, AdoptNeed::Kernel),
        (!found.tcx, AdoptNeed::Tcx),
        (off(found.syncookies), AdoptNeed::Syncookies),
        (off(found.timestamps), AdoptNeed::Timestamps),
        (off(found.sack), AdoptNeed::Sack),
        (off(found.window_scaling), AdoptNeed::WindowScaling),
        (!found.vip_local, AdoptNeed::VipLocal),
        (found.would_answer_arp(), AdoptNeed::Arp),
        (found.mptcp == Some(true), AdoptNeed::Mptcp),
        (off(found.conntrack_loose), AdoptNeed::Conntrack),
    ]
    .into_iter()
    .filter_map(|(missing, need)| missing.then_some(need))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit() -> Surroundings {
        Surroundings {
            function: true,
            tcx: true,
            syncookies: Some(1),
            timestamps: Some(1),
            sack: Some(1),
            window_scaling: Some(1),
            vip_local: true,
            vip_on_link: true,
            arp_ignore: Some(1),
            mptcp: Some(false),
            conntrack_loose: Some(1),
        }
    }

    #[test]
    fn a_fit_host_needs_nothing_and_neither_does_one_of_which_less_is_known() {
        assert_eq!(needs(&fit()), []);
        let unknown = Surroundings { function: true, tcx: true, vip_local: true, ..Surroundings::default() };
        assert_eq!(needs(&unknown), []);
        assert_eq!(
            needs(&Surroundings { syncookies: Some(2), vip_on_link: false, arp_ignore: Some(0), ..fit() }),
            []
        );
    }

    #[test]
    fn each_thing_missing_is_named_by_itself() {
        let without = |change: &dyn Fn(&mut Surroundings)| {
            let mut found = fit();
            change(&mut found);
            needs(&found)
        };
        type Case<'a> = (&'a dyn Fn(&mut Surroundings), AdoptNeed);
        let cases: [Case<'_>; 10] = [
            (&|f| f.function = false, AdoptNeed::Kernel),
            (&|f| f.tcx = false, AdoptNeed::Tcx),
            (&|f| f.syncookies = Some(0), AdoptNeed::Syncookies),
            (&|f| f.timestamps = Some(0), AdoptNeed::Timestamps),
            (&|f| f.sack = Some(0), AdoptNeed::Sack),
            (&|f| f.window_scaling = Some(0), AdoptNeed::WindowScaling),
            (&|f| f.vip_local = false, AdoptNeed::VipLocal),
            (&|f| f.arp_ignore = Some(0), AdoptNeed::Arp),
            (&|f| f.mptcp = Some(true), AdoptNeed::Mptcp),
            (&|f| f.conntrack_loose = Some(0), AdoptNeed::Conntrack),
        ];
        for (change, need) in cases {
            assert_eq!(without(change), [need]);
        }
        assert_eq!(needs(&Surroundings::default()), [AdoptNeed::Kernel, AdoptNeed::Tcx, AdoptNeed::VipLocal]);
    }
}
