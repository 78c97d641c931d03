#!/usr/bin/env bash
# Runs the daemons as containers on the hosts of a lab, by the commands of docs/install.md ("Containers"): requests are
# migrated, and downloads go on while each container is stopped, killed and started. Not a part of the gate; needs podman.
#   tests/containers.sh            with the static programs that package.sh makes
#   BATON_BIN_DIR=DIR tests/containers.sh   with static programs that are there
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
# shellcheck source=../netns-lab/setup.sh
source netns-lab/setup.sh
[ "$(id -u)" -eq 0 ] || exec ${root_words[@]+"${root_words[@]}"} "$0" "$@"

need podman  podman    "builds images and runs containers"
need runc    runc      "starts the containers' programs"
need nginx   nginx     "the server that runs unmodified on every target"
need curl    curl      "the client that downloads"
need ip      iproute2  "makes the network namespaces and links of the lab"
need nsenter util-linux "runs programs inside the namespaces"
install_needed
check_kernel
check_rust
target=$(target_dir)
if [ -z "${BATON_BIN_DIR:-}" ]; then
    ./package.sh --static >&2
    BATON_BIN_DIR=$target/$(uname -m)-unknown-linux-musl/release
fi
export BATON_BIN_DIR
cargo build --quiet --locked -p netns-lab
lab=$target/debug/netns-lab name=containers-$$
vip=10.90.1.100
declare -A node=([lb1]=intermediate [web1]=target1 [web2]=target2) address=([lb1]=10.90.1.2 [web1]=10.90.101.2 [web2]=10.90.102.2)

work=$(mktemp -d /var/tmp/baton-containers.XXXXXX)
declare -A holder=()
end() {
    local rc=$? host
    trap - EXIT
    for host in "${!holder[@]}"; do
        [ "$rc" -eq 0 ] || on "$host" sh -c 'for c in $(podman ps -aq); do podman logs --tail 20 $c; done' >&2 || true
        on "$host" podman rm --all --force --time 20 >/dev/null 2>&1 || true
        on "$host" podman rmi --all --force >/dev/null 2>&1 || true
        kill "${holder[$host]}" 2>/dev/null || true
    done
    "$lab" down --name "$name" >&2 || true
    rm -rf "$work"
    rmdir --ignore-fail-on-non-empty /etc/baton /run/baton /var/log/baton || true
    find /sys/fs/cgroup -path '*/libpod_parent*' -depth -type d -exec rmdir {} + 2>/dev/null || true
    exit "$rc"
}
trap end EXIT

# on HOST COMMAND...: runs a command on a host.
on() {
    local host=$1
    shift
    nsenter --mount="/proc/${holder[$host]}/ns/mnt" --net="/proc/${holder[$host]}/ns/net" -- "$@"
}
say() { echo "== $*"; }
# eventually WHAT COMMAND...: waits until a command succeeds.
eventually() {
    local what=$1 tries
    shift
    for tries in $(seq 200); do
        ! "$@" >/dev/null 2>&1 || return 0
        sleep 0.1
    done
    echo "tests/containers.sh: not within ${tries} tries: $what" >&2
    return 1
}

"$lab" up --name "$name" --targets 2 --balancer none >&2

# A host has directories, a bpffs and a store of images of its own.
# Without what a machine for tests may not have: systemd with its journal, control groups of one version, and the right to
# raise limits (podman's default is to raise these two, crun raises a third).
cat >"$work/containers.conf" <<CONF
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile=$(ulimit -Hn):$(ulimit -Hn)", "nproc=8192:8192"]
CONF
export CONTAINERS_CONF=$work/containers.conf
mkdir -p /etc/baton /run/baton /var/log/baton /var/lib/containers /run/containers /run/libpod
for host in lb1 web1 web2; do
    mkdir -p "$work/$host"/{etc,run,log,images}
    # shellcheck disable=SC2016 # the host's shell fills them in
    "$lab" exec --name "$name" "${node[$host]}" -- unshare --mount --propagation private sh -c '
        set -e
        mount --bind $1/etc /etc/baton
        mount --bind $1/run /run/baton
        mount --bind $1/log /var/log/baton
        mount --bind $1/images /var/lib/containers
        for dir in /run/containers /run/libpod /dev/shm; do mount -t tmpfs tmpfs $dir; done
        mount -t bpf bpf /sys/fs/bpf
        echo $$ >$1/pid
        exec sleep infinity' sh "$work/$host" &
    eventually "$host is there" test -s "$work/$host/pid"
    holder[$host]=$(cat "$work/$host/pid")
done

say "certificates and configuration, as for the packages"
(cd "$work" && "$BATON_BIN_DIR/intermediate" certs --dir certs --intermediate "lb1=${address[lb1]}" \
    --agent "web1=${address[web1]}" --agent "web2=${address[web2]}" >&2)
for host in lb1 web1 web2; do
    cp "$work/certs/ca.pem" "$work/certs/$host".{pem,key} "$work/$host/etc/"
