#!/usr/bin/env bash
# half 2.7.1 (crates.io): bf16::from_f64 and f16::from_f64 read the upper 32 bits of the f64 only, so a value above a tie by
# less than 2^-20 of its leading bit rounds down to even, as if it were the tie. Rounding to nearest would go up.
# Rounding twice by way of f32 is no general cure, but keeps these values.
# Seen: f64 1 + 2^-8 + 2^-22 to bf16 gives 0x3f80 (nearest: 0x3f81); f64 1 + 2^-11 + 2^-24 to f16 gives 0x3c00 (nearest: 0x3c01).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
cat > "$work/Cargo.toml" <<'TOML'
[package]
name = "half_from_f64"
version = "0.0.0"
edition = "2021"
[dependencies]
half = "=2.7.1"
TOML
cat > "$work/src/main.rs" <<'RUST'
use half::{bf16, f16};

fn main() {
    let above_bf16 = 1.0 + 2f64.powi(-8) + 2f64.powi(-22);
    let above_f16 = 1.0 + 2f64.powi(-11) + 2f64.powi(-24);
    println!("bf16 {:#06x} {:#06x}", bf16::from_f64(above_bf16).to_bits(), bf16::from_f32(above_bf16 as f32).to_bits());
    println!("f16 {:#06x}", f16::from_f64(above_f16).to_bits());
    // A little further from the tie, inside the upper 32 bits, both are right.
    println!("bf16 {:#06x}", bf16::from_f64(1.0 + 2f64.powi(-8) + 2f64.powi(-20)).to_bits());
    println!("f16 {:#06x}", f16::from_f64(1.0 + 2f64.powi(-11) + 2f64.powi(-20)).to_bits());
}
RUST
seen=$(cd "$work" && CARGO_TARGET_DIR="$work/target" cargo run --quiet)
printf '%s\n' "$seen"
expected='bf16 0x3f80 0x3f81
f16 0x3c00
bf16 0x3f81
f16 0x3c01'
if [ "$seen" != "$expected" ]; then echo "changed: expected" >&2; printf '%s\n' "$expected" >&2; exit 1; fi
