//! Requests without a pause, each on a connection of its own, while something happens: eight downloads at a time and small
//! ones one right after the other, over both versions of IP, and what became of them.

use crate::client::{Connection, Response};
use crate::lab::{TestLab, VIPS};
use netns_lab::plan::INTERMEDIATE;
use serde_json::Value;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many downloads go on at a time, as many over each version of IP.
pub const DOWNLOADS: usize = 8;
const LARGE: &str = "100m";
const SMALL: &str = "1k";

/// A request of which no byte of an answer came.
#[derive(Debug, Clone)]
pub struct Unanswered {
    /// Whom it was for.
    pub vip: SocketAddr,
    /// Before it connected.
    pub began: Instant,
    /// When that was certain.
    pub ended: Instant,
    /// Of what kind.
    pub why: String,
}

/// What became of the requests so far.
#[derive(Debug, Default)]
pub struct Tally {
    small: AtomicU64,
    /// As [`VIPS`] has them.
    large: [AtomicU64; 2],
    unanswered_small: Mutex<Vec<Unanswered>>,
    unanswered_large: Mutex<Vec<Unanswered>>,
    /// Answers that were cut or wrong.
    cut: Mutex<Vec<String>>,
    /// No download begins while this is set.
    hold: AtomicBool,
    /// Downloads of which no byte came yet.
    beginning: AtomicUsize,
    stop: AtomicBool,
}

fn all<T: Clone>(list: &Mutex<Vec<T>>) -> Vec<T> {
    list.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn put<T>(list: &Mutex<Vec<T>>, one: T) {
    list.lock().unwrap_or_else(PoisonError::into_inner).push(one);
}

impl Tally {
    /// Small requests without an answer.
    pub fn unanswered(&self) -> Vec<Unanswered> {
        all(&self.unanswered_small)
    }

    /// # Panics
    /// If an answer was cut or wrong, or a download had none.
    pub fn assert_no_download_failed(&self) {
        let (cut, large) = (all(&self.cut), all(&self.unanswered_large));
        assert!(cut.is_empty() && large.is_empty(), "{cut:#?}, without an answer: {large:#?}");
    }

    /// # Panics
    /// If any request failed.
    pub fn assert_nothing_failed(&self) {
        self.assert_no_download_failed();
        let small = self.unanswered();
        assert!(small.is_empty(), "{small:#?}");
    }

    /// Waits until small requests have gone on.
    ///
    /// # Panics
    /// If they do not within a minute.
    pub fn progress(&self) {
        let before = self.small.load(Ordering::Relaxed);
        let until = Instant::now() + Duration::from_secs(60);
        while self.small.load(Ordering::Relaxed) < before + 20 {
            assert!(Instant::now() < until, "nothing goes on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Does something in a moment in which bytes of every download have come and the intermediate knows it given away, so that
    /// none is in a daemon's hand: a server may have answered before its agent's word has come there. Those that end meanwhile
    /// are followed by others afterwards.
    ///
    /// # Panics
    /// If such a moment does not come within a minute.
    pub fn with_downloads_under_way<T>(&self, t: &TestLab, work: impl FnOnce() -> T) -> T {
        self.hold.store(true, Ordering::SeqCst);
        let until = Instant::now() + Duration::from_secs(60);
        while self.beginning.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < until, "a download does not begin");
            std::thread::sleep(Duration::from_millis(1));
        }
        let given = |flow: &Value| {
            let large = flow["request"].as_str().is_some_and(|line| line.contains(LARGE));
            !large || flow["state"] == "committed" || flow["state"] == "ended"
        };
        t.eventually("every download is given away", until.saturating_duration_since(Instant::now()), |t| {
            t.flows(INTERMEDIATE).iter().all(given)
        });
        let done = work();
        self.hold.store(false, Ordering::SeqCst);
        done
    }

    /// Asks for small answers, of both VIPs in turn, until told to stop.
    fn ask_small(&self, want: &str) {
        for vip in VIPS.into_iter().cycle() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            self.one(vip, SMALL, want, &self.unanswered_small, || {});
            self.small.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Downloads until told to stop.
    fn ask_large(&self, (vip, done): (SocketAddr, &AtomicU64), want: &str) {
        while !self.stop.load(Ordering::Relaxed) {
            self.beginning.fetch_add(1, Ordering::SeqCst);
            if self.hold.load(Ordering::SeqCst) {
                self.beginning.fetch_sub(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            let mut begun = false;
            self.one(vip, LARGE, want, &self.unanswered_large, || {
                begun = true;
                self.beginning.fetch_sub(1, Ordering::SeqCst);
            });
            if !begun {
                self.beginning.fetch_sub(1, Ordering::SeqCst);
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn one(
        &self,
        vip: SocketAddr,
        file: &str,
        want: &str,
        unanswered: &Mutex<Vec<Unanswered>>,
        first: impl FnOnce(),
    ) {
        let began = Instant::now();
        match fetch(vip, file, first) {
            Ok(response) if response.status == 200 && response.sha256 == want => {}
            Ok(response) => put(&self.cut, format!("{file} of {vip}: {}", response.head)),
            Err((true, e)) => put(&self.cut, format!("{file} of {vip}: {e}")),
            Err((false, e)) => {
                put(unanswered, Unanswered { vip, began, ended: Instant::now(), why: e.to_string() });
            }
        }
    }
}

/// A request on a connection of its own, and whether any byte of its answer came, of which `first` is told.
fn fetch(vip: SocketAddr, file: &str, first: impl FnOnce()) -> Result<Response, (bool, io::Error)> {
    let open = || -> io::Result<Connection> {
        let mut connection = Connection::open(vip)?;
        connection.get(&format!("/{file}"))?;
        match connection.read_some()? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer")),
            _ => Ok(connection),
        }
    };
    let mut connection = open().map_err(|e| (false, e))?;
    first();
    connection.response().map_err(|e| (true, e))
}

/// Lets requests of client1 go on while `faults` happens, from a moment in which they do, in a lab with both versions of IP.
/// Downloads under way at its end are awaited.
///
/// # Panics
/// If a download failed, or `faults` panics.
#[expect(clippy::unwrap_used, reason = "a test's support: the panic is the report")]
pub fn under_load(t: &TestLab, faults: impl FnOnce(&Tally)) {
    let tally = Tally::default();
    let (small, large) = (t.sha256(SMALL), t.sha256(LARGE));
    let client = t.lab.netns("client1").unwrap();
    let enter = || netns_lab::sys::enter_netns(&std::fs::File::open(&client).unwrap()).unwrap();
    std::thread::scope(|scope| {
        let (tally, small, large, enter) = (&tally, &small, &large, &enter);
        for of in VIPS.into_iter().zip(&tally.large).cycle().take(DOWNLOADS) {
            scope.spawn(move || {
                enter();
                tally.ask_large(of, large);
            });
        }
        scope.spawn(move || {
            enter();
            tally.ask_small(small);
        });
        let moved = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            tally.progress();
            faults(tally);
        }));
        tally.hold.store(false, Ordering::SeqCst);
        tally.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = moved {
            std::panic::resume_unwind(panic);
        }
    });
    tally.assert_no_download_failed();
    let each = u64::try_from(DOWNLOADS / VIPS.len()).unwrap();
    assert!(tally.large.iter().all(|done| done.load(Ordering::Relaxed) >= each), "{:?}", tally.large);
    let unanswered = tally.unanswered();
    println!("{:?} small, {:?} large; without an answer: {}", tally.small, tally.large, unanswered.len());
}
