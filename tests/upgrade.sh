#!/usr/bin/env bash
# Upgrades the daemons from one commit's build to another's, under load: builds the named commit in a tree of its own with
# another version number, and runs the test of tests/lifecycle.rs between that and what stands here. Not a part of the gate.
#   tests/upgrade.sh from COMMIT VERSION     from that commit, as VERSION, to this checkout
#   tests/upgrade.sh to COMMIT VERSION       from this checkout to that commit, as VERSION; HEAD is a commit, too
# Builds below target/upgrade, the first time some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=../netns-lab/setup.sh
source netns-lab/setup.sh

case "$# ${1:-}" in
    '3 from' | '3 to') way=$1 version=$3 ;;
    *) sed -n 's/^#   //p' "$0" >&2; exit 2 ;;
esac
commit=$(git rev-parse --verify "$2^{commit}")
check_rust
other=$(target_dir)/upgrade
tree=$other/tree
rm -rf "$tree"
mkdir -p "$tree"
# All files are new to cargo, whichever commit was built here before.
git archive "$commit" | tar -x -m -C "$tree"
sed -i "s/^version = \".*\"/version = \"$version\"/" "$tree/Cargo.toml"
echo "building ${commit:0:7} as $version" >&2
# Not --locked: the lock file has the commit's own number.
(cd "$tree" && CARGO_TARGET_DIR=$other cargo build --quiet -p intermediate -p target-agent)
cargo build --quiet --locked -p intermediate -p target-agent
build=$other/debug
here=$(target_dir)/debug
if [ "$way" = from ]; then
    export BATON_BIN_DIR=$build BATON_UPGRADE_TO=$here
else
    export BATON_BIN_DIR=$here BATON_UPGRADE_TO=$build
fi
export BATON_NO_SKIPS=1
tests_as_root
cargo test --quiet --locked -p baton-tests --test lifecycle -- --nocapture --exact \
    daemons_that_are_stopped_killed_and_upgraded_cut_no_download_and_only_requests_in_hand_at_a_kill_fail
