//! The one place of this crate with unsafe code: raw system calls and the mapped flow records.

use aya::programs::TcAttachType;
use baton_shared::record::FlowRecord;
use std::ffi::CString;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `CLOCK_MONOTONIC` in nanoseconds: what `bpf_ktime_get_ns` gives the programs.
pub(crate) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a live timespec; this clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Lifts the limit on locked memory, which bounds maps before Linux 5.11. Failure shows when a map is made.
pub(crate) fn lift_memlock() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is a live rlimit.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) };
}

/// Whether `path` is on a BPF file system.
pub(crate) fn is_bpffs(path: &Path) -> io::Result<bool> {
    const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `path` is NUL-terminated, `stat` has room for a statfs.
    if unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above filled it, and zeros were a valid value before.
    let stat = unsafe { stat.assume_init() };
    #[expect(clippy::cast_sign_loss, reason = "a magic number, compared as its bits")]
    let kind = stat.f_type as u64 & 0xffff_ffff;
    Ok(kind == BPF_FS_MAGIC)
}

/// The number of the network device `name` in this network namespace.
pub(crate) fn device_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: `name` is NUL-terminated.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// The MAC address of the device `name`; zeros if it has none.
pub(crate) fn device_mac(name: &str) -> io::Result<[u8; 6]> {
    // SAFETY: an ifreq is plain data, zeros are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: no memory is passed.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `request` is a live ifreq, which SIOCGIFHWADDR reads and writes.
    let done = unsafe { libc::ioctl(socket, libc::SIOCGIFHWADDR as libc::Ioctl, &mut request) };
    let error = io::Error::last_os_error();
    // SAFETY: the descriptor is ours and not used after this.
    unsafe { libc::close(socket) };
    if done != 0 {
        return Err(error);
    }
    // SAFETY: SIOCGIFHWADDR filled this member of the union.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    let mut mac = [0; 6];
    if address.sa_family == libc::ARPHRD_ETHER {
        for (to, from) in mac.iter_mut().zip(address.sa_data) {
            let [byte] = from.to_ne_bytes();
            *to = byte;
        }
    }
    Ok(mac)
}

