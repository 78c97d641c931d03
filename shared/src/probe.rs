//! A probe along the real path: a request from another target's host that must migrate to the target probed. Who asks,
//! what it says, and what came of it; nothing here connects.

use crate::control::{ProbeOrder, ProbeReport};
use crate::http::{ResponseStream, Standing};
use core::net::IpAddr;

/// The header by which the intermediate knows the request. It never reaches a server.
pub const PROBE_HEADER: &str = "X-Baton-Probe";
/// A response is read no further, bytes.
pub const RESPONSE_BYTES: usize = 1 << 20;

/// A host with an agent that could ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its agent's and its servers' addresses.
    pub addresses: Vec<IpAddr>,
    /// Its agent is connected and is not stopping.
    pub up: bool,
}

/// Why nobody can ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAsker {
    /// All targets are on the host that is to be probed.
    OneHost,
    /// The agents of the other hosts are not connected.
    NotUp,
}

impl NoAsker {
    /// For people.
    pub const fn explanation(self) -> &'static str {
        match self {
            NoAsker::OneHost => "there is no target on another host that could ask",
            NoAsker::NotUp => "no agent of another target's host is connected",
        }
    }
}

/// Those of `hosts` that can ask, in the order in which they are asked to: what a host sends to an address of its own never
/// leaves it, so they are others than that with the addresses `probed`. Whether the VIP is an address of theirs they know
/// themselves: see [`was_begun`].
pub fn choose_askers(probed: &[IpAddr], hosts: &[Host]) -> Result<Vec<usize>, NoAsker> {
    let other = |host: &Host| !host.addresses.iter().any(|address| probed.contains(address));
    let can = |(place, host): (usize, &Host)| (host.up && other(host)).then_some(place);
    let able: Vec<usize> = hosts.iter().enumerate().filter_map(can).collect();
    match able.is_empty() {
        false => Ok(able),
        true if hosts.iter().any(other) => Err(NoAsker::NotUp),
        true => Err(NoAsker::OneHost),
    }
}

/// Whether the agent began to ask. If not, its `error` says why, and another can be asked to.
pub fn was_begun(report: &ProbeReport) -> bool {
    report.local.is_some() || report.total_us != 0
}

/// The request to send, or what is wrong with the order.
pub fn request(order: &ProbeOrder) -> Result<Vec<u8>, &'static str> {
    let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    if !order.path.starts_with('/') || !visible(&order.path) {
        return Err("the path must begin with / and have only visible ASCII characters");
    }
    if order.host.is_empty() || !visible(&order.host) {
        return Err("the host must have only visible ASCII characters");
    }
    if order.token.is_empty() || !order.token.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err("the token must be hexadecimal");
    }
    let ProbeOrder { path, host, token, .. } = order;
    let text = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{PROBE_HEADER}: {token}\r\n\r\n"
    );
    Ok(text.into_bytes())
}

/// Reads the one response to a [`request`].
#[derive(Clone, Debug)]
pub struct ResponseReader {
    stream: ResponseStream,
    /// All that came.
    bytes: u64,
}

impl Default for ResponseReader {
    fn default() -> Self {
        ResponseReader { stream: ResponseStream::once(), bytes: 0 }
    }
}

impl ResponseReader {
    /// The final response's status, if there is one.
    pub fn status(&self) -> Option<u16> {
        self.stream.statuses().of(1)
    }

    /// Bytes that came behind its head, with a chunked body's framing.
    pub fn body_bytes(&self) -> u64 {
        self.status().map_or(0, |_| self.bytes.saturating_sub(self.stream.head_bytes()))
    }

    /// Whether nothing more is to be read, be it that something is wrong.
    pub fn is_done(&self) -> bool {
        self.fault().is_some() || matches!(self.stream.standing(), Standing::Between { responses: 1.. })
    }

