//! What a *forwarded packet* costs with so many flows, not the program alone: real segments, sent by a packet socket, arrive on a
//! device, are handed to the program that the loader has put there, and leave by another one (`net.rs`).
//!
//! All of it happens on one processor, within the system call that sends: what that takes is what the machine was busy for. The
//! same sending by other ways tells the parts of it (`Way`). Where something else had the processor meanwhile, or a packet was not
//! out at the call's end, the burst is not counted. That all packets were forwarded, by our program and otherwise not, is asserted.

mod net;
mod report;
mod sys;

use crate::{Flows, SERVER, TRAIN, VIP, client, median, record, segment};
use baton_loader::{Plane, PlaneConfig, Side, device_index};
use baton_shared::reason::PacketCounter;
use net::{Lab, OUT};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Packets sent by one system call, and calls of which a round's figure is the median.
const BURST: u32 = 1024;
const BURSTS: usize = 48;
const ROUNDS: usize = 9;
/// How many more calls may be disturbed than not.
const PATIENCE: usize = 20;
/// Bytes of payload.
const PAYLOADS: [usize; 2] = [0, 1000];

/// What becomes of the packets sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Their device frees them: what sending costs.
    Sent,
    /// Dropped by two instructions where the intermediate's program would get them.
    Dropped,
    /// On by the kernel alone, nothing of ours attached.
    Plain,
    /// On by our program.
    Forwarded,
}

const WAYS: [Way; 4] = [Way::Sent, Way::Dropped, Way::Plain, Way::Forwarded];

/// What is sent.
#[derive(Clone, Copy)]
struct Case {
    side: Side,
    /// Packets of one flow in a row.
    train: u32,
    payload: usize,
}

/// The same with so many flows: nanoseconds for a packet by each way, round by round.
struct Figures {
    case: Case,
    flows: u32,
    times: [Vec<f64>; WAYS.len()],
}

/// Where packets are sent, and the device that all of them, or none, leave by.
struct Entry {
    socket: OwnedFd,
    exit: String,
    leaves: bool,
}

/// Devices of the host for one size at a time.
struct Doors {
    /// By which the client's packets arrive, and by which the server's leave.
    arrival: (String, Entry),
    departure: (String, Entry),
    tuns: [String; 2],
}

/// The programs of both sides with their tables filled, on their devices.
struct Filled<'a> {
    flows: Flows,
    doors: &'a Doors,
    intermediate: Plane,
    target: Plane,
}

/// The bursts of a run.
#[derive(Default)]
struct Bursts {
    sent: u32,
    disturbed: usize,
    counted: usize,
}

pub(crate) fn main(sizes: &[u32]) {
    let processors = thread::available_parallelism().unwrap().get();
    sys::stay_on(processors - 1).unwrap();
    let mut lab = Lab::new();
    let others = others(&mut lab);
    let doors: Vec<Doors> = (0..sizes.len()).map(|n| Doors::new(&mut lab, n)).collect();
    let mut figures = Vec::new();
    for side in [Side::Intermediate, Side::Target] {
        for payload in PAYLOADS {
            for train in [TRAIN, 1] {
                let case = Case { side, train, payload };
                figures.extend(sizes.iter().map(|&flows| Figures { case, flows, times: Default::default() }));
            }
        }
    }
    let mut bursts = Bursts::default();
    for round in 0..ROUNDS {
        // Programs and tables anew, and on another size's devices: where all of it comes to lie makes a difference of its own.
        let doors = doors.iter().cycle().skip(round);
        let mut filled: Vec<Filled> =
            doors.zip(sizes).map(|(doors, flows)| Filled::new(doors, *flows)).collect();
        for figures in figures.chunks_mut(sizes.len()) {
            for way in WAYS {
                // The sizes take turns at each way, so that a machine that slows down is slow for all of them.
                for (figures, filled) in figures.iter_mut().zip(&mut filled) {
                    if let Some(time) = filled.time(&mut bursts, &others, figures.case, way) {
                        figures.times[way as usize].push(time);
                    }
                }
            }
        }
        filled.into_iter().for_each(Filled::detach);
    }
    eprintln!("{} bursts counted, {} disturbed", bursts.counted, bursts.disturbed);
    report::print(&figures, sizes.len());
}

/// The ways that do not lead through our programs.
fn others(lab: &mut Lab) -> Vec<(Side, Way, Entry)> {
    let entry = |socket, exit: &str, leaves| Entry { socket, exit: exit.to_owned(), leaves };
    vec![
        (Side::Intermediate, Way::Sent, entry(lab.nowhere("sent"), OUT, false)),
        (Side::Intermediate, Way::Dropped, entry(lab.dropping_arrival("dropped"), OUT, false)),
        (Side::Intermediate, Way::Plain, entry(lab.arrival("plain"), OUT, true)),
        (Side::Target, Way::Sent, entry(lab.nowhere("sent-on"), OUT, false)),
        (Side::Target, Way::Plain, entry(lab.departure("plain-on"), "plain-on", true)),
    ]
}

