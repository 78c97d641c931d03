//! Every reason there is for a packet or a connection not to take the direct path, numbered once for ever.
//!
//! Numbers are never used again for another meaning: dashboards, map slots and messages rest on them. Each
//! reason carries the text an operator reads in `/metrics`, in the admin API and in the runbook.

/// Declares an enum of numbered reasons with a stable name and an operator's explanation for each.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $( $variant:ident = $code:literal, $label:literal, $text:literal; )+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "std", serde(rename_all = "snake_case"))]
        #[repr(u32)]
        pub enum $name { $( #[doc = $text] $variant = $code, )+ }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [$name] = &[ $( $name::$variant, )+ ];

            /// The number, the same for ever.
            #[inline(always)]
            pub const fn code(self) -> u32 { self as u32 }

            /// The name, the same for ever: the metrics' label value and the admin API's string.
            pub const fn name(self) -> &'static str {
                match self { $( $name::$variant => $label, )+ }
            }

            /// What it means and what to do about it.
            pub const fn explanation(self) -> &'static str {
                match self { $( $name::$variant => $text, )+ }
            }

            /// The reason with this number.
            pub const fn from_code(code: u32) -> Option<Self> {
                match code { $( $code => Some($name::$variant), )+ _ => None }
            }
        }

        #[cfg(feature = "std")]
        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result { f.write_str(self.name()) }
        }
    };
}

