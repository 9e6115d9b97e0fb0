//! Compilation of kernels at run time by NVRTC, NVIDIA's compiler; cubins are cached on disk.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use fathom_core::error::ErrorKind;

use crate::cache;
use crate::error::CudaError;
use crate::library;
use crate::source::{HEADERS, MODULES, Module};

/// The tested version of NVRTC. A machine without NVRTC uses cached cubins of this version.
const PINNED: (c_int, c_int) = (13, 0);

const REMEDY: &str = "install NVRTC 13 (`pip install nvidia-cuda-nvrtc==13.0.88`, or the CUDA toolkit 13)";

type Program = *mut c_void;

/// Functions of NVRTC. All but the first three return 0 on success.
struct Nvrtc {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    error: unsafe extern "C" fn(c_int) -> *const c_char,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
}

impl Nvrtc {
    fn load() -> Result<Self, CudaError> {
        let names: &[&str] = if cfg!(windows) { &["nvrtc64_130_0.dll"] } else { &["libnvrtc.so.13", "libnvrtc.so"] };
        let builtins = if cfg!(windows) { "nvrtc-builtins64_13" } else { "libnvrtc-builtins.so.13" };
        let lib = library::find("NVRTC, the compiler of CUDA kernels", names, Some(builtins), REMEDY)?;
        // SAFETY: the types are those of nvrtc.h, the same in all versions since 11.
        unsafe {
            Ok(Self {
                version: library::function(lib, c"nvrtcVersion")?,
                error: library::function(lib, c"nvrtcGetErrorString")?,
                destroy: library::function(lib, c"nvrtcDestroyProgram")?,
                create: library::function(lib, c"nvrtcCreateProgram")?,
                compile: library::function(lib, c"nvrtcCompileProgram")?,
                log_size: library::function(lib, c"nvrtcGetProgramLogSize")?,
                log: library::function(lib, c"nvrtcGetProgramLog")?,
                cubin_size: library::function(lib, c"nvrtcGetCUBINSize")?,
                cubin: library::function(lib, c"nvrtcGetCUBIN")?,
            })
        }
    }

    fn get() -> Result<&'static Self, CudaError> {
        static NVRTC: OnceLock<Result<Nvrtc, CudaError>> = OnceLock::new();
        NVRTC.get_or_init(Self::load).as_ref().map_err(Clone::clone)
    }

    fn version(&self) -> Result<(c_int, c_int), CudaError> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both are places for a number.
        self.check("nvrtcVersion", unsafe { (self.version)(&raw mut major, &raw mut minor) })?;
        Ok((major, minor))
    }

    fn check(&self, call: &str, code: c_int) -> Result<(), CudaError> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: takes any number.
        let name = library::text(unsafe { (self.error)(code) });
        Err(CudaError::new(ErrorKind::Other, format!("{call}: {name} ({code})")))
    }
}

/// A compiled text.
pub(crate) struct Compiled {
    pub(crate) cubin: Vec<u8>,
    /// The compiler's log; with `--ptxas-options=-v` it lists registers and spills.
    pub(crate) log: String,
}

/// An NVRTC program, destroyed on drop.
struct Owned(&'static Nvrtc, Program);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: `create` made it, and this is once.
        unsafe { (self.0.destroy)(&raw mut self.1) };
    }
}

/// NVRTC's name for a compute capability; `sm_90a` has instructions that `sm_90` lacks.
pub(crate) fn architecture(major: i32, minor: i32) -> String {
    if (major, minor) == (9, 0) { "sm_90a".into() } else { format!("sm_{major}{minor}") }
}

fn options(architecture: &str) -> Vec<String> {
    vec![format!("--gpu-architecture={architecture}"), "--std=c++17".into(), "--fmad=false".into()]
}

/// Header files but those of the emulator.
fn headers() -> impl Iterator<Item = (&'static str, &'static str)> {
    HEADERS.iter().copied().filter(|(name, _)| !name.starts_with("emulate"))
}

/// Stack of the compiler's thread in bytes: the compiler recurses deeper than Rust's default of 2 MiB allows.
const STACK: usize = 64 << 20;

/// Compiles a text on a thread with a large stack; an error holds the compiler's log.
fn compile(name: &str, text: &str, options: &[String]) -> Result<Compiled, CudaError> {
    let failed = |what: String| CudaError::new(ErrorKind::Other, format!("{name}.cu: the compiler's thread {what}"));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("nvrtc".into()).stack_size(STACK);
        let thread = thread.spawn_scoped(scope, || compile_here(name, text, options));
        let thread = thread.map_err(|e| failed(format!("cannot start: {e}")))?;
        thread.join().map_err(|_| failed("panicked".into()))?
    })
}

