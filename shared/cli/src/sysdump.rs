//! `baton sysdump`: all that the daemons tell, as files.

use crate::Done;
use crate::endpoint::{Node, Nodes};
use crate::numbers::now_ms;
use anyhow::{Context, Result};
use hyper::Method;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Asked of every daemon; one that does not have a path says so in its file.
const PATHS: [&str; 13] = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/v1/status",
    "/v1/targets",
    "/v1/pools",
    "/v1/listeners",
    "/v1/node",
    "/v1/flows?limit=100000",
    "/v1/migrations?limit=100000",
    "/v1/reasons",
    "/v1/config",
    "/v1/doctor",
];
/// Some look at other hosts first.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn run(nodes: &Nodes, as_json: bool, directory: &Path) -> Done {
    fs::create_dir(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let mut reached = 0;
    let mut index = Vec::new();
    for node in nodes.all() {
        let name: String =
            node.name.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '_' }).collect();
        let files = directory.join(name.trim_matches('_'));
        fs::create_dir(&files)?;
        let answered = dump(node, &files).await?;
        reached += usize::from(answered > 0);
        index.push(json!({ "node": node.name, "endpoint": node.endpoint.to_string(), "answers": answered }));
    }
    let about = json!({ "tool": env!("CARGO_PKG_VERSION"), "at": now_ms(), "nodes": Value::Array(index) });
    fs::write(directory.join("index.json"), format!("{about:#}\n"))?;
    if as_json {
        println!("{about}");
    } else {
        println!("{}: {reached} of {} daemons answered", directory.display(), 1 + nodes.agents.len());
    }
    Ok(if reached == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// How many paths were answered.
async fn dump(node: &Node, files: &Path) -> Result<usize> {
    let mut answered = 0;
    for path in PATHS {
        let bare = path.split('?').next().unwrap_or(path).trim_start_matches('/').replace('/', "-");
        let (file, text) = match node.text(Method::GET, path, PATIENCE).await {
            Ok(text) => {
                answered += 1;
                let json = serde_json::from_str::<Value>(&text).ok();
                match json {
                    Some(json) => (format!("{bare}.json"), format!("{json:#}\n")),
                    None => (format!("{bare}.txt"), text),
                }
            }
            Err(e) => (format!("{bare}.error"), format!("{e:#}\n")),
        };
        fs::write(files.join(file), text)?;
    }
    Ok(answered)
}
