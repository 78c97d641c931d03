//! The benchmark works: every way is measured and every figure is there. How fast anything is decides nothing here.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod common;

use common::able;
use serde_json::Value;
use std::process::Command;

fn netns_lab(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netns-lab"));
    command.args(words);
    command
}

#[test]
fn a_small_benchmark_answers_every_request_and_writes_every_figure() {
    if !able("a_small_benchmark_answers_every_request_and_writes_every_figure") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (json, markdown) = (dir.path().join("bench.json"), dir.path().join("bench.md"));
    let words =
        ["bench", "--sizes", "1k,10m", "--connections", "2", "--keepalive", "on,off", "--rounds", "1"];
    let mut bench = netns_lab(&words);
    bench.args(["--seconds", "1", "--idle-connections", "50"]);
    bench.arg("--json").arg(&json).arg("--report").arg(&markdown);
    let output = bench.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["rounds"], 1);
    let cells = report["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 4 * 4, "four loads on four ways");
    for cell in cells {
        let figure = |path: &str| {
            let found = cell.pointer(path).unwrap_or_else(|| panic!("no {path} in {cell}"));
            let at = |key: &str| found[key].as_f64().unwrap_or_else(|| panic!("no {path}/{key} in {cell}"));
            assert!(at("min") <= at("median") && at("median") <= at("max"), "{path} in {cell}");
            at("median")
        };
        assert_eq!(cell["failed"], 0, "{cell}");
        assert!(figure("/mb_per_s") > 0.0 && figure("/requests_per_s") > 0.0, "{cell}");
        assert!(figure("/ttfb_us/p50") > 0.0 && figure("/ttfb_us/p99") >= figure("/ttfb_us/p50"), "{cell}");
        // What a handoff takes is told where each request has one, and nowhere else.
        let handed = cell["balancer"] == "baton" && cell["keepalive"] == false;
        for field in ["freeze_to_installed_us", "freeze_to_installed_under_load_us"] {
            assert_eq!(!cell[field].is_null(), handed, "{field} in {cell}");
            if handed {
                let [p50, p99] = ["p50", "p99"].map(|p| figure(&format!("/{field}/{p}")));
                assert!(p50 > 0.0 && p99 >= p50, "{field} in {cell}");
            }
        }
        for place in ["intermediate", "target", "machine", "kernel_network"] {
            assert!(figure(&format!("/cpu_s_per_gb/{place}")) >= 0.0, "{cell}");
        }
        assert!(figure("/cpu_s_per_gb/machine") > 0.0, "{cell}");
    }
    let idle: Vec<&str> =
        report["idle"].as_array().unwrap().iter().map(|i| i["balancer"].as_str().unwrap()).collect();
    assert_eq!(idle, ["baton", "haproxy", "nginx"]);
    let text = std::fs::read_to_string(&markdown).unwrap();
    assert!(
        text.contains("| 1k x2, kept (wrk) | baton |") && text.contains("(bench.requests.svg)"),
        "{text}"
    );
    assert!(text.contains("| freeze to installed p50 / p99, us, one at a time |"), "{text}");
    assert!(std::fs::read_to_string(dir.path().join("bench.cpu.svg")).unwrap().starts_with("<svg"));
}

#[test]
fn a_size_the_lab_does_not_serve_is_refused_with_those_it_does() {
    let output = netns_lab(&["bench", "--sizes", "3k"]).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("no file of size '3k'; it has 1k, 10k, 100k"), "{said}");
}
