//! Latent attention over a cache: prompts with the keys and values of all heads, generated tokens over the latent
//! itself.
//!
//! A token is stored before anything attends to it, itself included, and attention reads what was stored. So a result
//! does not depend on which tokens were computed in the same pass.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Mla, output};
use crate::config::ModelConfig;
use crate::device::{
    AbsorbOutput, AbsorbQuery, ChunkAttention, GatherRows, Heads, Kernels, LatentAttention, LatentRow, LoadLatent, Out,
    Paged, Rope, StoreLatent,
};
use crate::fp8::TILE;
use crate::layer::Pass;
use crate::layer::operand::Operand;
use crate::tensor::{Tensor, View, ViewMut};

/// Where the tokens of a pass go in the cache, and what each sees there. All layers share one.
pub struct Context<D: Kernels> {
    /// Layout of a row of the cache.
    pub row: LatentRow,
    /// Tokens of a page.
    pub page_tokens: usize,
    /// Keys and values of prompts that are held at once, in numbers; those of a group of heads may be more.
    pub scratch: usize,
    /// `[t, 1]` u32: the row of the cache that each token goes to. Rows of the pass after these are not stored.
    pub slots: Tensor<D>,
    /// What each token sees.
    pub seen: Seen<D>,
}

/// What the tokens of a pass see, by [phase](crate::layer::Phase).
pub enum Seen<D: Kernels> {
    /// Chunks of prompts.
    Chunks(Vec<Together<D>>),
    /// Generated tokens.
    Tokens {
        /// `[s, n]` u32: the pages of each sequence.
        tables: Tensor<D>,
        /// `[t, 1]` u32: the sequence of each token, as a row of `tables`.
        sequence: Tensor<D>,
        /// `[t, 1]` u32: how many tokens of its sequence each sees, itself included.
        keys: Tensor<D>,
    },
}

/// Chunks of prompts whose keys and values are made together: those of a beginning that several share once, and all of
/// them by one product.
pub struct Together<D: Kernels> {
    /// `[u, 1]` u32: the rows of the cache that hold what the chunks see.
    pub slots: Tensor<D>,
    /// The chunks. Several see at most [`tokens_together`].
    pub chunks: Vec<Prefix<D>>,
}

/// A chunk of a prompt and all that comes before it.
pub struct Prefix<D: Kernels> {
    /// The rows of the pass that the chunk is.
    pub rows: Range<usize>,
    /// What it sees: the tokens of its sequence in order, to the end of the chunk.
    pub keys: Keys<D>,
}

/// Some of the rows of [`Together::slots`].
pub enum Keys<D: Kernels> {
    /// Rows that follow each other.
    Range(Range<usize>),
    /// `[m, 1]` u32.
    Chosen(Tensor<D>),
}

impl<D: Kernels> Keys<D> {
    fn len(&self) -> usize {
        match self {
            Self::Range(rows) => rows.len(),
            Self::Chosen(rows) => rows.shape().rows(),
        }
    }
}

/// Tokens whose latents are read together, at least: enough rows for a product.
const LEAST_PART: usize = 512;

/// Tokens that several chunks see together, at most, so that keys and values of all heads take half of `scratch`, and a
/// copy of those of one chunk the other half.
pub fn tokens_together(config: &ModelConfig, scratch: usize) -> usize {
    scratch / (2 * config.num_attention_heads * (config.qk_nope_head_dim + config.v_head_dim)).max(1)
}

/// Heads whose keys and values are made at once for `tokens` tokens: as many as `scratch` numbers hold, and
/// at least the fewest whose weights are whole blocks of FP8, of which groups are made.
fn heads_at_once(heads: &Heads, tokens: usize, scratch: usize) -> usize {
    let each = heads.nope + heads.value;
    // The fewest heads whose rows of the weight fill blocks.
    let least = (1..=TILE).find(|n| (n * each).is_multiple_of(TILE)).unwrap_or(TILE);
    let held = scratch / (tokens * each).max(1);
    (held / least * least).max(least).min(heads.heads)
}

/// Numbers of keys and values that attention of a prompt holds at once, of `tokens` tokens and with `scratch` numbers
/// to use; with them the rotated keys, and the latents of the tokens that are read together.
pub fn scratch_numbers(config: &ModelConfig, tokens: usize, scratch: usize) -> usize {
    let (nope, rope, value) = (config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim);
    let heads = Heads { heads: config.num_attention_heads, nope, rope, value, scale: 1.0, sequence: 1 };
    let group = heads_at_once(&heads, tokens, scratch);
    let part = tokens_at_once(config.kv_lora_rank, tokens, scratch);
    tokens * (group * (nope + value) + rope) + part * config.kv_lora_rank
}

/// Tokens whose latents are read together.
fn tokens_at_once(latent: usize, tokens: usize, scratch: usize) -> usize {
    tokens.min((scratch / (4 * latent).max(1)).max(LEAST_PART))
}

