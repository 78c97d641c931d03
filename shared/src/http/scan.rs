//! A head, byte by byte: everything that can be refused without knowing the whole head.

use super::{GateRule, HeadLimits};

/// The longest method accepted; the longest registered one has 17 letters (UPDATEREDIRECTREF).
const METHOD_BYTES: usize = 32;
/// `HTTP/1.x`, of which the last byte may be 0 or 1.
const VERSION: &[u8; 8] = b"HTTP/1.1";

/// Where in a head the scanner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    LeadingLf,
    Method,
    Target,
    Version,
    RequestLineLf,
    LineStart,
    Name,
    Value,
    ValueLf,
    EndLf,
    Done,
}

/// Goes over a head as it arrives. Each byte is looked at once however the head is cut, and a refusal comes
/// with the first byte that cannot be accepted: whoever sends no HTTP is told at once.
#[derive(Clone, Debug)]
pub struct HeadScanner {
    state: State,
    /// Bytes looked at.
    at: usize,
    /// Where the request line starts: 0, or 2 behind an empty line (RFC 9112, section 2.2).
    start: usize,
    /// Bytes of the present token, target or version.
    token: usize,
    headers: usize,
}

impl Default for HeadScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl HeadScanner {
    /// At the start of a head.
    pub const fn new() -> Self {
        HeadScanner { state: State::Start, at: 0, start: 0, token: 0, headers: 0 }
    }