reasons! {
    /// What a program counts, per CPU, in the map `COUNTERS` at the index that is the number. From
    /// [`PacketCounter::FIRST_DROP`] on the packet was dropped.
    PacketCounter {
        Translated = 1, "translated", "The packet's addresses and numbers were rewritten and it went on its way.";
        Diverted = 2, "diverted", "The flow is frozen or draining: the packet went to the hold TUN.";
        Released = 3, "released", "A held packet came back from the hold TUN and was translated.";
        FreezeExpired = 4, "freeze_expired", "A freeze outlived its deadline, the packet passed to the ordinary stack. The intermediate was stopped or stuck in a handoff.";
        SynToListener = 5, "syn_to_listener", "A SYN on the 4-tuple of an ended flow passed to the listener: the client used its port again.";
        Superseded = 6, "superseded", "A packet of a new connection on an ended flow's 4-tuple passed to the ordinary stack.";
        ReplayDiverted = 7, "replay_diverted", "What the server's kernel sent during a replayed handshake went to the agent.";
        AckRaised = 8, "ack_raised", "An acknowledgement below what the client was already given was raised to the floor.";
        Reinjected = 9, "reinjected", "A packet the daemon wrote into its TUN entered the uplink's ingress.";
        IcmpTranslated = 10, "icmp_translated", "An ICMP error about a packet the target sent in the VIP's name was rewritten, inside and out, and sent to the target. Many mean a link with a smaller MTU or an unreachable client.";
        LegStripped = 11, "leg_stripped", "An intermediate's encapsulated packet for a migrated flow was taken out of its outer header.";
        LegUnknown = 12, "leg_unknown", "An encapsulated packet of an intermediate holds nothing of a flow of this target; it passed to the ordinary stack. A few are late packets of flows that have ended.";
        TooBig = 13, "too_big", "A client's packet is larger than the way to its target takes: it went to the daemon, which tells the client so as a router would (ICMP), and drops it. A few at the begin of uploads over a leg with a smaller MTU.";
        LaterRequest = 15, "later_request", "Data behind the end of the request under way on a tracked connection went to the intermediate to be read: the start of a later request, or the client's end.";
        ResponseCopied = 16, "response_copied", "A packet with a part of a response that its agent must read, to know where the response ends, was copied to the agent.";
        CopyFailed = 17, "copy_failed", "A part of a response found no room in the agent's ring buffer (by the userspace plane: in its TUN): the end of that response will not be known. The agent has read nothing of 8 MiB of parts.";
        AdoptAssigned = 19, "adopt_assigned", "The agent's packet was given to the kernel, which makes the server's socket from it (docs/adopt.md).";
        AdoptRepeated = 20, "adopt_repeated", "The agent's packet, sent again, went to the socket that had been made from the first.";
        Readdressed = 21, "readdressed", "A client's packet of an adopted flow, addressed to the server, got the VIP back as its destination.";
        AdoptedSent = 22, "adopted_sent", "A packet of a server's adopted socket went out; unchanged, but for the window in those that window_rescaled counts too.";
        WindowRescaled = 23, "window_rescaled", "Beside adopted_sent: the window in it was put into the scale that the intermediate had promised; the server's buffer is too small for that scale.";
        LaterPlain = 24, "later_plain", "Beside translated: a later request that every route treats alike, and too simple to be read in two ways, was judged by the program and went on at once (docs/keepalive.md).";
        SynAwaitsEnd = 25, "syn_awaits_end", "A SYN on the 4-tuple of a flow that has not ended as far as is known: it waits in the daemon for the word of that, 200 ms at most, then goes to the listener, or to the server, which answers as to any SYN on a live connection.";
        AheadOfAnswer = 26, "ahead_of_answer", "Beside translated: the client acknowledged what its server had answered before the agent's word of the handoff was here, and the packet went on at once to the server, which had adopted the connection.";
        DropTtlExpired = 32, "drop_ttl_expired", "The packet's TTL or hop limit was used up on the way to the target: look for a routing loop.";
        DropMalformed = 33, "drop_malformed", "A packet of a migrated flow whose headers are cut short or contradict themselves.";
        DropFragment = 34, "drop_fragment", "An IP fragment of a migrated flow: a packet's first one, which has the ports, or one behind it. Path-MTU discovery avoids fragments; look for a link with a smaller MTU that clears DF.";
        DropFenced = 35, "drop_fenced", "The server sent on a flow that was taken from it; dropped so that there is one responder.";
        DropLateSynAck = 36, "drop_late_syn_ack", "A SYN-ACK of the server on a flow past its handshake: retransmitted, or an attempt to use the 4-tuple again before the end was noticed.";
        DropStoreFailed = 37, "drop_store_failed", "The kernel refused to store the rewritten bytes (packet not writable).";
        DropNoDevice = 38, "drop_no_device", "The TUN or uplink that the packet must go to is not set: the daemon is not running.";
        DropTunFrame = 39, "drop_tun_frame", "A packet written into the TUN could not be given an Ethernet header.";
        DropExtensions = 40, "drop_extensions", "An IPv6 packet with more than eight extension headers, or a first fragment that ends within them: no stack sends those.";
        DropIcmpMalformed = 41, "drop_icmp_malformed", "An ICMP error about a migrated flow that is cut short before the sequence number it must quote.";
        DropTooBig = 42, "drop_too_big", "A client's packet larger than the way to its target takes; the client was told. Many mean that it does not hear: look for a firewall that drops ICMP errors, or lower the leg's overhead.";
        DropAdoptEarly = 48, "drop_adopt_early", "A packet on the 4-tuple of a flow that is being adopted, and not the agent's with the numbers expected.";
        DropAdoptRefused = 49, "drop_adopt_refused", "The agent's packet could not be made a socket: nothing listens, the 4-tuple is in use, or the kernel refused. `target-agent doctor` tells what adopting needs.";
        DropAdoptReset = 50, "drop_adopt_reset", "The kernel made no socket from the agent's packet and would have reset the client: net.ipv4.tcp_syncookies is 0, or the listener was just closed.";
        DropAdoptGone = 51, "drop_adopt_gone", "A SYN on the 4-tuple of an adopted flow whose socket is gone: its end is noticed, and the client's next one goes to the VIP's listener.";
    }
}

impl PacketCounter {
    /// Numbers from here on are drops.
    pub const FIRST_DROP: u32 = 32;
    /// How many elements the `COUNTERS` map has.
    pub const CAPACITY: u32 = 64;

    /// Whether the packet was dropped.
    pub const fn is_drop(self) -> bool {
        self.code() >= Self::FIRST_DROP
    }

