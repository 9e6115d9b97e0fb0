//! Properties that hold for a device with any arithmetic, one per function.

use fathom_core::device::{
    AdamRates, AdamW, Attention, Combine, CrossEntropy, Encoded, Factor, Form, GatherColumns, GatherRows, Gemm, Gemv,
    GroupedGemm, Heads, Kernels, LatentAttention, LatentRow, LoadLatent, Out, Paged, Quantize, QuantizeBoth,
    Requantize, RmsNorm, Rope, RouteGrad, Scaled, ScaledMut, ScatterAddColumns, ScatterAddRows, SortByKey, StoreLatent,
    Tiles,
};
use fathom_core::dtype::DType;
use fathom_core::error::ErrorKind;
use fathom_core::fp8::TILE;
use fathom_core::routing::{GroupScore, RouteConfig, Score};
use fathom_core::tensor::Tensor;
use proptest::prelude::any;

use crate::attention::inputs;
use crate::case::{Operand, Placed, Trouble, draw};
use crate::optimizer::rates;
use crate::quantize::Tiling;
use crate::values::{Draw, Style, some};
use crate::{Failure, Options, Outcome};

/// Bits of an operand after a call.
fn bits<D: Kernels>(device: &D, placed: &Placed<D>) -> Result<Vec<u64>, Trouble> {
    Ok(placed.read(device).map_err(Trouble::of)?.0)
}

/// The first `rows` rows of an operand.
fn head(o: &Operand, rows: usize) -> Operand {
    Operand { rows, bits: o.bits[..rows * o.cols].to_vec(), ..o.clone() }
}

fn place<D: Kernels, const N: usize>(device: &D, operands: [&Operand; N]) -> Result<[Placed<D>; N], Trouble> {
    let placed: Result<Vec<_>, _> = operands.iter().map(|o| Placed::new(device, o)).collect();
    Ok(placed.map_err(Trouble::of)?.try_into().unwrap_or_else(|_| unreachable!("as many as there were")))
}

/// Conversions between all types of numbers, by `cast` and by `fill`, of numbers beside ties among others, have the
/// host's bits. Those that a device refuses as unsupported are counted.
pub fn conversions<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    crate::elementwise::conversions(device, options)
}

/// A row's result has the same bits when there are fewer other rows (`gemm`, `gemv`, `rmsnorm`),
/// and a sequence's when there are fewer other sequences (`attention`): a token's logits do not hang on its batch.
pub fn row_invariance<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    const NAME: &str = "row invariance";
    let dtypes = options.dtypes(device);
    let shape = (Draw::any(dtypes), 2usize..70, some(70), some(70), 0usize..70);
    draw(NAME, options.cases, shape, |(d, m, n, k, fewer)| {
        let fewer = 1 + fewer % m;
        let a = Operand::floats(d.dtype, m, k, d.floats(0, m * k)).gaps(d.gaps);
        let b = Operand::floats(d.dtype, n, k, d.floats(1, n * k));
        let heads =
            Heads { heads: 2, nope: 1 + k % 9, rope: n % 5, value: 1 + n % 9, scale: 0.3, sequence: 1 + k % 20 };
        let sequences = 1 + m % 4;
        let checks = [
            ("gemm", {
                let (all, part) = (gemm(device, &a, &b), gemm(device, &head(&a, fewer), &b));
                starts_with(all, part)
            }),
            ("gemv", {
                let w = crate::quantize::codes(&d, 4, DType::E4M3, (n, k), true);
                let scales = crate::quantize::scales(&d, 5, &Tiling::Block(n), (n, k));
                let numbers = starts_with(gemv(device, &a, &b, None), gemv(device, &head(&a, fewer), &b, None));
                let codes = |a: &Operand| gemv(device, a, &w, Some(&scales));
                match starts_with(codes(&a), codes(&head(&a, fewer))) {
                    Err(Trouble::Unsupported(_)) if !options.fp8 => numbers,
                    Ok(true) => numbers,
                    other => other,
                }
            }),
            ("rmsnorm", {
                let w = Operand::floats(d.wide(), 1, k, d.normals(2, k));
                let (all, part) = (rmsnorm(device, &a, &w), rmsnorm(device, &head(&a, fewer), &w));
                starts_with(all, part)
            }),
            ("attention", {
                let x = inputs(&d, &heads, sequences);
                let part = x.clone().map(|o| head(&o, heads.sequence));
                starts_with(attention(device, &heads, &x), attention(device, &heads, &part))
            }),
        ];
        for (kernel, check) in checks {
            match check {
                Ok(true) => {}
                Err(Trouble::Unsupported(_)) if d.dtype != DType::F32 => {}
                Ok(false) => {
                    return Err(format!("{kernel}: a row depends on how many others there are"));
                }
                Err(trouble) => return Err(format!("{kernel}: {trouble:?}")),
            }
        }
        Ok(())
    })?;
    Ok(Outcome { name: NAME, cases: options.cases, unsupported: 0 })
}

