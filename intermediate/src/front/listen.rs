//! Listening sockets.

use crate::handoff::{defer_accept, prepare_listener};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Connections the kernel keeps until they are accepted; it cuts this at `net.core.somaxconn`.
pub(super) const BACKLOG: i32 = 4096;

/// Binds and listens. Accepted connections inherit TCP_NODELAY. A socket on an IPv6 address takes IPv6 alone
/// (`IPV6_V6ONLY`): for both families a VIP of each is listed, and no client shows up as `::ffff:a.b.c.d`.
///
/// Needs CAP_NET_BIND_SERVICE for ports below 1024, so it comes before capabilities are dropped.
pub fn listen(vip: SocketAddr) -> io::Result<TcpListener> {
    open(vip, false, ListenOptions::default())
}

/// What listening sockets are told beside their address.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListenOptions {
    /// The payload bytes that clients are told their segments may have at most, if that is given.
    pub segment_bytes: Option<u32>,
    /// The kernel gives a connection out once its client has said something (`TCP_DEFER_ACCEPT`).
    pub deferred: bool,
}

impl ListenOptions {
    /// Before or after `listen`.
    fn apply(self, socket: &Socket) -> io::Result<()> {
        if let Some(bytes) = self.segment_bytes {
            socket.set_tcp_mss(bytes)?;
        }
        defer_accept(socket, self.deferred)?;
        prepare_listener(socket)
    }
}

/// As [`listen`], with so many sockets among which the kernel spreads connections.
///
/// `inherited` are sockets that listen on `vip` already, from a service manager: they are used, and connections may wait in
/// each. If they are fewer than asked for, others join them where they share their port (`SO_REUSEPORT`), else workers share
/// them; if they are more, there are more.
pub fn listen_shared(
    vip: SocketAddr,
    sockets: usize,
    options: ListenOptions,
    inherited: Vec<TcpListener>,
) -> io::Result<Vec<TcpListener>> {
    if !inherited.is_empty() {
        return take_over(vip, inherited, sockets, options);
    }
    // A socket that shares its port is given one that another process shares as well: tell that before.
    let alone = open(vip, false, options)?;
    if sockets <= 1 {
        return Ok(vec![alone]);
    }
    drop(alone);
    (0..sockets).map(|_| open(vip, true, options)).collect()
}

/// Makes sockets that listen already what [`open`] makes.
fn take_over(
    vip: SocketAddr,
    inherited: Vec<TcpListener>,
    sockets: usize,
    options: ListenOptions,
) -> io::Result<Vec<TcpListener>> {
    let mut all = Vec::new();
    let mut join = true;
    for listener in &inherited {
        let socket = SockRef::from(listener);
        join &= socket.reuse_port()?;
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        options.apply(&socket)?;
        // It may have been drained: with a filter, and hung up. That there is no filter is no error.
        let _ = socket.detach_filter();
        socket.listen(BACKLOG)?;
    }
    for n in inherited.len()..sockets {
        // Another user's group cannot be joined.
        let own = join.then(|| open(vip, true, options).ok()).flatten();
        match (own, inherited.get(n % inherited.len())) {
            (Some(own), _) => all.push(own),
            (None, Some(shared)) => all.push(shared.try_clone()?),
            (None, None) => {}
        }
    }
    all.splice(0..0, inherited);
    Ok(all)
}

