//! Cases of decoding: the rows of the latent cache, absorbed projections, and attention over cached tokens.

use fathom_core::device::{
    AbsorbOutput, AbsorbQuery, ChunkAttention, Factor, Heads, Kernels, LatentAttention, LatentRow, LoadLatent, Paged,
    Scaled, StoreLatent,
};
use fathom_core::dtype::DType;
use fathom_core::fp8::TILE;
use fathom_core::tensor::MatRef;
use proptest::prelude::*;
use proptest::sample::select;

use crate::case::{Case, Magnitude, Operand, case, decode, encode, sweep};
use crate::quantize::{Tiling, codes, scales};
use crate::tolerance::relative;
use crate::values::{Draw, Style, size, some};
use crate::{Failure, Options, Outcome};

/// What queries, probabilities and cached numbers may be off by together, each rounded to BF16, in parts of a result's
/// magnitude: the first and the last count twice, in a score and in the sum that it is divided by.
const ROUNDED: f64 = 1.0 / 128.0;

/// A row of the cache, apart from the core's checks.
fn row(dtype: DType, latent: usize, rope: usize) -> LatentRow {
    LatentRow::new(dtype, latent, rope).expect("a format of the cache")
}

/// Elements of bytes as bits of a cache of this type.
fn elements(dtype: DType, bytes: &[u8]) -> Vec<u64> {
    let element = |b: &[u8]| b.iter().rev().fold(0, |bits, &b| bits << 8 | u64::from(b));
    bytes.chunks_exact(dtype.size()).map(element).collect()
}

/// Bytes of a cache of `rows` rows that hold finite numbers, whatever the style of the case.
fn contents(d: &Draw, row: LatentRow, rows: usize) -> Vec<u8> {
    let mut rng = d.rng(40);
    let style = if d.style == Style::Large { Style::Normal } else { d.style };
    let numbers = Draw { style, ..*d }.floats(41, rows * (row.latent() + row.rope()));
    let mut bytes = Vec::with_capacity(rows * row.bytes());
    for token in numbers.chunks_exact(row.latent() + row.rope()) {
        let (latent, k_pe) = token.split_at(row.latent());
        let start = bytes.len();
        let mut put = |dtype: DType, x: f64| bytes.extend(&encode(dtype, x).to_le_bytes()[..dtype.size()]);
        if row.dtype() == DType::E4M3 {
            latent.iter().for_each(|&x| put(DType::E4M3, 64.0 * x));
            (row.latent()..row.scales_byte()).for_each(|_| put(DType::E4M3, 3.0));
            (0..row.tiles()).for_each(|_| put(DType::F32, f64::from(rng.below(64) + 1) / 2048.0));
            k_pe.iter().for_each(|&x| put(DType::BF16, x));
            bytes.resize(start + row.bytes(), 0x55);
        } else {
            token.iter().for_each(|&x| put(row.dtype(), x));
        }
    }
    bytes
}

/// The numbers of row `r` of a cache's bytes: the latent, then the key.
fn token(row: LatentRow, bytes: &[u8], r: usize) -> Vec<f64> {
    let bytes = &bytes[r * row.bytes()..][..row.bytes()];
    let numbers = |dtype: DType, bytes: &[u8]| -> Vec<f64> {
        elements(dtype, bytes).into_iter().map(|bits| decode(dtype, bits)).collect()
    };
    if row.dtype() != DType::E4M3 {
        return numbers(row.dtype(), bytes);
    }
    let scales = numbers(DType::F32, &bytes[row.scales_byte()..][..4 * row.tiles()]);
    let code = |c: u8| f64::from(<fathom_core::fp8::E4M3 as fathom_core::fp8::Code>::decode(c.into()));
    let latent = bytes[..row.latent()].iter().enumerate().map(|(i, &c)| code(c) * scales[i / TILE]);
    let k_pe = numbers(DType::BF16, &bytes[row.rope_byte()..][..2 * row.rope()]);
    latent.chain(k_pe).collect()
}

