//! Baton's target agent.
fn main() {}
