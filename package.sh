#!/usr/bin/env bash
# Make Baton's packages (.deb): baton-intermediate, baton-target-agent and baton, the command-line tool. Installs what is
# missing (and says what), builds the release, and prints where the packages are.
#   ./package.sh                                  into target/debian
#   ./package.sh --out DIR                        into DIR
#   ./package.sh --binaries DIR [--out DIR]       of programs that are built already, as they are
#   ./package.sh --fast ...                       larger packages, sooner
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=netns-lab/setup.sh
source netns-lab/setup.sh

out='' binaries='' how=()
while [ $# -gt 0 ]; do
    case $1 in
        --out) out=$2; shift 2 ;;
        --binaries) binaries=$2; shift 2 ;;
        --fast) how+=(--fast); shift ;;
        *) echo "package.sh: unknown option $1; its first lines say which there are" >&2; exit 2 ;;
    esac
done

if [ -z "$binaries" ]; then
    need cc        build-essential         "links Rust programs and compiles two small C parts (TUN device, cryptography)"
    need dpkg-shlibdeps dpkg-dev           "finds out which libraries' packages are needed"
    need update-ca-certificates ca-certificates "lets cargo trust the sites it downloads from"
    install_needed
fi
check_rust
check_cargo_deb
target=$(target_dir)
out=${out:-$target/debian}
if [ -z "$binaries" ]; then
    echo "building (release) the daemons and the tool; the first time takes some minutes" >&2
    cargo build --release --locked --quiet -p intermediate -p target-agent -p baton-cli
    binaries=$target/release
fi

# What goes into the packages, as cargo-deb expects to find it: below a target directory.
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
release=$stage/release
mkdir -p "$release/man" "$release/completions" "$out"
for program in intermediate target-agent baton; do
    ln -s "$(realpath "$binaries/$program")" "$release/$program"
    "$release/$program" man "$release/man"
done
gzip -9n "$release"/man/*
"$release/baton" completions bash >"$release/completions/baton"
"$release/baton" completions zsh >"$release/completions/_baton"
"$release/baton" completions fish >"$release/completions/baton.fish"
for crate in intermediate target-agent baton-cli; do
    CARGO_TARGET_DIR=$stage cargo deb --quiet --no-build --no-strip --locked ${how[@]+"${how[@]}"} -p "$crate" --output "$out/"
done
