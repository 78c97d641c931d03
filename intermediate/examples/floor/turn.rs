//! The turn of a packet through user space, without anybody who judges it: read from a TUN, written back. What the kernel does
//! in the write is a part of it: the packet goes as far as the socket it is for, whose owner is woken.
//!
//! Source and destination change places, so that the packet comes back to whoever sent it; no checksum changes by that.

use crate::device::{Device, HERE, THERE};
use crate::steps::{Steps, Sum, Whose, own_time};
use crate::sys::OFFLOAD;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Turns of which each sample is the mean, and samples.
const TURNS: u32 = 100;
const SAMPLES: u32 = 200;
/// As long as a request.
const PAYLOAD: [u8; 80] = [0; 80];
const TOGETHER: u32 = 8;

fn reflect(device: &Device, offload: &mut [u8; OFFLOAD], buffer: &mut [u8]) -> bool {
    let Some(length) = device.recv(offload, buffer) else { return false };
    let packet = buffer.get_mut(..length).unwrap();
    let (source, destination) = packet[12..20].split_at_mut(4);
    source.swap_with_slice(destination);
    device.send(offload, packet);
    true
}

pub(crate) fn measure(steps: &mut Steps, device: &Device) {
    let socket = UdpSocket::bind((HERE, 9000)).unwrap();
    socket.connect((THERE, 9000)).unwrap();
    let answer = |socket: &UdpSocket| assert_eq!(socket.recv(&mut [0; 128]).unwrap(), PAYLOAD.len());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let woken = scope.spawn(|| {
            let (mut offload, mut buffer) = ([0; OFFLOAD], vec![0; 1 << 16]);
            let (mut turns, mut last, mut samples) = (0, own_time(), Vec::new());
            while !over.load(Ordering::Relaxed) {
                if device.waiter.wait() && reflect(device, &mut offload, &mut buffer) {
                    turns += 1;
                    if turns % TURNS == 0 {
                        let now = own_time();
                        samples.push((now - last) / TURNS);
                        last = now;
                    }
                }
            }
            samples
        });
        for _ in 0..SAMPLES {
            let begun = Instant::now();
            for _ in 0..TURNS {
                socket.send(&PAYLOAD).unwrap();
                answer(&socket);
            }
            let name = "turn through user space: there and back, waited for";
            steps.note(Whose::Beside, Sum::All, name, begun.elapsed() / TURNS);
        }
        over.store(true, Ordering::Relaxed);
        for sample in woken.join().unwrap() {
            steps.note(
                Whose::Beside,
                Sum::All,
                "turn through user space, woken for each: processor time",
                sample,
            );
        }
    });
    // Nobody sleeps here: what is missing is the wakeup.
    let (mut offload, mut buffer) = ([0; OFFLOAD], vec![0; 1 << 16]);
    for _ in 0..SAMPLES * TURNS / TOGETHER {
        for _ in 0..TOGETHER {
            socket.send(&PAYLOAD).unwrap();
        }
        let begun = Instant::now();
        assert!(device.waiter.wait());
        for _ in 0..TOGETHER {
            assert!(reflect(device, &mut offload, &mut buffer));
        }
        let took = begun.elapsed() / TOGETHER;
        steps.note(Whose::Beside, Sum::All, "the same, eight there at once, for each", took);
        (0..TOGETHER).for_each(|_| answer(&socket));
    }
}
