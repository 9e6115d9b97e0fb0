//! MPI's C functions in the three forms that libraries have; all unsafe code of the crate is here.
//!
//! MPICH and its kin pass handles as integers, Open MPI as addresses of objects in the library, and the standard ABI of
//! MPI 5 as small numbers in pointers. Constants are those of each library's `mpi.h`. Counts are C integers in all.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;

use libloading::Library;

/// A message about a call that MPI refused.
pub(crate) type Fault = String;

/// A function that ends all ranks with an exit code. It may return, or wait without a limit.
pub(crate) type Aborter = Box<dyn Fn(c_int) + Send>;

/// The calls that collectives need, over the world communicator of an MPI that has been started.
///
/// Slices hold at most [`MOST`] bytes, and a call returns when it no longer needs them.
pub(crate) trait Calls {
    fn rank(&self) -> usize;
    fn world(&self) -> usize;
    /// Sends a message to a rank and receives one from a rank, both at a time; either may be left out.
    fn swap(&self, send: Option<(usize, &[u8])>, receive: Option<(usize, &mut [u8])>) -> Result<(), Fault>;
    /// Completes `whole`, of which rank `r` holds `parts[r]` bytes in their place, one part after the other.
    fn gather(&self, whole: &mut [u8], parts: &[usize]) -> Result<(), Fault>;
    /// Ends MPI. No other call may come after it; later ones fail.
    fn finalize(&self);
    fn aborter(&self) -> Aborter;
}

/// The most bytes of a message.
pub(crate) const MOST: usize = c_int::MAX as usize;

/// Which of the three forms a library has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// MPICH, Intel MPI, MVAPICH, Cray MPICH.
    Mpich,
    /// Open MPI.
    Open,
    /// The standard ABI of MPI 5.
    Standard,
}

/// A library that was loaded and has MPI's functions.
pub(crate) struct Loaded {
    library: &'static Library,
    pub(crate) form: Form,
    /// The text of `MPI_Get_library_version`.
    pub(crate) version: String,
    /// The address of a function, by which the file can be found.
    pub(crate) address: usize,
}

/// Loads a library by path or by name, and never unloads it.
pub(crate) fn load(path: &Path) -> Result<Loaded, String> {
    // Symbols are global, so that Open MPI's plugins find them.
    #[cfg(unix)]
    // SAFETY: loading an MPI library runs initialisers only; the user names it, or it has the name of one.
    let library: Result<Library, _> = unsafe {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL).map(Into::into)
    };
    #[cfg(not(unix))]
    // SAFETY: as above.
    let library = unsafe { Library::new(path) };
    let library: &'static Library = Box::leak(Box::new(library.map_err(|error| error.to_string())?));
    let form = if data(library, c"ompi_mpi_comm_world").is_ok() {
        Form::Open
    } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains("mpi_abi")) {
        Form::Standard
    } else {
        Form::Mpich
    };
    let address = data(library, c"MPI_Init_thread")?;
    Ok(Loaded { library, form, version: version(library)?, address })
}

/// The address of a symbol.
fn data(library: &Library, name: &CStr) -> Result<usize, String> {
    // SAFETY: an address is taken as a number, and nothing is read from it.
    let found = unsafe { library.get::<*mut c_void>(name.to_bytes_with_nul()) };
    match found {
        Ok(symbol) if !symbol.is_null() => Ok(*symbol as usize),
        _ => Err(format!("it has no {}, so it is no MPI library", name.to_string_lossy())),
    }
}

/// Looks up a function.
///
/// # Safety
/// `F` is the type of a pointer to the function of this name.
unsafe fn function<F: Copy>(library: &'static Library, name: &CStr) -> Result<F, String> {
    // SAFETY: as promised by the caller; the library is never unloaded.
    let found = unsafe { library.get::<F>(name.to_bytes_with_nul()) };
    found.map(|f| *f).map_err(|_| format!("it has no {}, so it is no MPI library", name.to_string_lossy()))
}

/// Bytes of a buffer for MPI's texts, of which the longest may have 8192.
const TEXT: usize = 16 << 10;

/// The text that a function writes into a buffer.
fn text(write: impl FnOnce(*mut c_char, *mut c_int) -> c_int) -> String {
    let (mut buffer, mut length) = (vec![0u8; TEXT], 0);
    if write(buffer.as_mut_ptr().cast(), &mut length) != 0 {
        return String::new();
    }
    CStr::from_bytes_until_nul(&buffer).unwrap_or_default().to_string_lossy().trim().to_owned()
}

fn version(library: &'static Library) -> Result<String, String> {
    type Get = unsafe extern "C" fn(*mut c_char, *mut c_int) -> c_int;
    // SAFETY: the type is that of MPI 3 and later.
    let get: Get = unsafe { function(library, c"MPI_Get_library_version") }?;
    // SAFETY: the function may be called before MPI starts, and writes at most 8192 bytes and a length.
    Ok(text(|buffer, length| unsafe { get(buffer, length) }))
}

