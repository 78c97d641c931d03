//! A server's responses, one after the other: where each of them ends.
//!
//! What is read here reached the client already; nothing is refused. Whatever two readers could read in two ways makes
//! the end unknown, and unknown it stays: nobody is to be told that a response is complete who might see it otherwise.

use super::{BodyScanner, Framing, Statuses};
use memchr::memchr_iter;

/// A response head longer than this, bytes, is not followed.
const HEAD_BYTES: usize = 64 * 1024;
/// Header lines of one head at most.
const HEADERS: usize = 256;

/// Where a server's stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Every response that began is complete.
    Between {
        /// How many final ones there were; interim ones (RFC 9110, section 15.2) do not count.
        responses: u32,
    },
    /// In mid-response.
    Within,
    /// The response under way, or the last one, ends with the connection.
    UntilClose,
    /// Not to be known, for this reason.
    Unknown(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// What of a head has come.
    Head(Vec<u8>),
    Body(BodyScanner),
    UntilClose,
    Unknown(&'static str),
}

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// Whatever, but no HEAD.
    Any,
    /// HEAD first.
    HeadFirst,
    /// One thing, and to close behind the answer.
    Once,
}

/// Follows a server's bytes of one connection.
#[derive(Clone, Debug)]
pub struct ResponseStream {
    state: State,
    responses: u32,
    /// Of heads, bytes.
    heads: u64,
    statuses: Statuses,
    asked: Asked,
}

/// What a head says of its response's end.
enum End {
    Interim,
    After(Framing),
    WithConnection,
}

impl ResponseStream {
    /// Before the first response, which answers a HEAD request if `first_is_head`; no other one may.
    pub const fn new(first_is_head: bool) -> Self {
        Self::to(if first_is_head { Asked::HeadFirst } else { Asked::Any })
    }

    /// Before the only response of a connection that was asked to close behind it: that it closes says nothing of where
    /// the response ends, and what comes behind it is not looked at.
    pub const fn once() -> Self {
        Self::to(Asked::Once)
    }

    const fn to(asked: Asked) -> Self {
        ResponseStream {
            state: State::Head(Vec::new()),
            responses: 0,
            heads: 0,
            statuses: Statuses::NONE,
            asked,
        }
    }

    /// Behind so many complete responses that another one followed. No HEAD is answered from here on.
    pub fn behind(responses: u32) -> Self {
        ResponseStream { responses, statuses: Statuses::behind(responses), ..Self::to(Asked::Any) }
    }

    /// How many final responses are complete, if [`ResponseStream::behind`] so many reads what follows alike.
    pub fn left_at(&self) -> Option<u32> {
        match self.standing() {
            Standing::Between { responses } => (self.asked == Asked::Any
                || (self.asked == Asked::HeadFirst && responses > 0))
                .then_some(responses),
            Standing::Within | Standing::UntilClose | Standing::Unknown(_) => None,
        }
    }

    /// Where it stands.
    pub fn standing(&self) -> Standing {
        match &self.state {
            State::Head(partial) if partial.is_empty() => Standing::Between { responses: self.responses },
            State::Head(_) | State::Body(_) => Standing::Within,
            State::UntilClose => Standing::UntilClose,
            State::Unknown(why) => Standing::Unknown(why),
        }
    }

    /// The status codes of the final responses whose heads have come.
    pub fn statuses(&self) -> Statuses {
        self.statuses
    }

    /// Bytes of all complete heads, interim ones too.
    pub fn head_bytes(&self) -> u64 {
        self.heads
    }

    /// Whether nothing that follows can matter any more.
    pub fn is_settled(&self) -> bool {
        matches!(self.state, State::UntilClose | State::Unknown(_))
    }

    /// How many bytes from here on are content that need not be shown: [`ResponseStream::skip`] passes over them.
    pub fn skippable(&self) -> u64 {
        match &self.state {
            State::Body(body) => body.skippable(),
            _ => 0,
        }
    }

    /// Passes over so many bytes, at most [`ResponseStream::skippable`].
    pub fn skip(&mut self, bytes: u64) {
        if let State::Body(body) = &mut self.state {
            body.skip(bytes);
            self.end_body();
        }
    }

    /// Bytes of the stream could not be seen.
    pub fn lose(&mut self, why: &'static str) {
        if !self.is_settled() {
            self.state = State::Unknown(why);
        }
    }

