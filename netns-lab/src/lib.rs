//! The lab: client, router, intermediate and targets as network namespaces of this machine.
//!
//! [`Lab::up`] brings a whole system up, as `netns-lab up` does, and dropping the [`Lab`] takes it down again, on success,
//! failure and panic. Every link is made inside the lab's namespaces, so nothing appears in the machine's own one.
//!
//! ```text
//!   client1 --+                 +-- intermediate (VIP 10.90.1.100)
//!   client2 --+----- router ----+-- target1
//!      ...                      +-- target2 ...
//! ```
//!
//! Each node has one device, `eth0`; its other end, on the router, is named after the node. A target's packets to a
//! client pass the router, never the intermediate.

pub mod bench;
pub mod command;
mod config;
pub mod content;
pub mod cost;
pub mod counters;
pub mod demo;
pub mod http;
pub mod impair;
pub mod interrupt;
mod kept;
mod lab;
mod managed;
mod network;
pub mod plan;
mod prepare;
mod process;
mod remove;
pub mod rootless;
mod server_cert;
pub mod spec;
mod state;
mod steer;
pub mod sys;

pub use counters::{EndCounters, LinkCounters};
pub use impair::Impairment;
pub use lab::Lab;
pub use managed::Manager;
pub use process::ProcessRecord;
pub use remove::{down, labs, running_owner, sweep};
pub use spec::{Balancer, Family, LabSpec, Plane, Rate, Serve};
pub use state::{LabState, NodeState};
pub use steer::Program;
