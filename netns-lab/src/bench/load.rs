//! The load: wrk where connections are kept, ab where each request has a connection of its own, curl for large files.

use super::figures::{Figure, Percentiles};
use super::{BenchSpec, Cell, Cpu, LARGE, Side, Way};
use crate::content;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How many files each connection fetches in one load of large ones.
const LARGE_FETCHES: u64 = 3;
/// How many threads wrk has, and how many of ab run, where there are connections for them.
const GENERATORS: u16 = 2;
/// How many times the first byte is waited for in one round.
const FIRST_BYTES: usize = 200;

/// One load, to be put on each way in turn.
#[derive(Debug, Clone)]
pub(super) struct Load {
    size: String,
    bytes: u64,
    connections: u16,
    keepalive: bool,
    seconds: u32,
}

/// What a load came to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Done {
    /// Good responses.
    pub(super) requests: u64,
    /// Their body bytes.
    pub(super) bytes: u64,
    /// How long it took.
    pub(super) seconds: f64,
    /// Requests that failed.
    pub(super) failed: u64,
}

impl Done {
    /// With another that went on at the same time.
    fn beside(self, other: Done) -> Done {
        Done {
            requests: self.requests + other.requests,
            bytes: self.bytes + other.bytes,
            seconds: self.seconds.max(other.seconds),
            failed: self.failed + other.failed,
        }
    }
}

/// Runs them at the same time, each to its end.
fn together(commands: Vec<Command>) -> Result<Vec<Output>> {
    let piped = |mut command: Command| {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    };
    // All are waited for, whatever became of one.
    let children: Vec<_> = commands.into_iter().map(piped).collect();
    let outputs: Vec<_> = children.into_iter().map(|child| child?.wait_with_output()).collect();
    outputs.into_iter().map(|output| output.context("a program that makes the load")).collect()
}

/// The programs a run will need.
pub(super) fn programs(spec: &BenchSpec) -> Vec<&'static str> {
    let bytes = |name: &String| content::FILES.iter().find(|(n, _)| n == name).map_or(0, |(_, bytes)| *bytes);
    let small = spec.sizes.iter().any(|name| bytes(name) < LARGE);
    let mut all = Vec::new();
    if small && spec.keepalive.contains(&true) {
        all.push("wrk");
    }
    if small && spec.keepalive.contains(&false) {
        all.push("ab");
    }
    if spec.sizes.iter().any(|name| bytes(name) >= LARGE) {
        all.push("curl");
    }
    all
}

impl Load {
    pub(super) fn new(size: &str, bytes: u64, connections: u16, keepalive: bool, seconds: u32) -> Self {
        Load { size: size.to_owned(), bytes, connections, keepalive, seconds }
    }

    pub(super) fn keepalive(&self) -> bool {
        self.keepalive
    }

