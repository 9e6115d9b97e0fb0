//! Causal attention and its gradient, a sequence and a head at a time.

use core::ops::Range;

use super::Work;
use crate::device::call::{
    Attention, AttentionGrad, BinaryOp, Form, Gemm, Heads, MaskWindow, Reduction, ScatterAddColumns, UnaryOp,
};
use crate::device::primitives::Primitives;
use crate::device::tensor::{Tensor, View};
use crate::dtype::DType;

/// Queries, keys and values of all heads.
struct Operands<'a, D: Primitives> {
    heads: Heads,
    q: View<'a, D>,
    kv: View<'a, D>,
    k_pe: View<'a, D>,
    starts: View<'a, D>,
}

/// One head of one sequence of `s` rows, in the working type.
struct Head<D: Primitives> {
    /// `[s, nope + rope]`.
    q: Tensor<D>,
    /// `[s, nope + rope]`: the head's own key, then the one all heads share.
    k: Tensor<D>,
    /// `[s, value]`.
    v: Tensor<D>,
}

impl<D: Primitives> Operands<'_, D> {
    /// The rows of every sequence.
    fn sequences(&self) -> impl Iterator<Item = Range<usize>> + use<D> {
        let length = self.heads.sequence;
        (0..self.q.rows() / length).map(move |i| i * length..(i + 1) * length)
    }

    fn head(&self, work: &Work<'_, D>, rows: &Range<usize>, j: usize) -> Result<Head<D>, D::Error> {
        let Heads { nope, rope, value, .. } = self.heads;
        let query = self.q.row_range(rows.clone())?;
        let key_value = self.kv.row_range(rows.clone())?.columns(j * (nope + value)..(j + 1) * (nope + value))?;
        let mut k = work.empty(rows.len(), nope + rope)?;
        work.store(key_value.columns(0..nope)?, k.view_mut().columns(0..nope)?)?;
        work.store(self.k_pe.row_range(rows.clone())?, k.view_mut().columns(nope..nope + rope)?)?;
        Ok(Head {
            q: work.copy(query.columns(j * (nope + rope)..(j + 1) * (nope + rope))?)?,
            k,
            v: work.copy(key_value.columns(nope..nope + value)?)?,
        })
    }

    /// `[s, s]`: 0 where a row sees another, −∞ where not. Every row sees itself, whatever `starts` says.
    fn mask(&self, work: &Work<'_, D>, rows: &Range<usize>) -> Result<Tensor<D>, D::Error> {
        let s = rows.len();
        let mut mask = work.zeros(s, s)?;
        let starts = self.starts.row_range(rows.clone())?;
        work.device.mask_window(MaskWindow::new(starts, rows.start, rows.start, mask.view_mut())?)?;
        // 0 and −∞ become 1 and 0; the diagonal gains one, so that it is not zero; and back.
        work.map(UnaryOp::Exp, &mut mask)?;
        let one = work.constant(1, 1, |_, _| 1.0)?;
        let diagonal: alloc::vec::Vec<u32> = (0..s as u32).collect();
        let diagonal = Tensor::<D>::from_slice(work.device, &[s, 1], DType::U32, &diagonal)?;
        let add = ScatterAddColumns::new(one.view(), diagonal.view(), mask.view_mut())?;
        work.device.scatter_add_columns(add)?;
        work.map(UnaryOp::Sign, &mut mask)?;
        work.map(UnaryOp::Ln, &mut mask)?;
        Ok(mask)
    }

    /// `[s, s]`: `scale·q·kᵀ`, masked.
    fn scores(&self, work: &Work<'_, D>, head: &Head<D>, mask: &Tensor<D>) -> Result<Tensor<D>, D::Error> {
        let s = head.q.shape().rows();
        let mut scores = work.empty(s, s)?;
        let product = Gemm::new(Form::Nt, head.q.view(), head.k.view(), scores.view_mut())?;
        work.device.gemm(product.scaled(self.heads.scale))?;
        work.apply(BinaryOp::Add, &mut scores, mask.view())?;
        Ok(scores)
    }
}

