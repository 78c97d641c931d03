#!/usr/bin/env bash
# See Baton work: installs what is missing (and says what), builds, and shows a migration with its proof in a lab of
# network namespaces. Options are those of `netns-lab demo`, for example: ./demo.sh --targets 4 --requests 100 --path /1m
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=netns-lab/setup.sh
source netns-lab/setup.sh

need nginx     nginx                   "the server that runs unmodified on every target"
need curl      curl                    "the client that downloads"
need ip        iproute2                "makes the network namespaces and links of the lab"
need nsenter   util-linux              "runs programs inside the namespaces"
need cc        build-essential         "links Rust programs and compiles two small C parts (TUN device, cryptography)"
need update-ca-certificates ca-certificates "lets curl and cargo trust the sites they download from"
install_needed
check_kernel
check_rust

# BATON_PROFILE=dev takes what the tests were built as.
profile=${BATON_PROFILE:-release}
folder=${profile/%dev/debug}
echo "building ($profile) the daemons and the lab; the first time takes some minutes" >&2
cargo build --profile "$profile" --locked --quiet -p intermediate -p target-agent -p netns-lab
case " $* " in
    *" --rootless "*) "$(target_dir)/$folder/netns-lab" demo "$@" ;;
    *) as_root "$(target_dir)/$folder/netns-lab" demo "$@" ;;
esac
