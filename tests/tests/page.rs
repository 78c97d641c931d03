//! The web page at the intermediate's admin endpoint, looked at by a browser while requests go by.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::browser::browse;
use baton_tests::client::{self, Connection};
use baton_tests::lab::{self, TestLab, VIP};
use netns_lab::LabSpec;
use netns_lab::plan::INTERMEDIATE;
use std::net::Shutdown;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
const PAGE: &str = "http://127.0.0.1:9900/";

fn order(s: LabSpec) -> LabSpec {
    let pool = "[[pool]]\nname = \"web\"\ntargets = [\"target1\", \"target2\"]\nbalance = \"round_robin\"\n\n[pool.health]\nkind = \"none\"\n";
    let route = "[[route]]\nname = \"proxied\"\npath = \"/10k\"\nmode = \"proxy\"\npool = \"web\"\n";
    s.intermediate_with("listener", "pool", "web")
        .intermediate_with("admin", "tcp", "127.0.0.1:9900")
        .intermediate_also(pool)
        .intermediate_also(route)
}

/// The picture of the page, to the search for flows at its end.
const SIZE: [u32; 2] = [1400, 1900];

/// No picture of this size without text and lines has as many bytes.
const CONTENT: usize = 60_000;

/// The page as the browser on the intermediate's host makes it, which needs some of the page's looks at the endpoint.
fn page(t: &TestLab, picture: &Path, search: &str) -> String {
    let size = format!("--window-size={},{}", SIZE[0], SIZE[1]);
    let (picture, address) = (format!("--screenshot={}", picture.display()), format!("{PAGE}{search}"));
    let looks = ["--hide-scrollbars", "--virtual-time-budget=7000", &size, "--dump-dom", &picture, &address];
    browse(t, INTERMEDIATE, &looks)
}

/// Width and height of a PNG, as its first chunk has them.
fn size(png: &[u8]) -> [u32; 2] {
    assert_eq!(png[..16], *b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
    [16, 20].map(|at| u32::from_be_bytes(png[at..at + 4].try_into().unwrap()))
}

/// What an element of the page has in it, up to an end.
fn within<'a>(dom: &'a str, begin: &str, end: &str) -> &'a str {
    let rest = dom.split_once(begin).unwrap_or_else(|| panic!("no {begin} in {dom}")).1;
    rest.split_once(end).unwrap().0
}

fn rows<'a>(dom: &'a str, table: &str) -> &'a str {
    within(dom, &format!("<table id=\"{table}\">"), "</table>")
}

/// The rates of all links of a colour.
fn rates(dom: &str, colour: &str) -> Vec<f64> {
    let texts = within(dom, "id=\"topology\">", "</svg>").split("</text>");
    let texts = texts.filter(|text| text.contains(colour)).map(|text| text.rsplit('>').next().unwrap());
    texts.map(|text| text.strip_suffix("/s").unwrap().parse().unwrap()).collect()
}

/// A flow whose last packet does not reach the target: its hops are used up at the intermediate.
fn a_packet_is_dropped(t: &TestLab) {
    let connection = answered(t, "/1k");
    connection.socket().set_ttl(2).unwrap();
    connection.socket().shutdown(Shutdown::Write).unwrap();
    t.eventually("it is dropped", LIMIT, |t| t.packets(INTERMEDIATE, "drop_ttl_expired") > 0);
    connection.socket().set_ttl(64).unwrap();
}

fn answered(t: &TestLab, path: &'static str) -> Connection {
    t.client(move || {
        let mut connection = Connection::open(VIP).unwrap();
        connection.get(path).unwrap();
        assert_eq!(connection.response().unwrap().status, 200);
        connection
    })
}

/// Says so when it is let go, however that comes.
#[derive(Default)]
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_browser_sees_links_targets_migrations_reasons_and_flows() {
    let Some(t) = lab::up("page", order) else { return };
    if !baton_tests::skip::program("a_browser_sees_links_targets_migrations_reasons_and_flows", "chromium") {
        return;
    }
    a_packet_is_dropped(&t);
    let open = answered(&t, "/1k?a=%3Cscript%3Ealert%3C/script%3E");
    let flow = t.flows(INTERMEDIATE).iter().find(|flow| flow["request"] == "GET /1k?…").cloned().unwrap();
    let (id, client) = (flow["id"].as_str().unwrap(), flow["client"].as_str().unwrap());
    // Something to see: requests as long as the browser looks.
    let over = Over::default();
    let (ended, t) = (Arc::clone(&over.0), &t);
    std::thread::scope(move |scope| {
        let load = scope.spawn(move || {
            t.client(move || {
                let mut count = 0;
                while !ended.load(Ordering::Relaxed) {
                    let path = if count % 4 == 3 { "/10k" } else { "/100k" };
                    assert_eq!(client::get(VIP, path).unwrap().status, 200);
                    count += 1;
                    std::thread::sleep(Duration::from_millis(5));
                }
                count
            })
        });
        let scratch = tempfile::tempdir().unwrap();
        let picture = scratch.path().join("page.png");
        let mut dom = String::new();
        // The browser's time runs as fast as it is answered: between two looks may lie next to nothing.
        t.eventually("each kind of link has a rate", Duration::from_secs(60), |t| {
            dom = page(t, &picture, &format!("#q={client}"));
            let some = |colour| rates(&dom, colour).iter().any(|&rate| rate > 0.0);
            some("--direct") && some("--proxy") && !dom.contains("gets 0 requests")
        });
        let png = std::fs::read(&picture).unwrap();
        assert_eq!(size(&png), SIZE);
        assert!(png.len() > CONTENT, "a picture of nothing: {} bytes", png.len());
        // For the documents, where somebody wants it.
        if let Some(file) = std::env::var_os("BATON_SCREENSHOT") {
            std::fs::write(file, png).unwrap();
        }
        let of_id = page(t, &picture, &format!("#q={id}"));
        drop(over);
        assert!(load.join().unwrap() > 0);

        let looks = within(&dom, "data-looks=\"", "\"").parse::<u32>().unwrap();
        assert!(looks >= 2, "the page asked again");
        for colour in ["--direct", "--proxy"] {
            assert_eq!(rates(&dom, colour).len(), 2, "one for each target");
        }
        for part in ["target1", "target2", "class=\"ok\">up</td>", ">up in web</td>"] {
            assert!(rows(&dom, "targets").contains(part), "{part}: {}", rows(&dom, "targets"));
        }
        for part in ["migrated", "proxied", "GET /100k", "GET /10k", "class=\"bar\""] {
            assert!(rows(&dom, "migrations").contains(part), "{part}: {}", rows(&dom, "migrations"));
        }
        assert!(rows(&dom, "proxied").contains("disabled"), "{}", rows(&dom, "proxied"));
        for part in ["drop_ttl_expired", "routing loop"] {
            assert!(rows(&dom, "drops").contains(part), "{part}: {}", rows(&dom, "drops"));
        }
        // A search finds one of the many.
        for part in [id, client, "GET /1k?…", "committed"] {
            assert!(rows(&dom, "flows").contains(part), "{part}: {}", rows(&dom, "flows"));
        }
        assert_eq!(rows(&dom, "flows").matches("<button").count(), 1, "{}", rows(&dom, "flows"));
        let detail = within(&of_id, "<pre id=\"flow\">", "</pre>");
        for part in [id, client, "\"intermediate\": {", "\"socket\": {", "ESTAB"] {
            assert!(detail.contains(part), "{part}: {detail}");
        }
    });
    drop(open);
}