    fn program(&self) -> &'static str {
        match (self.bytes >= LARGE, self.keepalive) {
            (true, _) => "curl",
            (false, true) => "wrk",
            (false, false) => "ab",
        }
    }

    /// An empty row for the results.
    pub(super) fn cell(&self, way: Way) -> Cell {
        let none = Cpu::default();
        Cell {
            balancer: way,
            size: self.size.clone(),
            size_bytes: self.bytes,
            connections: self.connections,
            keepalive: self.keepalive,
            load: self.program(),
            mb_per_s: Figure::default(),
            requests_per_s: Figure::default(),
            ttfb_us: Percentiles::default(),
            freeze_to_installed_us: None,
            freeze_to_installed_under_load_us: None,
            cpu_s_per_gb: none.clone(),
            cpu_s_per_1000_requests: none,
            failed: 0,
        }
    }

    /// Puts the load on and waits for its end.
    pub(super) fn run(&self, side: &Side) -> Result<Done> {
        let url = format!("http://{}/{}", side.to, self.size);
        match self.program() {
            "wrk" => self.wrk(side, &url),
            "ab" => self.ab(side, &url),
            _ => self.curl(side, &url),
        }
    }

    fn wrk(&self, side: &Side, url: &str) -> Result<Done> {
        let threads = self.connections.min(GENERATORS);
        let words = [
            "wrk",
            &format!("-t{threads}"),
            &format!("-c{}", self.connections),
            &format!("-d{}s", self.seconds),
            "--timeout",
            "10s",
            url,
        ];
        let text = side.lab.output("client1", &words)?;
        self.done_by_wrk(&text).with_context(|| format!("wrk's report cannot be read:\n{text}"))
    }

    fn done_by_wrk(&self, text: &str) -> Option<Done> {
        let line = text.lines().find(|l| l.contains(" requests in "))?;
        let mut words = line.split_whitespace();
        let requests: u64 = words.next()?.parse().ok()?;
        let seconds = duration(words.nth(2)?.trim_end_matches(','))?;
        let errors = text.lines().find_map(|l| l.trim().strip_prefix("Socket errors:")).unwrap_or_default();
        let socket: u64 = errors.split([',', ' ']).filter_map(|w| w.parse::<u64>().ok()).sum();
        let refused = text.lines().find_map(|l| l.trim().strip_prefix("Non-2xx or 3xx responses:"));
        let refused: u64 = refused.map_or(Some(0), |n| n.trim().parse().ok())?;
        let good = requests.saturating_sub(refused);
        Some(Done { requests: good, bytes: good * self.bytes, seconds, failed: socket + refused })
    }

    /// It has one thread, which would be what bounds the quicker ways: several of them share the connections.
    fn ab(&self, side: &Side, url: &str) -> Result<Done> {
        let seconds = self.seconds.to_string();
        let mut each = Vec::new();
        for connections in shares(self.connections, GENERATORS) {
            let mut command = side.lab.command("client1", "ab")?;
            // -t sets a number of requests as well: the one behind it counts.
            command.args(["-q", "-r", "-t", &seconds, "-n", "10000000", "-c", &connections.to_string(), url]);
            each.push(command);
        }
        let mut all = Done::default();
        for output in together(each)? {
            let text = String::from_utf8_lossy(&output.stdout);
            let done = self.done_by_ab(&text).with_context(|| {
                format!("ab's report cannot be read:\n{text}{}", String::from_utf8_lossy(&output.stderr))
            })?;
            all = all.beside(done);
        }
        Ok(all)
    }

    fn done_by_ab(&self, text: &str) -> Option<Done> {
        let value = |label: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(label))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        let whole = |label: &str| {
            let text = text.lines().find_map(|l| l.strip_prefix(label))?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        };
        let failed = whole("Failed requests:")? + whole("Non-2xx responses:").unwrap_or(0);
        let good = whole("Complete requests:")?.saturating_sub(failed);
        let seconds = value("Time taken for tests:")?;
        Some(Done { requests: good, bytes: good * self.bytes, seconds, failed })
    }

    fn curl(&self, side: &Side, url: &str) -> Result<Done> {
        let mut each = Vec::new();
        for _ in 0..self.connections {
            let mut command = side.lab.command("client1", "curl")?;
            command.args(["-sS", "--max-time", "300", "-w", "%{http_code} %{size_download}\n"]);
            if !self.keepalive {
                command.args(["-H", "Connection: close"]);
            }
            for _ in 0..LARGE_FETCHES {
                command.args(["-o", "/dev/null", url]);
            }
            each.push(command);
        }
        let started = Instant::now();
        let outputs = together(each)?;
        let seconds = started.elapsed().as_secs_f64();
        let good = format!("200 {}", self.bytes);
        Ok(outputs.iter().fold(Done::default(), |all, output| {
            let text = String::from_utf8_lossy(&output.stdout);
            let requests = u64::try_from(text.lines().filter(|line| *line == good).count()).unwrap_or(0);
            let failed = LARGE_FETCHES - requests.min(LARGE_FETCHES);
            all.beside(Done { requests, bytes: requests * self.bytes, seconds, failed })
        }))
    }

    /// How long the first byte takes, one request at a time, microseconds.
    pub(super) fn first_bytes(&self, side: &Side) -> Result<Vec<f64>> {
        let (to, path, keepalive, bytes) = (side.to, format!("/{}", self.size), self.keepalive, self.bytes);
        // Large responses only cost time here.
        let count = if bytes >= LARGE { 5 } else { FIRST_BYTES };
        let work = move || first_bytes(to, &path, keepalive, count);
        side.lab.inside("client1", work)?.context("the time to the first byte")
    }
}

