//! Binding of NCCL, NVIDIA's library for collectives, loaded if it is installed.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;

use fathom_core::error::ErrorKind;

use crate::error::CudaError;
use crate::library;

const REMEDY: &str = "install NCCL 2.19 or later (`pip install nvidia-nccl-cu13`, or the package libnccl2)";

/// The variable that names the library's file.
const VARIABLE: &str = "FATHOM_CUDA_NCCL";

/// The oldest version that this binding fits.
const OLDEST: c_int = 2 * 10000 + 19 * 100;

// Constants of nccl.h.
pub(super) const SUCCESS: c_int = 0;
pub(super) const IN_PROGRESS: c_int = 7;
const UINT8: c_int = 1;
const UNDEFINED: c_int = c_int::MIN;
const MAGIC: c_uint = 0xcafe_beef;

/// A communicator of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle(pub(super) *mut c_void);

// SAFETY: the library's communicators may be used by any thread, by one at a time.
unsafe impl Send for Handle {}

type Raw = *mut c_void;
type Stream = *mut c_void;

/// `ncclUniqueId`
#[derive(Clone, Copy)]
#[repr(C)]
struct UniqueId([u8; 128]);

/// `ncclConfig_t` as of version 2.19, which is all that later versions read where `version` says so.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
    /// Padding in version 2.19, and a field from 2.25 on.
    traffic_class: c_int,
}

/// Functions of the library, which return 0 on success unless they return a text.
pub(super) struct Api {
    version: c_int,
    unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    start: unsafe extern "C" fn(*mut Raw, c_int, UniqueId, c_int, *mut Config) -> c_int,
    finalize: unsafe extern "C" fn(Raw) -> c_int,
    destroy: unsafe extern "C" fn(Raw) -> c_int,
    abort: unsafe extern "C" fn(Raw) -> c_int,
    asynchronous: unsafe extern "C" fn(Raw, *mut c_int) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    last_error: unsafe extern "C" fn(Raw) -> *const c_char,
    group_start: unsafe extern "C" fn() -> c_int,
    group_end: unsafe extern "C" fn() -> c_int,
    send: unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Raw, Stream) -> c_int,
    receive: unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Raw, Stream) -> c_int,
    broadcast: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Raw, Stream) -> c_int,
    all_gather: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Raw, Stream) -> c_int,
}

impl Api {
    /// The library, searched for and loaded on the first call.
    pub(super) fn get() -> Result<&'static Self, CudaError> {
        static API: OnceLock<Result<Api, CudaError>> = OnceLock::new();
        API.get_or_init(Self::load).as_ref().map_err(Clone::clone)
    }

    fn load() -> Result<Self, CudaError> {
        const WHAT: &str = "NCCL, the library of collectives between GPUs";
        let lib = match std::env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
            Some(path) => library::named(WHAT, path.as_ref(), VARIABLE)?,
            None => library::find(WHAT, &["libnccl.so.2", "libnccl.so"], None, REMEDY)?,
        };
        let mut version = 0;
        // SAFETY: the type is that of nccl.h.
        let get: unsafe extern "C" fn(*mut c_int) -> c_int = unsafe { library::function(lib, c"ncclGetVersion")? };
        // SAFETY: a place for a number.
        let status = unsafe { get(&raw mut version) };
        if status != SUCCESS || version < OLDEST {
            let message = format!("NCCL {} is too old: {REMEDY}, or name its file in {VARIABLE}", name(version));
            return Err(CudaError::new(ErrorKind::Unsupported, message));
        }
        // SAFETY: the types are those of nccl.h, where enumerations are C's `int` in size and handles are pointers.
        unsafe {
            Ok(Self {
                version,
                unique_id: library::function(lib, c"ncclGetUniqueId")?,
                start: library::function(lib, c"ncclCommInitRankConfig")?,
                finalize: library::function(lib, c"ncclCommFinalize")?,
                destroy: library::function(lib, c"ncclCommDestroy")?,
                abort: library::function(lib, c"ncclCommAbort")?,
                asynchronous: library::function(lib, c"ncclCommGetAsyncError")?,
                error_string: library::function(lib, c"ncclGetErrorString")?,
                last_error: library::function(lib, c"ncclGetLastError")?,
                group_start: library::function(lib, c"ncclGroupStart")?,
                group_end: library::function(lib, c"ncclGroupEnd")?,
                send: library::function(lib, c"ncclSend")?,
                receive: library::function(lib, c"ncclRecv")?,
                broadcast: library::function(lib, c"ncclBroadcast")?,
                all_gather: library::function(lib, c"ncclAllGather")?,
            })
        }
    }

    /// The library's version, such as `2.32.3`.
    pub(super) fn version(&self) -> String {
        name(self.version)
    }

    /// A new group's id, or an error code.
    pub(super) fn unique_id(&self) -> Result<[u8; 128], c_int> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: a place for an id.
        match unsafe { (self.unique_id)(&raw mut id) } {
            SUCCESS => Ok(id.0),
            code => Err(code),
        }
    }

    /// Begins to start a communicator that never blocks its caller, on the GPU of the context that is current. The
    /// handle is null where there is nothing to give back.
    pub(super) fn start(&self, id: [u8; 128], rank: c_int, world: c_int) -> (Handle, c_int) {
        let mut config = Config {
            size: size_of::<Config>(),
            magic: MAGIC,
            version: OLDEST as c_uint,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: ptr::null(),
            split_share: UNDEFINED,
            traffic_class: UNDEFINED,
        };
        let mut raw = ptr::null_mut();
        // SAFETY: a place for a handle, and a configuration that is read before the call returns.
        let code = unsafe { (self.start)(&raw mut raw, world, UniqueId(id), rank, &raw mut config) };
        (Handle(raw), code)
    }

    /// The state of a communicator: success, in progress, or the code of an error.
    pub(super) fn state(&self, handle: Handle) -> c_int {
        let mut state = SUCCESS;
        // SAFETY: a live handle, which `Communicator` uses in one thread at a time, and a place for a number.
        match unsafe { (self.asynchronous)(handle.0, &raw mut state) } {
            SUCCESS => state,
            code => code,
        }
    }

    /// Begins the orderly end of a communicator: its queued collectives are done first.
    pub(super) fn finalize(&self, handle: Handle) -> c_int {
        // SAFETY: a live handle, used in one thread at a time.
        unsafe { (self.finalize)(handle.0) }
    }

    /// Frees a communicator that was finalized.
    pub(super) fn destroy(&self, handle: Handle) -> c_int {
        // SAFETY: `Communicator` gave this handle away, and nothing uses it any more.
        unsafe { (self.destroy)(handle.0) }
    }

    /// Ends the collectives of a communicator as they are, and frees it.
    pub(super) fn abort(&self, handle: Handle) -> c_int {
        // SAFETY: as above.
        unsafe { (self.abort)(handle.0) }
    }

    /// The library's text for an error code, with its last error if it remembers one.
    pub(super) fn text(&self, code: c_int) -> String {
        // SAFETY: takes any number.
        let meaning = library::text(unsafe { (self.error_string)(code) });
        // SAFETY: the argument is not used, and may be null.
        let last = unsafe { (self.last_error)(ptr::null_mut()) };
        let last = if last.is_null() { String::new() } else { library::text(last) };
        let last = last.split_whitespace().collect::<Vec<_>>().join(" ");
        if last.is_empty() { meaning } else { format!("{meaning}; its last error: {last}") }
    }

    /// Runs `calls` as one group, which ends also where one of them fails. The first error code that is not success.
    pub(super) fn group(&self, calls: impl FnOnce() -> c_int) -> c_int {
        // SAFETY: takes nothing; the group is of this thread.
        let begun = unsafe { (self.group_start)() };
        if begun != SUCCESS {
            return begun;
        }
        let inside = calls();
        // SAFETY: the group was started above.
        let ended = unsafe { (self.group_end)() };
        if matches!(inside, SUCCESS | IN_PROGRESS) { ended } else { inside }
    }
}

