//! All that the kernel tells of a connection's socket, for people (`struct tcp_info`, linux/tcp.h).

use super::info::{INET_DIAG_INFO, attribute};
use super::{HEADER_BYTES, Question, SOCK_DIAG_BY_FAMILY, SockDiag, number_at, state};
use baton_shared::control::SocketReport;
use baton_shared::state::ending::SocketState;
use std::io;
use std::net::SocketAddr;

/// The congestion control's name (`INET_DIAG_CONG`, linux/inet_diag.h).
const INET_DIAG_CONG: u16 = 4;
/// `TCP_*` of net/tcp_states.h, as ss(8) writes them.
const STATES: [&str; 13] = [
    "UNKNOWN",
    "ESTAB",
    "SYN-SENT",
    "SYN-RECV",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "TIME-WAIT",
    "CLOSE",
    "CLOSE-WAIT",
    "LAST-ACK",
    "LISTEN",
    "CLOSING",
    "NEW-SYN-RECV",
];

impl SockDiag {
    /// Of the server's socket for this connection; nothing if there is none.
    pub(crate) fn report(
        &mut self,
        server: SocketAddr,
        client: SocketAddr,
    ) -> io::Result<Option<SocketReport>> {
        let mut answer = [0u8; 1024];
        let question = Question {
            attributes: 1 << (INET_DIAG_INFO - 1) | 1 << (INET_DIAG_CONG - 1),
            ..Question::about(SOCK_DIAG_BY_FAMILY, server, client)
        };
        let length = self.ask(&question, &mut answer)?;
        let message = answer.get(..length).unwrap_or_default();
        let (found, tcp_state) = state(message)?;
        if found == SocketState::Gone {
            return Ok(None);
        }
        let info = attribute(message, INET_DIAG_INFO).unwrap_or_default();
        let name = attribute(message, INET_DIAG_CONG).unwrap_or_default();
        let mut report = parse(info);
        report.state = STATES.get(usize::from(tcp_state)).copied().unwrap_or("UNKNOWN").to_owned();
        report.congestion = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
        // struct inet_diag_msg: four bytes, struct inet_diag_sockid (48), idiag_expires, idiag_rqueue, idiag_wqueue.
        report.receive_queue = number_at(message, HEADER_BYTES + 56).unwrap_or_default();
        report.send_queue = number_at(message, HEADER_BYTES + 60).unwrap_or_default();
        Ok(Some(report))
    }
}

/// What an older kernel does not have is 0; in TIME-WAIT there is nothing at all.
fn parse(info: &[u8]) -> SocketReport {
    let n = |at: usize| number_at(info, at).unwrap_or_default();
    let long = |at: usize| {
        let bytes = info.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_ne_bytes)
    };
    SocketReport {
        timeouts: info.get(2).copied().unwrap_or_default(),
        rto_us: n(8),
        mss: n(16),
        unacked: n(24),
        sacked: n(28),
        lost: n(32),
        retrans: n(36),
        path_mtu: n(60),
        rtt_us: n(68),
        rtt_var_us: n(72),
        ssthresh: n(76),
        cwnd: n(80),
        total_retrans: n(100),
        pacing_rate: long(104),
        bytes_acked: long(120),
        bytes_received: long(128),
        min_rtt_us: n(148),
        delivery_rate: long(160),
        busy_us: long(168),
        window_limited_us: long(176),
        buffer_limited_us: long(184),
        bytes_sent: long(200),
        bytes_retrans: long(208),
        send_window: n(228),
        ..SocketReport::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_socket_tells_its_state_queues_and_counts() {
        let mut diag = SockDiag::open().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let (s, c) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
        server.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
        client.write_all(b"abc").unwrap();
        server.peek(&mut [0; 3]).unwrap();
        let report = diag.report(s, c).unwrap().unwrap();
        assert_eq!((report.state.as_str(), report.receive_queue, report.send_queue), ("ESTAB", 3, 0));
        assert_eq!((report.bytes_sent, report.bytes_acked, report.bytes_received), (5, 5, 3));
        assert_eq!((report.lost, report.total_retrans, report.timeouts), (0, 0, 0));
        assert!(report.cwnd > 0 && report.mss > 500 && report.rtt_us > 0 && report.send_window > 0);
        assert!(!report.congestion.is_empty() && report.path_mtu >= 1280, "{report:?}");
        let stranger = "127.0.0.9:9".parse().unwrap();
        assert_eq!(diag.report(s, stranger).unwrap(), None, "the listener is not the connection");
    }
}
