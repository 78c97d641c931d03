//! Gives handed-off connections to the local server.

mod adopt;
mod copies;
pub(crate) mod engine;
pub(crate) mod handoff;
pub(crate) mod inspect;
mod leaving;
pub(crate) mod packet;
pub(crate) mod preflight;
mod probe;
pub(crate) mod recall;
mod sending;
pub(crate) mod ways;

pub(crate) use engine::Engine;
