//! Support for what no single crate can prove.

pub mod browser;
pub mod build;
pub mod client;
pub mod events;
pub mod exposition;
pub mod fuzzing;
pub mod gate_corpus;
pub mod http2;
pub mod hung;
pub mod kernel_counts;
pub mod lab;
pub mod load;
pub mod mistakes;
pub mod openapi;
pub mod peer;
pub mod skip;
pub mod sniff;
pub mod thousand;
pub mod two_pools;
pub mod weight;

mod sys;