    fn fault(&self) -> Option<&'static str> {
        match self.stream.standing() {
            Standing::Unknown(why) => Some(why),
            _ if self.bytes > u64::try_from(RESPONSE_BYTES).unwrap_or(u64::MAX) => {
                Some("the response is longer than 1 MiB")
            }
            _ => None,
        }
    }

    /// What is wrong, if the connection ends here.
    pub fn fault_at_end(&self) -> Option<&'static str> {
        self.fault().or_else(|| match (self.status(), self.stream.standing()) {
            (None, _) => Some("the connection ended before the response's head was complete"),
            (Some(_), Standing::Within) => Some("the connection ended before the response was complete"),
            (Some(_), _) => None,
        })
    }

    /// Takes in the next bytes.
    pub fn advance(&mut self, bytes: &[u8]) {
        if !self.is_done() {
            self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            self.stream.advance(bytes);
        }
    }
}

/// What is looked at of a listener that a probe of a target may be asked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerFacts {
    /// It speaks HTTP in the clear.
    pub http: bool,
    /// Its connections may migrate.
    pub migrates: bool,
    /// The target has an address of its family.
    pub family: bool,
    /// It takes no new connections.
    pub drained: bool,
}

impl ListenerFacts {
    /// Why no probe can come to the target by it.
    pub const fn unfit(&self) -> Option<&'static str> {
        if !self.http {
            Some("does not speak http")
        } else if !self.migrates {
            Some("does not migrate")
        } else if !self.family {
            Some("has an address of another family than the target's")
        } else if self.drained {
            Some("is drained")
        } else {
            None
        }
    }
}

/// What the intermediate noted of a probe's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted<'a> {
    /// None of it was seen.
    Unseen,
    /// It was given to the target's agent, of which nothing has been heard since.
    Unanswered,
    /// It went to a target with its connection.
    Migrated,
    /// It did not.
    Stayed {
        /// Why not.
        reason: Option<&'a str>,
        /// The agent's own reason, if it refused.
        refusal: Option<&'a str>,
    },
}

/// What a probe shows of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The connection migrated, and the answer was complete, 2xx or 3xx.
    Well,
    /// The connection migrated and the answer was complete, with another status: the path is well.
    Status,
    /// The connection did not migrate to the target, whatever the answer was.
    NotMigrated,
    /// The connection was given to the target's agent, which did not say in time whether it has it.
    Unanswered,
    /// The connection migrated, and the answer began and did not end well.
    Begun,
    /// The connection migrated, and nothing of an answer came.
    Silent,
    /// The host that was to ask did not say what it saw.
    Unreported,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Verdict; 7] = [
        Verdict::Well,
        Verdict::Status,
        Verdict::NotMigrated,
        Verdict::Unanswered,
        Verdict::Begun,
        Verdict::Silent,
        Verdict::Unreported,
    ];

    /// The admin API's string.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Well => "well",
            Verdict::Status => "status",
            Verdict::NotMigrated => "not_migrated",
            Verdict::Unanswered => "unanswered",
            Verdict::Begun => "begun",
            Verdict::Silent => "silent",
            Verdict::Unreported => "unreported",
        }
    }

    /// The verdict of this name.
    pub fn from_name(name: &str) -> Option<Verdict> {
        Self::ALL.into_iter().find(|verdict| verdict.name() == name)
    }

    /// Whether a whole answer came by the real path: what the server thinks of the path asked for is its own matter.
    pub const fn is_of_a_good_path(self) -> bool {
        matches!(self, Verdict::Well | Verdict::Status)
    }
}

/// What a probe shows, and why if it is not [`Verdict::Well`]. Without `report` the host that was to ask did not say anything
/// in time.
pub fn judge(report: Option<&ProbeReport>, noted: Noted<'_>) -> (Verdict, Option<String>) {
    let Some(report) = report else {
        return (Verdict::Unreported, Some("the asking agent did not report in time".to_owned()));
    };
    match noted {
        // What the way there ended with tells more.
        Noted::Unseen => {
            let from = report.local.map(|local| format!(" (it came from {local})")).unwrap_or_default();
            let unknown = || format!("the request was not known as the probe's{from}");
            (Verdict::NotMigrated, Some(report.error.clone().unwrap_or_else(unknown)))
        }
        Noted::Unanswered => {
            let why = "the target's agent did not answer in time whether it has the connection";
            (Verdict::Unanswered, Some(why.to_owned()))
        }
        Noted::Stayed { reason, refusal } => {
            let reason = reason.unwrap_or("not_migrated");
            let why = refusal.map_or_else(|| reason.to_owned(), |refusal| format!("{reason}: {refusal}"));
            (Verdict::NotMigrated, Some(why))
        }
        Noted::Migrated => judge_answer(report),
    }
}

