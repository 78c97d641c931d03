//! An accepted socket on its way out of this kernel: [`Live`] → [`Quiet`] → [`Captured`], then released without a
//! packet, or resumed as if nothing had been.
//!
//! The order is the compiler's business: only a captured socket can be released, and whatever is not released is
//! resumed. The client's packets must have been frozen before ([`Flows::begin`](crate::flows::Flows::begin)), or
//! the numbers read here are of a moment that is over.

use super::sys::{self, RepairWindow, TcpInfo};
use crate::socket::Socket;
use baton_shared::capture::{CapturedConnection, NegotiatedOptions, WindowScales};
use baton_shared::reason::ProxyReason;
use baton_shared::seq::{Client, Seq};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// `TCPI_OPT_*`, `include/uapi/linux/tcp.h`.
const OPT_TIMESTAMPS: u8 = 1;
const OPT_SACK: u8 = 2;
const OPT_WSCALE: u8 = 4;
const OPT_ECN: u8 = 8;

/// `TCP_ESTABLISHED`, `TCP_SYN_RECV` and `TCP_CLOSE_WAIT`, `include/net/tcp_states.h`.
const ESTABLISHED: u8 = 1;
const SYN_RECV: u8 = 3;
const CLOSE_WAIT: u8 = 8;

/// How often a socket is read again because packets were still on their way to it.
const ATTEMPTS: usize = 8;
/// How many bytes a read at the urgent mark asks for: nothing says how many follow.
const BEHIND_MARK: usize = 4096;
/// The longest time, ms, a socket keeps an acknowledgement back (`TCP_DELACK_MAX`, `include/net/tcp.h`). One that
/// is pending at the capture may still leave, with a timestamp of its own time.
const DELAYED_ACK_MS: u32 = 200;

/// Why a connection was not captured. The socket works on.
#[derive(Debug)]
pub struct CaptureError {
    /// For the client's request.
    pub reason: ProxyReason,
    /// What was found, for the log.
    pub detail: String,
}

impl CaptureError {
    fn new(reason: ProxyReason, detail: impl Into<String>) -> Self {
        CaptureError { reason, detail: detail.into() }
    }

    fn step(op: &'static str) -> impl Fn(io::Error) -> CaptureError {
        move |e| CaptureError::new(ProxyReason::CaptureFailed, format!("{op}: {e}"))
    }
}

/// Makes a listener's connections fit to be captured: the kernel keeps their SYN (`TCP_SAVE_SYN`), which holds the
/// client's timestamp. Call it before or after `listen`, before the first accept.
pub fn prepare_listener(listener: &socket2::Socket) -> io::Result<()> {
    sys::set_tcp(listener.as_fd(), libc::TCP_SAVE_SYN, 1)
}

/// Whether the kernel keeps a listener's connections to itself until their clients have said something, or have answered a
/// second SYN-ACK (`TCP_DEFER_ACCEPT`, tcp(7); a second is the shortest time, of one repetition).
pub fn defer_accept(listener: &socket2::Socket, deferred: bool) -> io::Result<()> {
    sys::set_tcp(listener.as_fd(), libc::TCP_DEFER_ACCEPT, libc::c_int::from(deferred))
}

/// A socket in ordinary use.
#[derive(Debug)]
pub struct Live {
    stream: Socket,
    /// See [`syn_tsval`].
    syn_tsval: Option<u32>,
}

/// The client's TSval in its SYN; `None` without a SYN or without timestamps in it. The kernel gives the SYN once: who
/// may try more than one target keeps this.
pub fn syn_tsval(stream: &impl AsFd) -> Option<u32> {
    let mut syn = [0u8; 256];
    let length = sys::saved_syn(stream.as_fd(), &mut syn).unwrap_or(0);
    syn.get(..length).and_then(baton_shared::packet::syn::timestamp_value)
}

/// A socket in repair mode: the kernel sends nothing when it is closed.
#[derive(Debug)]
struct Quiet {
    /// `None` once it went on.
    stream: Option<Socket>,
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // Dropped on an error path or with a cancelled task: the socket must not vanish without a word.
        if let Some(stream) = &self.stream {
            let _ = leave_repair(stream.as_fd());
        }
    }
}

/// A socket in repair mode whose state was read and has not moved while it was read.
#[derive(Debug)]
pub struct Captured {
    quiet: Quiet,
    /// What the agent needs.
    pub connection: CapturedConnection,
}

