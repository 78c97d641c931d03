//! Baton's eBPF programs.
fn main() {}
