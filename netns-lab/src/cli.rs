//! Subcommands and what they print.

mod measure;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use measure::{Bench, Cost, run_bench, run_cost};
use netns_lab::demo::{self, DemoSpec};
use netns_lab::impair::{self, Impairment, WireArgs};
use netns_lab::{Balancer, Family, Lab, LabSpec, LabState, Plane, Rate, Serve, interrupt, rootless};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

/// Brings up Baton's whole system on this machine: client, router, intermediate and targets as network namespaces, with
/// a real nginx on each target. Needs root.
#[derive(Parser)]
#[command(name = "netns-lab", version, arg_required_else_help = true)]
#[command(after_help = "Examples:
  netns-lab demo                                    show a migration, with the proof
  netns-lab up --targets 3 --balancer haproxy       bring a lab up with a plain proxy instead
  netns-lab exec client1 -- curl -s http://10.90.1.100/whoami
  netns-lab down --all

Nodes are called client1, ..., router, intermediate, target1, ...; targets serve /1k /10k /100k /1m /10m /100m, show
headers and the client's address at /whoami, take POST at /upload and PUT at /upload/NAME.
The daemons are looked for beside this program, or in the directory BATON_BIN_DIR names.")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Bring a lab up and leave it up
    Up(Up),
    /// Run a command on a node of a lab
    Exec(Exec),
    /// Show the labs that are up and whether their programs run
    Status(Status),
    /// Take a lab down
    Down(Down),
    /// Bring a lab up, download through the VIP, print the proof, take it down
    Demo(Demo),
    /// Measure Baton beside the direct path and plain proxies, in interleaved rounds
    Bench(Bench),
    /// Count what one handoff costs: system calls, wakeups, allocations, time, control bytes
    Cost(Cost),
    /// The wire of an impaired link; the lab starts it
    #[command(hide = true)]
    ImpairBox(WireArgs),
}

