//! A program without `std` computes the same bits as the same model under `std`.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::path::Path;
use std::process::Command;

use fathom_core::cache::{Cache, CacheFormat, CacheOptions};
use fathom_core::config::ModelConfig;
use fathom_core::device::Host;
use fathom_core::layer::Phase;
use fathom_core::model::{Batch, Chunk, Model};
use fathom_core::precision::Precision;

#[test]
fn a_model_runs_without_std_and_gives_the_same_bits() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = root.join("target/freestanding");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["run", "--release", "--quiet", "--manifest-path"])
        .arg(root.join("core/freestanding/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env_remove("RUSTFLAGS")
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));

    let config = ModelConfig {
        vocab_size: 64,
        hidden_size: 32,
        num_hidden_layers: 2,
        n_routed_experts: 8,
        num_nextn_predict_layers: 0,
        ..ModelConfig::tiny()
    };
    let device = Host::new();
    let mut model = Model::new(&device, &config, Precision::F32).unwrap();
    model.initialize(1).unwrap();
    let tokens = [3, 1, 4, 1, 5, 9, 2, 6, 0];
    let logits = model.logits(&Batch::new(&tokens, 8, None, 64).unwrap()).unwrap();
    let logits: Vec<f32> = logits.download(&device).unwrap();
    let sum = logits.iter().fold(0u64, |sum, x| sum.rotate_left(5) ^ u64::from(x.to_bits()));
    assert!(said.starts_with(&format!("{sum:016x}")), "std gives {sum:016x}, without std: {said}");

    let options = CacheOptions { format: CacheFormat::Fp8, page_tokens: 4, pages: 4, mtp: 0 };
    let mut cache = Cache::new(&device, &config, options).unwrap();
    let (mut tokens, mut done, mut all) = (tokens[..8].to_vec(), 0, 0);
    while tokens.len() <= 16 {
        let phase = if done == 0 { Phase::Prefill } else { Phase::Decode };
        let chunk = Chunk { tokens: &tokens[done..], start: done, pages: &[0, 1, 2, 3], phase, logits: 1 };
        let logits: Vec<f32> = model.extend(&mut cache, &[chunk]).unwrap().logits.download(&device).unwrap();
        all ^= logits.iter().fold(0u64, |sum, x| sum.rotate_left(5) ^ u64::from(x.to_bits()));
        done = tokens.len();
        tokens.push((0..64).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32);
    }
    let want = format!("{all:016x} decoded to token {}", tokens[16]);
    assert!(said.contains(&want), "std gives {want}, without std: {said}");

    let binary = std::fs::read(target.join("release/fathom-freestanding")).expect("it was built");
    for symbol in [&b"__libc_start_main"[..], b"_ZN3std", b"libstd"] {
        assert!(!binary.windows(symbol.len()).any(|part| part == symbol), "std or libc is in the link");
    }
}
