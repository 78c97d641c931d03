//! The admin endpoints of both daemons, as they describe themselves, over one connection's life.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::Connection;
use baton_tests::events::{self, Events};
use baton_tests::exposition;
use baton_tests::lab::{self, TestLab, VIP};
use baton_tests::openapi::faults;
use netns_lab::Program;
use netns_lab::plan::INTERMEDIATE;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// What a configuration has that nobody else may know.
const SECRETS: &str = r#"
[[pool]]
name = "all"
targets = ["target1"]
[pool.sticky]
cookie = "at"
first = "migrate"
secret = "/hush hush hush hush hush hush hush"
[[route]]
name = "inside"
path = "/inside"
cookie = { preview = "hush" }
pool = "all"
[route.request_headers]
set = { Authorization = "Basic hush" }
add = { Cookie = "inside=hush" }
"#;

/// An answer that is no success, in the words of the schema that its route has for this status.
fn is_refused(t: &TestLab, node: &str, method: &str, [route, path]: [&str; 2], wanted: u16) {
    let answer = match method {
        "get" => t.lab.admin_text(node, path).unwrap(),
        _ => t.lab.admin_post(node, path).unwrap(),
    };
    is_described(t, node, method, route, wanted, &answer);
}

fn is_described(t: &TestLab, node: &str, method: &str, route: &str, wanted: u16, answer: &(u16, String)) {
    let openapi = t.admin(node, "/v1/openapi.json");
    let (status, text) = answer;
    assert_eq!(*status, wanted, "{node} {method} {route}: {text}");
    let error: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{route}: {e}: {text}"));
    let schema = &openapi["paths"][route][method]["responses"][wanted.to_string()]["content"]["application/json"]
        ["schema"];
    assert!(schema.is_object(), "{node} {method} {route}: {wanted} is not described");
    let faults = faults(&openapi, schema, &error);
    assert!(faults.is_empty(), "{node} {route}: {faults:#?}\n{error:#}");
}

/// What is answered to a request that has no header against forgery.
fn without_header(t: &TestLab, node: &str, method: &str, path: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(t.lab.admin_socket(node).unwrap()).unwrap();
    let method = method.to_uppercase();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let text = std::io::read_to_string(stream).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// What cannot be done now, or not by whoever asks so, is refused in described words.
fn what_cannot_be_now_is_as_described(t: &TestLab, target: &str) {
    for (node, method, route) in [
        (INTERMEDIATE, "post", "/v1/reload"),
        (INTERMEDIATE, "get", "/v1/capture"),
        (target, "get", "/v1/capture"),
    ] {
        is_described(t, node, method, route, 403, &without_header(t, node, method, route));
    }

    let file = t.lab.config(INTERMEDIATE, Program::Balancer);
    let text = std::fs::read_to_string(&file).unwrap();
    // An address that is not the node's.
    std::fs::write(&file, format!("{text}\n[[listener]]\nvip = \"10.90.1.77:8080\"\npool = \"all\"\n"))
        .unwrap();
    is_refused(t, INTERMEDIATE, "post", ["/v1/reload"; 2], 409);
    std::fs::write(&file, text).unwrap();

    let listeners = t.admin(INTERMEDIATE, "/v1/listeners");
    let listener = format!("/v1/listeners/{}", listeners["listeners"][0]["name"].as_str().unwrap());
    t.order(&format!("{listener}/drain"));
    let probe = format!("/v1/targets/{target}/probe");
    is_refused(t, INTERMEDIATE, "post", ["/v1/targets/{name}/probe", &probe], 409);
    t.order(&format!("{listener}/undrain"));

    t.order("/v1/node/drain");
    is_refused(t, INTERMEDIATE, "get", ["/readyz"; 2], 503);
    t.order("/v1/node/undrain");

    for node in [INTERMEDIATE, target] {
        // One is there already, of the sixteen that may be.
        let _streams: Vec<_> = (1..16).map(|_| events::of(t, node, "")).collect();
        is_refused(t, node, "get", ["/v1/events"; 2], 503);
    }
}

/// What is asked for wrongly, or is not there, is refused in described words; a wrong configuration too, and it is told.
fn refusals_are_as_described(t: &TestLab, target: &str, here: &Events) {
    for node in [INTERMEDIATE, target] {
        for (route, query) in [
            ("/v1/flows", "limit=100001"),
            ("/v1/flows", "colour=red"),
            ("/v1/migrations", "colour=red"),
            ("/v1/events", "kind=colour"),
            ("/v1/capture", "client=nobody"),
        ] {
            is_refused(t, node, "get", [route, &format!("{route}?{query}")], 400);
        }
        is_refused(t, node, "get", ["/v1/flows/{id}", "/v1/flows/0123456789abcdef"], 404);
    }
    let order = |kind: &str, path: &str, status| {
        is_refused(t, INTERMEDIATE, "post", [&format!("/v1/{kind}/{{order}}"), path], status);
    };
    order("targets/{name}", "/v1/targets/nobody/drain", 404);
    order("targets/{name}", &format!("/v1/targets/{target}/drain?colour=red"), 400);
    order("listeners/{name}", "/v1/listeners/nobody/drain", 404);
    order("node", "/v1/node/explode", 404);
    is_refused(t, INTERMEDIATE, "get", ["/v1/targets/{name}", "/v1/targets/nobody"], 404);

    let file = t.lab.config(INTERMEDIATE, Program::Balancer);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("colour = 1\n{text}")).unwrap();
    is_refused(t, INTERMEDIATE, "post", ["/v1/reload"; 2], 422);
    std::fs::write(&file, text).unwrap();
    let told = here.wait("reload", |reload| reload["applied"] == false);
    assert!(told["error"].as_str().is_some_and(|error| error.contains(":1:1: ")), "{told:#}");
}

