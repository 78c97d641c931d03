//! Asks a VIP as a client on this host, for an intermediate that wants to know whether connections migrate to another
//! target. Each in a thread of its own: the engine waits for nobody.

use crate::local_vip;
use baton_daemon::control::Server;
use baton_shared::control::{Message, ProbeOrder, ProbeReport};
use baton_shared::probe::{ResponseReader, request};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// At a time.
const MOST: usize = 4;
/// The longest one takes, whatever the order says.
const LONGEST: Duration = Duration::from_secs(60);

/// Those under way.
#[derive(Debug, Default)]
pub(crate) struct Probes(Arc<AtomicUsize>);

/// Counts one until it is dropped.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Probes {
    /// Begins one, which reports to `session` by itself. Else why not.
    pub(crate) fn begin(
        &self,
        order: ProbeOrder,
        server: &Arc<OnceLock<Server>>,
        session: u64,
    ) -> Result<(), String> {
        let under_way = UnderWay(Arc::clone(&self.0));
        if self.0.fetch_add(1, Ordering::Relaxed) >= MOST {
            return Err(format!("{MOST} probes are under way already"));
        }
        // The channel's end holds the data plane: a probe must not keep the agent from stopping.
        let server: Weak<OnceLock<Server>> = Arc::downgrade(server);
        let probe = move || {
            let report = ask(&order);
            drop(under_way);
            let server = server.upgrade();
            if let Some(Err(e)) = server
                .as_ref()
                .and_then(|server| server.get())
                .map(|server| server.send(session, Message::Probed(Box::new(report))))
            {
                tracing::warn!(session, "a probe's report was not sent: {e}");
            }
        };
        let thread = std::thread::Builder::new().name("probe".to_owned()).spawn(probe);
        thread.map(drop).map_err(|e| format!("no thread for it: {e}"))
    }
}

/// A report of a probe that did not even begin.
pub(crate) fn refused(id: u64, why: &str) -> ProbeReport {
    let error = Some(why.to_owned());
    ProbeReport { id, local: None, status: None, body_bytes: 0, first_byte_us: 0, total_us: 0, error }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// Asks, within the order's time.
fn ask(order: &ProbeOrder) -> ProbeReport {
    let own = local_vip::is_own(order.vip.ip());
    match own {
        Ok(false) => {}
        Ok(true) => {
            let why = "the VIP is an address of the asking host, which cannot reach it (serve.local_vip)";
            return refused(order.id, why);
        }
        Err(e) => return refused(order.id, &format!("whether the VIP is an address of this host: {e}")),
    }
    let mut report = refused(order.id, "");
    let mut reader = ResponseReader::default();
    let begun = Instant::now();
    let error = match exchange(order, begun, &mut report, &mut reader) {
        Ok(()) => reader.fault_at_end().map(str::to_owned),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Some(format!("no complete answer within {} ms", order.timeout_ms))
        }
        Err(e) => Some(e.to_string()),
    };
    ProbeReport {
        status: reader.status(),
        body_bytes: reader.body_bytes(),
        total_us: micros(begun.elapsed()).max(1),
        error,
        ..report
    }
}

fn exchange(
    order: &ProbeOrder,
    begun: Instant,
    report: &mut ProbeReport,
    reader: &mut ResponseReader,
) -> io::Result<()> {
    let request = request(order).map_err(io::Error::other)?;
    let limit = Duration::from_millis(order.timeout_ms.into()).min(LONGEST);
    let left =
        || limit.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()).ok_or(io::ErrorKind::TimedOut);
    let mut stream = TcpStream::connect_timeout(&order.vip, left()?)?;
    report.local = Some(stream.local_addr()?);
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(&request)?;
    let mut buffer = vec![0; 16 * 1024];
    while !reader.is_done() {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                if report.first_byte_us == 0 {
                    report.first_byte_us = micros(begun.elapsed()).max(1);
                }
                reader.advance(buffer.get(..length).unwrap_or_default());
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_shared::probe::was_begun;
    use std::net::{SocketAddr, TcpListener};

    fn order(vip: SocketAddr, timeout_ms: u32) -> ProbeOrder {
        let text = |text: &str| text.to_owned();
        ProbeOrder { id: 7, vip, host: text("h"), path: text("/"), token: text("aa"), timeout_ms }
    }

    #[test]
    fn a_vip_of_this_host_is_not_asked_and_says_why() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let report = ask(&order(listener.local_addr().unwrap(), 1000));
        assert_eq!((report.id, report.local, report.status), (7, None, None));
        assert!(
            !was_begun(&report) && report.error.unwrap().contains("the VIP is an address of the asking host")
        );
    }

    #[test]
    fn no_more_than_four_are_under_way_and_a_refused_one_takes_no_place() {
        let probes = Probes::default();
        probes.0.store(MOST, Ordering::Relaxed);
        let server = Arc::new(OnceLock::new());
        let vip = "127.0.0.1:9".parse().unwrap();
        for _ in 0..3 {
            assert!(probes.begin(order(vip, 10), &server, 1).is_err());
        }
        assert_eq!(probes.0.load(Ordering::Relaxed), MOST);
        probes.0.store(MOST - 1, Ordering::Relaxed);
        probes.begin(order(vip, 10), &server, 1).unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while probes.0.load(Ordering::Relaxed) >= MOST && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(probes.0.load(Ordering::Relaxed), MOST - 1, "its place is free again");
    }
}
