//! What can go wrong with the data plane, each with what was tried.

use baton_shared::record::ABI_VERSION;
use baton_shared::record::former::READABLE;
use std::io;
use std::path::PathBuf;

/// Why the data plane could not be opened, attached or changed.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// The pin directory is not on a BPF file system.
    #[error(
        "{path} is not on a BPF file system, so maps and programs cannot be pinned there: \
         mount -t bpf bpf /sys/fs/bpf, or set plane.pin_dir"
    )]
    NotBpffs {
        /// The directory, or its nearest ancestor that exists.
        path: PathBuf,
    },
    /// No network device of this name in this network namespace.
    #[error("no network device {name:?} in this network namespace: {source}")]
    NoDevice {
        /// The device's name from the configuration.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file operation in the pin directory failed.
    #[error("{op} {path}: {source}")]
    Pin {
        /// What was tried.
        op: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel did not take the object: a map could not be made, or a program was refused by its verifier.
    #[error("cannot load {what}: {}", chain(.source.as_ref()))]
    Load {
        /// The object, program or map.
        what: &'static str,
        /// aya's report; with the verifier's log if there is one.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The program could not be put on the device.
    #[error("cannot attach {program} to {device} ({hook}): {}", chain(.source.as_ref()))]
    Attach {
        /// The program.
        program: &'static str,
        /// The device.
        device: String,
        /// TCX or clsact.
        hook: &'static str,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map operation failed.
    #[error("{op} on map {map}: {source}")]
    Map {
        /// What was tried.
        op: &'static str,
        /// The map.
        map: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The plane in user space could not lead packets through the TUN.
    #[error(transparent)]
    Steering(#[from] baton_userspace::SteeringError),
    /// Memory for the flow records.
    #[error("no memory for {flows} flow records: {source}")]
    Memory {
        /// How many were asked for.
        flows: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// Flows of a version whose records this one does not read.
    #[error(
        "{path} holds flows of another version (ABI {abi}; this one reads {}): start that version again and drain this host \
         before the change (baton drain, baton wait), or give them up: rm -r {path}",
        readable()
    )]
    OtherVersion {
        /// The other version's ABI.
        abi: u32,
        /// Where its maps are pinned.
        path: PathBuf,
    },
    /// The configuration asks for a table of no flows.
    #[error("plane.flows must be at least 1")]
    NoFlows,
}

/// Why a key was not inserted.
#[derive(Debug, thiserror::Error)]
pub enum InsertError {
    /// There is a flow with this key.
    #[error("a flow with this key exists")]
    Exists,
    /// The map is full.
    #[error("the flow map is full")]
    Full,
    /// Anything else the kernel says.
    #[error("bpf(BPF_MAP_UPDATE_ELEM) on FLOWS: {0}")]
    Os(io::Error),
}

/// The versions whose records this one reads, for people.
fn readable() -> String {
    let numbers: Vec<String> = READABLE.iter().chain([&ABI_VERSION]).map(u32::to_string).collect();
    numbers.join(", ")
}

/// An error with its causes, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        // aya's variants often repeat their cause.
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = next.source();
    }
    line
}
