//! A site of three hosts and four pools, as its visitors see it: curl and a browser, in the clear and with TLS. Each
//! request reaches the pool the table says, by the word of the server that answered.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::browser::browse;
use baton_tests::lab::{self, TestLab};
use netns_lab::{LabSpec, plan};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Host, path, and the targets of the pool that serves it.
const TABLE: [(&str, &str, &[&str]); 9] = [
    ("www.lab.test", "/whoami", &["target1"]),
    ("www.lab.test", "/10k", &["target1"]),
    ("www.lab.test", "//10k", &["target1"]),
    ("www.lab.test", "/images/big.bin", &["target2", "target3"]),
    ("static.lab.test", "/100k", &["target2", "target3"]),
    ("STATIC.lab.test", "/who.js", &["target2", "target3"]),
    ("api.lab.test", "/whoami", &["target4"]),
    ("api.lab.test", "/v2/status", &["target5"]),
    ("api.lab.test", "/v20", &["target4"]),
];

/// The same for whole TLS connections, of which the name alone is known.
const NAMES: [(&str, &[&str]); 3] = [
    ("www.lab.test", &["target1"]),
    ("static.lab.test", &["target2", "target3"]),
    ("api.lab.test", &["target4"]),
];

const VIP: &str = "10.90.1.100";

