//! A client's kept connection.

use anyhow::{Result, bail};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A connection that had the answer to one small request and stays open.
pub(crate) fn asked(to: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("GET /1k HTTP/1.1\r\nHost: {}\r\n\r\n", to.ip()).as_bytes())?;
    let (mut got, mut buffer) = (0, [0; 4096]);
    while got < 1024 {
        match stream.read(&mut buffer)? {
            0 => bail!("the connection was closed"),
            n => got += n,
        }
    }
    Ok(stream)
}
