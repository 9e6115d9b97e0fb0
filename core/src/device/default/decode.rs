//! Decoding in primitives. Storing a token reads back where it goes: no primitive replaces rows by index.

use super::Work;
use super::quantize::decoded as decode;
use crate::device::call::{
    AbsorbOutput, AbsorbQuery, BinaryOp, Cast, ChunkAttention, Factor, Form, GatherRows, Gemm, LatentAttention,
    LatentRow, LoadLatent, MaskWindow, Quantize, Reduction, ScaledMut, StoreLatent, Tiles, UnaryOp,
};
use crate::device::primitives::Primitives;
use crate::device::tensor::{Tensor, View, ViewMut};
use crate::dtype::DType;
use crate::error::{InvalidOp, ensure};

/// Stores tokens one by one.
pub fn store_latent<D: Primitives>(device: &D, mut call: StoreLatent<'_, D::Buffer>) -> Result<(), D::Error> {
    let (row, t) = (call.row, call.slots.rows());
    let mut slots = Tensor::<D>::empty(device, &[t, 1], DType::U32)?;
    device.gather_rows(GatherRows::new(call.slots, iota(device, t)?.view(), 1, slots.view_mut())?)?;
    let slots: alloc::vec::Vec<u32> = slots.download(device)?;
    let limit = call.cache.rows();
    if let Some(&bad) = slots.iter().find(|&&slot| slot as usize >= limit) {
        return Err(InvalidOp::not_below("store_latent", "a slot", bad as usize, "the rows of the cache", limit).into());
    }
    let encoded = match row.dtype() {
        DType::E4M3 => {
            let mut codes = Tensor::<D>::empty(device, &[t, row.latent()], DType::E4M3)?;
            let mut scales = Tensor::<D>::empty(device, &[t, row.tiles()], DType::F32)?;
            let y = ScaledMut::new(codes.view_mut(), scales.view_mut(), Tiles::Row { part: row.latent() })?;
            device.quantize(Quantize::new(call.latent, y, false)?)?;
            Some((codes, scales, iota(device, t)?))
        }
        _ => None,
    };
    for (i, slot) in slots.into_iter().map(|slot| slot as usize).enumerate() {
        let cache = &mut call.cache;
        let k_pe = call.k_pe.row_range(i..i + 1)?;
        if let Some((codes, scales, numbers)) = &encoded {
            let number = numbers.view().row_range(i..i + 1)?;
            device.gather_rows(GatherRows::new(
                codes.view(),
                number,
                1,
                place::<D>(cache, slot)?.columns(0..row.latent())?,
            )?)?;
            let to = place::<D>(cache, slot)?.reinterpret(DType::F32)?.columns(row.scale_columns())?;
            device.cast(Cast::new(scales.view().row_range(i..i + 1)?, to)?)?;
            let to = place::<D>(cache, slot)?.reinterpret(DType::BF16)?.columns(row.key_columns())?;
            device.cast(Cast::new(k_pe, to)?)?;
        } else {
            let latent = call.latent.row_range(i..i + 1)?;
            device.cast(Cast::new(latent, place::<D>(cache, slot)?.columns(0..row.latent())?)?)?;
            device.cast(Cast::new(k_pe, place::<D>(cache, slot)?.columns(row.key_columns())?)?)?;
        }
    }
    Ok(())
}

/// Row `slot` of the cache.
fn place<'a, D: Primitives>(cache: &'a mut ViewMut<'_, D>, slot: usize) -> Result<ViewMut<'a, D>, InvalidOp> {
    cache.reborrow().row_range(slot..slot + 1)
}

/// `[n, 1]`: 0, 1, …
fn iota<D: Primitives>(device: &D, n: usize) -> Result<Tensor<D>, D::Error> {
    let numbers: alloc::vec::Vec<u32> = (0..n as u32).collect();
    Tensor::<D>::from_slice(device, &[n, 1], DType::U32, &numbers)
}

/// Rows `index` of `x`, of any type.
fn gathered<D: Primitives>(device: &D, x: View<'_, D>, index: View<'_, D>) -> Result<Tensor<D>, D::Error> {
    let mut y = Tensor::<D>::empty(device, &[index.rows(), x.cols()], x.dtype())?;
    device.gather_rows(GatherRows::new(x, index, 1, y.view_mut())?)?;
    Ok(y)
}

