//! Reads a model folder for inference: each matrix once, in the type of its file or in another that is asked for.
//!
//! Files are streamed into the device about a million elements at a time, so that a model takes little more memory than
//! its files do.

use super::error::HfError;
use super::folder::read_config;
use super::names::{ModelTensor, Place};
use super::read::{Checked, ModelFiles, compare_copies};
use super::safetensors::ElementType;
use fathom_core::config::ModelConfig;
use fathom_core::device::Kernels;
use fathom_core::fp8::{Blocks, TILE};
use fathom_core::model::Model;
use fathom_core::precision::Precision;
use fathom_core::weights::{Lowest, Parameter, Rows, Slot, Storage};
use std::path::Path;

/// The type that the matrices of a model for inference are stored in.
///
/// The router is always f32, and so are vectors. f16 is widened to f32, which is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// As the files have them: F32, BF16, or F8_E4M3 with scales of 128×128 blocks. Experts of a layer that differ in
    /// type become f32.
    #[default]
    Stored,
    /// BF16.
    Bf16,
    /// E4M3 with scales of 128×128 blocks where published FP8 checkpoints have them; BF16 elsewhere.
    Fp8,
    /// f32.
    F32,
}

impl Weights {
    /// The names that [`parse`](Self::parse) takes.
    pub const NAMES: [&'static str; 4] = ["stored", "bf16", "fp8", "f32"];

    /// The choice of that name.
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Stored, Self::Bf16, Self::Fp8, Self::F32];
        Self::NAMES.iter().position(|known| *known == name).map(|at| all[at])
    }

    /// What a tensor of the matrix `slot` is stored in, if its file has it in `dtype`, with scales of `block`.
    fn storage(self, slot: &Slot, dtype: ElementType, block: Option<[usize; 2]>) -> Storage {
        let lowest = slot.lowest();
        match self {
            _ if lowest == Lowest::Master => Storage::F32,
            Self::Fp8 if lowest == Lowest::Fp8 => Storage::Fp8,
            Self::Bf16 | Self::Fp8 => Storage::Bf16,
            Self::F32 => Storage::F32,
            Self::Stored => match dtype {
                ElementType::BF16 => Storage::Bf16,
                ElementType::E4M3 if lowest == Lowest::Fp8 && block == Some([TILE, TILE]) => Storage::Fp8,
                _ => Storage::F32,
            },
        }
    }
}

/// How a model is read for inference.
#[derive(Clone, Copy, Debug)]
pub struct Inference {
    /// What matrices are stored in.
    pub weights: Weights,
    /// What activations are.
    pub precision: Precision,
    /// Take the moving average of the weights that training kept, in place of the last weights.
    pub average: bool,
    /// Read the multi-token-prediction (MTP) modules too, as many as the folder holds: they draft tokens.
    pub mtp: bool,
}

impl Default for Inference {
    fn default() -> Self {
        Self { weights: Weights::Stored, precision: Precision::F32, average: false, mtp: false }
    }
}

/// Builds the model for inference that the checkpoint in `folder` describes, and fills it. `progress` gets the bytes
/// read so far and those of all files. Warnings for what is unusual but harmless are given too.
///
/// # Errors
/// Those of [`read_config`] and [`ModelFiles::open`]; all tensors that are missing, unexpected or of the wrong shape,
/// in one error; a weight that is no number; [`HfError::NoAverage`].
pub fn load_for_inference<D: Kernels>(
    device: &D,
    folder: &Path,
    options: &Inference,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Model<D>, Vec<String>), HfError> {
    let mut files = if options.average { ModelFiles::open_average(folder)? } else { ModelFiles::open(folder)? };
    let mut warnings = files.warnings().to_vec();
    let mut config = ModelConfig { quantization_config: None, ..read_config(folder)? };
    let modules = (0..config.num_nextn_predict_layers).take_while(|i| files.has_layer(config.num_hidden_layers + i));
    config.num_nextn_predict_layers = if options.mtp { modules.count() } else { 0 };
    let mut model =
        Model::for_inference(device, &config, options.precision).map_err(HfError::device("the whole model"))?;
    let checked = files.check(&model, &[])?;
    reserve(&mut model, &checked, options.weights)?;

    let total = checked.iter().map(|tensor| tensor.bytes).sum();
    let (mut done, mut buffers) = (0, Buffers::default());
    for Checked { tensor: ModelTensor { name, shape, place }, bytes, .. } in checked {
        let read = |done: u64| progress(done, total);
        match place {
            Place::Copy(_) => {}
            Place::Weight(parameter) if parameter.is_matrix() => {
                store(&mut model, &mut files, &parameter, &mut buffers, done, read)?;
            }
            Place::Weight(_) | Place::Bias(_) => {
                files.read(&name, &shape, &mut buffers.values)?;
                files.check_finite(&name, &buffers.values)?;
                let written = match place {
                    Place::Bias(number) => model.routers[number].bias.upload(device, &buffers.values),
                    Place::Weight(parameter) | Place::Copy(parameter) => {
                        model.weights_mut().write(device, &parameter, bytemuck::cast_slice(&buffers.values))
                    }
                };
                written.map_err(HfError::device(&name))?;
            }
        }
        done += bytes;
        progress(done, total);
    }
    compare_copies(&config, &mut files, &mut warnings)?;
    Ok((model, warnings))
}

