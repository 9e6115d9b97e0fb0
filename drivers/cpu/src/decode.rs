//! Decoding: the rows of the latent cache, and attention over cached tokens. Absorbed projections are in `gemv`.
//!
//! Attention of a token is cut into spans of [`SPAN`] keys, counted from the start of its sequence, and each span into
//! tiles of [`KEYS`]. A task gathers the tokens of a tile from their pages once for all heads, and keeps the running
//! maximum and sum of the softmax; then spans are joined in order. Neither the number of threads, nor other tokens, nor
//! the pages that a sequence lies in change a result's bits.
//!
//! Where the processor multiplies pairs of BF16 numbers and the cache is narrower than F32, queries, probabilities and
//! cached numbers are rounded to BF16 for their products.

use std::ops::Range;

use fathom_core::DType;
use fathom_core::device::{LatentAttention, LatentRow, LoadLatent, Quantize, ScaledMut, StoreLatent, Tiles as Scales};
use fathom_core::error::InvalidOp;
use fathom_core::tensor::{MatRef, Tensor};
use half::bf16;

use crate::attention::{scale, scale_to, take, take_words, tile};
use crate::elementwise::convert;
use crate::error::CpuError;
use crate::factor::{Computed, left_words, numbers, right_words};
use crate::gemm::{has_pairs, left, multiply, pack_columns, pack_rows, tile_rows};
use crate::mat::{self, Mat, MatMut, check_index};
use crate::memory::Buffer;
use crate::par::{Tile, Tiles};
use crate::quantize::Decoder;
use crate::real::{Real, typed};
use crate::scores::{KEYS, QUERIES, Window, soften};
use crate::simd::kernel;
use crate::{Cpu, Isa};

/// Keys of a span.
const SPAN: usize = 4 * KEYS;

/// Numbers of unfinished results that are held at once.
const UNFINISHED: usize = 16 << 20;

/// Tokens that a task loads from the cache.
const ROWS: usize = 64;

/// Keys that are multiplied while as many of the next tile are fetched: few, but whole tiles of the product.
fn fetched<W: Computed>(isa: Isa) -> usize {
    24usize.next_multiple_of(tile_rows::<W>(isa))
}

/// Brings a row of the cache closer.
fn fetch(row: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in row.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every processor of this architecture has the instruction, and a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}

/// The tokens of a cache.
enum Cached<'a> {
    F32(Mat<'a, f32>),
    Bf16(Mat<'a, bf16>),
    Codes { latent: Decoder<'a>, k_pe: Mat<'a, bf16> },
}

impl<'a> Cached<'a> {
    fn read(op: &'static str, isa: Isa, row: LatentRow, cache: MatRef<'a, Buffer>) -> Result<Self, CpuError> {
        Ok(match row.dtype() {
            DType::F32 => Self::F32(mat::read(op, &cache)?),
            DType::BF16 => Self::Bf16(mat::read(op, &cache)?),
            _ => Self::Codes {
                latent: Decoder::ungrouped(op, isa, &row.codes(cache)?)?,
                k_pe: mat::read(op, &row.keys(cache)?)?,
            },
        })
    }

    /// The latent and the key of the token in row `r`.
    fn token<N: Real>(&self, isa: Isa, r: usize, latent: &mut [N], k_pe: &mut [N]) {
        match self {
            Self::F32(rows) => {
                let (from, pe) = rows.row(r).split_at(latent.len());
                copy(isa, from, latent);
                copy(isa, pe, k_pe);
            }
            Self::Bf16(rows) => {
                let (from, pe) = rows.row(r).split_at(latent.len());
                copy(isa, from, latent);
                copy(isa, pe, k_pe);
            }
            Self::Codes { latent: codes, k_pe: keys } => {
                codes.row(r, 0..latent.len(), latent);
                copy(isa, keys.row(r), k_pe);
            }
        }
    }
}

/// `to = from`, converted where their types differ.
fn copy<X: Real, Y: Real>(isa: Isa, from: &[X], to: &mut [Y]) {
    if X::DTYPE == Y::DTYPE {
        to.copy_from_slice(bytemuck::cast_slice(from));
    } else {
        convert(isa, from, to);
    }
}

kernel! {
    /// `y += x·row`.
    fn add_row(x: f32, row: &[f32], y: &mut [f32]) {
        for (y, &w) in y.iter_mut().zip(row) {
            *y += x * w;
        }
    }
}

kernel! {
    /// A row for every query, of what has a row for every key.
    fn turn(products: &[[f32; QUERIES]], scores: &mut [[f32; KEYS]]) {
        for (j, row) in scores.iter_mut().enumerate() {
            for (score, product) in row.iter_mut().zip(products) {
                *score = product[j];
            }
        }
    }
}

/// A token of a call: what it sees, and where the spans of its first group of heads lie among the tasks.
struct Seer<'a> {
    table: &'a [u32],
    keys: usize,
    first: usize,
}