    /// Whether a person should look: drops, and what went on and tells of a smaller MTU on the way, or of a daemon that was
    /// stopped or wanted memory.
    pub const fn is_telling(self) -> bool {
        use PacketCounter::{CopyFailed, FreezeExpired, IcmpTranslated, TooBig};
        self.is_drop() || matches!(self, TooBig | IcmpTranslated | FreezeExpired | CopyFailed)
    }
}

reasons! {
    /// Why an agent did not take a handoff. In every case but [`Refusal::LostInFeeding`] the request has not
    /// reached the server, and will not.
    Refusal {
        NotAllowed = 1, "not_allowed", "The agent's configuration does not name this VIP, server address or intermediate. Compare [[allow]] with the intermediate's [[listener]] and [[target]].";
        TableFull = 2, "table_full", "The target's flow table is full: raise plane.flows.";
        ServerRefused = 3, "server_refused", "The server's kernel reset the replayed handshake: nothing listens on that address and port.";
        ServerSilent = 4, "server_silent", "The server did not answer the replayed handshake in time: full accept queue, firewall, or rp_filter on the target.";
        OptionsMismatch = 5, "options_mismatch", "The server's kernel does not offer an option the client's connection uses (timestamps, SACK, window scaling): compare net.ipv4.tcp_* on both hosts.";
        Cancelled = 6, "cancelled", "The intermediate withdrew the handoff before the request was fed.";
        NeverSeen = 7, "never_seen", "The agent was asked about a handoff that never reached it.";
        Expired = 8, "expired", "The handoff's time was up before the request could be fed.";
        Draining = 9, "draining", "The agent takes no new flows.";
        LostInFeeding = 10, "lost_in_feeding", "The agent was restarted while it fed this request: the server may have run it, so nobody else may.";
        Unsupported = 11, "unsupported", "The state asks for what this agent cannot carry (address family, version).";
        Internal = 12, "internal", "The agent could not write to its device or maps; its log says why.";
        Duplicate = 13, "duplicate", "A flow with the same client and server addresses is still alive on the target.";
        ServerClosed = 15, "server_closed", "To a recall: the server has closed or reset the connection. The client sees that too.";
        FramingUnknown = 16, "framing_unknown", "To a recall: where the server's response ends cannot be known, and the server has long been silent.";
        NotTracked = 17, "not_tracked", "To a recall: the agent did not follow the responses of this flow, since it was restarted meanwhile.";
        FlowGone = 18, "flow_gone", "To a recall: the flow has ended on the target, or never was there.";
        AdoptUnavailable = 20, "adopt_unavailable", "serve.way is \"adopt\", and something it needs is missing: `target-agent doctor` names it.";
        AdoptSilent = 21, "adopt_silent", "The kernel was given the connection and made no socket from it in time: full accept queue, a firewall (nf_conntrack_tcp_loose), or the VIP is not local on the target.";
        AdoptFailed = 22, "adopt_failed", "The kernel refused to make the server's socket from the connection, and serve.way is \"adopt\". An MPTCP listener does so, or an option switched off on the target (net.ipv4.tcp_*).";
        AdoptReset = 23, "adopt_reset", "The kernel would have reset the connection it was to adopt, and serve.way is \"adopt\": net.ipv4.tcp_syncookies is 0, or the listener was just closed.";
    }
}

impl Refusal {
    /// Whether the request surely did not and will not reach the server, so that another may run it.
    pub const fn request_not_run(self) -> bool {
        !matches!(self, Refusal::LostInFeeding)
    }

    /// Whether it is worth while to hand the connection to another target: the request surely has not run, and the
    /// reason lies with this target and not with what the client's connection uses.
    pub const fn another_may_take(self) -> bool {
        self.request_not_run() && !matches!(self, Refusal::OptionsMismatch | Refusal::Unsupported)
    }

    /// Whether a person should look: not where one ordered it.
    pub const fn is_telling(self) -> bool {
        !matches!(self, Refusal::Draining)
    }

    /// Whether a recall with this answer came too late: the connection ends, and the client sees it. Any other binds the flow
    /// to its server.
    pub const fn is_end_of_flow(self) -> bool {
        matches!(self, Refusal::ServerClosed | Refusal::FlowGone)
    }

