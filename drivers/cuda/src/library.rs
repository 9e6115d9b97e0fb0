//! Search for NVIDIA's libraries at run time; building and starting the program needs none of them.

use std::ffi::{CStr, c_char};
use std::fs;
use std::path::{Path, PathBuf};

use fathom_core::error::ErrorKind;
use libloading::Library;

use crate::error::CudaError;

/// Folders to search, in this order: those of `FATHOM_CUDA_LIBRARIES` (separated as in `PATH`), of a CUDA toolkit, and
/// of the Python packages beside any `python3` on the `PATH`.
fn folders() -> Vec<PathBuf> {
    let list = |name: &str| -> Vec<PathBuf> {
        std::env::var_os(name).map(|v| std::env::split_paths(&v).collect()).unwrap_or_default()
    };
    let mut folders = list("FATHOM_CUDA_LIBRARIES");
    for home in ["CUDA_HOME", "CUDA_PATH"].iter().flat_map(|name| list(name)) {
        folders.push(home.join("lib64"));
        folders.push(home.join("lib"));
    }
    folders.push("/usr/local/cuda/lib64".into());
    let mut prefixes: Vec<PathBuf> = list("VIRTUAL_ENV");
    prefixes.extend(list("PATH").iter().filter_map(|bin| Some(bin.parent()?.to_path_buf())));
    prefixes.extend(list("HOME").iter().map(|home| home.join(".local")));
    for prefix in prefixes {
        for version in entries(&prefix.join("lib"), "python3") {
            for packages in ["site-packages", "dist-packages"] {
                for package in ["nvidia/cu13/lib", "nvidia/nccl/lib"] {
                    folders.push(version.join(packages).join(package));
                }
            }
        }
    }
    folders.retain(|f| !f.as_os_str().is_empty() && f.is_dir());
    folders
}

/// Paths in a folder whose names begin with `start`, sorted.
fn entries(folder: &Path, start: &str) -> Vec<PathBuf> {
    let Ok(all) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = all
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(start)))
        .collect();
    found.sort();
    found
}

fn load(path: &Path) -> Result<Library, libloading::Error> {
    // Symbols are global, so that NVRTC finds its builtins.
    #[cfg(unix)]
    {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        // SAFETY: loading NVIDIA's libraries only initialises them.
        unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map(Into::into)
    }
    #[cfg(not(unix))]
    // SAFETY: as above.
    unsafe {
        Library::new(path)
    }
}

/// Loads the first library named in `names` that is found, and never unloads it.
///
/// Files beside it whose names begin with `companion` are loaded first. `what` and `remedy` go into the error message:
/// the library, and how to install it.
pub(crate) fn find(
    what: &str,
    names: &[&str],
    companion: Option<&str>,
    remedy: &str,
) -> Result<&'static Library, CudaError> {
    let folders = folders();
    let mut failures = String::new();
    let in_folders = folders.iter().flat_map(|f| names.iter().map(move |n| (Some(f), f.join(n))));
    let by_name = names.iter().map(|n| (None, PathBuf::from(n)));
    for (folder, path) in in_folders.filter(|(_, p)| p.is_file()).chain(by_name) {
        if let (Some(folder), Some(start)) = (folder, companion) {
            for file in entries(folder, start) {
                if let Ok(library) = load(&file) {
                    std::mem::forget(library);
                }
            }
        }
        match load(&path) {
            Ok(library) => return Ok(Box::leak(Box::new(library))),
            Err(error) => failures.push_str(&format!("\n  {}: {error}", path.display())),
        }
    }
    let message = format!(
        "cannot load {what}: {remedy}, and put its folder into FATHOM_CUDA_LIBRARIES or LD_LIBRARY_PATH. \
         Tried:{failures}"
    );
    Err(CudaError::new(ErrorKind::Other, message))
}

/// Loads the library of file `path`, which the environment variable `variable` names, and never unloads it.
pub(crate) fn named(what: &str, path: &Path, variable: &str) -> Result<&'static Library, CudaError> {
    load(path).map(|library| &*Box::leak(Box::new(library))).map_err(|error| {
        CudaError::new(ErrorKind::Other, format!("cannot load {what}, from {variable}={}: {error}", path.display()))
    })
}

/// Looks up the function `name` of a library.
///
/// # Safety
/// `F` must be the function's type.
pub(crate) unsafe fn function<F: Copy>(library: &'static Library, name: &'static CStr) -> Result<F, CudaError> {
    // SAFETY: as promised by the caller; the library is never unloaded.
    let found = unsafe { library.get::<F>(name.to_bytes_with_nul()) };
    found.map(|symbol| *symbol).map_err(|error| {
        let message = format!("the library has no function {}: {error}", name.to_string_lossy());
        CudaError::new(ErrorKind::Other, message)
    })
}

/// Copies a C string of a library; `unknown` for a null pointer.
pub(crate) fn text(text: *const c_char) -> String {
    if text.is_null() {
        return "unknown".into();
    }
    // SAFETY: not null, and the vendor's functions return texts that end and that live as long as the library.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
