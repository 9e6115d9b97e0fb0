//! The results of a call, for wrappers that look at them, or change them, once the kernel has run.

use super::*;

/// A call that can be lent, so that its results can be reached after the kernel has run.
pub trait Written<B> {
    /// The same call, lent for a shorter time.
    type Lent<'b>
    where
        Self: 'b,
        B: 'b;

    /// Lends the call to a kernel.
    fn lend(&mut self) -> Self::Lent<'_>;

    /// Gives `see` every matrix that the kernel writes, in the order of the call's fields.
    fn written(&mut self, see: &mut dyn FnMut(MatMut<'_, B>));
}

/// A result among the fields of a call: a matrix, which may be left out, or codes with their scales in one or two
/// tilings.
trait Field<B> {
    type Lent<'b>
    where
        Self: 'b,
        B: 'b;
    fn lend(&mut self) -> Self::Lent<'_>;
    fn each(&mut self, see: &mut dyn FnMut(MatMut<'_, B>));
}

impl<B> Field<B> for MatMut<'_, B> {
    type Lent<'b>
        = MatMut<'b, B>
    where
        Self: 'b,
        B: 'b;

    fn lend(&mut self) -> Self::Lent<'_> {
        self.reborrow()
    }

    fn each(&mut self, see: &mut dyn FnMut(MatMut<'_, B>)) {
        see(self.reborrow());
    }
}

impl<B> Field<B> for Option<MatMut<'_, B>> {
    type Lent<'b>
        = Option<MatMut<'b, B>>
    where
        Self: 'b,
        B: 'b;

    fn lend(&mut self) -> Self::Lent<'_> {
        self.as_mut().map(MatMut::reborrow)
    }

    fn each(&mut self, see: &mut dyn FnMut(MatMut<'_, B>)) {
        if let Some(matrix) = self {
            see(matrix.reborrow());
        }
    }
}

impl<B> Field<B> for ScaledMut<'_, B> {
    type Lent<'b>
        = ScaledMut<'b, B>
    where
        Self: 'b,
        B: 'b;

    fn lend(&mut self) -> Self::Lent<'_> {
        self.reborrow()
    }

    fn each(&mut self, see: &mut dyn FnMut(MatMut<'_, B>)) {
        see(self.codes.reborrow());
        see(self.scales.reborrow());
    }
}

impl<B> Field<B> for Encoded<'_, B> {
    type Lent<'b>
        = Encoded<'b, B>
    where
        Self: 'b,
        B: 'b;

    fn lend(&mut self) -> Self::Lent<'_> {
        let rows = self.rows.as_mut().map(ScaledMut::reborrow);
        Encoded { rows, columns: self.columns.as_mut().map(ScaledMut::reborrow), power_of_two: self.power_of_two }
    }

    fn each(&mut self, see: &mut dyn FnMut(MatMut<'_, B>)) {
        for y in self.rows.iter_mut().chain(&mut self.columns) {
            y.each(see);
        }
    }
}

macro_rules! written {
    ($($Call:ident($($read:ident),*) -> $($result:ident),+;)*) => {$(
        impl<B> Written<B> for $Call<'_, B> {
            type Lent<'b> = $Call<'b, B> where Self: 'b, B: 'b;

            fn lend(&mut self) -> Self::Lent<'_> {
                $Call { $($read: self.$read,)* $($result: Field::lend(&mut self.$result),)+ }
            }

            fn written(&mut self, see: &mut dyn FnMut(MatMut<'_, B>)) {
                $(Field::each(&mut self.$result, see);)+
            }
        }
    )*};
}

written! {
    Fill(value) -> y;
    Cast(x) -> y;
    Unary(f) -> y;
    Binary(f, x) -> y;
    RandomNormal(seed, stream, std) -> y;
    ReduceRows(f, x, out) -> y;
    SumColumns(x) -> y;
    Gemm(form, a, b, alpha, out) -> c;
    GroupedGemm(form, groups, a, b, offsets, out) -> c;
    GemmFp8(form, a, b, out) -> c;
    GroupedGemmFp8(form, groups, a, b, offsets, out) -> c;
    Gemv(x, w, out) -> y;
    GroupedGemv(groups, x, w, offsets) -> y;
    GemmMixed(a, w, out) -> c;
    GroupedGemmMixed(groups, a, w, offsets) -> c;
    Quantize(x, power_of_two) -> y;
    Dequantize(x) -> y;
    Requantize(x, power_of_two) -> y;
    QuantizeBoth(x) -> y;
    GatherCodes(x, index, divisor) -> y;
    GatherRows(x, index, divisor) -> y;
    ScatterAddRows(x, index) -> y;
    GatherColumns(x, index) -> y;
    ScatterAddColumns(x, index) -> y;
    Combine(x, inverse, out) -> y;
    TopK(x) -> index;
    SortByKey(keys, buckets) -> order, inverse, offsets;
    RmsNorm(x, weight, eps) -> y, rstd;
    RmsNormQuantize(x, weight, eps) -> y, rstd;
    RmsNormGrad(x, weight, rstd, dy, out) -> dx, dweight;
    Rope(head, start, table, positions, inverse) -> x;
    Swiglu(gate_up, scale) -> y;
    SwigluQuantize(gate_up, scale) -> y;
    SwigluGrad(gate_up, scale, dy) -> d_gate_up, dscale, y;
    Route(config, logits, bias) -> scores, experts, weights;
    RouteGrad(config, scores, experts, dweights, dscores) -> dlogits;
    Balance(scores, sequence, top_k, alpha) -> loss, dscores;
    UpdateBias(load, speed) -> bias;
    MaskWindow(first, base, last) -> y;
    Attention(heads, q, kv, k_pe, starts) -> o, lse;
    AttentionGrad(heads, q, kv, k_pe, starts, o, lse, d_o) -> dq, dkv, dk_pe;
    StoreLatent(row, latent, k_pe, slots) -> cache;
    LoadLatent(row, cache, slots) -> latent, k_pe;
    AbsorbQuery(heads, q, weight) -> y;
    AbsorbOutput(heads, x, weight) -> o;
    LatentAttention(heads, scale, q, paged, sequence, keys) -> o;
    ChunkAttention(heads, q, kv, k_pe) -> o;
    Sample(logits, rules) -> tokens;
    CrossEntropy(targets, gradient) -> logits, nll;
    AdamW(g, clip, rates) -> w, m, v;
    Lerp(x, weight) -> y;
}
