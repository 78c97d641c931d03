#!/usr/bin/env bash
# Builds the eBPF programs into ebpf/object/baton.bpf.o, the same bytes on every machine.
#   ebpf/build.sh           build and replace the committed object
#   ebpf/build.sh --check   build and fail if the committed object differs, or the programs could panic
# The toolchain is pinned, since each compiler gives another object: ebpf/install-toolchain.sh installs it.
set -euo pipefail
cd "$(dirname "$0")/.."
RUST=1.95.0
LINKER=0.13.0

fail() { echo "ebpf/build.sh: $*" >&2; exit 1; }
need() { command -v "$1" > /dev/null || fail "$1 is missing: run ebpf/install-toolchain.sh"; }

check=no
case "${1:-}" in
  '') ;;
  --check) check=yes ;;
  *) fail "unknown argument $1 (only --check)" ;;
esac

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:/usr/lib/llvm-22/bin:$PATH"
need rustup; need bpf-linker; need llvm-strip; need llvm-nm
sysroot=$(rustup run "$RUST" rustc --print sysroot) || fail "Rust $RUST is missing: run ebpf/install-toolchain.sh"
[ -d "$sysroot/lib/rustlib/src/rust/library/core" ] || fail "rust-src of Rust $RUST is missing: run ebpf/install-toolchain.sh"
[ "$(bpf-linker --version)" = "bpf-linker $LINKER" ] || fail "$(bpf-linker --version) found, bpf-linker $LINKER needed: run ebpf/install-toolchain.sh"

cargo_home=$(cd "${CARGO_HOME:-$HOME/.cargo}" && pwd -P)
flags=(
  -Cdebuginfo=2 -Clink-arg=--btf -Clinker=bpf-linker -Ctarget-cpu=v3
  "--remap-path-prefix=$(pwd -P)=/baton"
  "--remap-path-prefix=$cargo_home=/cargo"
  "--remap-path-prefix=$sysroot=/rust"
)
# Stable Rust builds core from source only with this.
export RUSTC_BOOTSTRAP=1
# One flag per separator, since paths may hold spaces.
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS
unset RUSTFLAGS CARGO_BUILD_TARGET
cargo "+$RUST" build --quiet --locked -p baton-ebpf --bin baton-programs --profile bpf \
  -Z build-std=core --target bpfel-unknown-none --target-dir target/bpf
built=target/bpf/bpfel-unknown-none/bpf/baton-programs

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
# BTF stays; the line table in .BTF.ext is two thirds of the file and only decorates verifier logs.
llvm-strip -g --remove-section=.BTF.ext --remove-section=.rel.BTF.ext -o "$fresh/baton.bpf.o" "$built"
if llvm-nm "$fresh/baton.bpf.o" | grep -E 'panick|unwind' >&2; then
  fail "the programs can panic (above); the kernel would refuse them"
fi
object=ebpf/object/baton.bpf.o
if [ "$check" = yes ]; then
  cmp -s "$fresh/baton.bpf.o" "$object" || fail "$object is not what the sources give: run ebpf/build.sh and commit it"
  echo "$object is what the sources give ($(stat -c %s "$object") bytes)"
else
  mkdir -p ebpf/object
  cp "$fresh/baton.bpf.o" "$object"
  echo "$object: $(stat -c %s "$object") bytes"
fi
