//! The system calls that load, run and attach a program given as instructions.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `bpf_attr` of `BPF_PROG_LOAD`, its first fields.
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
}

/// `bpf_attr` of `BPF_PROG_TEST_RUN`, its first fields.
#[repr(C)]
struct Run {
    program: u32,
    value: u32,
    data_in_bytes: u32,
    data_out_bytes: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// A map's number as instructions name it.
pub(crate) fn number(map: BorrowedFd<'_>) -> i32 {
    map.as_raw_fd()
}

fn address<T>(of: &[T]) -> u64 {
    of.as_ptr().addr() as u64
}

/// Calls bpf(2).
///
/// # Safety
/// `attributes` are those of `command`, and the pointers in them are to live memory of the lengths beside them.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: a live `bpf_attr` of this length; the rest is the caller's promise.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    match libc::c_int::try_from(done) {
        Ok(done) if done >= 0 => Ok(done),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A classifier of these instructions.
pub(crate) fn load(code: &[u64]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    let mut log = [0_u8; 1 << 14];
    let mut load = Load {
        kind: BPF_PROG_TYPE_SCHED_CLS,
        instructions: u32::try_from(code.len()).map_err(io::Error::other)?,
        code: address(code),
        license: address(b"GPL\0"),
        log_level: 1,
        log_bytes: 1 << 14,
        log: log.as_mut_ptr().expose_provenance() as u64,
    };
    // SAFETY: the attributes of this command; code, license and log live.
    match unsafe { bpf(BPF_PROG_LOAD, &mut load) } {
        // SAFETY: a new descriptor, ours alone.
        Ok(program) => Ok(unsafe { OwnedFd::from_raw_fd(program) }),
        Err(e) => Err(io::Error::new(
            e.kind(),
            format!("{e}: {}", String::from_utf8_lossy(&log).trim_end_matches('\0')),
        )),
    }
}

/// What the program returns for a packet, and the mean nanoseconds of so many runs.
pub(crate) fn test_run(program: BorrowedFd<'_>, packet: &[u8], repeat: u32) -> io::Result<(u32, u32)> {
    const BPF_PROG_TEST_RUN: libc::c_int = 10;
    let mut run = Run {
        program: program.as_raw_fd().cast_unsigned(),
        value: 0,
        data_in_bytes: u32::try_from(packet.len()).map_err(io::Error::other)?,
        data_out_bytes: 0,
        data_in: address(packet),
        data_out: 0,
        repeat,
        duration: 0,
    };
    // SAFETY: the attributes of this command; the packet lives and is read only.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut run) }?;
    Ok((run.value, run.duration))
}

/// `bpf_attr` of `BPF_LINK_CREATE`, its first fields.
#[repr(C)]
struct Attach {
    program: u32,
    device: u32,
    kind: u32,
    flags: u32,
    relative_to: u64,
    revision: u64,
}

/// A program on a device, as long as this lives.
pub(crate) struct Link(#[expect(dead_code, reason = "what is kept is the link")] OwnedFd);

impl Link {
    /// What drops all packets that arrive on a device.
    pub(crate) fn dropping(device: u32) -> io::Result<Self> {
        const BPF_LINK_CREATE: libc::c_int = 28;
        const BPF_TCX_INGRESS: u32 = 46;
        let program = load(&crate::bare::dropping())?;
        let mut attach = Attach {
            program: program.as_raw_fd().cast_unsigned(),
            device,
            kind: BPF_TCX_INGRESS,
            flags: 0,
            relative_to: 0,
            revision: 0,
        };
        // SAFETY: the attributes of this command, without pointers.
        let link = unsafe { bpf(BPF_LINK_CREATE, &mut attach) }?;
        // SAFETY: a new descriptor, ours alone.
        Ok(Link(unsafe { OwnedFd::from_raw_fd(link) }))
    }
}
