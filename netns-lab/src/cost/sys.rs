//! Event counters of the kernel (perf_event_open(2)).
#![expect(unsafe_code, reason = "a system call without a wrapper; each block says why it is sound")]

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::FromRawFd;

/// The first 72 bytes of `struct perf_event_attr` (`linux/perf_event.h`, PERF_ATTR_SIZE_VER1).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
    config2: u64,
}

const _: () = assert!(size_of::<Attributes>() == 72);

/// Threads that the counted one makes are counted with it.
const INHERIT: u64 = 1 << 1;

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event<'a> {
    /// `PERF_TYPE_*`, or the number of an event source.
    pub(super) kind: u32,
    /// Which of its events.
    pub(super) config: u64,
    /// A place in a file, for events of code: its path and the offset.
    pub(super) place: Option<(&'a CStr, u64)>,
}

/// A counter of one event in one thread and those it makes.
#[derive(Debug)]
pub(super) struct Counter(File);

impl Counter {
    /// Counts from now on.
    pub(super) fn open(event: Event<'_>, thread: u32) -> io::Result<Self> {
        let (config1, config2) = event.place.map_or((0, 0), |(path, at)| (path.as_ptr() as u64, at));
        let attributes = Attributes {
            kind: event.kind,
            size: 72,
            config: event.config,
            flags: INHERIT,
            config1,
            config2,
            ..Attributes::default()
        };
        let thread = libc::pid_t::try_from(thread).map_err(io::Error::other)?;
        // SAFETY: the attributes are live for the length of the call and as long as they say, the path in them ends
        // with a zero; any processor, no group; the kernel copies both.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                thread,
                -1,
                -1,
                // PERF_FLAG_FD_CLOEXEC
                8_u64,
            )
        };
        let fd = i32::try_from(rc).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        Ok(Counter(unsafe { File::from_raw_fd(fd) }))
    }

    /// How often it happened.
    pub(super) fn read(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        (&self.0).read_exact(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}
