//! The conditions of a route.

use super::facts::{HeaderLines, RequestFacts, any_cookie};
use super::path::{hex, plain};
use crate::http::is_token_text;
use regex::bytes::{Regex, RegexBuilder};
use std::fmt;

/// Bytes a compiled `path_regex` may take.
const REGEX_BYTES: usize = 1 << 20;

/// Why a rule cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RuleError(pub String);

/// A name, or all names below a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRule {
    /// Exactly this one, without regard to case, port and a dot at the end.
    Name(String),
    /// `*.DOMAIN`: one label or more in front of this domain, not the domain itself. Holds `.DOMAIN`.
    Below(String),
}

impl HostRule {
    /// From `name` or `*.domain`.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let wrong = |why: &str| Err(RuleError(format!("host {text:?} {why}")));
        if text.is_empty() {
            return wrong("is empty");
        }
        let (below, name) = match text.strip_prefix("*.") {
            Some(domain) => (true, domain),
            None => (false, text),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.contains('*') {
            return wrong("may have a star only as its first label: \"*.example.com\"");
        }
        if name.contains("://") || name.contains('/') {
            return wrong("must be a name alone, without scheme and path");
        }
        let bracketed = name.starts_with('[') && name.ends_with(']');
        if !bracketed && name.contains(':') {
            return wrong("must be without a port: ports are the listener's matter");
        }
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let address = |c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.' | '[' | ']');
        if bracketed && !below {
            if !name.chars().all(address) {
                return wrong("is no address in brackets");
            }
        } else if !name.is_ascii() {
            return wrong("must be written as it goes over the wire (punycode, \"xn--...\")");
        } else if !name.chars().all(letter) || name.split('.').any(str::is_empty) {
            return wrong("is no host name");
        }
        let name = name.to_ascii_lowercase();
        Ok(if below { HostRule::Below(format!(".{name}")) } else { HostRule::Name(name) })
    }

    /// Whether a name as [`super::host_name`] gives it is meant.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            HostRule::Name(name) => host.eq_ignore_ascii_case(name),
            HostRule::Below(domain) => {
                let host = host.as_bytes();
                host.len() > domain.len()
                    && host
                        .get(host.len() - domain.len()..)
                        .is_some_and(|end| end.eq_ignore_ascii_case(domain.as_bytes()))
            }
        }
    }
}

impl HostRule {
    /// Whether every host that the other means is meant.
    fn cover(&self, other: &HostRule) -> bool {
        match (self, other) {
            (HostRule::Below(domain), HostRule::Below(other)) => other.ends_with(domain.as_str()),
            (_, HostRule::Name(name)) => self.matches(name),
            (HostRule::Name(_), HostRule::Below(_)) => false,
        }
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostRule::Name(name) => f.write_str(name),
            HostRule::Below(domain) => write!(f, "*{domain}"),
        }
    }
}

/// What a path must be, in its normal form.
#[derive(Clone, Debug)]
pub enum PathRule {
    /// This path, or one below it: `/api` takes `/api` and `/api/v1`, not `/apiary`. Without a slash at the end.
    Prefix(String),
    /// This path alone.
    Exact(String),
    /// One that this expression matches from its first to its last byte; `.` is any byte.
    Regex(Regex, String),
}

impl PathRule {
    /// `path`: a slash at its end makes no difference.
    pub fn prefix(text: &str) -> Result<Self, RuleError> {
        let path = in_normal_form(text, "path")?;
        Ok(PathRule::Prefix(path.strip_suffix('/').unwrap_or(path).to_owned()))
    }

    /// `path_exact`.
    pub fn exact(text: &str) -> Result<Self, RuleError> {
        Ok(PathRule::Exact(in_normal_form(text, "path_exact")?.to_owned()))
    }

