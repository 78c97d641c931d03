//! What can be chosen for a lab, and how it is written on the command line.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Which of all has this name; else says what names there are.
pub(crate) fn by_name<T: Copy>(text: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T, String> {
    let found = all.iter().copied().find(|one| name(*one) == text);
    found.ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|one| name(*one)).collect();
        format!("'{text}' is none of {}", names.join(", "))
    })
}

/// What runs on the intermediate's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Balancer {
    /// The intermediate here, an agent on every target.
    Baton,
    /// HAProxy as a plain HTTP proxy on the VIP.
    Haproxy,
    /// nginx as a plain HTTP proxy on the VIP.
    Nginx,
    /// Envoy as a plain HTTP proxy on the VIP.
    Envoy,
    /// Caddy as a plain HTTP proxy on the VIP.
    Caddy,
    /// Nothing, and no VIP: clients reach the targets by their own addresses.
    None,
}

impl Balancer {
    const ALL: [Self; 6] = [Self::Baton, Self::Haproxy, Self::Nginx, Self::Envoy, Self::Caddy, Self::None];

    fn name(self) -> &'static str {
        match self {
            Self::Baton => "baton",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Caddy => "caddy",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Balancer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        by_name(text, &Self::ALL, Self::name)
    }
}

/// Who carries the packets of migrated connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plane {
    /// The eBPF programs.
    #[default]
    Ebpf,
    /// The daemons, without eBPF.
    Userspace,
}

impl Plane {
    const ALL: [Self; 2] = [Self::Ebpf, Self::Userspace];

    fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Userspace => "userspace",
        }
    }
}

impl FromStr for Plane {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        by_name(text, &Self::ALL, Self::name)
    }
}

/// How the agents give connections to their servers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Serve {
    /// By a replayed handshake.
    Translate,
    /// The kernel makes the sockets; nothing else.
    Adopt,
    /// The kernel makes the sockets where it can.
    #[default]
    Auto,
}

impl Serve {
    const ALL: [Self; 3] = [Self::Translate, Self::Adopt, Self::Auto];

    fn name(self) -> &'static str {
        match self {
            Self::Translate => "translate",
            Self::Adopt => "adopt",
            Self::Auto => "auto",
        }
    }
}

impl FromStr for Serve {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        by_name(text, &Self::ALL, Self::name)
    }
}

/// The rate of a link, in bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate(
    /// Bits per second, at least 8000.
    pub u64,
);

impl FromStr for Rate {
    type Err = String;

    /// `100mbit`, `1gbit`, `1.5gbit`, or plain bits per second; `100m` and `1g` are understood as well.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a rate; write for example 100mbit or 1gbit");
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
        let (number, unit) = lower.split_at(digits);
        let factor: u64 = match unit {
            "" | "bit" => 1,
            "k" | "kbit" => 1_000,
            "m" | "mbit" => 1_000_000,
            "g" | "gbit" => 1_000_000_000,
            _ => return Err(wrong()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let thousandths: u64 =
            format!("{fraction:0<3}").get(..3).unwrap_or("0").parse().map_err(|_| wrong())?;
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let bits = whole.checked_mul(factor).and_then(|b| b.checked_add(thousandths * factor / 1000));
        match bits {
            Some(bits @ 8_000..=1_000_000_000_000) => Ok(Self(bits)),
            _ => Err(format!("'{text}' is out of range: from 8kbit to 1000gbit")),
        }
    }
}

/// The IP versions a lab has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4 alone.
    #[default]
    V4,
    /// IPv6 alone, the control channel included.
    V6,
    /// Both: every node has an address of each, and there are two VIPs. IPv4 comes first, and has the control channel.
    Dual,
}

impl Family {
    /// Whether nodes have IPv4 addresses.
    pub fn has_v4(self) -> bool {
        self != Self::V6
    }

    /// Whether nodes have IPv6 addresses.
    pub fn has_v6(self) -> bool {
        self != Self::V4
    }

    /// Of a pair of addresses those a lab of this kind has, IPv4 first.
    pub(crate) fn of<V4: Into<T>, V6: Into<T>, T>(self, v4: V4, v6: V6) -> Vec<T> {
        let v4 = self.has_v4().then(|| v4.into());
        v4.into_iter().chain(self.has_v6().then(|| v6.into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_by_name_is_written_into_the_state_by_the_same_name() {
        fn agree<T: Copy + PartialEq + FromStr + Serialize>(all: &[T], name: fn(T) -> &'static str) -> bool {
            let agrees = |one: &T| {
                name(*one).parse().ok().as_ref() == Some(one)
                    && serde_json::to_value(one).unwrap() == name(*one)
            };
            all.iter().all(agrees)
        }
        assert!(agree(&Balancer::ALL, Balancer::name));
        assert!(agree(&Plane::ALL, Plane::name));
        assert!(agree(&Serve::ALL, Serve::name));
        assert_eq!("adapt".parse::<Serve>(), Err("'adapt' is none of translate, adopt, auto".to_owned()));
    }

    #[test]
    fn rates_are_read_as_tc_writes_them() {
        assert_eq!("100mbit".parse(), Ok(Rate(100_000_000)));
        assert_eq!("1.5Gbit".parse(), Ok(Rate(1_500_000_000)));
        assert_eq!("64000".parse(), Ok(Rate(64_000)));
        for wrong in ["", "fast", "1tbit", "10mbyte", "-1mbit", "1", "9999999gbit", ".5mbit", "1.xmbit"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
