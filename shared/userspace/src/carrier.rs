//! What a data plane in user space is to whoever reads and writes the TUN device.

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is written into the TUN, as it is now: the kernel delivers or forwards it.
    Write,
    /// As [`Fate::Write`]; and this, what it was before, is the daemon's to read.
    WriteAndShow(Vec<u8>),
    /// It is the daemon's, unchanged: held, or an answer to a replayed handshake.
    Keep,
    /// Nothing becomes of it.
    Drop,
}

/// Judges what passes the TUN. Called from any thread; never waits.
pub trait Carrier: Send + Sync + std::fmt::Debug {
    /// A raw IP packet that the kernel sent into the device. It is rewritten in place.
    fn on_received(&self, packet: &mut [u8]) -> Fate;

    /// A raw IP packet that the daemon wants to write into the device: released from the hold queue, or injected in
    /// a client's name.
    fn on_written(&self, packet: &mut [u8]) -> Fate;
}
