//! The corpus of requests for the gate, `tests/corpus/gate/`; its README.md says how it is written.

use anyhow::{Context, Result, bail, ensure};
use baton_shared::http::{GateRule, HeadLimits, RequestStream, Step};
use std::path::Path;

/// One case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Its name, `FILE/NAME`.
    pub name: String,
    /// What the client sends.
    pub bytes: Vec<u8>,
    /// What must come of it.
    pub expected: Seen,
}

/// What a gate saw in a client's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Heads that passed.
    pub accepted: usize,
    /// Why nothing more did.
    pub refused: Option<GateRule>,
}

/// All cases, by file and in the files' order.
///
/// # Errors
/// Names the file and the case that is not written as it should be.
pub fn all() -> Result<Vec<Case>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/gate");
    let mut files: Vec<_> =
        std::fs::read_dir(&dir)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "txt"));
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        cases.extend(read(&stem, &text)?);
    }
    Ok(cases)
}

/// The cases of one file's text.
fn read(file: &str, text: &str) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for block in text.split("\n\n").filter(|b| !b.trim_start().starts_with('#')) {
        let mut lines = block.lines().skip_while(|l| l.is_empty());
        let Some(first) = lines.next() else { continue };
        let name = first.strip_prefix("== ").with_context(|| format!("{file}: no name in {first:?}"))?;
        let name = format!("{file}/{name}");
        let expected = lines.next().and_then(verdict).with_context(|| format!("{name}: no verdict"))?;
        let mut bytes = Vec::new();
        for line in lines {
            unescape(line, &mut bytes).with_context(|| name.clone())?;
        }
        ensure!(!bytes.is_empty(), "{name}: no bytes");
        cases.push(Case { name, bytes, expected });
    }
    Ok(cases)
}

fn verdict(line: &str) -> Option<Seen> {
    let rule = |text: &str| {
        let name = text.strip_prefix("refuse ")?;
        GateRule::ALL.iter().copied().find(|r| r.name() == name)
    };
    let Some(rest) = line.strip_prefix("accept ") else {
        return Some(Seen { accepted: 0, refused: Some(rule(line)?) });
    };
    let (count, refused) = match rest.split_once(", ") {
        Some((count, refused)) => (count, Some(rule(refused)?)),
        None => (rest, None),
    };
    Some(Seen { accepted: count.parse().ok()?, refused })
}