    /// `path_regex`.
    pub fn regex(text: &str) -> Result<Self, RuleError> {
        let compile = |pattern: &str| {
            RegexBuilder::new(pattern)
                .unicode(false)
                .dot_matches_new_line(true)
                .size_limit(REGEX_BYTES)
                .build()
        };
        let wrong = |e: regex::Error| {
            // The library draws the place over several lines; the last one says what is wrong.
            let text_of = e.to_string();
            let last = text_of.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            RuleError(format!("path_regex {text:?}: {last}"))
        };
        // By itself first: `a)|(b` would be whole only within the group.
        compile(text).map_err(wrong)?;
        let regex = compile(&format!("\\A(?:{text})\\z")).map_err(wrong)?;
        Ok(PathRule::Regex(regex, text.to_owned()))
    }

    /// Whether a path in a normal form is meant.
    pub fn matches(&self, path: &[u8]) -> bool {
        match self {
            PathRule::Prefix(prefix) => path
                .strip_prefix(prefix.as_bytes())
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'/'))),
            PathRule::Exact(exact) => path == exact.as_bytes(),
            PathRule::Regex(regex, _) => regex.is_match(path),
        }
    }
}

impl PathRule {
    /// Whether every path that the other means is meant, as far as that can be told without reading expressions.
    fn covers(&self, other: &PathRule) -> bool {
        match (self, other) {
            (_, PathRule::Exact(path)) => self.matches(path.as_bytes()),
            (PathRule::Prefix(_), PathRule::Prefix(path)) => self.matches(path.as_bytes()),
            (PathRule::Regex(_, mine), PathRule::Regex(_, other)) => mine == other,
            _ => false,
        }
    }
}

impl fmt::Display for PathRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathRule::Prefix(path) => write!(f, "path {:?}", if path.is_empty() { "/" } else { path }),
            PathRule::Exact(path) => write!(f, "path_exact {path:?}"),
            PathRule::Regex(_, text) => write!(f, "path_regex {text:?}"),
        }
    }
}

/// A rule is compared with normal forms, so one in another form would never match.
fn in_normal_form<'a>(text: &'a str, key: &str) -> Result<&'a str, RuleError> {
    if !text.starts_with('/') {
        return Err(RuleError(format!("{key} {text:?} must begin with a slash")));
    }
    if text.contains('?') {
        return Err(RuleError(format!(
            "{key} {text:?} must be without a query: that is what `query` is for"
        )));
    }
    let normal = plain(text);
    if normal.as_ref() != text.as_bytes() {
        let normal = String::from_utf8_lossy(&normal);
        return Err(RuleError(format!(
            "{key} {text:?} is compared with paths in normal form, and none of them is like it; write {normal:?}"
        )));
    }
    Ok(text)
}

/// A name and what its value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueRule {
    /// The header's, parameter's or cookie's name.
    pub name: String,
    /// The value; `None`: any.
    pub value: Option<String>,
}

impl ValueRule {
    /// From a key and its value in the configuration, where `*` means any.
    pub fn new(name: &str, value: &str) -> Self {
        ValueRule { name: name.to_owned(), value: (value != "*").then(|| value.to_owned()) }
    }

    /// The same for a header or cookie, whose name is a token.
    pub fn token(name: &str, value: &str) -> Result<Self, RuleError> {
        if !is_token_text(name) {
            return Err(RuleError(format!("{name:?} is no name of a header or cookie")));
        }
        Ok(Self::new(name, value))
    }

    fn value_is(&self, value: &[u8]) -> bool {
        self.value.as_ref().is_none_or(|wanted| wanted.as_bytes() == value)
    }
}

impl fmt::Display for ValueRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} = {value:?}", self.name),
            None => write!(f, "{} with any value", self.name),
        }
    }
}

/// All conditions of one route; what is empty is always fulfilled.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Listeners by number; `None`: all.
    pub listeners: Option<Vec<usize>>,
    /// Any of these.
    pub hosts: Vec<HostRule>,
    /// The path.
    pub path: Option<PathRule>,
    /// Any of these.
    pub methods: Vec<String>,
    /// All of these.
    pub headers: Vec<ValueRule>,
    /// All of these.
    pub query: Vec<ValueRule>,
    /// All of these.
    pub cookies: Vec<ValueRule>,
    /// Any of these.
    pub alpn: Vec<String>,
}

/// The first condition that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Which: `listener`, `host`, `path`, `method`, `header`, `query`, `cookie` or `alpn`.
    pub condition: &'static str,
    /// What was wanted.
    pub wanted: String,
}