/// An operand that holds a cache, to read.
fn cache(row: LatentRow, bytes: &[u8]) -> Operand {
    Operand::bits(row.dtype(), bytes.len() / row.bytes(), row.cols(), elements(row.dtype(), bytes))
}

case!(StoreCase, "store_latent", { row: LatentRow, tokens: usize, spare: usize }, |self| 1,
    operands {
        let (t, rows) = (self.tokens, self.tokens + self.spare);
        let slots = self.d.rng(7).permutation(rows)[..t].to_vec();
        vec![
            Operand::floats(self.d.dtype, t, self.row.latent(), self.d.floats(0, t * self.row.latent()))
                .gaps(self.d.gaps),
            Operand::floats(self.d.dtype, t, self.row.rope(), self.d.floats(1, t * self.row.rope())).gaps(!self.d.gaps),
            Operand::indices(t, 1, slots),
            cache(self.row, &contents(&self.d, self.row, rows)).exact(),
        ]
    }
    call |device, latent, k_pe, slots, cache| device.store_latent(StoreLatent::new(
        self.row, latent.view(), k_pe.view(), slots.view(), cache.view_mut(),
    )?)
);

case!(LoadCase, "load_latent", { row: LatentRow, tokens: usize, rows: usize }, |self| 1,
    operands {
        let t = self.tokens;
        vec![
            cache(self.row, &contents(&self.d, self.row, self.rows)),
            Operand::indices(t, 1, self.d.indices(7, t, self.rows)),
            Operand::result(self.d.dtype, t, self.row.latent()).gaps(self.d.gaps).exact(),
            Operand::result(self.d.dtype, t, self.row.rope()).gaps(!self.d.gaps).exact(),
        ]
    }
    call |device, cache, slots, latent, k_pe| device.load_latent(LoadLatent::new(
        self.row, cache.view(), slots.view(), latent.view_mut(), k_pe.view_mut(),
    )?)
);

/// How the weight of an absorbed projection is held.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Held {
    Float(DType),
    Fp8,
}

/// The weight's operands: numbers or codes, and scales, of which numbers have none.
fn weight(d: &Draw, held: Held, shape: (usize, usize)) -> [Operand; 2] {
    match held {
        Held::Float(dtype) => [
            Operand::floats(dtype, shape.0, shape.1, d.floats(2, shape.0 * shape.1)).gaps(d.gaps),
            Operand::floats(DType::F32, 0, 0, Vec::new()),
        ],
        Held::Fp8 => {
            let tiling = Tiling::Block(shape.0);
            [codes(d, 2, DType::E4M3, shape, true).gaps(d.gaps), scales(d, 3, &tiling, shape)]
        }
    }
}

/// The weight of two operands.
fn factor<'a, B>(
    held: Held,
    weight: MatRef<'a, B>,
    scales: MatRef<'a, B>,
) -> Result<Factor<'a, B>, fathom_core::error::InvalidOp> {
    Ok(match held {
        Held::Float(_) => Factor::Float(weight),
        Held::Fp8 => {
            let part = weight.rows();
            Factor::Fp8(Scaled::new(weight, scales, fathom_core::device::Tiles::Block { part })?)
        }
    })
}

case!(AbsorbQueryCase, "absorb_query", { heads: Heads, latent: usize, rows: usize, held: Held },
    |self| self.heads.nope,
    operands {
        let (Heads { heads: h, nope, rope, value, .. }, c) = (self.heads, self.latent);
        let width = h * (nope + rope);
        let q = Operand::floats(self.d.dtype, self.rows, width, self.d.floats(0, self.rows * width));
        let [w, s] = weight(&self.d, self.held, (h * (nope + value), c));
        let y = Operand::result(self.d.dtype, self.rows, h * (c + rope)).gaps(!self.d.gaps);
        vec![q.gaps(self.d.gaps), w, s, y.near(Magnitude::Absolute)]
    }
    call |device, q, w, s, y| device.absorb_query(AbsorbQuery::new(
        self.heads, q.view(), factor(self.held, w.view(), s.view())?, y.view_mut(),
    )?)
);

