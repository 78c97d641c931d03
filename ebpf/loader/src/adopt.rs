//! The program by which the kernel makes a server's socket from one packet (`target_adopt`): whether this kernel has the
//! function for it, the call put into the object, the program on the uplink's ingress.

use crate::attach::Place;
use crate::{Hook, Means, OBJECT, Plane, PlaneError, Side, copies, open};
use aya::EbpfLoader;
use aya::programs::TcAttachType;
use aya_obj::btf::{Btf, BtfKind};
use object::{Object as _, ObjectSection as _, SectionKind};
use std::sync::PoisonError;

/// The program.
pub(crate) const PROGRAM: &str = "target_adopt";
/// The kernel function it calls, of Linux 6.9.
pub const FUNCTION: &str = "bpf_sk_assign_tcp_reqsk";
/// Stands for the function in the object: the number of a helper that no kernel has (`ebpf/src/sock.rs`).
const PLACEHOLDER: u32 = 0x7fff_0001;
/// `BPF_JMP | BPF_CALL` of `linux/bpf.h`.
const CALL: u8 = 0x85;
/// The source register of a call of a kernel function (`BPF_PSEUDO_KFUNC_CALL`).
const KERNEL_FUNCTION: u8 = 2;
/// Bytes of an instruction.
const INSTRUCTION: usize = 8;

/// Why connections cannot be adopted on this kernel.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Its BTF cannot be read.
    #[error("the kernel's BTF cannot be read: {0}")]
    NoBtf(String),
    /// Its BTF knows no such function.
    #[error("this kernel has no function {FUNCTION} (Linux 6.9 and later, with CONFIG_SYN_COOKIES)")]
    NoFunction,
    /// Programs hang on filters here, of which the uplink's ingress has only one.
    #[error("the programs are attached by {}, not by TCX links (Linux 6.6 and later)", .0.name())]
    NoTcx(Hook),
    /// The object cannot be read, or has no place for the call.
    #[error("the eBPF object: {0}")]
    Object(String),
    /// The program was refused or could not be attached.
    #[error(transparent)]
    Plane(#[from] PlaneError),
}

/// Whether this kernel has what adopting needs of it, as far as can be told without loading anything.
///
/// # Errors
/// Names what is missing.
pub fn check(hook: Hook) -> Result<(), AdoptError> {
    if hook != Hook::Tcx {
        return Err(AdoptError::NoTcx(hook));
    }
    object().map(drop)
}

/// The object with the kernel's function in its place, for this kernel.
///
/// # Errors
/// If the kernel has no such function, or says nothing about itself.
pub fn object() -> Result<Vec<u8>, AdoptError> {
    let btf = Btf::from_sys_fs().map_err(|e| AdoptError::NoBtf(e.to_string()))?;
    let function = btf.id_by_type_name_kind(FUNCTION, BtfKind::Func).map_err(|_| AdoptError::NoFunction)?;
    patched(OBJECT, function)
}

/// An object in which the placeholder's calls are those of the kernel function with this BTF number.
fn patched(object: &[u8], function: u32) -> Result<Vec<u8>, AdoptError> {
    let file = object::File::parse(object).map_err(|e| AdoptError::Object(e.to_string()))?;
    let mut patched = object.to_vec();
    let mut calls = 0;
    for section in file.sections().filter(|s| s.kind() == SectionKind::Text) {
        let Some((start, size)) = section.file_range() else { continue };
        let (Ok(start), Ok(size)) = (usize::try_from(start), usize::try_from(size)) else { continue };
        let code = patched.get_mut(start..start.saturating_add(size)).unwrap_or_default();
        for instruction in code.as_chunks_mut::<INSTRUCTION>().0 {
            let [code, registers, _, _, immediate @ ..] = instruction;
            if *code == CALL && *registers == 0 && *immediate == PLACEHOLDER.to_le_bytes() {
                // Destination register in the low half, source in the high one.
                *registers = KERNEL_FUNCTION << 4;
                *immediate = function.to_le_bytes();
                calls += 1;
            }
        }
    }
    if calls == 0 {
        return Err(AdoptError::Object(format!("it has no call to stand for {FUNCTION}")));
    }
    Ok(patched)
}

impl Plane {
    /// Puts `target_adopt` on the uplink's ingress, in the place of what takes packets out of outer headers, which it
    /// does too. To be called on a target, before [`Plane::set_legs`], and to be followed by [`Plane::attach_tun`] with
    /// a mark that is not 0: by it the program knows the agent's packets.
    ///
    /// # Errors
    /// If this kernel or this plane cannot: then nothing has changed.
    pub fn adopt(&self) -> Result<(), AdoptError> {
        let programs = match &self.0 {
            Means::Ebpf(programs) if programs.config.side == Side::Target => programs,
            Means::Ebpf(_) => return Err(AdoptError::Object("adopting is a target's".into())),
            Means::Userspace(_) => return Err(AdoptError::NoTcx(Hook::Userspace)),
        };
        if programs.hook != Hook::Tcx {
            return Err(AdoptError::NoTcx(programs.hook));
        }
        let object = object()?;
        let mut loader = EbpfLoader::new();
        for map in open::MAPS {
            loader.map_pin_path(map, programs.pins.join(map));
        }
        loader.map_max_entries(copies::MAP, copies::NO_BYTES);
        let mut object = loader.load(&object).map_err(open::load_error("the eBPF object"))?;
        open::load_program(&mut object, PROGRAM)?;
        let place = Place {
            program: PROGRAM,
            device: &programs.config.uplink,
            direction: TcAttachType::Ingress,
            hook: programs.hook,
        };
        place.attach_for_good(open::program(&mut object, PROGRAM)?, &programs.pins.join(open::LEG_LINK))?;
        *programs.adopting.lock().unwrap_or_else(PoisonError::into_inner) = Some(object);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_one_call_to_be_put_in_and_nothing_else_changes() {
        let patched = patched(OBJECT, 0x0012_3456).unwrap();
        let differing: Vec<usize> = (0..OBJECT.len()).filter(|i| OBJECT[*i] != patched[*i]).collect();
        let first = differing[0] - 1;
        assert!(differing.iter().all(|i| *i < first + INSTRUCTION), "{differing:?}");
        assert_eq!(patched[first..first + INSTRUCTION], [CALL, 0x20, 0, 0, 0x56, 0x34, 0x12, 0]);
        assert_eq!(OBJECT[first..first + INSTRUCTION], [CALL, 0, 0, 0, 1, 0, 0xff, 0x7f]);
    }

    #[test]
    fn an_object_without_the_call_is_told() {
        let without = patched(OBJECT, 7).unwrap();
        assert!(matches!(super::patched(&without, 8), Err(AdoptError::Object(_))));
        assert!(matches!(super::patched(b"not an object", 8), Err(AdoptError::Object(_))));
    }
}
