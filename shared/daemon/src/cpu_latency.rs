//! How long the kernel may take to wake this host's processors, while a daemon asks for less than it usually allows
//! itself (PM QoS, Documentation/power/pm_qos_interface.rst).
//!
//! An idle processor sleeps, the deeper the longer it is expected to have nothing to do, and is slow to wake: tens of
//! microseconds out of a deep state, or out of a virtual machine's halt, where the hypervisor has to be asked. A handoff
//! wakes a processor on each of two hosts, one after the other. When that is asked for is [`baton_shared::awake`]'s to say.

use crate::config::{Problems, Spanned};
use baton_shared::awake::{Frequency, IdleState, awake_for_ms, wake_within_us};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Where the kernel takes the wish, for as long as the file is open. The kernel's least of all that are asked for is in force.
pub const DEVICE: &str = "/dev/cpu_dma_latency";
/// The states of the first processor; the others have the same.
const STATES: &str = "/sys/devices/system/cpu/cpu0/cpuidle";
/// More than any processor takes.
const MAX_US: u32 = 1_000_000;
/// No wish (include/linux/pm_qos.h, PM_QOS_CPU_LATENCY_DEFAULT_VALUE), us.
const NONE_US: u32 = 2_000_000_000;

/// `cpu_latency`: when this host's processors are held awake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// While handoffs come often, some 500 a second.
    #[default]
    WhileBusy,
    /// For as long as the daemon runs.
    Always,
    /// Never: they sleep as the system has it.
    System,
}

/// What the configuration says of it.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// `cpu_latency`.
    pub when: Option<&'a Spanned<When>>,
    /// `cpu_latency_us`.
    pub us: Option<&'a Spanned<u32>>,
}

impl Wish<'_> {
    fn when(&self) -> When {
        self.when.map(|when| *when.get_ref()).unwrap_or_default()
    }

    fn us(&self) -> u32 {
        self.us.map_or_else(|| of_host(Path::new(STATES)), |us| *us.get_ref())
    }

    /// What asks for it by name must be possible.
    fn is_explicit(&self) -> bool {
        self.when.is_some() || self.us.is_some()
    }

    /// Reports a limit that is out of range or for nothing, or cannot be held by this process.
    pub fn validate(&self, problems: &mut Problems<'_>) {
        if let Some(us) = self.us {
            if *us.get_ref() > MAX_US {
                return problems.with(us, format!("cpu_latency_us must be from 0 to {MAX_US}"));
            }
            if self.when() == When::System {
                let problem =
                    "cpu_latency_us is for processors that are held awake: cpu_latency is \"system\"";
                return problems.with(us, problem);
            }
        }
        if self.when() == When::System {
            return;
        }
        // For a moment, nobody notices.
        match (open(Path::new(DEVICE)), self.us, self.when) {
            (Err(e), Some(us), _) => problems.with(us, format!("cpu_latency_us cannot be asked for: {e}")),
            (Err(e), None, Some(when)) => {
                problems.with(when, format!("cpu_latency cannot be asked for: {e}"))
            }
            _ => {}
        }
    }
}

/// What the first processor's states allow.
fn of_host(states: &Path) -> u32 {
    let read = |state: &Path, file: &str| fs::read_to_string(state.join(file)).ok();
    let entries = fs::read_dir(states).into_iter().flatten().flatten();
    let states: Vec<(String, u32)> = entries
        .filter_map(|entry| {
            let state = entry.path();
            Some((read(&state, "name")?, read(&state, "latency")?.trim().parse().ok()?))
        })
        .collect();
    wake_within_us(states.iter().map(|(name, latency_us)| IdleState { name, latency_us: *latency_us }))
}

fn open(device: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(device).map_err(|e| named(device, &e))
}

fn named(device: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", device.display()))
}

/// A daemon's wish. Dropping it takes it back, and so does the end of the process.
#[derive(Debug)]
pub struct CpuLatency {
    /// Where it is said, and how many microseconds; none: the system's are good enough, or it cannot be said.
    device: Option<(File, u32)>,
    always: bool,
    begun: Instant,
    /// [`Frequency`], of all threads.
    frequency: AtomicU64,
    /// When it was high last, ms since `begun`.
    often_at_ms: AtomicU64,
    held: AtomicBool,
}

impl CpuLatency {
    /// As the configuration has it; to be called while the process may open the device. Where it cannot be and was not asked
    /// for by name, processors sleep as the system has it.
    pub fn start(wish: Wish<'_>) -> io::Result<Arc<Self>> {
        Self::start_by(Path::new(DEVICE), wish)
    }

    fn start_by(path: &Path, wish: Wish<'_>) -> io::Result<Arc<Self>> {
        let when = wish.when();
        let device = match open(path) {
            _ if when == When::System => None,
            Ok(device) => Some((device, wish.us())),
            Err(e) if wish.is_explicit() => return Err(e),
            Err(e) => {
                tracing::info!("processors sleep as the system has it, however busy they are: {e}");
                None
            }
        };
        let always = when == When::Always;
        let latency = CpuLatency {
            device,
            always,
            begun: Instant::now(),
            frequency: AtomicU64::new(0),
            often_at_ms: AtomicU64::new(0),
            held: AtomicBool::new(false),
        };
        if always {
            latency.say(true).map_err(|e| named(path, &e))?;
        }
        Ok(Arc::new(latency))
    }