    /// Whether it speaks against the server, not against its agent.
    pub const fn blames_server(self) -> bool {
        matches!(self, Refusal::ServerRefused | Refusal::ServerSilent)
    }
}

reasons! {
    /// What adopting connections needs on a target and is missing.
    AdoptNeed {
        Kernel = 1, "kernel_function", "The kernel has no bpf_sk_assign_tcp_reqsk, by which it makes a socket from a packet: Linux 6.9 or later, with CONFIG_SYN_COOKIES and BTF.";
        Tcx = 2, "tcx", "The programs are not attached by TCX links: Linux 6.6 or later, and plane.kind = \"ebpf\".";
        Syncookies = 3, "tcp_syncookies", "net.ipv4.tcp_syncookies is 0: the kernel would reset each connection it is to adopt. sysctl -w net.ipv4.tcp_syncookies=1";
        Timestamps = 4, "tcp_timestamps", "net.ipv4.tcp_timestamps is 0, and clients use them: sysctl -w net.ipv4.tcp_timestamps=1";
        Sack = 5, "tcp_sack", "net.ipv4.tcp_sack is 0, and clients use it: sysctl -w net.ipv4.tcp_sack=1";
        WindowScaling = 6, "tcp_window_scaling", "net.ipv4.tcp_window_scaling is 0, and clients use it: sysctl -w net.ipv4.tcp_window_scaling=1";
        VipLocal = 7, "vip_local", "What arrives for the VIP by the uplink is not delivered on this host: it would vanish. The agent sees to that itself unless serve.local_vip = false: ip route add local VIP/32 dev lo (IPv6: VIP/128).";
        Arp = 8, "arp_ignore", "The VIP is in a network of the uplink's, and this host would answer ARP for it in the intermediate's place once it is local: sysctl -w net.ipv4.conf.UPLINK.arp_ignore=1";
        Mptcp = 9, "mptcp_listener", "The server listens with MPTCP, from which the kernel makes no socket: switch MPTCP off for it (nginx: no `multipath` in listen; GODEBUG=multipathtcp=0; mptcpize disable).";
        Conntrack = 10, "nf_conntrack_tcp_loose", "net.netfilter.nf_conntrack_tcp_loose is 0: a firewall would take the adopted connection, which begins without a SYN, for an invalid one. sysctl -w net.netfilter.nf_conntrack_tcp_loose=1";
        Tried = 11, "tried", "The last connection to be adopted was not: the kernel kept silent or would have reset it. Look for a firewall that drops new connections without SYN. It is tried again by itself.";
    }
}

