#!/usr/bin/env bash
# ctrlc 3.5.2 (crates.io) with the feature `termination`: its handler takes SIGHUP also where the program was started with SIGHUP ignored, as
# `nohup` does it, so that a long run under nohup is asked to stop when the terminal closes. A program without the crate lives on.
# Seen: with ctrlc the handler runs at SIGHUP; without it nothing happens.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
cat > "$work/Cargo.toml" <<'TOML'
[package]
name = "ctrlc_nohup"
version = "0.0.0"
edition = "2021"
[dependencies]
ctrlc = { version = "=3.5.2", features = ["termination"] }
TOML
cat > "$work/src/main.rs" <<'RUST'
use std::{process::exit, thread::sleep, time::Duration};

fn main() {
    if std::env::args().nth(1).as_deref() == Some("handled") {
        ctrlc::set_handler(|| {
            println!("asked to stop");
            exit(0)
        })
        .unwrap();
    }
    println!("ready");
    sleep(Duration::from_secs(3));
    println!("lived on");
}
RUST
(cd "$work" && CARGO_TARGET_DIR="$work/target" cargo build --quiet)
run() {
  nohup "$work/target/debug/ctrlc_nohup" "$1" > "$work/$1" 2>/dev/null &
  local pid=$!
  until grep -q ready "$work/$1"; do sleep 0.1; done
  kill -HUP "$pid"
  wait "$pid"
  printf '%s: %s\n' "$1" "$(tail -n 1 "$work/$1")"
}
seen=$(run handled; run plain)
printf '%s\n' "$seen"
if [ "$seen" != $'handled: asked to stop\nplain: lived on' ]; then echo changed >&2; exit 1; fi
