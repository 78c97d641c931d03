//! What changes something: drain, take back, reload; and waiting for it.

use crate::Done;
use crate::args::{DrainArgs, WaitArgs, What};
use crate::endpoint::{Nodes, escaped, with_query};
use crate::table::{at, list, number, word};
use anyhow::{Result, bail};
use serde_json::Value;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The longest the daemon waits itself.
const WAIT_MOST: u64 = 600;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

impl What {
    fn path(&self) -> String {
        match self {
            What::Target { name } => format!("/v1/targets/{}", escaped(name)),
            What::Listener { name } => format!("/v1/listeners/{}", escaped(name)),
            What::Node => "/v1/node".to_owned(),
        }
    }

    /// Whether nothing is left, by what the daemon says of it.
    fn is_done(&self, view: &Value) -> bool {
        match self {
            What::Target { .. } | What::Node => view.get("drained") == Some(&Value::Bool(true)),
            What::Listener { .. } => word(view, "/state") == Some("draining") && number(view, "/flows") == 0,
        }
    }

    fn text(&self, view: &Value) -> String {
        match self {
            What::Target { name } => format!(
                "target {name}: {}, {} flows, {} handoffs and proxied requests under way",
                at(view, "/admin"),
                number(view, "/flows"),
                number(view, "/in_hand")
            ),
            What::Listener { name } => {
                format!("listener {name}: {}, {} flows", at(view, "/state"), number(view, "/flows"))
            }
            What::Node => format!(
                "node: {}, {} flows, {} connections",
                at(view, "/state"),
                number(view, "/flows"),
                number(view, "/connections")
            ),
        }
    }
}

fn say(what: &What, view: &Value, as_json: bool) {
    if as_json {
        println!("{view}");
    } else {
        println!("{}", what.text(view));
    }
}

pub(crate) async fn drain(nodes: &Nodes, as_json: bool, args: &DrainArgs, order: &str) -> Done {
    let wait = args.wait.unwrap_or(0).min(WAIT_MOST);
    let query = [("wait_ms", (wait > 0).then(|| (wait * 1000).to_string()))];
    let path = with_query(&format!("{}/{order}", args.what.path()), &query);
    let view = nodes.intermediate.post(&path, Duration::from_secs(wait)).await?;
    say(&args.what, &view, as_json);
    let left = order == "drain" && wait > 0 && !args.what.is_done(&view);
    Ok(if left { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What is waited for, as the daemon shows it; there is no path for one listener.
async fn look(nodes: &Nodes, what: &What) -> Result<Value> {
    let What::Listener { name } = what else { return nodes.intermediate.get(&what.path()).await };
    let told = nodes.intermediate.get("/v1/listeners").await?;
    match list(&told, "/listeners").find(|listener| word(listener, "/name") == Some(name)) {
        Some(listener) => Ok(listener.clone()),
        None => bail!("there is no listener of this name"),
    }
}

pub(crate) async fn wait(nodes: &Nodes, as_json: bool, args: &WaitArgs) -> Done {
    let until = Instant::now() + Duration::from_secs(args.timeout);
    loop {
        let view = look(nodes, &args.what).await?;
        let done = args.what.is_done(&view);
        if done || Instant::now() >= until {
            say(&args.what, &view, as_json);
            return Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        tokio::time::sleep(LOOK).await;
    }
}

pub(crate) async fn reload(nodes: &Nodes, as_json: bool) -> Done {
    let did = nodes.intermediate.post("/v1/reload", Duration::from_secs(60)).await?;
    if as_json {
        println!("{did}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("the configuration is in force");
    for (what, of) in did.as_object().into_iter().flatten() {
        let of: Vec<String> = of.as_array().into_iter().flatten().map(super::table::cell).collect();
        if !of.is_empty() {
            println!("  {}: {}", what.replace('_', " "), of.join(", "));
        }
    }
    Ok(ExitCode::SUCCESS)
}
