//! Numbers for people.

use time::OffsetDateTime;
use time::macros::format_description;

/// Bytes with a binary unit.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut rest = n;
    let mut tenths = 0;
    while rest >= 1024 && unit + 1 < UNITS.len() {
        tenths = (rest % 1024) * 10 / 1024;
        rest /= 1024;
        unit += 1;
    }
    let unit = UNITS.get(unit).copied().unwrap_or_default();
    if unit == "B" || rest >= 100 { format!("{rest} {unit}") } else { format!("{rest}.{tenths} {unit}") }
}

/// A part of a whole.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let tenths = u128::from(part) * 1000 / u128::from(whole);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// Microseconds.
pub(crate) fn micros(us: u64) -> String {
    match us {
        0..10_000 => format!("{us} us"),
        10_000..10_000_000 => format!("{} ms", us / 1000),
        _ => format!("{} s", us / 1_000_000),
    }
}

/// Milliseconds.
pub(crate) fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Milliseconds since 1970, as the time of day (UTC) with milliseconds.
pub(crate) fn clock(ms: u64) -> String {
    let nanos = i128::from(ms) * 1_000_000;
    let format = format_description!("[hour]:[minute]:[second].[subsecond digits:3]");
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok();
    time.and_then(|time| time.format(format).ok()).unwrap_or_else(|| ms.to_string())
}

/// Milliseconds since 1970 now.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well_at_every_size() {
        assert_eq!(
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "123 KiB"],
            [0, 1023, 1024, 1536, 126_000].map(bytes).as_slice()
        );
        assert_eq!(percent(1, 3), "33.3 %");
        assert_eq!(percent(0, 0), "-");
        assert_eq!([40, 12_345, 99_000_000].map(micros), ["40 us", "12 ms", "99 s"]);
        assert_eq!([900, 61_000, 600_000, 8_000_000].map(age), ["900 ms", "61 s", "10 min", "2 h"]);
        assert_eq!(clock(1_000), "00:00:01.000");
    }
}
