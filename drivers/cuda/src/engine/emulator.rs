//! The emulator: kernels compiled as host C++ and run thread by thread, with every access checked.
//!
//! `kernels/emulate.h` and the files of `kernels/emulate` are its other half, which runs inside the compiled library.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use fathom_core::device::Name;
use fathom_core::error::ErrorKind;
use libloading::Library;

use super::{Engine, Properties};
use crate::cache;
use crate::error::CudaError;
use crate::launch::Launch;
use crate::memory::Blocks;
use crate::report::KernelReport;
use crate::source::{HEADERS, MODULES, Module};
use crate::tensor_map::{Boxes, TensorMap};

/// Options of the emulator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Emulation {
    /// Runs blocks, warps and lanes from the last to the first; results must not change.
    pub reverse: bool,
    /// Seed of a random order of blocks, warps and lanes; 0 = in order.
    pub seed: u32,
    /// Compiles kernels with AddressSanitizer, whose runtime must be preloaded into this program.
    pub sanitize: bool,
    /// Bytes of shared memory per block that the device reports; 0 = those of Hopper.
    pub shared: u32,
    /// Multiprocessors that the device reports; 0 = two.
    pub multiprocessors: u32,
    /// Uses Hopper's kernels of warpgroups where there are.
    pub hopper: bool,
}

impl Emulation {
    /// Number of multiprocessors.
    fn multiprocessors(&self) -> usize {
        if self.multiprocessors == 0 { 2 } else { self.multiprocessors as usize }
    }

    /// Bytes of shared memory per block.
    fn shared(&self) -> usize {
        if self.shared == 0 { 227 << 10 } else { self.shared as usize }
    }

    /// The order's number in `emulate.h`.
    fn order(&self) -> u32 {
        match (self.seed, self.reverse) {
            (0, reverse) => reverse.into(),
            (seed, _) => seed.saturating_add(1),
        }
    }
}

/// `fathom_emulate` of `emulate.h`: runs a kernel, and gives 0, or 1 with the fault in the message.
///
/// In order: the kernel's table, the grid, threads of a block, bytes of shared memory, the argument and its bytes, the
/// order of blocks, warps and lanes, the message and its bytes.
///
/// # Safety
/// The table is one of the same library, the grid has three numbers, the argument and the message have as many bytes as
/// are passed, and addresses in the argument are those of live blocks.
type Run =
    unsafe extern "C" fn(*const c_void, *const u32, u32, u32, *const c_void, u32, u32, *mut c_char, u32) -> c_int;

/// An engine that runs kernels on the CPU.
pub(crate) struct Emulator {
    options: Emulation,
    /// Allocated blocks: bytes by address.
    blocks: Mutex<HashMap<u64, usize>>,
    /// Compiled modules by name, or the compiler's error, which is not retried.
    libraries: Mutex<HashMap<&'static str, Result<&'static Library, String>>>,
    /// The record that kernels report into.
    report: Mutex<Box<[u32; 4]>>,
    /// For tests: modules that replace those of the same name, and whether launches lose their last block along x.
    #[cfg(test)]
    pub(super) replaced: Vec<Module>,
    #[cfg(test)]
    pub(super) shrink: bool,
}

const ALIGN: usize = 256;

fn other(message: impl Into<String>) -> CudaError {
    CudaError::new(ErrorKind::Other, message)
}

impl Emulator {
    /// Creates an emulator; fails without a C++ compiler.
    pub(crate) fn new(options: Emulation) -> Result<Self, CudaError> {
        compiler()?;
        Ok(Self {
            options,
            blocks: Mutex::default(),
            libraries: Mutex::default(),
            report: Mutex::default(),
            #[cfg(test)]
            replaced: Vec::new(),
            #[cfg(test)]
            shrink: false,
        })
    }