/// A capture on a node while `meanwhile` runs: each line is as described, the first and the last too.
fn lines_are_as_described(t: &TestLab, node: &str, client: &str, meanwhile: impl FnOnce()) {
    let openapi = t.admin(node, "/v1/openapi.json");
    let schema = json!({ "$ref": "#/components/schemas/CaptureLine" });
    let mut stream = UnixStream::connect(t.lab.admin_socket(node).unwrap()).unwrap();
    let path = format!("/v1/capture?client={client}&packets=2&seconds=10");
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Baton-CSRF: 1\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    // Each line is a chunk of the body.
    let lines = BufReader::new(stream).lines().map(Result::unwrap).filter(|line| line.starts_with('{'));
    let mut lines = lines.map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let mut all = vec![lines.next().unwrap()];
    meanwhile();
    all.extend(lines);
    for line in &all {
        let faults = faults(&openapi, &schema, line);
        assert!(faults.is_empty(), "{node}: {faults:#?}\n{line:#}");
    }
    assert!(all.len() > 2 && all[1..all.len() - 1].iter().all(|line| line["at_ns"].is_u64()), "{all:#?}");
    assert!(all[0].get("begin").is_some() && all[all.len() - 1].get("end").is_some(), "{all:#?}");
}

/// Every operation of a node but streams is called as its file says, and answers as it says; how many there were.
fn as_described(t: &TestLab, node: &str, flow: &str) -> usize {
    let openapi = t.admin(node, "/v1/openapi.json");
    let mut called = 0;
    for (path, operations) in openapi["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let answer = &operation["responses"]["200"]["content"];
            if answer.get("text/event-stream").is_some() || answer.get("application/x-ndjson").is_some() {
                continue;
            }
            let mut path = path.replace("{id}", flow);
            let mut query = Vec::new();
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap();
                let example = match &parameter["example"] {
                    Value::Null => continue,
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                match parameter["in"].as_str().unwrap() {
                    "path" => path = path.replace(&format!("{{{name}}}"), &example),
                    _ => query.push(format!("{name}={example}")),
                }
            }
            if path.contains("/listeners/{name}") {
                let listeners = t.admin(node, "/v1/listeners");
                path = path.replace("{name}", listeners["listeners"][0]["name"].as_str().unwrap());
            }
            assert!(!path.contains('{'), "{path}: a parameter has no example");
            let path = if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) };
            let (status, text) = match method.as_str() {
                "get" => t.lab.admin_text(node, &path).unwrap(),
                _ => t.lab.admin_post(node, &path).unwrap(),
            };
            assert_eq!(status, 200, "{node} {method} {path}: {text}");
            if let Some(content) = answer.get("application/json") {
                let value: Value =
                    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}: {text}"));
                let faults = faults(&openapi, &content["schema"], &value);
                assert!(faults.is_empty(), "{node} {method} {path}: {faults:#?}\n{value:#}");
            }
            called += 1;
        }
    }
    called
}

/// What both daemons show at `/metrics` follows the format and our rules, and `docs/metrics.md` has a row for each family, and
/// none for another.
fn metrics_are_as_documented(t: &TestLab, target: &str) {
    let page = include_str!("../../docs/metrics.md");
    let mut rows: BTreeSet<&str> = page.lines().filter(|line| line.starts_with("| `baton_")).collect();
    let mut shown = BTreeSet::new();
    for (node, daemon) in [(INTERMEDIATE, "intermediate"), (target, "agent")] {
        let (_, text) = t.lab.admin_text(node, "/metrics").unwrap();
        let families = exposition::read(&text).unwrap_or_else(|faults| panic!("{node}: {faults:#?}"));
        for (name, family) in &families {
            let row = format!("| `{}` | {} | {daemon} | ", family.shown(name), family.kind);
            shown.insert(row);
        }
        if let Some(stages) = families.get("baton_stage_seconds") {
            assert_eq!(
                (stages.bounds()[0].as_str(), stages.bounds().len()),
                ("0.00002", 20),
                "from 20 us on"
            );
            let requests = families["baton_proxied_request_duration_seconds"].bounds();
            assert_eq!((requests[0].as_str(), requests[13].as_str()), ("0.005", "10.0"), "OpenTelemetry's");
        }
    }
    for row in shown {
        let found = rows.iter().find(|line| line.starts_with(&row)).copied();
        assert!(found.is_some_and(|line| rows.remove(line)), "docs/metrics.md lacks: {row}");
    }
    assert!(rows.is_empty(), "nobody shows {rows:#?}");
}