impl Seer<'_> {
    fn spans(&self) -> usize {
        self.keys.div_ceil(SPAN)
    }
}

/// Attention of a call, as its tasks see it.
struct Attending<'a, T> {
    isa: Isa,
    row: LatentRow,
    page_tokens: usize,
    scale: f32,
    q: Mat<'a, T>,
    cached: Cached<'a>,
    /// The same as bytes.
    bytes: Mat<'a, u8>,
}

impl<T: Real> Attending<'_, T> {
    /// Columns of a query or key.
    fn width(&self) -> usize {
        self.row.latent() + self.row.rope()
    }

    /// The row of the cache that holds token `u` of a sequence.
    fn slot(&self, table: &[u32], u: usize) -> usize {
        table[u / self.page_tokens] as usize * self.page_tokens + u % self.page_tokens
    }

    /// Numbers of scratch for a task of `heads` heads.
    fn scratch_size<W: Computed>(&self, heads: usize) -> usize {
        let (width, latent) = (self.width(), self.row.latent());
        KEYS * width
            + heads * width
            + right_words::<W>(width, QUERIES)
            + left_words::<W>(fetched::<W>(self.isa), width)
            + right_words::<W>(KEYS, latent)
            + 2 * QUERIES * KEYS
            + left_words::<W>(QUERIES, KEYS)
    }

    /// Attends with `heads` of row `t`, at most [`QUERIES`], to `keys` of its sequence, at most [`SPAN`]. For every
    /// head `y` gets the sum of weighted latents, then come the maxima, then the sums of weights.
    fn attend<W: Computed>(
        &self,
        (t, table): (usize, &[u32]),
        heads: Range<usize>,
        keys: Range<usize>,
        y: &mut [f32],
        mut scratch: &mut [f32],
    ) {
        let (isa, width, latent, m) = (self.isa, self.width(), self.row.latent(), heads.len());
        let (_tiles, fetched) = (isa.hold_tiles(), fetched::<W>(isa));
        let tokens: &mut [W::Number] = bytemuck::cast_slice_mut(take(&mut scratch, KEYS * width));
        let made = take(&mut scratch, m * width);
        let q_packed = take_words::<W>(&mut scratch, right_words::<W>(width, QUERIES));
        let keys_copy = take_words::<W>(&mut scratch, left_words::<W>(fetched, width));
        let values_packed = take_words::<W>(&mut scratch, right_words::<W>(KEYS, latent));
        let products = take(&mut scratch, QUERIES * KEYS);
        let scores = take(&mut scratch, QUERIES * KEYS);
        let weights_copy = take_words::<W>(&mut scratch, left_words::<W>(QUERIES, KEYS));
        let (sums, rest) = y.split_at_mut(m * latent);
        let (top, total) = rest.split_at_mut(m);
        sums.fill(0.0);
        top.fill(f32::NEG_INFINITY);
        total.fill(0.0);

        let q = Mat::new(&self.q.row(t)[heads.start * width..heads.end * width], m, width, width);
        let q = pack_columns::<W>(isa, &numbers(isa, &q, made), q_packed);
        for first in keys.clone().step_by(KEYS) {
            let n = KEYS.min(keys.end - first);
            for (u, token) in (first..first + n).zip(tokens.chunks_exact_mut(width)) {
                let (latent, k_pe) = token.split_at_mut(latent);
                self.cached.token(isa, self.slot(table, u), latent, k_pe);
            }
            let v = pack_rows::<W>(isa, &Mat::new(tokens, n, latent, width), values_packed);
            // The queries are packed, once, and the keys read as they lie: there are more of them. The tokens of the
            // next tile are fetched meanwhile.
            for at in (0..n).step_by(fetched) {
                let some = fetched.min(n - at);
                let next = first + KEYS + at;
                (next..keys.end.min(next + fetched)).for_each(|u| fetch(self.bytes.row(self.slot(table, u))));
                let k = left::<W>(isa, &Mat::new(&tokens[at * width..], some, width, width), keys_copy);
                let products = &mut products[at * QUERIES..];
                multiply(isa, &k, &q, &mut tile(products, some, m, QUERIES), self.scale, false);
            }
            let rows = &mut scores.as_chunks_mut().0[..m];
            turn(isa, products.as_chunks().0, rows);
            let windows = [Window::new(0..n); QUERIES];
            let shrink = soften(isa, rows, &windows, top, total);
            for (row, &factor) in sums.chunks_exact_mut(latent).zip(&shrink).filter(|(_, f)| **f != 1.0) {
                scale(isa, row, factor);
            }
            let weights = W::rounded(isa, &Mat::new(scores, m, n, KEYS), weights_copy);
            multiply(isa, &weights, &v, &mut tile(sums, m, latent, latent), 1.0, true);
        }
    }
}

