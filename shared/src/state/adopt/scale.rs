//! The window scale of an adopted server's socket.
//!
//! The kernel never takes back a window it has promised, so it rounds up what is left of one to the scale's unit with
//! every acknowledgement (`tcp_select_window()`): at a scale of 10 by up to 1023 bytes each time. A handshake chooses the
//! scale by the largest receive buffer there may be, beside which that is little. An adopted socket would get the scale
//! that the *intermediate* promised, and a server with a small buffer then promises more than the buffer holds: what
//! arrives last is dropped, and the window shut before the promised edge. So the socket gets a scale that fits its own
//! buffer, and its windows are put into the promised one on their way out.

/// Nothing is known that speaks against any scale (RFC 7323, section 2.3).
pub const ANY_SCALE: u8 = 14;
/// Up to here rounding up costs 15 bytes at most with each acknowledgement, for which there is always room.
const HARMLESS: u8 = 4;

/// What bounds the receive buffers of a server's sockets, bytes as the kernel counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffers {
    /// The listening socket's; the smallest, if there are several.
    pub listener: Option<u32>,
    /// What a socket begins with: the second number of `net.ipv4.tcp_rmem`.
    pub initial: Option<u32>,
    /// What it may grow to: the third.
    pub largest: Option<u32>,
}

impl Buffers {
    /// The largest scale that such a buffer can answer for. A listener whose buffer is not the initial one has set it
    /// (`SO_RCVBUF`), and its connections' buffers do not grow.
    pub fn scale(&self) -> u8 {
        let fixed = self.listener.filter(|size| self.initial.is_some_and(|initial| initial != *size));
        let Some(buffer) = fixed.or(self.largest) else { return ANY_SCALE };
        // As `tcp_select_initial_window()`: of a fixed buffer half is for the window.
        let window = if fixed.is_some() { buffer / 2 } else { buffer };
        let bits = u8::try_from(window.checked_ilog2().unwrap_or(0)).unwrap_or(0);
        bits.saturating_sub(15).clamp(HARMLESS, ANY_SCALE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(listener: u32, initial: u32, largest: u32) -> u8 {
        Buffers { listener: Some(listener), initial: Some(initial), largest: Some(largest) }.scale()
    }

    #[test]
    fn a_buffer_that_grows_has_the_scale_of_its_largest_size_and_a_fixed_one_that_of_its_own() {
        assert_eq!(scale(131_072, 131_072, 6 << 20), 7);
        assert_eq!(scale(131_072, 131_072, 32 << 20), 10);
        assert_eq!(scale(131_072, 131_072, u32::MAX), ANY_SCALE);
        assert_eq!(scale(131_072, 131_072, 65_536), HARMLESS);
        assert_eq!(scale(80_000, 131_072, 32 << 20), HARMLESS, "fixed, small");
        assert_eq!(scale(16 << 20, 131_072, 32 << 20), 8, "fixed, large");
        assert_eq!(scale(0, 131_072, 32 << 20), HARMLESS);
    }

    #[test]
    fn what_is_not_known_limits_nothing() {
        assert_eq!(Buffers::default().scale(), ANY_SCALE);
        assert_eq!(Buffers { listener: Some(80_000), ..Buffers::default() }.scale(), ANY_SCALE);
        assert_eq!(Buffers { largest: Some(6 << 20), ..Buffers::default() }.scale(), 7);
    }
}
