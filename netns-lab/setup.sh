# What demo.sh, test.sh and package.sh have in common; they source it.
# What is missing it installs, and says what and why: packages of the distribution, and for this user Rust (rustup) and
# cargo-deb. Nothing else on the machine is changed.

RUST_NEEDED=1.95
CARGO_DEB=3.8.0
missing=()

# rustup's usual place, where the shell was not started anew after its installation.
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"

# The words that make a command run as root: none as root, else sudo, keeping PATH, where this user's Rust is (root's home is
# another: the user's cargo would find no toolchain there) and the variables the tests know.
root_words=()
find_root_words() {
    [ "$(id -u)" -ne 0 ] || return 0
    if ! command -v sudo >/dev/null; then
        echo "this needs root (network namespaces): run it as root, or install sudo" >&2
        exit 1
    fi
    root_words=(sudo env "PATH=$PATH" "RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}" "CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}")
    local variable
    for variable in RUST_LOG RUST_BACKTRACE BATON_NO_SKIPS BATON_BIN_DIR BATON_SEEDS BATON_SERVE BATON_PLANE BATON_ROW \
        BATON_HANDOFFS BATON_SCREENSHOT BATON_UPGRADE_TO BATON_PACKAGES_ROOT; do
        [ -z "${!variable:-}" ] || root_words+=("$variable=${!variable}")
    done
}
find_root_words

# Labs need root, and so do the tests that load programs into the kernel. Only the tests run as root from here on, not cargo:
# what it builds stays the user's.
tests_as_root() {
    find_root_words
    [ ${#root_words[@]} -gt 0 ] || return 0
    local host
    host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${host}_RUNNER=${root_words[*]}"
}

as_root() {
    ${root_words[@]+"${root_words[@]}"} "$@"
}

# need PROGRAM PACKAGE WHY: notes that a package is to be installed if the program is not there.
need() {
    if ! PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null; then
        echo "missing: $1, from package $2: $3" >&2
        missing+=("$2")
    fi
}

# Installs what need() noted. No service is left running that was not before: the lab runs its own nginx and haproxy.
install_needed() {
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null; then
        echo "please install with your system's package manager: ${missing[*]}" >&2
        exit 1
    fi
    echo "installing with apt-get: ${missing[*]}" >&2
    # Debian starts a service when its package is installed; this file is the documented way to say no.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
        as_root sh -c 'printf "#!/bin/sh\nexit 101\n" >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d'
    fi
    local rc=0
    { as_root apt-get update -qq &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; \
    } >&2 || rc=$?
    if [ -n "$(trap -p EXIT)" ]; then
        as_root rm -f /usr/sbin/policy-rc.d
        trap - EXIT
    fi
    if [ "$rc" -ne 0 ]; then
        echo "apt-get could not install: ${missing[*]}" >&2
        exit 1
    fi
}

# What the lab cannot do without, said now and not after the build.
check_kernel() {
    if [ ! -e /dev/net/tun ] && ! as_root modprobe tun 2>/dev/null; then
        echo "this kernel has no TUN devices (/dev/net/tun); Baton needs them" >&2
        exit 1
    fi
}

# check_rust [COMPONENT...]: Rust is there, new enough, and has the components; else it is installed for this user with
# rustup, Rust's own installer (distributions ship older ones).
check_rust() {
    if ! command -v cargo >/dev/null; then
        install_rust "Rust is missing (cargo)"
    elif ! rust_is_new_enough; then
        if command -v rustup >/dev/null; then
            echo "Rust $(rust_version) is older than $RUST_NEEDED: rustup update stable" >&2
            rustup update stable >&2 && rustup default stable >&2
        else
            install_rust "Rust $(rust_version) is older than $RUST_NEEDED"
        fi
    fi
    if ! rust_is_new_enough; then
        echo "Rust $RUST_NEEDED or later is needed, found $(rust_version) at $(command -v cargo)" >&2
        exit 1
    fi
    local component
    for component in "$@"; do
        "cargo-${component/rustfmt/fmt}" --version >/dev/null 2>&1 && continue
        echo "missing: Rust's $component, for the checks" >&2
        if ! command -v rustup >/dev/null || ! rustup component add "$component" >&2; then
            echo "please install $component: rustup component add $component" >&2
            exit 1
        fi
    done
}

# check_rust_target TARGET: Rust's standard library for it is there; else rustup fetches it.
check_rust_target() {
    [ ! -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ] || return 0
    echo "missing: Rust's standard library for $1" >&2
    if ! command -v rustup >/dev/null || ! rustup target add "$1" >&2; then
        echo "please install Rust's standard library for $1: with rustup (https://rustup.rs) it is rustup target add $1" >&2
        exit 1
    fi
}

# cargo-deb, which makes the packages, in the version that they were tried with or a later one.
check_cargo_deb() {
    local found
    found=$(cargo deb --version 2>/dev/null) || found=none
    found=${found##* }
    [ "$found" = none ] || ! is_at_least "$CARGO_DEB" "$found" || return 0
    echo "missing: cargo-deb $CARGO_DEB (found: $found), which makes the packages: building it (some minutes) into ${CARGO_HOME:-$HOME/.cargo}/bin" >&2
    cargo install cargo-deb --version "$CARGO_DEB" --locked --quiet >&2
}

rust_version() {
    cargo --version | cut -d' ' -f2
}

rust_is_new_enough() {
    is_at_least "$RUST_NEEDED" "$(rust_version)"
}

# is_at_least VERSION FOUND
is_at_least() {
    [ "$(printf '%s\n' "$1" "${2%%-*}" | sort -V | head -n1)" = "$1" ]
}

# install_rust WHY
install_rust() {
    echo "$1: installing the stable toolchain into ${CARGO_HOME:-$HOME/.cargo} and ${RUSTUP_HOME:-$HOME/.rustup} with rustup (https://rustup.rs)" >&2
    if ! curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
        sh -s -- -y --quiet --no-modify-path --profile minimal --component rustfmt --component clippy >&2; then
        echo "rustup could not be installed; please install Rust $RUST_NEEDED or later and run this again" >&2
        exit 1
    fi
    # In front: an older cargo of the distribution must not be found first.
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    hash -r
    find_root_words
}

# Where cargo puts what it builds.
target_dir() {
    cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
}
