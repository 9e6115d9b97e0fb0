//! The whole model: which layers it has, where its parameters lie, and its forward and backward pass.

mod backward;
mod decode;
mod forward;
mod store;

use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Mutex;

pub use backward::{LossScales, Losses};
pub use decode::{Chunk, Draft, Extended};
pub use forward::{Batch, Inputs, Kept, Scores, Sources};
pub use store::{Sink, Store};

use crate::config::ModelConfig;
use crate::device::{Cast, Fill, Kernels, RandomNormal};
use crate::error::InvalidOp;
use crate::layer::block::Block;
use crate::layer::embedding::Embedding;
use crate::layer::head::Head;
use crate::layer::moe::{LoadCount, Moe, RouterState};
use crate::layer::mtp::Mtp;
use crate::layer::rmsnorm::RmsNorm;
use crate::layer::rope;
use crate::precision::Precision;
use crate::tensor::{Tensor, ViewMut};
use crate::weights::{Copies, Layout, Lowest, Parameter, Parameters, Rows, Slot, Storage, layer_prefix};

/// The layers of a model and the layout of their parameters. No weights.
#[derive(Clone, Debug)]
pub struct Architecture {
    config: ModelConfig,
    layout: Layout,
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Head,
    mtp: Vec<Mtp>,
}

impl Architecture {
    /// The layers that `config` describes. The configuration must be [valid](ModelConfig::validate).
    pub fn new(config: &ModelConfig) -> Self {
        let mut layout = Layout::default();
        let (v, d) = (config.vocab_size, config.hidden_size);
        let mut with_experts = 0;
        let mut number = |index: usize| {
            config.is_moe_layer(index).then(|| {
                with_experts += 1;
                with_experts - 1
            })
        };
        layout.open_group();
        let embedding = {
            let lowest = if config.tie_word_embeddings { Lowest::Bf16 } else { Lowest::Lookup };
            Embedding::declare(&mut layout, "model.embed_tokens.weight".into(), v, d, lowest)
        };
        let mut blocks = Vec::new();
        for index in 0..config.num_hidden_layers {
            layout.open_group();
            blocks.push(Block::declare(&mut layout, &layer_prefix(index), config, number(index)));
        }
        layout.open_group();
        let norm = RmsNorm::declare(&mut layout, "model.norm.weight".into(), d, config.rms_norm_eps);
        let head = if config.tie_word_embeddings {
            Head::tied(*embedding.weight())
        } else {
            Head::declare(&mut layout, "lm_head.weight".into(), v, d)
        };
        let mut mtp = Vec::new();
        for index in config.num_hidden_layers..config.num_hidden_layers + config.num_nextn_predict_layers {
            layout.open_group();
            mtp.push(Mtp::declare(&mut layout, &layer_prefix(index), config, number(index)));
        }
        Self { config: *config, layout, embedding, blocks, norm, head, mtp }
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Names, shapes and places of the parameters.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The group of the embedding. They are numbered as they are declared in [`new`](Self::new).
    pub(crate) fn embedding_group(&self) -> usize {
        0
    }

    /// The group of a layer of the trunk.
    pub(crate) fn block_group(&self, index: usize) -> usize {
        1 + index
    }

    /// The group of the final norm and of the head, where the embedding is not the head.
    pub(crate) fn head_group(&self) -> usize {
        1 + self.blocks.len()
    }

    /// The group of an MTP module.
    pub(crate) fn mtp_group(&self, index: usize) -> usize {
        2 + self.blocks.len() + index
    }

    /// The layers with experts, MTP modules included, in order.
    pub fn experts(&self) -> impl Iterator<Item = &Moe> {
        self.blocks.iter().chain(self.mtp.iter().map(Mtp::block)).filter_map(Block::experts)
    }
}

/// A model with its weights on a device.
pub struct Model<D: Kernels> {
    device: D,
    architecture: Architecture,
    precision: Precision,
    weights: Parameters<D>,
    copies: Mutex<LazyCopies<D>>,
    /// Expert bias of every layer with experts.
    pub routers: Vec<RouterState<D>>,
    /// Cosines and sines of every position used so far. A pass keeps the table it began with.
    rope: Mutex<Arc<Tensor<D>>>,
    /// Positions of the last batch's tokens, which the next one of its shape has too.
    places: Mutex<Option<Places<D>>>,
}

/// What depends on a batch's shape alone.
struct Places<D: Kernels> {
    /// Sequences, and tokens of each.
    shape: [usize; 2],
    positions: Arc<Tensor<D>>,
    /// Where each sequence is one document.
    starts: Arc<Tensor<D>>,
}

/// What low-precision products read in place of the weights, if anything, made by the first pass that needs it.
struct LazyCopies<D: Kernels> {
    copies: Arc<Copies<D>>,
    /// The weights changed since the copies were made.
    stale: bool,
}

impl<D: Kernels> Model<D> {
    /// A model whose weights are all zero; see [`initialize`](Self::initialize).
    pub fn new(device: &D, config: &ModelConfig, precision: Precision) -> Result<Self, D::Error> {
        let architecture = Architecture::new(config);
        let weights = Parameters::zeros(device, architecture.layout(), precision.master())?;
        let copies = Copies::new(device, architecture.layout(), &precision)?;
        Self::with(device, architecture, precision, weights, copies)
    }