impl Doors {
    fn new(lab: &mut Lab, n: usize) -> Self {
        let (arrival, departure) = (format!("in{n}"), format!("on{n}"));
        let arriving = Entry { socket: lab.arrival(&arrival), exit: OUT.to_owned(), leaves: true };
        let departing = Entry { socket: lab.departure(&departure), exit: departure.clone(), leaves: true };
        let tuns = ["hold", "replay"].map(|tun| {
            net::sh(&format!("ip tuntap add {tun}{n} mode tun; ip link set {tun}{n} up"));
            format!("{tun}{n}")
        });
        Doors { arrival: (arrival, arriving), departure: (departure, departing), tuns }
    }
}

impl<'a> Filled<'a> {
    /// As the daemons have it: a table for each side, by the loader.
    fn new(doors: &'a Doors, flows: u32) -> Self {
        let out_ifindex = device_index(OUT).unwrap();
        let open = |side, uplink: &str, tun: &str, local, new| {
            let pin_dir = Path::new("/sys/fs/bpf").join(uplink);
            let plane =
                Plane::open(&PlaneConfig { side, uplink: uplink.to_owned(), pin_dir, flows }).unwrap();
            plane.attach_tun(tun, 0x0ba7).unwrap();
            for n in 0..flows {
                let record = record(n, local, new, out_ifindex);
                let slot = plane.slots().allocate().unwrap();
                plane.slots().write(slot, &record);
                plane.insert(&record.key, slot).unwrap();
            }
            plane
        };
        let [hold, replay] = &doors.tuns;
        Filled {
            flows: Flows::new(flows),
            doors,
            intermediate: open(Side::Intermediate, &doors.arrival.0, hold, VIP, SERVER),
            target: open(Side::Target, &doors.departure.0, replay, SERVER, VIP),
        }
    }

    fn detach(self) {
        self.intermediate.detach().unwrap();
        self.target.detach().unwrap();
    }

    /// Nanoseconds of a packet; `None` if the case has no such way.
    fn time(
        &mut self,
        bursts: &mut Bursts,
        others: &[(Side, Way, Entry)],
        case: Case,
        way: Way,
    ) -> Option<f64> {
        let (plane, (_, ours)) = match case.side {
            Side::Intermediate => (&self.intermediate, &self.doors.arrival),
            Side::Target => (&self.target, &self.doors.departure),
        };
        let entry = match way {
            Way::Forwarded => ours,
            _ => others
                .iter()
                .find_map(|(side, other, entry)| (*side == case.side && *other == way).then_some(entry))?,
        };
        let before = (plane.counters().unwrap(), bursts.sent);
        let time = entry.time(bursts, &mut self.flows, case);
        let translated = if way == Way::Forwarded { bursts.sent.wrapping_sub(before.1) } else { 0 };
        for ((counter, was), (_, is)) in before.0.into_iter().zip(plane.counters().unwrap()) {
            let expected = if counter == PacketCounter::Translated { translated } else { 0 };
            assert_eq!(is - was, u64::from(expected), "{counter}");
        }
        Some(time)
    }
}

impl Entry {
    /// Nanoseconds of a packet: the median of those bursts that nothing disturbed.
    fn time(&self, bursts: &mut Bursts, flows: &mut Flows, case: Case) -> f64 {
        let mut times = Vec::new();
        for _ in 0..BURSTS * PATIENCE {
            let (frames, length) = bursts.next(flows, case);
            let (interrupted, left) = (sys::times_interrupted().unwrap(), net::sent(&self.exit));
            let took = sys::send(self.socket.as_fd(), &frames, length).unwrap();
            let expected = if self.leaves { left + u64::from(BURST) } else { left };
            let at_once = net::sent(&self.exit) == expected;
            if at_once && sys::times_interrupted().unwrap() == interrupted {
                times.push(took.as_secs_f64() * 1e9 / f64::from(BURST));
            } else {
                bursts.disturbed += 1;
            }
            // Those that the kernel's own thread has taken over.
            for _ in 0..1000 {
                if net::sent(&self.exit) == expected {
                    break;
                }
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(net::sent(&self.exit), expected, "packets that left by {}", self.exit);
            if times.len() == BURSTS {
                bursts.counted += BURSTS;
                return median(times);
            }
        }
        panic!("something else has this processor nearly all the time");
    }
}

impl Bursts {
    /// The frames of the next one, one behind the other, and the length of each. Numbers rise, as those of living flows do.
    fn next(&mut self, flows: &mut Flows, case: Case) -> (Vec<u8>, usize) {
        let payload = vec![0x55; case.payload];
        let mut frames = Vec::new();
        let mut flow = 0;
        for n in 0..BURST {
            if n % case.train == 0 {
                flow = flows.any();
            }
            let (from, to) = match case.side {
                Side::Intermediate => (client(flow), VIP),
                Side::Target => (SERVER, client(flow)),
            };
            self.sent = self.sent.wrapping_add(1);
            frames.extend(segment(from, to, self.sent, &payload));
        }
        let length = frames.len() / usize::try_from(BURST).unwrap();
        (frames, length)
    }
}
