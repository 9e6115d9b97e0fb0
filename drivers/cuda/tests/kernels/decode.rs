//! Decoding against the reference device.

use std::fmt::Debug;
use std::ops::Range;

use fathom_core::device::{ChunkAttention, Heads, Host, Kernels, LatentAttention, LatentRow, Paged, StoreLatent};
use fathom_core::dtype::DType;
use fathom_core::error::DeviceError;
use fathom_core::error::ErrorKind;
use fathom_core::tensor::Tensor;
use fathom_cuda::{Cuda, Emulation};

use crate::common;

#[test]
fn absorbed_projections() {
    common::suite_with_f16(&[fathom_conformance::absorb_query, fathom_conformance::absorb_output]);
}

#[test]
fn cached_latents() {
    common::suite_with_f16(&[
        fathom_conformance::store_latent,
        fathom_conformance::load_latent,
        fathom_conformance::latent_attention,
    ]);
}

#[test]
fn chunks_of_prompts() {
    common::suite(&[fathom_conformance::chunk_attention]);
}

/// A prompt of one chunk or of several: the same bits.
#[test]
fn a_prompt_has_the_same_bits_however_it_is_cut() {
    let Some(device) = common::device() else { return };
    let n = 200;
    for dtype in [DType::F32, DType::BF16] {
        for (nope, rope, value) in [(16, 8, 16), (13, 3, 10)] {
            let heads = Heads { heads: 2, nope, rope, value, scale: 0.3, sequence: 1 };
            let numbers = |cols, seed| ok(common::floats(&device, dtype, n, cols, move |i| common::noise(seed, i)));
            let (q, kv, k_pe) = (numbers(2 * (nope + rope), 1), numbers(2 * (nope + value), 2), numbers(rope, 3));
            let run = |rows: Range<usize>| {
                let mut o = ok(Tensor::<Cuda>::zeros(&device, &[rows.len(), 2 * value], dtype));
                let (q, end) = (ok(q.view().row_range(rows.clone())), 0..rows.end);
                let (kv, k_pe) = (ok(kv.view().row_range(end.clone())), ok(k_pe.view().row_range(end)));
                let call = ok(ChunkAttention::new(heads, q, kv, k_pe, o.view_mut()));
                ok(device.chunk_attention(call));
                ok(common::read(&device, &o))
            };
            let whole = run(0..n);
            for cuts in [&[0, 1, 64, 200][..], &[0, 7, 130, 131, 200]] {
                let parts: Vec<f32> = cuts.windows(2).flat_map(|cut| run(cut[0]..cut[1])).collect();
                let same = parts.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same && parts.len() == whole.len(), "{dtype} {nope} {rope} {value}, cut at {cuts:?}");
            }
        }
    }
}

/// Types of a cache.
const FORMATS: [DType; 3] = [DType::F32, DType::BF16, DType::E4M3];

/// Sequences of tokens in a cache, and the rows of queries that attend to them.
#[derive(Clone, Debug)]
struct Decode {
    format: DType,
    heads: usize,
    latent: usize,
    rope: usize,
    page_tokens: usize,
    /// Tokens of each sequence.
    lengths: Vec<usize>,
    /// The sequence of each row, and how many tokens it sees.
    rows: Vec<(u32, u32)>,
    /// The rows that are computed, together.
    computed: Range<usize>,
}

impl Decode {
    /// The results of the rows, in order.
    fn run<D: Kernels>(&self, device: &D) -> Result<Vec<Vec<f32>>, D::Error> {
        let (latent, width) = (self.latent, self.latent + self.rope);
        let row = LatentRow::new(self.format, latent, self.rope)?;
        let needed = |length: usize| length.div_ceil(self.page_tokens);
        let widest = self.lengths.iter().map(|&l| needed(l)).max().unwrap_or(0);
        let pages: usize = self.lengths.iter().map(|&l| needed(l)).sum();
        // Pages from the last to the first.
        let mut free = (0..pages as u32).rev();
        let mut cache = Tensor::<D>::zeros(device, &[pages * self.page_tokens, row.cols()], self.format)?;
        let mut tables = Vec::new();
        for (s, &length) in self.lengths.iter().enumerate() {
            let table: Vec<u32> = free.by_ref().take(needed(length)).collect();
            let place =
                |u: usize| table[u / self.page_tokens] * self.page_tokens as u32 + (u % self.page_tokens) as u32;
            let slots: Vec<u32> = (0..length).map(place).collect();
            let tokens = |columns, seed| {
                common::floats(device, DType::F32, length, columns, move |i| common::noise(seed + s as u64, i) / 2.0)
            };
            let (c, k_pe) = (tokens(latent, 100)?, tokens(self.rope, 200)?);
            let slots = common::indices(device, length, 1, &slots)?;
            device.store_latent(StoreLatent::new(row, c.view(), k_pe.view(), slots.view(), cache.view_mut())?)?;
            tables.extend(table.iter().copied().chain(std::iter::repeat(0)).take(widest));
        }
        let tables = common::indices(device, self.lengths.len(), widest, &tables)?;
        let q = common::floats(device, DType::F32, self.rows.len(), self.heads * width, |i| common::noise(7, i))?;
        let rows = &self.rows[self.computed.clone()];
        let n = rows.len();
        let sequence = common::indices(device, n, 1, &rows.iter().map(|r| r.0).collect::<Vec<_>>())?;
        let keys = common::indices(device, n, 1, &rows.iter().map(|r| r.1).collect::<Vec<_>>())?;
        let mut o = Tensor::<D>::zeros(device, &[n, self.heads * latent], DType::F32)?;
        let paged = Paged::new(row, cache.view(), self.page_tokens, tables.view())?;
        let q = q.view().row_range(self.computed.clone())?;
        let (sequence, keys) = (sequence.view(), keys.view());
        device.latent_attention(LatentAttention::new(self.heads, 0.2, q, paged, sequence, keys, o.view_mut())?)?;
        let o: Vec<f32> = o.download(device)?;
        Ok(o.chunks(self.heads * latent).map(<[f32]>::to_vec).collect())
    }
}