impl Loaded {
    /// Starts MPI in this process, which may be done once. The calls belong to the thread that starts it.
    pub(crate) fn start(&self) -> Result<Box<dyn Calls>, String> {
        let library = self.library;
        match self.form {
            Form::Mpich => {
                let constants = Constants {
                    world: 0x4400_0000_u32 as c_int,
                    byte: 0x4c00_010d_u32 as c_int,
                    errors_return: 0x5400_0001_u32 as c_int,
                    in_place: usize::MAX,
                    no_status: 1,
                    nobody: -1,
                    funneled: 1,
                };
                // SAFETY: the library has MPICH's form, in which handles are C integers.
                unsafe { start(library, constants) }
            }
            Form::Open => {
                let constants = Constants {
                    world: data(library, c"ompi_mpi_comm_world")?,
                    byte: data(library, c"ompi_mpi_byte")?,
                    errors_return: data(library, c"ompi_mpi_errors_return")?,
                    in_place: 1,
                    no_status: 0,
                    nobody: -2,
                    funneled: 1,
                };
                // SAFETY: the library has Open MPI's form, in which handles are pointers, passed as integers are.
                unsafe { start(library, constants) }
            }
            Form::Standard => {
                let constants = Constants {
                    world: 0x101usize,
                    byte: 0x247,
                    errors_return: 0x143,
                    in_place: 1,
                    no_status: 0,
                    nobody: -3,
                    funneled: 1024,
                };
                // SAFETY: the library has the standard's form, in which handles are pointers.
                unsafe { start(library, constants) }
            }
        }
    }
}

/// What `mpi.h` defines. `H` is a handle: a C integer, or the number in a pointer.
struct Constants<H> {
    world: H,
    byte: H,
    errors_return: H,
    in_place: usize,
    no_status: usize,
    nobody: c_int,
    funneled: c_int,
}

type SendReceive<H> = unsafe extern "C" fn(
    *const c_void,
    c_int,
    H,
    c_int,
    c_int,
    *mut c_void,
    c_int,
    H,
    c_int,
    c_int,
    H,
    *mut c_void,
) -> c_int;
type GatherV<H> = unsafe extern "C" fn(*const c_void, c_int, H, *mut c_void, *const c_int, *const c_int, H, H) -> c_int;
type ErrorText = unsafe extern "C" fn(c_int, *mut c_char, *mut c_int) -> c_int;

/// MPI's functions after its start.
struct Functions<H> {
    constants: Constants<H>,
    send_receive: SendReceive<H>,
    gather: GatherV<H>,
    abort: unsafe extern "C" fn(H, c_int) -> c_int,
    finalize: unsafe extern "C" fn() -> c_int,
    error_text: ErrorText,
    rank: usize,
    world: usize,
    finalized: std::cell::Cell<bool>,
}

/// Starts MPI and asks for rank and size.
///
/// # Safety
/// The library passes handles as `H`, and the constants are those of its `mpi.h`.
unsafe fn start<H: Copy + Send + 'static>(
    library: &'static Library,
    constants: Constants<H>,
) -> Result<Box<dyn Calls>, String> {
    type Init = unsafe extern "C" fn(*mut c_int, *mut *mut *mut c_char, c_int, *mut c_int) -> c_int;
    type Ask<H> = unsafe extern "C" fn(H, *mut c_int) -> c_int;
    // SAFETY: these are the types of the standard, with handles as the caller promises.
    let (init, comm_rank, comm_size, set_errors, send_receive, gather, abort, finalize, error_text) = unsafe {
        (
            function::<Init>(library, c"MPI_Init_thread")?,
            function::<Ask<H>>(library, c"MPI_Comm_rank")?,
            function::<Ask<H>>(library, c"MPI_Comm_size")?,
            function::<unsafe extern "C" fn(H, H) -> c_int>(library, c"MPI_Comm_set_errhandler"),
            function::<SendReceive<H>>(library, c"MPI_Sendrecv")?,
            function::<GatherV<H>>(library, c"MPI_Allgatherv")?,
            function::<unsafe extern "C" fn(H, c_int) -> c_int>(library, c"MPI_Abort")?,
            function::<unsafe extern "C" fn() -> c_int>(library, c"MPI_Finalize")?,
            function::<ErrorText>(library, c"MPI_Error_string")?,
        )
    };
    let mut provided = 0;
    // SAFETY: arguments of the program may be null; the last is written.
    let code = unsafe { init(std::ptr::null_mut(), std::ptr::null_mut(), constants.funneled, &mut provided) };
    if code != 0 {
        return Err(format!("MPI_Init_thread failed with error {code}"));
    }
    if provided < constants.funneled {
        return Err("it does not work in programs with threads (MPI_THREAD_FUNNELED)".into());
    }
    if let Ok(set_errors) = set_errors {
        // Without it a failed call ends the program with MPI's own message. Either will do.
        // SAFETY: MPI has started, and both handles are predefined.
        unsafe { set_errors(constants.world, constants.errors_return) };
    }
    let ask = |function: Ask<H>, name: &str| {
        let mut number = 0;
        // SAFETY: MPI has started; the number is written.
        match unsafe { function(constants.world, &mut number) } {
            0 => usize::try_from(number).map_err(|_| format!("{name} gave {number}")),
            code => Err(format!("{name} failed with error {code}")),
        }
    };
    let (rank, world) = (ask(comm_rank, "MPI_Comm_rank")?, ask(comm_size, "MPI_Comm_size")?);
    if rank >= world {
        return Err(format!("it says that this is rank {rank} of {world}"));
    }
    let finalized = std::cell::Cell::new(false);
    Ok(Box::new(Functions { constants, send_receive, gather, abort, finalize, error_text, rank, world, finalized }))
}