    /// Looks at what is new in `bytes`, which begin with the head's first byte and hold all of it that has
    /// arrived. `Some((start, end))` when the head is complete: the request line starts at `start`, the body at
    /// `end`.
    pub fn advance(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<(usize, usize)>, GateRule> {
        while self.state != State::Done {
            self.pass_run(bytes, limits);
            let Some(&byte) = bytes.get(self.at) else { return Ok(None) };
            if self.at - self.start >= limits.head_bytes {
                return Err(GateRule::HeadBytes);
            }
            self.at += 1;
            self.state = self.on_byte(byte, bytes, limits)?;
        }
        Ok(Some((self.start, self.at)))
    }

    /// Whether anything of a head has arrived (an empty line in front of it does not count).
    pub fn has_begun(&self) -> bool {
        self.at > self.start
    }

    /// How many header lines have begun.
    pub(super) fn headers(&self) -> usize {
        self.headers
    }

    /// Passes over the bytes in front of which each is as good as the one before: most of a head is such.
    fn pass_run(&mut self, bytes: &[u8], limits: &HeadLimits) {
        let rest = bytes.get(self.at..).unwrap_or_default();
        let most = limits.head_bytes.saturating_sub(self.at - self.start);
        let run = match self.state {
            State::Method => run_of(TOKEN, rest, most.min(METHOD_BYTES.saturating_sub(self.token))),
            State::Name => run_of(TOKEN, rest, most),
            State::Target => run_of(TARGET, rest, most.min(limits.target_bytes.saturating_sub(self.token))),
            State::Version => {
                let expected = VERSION.get(self.token..).unwrap_or_default();
                rest.iter().take(most).zip(expected).take_while(|(byte, expected)| byte == expected).count()
            }
            State::Value => {
                self.at += run_of(VALUE, rest, most);
                return;
            }
            _ => return,
        };
        self.token += run;
        self.at += run;
    }

    fn on_byte(&mut self, byte: u8, bytes: &[u8], limits: &HeadLimits) -> Result<State, GateRule> {
        let next = match self.state {
            State::Start => match byte {
                b'\r' if self.start == 0 => State::LeadingLf,
                b'\r' => return Err(GateRule::EmptyLines),
                b'\n' => return Err(GateRule::BareLf),
                // The content type of a TLS record with a handshake.
                0x16 => return Err(GateRule::TlsRecord),
                _ => return self.method(byte, bytes),
            },
            State::LeadingLf => {
                line_feed(byte)?;
                self.start = self.at;
                State::Start
            }
            State::Method => return self.method(byte, bytes),
            State::Target => return self.target(byte, limits),
            State::Version => return self.version(byte),
            State::RequestLineLf | State::ValueLf => {
                line_feed(byte)?;
                State::LineStart
            }
            State::LineStart => match byte {
                b'\r' => State::EndLf,
                b' ' | b'\t' => return Err(GateRule::ObsFold),
                _ => {
                    self.headers += 1;
                    if self.headers > limits.header_count {
                        return Err(GateRule::HeaderCount);
                    }
                    self.token = 0;
                    return self.name(byte);
                }
            },
            State::Name => return self.name(byte),
            State::Value => match byte {
                b'\r' => State::ValueLf,
                b'\n' => return Err(GateRule::BareLf),
                _ if is_value(byte) => State::Value,
                _ => return Err(GateRule::ValueControl),
            },
            State::EndLf => {
                line_feed(byte)?;
                State::Done
            }
            State::Done => State::Done,
        };
        Ok(next)
    }

    fn method(&mut self, byte: u8, bytes: &[u8]) -> Result<State, GateRule> {
        match byte {
            b' ' if self.token > 0 => {
                self.token = 0;
                match bytes.get(self.start..self.at - 1) {
                    Some(b"PRI") => Err(GateRule::Http2Preface),
                    Some(b"PROXY") => Err(GateRule::ProxyProtocol),
                    _ => Ok(State::Target),
                }
            }
            b'\t' if self.token > 0 => Err(GateRule::RequestLineSpace),
            _ if !is_token(byte) => Err(GateRule::NotHttp),
            _ if self.token >= METHOD_BYTES => Err(GateRule::MethodLength),
            _ => {
                self.token += 1;
                Ok(State::Method)
            }
        }
    }

    fn target(&mut self, byte: u8, limits: &HeadLimits) -> Result<State, GateRule> {
        match byte {
            b' ' if self.token > 0 => {
                self.token = 0;
                Ok(State::Version)
            }
            b' ' | b'\t' => Err(GateRule::RequestLineSpace),
            b'\r' | b'\n' if self.token > 0 => Err(GateRule::VersionMissing),
            _ if !is_target(byte) => Err(GateRule::TargetByte),
            _ if self.token >= limits.target_bytes => Err(GateRule::TargetLength),
            _ => {
                self.token += 1;
                Ok(State::Target)
            }
        }
    }

    fn version(&mut self, byte: u8) -> Result<State, GateRule> {
        let at = self.token;
        self.token += 1;
        match (VERSION.get(at).copied(), byte) {
            (None, b'\r') => Ok(State::RequestLineLf),
            (None, b'\n') => Err(GateRule::BareLf),
            (Some(_), b' ' | b'\t') if at == 0 => Err(GateRule::RequestLineSpace),
            (Some(_), b'\r' | b'\n') if at == 0 => Err(GateRule::VersionMissing),
            (Some(expected), _) if expected == byte => Ok(State::Version),
            (Some(_), b'0') if at + 1 == VERSION.len() => Ok(State::Version),
            _ => Err(GateRule::Version),
        }
    }

    fn name(&mut self, byte: u8) -> Result<State, GateRule> {
        match byte {
            b':' if self.token > 0 => Ok(State::Value),
            b':' => Err(GateRule::NameEmpty),
            b' ' | b'\t' => Err(GateRule::NameSpace),
            b'\r' => Err(GateRule::NameColon),
            b'\n' => Err(GateRule::BareLf),
            _ if !is_token(byte) => Err(GateRule::NameByte),
            _ => {
                self.token += 1;
                Ok(State::Name)
            }
        }
    }
}

/// Kinds of bytes.
const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const VALUE: u8 = 4;

/// Of which kinds each byte is: a head has hundreds of them.
static KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut byte = 0u8;
    loop {
        let kind = (if is_token(byte) { TOKEN } else { 0 })
            | (if is_target(byte) { TARGET } else { 0 })
            | (if is_value(byte) { VALUE } else { 0 });
        #[expect(clippy::indexing_slicing, reason = "as long as there are bytes, and when this is compiled")]
        {
            kinds[byte as usize] = kind;
        }
        if byte == u8::MAX {
            break kinds;
        }
        byte += 1;
    }
};

/// How many bytes in front are of a kind; `most` are looked at.
fn run_of(kind: u8, bytes: &[u8], most: usize) -> usize {
    let bytes = bytes.get(..most).unwrap_or(bytes);
    let is_other = |byte: &u8| KINDS.get(usize::from(*byte)).is_none_or(|kinds| kinds & kind == 0);
    bytes.iter().position(is_other).unwrap_or(bytes.len())
}

fn line_feed(byte: u8) -> Result<(), GateRule> {
    if byte == b'\n' { Ok(()) } else { Err(GateRule::BareCr) }
}

/// RFC 9110, section 5.6.2.
pub(crate) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// RFC 9110, section 5.5.
const fn is_value(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x20..=0x7e | 0x80..=0xff)
}

/// What RFC 3986 allows, and `^ { | }` which browsers send unescaped. Not `#`, which some readers cut at, and
/// not the backslash, which some take for a slash.
const fn is_target(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b'#' | b'<' | b'>' | b'\\' | b'`')
}
