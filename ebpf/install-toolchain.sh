#!/usr/bin/env bash
# Installs what ebpf/build.sh needs, if missing, and says what. Users do not need it: the object is committed.
set -euo pipefail
RUST=1.95.0
LINKER=0.13.0
LLVM=22

export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
say() { echo "ebpf/install-toolchain.sh: $*"; }
if [ "$(id -u)" = 0 ]; then root=(); else root=(sudo); fi

packages=(llvm-$LLVM llvm-$LLVM-dev libpolly-$LLVM-dev libzstd-dev zlib1g-dev libxml2-dev libffi-dev build-essential curl ca-certificates)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  "${root[@]}" apt-get update -q
  if ! apt-cache show "llvm-$LLVM" > /dev/null 2>&1; then
    . /etc/os-release
    say "adding apt.llvm.org for LLVM $LLVM"
    "${root[@]}" apt-get install -q -y --no-install-recommends curl ca-certificates
    curl --proto '=https' -sSf https://apt.llvm.org/llvm-snapshot.gpg.key | "${root[@]}" tee /etc/apt/trusted.gpg.d/apt.llvm.org.asc > /dev/null
    echo "deb https://apt.llvm.org/$VERSION_CODENAME/ llvm-toolchain-$VERSION_CODENAME-$LLVM main" | "${root[@]}" tee /etc/apt/sources.list.d/llvm-$LLVM.list > /dev/null
    "${root[@]}" apt-get update -q
  fi
  say "installing packages: ${missing[*]}"
  "${root[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

if ! command -v rustup > /dev/null; then
  say "installing rustup"
  curl --proto '=https' -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain "$RUST"
fi
if ! rustup run "$RUST" rustc --version > /dev/null 2>&1; then
  say "installing Rust $RUST"
  rustup toolchain install "$RUST" --profile minimal
fi
if [ ! -d "$(rustup run "$RUST" rustc --print sysroot)/lib/rustlib/src/rust/library/core" ]; then
  say "installing rust-src of Rust $RUST"
  rustup component add rust-src --toolchain "$RUST"
fi

if [ "$(bpf-linker --version 2> /dev/null)" != "bpf-linker $LINKER" ]; then
  say "building bpf-linker $LINKER (a minute or two)"
  PATH="/usr/lib/llvm-$LLVM/bin:$PATH" LLVM_PREFIX="/usr/lib/llvm-$LLVM" \
    cargo "+$RUST" install bpf-linker --version "$LINKER" --locked --force --no-default-features --features "llvm-$LLVM"
fi
say "rustc $RUST with rust-src, bpf-linker $LINKER and LLVM $LLVM are there"
