//! A server the row plays itself, in nginx's place: ordinary sockets of the target's kernel.

use baton_tests::lab::TestLab;
use baton_tests::peer::{PATIENCE, Peer};
use netns_lab::{Program, plan};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The listener, and accepted connections nobody has asked for yet.
pub(crate) struct Server {
    listeners: Mutex<Vec<TcpListener>>,
    waiting: Mutex<HashMap<SocketAddr, TcpStream>>,
}

impl Server {
    /// Stops nginx on target1 and listens in its place.
    pub(crate) fn in_place_of_nginx(t: &TestLab) -> Self {
        t.lab.stop("target1", Program::Server).unwrap();
        let server = Server { listeners: Mutex::default(), waiting: Mutex::default() };
        server.listen(t, None);
        server
    }

    /// Listens anew: connections accepted from here on have receive buffers of about so many bytes, and without a number
    /// those that the kernel sizes by itself, which no socket has any more once it was given a size.
    pub(crate) fn listen(&self, t: &TestLab, buffer: Option<usize>) {
        let mut listeners = self.listeners.lock().unwrap();
        listeners.clear();
        for ip in [IpAddr::from(plan::target_addr(1)), plan::target_addr6(1).into()] {
            let address = SocketAddr::new(ip, 80);
            let bind = move || {
                let until = Instant::now() + PATIENCE;
                loop {
                    match TcpListener::bind(address) {
                        // A program that another thread has just forked holds the former's descriptor until it executes.
                        Err(e) if e.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        bound => return bound,
                    }
                }
            };
            let listener = t.lab.inside("target1", bind).unwrap().unwrap();
            if let Some(bytes) = buffer {
                socket2::SockRef::from(&listener).set_recv_buffer_size(bytes).unwrap();
            }
            listener.set_nonblocking(true).unwrap();
            listeners.push(listener);
        }
    }

    /// The server's end of this client's connection.
    pub(crate) fn accept(&self, peer: &Peer) -> Accepted {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut waiting = self.waiting.lock().unwrap();
            for listener in self.listeners.lock().unwrap().iter() {
                loop {
                    match listener.accept() {
                        Ok((socket, from)) => drop(waiting.insert(from, socket)),
                        Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                        Err(e) => panic!("accept: {e}"),
                    }
                }
            }
            if let Some(socket) = waiting.remove(&peer.from()) {
                socket.set_nonblocking(false).unwrap();
                socket.set_nodelay(true).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.set_write_timeout(Some(PATIENCE)).unwrap();
                return Accepted { socket };
            }
            drop(waiting);
            if Instant::now() > until {
                peer.fail("the server never accepted it");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// An accepted connection.
pub(crate) struct Accepted {
    pub(crate) socket: TcpStream,
}

impl Accepted {
    /// Reads so many bytes.
    pub(crate) fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut all = vec![0; bytes];
        self.socket.read_exact(&mut all).unwrap();
        all
    }

    /// Reads a request without a body.
    pub(crate) fn request(&mut self) -> String {
        let mut all = Vec::new();
        while !all.ends_with(b"\r\n\r\n") {
            all.extend(self.read(1));
        }
        String::from_utf8(all).unwrap()
    }

    /// What remains until the client's FIN.
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        self.socket.read_to_end(&mut all).unwrap();
        all
    }

    /// Whether the connection was reset.
    pub(crate) fn is_reset(&mut self) -> bool {
        self.socket.read(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::ConnectionReset)
    }

    /// Whether the connection was reset behind the client's FIN (tcp_reset in net/ipv4/tcp_input.c).
    pub(crate) fn is_broken(&self) -> bool {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.socket.take_error().unwrap() {
                Some(e) => return e.kind() == ErrorKind::BrokenPipe,
                None if Instant::now() > until => return false,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Closes with a reset.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Sends an answer with this body.
    pub(crate) fn answer(&mut self, body: &[u8]) {
        self.write(&[head(body.len()).as_bytes(), body].concat());
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }
}

/// The head of an answer.
pub(crate) fn head(length: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")
}