    /// Whether processors are held awake.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// A handoff begins.
    pub fn on_handoff(self: &Arc<Self>) {
        if self.device.is_none() || self.always {
            return;
        }
        let now_ms = self.now_ms();
        let frequency = Frequency::from_bits(self.frequency.load(Ordering::Relaxed)).after(now_ms);
        self.frequency.store(frequency.bits(), Ordering::Relaxed);
        if !frequency.is_high() {
            return;
        }
        self.often_at_ms.store(now_ms, Ordering::Relaxed);
        if !self.is_held() {
            self.hold_while_busy();
        }
    }

    fn hold_while_busy(self: &Arc<Self>) {
        // It must be taken back by somebody.
        let Ok(runtime) = Handle::try_current() else { return };
        if self.held.swap(true, Ordering::Relaxed) {
            return;
        }
        // Whoever could open it may write it: an error here would be one for good, and is not met again and again.
        if let Err(e) = self.say(true) {
            return tracing::warn!("processors cannot be held awake: {DEVICE}: {e}");
        }
        let latency = Arc::clone(self);
        runtime.spawn(async move {
            loop {
                match awake_for_ms(latency.often_at_ms.load(Ordering::Relaxed), latency.now_ms()) {
                    0 => break,
                    ms => tokio::time::sleep(Duration::from_millis(ms)).await,
                }
            }
            if let Err(e) = latency.say(false) {
                tracing::warn!("processors are held awake still: {DEVICE}: {e}");
            }
        });
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A 32-bit number in the host's order, at once (kernel/power/qos.c, cpu_latency_qos_write()).
    fn say(&self, hold: bool) -> io::Result<()> {
        let Some((device, us)) = &self.device else { return Ok(()) };
        let us = if hold { *us } else { NONE_US };
        let mut device = device;
        device.write_all(&us.to_ne_bytes())?;
        self.held.store(hold, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use tempfile::TempDir;

    fn device() -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("latency");
        fs::write(&device, []).unwrap();
        (dir, device)
    }

    /// All that was said.
    fn said(device: &Path) -> Vec<u32> {
        let bytes = fs::read(device).unwrap();
        bytes.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect()
    }

    fn spanned<T>(value: T) -> Spanned<T> {
        Spanned::new(0..0, value)
    }

    #[test]
    fn who_always_holds_says_so_once_as_the_kernel_reads_it() {
        let (_dir, device) = device();
        let (when, us) = (spanned(When::Always), spanned(20));
        let wish = Wish { when: Some(&when), us: Some(&us) };
        let latency = CpuLatency::start_by(&device, wish).unwrap();
        for _ in 0..100 {
            latency.on_handoff();
        }
        assert!(latency.is_held());
        assert_eq!(said(&device), [20]);
    }

    #[test]
    fn nothing_is_said_if_the_system_s_own_sleep_is_wanted() {
        let (_dir, device) = device();
        let when = spanned(When::System);
        let latency = CpuLatency::start_by(&device, Wish { when: Some(&when), us: None }).unwrap();
        for _ in 0..100 {
            latency.on_handoff();
        }
        assert!(!latency.is_held());
        assert_eq!(said(&device), [0u32; 0]);
    }

    #[tokio::test]
    async fn processors_are_held_awake_while_handoffs_come_often_and_then_no_more() {
        let (_dir, device) = device();
        let us = spanned(3);
        let latency = CpuLatency::start_by(&device, Wish { when: None, us: Some(&us) }).unwrap();
        latency.on_handoff();
        assert!(!latency.is_held());
        // Two windows may share them.
        for _ in 0..40 {
            latency.on_handoff();
        }
        assert!(latency.is_held());
        assert_eq!(said(&device), [3]);
        while latency.is_held() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(said(&device), [3, NONE_US]);
        for _ in 0..40 {
            latency.on_handoff();
        }
        assert_eq!(said(&device), [3, NONE_US, 3]);
    }

    #[test]
    fn a_device_that_is_not_there_is_named_if_it_was_asked_for_and_else_done_without() {
        let nowhere = Path::new("/nonexistent/latency");
        let us = spanned(0);
        let error = CpuLatency::start_by(nowhere, Wish { when: None, us: Some(&us) }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().starts_with("/nonexistent/latency: "), "{error}");
        let latency = CpuLatency::start_by(nowhere, Wish { when: None, us: None }).unwrap();
        for _ in 0..100 {
            latency.on_handoff();
        }
        assert!(!latency.is_held());
    }

    #[test]
    fn the_kernel_takes_the_limit_or_the_error_names_the_device() {
        let (when, us) = (spanned(When::Always), spanned(7));
        match CpuLatency::start(Wish { when: Some(&when), us: Some(&us) }) {
            Ok(_held) => {
                // The least that anybody asks for.
                let in_force = fs::read(DEVICE).unwrap();
                assert!(i32::from_ne_bytes(in_force.try_into().unwrap()) <= 7);
            }
            // No root, or a container without the device.
            Err(e) => assert!(e.to_string().starts_with(DEVICE), "{e}"),
        }
    }

    #[test]
    fn the_states_of_a_host_are_read_as_its_kernel_shows_them() {
        let dir = tempfile::tempdir().unwrap();
        for (n, name, latency) in [(0, "POLL\n", "0\n"), (1, "C1\n", "2\n"), (2, "C6\n", "133\n")] {
            let state = dir.path().join(format!("state{n}"));
            fs::create_dir(&state).unwrap();
            fs::write(state.join("name"), name).unwrap();
            fs::write(state.join("latency"), latency).unwrap();
        }
        assert_eq!(of_host(dir.path()), 2);
        assert_eq!(of_host(Path::new("/nonexistent")), 0);
    }
}
