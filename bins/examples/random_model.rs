//! Writes a model folder of random weights, to measure inference with: the same seed gives the same files.
//!
//! ```text
//! cargo run --release --example random_model -- configs/infer_medium.json FOLDER [f32|bf16|fp8 [SEED]]
//! ```
//!
//! The folder must not exist. It takes the memory of the weights in f32.

use std::path::{Path, PathBuf};

use fathom::hf::write::Fill;
use fathom::hf::{Folder, Format, HfError, save_model};
use fathom_core::config::ModelConfig;
use fathom_core::model::Model;
use fathom_core::precision::Precision;
use fathom_cpu::Cpu;

/// A folder on disk.
struct Plain(PathBuf);

impl Folder for Plain {
    fn path(&self) -> &Path {
        &self.0
    }

    fn write(&mut self, path: &str, fill: Fill<'_>) -> Result<(), HfError> {
        let path = self.0.join(path);
        let failed = |source| HfError::Io { action: "write", path: path.clone(), source };
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path).map_err(failed)?);
        fill(&mut file, &path)?;
        file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let usage = "usage: random_model CONFIG.json FOLDER [f32|bf16|fp8 [SEED]]";
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, folder, options @ ..] = arguments.as_slice() else { return Err(usage.into()) };
    let format = Format::from_name(options.first().map_or("bf16", String::as_str)).ok_or(usage)?;
    let seed = options.get(1).map_or(Ok(0), |seed| seed.parse())?;
    let config: ModelConfig = serde_json::from_str(&std::fs::read_to_string(config)?)?;
    config.validate()?;
    std::fs::create_dir(folder).map_err(|error| format!("cannot create {folder}: {error}"))?;
    let mut model = Model::new(&Cpu::new(), &config, Precision::F32)?;
    model.initialize(seed)?;
    save_model(&mut Plain(folder.into()), &model, None, format, 4 << 30)?;
    println!("{folder}: random weights, seed {seed}, {}", format.name());
    Ok(())
}
