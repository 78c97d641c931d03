//! Tests that need root and eBPF: they skip loudly where they cannot run, and CI allows no skips.

/// Whether this machine can run the lab; if not, says so in a line that starts with `SKIPPED:`.
///
/// # Panics
/// With `BATON_NO_SKIPS=1` in the environment instead of skipping.
pub fn lab_can_run(test: &str) -> bool {
    let Some(why) = hindrance() else { return true };
    skip(test, &why);
    false
}

/// Skips a test for a reason of its own.
///
/// # Panics
/// With `BATON_NO_SKIPS=1` in the environment.
pub fn skip(test: &str, why: &str) {
    assert!(std::env::var_os("BATON_NO_SKIPS").is_none_or(|v| v != "1"), "{test} may not be skipped: {why}");
    eprintln!("SKIPPED: {test}: {why}");
}

/// Whether a program that only this test needs is installed; if not, says so.
///
/// # Panics
/// With `BATON_NO_SKIPS=1` in the environment instead of skipping.
pub fn program(test: &str, program: &str) -> bool {
    let missing = netns_lab::command::find(program).err();
    if let Some(why) = &missing {
        skip(test, &why.to_string());
    }
    missing.is_none()
}

fn hindrance() -> Option<String> {
    if !std::fs::read_to_string("/proc/self/status").is_ok_and(|s| s.contains("\nUid:\t0\t0")) {
        return Some("needs root, for network namespaces and eBPF; run it with sudo".into());
    }
    for (path, why) in [
        ("/dev/net/tun", "needs TUN devices (modprobe tun)"),
        ("/sys/kernel/btf/vmlinux", "needs a kernel with BTF (CONFIG_DEBUG_INFO_BTF)"),
        ("/usr/sbin/nginx", "needs nginx (apt-get install nginx)"),
    ] {
        if !std::path::Path::new(path).exists() {
            return Some(format!("{why}: there is no {path}"));
        }
    }
    None
}
