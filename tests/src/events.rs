//! A node's events, each held against the schema by which its daemon describes them.

use crate::lab::TestLab;
use crate::openapi::faults;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long an event may take.
const LIMIT: Duration = Duration::from_secs(30);

/// What a node tells.
#[derive(Debug)]
pub struct Events {
    node: String,
    told: mpsc::Receiver<(String, Value)>,
}

/// The events of a node, from when this returns on. `query` may name kinds and a flow.
///
/// # Panics
/// If it does not answer.
#[expect(clippy::unwrap_used, reason = "a test's support: the panic is the report")]
pub fn of(t: &TestLab, node: &str, query: &str) -> Events {
    let openapi = t.admin(node, "/v1/openapi.json");
    let schema = json!({ "$ref": "#/components/schemas/Event" });
    let mut stream = UnixStream::connect(t.lab.admin_socket(node).unwrap()).unwrap();
    write!(stream, "GET /v1/events{query} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines();
    let begun = lines.by_ref().map(Result::unwrap).find(|line| line.starts_with(": subscribed"));
    assert!(begun.is_some(), "{node} ended its stream");
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut kind = String::new();
        for line in lines.map_while(Result::ok) {
            if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut kind);
            } else if let Some(data) = line.strip_prefix("data: ") {
                let data: Value = serde_json::from_str(data).unwrap();
                let wrong = faults(&openapi, &schema, &data);
                // Whoever waits for an event finds the stream ended, below this.
                assert!(
                    wrong.is_empty() && data.get("at").is_some_and(Value::is_u64),
                    "{kind}: {wrong:#?}\n{data:#}"
                );
                if tell.send((kind.clone(), data)).is_err() {
                    return;
                }
            }
        }
    });
    Events { node: node.to_owned(), told }
}

impl Events {
    /// The next event of a kind that is as wanted; those before it are passed over.
    ///
    /// # Panics
    /// If none comes, or one that is not as its node describes it.
    pub fn wait(&self, kind: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let (until, mut passed) = (Instant::now() + LIMIT, Vec::new());
        loop {
            match self.told.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok((is, data)) if is == kind && wanted(&data) => return data,
                Ok(other) => passed.push(other),
                Err(e) => panic!("no {kind} as wanted from {} ({e}), but {passed:#?}", self.node),
            }
        }
    }
}
