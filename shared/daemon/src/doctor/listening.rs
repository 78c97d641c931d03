//! Whether this process itself listens on an address, by proc(5).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Field 4 of /proc/net/tcp.
const LISTEN: &str = "0A";

/// Whether one of this process's sockets listens there. What cannot be read is not known, so: no.
pub(super) fn listens(addr: SocketAddr) -> bool {
    let table = if addr.is_ipv4() { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" };
    let table = fs::read_to_string(table).unwrap_or_default();
    let sockets: Vec<String> = table.lines().filter_map(|line| socket_at(addr, line)).collect();
    let own = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    own.filter_map(|fd| fs::read_link(fd.path()).ok())
        .any(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
}

/// What a descriptor of the socket in this line links to, if it listens there.
fn socket_at(addr: SocketAddr, line: &str) -> Option<String> {
    let mut fields = line.split_whitespace();
    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
    (state == LISTEN && address(local) == Some(addr))
        .then(|| fields.nth(5).map(|inode| format!("socket:[{inode}]")))?
}

/// `0100007F:0050`: each word of the address as this machine has it in memory, in hexadecimal.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| {
        let digits = ip.get(at..at.checked_add(8)?)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip: IpAddr = if ip.len() == 8 {
        Ipv4Addr::from(word(0)?).into()
    } else {
        let words = [word(0)?, word(8)?, word(16)?, word(24)?];
        Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?).into()
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn ones_own_listeners_are_known_and_nothing_else_is_one() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(any) else {
                assert!(any.starts_with('['), "there may be no IPv6");
                continue;
            };
            let addr = listener.local_addr().unwrap();
            let near = TcpStream::connect(addr).unwrap();
            assert!(listens(addr) && !listens(near.local_addr().unwrap()), "{addr}");
            drop(listener);
            assert!(!listens(addr), "{addr}");
        }
    }

    #[test]
    fn lines_that_are_none_are_nobodys() {
        for text in ["", "x", "7F:1", "0100007F:zz", "0100007F", "ZZ00007F:0050", ":"] {
            assert_eq!(address(text), None, "{text}");
        }
        assert_eq!(socket_at("127.0.0.1:80".parse().unwrap(), "0: 0100007F:0050 00000000:0000 0A"), None);
    }
}
