#!/usr/bin/env bash
# Make Baton's packages (.deb): baton-intermediate, baton-target-agent and baton, the command-line tool. Installs what is
# missing (and says what), builds the release, and prints where the packages are.
#   ./package.sh                                  into target/debian
#   ./package.sh --out DIR                        into DIR
#   ./package.sh --binaries DIR [--out DIR]       of programs that are built already, as they are
#   ./package.sh --fast ...                       larger packages, sooner
#   ./package.sh --static ...                     of programs without libraries (musl), for any distribution and for
#                                                 containers; they are in target/ARCH-unknown-linux-musl/release
set -euo pipefail
# The directories that are named are the caller's.
caller=$PWD
cd "$(dirname "$0")"
# shellcheck source=netns-lab/setup.sh
source netns-lab/setup.sh

out='' binaries='' static='' how=()
while [ $# -gt 0 ]; do
    case $1 in
        --out | --binaries)
            [ -n "${2:-}" ] || { echo "package.sh: $1 needs a directory" >&2; exit 2; }
            declare "${1#--}=$(cd "$caller" && realpath -m -- "$2")"
            shift 2 ;;
        --static) static=$(uname -m)-unknown-linux-musl; shift ;;
        --fast) how+=(--fast -Zgz --compress-system); shift ;;
        *) echo "package.sh: unknown option $1; its first lines say which there are" >&2; exit 2 ;;
    esac
done

if [ -z "$binaries" ]; then
    need cc        build-essential         "links Rust programs and compiles two small C parts (TUN device, cryptography)"
    need dpkg-shlibdeps dpkg-dev           "finds out which libraries' packages are needed"
    need update-ca-certificates ca-certificates "lets cargo trust the sites it downloads from"
    [ -z "$static" ] || need musl-gcc musl-tools "compiles the two C parts for programs without libraries"
    install_needed
fi
check_rust
check_cargo_deb
target=$(target_dir)
out=${out:-$target/debian}
if [ -z "$binaries" ]; then
    echo "building (release) the daemons and the tool; the first time takes some minutes" >&2
    binaries=$target/release
    where=()
    if [ -n "$static" ]; then
        check_rust_target "$static"
        # musl-gcc knows no headers of Linux: they are the distribution's, behind musl's own.
        export "CFLAGS_${static//-/_}=-idirafter /usr/include -idirafter /usr/include/$(cc -dumpmachine)"
        binaries=$target/$static/release where=(--target "$static")
    fi
    cargo build --release --locked --quiet ${where[@]+"${where[@]}"} -p intermediate -p target-agent -p baton-cli
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if [ -n "$static" ]; then
    # In a root with nothing else they start, or need something after all.
    alone=$scratch/alone
    mkdir "$alone"
    for program in intermediate target-agent baton; do
        cp "$binaries/$program" "$alone/"
        as_root chroot "$alone" "/$program" --version >&2
    done
fi

# What goes into the packages, as cargo-deb expects to find it: below a target directory.
stage=$scratch/stage
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