reasons! {
    /// Why the intermediate proxied a request instead of migrating its connection.
    ProxyReason {
        NoAgent = 1, "no_agent", "The target's agent is not connected.";
        Refused = 2, "refused", "The agent refused the handoff; the refusal's own reason is counted beside this.";
        Unacknowledged = 3, "unacknowledged", "Bytes sent to the client were not yet acknowledged, so its state could not be captured.";
        OptionNotCarried = 4, "option_not_carried", "The connection is of multipath TCP, of which the kernel repairs nothing. The listeners speak plain TCP, so it does not occur unless MPTCP is forced on them.";
        MethodNotMigrated = 5, "method_not_migrated", "CONNECT, Upgrade and HTTP/1.0 keep-alive requests are not migrated.";
        PrefetchTooLarge = 6, "prefetch_too_large", "More bytes had arrived before the freeze than limits.prefetch_bytes allows to be replayed.";
        TableFull = 7, "table_full", "The intermediate's flow table is full: raise plane.flows.";
        CaptureFailed = 8, "capture_failed", "The kernel refused a TCP_REPAIR step; the log has the call and its errno.";
        LaterRequest = 9, "later_request", "A later request on a connection whose first one was proxied.";
        ChannelBusy = 10, "channel_busy", "The control channel's queue to the agent was full.";
        Undelivered = 11, "undelivered", "The control channel broke before the handoff was delivered.";
        ConnectionState = 12, "connection_state", "The connection was not in a state that can be captured (closed or reset by the client, out-of-order data).";
        Disabled = 13, "disabled", "The configuration says mode = \"proxy\".";
        AddressFamily = 14, "address_family", "No connected target has a server address of the VIP's family, or the client's address is link-local.";
        SynCookie = 15, "syn_cookie", "Not given any more. Connections accepted by a SYN cookie that use timestamps were proxied, since the kernel does not tell the client's clock; now they migrate without it.";
        Pipelined = 16, "pipelined", "More than one request had arrived, and the route's keepalive is \"single\": proxied, so that each goes where its own route says.";
        NoUsableTarget = 20, "no_usable_target", "Every target of the pool is down, drained, or was just tried.";
        StickyCookie = 21, "sticky_cookie", "The request had no good cookie of a sticky pool: it was proxied so that its response could set one (sticky.first = \"migrate\" changes that).";
        LocalClient = 22, "local_client", "The client is a process on the target's own host, or on the intermediate's: its packets, or the server's to it, pass no device at which they could be translated.";
        TlsTerminated = 27, "tls_terminated", "TLS ends at the listener (protocol https): its keys cannot go with the connection.";
        ClientSilent = 28, "client_silent", "The client of a listener of protocol tcp said nothing for the listener's silence_ms: the server may be the one that speaks first.";
        BadBody = 60, "bad_body", "The request's body breaks the rules of chunked coding: proxied, where it is answered 400.";
        BodyCounted = 70, "body_counted", "The request's body is chunked, and body_bytes limits its length: it is counted as it comes.";
        FastOpen = 95, "fast_open", "The request was in the client's SYN (TCP Fast Open), and the client had not acknowledged the SYN-ACK yet.";
    }
}

impl ProxyReason {
    /// Whether a person should look: not where the configuration orders it, nor at what follows from another reason.
    pub const fn is_telling(self) -> bool {
        use ProxyReason::{Disabled, LaterRequest, TlsTerminated};
        !matches!(self, Disabled | LaterRequest | TlsTerminated)
    }

    /// Whether it is worth while to hand the connection to another target; `refusal` is the agent's own reason.
    pub fn another_may_take(self, refusal: Option<Refusal>) -> bool {
        match self {
            ProxyReason::NoAgent | ProxyReason::ChannelBusy | ProxyReason::Undelivered => true,
            ProxyReason::Refused => refusal.is_some_and(Refusal::another_may_take),
            _ => false,
        }
    }
}

