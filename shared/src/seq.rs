//! Sequence numbers: 32-bit, wrapping, compared modulo 2^32 (RFC 9293, section 3.4), and tagged with whose
//! space they are in.
//!
//! A migrated connection has one byte stream per direction but two numberings of it: the one the client has
//! known since its handshake with the intermediate ([`Client`]) and the one the server's kernel chose on the
//! target ([`Server`]). Mixing them up is the bug this crate exists to make impossible.

use core::fmt;
use core::marker::PhantomData;

/// Marks a number as one the client uses on the wire (its handshake was with the intermediate).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client;

/// Marks a number as one the server's kernel on the target uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server;

/// A TCP sequence or acknowledgement number in the space `S`.
///
/// There is no `Ord`: sequence numbers are not totally ordered. Use [`Seq::before`] and [`Seq::at_or_after`],
/// which are right as long as the two are less than 2^31 apart, as TCP guarantees for a live connection.
#[repr(transparent)]
pub struct Seq<S>(u32, PhantomData<S>);

impl<S> Seq<S> {
    /// The number as it stands in a header, in host byte order.
    #[inline(always)]
    pub const fn new(raw: u32) -> Self {
        Seq(raw, PhantomData)
    }

    /// The number to put into a header, in host byte order.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The number `bytes` later in the stream; wraps.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, bytes: u32) -> Self {
        Seq::new(self.0.wrapping_add(bytes))
    }

    /// The number `bytes` earlier in the stream; wraps.
    #[inline(always)]
    #[must_use]
    pub const fn minus(self, bytes: u32) -> Self {
        Seq::new(self.0.wrapping_sub(bytes))
    }

    /// Bytes from `earlier` to `self`, modulo 2^32.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whether `self` comes strictly before `other` (RFC 9293's `<`).
    #[inline(always)]
    pub const fn before(self, other: Self) -> bool {
        before(self.0, other.0)
    }

    /// Whether `self` is `other` or comes after it (RFC 9293's `>=`).
    #[inline(always)]
    pub const fn at_or_after(self, other: Self) -> bool {
        !before(self.0, other.0)
    }

    /// The delta that turns `self` into `other`, a number of the other space for the same byte.
    #[inline(always)]
    pub const fn delta_to<T>(self, other: Seq<T>) -> SeqDelta {
        SeqDelta(other.0.wrapping_sub(self.0))
    }

    /// The same byte's number in the other space.
    #[inline(always)]
    #[must_use]
    pub const fn translate<T>(self, delta: SeqDelta) -> Seq<T> {
        Seq::new(self.0.wrapping_add(delta.0))
    }
}

// Derives would ask the marker for the trait as well; these do not.
impl<S> Clone for Seq<S> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<S> Copy for Seq<S> {}
impl<S> Default for Seq<S> {
    #[inline(always)]
    fn default() -> Self {
        Seq::new(0)
    }
}
impl<S> PartialEq for Seq<S> {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<S> Eq for Seq<S> {}
impl<S> fmt::Debug for Seq<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What is added (modulo 2^32) to a number of one space to get the other's.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeqDelta(pub u32);

impl SeqDelta {
    /// The delta of the way back.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        SeqDelta(self.0.wrapping_neg())
    }
}

/// Whether two raw numbers of the same space are at most `reach` apart, whichever is ahead; with a reach of 0 they always are.
#[inline(always)]
pub const fn are_near(a: u32, b: u32, reach: u32) -> bool {
    let ahead = a.wrapping_sub(b);
    reach == 0 || ahead <= reach || ahead.wrapping_neg() <= reach
}

/// Whether the raw number `a` comes strictly before `b` (RFC 9293, section 3.4; `before()` in the kernel's
/// `include/net/tcp.h`). The translation works on raw numbers of either space; both must be of the same one.
/// Serves timestamps too: they are compared the same way (RFC 7323, section 5.2).
#[inline(always)]
pub const fn before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) & 0x8000_0000 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_holds_across_the_wrap() {
        let a: Seq<Client> = Seq::new(u32::MAX - 1);
        assert!(a.before(a.plus(4)));
        assert!(!a.plus(4).before(a));
        assert!(a.plus(4).at_or_after(a));
        assert_eq!(a.plus(4).since(a), 4);
    }

    #[test]
    fn translation_there_and_back_is_the_identity() {
        for raw in [0, 1, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, u32::MAX] {
            for other in [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
                let c: Seq<Client> = Seq::new(raw);
                let s: Seq<Server> = Seq::new(other);
                let d = c.delta_to(s);
                assert_eq!(c.translate::<Server>(d), s);
                assert_eq!(s.translate::<Client>(d.reversed()), c);
            }
        }
    }
}
