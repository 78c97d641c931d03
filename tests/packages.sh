#!/usr/bin/env bash
# Does with the packages what tests/packages does, where the gate does not: on another Debian than this machine's (13 has a
# systemd that knows notify-reload), or with programs that need no library. Not a part of the gate.
#   tests/packages.sh trixie             on hosts with that Debian, which mmdebstrap fetches into target/ the first time
#   tests/packages.sh --static           of static programs (musl, release), with which a browser sees the page, too
#   tests/packages.sh --static trixie    both
#   BATON_BIN_DIR=DIR tests/packages.sh --static     of static programs that are there
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=../netns-lab/setup.sh
source netns-lab/setup.sh

static='' suite=''
for word in "$@"; do
    case $word in
        --static) static=$(uname -m)-unknown-linux-musl ;;
        -*) echo "tests/packages.sh: unknown option $word" >&2; exit 2 ;;
        *) suite=$word ;;
    esac
done
[ -n "$static$suite" ] || { sed -n 's/^#   //p' "$0" >&2; exit 2; }
[ -z "$suite" ] || need mmdebstrap mmdebstrap "makes a file system with another Debian"
need ldd libc-bin "tells which libraries a program needs"
install_needed
check_rust
target=$(target_dir)
tests=(--test packages)

if [ -n "$static" ]; then
    if [ -z "${BATON_BIN_DIR:-}" ]; then
        ./package.sh --static
        BATON_BIN_DIR=$target/$static/release
    fi
    export BATON_BIN_DIR
    for program in intermediate target-agent baton; do
        # Of one that is linked at a fixed address ldd says the other, and fails.
        said=$(ldd "$BATON_BIN_DIR/$program" 2>&1) || true
        case $said in
            *'statically linked' | *'not a dynamic executable') echo "$program: no library" >&2 ;;
            *) echo "tests/packages.sh: $program needs a library: $said" >&2; exit 1 ;;
        esac
    done
    tests+=(--test page)
else
    cargo build --quiet --locked -p intermediate -p target-agent -p baton-cli
fi
if [ -n "$suite" ]; then
    root=$target/debian-$suite
    if [ ! -d "$root" ]; then
        keyring=/usr/share/keyrings/debian-archive-keyring.gpg
        # What the packages' test does on a host, and what systemd looks for in a unit.
        as_root mmdebstrap --quiet --variant=apt --include=systemd,systemd-sysv,curl,iproute2,man-db,procps,tshark "$suite" "$root.new" \
            "deb [signed-by=$keyring] http://deb.debian.org/debian $suite main" >&2
        as_root mv "$root.new" "$root"
    fi
    export BATON_PACKAGES_ROOT=$root
    manager=$(as_root chroot "$root" systemctl --version | head -n1)
    echo "hosts have Debian $suite: $manager" >&2
fi
export BATON_NO_SKIPS=1
tests_as_root
cargo test --quiet --locked -p baton-tests "${tests[@]}"
