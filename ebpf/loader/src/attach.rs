//! Putting a program on a device: by a TCX link where the kernel has them (6.6), else as a filter of clsact.

use crate::PlaneError;
use crate::sys;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use std::io;
use std::path::Path;

/// How a program hangs on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A TCX link, Linux 6.6 and later.
    Tcx,
    /// A filter of the `clsact` queueing discipline, every kernel.
    Clsact,
    /// No program at all: the daemon carries the packets.
    Userspace,
}

impl Hook {
    /// The best this kernel has.
    pub fn of_this_kernel() -> Self {
        match aya::util::KernelVersion::current() {
            Ok(version) if version >= aya::util::KernelVersion::new(6, 6, 0) => Hook::Tcx,
            _ => Hook::Clsact,
        }
    }

    /// Its name in logs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Hook::Tcx => "tcx",
            Hook::Clsact => "clsact",
            Hook::Userspace => "userspace",
        }
    }
}

/// Our filter's place among a device's clsact filters, fixed so that a restarted daemon replaces its own.
const PRIORITY: u16 = 2990;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// Which program goes where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) program: &'static str,
    pub(crate) device: &'a str,
    pub(crate) direction: TcAttachType,
    pub(crate) hook: Hook,
}

impl Place<'_> {
    fn error(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PlaneError {
        PlaneError::Attach {
            program: self.program,
            device: self.device.to_owned(),
            hook: self.hook.name(),
            source: source.into(),
        }
    }

    /// Attaches so that the program outlives this process: by a link pinned at `pin`, or as a filter. What is
    /// there of ours is replaced without a gap.
    pub(crate) fn attach_for_good(
        &self,
        program: &mut SchedClassifier,
        pin: &Path,
    ) -> Result<(), PlaneError> {
        match self.hook {
            Hook::Clsact => self.attach_filter(program),
            Hook::Userspace => Ok(()),
            Hook::Tcx => self.attach_pinned(program, pin),
        }
    }

    /// Attaches for the life of the returned link; with clsact, of the device.
    pub(crate) fn attach_while_held(
        &self,
        program: &mut SchedClassifier,
    ) -> Result<Option<SchedClassifierLink>, PlaneError> {
        match self.hook {
            Hook::Clsact => self.attach_filter(program).map(|()| None),
            Hook::Userspace => Ok(None),
            Hook::Tcx => self.new_link(program).map(Some),
        }
    }

    fn new_link(&self, program: &mut SchedClassifier) -> Result<SchedClassifierLink, PlaneError> {
        // First in the chain: a flow's packets are ours before any other program's.
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id =
            program.attach_with_options(self.device, self.direction, order).map_err(|e| self.error(e))?;
        program.take_link(id).map_err(|e| self.error(e))
    }

    fn attach_pinned(&self, program: &mut SchedClassifier, pin: &Path) -> Result<(), PlaneError> {
        if let Ok(old) = PinnedLink::from_pin(pin) {
            let old = FdLink::from(old);
            if self.carries(&old).map_err(|e| self.error(e))? {
                let link = SchedClassifierLink::try_from(old).map_err(|e| self.error(e))?;
                let id = program.attach_to_link(link).map_err(|e| self.error(e))?;
                // The pin keeps it; the copy in the program would detach nothing, but is not needed.
                drop(program.take_link(id).map_err(|e| self.error(e))?);
                return Ok(());
            }
            // The device is gone or another one: the old link carries nothing of ours.
            tracing::info!(pin = %pin.display(), device = self.device, "the pinned link is on another device, replaced");
            drop(old);
            std::fs::remove_file(pin).map_err(|source| PlaneError::Pin {
                op: "unlink",
                path: pin.to_owned(),
                source,
            })?;
        }
        let link = self.new_link(program)?;
        let link = FdLink::try_from(link).map_err(|e| self.error(e))?;
        drop(link.pin(pin).map_err(|e| self.error(e))?);
        Ok(())
    }

    /// Whether the link is on our device, in this network namespace.
    fn carries(&self, link: &FdLink) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        let id = link.info()?.id();
        // Not by aya's `query_tcx`: it opens the programs there, which only CAP_SYS_ADMIN may.
        Ok(sys::links_on(sys::device_index(self.device)?, self.direction)?.contains(&id))
    }

    fn attach_filter(&self, program: &mut SchedClassifier) -> Result<(), PlaneError> {
        match qdisc_add_clsact(self.device) {
            Ok(()) => {}
            Err(e) if errno_of(&e) == Some(libc::EEXIST) => {}
            Err(e) => return Err(self.error(e)),
        }
        let options =
            || TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle: HANDLE, classid: None });
        let id = match program.attach_with_options(self.device, self.direction, options()) {
            Ok(id) => id,
            Err(ProgramError::TcError(e)) if errno_of(&e) == Some(libc::EEXIST) => {
                let old = SchedClassifierLink::attached(self.device, self.direction, PRIORITY, HANDLE, None)
                    .map_err(|e| self.error(e))?;
                program.attach_to_link(old).map_err(|e| self.error(e))?
            }
            Err(e) => return Err(self.error(e)),
        };
        // Dropping it would remove the filter.
        std::mem::forget(program.take_link(id).map_err(|e| self.error(e))?);
        Ok(())
    }

    /// Takes a filter off; fine if there is none.
    pub(crate) fn remove_filter(&self) -> Result<(), PlaneError> {
        if sys::device_index(self.device).is_err() {
            return Ok(());
        }
        match qdisc_detach_program(self.device, self.direction, self.program) {
            Ok(()) => Ok(()),
            Err(TcError::IoError(e)) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            // No clsact there at all.
            Err(e) if matches!(errno_of(&e), Some(libc::ENOENT | libc::EINVAL)) => Ok(()),
            Err(e) => Err(self.error(e)),
        }
    }
}

fn errno_of(error: &TcError) -> Option<i32> {
    match error {
        TcError::NetlinkError(e) => e.raw_os_error(),
        TcError::IoError(e) => e.raw_os_error(),
        _ => None,
    }
}