pub(in crate::device) fn attention<D: Primitives>(
    device: &D,
    mut call: Attention<'_, D::Buffer>,
) -> Result<(), D::Error> {
    let work = Work::new(device, call.q.dtype());
    let x = Operands::<D> { heads: call.heads, q: call.q, kv: call.kv, k_pe: call.k_pe, starts: call.starts };
    let value = call.heads.value;
    for rows in x.sequences() {
        let mask = x.mask(&work, &rows)?;
        for j in 0..call.heads.heads {
            let head = x.head(&work, &rows, j)?;
            let mut p = x.scores(&work, &head, &mask)?;
            let mut lse = work.reduce(Reduction::Max, p.view())?;
            work.apply(BinaryOp::Sub, &mut p, lse.view())?;
            work.map(UnaryOp::Exp, &mut p)?;
            let mut sum = work.reduce(Reduction::Sum, p.view())?;
            work.apply(BinaryOp::Div, &mut p, sum.view())?;
            let o = work.product(Form::Nn, p.view(), head.v.view(), [rows.len(), value])?;
            work.map(UnaryOp::Ln, &mut sum)?;
            work.apply(BinaryOp::Add, &mut lse, sum.view())?;
            let out = call.o.reborrow().row_range(rows.clone())?;
            work.store(o.view(), out.columns(j * value..(j + 1) * value)?)?;
            work.store(lse.view(), call.lse.reborrow().row_range(rows.clone())?.columns(j..j + 1)?)?;
        }
    }
    Ok(())
}

pub(in crate::device) fn attention_grad<D: Primitives>(
    device: &D,
    mut call: AttentionGrad<'_, D::Buffer>,
) -> Result<(), D::Error> {
    let work = Work::new(device, call.q.dtype());
    let x = Operands::<D> { heads: call.heads, q: call.q, kv: call.kv, k_pe: call.k_pe, starts: call.starts };
    let Heads { heads, nope, rope, value, scale, sequence: s } = call.heads;
    for rows in x.sequences() {
        let mask = x.mask(&work, &rows)?;
        let mut dk_pe = work.zeros(s, rope)?;
        for j in 0..heads {
            let head = x.head(&work, &rows, j)?;
            let columns = j * value..(j + 1) * value;
            let o = work.copy(call.o.row_range(rows.clone())?.columns(columns.clone())?)?;
            let d_o = work.copy(call.d_o.row_range(rows.clone())?.columns(columns)?)?;
            let lse = work.copy(call.lse.row_range(rows.clone())?.columns(j..j + 1)?)?;

            let mut p = x.scores(&work, &head, &mask)?;
            work.apply(BinaryOp::Sub, &mut p, lse.view())?;
            work.map(UnaryOp::Exp, &mut p)?;
            let dv = work.product(Form::Tn, p.view(), d_o.view(), [s, value])?;
            // ds = scale·p·(dp − Σ p·dp), and Σ p·dp = o·do.
            let mut ds = work.product(Form::Nt, d_o.view(), head.v.view(), [s, s])?;
            work.apply(BinaryOp::Sub, &mut ds, work.dot(o.view(), d_o.view())?.view())?;
            work.apply(BinaryOp::Mul, &mut ds, p.view())?;
            work.scale(scale, &mut ds)?;
            let dq = work.product(Form::Nn, ds.view(), head.k.view(), [s, nope + rope])?;
            let dk = work.product(Form::Tn, ds.view(), head.q.view(), [s, nope + rope])?;

            let query = call.dq.reborrow().row_range(rows.clone())?;
            work.store(dq.view(), query.columns(j * (nope + rope)..(j + 1) * (nope + rope))?)?;
            let mut key_value =
                call.dkv.reborrow().row_range(rows.clone())?.columns(j * (nope + value)..(j + 1) * (nope + value))?;
            work.store(dk.view().columns(0..nope)?, key_value.reborrow().columns(0..nope)?)?;
            work.store(dv.view(), key_value.columns(nope..nope + value)?)?;
            work.apply(BinaryOp::Add, &mut dk_pe, dk.view().columns(nope..nope + rope)?)?;
        }
        work.store(dk_pe.view(), call.dk_pe.reborrow().row_range(rows)?)?;
    }
    Ok(())
}
