//! What the tests share: golden files, and a model loaded from them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fathom_core::config::ModelConfig;
use fathom_core::device::Kernels;
use fathom_core::layer::Precision;
use fathom_core::model::Model;
use safetensors::{Dtype, SafeTensors};

/// One case of the golden references: a checkpoint, and numbers that transformers computed from it.
pub struct Golden {
    /// The model's configuration.
    pub config: ModelConfig,
    /// The checkpoint's tensors.
    pub weights: BTreeMap<String, Vec<f32>>,
    /// Golden tensors.
    pub floats: BTreeMap<String, Vec<f32>>,
    /// Golden token ids, with their shape.
    pub tokens: BTreeMap<String, (Vec<usize>, Vec<u32>)>,
}

impl Golden {
    /// Reads `tests/golden/CASE`.
    ///
    /// # Panics
    /// Where a file is missing or not what it should be.
    pub fn load(case: &str) -> Self {
        let folder = golden_folder().join(case);
        let (weights, _) = tensors(&folder.join("model.safetensors"));
        let (floats, tokens) = tensors(&folder.join("golden.safetensors"));
        let text = std::fs::read_to_string(folder.join("config.json")).expect("a config.json");
        Self { config: serde_json::from_str(&text).expect("a valid configuration"), weights, floats, tokens }
    }

    /// The model of this case on `device`.
    ///
    /// # Panics
    /// Where a parameter is missing.
    pub fn model<D: Kernels>(&self, device: &D, precision: Precision) -> Model<D> {
        let mut model = Model::new(device, &self.config, precision).expect("a model");
        let layout = model.architecture().layout().clone();
        for parameter in layout.parameters() {
            let values = &self.weights[&parameter.name];
            let mut bytes = Vec::new();
            for &x in values {
                match precision {
                    p if p == Precision::F64 => bytes.extend(f64::from(x).to_le_bytes()),
                    _ => bytes.extend(x.to_le_bytes()),
                }
            }
            model.weights_mut().write(device, parameter, &bytes).expect("a parameter of the right size");
        }
        for router in &mut model.routers {
            if let Some(name) = &router.bias_name {
                router.bias.upload(device, &self.weights[name]).expect("a bias of the right size");
            }
        }
        model
    }
}

/// Where the golden files are.
pub fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Values by name.
pub type Floats = BTreeMap<String, Vec<f32>>;
/// Shapes and token ids by name.
pub type Tokens = BTreeMap<String, (Vec<usize>, Vec<u32>)>;

/// The float and integer tensors of a safetensors file.
///
/// # Panics
/// Where it is not one.
pub fn tensors(path: &Path) -> (Floats, Tokens) {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
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