    /// One rank's part of a model, the elements `held` of each group; all zero. A pass has to be given a
    /// [`Store`] that brings the weights together.
    pub fn part(
        device: &D,
        config: &ModelConfig,
        precision: Precision,
        held: Vec<core::ops::Range<usize>>,
    ) -> Result<Self, D::Error> {
        let architecture = Architecture::new(config);
        let weights = Parameters::part(device, architecture.layout(), precision.master(), held)?;
        let copies = Copies::none(architecture.layout());
        Self::with(device, architecture, precision, weights, copies)
    }

    /// A model for inference alone: vectors are zero, and matrices are to be [stored](Self::store), each once, in its
    /// own type. `precision` says what activations are.
    ///
    /// Where activations are f32, prefill rounds those that BF16 weights are multiplied with to BF16, as the weights
    /// are; decoding rounds none.
    pub fn for_inference(device: &D, config: &ModelConfig, precision: Precision) -> Result<Self, D::Error> {
        let architecture = Architecture::new(config);
        let weights = Parameters::vectors(device, architecture.layout(), precision.master())?;
        let copies = Copies::stored(architecture.layout());
        Self::with(device, architecture, precision, weights, copies)
    }

    fn with(
        device: &D,
        architecture: Architecture,
        precision: Precision,
        weights: Parameters<D>,
        copies: Copies<D>,
    ) -> Result<Self, D::Error> {
        let routers =
            architecture.experts().map(|m| m.state(device, precision.statistics())).collect::<Result<_, _>>()?;
        let rope = rope::table(device, architecture.config(), 1, precision.statistics())?;
        let copies = Arc::new(copies);
        Ok(Self {
            device: device.clone(),
            architecture,
            precision,
            weights,
            copies: Mutex::new(LazyCopies { copies, stale: true }),
            routers,
            rope: Mutex::new(Arc::new(rope)),
            places: Mutex::new(None),
        })
    }

    /// Makes room for the matrix in `slot`, one of the layout's [weights](Layout::weights), in `storage`.
    ///
    /// # Errors
    /// For a model that is not [for inference](Self::for_inference).
    pub fn reserve(&mut self, slot: &Slot, storage: Storage) -> Result<(), D::Error> {
        let device = self.device.clone();
        self.only_copies()?.reserve(&device, slot, storage)
    }

    /// Stores rows of a matrix for which there is [room](Self::reserve), from row `first` on. In FP8 they begin and end
    /// where blocks of 128 rows do, or the parameter.
    ///
    /// # Errors
    /// Where the rows do not fit, or come in a type that the matrix is not stored in; of kind
    /// [`NonFinite`](crate::error::ErrorKind::NonFinite) where a number that is to be quantized is none.
    pub fn store(&mut self, parameter: &Parameter, first: usize, rows: Rows<'_>) -> Result<(), D::Error> {
        let device = self.device.clone();
        let (slot, base) = self.architecture.layout().place(parameter);
        self.only_copies()?.write(&device, &slot, (base, first), rows)
    }

    fn only_copies(&mut self) -> Result<&mut Copies<D>, InvalidOp> {
        let copies = Arc::get_mut(&mut self.copies.get_mut().copies);
        copies.ok_or(InvalidOp::plain("store", "a pass still reads the weights"))
    }