case!(AbsorbOutputCase, "absorb_output", { heads: Heads, latent: usize, rows: usize, held: Held },
    |self| self.latent,
    operands {
        let (Heads { heads: h, nope, value, .. }, c) = (self.heads, self.latent);
        let x = Operand::floats(self.d.dtype, self.rows, h * c, self.d.floats(0, self.rows * h * c));
        let [w, s] = weight(&self.d, self.held, (h * (nope + value), c));
        let o = Operand::result(self.d.dtype, self.rows, h * value).gaps(!self.d.gaps);
        vec![x.gaps(self.d.gaps), w, s, o.near(Magnitude::Absolute)]
    }
    call |device, x, w, s, o| device.absorb_output(AbsorbOutput::new(
        self.heads, x.view(), factor(self.held, w.view(), s.view())?, o.view_mut(),
    )?)
);

/// What an error in a result of attention is measured by: the largest value that may count, times how far an error in
/// a score is amplified.
fn size_of<'a>(q: &[f64], scale: f64, keys: &[&'a [f64]], values: &[&'a [f64]]) -> Vec<f64> {
    let score = |k: &&[f64]| q.iter().zip(*k).map(|(q, k)| (scale * q * k).abs()).sum::<f64>();
    let gain = 1.0 + keys.iter().map(score).fold(0.0, f64::max);
    let largest = |c: usize| values.iter().map(|v| v[c].abs()).fold(0.0, f64::max);
    (0..values[0].len()).map(|c| gain * largest(c)).collect()
}

case!(LatentCase, "latent_attention",
    { heads: usize, row: LatentRow, scale: f64, page_tokens: usize, lengths: Vec<usize>, rows: usize, shared: bool },
    |self| self.row.latent() + self.row.rope() + self.lengths.iter().max().copied().unwrap_or(0),
    operands {
        let (h, row, n, t) = (self.heads, self.row, self.page_tokens, self.rows);
        let (c, width) = (row.latent(), row.latent() + row.rope());
        let style = if self.d.style == Style::Large { Style::Normal } else { self.d.style };
        let d = Draw { style, ..self.d };
        let mut rng = d.rng(8);
        // Tables of pages in any order. Where pages are shared, all sequences begin with the first one's pages.
        let needed = |length: usize| length.div_ceil(n);
        let widest = self.lengths.iter().map(|&l| needed(l)).max().unwrap_or(1);
        let pages = self.lengths.iter().map(|&l| needed(l)).sum::<usize>() + 2;
        let mut fresh = rng.permutation(pages).into_iter();
        let mut tables: Vec<Vec<u32>> = Vec::new();
        for &length in &self.lengths {
            let mut table: Vec<u32> = fresh.by_ref().take(needed(length)).collect();
            if self.shared && let Some(first) = tables.first() {
                let common = first.len().min(length / n);
                table[..common].copy_from_slice(&first[..common]);
            }
            table.resize(widest, rng.below(pages));
            tables.push(table);
        }
        let bytes = contents(&d, row, pages * n);
        let sequence: Vec<u32> = (0..t).map(|_| rng.below(self.lengths.len())).collect();
        // Mostly near the end of the sequence, as in decoding.
        let keys: Vec<u32> = sequence.iter().map(|&s| {
            let length = self.lengths[s as usize];
            if rng.below(3) == 0 { 1 + rng.below(length) } else { (length - rng.below(3.min(length)) as usize) as u32 }
        }).collect();
        let q = Operand::floats(d.dtype, t, h * width, d.floats(0, t * h * width)).gaps(d.gaps);
        let numbers = q.values();
        let mut sizes = Vec::with_capacity(t * h * c);
        for (t, &s) in sequence.iter().enumerate() {
            let table = &tables[s as usize];
            let place = |u: usize| table[u / n] as usize * n + u % n;
            let tokens: Vec<Vec<f64>> = (0..keys[t] as usize).map(|u| token(row, &bytes, place(u))).collect();
            let all: Vec<&[f64]> = tokens.iter().map(Vec::as_slice).collect();
            let latents: Vec<&[f64]> = tokens.iter().map(|x| &x[..c]).collect();
            for j in 0..h {
                sizes.extend(size_of(&numbers[(t * h + j) * width..][..width], self.scale, &all, &latents));
            }
        }
        if row.dtype() != DType::F32 && d.dtype != DType::F64 {
            let grown = 1.0 + ROUNDED / relative("latent_attention", Case::terms(self), d.dtype);
            sizes.iter_mut().for_each(|size| *size *= grown);
        }
        // What no sequence sees is no number: the cache is not cleared.
        let mut bytes = bytes;
        let mut seen = vec![false; pages * n];
        for (table, &length) in tables.iter().zip(&self.lengths) {
            (0..length).for_each(|u| seen[table[u / n] as usize * n + u % n] = true);
        }
        for (r, _) in seen.iter().enumerate().filter(|(_, seen)| !**seen) {
            bytes[r * row.bytes()..][..row.bytes()].fill(0xff);
        }
        vec![
            q,
            cache(row, &bytes),
            Operand::indices(tables.len(), widest, tables.concat()),
            Operand::indices(t, 1, sequence),
            Operand::indices(t, 1, keys),
            Operand::result(d.dtype, t, h * c).gaps(!d.gaps).near(Magnitude::Given(sizes)),
        ]
    }
    call |device, q, cache, tables, sequence, keys, o| {
        let paged = Paged::new(self.row, cache.view(), self.page_tokens, tables.view())?;
        let (sequence, keys) = (sequence.view(), keys.view());
        let call = LatentAttention::new(self.heads, self.scale, q.view(), paged, sequence, keys, o.view_mut())?;
        device.latent_attention(call)
    }
);