    fn library(&self, module: Module) -> Result<&'static Library, CudaError> {
        let mut libraries = self.libraries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = libraries.get(module.name) {
            return library.clone().map_err(other);
        }
        // Where a module is run once or with the sanitizer, compiling takes longer than running.
        let level = if self.options.sanitize { "-O1" } else { "-O2" };
        #[cfg(test)]
        let (module, level) = match self.replaced.iter().copied().find(|m| m.name == module.name) {
            Some(module) => (module, "-O0"),
            None => (module, level),
        };
        let library = load(module, level, self.options.sanitize);
        libraries.insert(module.name, library.as_ref().copied().map_err(CudaError::to_string));
        library
    }
}

/// Compiles and loads a module. Libraries are never unloaded: a kernel may still run in another thread.
fn load(module: Module, level: &str, sanitize: bool) -> Result<&'static Library, CudaError> {
    let path = build(module, level, sanitize)?;
    // SAFETY: a library of kernels was made from the sources in this program; loading it runs no code.
    let library = unsafe { Library::new(&path) };
    let library = library.map_err(|e| other(format!("cannot load {}: {e}", path.display())))?;
    Ok(Box::leak(Box::new(library)))
}

/// The C++ compiler: `CXX`, else the first of `c++`, `g++` and `clang++` that runs.
fn compiler() -> Result<PathBuf, CudaError> {
    let named = std::env::var_os("CXX").filter(|v| !v.is_empty()).map(PathBuf::from);
    let answers = |name: &PathBuf| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    let candidates = named.into_iter().chain(["c++", "g++", "clang++"].map(PathBuf::from));
    candidates.into_iter().find(answers).ok_or_else(|| {
        other(
            "emulating CUDA kernels needs a C++ compiler: install g++ (Debian and Ubuntu: apt-get install g++), or set \
             CXX",
        )
    })
}

/// Compiles a module unless it is in the cache; returns the library's path.
fn build(module: Module, level: &str, sanitize: bool) -> Result<PathBuf, CudaError> {
    let compiler = compiler()?;
    let version = Command::new(&compiler).arg("--version").output().map(|o| o.stdout).unwrap_or_default();
    let mut flags =
        vec!["-std=c++17", level, "-ffp-contract=off", "-fno-strict-aliasing", "-shared", "-fPIC", "-DFATHOM_EMULATE"];
    if sanitize {
        flags.extend(["-g1", "-fsanitize=address", "-fno-omit-frame-pointer"]);
        // Accesses are checked by calls, which are quicker to compile.
        flags.extend(["--param", "asan-instrumentation-with-call-threshold=0"]);
    }
    let mut parts = vec![module.text, std::str::from_utf8(&version).unwrap_or("")];
    parts.extend(HEADERS.iter().map(|(_, text)| *text));
    parts.extend(&flags);
    let name = format!("{}-{}.so", module.name, cache::key(&parts));
    cache::file(&name, |draft| {
        let folder = draft.with_extension("sources");
        let source = folder.join(format!("{}.cpp", module.name));
        let write = |path: &Path, text: &str| std::fs::write(path, text);
        let result = std::fs::create_dir_all(folder.join("emulate"))
            .and_then(|()| HEADERS.iter().try_for_each(|(name, text)| write(&folder.join(name), text)))
            .and_then(|()| write(&source, module.text))
            .map_err(|e| other(format!("cannot write {}: {e}", folder.display())))
            .and_then(|()| {
                let mut run = Command::new(&compiler);
                if sanitize {
                    // The sanitizer's runtime is for this program, and would slow the compiler down.
                    run.env_remove("LD_PRELOAD");
                }
                let run = run.args(&flags).arg("-o").arg(draft).arg(&source).output();
                let run = run.map_err(|e| other(format!("cannot run {}: {e}", compiler.display())))?;
                if run.status.success() {
                    return Ok(());
                }
                Err(other(format!("{}.cu does not compile:\n{}", module.name, String::from_utf8_lossy(&run.stderr))))
            });
        let _ = std::fs::remove_dir_all(&folder);
        result
    })
}