/// The addresses that belong to the connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The client's.
    pub client: SocketAddr,
    /// The VIP.
    pub vip: SocketAddr,
}

impl Live {
    /// Takes an accepted socket, and what [`syn_tsval`] said of it.
    pub fn new(stream: impl Into<Socket>, syn_tsval: Option<u32>) -> Self {
        Live { stream: stream.into(), syn_tsval }
    }

    /// The socket again.
    pub fn into_stream(self) -> Socket {
        self.stream
    }

    /// Moves what has arrived into `bytes`, which may hold `limit`.
    /// The client's FIN is left for the capture to find.
    pub fn drain(&self, bytes: &mut Vec<u8>, limit: usize) -> Result<(), CaptureError> {
        let fd = self.stream.as_fd();
        loop {
            // Mostly nothing: that is asked for less than a read that finds it.
            let mut waiting = sys::unread(fd).map_err(CaptureError::step("SIOCINQ"))?;
            if waiting == 0 {
                if !at_mark(fd)? {
                    return Ok(());
                }
                // A read at the urgent byte leaves it out and gives what follows.
                waiting = BEHIND_MARK;
            }
            let room = limit.saturating_sub(bytes.len()).min(waiting);
            if room == 0 {
                let detail = format!("more than {limit} bytes");
                return Err(CaptureError::new(ProxyReason::PrefetchTooLarge, detail));
            }
            match sys::receive(fd, bytes, room, 0) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(CaptureError::new(ProxyReason::ConnectionState, format!("recv: {e}"))),
            }
        }
    }

    /// Puts the socket into repair mode and reads its state. Bytes that arrive meanwhile go behind `bytes`.
    pub fn capture(
        self,
        ends: Ends,
        bytes: &mut Vec<u8>,
        limit: usize,
    ) -> Result<Captured, (Live, CaptureError)> {
        for _ in 0..ATTEMPTS {
            match self.try_capture(ends) {
                Ok(Some(connection)) => {
                    let quiet = Quiet { stream: Some(self.stream) };
                    return Ok(Captured { quiet, connection });
                }
                Ok(None) => {
                    if let Err(e) = self.resume().and_then(|()| self.drain(bytes, limit)) {
                        return Err((self, e));
                    }
                }
                Err(e) => {
                    let _ = self.resume();
                    return Err((self, e));
                }
            }
        }
        let error =
            CaptureError::new(ProxyReason::CaptureFailed, "packets went on arriving during the freeze");
        Err((self, error))
    }

    fn resume(&self) -> Result<(), CaptureError> {
        leave_repair(self.stream.as_fd()).map_err(CaptureError::step("TCP_REPAIR off"))
    }

    /// `None`: something arrived while the state was read.
    fn try_capture(&self, ends: Ends) -> Result<Option<CapturedConnection>, CaptureError> {
        let fd = self.stream.as_fd();
        sys::set_tcp(fd, libc::TCP_REPAIR, sys::REPAIR_ON).map_err(not_repaired)?;
        let snd_nxt = queue_seq(fd, sys::SEND_QUEUE)?;
        // The receive queue is left selected: what arrives from here on can be peeked.
        let mut rcv_nxt = queue_seq(fd, sys::RECV_QUEUE)?;
        let info: TcpInfo = sys::tcp(fd, libc::TCP_INFO).map_err(CaptureError::step("TCP_INFO"))?;
        check(fd, &info)?;
        if info.state == CLOSE_WAIT {
            // The kernel delays its acknowledgement of the FIN. Said now, it cannot come after what the server says,
            // behind the server's timestamps.
            sys::set_tcp(fd, libc::TCP_QUICKACK, 1).map_err(CaptureError::step("TCP_QUICKACK"))?;
        }
        let window: RepairWindow =
            sys::tcp(fd, libc::TCP_REPAIR_WINDOW).map_err(CaptureError::step("TCP_REPAIR_WINDOW"))?;
        let mss: u32 = sys::tcp(fd, libc::TCP_MAXSEG).map_err(CaptureError::step("TCP_MAXSEG"))?;
        let timestamps = info.options & OPT_TIMESTAMPS != 0;
        let (client_tsval, vip_tsval) = if timestamps { self.timestamps()? } else { (0, 0) };
        // Last: all that had arrived before was read from the socket, so that nothing has arrived since.
        if sys::unread(fd).map_err(CaptureError::step("SIOCINQ"))? != 0 {
            return Ok(None);
        }
        if at_mark(fd)? && (follows_mark(fd)? || next_number(fd)? != rcv_nxt) {
            return Ok(None);
        }
        // But perhaps the FIN, which is not counted there. Nothing follows it.
        if info.state == CLOSE_WAIT {
            rcv_nxt = next_number(fd)?;
        }
        let promised_end = window.rcv_wup.wrapping_add(window.rcv_wnd);
        let ahead = Seq::<Client>::new(promised_end);
        let rcv_nxt = Seq::new(rcv_nxt);
        Ok(Some(CapturedConnection {
            client: ends.client,
            vip: ends.vip,
            rcv_nxt,
            snd_nxt: Seq::new(snd_nxt),
            snd_wnd: window.snd_wnd,
            max_window: window.max_window,
            rcv_wnd: if ahead.before(rcv_nxt) { 0 } else { ahead.since(rcv_nxt) },
            options: NegotiatedOptions {
                client_mss: u16::try_from(mss).unwrap_or(u16::MAX),
                sack: info.options & OPT_SACK != 0,
                timestamps,
                window_scale: (info.options & OPT_WSCALE != 0)
                    .then_some(WindowScales { client: info.scales & 15, promised: info.scales >> 4 }),
                ecn: info.options & OPT_ECN != 0,
            },
            client_tsval,
            vip_tsval,
            rtt_us: info.rtt,
            client_fin: info.state == CLOSE_WAIT,
        }))
    }

    /// The client's timestamp and ours, in this order.
    fn timestamps(&self) -> Result<(u32, u32), CaptureError> {
        // A SYN-cookie connection has no saved SYN: its client's clock is not known.
        let client = self.syn_tsval.unwrap_or(0);
        let now: u32 = sys::tcp(self.stream.as_fd(), libc::TCP_TIMESTAMP)
            .map_err(CaptureError::step("TCP_TIMESTAMP"))?;
        Ok((client, latest_timestamp(now)))
    }
}