/// Joins the spans of one head: of each its sums, their maximum and their total.
fn join<'a, T: Real>(
    isa: Isa,
    spans: impl Iterator<Item = (&'a [f32], f32, f32)> + Clone,
    sums: &mut [f32],
    o: &mut [T],
) {
    let top = spans.clone().map(|(_, top, _)| top).fold(f32::NEG_INFINITY, f32::max);
    sums.fill(0.0);
    let mut total = 0.0;
    for (part, part_top, part_total) in spans {
        let factor = fathom_core::math::exp(part_top - top);
        total += factor * part_total;
        add_row(isa, factor, part, sums);
    }
    scale_to(isa, sums, 1.0 / total, o);
}

typed! {
    store_latent: StoreLatent[latent, k_pe] => run_store_latent,
    load_latent: LoadLatent[latent, k_pe] => run_load_latent,
    latent_attention: LatentAttention[q, o] => run_latent_attention,
}

impl Cpu {
    fn run_store_latent<X: Real, P: Real>(&self, call: StoreLatent<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "store_latent";
        let (isa, row) = (self.isa(), call.row);
        let (latent, k_pe) = (mat::read::<X>(OP, &call.latent)?, mat::read::<P>(OP, &call.k_pe)?);
        let slots = mat::read::<u32>(OP, &call.slots)?;
        check_index(OP, &slots, call.cache.rows())?;
        let slot = |t: usize| slots.row(t)[0] as usize;
        match row.dtype() {
            DType::F32 => store(isa, &latent, &k_pe, slot, &mut mat::write::<f32>(OP, call.cache)?),
            DType::BF16 => store(isa, &latent, &k_pe, slot, &mut mat::write::<bf16>(OP, call.cache)?),
            _ => {
                let t = latent.rows();
                let mut codes = Tensor::<Self>::empty(self, &[t, row.latent()], DType::E4M3)?;
                let mut scales = Tensor::<Self>::empty(self, &[t, row.tiles()], DType::F32)?;
                let tiles = Scales::Row { part: row.latent() };
                let encoded = ScaledMut::new(codes.view_mut(), scales.view_mut(), tiles)?;
                self.quantize(Quantize::new(call.latent, encoded, false)?)?;
                let (codes, scales) = (mat::read_bytes(&codes.view()), mat::read_bytes(&scales.view()));
                let mut cache = mat::write_bytes(call.cache);
                for i in 0..t {
                    let to = cache.row(slot(i));
                    to[..row.latent()].copy_from_slice(codes.row(i));
                    to[row.scales_byte()..row.rope_byte()].copy_from_slice(scales.row(i));
                    let keys = &mut to[row.rope_byte()..][..2 * row.rope()];
                    convert(isa, k_pe.row(i), bytemuck::cast_slice_mut::<u8, bf16>(keys));
                }
            }
        }
        Ok(())
    }

    fn run_load_latent<X: Real, P: Real>(&self, call: LoadLatent<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "load_latent";
        let (isa, work) = (self.isa(), call.row.cols() * call.slots.rows() / 4);
        let cached = Cached::read(OP, isa, call.row, call.cache)?;
        let slots = mat::read::<u32>(OP, &call.slots)?;
        check_index(OP, &slots, call.cache.rows())?;
        let (latent, k_pe) = (mat::write::<X>(OP, call.latent)?, mat::write::<P>(OP, call.k_pe)?);
        let (width, pe) = (latent.cols(), k_pe.cols());
        let width_in_f32 = width + pe;
        let parts = (Tiles::new(latent, ROWS, width), Tiles::new(k_pe, ROWS, pe));
        self.for_each_with(work, width_in_f32, parts, |_, (mut latent, mut k_pe), token| {
            for i in 0..latent.rows() {
                let slot = slots.row(latent.row + i)[0] as usize;
                let (from, pe_from) = token[..width_in_f32].split_at_mut(width);
                cached.token(isa, slot, from, pe_from);
                convert(isa, from, latent.row(i));
                convert(isa, pe_from, k_pe.row(i));
            }
        })
    }

