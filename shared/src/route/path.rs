//! The forms of a path that rules are compared with.
//!
//! A rule must not be slipped past by writing a path in another way, so a path is brought into a normal form first:
//! percent-encoded bytes are decoded (once), `.` and `..` segments are resolved (never above the root), and runs of
//! slashes become one. What is sent to the server stays as it came.
//!
//! Servers differ in some things: whether `%2F` separates segments, whether a backslash (`%5C`) does, and whether
//! `;parameters` belong to a segment's name (`/public/..;/admin` is `/admin` for some). So there are two normal forms:
//! the *plain* one, in which these are letters like any other, and the *loose* one, in which both are slashes and
//! parameters are cut off. If the two lead to different routes, nobody can say which one the server behind will act
//! on, and the request is refused with 400.

use std::borrow::Cow;

/// The plain normal form.
pub fn plain(path: &str) -> Cow<'_, [u8]> {
    normal(path.as_bytes(), false)
}

/// The loose normal form, `None` if it is the plain one.
pub fn loose(path: &str) -> Option<Cow<'_, [u8]>> {
    let bytes = path.as_bytes();
    if !bytes.iter().any(|b| matches!(b, b';' | b'%' | b'\\')) {
        return None;
    }
    let loose = normal(bytes, true);
    (loose != normal(bytes, false)).then_some(loose)
}

/// `*` and what else is no path stays as it is.
fn normal(bytes: &[u8], loose: bool) -> Cow<'_, [u8]> {
    if !bytes.starts_with(b"/") || is_normal(bytes) {
        return Cow::Borrowed(bytes);
    }
    let decoded = decode(bytes, loose);
    let mut segments: Vec<&[u8]> = Vec::new();
    // Whether the path ends in a slash, or in a dot segment, which is as good.
    let mut directory = true;
    for segment in decoded.split(|b| *b == b'/') {
        let name = if loose { before_parameters(segment) } else { segment };
        directory = matches!(name, b"" | b"." | b"..");
        match name {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            _ => segments.push(name),
        }
    }
    let mut out = Vec::with_capacity(decoded.len());
    for segment in &segments {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if directory || out.is_empty() {
        out.push(b'/');
    }
    Cow::Owned(out)
}

/// Whether nothing is to be done in either form; may say no where it is so.
fn is_normal(bytes: &[u8]) -> bool {
    !bytes.iter().any(|b| matches!(b, b'%' | b';' | b'\\'))
        && !bytes.windows(2).any(|pair| matches!(pair, b"//" | b"/."))
}

fn before_parameters(segment: &[u8]) -> &[u8] {
    segment.split(|b| *b == b';').next().unwrap_or_default()
}

fn decode(bytes: &[u8], loose: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after_all)) = rest.split_first() {
        let (byte, encoded, after) = match (first, after_all) {
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, true, after),
                _ => (first, false, after_all),
            },
            _ => (first, false, after_all),
        };
        match byte {
            // A slash that separates nothing: it must not look like one that does.
            b'/' if encoded && !loose => out.extend_from_slice(b"%2F"),
            b'\\' if loose => out.push(b'/'),
            _ => out.push(byte),
        }
        rest = after;
    }
    out
}

pub(super) fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
