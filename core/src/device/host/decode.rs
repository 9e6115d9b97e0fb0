//! Decoding: the rows of the latent cache, absorbed projections, and attention over cached tokens.

use alloc::vec::Vec;

use super::matrix::{Matrix, checked, dot, indices, read, row_bytes, row_bytes_mut, write};
use super::quantize::decode;
use super::{Host, HostBuffer, HostError, Result};
use crate::device::call::{
    AbsorbOutput, AbsorbQuery, ChunkAttention, Factor, LatentAttention, LatentRow, LoadLatent, StoreLatent,
};
use crate::device::view::MatRef;
use crate::dtype::DType;
use crate::error::{ErrorKind, InvalidOp};
use crate::fp8::{self, Code, E4M3, TILE};
use crate::math::round_to_odd;
use half::bf16;

/// Softmax of `scores` in place.
fn softmax(scores: &mut [f64]) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores.iter_mut().for_each(|s| *s = libm::exp(*s - max));
    let sum: f64 = scores.iter().sum();
    scores.iter_mut().for_each(|s| *s /= sum);
}

/// A token's bytes in the cache.
fn encode(row: LatentRow, latent: &[f64], k_pe: &[f64], to: &mut [u8]) -> core::result::Result<(), fp8::NonFinite> {
    match row.dtype() {
        DType::F32 => {
            for (to, &x) in to.chunks_exact_mut(4).zip(latent.iter().chain(k_pe)) {
                to.copy_from_slice(&(x as f32).to_ne_bytes());
            }
        }
        DType::BF16 => {
            for (to, &x) in to.chunks_exact_mut(2).zip(latent.iter().chain(k_pe)) {
                to.copy_from_slice(&bf16::from_f32(round_to_odd(x)).to_ne_bytes());
            }
        }
        _ => {
            let mut codes = [0; TILE];
            for (i, x) in latent.chunks(TILE).enumerate() {
                let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
                let scale = fp8::quantize::<E4M3>(&x, false, &mut codes)?;
                for (to, &code) in to[i * TILE..].iter_mut().zip(&codes[..x.len()]) {
                    *to = code as u8;
                }
                to[row.scales_byte() + 4 * i..][..4].copy_from_slice(&scale.to_ne_bytes());
            }
            for (to, &x) in to[row.rope_byte()..].chunks_exact_mut(2).zip(k_pe) {
                to.copy_from_slice(&bf16::from_f32(round_to_odd(x)).to_ne_bytes());
            }
        }
    }
    Ok(())
}

/// A token's latent, then its rotated key.
fn decoded(row: LatentRow, bytes: &[u8]) -> Vec<f64> {
    let single = |b: &[u8]| f64::from(f32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    let brain = |b: &[u8]| bf16::from_ne_bytes([b[0], b[1]]).to_f64();
    match row.dtype() {
        DType::F32 => bytes.chunks_exact(4).map(single).collect(),
        DType::BF16 => bytes.chunks_exact(2).map(brain).collect(),
        _ => {
            let scale = |i: usize| single(&bytes[row.scales_byte() + i / TILE * 4..]) as f32;
            let latent = bytes[..row.latent()].iter().enumerate();
            let latent = latent.map(|(i, &code)| f64::from(E4M3::decode(code.into()) * scale(i)));
            let k_pe = bytes[row.rope_byte()..].chunks_exact(2).take(row.rope()).map(brain);
            latent.chain(k_pe).collect()
        }
    }
}

/// The numbers of a weight.
fn weight(kernel: &'static str, w: &Factor<'_, HostBuffer>) -> core::result::Result<Matrix, HostError> {
    match w {
        Factor::Float(w) => Ok(read(w)),
        Factor::Fp8(w) => {
            let data = decode(kernel, w)?.values().into_iter().map(f64::from).collect();
            Ok(Matrix { rows: w.rows(), cols: w.cols(), data })
        }
    }
}

/// The row of the cache that holds each of the first `keys` tokens of a sequence, whose page table is `table`.
fn rows_of(table: &[u32], keys: usize, page_tokens: usize) -> impl Iterator<Item = usize> + '_ {
    (0..keys).map(move |u| table[u / page_tokens] as usize * page_tokens + u % page_tokens)
}

fn all_below(m: &MatRef<'_, HostBuffer>, limit: usize) -> Result {
    indices(m).into_iter().try_for_each(|i| checked("latent_attention", i, limit).map(|_| ()))
}

impl Host {
    pub(super) fn store_latent(&self, mut call: StoreLatent<'_, HostBuffer>) -> Result {
        let (latent, k_pe) = (read(&call.latent), read(&call.k_pe));
        for (t, slot) in indices(&call.slots).into_iter().enumerate() {
            let slot = checked("store_latent", slot, call.cache.rows())?;
            let to = row_bytes_mut(&mut call.cache, slot);
            encode(call.row, latent.row(t), k_pe.row(t), to).map_err(|e| {
                HostError::new(ErrorKind::NonFinite, alloc::format!("store_latent: the latent of token {t}: {e}"))
            })?;
        }
        Ok(())
    }