reasons! {
    /// Why the intermediate closed a connection, or answered it by itself.
    CloseReason {
        BadRequest = 1, "bad_request", "Not HTTP, or a request the strict gate refuses: answered 400.";
        HeadTooLarge = 2, "head_too_large", "The request head is over limits.head_bytes or limits.header_count: answered 431.";
        HeadTimeout = 3, "head_timeout", "No complete request head within limits.head_timeout_ms: answered 408 if anything had arrived, else closed.";
        ClientGone = 4, "client_gone", "The client closed or reset before a complete head.";
        NoTarget = 5, "no_target", "No target could take the request: answered 503.";
        UpstreamFailed = 6, "upstream_failed", "The server could not be reached or broke off before answering: answered 502.";
        Unresolved = 7, "unresolved", "A handoff was delivered and its agent died or fell silent: where the request ran cannot be known, so the client got a reset.";
        ConnectionLimit = 8, "connection_limit", "More connections than limits.connections: the one that had waited longest for its first request head, or, if none did, the newest.";
        UriTooLong = 9, "uri_too_long", "The request target is over limits.target_bytes: answered 414.";
        NotImplemented = 10, "not_implemented", "A transfer coding or method that is not implemented: answered 501.";
        Shutdown = 11, "shutdown", "The intermediate was stopping.";
        UpstreamTimeout = 12, "upstream_timeout", "The server did not answer in limits.upstream_timeout_ms: answered 504.";
        NoRoute = 13, "no_route", "No route takes the request, and its listener has no pool of its own: answered 404.";
        AmbiguousPath = 14, "ambiguous_path", "The path can be read in two ways (encoded slash, backslash, path parameters) that lead to different routes: answered 400.";
        RecallRefused = 18, "recall_refused", "A later request belonged elsewhere and the agent could not give its connection back: the client got a reset. The refusal's own reason is counted beside this.";
        RestoreFailed = 19, "restore_failed", "A connection was taken back from its target and no socket could be made for it: the client got a reset. The log has the call and its errno.";
        NotTls = 21, "not_tls", "The first bytes on a listener of protocol tls or https were no TLS handshake: closed without a word.";
        BadClientHello = 22, "bad_client_hello", "A ClientHello that contradicts itself, names two servers, or is over 16384 bytes: answered with the alert decode_error.";
        TlsHandshake = 23, "tls_handshake", "The TLS handshake on a listener of protocol https failed or took longer than limits.head_timeout_ms: no common version or cipher, a client that does not trust the certificate, or no client at all.";
        RelayIdle = 24, "relay_idle", "Nothing passed on a relayed connection or tunnel for the listener's idle_ms: closed.";
        SourceLimit = 25, "source_limit", "More connections from one source (limits.source_prefix_v4 or _v6) than limits.connections_per_source: closed without a word.";
        SlowBody = 26, "slow_body", "A proxied request's body came slower than limits.body_min_rate for longer than limits.body_grace_ms: answered 408.";
        SlowReader = 27, "slow_reader", "The client took a proxied response in slower than limits.response_min_rate for longer than limits.client_timeout_ms: the connection was closed.";
        IdleTimeout = 28, "idle_timeout", "A kept connection made no further request within limits.idle_timeout_ms: closed.";
        BrokenBody = 60, "broken_body", "The chunked body of a migrated request broke the rules of its coding in mid-upload: the client and the server got a reset.";
        BodyTooLarge = 70, "body_too_large", "The request's body is over the body_bytes of its route, listener or of limits: answered 413.";
        StreamLimit = 75, "stream_limit", "More HTTP/2 streams under way, over all connections, than limits.connections: the newest was refused with REFUSED_STREAM, after which a client may ask again.";
        Http2Flood = 76, "http2_flood", "An HTTP/2 client sent mostly frames that ask for nothing, reset most of its streams, or sent a head in too many pieces: the connection was closed.";
        Http2Error = 77, "http2_error", "An HTTP/2 client broke the protocol: the connection was closed with GOAWAY, whose code says what.";
    }
}

impl CloseReason {
    /// Whether a person should look: not at what the ordinary life of connections ends with.
    pub const fn is_telling(self) -> bool {
        use CloseReason::{ClientGone, IdleTimeout, RelayIdle, Shutdown};
        !matches!(self, ClientGone | IdleTimeout | RelayIdle | Shutdown)
    }
}

reasons! {
    /// How a migrated flow ended, as judged on the target; or at the intermediate, where it ended the flow.
    EndReason {
        Finished = 1, "finished", "Both ends closed; the server's socket is gone or in TIME_WAIT.";
        ServerReset = 2, "server_reset", "The server's kernel sent a reset.";
        SocketGone = 3, "socket_gone", "The server's socket vanished without a FIN or RST of its own (the client reset it).";
        Idle = 4, "idle", "Nothing passed for plane.idle_ms; the agent ended the flow.";
        AgentLost = 5, "agent_lost", "The agent was gone for longer than handoff.agent_lost_ms; the flow's end is not known.";
        Aborted = 6, "aborted", "Ended on request.";
        Recalled = 7, "recalled", "The intermediate took the connection back, for a later request that belongs elsewhere.";
        RecallRefused = 8, "recall_refused", "A later request belonged elsewhere, and the agent could not give the connection back: the intermediate reset it.";
        BrokenBody = 9, "broken_body", "The client's chunked body broke the rules of its coding in mid-upload: the intermediate reset the connection.";
        RecordLost = 10, "record_lost", "After a start the agent found the adopted socket of an earlier run and no record of its flow: nobody could lead the client's packets to it, so it was ended. The table had no room for a former version's flows, or its records were removed.";
    }
}