/// Of a connection that migrated.
fn judge_answer(report: &ProbeReport) -> (Verdict, Option<String>) {
    match (&report.error, report.status) {
        (None, Some(200..=399)) => (Verdict::Well, None),
        (None, Some(status)) => (Verdict::Status, Some(format!("the answer's status is {status}"))),
        (Some(error), status) if status.is_some() || report.body_bytes > 0 => {
            (Verdict::Begun, Some(error.clone()))
        }
        (Some(error), _) => (Verdict::Silent, Some(error.clone())),
        (None, None) => (Verdict::Silent, Some("there was no answer".to_owned())),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(addresses: &[&str], up: bool) -> Host {
        Host { addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(), up }
    }

    #[test]
    fn another_host_asks_never_the_probed_one() {
        let own = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let (same, down, up) =
            (host(&["10.9.0.1", "fd00::1"], true), host(&["10.0.0.2"], false), host(&["10.0.0.3"], true));
        assert_eq!(choose_askers(&own, &[same.clone(), up.clone(), down.clone(), up]), Ok(vec![1, 3]));
        assert_eq!(choose_askers(&own, &[same.clone(), down]), Err(NoAsker::NotUp));
        assert_eq!(choose_askers(&own, &[same]), Err(NoAsker::OneHost));
        assert_eq!(choose_askers(&own, &[]), Err(NoAsker::OneHost));
    }

    fn order(path: &str, host: &str) -> ProbeOrder {
        ProbeOrder {
            id: 1,
            vip: "192.0.2.1:80".parse().unwrap(),
            host: host.to_owned(),
            path: path.to_owned(),
            token: "0a".to_owned(),
            timeout_ms: 1000,
        }
    }

    #[test]
    fn an_order_cannot_bring_lines_of_its_own() {
        let text = request(&order("/a?b=c", "a.example:80")).unwrap();
        let want =
            "GET /a?b=c HTTP/1.1\r\nHost: a.example:80\r\nConnection: close\r\nX-Baton-Probe: 0a\r\n\r\n";
        assert_eq!(text, want.as_bytes());
        for (path, host) in
            [("/a\r\nb: c", "h"), ("/a b", "h"), ("a", "h"), ("", "h"), ("/", ""), ("/", "h\nx")]
        {
            assert!(request(&order(path, host)).is_err(), "{path:?} {host:?}");
        }
        assert!(request(&ProbeOrder { token: "x\r\n".to_owned(), ..order("/", "h") }).is_err());
    }

    fn read(bytes: &[u8], cut: usize) -> ResponseReader {
        let mut reader = ResponseReader::default();
        bytes.chunks(cut).for_each(|piece| reader.advance(piece));
        reader
    }

    #[test]
    fn a_response_is_complete_by_its_framing_however_it_is_cut() {
        let cases: [(&str, Option<u16>, u64, bool); 12] = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Some(200), 3, true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", Some(200), 3, false),
            ("HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 404 No\r\n\r\nab", Some(404), 2, true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", Some(200), 11, true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", Some(200), 6, false),
            ("HTTP/1.1 204 OK\r\n\r\n", Some(204), 0, true),
            ("HTTP/1.1 200 OK\r\nConte", None, 0, false),
            ("SSH-2.0-x\r\n", None, 0, false),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nabc", Some(200), 3, false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", Some(200), 3, true),
            // What two readers could read in two ways is no good answer.
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", None, 0, false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\n\r\n\r\nabc", None, 0, false),
        ];
        for (text, status, body_bytes, complete) in cases {
            for cut in [1, 7, 1000] {
                let reader = read(text.as_bytes(), cut);
                let got = (reader.status(), reader.body_bytes(), reader.fault_at_end().is_none());
                assert_eq!(got, (status, body_bytes, complete), "{text:?} in pieces of {cut}");
            }
        }
    }

    #[test]
    fn a_response_is_not_read_for_ever() {
        let mut reader = ResponseReader::default();
        reader.advance(b"HTTP/1.1 200 OK\r\n\r\n");
        for _ in 0..=RESPONSE_BYTES / 1024 {
            reader.advance(&[0; 1024]);
        }
        assert!(reader.is_done() && reader.fault_at_end().is_some());
        let endless = read(&[b"HTTP/1.1 200 OK\r\nA: ".as_slice(), &[b'a'; 1 << 16]].concat(), 1 << 12);
        assert_eq!(endless.fault_at_end(), Some("a response head is too long"));
    }

    proptest! {
        #[test]
        fn no_response_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 1usize..40) {
            let after_head = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(), &bytes].concat();
            let _ = (read(&bytes, cut).fault_at_end(), read(&after_head, cut).fault_at_end());
        }
    }

    #[test]
    fn a_listener_is_fit_for_a_probe_if_its_connections_can_go_to_the_target() {
        let fit = ListenerFacts { http: true, migrates: true, family: true, drained: false };
        assert_eq!(fit.unfit(), None);
        for (facts, word) in [
            (ListenerFacts { http: false, drained: true, ..fit }, "speak"),
            (ListenerFacts { migrates: false, ..fit }, "migrate"),
            (ListenerFacts { family: false, ..fit }, "family"),
            (ListenerFacts { drained: true, ..fit }, "drained"),
        ] {
            assert!(facts.unfit().unwrap().contains(word), "{facts:?}");
        }
    }

    /// What the asking host tells of a probe.
    pub(crate) fn report(status: Option<u16>, error: Option<&str>) -> ProbeReport {
        ProbeReport {
            id: 1,
            local: Some("10.0.0.2:999".parse().unwrap()),
            status,
            body_bytes: 0,
            first_byte_us: 0,
            total_us: 0,
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn a_probe_is_well_only_if_it_migrated_and_was_answered_well() {
        let migrated = Noted::Migrated;
        let refused = Noted::Stayed { reason: Some("refused"), refusal: Some("server_refused") };
        let case = |report: ProbeReport, noted, verdict: Verdict, why: &str| {
            assert_eq!(judge(Some(&report), noted), (verdict, (!why.is_empty()).then(|| why.to_owned())));
        };
        case(report(Some(200), None), migrated, Verdict::Well, "");
        case(report(Some(302), None), migrated, Verdict::Well, "");
        case(report(Some(500), None), migrated, Verdict::Status, "the answer's status is 500");
        case(report(Some(200), Some("cut")), migrated, Verdict::Begun, "cut");
        case(report(None, Some("late")), migrated, Verdict::Silent, "late");
        case(report(None, None), migrated, Verdict::Silent, "there was no answer");
        case(report(Some(200), None), refused, Verdict::NotMigrated, "refused: server_refused");
        case(report(None, Some("no route")), Noted::Unseen, Verdict::NotMigrated, "no route");
        let unknown = "the request was not known as the probe's (it came from 10.0.0.2:999)";
        case(report(Some(200), None), Noted::Unseen, Verdict::NotMigrated, unknown);
        let unanswered = "the target's agent did not answer in time whether it has the connection";
        case(report(None, Some("late")), Noted::Unanswered, Verdict::Unanswered, unanswered);
        for noted in [Noted::Unseen, Noted::Unanswered, migrated, refused] {
            let (verdict, why) = judge(None, noted);
            assert!(verdict == Verdict::Unreported && why.unwrap().contains("in time"));
        }
    }

    #[test]
    fn verdicts_are_known_by_their_names() {
        for verdict in Verdict::ALL {
            assert_eq!(Verdict::from_name(verdict.name()), Some(verdict));
        }
        assert_eq!(Verdict::from_name("the answer's status is 404"), None);
        let good: Vec<_> = Verdict::ALL.into_iter().filter(|verdict| verdict.is_of_a_good_path()).collect();
        assert_eq!(good, [Verdict::Well, Verdict::Status]);
    }
}
