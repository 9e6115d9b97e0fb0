//! The forward pass, to hidden states, logits or the loss of every token.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Model, Places, Store, store::Whole};
use crate::DType;
use crate::device::{IGNORE, Kernels};
use crate::error::{InvalidOp, at_most, ensure, multiple, same};
use crate::layer::moe::{LoadCount, Routers};
use crate::layer::{Pass, Phase, Sequences, block, mtp, rmsnorm, rope};
use crate::tensor::Tensor;

/// Tokens of some sequences, on the host.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[n, length + 1]` row by row: the inputs of a sequence and, one place on, its targets.
    pub tokens: &'a [u32],
    /// Tokens of a sequence that are inputs.
    pub length: usize,
    /// `[n, length]`: the place in its sequence at which each input's document starts; all 0 if absent. Attention does
    /// not cross the start.
    pub starts: Option<&'a [u32]>,
    /// Where each sequence comes from, if losses are to be kept apart.
    pub sources: Option<Sources<'a>>,
}

/// Where the sequences of a batch come from.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// `[n]`: the source of each sequence, below `count`.
    pub of: &'a [u32],
    /// Number of sources.
    pub count: usize,
}

impl<'a> Batch<'a> {
    /// Checks that the slices hold whole sequences and every token is below `vocabulary`.
    pub fn new(
        tokens: &'a [u32],
        length: usize,
        starts: Option<&'a [u32]>,
        vocabulary: usize,
    ) -> Result<Self, InvalidOp> {
        const OP: &str = "batch";
        ensure(OP, "a sequence needs at least one token", length > 0 && !tokens.is_empty())?;
        multiple(OP, "the number of tokens", tokens.len(), "the sequence length + 1,", length + 1)?;
        if let Some(s) = starts {
            same(OP, "document starts", tokens.len() / (length + 1) * length, s.len())?;
        }
        if let Some(&t) = tokens.iter().find(|&&t| t as usize >= vocabulary) {
            return Err(InvalidOp::not_below(OP, "token id", t as usize, "the vocabulary size", vocabulary));
        }
        Ok(Self { tokens, length, starts, sources: None })
    }

    /// The batch with the source of each sequence, `[n]`, of `count` in all: a step then reports their losses apart.
    pub fn with_sources(self, of: &'a [u32], count: usize) -> Result<Self, InvalidOp> {
        const OP: &str = "batch";
        same(OP, "sources of the sequences", self.sequences(), of.len())?;
        if let Some(&source) = of.iter().find(|&&source| source as usize >= count) {
            return Err(InvalidOp::not_below(OP, "source", source as usize, "the number of sources", count));
        }
        Ok(Self { sources: Some(Sources { of, count }), ..self })
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.tokens.len() / (self.length + 1)
    }

    /// Sequences `range`.
    pub fn slice(&self, range: core::ops::Range<usize>) -> Self {
        let row = self.length + 1;
        Self {
            tokens: &self.tokens[range.start * row..range.end * row],
            length: self.length,
            starts: self.starts.map(|s| &s[range.start * self.length..range.end * self.length]),
            sources: self.sources.map(|s| Sources { of: &s.of[range], ..s }),
        }
    }

    /// Targets at prediction depth `depth` (0 for the main model).
    pub fn targets(&self, depth: usize) -> usize {
        self.sequences() * self.length.saturating_sub(depth)
    }
}

/// A batch on the device.
pub struct Inputs<D: Kernels> {
    /// `[t, 1]` for each depth: the tokens that are embedded. Depth `k` takes the token `k` places on.
    pub tokens: Vec<Tensor<D>>,
    /// `[t, 1]` for each depth: the token after, or [`IGNORE`] where the sequence ends before.
    pub targets: Vec<Tensor<D>>,
    /// Positions and document starts.
    pub sequences: Sequences<D>,
    /// `[n, 1]`: the source of each sequence, if losses are to be kept apart.
    pub sources: Option<Tensor<D>>,
    /// Cosines and sines of the positions, shared with the model.
    pub(super) rope: Arc<Tensor<D>>,
}