/// So many connections in parts as like as can be, none without any.
fn shares(connections: u16, parts: u16) -> impl Iterator<Item = u16> {
    let parts = connections.min(parts).max(1);
    (0..parts).map(move |part| connections / parts + u16::from(part < connections % parts))
}

/// `5.00s`, `300.12ms`, `1.00m`.
fn duration(text: &str) -> Option<f64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

fn first_bytes(to: SocketAddr, path: &str, keepalive: bool, count: usize) -> Result<Vec<f64>> {
    let connection = if keepalive { "keep-alive" } else { "close" };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\n\r\n", to.ip());
    let mut kept: Option<TcpStream> = None;
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => TcpStream::connect_timeout(&to, Duration::from_secs(5))?,
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(request.as_bytes())?;
        let mut buffer = vec![0; 1 << 16];
        let mut got = stream.read(&mut buffer)?;
        all.push(started.elapsed().as_secs_f64() * 1e6);
        let whole = whole_response(buffer.get(..got).unwrap_or_default())?;
        while got < whole {
            match stream.read(&mut buffer)? {
                0 => bail!("the response ended early"),
                n => got += n,
            }
        }
        if keepalive {
            kept = Some(stream);
        }
    }
    Ok(all)
}

/// The length of a response, head included, from its first segment.
fn whole_response(start: &[u8]) -> Result<usize> {
    let text = String::from_utf8_lossy(start);
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    if !head.starts_with("HTTP/1.1 200") {
        bail!("not answered with 200: {}", head.lines().next().unwrap_or_default());
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    Ok(length.context("a response without Content-Length")? + head.len() + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        Load::new("1k", 1024, 8, true, 5)
    }

    #[test]
    fn the_report_of_wrk_is_read() {
        let text = "Running 5s test @ http://10.90.1.100/1k\n  2 threads and 8 connections\n  50 requests in 5.01s, 80.00KB read\n  Socket errors: connect 0, read 1, write 0, timeout 2\n  Non-2xx or 3xx responses: 4\nRequests/sec:     10.00\n";
        let done = load().done_by_wrk(text).unwrap();
        assert_eq!(done, Done { requests: 46, bytes: 46 * 1024, seconds: 5.01, failed: 7 });
        assert_eq!(load().done_by_wrk("nothing"), None);
    }

    #[test]
    fn the_report_of_ab_is_read() {
        let text = "Concurrency Level:      8\nTime taken for tests:   2.500 seconds\nComplete requests:      100\nFailed requests:        1\nTotal transferred:      5 bytes\n";
        let done = load().done_by_ab(text).unwrap();
        assert_eq!(done, Done { requests: 99, bytes: 99 * 1024, seconds: 2.5, failed: 1 });
        assert_eq!(load().done_by_ab("ab: error"), None);
    }

    #[test]
    fn every_connection_is_made_by_one_of_the_load_generators() {
        let of = |connections| shares(connections, 2).collect::<Vec<_>>();
        assert_eq!((of(8), of(7), of(1)), (vec![4, 4], vec![4, 3], vec![1]));
    }

    #[test]
    fn durations_are_read_with_their_units() {
        assert_eq!(duration("300.00ms"), Some(0.3));
        assert_eq!(duration("1.50m"), Some(90.0));
        assert_eq!((duration("fast"), duration("")), (None, None));
    }

    #[test]
    fn a_response_is_as_long_as_its_head_says() {
        assert_eq!(whole_response(b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 5\r\n\r\nab").unwrap(), 43);
        assert!(whole_response(b"HTTP/1.1 503 Busy\r\n\r\n").is_err());
        assert!(whole_response(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
