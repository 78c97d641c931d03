use super::host::{filesystem_of, parse_version};
use super::*;

#[test]
fn a_failed_check_says_how_to_mend_it_and_sets_the_exit_code() {
    let good = Check::new("kernel", Status::Ok, "6.18", "helpers", "upgrade");
    let bad = Check::new("bpffs", Status::Fail, "not mounted", "pins", "mount it");
    let text = render(&[good.clone(), bad.clone()]);
    assert!(text.contains("ok    kernel  6.18\n"), "{text}");
    assert!(text.contains("FAIL  bpffs   not mounted\n"), "{text}");
    assert!(text.contains("mend: mount it") && !text.contains("upgrade"), "{text}");
    assert_eq!((exit_code(&[good]), exit_code(&[bad])), (0, 1));
}

#[test]
fn versions_and_mounts_are_read_right() {
    assert_eq!(parse_version("6.1.0-18-amd64"), Some((6, 1)));
    assert_eq!(parse_version("6.18-rc1"), Some((6, 18)));
    assert_eq!(parse_version("none"), None);
    let mounts = "22 1 8:1 / / rw - ext4 /dev/sda rw\n23 22 0:21 / /sys rw shared:7 - sysfs sysfs rw\n\
                  24 23 0:30 / /sys/fs/bpf rw - bpf bpf rw\n";
    assert_eq!(filesystem_of(mounts, Path::new("/sys/fs/bpf/baton")).unwrap(), "bpf");
    assert_eq!(filesystem_of(mounts, Path::new("/sys/fs/bpfother")).unwrap(), "sysfs");
    assert_eq!(filesystem_of(mounts, Path::new("/run/x")).unwrap(), "ext4");
}

#[test]
fn repair_is_really_tried() {
    let check = tcp_repair();
    if check.status == Status::Fail {
        crate::skipped(&check.found);
    }
}

#[test]
fn common_checks_name_what_is_missing_and_do_not_panic() {
    let tls = TlsFiles::in_dir(Path::new("/nonexistent"), "x");
    let checks = common(Role::Intermediate, "x", "nodevice0", Path::new("/nonexistent/pins"), &tls);
    let of = |name: &str| checks.iter().find(|c| c.name == name).unwrap();
    assert_eq!(of("uplink").status, Status::Fail);
    assert_eq!(of("certificates").status, Status::Fail);
    assert!(of("certificates").found.contains("/nonexistent/ca.pem"), "{:?}", of("certificates"));
    assert!(checks.iter().all(|c| !c.why.is_empty() && !c.mend.is_empty()));
}

#[test]
fn counts_of_connection_tracking_are_summed_over_processors() {
    let text = "entries  clashres found new invalid ignore\n00000001  00000000 00000000 00000000 00000010 00000000\n\
                00000001  00000000 00000000 00000000 0000000a 00000000\n";
    assert_eq!(super::network::sum_of("invalid", text), 26);
    assert_eq!((super::network::sum_of("drop", text), super::network::sum_of("invalid", "")), (0, 0));
}
