//! The gate's rules: each has a number and a name for ever, one status, one explanation.
//!
//! `docs/gate.md` is this list again; a test compares the two.

use crate::reason::CloseReason;

/// Declares the rules: number, name, status, the section that forbids it or lets us, explanation.
macro_rules! rules {
    ($( $variant:ident = $code:literal, $name:literal, $status:literal, $section:literal, $text:literal; )+) => {
        /// Why a request is refused. The name is the metrics' label value and the access log's word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum GateRule { $( #[doc = $text] $variant = $code, )+ }

        impl GateRule {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [GateRule] = &[ $( GateRule::$variant, )+ ];

            /// The number, the same for ever.
            pub const fn code(self) -> u32 {
                self as u32
            }

            /// The name, the same for ever.
            pub const fn name(self) -> &'static str {
                match self { $( GateRule::$variant => $name, )+ }
            }

            /// The status code of the answer.
            pub const fn status(self) -> u16 {
                match self { $( GateRule::$variant => $status, )+ }
            }

            /// Where the standard says so, or leaves it to us.
            pub const fn section(self) -> &'static str {
                match self { $( GateRule::$variant => $section, )+ }
            }

            /// What was wrong, for the answer's body and the log. Names no byte of the request.
            pub const fn explanation(self) -> &'static str {
                match self { $( GateRule::$variant => $text, )+ }
            }
        }
    };
}

rules! {
    NotHttp = 1, "not_http", 400, "RFC 9112, 3", "this is not an HTTP/1 request";
    TlsRecord = 2, "tls_record", 400, "RFC 9112, 3", "a TLS handshake on a port without TLS";
    Http2Preface = 3, "http2_preface", 400, "RFC 9113, 3.4", "HTTP/2 without TLS is not spoken here";
    ProxyProtocol = 4, "proxy_protocol", 400, "RFC 9112, 3", "a PROXY protocol line where none is expected";
    EmptyLines = 5, "empty_lines", 400, "RFC 9112, 2.2", "more than one empty line in front of a request";
    RequestLineSpace = 6, "request_line_space", 400, "RFC 9112, 3", "the parts of a request line are separated by one space each";
    MethodLength = 7, "method_length", 501, "RFC 9110, 9.1", "a method longer than any known one";
    MethodRefused = 8, "method_refused", 501, "RFC 9110, 9.3.8", "TRACE is not served here";
    ConnectRefused = 9, "connect_refused", 501, "RFC 9110, 9.3.6", "CONNECT is not served here";
    TargetByte = 10, "target_byte", 400, "RFC 9112, 3.2", "a byte that may not stand in a request target";
    TargetLength = 11, "target_length", 414, "RFC 9110, 15.5.15", "the request target is longer than this server accepts";
    TargetForm = 12, "target_form", 400, "RFC 9112, 3.2", "the request target is neither a path nor an http URI";
    TargetScheme = 13, "target_scheme", 400, "RFC 9112, 3.2.2", "the request target's scheme is not http";
    TargetAuthority = 14, "target_authority", 400, "RFC 9112, 3.2.2", "the request target's authority is not a host";
    TargetPercent = 15, "target_percent", 400, "RFC 3986, 2.1", "a percent sign in the path without two hexadecimal digits, or one that hides a NUL";
    TargetDots = 16, "target_dots", 400, "RFC 3986, 6.2.2.3", "a path with . or .. as a segment, plain or percent-encoded";
    AsteriskForm = 17, "asterisk_form", 400, "RFC 9112, 3.2.4", "the target * belongs to OPTIONS alone";
    AuthorityForm = 18, "authority_form", 400, "RFC 9112, 3.2.3", "CONNECT needs host:port";
    Version = 19, "version", 400, "RFC 9112, 2.3", "the request line does not end in HTTP/1.1 or HTTP/1.0";
    VersionMissing = 20, "version_missing", 400, "RFC 9112, 3", "a request line without a version (HTTP/0.9)";
    BareLf = 21, "bare_lf", 400, "RFC 9112, 2.2", "line feed without carriage return";
    BareCr = 22, "bare_cr", 400, "RFC 9112, 2.2", "carriage return without line feed";
    HeadBytes = 23, "head_bytes", 431, "RFC 6585, 5", "the request head is longer than this server accepts";
    HeaderCount = 24, "header_count", 431, "RFC 6585, 5", "more header lines than this server accepts";
    ObsFold = 25, "obs_fold", 400, "RFC 9112, 5.2", "folded header line";
    NameSpace = 26, "name_space", 400, "RFC 9112, 5.1", "space in or behind a header name";
    NameEmpty = 27, "name_empty", 400, "RFC 9112, 5", "a header line without a name";
    NameByte = 28, "name_byte", 400, "RFC 9110, 5.1", "a byte that may not stand in a header name";
    NameColon = 29, "name_colon", 400, "RFC 9112, 5", "a header line without a colon";
    NameAlias = 30, "name_alias", 400, "RFC 3875, 4.1.18", "a header name that some servers take for Content-Length or Transfer-Encoding";
    ValueControl = 31, "value_control", 400, "RFC 9110, 5.5", "control character in a header value";
    ConnectionList = 32, "connection_list", 400, "RFC 9110, 7.6.1", "Connection is not a list of options";
    ConnectionFraming = 33, "connection_framing", 400, "RFC 9110, 7.6.1", "Connection names a header the message rests on";
    HostMissing = 34, "host_missing", 400, "RFC 9112, 3.2", "HTTP/1.1 without Host";
    HostSeveral = 35, "host_several", 400, "RFC 9112, 3.2", "more than one Host";
    HostEmpty = 36, "host_empty", 400, "RFC 9110, 4.2.1", "an empty Host";
    HostInvalid = 37, "host_invalid", 400, "RFC 9112, 3.2", "Host is not a host";
    HostPort = 38, "host_port", 400, "RFC 9112, 3.2", "Host has a port that is none";
    HostAgainstTarget = 39, "host_against_target", 400, "RFC 9112, 3.2.2", "Host contradicts the request target";
    LengthSeveral = 40, "length_several", 400, "RFC 9112, 6.3", "more than one Content-Length";
    LengthNumber = 41, "length_number", 400, "RFC 9110, 8.6", "Content-Length is not a number";
    LengthZeros = 42, "length_zeros", 400, "RFC 9110, 8.6", "Content-Length has leading zeros";
    LengthOverflow = 43, "length_overflow", 400, "RFC 9110, 8.6", "Content-Length is larger than any body";
    CodingBesideLength = 44, "coding_beside_length", 400, "RFC 9112, 6.1", "Transfer-Encoding beside Content-Length";
    CodingInOld = 45, "coding_in_old", 400, "RFC 9112, 6.1", "Transfer-Encoding in HTTP/1.0";
    CodingSeveral = 46, "coding_several", 400, "RFC 9112, 6.1", "more than one Transfer-Encoding";
    CodingList = 47, "coding_list", 400, "RFC 9112, 6.1", "Transfer-Encoding is not a list of codings";
    CodingFinal = 48, "coding_final", 400, "RFC 9112, 6.3", "Transfer-Encoding does not end in one chunked";
    CodingUnknown = 49, "coding_unknown", 501, "RFC 9112, 6.1", "a transfer coding other than chunked";
    ChunkSize = 50, "chunk_size", 400, "RFC 9112, 7.1", "a chunk's size is not a number";
    ChunkSizeDigits = 51, "chunk_size_digits", 400, "RFC 9112, 7.1", "a chunk's size has more than 15 digits";
    ChunkExtension = 52, "chunk_extension", 400, "RFC 9112, 7.1.1", "a chunk extension is too long or has a control character";
    ChunkEnd = 53, "chunk_end", 400, "RFC 9112, 7.1", "a chunk does not end where it must";
    TrailerLine = 54, "trailer_line", 400, "RFC 9112, 7.1.2", "a trailer that is no header line";
    TrailerField = 55, "trailer_field", 400, "RFC 9110, 6.5.1", "a trailer that may only stand in a head";
    TrailerBytes = 56, "trailer_bytes", 431, "RFC 6585, 5", "the trailers are longer than this server accepts";
    OutOfStep = 57, "out_of_step", 400, "RFC 9112, 9.3", "request out of step";
    NotForwardable = 58, "not_forwardable", 400, "RFC 9110, 3.7", "the request cannot be passed on";
    Http2HopHeader = 70, "http2_hop_header", 400, "RFC 9113, 8.2.2", "a header of HTTP/1 connections in HTTP/2";
    Http2Te = 71, "http2_te", 400, "RFC 9113, 8.2.2", "TE other than trailers in HTTP/2";
    Http2Length = 72, "http2_length", 400, "RFC 9113, 8.1.1", "Content-Length promises a body that does not come";
}