#[cfg(feature = "std")]
mod daemons;
#[cfg(feature = "std")]
pub use daemons::{ControlFault, HoldDrop};

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_lead_back() {
        fn check<T: Copy + PartialEq + core::fmt::Debug>(
            all: &[T],
            code: fn(T) -> u32,
            name: fn(T) -> &'static str,
            from: fn(u32) -> Option<T>,
        ) {
            for (i, a) in all.iter().enumerate() {
                assert_eq!(from(code(*a)), Some(*a));
                for b in &all[i + 1..] {
                    assert!(code(*a) < code(*b), "{a:?} and {b:?} out of order");
                    assert_ne!(name(*a), name(*b));
                }
            }
        }
        check(PacketCounter::ALL, PacketCounter::code, PacketCounter::name, PacketCounter::from_code);
        check(Refusal::ALL, Refusal::code, Refusal::name, Refusal::from_code);
        check(AdoptNeed::ALL, AdoptNeed::code, AdoptNeed::name, AdoptNeed::from_code);
        check(ProxyReason::ALL, ProxyReason::code, ProxyReason::name, ProxyReason::from_code);
        check(CloseReason::ALL, CloseReason::code, CloseReason::name, CloseReason::from_code);
        check(EndReason::ALL, EndReason::code, EndReason::name, EndReason::from_code);
        check(ControlFault::ALL, ControlFault::code, ControlFault::name, ControlFault::from_code);
        check(HoldDrop::ALL, HoldDrop::code, HoldDrop::name, HoldDrop::from_code);
        assert!(PacketCounter::ALL.iter().all(|c| c.code() < PacketCounter::CAPACITY));
    }

    #[test]
    fn what_is_ordered_or_ordinary_is_not_telling_and_drops_are() {
        for counter in PacketCounter::ALL {
            assert!(counter.is_telling() || !counter.is_drop(), "{counter}");
        }
        let packets = [PacketCounter::Translated, PacketCounter::AdoptAssigned, PacketCounter::TooBig];
        assert_eq!(packets.map(PacketCounter::is_telling), [false, false, true]);
        let proxied = [ProxyReason::Disabled, ProxyReason::LaterRequest, ProxyReason::TableFull];
        assert_eq!(proxied.map(ProxyReason::is_telling), [false, false, true]);
        let closed = [CloseReason::ClientGone, CloseReason::Shutdown, CloseReason::UpstreamFailed];
        assert_eq!(closed.map(CloseReason::is_telling), [false, false, true]);
        assert_eq!([Refusal::Draining, Refusal::ServerRefused].map(Refusal::is_telling), [false, true]);
    }

    #[test]
    fn the_runbook_has_an_entry_for_each_reason_with_its_text_and_something_to_do() {
        let page = include_str!("../../docs/runbook.md");
        let mut wanted = Vec::new();
        wanted.extend(PacketCounter::ALL.iter().map(|r| (r.name(), r.explanation())));
        wanted.extend(Refusal::ALL.iter().map(|r| (r.name(), r.explanation())));
        wanted.extend(AdoptNeed::ALL.iter().map(|r| (r.name(), r.explanation())));
        wanted.extend(ProxyReason::ALL.iter().map(|r| (r.name(), r.explanation())));
        wanted.extend(CloseReason::ALL.iter().map(|r| (r.name(), r.explanation())));
        wanted.extend(EndReason::ALL.iter().map(|r| (r.name(), r.explanation())));
        wanted.extend(ControlFault::ALL.iter().map(|r| (r.name(), r.explanation())));
        wanted.extend(HoldDrop::ALL.iter().map(|r| (r.name(), r.explanation())));
        let rows = page.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, wanted.len(), "rows and reasons");
        for (name, explanation) in wanted {
            let start = format!("| `{name}` | {explanation} | ");
            let row = page.lines().find_map(|line| line.strip_prefix(&start)?.strip_suffix(" |"));
            assert!(row.is_some_and(|advice| advice.len() > 5), "docs/runbook.md lacks: {start}");
        }
    }
}
