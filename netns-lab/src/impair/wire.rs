//! The box's process: two TAP devices, a thread per direction, and a file by which it is asked and asks.
//!
//! A TAP without vnet header has no offloads: the kernel hands over packets no larger than the MTU, checksums in them.

use super::steer::{load, save};
use super::{BoxState, Counts, Direction, Line, Order};
use crate::sys;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tun_tap::{Iface, Mode};

/// Frames read before those that are due are written.
const BATCH: usize = 32;
/// How often the files are looked at and written.
const TICK: Duration = Duration::from_millis(20);
/// Room for a frame: the largest MTU a lab gives is 9000.
const FRAME: usize = 1 << 14;

/// What the hidden subcommand `impair-box` is given.
#[derive(Debug, Clone, clap::Args)]
pub struct WireArgs {
    /// The file the node's namespace is mounted on; the device there is eth0
    #[arg(long)]
    pub node_netns: PathBuf,
    /// The router's
    #[arg(long)]
    pub router_netns: PathBuf,
    /// The device at the router
    #[arg(long)]
    pub device: String,
    /// The file with the order, looked at again and again
    #[arg(long)]
    pub order: PathBuf,
    /// The file that is written with the order in force and the counts, first when the devices are there
    #[arg(long)]
    pub state: PathBuf,
}

/// What the threads of both directions are told and tell.
struct Shared {
    ordered: Mutex<Order>,
    done: [Mutex<(u64, Counts)>; 2],
    failed: Mutex<Option<String>>,
}

/// Runs the box until it is killed.
///
/// # Errors
/// When a device cannot be made, or is gone.
pub fn run(args: &WireArgs) -> Result<()> {
    let first: Order = load(&args.order)?;
    let node = Arc::new(device(&args.node_netns, "eth0")?);
    let router = Arc::new(device(&args.router_netns, &args.device)?);
    let zero = || Mutex::new((0, Counts::default()));
    let shared =
        Arc::new(Shared { ordered: Mutex::new(first), done: [zero(), zero()], failed: Mutex::new(None) });
    let ways = [(Direction::FromNode, &node, &router), (Direction::ToNode, &router, &node)];
    for (direction, from, to) in ways {
        let (from, to, shared) = (Arc::clone(from), Arc::clone(to), Arc::clone(&shared));
        std::thread::spawn(move || {
            if let Err(e) = carry(direction, &from, &to, &shared) {
                *lock(&shared.failed) = Some(format!("{direction:?}: {e}"));
            }
        });
    }
    let mut told = None;
    loop {
        if let Some(why) = lock(&shared.failed).take() {
            bail!("the box of {} ends: {why}", args.device);
        }
        *lock(&shared.ordered) = load(&args.order)?;
        let state = state(&shared);
        if told != Some(state) {
            save(&state, &args.state)?;
            told = Some(state);
        }
        std::thread::sleep(TICK);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The order in force, and what was done under it: nothing, until a direction has noticed it with its next packet.
fn state(shared: &Shared) -> BoxState {
    let order = *lock(&shared.ordered);
    let [from_node, to_node] = shared.done.each_ref().map(|done| {
        let (under, counts) = *lock(done);
        if under == order.number { counts } else { Counts::default() }
    });
    BoxState { order, from_node, to_node }
}

/// Makes a TAP inside a namespace. It stays there, and its descriptor is good for every thread.
fn device(netns: &Path, name: &str) -> Result<Iface> {
    let file = File::open(netns).with_context(|| format!("cannot open the namespace {}", netns.display()))?;
    let name = name.to_owned();
    let thread = std::thread::spawn(move || -> Result<Iface> {
        sys::enter_netns(&file).context("cannot enter the namespace")?;
        let made = Iface::without_packet_info(&name, Mode::Tap)
            .with_context(|| format!("cannot make the TAP device {name}"))?;
        made.set_non_blocking()?;
        Ok(made)
    });
    match thread.join() {
        Ok(made) => made,
        Err(_) => bail!("the thread that makes a TAP device panicked"),
    }
}

/// Carries one direction until a device fails.
fn carry(direction: Direction, from: &Iface, to: &Iface, shared: &Shared) -> io::Result<()> {
    let start = Instant::now();
    let now = || u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let [first, second] = &shared.done;
    let done = if direction == Direction::FromNode { first } else { second };
    let mut order = *lock(&shared.ordered);
    let mut line = Line::new(order.impairment, direction);
    let mut buffer = vec![0; FRAME];
    loop {
        let ordered = *lock(&shared.ordered);
        if ordered.number != order.number {
            order = ordered;
            line.change(order.impairment);
        }
        let mut drained = false;
        for _ in 0..BATCH {
            match from.recv(&mut buffer) {
                Ok(length) => line.push(now(), buffer.get(..length).unwrap_or_default()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    drained = true;
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        let at = now();
        while let Some(frame) = line.pop(at) {
            // A device that is down yet, or has no memory just now, loses the packet as a wire would.
            let _ = to.send(&frame);
            line.recycle(frame);
        }
        *lock(done) = (order.number, line.counts());
        if drained {
            let wait = line.next_due().map(|due| Duration::from_nanos(due.saturating_sub(now())));
            sys::wait_readable(from, wait)?;
        }
    }
}