    /// Takes in the next bytes, all of them.
    pub fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.asked == Asked::Once && self.responses > 0 {
                return;
            }
            match &mut self.state {
                State::UntilClose | State::Unknown(_) => return,
                State::Body(body) => match body.advance(bytes) {
                    Err(_) => self.state = State::Unknown("a chunk is malformed"),
                    Ok(taken) => {
                        bytes = bytes.get(taken..).unwrap_or_default();
                        self.end_body();
                    }
                },
                State::Head(partial) => {
                    let before = partial.len();
                    let mut all = bytes;
                    let mut found = if before == 0 { head_length(bytes, 0) } else { None };
                    // Mostly it comes in one piece, which need not be kept.
                    if found.is_none() {
                        partial.extend_from_slice(bytes);
                        all = partial;
                        found = head_length(all, before);
                    }
                    // However it was cut.
                    if found.unwrap_or(all.len()) > HEAD_BYTES {
                        self.state = State::Unknown("a response head is too long");
                        return;
                    }
                    let Some(length) = found else { return };
                    self.heads = self.heads.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
                    let asked = if self.responses == 0 { self.asked } else { Asked::Any };
                    let end = all.get(..length).map(|head| judge(head, asked));
                    bytes = bytes.get(length.saturating_sub(before)..).unwrap_or_default();
                    self.on_head(end.unwrap_or(Err("a response head is cut short")));
                }
            }
        }
    }

    fn on_head(&mut self, told: Result<(u16, End), &'static str>) {
        if let Ok((status, End::After(_) | End::WithConnection)) = &told {
            self.statuses.note(*status);
        }
        self.state = match told.map(|(_, end)| end) {
            Err(why) => State::Unknown(why),
            Ok(End::Interim) => State::Head(Vec::new()),
            Ok(End::WithConnection) => State::UntilClose,
            Ok(End::After(framing)) => State::Body(BodyScanner::new(framing)),
        };
        self.end_body();
    }

    fn end_body(&mut self) {
        if matches!(&self.state, State::Body(body) if body.is_done()) {
            self.responses = self.responses.saturating_add(1);
            self.state = State::Head(Vec::new());
        }
    }
}

/// The length of the head that `bytes` begin with, its empty line included. Nothing was found in the first `looked`.
fn head_length(bytes: &[u8], looked: usize) -> Option<usize> {
    const EMPTY_LINE: &[u8] = b"\r\n\r\n";
    let ends = |at: &usize| bytes.get(..=looked + at).is_some_and(|up_to| up_to.ends_with(EMPTY_LINE));
    memchr_iter(b'\n', bytes.get(looked..)?).find(ends).map(|at| looked + at + 1)
}

/// The status, and RFC 9112, section 6.3, with what is ambiguous left out.
fn judge(head: &[u8], asked: Asked) -> Result<(u16, End), &'static str> {
    // A bare LF ends a line for some readers and not for others.
    let bare = memchr_iter(b'\n', head)
        .any(|at| at.checked_sub(1).and_then(|before| head.get(before)) != Some(&b'\r'));
    if bare {
        return Err("a line of a response head ends without CR");
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        _ => return Err("a response head is not HTTP/1"),
    }
    let (code, old) = (response.code.unwrap_or(0), response.version == Some(0));
    let mut lengths = 0u32;
    let mut length = None;
    let mut codings = 0u32;
    let mut chunked = false;
    let (mut close, mut keep_alive) = (false, false);
    for header in response.headers.iter() {
        let value = header.value.trim_ascii();
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            lengths += 1;
            length = number(value);
        } else if is("transfer-encoding") {
            codings += 1;
            chunked = value.eq_ignore_ascii_case(b"chunked");
        } else if is("connection") {
            for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                close |= option.eq_ignore_ascii_case(b"close");
                keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
    }
    // What is below may be interim to some.
    if code < 100 {
        return Err("a response's status is under 100");
    }
    if code == 101 {
        return Err("the protocol was switched");
    }
    if (100..200).contains(&code) {
        return Ok((code, End::Interim));
    }
    if asked != Asked::Once && (close || (old && !keep_alive)) {
        return Ok((code, End::WithConnection));
    }
    if asked == Asked::HeadFirst || code == 204 || code == 304 {
        return Ok((code, End::After(Framing::None)));
    }
    let end = match (codings, lengths) {
        (0, 0) => Ok(End::WithConnection),
        (0, 1) => length.map(Framing::Length).map(End::After).ok_or("a response's length is not a number"),
        (1, 0) if chunked && !old => Ok(End::After(Framing::Chunked)),
        _ => Err("a response's framing is ambiguous"),
    };
    end.map(|end| (code, end))
}

fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(value).ok()?.parse().ok().filter(|n| *n <= i64::MAX.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_too_long_or_not_however_it_is_cut() {
        for (length, standing) in [
            (HEAD_BYTES, Standing::Between { responses: 1 }),
            (HEAD_BYTES + 1, Standing::Unknown("a response head is too long")),
        ] {
            let frame = b"HTTP/1.1 204 No Content\r\nA: \r\n\r\n".len();
            let head = format!("HTTP/1.1 204 No Content\r\nA: {}\r\n\r\n", "a".repeat(length - frame));
            for piece in [1 << 10, head.len()] {
                let mut stream = ResponseStream::new(false);
                head.as_bytes().chunks(piece).for_each(|piece| stream.advance(piece));
                assert_eq!(stream.standing(), standing, "{length} bytes in pieces of {piece}");
            }
        }
    }
}