fn starts_with(all: Result<Vec<u64>, Trouble>, part: Result<Vec<u64>, Trouble>) -> Result<bool, Trouble> {
    Ok(all?.starts_with(&part?))
}

fn gemm<D: Kernels>(device: &D, a: &Operand, b: &Operand) -> Result<Vec<u64>, Trouble> {
    let [a, b, mut c] = place(device, [a, b, &Operand::result(a.dtype, a.rows, b.rows)])?;
    let call = Gemm::new(Form::Nt, a.view(), b.view(), c.view_mut()).expect("the shapes fit");
    device.gemm(call).map_err(Trouble::of)?;
    bits(device, &c)
}

/// A weight of numbers, or with `scales` of codes in blocks.
fn gemv<D: Kernels>(device: &D, x: &Operand, w: &Operand, scales: Option<&Operand>) -> Result<Vec<u64>, Trouble> {
    let none = Operand::floats(DType::F32, 0, 0, Vec::new());
    let [x, w, scales, mut y] =
        place(device, [x, w, scales.unwrap_or(&none), &Operand::result(x.dtype, x.rows, w.rows)])?;
    let tiles = Tiles::Block { part: w.view().rows() };
    let factor = match w.view().dtype() {
        DType::E4M3 => Factor::Fp8(Scaled::new(w.view(), scales.view(), tiles).expect("scales of the blocks' shape")),
        _ => Factor::Float(w.view()),
    };
    let call = Gemv::new(x.view(), factor, y.view_mut(), Out::Replace).expect("the shapes fit");
    device.gemv(call).map_err(Trouble::of)?;
    bits(device, &y)
}

fn rmsnorm<D: Kernels>(device: &D, x: &Operand, w: &Operand) -> Result<Vec<u64>, Trouble> {
    let (y, rstd) = (Operand::result(x.dtype, x.rows, x.cols), Operand::result(w.dtype, x.rows, 1));
    let [x, w, mut y, mut rstd] = place(device, [x, w, &y, &rstd])?;
    let call = RmsNorm::new(x.view(), w.view(), 1e-6, y.view_mut(), rstd.view_mut()).expect("the shapes fit");
    device.rmsnorm(call).map_err(Trouble::of)?;
    bits(device, &y)
}

fn attention<D: Kernels>(device: &D, heads: &Heads, x: &[Operand; 4]) -> Result<Vec<u64>, Trouble> {
    let (dtype, t) = (x[0].dtype, x[0].rows);
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let (o, lse) = (Operand::result(dtype, t, heads.heads * heads.value), Operand::result(wide, t, heads.heads));
    let [q, kv, k_pe, starts, mut o, mut lse] = place(device, [&x[0], &x[1], &x[2], &x[3], &o, &lse])?;
    let (o_mut, lse_mut) = (o.view_mut(), lse.view_mut());
    let call = Attention::new(*heads, q.view(), kv.view(), k_pe.view(), starts.view(), o_mut, lse_mut);
    device.attention(call.expect("the shapes fit")).map_err(Trouble::of)?;
    bits(device, &o)
}

/// An index outside its table is an error of kind [`ErrorKind::Shape`], at the call or at the next flush, in every
/// kernel that takes indices; and nothing outside a view is written on the way. Offsets of `grouped_gemm` that do not
/// fit may be clamped instead.
pub fn index_out_of_range<D: Kernels>(device: &D, _options: &Options) -> Result<Outcome, Failure> {
    const NAME: &str = "index out of range";
    let mut cases = 0;
    for (kernel, required, call) in bad_calls::<D>() {
        for index in [4u32, 5, 1 << 30, u32::MAX - 1] {
            cases += 1;
            let problem = match bad_call(device, index, call) {
                Ok(()) if required => "is not reported",
                Err(Trouble::Error(ErrorKind::Shape, _)) | Ok(()) => continue,
                Err(Trouble::Wrong(problem)) => {
                    return Err(Failure { name: NAME, problem: format!("{kernel}: {problem}") });
                }
                Err(Trouble::Error(..) | Trouble::Unsupported(_)) => "is an error of another kind than shape",
            };
            let problem = format!("{kernel}: an index of {index} into 4 rows {problem}");
            return Err(Failure { name: NAME, problem });
        }
    }
    Ok(Outcome { name: NAME, cases, unsupported: 0 })
}

