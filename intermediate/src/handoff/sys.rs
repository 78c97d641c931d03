//! System calls on a TCP socket that std, socket2 and libc do not wrap. All are non-blocking.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};

/// `TCP_REPAIR_OFF_NO_WP`, `include/uapi/linux/tcp.h`: leave repair mode without a window probe.
pub(super) const REPAIR_OFF_NO_PROBE: libc::c_int = -1;
/// `TCP_REPAIR_ON`.
pub(super) const REPAIR_ON: libc::c_int = 1;
/// `TCP_RECV_QUEUE` for `TCP_REPAIR_QUEUE`.
pub(super) const RECV_QUEUE: libc::c_int = 1;
/// `TCP_SEND_QUEUE` for `TCP_REPAIR_QUEUE`.
pub(super) const SEND_QUEUE: libc::c_int = 2;
/// `SO_MEMINFO`, `include/uapi/asm-generic/socket.h`; libc has it not for all targets.
const SO_MEMINFO: libc::c_int = 55;
/// `include/uapi/asm-generic/sockios.h`.
const SIOCATMARK: libc::Ioctl = 0x8905;
/// `SK_MEMINFO_VARS`, `include/uapi/linux/sock_diag.h`; the first is `SK_MEMINFO_RMEM_ALLOC`.
const MEMINFO_WORDS: usize = 9;

/// `struct tcp_repair_window`, `include/uapi/linux/tcp.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RepairWindow {
    /// Sequence number of the segment that last updated the window.
    pub(super) snd_wl1: u32,
    /// The peer's window, bytes.
    pub(super) snd_wnd: u32,
    /// The largest the peer has offered.
    pub(super) max_window: u32,
    /// Our window as last promised, bytes from `rcv_wup`.
    pub(super) rcv_wnd: u32,
    /// `rcv_nxt` when it was promised.
    pub(super) rcv_wup: u32,
}

/// The first fields of `struct tcp_info`, `include/uapi/linux/tcp.h`, unchanged since Linux 4.6 but for what was
/// added behind. A shorter kernel structure leaves zeros.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TcpInfo {
    pub(super) state: u8,
    ca_state: u8,
    retransmits: u8,
    probes: u8,
    backoff: u8,
    /// `TCPI_OPT_*`.
    pub(super) options: u8,
    /// Low four bits: the peer's window scale; high four: ours.
    pub(super) scales: u8,
    delivery: u8,
    timeouts_and_sizes: [u32; 4],
    /// Segments sent and not acknowledged.
    pub(super) unacked: u32,
    sacked_to_pmtu: [u32; 9],
    rcv_ssthresh: u32,
    /// Smoothed round-trip time, us.
    pub(super) rtt: u32,
    rttvar_to_total_retrans: [u32; 8],
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    /// Bytes written and not yet sent.
    pub(super) notsent_bytes: u32,
    min_rtt: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    delivery_rate_to_sndbuf_limited: [u64; 4],
    delivered: u32,
    delivered_ce: u32,
    bytes_sent: u64,
    bytes_retrans: u64,
    dsack_dups: u32,
    reord_seen: u32,
    /// Out-of-order packets received since the connection began (Linux 5.4).
    pub(super) rcv_ooopack: u32,
    snd_wnd: u32,
}

// Offsets from the kernel's header.
const _: () = assert!(core::mem::offset_of!(TcpInfo, unacked) == 24);
const _: () = assert!(core::mem::offset_of!(TcpInfo, rtt) == 68);
const _: () = assert!(core::mem::offset_of!(TcpInfo, pacing_rate) == 104);
const _: () = assert!(core::mem::offset_of!(TcpInfo, notsent_bytes) == 144);
const _: () = assert!(core::mem::offset_of!(TcpInfo, rcv_ooopack) == 224);

/// Types that are valid whatever bytes the kernel writes into them.
pub(super) trait Plain: Copy + Default {}
impl Plain for u32 {}
impl Plain for RepairWindow {}
impl Plain for TcpInfo {}
impl Plain for [u32; MEMINFO_WORDS] {}

fn cvt(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}

fn get<T: Plain>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<T> {
    let mut value = T::default();
    let mut length = length_of::<T>();
    // SAFETY: `value` is `length` writable bytes, `Plain` takes any content, the descriptor is open.
    cvt(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) })?;
    Ok(value)
}

