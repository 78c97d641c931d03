//! The daemons as a build with another version number: copies that differ in nothing else.

use netns_lab::command;
use std::path::Path;
use std::{fs, io};

/// What this workspace's daemons say.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version after this one, of as many bytes.
pub fn next_version() -> String {
    let mut digits = VERSION.to_owned();
    let last = digits.pop();
    digits.push(if last == Some('1') { '2' } else { '1' });
    digits
}

/// Copies both daemons into `dir`, with the next version's number wherever they have this one's.
///
/// # Errors
/// When they are not built, or have no such number.
pub fn of_next_version(dir: &Path) -> io::Result<()> {
    let (old, new) = (VERSION.as_bytes(), next_version());
    for daemon in ["intermediate", "target-agent"] {
        let from = command::built(daemon).map_err(io::Error::other)?;
        let mut program = fs::read(&from)?;
        let mut count = 0;
        let mut at = 0;
        while let Some(rest) = program.get_mut(at..) {
            let Some(found) = rest.windows(old.len()).position(|bytes| bytes == old) else { break };
            if let Some(here) = rest.get_mut(found..found + old.len()) {
                here.copy_from_slice(new.as_bytes());
            }
            at += found + old.len();
            count += 1;
        }
        if count == 0 {
            return Err(io::Error::other(format!("{daemon} says no {VERSION}")));
        }
        let to = dir.join(daemon);
        fs::write(&to, program)?;
        // Executable, as it was.
        fs::set_permissions(&to, fs::metadata(&from)?.permissions())?;
    }
    Ok(())
}