impl GateRule {
    /// Under what a refusal is counted among all that is closed.
    pub const fn reason(self) -> CloseReason {
        match self.status() {
            414 => CloseReason::UriTooLong,
            431 => CloseReason::HeadTooLarge,
            501 => CloseReason::NotImplemented,
            _ => CloseReason::BadRequest,
        }
    }
}

/// Why a request is answered by us with an error and never reaches a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The status code of the answer.
    pub status: u16,
    /// Under what it is counted.
    pub reason: CloseReason,
    /// What was wrong, for the answer's body and the log. Names no byte of the request.
    pub detail: &'static str,
    /// The rule it broke.
    pub rule: GateRule,
}

impl From<GateRule> for Verdict {
    fn from(rule: GateRule) -> Self {
        Verdict { status: rule.status(), reason: rule.reason(), detail: rule.explanation(), rule }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_statuses_are_those_documented() {
        for (i, a) in GateRule::ALL.iter().enumerate() {
            assert!([400, 414, 431, 501].contains(&a.status()), "{a:?}");
            for b in &GateRule::ALL[i + 1..] {
                assert!(a.code() < b.code(), "{a:?} and {b:?} out of order");
                assert_ne!(a.name(), b.name());
            }
        }
    }

    #[test]
    fn the_page_has_one_row_for_each_rule_as_it_is() {
        let page = include_str!("../../../docs/gate.md");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        let expected: Vec<String> = GateRule::ALL
            .iter()
            .map(|r| format!("| `{}` | {} | {} | {} |", r.name(), r.status(), r.explanation(), r.section()))
            .collect();
        assert_eq!(rows, expected, "docs/gate.md should have these rows:\n{}", expected.join("\n"));
    }
}