/// `bpf_attr` as the command that asks for a device's programs reads it.
#[repr(C)]
struct ProgramQuery {
    device: u32,
    direction: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    /// Room for how many; afterwards, how many there are.
    count: u32,
    padding: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// The numbers of the TCX links on a device; 0 for a program that hangs there without one.
pub(crate) fn links_on(device: u32, direction: TcAttachType) -> io::Result<Vec<u32>> {
    const BPF_PROG_QUERY: libc::c_long = 16;
    /// The kernel's `BPF_MPROG_MAX`.
    const MOST: u32 = 64;
    let direction = match direction {
        TcAttachType::Ingress => 46,
        TcAttachType::Egress => 47,
        TcAttachType::Custom(_) => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
    };
    let (mut programs, mut links) = ([0_u32; MOST as usize], [0_u32; MOST as usize]);
    let mut query = ProgramQuery {
        device,
        direction,
        query_flags: 0,
        attach_flags: 0,
        programs: address_of_mut(&mut programs),
        count: MOST,
        padding: 0,
        program_flags: 0,
        links: address_of_mut(&mut links),
        link_flags: 0,
        revision: 0,
    };
    // SAFETY: the attribute and both arrays outlive the call, and have room for `count` numbers.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<ProgramQuery>()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(links.into_iter().take(usize::try_from(query.count).unwrap_or(0)).collect())
}

/// `bpf_attr` as the map commands read it (include/uapi/linux/bpf.h).
#[repr(C)]
struct MapElement {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `bpf_attr` as the commands for many elements read it.
#[repr(C)]
struct MapBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    /// How many; afterwards, how many it was done for.
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
/// Linux 5.6, both.
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;

/// Calls bpf(2) for a map whose key is a `K` and whose value is a `V`.
///
/// # Safety
/// The map's key and value sizes must be those of `K` and `V`, and `value` be writable if `command` writes.
unsafe fn map_command(
    command: libc::c_long,
    map: BorrowedFd<'_>,
    key: u64,
    value: u64,
    flags: u64,
) -> io::Result<()> {
    let fd = u32::try_from(map.as_raw_fd()).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    let element = MapElement { map: fd, padding: 0, key, value, flags };
    // SAFETY: the attribute outlives the call; key and value are as the caller promises.
    match unsafe { libc::syscall(libc::SYS_bpf, command, &raw const element, size_of::<MapElement>()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn address_of<T>(value: &T) -> u64 {
    u64::try_from(std::ptr::from_ref(value).addr()).unwrap_or(0)
}

fn address_of_mut<T>(value: &mut T) -> u64 {
    u64::try_from(std::ptr::from_mut(value).addr()).unwrap_or(0)
}

/// A map opened by descriptor whose key and value sizes were compared with `K` and `V`.
#[derive(Debug)]
pub(crate) struct TypedMap<K, V> {
    fd: std::os::fd::OwnedFd,
    types: std::marker::PhantomData<fn(K, V)>,
}

impl<K, V> TypedMap<K, V>
where
    K: IntoBytes + FromBytes + Immutable + Default,
    V: IntoBytes + FromBytes + Immutable + Default,
{
    /// From a descriptor; `sizes` are the map's own key and value sizes in bytes, as the kernel tells them.
    pub(crate) fn new(fd: std::os::fd::OwnedFd, sizes: (u32, u32)) -> io::Result<Self> {
        let ours = (u32::try_from(size_of::<K>()), u32::try_from(size_of::<V>()));
        if ours != (Ok(sizes.0), Ok(sizes.1)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "key or value size differs from this build's",
            ));
        }
        Ok(TypedMap { fd, types: std::marker::PhantomData })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.fd)
    }

    /// The value under `key`.
    pub(crate) fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::default();
        // SAFETY: sizes were compared in `new`; `value` is borrowed mutably over the call.
        let done = unsafe {
            map_command(BPF_MAP_LOOKUP_ELEM, self.fd(), address_of(key), address_of_mut(&mut value), 0)
        };
        match done {
            Ok(()) => Ok(Some(value)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Stores `value` under `key` with `BPF_ANY`, `BPF_NOEXIST` or `BPF_EXIST`.
    pub(crate) fn put(&self, key: &K, value: &V, flags: u64) -> io::Result<()> {
        // SAFETY: sizes were compared in `new`; the command only reads.
        unsafe { map_command(BPF_MAP_UPDATE_ELEM, self.fd(), address_of(key), address_of(value), flags) }
    }

    /// Stores these values under these keys with `BPF_ANY` (Linux 5.6). It stops at the first that cannot be stored.
    pub(crate) fn put_each<const N: usize>(&self, keys: &[K; N], values: &[V; N]) -> io::Result<()> {
        let map =
            u32::try_from(self.fd().as_raw_fd()).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
        let mut batch = MapBatch {
            in_batch: 0,
            out_batch: 0,
            keys: address_of(keys),
            values: address_of(values),
            count: u32::try_from(N).map_err(io::Error::other)?,
            map,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the attribute outlives the call and is borrowed mutably over it; at `keys` and `values` are `count` of the
        // sizes that were compared in `new`, which the command only reads.
        let done = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_BATCH, &raw mut batch, size_of::<MapBatch>())
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Removes `key`; whether it was there.
    pub(crate) fn remove(&self, key: &K) -> io::Result<bool> {
        // SAFETY: the key's size was compared in `new`; the command only reads.
        match unsafe { map_command(BPF_MAP_DELETE_ELEM, self.fd(), address_of(key), 0, 0) } {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Removes these keys, as many as there are in one call; those that are not there are passed over.
    pub(crate) fn remove_all(&self, keys: &[K]) -> io::Result<()> {
        let map =
            u32::try_from(self.fd().as_raw_fd()).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
        let mut rest = keys;
        while let Some(first) = rest.first() {
            let mut batch = MapBatch {
                in_batch: 0,
                out_batch: 0,
                keys: address_of(first),
                values: 0,
                count: u32::try_from(rest.len()).unwrap_or(u32::MAX),
                map,
                element_flags: 0,
                flags: 0,
            };
            // SAFETY: the attribute outlives the call and is borrowed mutably over it; at `keys` are `count` keys of the
            // size that was compared in `new`, which the command only reads.
            let done = unsafe {
                libc::syscall(libc::SYS_bpf, BPF_MAP_DELETE_BATCH, &raw mut batch, size_of::<MapBatch>())
            };
            if done == 0 {
                return Ok(());
            }
            if io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT) {
                // It stops at the one that is not there.
                let removed = usize::try_from(batch.count).unwrap_or(usize::MAX);
                rest = rest.get(removed.saturating_add(1)..).unwrap_or_default();
                continue;
            }
            // An old kernel, which has not touched `count`.
            return rest.iter().try_for_each(|key| self.remove(key).map(drop));
        }
        Ok(())
    }

    /// All keys. Keys inserted or removed meanwhile may be missed or seen twice.
    pub(crate) fn keys(&self) -> io::Result<Vec<K>> {
        let mut keys: Vec<K> = Vec::new();
        loop {
            let mut next = K::default();
            let last = keys.last().map_or(0, address_of);
            // SAFETY: the key's size was compared in `new`; `next` is borrowed mutably over the call.
            match unsafe { map_command(BPF_MAP_GET_NEXT_KEY, self.fd(), last, address_of_mut(&mut next), 0) }
            {
                Ok(()) => keys.push(next),
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
                Err(e) => return Err(e),
            }
        }
    }
}

/// The value at `index` of an array map whose values are `size` bytes, as the kernel tells it.
pub(crate) fn array_value(map: BorrowedFd<'_>, index: u32, size: usize) -> io::Result<Vec<u8>> {
    let mut value = vec![0u8; size];
    let to = u64::try_from(value.as_mut_ptr().addr()).map_err(io::Error::other)?;
    // SAFETY: an array's key is 4 bytes; `value` has room for the value and is borrowed mutably over the call.
    unsafe { map_command(BPF_MAP_LOOKUP_ELEM, map, address_of(&index), to, 0) }?;
    Ok(value)
}

/// Whether a hash map whose keys are `size` bytes, as the kernel tells it, holds no key.
pub(crate) fn is_empty(map: BorrowedFd<'_>, size: usize) -> io::Result<bool> {
    let mut key = vec![0u8; size];
    let to = u64::try_from(key.as_mut_ptr().addr()).map_err(io::Error::other)?;
    // SAFETY: `key` has room for a key and is borrowed mutably over the call.
    match unsafe { map_command(BPF_MAP_GET_NEXT_KEY, map, 0, to, 0) } {
        Ok(()) => Ok(false),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(true),
        Err(e) => Err(e),
    }
}

/// Words of a record.
const WORDS: usize = size_of::<FlowRecord>() / 8;
const _: () = assert!(size_of::<FlowRecord>().is_multiple_of(8));
/// The word that holds state (first half) and flags (second half).
const STATE_WORD: usize = offset_of!(FlowRecord, state) / 8;
const _: () = assert!(offset_of!(FlowRecord, state).is_multiple_of(8));
const _: () = assert!(offset_of!(FlowRecord, flags) == offset_of!(FlowRecord, state) + 4);
/// The word that `diverted` begins: from there on the programs write.
const ACCOUNTS_WORD: usize = offset_of!(FlowRecord, diverted) / 8;
const _: () = assert!(offset_of!(FlowRecord, diverted) == ACCOUNTS_WORD * 8);

/// Maps so many bytes for reading and writing: where, and how many with the rest of the last page.
fn map_memory(flags: libc::c_int, fd: libc::c_int, bytes: usize) -> io::Result<(NonNull<u8>, usize)> {
    // SAFETY: sysconf only reads.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).map_err(io::Error::other)?;
    let bytes = bytes.next_multiple_of(page);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base =
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok((NonNull::new(base.cast()).ok_or_else(io::Error::last_os_error)?, bytes))
}

/// The mapped array `SLOTS`. The programs read and write it at the same time, so every access is atomic.
#[derive(Debug)]
pub(crate) struct MappedSlots {
    base: NonNull<u8>,
    bytes: usize,
    count: u32,
}

// SAFETY: the memory is shared with the kernel anyway and is accessed by atomic operations only.
unsafe impl Send for MappedSlots {}
// SAFETY: as above.
unsafe impl Sync for MappedSlots {}

impl MappedSlots {
    /// Maps an array of `count` records; the caller has compared the map's value size with the record's.
    pub(crate) fn new(map: BorrowedFd<'_>, count: u32) -> io::Result<Self> {
        Self::map(libc::MAP_SHARED, map.as_raw_fd(), count)
    }

    /// `count` free records in memory of this process alone.
    pub(crate) fn anonymous(count: u32) -> io::Result<Self> {
        Self::map(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, count)
    }

    fn map(flags: libc::c_int, fd: libc::c_int, count: u32) -> io::Result<Self> {
        let records = usize::try_from(count).map_err(io::Error::other)?;
        let (base, bytes) = map_memory(flags, fd, records * size_of::<FlowRecord>())?;
        Ok(MappedSlots { base, bytes, count })
    }

    /// How many records there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    fn words(&self, slot: u32) -> &[AtomicU64; WORDS] {
        assert!(slot < self.count, "slot {slot} of {}", self.count);
        // SAFETY: the slot is inside the mapping, which lives as long as `self`, is page-aligned, and its
        // records are a multiple of 8 bytes; atomics may be shared with other writers.
        unsafe { self.base.cast::<[AtomicU64; WORDS]>().add(slot as usize).as_ref() }
    }

    /// One aligned 32-bit field of a record.
    pub(crate) fn field(&self, slot: u32, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset < size_of::<FlowRecord>(), "no field at {offset}");
        let record = std::ptr::from_ref(self.words(slot)).cast::<AtomicU32>();
        // SAFETY: inside the record, aligned, atomics may be shared with other writers.
        unsafe { &*record.add(offset / 4) }
    }

    /// One aligned 64-bit field of a record.
    pub(crate) fn wide_field(&self, slot: u32, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "no wide field at {offset}");
        self.words(slot).get(offset / 8).unwrap_or_else(|| panic!("no field at {offset}"))
    }

    /// A copy; each 8 bytes of it are of one moment.
    pub(crate) fn read(&self, slot: u32) -> FlowRecord {
        let words = self.words(slot);
        // Pairs with the release of the state: what was written before the state is seen.
        std::sync::atomic::fence(Ordering::Acquire);
        let mut copy = [0u64; WORDS];
        for (to, from) in copy.iter_mut().zip(words) {
            *to = from.load(Ordering::Relaxed);
        }
        zerocopy::transmute!(copy)
    }

    /// Stores a record, its state last. With `accounts` false the fields that the programs write stay.
    pub(crate) fn write(&self, slot: u32, record: &FlowRecord, accounts: bool) {
        let words = self.words(slot);
        let new: [u64; WORDS] = zerocopy::transmute!(*record);
        let end = if accounts { WORDS } else { ACCOUNTS_WORD };
        let stored = || words.iter().zip(new).take(end);
        stored().take(STATE_WORD).for_each(|(to, from)| to.store(from, Ordering::Relaxed));
        self.field(slot, offset_of!(FlowRecord, flags)).store(record.flags, Ordering::Relaxed);
        stored().skip(STATE_WORD + 1).for_each(|(to, from)| to.store(from, Ordering::Relaxed));
        self.field(slot, offset_of!(FlowRecord, state)).store(record.state, Ordering::Release);
    }
}

impl Drop for MappedSlots {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, to which no reference is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// The one word of a mapped array, which the programs read at the same time.
#[derive(Debug)]
pub(crate) struct MappedWord {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: as for `MappedSlots`.
unsafe impl Send for MappedWord {}
// SAFETY: as above.
unsafe impl Sync for MappedWord {}

impl MappedWord {
    /// The caller has compared the map's value size with a word's.
    pub(crate) fn new(map: BorrowedFd<'_>) -> io::Result<Self> {
        let (base, bytes) = map_memory(libc::MAP_SHARED, map.as_raw_fd(), size_of::<AtomicU32>())?;
        Ok(MappedWord { base, bytes })
    }

    /// Stores it; what is read of other maps after that is newer.
    pub(crate) fn store(&self, value: u32) {
        // SAFETY: inside the mapping, which lives as long as `self` and is page-aligned; atomics may be shared.
        unsafe { self.base.cast::<AtomicU32>().as_ref() }.store(value, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
    }
}

impl Drop for MappedWord {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, to which no reference is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