    fn run_latent_attention<T: Real, O: Real>(&self, call: LatentAttention<'_, Buffer>) -> Result<(), CpuError> {
        if has_pairs(self.isa()) && call.paged.row.dtype() != DType::F32 {
            self.latent_attention_in::<T, O, u32>(call)
        } else {
            self.latent_attention_in::<T, O, f32>(call)
        }
    }

    fn latent_attention_in<T: Real, O: Real, W: Computed>(
        &self,
        mut call: LatentAttention<'_, Buffer>,
    ) -> Result<(), CpuError> {
        const OP: &str = "latent_attention";
        let (isa, paged, heads) = (self.isa(), call.paged, call.heads);
        let x = Attending::<T> {
            isa,
            row: paged.row,
            page_tokens: paged.page_tokens,
            scale: call.scale as f32,
            q: mat::read(OP, &call.q)?,
            cached: Cached::read(OP, isa, paged.row, paged.cache)?,
            bytes: mat::read_bytes(&paged.cache),
        };
        let (tables, sequence) = (mat::read::<u32>(OP, &paged.tables)?, mat::read::<u32>(OP, &call.sequence)?);
        check_index(OP, &tables, paged.pages())?;
        check_index(OP, &sequence, tables.rows())?;
        let keys = mat::read::<u32>(OP, &call.keys)?;
        let latent = paged.row.latent();
        // Groups of heads that share the tokens of a task.
        let groups = heads.div_ceil(QUERIES);
        let each = heads.div_ceil(groups);
        let size = each * (latent + 2);
        let mut start = 0;
        while start < x.q.rows() {
            let (mut seers, mut tasks) = (Vec::new(), 0);
            for t in start..x.q.rows() {
                let keys = keys.row(t)[0] as usize;
                if keys == 0 || keys > paged.most_keys() {
                    let most = paged.most_keys();
                    return Err(InvalidOp::above(OP, "the keys of a row,", keys, "those of its pages,", most).into());
                }
                let seer = Seer { table: tables.row(sequence.row(t)[0] as usize), keys, first: tasks };
                let more = groups * seer.spans();
                if !seers.is_empty() && (tasks + more) * size > UNFINISHED {
                    break;
                }
                tasks += more;
                seers.push(seer);
            }
            let end = start + seers.len();
            // Task `i`: a token, a group of heads, a span.
            let place = |i: usize| {
                let at = seers.partition_point(|seer| seer.first <= i) - 1;
                let (seer, within) = (&seers[at], i - seers[at].first);
                let (group, span) = (within / seer.spans(), within % seer.spans());
                let heads = group * each..heads.min((group + 1) * each);
                (start + at, seer, heads, span * SPAN..seer.keys.min((span + 1) * SPAN))
            };
            let mut memory = self.alloc_f32(tasks * size)?;
            let unfinished = &mut memory.elements_mut::<f32>()[..tasks * size];
            let parts = Tiles::new(MatMut::new(unfinished, tasks, size, size), 1, size);
            let pairs: usize = seers.iter().map(|seer| seer.keys).sum::<usize>() * heads;
            let work = pairs * (2 * latent + paged.row.rope()) / 8;
            self.for_each_with(work, x.scratch_size::<W>(each), parts, |i, mut y, scratch| {
                let (t, seer, heads, keys) = place(i);
                x.attend::<W>((t, seer.table), heads, keys, y.row(0), scratch);
            })?;
            let unfinished = Mat::new(unfinished, tasks, size, size);
            let o = mat::write::<O>(OP, call.o.reborrow().row_range(start..end)?)?;
            let parts = Tiles::new(o, 1, latent);
            self.for_each_with(tasks * size / 4, latent, parts, |_, mut o: Tile<'_, O>, sums| {
                let (seer, j) = (&seers[o.row], o.col / latent);
                let (group, at) = (j / each, j % each);
                let m = each.min(heads - group * each);
                let spans = (0..seer.spans()).map(|span| {
                    let y = unfinished.row(seer.first + group * seer.spans() + span);
                    (&y[at * latent..][..latent], y[m * latent + at], y[m * (latent + 1) + at])
                });
                join(isa, spans, &mut sums[..latent], o.row(0));
            })?;
            start = end;
        }
        Ok(())
    }
}

/// Puts tokens into rows of numbers.
fn store<X: Real, P: Real, Y: Real>(
    isa: Isa,
    latent: &Mat<'_, X>,
    k_pe: &Mat<'_, P>,
    slot: impl Fn(usize) -> usize,
    cache: &mut MatMut<'_, Y>,
) {
    for t in 0..latent.rows() {
        let (to, pe) = cache.row(slot(t)).split_at_mut(latent.cols());
        convert(isa, latent.row(t), to);
        convert(isa, k_pe.row(t), pe);
    }
}
