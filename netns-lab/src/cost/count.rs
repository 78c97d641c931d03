//! Counting what a process does, thread by thread, without stopping it.

use super::sys::{Counter, Event};
use anyhow::{Context, Result, bail};
use object::{Object, ObjectSegment, ObjectSymbol};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

/// System calls that are told by name; the rest is `other`.
const SYSCALLS: [&str; 36] = [
    "accept4",
    "bind",
    "bpf",
    "brk",
    "close",
    "connect",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "fcntl",
    "futex",
    "getpeername",
    "getrandom",
    "getsockname",
    "getsockopt",
    "ioctl",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "poll",
    "ppoll",
    "read",
    "readv",
    "recvfrom",
    "recvmsg",
    "sched_yield",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    "socket",
    "timerfd_settime",
    "write",
    "writev",
];

/// Of `linux/perf_event.h`.
const PERF_TYPE_HARDWARE: u32 = 0;
const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_COUNT_HW_INSTRUCTIONS: u64 = 1;
const PERF_COUNT_SW_TASK_CLOCK: u64 = 1;

/// Where the tracepoints are described.
const EVENTS: [&str; 2] = ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"];

/// The names under which counts that are no system call's stand.
pub(super) const ALL_SYSCALLS: &str = "all";
pub(super) const ALLOCATIONS: &str = "allocations";
pub(super) const WAKEUPS: &str = "wakeups";
pub(super) const CPU_NS: &str = "cpu_ns";
pub(super) const INSTRUCTIONS: &str = "instructions";

/// Counts by name.
pub(super) type Counts = BTreeMap<&'static str, u64>;

/// A name, the event's kind and which of them, and its place in code: a file and the offset.
type Counted = (&'static str, u32, u64, Option<(CString, u64)>);

/// The counters of one process.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    counters: Vec<(&'static str, Counter)>,
    /// Whether wakeups are counted: when the times are not.
    wakeups: bool,
}

impl Process {
    /// Counts system calls, allocations and wakeups from now on.
    pub(super) fn counted(pid: u32) -> Result<Self> {
        let mut events: Vec<Counted> = Vec::new();
        events.push((ALL_SYSCALLS, PERF_TYPE_TRACEPOINT, tracepoint("raw_syscalls/sys_enter")?, None));
        for name in SYSCALLS {
            // Not every architecture has each of them.
            if let Ok(id) = tracepoint(&format!("syscalls/sys_enter_{name}")) {
                events.push((name, PERF_TYPE_TRACEPOINT, id, None));
            }
        }
        let kind = fs::read_to_string("/sys/bus/event_source/devices/uprobe/type");
        if let Some((kind, libc)) = kind.ok().and_then(|k| k.trim().parse().ok()).zip(libc_of(pid)) {
            for (path, at) in allocators(&libc)? {
                events.push((ALLOCATIONS, kind, 0, Some((path, at))));
            }
        }
        let mut counters = Vec::new();
        for thread in threads(pid)? {
            for (name, kind, config, place) in &events {
                let place = place.as_ref().map(|(path, at)| (path.as_c_str(), *at));
                let event = Event { kind: *kind, config: *config, place };
                let counter = Counter::open(event, thread)
                    .with_context(|| format!("perf_event_open for {name} of thread {thread}"))?;
                counters.push((*name, counter));
            }
        }
        Ok(Process { pid, counters, wakeups: true })
    }

    /// Counts processor time, and instructions where the machine can, and nothing else that would cost time.
    pub(super) fn timed(pid: u32) -> Result<Self> {
        let mut counters = Vec::new();
        for thread in threads(pid)? {
            let clock = Event { kind: PERF_TYPE_SOFTWARE, config: PERF_COUNT_SW_TASK_CLOCK, place: None };
            counters
                .push((CPU_NS, Counter::open(clock, thread).context("perf_event_open for the task clock")?));
            let instructions =
                Event { kind: PERF_TYPE_HARDWARE, config: PERF_COUNT_HW_INSTRUCTIONS, place: None };
            // Most virtual machines have no counter of instructions.
            if let Ok(counter) = Counter::open(instructions, thread) {
                counters.push((INSTRUCTIONS, counter));
            }
        }
        Ok(Process { pid, counters, wakeups: false })
    }

    /// The counts as they stand.
    pub(super) fn read(&self) -> Result<Counts> {
        let mut counts = Counts::new();
        for (name, counter) in &self.counters {
            *counts.entry(name).or_default() += counter.read()?;
        }
        if self.wakeups {
            counts.insert(WAKEUPS, switches(self.pid)?);
        }
        Ok(counts)
    }
}

fn tracepoint(name: &str) -> Result<u64> {
    let text = EVENTS.iter().find_map(|dir| fs::read_to_string(Path::new(dir).join(name).join("id")).ok());
    let text = text.with_context(|| {
        format!("the kernel describes no tracepoint {name}; is tracefs mounted at /sys/kernel/tracing?")
    })?;
    text.trim().parse().with_context(|| format!("the number of tracepoint {name}"))
}

fn threads(pid: u32) -> Result<Vec<u32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))?;
    Ok(entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
}

/// How often its threads went to sleep by themselves, and so were woken.
fn switches(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in threads(pid)? {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += line.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// The C library a process has loaded, of which it has its memory.
fn libc_of(pid: u32) -> Option<PathBuf> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let path = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| {
        let name = path.rsplit('/').next().unwrap_or_default();
        name.starts_with("libc.so") || name.starts_with("libc-2")
    })?;
    Some(path.into())
}

/// The places of the functions that allocate.
fn allocators(libc: &Path) -> Result<Vec<(CString, u64)>> {
    let bytes = fs::read(libc).with_context(|| format!("cannot read {}", libc.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("{} is no ELF file", libc.display()))?;
    let path = CString::new(libc.to_string_lossy().as_bytes()).context("a path with a zero")?;
    let names = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"];
    let symbols =
        file.dynamic_symbols().filter(|s| s.is_definition() && s.name().is_ok_and(|n| names.contains(&n)));
    let offset = |address: u64| {
        file.segments().find_map(|s| {
            let inside = address.checked_sub(s.address()).filter(|at| *at < s.size())?;
            Some(s.file_range().0 + inside)
        })
    };
    let mut places: Vec<u64> = symbols.filter_map(|s| offset(s.address())).collect();
    places.sort_unstable();
    places.dedup();
    if places.is_empty() {
        bail!("{} has no malloc", libc.display());
    }
    Ok(places.into_iter().map(|at| (path.clone(), at)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_threads_that_sleep_and_a_c_library_with_malloc() {
        let own = std::process::id();
        assert!(threads(own).unwrap().contains(&own));
        let before = switches(own).unwrap();
        (0..5).for_each(|_| std::thread::sleep(std::time::Duration::from_millis(1)));
        assert!(switches(own).unwrap() >= before + 5);
        let places = allocators(&libc_of(own).unwrap()).unwrap();
        assert!((3..=5).contains(&places.len()), "{places:?}");
    }
}
