//! Baton's intermediate: owns the VIP, reads requests, hands connections to targets.
//!
//! The way of a connection: [`front`] accepts it and reads its head, the handoff half migrates it, [`proxy`]
//! serves what cannot migrate.

pub mod access_log;
pub mod admin;
pub mod config;
pub mod doctor;
pub mod explain;
pub mod flows;
pub mod front;
pub mod handoff;
pub mod health;
pub mod hold;
pub mod inspect;
pub mod leg_mtu;
pub mod metrics;
pub mod pools;
pub mod probe;
pub mod proxy;
pub mod raw;
pub mod relay;
pub mod reload;
pub mod reset;
pub mod ruling;
pub mod run;
pub mod site;
pub mod socket;
pub mod targets;
pub mod tls;
mod trace;
mod workers;
