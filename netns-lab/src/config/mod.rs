//! The configurations the lab writes for the programs it runs.

pub(crate) mod baton;
pub(crate) mod nginx;
pub(crate) mod proxy;