fn ok<T, E: Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|e| panic!("{e:?}"))
}

#[test]
fn rows_of_deepseek_are_attended_to() {
    let Some(device) = common::device() else { return };
    for format in FORMATS {
        for (heads, lengths, rows) in [
            (16, vec![600, 33], vec![(0, 600), (1, 33), (0, 513)]),
            // As drafts are verified.
            (16, vec![514], vec![(0, 512), (0, 513), (0, 514)]),
            (40, vec![70], vec![(0, 69)]),
        ] {
            let computed = 0..rows.len();
            let decode = Decode { format, heads, latent: 512, rope: 64, page_tokens: 64, lengths, rows, computed };
            let (got, want) = (ok(decode.run(&device)), ok(decode.run(&Host::new())));
            common::assert_near(&got, &want, if format == DType::F32 { 1e-5 } else { 1e-2 });
        }
    }
}

/// However a GPU divides the work, with whatever other rows and in whatever pages: the same bits.
#[test]
fn a_row_has_the_same_bits_alone_and_in_a_batch() {
    let device = |multiprocessors| common::emulated(Emulation { multiprocessors, ..Emulation::default() });
    // Rows of other sequences beside each other, and tokens of one sequence, of which a block may have two: across the
    // end of a split and of a span, and an odd one.
    let mixed = [(0, 4200), (1, 300), (0, 4097), (2, 40), (0, 1), (1, 256)];
    let drafted = [(0, 4200), (0, 4199), (0, 4096), (0, 4097), (1, 256), (1, 257), (2, 33), (2, 32), (1, 300)];
    for (format, latent, rope) in [(DType::F32, 8, 2), (DType::BF16, 16, 8), (DType::E4M3, 24, 4)] {
        for rows in [&mixed[..], &drafted] {
            let (lengths, computed) = (vec![4200, 300, 40], 0..rows.len());
            let all =
                Decode { format, heads: 2, latent, rope, page_tokens: 64, lengths, rows: rows.to_vec(), computed };
            let bits = |multiprocessors, decode: &Decode| -> Option<Vec<Vec<u32>>> {
                let rows = ok(decode.run(&device(multiprocessors)?));
                Some(rows.iter().map(|row| row.iter().map(|x| x.to_bits()).collect()).collect())
            };
            let Some(want) = bits(1, &all) else { return };
            for multiprocessors in [2, 1000] {
                for page_tokens in [64, 48] {
                    let way = Decode { page_tokens, ..all.clone() };
                    assert!(bits(multiprocessors, &way).as_ref() == Some(&want), "{way:?} on {multiprocessors}");
                }
            }
            for (i, want) in want.iter().enumerate() {
                let alone = Decode { computed: i..i + 1, ..all.clone() };
                assert!(bits(1000, &alone).is_some_and(|x| x[0] == *want), "{alone:?}");
            }
        }
    }
}

/// Sequences, pages and lengths are data: what is out of range is an error, and nothing outside is touched.
#[test]
fn what_is_not_in_the_cache_is_an_error() {
    let Some(device) = common::device() else { return };
    for format in FORMATS {
        let good = (0, 5);
        for bad in [(1, 5), (u32::MAX, 5), (0, 0), (0, 9), (0, u32::MAX)] {
            let rows = vec![good, bad, good];
            let (lengths, computed) = (vec![8], 0..3);
            let decode = Decode { format, heads: 3, latent: 24, rope: 8, page_tokens: 4, lengths, rows, computed };
            let error = decode.run(&device).expect_err("out of range");
            assert_eq!(DeviceError::kind(&error), ErrorKind::Shape, "{error}");
            assert!(error.to_string().contains("latent_attention: index "), "{error}");
        }
        let row = ok(LatentRow::new(format, 24, 8));
        let cache = ok(Tensor::<Cuda>::zeros(&device, &[8, row.cols()], format));
        let q = ok(common::floats(&device, DType::F32, 1, 32, |_| 1.0));
        let (tables, sequence) =
            (ok(common::indices(&device, 1, 2, &[1, 2])), ok(common::indices(&device, 1, 1, &[0])));
        let keys = ok(common::indices(&device, 1, 1, &[8]));
        let mut o = ok(Tensor::<Cuda>::zeros(&device, &[1, 24], DType::F32));
        let paged = ok(Paged::new(row, cache.view(), 4, tables.view()));
        let call = LatentAttention::new(1, 1.0, q.view(), paged, sequence.view(), keys.view(), o.view_mut());
        let error = device.latent_attention(ok(call)).and_then(|()| o.download::<Cuda, f32>(&device));
        assert_eq!(
            error.expect_err("no such page").message(),
            "latent_attention: index 2 is out of range (must be below 2)"
        );
    }
}