#[derive(Args)]
struct Up {
    /// The lab's name; labs of different names run side by side
    #[arg(long, value_name = "N", default_value = "lab")]
    name: String,
    /// How many targets
    #[arg(long, value_name = "K", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    targets: u8,
    /// How many clients
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    clients: u8,
    /// What answers at the VIP: baton, haproxy, nginx, envoy, caddy; with none there is no VIP
    #[arg(long, value_name = "WHAT", default_value = "baton")]
    balancer: Balancer,
    /// Who carries the packets of migrated connections: ebpf, userspace
    #[arg(long, value_name = "WHICH", default_value = "ebpf")]
    plane: Plane,
    /// How connections are given to the servers: translate, adopt, auto
    #[arg(long, value_name = "HOW", default_value = "auto")]
    serve: Serve,
    /// In an unprivileged user namespace, without root; with --plane userspace
    #[arg(long)]
    rootless: bool,
    /// Limit the intermediate's link, both ways, for example 1gbit
    #[arg(long, value_name = "R")]
    rate_intermediate: Option<Rate>,
    /// Limit each target's link, both ways
    #[arg(long, value_name = "R")]
    rate_target: Option<Rate>,
    #[command(flatten)]
    network: Network,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What the links are like.
#[derive(Args)]
struct Network {
    /// IPv6 alone, the control channel included
    #[arg(long, conflicts_with = "dual")]
    ipv6: bool,
    /// IPv4 and IPv6, a VIP of each
    #[arg(long)]
    dual: bool,
    /// What a link does to packets: loss=1%,dup=1%,reorder=2%,corrupt=0.1%,delay=20ms,jitter=2ms,rate=100mbit,seed=7
    #[arg(long, value_name = "HOW")]
    impair: Option<Impairment>,
    /// Whose link that is; may be given more than once [default: client1]
    #[arg(long, value_name = "NODE", requires = "impair")]
    impair_link: Vec<String>,
    /// MTU of the clients' links, which servers must find out
    #[arg(long, value_name = "BYTES")]
    mtu_client: Option<u16>,
    /// MTU of the targets' links, which clients that upload must find out
    #[arg(long, value_name = "BYTES")]
    mtu_target: Option<u16>,
    /// Congestion control of the servers' sockets, for example bbr [default: cubic]
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
    /// The router drops packets whose source is not where they come from
    #[arg(long)]
    urpf: bool,
}

fn family(ipv6: bool, dual: bool) -> Family {
    match (ipv6, dual) {
        (true, _) => Family::V6,
        (_, true) => Family::Dual,
        _ => Family::V4,
    }
}

#[derive(Args)]
struct Exec {
    /// client1, router, intermediate, target1, ...
    node: String,
    /// The lab's name
    #[arg(long, value_name = "N", default_value = "lab")]
    name: String,
    /// The lab was brought up with --rootless
    #[arg(long)]
    rootless: bool,
    /// The command, after two dashes
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Args)]
struct Status {
    /// Only this lab
    #[arg(long, value_name = "N")]
    name: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Down {
    /// The lab's name
    #[arg(long, value_name = "N", default_value = "lab", conflicts_with = "all")]
    name: String,
    /// All labs, whoever brought them up, but those of demos and tests that are running
    #[arg(long)]
    all: bool,
    /// The lab was brought up with --rootless
    #[arg(long, conflicts_with = "all")]
    rootless: bool,
}

#[derive(Args)]
struct Demo {
    /// How many targets
    #[arg(long, value_name = "K", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    targets: u8,
    /// How many requests, one after the other [default: one /100m per target and 20 of /10k]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    requests: Option<u32>,
    /// Which file to download [default with --requests: /100m]
    #[arg(long, value_name = "P")]
    path: Option<String>,
    /// What answers at the VIP, to compare: baton, haproxy, nginx, envoy, caddy
    #[arg(long, value_name = "WHAT", default_value = "baton")]
    balancer: Balancer,
    /// Who carries the packets of migrated connections: ebpf, userspace
    #[arg(long, value_name = "WHICH", default_value = "ebpf")]
    plane: Plane,
    /// In an unprivileged user namespace, without root; with --plane userspace
    #[arg(long)]
    rootless: bool,
    /// IPv6 alone, the control channel included
    #[arg(long, conflicts_with = "dual")]
    ipv6: bool,
    /// IPv4 and IPv6 in turns
    #[arg(long)]
    dual: bool,
    /// What client1's link does to packets, as for `up`
    #[arg(long, value_name = "HOW")]
    impair: Option<Impairment>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Does what the command line says.
pub(crate) fn run() -> Result<ExitCode> {
    match Cli::parse().what {
        What::Up(args) => up(args),
        What::Exec(args) => exec(&args),
        What::Status(args) => status(&args),
        What::Down(args) => down(&args),
        What::Demo(args) => run_demo(args),
        What::Bench(args) => run_bench(args),
        What::Cost(args) => run_cost(&args),
        What::ImpairBox(args) => impair::run_box(&args).map(|()| ExitCode::SUCCESS),
    }
}

fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{}", text.trim_end()).context("cannot write to the standard output")
}

fn print_json(value: &Value) -> Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// Without root eBPF programs cannot be loaded.
fn check_rootless(plane: Plane) -> Result<()> {
    if plane != Plane::Userspace {
        bail!("--rootless needs --plane userspace: eBPF programs are loaded by root only");
    }
    Ok(())
}

/// Without eBPF no connection is adopted: a lab that was asked for it would do something else.
fn check_way(plane: Plane, serve: Serve) -> Result<()> {
    if plane == Plane::Userspace && serve == Serve::Adopt {
        bail!("--serve adopt needs --plane ebpf: without eBPF no connection is adopted");
    }
    Ok(())
}

fn up(args: Up) -> Result<ExitCode> {
    check_way(args.plane, args.serve)?;
    if args.rootless {
        check_rootless(args.plane)?;
        rootless::check_free(&args.name)?;
        rootless::enter()?;
    }
    interrupt::install()?;
    let spec = LabSpec {
        clients: args.clients,
        targets: args.targets,
        balancer: args.balancer,
        rate_intermediate: args.rate_intermediate,
        rate_target: args.rate_target,
        family: family(args.network.ipv6, args.network.dual),
        impair: args.network.impair,
        impair_links: args.network.impair_link,
        mtu_client: args.network.mtu_client,
        mtu_target: args.network.mtu_target,
        congestion: args.network.congestion,
        urpf: args.network.urpf,
        ..LabSpec::new(args.name)
    }
    .serve(args.serve)
    .plane(args.plane);
    let lab = Lab::up(&spec)?;
    let state = lab.snapshot();
    if args.json {
        print_json(&state.shown())?;
    } else {
        print(&described(&state))?;
        let mut name = if spec.name == "lab" { String::new() } else { format!(" --name {}", spec.name) };
        if args.rootless {
            name.push_str(" --rootless");
        }
        let url = match &state.vip {
            Some(vip) => format!("http://{}", vip.trim_end_matches(":80")),
            None => {
                let first = netns_lab::plan::target_addrs(spec.family, 1).first().copied();
                first.map_or_else(String::new, |ip| format!("http://{}", SocketAddr::new(ip, 80)))
            }
        };
        print(&format!(
            "\nTry:   netns-lab exec client1{name} -- curl -s {url}/whoami\nEnd:   netns-lab down{name}"
        ))?;
    }
    if args.rootless {
        rootless::leave(lab)?
    } else {
        lab.leave()?
    }
    Ok(ExitCode::SUCCESS)
}

/// A lab for a reader: VIP, nodes, admin sockets.
fn described(state: &LabState) -> String {
    let mut text = format!("lab {} ({})", state.spec.name, state.spec.balancer);
    match &state.vip {
        Some(_) => text.push_str(&format!(", VIP {}\n", state.vips.join(" "))),
        None => text.push_str(", no VIP\n"),
    }
    let width = state.nodes.iter().map(|n| n.netns.len()).max().unwrap_or(0);
    for node in &state.nodes {
        let addresses = node.addresses.join(" ");
        text.push_str(&format!("  {:<13} {:<width$}  {addresses}\n", node.name, node.netns));
    }
    for node in &state.nodes {
        if let Some(admin) = &node.admin {
            text.push_str(&format!("  admin socket of {}: {}\n", node.name, admin.display()));
        }
    }
    text
}

fn exec(args: &Exec) -> Result<ExitCode> {
    if args.rootless {
        rootless::join(&args.name)?;
    }
    let lab = Lab::attach(&args.name)?;
    let (program, rest) = args.command.split_first().context("no command given")?;
    let program = program.to_str().context("the command's name is not text")?;
    // Replaces this process, so that signals, the terminal and the exit code are the command's own.
    let error = lab.command(&args.node, program)?.args(rest).exec();
    Err(error).with_context(|| format!("cannot run {program}"))
}

fn status(args: &Status) -> Result<ExitCode> {
    let names = match &args.name {
        Some(name) => vec![Lab::attach(name)?.spec().name.clone()],
        None => netns_lab::labs(),
    };
    let mut labs = Vec::new();
    let mut text = String::new();
    for name in &names {
        let Some(state) = LabState::load(name)? else {
            labs.push(json!({ "name": name, "broken": true, "processes": [] }));
            text.push_str(&format!(
                "lab {name}: only parts are left; netns-lab down --name {name} removes them\n"
            ));
            continue;
        };
        let mut shown = state.shown();
        let mut processes = Vec::new();
        text.push_str(&described(&state));
        for p in &state.processes {
            let running = p.id.is_alive();
            let word = if running { "runs" } else { "HAS ENDED" };
            text.push_str(&format!("  {} on {} {word} (process {})\n", p.program, p.node, p.id.pid));
            processes.push(json!({
                "node": p.node, "program": p.program, "pid": p.id.pid, "running": running, "log": p.log,
            }));
        }
        if let Some(object) = shown.as_object_mut() {
            let ok = processes.iter().all(|p| p.get("running") == Some(&Value::Bool(true)));
            object.insert("processes".into(), processes.into());
            object.insert("ok".into(), ok.into());
        }
        labs.push(shown);
    }
    if args.json {
        print_json(&json!({ "labs": labs }))?;
    } else if names.is_empty() {
        print("no lab is up")?;
    } else {
        print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn down(args: &Down) -> Result<ExitCode> {
    if args.rootless {
        rootless::join(&args.name)?;
    }
    if !netns_lab::sys::is_root() {
        bail!("taking a lab down needs root; run it with sudo");
    }
    interrupt::install()?;
    let names = if args.all { netns_lab::labs() } else { vec![args.name.clone()] };
    let mut problems = Vec::new();
    for name in &names {
        if let Some(owner) = netns_lab::running_owner(name).filter(|_| args.all) {
            print(&format!("lab {name} belongs to process {owner}, which is running: left alone"))?;
            continue;
        }
        match netns_lab::down(name) {
            Ok(()) => {
                if args.rootless {
                    rootless::forget(name);
                }
                print(&format!("lab {name} is down"))?;
            }
            Err(e) => problems.push(format!("{e:#}")),
        }
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(ExitCode::SUCCESS)
}

fn run_demo(args: Demo) -> Result<ExitCode> {
    if args.rootless {
        check_rootless(args.plane)?;
        rootless::enter()?;
    }
    interrupt::install()?;
    let spec = DemoSpec {
        targets: args.targets,
        balancer: args.balancer,
        plane: args.plane,
        family: family(args.ipv6, args.dual),
        impair: args.impair,
        plan: demo::plan(args.targets, args.requests, args.path.as_deref())?,
        progress: !args.json,
    };
    let report = demo::run(&spec)?;
    if args.json {
        print_json(&report.to_json())?;
    } else {
        print(&report.to_text())?;
    }
    Ok(if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
