#!/usr/bin/env bash
# Test Baton: installs what is missing (and says what), then format, lints and all tests. Tests that cannot run on this
# machine say SKIPPED and why; with BATON_NO_SKIPS=1 a skip is a failure.
# Arguments go to `cargo test`, for example: ./test.sh -p baton-shared
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=netns-lab/setup.sh
source netns-lab/setup.sh

need nginx     nginx                   "the server that runs unmodified on every target"
need haproxy   haproxy                 "a plain proxy to compare with"
need chromium  chromium                "a browser that visits the lab's site"
need wrk       wrk                     "makes load over kept connections, for the benchmark"
need ab        apache2-utils           "makes load with a new connection for each request, for the benchmark"
need curl      curl                    "the client that downloads"
need ip        iproute2                "makes the network namespaces and links of the lab"
need nsenter   util-linux              "runs programs inside the namespaces"
need systemd-analyze systemd            "checks the packages' units"
need promtool  prometheus              "checks the alert rules and the dashboard's expressions"
need tshark    tshark                  "reads a capture, as docs/install.md says"
need ps        procps                  "shows processes; sysctl"
need cc        build-essential         "links Rust programs and compiles two small C parts (TUN device, cryptography)"
need update-ca-certificates ca-certificates "lets curl and cargo trust the sites they download from"
install_needed
check_kernel
check_rust rustfmt clippy
check_cargo_deb

step() { echo "== $*" >&2; "$@"; }
step cargo fmt --all --check
step cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
# The intermediate without its exporter of traces is built by nobody here but must not rot.
step cargo clippy -p intermediate --no-default-features --locked --quiet -- -D warnings
# The lab starts the daemons themselves, not their test builds.
step cargo build --workspace --locked --quiet
# Labs need root, and so do the tests that load programs into the kernel. Only the tests run as root, not cargo: what it
# builds stays the user's.
if [ ${#root_words[@]} -gt 0 ]; then
    host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${host}_RUNNER=${root_words[*]}"
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
step cargo test --workspace --locked --quiet "$@" 2>&1 | tee "$log"
# A test that starts itself again in a namespace prints a result of its own; those filtered all others out.
passed=$(awk '/^test result:/ && / 0 filtered out/ { n += $4 } END { print n + 0 }' "$log")
skipped=$(grep -c '^SKIPPED:' "$log" || true)
echo "$passed passed, 0 failed, $skipped skipped"