case!(ChunkCase, "chunk_attention", { heads: Heads, before: usize, rows: usize },
    |self| self.heads.nope + self.heads.rope + self.before + self.rows,
    operands {
        let (Heads { heads: h, nope, rope, value, scale, .. }, n) = (self.heads, self.rows);
        let m = self.before + n;
        let style = if self.d.style == Style::Large { Style::Normal } else { self.d.style };
        let d = Draw { style, ..self.d };
        let q = Operand::floats(d.dtype, n, h * (nope + rope), d.floats(0, n * h * (nope + rope))).gaps(d.gaps);
        let kv = Operand::floats(d.dtype, m, h * (nope + value), d.floats(1, m * h * (nope + value))).gaps(!d.gaps);
        let k_pe = Operand::floats(d.dtype, m, rope, d.floats(2, m * rope)).gaps(d.gaps);
        let (qs, kvs, pes) = (q.values(), kv.values(), k_pe.values());
        let mut sizes = Vec::with_capacity(n * h * value);
        for t in 0..n {
            for j in 0..h {
                let kv = |u: usize| &kvs[(u * h + j) * (nope + value)..][..nope + value];
                let key = |u: usize| [&kv(u)[..nope], &pes[u * rope..][..rope]].concat();
                let keys: Vec<Vec<f64>> = (0..=self.before + t).map(key).collect();
                let keys: Vec<&[f64]> = keys.iter().map(Vec::as_slice).collect();
                let values: Vec<&[f64]> = (0..=self.before + t).map(|u| &kv(u)[nope..]).collect();
                sizes.extend(size_of(&qs[(t * h + j) * (nope + rope)..][..nope + rope], scale, &keys, &values));
            }
        }
        let o = Operand::result(d.dtype, n, h * value).gaps(!d.gaps).near(Magnitude::Given(sizes));
        vec![q, kv, k_pe, o]
    }
    call |device, q, kv, k_pe, o| device.chunk_attention(ChunkAttention::new(
        self.heads, q.view(), kv.view(), k_pe.view(), o.view_mut(),
    )?)
);

