//! What Baton's two daemons have in common: all they need of the outside world.
//!
//! Judgement about packets, requests and the protocol is in `baton-shared`; here are the configuration file with
//! errors that name their place, certificates, the control channel's transport, the TUN device, the admin
//! endpoint, `doctor`, capabilities and logs.

pub mod admin;
pub mod capture;
pub mod certs;
pub mod config;
pub mod control;
pub mod cpu_latency;
pub mod doctor;
pub mod hashed_key;
pub mod logging;
pub mod metrics;
pub mod own;
pub mod privileges;
pub mod random;
pub mod service;
pub mod tls;
pub mod tun;

mod sys;

pub use sys::watch;

/// A test says so when it cannot run here; where none may be skipped it fails instead.
#[cfg(test)]
pub(crate) fn skipped(reason: &str) {
    println!("SKIPPED: {reason}");
    assert!(std::env::var_os("BATON_NO_SKIPS").is_none(), "skipped where no test may be: {reason}");
}
