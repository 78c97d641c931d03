//! How deep this machine's processors may sleep while ways are measured (PM QoS, Documentation/power/pm_qos_interface.rst).

use anyhow::{Context, Result};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const DEVICE: &str = "/dev/cpu_dma_latency";
/// Daemons that were busy hold processors awake for less.
const PATIENCE: Duration = Duration::from_secs(3);

/// What holds for a whole measurement, all ways alike.
pub(super) struct Processors {
    /// Held for as long as it is open.
    _held: Option<File>,
    /// Us, in force before anything is measured; none: the kernel does not say.
    allowed: Option<i32>,
}

impl Processors {
    /// Lets processors take so many microseconds to wake, or as many as the system has it.
    pub(super) fn hold(us: Option<i32>) -> Result<Self> {
        let held = us.map(|us| -> Result<File> {
            let mut device = OpenOptions::new().write(true).open(DEVICE).context(DEVICE)?;
            device.write_all(&us.to_ne_bytes()).context(DEVICE)?;
            Ok(device)
        });
        Ok(Processors { _held: held.transpose()?, allowed: in_force() })
    }

    /// Waits until nobody holds them awake any more than at the start: what one way's daemons asked for while they were busy
    /// (`cpu_latency`) must not serve the next way.
    pub(super) fn settle(&self) {
        let until = Instant::now() + PATIENCE;
        while in_force() < self.allowed && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The least of all that are asked for, us.
fn in_force() -> Option<i32> {
    let mut bytes = [0; 4];
    File::open(DEVICE).and_then(|mut device| device.read_exact(&mut bytes)).ok()?;
    Some(i32::from_ne_bytes(bytes))
}