/// What the forward pass keeps for the backward pass.
pub struct Kept<D: Kernels> {
    pub(super) blocks: Vec<block::Saved<D>>,
    /// The residual stream after the last layer, `[t, d]`.
    pub(super) output: Tensor<D>,
    pub(super) norm: rmsnorm::Saved<D>,
    /// Hidden states after the final norm, `[t, d]`, of the main model and of each MTP module.
    pub(super) hidden: Vec<Tensor<D>>,
    pub(super) mtp: Vec<mtp::Saved<D>>,
}

impl<D: Kernels> Kept<D> {
    /// What each layer of the trunk keeps.
    pub fn blocks(&self) -> &[block::Saved<D>] {
        &self.blocks
    }
}

/// Per-token negative log-likelihood, and the argmax token at each position.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    /// `−ln p(target)` in nats, sequence by sequence.
    pub nll: Vec<f32>,
    /// The most probable token in each place.
    pub greedy: Vec<u32>,
}

impl<D: Kernels> Model<D> {
    /// Brings a batch to the device, for the main model and the first `depths` MTP modules.
    pub fn inputs(&self, batch: &Batch<'_>, depths: usize) -> Result<Inputs<D>, D::Error> {
        let (n, s) = (batch.sequences(), batch.length);
        let context = self.config().max_position_embeddings;
        at_most("forward", "the sequence length", s, "max_position_embeddings", context)?;
        let rope = self.rope(s)?;
        let row = s + 1;
        let mut staged: Vec<u32> = Vec::with_capacity(n * s);
        let mut upload = |values: &mut dyn Iterator<Item = u32>| {
            staged.clear();
            staged.extend(values);
            self.column(&staged)
        };
        let places = || (0..n).flat_map(move |i| (0..s).map(move |j| (i, j)));
        let mut tokens = Vec::with_capacity(depths + 1);
        let mut targets = Vec::with_capacity(depths + 1);
        for k in 0..=depths {
            // Past the end there is no token: any will do, since its row has no target and no later row sees it.
            tokens.push(upload(&mut places().map(|(i, j)| batch.tokens[i * row + (j + k).min(s)]))?);
            let target = |(i, j)| if j + k < s { batch.tokens[i * row + j + k + 1] } else { IGNORE };
            targets.push(upload(&mut places().map(target))?);
        }
        let mut sequences = self.sequences(n, s)?;
        if let Some(starts) = batch.starts {
            let start = |(i, j): (usize, usize)| (i * s) as u32 + starts[i * s + j];
            sequences.starts = Arc::new(upload(&mut places().map(start))?);
        }
        let of = |s: Sources<'_>| Tensor::<D>::from_slice(&self.device, &[n, 1], DType::U32, s.of);
        Ok(Inputs { tokens, targets, sequences, sources: batch.sources.map(of).transpose()?, rope })
    }

    /// Brings indices to the device as `[t, 1]`.
    pub(super) fn column(&self, values: &[u32]) -> Result<Tensor<D>, D::Error> {
        Tensor::<D>::from_slice(&self.device, &[values.len(), 1], DType::U32, values)
    }

    /// Positions and starts of `n` sequences of `s` tokens, each of one document: those of the batch before where it
    /// had this shape.
    fn sequences(&self, n: usize, s: usize) -> Result<Sequences<D>, D::Error> {
        let mut kept = self.places.lock();
        let of_shape = kept.take_if(|places| places.shape == [n, s]);
        let places = match of_shape {
            Some(places) => places,
            None => {
                // Those of another shape make room first.
                *kept = None;
                let all = || (0..n).flat_map(move |i| (0..s).map(move |j| (i, j)));
                let upload = |value: fn((usize, usize), usize) -> usize| {
                    let values: Vec<u32> = all().map(|at| value(at, s) as u32).collect();
                    self.column(&values).map(Arc::new)
                };
                Places { shape: [n, s], positions: upload(|(_, j), _| j)?, starts: upload(|(i, _), s| i * s)? }
            }
        };
        let (positions, starts) = (Arc::clone(&places.positions), Arc::clone(&places.starts));
        *kept = Some(places);
        Ok(Sequences { length: s, positions, starts })
    }