fn open(vip: SocketAddr, shared: bool, options: ListenOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(vip), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    if vip.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    options.apply(&socket)?;
    socket.bind(&vip.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::{Duration, Instant};

    #[test]
    fn a_shared_port_is_refused_to_who_comes_second() {
        let first =
            listen_shared("127.0.0.1:0".parse().unwrap(), 1, ListenOptions::default(), Vec::new()).unwrap();
        let addr = first[0].local_addr().unwrap();
        assert_eq!(
            listen_shared(addr, 2, ListenOptions::default(), Vec::new()).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        drop(first);
        let shared = listen_shared(addr, 2, ListenOptions::default(), Vec::new()).unwrap();
        assert_eq!(shared.len(), 2);
        assert_eq!(
            listen_shared(addr, 2, ListenOptions::default(), Vec::new()).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
    }

    #[test]
    fn workers_join_sockets_taken_over_that_share_their_port_with_their_own() {
        let first =
            listen_shared("127.0.0.1:0".parse().unwrap(), 1, ListenOptions::default(), Vec::new()).unwrap();
        let addr = first[0].local_addr().unwrap();
        drop(first);
        let shared = listen_shared(addr, 2, ListenOptions::default(), Vec::new()).unwrap();
        // Connections for both, by all odds.
        let waiting: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect(addr).unwrap()).collect();
        let taken = listen_shared(addr, 3, ListenOptions::default(), shared).unwrap();
        assert_eq!(taken.len(), 3);
        let in_queue = |socket: &TcpListener| std::iter::from_fn(|| socket.accept().ok()).count();
        assert_eq!(in_queue(&taken[2]), 0, "it has a queue of its own");
        assert_eq!(in_queue(&taken[0]) + in_queue(&taken[1]), waiting.len());
    }

    #[test]
    fn sockets_taken_over_keep_what_waits_in_them_and_serve_every_worker() {
        let first =
            listen_shared("127.0.0.1:0".parse().unwrap(), 1, ListenOptions::default(), Vec::new()).unwrap();
        let addr = first[0].local_addr().unwrap();
        let waiting = std::net::TcpStream::connect(addr).unwrap();
        let options = ListenOptions { segment_bytes: Some(1400), ..ListenOptions::default() };
        let taken = listen_shared(addr, 3, options, first).unwrap();
        assert_eq!(taken.len(), 3);
        let (_, client) = taken[2].accept().unwrap();
        assert_eq!(client, waiting.local_addr().unwrap());
        assert_eq!(
            listen_shared(addr, 1, ListenOptions::default(), taken).unwrap().len(),
            3,
            "none is closed: something may wait"
        );
    }

    /// The next connection's client, waited for.
    fn next_client(listener: &TcpListener) -> SocketAddr {
        loop {
            match listener.accept() {
                Ok((_, client)) => return client,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(SHORT),
                Err(e) => panic!("accept: {e}"),
            }
        }
    }

    const SHORT: Duration = Duration::from_millis(1);
    /// When the kernel sends the SYN-ACK again, whose acknowledgement makes a silent connection an established one.
    const DEFERRED: Duration = Duration::from_secs(1);

    #[test]
    fn a_deferred_connection_is_given_out_once_its_client_has_spoken() {
        let options = ListenOptions { deferred: true, ..ListenOptions::default() };
        let (listeners, mut silent) = loop {
            let listeners = listen_shared("127.0.0.1:0".parse().unwrap(), 1, options, Vec::new()).unwrap();
            let addr = listeners[0].local_addr().unwrap();
            let begun = Instant::now();
            let silent = std::net::TcpStream::connect(addr).unwrap();
            let mut speaks = std::net::TcpStream::connect(addr).unwrap();
            speaks.write_all(b"GET").unwrap();
            let (client, next) = (next_client(&listeners[0]), listeners[0].accept());
            if begun.elapsed() >= DEFERRED {
                // This thread was kept waiting for so long that the other may have been given out.
                continue;
            }
            assert_eq!(client, speaks.local_addr().unwrap(), "the second that came, the first that spoke");
            assert_eq!(next.unwrap_err().kind(), io::ErrorKind::WouldBlock);
            break (listeners, silent);
        };
        let addr = listeners[0].local_addr().unwrap();
        silent.write_all(b"GET").unwrap();
        assert_eq!(next_client(&listeners[0]), silent.local_addr().unwrap());
        // Whoever takes the socket over says anew what holds.
        let taken = listen_shared(addr, 1, ListenOptions::default(), listeners).unwrap();
        let silent = std::net::TcpStream::connect(addr).unwrap();
        assert_eq!(next_client(&taken[0]), silent.local_addr().unwrap());
    }
}
