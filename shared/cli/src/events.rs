//! `baton events`: what happens on all daemons, as it happens.

use crate::Done;
use crate::args::EventArgs;
use crate::endpoint::{Node, Nodes, with_query};
use crate::numbers::clock;
use crate::table::{cell, number};
use anyhow::{Result, anyhow, bail};
use http_body_util::BodyExt;
use hyper::Method;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::mpsc;

/// One event of one daemon.
struct Event {
    node: String,
    kind: String,
    data: Value,
}

pub(crate) async fn run(nodes: &Nodes, as_json: bool, args: &EventArgs) -> Done {
    let kinds = (!args.kind.is_empty()).then(|| args.kind.join(","));
    let path = with_query("/v1/events", &[("kind", kinds), ("flow", args.flow.clone())]);
    let (tell, mut told) = mpsc::channel(256);
    for node in nodes.all() {
        let (node, path, tell) = (node.clone(), path.clone(), tell.clone());
        tokio::spawn(async move {
            let ended = follow(&node, &path, &tell).await;
            // Whoever reads may be gone.
            let _ = tell
                .send(
                    ended
                        .map_err(|e| e.context(format!("events of {}", node.name)))
                        .and_then(|()| bail!("{} ended its stream: it was stopped", node.name)),
                )
                .await;
        });
    }
    drop(tell);
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(event) = told.recv().await else { break };
        let event = event?;
        if as_json {
            println!("{}", json!({ "from": event.node, "kind": event.kind, "data": event.data }));
        } else {
            println!("{}", line(&event));
        }
        left -= 1;
    }
    Ok(ExitCode::SUCCESS)
}

async fn follow(node: &Node, path: &str, tell: &mpsc::Sender<Result<Event>>) -> Result<()> {
    let answer = node.answer(Method::GET, path, Duration::from_secs(10)).await?;
    let mut body = answer.into_body();
    let mut frames = Frames::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| anyhow!("{e}"))?;
        let Ok(bytes) = frame.into_data() else { continue };
        for (kind, data) in frames.take(&bytes) {
            let event = Event { node: node.name.clone(), kind, data };
            if tell.send(Ok(event)).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Server-sent events out of pieces of a stream (WHATWG HTML, section 9.2.6).
#[derive(Default)]
struct Frames(Vec<u8>);

impl Frames {
    fn take(&mut self, bytes: &[u8]) -> Vec<(String, Value)> {
        self.0.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.0.windows(2).position(|two| two == b"\n\n") {
            let frame: Vec<u8> = self.0.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&frame);
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            if let (Some(kind), Some(data)) = (field("event:"), field("data:")) {
                events.push((kind.to_owned(), serde_json::from_str(data).unwrap_or(Value::Null)));
            }
        }
        events
    }
}

fn line(event: &Event) -> String {
    let fields = event.data.as_object().into_iter().flatten();
    let shown = fields.filter(|(name, value)| *name != "at" && *name != "stages_us" && !value.is_null());
    let fields: Vec<String> = shown.map(|(name, value)| format!("{name}={}", cell(value))).collect();
    format!(
        "{}  {:<12}  {:<8}  {}",
        clock(number(&event.data, "/at")),
        event.node,
        event.kind,
        fields.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_the_stream_is_cut() {
        let stream = b": subscribed\n\nevent: end\nid: 1\ndata: {\"flow\":\"0a\"}\n\nevent: lagged\ndata: {\"missed\":3}\n\n";
        for size in [1, 7, stream.len()] {
            let mut frames = Frames::default();
            let events: Vec<_> = stream.chunks(size).flat_map(|piece| frames.take(piece)).collect();
            assert_eq!(
                events,
                [("end".to_owned(), json!({ "flow": "0a" })), ("lagged".to_owned(), json!({ "missed": 3 }))]
            );
        }
    }
}