    pub(super) fn load_latent(&self, mut call: LoadLatent<'_, HostBuffer>) -> Result {
        let (mut latent, mut k_pe) = (Vec::new(), Vec::new());
        for slot in indices(&call.slots) {
            let slot = checked("load_latent", slot, call.cache.rows())?;
            let token = decoded(call.row, row_bytes(&call.cache, slot));
            latent.extend_from_slice(&token[..call.row.latent()]);
            k_pe.extend_from_slice(&token[call.row.latent()..]);
        }
        write(&mut call.latent, &latent);
        write(&mut call.k_pe, &k_pe);
        Ok(())
    }

    pub(super) fn absorb_query(&self, mut call: AbsorbQuery<'_, HostBuffer>) -> Result {
        let (h, q, w) = (call.heads, read(&call.q), weight("absorb_query", &call.weight)?);
        let mut y = Matrix::zeros(call.y.rows(), call.y.cols());
        for t in 0..q.rows {
            for j in 0..h.heads {
                let (nope, pe) = q.row(t)[j * (h.nope + h.rope)..][..h.nope + h.rope].split_at(h.nope);
                let y = &mut y.row_mut(t)[j * (w.cols + h.rope)..][..w.cols + h.rope];
                for (i, x) in nope.iter().enumerate() {
                    let row = w.row(j * (h.nope + h.value) + i);
                    y.iter_mut().zip(row).for_each(|(y, w)| *y += x * w);
                }
                y[w.cols..].copy_from_slice(pe);
            }
        }
        write(&mut call.y, &y.data);
        Ok(())
    }

    pub(super) fn absorb_output(&self, mut call: AbsorbOutput<'_, HostBuffer>) -> Result {
        let (h, x, w) = (call.heads, read(&call.x), weight("absorb_output", &call.weight)?);
        let mut o = Matrix::zeros(call.o.rows(), call.o.cols());
        for t in 0..x.rows {
            for j in 0..h.heads {
                let x = &x.row(t)[j * w.cols..][..w.cols];
                for i in 0..h.value {
                    o[(t, j * h.value + i)] = dot(x, w.row(j * (h.nope + h.value) + h.nope + i));
                }
            }
        }
        write(&mut call.o, &o.data);
        Ok(())
    }

    pub(super) fn latent_attention(&self, mut call: LatentAttention<'_, HostBuffer>) -> Result {
        const OP: &str = "latent_attention";
        let (paged, q) = (call.paged, read(&call.q));
        let (latent, width) = (paged.row.latent(), paged.row.latent() + paged.row.rope());
        all_below(&paged.tables, paged.pages())?;
        all_below(&call.sequence, paged.tables.rows())?;
        let (tables, sequence) = (indices(&paged.tables), indices(&call.sequence));
        let mut o = Matrix::zeros(call.o.rows(), call.o.cols());
        for (t, keys) in indices(&call.keys).into_iter().enumerate() {
            let keys = keys as usize;
            if keys == 0 || keys > paged.most_keys() {
                return Err(
                    InvalidOp::above(OP, "the keys of a row,", keys, "those of its pages,", paged.most_keys()).into()
                );
            }
            let table = &tables[sequence[t] as usize * paged.tables.cols()..][..paged.tables.cols()];
            let rows = rows_of(table, keys, paged.page_tokens);
            let tokens: Vec<Vec<f64>> = rows.map(|r| decoded(paged.row, row_bytes(&paged.cache, r))).collect();
            for j in 0..call.heads {
                let q = &q.row(t)[j * width..][..width];
                let mut p: Vec<f64> = tokens.iter().map(|token| call.scale * dot(q, token)).collect();
                softmax(&mut p);
                let o = &mut o.row_mut(t)[j * latent..][..latent];
                for (p, token) in p.iter().zip(&tokens) {
                    o.iter_mut().zip(token).for_each(|(o, c)| *o += p * c);
                }
            }
        }
        write(&mut call.o, &o.data);
        Ok(())
    }

    pub(super) fn chunk_attention(&self, mut call: ChunkAttention<'_, HostBuffer>) -> Result {
        let (h, before) = (call.heads, call.before());
        let (q, kv, k_pe) = (read(&call.q), read(&call.kv), read(&call.k_pe));
        let mut o = Matrix::zeros(call.o.rows(), call.o.cols());
        for t in 0..q.rows {
            for j in 0..h.heads {
                let (nope, pe) = q.row(t)[j * (h.nope + h.rope)..][..h.nope + h.rope].split_at(h.nope);
                let kv = |u: usize| kv.row(u)[j * (h.nope + h.value)..][..h.nope + h.value].split_at(h.nope);
                let score = |u: usize| h.scale * (dot(nope, kv(u).0) + dot(pe, k_pe.row(u)));
                let mut p: Vec<f64> = (0..=before + t).map(score).collect();
                softmax(&mut p);
                let o = &mut o.row_mut(t)[j * h.value..][..h.value];
                for (u, p) in p.iter().enumerate() {
                    o.iter_mut().zip(kv(u).1).for_each(|(o, v)| *o += p * v);
                }
            }
        }
        write(&mut call.o, &o.data);
        Ok(())
    }
}
