//! The kernel and what it lets this process do.

use super::{Check, Status};
use crate::privileges::PrivilegeError;
use crate::sys;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;
use tun_tap::{Iface, Mode};

/// The running kernel's major and minor version.
fn version() -> Option<(u32, u32, String)> {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?.trim().to_owned();
    let (major, minor) = parse_version(&text)?;
    Some((major, minor, text))
}

pub(super) fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The kernel's version.
pub fn kernel() -> Check {
    let result = match version() {
        Some((major, minor, text)) if (major, minor) >= (5, 10) => Ok(text),
        Some((_, _, text)) => Err(format!("{text} is older than 5.10")),
        None => Err("the version cannot be read from /proc/sys/kernel/osrelease".into()),
    };
    let why = "the programs use helpers that came with 5.10; older kernels were never tried";
    Check::of("kernel", result, why, "install a kernel of 5.10 or later")
}

/// The kernel's type information.
pub fn btf() -> Check {
    let path = "/sys/kernel/btf/vmlinux";
    let result = match std::fs::metadata(path) {
        Ok(found) => Ok(format!("{path}, {} bytes", found.len())),
        Err(e) => Err(format!("{path}: {e}")),
    };
    let why = "the loader describes its maps and programs to the kernel in BTF";
    Check::of(
        "BTF",
        result,
        why,
        "use a kernel built with CONFIG_DEBUG_INFO_BTF=y; distributions' kernels are",
    )
}

/// How programs are attached.
pub fn tcx() -> Check {
    let (status, found) = match version() {
        Some((major, minor, _)) if (major, minor) >= (6, 6) => (Status::Ok, "TCX (kernel 6.6 or later)"),
        Some(_) => (Status::Warn, "clsact (TCX needs kernel 6.6)"),
        None => (Status::Warn, "unknown"),
    };
    let why =
        "a TCX link keeps its place and outlives the daemon; with clsact other tools can remove the program";
    let mend = "nothing must be done; clsact needs the module sch_ingress and cls_bpf (modprobe them if attaching fails)";
    Check::new("TC attachment", status, found, why, mend)
}

/// The capabilities of this process.
pub fn capabilities() -> Check {
    let result = match crate::privileges::require() {
        Ok(()) => Ok("CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON and CAP_NET_RAW are held".into()),
        Err(PrivilegeError::Missing(which)) => Err(format!("missing: {which}")),
        Err(e) => Err(e.to_string()),
    };
    let why = "without them the data plane cannot be loaded, nor connections captured or replayed";
    Check::of("capabilities", result, why, crate::privileges::MEND)
}

/// The capabilities of this process, for the data plane in user space.
pub fn capabilities_without_ebpf() -> Check {
    let result = match crate::privileges::require_without_ebpf() {
        Ok(()) => Ok("CAP_NET_ADMIN is held; plane.kind = \"userspace\" needs no other".into()),
        Err(e) => Err(e.to_string()),
    };
    let why = "without it no TUN can be made, no packet led through it, no connection captured or replayed";
    Check::of(
        "capabilities",
        result,
        why,
        "run as root, or give the service AmbientCapabilities=CAP_NET_ADMIN",
    )
}

/// Whether the directory for pins is on a bpffs.
pub fn bpffs(pin_dir: &Path) -> Check {
    let result = match std::fs::read_to_string("/proc/self/mountinfo") {
        Ok(text) => match filesystem_of(&text, pin_dir) {
            Some(kind) if kind == "bpf" => Ok(format!("{} is on a bpffs", pin_dir.display())),
            Some(kind) => Err(format!("{} is on a file system of type {kind}", pin_dir.display())),
            None => Err(format!("{} is on no mounted file system", pin_dir.display())),
        },
        Err(e) => Err(format!("/proc/self/mountinfo: {e}")),
    };
    let why = "pinned maps and links let connections go on while the daemon restarts";
    let mend = "mount -t bpf bpf /sys/fs/bpf; note that `ip netns exec` hides it (use nsenter --net=/run/netns/NAME)";
    Check::of("bpffs", result, why, mend)
}

/// The type of the file system that holds a path, by proc(5)'s mountinfo; later mounts cover earlier ones.
pub(super) fn filesystem_of(mountinfo: &str, path: &Path) -> Option<String> {
    let mut best: Option<(usize, String)> = None;
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let (Some(point), Some(kind)) = (before.split(' ').nth(4), after.split(' ').next()) else { continue };
        let length = point.len();
        if path.starts_with(point) && best.as_ref().is_none_or(|(most, _)| length >= *most) {
            best = Some((length, kind.to_owned()));
        }
    }
    best.map(|(_, kind)| kind)
}

/// Opens a TUN device and lets it go.
pub fn tun() -> Check {
    let result = Iface::without_packet_info("batondoc%d", Mode::Tun)
        .map(|iface| format!("a device was made ({})", iface.name()))
        .map_err(|e| format!("no device can be made: {e}"));
    let why = "held packets and replayed handshakes pass through a TUN device";
    let mend = "modprobe tun; in a container give it /dev/net/tun; CAP_NET_ADMIN is needed";
    Check::of("TUN", result, why, mend)
}

/// Puts a loopback connection into repair mode and back, and sends a byte on it after that.
pub fn tcp_repair() -> Check {
    let result = try_repair().map_err(|e| e.to_string());
    let why = "the state of a connection is captured in repair mode, and leaving it must send nothing";
    let mend = "use a kernel with CONFIG_CHECKPOINT_RESTORE=y and run with CAP_NET_ADMIN";
    Check::of("TCP_REPAIR", result, why, mend)
}

fn try_repair() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    far.set_read_timeout(Some(Duration::from_secs(2)))?;
    sys::set_tcp_repair(&near, 1)?;
    // Off without a window probe: since kernel 4.18.
    sys::set_tcp_repair(&near, -1)?;
    near.write_all(b"x")?;
    far.read_exact(&mut [0])?;
    Ok("a loopback connection went into repair mode, came back and carried data".into())
}
