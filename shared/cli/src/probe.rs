//! `baton probe`: one request along the real path, and all that both hosts know of it.

use crate::Done;
use crate::args::ProbeArgs;
use crate::endpoint::{Nodes, escaped, with_query};
use crate::flow::detail;
use crate::numbers::{bytes, micros};
use crate::show::{stages, why};
use crate::table::{at, list, number, word};
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How long the intermediate's records of what the client has the answer of already may take.
const LATE: Duration = Duration::from_secs(2);

/// What the client saw.
struct Seen {
    local: SocketAddr,
    vip: SocketAddr,
    status: u16,
    body: u64,
    connect: Duration,
    first_byte: Duration,
    total: Duration,
    /// Still open: the flow is looked at before it ends.
    _connection: http1::SendRequest<Empty<Bytes>>,
}

pub(crate) async fn run(nodes: &Nodes, as_json: bool, args: &ProbeArgs) -> Done {
    let uri: Uri = args.url.parse().with_context(|| format!("{:?} is no URL", args.url))?;
    if uri.scheme_str() != Some("http") {
        bail!(
            "the URL must begin with http://: what is encrypted ends at the intermediate and does not migrate"
        );
    }
    let limit = Duration::from_secs(args.timeout);
    match &args.target {
        Some(target) => by_agent(nodes, as_json, args, target, &uri, limit).await,
        None => from_here(nodes, as_json, args, &uri, limit).await,
    }
}

