//! What two processes pay for a message and its answer over TCP, without anything in them: as many bytes as a handoff and its
//! answer are as records of TLS (docs/handoff-cost.json), written, waited for by epoll, read.

use crate::device::Waiter;
use crate::steps::{Steps, Sum, Whose, own_time};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// `control_bytes_to_agent` and `control_bytes_to_intermediate`.
const HANDOFF: usize = 145;
const ANSWER: usize = 52;
/// Messages of which each sample is the mean, and samples.
const MESSAGES: u32 = 200;
const SAMPLES: u32 = 100;

/// Reads so many bytes, waiting for each part by epoll.
fn receive(mut stream: &TcpStream, waiter: &Waiter, buffer: &mut [u8]) -> bool {
    let mut got = 0;
    while got < buffer.len() {
        if !waiter.wait() {
            continue;
        }
        match stream.read(buffer.get_mut(got..).unwrap()).unwrap() {
            0 => return false,
            n => got += n,
        }
    }
    true
}

/// The other process: answers until nobody asks any more, then tells what each answer took of its processor time, ns.
pub(crate) fn peer(address: &str, together: usize) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let waiter = Waiter::of(&stream);
    let (mut handoffs, answers) = (vec![0; HANDOFF * together], vec![0; ANSWER * together]);
    let (mut count, mut last) = (0, own_time());
    let mut samples = Vec::new();
    while receive(&stream, &waiter, &mut handoffs) {
        stream.write_all(&answers).unwrap();
        count += u32::try_from(together).unwrap();
        if count % MESSAGES == 0 {
            let now = own_time();
            samples.push((now - last) / MESSAGES);
            last = now;
        }
    }
    samples.iter().for_each(|sample| println!("{}", sample.as_nanos()));
}

pub(crate) fn measure(steps: &mut Steps, together: usize, how: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--peer", &address, &together.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_nodelay(true).unwrap();
    let waiter = Waiter::of(&stream);
    let (handoffs, mut answers) = (vec![0; HANDOFF * together], vec![0; ANSWER * together]);
    let sum = Sum::Of(together);
    let own = format!("send {HANDOFF} bytes, epoll_wait, receive {ANSWER}, {how}: processor time");
    let other = format!("epoll_wait, receive {HANDOFF} bytes, send {ANSWER}, {how}: processor time");
    let wall = format!("a message and its answer between two processes, {how}: waited for");
    for _ in 0..SAMPLES {
        let (begun, before) = (Instant::now(), own_time());
        for _ in 0..MESSAGES / u32::try_from(together).unwrap() {
            stream.write_all(&handoffs).unwrap();
            assert!(receive(&stream, &waiter, &mut answers));
        }
        steps.note(Whose::Intermediate, sum, &own, (own_time() - before) / MESSAGES);
        steps.note(Whose::Beside, sum, &wall, begun.elapsed() / MESSAGES);
    }
    drop(stream);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        steps.note(Whose::Agent, sum, &other, Duration::from_nanos(line.unwrap().parse().unwrap()));
    }
    assert!(child.wait().unwrap().success());
}