/// Operands of a bad call: indices `[4, 1]` of which one is wrong, and matrices `[4, 4]` to read and to write.
struct Bad<D: Kernels> {
    index: Placed<D>,
    row: Placed<D>,
    x: Placed<D>,
    y: Placed<D>,
    order: Placed<D>,
    offsets: Placed<D>,
}

type BadCall<D> = fn(&D, &mut Bad<D>) -> Result<(), <D as fathom_core::device::Device>::Error>;

fn bad_call<D: Kernels>(device: &D, index: u32, call: BadCall<D>) -> Result<(), Trouble> {
    let fill = || Operand::floats(DType::F32, 4, 4, vec![0.5; 16]).gaps(true);
    let column = Operand::indices(4, 1, vec![0, index, 1, 2]);
    let row = Operand::indices(1, 5, vec![0, index, 2, 3, 4]);
    let order = Operand::index_result(4, 1);
    let offsets = Operand::index_result(1, 5);
    let [index, row, x, y, order, offsets] = place(device, [&column, &row, &fill(), &fill(), &order, &offsets])?;
    let mut bad = Bad { index, row, x, y, order, offsets };
    let result = call(device, &mut bad).and_then(|()| device.flush()).map_err(Trouble::of);
    for placed in [&bad.index, &bad.row, &bad.x, &bad.y, &bad.order, &bad.offsets] {
        // Where the device is lost to the error there is nothing to read.
        if let Ok((_, false)) = placed.read(device) {
            return Err(Trouble::Wrong("elements outside a view were written".into()));
        }
    }
    result
}

/// Kernel, whether it must report the index, and a call with it.
fn bad_calls<D: Kernels>() -> Vec<(&'static str, bool, BadCall<D>)> {
    vec![
        ("gather_rows", true, |d, b| d.gather_rows(GatherRows::new(b.x.view(), b.index.view(), 1, b.y.view_mut())?)),
        ("scatter_add_rows", true, |d, b| {
            d.scatter_add_rows(ScatterAddRows::new(b.x.view(), b.index.view(), b.y.view_mut())?)
        }),
        ("gather_columns", true, |d, b| {
            let y = b.y.view_mut().columns(0..1)?;
            d.gather_columns(GatherColumns::new(b.x.view(), b.index.view(), y)?)
        }),
        ("scatter_add_columns", true, |d, b| {
            let x = b.x.view().columns(0..1)?;
            d.scatter_add_columns(ScatterAddColumns::new(x, b.index.view(), b.y.view_mut())?)
        }),
        ("sort_by_key", true, |d, b| {
            let mut inverse = Tensor::<D>::empty(d, &[4, 1], DType::U32)?;
            let (order, offsets) = (b.order.view_mut(), b.offsets.view_mut());
            d.sort_by_key(SortByKey::new(b.index.view(), 4, order, inverse.view_mut(), offsets)?)
        }),
        ("store_latent", true, |d, b| {
            let (row, mut cache) = (LatentRow::new(DType::F32, 3, 1)?, Tensor::<D>::zeros(d, &[4, 4], DType::F32)?);
            let (latent, k_pe) = (b.x.view().columns(0..3)?, b.y.view().columns(0..1)?);
            d.store_latent(StoreLatent::new(row, latent, k_pe, b.index.view(), cache.view_mut())?)
        }),
        ("load_latent", true, |d, b| {
            let (row, cache) = (LatentRow::new(DType::F32, 3, 1)?, Tensor::<D>::zeros(d, &[4, 4], DType::F32)?);
            let (latent, k_pe) = (b.x.view_mut().columns(0..3)?, b.y.view_mut().columns(0..1)?);
            d.load_latent(LoadLatent::new(row, cache.view(), b.index.view(), latent, k_pe)?)
        }),
        ("latent_attention", true, |d, b| {
            let (row, cache) = (LatentRow::new(DType::F32, 3, 1)?, Tensor::<D>::zeros(d, &[4, 4], DType::F32)?);
            let sequence = Tensor::<D>::from_slice(d, &[4, 1], DType::U32, &[0u32, 1, 2, 3])?;
            let keys = Tensor::<D>::from_slice(d, &[4, 1], DType::U32, &[1u32; 4])?;
            let paged = Paged::new(row, cache.view(), 1, b.index.view())?;
            let o = b.y.view_mut().columns(0..3)?;
            d.latent_attention(LatentAttention::new(1, 1.0, b.x.view(), paged, sequence.view(), keys.view(), o)?)
        }),
        ("rope", true, |d, b| d.rope(Rope::new(b.y.view_mut(), 4, 0, b.x.view(), b.index.view(), false)?)),
        ("route_grad", true, |d, b| {
            let config = RouteConfig {
                experts: 4,
                top_k: 1,
                groups: 1,
                top_groups: 1,
                score: Score::Sigmoid,
                group_score: GroupScore::Max,
                normalize: true,
                scale: 1.0,
            };
            let dw = b.x.view().columns(0..1)?;
            d.route_grad(RouteGrad::new(config, b.x.view(), b.index.view(), dw, None, b.y.view_mut())?)
        }),
        ("combine", true, |d, b| d.combine(Combine::new(b.x.view(), b.index.view(), b.y.view_mut(), Out::Replace)?)),
        ("cross_entropy", true, |d, b| {
            let mut nll = Tensor::<D>::empty(d, &[4, 1], DType::F32)?;
            d.cross_entropy(CrossEntropy::new(b.y.view_mut(), b.index.view(), Some(1.0), nll.view_mut())?)
        }),
        ("grouped_gemm", false, |d, b| {
            let weights = Tensor::<D>::zeros(d, &[16, 4], DType::F32)?;
            let call = GroupedGemm::new(Form::Nt, 4, b.x.view(), weights.view(), b.row.view(), b.y.view_mut())?;
            d.grouped_gemm(call)
        }),
    ]
}

