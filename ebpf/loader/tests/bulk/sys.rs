//! Unsafe support of this test.

use std::io;
use std::mem::size_of_val;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};

/// Moves the calling thread into network and mount namespaces of its own; its thread number.
pub(crate) fn own_namespaces() -> io::Result<i32> {
    // SAFETY: flags only.
    if unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_FS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: no arguments.
    Ok(unsafe { libc::gettid() })
}

fn set<T>(socket: i32, option: i32, value: &T) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of_val(value)).unwrap();
    // SAFETY: the value is live and of the size given.
    match unsafe {
        libc::setsockopt(socket, libc::IPPROTO_TCP, option, std::ptr::from_ref(value).cast(), size)
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A `struct sockaddr_in` or `sockaddr_in6`, as bytes.
fn address(from: SocketAddr) -> Vec<u8> {
    let family = if from.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut bytes = libc::sa_family_t::try_from(family).unwrap().to_ne_bytes().to_vec();
    bytes.extend(from.port().to_be_bytes());
    match from.ip() {
        IpAddr::V4(ip) => bytes.extend([&ip.octets()[..], &[0; 8]].concat()),
        // Flow information in front, scope behind.
        IpAddr::V6(ip) => bytes.extend([&[0; 4], &ip.octets()[..], &[0; 4]].concat()),
    }
    bytes
}

/// One end of an established connection, out of nothing: TCP_REPAIR.
pub(crate) struct End {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) snd_nxt: u32,
    pub(crate) rcv_nxt: u32,
    /// The peer's window scale, and ours.
    pub(crate) scales: (u32, u32),
    /// Where our timestamps begin.
    pub(crate) timestamp: u32,
}

pub(crate) fn establish(end: &End) -> io::Result<TcpStream> {
    let family = if end.local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no memory is passed.
    let socket = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours.
    let stream = unsafe { TcpStream::from_raw_fd(socket) };
    set(socket, libc::TCP_REPAIR, &1i32)?;
    for (queue, number) in [(2i32, end.snd_nxt), (1, end.rcv_nxt)] {
        set(socket, libc::TCP_REPAIR_QUEUE, &queue)?;
        set(socket, libc::TCP_QUEUE_SEQ, &number)?;
    }
    let (local, remote) = (address(end.local), address(end.remote));
    let size = libc::socklen_t::try_from(local.len()).unwrap();
    // SAFETY: the address is live and as long as said.
    let bound = unsafe { libc::bind(socket, local.as_ptr().cast(), size) };
    // SAFETY: as above.
    if bound != 0 || unsafe { libc::connect(socket, remote.as_ptr().cast(), size) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // struct tcp_repair_opt: MSS, window scales, SACK permitted, timestamps.
    let mss = if end.local.is_ipv4() { 1460 } else { 1440 };
    let options = [[2u32, mss], [3, end.scales.0 | end.scales.1 << 16], [4, 0], [8, 0]];
    set(socket, libc::TCP_REPAIR_OPTIONS, &options)?;
    set(socket, libc::TCP_TIMESTAMP, &end.timestamp)?;
    Ok(stream)
}

/// The connection goes live; a window probe tells the peer.
pub(crate) fn release(stream: &TcpStream) -> io::Result<()> {
    set(stream.as_raw_fd(), libc::TCP_REPAIR, &0i32)
}

/// Segments sent again.
pub(crate) fn retransmissions(stream: &TcpStream) -> u32 {
    // SAFETY: plain data.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = libc::socklen_t::try_from(size_of_val(&info)).unwrap();
    // SAFETY: `info` has room for `size` bytes.
    unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            std::ptr::from_mut(&mut info).cast(),
            &mut size,
        )
    };
    info.tcpi_total_retrans
}

/// A device's number in the calling thread's namespace.
pub(crate) fn device_index(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: NUL-terminated.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Switches checksum offload, scatter-gather, TSO, GSO and GRO of a device off (include/uapi/linux/ethtool.h).
pub(crate) fn offloads_off(device: &str) -> io::Result<()> {
    const STSO: u32 = 0x1f;
    const SGSO: u32 = 0x24;
    const SGRO: u32 = 0x2c;
    const STXCSUM: u32 = 0x17;
    let probe = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    for command in [STSO, SGSO, SGRO, STXCSUM] {
        let mut value = [command, 0];
        // SAFETY: plain data.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
        // SAFETY: the request points to a live struct ethtool_value.
        if unsafe { libc::ioctl(probe.as_raw_fd(), 0x8946, &mut request) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A TUN device of the calling thread's namespace: raw IP packets, no header in front, reads do not block.
pub(crate) fn open_tun(name: &str) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    // SAFETY: plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap();
    // SAFETY: the request is a live ifreq.
    match unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &mut request) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}