/// A group's collectives: a communicator, and the stream on which they are queued.
pub(super) struct Calls<'a> {
    pub(super) api: &'a Api,
    pub(super) handle: Handle,
    pub(super) stream: Stream,
}

impl Calls<'_> {
    /// Sends `bytes` bytes from device address `from` to rank `peer`.
    ///
    /// # Safety
    /// Here and below: the memory is the device's of the communicator and lives until the stream is through with it.
    pub(super) unsafe fn send(&self, from: u64, bytes: usize, peer: usize) -> c_int {
        // SAFETY: as promised by the caller; the handle is live.
        unsafe { (self.api.send)(from as *const c_void, bytes, UINT8, peer as c_int, self.handle.0, self.stream) }
    }

    /// Receives `bytes` bytes from rank `peer` at device address `to`.
    ///
    /// # Safety
    /// As [`send`](Calls::send).
    pub(super) unsafe fn receive(&self, to: u64, bytes: usize, peer: usize) -> c_int {
        // SAFETY: as promised by the caller; the handle is live.
        unsafe { (self.api.receive)(to as *mut c_void, bytes, UINT8, peer as c_int, self.handle.0, self.stream) }
    }

    /// Gives all ranks the `bytes` bytes that rank `root` has at this place.
    ///
    /// # Safety
    /// As [`send`](Calls::send).
    pub(super) unsafe fn broadcast(&self, at: u64, bytes: usize, root: usize) -> c_int {
        let (from, to) = (at as *const c_void, at as *mut c_void);
        // SAFETY: as promised by the caller; the handle is live, and both places may be the same.
        unsafe { (self.api.broadcast)(from, to, bytes, UINT8, root as c_int, self.handle.0, self.stream) }
    }

    /// Completes parts of `bytes` bytes each, which lie at `whole` in the order of ranks; this one's is at `own`.
    ///
    /// # Safety
    /// As [`send`](Calls::send).
    pub(super) unsafe fn all_gather(&self, own: u64, whole: u64, bytes: usize) -> c_int {
        let (own, whole) = (own as *const c_void, whole as *mut c_void);
        // SAFETY: as promised by the caller; the handle is live, and the own part may be in its place.
        unsafe { (self.api.all_gather)(own, whole, bytes, UINT8, self.handle.0, self.stream) }
    }
}

/// A version as people write it; before 2.9 the minor version had one digit.
fn name(version: c_int) -> String {
    let unit = if version < 10000 { 1000 } else { 10000 };
    format!("{}.{}.{}", version / unit, version % unit / 100, version % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_written_as_people_do() {
        assert_eq!([23203, 21900, 21805, 2804, 0].map(name), ["2.32.3", "2.19.0", "2.18.5", "2.8.4", "0.0.0"]);
    }

    #[test]
    fn structs_are_as_large_as_the_library_has_them() {
        // nccl.h of 2.19: a size_t, six numbers, a pointer and a number.
        assert_eq!((size_of::<Config>(), size_of::<UniqueId>()), (8 + 6 * 4 + 8 + 4 + 4, 128));
    }
}
