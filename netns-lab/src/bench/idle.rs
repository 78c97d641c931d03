//! What an idle connection costs a balancer in memory.

use super::Side;
use super::Way;
use crate::steer::Program;
use crate::{command, plan};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::linux::fs::MetadataExt;
use std::time::Duration;

/// A balancer's memory with kept connections that each had one answer.
#[derive(Debug, Clone, Serialize)]
pub struct Idle {
    /// Whose.
    pub balancer: Way,
    /// How many connections.
    pub connections: u32,
    /// What its processes' resident memory grew by, divided by their number, bytes.
    pub process_bytes_per_connection: f64,
    /// What the kernel's TCP sockets on its node took more (`/proc/net/sockstat`, pages of 4096 bytes), likewise.
    pub socket_bytes_per_connection: f64,
}

#[expect(clippy::cast_precision_loss, reason = "bytes of one machine")]
pub(super) fn measure(side: &Side, count: u32) -> Result<Idle> {
    let before = (resident(side)?, sockets(side)?);
    let to = side.to;
    let held = side
        .lab
        .inside("client1", move || (0..count).map(|_| asked(to)).collect::<Result<Vec<TcpStream>>>())??;
    std::thread::sleep(Duration::from_millis(500));
    let after = (resident(side)?, sockets(side)?);
    drop(held);
    let each = |after: u64, before: u64| (after as f64 - before as f64) / f64::from(count.max(1));
    Ok(Idle {
        balancer: side.way,
        connections: count,
        process_bytes_per_connection: each(after.0, before.0),
        socket_bytes_per_connection: each(after.1, before.1),
    })
}

/// A connection that had the answer to one small request and stays open.
fn asked(to: std::net::SocketAddr) -> Result<TcpStream> {
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

/// Resident bytes of all processes on the intermediate's node that its balancer started.
fn resident(side: &Side) -> Result<u64> {
    let netns = side.lab.netns(plan::INTERMEDIATE)?;
    let inode = fs::metadata(&netns)?.st_ino();
    let name = side.lab.program_name(Program::Balancer);
    let mut kib = 0;
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        let process = entry.path();
        let same = fs::metadata(process.join("ns/net")).is_ok_and(|ns| ns.st_ino() == inode);
        let Ok(status) = fs::read_to_string(process.join("status")) else { continue };
        let field =
            |label: &str| status.lines().find_map(|l| l.strip_prefix(label)).unwrap_or_default().trim();
        // /proc cuts names at 15 bytes.
        if same && name.starts_with(field("Name:")) {
            kib += field("VmRSS:").split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(kib * 1024)
}

fn sockets(side: &Side) -> Result<u64> {
    let netns = side.lab.netns(plan::INTERMEDIATE)?;
    let mut command = command::inside(&netns, "cat")?;
    let output = command.arg("/proc/net/sockstat").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|l| l.starts_with("TCP:")).unwrap_or_default();
    let pages =
        line.split_whitespace().skip_while(|w| *w != "mem").nth(1).and_then(|n| n.parse::<u64>().ok());
    Ok(pages.unwrap_or(0) * 4096)
}
