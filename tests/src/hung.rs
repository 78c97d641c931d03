//! A thread of a daemon that hangs, while its other threads run.

use crate::sys;
use std::fs;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a thread may take to stop.
const LIMIT: Duration = Duration::from_secs(10);

/// It hangs until this is dropped, which the kernel allows to the thread that made it alone.
#[derive(Debug)]
pub struct Hung {
    thread: libc::pid_t,
    here: PhantomData<*const ()>,
}

impl Hung {
    /// Stops the thread of this name, or else the main thread.
    ///
    /// # Panics
    /// If there is none, or it cannot be stopped.
    #[expect(clippy::unwrap_used, reason = "a test's support: the panic is the report")]
    pub fn of(pid: u32, name: Option<&str>) -> Self {
        let tasks = PathBuf::from(format!("/proc/{pid}/task"));
        let read = |thread: &str, what: &str| fs::read_to_string(tasks.join(thread).join(what)).unwrap();
        let all =
            fs::read_dir(&tasks).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let all: Vec<(String, String)> = all.map(|thread| (read(&thread, "comm"), thread)).collect();
        let named =
            |name: &str| all.iter().find(|(is, _)| is.trim_end() == name).map(|(_, thread)| thread.clone());
        let thread = name.map_or_else(|| Some(pid.to_string()), named);
        let thread = thread.unwrap_or_else(|| panic!("{name:?} is none of {all:?}"));
        let number = thread.parse().unwrap();
        sys::hold_thread(number).unwrap();
        let (hung, until) = (Hung { thread: number, here: PhantomData }, Instant::now() + LIMIT);
        while !read(&thread, "status").contains("State:\tt (tracing stop)") {
            assert!(Instant::now() < until, "thread {thread} does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
        hung
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // An error: it has ended.
        let _ = sys::let_thread_go(self.thread);
    }
}