/// Compiles a text on this thread.
fn compile_here(name: &str, text: &str, options: &[String]) -> Result<Compiled, CudaError> {
    let nvrtc = Nvrtc::get()?;
    let c = |s: &str| CString::new(s).map_err(|_| CudaError::new(ErrorKind::Other, format!("{name}: a zero byte")));
    let (source, file) = (c(text)?, c(&format!("{name}.cu"))?);
    let names: Vec<CString> = headers().map(|(name, _)| c(name)).collect::<Result<_, _>>()?;
    let texts: Vec<CString> = headers().map(|(_, text)| c(text)).collect::<Result<_, _>>()?;
    let options: Vec<CString> = options.iter().map(|o| c(o)).collect::<Result<_, _>>()?;
    let pointers = |v: &[CString]| -> Vec<*const c_char> { v.iter().map(|s| s.as_ptr()).collect() };
    let (names_, texts_, options_) = (pointers(&names), pointers(&texts), pointers(&options));
    let mut program = ptr::null_mut();
    // SAFETY: every text ends in a zero byte and outlives the program; the counts are those of the lists.
    let code = unsafe {
        (nvrtc.create)(
            &raw mut program,
            source.as_ptr(),
            file.as_ptr(),
            names.len() as c_int,
            texts_.as_ptr(),
            names_.as_ptr(),
        )
    };
    nvrtc.check("nvrtcCreateProgram", code)?;
    let program = Owned(nvrtc, program);
    // SAFETY: the program is alive; the count is that of the list.
    let compiled = unsafe { (nvrtc.compile)(program.1, options_.len() as c_int, options_.as_ptr()) };
    let bytes = |what, size: unsafe extern "C" fn(_, _) -> _, get: unsafe extern "C" fn(_, _) -> _| {
        let mut n = 0usize;
        // SAFETY: the program is alive; `get` writes as many bytes as `size` says.
        unsafe {
            nvrtc.check(what, size(program.1, &raw mut n))?;
            let mut bytes = vec![0u8; n];
            if n > 0 {
                nvrtc.check(what, get(program.1, bytes.as_mut_ptr().cast::<c_char>()))?;
            }
            Ok::<_, CudaError>(bytes)
        }
    };
    let log = bytes("nvrtcGetProgramLog", nvrtc.log_size, nvrtc.log)?;
    let log = CStr::from_bytes_until_nul(&log).map(|l| l.to_string_lossy().into_owned()).unwrap_or_default();
    nvrtc
        .check("nvrtcCompileProgram", compiled)
        .map_err(|e| CudaError::new(ErrorKind::Other, format!("{name}.cu does not compile: {e}\n{log}")))?;
    let cubin = bytes("nvrtcGetCUBIN", nvrtc.cubin_size, nvrtc.cubin)?;
    if cubin.is_empty() {
        return Err(CudaError::new(ErrorKind::Other, format!("{name}.cu: NVRTC returned no cubin\n{log}")));
    }
    Ok(Compiled { cubin, log })
}

/// Compiles a kernel file without the cache, with registers and spills in the log.
pub(crate) fn verbose(module: Module, architecture: &str) -> Result<Compiled, CudaError> {
    let mut options = options(architecture);
    options.push("--ptxas-options=-v".into());
    compile(module.name, module.text, &options)
}

/// Compiles a text with the options of the kernel files.
pub(crate) fn text(text: &str, architecture: &str) -> Result<Compiled, CudaError> {
    compile("text", text, &options(architecture))
}

/// Compiles all kernel files for an architecture into the cache, on all processors. Calls `done(compiled, total)` after
/// each file.
pub(crate) fn all(architecture: &str, done: &(dyn Fn(usize, usize) + Sync)) -> Result<(), CudaError> {
    let (next, ready) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let worker = || {
        while let Some(&module) = MODULES.get(next.fetch_add(1, Relaxed)) {
            cubin(module, architecture)?;
            done(ready.fetch_add(1, Relaxed) + 1, MODULES.len());
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MODULES.len());
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let panicked = || CudaError::new(ErrorKind::Other, "a thread that compiles kernels panicked");
        handles.into_iter().try_for_each(|handle| handle.join().map_err(|_| panicked())?)
    })
}

/// The cubin of a kernel file for an architecture, compiled if it is not in the cache, and its path there.
pub(crate) fn cubin(module: Module, architecture: &str) -> Result<(Vec<u8>, std::path::PathBuf), CudaError> {
    let nvrtc = Nvrtc::get();
    let (major, minor) = match &nvrtc {
        Ok(nvrtc) => nvrtc.version()?,
        Err(_) => PINNED,
    };
    let options = options(architecture);
    let version = format!("NVRTC {major}.{minor}");
    let mut parts = vec![module.text, &version];
    parts.extend(headers().map(|(_, text)| text));
    parts.extend(options.iter().map(String::as_str));
    let file = format!("{}-{architecture}-{}.cubin", module.name, cache::key(&parts));
    let failed = |what: &str, at: &Path, e: std::io::Error| {
        CudaError::new(ErrorKind::Other, format!("cannot {what} {}: {e}", at.display()))
    };
    let path = cache::file(&file, |draft| {
        nvrtc?;
        let compiled = compile(module.name, module.text, &options)?;
        std::fs::write(draft, compiled.cubin).map_err(|e| failed("write", draft, e))
    })?;
    let bytes = std::fs::read(&path).map_err(|e| failed("read", &path, e))?;
    Ok((bytes, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hopper_of_data_centres_has_a_name_of_its_own() {
        assert_eq!(architecture(9, 0), "sm_90a");
        assert_eq!(architecture(8, 6), "sm_86");
        assert_eq!(architecture(12, 1), "sm_121");
    }

    #[test]
    fn without_nvrtc_the_error_says_what_to_install() {
        if let Err(error) = Nvrtc::get() {
            assert!(error.message().contains("pip install nvidia-cuda-nvrtc==13.0.88"), "{error}");
        }
    }
}