fn site(spec: LabSpec) -> LabSpec {
    let mut toml = String::new();
    for (pool, members) in [
        ("web", &["target1"][..]),
        ("static", &["target2", "target3"]),
        ("api", &["target4"]),
        ("next", &["target5"]),
    ] {
        let list =
            |suffix: &str| members.iter().map(|m| format!("\"{m}{suffix}\"")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(toml, "[[pool]]\nname = \"{pool}\"\ntargets = [{}]", list(""));
        let _ = writeln!(toml, "[[pool]]\nname = \"{pool}-tls\"\ntargets = [{}]", list("-tls"));
    }
    for n in 1..=5 {
        let (target, address) = (plan::target(n), plan::target_addr(n));
        let _ = writeln!(
            toml,
            "[[target]]\nname = \"{target}-tls\"\nserver = \"{address}:443\"\nagent = \"{address}:{}\"\nagent_name = \"{target}\"",
            plan::CONTROL_PORT
        );
    }
    toml.push_str(
        r#"
[[listener]]
name = "tls"
vip = "10.90.1.100:443"
protocol = "tls"
[[listener]]
name = "https"
vip = "10.90.1.100:8443"
protocol = "https"
[[listener.certificate]]
cert = "CERTS/server.pem"
key = "CERTS/server.key"
[[route]]
name = "next"
listener = ["web", "https"]
host = ["api.lab.test"]
path = "/v2"
pool = "next"
[[route]]
name = "api"
listener = ["web", "https"]
host = ["api.lab.test"]
pool = "api"
[[route]]
name = "images"
listener = ["web", "https"]
host = ["www.lab.test"]
path = "/images"
pool = "static"
[[route]]
name = "static"
listener = ["web", "https"]
host = ["static.lab.test"]
pool = "static"
[[route]]
name = "www"
listener = ["web", "https"]
host = ["www.lab.test"]
pool = "web"
[[route]]
name = "tls-www"
listener = ["tls"]
host = ["www.lab.test"]
pool = "web-tls"
[[route]]
name = "tls-static"
listener = ["tls"]
host = ["static.lab.test"]
pool = "static-tls"
[[route]]
name = "tls-api"
listener = ["tls"]
host = ["api.lab.test"]
pool = "api-tls"
"#,
    );
    // Any target's own certificate is good for the names of the site.
    let certs = plan::run_dir(&spec.name).join("target1");
    let toml = toml.replace("CERTS", &certs.to_string_lossy());
    let allow = "
[[allow]]
intermediate = \"intermediate\"
vip = \"10.90.1.100:443\"
server = \"ADDRESS:443\"
";
    lab::patient(spec.targets(5))
        .intermediate_with("listener", "name", "web")
        .intermediate_also(&toml)
        .agents_also(allow)
}

/// curl on client1, told where the site's hosts are.
fn curl(t: &TestLab, words: &[&str]) -> String {
    let hosts = ["www", "static", "STATIC", "api"].map(|h| format!("{h}.lab.test"));
    let mut all = vec!["curl".to_owned(), "-sS".to_owned(), "--path-as-is".to_owned(), "-k".to_owned()];
    for (host, port) in hosts.iter().flat_map(|host| [80, 443, 8443].map(|port| (host, port))) {
        all.extend(["--resolve".to_owned(), format!("{host}:{port}:{VIP}")]);
    }
    all.extend(words.iter().map(|w| (*w).to_owned()));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    t.lab.output("client1", &all).unwrap()
}

/// Writes the files that only some of the table's paths have.
fn furnish(t: &TestLab) {
    let www = t.lab.www_dir();
    for (path, text) in [("images/big.bin", "a picture"), ("v2/status", "fine"), ("v20", "old")] {
        let file = www.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
}

/// `X-Served-By` of each response that curl wrote the head of.
fn served_by(heads: &str) -> Vec<String> {
    let line = |l: &str| {
        let (name, value) = l.split_once(':')?;
        name.eq_ignore_ascii_case("x-served-by").then(|| value.trim().to_owned())
    };
    heads.lines().filter_map(line).collect()
}

fn check(t: &TestLab, scheme: &str, port: u16, extra: &[&str]) {
    for (host, path, pool) in TABLE {
        for _ in 0..4 {
            let url = format!("{scheme}://{host}:{port}{path}");
            let mut words = vec!["-D", "-", "-o", "/dev/null", url.as_str()];
            words.extend(extra);
            let heads = curl(t, &words);
            assert!(heads.lines().next().unwrap().contains(" 200"), "{url}: {heads}");
            let by = served_by(&heads);
            assert!(
                by.len() == 1 && pool.contains(&by[0].as_str()),
                "{url} was answered by {by:?}, not {pool:?}"
            );
        }
    }
}

#[test]
fn each_request_in_the_clear_reaches_the_pool_the_table_says_and_is_migrated() {
    let Some(t) = lab::up("siteplain", site) else { return };
    furnish(&t);
    check(&t, "http", 80, &[]);
    t.expect_requests(4 * TABLE.len() as u64, 0);
    let status = curl(
        &t,
        &["-o", "/dev/null", "-w", "%{http_code}", "http://www.lab.test/", "-H", "Host: other.test"],
    );
    assert_eq!(status, "404", "a host that no route names");
    let status = curl(&t, &["-o", "/dev/null", "-w", "%{http_code}", "http://www.lab.test/images/../whoami"]);
    assert_eq!(status, "400", "a path that one reader sends to one pool and another to another");
}

#[test]
fn requests_to_several_paths_and_hosts_on_one_kept_connection_each_reach_their_pool() {
    let Some(t) = lab::up("sitenext", site) else { return };
    furnish(&t);
    // One connection for all hosts, since curl is told that they are one.
    let mut words: Vec<String> = Vec::new();
    let mut expected = Vec::new();
    for round in 0..5 {
        for (n, (host, path, pool)) in TABLE.iter().enumerate() {
            if round + n > 0 {
                words.push("--next".into());
            }
            words.extend(
                ["-D", "-", "-o", "/dev/null", "-w", "connects: %{num_connects}\n", "-H"].map(String::from),
            );
            words.extend([
                format!("Host: {host}"),
                format!("http://{VIP}{path}"),
                "--path-as-is".into(),
                "-sS".into(),
            ]);
            expected.push(*pool);
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let heads = curl(&t, &words);
    let by = served_by(&heads);
    assert_eq!(by.len(), expected.len(), "{heads}");
    for (n, (by, pool)) in by.iter().zip(expected).enumerate() {
        assert!(pool.contains(&by.as_str()), "request {n} was answered by {by}, not {pool:?}");
    }
    let connects: u32 =
        heads.lines().filter_map(|l| l.strip_prefix("connects: ")).map(|n| n.parse::<u32>().unwrap()).sum();
    assert_eq!(connects, 1, "all on one connection:\n{heads}");
}

#[test]
fn chunked_and_empty_responses_let_a_kept_connection_go_on_to_another_pool() {
    let Some(t) = lab::up("sitechunked", site) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut words: Vec<String> = Vec::new();
    let mut files = Vec::new();
    for round in 0..6 {
        for (host, pool) in NAMES {
            for path in ["/chunked/1m", "/nothing", "/chunked/10k"] {
                if !words.is_empty() {
                    words.push("--next".into());
                }
                let file = dir.path().join(format!("{round}-{}-{}", pool[0], path.replace('/', "-")));
                words.extend(
                    ["-sS", "--compressed", "-D", "-", "-w", "connects: %{num_connects}\n", "-o"]
                        .map(String::from),
                );
                words.push(file.to_string_lossy().into_owned());
                words.extend(["-H".to_owned(), format!("Host: {host}"), format!("http://{VIP}{path}")]);
                files.push((file, path, pool));
            }
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let heads = curl(&t, &words);
    let by = served_by(&heads);
    assert_eq!(by.len(), files.len(), "{heads}");
    for ((file, path, pool), by) in files.iter().zip(&by) {
        assert!(pool.contains(&by.as_str()), "{path} was answered by {by}, not {pool:?}");
        match path.strip_prefix("/chunked/") {
            Some(name) => {
                assert_eq!(netns_lab::content::sha256_of_file(file).unwrap(), t.sha256(name), "{path}")
            }
            None => assert!(!file.exists() || file.metadata().unwrap().len() == 0, "{path}"),
        }
    }
    let chunked = heads.lines().filter(|l| l.eq_ignore_ascii_case("transfer-encoding: chunked")).count();
    assert_eq!(chunked, files.len() * 2 / 3, "{heads}");
    let connects: u32 =
        heads.lines().filter_map(|l| l.strip_prefix("connects: ")).map(|n| n.parse::<u32>().unwrap()).sum();
    assert_eq!(connects, 1, "all on one connection:\n{heads}");
}

#[test]
fn whole_tls_connections_reach_the_pool_of_their_name_and_end_at_its_servers() {
    let Some(t) = lab::up("sitetls", site) else { return };
    furnish(&t);
    let mut migrated = 0;
    for (host, pool) in NAMES {
        for version in ["--http1.1", "--http2"] {
            let url = format!("https://{host}/whoami");
            let heads = curl(&t, &["-D", "-", "-o", "/dev/null", version, &url]);
            let by = served_by(&heads);
            assert!(by.len() == 1 && pool.contains(&by[0].as_str()), "{url} was answered by {by:?}: {heads}");
            let first = if version == "--http2" { "HTTP/2 200" } else { "HTTP/1.1 200" };
            assert!(heads.starts_with(first), "{heads}");
            migrated += 1;
        }
    }
    t.expect_requests(migrated, 0);
}

#[test]
fn requests_whose_tls_ends_at_the_listener_reach_the_pool_the_table_says() {
    let Some(t) = lab::up("sitehttps", site) else { return };
    furnish(&t);
    check(&t, "https", 8443, &["--http1.1"]);
    check(&t, "https", 8443, &["--http2"]);
    // To all paths of a host on one connection, again and again.
    for version in ["--http1.1", "--http2"] {
        for host in ["www.lab.test", "api.lab.test"] {
            let table: Vec<_> = TABLE.iter().filter(|(name, ..)| *name == host).cycle().take(12).collect();
            let urls: Vec<_> =
                table.iter().map(|(.., path, _)| format!("https://{host}:8443{path}")).collect();
            let mut words = Vec::new();
            for (n, url) in urls.iter().enumerate() {
                if n > 0 {
                    // What is said of one transfer is not said of the next; the resolved names are kept.
                    words.extend(["--next", "-sSk", "--path-as-is"]);
                }
                words.extend([
                    "-D",
                    "-",
                    "-o",
                    "/dev/null",
                    "-w",
                    "connects: %{num_connects}\n",
                    version,
                    url,
                ]);
            }
            let heads = curl(&t, &words);
            let by = served_by(&heads);
            assert_eq!(by.len(), table.len(), "{heads}");
            for (by, (.., path, pool)) in by.iter().zip(table) {
                assert!(pool.contains(&by.as_str()), "{host}{path} was answered by {by}, not {pool:?}");
            }
            let connects = heads.lines().filter_map(|l| l.strip_prefix("connects: "));
            assert_eq!(connects.map(|n| n.parse::<u32>().unwrap()).sum::<u32>(), 1, "{version}:\n{heads}");
        }
    }
}

/// A page whose parts come from all hosts; `who` writes down who served which.
const PAGE: &str = r#"<!DOCTYPE html><title>site</title><ul id="parts"></ul><script>
function who(host, target, part) {
  const item = document.createElement("li");
  item.textContent = part + " " + host + " " + target;
  document.getElementById("parts").append(item);
}
</script>
"#;

/// What a headless Chromium on client1 made of a page: the parts, by number.
fn parts_of(t: &TestLab, url: &str) -> BTreeMap<String, (String, String)> {
    let map = format!("--host-resolver-rules=MAP *.lab.test {VIP}");
    let own = [
        "--disable-quic",
        "--ignore-certificate-errors",
        &map,
        "--virtual-time-budget=10000",
        "--dump-dom",
        url,
    ];
    let dom = browse(t, "client1", &own);
    let items = dom.split("<li>").skip(1).filter_map(|i| i.split("</li>").next());
    let parts: BTreeMap<_, _> = items
        .map(|item| {
            let words: Vec<&str> = item.split(' ').collect();
            assert_eq!(words.len(), 3, "{item}");
            (words[0].to_owned(), (words[1].to_owned(), words[2].to_owned()))
        })
        .collect();
    assert!(!parts.is_empty(), "no part arrived: {dom}");
    parts
}

fn browse_page(t: &TestLab, scheme: &str, port: u16) {
    let mut page = String::from(PAGE);
    let mut expected: Vec<&[&str]> = Vec::new();
    for round in 0..8 {
        for (host, pool) in NAMES {
            let part = expected.len();
            let _ = writeln!(page, "<script src=\"{scheme}://{host}:{port}/who.js?{part}\"></script>");
            assert!(round < 8);
            expected.push(pool);
        }
    }
    std::fs::write(t.lab.www_dir().join("index.html"), page).unwrap();
    let parts = parts_of(t, &format!("{scheme}://www.lab.test:{port}/index.html"));
    assert_eq!(parts.len(), expected.len(), "{parts:?}");
    for (part, (host, target)) in &parts {
        let n: usize = part.parse().unwrap();
        assert_eq!(host, NAMES[n % NAMES.len()].0);
        assert!(expected[n].contains(&target.as_str()), "part {n} of {host} came from {target}");
    }
}

#[test]
fn a_browser_gets_every_part_of_a_page_from_the_pool_of_its_host() {
    let Some(t) = lab::up("sitepage", site) else { return };
    if !baton_tests::skip::program(
        "a_browser_gets_every_part_of_a_page_from_the_pool_of_its_host",
        "chromium",
    ) {
        return;
    }
    browse_page(&t, "http", 80);
    assert_eq!(t.all_proxied(), 0);
    assert!(t.migrated() > 0);
    browse_page(&t, "https", 443);
    assert_eq!(t.all_proxied(), 0, "passed through and migrated");
    browse_page(&t, "https", 8443);
}