done
sed -e "s/192.0.2.100/$vip/; s/192.0.2.21/${address[web1]}/" intermediate/package/intermediate.toml >"$work/lb1/etc/intermediate.toml"
cat >>"$work/lb1/etc/intermediate.toml" <<TOML

[[target]]
name = "web2"
server = "${address[web2]}:80"
agent = "${address[web2]}:7400"
TOML
for host in web1 web2; do
    sed -e "s/192.0.2.100/$vip/; s/192.0.2.21/${address[$host]}/; s/web1/$host/" target-agent/package/target-agent.toml \
        >"$work/$host/etc/target-agent.toml"
done
on lb1 ip address add $vip/32 dev eth0

# block N: the Nth block of commands of the document's section.
block() {
    awk -v want="$1" '/^## /{ here = $2 == "Containers"; next }
        here && /^```sh/ { n++; inside = 1; next } /^```/ { inside = 0 } here && inside && n == want' docs/install.md
}
build=$(block 1 | sed "/package.sh/d; s,target/x86_64-unknown-linux-musl/release,$BATON_BIN_DIR,")
declare -A run=([lb1]=$(block 2) [web1]=$(block 3) [web2]=$(block 3))
declare -A container=([lb1]=baton-intermediate [web1]=baton-target-agent [web2]=baton-target-agent)
declare -A socket=([lb1]=intermediate [web1]=target-agent [web2]=target-agent)

ready() { on "$1" curl -sf --unix-socket "/run/baton/${socket[$1]}.sock" http://baton/readyz; }
for host in web1 web2 lb1; do
    image=${container[$host]/-//}
    say "$host: build, run"
    on "$host" sh -euc "cd $root; $(grep -e "$image" -e '^cp ' <<<"$build")" >&2
    on "$host" sh -euxc "${run[$host]}"
    eventually "$host is ready" ready "$host"
done

# What a container's daemon is left.
for host in lb1 web1 web2; do
    pid=$(on "$host" podman inspect --format '{{.State.Pid}}' "${container[$host]}")
    said=$(grep -E '^(CapBnd|NoNewPrivs|Seccomp):' "/proc/$pid/status" | tr -s '\t\n' ' ')
    say "$host: $said"
    [[ $said == *'NoNewPrivs: 1 Seccomp: 2'* ]]
    [ "$(on "$host" podman inspect --format '{{.HostConfig.Privileged}}' "${container[$host]}")" = false ]
    on "$host" podman exec "${container[$host]}" "${socket[$host]}" doctor | tail -1
done

# get FILE: downloads it through the VIP, at a rate that leaves time for what happens meanwhile.
get() {
    "$lab" exec --name "$name" client1 -- curl -sf --max-time 100 --limit-rate "${2:-1G}" "http://$vip/$1"
}
www=/var/lib/baton-lab/$name/www
same() { [ "$(sha256sum <"$1")" = "$(sha256sum <"$www/$2")" ]; }
# in_status PART: whether the tool in the intermediate's container says so.
in_status() { on lb1 podman exec baton-intermediate baton status | grep -q "$1"; }

say "a request is migrated"
get 10k >"$work/10k"
same "$work/10k" 10k
eventually "it is migrated" in_status 'requests   1 migrated'
on lb1 podman exec baton-intermediate baton migrations

# Each container is stopped and started, then killed and started, while a download goes on.
flows() { on lb1 podman exec baton-intermediate baton flows --json | grep -o '"id": *"[0-9a-f]*"' | sort; }
# fresh OLD: a flow that is not among these.
fresh() { comm -13 <(echo "$1") <(flows) | grep -m1 .; }
known() { flows | grep -qF "$1"; }
for host in lb1 web1 web2; do
    for way in 'stop --time 20' 'kill --signal KILL'; do
        say "$host: podman $way, podman start, under a download"
        before=$(flows || true)
        get 100m 8M >"$work/100m" &
        download=$!
        eventually "its flow is there" fresh "$before"
        flow=$(fresh "$before")
        eventually "bytes of it come" test -s "$work/100m"
        # shellcheck disable=SC2086 # words
        on "$host" podman $way "${container[$host]}" >/dev/null
        ! ready "$host" >/dev/null || { echo "it still answers" >&2; exit 1; }
        # Stopped by hand, it is not started again by itself.
        on "$host" podman start "${container[$host]}" >/dev/null
        eventually "$host is ready" ready "$host"
        eventually "lb1 knows the flow" known "$flow"
        kill -0 $download || { echo "the download was over before" >&2; exit 1; }
        wait $download
        same "$work/100m" 100m
    done
done
say "a request is migrated, still"
count() { on lb1 podman exec baton-intermediate baton status --json | grep -o '"migrated": *[0-9]*' | head -n1; }
before=$(count)
more() {
    get 10k >"$work/10k" && same "$work/10k" 10k && [ "$(count)" != "$before" ]
}
eventually "one more is migrated" more
say "PASSED: $(podman --version), $(runc --version | head -n1)"
