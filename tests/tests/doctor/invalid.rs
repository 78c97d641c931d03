//! A firewall with connection tracking: nftables' `ct state invalid drop`, by netlink, as `nft` would order it.

use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read};
use std::time::Duration;

// linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h.
const AF_NETLINK: i32 = 16;
const NETLINK_NETFILTER: i32 = 12;
const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = NFTABLES << 8;
const NEW_CHAIN: u16 = NEW_TABLE | 3;
const NEW_RULE: u16 = NEW_TABLE | 6;
const DELETE_TABLE: u16 = NEW_TABLE | 2;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const CREATE: u16 = 0x400;
const NESTED: u16 = 0x8000;
const UNSPEC: u8 = 0;
const INET4: u8 = 2;

const NAME: &[u8] = b"planted\0";
const PREROUTING: u32 = 0;
/// Of `ct state`.
const INVALID: u32 = 1;
const CT_STATE: u32 = 0;
const REGISTER: u32 = 1;
const VERDICT: u32 = 0;
const DROP: u32 = 0;
const NOT_EQUAL: u32 = 1;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap();
    let mut out = length.to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &parts.concat())
}

/// A value in a register, in the machine's order.
fn value(kind: u16, value: u32) -> Vec<u8> {
    nested(kind, &[attribute(1, &value.to_ne_bytes())])
}

fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[attribute(1, format!("{name}\0").as_bytes()), nested(2, data)])
}

fn message(kind: u16, flags: u16, family: u8, subsystem: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![family, 0];
    body.extend(subsystem.to_be_bytes());
    body.extend(parts.concat());
    let mut out = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend((REQUEST | flags).to_ne_bytes());
    out.extend([0; 8]);
    out.extend(body);
    out
}

/// All of it or nothing.
fn order(messages: &[Vec<u8>]) -> io::Result<()> {
    let socket = Socket::new(Domain::from(AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_NETFILTER)))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let begin = message(BATCH_BEGIN, 0, UNSPEC, NFTABLES, &[]);
    let end = message(BATCH_END, 0, UNSPEC, NFTABLES, &[]);
    socket.send(&[begin, messages.concat(), end].concat())?;
    // One acknowledgement each; the first error ends it.
    for _ in messages {
        let mut answer = [0; 4096];
        let length = (&socket).read(&mut answer)?;
        let code =
            answer[..length].get(16..20).map_or(-1, |code| i32::from_ne_bytes(code.try_into().unwrap()));
        if code != 0 {
            return Err(io::Error::from_raw_os_error(-code));
        }
    }
    Ok(())
}

/// In this thread's network namespace: packets that are invalid to connection tracking are dropped before anything looks at
/// them.
pub(crate) fn drop_invalid() -> io::Result<()> {
    let table = message(NEW_TABLE, CREATE | ACKNOWLEDGE, INET4, 0, &[attribute(1, NAME)]);
    let hook = nested(4, &[number(1, PREROUTING), number(2, 0)]);
    let chain = [attribute(1, NAME), attribute(3, NAME), hook, attribute(7, b"filter\0")];
    let chain = message(NEW_CHAIN, CREATE | ACKNOWLEDGE, INET4, 0, &chain);
    let expressions = [
        expression("ct", &[number(1, REGISTER), number(2, CT_STATE)]),
        expression(
            "bitwise",
            &[number(1, REGISTER), number(2, REGISTER), number(3, 4), value(4, INVALID), value(5, 0)],
        ),
        expression("cmp", &[number(1, REGISTER), number(2, NOT_EQUAL), value(3, 0)]),
        expression("immediate", &[number(1, VERDICT), nested(2, &[nested(2, &[number(1, DROP)])])]),
    ];
    let rule = [attribute(1, NAME), attribute(2, NAME), nested(4, &expressions)];
    let rule = message(NEW_RULE, CREATE | ACKNOWLEDGE, INET4, 0, &rule);
    order(&[table, chain, rule])
}

/// As if there had been none.
pub(crate) fn drop_nothing() -> io::Result<()> {
    order(&[message(DELETE_TABLE, ACKNOWLEDGE, INET4, 0, &[attribute(1, NAME)])])
}
