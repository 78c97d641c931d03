//! Baton's judgement, free of I/O, of the clock and of panics.
//!
//! What to do with a segment, a control message or a state is decided here, once, and used by the eBPF
//! programs and by the daemons alike. The crates around it load facts, call in here, and act.
//!
//! Without the `std` feature this is what the eBPF programs use: sequence arithmetic, addresses, flow records,
//! segment facts, the translation and plain requests. With it come the control messages and the daemons' state machines.
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

pub mod addr;
pub mod plain;
pub mod reason;
pub mod record;
pub mod seq;
pub mod translate;
pub mod wire;

#[cfg(feature = "std")]
pub mod access;
#[cfg(feature = "std")]
pub mod admission;
#[cfg(feature = "std")]
pub mod awake;
#[cfg(feature = "std")]
pub mod balance;
#[cfg(feature = "std")]
pub mod capture;
#[cfg(feature = "std")]
pub mod control;
#[cfg(feature = "std")]
pub mod health;
#[cfg(feature = "std")]
pub mod http;
#[cfg(feature = "std")]
pub mod pace;
#[cfg(feature = "std")]
pub mod packet;
#[cfg(feature = "std")]
pub mod probe;
#[cfg(feature = "std")]
pub mod route;
#[cfg(feature = "std")]
pub mod state;
#[cfg(feature = "std")]
pub mod termination;
#[cfg(feature = "std")]
pub mod tls;
