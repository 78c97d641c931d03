//! Baton's intermediate.
fn main() {}