    /// The table of rotary positions for sequences of `length` tokens.
    pub(super) fn rope(&self, length: usize) -> Result<Arc<Tensor<D>>, D::Error> {
        let mut table = self.rope.lock();
        if length > table.shape().rows() {
            let rows = length.next_power_of_two().min(self.config().max_position_embeddings.max(length));
            *table = Arc::new(rope::table(&self.device, self.config(), rows, self.precision.statistics())?);
        }
        Ok(Arc::clone(&table))
    }

    /// A pass over `inputs` with the weights that `store` holds; in `training` the layers keep what a backward pass
    /// needs.
    pub(super) fn pass<'a>(&'a self, inputs: &'a Inputs<D>, store: &'a impl Store<D>, training: bool) -> Pass<'a, D> {
        Pass { training, ..self.pass_over(&inputs.sequences, &inputs.rope, store, Phase::Prefill) }
    }

    /// A pass over rows at these positions, of which nothing is kept.
    pub(super) fn pass_over<'a>(
        &'a self,
        sequences: &'a Sequences<D>,
        rope: &'a Tensor<D>,
        store: &'a impl Store<D>,
        phase: Phase,
    ) -> Pass<'a, D> {
        Pass {
            device: &self.device,
            weights: store.weights(),
            copies: store.copies(),
            sequences,
            rope,
            precision: self.precision,
            training: false,
            phase,
        }
    }

    /// All weights, in place.
    pub(super) fn whole(&self) -> Result<Whole<'_, D>, D::Error> {
        Ok(Whole { weights: &self.weights, copies: self.copies()? })
    }

    /// Runs the main model and as many MTP modules as `inputs` holds tokens for, to hidden states; adds every expert's
    /// load to `loads`. The loss is computed by [`backward`](Self::backward).
    pub fn forward(&self, inputs: &Inputs<D>, loads: &mut LoadCount<D>) -> Result<Kept<D>, D::Error> {
        self.forward_with(&mut self.whole()?, inputs, loads)
    }

    /// As [`forward`](Self::forward), with weights that come out of `store`.
    pub fn forward_with(
        &self,
        store: &mut impl Store<D>,
        inputs: &Inputs<D>,
        loads: &mut LoadCount<D>,
    ) -> Result<Kept<D>, D::Error> {
        let (a, device) = (&self.architecture, &self.device);
        let routers = &mut Routers { states: &self.routers, loads: Some(loads) };
        let mut x = self.embedded(store, inputs, true)?;
        let mut blocks = Vec::with_capacity(a.blocks.len());
        for (index, block) in a.blocks.iter().enumerate() {
            store.fetch(device, a.block_group(index))?;
            let (y, saved) = block.forward(&self.pass(inputs, store, true), routers, x)?;
            store.release(device, a.block_group(index))?;
            blocks.extend(saved);
            x = y;
        }
        let (normed, norm) = self.normed(store, inputs, true, &x)?;
        let mut kept =
            Kept { blocks, output: x, norm, hidden: Vec::with_capacity(inputs.tokens.len()), mtp: Vec::new() };
        kept.hidden.push(normed);
        for (k, (module, tokens)) in a.mtp.iter().zip(&inputs.tokens[1..]).enumerate() {
            store.fetch(device, a.embedding_group())?;
            store.fetch(device, a.mtp_group(k))?;
            let before = &kept.hidden[kept.hidden.len() - 1];
            let pass = self.pass(inputs, store, true);
            let (hidden, saved) = module.forward(&pass, routers, &a.embedding, tokens.view(), before.view())?;
            store.release(device, a.mtp_group(k))?;
            store.release(device, a.embedding_group())?;
            kept.hidden.push(hidden);
            kept.mtp.extend(saved);
        }
        Ok(kept)
    }

    /// The embedded tokens, `[t, d]`.
    fn embedded(&self, store: &mut impl Store<D>, inputs: &Inputs<D>, training: bool) -> Result<Tensor<D>, D::Error> {
        let a = &self.architecture;
        store.fetch(&self.device, a.embedding_group())?;
        let x = a.embedding.forward(&self.pass(inputs, store, training), inputs.tokens[0].view())?;
        store.release(&self.device, a.embedding_group())?;
        Ok(x)
    }

    /// The residual stream `x [t, d]` after the final norm.
    fn normed(
        &self,
        store: &mut impl Store<D>,
        inputs: &Inputs<D>,
        training: bool,
        x: &Tensor<D>,
    ) -> Result<(Tensor<D>, rmsnorm::Saved<D>), D::Error> {
        let a = &self.architecture;
        store.fetch(&self.device, a.head_group())?;
        let normed = a.norm.normed(&self.pass(inputs, store, training), x.view())?;
        store.release(&self.device, a.head_group())?;
        Ok(normed)
    }

    /// Hidden states after the final norm, `[t, d]`. Keeps nothing and counts no loads.
    fn hidden(&self, store: &mut impl Store<D>, inputs: &Inputs<D>) -> Result<Tensor<D>, D::Error> {
        let a = &self.architecture;
        let routers = &mut Routers { states: &self.routers, loads: None };
        let mut x = self.embedded(store, inputs, false)?;
        for (index, block) in a.blocks.iter().enumerate() {
            store.fetch(&self.device, a.block_group(index))?;
            x = block.forward(&self.pass(inputs, store, false), routers, x)?.0;
            store.release(&self.device, a.block_group(index))?;
        }
        Ok(self.normed(store, inputs, false, &x)?.0)
    }

    /// Logits `[n·length, vocabulary]` of a batch, all at once: for short inputs.
    pub fn logits(&self, batch: &Batch<'_>) -> Result<Tensor<D>, D::Error> {
        let (inputs, mut store) = (self.inputs(batch, 0)?, self.whole()?);
        let hidden = self.hidden(&mut store, &inputs)?;
        self.architecture.head.logits(&self.pass(&inputs, &store, false), hidden.view())
    }

    /// Logits `[vocabulary]` of the token that follows `tokens`, one sequence.
    pub fn next_token_logits(&self, tokens: &[u32]) -> Result<Vec<f32>, D::Error> {
        let mut padded = Vec::with_capacity(tokens.len() + 1);
        padded.extend_from_slice(tokens);
        padded.push(0);
        let batch = Batch::new(&padded, tokens.len(), None, self.config().vocab_size)?;
        let (inputs, mut store) = (self.inputs(&batch, 0)?, self.whole()?);
        let hidden = self.hidden(&mut store, &inputs)?;
        let last = hidden.view().row_range(tokens.len() - 1..tokens.len())?;
        let pass = self.pass(&inputs, &store, false);
        self.architecture.head.logits(&pass, last)?.download(&self.device)
    }

    /// Per-token negative log-likelihood of the targets of a batch, and the argmax token at each position.
    pub fn score(&self, batch: &Batch<'_>) -> Result<Scores, D::Error> {
        self.score_with(&mut self.whole()?, batch)
    }

    /// As [`score`](Self::score), with weights that come out of `store`.
    pub fn score_with(&self, store: &mut impl Store<D>, batch: &Batch<'_>) -> Result<Scores, D::Error> {
        let (a, inputs) = (&self.architecture, self.inputs(batch, 0)?);
        let hidden = self.hidden(store, &inputs)?;
        store.fetch(&self.device, a.embedding_group())?;
        store.fetch(&self.device, a.head_group())?;
        let pass = self.pass(&inputs, store, false);
        let mut nll = pass.statistics(hidden.shape().rows(), 1)?;
        let mut greedy = pass.indices(hidden.shape().rows(), 1)?;
        let targets = inputs.targets[0].view();
        a.head.losses(&pass, hidden.view(), targets, &mut nll, Some(&mut greedy))?;
        store.release(&self.device, a.head_group())?;
        store.release(&self.device, a.embedding_group())?;
        Ok(Scores { nll: nll.download(&self.device)?, greedy: greedy.download(&self.device)? })
    }
}
