//! What the agent cannot do without: the packets by which the server's kernel makes the server's socket. The server waits in
//! accept and in read, as servers do, and ends each connection by a reset. What it does is not counted.

use crate::REQUEST;
use crate::device::{Device, HERE, THERE};
use crate::steps::{Steps, Whose};
use crate::sys::OFFLOAD;
use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

const CONNECTIONS: u16 = 4000;
const SERVER_PORT: u16 = 80;

/// A segment of the client's.
struct Segment<'a> {
    port: u16,
    seq: u32,
    ack: Option<u32>,
    options: &'a [TcpOptionElement],
    payload: &'a [u8],
}

impl Segment<'_> {
    fn packet(&self) -> Vec<u8> {
        let tcp = PacketBuilder::ipv4(THERE.octets(), HERE.octets(), 64).tcp(
            self.port,
            SERVER_PORT,
            self.seq,
            64_240,
        );
        let tcp = match self.ack {
            Some(ack) => tcp.ack(ack),
            None => tcp.syn(),
        };
        let mut packet = Vec::new();
        tcp.options(self.options).unwrap().write(&mut packet, self.payload).unwrap();
        packet
    }
}

/// A segment of the server's, as far as it matters here.
struct Answer {
    seq: u32,
    syn: bool,
    rst: bool,
    tsval: u32,
}

fn read(packet: &[u8]) -> Option<Answer> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { return None };
    let tsval = tcp.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::Timestamp(value, _)) => Some(value),
        _ => None,
    });
    Some(Answer { seq: tcp.sequence_number(), syn: tcp.syn(), rst: tcp.rst(), tsval: tsval.unwrap_or(0) })
}

fn serve(listener: &TcpListener) {
    for _ in 0..CONNECTIONS {
        let (mut stream, _) = listener.accept().unwrap();
        assert_eq!(stream.read(&mut [0; 1024]).unwrap(), REQUEST.len());
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

pub(crate) fn measure(steps: &mut Steps, device: &Device) {
    let listener = TcpListener::bind((HERE, SERVER_PORT)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&listener));
        for n in 0..CONNECTIONS {
            connection(steps, device, 10_000 + n);
        }
    });
}

fn connection(steps: &mut Steps, device: &Device, port: u16) {
    let agent = Whose::Agent;
    let plain = [0; OFFLOAD];
    let (mut offload, mut buffer) = (plain, vec![0; 2048]);
    let seq = 1_000_000;
    let first = [
        TcpOptionElement::MaximumSegmentSize(1460),
        TcpOptionElement::SelectiveAcknowledgementPermitted,
        TcpOptionElement::Timestamp(7, 0),
        TcpOptionElement::WindowScale(7),
    ];
    let syn = Segment { port, seq, ack: None, options: &first, payload: &[] }.packet();
    steps.work(agent, "write the SYN: the kernel answers it", || device.send(&plain, &syn));
    // The answer is made in the write, on this processor; but for once in a while, when the kernel has left it to ksoftirqd.
    let mut came = || (0..100_000).find_map(|_| device.recv(&mut offload, &mut buffer));
    let length = steps.work(agent, "read the SYN-ACK", &mut came).unwrap();
    let answer = read(buffer.get(..length).unwrap()).unwrap();
    assert!(answer.syn);
    let options =
        [TcpOptionElement::Noop, TcpOptionElement::Noop, TcpOptionElement::Timestamp(8, answer.tsval)];
    let ack = Some(answer.seq.wrapping_add(1));
    let segment = |payload| Segment { port, seq: seq + 1, ack, options: &options, payload }.packet();
    let (handshake, request) = (segment(&[]), segment(REQUEST));
    steps.work(agent, "write the ACK: the kernel makes the socket, wakes the server", || {
        device.send(&plain, &handshake);
    });
    steps.work(agent, "write the request: the kernel queues it, wakes the server", || {
        device.send(&plain, &request);
    });
    while device.waiter.wait() {
        let length = device.recv(&mut offload, &mut buffer).unwrap();
        if read(buffer.get(..length).unwrap()).is_some_and(|answer| answer.rst) {
            return;
        }
    }
    panic!("the server did not end its connection");
}