/// `[n, kv_lora_rank + rope]` in the working type: the tokens of rows of the cache.
fn tokens<D: Primitives>(work: &Work<'_, D>, row: LatentRow, rows: View<'_, D>) -> Result<Tensor<D>, D::Error> {
    if row.dtype() != DType::E4M3 {
        return work.copy(rows);
    }
    let mut tokens = work.empty(rows.rows(), row.latent() + row.rope())?;
    let latent = decode(work.device, row.codes(rows)?)?;
    work.store(latent.view(), tokens.view_mut().columns(0..row.latent())?)?;
    work.store(row.keys(rows)?, tokens.view_mut().columns(row.latent()..row.latent() + row.rope())?)?;
    Ok(tokens)
}

/// Gathers rows of the cache and decodes them.
pub fn load_latent<D: Primitives>(device: &D, call: LoadLatent<'_, D::Buffer>) -> Result<(), D::Error> {
    let work = Work::new(device, call.latent.dtype());
    let rows = gathered(device, call.cache, call.slots)?;
    let tokens = tokens(&work, call.row, rows.view())?;
    work.store(tokens.view().columns(0..call.row.latent())?, call.latent)?;
    work.store(tokens.view().columns(call.row.latent()..tokens.shape().cols())?, call.k_pe)
}

/// A weight in the working type.
fn numbers<D: Primitives>(work: &Work<'_, D>, weight: Factor<'_, D::Buffer>) -> Result<Tensor<D>, D::Error> {
    match weight {
        Factor::Float(w) => work.copy(w),
        Factor::Fp8(w) => work.copy(decode(work.device, w)?.view()),
    }
}

/// A product a head.
pub fn absorb_query<D: Primitives>(device: &D, mut call: AbsorbQuery<'_, D::Buffer>) -> Result<(), D::Error> {
    let (work, h) = (Work::new(device, call.q.dtype()), call.heads);
    let (q, w) = (work.copy(call.q)?, numbers(&work, call.weight)?);
    let (t, latent) = (q.shape().rows(), w.shape().cols());
    for j in 0..h.heads {
        let query = j * (h.nope + h.rope)..(j + 1) * (h.nope + h.rope);
        let query = q.view().columns(query)?;
        let rows = j * (h.nope + h.value)..j * (h.nope + h.value) + h.nope;
        let y = work.product(Form::Nn, query.columns(0..h.nope)?, w.view().row_range(rows)?, [t, latent])?;
        let mut to = call.y.reborrow().columns(j * (latent + h.rope)..(j + 1) * (latent + h.rope))?;
        work.store(y.view(), to.reborrow().columns(0..latent)?)?;
        work.store(query.columns(h.nope..h.nope + h.rope)?, to.columns(latent..latent + h.rope)?)?;
    }
    Ok(())
}

/// A product a head.
pub fn absorb_output<D: Primitives>(device: &D, mut call: AbsorbOutput<'_, D::Buffer>) -> Result<(), D::Error> {
    let (work, h) = (Work::new(device, call.x.dtype()), call.heads);
    let (x, w) = (work.copy(call.x)?, numbers(&work, call.weight)?);
    let (t, latent) = (x.shape().rows(), w.shape().cols());
    for j in 0..h.heads {
        let x = x.view().columns(j * latent..(j + 1) * latent)?;
        let first = j * (h.nope + h.value) + h.nope;
        let o = work.product(Form::Nt, x, w.view().row_range(first..first + h.value)?, [t, h.value])?;
        work.store(o.view(), call.o.reborrow().columns(j * h.value..(j + 1) * h.value)?)?;
    }
    Ok(())
}

/// Turns every row of scores into probabilities.
fn softmax<D: Primitives>(work: &Work<'_, D>, scores: &mut Tensor<D>) -> Result<(), D::Error> {
    let most = work.reduce(Reduction::Max, scores.view())?;
    work.apply(BinaryOp::Sub, scores, most.view())?;
    work.map(UnaryOp::Exp, scores)?;
    let sum = work.reduce(Reduction::Sum, scores.view())?;
    work.apply(BinaryOp::Div, scores, sum.view())
}

