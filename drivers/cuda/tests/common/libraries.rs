//! Libraries that replace NVIDIA's in tests, built by the C compiler from `tests/stand_in`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds libraries into a folder: the source's name, the library's, and options of the compiler. False, with a message
/// on stderr, if there is no C compiler; under `CI` that is an error.
pub fn build(folder: &Path, libraries: &[(&str, &str, &[&str])]) -> Result<bool, String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand_in");
    for (source, library, options) in libraries {
        let mut cc = Command::new(std::env::var_os("CC").map_or_else(|| PathBuf::from("cc"), PathBuf::from));
        cc.args(["-shared", "-fPIC", "-O1", "-w"]).args(*options).arg("-o").arg(folder.join(library));
        cc.arg(sources.join(source)).args(["-lm", "-lpthread"]);
        match cc.output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => return Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(_) if std::env::var_os("CI").is_none() => {
                eprintln!("not tested: no C compiler");
                return Ok(false);
            }
            Err(error) => return Err(format!("no C compiler: {error}")),
        }
    }
    Ok(true)
}

/// This program again, for the ignored tests whose names begin with `only`, with the libraries of `folder`.
pub fn program(folder: &Path, only: &str) -> Result<Command, String> {
    let mut child = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
    child.args(["--ignored", "--test-threads=1", only]).env("LD_LIBRARY_PATH", folder);
    child.env("FATHOM_CUDA_LIBRARIES", folder).env("FATHOM_CUDA_CACHE", folder.join("cache"));
    for variable in ["FATHOM_CUDA_GRAPHS", "FATHOM_CUDA_BLAS", "FATHOM_CUDA_CHECK", "FATHOM_CUDA_NCCL"] {
        child.env_remove(variable);
    }
    Ok(child)
}

/// Runs a program; an error has all that it printed.
pub fn run(mut child: Command) -> Result<(), String> {
    let output = child.output().map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned());
    Err(format!("{}: {}", output.status, text.concat()))
}
