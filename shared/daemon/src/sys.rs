//! The system calls that the standard library has no safe form of.

use crate::tun::Offload;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use tokio::io::unix::AsyncFd;
use tun_tap::Iface;

/// A descriptor that this process was started with, and that nobody else in it has.
///
/// # Errors
/// When it is not open, or has close-on-exec: then it came over no exec, or was taken before.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: asks for flags, touches no memory.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    check(flags)?;
    if flags & libc::FD_CLOEXEC != 0 {
        let text = format!("descriptor {fd} was opened by this process: nobody handed it over");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    // SAFETY: sets a flag, touches no memory.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, flags | libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and nobody else's in this process: what is opened here is closed on exec, from the start on, and so
    // is this from now on; what came over an exec has no owner before it is taken here, and is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The addresses of all devices in this network namespace.
pub(crate) fn device_addresses() -> io::Result<Vec<IpAddr>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: getifaddrs stores a list's start there; it is given back below.
    check(unsafe { libc::getifaddrs(&raw mut list) })?;
    let mut addresses = Vec::new();
    let mut at = list;
    while !at.is_null() {
        // SAFETY: not null, and an entry of the list that lives until freeifaddrs.
        let entry = unsafe { &*at };
        at = entry.ifa_next;
        if entry.ifa_addr.is_null() {
            continue;
        }
        // SAFETY: every socket address begins with its family.
        let family = libc::c_int::from(unsafe { (*entry.ifa_addr).sa_family });
        if family == libc::AF_INET {
            // SAFETY: the family says that it is a sockaddr_in; read whatever its alignment.
            let address = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned() };
            addresses.push(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into());
        } else if family == libc::AF_INET6 {
            // SAFETY: the family says that it is a sockaddr_in6; read whatever its alignment.
            let address = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            addresses.push(Ipv6Addr::from(address.sin6_addr.s6_addr).into());
        }
    }
    // SAFETY: the list that getifaddrs gave, once.
    unsafe { libc::freeifaddrs(list) };
    Ok(addresses)
}

/// An open TUN device.
#[derive(Debug)]
pub(crate) enum Device {
    /// Packets as they are on the wire.
    Plain(Iface),
    /// Each packet with an [`Offload`] in front.
    Offloading(File),
}

impl Device {
    /// Creates a device whose packets have an [`Offload`] in front, and its name; `%d` in `name` becomes a number. (tun-tap
    /// has no flag for that.)
    pub(crate) fn offloading(name: &str) -> io::Result<(Self, String)> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        let mut request = request(name)?;
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags =
            libc::c_short::try_from(flags).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives during the call.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, std::ptr::from_mut(&mut request)) })?;
        let size = libc::c_int::try_from(size_of::<Offload>()).unwrap_or(0);
        // SAFETY: TUNSETVNETHDRSZ reads one int, which lives during the call.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, std::ptr::from_ref(&size)) })?;
        let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        // SAFETY: TUNSETOFFLOAD takes a number, no pointer.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })?;
        let given =
            request.ifr_name.iter().map(|c| u8::from_ne_bytes(c.to_ne_bytes())).take_while(|b| *b != 0);
        let name = String::from_utf8_lossy(&given.collect::<Vec<u8>>()).into_owned();
        Ok((Device::Offloading(file), name))
    }

    /// Reads one packet: its length, and what is offloaded of it.
    pub(crate) fn recv(&self, buffer: &mut [u8]) -> io::Result<(usize, Offload)> {
        match self {
            Device::Plain(iface) => iface.recv(buffer).map(|length| (length, Offload::default())),
            Device::Offloading(file) => {
                let mut offload = Offload::default();
                let mut parts = [IoSliceMut::new(&mut offload.0), IoSliceMut::new(buffer)];
                let length = (&mut &*file).read_vectored(&mut parts)?;
                Ok((length.saturating_sub(size_of::<Offload>()), offload))
            }
        }
    }

    /// Writes one packet.
    pub(crate) fn send(&self, packet: &[u8], offload: Offload) -> io::Result<usize> {
        match self {
            Device::Plain(iface) => iface.send(packet),
            Device::Offloading(file) => {
                let length =
                    (&mut &*file).write_vectored(&[IoSlice::new(&offload.0), IoSlice::new(packet)])?;
                Ok(length.saturating_sub(size_of::<Offload>()))
            }
        }
    }
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Device::Plain(iface) => iface.as_raw_fd(),
            Device::Offloading(file) => file.as_raw_fd(),
        }
    }
}

