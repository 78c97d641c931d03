//! Loads, attaches and pins Baton's eBPF programs.