/// A timestamp value that no packet of the captured socket exceeds until it is released, from what
/// `TCP_TIMESTAMP` gave. Its lowest bit says the unit: set for microseconds (Linux 6.7), else milliseconds.
///
/// Being ahead costs nothing, the client only echoes it; being behind makes the client drop the server's packets
/// (RFC 7323, section 5.3).
fn latest_timestamp(raw: u32) -> u32 {
    let ahead = if raw & 1 == 1 { DELAYED_ACK_MS * 1000 } else { DELAYED_ACK_MS };
    (raw & !1).wrapping_add(2).wrapping_add(ahead)
}

/// Of a socket of multipath TCP (RFC 8684) the kernel repairs nothing (`mptcp_setsockopt` in `net/mptcp/sockopt.c`).
/// Our listeners speak plain TCP ([`prepare_listener`] fails for others), so clients fall back to it. Connections signed by MD5 or AO (RFC 2385, 5925) are never accepted: no key is set.
fn not_repaired(error: io::Error) -> CaptureError {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOPROTOOPT) => {
            CaptureError::new(ProxyReason::OptionNotCarried, format!("multipath TCP: {error}"))
        }
        _ => CaptureError::step("TCP_REPAIR on")(error),
    }
}

/// Repair mode off, without a window probe. The kernel forgets `SO_REUSEADDR` with it
/// (`do_tcp_setsockopt` in `net/ipv4/tcp.c` stores `SK_NO_REUSE`), and then the connection in TIME_WAIT would keep a restarted
/// daemon from binding the VIP.
pub(super) fn leave_repair(fd: BorrowedFd<'_>) -> io::Result<()> {
    sys::set_tcp(fd, libc::TCP_REPAIR, sys::REPAIR_OFF_NO_PROBE)?;
    socket2::SockRef::from(&fd).set_reuse_address(true)
}

