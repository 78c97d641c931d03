//! `baton flows`: the list, and one flow with all that is known of it.

use crate::Done;
use crate::args::FlowArgs;
use crate::endpoint::{Nodes, escaped, with_query};
use crate::numbers::{age, bytes, micros, now_ms};
use crate::table::{Table, at, list, number, printable, word};
use serde_json::Value;
use std::process::ExitCode;

pub(crate) async fn run(nodes: &Nodes, as_json: bool, args: &FlowArgs) -> Done {
    if let Some(id) = &args.id {
        let flow = nodes.intermediate.get(&format!("/v1/flows/{}", escaped(id))).await?;
        if as_json {
            println!("{flow}");
        } else {
            print!("{}", detail(&flow));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let query = [
        ("target", args.target.clone()),
        ("state", args.state.clone()),
        ("client", args.client.clone()),
        ("vip", args.vip.map(|vip| vip.to_string())),
        ("limit", Some(args.limit.to_string())),
    ];
    let told = nodes.intermediate.get(&with_query("/v1/flows", &query)).await?;
    if as_json {
        println!("{told}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&[
        "FLOW",
        "STATE",
        "CLIENT",
        "VIP",
        "TARGET",
        "SERVER",
        "AGE",
        "FROM CLIENT",
        "END",
        "REQUEST",
    ]);
    for flow in list(&told, "/flows") {
        table.row([
            at(flow, "/id"),
            at(flow, "/state"),
            at(flow, "/client"),
            at(flow, "/vip"),
            at(flow, "/target"),
            at(flow, "/server"),
            age(now_ms().saturating_sub(number(flow, "/started"))),
            bytes(number(flow, "/bytes")),
            at(flow, "/end/reason"),
            at(flow, "/request"),
        ]);
    }
    if table.is_empty() {
        println!("no such flows");
    } else {
        print!("{}", table.text());
    }
    if told.get("truncated") == Some(&Value::Bool(true)) {
        println!("there are more: --limit");
    }
    Ok(ExitCode::SUCCESS)
}

/// A flow with both hosts' records and the server's socket.
pub(crate) fn detail(flow: &Value) -> String {
    let mut out = format!(
        "flow {} generation {}: {}, {}\n  client {} -> VIP {} -> target {} (server {})\n  begun {} ago, {} requests read",
        at(flow, "/id"),
        at(flow, "/generation"),
        at(flow, "/state"),
        at(flow, "/request"),
        at(flow, "/client"),
        at(flow, "/vip"),
        at(flow, "/target"),
        at(flow, "/server"),
        age(now_ms().saturating_sub(number(flow, "/started"))),
        at(flow, "/requests"),
    );
    if flow.pointer("/end/reason").is_some() {
        out += &format!(
            "; ended: {} after {}, {} sent",
            at(flow, "/end/reason"),
            age(number(flow, "/end/duration_ms")),
            bytes(number(flow, "/end/bytes"))
        );
    }
    out.push('\n');
    out += &map(flow.get("intermediate").unwrap_or(&Value::Null), "on the intermediate, client to server");
    match flow.get("agent").filter(|agent| !agent.is_null()) {
        Some(agent) => {
            out += &map(agent.get("map").unwrap_or(&Value::Null), "on the target, server to client");
            out += &format!(
                "  the connection was {}\n",
                if agent.get("adopted") == Some(&Value::Bool(true)) {
                    "adopted by the kernel: the server's numbers are the client's"
                } else {
                    "replayed: the server's numbers are translated"
                }
            );
            out += &socket(agent);
        }
        None => out += &format!("on the target: {}\n", at(flow, "/agent_error")),
    }
    out
}

fn map(map: &Value, heading: &str) -> String {
    let record = |key: &str| at(map, &format!("/record/{key}"));
    let mut out = format!("{heading}: slot {}, {}\n", at(map, "/slot"), record("state"));
    for key in list(map, "/keys") {
        out += &format!(
            "  key        {} at {} -> {}\n",
            at(key, "/remote"),
            at(key, "/local"),
            match key.get("slot").and_then(Value::as_u64) {
                None => "NOT IN THE MAP".to_owned(),
                Some(slot) => format!("slot {slot}"),
            }
        );
    }
    out += &format!("  rewrite    {}\n", translation(map));
    out += &format!(
        "  sender     acknowledged {}, sent up to {}, window {}\n",
        record("note_ack"),
        record("note_seq_end"),
        record("note_window"),
    );
    let idle = map.pointer("/record/idle_ms").and_then(Value::as_u64);
    out += &format!(
        "  counted    {} packets, {}; {}\n",
        record("packets"),
        bytes(number(map, "/record/bytes")),
        idle.map_or_else(|| "none yet".to_owned(), |ms| format!("the last {} ago", age(ms)))
    );
    out
}

/// What a record does to a packet.
pub(crate) fn translation(map: &Value) -> String {
    let record = |key: &str| at(map, &format!("/record/{key}"));
    let delta = |key: &str| {
        let raw = u32::try_from(number(map, &format!("/record/{key}"))).unwrap_or(0);
        format!("{:+}", raw.cast_signed())
    };
    let mut out =
        format!("address {}, seq {}, ack {}", record("new"), delta("seq_delta"), delta("ack_delta"));
    out += &format!(", timestamp {} echo {}", delta("tsval_delta"), delta("tsecr_delta"));
    let (before, after) = (number(map, "/record/window_shifts/0"), number(map, "/record/window_shifts/1"));
    if before != after {
        out += &format!(", window scale {before} to {after}");
    }
    out
}

fn socket(agent: &Value) -> String {
    let Some(socket) = agent.get("socket").filter(|socket| !socket.is_null()) else {
        let why = word(agent, "/socket_error").map_or_else(|| "there is none any more".to_owned(), printable);
        return format!("  socket     {why}\n");
    };
    let n = |key: &str| number(socket, &format!("/{key}"));
    format!(
        "  socket     {} ({}), rtt {} (smallest {}), cwnd {} segments of {}, client's window {}\n             {} to be acknowledged, {} unread; sent {}, of it again {}; lost {}, time-outs {}\n             {} a second delivered; limited by the client's window {} and by the send buffer {} of {} busy\n",
        at(socket, "/state"),
        at(socket, "/congestion"),
        micros(n("rtt_us")),
        micros(n("min_rtt_us")),
        n("cwnd"),
        bytes(n("mss")),
        bytes(n("send_window")),
        bytes(n("send_queue")),
        bytes(n("receive_queue")),
        bytes(n("bytes_sent")),
        bytes(n("bytes_retrans")),
        n("lost"),
        n("timeouts"),
        bytes(n("delivery_rate")),
        micros(n("window_limited_us")),
        micros(n("buffer_limited_us")),
        micros(n("busy_us")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn deltas_are_shown_as_the_small_numbers_they_mostly_are() {
        let map = json!({ "record": { "new": "10.0.0.1:80", "seq_delta": 0, "ack_delta": 4_294_967_295u32,
            "tsval_delta": 5, "tsecr_delta": 0, "window_shifts": [7, 9] } });
        let text = translation(&map);
        assert_eq!(text, "address 10.0.0.1:80, seq +0, ack -1, timestamp +5 echo +0, window scale 7 to 9");
    }

    #[test]
    fn a_key_that_is_not_in_the_map_is_told_loudly() {
        let flow = json!({ "intermediate": { "slot": 3, "keys": [{ "remote": "a", "local": "b", "slot": null }] },
            "agent": null, "agent_error": "the agent is not connected" });
        let text = detail(&flow);
        assert!(text.contains("NOT IN THE MAP") && text.contains("the agent is not connected"), "{text}");
    }
}
