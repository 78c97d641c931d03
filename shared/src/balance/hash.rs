//! A hash that is the same on every host, in every run and in every version: several intermediates must agree on it.

use core::net::IpAddr;

/// FNV-1a over the bytes, then mixed so that all bits depend on all bytes.
pub fn hash(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }))
}

/// The finalizer of splitmix64: a bijection in which each input bit changes about half of the output.
pub(super) const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A member's key: of its name, so that its place in the file does not matter.
pub fn member_key(name: &str) -> u64 {
    hash(name.as_bytes())
}

/// The key of a client by its address, without the port; a v4-mapped IPv6 address is the IPv4 one.
pub fn source_key(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(v4) => hash(&v4.octets()),
        IpAddr::V6(v6) => hash(&v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_stays_what_it_is() {
        // Another value here moves every client of every hashed pool at an upgrade.
        assert_eq!(hash(b""), 0xc381_7c01_6ba4_ff30);
        assert_eq!(hash(b"web1"), member_key("web1"));
        assert_eq!(source_key("::ffff:192.0.2.1".parse().unwrap()), source_key("192.0.2.1".parse().unwrap()));
        assert_ne!(hash(b"a"), hash(b"b"));
    }
}
