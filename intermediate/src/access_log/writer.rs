//! The thread that writes. Whoever has a record hands it over and goes on: if the disk is slow, records are dropped
//! and counted, and no request waits.

use super::format::{Format, line};
use super::record::Record;
use prometheus_client::metrics::counter::Counter;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How many records may wait to be written.
const QUEUE: usize = 8192;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard error.
    Stderr,
    /// A file, appended to.
    File(PathBuf),
}

enum Order {
    Write(Box<Record>),
    /// There is something to see to besides records.
    Wake,
    /// Write all that came before, and say so.
    Flush(SyncSender<()>),
}

/// What was done with records.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) written: Counter,
    pub(super) dropped: Counter,
}

/// The thread's handle.
#[derive(Debug)]
pub(super) struct Writer {
    format: Format,
    to: Destination,
    orders: Option<SyncSender<Order>>,
    reopen: Arc<AtomicBool>,
    counts: Counts,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Opens the destination and starts the thread.
    pub(super) fn start(format: Format, to: Destination, counts: Counts) -> io::Result<Self> {
        let out = Out::open(to.clone())?;
        let (orders, taken) = sync_channel(QUEUE);
        let reopen = Arc::new(AtomicBool::new(false));
        let state = Thread { format, out, reopen: Arc::clone(&reopen), counts: counts.clone() };
        let thread =
            std::thread::Builder::new().name("access-log".to_owned()).spawn(move || state.run(&taken))?;
        Ok(Writer { format, to, orders: Some(orders), reopen, counts, thread: Some(thread) })
    }

    /// Whether it writes in this way to this place.
    pub(super) fn is(&self, format: Format, to: &Destination) -> bool {
        self.format == format && self.to == *to
    }

    /// Hands a record over; never waits.
    pub(super) fn write(&self, record: Record) {
        let sent = self.orders.as_ref().map(|orders| orders.try_send(Order::Write(Box::new(record))));
        if !matches!(sent, Some(Ok(()))) {
            self.counts.dropped.inc();
        }
    }

    /// Closes the file and opens it anew, under its name.
    pub(super) fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
        // If the queue is full the thread is awake.
        let _ = self.orders.as_ref().map(|orders| orders.try_send(Order::Wake));
    }

    /// Waits until all that was handed over before is written, at most `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let Some(orders) = &self.orders else { return };
        let (done, is_done) = sync_channel(1);
        let started = std::time::Instant::now();
        let mut order = Order::Flush(done);
        while let Err(TrySendError::Full(back)) = orders.try_send(order) {
            if started.elapsed() > limit {
                return;
            }
            order = back;
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = is_done.recv_timeout(limit.saturating_sub(started.elapsed()));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.orders.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the access log's thread had panicked");
        }
    }
}

struct Thread {
    format: Format,
    out: Out,
    reopen: Arc<AtomicBool>,
    counts: Counts,
}

impl Thread {
    fn run(mut self, orders: &Receiver<Order>) {
        // Lines in the buffer that are not yet counted.
        let mut pending = 0;
        loop {
            let order = match orders.try_recv() {
                Ok(order) => order,
                // Nothing more at the moment: what is buffered goes out before the thread sleeps.
                Err(TryRecvError::Empty) => {
                    self.flush(&mut pending);
                    self.reopen_if_asked();
                    let Ok(order) = orders.recv() else { break };
                    order
                }
                Err(TryRecvError::Disconnected) => break,
            };
            if self.reopen.load(Ordering::Acquire) {
                self.flush(&mut pending);
                self.reopen_if_asked();
            }
            match order {
                Order::Write(record) => {
                    pending += 1;
                    if let Err(e) = self.out.write(line(&record, self.format).as_bytes()) {
                        self.failed(&e, &mut pending);
                    }
                }
                Order::Wake => {}
                Order::Flush(done) => {
                    self.flush(&mut pending);
                    let _ = done.send(());
                }
            }
        }
        self.flush(&mut pending);
    }

    fn flush(&mut self, pending: &mut u64) {
        if *pending == 0 {
            return;
        }
        match self.out.flush() {
            Ok(()) => {
                self.counts.written.inc_by(std::mem::take(pending));
            }
            Err(e) => self.failed(&e, pending),
        }
    }

    fn failed(&mut self, error: &io::Error, pending: &mut u64) {
        tracing::error!("the access log cannot be written: {error}");
        self.counts.dropped.inc_by(std::mem::take(pending));
        self.out.give_up();
    }

    fn reopen_if_asked(&mut self) {
        if !self.reopen.swap(false, Ordering::AcqRel) {
            return;
        }
        match self.out.reopen() {
            Ok(()) => tracing::info!("access log reopened"),
            Err(e) => tracing::error!("the access log cannot be reopened, the old file is written on: {e}"),
        }
    }
}

/// What is open.
struct Out {
    to: Destination,
    /// `None`: standard error.
    file: Option<BufWriter<File>>,
}

impl Out {
    fn open(to: Destination) -> io::Result<Self> {
        let file = match &to {
            Destination::Stderr => None,
            Destination::File(path) => Some(append(path)?),
        };
        Ok(Out { to, file })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(line),
            None => io::stderr().write_all(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }

    /// Forgets what could not be written, so that it is not tried again with what comes.
    fn give_up(&mut self) {
        if let Some(file) = self.file.take()
            && let Ok(again) = file.get_ref().try_clone()
        {
            let _ = file.into_parts();
            self.file = Some(BufWriter::new(again));
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Destination::File(path) = &self.to {
            self.file = Some(append(path)?);
        }
        Ok(())
    }
}

fn append(path: &std::path::Path) -> io::Result<BufWriter<File>> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    Ok(BufWriter::with_capacity(64 * 1024, file))
}