impl Blocks for Emulator {
    fn alloc(&self, bytes: usize) -> Result<u64, CudaError> {
        let refused = || CudaError::new(ErrorKind::OutOfMemory, format!("the host has no {bytes} bytes left"));
        let layout = Layout::from_size_align(bytes, ALIGN).map_err(|_| refused())?;
        // SAFETY: the layout is not of size zero, as the trait promises.
        let address = unsafe { alloc_zeroed(layout) } as u64;
        if address == 0 {
            return Err(refused());
        }
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).insert(address, bytes);
        Ok(address)
    }

    fn free(&self, address: u64) {
        let bytes = self.blocks.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
        if let Some(layout) = bytes.and_then(|b| Layout::from_size_align(b, ALIGN).ok()) {
            // SAFETY: `alloc` made the block with this layout, and it was removed from the table, so this is once.
            unsafe { dealloc(address as *mut u8, layout) };
        }
    }

    fn wait(&self) -> Result<(), CudaError> {
        Ok(())
    }
}

impl Engine for Emulator {
    fn properties(&self) -> Properties {
        let name = Name::new("cuda (emulated)");
        Properties {
            name,
            memory: None,
            multiprocessors: self.options.multiprocessors(),
            shared: self.options.shared(),
            warpgroups: self.options.hopper.then_some(1),
        }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError> {
        let library = self.library(launch.module)?;
        let symbol = format!("kernel_{}", launch.name);
        // SAFETY: the library exports, for each kernel, a table under this name, and `fathom_emulate` of this type.
        let (kernel, run) = unsafe {
            let kernel = library.get::<*const c_void>(symbol.as_bytes());
            let kernel =
                kernel.map_err(|_| other(format!("{}.cu has no kernel {}", launch.module.name, launch.name)))?;
            let run = library.get::<Run>(b"fathom_emulate");
            (kernel.into_raw().into_raw() as *const c_void, *run.map_err(|e| other(e.to_string()))?)
        };
        let bytes = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let grid = launch.grid.map(bytes);
        #[cfg(test)]
        let grid = [grid[0] - u32::from(self.shrink && grid[0] > 1), grid[1], grid[2]];
        let mut message = [0u8; 512];
        let _report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the kernel's table and the function are of one library; the argument's size is passed and compared
        // with the kernel's own; the message buffer has the size that is passed. Addresses in the argument come from
        // views, which lie in live buffers, and every access is checked against the view's extent.
        let failed = unsafe {
            run(
                kernel,
                grid.as_ptr(),
                launch.threads,
                bytes(launch.shared),
                launch.args.as_ptr().cast(),
                bytes(launch.args.len()),
                self.options.order(),
                message.as_mut_ptr().cast(),
                message.len() as u32,
            )
        };
        if failed == 0 {
            return Ok(());
        }
        let message = CStr::from_bytes_until_nul(&message).map(CStr::to_string_lossy).unwrap_or_default();
        Err(other(format!("emulator: {message}")))
    }

    fn tensor_map(&self, boxes: &Boxes) -> Result<TensorMap, CudaError> {
        boxes.emulated()
    }

    fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), CudaError> {
        // SAFETY: the caller checked that the range lies in a buffer of `alloc`, which is host memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        // SAFETY: as for `upload`.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn report(&self) -> u64 {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).as_ptr() as u64
    }

    fn take_report(&self) -> Option<KernelReport> {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let [code, site, value, limit] = std::mem::take(&mut **report);
        (code != 0).then_some(KernelReport { code, site, value, limit })
    }

    fn warm_up(&self, done: &(dyn Fn(usize, usize) + Sync)) -> Result<(), CudaError> {
        MODULES.iter().enumerate().try_for_each(|(i, &module)| {
            self.library(module)?;
            done(i + 1, MODULES.len());
            Ok(())
        })
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let left: Vec<u64> = self.blocks.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        left.into_iter().for_each(|address| self.free(address));
    }
}
