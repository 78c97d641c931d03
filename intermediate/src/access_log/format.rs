//! A record as a line. Everything that came from the network is escaped so that a line is one line, a field one
//! field, and all of it printable ASCII.

use super::record::{AgentHalf, Asked, Placed, Record};
use baton_shared::control::EndReport;
use std::borrow::Cow;
use std::fmt::Write;
use std::time::{Duration, SystemTime};
use time::{Month, OffsetDateTime};

/// How lines look.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object a line.
    #[default]
    Json,
    /// `key=value`, values with spaces in quotes.
    Logfmt,
    /// The combined log format of Apache and nginx.
    Common,
}

/// A field's value.
enum Value<'a> {
    Text(Cow<'a, [u8]>),
    Number(u64),
}

/// Fields in the order they are written; what is not known is not there.
#[derive(Default)]
struct Fields<'a>(Vec<(&'static str, Value<'a>)>);

impl<'a> Fields<'a> {
    fn text(&mut self, key: &'static str, value: &'a (impl AsRef<[u8]> + ?Sized)) {
        if !value.as_ref().is_empty() {
            self.0.push((key, Value::Text(Cow::Borrowed(value.as_ref()))));
        }
    }

    fn shown(&mut self, key: &'static str, value: impl ToString) {
        self.0.push((key, Value::Text(Cow::Owned(value.to_string().into_bytes()))));
    }

    fn number(&mut self, key: &'static str, value: impl Into<u64>) {
        self.0.push((key, Value::Number(value.into())));
    }

    fn micros(&mut self, key: &'static str, value: Duration) {
        self.number(key, u64::try_from(value.as_micros()).unwrap_or(u64::MAX));
    }
}

/// The line, with its end.
pub(super) fn line(record: &Record, format: Format) -> String {
    let mut out = String::with_capacity(512);
    match format {
        Format::Json => json(&fields(record), &mut out),
        Format::Logfmt => logfmt(&fields(record), &mut out),
        Format::Common => common(record, &mut out),
    }
    out.push('\n');
    out
}

fn fields(record: &Record) -> Fields<'_> {
    let mut f = Fields::default();
    match record {
        Record::Proxied(r) => {
            asked(&mut f, "proxied", &r.asked, &r.placed, r.flow_id);
            f.shown("reason", r.reason.name());
            r.refusal.iter().for_each(|refusal| f.shown("refusal", refusal.name()));
            r.rule.iter().for_each(|rule| f.shown("rule", rule.name()));
            r.status.iter().for_each(|status| f.number("status", *status));
            f.number("request_bytes", r.request_bytes);
            f.number("bytes", r.bytes);
            r.connect.iter().for_each(|d| f.micros("connect_us", *d));
            r.first_byte.iter().for_each(|d| f.micros("first_byte_us", *d));
            f.micros("duration_us", r.total);
            f.shown("termination", r.end.termination());
        }
        Record::Closed(r) => {
            asked(&mut f, "closed", &r.asked, &r.placed, r.flow_id);
            f.shown("reason", r.reason.name());
            r.rule.iter().for_each(|rule| f.shown("rule", rule.name()));
            r.status.iter().for_each(|status| f.number("status", *status));
            f.shown("termination", baton_shared::termination::Termination::of_close(r.reason));
        }
        Record::Migrated(r, half) => {
            asked(&mut f, "migrated", &r.asked, &r.placed, Some(r.flow.flow_id));
            r.status.iter().for_each(|status| f.number("status", *status));
            for (stage, duration) in r.stages.iter().flat_map(|stages| stages.named()) {
                f.micros(stage_key(stage), duration);
            }
            r.stages.iter().for_each(|stages| f.micros("handoff_total_us", stages.total));
            agent_half(&mut f, half);
            f.shown("termination", half.termination());
        }
    }
    f
}

/// Every stage's key, with its unit.
fn stage_key(stage: &str) -> &'static str {
    match stage {
        "accept_to_head" => "accept_to_head_us",
        "decide" => "decide_us",
        "freeze" => "freeze_us",
        "drain" => "drain_us",
        "capture" => "capture_us",
        "handoff" => "handoff_us",
        "agent" => "agent_us",
        "commit" => "commit_us",
        "release" => "release_us",
        "close" => "close_us",
        _ => "other_us",
    }
}

fn asked<'a>(
    f: &mut Fields<'a>,
    outcome: &'static str,
    asked: &'a Asked,
    placed: &'a Placed,
    flow: Option<u64>,
) {
    f.shown("time", rfc3339(asked.at));
    f.shown("outcome", outcome);
    f.shown("client", asked.client);
    f.shown("vip", asked.vip);
    f.text("listener", &asked.listener);
    placed.route.iter().for_each(|route| f.text("route", route));
    f.text("pool", &placed.pool);
    f.text("target", &placed.target);
    if let Some(request) = &asked.request {
        f.text("method", &request.method);
        f.text("host", &request.host);
        f.text("path", &request.target);
        f.text("version", request.version);
        f.text("user_agent", &request.user_agent);
        f.text("referer", &request.referer);
    }
    flow.iter().for_each(|flow| f.shown("flow", crate::handoff::flow_id_text(*flow)));
    f.number("request_no", asked.request_no);
}