/// NaN or infinity in what is to be quantised is an error of kind [`ErrorKind::NonFinite`], at the call or at the next
/// flush, and nothing outside a view is written on the way. Of what is to be requantised it may come from a code or
/// from a scale.
pub fn non_finite<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    const NAME: &str = "NaN or infinity quantised";
    let shape = (Draw::any(options.dtypes(device)), some(40), 1usize..200, any::<u64>(), 0usize..4);
    draw(NAME, options.cases, shape, |(d, rows, cols, at, kind)| {
        let d = Draw { style: Style::Normal, ..d };
        let to =
            [Tiling::Row(cols), Tiling::Column, Tiling::Groups(vec![rows / 2, rows - rows / 2]), Tiling::Block(rows)];
        let (to, across) = (&to[kind], &to[kind % 2 + 1]);
        let mut x = Operand::floats(d.dtype, rows, cols, d.floats(0, rows * cols));
        let at = at as usize % x.bits.len();
        let bad = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][at % 3];
        x.bits[at] = Operand::floats(d.dtype, 1, 1, vec![bad]).bits[0];
        rejected(options.fp8 && d.dtype == DType::F32, "quantize", quantize(device, &x, to))?;
        rejected(options.fp8 && d.dtype == DType::F32, "quantize_both", quantize_both(device, &x, across))?;

        let mut codes = Operand::floats(DType::E4M3, rows, cols, d.floats(0, rows * cols));
        let mut scales = Operand::floats(DType::F32, rows, cols.div_ceil(TILE), vec![1.0; rows * cols.div_ceil(TILE)]);
        if at.is_multiple_of(2) {
            codes.bits[at] = 0x7f;
        } else {
            let tile = at / cols * scales.cols + at % cols / TILE;
            codes.bits[at] = 0x38;
            scales.bits[tile] = Operand::floats(DType::F32, 1, 1, vec![bad]).bits[0];
        }
        rejected(options.fp8, "requantize", requantize(device, &codes, &scales, to))
    })?;
    Ok(Outcome { name: NAME, cases: options.cases, unsupported: 0 })
}

/// Whether a call was refused as one that met NaN or infinity must be; as unsupported, where it is not `required`.
fn rejected(required: bool, kernel: &str, result: Result<(), Trouble>) -> Result<(), String> {
    match result {
        Err(Trouble::Error(ErrorKind::NonFinite, _)) => Ok(()),
        Err(Trouble::Unsupported(_)) if !required => Ok(()),
        Ok(()) => Err(format!("{kernel}: NaN or infinity is not reported")),
        Err(trouble) => Err(format!("{kernel}: {trouble:?}")),
    }
}

/// Codes and scales of a matrix `[rows, cols]`, to write.
fn results<D: Kernels>(device: &D, rows: usize, cols: usize, tiling: &Tiling) -> Result<[Placed<D>; 3], Trouble> {
    let (r, c) = tiling.scales(rows, cols);
    let (codes, scales) = (Operand::result(DType::E4M3, rows, cols), Operand::result(DType::F32, r, c));
    place(device, [&codes.gaps(true), &scales, &tiling.offsets()])
}