/// A C integer of a length that is at most [`MOST`].
fn count(length: usize) -> Result<c_int, Fault> {
    c_int::try_from(length).map_err(|_| format!("a message of {length} bytes is too long for MPI"))
}

impl<H: Copy> Functions<H> {
    /// The outcome of a call.
    fn outcome(&self, name: &str, code: c_int) -> Result<(), Fault> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: MPI has started; the function writes at most 1024 bytes and a length.
        let text = text(|buffer, length| unsafe { (self.error_text)(code, buffer, length) });
        Err(format!("{name}: {text} (error {code})"))
    }

    fn is_running(&self) -> Result<(), Fault> {
        if self.finalized.get() { Err("MPI has been finalized".into()) } else { Ok(()) }
    }

    /// A rank as C has it, which is one of the world.
    fn peer(&self, rank: usize) -> Result<c_int, Fault> {
        if rank < self.world { count(rank) } else { Err(format!("there is no rank {rank} among {}", self.world)) }
    }
}

impl<H: Copy + Send + 'static> Calls for Functions<H> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn swap(&self, send: Option<(usize, &[u8])>, receive: Option<(usize, &mut [u8])>) -> Result<(), Fault> {
        self.is_running()?;
        let Constants { world, byte, no_status, nobody, .. } = self.constants;
        let (from, sent, to) = match send {
            Some((to, bytes)) => (bytes.as_ptr(), count(bytes.len())?, self.peer(to)?),
            None => (std::ptr::null(), 0, nobody),
        };
        let (into, received, source) = match receive {
            Some((from, bytes)) => (bytes.as_mut_ptr(), count(bytes.len())?, self.peer(from)?),
            None => (std::ptr::null_mut(), 0, nobody),
        };
        let (from, into, status) = (from.cast(), into.cast(), no_status as *mut c_void);
        // SAFETY: MPI has started and not ended. Both buffers have as many bytes as are said, the one that is written
        // is borrowed alone, and the call returns when it is done with them. The status is the constant that wants
        // none.
        let code =
            unsafe { (self.send_receive)(from, sent, byte, to, 0, into, received, byte, source, 0, world, status) };
        self.outcome("MPI_Sendrecv", code)
    }

    fn gather(&self, whole: &mut [u8], parts: &[usize]) -> Result<(), Fault> {
        self.is_running()?;
        if whole.is_empty() {
            return Ok(());
        }
        let (mut counts, mut starts, mut end) = (Vec::new(), Vec::new(), 0usize);
        for &part in parts {
            counts.push(count(part)?);
            starts.push(count(end)?);
            end = end.saturating_add(part);
        }
        if parts.len() != self.world || end != whole.len() {
            return Err(format!("{} parts of {end} bytes do not make {} bytes", parts.len(), whole.len()));
        }
        count(end)?;
        let Constants { world, byte, in_place, .. } = self.constants;
        let (in_place, into) = (in_place as *const c_void, whole.as_mut_ptr().cast());
        // SAFETY: MPI has started and not ended. There is a count and a start for each rank, and parts lie one after
        // the other in the buffer, which is borrowed alone. What is sent lies in its place, as the constant says.
        let code = unsafe { (self.gather)(in_place, 0, byte, into, counts.as_ptr(), starts.as_ptr(), byte, world) };
        self.outcome("MPI_Allgatherv", code)
    }

    fn finalize(&self) {
        if !self.finalized.replace(true) {
            // SAFETY: MPI has started, and this is its end: later calls see the mark.
            unsafe { (self.finalize)() };
        }
    }

    fn aborter(&self) -> Aborter {
        let (abort, world) = (self.abort, self.constants.world);
        Box::new(move |code| {
            // SAFETY: the library is never unloaded. A process that aborts is lost in any case, so that it is called
            // from another thread, or while a call is under way, can do no more harm.
            unsafe { abort(world, code) };
        })
    }
}

unsafe extern "C" {
    /// Ends the process at once, without handlers that may wait for other ranks.
    #[link_name = "_exit"]
    safe fn exit_now(code: c_int) -> !;
}

/// Ends the process at once with an exit code.
pub(crate) fn leave(code: c_int) -> ! {
    exit_now(code)
}
