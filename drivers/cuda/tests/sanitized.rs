//! The conformance suite with kernels compiled under AddressSanitizer.
//!
//! AddressSanitizer finds accesses outside a buffer that a wrong view allows.

use std::path::PathBuf;
use std::process::Command;

use fathom_conformance::Options;
use fathom_cuda::{Cuda, Emulation};

const MARK: &str = "FATHOM_SANITIZED";

/// The program is started again with the sanitizer's runtime, which must come before all others.
#[test]
fn conformance_under_address_sanitizer() {
    if std::env::var_os(MARK).is_some() {
        let device = Cuda::emulated(Emulation { sanitize: true, ..Emulation::default() }).unwrap();
        let outcomes = fathom_conformance::run_with(&device, &Options { cases: 4, ..Options::default() });
        // The driver has no F64, which conversions are from and to as well.
        assert!(outcomes.iter().all(|o| o.unsupported == 0 || o.name == "conversions"), "{outcomes:?}");
        return;
    }
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let found = Command::new(compiler).arg("-print-file-name=libasan.so").output();
    let runtime = found.ok().and_then(|o| String::from_utf8(o.stdout).ok()).map(|path| PathBuf::from(path.trim()));
    let Some(runtime) = runtime.filter(|path| path.is_absolute()) else {
        assert!(std::env::var_os("CI").is_none(), "AddressSanitizer's runtime is not installed");
        eprintln!("not tested: AddressSanitizer's runtime is not installed");
        return;
    };
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "conformance_under_address_sanitizer", "--nocapture"])
        .env("LD_PRELOAD", runtime)
        .env("ASAN_OPTIONS", "detect_leaks=0:verify_asan_link_order=0")
        .env(MARK, "1")
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
}
