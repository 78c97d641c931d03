#!/usr/bin/env bash
# Runs the tests that load the eBPF programs under other kernels, in QEMU without KVM: Debian's kernels, this machine's
# files read-only. Needs qemu-system-x86, busybox and cpio, and Debian's archive keyring. Not a part of the gate.
#   ebpf/kernels.sh              5.10 and 6.1 (no TCX), 6.12, 7.2 (newest in Debian's backports)
#   ebpf/kernels.sh 5.10         one of them; about three minutes each
#   BATON_RANDOM_PACKETS=20000   more random packets than 3000
set -euo pipefail
cd "$(dirname "$0")/.."
root=$(pwd -P)

fail() { echo "ebpf/kernels.sh: $*" >&2; exit 1; }
for tool in qemu-system-x86_64 busybox cpio xz apt-get dpkg-deb cargo; do
  command -v "$tool" > /dev/null || fail "$tool is missing"
done

work=target/kernels
mkdir -p "$work"/apt/{lists/partial,cache/archives/partial}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || fail "$keyring is missing: apt-get install debian-archive-keyring"
cat > "$work/apt/sources.list" <<LIST
deb [signed-by=$keyring] http://deb.debian.org/debian-security bullseye-security main
deb [signed-by=$keyring] http://deb.debian.org/debian bookworm main
deb [signed-by=$keyring] http://deb.debian.org/debian trixie main
deb [signed-by=$keyring] http://deb.debian.org/debian trixie-backports main
LIST
apt=(-o "Dir::Etc::SourceList=$root/$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o "Dir::State::Lists=$root/$work/apt/lists" -o "Dir::Cache=$root/$work/apt/cache" -o "APT::Sandbox::User=$(id -un)")

# The newest image of a version, unpacked; prints its folder.
kernel() {
  local image into parts
  image=$(apt-cache "${apt[@]}" search --names-only "^linux-image-${1//./\\.}\\.[0-9+a-z.-]*amd64\$" | cut -d' ' -f1 |
    grep -vE 'cloud|-rt-' | sort -V | tail -1)
  [ -n "$image" ] || fail "Debian has no kernel $1 here"
  into=$root/$work/$image
  if [ ! -d "$into" ]; then
    # From 6.19 on an image is only a name for a binary and modules.
    parts=$(apt-cache "${apt[@]}" show "$image" | grep -oE 'linux-(binary|modules)-[^ ]+amd64' | sort -u || true)
    rm -rf "$into.new" && mkdir "$into.new"
    # shellcheck disable=SC2086 # package names have no spaces
    (cd "$into.new" && apt-get "${apt[@]}" --quiet=2 download "$image" $parts >&2 &&
      for deb in *.deb; do dpkg-deb -x "$deb" .; rm "$deb"; done)
    mv "$into.new" "$into"
  fi
  echo "$into"
}

# A first file system with busybox and the modules that reach this machine's root by 9p.
initramfs() {
  local from=$1 to=$2 module
  rm -rf "$to" && mkdir -p "$to"/{bin,lib,lib64,proc,sys,dev,host,modules}
  cp "$(command -v busybox)" "$to/bin/busybox"
  { ldd "$(command -v busybox)" 2> /dev/null || true; } | { grep -oE "/[^ ]+" || true; } | while read -r lib; do
    mkdir -p "$to$(dirname "$lib")" && cp -L "$lib" "$to$lib"
  done
  # In the order in which they need each other; a kernel that lacks one has it built in, or does without.
  local order=(virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci netfs fscache
    9pnet 9pnet_virtio 9p veth tun sch_ingress cls_bpf)
  local n=10
  for module in "${order[@]}"; do
    module=$(find "$from" -name "$module.ko" -o -name "$module.ko.xz" | head -1)
    case "$module" in
      '') ;;
      *.xz) xz -dc "$module" > "$to/modules/$n-$(basename "$module" .xz)" ;;
      *) cp "$module" "$to/modules/$n-$(basename "$module")" ;;
    esac
    n=$((n + 1))
  done
  cat > "$to/init" <<INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in /modules/*; do insmod \$module || echo "cannot load \$module"; done
mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose host /host || { echo "no root"; poweroff -f; }
for dir in proc sys dev; do mount -o bind /\$dir /host/\$dir; done
mount -t bpf bpf /host/sys/fs/bpf
# What is written goes to memory; a checkout below /tmp stays in sight.
mkdir -p /checkout; mount -o bind /host$root /checkout
mount -t tmpfs tmp /host/tmp; mount -t tmpfs run /host/run
[ -d /host$root ] || { mkdir -p /host$root; mount -o bind /checkout /host$root; }
ip link set lo up
chroot /host /bin/sh $root/$work/guest.sh
poweroff -f
INIT
  chmod +x "$to/init"
  (cd "$to" && find . | cpio --quiet -o -H newc) > "$to.cpio"
}

mapfile -t tests < <(
  { cargo test --no-run -p baton-tests --test differential; cargo test --no-run -p baton-loader --test instructions --test plane; } 2>&1 |
    sed -n 's/^ *Executable .*(\(.*\))$/\1/p'
)
[ ${#tests[@]} = 3 ] || fail "the tests do not build: cargo test --no-run -p baton-tests -p baton-loader"
{
  echo 'export PATH=/usr/sbin:/usr/bin:/sbin:/bin BATON_NO_SKIPS=1 RUST_BACKTRACE=0'
  echo "export BATON_RANDOM_PACKETS=${BATON_RANDOM_PACKETS:-3000}"
  echo 'uname -r'
  for test in "${tests[@]}"; do
    echo "if $root/$test --nocapture; then echo 'PASSED $(basename "${test%-*}")'; else echo 'FAILED $(basename "${test%-*}")'; fi"
  done
} > "$work/guest.sh"

versions=("$@")
[ $# -gt 0 ] || versions=(5.10 6.1 6.12 7.2)
apt-get "${apt[@]}" --quiet=2 update
bad=0
for version in "${versions[@]}"; do
  from=$(kernel "$version")
  initramfs "$from" "$root/$work/initramfs-$version"
  log=$work/$version.log
  echo "== $(basename "$from"), log in $log"
  timeout 900 qemu-system-x86_64 -machine q35,accel=tcg -cpu max -smp 2 -m 2048 -nographic -no-reboot -net none \
    -kernel "$(find "$from" -name 'vmlinuz*' | head -1)" -initrd "$work/initramfs-$version.cpio" -append 'console=ttyS0 quiet panic=-1 no_timer_check' \
    -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap < /dev/null > "$log" 2>&1 ||
    echo "QEMU ended with $?"
  grep -aE 'PASSED|FAILED|verified|panicked| ns |^(intermediate_ingress|target_egress|target_ingress|tun_reinject)' "$log" | tr -d '\r' || true
  [ "$(grep -ac '^PASSED' "$log")" = ${#tests[@]} ] || bad=1
done
[ $bad = 0 ] || fail "not all tests passed"
