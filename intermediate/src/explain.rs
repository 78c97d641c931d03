//! `intermediate route explain`: what the table says to one request, and why.

use crate::config::{Config, Protocol};
use crate::site::{Site, SiteListener};
use crate::targets::Targets;
use baton_shared::http::{HeadStatus, parse};
use baton_shared::route::{HeadLines, NoHeaders, RequestFacts, RequestLimits};
use std::fmt::Write;

/// A request as it is asked about.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The method.
    pub method: String,
    /// A URL, or a path alone.
    pub url: String,
    /// Header lines, `Name: value`.
    pub headers: Vec<String>,
    /// The listener's name; else the first that fits the URL.
    pub listener: Option<String>,
    /// The name in the ClientHello.
    pub sni: Option<String>,
    /// The protocols in the ClientHello.
    pub alpn: Vec<String>,
}

/// The routes looked at, in their order, and the decision; the error says what is wrong with the question.
pub fn explain(config: &Config, question: &Question) -> Result<String, String> {
    let site = Site::new(config, &Targets::default(), None);
    let url = Url::of(&question.url)?;
    let (number, listener) = choose(&site, question, &url)?;
    let mut out = format!("listener {:?}: {}, {}\n", listener.name, listener.vip, listener.protocol.name());
    let alpn: Vec<&str> = question.alpn.iter().map(String::as_str).collect();
    if !listener.protocol.is_http() {
        let sni = question.sni.as_deref().or(url.host_name());
        let facts = RequestFacts { host: sni, alpn: &alpn, ..RequestFacts::new(number, "", "", &NoHeaders) };
        put_decision(&mut out, &site, listener, &facts);
        return Ok(out);
    }
    let head_text = question.head(&url)?;
    let head = match parse(head_text.as_bytes(), &listener.limits.head) {
        HeadStatus::Complete(head) => head,
        HeadStatus::Bad(verdict) => {
            let _ = writeln!(
                out,
                "the gate refuses it: {} {} ({})",
                verdict.status,
                verdict.detail,
                verdict.rule.name()
            );
            return Ok(out);
        }
        HeadStatus::Incomplete => return Err("this is no whole request".to_owned()),
    };
    let lines = HeadLines::new(head_text.as_bytes(), &head);
    let facts =
        RequestFacts { alpn: &alpn, ..RequestFacts::of_head(number, &head, head_text.as_bytes(), &lines) };
    put_decision(&mut out, &site, listener, &facts);
    if let Err(reason) = head.migration() {
        let _ = writeln!(out, "it is proxied all the same: {} ({})", reason.explanation(), reason.name());
    }
    Ok(out)
}

fn choose<'a>(
    site: &'a Site,
    question: &Question,
    url: &Url<'_>,
) -> Result<(usize, &'a SiteListener), String> {
    let fits = |listener: &SiteListener| match (&question.listener, url.scheme) {
        (Some(name), _) => listener.name == *name,
        (None, Some("https")) => matches!(listener.protocol, Protocol::Https | Protocol::Tls),
        (None, _) if question.sni.is_some() => listener.protocol == Protocol::Tls,
        (None, _) => listener.protocol == Protocol::Http,
    };
    site.listeners.iter().enumerate().find(|(_, listener)| fits(listener)).ok_or_else(|| {
        let names: Vec<&str> = site.listeners.iter().map(|listener| listener.name.as_str()).collect();
        format!("no listener fits; there is {}; name one with --listener", names.join(", "))
    })
}

fn put_decision(out: &mut String, site: &Site, listener: &SiteListener, facts: &RequestFacts<'_>) {
    for tried in site.table.explain(facts) {
        let name = &tried.route.name;
        let _ = match &tried.outcome {
            Ok(()) => writeln!(out, "  route {name:?}: takes it"),
            Err(no) if no.condition == "listener" => {
                writeln!(out, "  route {name:?}: is not for this listener")
            }
            // A rule about paths says by itself which of the three kinds it is.
            Err(no) if no.condition == "path" => {
                writeln!(out, "  route {name:?}: no, it wants {}", no.wanted)
            }
            Err(no) => writeln!(out, "  route {name:?}: no, it wants {} {}", no.condition, no.wanted),
        };
    }
    let _ = match site.decide_on(facts) {
        Err(denial) => writeln!(out, "decision: {} {}", denial.status, denial.detail),
        Ok(decision) => {
            let members: Vec<&str> =
                decision.pool.members().iter().map(|member| member.target.spec.name.as_str()).collect();
            let by = decision.route.as_ref().map_or_else(
                || "no route takes it, the listener's own pool".to_owned(),
                |route| format!("route {route:?}"),
            );
            let _ =
                writeln!(out, "decision: pool {:?} ({}), by {by}", decision.pool.name(), members.join(", "));
            let mode = decision.mode.name();
            if listener.protocol.is_http() {
                let _ = writeln!(out, "  mode {mode}, keepalive {}", decision.keepalive.name());
                put_limits(out, &decision.limits)
            } else {
                writeln!(out, "  mode {mode}")
            }
        }
    };
}

/// By the keys of the configuration, with what they mean for the request.
fn put_limits(out: &mut String, limits: &RequestLimits) -> std::fmt::Result {
    let RequestLimits { body_bytes, body_rate, connect_timeout, connect_retries, upstream_timeout } = limits;
    let (rate, grace) = (body_rate.bytes_per_second, body_rate.grace_ns / 1_000_000);
    writeln!(
        out,
        "  body_bytes {body_bytes}, body_min_rate {rate}, body_grace_ms {grace}, connect_timeout_ms {}, \
         connect_retries {connect_retries}, upstream_timeout_ms {}",
        connect_timeout.as_millis(),
        upstream_timeout.as_millis()
    )
}

/// What of a URL routes look at.
struct Url<'a> {
    scheme: Option<&'a str>,
    authority: Option<&'a str>,
    target: &'a str,
}

impl<'a> Url<'a> {
    fn of(text: &'a str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.starts_with('/') || text == "*" {
                Ok(Url { scheme: None, authority: None, target: text })
            } else {
                Err(format!("{text:?} is neither a URL nor a path: http://HOST/PATH or /PATH"))
            };
        };
        if !matches!(scheme, "http" | "https") {
            return Err(format!("the scheme of {text:?} must be http or https"));
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        Ok(Url { scheme: Some(scheme), authority: Some(authority), target })
    }

    fn host_name(&self) -> Option<&'a str> {
        self.authority.map(baton_shared::route::host_name)
    }
}

impl Question {
    fn head(&self, url: &Url<'_>) -> Result<String, String> {
        let target = url.target.split('#').next().unwrap_or_default();
        let slash = if target.starts_with('?') || target.is_empty() { "/" } else { "" };
        let mut head = format!("{} {slash}{target} HTTP/1.1\r\n", self.method);
        let names_host = |line: &String| line.to_ascii_lowercase().starts_with("host:");
        if !self.headers.iter().any(names_host) {
            let authority = url.authority.ok_or("which host? give a whole URL, or -H 'Host: NAME'")?;
            let _ = write!(head, "Host: {authority}\r\n");
        }
        for line in &self.headers {
            let (name, value) = line.split_once(':').ok_or_else(|| format!("{line:?} is not NAME: VALUE"))?;
            let _ = write!(head, "{name}: {}\r\n", value.trim());
        }
        Ok(head + "\r\n")
    }
}
