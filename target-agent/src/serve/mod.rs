//! Gives handed-off connections to the local server.

pub(crate) mod engine;
pub(crate) mod handoff;
pub(crate) mod packet;

pub(crate) use engine::Engine;