#[test]
fn both_daemons_describe_themselves_tell_what_happens_and_know_a_flow_from_all_sides() {
    let order =
        |s: netns_lab::LabSpec| s.intermediate_with("listener", "pool", "all").intermediate_also(SECRETS);
    let Some(t) = lab::up("adminapi", order) else { return };
    let here = events::of(&t, INTERMEDIATE, "?kind=handoff,end,order,reload");
    let mut connection = t.client(|| {
        let mut connection = Connection::open(VIP).unwrap();
        connection.get("/1k?token=hush").unwrap();
        assert_eq!(connection.response().unwrap().status, 200);
        connection
    });
    let handoff = here.wait("handoff", |_| true);
    assert_eq!((&handoff["outcome"], &handoff["vip"]), (&json!("migrated"), &json!(VIP.to_string())));
    assert_eq!(handoff["request"], "GET /1k?…", "values of a query are nobody's business");
    let (id, target) = (handoff["flow"].as_str().unwrap(), handoff["target"].as_str().unwrap());
    let there = events::of(&t, target, &format!("?flow={id}"));

    // A busy machine's agent may be too late with its part.
    let mut flow = Value::Null;
    t.eventually("the flow is known from all sides", LIMIT, |t| {
        flow = t.admin(INTERMEDIATE, &format!("/v1/flows/{id}"));
        flow["state"] == "committed"
            && flow["agent"]["map"].is_object()
            && flow["agent"]["socket"].is_object()
    });
    assert_eq!(flow["request"], "GET /1k?…");
    let (mine, theirs) = (&flow["intermediate"], &flow["agent"]["map"]);
    for map in [mine, theirs] {
        assert_eq!((&map["record"]["state"], &map["record"]["flow_id"]), (&json!("committed"), &json!(id)));
        for key in map["keys"].as_array().unwrap() {
            assert_eq!((&key["slot"], &key["remote"]), (&map["slot"], &flow["client"]), "{key}");
        }
    }
    assert_eq!(mine["record"]["new"], flow["server"]);
    assert_eq!(mine["keys"][0]["local"], flow["vip"]);
    let socket = &flow["agent"]["socket"];
    assert_eq!(socket["state"], "ESTAB", "{flow:#}");
    assert!(
        socket["bytes_sent"].as_u64().unwrap() > 1024 && socket["cwnd"].as_u64().unwrap() > 0,
        "{socket:#}"
    );
    // What is added to the server's numbers there is taken from the client's acknowledgements here.
    let delta = |map: &Value, key: &str| u32::try_from(map["record"][key].as_u64().unwrap()).unwrap();
    assert_eq!(delta(mine, "ack_delta").wrapping_add(delta(theirs, "seq_delta")), 0);

    assert_eq!(as_described(&t, INTERMEDIATE, id), 22);
    assert_eq!(as_described(&t, target, id), 11);
    metrics_are_as_documented(&t, target);
    assert_eq!(here.wait("reload", |_| true)["applied"], true);
    t.order(&format!("/v1/targets/{target}/drain"));
    t.order(&format!("/v1/targets/{target}/undrain"));
    let order = here.wait("order", |_| true);
    assert_eq!([&order["target"], &order["from"], &order["to"]], [target, "ready", "draining"]);
    refusals_are_as_described(&t, target, &here);
    assert_eq!(t.admin(INTERMEDIATE, "/v1/flows?limit=0")["truncated"], true);
    let after = t.admin(INTERMEDIATE, &format!("/v1/flows?after={id}"));
    assert!(after["flows"].as_array().unwrap().iter().all(|other| other["id"].as_str().unwrap() > id));
    let config = t.admin(INTERMEDIATE, "/v1/config");
    assert_eq!(config["name"], INTERMEDIATE);
    let shown = config.to_string();
    assert!(!shown.contains("hush") && shown.matches("(redacted)").count() == 4, "{config:#}");

    for node in [INTERMEDIATE, target] {
        lines_are_as_described(&t, node, flow["client"].as_str().unwrap(), || {
            connection.get("/1k").unwrap();
            assert_eq!(connection.response().unwrap().status, 200);
        });
    }
    drop(connection);
    let ends = [&here, &there].map(|events| events.wait("end", |end| end["flow"] == id));
    assert_eq!(ends[0]["bytes"], ends[1]["bytes"]);
    assert!(ends[0]["bytes"].as_u64().unwrap() > 2048, "{ends:?}");
    what_cannot_be_now_is_as_described(&t, target);
    // The target's counts come with its next report.
    t.eventually("what was sent directly is reported", LIMIT, |t| {
        let sent = t.admin(INTERMEDIATE, &format!("/v1/targets/{target}"))["load"][0]["bytes"].as_u64();
        sent.is_some_and(|sent| sent >= ends[0]["bytes"].as_u64().unwrap())
    });
}
