//! A TUN device that leads to hosts which are not there: whoever has it answers for them.

use crate::sys::{self, OFFLOAD};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

/// This host, and one behind the device.
pub(crate) const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const THERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

pub(crate) fn ip(words: &str) {
    assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
}

/// What is waited for.
pub(crate) struct Waiter(OwnedFd);

impl Waiter {
    pub(crate) fn of(what: impl AsFd) -> Self {
        let own = epoll::create(CreateFlags::CLOEXEC).unwrap();
        epoll::add(&own, what, EventData::new_u64(0), EventFlags::IN).unwrap();
        Waiter(own)
    }

    /// Whether there is something to read; false after 100 ms without, or a signal.
    pub(crate) fn wait(&self) -> bool {
        let timeout = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let mut events: Vec<Event> = Vec::with_capacity(1);
        match epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(count) => count > 0,
            Err(rustix::io::Errno::INTR) => false,
            Err(e) => panic!("epoll_wait: {e}"),
        }
    }
}

pub(crate) struct Device {
    file: File,
    pub(crate) waiter: Waiter,
}

impl Device {
    /// With addresses: this host's, and all the others there.
    pub(crate) fn open() -> Self {
        let device = Self::bare("floor0");
        ip(&format!("addr add {HERE}/24 dev floor0"));
        device
    }

    /// Up, without an address.
    pub(crate) fn bare(name: &str) -> Self {
        let file = sys::tun(name).unwrap();
        // Otherwise the kernel's own solicitations come in between.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        ip(&format!("link set {name} up"));
        let waiter = Waiter::of(&file);
        Device { file, waiter }
    }

    /// One packet with what is offloaded of it; none if none waits.
    pub(crate) fn recv(&self, offload: &mut [u8; OFFLOAD], packet: &mut [u8]) -> Option<usize> {
        match (&self.file).read_vectored(&mut [IoSliceMut::new(offload), IoSliceMut::new(packet)]) {
            Ok(length) => Some(length - OFFLOAD),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
            Err(e) => panic!("read from the TUN: {e}"),
        }
    }

    pub(crate) fn send(&self, offload: &[u8; OFFLOAD], packet: &[u8]) {
        let all = (&self.file).write_vectored(&[IoSlice::new(offload), IoSlice::new(packet)]).unwrap();
        assert_eq!(all, OFFLOAD + packet.len());
    }
}