fn agent_half(f: &mut Fields<'_>, half: &AgentHalf) {
    let report = match half {
        AgentHalf::Reported(report) => report,
        AgentHalf::Unreported(reason) => {
            f.shown("agent_half", "missing");
            return f.shown("end", reason.name());
        }
        AgentHalf::NextRequest => return f.shown("agent_half", "with_later_request"),
        AgentHalf::TakenBack => return f.shown("agent_half", "taken_back"),
        AgentHalf::Stopped => return f.shown("agent_half", "stopped_before_end"),
    };
    f.shown("agent_half", "joined");
    f.shown("end", report.reason.name());
    report.closed_by.iter().for_each(|closer| f.shown("closed_by", closer.name()));
    f.number("bytes", new_bytes(report));
    f.number("retransmitted_bytes", report.retransmitted_bytes);
    f.number("packets", report.packets);
    f.number("duration_us", report.duration_ms.saturating_mul(1000));
    if let Some(way) = report.way {
        f.number("rtt_us", way.rtt_us);
        f.number("min_rtt_us", way.min_rtt_us);
        f.number("retransmitted_segments", way.retransmitted_segments);
        f.number("rtt_age_ms", way.age_ms);
    }
}

/// What the server sent, each byte counted once: heads and bodies.
fn new_bytes(report: &EndReport) -> u64 {
    report.bytes.saturating_sub(report.retransmitted_bytes)
}

fn json(fields: &Fields<'_>, out: &mut String) {
    for (n, (key, value)) in fields.0.iter().enumerate() {
        out.push_str(if n == 0 { "{\"" } else { ",\"" });
        out.push_str(key);
        out.push_str("\":");
        match value {
            Value::Number(number) => drop(write!(out, "{number}")),
            Value::Text(text) => json_text(text, out),
        }
    }
    out.push('}');
}

/// A JSON string. Bytes that are no UTF-8 become U+FFFD.
fn json_text(text: &[u8], out: &mut String) {
    out.push('"');
    for c in String::from_utf8_lossy(text).chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            ' '..='~' => out.push(c),
            _ => {
                let mut units = [0u16; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

fn logfmt(fields: &Fields<'_>, out: &mut String) {
    for (n, (key, value)) in fields.0.iter().enumerate() {
        if n > 0 {
            out.push(' ');
        }
        out.push_str(key);
        out.push('=');
        match value {
            Value::Number(number) => drop(write!(out, "{number}")),
            Value::Text(text) if text.iter().all(|b| is_plain(*b)) => {
                out.push_str(&String::from_utf8_lossy(text));
            }
            Value::Text(text) => {
                out.push('"');
                quoted(text, out);
                out.push('"');
            }
        }
    }
}

/// What needs no quotes.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=')
}

/// `\xNN` for what is not printable ASCII, a backslash before quotes and backslashes.
fn quoted(text: &[u8], out: &mut String) {
    for byte in text {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(*byte));
            }
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => drop(write!(out, "\\x{byte:02x}")),
        }
    }
}

/// `client - - [time] "request" status bytes "referer" "user agent"`.
fn common(record: &Record, out: &mut String) {
    let (asked, status, bytes) = match record {
        Record::Proxied(r) => (&r.asked, r.status, Some(r.bytes)),
        Record::Closed(r) => (&r.asked, r.status, None),
        Record::Migrated(r, AgentHalf::Reported(report)) => (&r.asked, r.status, Some(new_bytes(report))),
        Record::Migrated(r, _) => (&r.asked, r.status, None),
    };
    let _ = write!(out, "{} - - [{}] \"", asked.client.ip(), common_time(asked.at));
    let field =
        |text: &[u8], out: &mut String| if text.is_empty() { out.push('-') } else { quoted(text, out) };
    match &asked.request {
        None => out.push('-'),
        Some(request) => {
            quoted(&request.method, out);
            out.push(' ');
            quoted(&request.target, out);
            out.push(' ');
            out.push_str(request.version);
        }
    }
    let shown = |number: Option<u64>| number.map_or("-".to_owned(), |n| n.to_string());
    let _ = write!(out, "\" {} {} \"", shown(status.map(u64::from)), shown(bytes));
    let none = Vec::new();
    let request = asked.request.as_ref();
    field(request.map_or(&none, |r| &r.referer), out);
    out.push_str("\" \"");
    field(request.map_or(&none, |r| &r.user_agent), out);
    out.push('"');
}

/// `2026-11-26T10:52:45.123Z`.
fn rfc3339(at: SystemTime) -> String {
    let t = OffsetDateTime::from(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second(),
        t.millisecond()
    )
}

/// `26/Nov/2026:10:52:45 +0000`.
fn common_time(at: SystemTime) -> String {
    let t = OffsetDateTime::from(at);
    let month = match t.month() {
        Month::January => "Jan",
        Month::February => "Feb",
        Month::March => "Mar",
        Month::April => "Apr",
        Month::May => "May",
        Month::June => "Jun",
        Month::July => "Jul",
        Month::August => "Aug",
        Month::September => "Sep",
        Month::October => "Oct",
        Month::November => "Nov",
        Month::December => "Dec",
    };
    let (day, year, hour, minute, second) = (t.day(), t.year(), t.hour(), t.minute(), t.second());
    format!("{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000")
}

#[cfg(test)]
mod tests;