/// Whether a connection in this state can be carried.
fn check(fd: BorrowedFd<'_>, info: &TcpInfo) -> Result<(), CaptureError> {
    // Accepted before its handshake has ended: that is Fast Open's alone (RFC 7413, section 4.2.2).
    if info.state == SYN_RECV {
        let detail = "the SYN-ACK is not acknowledged".to_owned();
        return Err(CaptureError::new(ProxyReason::FastOpen, detail));
    }
    if info.state != ESTABLISHED && info.state != CLOSE_WAIT {
        return Err(CaptureError::new(ProxyReason::ConnectionState, format!("TCP state {}", info.state)));
    }
    if info.unacked != 0 || info.notsent_bytes != 0 {
        let detail = format!("{} segments unacknowledged, {} bytes unsent", info.unacked, info.notsent_bytes);
        return Err(CaptureError::new(ProxyReason::Unacknowledged, detail));
    }
    // Packets out of order would be lost with the socket although the client may hold them for received. The
    // counter never goes down: look whether any are there now.
    if info.rcv_ooopack != 0 {
        let held = sys::receive_memory(fd).map_err(CaptureError::step("SO_MEMINFO"))?;
        if held != 0 {
            return Err(CaptureError::new(
                ProxyReason::ConnectionState,
                format!("{held} bytes out of order"),
            ));
        }
    }
    Ok(())
}

fn queue_seq(fd: BorrowedFd<'_>, queue: libc::c_int) -> Result<u32, CaptureError> {
    sys::set_tcp(fd, libc::TCP_REPAIR_QUEUE, queue).map_err(CaptureError::step("TCP_REPAIR_QUEUE"))?;
    next_number(fd)
}

fn at_mark(fd: BorrowedFd<'_>) -> Result<bool, CaptureError> {
    sys::at_mark(fd).map_err(CaptureError::step("SIOCATMARK"))
}

/// In repair mode with the receive queue selected: whether there is something to read behind the urgent byte.
fn follows_mark(fd: BorrowedFd<'_>) -> Result<bool, CaptureError> {
    match sys::receive(fd, &mut Vec::new(), 1, libc::MSG_PEEK) {
        Ok(got) => Ok(got != 0),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(CaptureError::step("MSG_PEEK")(e)),
    }
}

/// `snd_nxt` or `rcv_nxt`, by the queue that is selected.
fn next_number(fd: BorrowedFd<'_>) -> Result<u32, CaptureError> {
    sys::tcp(fd, libc::TCP_QUEUE_SEQ).map_err(CaptureError::step("TCP_QUEUE_SEQ"))
}

/// What a captured socket received after all, before it was released.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Late {
    /// Bytes from the captured `rcv_nxt` on.
    pub bytes: Vec<u8>,
    /// The client's FIN came behind them.
    pub fin: bool,
}

impl Captured {
    /// What the socket has received since it was captured: a packet that was past the freeze and delayed on its
    /// way, or any once the freeze's deadline is over. Its bytes are acknowledged to the client, so they must
    /// reach the server. `None`, nearly always, if nothing has.
    pub fn late(&self) -> Option<Late> {
        let fd = self.quiet.stream.as_ref()?.as_fd();
        // The capture left the receive queue selected.
        let now: u32 = sys::tcp(fd, libc::TCP_QUEUE_SEQ).ok()?;
        let moved = now.wrapping_sub(self.connection.rcv_nxt.raw());
        if moved == 0 {
            return None;
        }
        let moved = usize::try_from(moved).ok()?;
        let mut late = Late::default();
        // In repair mode the receive queue can be peeked, not read.
        sys::receive(fd, &mut late.bytes, moved, libc::MSG_PEEK).ok()?;
        late.fin = late.bytes.len() < moved;
        Some(late)
    }

    /// Closes the socket without a packet: the connection lives on elsewhere.
    pub fn release(mut self) {
        drop(self.quiet.stream.take());
    }

    /// Back to ordinary use, without a window probe. `None` if the kernel refuses, which it never does for a
    /// process that could capture; the socket is closed then.
    pub fn resume(mut self) -> Option<Socket> {
        let stream = self.quiet.stream.take()?;
        match leave_repair(stream.as_fd()) {
            Ok(()) => Some(stream),
            Err(e) => {
                tracing::error!(error = %e, "TCP_REPAIR could not be turned off");
                None
            }
        }
    }
}

#[cfg(test)]
mod loopback_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_timestamp_is_ahead_of_whatever_the_socket_may_still_send() {
        assert_eq!(latest_timestamp(1000), 1202);
        assert_eq!(latest_timestamp(1001), 1000 + 2 + 200_000);
        assert_eq!(latest_timestamp(u32::MAX - 1), 200);
    }
}