impl Rules {
    /// Whether every connection of a listener to which they apply fulfils them.
    pub fn are_always_fulfilled(&self) -> bool {
        self.hosts.is_empty()
            && self.path.is_none()
            && self.methods.is_empty()
            && self.headers.is_empty()
            && self.query.is_empty()
            && self.cookies.is_empty()
            && self.alpn.is_empty()
    }

    /// Whether all that fulfils `other` fulfils these, as far as that can be told without reading expressions; the
    /// listeners are not looked at.
    pub fn cover(&self, other: &Rules) -> bool {
        fn any<T: PartialEq>(mine: &[T], others: &[T]) -> bool {
            mine.is_empty() || (!others.is_empty() && others.iter().all(|value| mine.contains(value)))
        }
        fn all(mine: &[ValueRule], others: &[ValueRule]) -> bool {
            mine.iter().all(|rule| {
                others.iter().any(|o| *o == *rule || (rule.value.is_none() && o.name == rule.name))
            })
        }
        let hosts = self.hosts.is_empty()
            || (!other.hosts.is_empty()
                && other.hosts.iter().all(|host| self.hosts.iter().any(|h| h.cover(host))));
        let path = match (&self.path, &other.path) {
            (None, _) => true,
            (Some(mine), Some(other)) => mine.covers(other),
            (Some(_), None) => false,
        };
        hosts
            && path
            && any(&self.methods, &other.methods)
            && any(&self.alpn, &other.alpn)
            && all(&self.headers, &other.headers)
            && all(&self.query, &other.query)
            && all(&self.cookies, &other.cookies)
    }

    /// Whether connections of this listener can be meant.
    pub fn apply_to(&self, listener: usize) -> bool {
        self.listeners.as_ref().is_none_or(|all| all.contains(&listener))
    }

    pub(super) fn check(&self, facts: &RequestFacts<'_>, path: &[u8]) -> Result<(), Mismatch> {
        let no = |condition, wanted| Err(Mismatch { condition, wanted });
        if !self.apply_to(facts.listener) {
            return no("listener", "another listener".to_owned());
        }
        if !self.hosts.is_empty()
            && !facts.host.is_some_and(|host| self.hosts.iter().any(|h| h.matches(host)))
        {
            return no("host", any_of(&self.hosts));
        }
        if let Some(rule) = &self.path
            && !rule.matches(path)
        {
            return no("path", rule.to_string());
        }
        if !self.methods.is_empty() && !self.methods.iter().any(|m| m == facts.method) {
            return no("method", any_of(&self.methods));
        }
        if let Some(rule) = self.headers.iter().find(|rule| !has_header(facts.headers, rule)) {
            return no("header", rule.to_string());
        }
        if let Some(rule) = self.query.iter().find(|rule| !has_parameter(facts.query, rule)) {
            return no("query", rule.to_string());
        }
        if let Some(rule) = self.cookies.iter().find(|rule| !has_cookie(facts.headers, rule)) {
            return no("cookie", rule.to_string());
        }
        if !self.alpn.is_empty() && !self.alpn.iter().any(|wanted| facts.alpn.iter().any(|is| is == wanted)) {
            return no("alpn", any_of(&self.alpn));
        }
        Ok(())
    }
}

fn any_of(values: &[impl fmt::Display]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

fn has_header(headers: &dyn HeaderLines, rule: &ValueRule) -> bool {
    headers.any(&rule.name, &mut |value| rule.value_is(value))
}

fn has_parameter(query: &str, rule: &ValueRule) -> bool {
    query.split('&').any(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        decoded(name) == rule.name.as_bytes() && rule.value_is(&decoded(value))
    })
}

fn has_cookie(headers: &dyn HeaderLines, rule: &ValueRule) -> bool {
    any_cookie(headers, &rule.name, &mut |value| rule.value_is(value.unwrap_or_default()))
}

/// A name or value of a query (application/x-www-form-urlencoded).
fn decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'+', _) => out.push(b' '),
            (b'%', [high, low, behind @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    rest = behind;
                }
                _ => out.push(byte),
            },
            _ => out.push(byte),
        }
    }
    out
}
