//! TLS that passes through, over every kind of way to the server: both versions of IP, outer headers, without eBPF.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::lab::{self, TestLab};
use netns_lab::plan::{self, INTERMEDIATE};
use netns_lab::{Family, LabSpec, Plane};
use std::net::{IpAddr, SocketAddr};

/// How a target's packets come to it. The nth way leads to the nth target, from the VIP's port `port(n)`.
type Way = &'static str;

fn port(n: usize) -> u16 {
    443 + 1000 * u16::try_from(n).unwrap()
}

/// For each way two listeners of protocol tls, one of each version of IP, in front of one target's nginx; only names
/// under `lab.test` are routed.
fn site(spec: LabSpec, ways: &[Way]) -> LabSpec {
    let mut intermediate = String::from("\n[[pool]]\nname = \"plain\"\ntargets = [\"target1\"]\n");
    let mut agents = String::new();
    for (n, leg) in ways.iter().enumerate() {
        let number = u8::try_from(n + 1).unwrap();
        let servers = plan::target_addrs(Family::Dual, number);
        let sources: [IpAddr; 2] = [plan::INTERMEDIATE_ADDR.into(), plan::INTERMEDIATE_ADDR6.into()];
        for ((vip, server), source) in plan::vips(Family::Dual).into_iter().zip(servers).zip(sources) {
            let (vip, server) = (SocketAddr::new(vip.ip(), port(n)), SocketAddr::new(server, 443));
            let (version, key) = if vip.is_ipv4() { (4, "server") } else { (6, "server6") };
            let (name, agent) = (format!("{leg}{version}"), plan::target_addr(number));
            intermediate.push_str(&format!(
                r#"
[[listener]]
name = "{name}"
vip = "{vip}"
protocol = "tls"
[[target]]
name = "{name}"
{key} = "{server}"
agent = "{agent}:7400"
agent_name = "target{number}"
leg = "{leg}"
[[pool]]
name = "{name}"
targets = ["{name}"]
[[route]]
name = "{name}"
listener = ["{name}"]
host = ["*.lab.test"]
pool = "{name}"
"#
            ));
            agents.push_str(&format!(
                "\n[[allow]]\nintermediate = \"intermediate\"\nvip = \"{vip}\"\nserver = \"{server}\"\n"
            ));
            if *leg != "rewrite" {
                agents.push_str(&format!("leg = \"{leg}\"\nleg_source = \"{source}\"\n"));
            }
        }
    }
    lab::patient(spec.targets(u8::try_from(ways.len()).unwrap()))
        .family(Family::Dual)
        .intermediate_with("listener", "pool", "plain")
        .intermediate_also(&intermediate)
        .agents_also(&agents)
}

/// curl from client1 to a name at one of the VIPs; `then` is a shell's words behind it.
fn curl(t: &TestLab, vip: SocketAddr, path: &str, then: &str) -> String {
    let port = vip.port();
    let command = format!(
        "curl -sSgk --fail --max-time 60 --resolve a.lab.test:{port}:{} 'https://a.lab.test:{port}{path}' {then}",
        vip.ip()
    );
    t.lab.output("client1", &["bash", "-o", "pipefail", "-c", &command]).unwrap()
}

/// Each listener's connections end at the server's own TLS, which sees the client's address; bodies are byte-exact both
/// ways; a name nobody serves is told so.
fn carries_tls(name: &str, ways: &[Way], plane: Plane) -> Option<TestLab> {
    let t = lab::up(name, |s| site(s, ways).plane(plane))?;
    let (down, up) = (t.sha256("10m"), t.sha256("1m"));
    let mut migrated = 0;
    for (n, leg) in ways.iter().enumerate() {
        let target = plan::target(u8::try_from(n + 1).unwrap());
        let clients: [IpAddr; 2] = [plan::client_addr(1).into(), plan::client_addr6(1).into()];
        for (vip, client) in plan::vips(Family::Dual).into_iter().zip(clients) {
            let vip = SocketAddr::new(vip.ip(), port(n));
            for (version, said) in [("--http2", "HTTP/2.0"), ("--http1.1", "HTTP/1.1")] {
                let answer = curl(&t, vip, "/whoami", version);
                let seen = format!("target: {target}\nclient: {client}:");
                assert!(answer.contains(&seen), "{leg} {vip}: {answer}");
                assert!(answer.contains(&format!("request: GET /whoami {said}")), "{leg} {vip}: {answer}");
                let hash = curl(&t, vip, "/10m", &format!("{version} | sha256sum"));
                assert_eq!(hash.split_whitespace().next(), Some(down.as_str()), "{leg} {vip} {version}");
            }
            let (file, put) = (t.lab.www_dir().join("1m"), format!("{leg}-{}", vip.is_ipv4()));
            curl(&t, vip, &format!("/upload/{put}"), &format!("-T {}", file.display()));
            let there = t.lab.upload_dir(&target).join(put);
            assert_eq!(netns_lab::content::sha256_of_file(&there).unwrap(), up, "{leg} {vip}");
            migrated += 5;
            let ask =
                format!("openssl s_client -connect {vip} -servername lab.example </dev/null 2>&1; true");
            let told = t.lab.output("client1", &["sh", "-c", &ask]).unwrap();
            assert!(told.contains("unrecognized name"), "{leg} {vip}: {told}");
        }
    }
    t.expect_requests(migrated, 0);
    t.expect_closed("no_route", ways.len() as u64 * 2);
    Some(t)
}

#[test]
fn tls_passes_through_over_ipv6_and_in_outer_headers() {
    let Some(t) = carries_tls("tls-legs", &["rewrite", "ipip", "udp"], Plane::Ebpf) else { return };
    let stripped = ["target1", "target2", "target3"].map(|target| t.packets(target, "leg_stripped"));
    assert!(
        stripped[0] == 0 && stripped[1] > 100 && stripped[2] > 100,
        "{stripped:?} packets were taken out"
    );
    for node in [INTERMEDIATE, "target1", "target2", "target3"] {
        assert_eq!(t.packets(node, "drop_store_failed"), 0, "{node}");
    }
}

#[test]
fn tls_passes_through_over_both_versions_of_ip_without_ebpf() {
    let Some(t) = carries_tls("tls-us", &["rewrite"], Plane::Userspace) else { return };
    assert_eq!(t.admin(INTERMEDIATE, "/readyz")["data_plane"], "userspace");
    t.expect_all_released();
}
