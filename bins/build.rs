//! Notes the version of the compiler, for `fathom doctor`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC");
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(compiler).arg("--version").output().ok();
    let version = version.and_then(|output| String::from_utf8(output.stdout).ok());
    let version = version.as_deref().map(str::trim).filter(|text| !text.is_empty());
    println!("cargo::rustc-env=FATHOM_RUSTC={}", version.unwrap_or("an unknown rustc"));
}