/// A TUN device registered with tokio's reactor.
#[derive(Debug)]
pub(crate) struct AsyncTun(AsyncFd<Device>);

impl AsyncTun {
    pub(crate) fn register(device: Device) -> io::Result<Self> {
        // SAFETY: `register` asks that the descriptor stay open and the same while it is registered. `Device` owns its
        // file, gives it away only by value, and is not taken out of the `AsyncFd` here.
        let fd = unsafe { AsyncFd::register(device) }.map_err(|e| e.into_parts().1)?;
        Ok(AsyncTun(fd))
    }

    pub(crate) fn device(&self) -> &Device {
        self.0.get_ref()
    }

    pub(crate) async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(done) = ready.try_io(|fd| fd.get_ref().recv(buffer)) {
                return done.map(|(length, _)| length);
            }
        }
    }

    pub(crate) async fn recv_burst(
        &self,
        buffer: &mut [u8],
        most: usize,
        mut take: impl FnMut(&mut [u8], Offload),
    ) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        for _ in 0..most {
            // Finding nothing clears the readiness: the next call waits without a system call.
            let Ok(received) = ready.try_io(|fd| fd.get_ref().recv(buffer)) else { return Ok(()) };
            let (length, offload) = received?;
            take(buffer.get_mut(..length).unwrap_or_default(), offload);
        }
        Ok(())
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is plain C data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "interface name too long or empty");
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(too_long());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    Ok(request)
}

// musl's ioctl takes the code as an int, which all codes fit into.
fn interface_ioctl(code: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    let socket = control_socket()?;
    // SAFETY: all codes used here read or write one `ifreq`, which lives during the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), code as libc::Ioctl, std::ptr::from_mut(request)) })
}

pub(crate) fn set_interface_mtu(name: &str, mtu: u32) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_mtu =
        libc::c_int::try_from(mtu).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    interface_ioctl(libc::SIOCSIFMTU, &mut request)
}

pub(crate) fn set_interface_up(name: &str) -> io::Result<()> {
    let mut request = request(name)?;
    interface_ioctl(libc::SIOCGIFFLAGS, &mut request)?;
    #[expect(clippy::cast_possible_truncation, reason = "IFF_UP is 1")]
    let up = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCGIFFLAGS has just filled this member.
    request.ifr_ifru.ifru_flags = unsafe { request.ifr_ifru.ifru_flags } | up;
    interface_ioctl(libc::SIOCSIFFLAGS, &mut request)
}

pub(crate) fn interface_mtu(name: &str) -> io::Result<u32> {
    let mut request = request(name)?;
    interface_ioctl(libc::SIOCGIFMTU, &mut request)?;
    // SAFETY: SIOCGIFMTU has just filled this member.
    u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).map_err(io::Error::other)
}

pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    let mut request = request(name)?;
    interface_ioctl(libc::SIOCGIFINDEX, &mut request)?;
    // SAFETY: SIOCGIFINDEX has just filled this member.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    u32::try_from(index).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// No program this process starts gains privileges by its file (prctl(2), PR_SET_NO_NEW_PRIVS).
