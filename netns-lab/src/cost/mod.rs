//! What one handoff costs each process: system calls, wakeups, allocations, processor time, control bytes.
//!
//! Handoffs are made one at a time, each of a new connection with one small request. What the kernel's event counters
//! say before and after is one handoff's; the median over many leaves out what a timer did meanwhile. Times come from a
//! second run, in which nothing else is counted.

mod count;
mod ledger;
mod sys;

pub use ledger::{Handoff, Ledger, Side};

use crate::steer::Program;
use crate::{Lab, LabSpec, Serve, interrupt, kept, plan};
use anyhow::{Context, Result, bail};
use count::{ALL_SYSCALLS, ALLOCATIONS, CPU_NS, Counts, INSTRUCTIONS, Process, WAKEUPS};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What to count.
#[derive(Debug, Clone)]
pub struct CostSpec {
    /// Handoffs, each way.
    pub handoffs: u32,
    /// The ways of serving.
    pub ways: Vec<Serve>,
    /// Whether there is a second run, for the times.
    pub times: bool,
}

/// Both processes are quiet when for so long nothing was counted.
const QUIET: Duration = Duration::from_millis(4);
/// And are taken to be so after this at the latest.
const PATIENCE: Duration = Duration::from_millis(60);
/// Handoffs before the first that counts: names resolved, pools filled.
const WARM: u32 = 10;

/// Brings a lab up for each way, counts, takes it down.
///
/// # Errors
/// When a lab does not come up, the kernel does not count, or a request is not answered.
pub fn run(spec: &CostSpec) -> Result<Ledger> {
    let mut ledger = Ledger::default();
    for way in &spec.ways {
        let name = match way {
            Serve::Translate => "translate",
            Serve::Adopt => "adopt",
            Serve::Auto => "auto",
        };
        let lab = LabSpec::new(format!("cost{}-{name}", std::process::id())).targets(1).serve(*way);
        // The request is there when its connection is accepted: what is counted does not depend on who is faster.
        let lab = lab.defer_accept();
        // Nor on a busy machine's pauses: a handoff that is late is none.
        let lab = lab.intermediate_with("handoff", "deadline_ms", 5000).intermediate_with(
            "handoff",
            "freeze_ms",
            6000,
        );
        let lab = Lab::up(&lab.intermediate_with("listener", "keepalive", "tracked"))?;
        ledger.0.insert(name.to_owned(), of_lab(&lab, spec)?);
    }
    Ok(ledger)
}

/// The processes looked at.
struct Pair {
    intermediate: Process,
    agent: Process,
}

impl Pair {
    fn of(lab: &Lab, count: fn(u32) -> Result<Process>) -> Result<Self> {
        let pid = |node, program| {
            let id = lab.processes_of(node, lab.program_name(program)).into_iter().find(|p| p.is_alive());
            id.map(|id| id.pid).with_context(|| format!("nothing runs on {node}"))
        };
        Ok(Pair {
            intermediate: count(pid(plan::INTERMEDIATE, Program::Balancer)?)?,
            agent: count(pid(&plan::target(1), Program::Agent)?)?,
        })
    }

    fn read(&self) -> Result<[Counts; 2]> {
        Ok([self.intermediate.read()?, self.agent.read()?])
    }

    /// The counts once nothing is added to them any more.
    fn settled(&self) -> Result<[Counts; 2]> {
        let begun = Instant::now();
        let mut last = self.read()?;
        loop {
            std::thread::sleep(QUIET);
            let now = self.read()?;
            if now == last || begun.elapsed() > PATIENCE {
                return Ok(now);
            }
            last = now;
        }
    }
}

/// Bytes of the control channel: from the intermediate, and to it.
#[derive(Clone, Copy)]
struct Control(u64, u64);

impl Control {
    fn read(lab: &Lab) -> Result<Self> {
        let filter = format!("sport = :{}", plan::CONTROL_PORT);
        let text = lab.output(&plan::target(1), &["ss", "-tinH", "state", "established", &filter])?;
        let sum = |name: &str| {
            let values =
                text.split_whitespace().filter_map(|word| word.strip_prefix(name)?.parse::<u64>().ok());
            values.sum()
        };
        Ok(Control(sum("bytes_received:"), sum("bytes_sent:")))
    }
}

fn of_lab(lab: &Lab, spec: &CostSpec) -> Result<Handoff> {
    let client = Client::new(lab)?;
    for _ in 0..WARM {
        client.ask()?;
    }
    let migrated = migrations(lab)?;
    let pair = Pair::of(lab, Process::counted)?;
    let (mut sides, mut control) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new(), Vec::new()]);
    for _ in 0..spec.handoffs {
        interrupt::check()?;
        let (bytes, before) = (Control::read(lab)?, pair.settled()?);
        let connection = client.ask()?;
        let after = pair.settled()?;
        let given = Control::read(lab)?;
        drop(connection);
        pair.settled()?;
        let ended = end(lab, given)?;
        for ((samples, before), after) in sides.iter_mut().zip(before).zip(after) {
            samples.push(difference(&before, &after));
        }
        let counts = [given.0 - bytes.0, given.1 - bytes.1, ended.0 - given.0 + ended.1 - given.1];
        control.iter_mut().zip(counts).for_each(|(samples, n)| samples.push(n));
    }
    drop(pair);
    let migrated = migrations(lab)? - migrated;
    if migrated < u64::from(spec.handoffs) {
        bail!(
            "of {} connections {migrated} were given to the server: there is no cost to tell",
            spec.handoffs
        );
    }
    let [intermediate, agent] = sides.map(|samples| side(&samples));
    let [to_agent, to_intermediate, of_end] = control.map(median);
    let mut handoff = Handoff {
        intermediate,
        agent,
        control_bytes_to_agent: to_agent,
        control_bytes_to_intermediate: to_intermediate,
        control_bytes_of_end: of_end,
    };
    if spec.times {
        times(&client, spec, &mut handoff)?;
    }
    Ok(handoff)
}