async fn from_here(nodes: &Nodes, as_json: bool, args: &ProbeArgs, uri: &Uri, limit: Duration) -> Done {
    let seen = timeout(limit, ask(uri, args.host.as_deref()))
        .await
        .map_err(|_| anyhow!("no complete answer of {uri} in {} s", limit.as_secs()))??;
    let migration = record(nodes, seen.local).await?;
    let flow = flow(nodes, migration.as_ref().and_then(|m| word(m, "/id"))).await;
    let migrated = migration.as_ref().is_some_and(|m| word(m, "/outcome") == Some("migrated"));
    let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    if as_json {
        println!(
            "{}",
            json!({
                "client": seen.local, "vip": seen.vip, "status": seen.status, "body_bytes": seen.body,
                "connect_us": us(seen.connect), "first_byte_us": us(seen.first_byte), "total_us": us(seen.total),
                "migrated": migrated, "migration": migration, "flow": flow,
            })
        );
    } else {
        println!("{} -> {}: {} with {}", seen.local, seen.vip, seen.status, bytes(seen.body));
        println!(
            "  connected after {}, first byte after {}, all after {}",
            micros(us(seen.connect)),
            micros(us(seen.first_byte)),
            micros(us(seen.total))
        );
        match &migration {
            Some(m) => print!("{}", way(m)),
            None => println!("the intermediate has no record of this request: did it go there at all?"),
        }
        if let Some(flow) = &flow {
            print!("{}", detail(flow));
        }
    }
    Ok(if migrated && seen.status < 400 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The name and the port of a URL.
fn place(uri: &Uri) -> Result<(&str, u16)> {
    let authority = uri.authority().context("the URL names no host")?;
    Ok((authority.host().trim_matches(['[', ']']), uri.port_u16().unwrap_or(80)))
}

/// The VIP of the listener that a URL leads to.
async fn listener(nodes: &Nodes, uri: &Uri) -> Result<String> {
    let (name, port) = place(uri)?;
    let named = tokio::net::lookup_host((name, port)).await;
    let named: Vec<SocketAddr> = named.with_context(|| format!("cannot resolve {name}"))?.collect();
    let told = nodes.intermediate.get("/v1/listeners").await?;
    let vips: Vec<&str> = list(&told, "/listeners").filter_map(|listener| word(listener, "/vip")).collect();
    let is_named = |vip: &&&str| vip.parse().is_ok_and(|vip: SocketAddr| named.contains(&vip));
    match vips.iter().find(is_named) {
        Some(vip) => Ok((*vip).to_owned()),
        None => bail!("{uri} leads to no listener of the intermediate: there are {}", vips.join(", ")),
    }
}

async fn by_agent(
    nodes: &Nodes,
    as_json: bool,
    args: &ProbeArgs,
    target: &str,
    uri: &Uri,
    limit: Duration,
) -> Done {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let vip = listener(nodes, uri).await?;
    let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let query = [
        ("vip", Some(vip)),
        ("path", Some(path.to_owned())),
        ("host", args.host.clone().or_else(|| uri.authority().map(ToString::to_string))),
        ("timeout_ms", Some(millis.to_string())),
    ];
    let order = with_query(&format!("/v1/targets/{}/probe", escaped(target)), &query);
    let answer = nodes.intermediate.post(&order, limit).await?;
    let flow = flow(nodes, word(&answer, "/flow_id")).await;
    let ok = answer.get("ok") == Some(&Value::Bool(true));
    if as_json {
        println!("{}", json!({ "probe": answer, "flow": flow }));
    } else {
        println!(
            "{} (agent {}) -> {}: {} with {}; first byte after {}, all after {}",
            at(&answer, "/client"),
            at(&answer, "/from"),
            at(&answer, "/vip"),
            at(&answer, "/status"),
            bytes(number(&answer, "/body_bytes")),
            micros(number(&answer, "/first_byte_us")),
            micros(number(&answer, "/total_us")),
        );
        if ok {
            println!(
                "migrated to {} and answered by it in {}",
                at(&answer, "/target"),
                micros(number(&answer, "/migration_us"))
            );
        } else {
            println!("NOT as it should be: {}", at(&answer, "/reason"));
        }
        println!("  stages     {}", stages(&answer));
        if let Some(flow) = &flow {
            print!("{}", detail(flow));
        }
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All that is known of a flow, while it is known.
async fn flow(nodes: &Nodes, id: Option<&str>) -> Option<Value> {
    nodes.intermediate.get(&format!("/v1/flows/{}", escaped(id?))).await.ok()
}

/// How the request went, by the intermediate's record.
fn way(migration: &Value) -> String {
    let target = at(migration, "/target");
    let mut out = match at(migration, "/outcome").as_str() {
        "migrated" => format!(
            "migrated to {target} in {}, which answered directly\n",
            micros(number(migration, "/total_us"))
        ),
        "proxied" => format!("proxied to {target}: {}\n", why(migration)),
        other => format!("{other} by the intermediate: {}\n", why(migration)),
    };
    let stages = stages(migration);
    if !stages.is_empty() {
        out += &format!("  stages     {stages}\n");
    }
    out
}

async fn ask(uri: &Uri, host: Option<&str>) -> Result<Seen> {
    let (name, port) = place(uri)?;
    let begun = Instant::now();
    let stream =
        TcpStream::connect((name, port)).await.with_context(|| format!("cannot connect to {name}:{port}"))?;
    let connect = begun.elapsed();
    let (local, vip) = (stream.local_addr()?, stream.peer_addr()?);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header("Host", host.or_else(|| uri.authority().map(|all| all.as_str())).unwrap_or(name))
        .header("User-Agent", "baton-probe")
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await.context("the connection broke off")?;
    let (status, first_byte) = (answer.status().as_u16(), begun.elapsed());
    let mut stream = answer.into_body();
    let mut body = 0;
    while let Some(frame) = stream.frame().await {
        let frame = frame.context("the response broke off")?;
        body += frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(0));
    }
    let total = begun.elapsed();
    Ok(Seen { local, vip, status, body, connect, first_byte, total, _connection: sender })
}

/// The intermediate's record of this client's request. The response may be here before it.
async fn record(nodes: &Nodes, client: SocketAddr) -> Result<Option<Value>> {
    let until = Instant::now() + LATE;
    loop {
        let path = with_query("/v1/migrations", &[("client", Some(client.to_string()))]);
        let told = nodes.intermediate.get(&path).await?;
        let newest = list(&told, "/migrations").next().cloned();
        if newest.is_some() || Instant::now() >= until {
            return Ok(newest);
        }
        sleep(Duration::from_millis(20)).await;
    }
}
