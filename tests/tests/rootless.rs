//! Labs without root: as the user nobody, with no capability at all. Its `/dev/net/tun` is one that all may open, as udev
//! makes it.
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

use baton_tests::skip;
use netns_lab::command;
use std::process::{Command, Output};

/// Runs a script as nobody, with `$LAB` the lab's command.
fn as_nobody(script: &str) -> Output {
    let prepare = "mount -t tmpfs tmpfs /mnt && mknod -m 666 /mnt/tun c 10 200 && \
                   mount --bind /mnt/tun /dev/net/tun && cd /tmp";
    let nobody = "exec setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set -all";
    let script = format!("{prepare} && {nobody} bash -c '{script}'");
    let lab = command::built("netns-lab").unwrap();
    Command::new("unshare").args(["--mount", "bash", "-c", &script]).env("LAB", lab).output().unwrap()
}

/// Whether the machine lets ordinary users do it; if not, the test is skipped.
fn can_run(test: &str) -> bool {
    if !skip::lab_can_run(test) {
        return false;
    }
    if !as_nobody("unshare --user --map-root-user --net true").status.success() {
        skip::skip(test, "this kernel does not let ordinary users make user namespaces");
        return false;
    }
    if !as_nobody("test -x $LAB").status.success() {
        skip::skip(test, "the user nobody cannot reach the directory this was built in");
        return false;
    }
    true
}

#[test]
fn the_demo_runs_in_an_unprivileged_user_namespace() {
    if !can_run("rootless") {
        return;
    }
    let output = as_nobody("$LAB demo --plane userspace --rootless --requests 4 --path /10m --json");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["ok"], &report["migrated"]), (&true.into(), &4.into()), "{report}");
}

#[test]
fn a_lab_is_left_up_used_and_taken_down_without_root() {
    if !can_run("rootless-up") {
        return;
    }
    let name = format!("r{}", std::process::id());
    let which = format!("--rootless --name {name}");
    let fetch = format!("$LAB exec {which} client1 -- curl -s -w \"%{{http_code}} \" -o /dev/null");
    let output = as_nobody(&format!(
        "set -e; $LAB up {which} --targets 1 --plane userspace
         ! $LAB up {which} --plane userspace
         for n in 1 2 3; do {fetch} http://10.90.1.100/10k; done
         $LAB exec {which} intermediate -- id -u
         $LAB exec {which} client1 -- sh -c \"exit 7\" || echo code $?
         $LAB down {which}
         ! $LAB exec {which} client1 -- true
         ! $LAB down {which}"
    ));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    for expected in ["200 200 200 0\n", "code 7\n", &format!("lab {name} is down\n")] {
        assert!(out.contains(expected), "no {expected:?} in:\n{out}{err}");
    }
    assert!(err.contains(&format!("a lab called {name} is up already")), "{err}");
    assert_eq!(
        err.matches(&format!("there is no lab called {name} that was brought up")).count(),
        2,
        "{err}"
    );
    // Nothing of it is left, no process either.
    let left = Command::new("pgrep").args(["-u", "65534", "-f", &name]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    assert!(!std::env::temp_dir().join("baton-lab-65534").join(&name).exists());
}