fn unescape(line: &str, out: &mut Vec<u8>) -> Result<()> {
    let mut rest = line;
    while let Some(at) = rest.find('\\') {
        let (plain, escape) = rest.split_at(at);
        out.extend_from_slice(plain.as_bytes());
        let mut letters = escape.chars().skip(1);
        let mut used = 2;
        match letters.next() {
            Some('r') => out.push(b'\r'),
            Some('n') => out.push(b'\n'),
            Some('t') => out.push(b'\t'),
            Some('0') => out.push(0),
            Some('\\') => out.push(b'\\'),
            Some('x') => {
                let digits = escape.get(2..4).context("an \\x without two digits")?;
                out.push(u8::from_str_radix(digits, 16).context("an \\x without two digits")?);
                used = 4;
            }
            Some('{') => {
                let end = escape.find('}').context("a \\{ without its end")?;
                let (what, count) = escape.get(2..end).and_then(|r| r.split_once('*')).context("no count")?;
                let [byte] = what.as_bytes() else { bail!("\\{{ repeats one byte") };
                out.extend(std::iter::repeat_n(*byte, count.parse()?));
                used = end + 1;
            }
            other => bail!("an escape that is none: {other:?}"),
        }
        rest = escape.get(used..).unwrap_or_default();
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(())
}

/// A request as a reader saw it: where its head starts, where its body, where the next request.
pub type Extent = (usize, usize, usize);

/// What the gate sees, given the bytes in pieces that end at `cuts` and at the end; and where the requests that
/// passed are.
pub fn judge(bytes: &[u8], cuts: &[usize]) -> (Seen, Vec<Extent>) {
    let mut stream = RequestStream::new(HeadLimits::default());
    let mut seen = Seen { accepted: 0, refused: None };
    let mut extents: Vec<Extent> = Vec::new();
    let mut from = 0;
    for arrived in cuts.iter().copied().chain([bytes.len()]) {
        loop {
            match stream.step(bytes.get(from..arrived).unwrap_or_default()) {
                Step::NeedMore | Step::Wait => break,
                Step::Refuse(verdict) => {
                    seen.refused = Some(verdict.rule);
                    return (seen, extents);
                }
                Step::Skip(n) => from += n,
                Step::Pass(n) => {
                    from += n;
                    if let Some(last) = extents.last_mut() {
                        last.2 = from;
                    }
                }
                Step::Head(head) => {
                    seen.accepted += 1;
                    extents.push((from, from + head.head_len, from + head.head_len));
                    from += head.head_len;
                }
            }
        }
    }
    (seen, extents)
}

/// Another reader: httparse, and the simplest thing that can be done with what it says. It takes the first length there
/// is, as far as it has digits, and any coding that has `chunked` in it. Requests that are not there whole it leaves out.
pub fn read_otherwise(bytes: &[u8]) -> Vec<Extent> {
    let mut extents = Vec::new();
    let mut from = 0;
    while let Some(extent) = read_one(bytes, from) {
        from = extent.2;
        extents.push(extent);
        if from >= bytes.len() {
            break;
        }
    }
    extents
}

fn read_one(bytes: &[u8], from: usize) -> Option<Extent> {
    let rest = |from: usize| bytes.get(from..).unwrap_or_default();
    let mut headers = [httparse::EMPTY_HEADER; 200];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(head)) = request.parse(rest(from)) else { return None };
    let value = |name: &str| {
        let found = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
        found.map(|h| String::from_utf8_lossy(h.value).to_ascii_lowercase())
    };
    let body = from + head;
    let end = if value("transfer-encoding").is_some_and(|v| v.contains("chunked")) {
        chunked_end(bytes, body)?
    } else {
        let length = value("content-length").unwrap_or_default();
        let digits: String = length.trim().chars().take_while(char::is_ascii_digit).collect();
        body.saturating_add(digits.parse().unwrap_or(0))
    };
    // Empty lines between requests are nobody's.
    let start = from + rest(from).iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    (end <= bytes.len()).then_some((start, body, end))
}

fn chunked_end(bytes: &[u8], body: usize) -> Option<usize> {
    let rest = |from: usize| bytes.get(from..).unwrap_or_default();
    let mut end = body;
    loop {
        let Ok(httparse::Status::Complete((at, size))) = httparse::parse_chunk_size(rest(end)) else {
            return None;
        };
        end += at;
        if size == 0 {
            let mut trailers = vec![httparse::EMPTY_HEADER; 3000];
            let Ok(httparse::Status::Complete((n, _))) = httparse::parse_headers(rest(end), &mut trailers)
            else {
                return None;
            };
            return Some(end + n);
        }
        end = end.saturating_add(usize::try_from(size).ok()?).saturating_add(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corpus_is_read_as_its_page_says() {
        let text = "# Title\n\n== one\naccept 2, refuse bare_lf\na\\r\\n\n\\x41\\{b*3}\\\\\n\n== two\nrefuse not_http\n\\0\n";
        let cases = read("f", text).unwrap();
        let expected = Seen { accepted: 2, refused: Some(GateRule::BareLf) };
        assert_eq!(cases[0], Case { name: "f/one".into(), bytes: b"a\r\nAbbb\\".to_vec(), expected });
        assert_eq!(cases[1].bytes, [0]);
        for wrong in ["== a\nmaybe\nx\n", "== a\nrefuse nothing\nx\n", "a\n", "== a\naccept 1\n\\q\n"] {
            read("f", wrong).unwrap_err();
        }
    }
}
