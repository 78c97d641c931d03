//! What a box shall do to a link: the words behind `--impair`.

use crate::spec::Rate;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The longest a packet may be delayed, jitter included.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// A probability, exact to a millionth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chance(
    /// Parts in a million, at most 1 000 000.
    u32,
);

impl Chance {
    /// That which happens always.
    pub const ALWAYS: Self = Self(1_000_000);

    /// From parts in a million; more than a million is always.
    pub fn from_millionths(parts: u32) -> Self {
        Self(parts.min(Self::ALWAYS.0))
    }

    /// Whether a number drawn evenly from all of u64 hits.
    pub(crate) fn hit(self, drawn: u64) -> bool {
        // The upper half scaled to a million: even to a part in four thousand of a millionth.
        (((drawn >> 32) * 1_000_000) >> 32) < u64::from(self.0)
    }
}

impl FromStr for Chance {
    type Err = String;

    /// `1%`, `0.05%`: up to four digits after the point.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').ok_or_else(|| format!("'{text}' has no % sign"))?;
        let parts = decimal(number, 4).ok_or_else(|| format!("'{text}' is not a percentage"))?;
        match u32::try_from(parts) {
            Ok(parts) if parts <= Self::ALWAYS.0 => Ok(Self(parts)),
            _ => Err(format!("'{text}' is more than 100%")),
        }
    }
}

impl fmt::Display for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 10_000, self.0 % 10_000);
        let digits = format!("{rest:04}");
        match digits.trim_end_matches('0') {
            "" => write!(f, "{whole}%"),
            digits => write!(f, "{whole}.{digits}%"),
        }
    }
}

/// What a box does to a link, in both directions alike. The default does nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Impairment {
    /// Packets that are lost.
    pub loss: Chance,
    /// Packets that arrive twice.
    pub dup: Chance,
    /// Packets that some of those after them overtake.
    pub reorder: Chance,
    /// Packets in which one bit behind the Ethernet header is flipped.
    pub corrupt: Chance,
    /// How long a packet is on its way, in each direction.
    pub delay: Duration,
    /// A packet's delay is even between `delay - jitter` and `delay + jitter`. It reorders nothing.
    pub jitter: Duration,
    /// What the link carries at most, in each direction.
    pub rate: Option<Rate>,
    /// From it all chances are drawn.
    pub seed: u64,
}

impl FromStr for Impairment {
    type Err = String;

    /// `loss=1%,dup=1%,reorder=2%,corrupt=0.1%,delay=20ms,jitter=2ms,rate=100mbit,seed=7`: any of them, each once.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut it = Self::default();
        let mut seen = Vec::new();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| format!("'{word}' is not KEY=VALUE, for example loss=1%"))?;
            if seen.contains(&key) {
                return Err(format!("{key} is given twice"));
            }
            seen.push(key);
            let named = |e: String| format!("{key}: {e}");
            match key {
                "loss" => it.loss = value.parse().map_err(named)?,
                "dup" => it.dup = value.parse().map_err(named)?,
                "reorder" => it.reorder = value.parse().map_err(named)?,
                "corrupt" => it.corrupt = value.parse().map_err(named)?,
                "delay" => it.delay = time(value).map_err(named)?,
                "jitter" => it.jitter = time(value).map_err(named)?,
                "rate" => it.rate = Some(value.parse().map_err(named)?),
                "seed" => it.seed = value.parse().map_err(|_| format!("seed: '{value}' is not a number"))?,
                _ => {
                    return Err(format!(
                        "'{key}' is none of loss, dup, reorder, corrupt, delay, jitter, rate, seed"
                    ));
                }
            }
        }
        if it.jitter > it.delay {
            return Err("jitter is more than delay: packets would have to leave before they come".into());
        }
        if it.delay + it.jitter > LONGEST_DELAY {
            return Err(format!("delay and jitter are more than {} s", LONGEST_DELAY.as_secs()));
        }
        Ok(it)
    }
}