/// Makes room for every matrix: a stack of parameters that want different types is f32.
fn reserve<D: Kernels>(model: &mut Model<D>, checked: &[Checked], weights: Weights) -> Result<(), HfError> {
    let slots = model.architecture().layout().weights().to_vec();
    let mut storages: Vec<Option<Storage>> = vec![None; slots.len()];
    for Checked { tensor, dtype, block, .. } in checked {
        if let Place::Weight(parameter) = &tensor.place
            && parameter.is_matrix()
        {
            let (index, wanted) = (parameter.slot.index(), weights.storage(&parameter.slot, *dtype, *block));
            storages[index] = Some(match storages[index] {
                Some(other) if other != wanted => Storage::F32,
                _ => wanted,
            });
        }
    }
    for (slot, storage) in slots.iter().zip(storages) {
        model.reserve(slot, storage.unwrap_or(Storage::F32)).map_err(HfError::device("the whole model"))?;
    }
    Ok(())
}

/// Memory that is used again for every piece of a tensor.
#[derive(Default)]
struct Buffers {
    bytes: Vec<u8>,
    values: Vec<f32>,
}

/// Reads a matrix into the model, piece by piece.
fn store<D: Kernels>(
    model: &mut Model<D>,
    files: &mut ModelFiles,
    parameter: &Parameter,
    Buffers { bytes, values }: &mut Buffers,
    before: u64,
    mut progress: impl FnMut(u64),
) -> Result<(), HfError> {
    let found = files.find(&parameter.name)?;
    let storage = model.storage(&parameter.slot);
    let size = found.entry.dtype.bits() / 8;
    for rows in found.chunks(TILE) {
        let first = rows.start;
        let stored = match (storage, found.entry.dtype) {
            (Some(Storage::Bf16), ElementType::BF16) => {
                files.read_stored(&found, rows.clone(), bytes)?;
                files.check_stored(&found, first, bytes)?;
                model.store(parameter, first, Rows::Bf16(bytes))
            }
            (Some(Storage::Fp8), ElementType::E4M3) if found.block() == Some([TILE, TILE]) => {
                files.read_stored(&found, rows.clone(), bytes)?;
                files.check_stored(&found, first, bytes)?;
                let blocks = Blocks { rows: found.rows, cols: found.cols, block: [TILE, TILE] };
                let [_, across] = blocks.scales();
                let scales = found.scales().unwrap_or_default();
                let scales = &scales[first / TILE * across..rows.end.div_ceil(TILE) * across];
                model.store(parameter, first, Rows::Fp8 { codes: bytes, scales })
            }
            _ => {
                files.read_rows(&found, rows.clone(), values)?;
                files.check_rows(&found, first, values)?;
                model.store(parameter, first, Rows::F32(values))
            }
        };
        stored.map_err(HfError::device(&parameter.name))?;
        progress(before + (rows.end * found.cols) as u64 * size);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_choice_and_no_other_is() {
        assert!(Weights::NAMES.iter().all(|name| Weights::parse(name).is_some()));
        assert_eq!((Weights::parse("fp8"), Weights::parse("FP8")), (Some(Weights::Fp8), None));
    }
}
