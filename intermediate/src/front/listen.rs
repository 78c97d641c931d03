//! Listening sockets.

use crate::handoff::prepare_listener;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Connections the kernel keeps until they are accepted; it cuts this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Binds and listens. Accepted connections inherit TCP_NODELAY.
///
/// Needs CAP_NET_BIND_SERVICE for ports below 1024, so it comes before capabilities are dropped.
pub fn listen(vip: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(vip), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    if vip.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    prepare_listener(&socket)?;
    socket.bind(&vip.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