impl fmt::Display for Impairment {
    /// As it is read, without what is not impaired.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chances =
            [("loss", self.loss), ("dup", self.dup), ("reorder", self.reorder), ("corrupt", self.corrupt)];
        for (key, chance) in chances.iter().filter(|(_, chance)| *chance != Chance::default()) {
            write!(f, "{key}={chance},")?;
        }
        for (key, time) in [("delay", self.delay), ("jitter", self.jitter)] {
            if !time.is_zero() {
                write!(f, "{key}={}us,", time.as_micros())?;
            }
        }
        if let Some(Rate(bits)) = self.rate {
            write!(f, "rate={bits}bit,")?;
        }
        write!(f, "seed={}", self.seed)
    }
}

impl From<Impairment> for String {
    fn from(it: Impairment) -> Self {
        it.to_string()
    }
}

impl TryFrom<String> for Impairment {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// `20ms`, `1.5ms`, `200us`, `1s`.
///
/// # Errors
/// Says how it is written.
pub fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a time; write for example 20ms or 500us");
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit);
    let micros = match unit {
        "us" => decimal(number, 0),
        "ms" => decimal(number, 3),
        "s" => decimal(number, 6),
        _ => None,
    };
    micros.map(Duration::from_micros).ok_or_else(wrong)
}

/// A decimal number times ten to the power of `digits`, which it may have at most after the point.
fn decimal(text: &str, digits: usize) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || fraction.len() > digits || !plain(whole) || !plain(fraction) {
        return None;
    }
    format!("{whole}{fraction:0<digits$}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let text = "loss=1.5%,dup=1%,reorder=2%,corrupt=0.0125%,delay=20ms,jitter=1.5ms,rate=100mbit,seed=7";
        let it: Impairment = text.parse().unwrap();
        assert_eq!(it.loss, Chance(15_000));
        assert_eq!(it.corrupt, Chance(125));
        assert_eq!((it.delay, it.jitter), (Duration::from_millis(20), Duration::from_micros(1500)));
        assert_eq!((it.rate, it.seed), (Some(Rate(100_000_000)), 7));
        assert_eq!(it.to_string().parse(), Ok(it));
        assert_eq!("".parse(), Ok(Impairment::default()));
        assert_eq!(Impairment::default().to_string(), "seed=0");
        assert_eq!("delay=1s, seed=1".parse::<Impairment>().unwrap().delay, Duration::from_secs(1));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("loss", "'loss' is not KEY=VALUE"),
            ("loss=1", "loss: '1' has no % sign"),
            ("loss=-1%", "loss: '-1%' is not a percentage"),
            ("loss=0.00001%", "is not a percentage"),
            ("loss=101%", "loss: '101%' is more than 100%"),
            ("loss=1%,loss=2%", "loss is given twice"),
            ("latency=1ms", "'latency' is none of loss, dup"),
            ("delay=20", "delay: '20' is not a time"),
            ("delay=1.5us", "is not a time"),
            ("delay=99999999999999999999s", "is not a time"),
            ("delay=1ms,jitter=2ms", "jitter is more than delay"),
            ("delay=11s", "more than 10 s"),
            ("rate=fast", "rate: 'fast' is not a rate"),
            ("seed=x", "seed: 'x' is not a number"),
        ] {
            let said = text.parse::<Impairment>().unwrap_err();
            assert!(said.contains(words), "{text}: {said}");
        }
    }

    #[test]
    fn chances_hit_as_often_as_they_say() {
        assert!(Chance::ALWAYS.hit(u64::MAX) && Chance::ALWAYS.hit(0));
        assert!(!Chance(0).hit(0));
        assert!(Chance(1).hit(0) && !Chance(1).hit(u64::MAX));
        assert!(Chance(500_000).hit(u64::MAX / 2 - 1) && !Chance(500_000).hit(u64::MAX / 2 + 2));
    }
}