/// Rows of all formats, with ragged tiles among them, and with whole eights, which devices may read at once.
fn formats() -> impl Strategy<Value = LatentRow> {
    let latent = prop_oneof![4 => some(40), 1 => 126usize..131, 1 => 255usize..258];
    let eights = (1usize..18, 0usize..3).prop_map(|(latent, rope)| (8 * latent, 8 * rope));
    let dtype = select(vec![DType::F32, DType::BF16, DType::E4M3]);
    let widths = prop_oneof![2 => (latent, 0usize..9), 1 => eights];
    (dtype, widths).prop_map(|(dtype, (latent, rope))| row(dtype, latent, rope))
}

/// Heads of all proportions, without positions among them.
fn heads() -> impl Strategy<Value = Heads> {
    (1usize..4, size(20), 0usize..9, some(20), 0.1f64..0.6).prop_map(|(heads, nope, rope, value, scale)| {
        let nope = if rope == 0 { nope.max(1) } else { nope };
        Heads { heads, nope, rope, value, scale, sequence: 1 }
    })
}

/// Weights of activations of this type: as the activations, BF16 beside F32, or codes.
fn held(d: &Draw, which: u8) -> Held {
    match (which, d.dtype) {
        (0, _) => Held::Float(d.dtype),
        (1, DType::F32 | DType::BF16) => Held::Float(DType::BF16),
        (_, DType::F64) => Held::Float(DType::F64),
        (2, _) => Held::Float(DType::F32),
        _ => Held::Fp8,
    }
}

/// [`StoreLatent`] in every format, to rows in any order: bit for bit.
pub fn store_latent<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let strategy = (Draw::any(options.dtypes(device)), formats(), size(20), 0usize..5);
    let case = |(d, row, tokens, spare)| StoreCase { d, row, tokens, spare };
    sweep(device, options, strategy.prop_map(case))
}

/// [`LoadLatent`] of every format: bit for bit.
pub fn load_latent<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let strategy = (Draw::any(options.dtypes(device)), formats(), size(20), 1usize..30);
    sweep(device, options, strategy.prop_map(|(d, row, tokens, rows)| LoadCase { d, row, tokens, rows }))
}

/// [`AbsorbQuery`] with weights of every type.
pub fn absorb_query<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let strategy = (Draw::any(options.dtypes(device)), heads(), some(140), size(10), 0u8..4);
    let case = |(d, heads, latent, rows, which)| AbsorbQueryCase { d, heads, latent, rows, held: held(&d, which) };
    sweep(device, options, strategy.prop_map(case))
}

/// [`AbsorbOutput`] with weights of every type.
pub fn absorb_output<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let strategy = (Draw::any(options.dtypes(device)), heads(), some(140), size(10), 0u8..4);
    let case = |(d, heads, latent, rows, which)| AbsorbOutputCase { d, heads, latent, rows, held: held(&d, which) };
    sweep(device, options, strategy.prop_map(case))
}

/// [`LatentAttention`] in every format: ragged lengths, odd page sizes, sequences that share pages, and rows of no
/// number where no sequence looks.
pub fn latent_attention<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let length = prop_oneof![4 => 1usize..20, 2 => 60usize..70, 1 => 250usize..270];
    let lengths = prop::collection::vec(length, 1..4);
    let page_tokens = select(vec![1usize, 2, 3, 5, 16, 64]);
    let strategy = (
        Draw::any(options.dtypes(device)),
        1usize..5,
        formats(),
        0.1f64..0.6,
        page_tokens,
        lengths,
        size(6),
        any::<bool>(),
    );
    sweep(
        device,
        options,
        strategy.prop_map(|(d, heads, row, scale, page_tokens, lengths, rows, shared)| LatentCase {
            d,
            heads,
            row,
            scale,
            page_tokens,
            lengths,
            rows,
            shared,
        }),
    )
}

/// [`ChunkAttention`] with nothing, little and much before the chunk.
pub fn chunk_attention<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    let before = prop_oneof![1 => Just(0usize), 2 => 1usize..20, 1 => 120usize..140];
    let strategy = (Draw::any(options.dtypes(device)), heads(), before, size(40));
    sweep(device, options, strategy.prop_map(|(d, heads, before, rows)| ChunkCase { d, heads, before, rows }))
}
