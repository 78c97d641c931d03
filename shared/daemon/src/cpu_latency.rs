//! How long the kernel may take to wake this host's processors, while a process asks for less than it usually allows
//! itself (PM QoS, Documentation/power/pm_qos_interface.rst).
//!
//! An idle processor sleeps, the deeper the longer it is expected to have nothing to do, and is slow to wake: tens of
//! microseconds out of a deep state, or out of a virtual machine's halt, where the hypervisor has to be asked. A handoff
//! wakes a processor on each of two hosts, one after the other.

use crate::config::{Problems, Spanned};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Where the kernel takes the wish, for as long as the file is open. The kernel's least of all that are asked for is in force.
pub const DEVICE: &str = "/dev/cpu_dma_latency";
/// More than any processor takes.
const MAX_US: u32 = 1_000_000;

/// A wish in force; dropping it takes it back, and so does the end of the process.
#[derive(Debug)]
pub struct CpuLatency {
    _device: File,
}

impl CpuLatency {
    /// Wishes that processors wake within so many microseconds; 0: that idle ones do not sleep at all.
    pub fn hold(us: u32) -> io::Result<Self> {
        Self::hold_by(Path::new(DEVICE), us)
    }

    /// As the configuration has it.
    pub fn wanted(us: Option<&Spanned<u32>>) -> io::Result<Option<Self>> {
        us.map(|us| Self::hold(*us.get_ref())).transpose()
    }

    fn hold_by(device: &Path, us: u32) -> io::Result<Self> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", device.display()));
        let mut opened = OpenOptions::new().write(true).open(device).map_err(named)?;
        // A 32-bit number in the host's order (kernel/power/qos.c, cpu_latency_qos_write()), at once.
        let us = i32::try_from(us).unwrap_or(i32::MAX);
        opened.write_all(&us.to_ne_bytes()).map_err(named)?;
        Ok(CpuLatency { _device: opened })
    }

    /// Reports a limit that is out of range, or cannot be held by this process.
    pub fn validate(us: Option<&Spanned<u32>>, problems: &mut Problems<'_>) {
        let Some(us) = us else { return };
        if *us.get_ref() > MAX_US {
            return problems.with(us, format!("cpu_latency_us must be from 0 to {MAX_US}"));
        }
        // For a moment, nobody notices.
        if let Err(e) = Self::hold(*us.get_ref()) {
            problems.with(us, format!("cpu_latency_us cannot be asked for: {e}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_written_as_the_kernel_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("latency");
        std::fs::write(&device, []).unwrap();
        let held = CpuLatency::hold_by(&device, 20).unwrap();
        assert_eq!(std::fs::read(&device).unwrap(), 20i32.to_ne_bytes());
        drop(held);
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let error = CpuLatency::hold_by(Path::new("/nonexistent/latency"), 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().starts_with("/nonexistent/latency: "), "{error}");
    }

    #[test]
    fn the_kernel_takes_the_limit_or_the_error_names_the_device() {
        match CpuLatency::hold(7) {
            Ok(_held) => {
                // The least that anybody asks for.
                let in_force = std::fs::read(DEVICE).unwrap();
                assert!(i32::from_ne_bytes(in_force.try_into().unwrap()) <= 7);
            }
            // No root, or a container without the device.
            Err(e) => assert!(e.to_string().starts_with(DEVICE), "{e}"),
        }
    }
}
