//! `train` without arguments: the whole way, from text that is on the machine to a model that writes.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use fathom_core::device::Kernels;

use crate::checkpoint::{self, CheckpointError};
use crate::error::{Error, Result};
use crate::generate::Sampling;
use crate::prepare;
use crate::session::Session;
use crate::settings::Settings;
use crate::trainer::Run;

/// The settings; `configs/quickstart.toml` as it was when the program was built.
const CONFIG: &str = include_str!("../../configs/quickstart.toml");
/// Text of last resort.
const README: &str = include_str!("../../README.md");
/// Where everything goes.
const OUTPUT: &str = "runs/quickstart";
/// Less text than this is not worth training on.
const ENOUGH: u64 = 200_000;

/// Prepares, trains, measures and samples, with a word on each.
///
/// # Errors
/// Those of its parts.
pub fn run<D: Kernels>(device: &D, stop: &AtomicBool) -> Result<()> {
    let start = Instant::now();
    let output = Path::new(OUTPUT);
    std::fs::create_dir_all(output).map_err(Error::io("create", output))?;
    let config = output.join("quickstart.toml");
    std::fs::write(&config, CONFIG).map_err(Error::io("write", &config))?;
    let data = output.join("data");
    let settings = Settings::load(Some(&config), &[format!("data.path={}", data.display())])?;

    eprintln!("1. Text on this machine, into tokens");
    let mut prep = settings.prep.clone();
    prep.output.dir = data;
    prep.input.paths = corpus(output)?;
    for path in &prep.input.paths {
        eprintln!("  {}", path.display());
    }
    let summary = prepare::run(&prep)?;
    eprint!("{}", prepare::describe(&summary));

    let model_folder = output.join("model");
    eprintln!("\n2. Training");
    let mut run = open(device, settings, &model_folder)?;
    let count = fathom_core::config::ParameterCount::of(run.config());
    eprintln!(
        "  {:.1} M parameters, {:.1} M active a token; latent attention, {} experts of which {} a token",
        count.parameters() as f64 / 1e6,
        count.active_parameters() as f64 / 1e6,
        run.config().n_routed_experts,
        run.config().num_experts_per_tok
    );
    let outcome = run.train(stop)?;
    drop(run);
    if outcome.interrupted {
        eprintln!("stopped after step {} and saved; `train` again goes on", outcome.step);
        return Ok(());
    }

    eprintln!("\n3. How good it is, on text it has not seen");
    if let Some(v) = &outcome.validation {
        let bits = v.bits_per_byte.map_or(String::new(), |b| format!(", {b:.3} bits per byte"));
        println!("validation loss {:.4}, perplexity {:.2}{bits} ({} tokens)", v.loss, v.perplexity, v.tokens);
    }
    eprintln!("\n4. What it writes");
    let mut session = Session::load(device, &outcome.checkpoint)?;
    let sampling = Sampling { max_new_tokens: 80, temperature: 0.7, top_p: 0.95, seed: 1, ..Sampling::default() };
    let prompt = "/// Returns ";
    let generated = session.generate(prompt, &sampling, |_| true)?;
    println!("{prompt}{}", generated.text);

    let folder = model_folder.display();
    eprintln!("\nDone in {:.0} s. Next:", start.elapsed().as_secs_f64());
    eprintln!("  cargo run --release --bin generate -- --checkpoint {folder} --prompt 'pub fn '");
    eprintln!("  cargo run --release --bin eval -- --checkpoint {folder} --data {OUTPUT}/data");
    eprintln!("  cargo run --release --bin train -- --config configs/shakespeare.toml ... (see README.md)");
    Ok(())
}

/// The run in `folder` where it was stopped. One that is finished, or was of another corpus or program, is removed: the
/// quickstart starts over.
fn open<D: Kernels>(device: &D, settings: Settings, folder: &Path) -> Result<Run<D>> {
    let (_, steps) = settings.budget()?;
    if let Some((step, _)) = checkpoint::list(folder)?.into_iter().next().filter(|(step, _)| *step < steps) {
        match Run::open(device, settings.clone(), folder, true) {
            Ok(run) => {
                eprintln!("  going on after step {step}, where the last run was stopped");
                return Ok(run);
            }
            Err(Error::Checkpoint(CheckpointError::ConfigDiffers { .. }))
            | Err(Error::Data(fathom_dataprep::Error::CursorMismatch { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    if folder.exists() {
        eprintln!("  {} is of an earlier run: starting over", folder.display());
        std::fs::remove_dir_all(folder).map_err(Error::io("remove", folder))?;
    }
    Run::open(device, settings, folder, false)
}

/// Folders with text: this repository, and the sources of Rust crates that cargo has downloaded.
fn corpus(output: &Path) -> Result<Vec<PathBuf>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let repository = repository.canonicalize().ok().filter(|path| path.join("Cargo.toml").is_file());
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME").or_else(|| std::env::var_os("USERPROFILE"))?;
        Some(PathBuf::from(home).join(".cargo"))
    });
    let registry = cargo.map(|path| path.join("registry").join("src")).filter(|path| path.is_dir());
    let mut paths = Vec::new();
    if let Some(root) = repository {
        // Folder by folder: the run's own output lies in the repository too.
        let parts = ["README.md", "ARCHITECTURE.md", "core", "drivers", "dataprep", "bins"];
        paths.extend(parts.iter().map(|part| root.join(part)).filter(|path| path.exists()));
    }
    paths.extend(registry);
    if paths.iter().map(|path| size(path)).sum::<u64>() < ENOUGH {
        let fallback = output.join("readme.md");
        std::fs::write(&fallback, README.repeat(40)).map_err(Error::io("write", &fallback))?;
        paths.push(fallback);
    }
    Ok(paths)
}

/// Bytes under a path, counted no further than is enough.
fn size(path: &Path) -> u64 {
    let (mut total, mut open) = (0, vec![path.to_path_buf()]);
    while let Some(path) = open.pop() {
        if total >= ENOUGH {
            break;
        }
        match std::fs::read_dir(&path) {
            Ok(entries) => open.extend(entries.flatten().map(|entry| entry.path())),
            Err(_) => total += std::fs::metadata(&path).map_or(0, |m| m.len()),
        }
    }
    total
}