/// Connections given to a server so far.
fn migrations(lab: &Lab) -> Result<u64> {
    let (_, text) = lab.admin_text(plan::INTERMEDIATE, "/metrics")?;
    let values = text.lines().filter(|line| line.starts_with("baton_requests_total{outcome=\"migrated\"}"));
    Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}

/// The end is told when it has been noticed, which takes its time.
fn end(lab: &Lab, given: Control) -> Result<Control> {
    let begun = Instant::now();
    loop {
        let now = Control::read(lab)?;
        // The report, and that it was seen.
        if (now.0 > given.0 && now.1 > given.1) || begun.elapsed() > Duration::from_secs(2) {
            return Ok(now);
        }
        std::thread::sleep(QUIET);
    }
}

fn times(client: &Client<'_>, spec: &CostSpec, handoff: &mut Handoff) -> Result<()> {
    let pair = Pair::of(client.lab, Process::timed)?;
    let mut sides = [Vec::new(), Vec::new()];
    for _ in 0..spec.handoffs {
        interrupt::check()?;
        let before = pair.settled()?;
        let connection = client.ask()?;
        let after = pair.settled()?;
        drop(connection);
        pair.settled()?;
        for ((samples, before), after) in sides.iter_mut().zip(before).zip(after) {
            samples.push(difference(&before, &after));
        }
    }
    for (side, samples) in [&mut handoff.intermediate, &mut handoff.agent].into_iter().zip(&sides) {
        let of = |name| {
            let values: Vec<u64> =
                samples.iter().filter_map(|counts: &Counts| counts.get(name).copied()).collect();
            (!values.is_empty()).then(|| median(values))
        };
        (side.cpu_ns, side.instructions) = (of(CPU_NS), of(INSTRUCTIONS));
    }
    Ok(())
}

fn difference(before: &Counts, after: &Counts) -> Counts {
    after.iter().map(|(name, n)| (*name, n.saturating_sub(before.get(name).copied().unwrap_or(0)))).collect()
}

fn side(samples: &[Counts]) -> Side {
    let names = samples.first().map(|counts| counts.keys().copied().collect::<Vec<_>>()).unwrap_or_default();
    let of = |name: &str| median(samples.iter().filter_map(|counts| counts.get(name).copied()).collect());
    let is_call = |name: &&str| ![WAKEUPS, ALLOCATIONS].contains(name);
    let mut syscalls: std::collections::BTreeMap<String, u64> =
        names.iter().filter(|n| is_call(n)).map(|name| ((*name).to_owned(), of(name))).collect();
    let named = samples.iter().map(|counts| {
        let calls = counts.iter().filter(|(name, _)| is_call(name) && **name != ALL_SYSCALLS);
        counts.get(ALL_SYSCALLS).copied().unwrap_or(0).saturating_sub(calls.map(|(_, n)| n).sum())
    });
    syscalls.insert("other".to_owned(), median(named.collect()));
    syscalls.retain(|_, n| *n > 0);
    Side {
        syscalls,
        wakeups: Some(of(WAKEUPS)),
        allocations: names.contains(&ALLOCATIONS).then(|| of(ALLOCATIONS)),
        ..Side::default()
    }
}

/// The middle one; of an even number the lower.
fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

/// One client that asks for a small file on a connection of its own each time.
struct Client<'a> {
    lab: &'a Lab,
    to: SocketAddr,
}

impl<'a> Client<'a> {
    fn new(lab: &'a Lab) -> Result<Self> {
        Ok(Client { lab, to: *lab.vips().first().context("a lab has a VIP")? })
    }

    /// The connection after its first answer.
    fn ask(&self) -> Result<TcpStream> {
        let to = self.to;
        self.lab.inside("client1", move || kept::asked(to))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_odd_sample_does_not_move_a_median() {
        assert_eq!(median(vec![3, 3, 90, 3]), 3);
        assert_eq!((median(vec![1, 2]), median(Vec::new())), (1, 0));
        let counts = |write, all| Counts::from([("write", write), (ALL_SYSCALLS, all), (WAKEUPS, 2)]);
        let side = side(&[counts(3, 5), counts(3, 5), counts(7, 40)]);
        assert_eq!(side.syscalls["write"], 3);
        assert_eq!((side.syscalls["all"], side.syscalls["other"]), (5, 2));
        assert_eq!((side.wakeups, side.allocations), (Some(2), None));
    }
}
