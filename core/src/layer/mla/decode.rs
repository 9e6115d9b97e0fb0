//! Latent attention over a cache: prompts with the keys and values of all heads, generated tokens over the latent
//! itself.
//!
//! A token is stored before anything attends to it, itself included, and attention reads what was stored. So a result
//! does not depend on which tokens were computed in the same pass.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Mla, output};
use crate::device::{
    AbsorbOutput, AbsorbQuery, ChunkAttention, Kernels, LatentAttention, LatentRow, LoadLatent, Out, Paged, Rope,
    StoreLatent,
};
use crate::layer::Pass;
use crate::layer::operand::Operand;
use crate::tensor::{Tensor, View, ViewMut};

/// Where the tokens of a pass go in the cache, and what each sees there. All layers share one.
pub struct Context<D: Kernels> {
    /// Layout of a row of the cache.
    pub row: LatentRow,
    /// Tokens of a page.
    pub page_tokens: usize,
    /// `[t, 1]` u32: the row of the cache that each token goes to.
    pub slots: Tensor<D>,
    /// What each token sees.
    pub seen: Seen<D>,
}

/// What the tokens of a pass see, by [phase](crate::layer::Phase).
pub enum Seen<D: Kernels> {
    /// Chunks of prompts, one after the other.
    Chunks(Vec<Prefix<D>>),
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

/// A chunk of a prompt and all that comes before it.
pub struct Prefix<D: Kernels> {
    /// The rows of the pass that the chunk is.
    pub rows: Range<usize>,
    /// `[m, 1]` u32: the row of the cache that holds each token of the sequence, to the end of the chunk.
    pub slots: Tensor<D>,
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
            Some((_, normed, _)) => self.queries(pass, &Operand::of(normed.view()), t)?,
        };
        let mut kv_a = pass.activation(t, self.kv_a_proj_with_mqa.outputs())?;
        self.kv_a_proj_with_mqa.forward(pass, x, kv_a.view_mut(), Out::Replace)?;
        let width = self.latent..self.latent + self.heads.rope;
        let (table, positions) = (pass.rope.view(), pass.sequences.positions.view());
        let k_pe = kv_a.view_mut().columns(width.clone())?;
        pass.device.rope(Rope::new(k_pe, self.heads.rope, 0, table, positions, false)?)?;
        let (latent, _) = self.kv_a_layernorm.normed(pass, kv_a.view().columns(0..self.latent)?)?;
        let k_pe = kv_a.view().columns(width)?;
        let stored = StoreLatent::new(row, latent.view(), k_pe, context.slots.view(), cache.view_mut())?;
        pass.device.store_latent(stored)?;
        drop((latent, kv_a));

        let mut o = pass.activation(t, self.o_proj.inputs())?;
        match &context.seen {
            Seen::Chunks(chunks) => {
                for chunk in chunks {
                    let rows = chunk.rows.clone();
                    let q = q.view().row_range(rows.clone())?;
                    self.expanded(pass, row, cache, chunk, q, o.view_mut().row_range(rows)?)?;
                }
            }
            Seen::Tokens { tables, sequence, keys } => {
                let paged = Paged::new(row, cache.view(), context.page_tokens, tables.view())?;
                self.absorbed(pass, paged, (sequence.view(), keys.view()), q, o.view_mut())?;
            }
        }
        self.o_proj.forward(pass, &output(pass, o.view()), y, Out::Add)
    }

    /// Attention of a chunk with the keys and values of all heads, made again from the cache.
    fn expanded<D: Kernels>(
        &self,
        pass: &Pass<'_, D>,
        row: LatentRow,
        cache: &Tensor<D>,
        chunk: &Prefix<D>,
        q: View<'_, D>,
        o: ViewMut<'_, D>,
    ) -> Result<(), D::Error> {
        let m = chunk.slots.shape().rows();
        let (mut latent, mut k_pe) = (pass.activation(m, self.latent)?, pass.activation(m, self.heads.rope)?);
        let (to, pe) = (latent.view_mut(), k_pe.view_mut());
        pass.device.load_latent(LoadLatent::new(row, cache.view(), chunk.slots.view(), to, pe)?)?;
        let kv = self.keys_values(pass, latent.view())?;
        pass.device.chunk_attention(ChunkAttention::new(self.heads, q, kv.view(), k_pe.view(), o)?)
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