/// One row at a time, over all tokens of its pages. What a row does not see may be no number at all, so it is not
/// masked after the product but takes the first token's place before.
pub fn latent_attention<D: Primitives>(device: &D, mut call: LatentAttention<'_, D::Buffer>) -> Result<(), D::Error> {
    let (work, paged, h) = (Work::new(device, call.q.dtype()), call.paged, call.heads);
    let (row, keys) = (paged.row, paged.most_keys());
    ensure("latent_attention", "a page table has no pages", keys > 0 || call.q.rows() == 0)?;
    let (latent, width) = (row.latent(), row.latent() + row.rope());
    let pages = paged.cache.reshape(paged.pages(), paged.page_tokens * row.cols())?;
    let tables = gathered(device, paged.tables, call.sequence)?;
    let counts = work.copy(call.keys)?;
    for t in 0..call.q.rows() {
        let table = tables.view().row_range(t..t + 1)?.reshape(paged.tables.cols(), 1)?;
        let rows = gathered(device, pages, table)?;
        // 1 where the row sees a token, 0 where not: the sign of `count − ½ − place` is 1 or −1.
        let mut seen = work.constant(1, keys, |_, place| -(place as f32) - 0.5)?;
        work.apply(BinaryOp::Add, &mut seen, counts.view().row_range(t..t + 1)?)?;
        work.map(UnaryOp::Sign, &mut seen)?;
        work.map(UnaryOp::Affine(0.5, 0.5), &mut seen)?;
        let mut place = work.constant(1, keys, |_, place| place as f32)?;
        work.apply(BinaryOp::Mul, &mut place, seen.view())?;
        let mut index = work.indices(1, keys)?;
        work.store(place.view(), index.view_mut())?;
        let rows = gathered(device, rows.view().reshape(keys, row.cols())?, index.view().reshape(keys, 1)?)?;
        let tokens = tokens(&work, row, rows.view())?;

        let q = work.copy(call.q.row_range(t..t + 1)?)?;
        let mut p = work.empty(h, keys)?;
        let product = Gemm::new(Form::Nt, q.view().reshape(h, width)?, tokens.view(), p.view_mut())?;
        device.gemm(product.scaled(call.scale))?;
        work.map(UnaryOp::Ln, &mut seen)?;
        work.apply(BinaryOp::Add, &mut p, seen.view())?;
        softmax(&work, &mut p)?;
        let o = work.product(Form::Nn, p.view(), tokens.view().columns(0..latent)?, [h, latent])?;
        work.store(o.view().reshape(1, h * latent)?, call.o.reborrow().row_range(t..t + 1)?)?;
    }
    Ok(())
}

/// A head at a time.
pub fn chunk_attention<D: Primitives>(device: &D, mut call: ChunkAttention<'_, D::Buffer>) -> Result<(), D::Error> {
    let (work, h, before) = (Work::new(device, call.q.dtype()), call.heads, call.before());
    let (n, m, width) = (call.q.rows(), call.kv.rows(), h.nope + h.rope);
    let first = Tensor::<D>::from_slice(device, &[n, 1], DType::U32, &alloc::vec![0u32; n])?;
    for j in 0..h.heads {
        let q = work.copy(call.q.columns(j * width..(j + 1) * width)?)?;
        let kv = call.kv.columns(j * (h.nope + h.value)..(j + 1) * (h.nope + h.value))?;
        let mut k = work.empty(m, width)?;
        work.store(kv.columns(0..h.nope)?, k.view_mut().columns(0..h.nope)?)?;
        work.store(call.k_pe, k.view_mut().columns(h.nope..width)?)?;
        let v = work.copy(kv.columns(h.nope..h.nope + h.value)?)?;
        let mut p = work.empty(n, m)?;
        device.gemm(Gemm::new(Form::Nt, q.view(), k.view(), p.view_mut())?.scaled(h.scale))?;
        device.mask_window(MaskWindow::new(first.view(), 0, before, p.view_mut())?)?;
        softmax(&work, &mut p)?;
        let o = work.product(Form::Nn, p.view(), v.view(), [n, h.value])?;
        work.store(o.view(), call.o.reborrow().columns(j * h.value..(j + 1) * h.value)?)?;
    }
    Ok(())
}