    /// What an inference model stores the matrix of a slot in; none before there is [room](Self::reserve).
    pub fn storage(&self, slot: &Slot) -> Option<Storage> {
        self.copies.lock().copies.storage(slot)
    }

    /// Whether the model is [for inference](Self::for_inference) alone: it cannot be trained or saved.
    pub fn is_for_inference(&self) -> bool {
        self.copies.lock().copies.is_stored()
    }

    /// The master weights; of a model for inference its vectors alone.
    pub fn weights(&self) -> &Parameters<D> {
        &self.weights
    }

    /// The master weights, to change. Low-precision copies are made again before the next pass.
    pub fn weights_mut(&mut self) -> &mut Parameters<D> {
        self.copies.get_mut().stale = true;
        &mut self.weights
    }

    /// Bytes of what products read in place of the master weights: copies, or the matrices of a model for inference.
    pub fn copied_bytes(&self) -> usize {
        self.copies.lock().copies.bytes()
    }

    /// What low-precision products read, made again if the weights changed. A pass on another thread waits for it.
    fn copies(&self) -> Result<Arc<Copies<D>>, D::Error> {
        let mut lazy = self.copies.lock();
        if lazy.stale && !lazy.copies.is_stored() {
            // Weights change by exclusive access alone, so no pass holds the old copies and their memory serves again.
            if Arc::get_mut(&mut lazy.copies).is_none() {
                lazy.copies = Arc::new(Copies::new(&self.device, self.architecture.layout(), &self.precision)?);
            }
            if let Some(copies) = Arc::get_mut(&mut lazy.copies) {
                copies.make(&self.device, &self.weights)?;
            }
            lazy.stale = false;
        }
        Ok(Arc::clone(&lazy.copies))
    }

    /// Random weights: matrices from a normal distribution of standard deviation `initializer_range` (0.006 in the V3
    /// report), norm weights one, biases zero. A weight depends on the seed and the parameter's name alone.
    pub fn initialize(&mut self, seed: u64) -> Result<(), D::Error> {
        let std = self.config().initializer_range;
        self.copies.get_mut().stale = true;
        let layout = self.architecture.layout().clone();
        for parameter in layout.parameters() {
            let held = self.weights.held_of(parameter);
            if held.is_empty() {
                continue;
            }
            if held.len() == parameter.elements() {
                initial(&self.device, parameter, seed, std, self.weights.view_mut(&parameter.slot)?)?;
                continue;
            }
            // A random number belongs to its place in the whole parameter.
            let (rows, cols) = (parameter.slot.rows(), parameter.slot.cols());
            let mut whole = Tensor::<D>::empty(&self.device, &[rows, cols], self.weights.dtype())?;
            initial(&self.device, parameter, seed, std, whole.view_mut())?;
            let (group, extent) = layout.extent(&parameter.slot);
            let to = self.weights.range_mut(group, extent.start + held.start..extent.start + held.end)?;
            self.device.cast(Cast::new(whole.part(held.start, 1, held.len())?, to)?)?;
        }
        for router in &mut self.routers {
            self.device.fill(Fill::new(router.bias.view_mut(), 0.0))?;
        }
        Ok(())
    }

    /// The device the weights are on.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.architecture.config
    }

    /// Layers and layout.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The precision policy.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Counts of zero for the experts of every layer that has some.
    pub fn load_count(&self) -> Result<LoadCount<D>, D::Error> {
        let zeros = |router: &RouterState<D>| {
            Tensor::<D>::zeros(&self.device, router.bias.shape().dimensions(), self.precision.statistics())
        };
        Ok(LoadCount { layers: self.routers.iter().map(zeros).collect::<Result<_, _>>()? })
    }
}

/// Fills `view` with the first values of a parameter.
fn initial<D: Kernels>(
    device: &D,
    parameter: &Parameter,
    seed: u64,
    std: f64,
    view: ViewMut<'_, D>,
) -> Result<(), D::Error> {
    if parameter.is_matrix() {
        return device.random_normal(RandomNormal::new(seed, crate::rng::stream(&parameter.name), std, view)?);
    }
    let value = if parameter.name.ends_with("norm.weight") { 1.0 } else { 0.0 };
    device.fill(Fill::new(view, value))
}