/// Reads a TCP option.
pub(super) fn tcp<T: Plain>(fd: BorrowedFd<'_>, name: libc::c_int) -> io::Result<T> {
    get(fd, libc::IPPROTO_TCP, name)
}

/// Stores an integer TCP option.
pub(super) fn set_tcp(fd: BorrowedFd<'_>, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: `value` is a readable c_int, the descriptor is open.
    cvt(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            name,
            (&raw const value).cast(),
            length_of::<libc::c_int>(),
        )
    })
    .map(drop)
}

/// `struct tcp_repair_opt`, `include/uapi/linux/tcp.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RepairOption {
    /// The option's kind on the wire.
    pub(super) code: u32,
    pub(super) value: u32,
}

/// Stores a TCP option of several bytes.
pub(super) fn set_tcp_to<T: Plain>(fd: BorrowedFd<'_>, name: libc::c_int, value: &T) -> io::Result<()> {
    let value: *const T = value;
    // SAFETY: `value` is readable over its own size, the descriptor is open.
    cvt(unsafe { libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, name, value.cast(), length_of::<T>()) })
        .map(drop)
}

/// `TCP_REPAIR_OPTIONS`.
pub(super) fn set_repair_options(fd: BorrowedFd<'_>, options: &[RepairOption]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(options)).map_err(io::Error::other)?;
    // SAFETY: `options` is `length` readable bytes, the descriptor is open.
    cvt(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR_OPTIONS,
            options.as_ptr().cast(),
            length,
        )
    })
    .map(drop)
}

/// `TCP_SAVED_SYN`: the SYN from its IP header on, into `buffer`; how many bytes. The kernel gives it once.
pub(super) fn saved_syn(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(buffer.len()).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: `buffer` is at least `length` writable bytes, the descriptor is open.
    cvt(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_SAVED_SYN,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    Ok(usize::try_from(length).unwrap_or(0).min(buffer.len()))
}

/// `SIOCINQ` (the same number as `FIONREAD`): bytes received and not read, without the FIN; with urgent data those in front
/// of the urgent byte alone, so that it is 0 at the mark whatever follows (`tcp_inq` in `include/net/tcp.h`).
pub(super) fn unread(fd: BorrowedFd<'_>) -> io::Result<usize> {
    Ok(usize::try_from(asked(fd, libc::FIONREAD)?).unwrap_or(0))
}

/// `SIOCATMARK`: whether the next byte to read is the urgent one, arrived or announced.
pub(super) fn at_mark(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(asked(fd, SIOCATMARK)? != 0)
}

/// The number that one of these two requests gives.
fn asked(fd: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<libc::c_int> {
    let mut value = MaybeUninit::<libc::c_int>::uninit();
    // SAFETY: the request writes one c_int at the pointer.
    cvt(unsafe { libc::ioctl(fd.as_raw_fd(), request, value.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so the value was written.
    Ok(unsafe { value.assume_init() })
}

/// Memory charged for received packets not yet consumed, bytes: with an empty receive queue, those out of order.
pub(super) fn receive_memory(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let words: [u32; MEMINFO_WORDS] = get(fd, libc::SOL_SOCKET, SO_MEMINFO)?;
    Ok(words.first().copied().unwrap_or(0))
}

/// Reads what there is, without waiting, behind what `into` holds; `Ok(0)` is the end of the stream. `more` is how
/// many bytes at most.
pub(super) fn receive(
    fd: BorrowedFd<'_>,
    into: &mut Vec<u8>,
    more: usize,
    flags: libc::c_int,
) -> io::Result<usize> {
    into.reserve(more);
    let spare = into.spare_capacity_mut();
    let room = spare.len().min(more);
    // SAFETY: `spare` is at least `room` writable bytes, the descriptor is open.
    let got =
        unsafe { libc::recv(fd.as_raw_fd(), spare.as_mut_ptr().cast(), room, libc::MSG_DONTWAIT | flags) };
    let Ok(got) = usize::try_from(got) else { return Err(io::Error::last_os_error()) };
    // SAFETY: the kernel wrote `got` bytes, at most `room`, behind the vector's length.
    unsafe { into.set_len(into.len() + got.min(room)) };
    Ok(got)
}
