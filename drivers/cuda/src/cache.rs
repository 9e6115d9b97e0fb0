//! Cache of compiled kernels on disk, keyed by a hash of all inputs of the compiler.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use fathom_core::error::ErrorKind;
use sha2::{Digest, Sha256};

use crate::error::CudaError;

/// The cache folder: `FATHOM_CUDA_CACHE`, else `fathom/cuda` in the user's cache folder.
pub(crate) fn folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("FATHOM_CUDA_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|p| p.join("fathom/cuda")))
        .or_else(|| set("HOME").map(|p| p.join(".cache/fathom/cuda")))
        .unwrap_or_else(|| std::env::temp_dir().join("fathom-cuda"))
}

/// A hash of `parts`, in hexadecimal digits.
pub(crate) fn key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().take(16).fold(String::new(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

/// The path of the cached file `name`; if it does not exist, `make` writes it to a temporary path, which is then
/// renamed.
///
/// Several processes may make the file at once: the first rename wins, and no process sees half a file.
pub(crate) fn file(name: &str, make: impl FnOnce(&Path) -> Result<(), CudaError>) -> Result<PathBuf, CudaError> {
    let folder = folder();
    let path = folder.join(name);
    if path.is_file() {
        return Ok(path);
    }
    let failed = |what: &str, at: &Path, e: std::io::Error| {
        let message =
            format!("cannot {what} {}: {e}; set FATHOM_CUDA_CACHE to a folder that can be written", at.display());
        CudaError::new(ErrorKind::Other, message)
    };
    fs::create_dir_all(&folder).map_err(|e| failed("create", &folder, e))?;
    let thread = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "");
    let draft = folder.join(format!(".{}-{thread}-{name}", std::process::id()));
    make(&draft)?;
    fs::rename(&draft, &path).map_err(|e| failed("rename a file to", &path, e))?;
    Ok(path)
}
