//! Files that are right, and what is said of those that are not.

use super::*;
use baton_shared::http::HeadLimits;

const PROXY: &str = r#"
name = "lb"
[[listener]]
vip = "127.0.0.1:8080"
mode = "proxy"
[[target]]
name = "t1"
server = "127.0.0.1:8081"
agent = "127.0.0.1:7400"
"#;

fn load(text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("i.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(&path)
}

/// The lines reported, without the directory.
fn problems(text: &str) -> Vec<String> {
    let error = load(text).unwrap_err();
    error.lines.iter().map(|line| line.rsplit_once("i.toml:").unwrap().1.to_owned()).collect()
}

#[test]
fn a_short_file_gets_the_documented_defaults() {
    let config = load(PROXY).unwrap();
    let limits = config.front_limits();
    assert_eq!(limits.head, HeadLimits::default());
    assert_eq!((limits.head_timeout, limits.connections), (Duration::from_secs(10), 10_000));
    assert!(!config.migrates() && config.migration_needs().is_none());
    assert_eq!(config.listener[0].keepalive(), KeepAlive::Tracked);
    assert!(config.meaning().contains("listener 127.0.0.1:8080: proxies all requests"));
    let handoff = config.handoff_settings(3);
    assert_eq!((handoff.deadline, handoff.freeze), (Duration::from_secs(2), Duration::from_secs(4)));
    assert_eq!((handoff.prefetch_bytes, handoff.hold.total), (262_144, 67_108_864));
}

#[test]
fn each_mistake_is_told_with_its_place() {
    let table: &[(&str, &str, &str)] = &[
        ("unknown key", "name = \"lb\"\ncolour = 1", "3:1: unknown field `colour`"),
        ("wrong type", "name = 5", "2:8: invalid type: integer `5`, expected a string"),
        ("no address", "vip = \"here\"", "4:7: invalid socket address syntax"),
        ("unknown mode", "mode = \"both\"", "5:8: unknown variant `both`"),
        ("port 0", "vip = \"127.0.0.1:0\"", "4:7: vip must have a port"),
        ("any address", "vip = \"0.0.0.0:80\"", "4:7: vip must be one host's address"),
        ("empty name", "name = \"\"", "2:8: name must not be empty"),
        ("server is vip", "server = \"127.0.0.1:8080\"", "8:10: server 127.0.0.1:8080 is a vip"),
        ("syntax", "name = ", "2:8: "),
    ];
    for (what, line, expected) in table {
        let key = line.split_whitespace().next().unwrap();
        let text: Vec<&str> = PROXY
            .lines()
            .map(|old| {
                if old.starts_with(&format!("{key} =")) && !(key == "name" && old.contains("t1")) {
                    line
                } else {
                    old
                }
            })
            .collect();
        let found = problems(&(text.join("\n") + "\n"));
        assert!(found[0].starts_with(expected), "{what}: {found:?}");
        assert_eq!(found.len(), 1, "{what}: {found:?}");
    }
}

#[test]
fn what_is_appended_wrongly_is_told_with_its_place() {
    let table: &[(&str, &str)] = &[
        (
            "[[listener]]\nvip = \"127.0.0.1:8080\"\nmode = \"proxy\"\n",
            "11:7: vip 127.0.0.1:8080 is listed twice",
        ),
        (
            "[[target]]\nname = \"t1\"\nserver = \"127.0.0.1:1\"\nagent = \"127.0.0.1:2\"\n",
            "11:8: target \"t1\" is listed twice",
        ),
        (
            "[[target]]\nname = \"t2\"\nserver = \"127.0.0.1:8081\"\nagent = \"127.0.0.1:2\"\n",
            "12:10: server 127.0.0.1:8081 belongs to another target already",
        ),
        (
            "[[target]]\nname = \"t2\"\nserver = \"127.0.0.1:1\"\nagent = \"127.0.0.1:7400\"\n",
            "13:9: agent 127.0.0.1:7400 is \"t1\" for target \"t1\" already, and \"t2\" here",
        ),
        ("[limits]\nheader_count = 0\n", "11:16: header_count must be between 1 and 1000, is 0"),
        ("[limits]\nhead_bytes = -1\n", "11:14: "),
        (
            "[limits]\nhead_bytes = 200000\nprefetch_bytes = 1000\n",
            "11:14: head_bytes (200000) must not be over prefetch_bytes (1000)",
        ),
        ("[limits]\nconnections = 0\n", "11:15: connections must be between 1 and"),
        ("[handoff]\nfreeze_ms = 10\n", "11:13: deadline_ms (2000) must not be over freeze_ms (10)"),
        ("[plane]\nflows = 0\n", "11:9: flows must be between"),
        ("[admin]\ntcp = \"10.0.0.1:80\"\n", "11:7: admin.tcp must be a loopback address"),
        ("[admin]\nudp = 1\n", "11:1: unknown field `udp`"),
        (
            "[tracing]\nendpoint = \"https://collector/v1/traces\"\n",
            "11:12: tracing.endpoint \"https://collector/v1/traces\" must be http://HOST:PORT/PATH",
        ),
        (
            "[tracing]\nendpoint = \"http://127.0.0.1:4318\"\n",
            "11:12: tracing.endpoint \"http://127.0.0.1:4318\" has no path",
        ),
        (
            "[tracing]\nendpoint = \"http://127.0.0.1:4318/v1/traces\"\nshare = 1.5\n",
            "12:9: tracing.share must be from 0 to 1, is 1.5",
        ),
    ];
    for (more, expected) in table {
        let found = problems(&format!("{PROXY}{more}"));
        assert!(found[0].starts_with(expected), "{more}: {found:?}");
        assert_eq!(found.len(), 1, "{more}: {found:?}");
    }
}

#[test]
fn migrating_needs_uplink_and_certificate_that_are_there() {
    let migrating = PROXY.replace("mode = \"proxy\"", "mode = \"migrate\"");
    let found = problems(&migrating);
    assert!(found[0].contains("uplink is missing") && found[1].contains("[tls] is missing"), "{found:?}");

    let head = "name = \"lb\"\nuplink = \"nosuchdev0\"\n";
    let found = problems(&migrating.replace("name = \"lb\"\n", head));
    assert!(
        found.iter().any(|l| l.starts_with("3:10: uplink \"nosuchdev0\" is no network device")),
        "{found:?}"
    );

    let tls =
        "[tls]\nca = \"/nonexistent/ca.pem\"\ncert = \"/nonexistent/c.pem\"\nkey = \"/nonexistent/k\"\n";
    let found = problems(&format!(
        "{}{tls}",
        migrating.replace("name = \"lb\"\n", "name = \"lb\"\nuplink = \"lo\"\n")
    ));
    assert!(found.len() == 1 && found[0].contains("/nonexistent/ca.pem"), "{found:?}");
}

#[test]
fn a_certificate_of_another_name_or_role_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = |text: &str| vec![text.parse().unwrap()];
    baton_daemon::certs::run(&baton_daemon::certs::CertsArgs {
        dir: dir.path().to_owned(),
        intermediate: node("lb=127.0.0.1"),
        agent: node("t1=127.0.0.1"),
        days: 3,
    })
    .unwrap();
    let file = |name: &str, cert: &str| {
        let d = dir.path().display();
        PROXY
            .replace("name = \"lb\"\n", &format!("name = \"{name}\"\nuplink = \"lo\"\n"))
            .replace("\"proxy\"", "\"migrate\"")
            + &format!("[tls]\nca = \"{d}/ca.pem\"\ncert = \"{d}/{cert}.pem\"\nkey = \"{d}/{cert}.key\"\n")
    };
    assert!(load(&file("lb", "lb")).unwrap().migration_needs().is_some());
    for (name, cert) in [("other", "lb"), ("t1", "t1")] {
        let found = problems(&file(name, cert));
        assert!(found.len() == 1 && found[0].contains("was made for"), "{name}: {found:?}");
    }
}

