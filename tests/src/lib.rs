//! Shared parts of the tests: golden files, models loaded from them, and checks for any device.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

pub mod choices;
pub mod decode;
pub mod golden;
pub mod quantization;
pub mod steps;

pub use golden::Golden;

/// The folder of the golden files.
pub fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Values by name.
pub type Floats = BTreeMap<String, Vec<f32>>;
/// Shapes and token ids by name.
pub type Tokens = BTreeMap<String, (Vec<usize>, Vec<u32>)>;

/// Reads the float and integer tensors of a safetensors file.
///
/// # Panics
/// The file is missing or malformed.
pub fn tensors(path: &Path) -> (Floats, Tokens) {
    tensors_of(&std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

/// Reads the float and integer tensors of a safetensors file in memory.
///
/// # Panics
/// The file is missing or malformed.
pub fn tensors_of(bytes: &[u8]) -> (Floats, Tokens) {
    let file = SafeTensors::deserialize(bytes).expect("a safetensors file");
    let (mut floats, mut tokens) = (BTreeMap::new(), BTreeMap::new());
    for (name, view) in file.iter() {
        match view.dtype() {
            Dtype::F32 => {
                let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                floats.insert(name.to_string(), values.collect());
            }
            Dtype::I64 => {
                let values = view.data().chunks_exact(8).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                tokens.insert(name.to_string(), (view.shape().to_vec(), values.collect()));
            }
            other => panic!("{name}: unexpected type {other:?}"),
        }
    }
    (floats, tokens)
}
