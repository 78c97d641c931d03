//! Baton's eBPF programs: one per hook, each loads the facts, asks `shared` for the verdict, and acts.
//!
//! Built by `ebpf/build.sh` into `ebpf/object/baton.bpf.o`. On the host this is an empty program, so that the
//! workspace builds, tests and lints with stable Rust.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// One register constraint hides a pointer's origin from the optimiser, another bounds a length for the verifier.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch, core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    allow(internal_features, reason = "atomic_xadd is the one atomic of Linux 5.10")
)]

#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod programs;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod sock;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// The verifier refuses a program that could come here, which is what we want.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers may be called by programs under a GPL-compatible licence only; this crate is MIT or Apache-2.0,
/// and dual licensed for the kernel's purposes.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
