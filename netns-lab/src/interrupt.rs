//! Ctrl-C and SIGTERM: noted in the handler, acted on where the lab waits, so that everything is cleaned up.

use anyhow::{Result, bail};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP no longer end the process; [`check`] fails after one came.
///
/// # Errors
/// When the handlers cannot be set.
pub fn install() -> Result<()> {
    Ok(crate::sys::on_termination(note)?)
}

/// Whether one of the signals came.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Fails if one of the signals came.
///
/// # Errors
/// "interrupted".
pub fn check() -> Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    Ok(())
}

/// Asks `done` until it says yes (true), the time is over (false), or a signal came.
///
/// # Errors
/// Those of `done`, and "interrupted".
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    loop {
        check()?;
        if done()? {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