impl Mla {
    /// `y += attention(x)` over the layer `cache`, to which the tokens of `x` are added: `x [t, d]` normed, `y [t, d]`
    /// the residual stream.
    pub fn extend<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        context: &Context<D>,
        cache: &mut Tensor<D>,
        x: &Operand<'_, D>,
        y: ViewMut<'_, D>,
    ) -> Result<(), D::Error> {
        let (t, row) = (y.rows(), context.row);
        let q = match self.query.compress(pass, x, t)? {
            None => self.queries(pass, x, t)?,
            Some((_, normed, _)) => self.queries(pass, &normed, t)?,
        };
        let mut kv_a = pass.activation(t, self.kv_a_proj_with_mqa.outputs())?;
        self.kv_a_proj_with_mqa.forward(pass, x, kv_a.view_mut(), Out::Replace)?;
        let width = self.latent..self.latent + self.heads.rope;
        let (table, positions) = (pass.rope.view(), pass.sequences.positions.view());
        let k_pe = kv_a.view_mut().columns(width.clone())?;
        pass.device.rope(Rope::new(k_pe, self.heads.rope, 0, table, positions, false)?)?;
        let (latent, _) = self.kv_a_layernorm.normed(pass, kv_a.view().columns(0..self.latent)?)?;
        let stored = 0..context.slots.shape().rows();
        let k_pe = kv_a.view().columns(width)?.row_range(stored.clone())?;
        let new = latent.view().row_range(stored)?;
        pass.device.store_latent(StoreLatent::new(row, new, k_pe, context.slots.view(), cache.view_mut())?)?;
        drop((latent, kv_a));

        let mut o = pass.activation(t, self.o_proj.inputs())?;
        match &context.seen {
            Seen::Chunks(chunks) => {
                for chunks in chunks {
                    self.expanded(pass, context, cache, chunks, q.view(), o.view_mut())?;
                }
            }
            Seen::Tokens { tables, sequence, keys } => {
                let paged = Paged::new(row, cache.view(), context.page_tokens, tables.view())?;
                self.absorbed(pass, paged, (sequence.view(), keys.view()), q, o.view_mut())?;
            }
        }
        self.o_proj.forward(pass, &output(pass, o.view()), y, Out::Add)
    }

    /// Attention of chunks with the keys and values of all heads, made again from the cache: a group of heads after
    /// the other, and a part of the tokens after the other. A head's result does not depend on its group where the
    /// device's columns of a product do not depend on each other, and a chunk's not on the other chunks where its rows
    /// do not.
    fn expanded<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        context: &Context<D>,
        cache: &Tensor<D>,
        together: &Together<D>,
        q: View<'_, D>,
        mut o: ViewMut<'_, D>,
    ) -> Result<(), D::Error> {
        let Heads { heads, nope, rope, value, .. } = self.heads;
        let (m, each, head) = (together.slots.shape().rows(), nope + value, self.head());
        let group = heads_at_once(&self.heads, m, context.scratch);
        let part = tokens_at_once(self.latent, m, context.scratch);
        let mut latent = pass.activation(part, self.latent)?;
        let mut k_pe = pass.activation(m, rope)?;
        let mut kv = pass.activation(m, group * each)?;
        for first in (0..heads).step_by(group) {
            let n = group.min(heads - first);
            for start in (0..m).step_by(part) {
                let rows = start..m.min(start + part);
                let slots = together.slots.view().row_range(rows.clone())?;
                let mut latent = latent.view_mut().row_range(0..rows.len())?;
                let pe = k_pe.view_mut().row_range(rows.clone())?;
                pass.device.load_latent(LoadLatent::new(context.row, cache.view(), slots, latent.reborrow(), pe)?)?;
                let kv = kv.view_mut().columns(0..n * each)?.row_range(rows)?;
                let x = Operand::of(latent.as_ref());
                self.kv_b_proj.forward_some(pass, &x, first * each..(first + n) * each, kv)?;
            }
            let kv = kv.view().columns(0..n * each)?;
            let some = Heads { heads: n, ..self.heads };
            for chunk in &together.chunks {
                let q = q.row_range(chunk.rows.clone())?.columns(first * head..(first + n) * head)?;
                let o = o.reborrow().row_range(chunk.rows.clone())?.columns(first * value..(first + n) * value)?;
                match &chunk.keys {
                    Keys::Range(rows) => {
                        let (kv, k_pe) = (kv.row_range(rows.clone())?, k_pe.view().row_range(rows.clone())?);
                        pass.device.chunk_attention(ChunkAttention::new(some, q, kv, k_pe, o)?)?;
                    }
                    Keys::Chosen(rows) => {
                        let mut own_kv = pass.activation(chunk.keys.len(), n * each)?;
                        let mut own_pe = pass.activation(chunk.keys.len(), rope)?;
                        for (from, to) in [(kv, own_kv.view_mut()), (k_pe.view(), own_pe.view_mut())] {
                            pass.device.gather_rows(GatherRows::new(from, rows.view(), 1, to)?)?;
                        }
                        let call = ChunkAttention::new(some, q, own_kv.view(), own_pe.view(), o)?;
                        pass.device.chunk_attention(call)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Attention of tokens over the cached latents, with the projections of keys and values absorbed.
    fn absorbed<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        paged: Paged<'_, D::Buffer>,
        (sequence, keys): (View<'_, D>, View<'_, D>),
        q: Tensor<D>,
        o: ViewMut<'_, D>,
    ) -> Result<(), D::Error> {
        let (device, heads, t) = (pass.device, self.heads, o.rows());
        let weight = pass.weight(self.kv_b_proj.weight())?;
        let mut absorbed = pass.activation(t, heads.heads * (self.latent + heads.rope))?;
        device.absorb_query(AbsorbQuery::new(heads, q.view(), weight, absorbed.view_mut())?)?;
        drop(q);
        let mut x = pass.activation(t, heads.heads * self.latent)?;
        let (h, scale) = (heads.heads, heads.scale);
        let call = LatentAttention::new(h, scale, absorbed.view(), paged, sequence, keys, x.view_mut())?;
        device.latent_attention(call)?;
        device.absorb_output(AbsorbOutput::new(heads, x.view(), weight, o)?)
    }
}