pub(crate) fn set_no_new_privileges() -> io::Result<()> {
    // SAFETY: no pointers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Switches repair mode of a TCP socket (tcp(7); linux/tcp.h: 1 on, 0 off, -1 off without a window probe).
pub(crate) fn set_tcp_repair(socket: &impl AsRawFd, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(mem::size_of_val(&value)).unwrap_or(4);
    // SAFETY: the pointer is to an int that lives during the call, and the length is its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            std::ptr::from_ref(&value).cast(),
            length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A flag of an interface's offloads by one of ethtool's oldest calls (linux/ethtool.h: `ETHTOOL_GGRO` and so on).
pub(crate) fn ethtool_flag(name: &str, command: u32) -> io::Result<bool> {
    /// `struct ethtool_value`.
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let mut value = Value { command, data: 0 };
    let mut request = request(name)?;
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
    interface_ioctl(libc::SIOCETHTOOL, &mut request)?;
    Ok(value.data != 0)
}

/// The user this process acts as.
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: takes nothing and never fails.
    unsafe { libc::geteuid() }
}

/// The supplementary groups of the process that connected a Unix socket, as they were then (`SO_PEERGROUPS`, since
/// Linux 4.13).
pub(crate) fn peer_groups(socket: &impl AsRawFd) -> io::Result<Vec<libc::gid_t>> {
    const GROUP_BYTES: usize = mem::size_of::<libc::gid_t>();
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    loop {
        let mut length = libc::socklen_t::try_from(groups.len() * GROUP_BYTES).unwrap_or(0);
        // SAFETY: the first pointer is to as many bytes as the length says, the second to that length.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = usize::try_from(length).unwrap_or(0) / GROUP_BYTES;
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // The kernel says how much room it needs.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// Makes the calling thread, and no other, another user's (the raw calls; libc's act on all threads).
#[cfg(test)]
pub(crate) fn become_somebody(uid: u32, gid: u32, groups: &[libc::gid_t]) -> io::Result<()> {
    let done = |result: libc::c_long| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: the pointer is to as many groups as the length says.
    done(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    // SAFETY: no pointers.
    done(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: no pointers.
    done(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}

/// A socket that gets a copy of each IP packet that passes a device, in either direction (packet(7)).
pub(crate) fn tap(device: u32) -> io::Result<OwnedFd> {
    // packet(7): all protocols, in network order.
    let protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    check(fd)?;
    // SAFETY: a descriptor that was just opened and that nobody else has.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a struct of plain numbers may be all zero.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
    address.sll_protocol = protocol;
    address.sll_ifindex = device.cast_signed();
    let length = libc::socklen_t::try_from(mem::size_of::<libc::sockaddr_ll>()).unwrap_or_default();
    // SAFETY: the pointer is to a sockaddr_ll that lives during the call, and the length is its size. Until here the
    // socket takes no packets at all.
    check(unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) })?;
    Ok(fd)
}

/// A descriptor registered with the reactor of the tokio runtime in which this is called, to wait for it.
///
/// # Errors
/// If the kernel cannot poll it.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: `register` asks that the descriptor stay open and the same while it is registered: it is owned by what is
    // registered, which never gives it away.
    unsafe { AsyncFd::register(fd) }.map_err(|e| e.into_parts().1)
}

/// A packet of a [`tap`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tapped {
    /// Its length on the device; the buffer has what fits.
    pub(crate) length: usize,
    /// It left by the device.
    pub(crate) leaving: bool,
    /// When, nanoseconds since 1970, by the kernel's clock.
    pub(crate) at_ns: u64,
}

/// The next packet of a [`tap`].
pub(crate) fn tapped(tap: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<Tapped> {
    /// linux/if_packet.h.
    const PACKET_OUTGOING: u8 = 4;
    /// asm-generic/sockios.h: when the packet read last had come.
    const SIOCGSTAMPNS: libc::Ioctl = 0x8907;
    // SAFETY: a struct of plain numbers may be all zero.
    let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
    let mut length = libc::socklen_t::try_from(mem::size_of::<libc::sockaddr_ll>()).unwrap_or_default();
    // SAFETY: the pointers are to the buffer, whose length is told, and to a sockaddr_ll and its length.
    let received = unsafe {
        libc::recvfrom(
            tap.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_TRUNC,
            std::ptr::from_mut(&mut from).cast(),
            &raw mut length,
        )
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that lives during the call.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), SIOCGSTAMPNS, &raw mut at) })?;
    let (seconds, nanos) = (u64::try_from(at.tv_sec).unwrap_or(0), u64::try_from(at.tv_nsec).unwrap_or(0));
    let at_ns = seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    Ok(Tapped { length: received, leaving: from.sll_pkttype == PACKET_OUTGOING, at_ns })
}

/// Packets that a [`tap`] had no room for since this was last asked (`PACKET_STATISTICS`).
pub(crate) fn tap_drops(tap: &impl AsRawFd) -> io::Result<u32> {
    /// linux/if_packet.h.
    const PACKET_STATISTICS: libc::c_int = 6;
    // struct tpacket_stats: packets, drops.
    let mut counts = [0u32; 2];
    let mut length = libc::socklen_t::try_from(mem::size_of_val(&counts)).unwrap_or_default();
    // SAFETY: the pointers are to two numbers and to their size.
    check(unsafe {
        libc::getsockopt(
            tap.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_STATISTICS,
            counts.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    Ok(counts[1])
}
