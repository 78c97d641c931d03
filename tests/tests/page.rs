//! The web page at the intermediate's admin endpoint, looked at by a browser while requests go by.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::browser::browse;
use baton_tests::client::{self, Connection};
use baton_tests::lab::{self, TestLab, VIP};
use netns_lab::LabSpec;
use netns_lab::plan::INTERMEDIATE;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
fn page(t: &TestLab, picture: &Path) -> String {
    let size = format!("--window-size={},{}", SIZE[0], SIZE[1]);
    let picture = format!("--screenshot={}", picture.display());
    let looks = ["--hide-scrollbars", "--virtual-time-budget=7000", &size, "--dump-dom", &picture, PAGE];
    browse(t, INTERMEDIATE, &looks)
}

/// Width and height of a PNG, as its first chunk has them.
fn size(png: &[u8]) -> [u32; 2] {
    assert_eq!(png[..16], *b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
    [16, 20].map(|at| u32::from_be_bytes(png[at..at + 4].try_into().unwrap()))
}

#[test]
fn a_browser_sees_links_targets_migrations_reasons_and_flows() {
    let Some(t) = lab::up("page", order) else { return };
    if !baton_tests::skip::program("a_browser_sees_links_targets_migrations_reasons_and_flows", "chromium") {
        return;
    }
    let open = t.client(|| {
        let mut connection = Connection::open(VIP).unwrap();
        connection.get("/1k?a=%3Cscript%3Ealert%3C/script%3E").unwrap();
        assert_eq!(connection.response().unwrap().status, 200);
        connection
    });
    // Something to see: requests as long as the browser looks.
    let over = Arc::new(AtomicBool::new(false));
    let (ended, t) = (Arc::clone(&over), &t);
    std::thread::scope(|scope| {
        let load = scope.spawn(move || {
            t.client(move || {
                let mut count = 0;
                while !ended.load(Ordering::Relaxed) {
                    let path = if count % 4 == 3 { "/10k" } else { "/100k" };
                    assert_eq!(client::get(VIP, path).unwrap().status, 200);
                    count += 1;
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                count
            })
        });
        let scratch = tempfile::tempdir().unwrap();
        let picture = scratch.path().join("page.png");
        let dom = page(t, &picture);
        let png = std::fs::read(&picture).unwrap();
        assert_eq!(size(&png), SIZE);
        assert!(png.len() > CONTENT, "a picture of nothing: {} bytes", png.len());
        // For the documents, where somebody wants it.
        if let Some(file) = std::env::var_os("BATON_SCREENSHOT") {
            std::fs::write(file, png).unwrap();
        }
        over.store(true, Ordering::Relaxed);
        assert!(load.join().unwrap() > 0);

        let looks = dom.split("data-looks=\"").nth(1).and_then(|rest| rest.split('"').next());
        assert!(looks.is_some_and(|n| n.parse::<u32>().unwrap() >= 2), "the page asked again: {looks:?}");
        let flow = t.flows(INTERMEDIATE).iter().find(|flow| flow["request"] == "GET /1k?…").cloned().unwrap();
        let client = flow["client"].as_str().unwrap();
        let rows = |table: &str| {
            let rest = dom.split(&format!("<table id=\"{table}\">")).nth(1).unwrap();
            rest.split("</table>").next().unwrap().to_owned()
        };
        for name in ["target1", "target2"] {
            assert!(rows("targets").contains(name), "{}", rows("targets"));
        }
        for part in ["migrated", "proxied", "GET /100k", "GET /10k", "class=\"bar\""] {
            assert!(rows("migrations").contains(part), "{part}: {}", rows("migrations"));
        }
        assert!(rows("proxied").contains("disabled"), "{}", rows("proxied"));
        for part in [flow["id"].as_str().unwrap(), client, "GET /1k?…"] {
            assert!(rows("flows").contains(part), "{part}: {}", rows("flows"));
        }
        let topology = dom.split("id=\"topology\">").nth(1).unwrap().split("</svg>").next().unwrap();
        assert!(topology.contains("directly") && topology.contains("class=\"proxied"), "{topology}");
    });
    drop(open);
}
