//! Connections made from a SYN cookie (`net.ipv4.tcp_syncookies=2`, on the intermediate and on the target). The
//! listener has forgotten the SYN: what it needs of it is in its own number and in its timestamp.

use crate::place::{Place, Row};
use crate::rows;
use baton_tests::peer::{Options, PATIENCE, Start};

pub(crate) const ALONE: &[Row] = rows![
    cookie_with_all_options,
    cookie_of_a_client_whose_clock_is_past_the_sign,
    cookie_of_a_client_whose_clock_wraps,
    cookie_without_timestamps,
    cookie_without_any_option,
    cookie_on_the_target_too,
    cookies_of_a_client_of_linux,
];

/// Two files from a VIP that answers every SYN with a cookie, then a close in good order: migrated, and right.
fn two_files(place: &Place, options: Options) {
    let _restore = place.set_sysctl("intermediate", "net/ipv4/tcp_syncookies", "2");
    let mut peer = place.open(&Start { options, ..Start::default() });
    peer.window = (64_240 >> peer.watch().scales().0).max(1);
    // Nobody could tell the server the client's clock.
    peer.watch_mut().allow_no_echo();
    place.fetch(&mut peer, "10k");
    place.expect_migrated(&peer);
    // Longer than the server's first window, so that it must have taken the client's acknowledgements.
    place.fetch(&mut peer, "100k");
    place.close(&mut peer);
}

fn with_clock(value: u32) -> Options {
    Options { timestamps: Some((value, 0)), ..Start::default().options }
}

fn cookie_with_all_options(place: &Place) {
    two_files(place, Start::default().options);
}

fn cookie_of_a_client_whose_clock_is_past_the_sign(place: &Place) {
    // Before 0, as a server compares them (RFC 7323, section 5).
    two_files(place, with_clock(0xc000_0000));
    two_files(place, with_clock(1 << 31));
}

fn cookie_of_a_client_whose_clock_wraps(place: &Place) {
    two_files(place, with_clock(u32::MAX - 2));
    two_files(place, with_clock(u32::MAX - 6));
}

fn cookie_without_timestamps(place: &Place) {
    // Without timestamps a cookie keeps neither SACK nor scales.
    two_files(place, Options { timestamps: None, ..Start::default().options });
}

fn cookie_without_any_option(place: &Place) {
    two_files(place, Options { mss: Some(1460), ..Options::default() });
}

fn cookie_on_the_target_too(place: &Place) {
    let _restore = place.set_sysctl("target1", "net/ipv4/tcp_syncookies", "2");
    two_files(place, Options { timestamps: None, ..Start::default().options });
    two_files(place, Start::default().options);
    two_files(place, with_clock(0xc000_0000));
}

fn cookies_of_a_client_of_linux(place: &Place) {
    let _restore = place.set_sysctl("intermediate", "net/ipv4/tcp_syncookies", "2");
    let counts = || (place.t.migrated(), place.t.all_proxied());
    let (migrated, proxied) = counts();
    let path = place.t.lab.www_dir().join("100k");
    for n in 0..10 {
        let command = format!(
            "curl -sS --fail -o /dev/null -w '%{{size_download}}' http://{0}/1m && \
             curl -sS --fail -T {1} http://{0}/upload/cookie{n} && cmp {1} {2}",
            place.vip(),
            path.display(),
            place.t.lab.upload_dir("target1").join(format!("cookie{n}")).display()
        );
        let said = place.t.lab.output("client1", &["bash", "-c", &command]).unwrap();
        assert!(said.starts_with("1048576"), "{said}");
        let remove = place.t.lab.upload_dir("target1").join(format!("cookie{n}"));
        std::fs::remove_file(remove).unwrap();
    }
    // An answer may be there before its handoff is counted.
    place.t.eventually("all are counted", PATIENCE, |_| counts() == (migrated + 20, proxied));
}