#[test]
fn a_target_has_one_server_of_each_family_at_most() {
    let with = |servers: &str| PROXY.replace("server = \"127.0.0.1:8081\"", servers);
    let dual = "server = \"127.0.0.1:8081\"\nserver6 = \"[::1]:8081\"";
    let spec = load(&with(dual)).unwrap().targets().remove(0);
    let (v4, v6) = ("127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap());
    assert_eq!(spec.servers.for_vip(v4), Some("127.0.0.1:8081".parse().unwrap()));
    assert_eq!(spec.servers.for_vip(v6), Some("[::1]:8081".parse().unwrap()));
    for only in ["server = \"[::1]:8081\"", "server6 = \"[::1]:8081\""] {
        let spec = load(&with(only)).unwrap().targets().remove(0);
        assert_eq!((spec.servers.for_vip(v4), spec.servers.for_vip(v6).is_some()), (None, true));
    }
    for (servers, expected) in [
        ("", "7:8: target \"t1\" has neither server nor server6"),
        ("server6 = \"127.0.0.1:8081\"", "8:11: server6 must be an IPv6 address, is 127.0.0.1:8081"),
        ("server = \"[::1]:80\"\nserver6 = \"[::1]:81\"", "9:11: server is an IPv6 address already"),
        ("server6 = \"[::]:80\"", "8:11: server must be one host's address"),
    ] {
        let found = problems(&with(servers));
        assert!(found.iter().any(|line| line.starts_with(expected)), "{servers}: {found:?}");
    }
}

#[test]
fn the_processors_latency_is_read_at_the_start_alone_and_where_it_cannot_be_held_its_place_is_named() {
    match load(&format!("cpu_latency_us = 5\n{PROXY}")) {
        Ok(config) => {
            let started = load(PROXY).unwrap();
            let differs = |(one, other): &(_, _)| one != other;
            let keys = config.static_keys().into_iter().zip(started.static_keys()).find(differs);
            assert_eq!(keys.unwrap().0, ("cpu_latency_us", 5.into()));
            assert_eq!(config.with_static_keys_of(&started).static_keys(), started.static_keys());
        }
        // No root, or a container without the device.
        Err(e) => {
            let expected = "1:18: cpu_latency_us cannot be asked for: /dev/cpu_dma_latency";
            assert!(e.to_string().contains(expected), "{e}");
        }
    }
}

#[test]
fn half_of_the_workers_hand_off_and_four_at_most_if_nothing_else_is_said() {
    let with = |said: &str| load(&format!("{said}\n{PROXY}"));
    for (workers, expected) in [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (256, 4)] {
        let config = with(&format!("workers = {workers}")).unwrap();
        assert_eq!(config.handoff_workers(), expected, "{workers}");
        assert_eq!(config.effective().handoff_workers.map(|w| *w.get_ref()), Some(expected));
    }
    assert_eq!(with("workers = 3\nhandoff_workers = 3").unwrap().handoff_workers(), 3);
    assert_eq!(with("workers = 2\nhandoff_workers = 16").unwrap().handoff_workers(), 2, "there are no more");
    for wrong in [0, 17] {
        let error = with(&format!("handoff_workers = {wrong}")).unwrap_err().to_string();
        assert!(error.contains("1:19: handoff_workers must be from 1 to 16"), "{error}");
    }
}

#[test]
fn workers_are_bounded_and_one_for_each_processor_by_default() {
    let with = |workers: &str| load(&format!("workers = {workers}\n{PROXY}"));
    assert_eq!(with("3").unwrap().workers(), 3);
    assert!(load(PROXY).unwrap().workers() >= 1);
    for wrong in ["0", "257"] {
        let error = with(wrong).unwrap_err().to_string();
        assert!(error.contains("1:11: workers must be from 1 to 256"), "{error}");
    }
}

#[test]
fn an_encapsulated_leg_makes_clients_segments_smaller_for_its_family_alone() {
    let config = |more: &str| {
        let mut config = load(&format!("{PROXY}{more}")).unwrap();
        config.listener[0].mode = None;
        config
    };
    let (v4, v6): (SocketAddr, SocketAddr) =
        ("10.0.0.1:80".parse().unwrap(), "[fd00::1]:80".parse().unwrap());
    assert_eq!(config("").segment_bytes(v4, 1500), None);
    let ipip = config("leg = \"ipip\"\n");
    assert_eq!((ipip.segment_bytes(v4, 1500), ipip.segment_bytes(v6, 1500)), (Some(1440), None));
    assert!(ipip.meaning().contains("packets encapsulated (ipip)"));
    let both = config("leg = \"udp\"\nserver6 = \"[fd00::2]:80\"\n");
    assert_eq!((both.segment_bytes(v4, 1500), both.segment_bytes(v6, 1500)), (Some(1432), Some(1392)));
    assert_eq!(both.encapsulated_servers().count(), 2);
}

#[test]
fn legs_that_cannot_be_are_told_with_their_place() {
    assert!(problems(&format!("{PROXY}leg = \"gre\"\n"))[0].starts_with("10:7: unknown variant `gre`"));
    let userspace = PROXY.replace("mode = \"proxy\"", "") + "leg = \"udp\"\n[plane]\nkind = \"userspace\"\n";
    let found = problems(&userspace);
    assert!(found.iter().any(|p| p.starts_with("10:7: the plane in user space")), "{found:?}");
    let vip = PROXY.replace("name = \"lb\"", "name = \"lb\"\nleg_source = [\"127.0.0.1\"]");
    assert!(problems(&vip)[0].starts_with("3:15: leg_source must be this host's own address"));
    let twice = PROXY.replace("name = \"lb\"", "name = \"lb\"\nleg_source = [\"10.0.0.1\", \"10.0.0.2\"]");
    assert!(problems(&twice)[0].starts_with("3:27: leg_source has one address of each family"));
}

#[test]
fn a_listener_where_tls_ends_says_what_is_wrong_with_its_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let write = |file: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![format!("{file}.example")]).unwrap();
        let chain = params.self_signed(&key).unwrap().pem();
        std::fs::write(dir.path().join(format!("{file}.pem")), chain).unwrap();
        std::fs::write(dir.path().join(format!("{file}.key")), key.serialize_pem()).unwrap();
    };
    write("a");
    write("b");
    let at = dir.path().display();
    let with = |lines: &str| PROXY.replace("mode = \"proxy\"", &lines.replace("DIR", &at.to_string()));
    let one = |cert: &str, key: &str| {
        with(&format!(
            "protocol = \"https\"\n[[listener.certificate]]\ncert = \"DIR/{cert}\"\nkey = \"DIR/{key}\""
        ))
    };
    let config = load(&one("a.pem", "a.key")).unwrap();
    assert!(
        config.listener[0].server_config().is_some() && !config.migrates(),
        "nothing migrates from there"
    );
    for (text, expected) in [
        (with("protocol = \"https\""), "5:12: protocol \"https\" needs a [[listener.certificate]]"),
        (one("none.pem", "a.key"), "7:8: "),
        (one("a.pem", "none.key"), "8:7: "),
        (one("a.pem", "b.key"), "8:7: the key does not belong to the certificate"),
        (one("a.key", "a.key"), "7:8: "),
        (
            one("a.pem", "a.key").replace("https", "http"),
            "7:8: a [[listener.certificate]] means something only",
        ),
        (
            one("a.pem", "a.key").replace("protocol", "mode = \"migrate\"\nprotocol"),
            "5:8: what comes over TLS that ends here is proxied",
        ),
        (
            with("protocol = \"tls\"\nmode = \"proxy\"\nkeepalive = \"single\""),
            "7:13: keepalive is about requests",
        ),
        (with("mode = \"proxy\"\nsilence_ms = 5"), "6:14: silence_ms means something only"),
        (with("protocol = \"tcp\"\nmode = \"proxy\"\nsilence_ms = 0"), "7:14: silence_ms must be between"),
        (
            with("protocol = \"tcp\"\nmode = \"proxy\"\ndefer_accept = true"),
            "7:16: defer_accept is for clients",
        ),
        (with("protocol = \"tcp\"\nmode = \"proxy\"\nidle_ms = 0"), "7:11: idle_ms must be between"),
        (with("protocol = \"quic\""), "5:12: unknown variant `quic`"),
    ] {
        let found = problems(&text);
        assert!(found.iter().any(|line| line.starts_with(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn upgrades_and_connect_are_told_with_their_place() {
    for (lines, expected) in [
        (
            "mode = \"proxy\"\nupgrade = [\"h2c\"]",
            "6:12: upgrade to \"h2c\" would let requests past the routes",
        ),
        ("mode = \"proxy\"\nupgrade = [\"web socket\"]", "6:12: \"web socket\" is no protocol's name"),
        (
            "mode = \"proxy\"\nprotocol = \"tcp\"\nconnect = true",
            "7:11: upgrade and connect are about requests",
        ),
        (
            "mode = \"proxy\"\nkeepalive = \"pinned\"\n[[route]]\npath = \"/ws\"\npool = \"default\"\nupgrade = [\"websocket\"]",
            "6:13: keepalive \"pinned\" gives all later requests",
        ),
    ] {
        let found = problems(&PROXY.replace("mode = \"proxy\"", lines));
        assert!(found.iter().any(|line| line.starts_with(expected)), "{expected}: {found:?}");
    }
    let config = load(&PROXY.replace("mode = \"proxy\"", "mode = \"proxy\"\nconnect = true")).unwrap();
    assert!(config.front_limits().head.connect && config.listener[0].tunnels().connect);
}

#[test]
fn what_is_in_force_after_a_reload_has_the_start_s_static_keys_and_all_else_from_the_new_file() {
    let log = |path: &str| format!("[access_log]\npath = {path:?}\n");
    let started = load(&format!("{PROXY}{}", log("/tmp/before"))).unwrap();
    let new = PROXY.replace("\"lb\"", "\"other\"").replace("8081", "8082");
    let new = load(&format!("{new}{}[plane]\nflows = 5000\n", log("/tmp/after"))).unwrap();
    let value = |of: &Config| serde_json::to_value(of).unwrap();
    let (was, is, in_force) = (value(&started), value(&new), value(&new.with_static_keys_of(&started)));
    for (key, expected) in started.static_keys() {
        assert_eq!(in_force[key.trim_matches(['[', ']'])], expected, "{key}");
    }
    for (key, found) in in_force.as_object().unwrap() {
        let is_static = started.static_keys().iter().any(|(other, _)| other.trim_matches(['[', ']']) == key);
        assert_eq!(found, if is_static { &was[key] } else { &is[key] }, "{key}");
    }
    assert_ne!(was["access_log"], is["access_log"]);
    assert_ne!((&was["name"], &was["plane"]), (&is["name"], &is["plane"]));
}

#[test]
fn probes_as_checks_need_a_listener_that_migrates_and_another_host() {
    let base = PROXY.replace("mode = \"proxy\"", "pool = \"p\"");
    let second = |address: &str| {
        format!("[[target]]\nname = \"t2\"\nserver = \"{address}:81\"\nagent = \"{address}:7400\"\n")
    };
    let pool = "[[pool]]\nname = \"p\"\ntargets = [\"t1\"]\nhealth = { kind = \"migrate\" }\n";
    let about_probes = |text: &str| {
        let all = problems(text);
        all.into_iter().filter(|problem| problem.contains("kind = \"migrate\"")).collect::<Vec<_>>()
    };
    let alone = about_probes(&format!("{base}{pool}"));
    assert!(alone.len() == 1 && alone[0].contains("on another host than \"t1\"'s"), "{alone:?}");
    // One agent's host under two names is one host.
    assert_eq!(about_probes(&format!("{base}{}{pool}", second("127.0.0.1"))).len(), 1);
    assert_eq!(about_probes(&format!("{base}{}{pool}", second("127.0.0.2"))), [""; 0]);
}