/// Waits for the device, and looks whether it stayed inside its results.
fn finish<D: Kernels>(device: &D, result: Result<(), D::Error>, written: [&Placed<D>; 2]) -> Result<(), Trouble> {
    let result = result.and_then(|()| device.flush()).map_err(Trouble::of);
    for placed in written {
        if let Ok((_, false)) = placed.read(device) {
            return Err(Trouble::Wrong("elements outside a view were written".into()));
        }
    }
    result
}

fn quantize<D: Kernels>(device: &D, x: &Operand, to: &Tiling) -> Result<(), Trouble> {
    let [x] = place(device, [x])?;
    let [mut codes, mut scales, offsets] = results(device, x.view().rows(), x.view().cols(), to)?;
    let y = ScaledMut::new(codes.view_mut(), scales.view_mut(), to.tiles(offsets.view())).expect("the shapes fit");
    let result = device.quantize(Quantize::new(x.view(), y, false).expect("the shapes fit"));
    finish(device, result, [&codes, &scales])
}

fn quantize_both<D: Kernels>(device: &D, x: &Operand, across: &Tiling) -> Result<(), Trouble> {
    let ([x], along) = (place(device, [x])?, Tiling::Row(x.cols));
    let [mut codes, mut scales, _] = results(device, x.view().rows(), x.view().cols(), &along)?;
    let [mut anew, mut new_scales, offsets] = results(device, x.view().rows(), x.view().cols(), across)?;
    let rows = ScaledMut::new(codes.view_mut(), scales.view_mut(), along.tiles(offsets.view())).expect("fits");
    let tiles = across.tiles(offsets.view());
    let columns = ScaledMut::new(anew.view_mut(), new_scales.view_mut(), tiles).expect("fits");
    let y = Encoded::new(Some(rows), Some(columns), false).expect("the shapes fit");
    let result = device.quantize_both(QuantizeBoth::new(x.view(), y).expect("the shapes fit"));
    finish(device, result, [&codes, &anew])
}

fn requantize<D: Kernels>(device: &D, codes: &Operand, scales: &Operand, to: &Tiling) -> Result<(), Trouble> {
    let [from, from_scales] = place(device, [codes, scales])?;
    let [mut codes, mut scales, offsets] = results(device, codes.rows, codes.cols, to)?;
    let part = from.view().cols();
    let x = Scaled::new(from.view(), from_scales.view(), Tiles::Row { part }).expect("the shapes fit");
    let y = ScaledMut::new(codes.view_mut(), scales.view_mut(), to.tiles(offsets.view())).expect("the shapes fit");
    let result = device.requantize(Requantize::new(x, y, false).expect("the shapes fit"));
    finish(device, result, [&codes, &scales])
}

/// A clip factor of NaN leaves weights and moments with the bits they had, whatever the gradient holds.
pub fn nan_clip<D: Kernels>(device: &D, options: &Options) -> Result<Outcome, Failure> {
    const NAME: &str = "clip factor of NaN";
    draw(NAME, options.cases, (Draw::any(vec![DType::F32]), some(200), rates()), |(d, n, rates)| {
        let mut gradient = d.floats(1, n);
        for (i, x) in gradient.iter_mut().enumerate().step_by(3) {
            *x = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][i / 3 % 3];
        }
        let state = [0, 2, 3].map(|i| Operand::floats(DType::F32, 1, n, d.floats(i, n)));
        step(device, &state, gradient, rates).map_err(|trouble| format!("{trouble:?}"))
    })?;
    Ok(Outcome { name: NAME, cases: options.cases, unsupported: 0 })
}

fn step<D: Kernels>(device: &D, state: &[Operand; 3], gradient: Vec<f64>, rates: AdamRates) -> Result<(), Trouble> {
    let g = Operand::floats(DType::F32, 1, gradient.len(), gradient);
    let clip = Operand::floats(DType::F32, 1, 1, vec![f64::NAN]);
    let [mut w, mut m, mut v, g, clip] = place(device, [&state[0], &state[1], &state[2], &g, &clip])?;
    let views = (w.view_mut(), m.view_mut(), v.view_mut());
    let call = AdamW::new(views.0, g.view(), views.1, views.2, clip.view(), rates).expect("the shapes fit");
    device.adamw(call).map_err(Trouble::of)?;
    for (name, placed, before) in [("w", &w, &state[0]), ("m", &m, &state[1]), ("v", &v, &state[2])] {
        if bits(device, placed)? != before.bits {
            return Err(Trouble::Wrong(format!("{name} was changed")));
        }
    }
    Ok(())
}
