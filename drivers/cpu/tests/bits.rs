//! Every kernel at a few awkward shapes, over activations of either type: near the reference, and the same bits for any
//! number of threads.

use fathom_core::DType;
use fathom_core::device::*;
use fathom_core::routing::{GroupScore, RouteConfig, Score};
use fathom_core::tensor::Tensor;
use fathom_cpu::{Cpu, Isa};

/// Deterministic inputs in −1..1.
struct Inputs<'d, D: Kernels> {
    device: &'d D,
    /// The type of activations.
    of: DType,
    state: u32,
}

impl<'d, D: Kernels> Inputs<'d, D> {
    fn next(&mut self) -> u32 {
        self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.state >> 8
    }

    fn floats(&mut self, rows: usize, cols: usize) -> Tensor<D> {
        let values: Vec<f32> = (0..rows * cols).map(|_| self.next() as f32 / (1 << 23) as f32 - 1.0).collect();
        Tensor::<D>::from_slice(self.device, &[rows, cols], DType::F32, &values).unwrap()
    }

    /// Activations.
    fn reals(&mut self, rows: usize, cols: usize) -> Tensor<D> {
        let wide = self.floats(rows, cols);
        let mut x = Tensor::<D>::empty(self.device, &[rows, cols], self.of).unwrap();
        self.device.cast(Cast::new(wide.view(), x.view_mut()).unwrap()).unwrap();
        x
    }

    fn indices(&mut self, rows: usize, cols: usize, bound: u32) -> Tensor<D> {
        let values: Vec<u32> = (0..rows * cols).map(|_| self.next() % bound).collect();
        self.given(rows, cols, &values)
    }

    fn given(&mut self, rows: usize, cols: usize, values: &[u32]) -> Tensor<D> {
        Tensor::<D>::from_slice(self.device, &[rows, cols], DType::U32, values).unwrap()
    }

    fn zeros(&mut self, rows: usize, cols: usize) -> Tensor<D> {
        Tensor::<D>::zeros(self.device, &[rows, cols], DType::F32).unwrap()
    }

    /// Activations to be written.
    fn blank(&mut self, rows: usize, cols: usize) -> Tensor<D> {
        Tensor::<D>::zeros(self.device, &[rows, cols], self.of).unwrap()
    }
}

/// What a kernel wrote, as f64 and as bits.
type Results = Vec<(&'static str, Vec<f64>, Vec<u32>)>;

struct Record<'d, D: Kernels>(&'d D, Results);

impl<D: Kernels> Record<'_, D> {
    fn keep(&mut self, name: &'static str, t: &Tensor<D>) {
        let bits: Vec<u32> = match t.dtype() {
            DType::BF16 => t.download::<D, u16>(self.0).unwrap().into_iter().map(u32::from).collect(),
            DType::E4M3 => t.download::<D, u8>(self.0).unwrap().into_iter().map(u32::from).collect(),
            _ => t.download(self.0).unwrap(),
        };
        let value = |&b: &u32| match t.dtype() {
            DType::F32 => f64::from(f32::from_bits(b)),
            DType::BF16 => f64::from(f32::from_bits(b << 16)),
            _ => f64::from(b),
        };
        self.1.push((name, bits.iter().map(value).collect(), bits));
    }
}

fn run<D: Kernels>(device: &D, of: DType) -> Results {
    let mut out = Record(device, Vec::new());
    let mut input = Inputs { device, of, state: 1 };
    small(device, &mut input, &mut out);
    layers(device, &mut input, &mut out);
    experts(device, &mut input, &mut out);
    attention(device, &mut input, &mut out);
    training(device, &mut input, &mut out);
    codes(device, &mut input, &mut out);
    out.1
}

fn small<D: Kernels>(device: &D, input: &mut Inputs<'_, D>, out: &mut Record<'_, D>) {
    for (rows, cols) in [(1, 100_003), (301, 257)] {
        for f in [UnaryOp::Sigmoid, UnaryOp::Exp, UnaryOp::Square, UnaryOp::Affine(0.3, -2.0), UnaryOp::Sign] {
            let mut y = input.reals(rows, cols);
            device.unary(Unary::new(f, y.view_mut()).unwrap()).unwrap();
            out.keep("unary", &y);
        }
        for f in [Reduction::Sum, Reduction::SumSquares, Reduction::Max] {
            let (x, mut y) = (input.reals(rows, cols), input.zeros(rows, 1));
            device
                .reduce_rows(ReduceRows::new(f, x.view(), y.view_mut(), Out::add_if(f == Reduction::Sum)).unwrap())
                .unwrap();
            out.keep("reduce_rows", &y);
        }
        for (f, shape) in [
            (BinaryOp::Add, (rows, cols)),
            (BinaryOp::Mul, (1, cols)),
            (BinaryOp::Sub, (rows, 1)),
            (BinaryOp::Add, (1, 1)),
        ] {
            let (x, mut y) = (input.floats(shape.0, shape.1), input.reals(rows, cols));
            device.binary(Binary::new(f, x.view(), y.view_mut()).unwrap()).unwrap();
            out.keep("binary", &y);
        }
        let (x, mut y) = (input.reals(rows, cols), input.floats(1, cols));
        device.sum_columns(SumColumns::new(x.view(), y.view_mut()).unwrap()).unwrap();
        out.keep("sum_columns", &y);
        let mut y = input.blank(rows, cols);
        device.random_normal(RandomNormal::new(7, 9, 0.1, y.view_mut()).unwrap()).unwrap();
        out.keep("random_normal", &y);
    }
    let (mut y, first) = (input.floats(40, 60), input.indices(40, 1, 50));
    device.mask_window(MaskWindow::new(first.view(), 7, 20, y.view_mut()).unwrap()).unwrap();
    device.unary(Unary::new(UnaryOp::Exp, y.view_mut()).unwrap()).unwrap();
    out.keep("mask_window", &y);
}

fn layers<D: Kernels>(device: &D, input: &mut Inputs<'_, D>, out: &mut Record<'_, D>) {
    let (t, n) = (203, 96);
    for accumulate in [false, true] {
        let (x, w, dy) = (input.reals(t, n), input.floats(1, n), input.reals(t, n));
        let (mut y, mut rstd) = (input.blank(t, n), input.zeros(t, 1));
        device.rmsnorm(RmsNorm::new(x.view(), w.view(), 1e-6, y.view_mut(), rstd.view_mut()).unwrap()).unwrap();
        let (mut dx, mut dw) = (input.reals(t, n), input.floats(1, n));
        let call = RmsNormGrad::new(
            x.view(),
            w.view(),
            rstd.view(),
            dy.view(),
            dx.view_mut(),
            Out::add_if(accumulate),
            dw.view_mut(),
        );
        device.rmsnorm_grad(call.unwrap()).unwrap();
        for (name, t) in [("rmsnorm", &y), ("rmsnorm", &rstd), ("rmsnorm_grad", &dx), ("rmsnorm_grad", &dw)] {
            out.keep(name, t);
        }
    }
    for inverse in [false, true] {
        let (mut x, table, positions) = (input.reals(t, n), input.floats(50, 8), input.indices(t, 1, 50));
        device.rope(Rope::new(x.view_mut(), 24, 10, table.view(), positions.view(), inverse).unwrap()).unwrap();
        out.keep("rope", &x);
    }
    for scaled in [false, true] {
        let (x, scale, dy) = (input.reals(t, 2 * n), input.floats(t, 1), input.reals(t, n));
        let scale_view = scaled.then(|| scale.view());
        let mut y = input.blank(t, n);
        device.swiglu(Swiglu::new(x.view(), scale_view, y.view_mut()).unwrap()).unwrap();
        out.keep("swiglu", &y);
        let (mut dx, mut ds, mut again) = (input.blank(t, 2 * n), input.zeros(t, 1), input.blank(t, n));
        let ds_view = scaled.then(|| ds.view_mut());
        let call = SwigluGrad::new(x.view(), scale_view, dy.view(), dx.view_mut(), ds_view, again.view_mut()).unwrap();
        device.swiglu_grad(call).unwrap();
        for t in [&dx, &ds, &again] {
            out.keep("swiglu_grad", t);
        }
    }
}

fn experts<D: Kernels>(device: &D, input: &mut Inputs<'_, D>, out: &mut Record<'_, D>) {
    let (t, e, k, d) = (192, 16, 4, 70);
    for (score, normalize) in [(Score::Sigmoid, true), (Score::Softmax, false)] {
        let config = RouteConfig {
            experts: e,
            top_k: k,
            groups: 4,
            top_groups: 2,
            score,
            group_score: GroupScore::TopTwo,
            normalize,
            scale: 2.5,
        };
        let (logits, bias) = (input.floats(t, e), input.floats(1, e));
        let (mut scores, mut weights, mut chosen) = (input.zeros(t, e), input.zeros(t, k), input.indices(t, k, 1));
        let call = Route::new(
            config,
            logits.view(),
            Some(bias.view()),
            scores.view_mut(),
            chosen.view_mut(),
            weights.view_mut(),
        );
        device.route(call.unwrap()).unwrap();
        let (mut loss, mut ds) = (input.floats(1, 1), input.zeros(t, e));
        device.balance(Balance::new(scores.view(), 64, k, 0.01, loss.view_mut(), ds.view_mut()).unwrap()).unwrap();
        let (dw, mut dx) = (input.floats(t, k), input.zeros(t, e));
        let call = RouteGrad::new(config, scores.view(), chosen.view(), dw.view(), Some(ds.view()), dx.view_mut());
        device.route_grad(call.unwrap()).unwrap();
        for (name, t) in [("route", &scores), ("route", &weights), ("route", &chosen), ("balance", &loss)] {
            out.keep(name, t);
        }
        out.keep("balance", &ds);
        out.keep("route_grad", &dx);

        let (mut order, mut inverse) = (input.indices(t * k, 1, 1), input.indices(t, k, 1));
        let mut offsets = input.indices(1, e + 1, 1);
        let call = SortByKey::new(chosen.view(), e, order.view_mut(), inverse.view_mut(), offsets.view_mut());
        device.sort_by_key(call.unwrap()).unwrap();
        let (x, mut rows) = (input.reals(t, d), input.blank(t * k, d));
        device.gather_rows(GatherRows::new(x.view(), order.view(), k, rows.view_mut()).unwrap()).unwrap();
        let (wide, w, mut y) = (input.floats(t * k, d), input.floats(e * 33, d), input.zeros(t * k, 33));
        let call = GroupedGemm::new(Form::Nt, e, wide.view(), w.view(), offsets.view(), y.view_mut());
        device.grouped_gemm(call.unwrap()).unwrap();
        let mut sum = input.reals(t, d);
        device
            .combine(Combine::new(rows.view(), inverse.view(), sum.view_mut(), Out::add_if(normalize)).unwrap())
            .unwrap();
        for t in [&order, &inverse, &offsets] {
            out.keep("sort_by_key", t);
        }
        out.keep("gather_rows", &rows);
        out.keep("grouped_gemm", &y);
        out.keep("combine", &sum);

        let (values, mut picked, mut load) = (input.floats(1, 1), input.zeros(t, k), input.zeros(t, e));
        device.gather_columns(GatherColumns::new(scores.view(), chosen.view(), picked.view_mut()).unwrap()).unwrap();
        let call = ScatterAddColumns::new(values.view(), chosen.view(), load.view_mut()).unwrap();
        device.scatter_add_columns(call).unwrap();
        let mut best = input.indices(t, 5, 1);
        device.top_k(TopK::new(logits.view(), best.view_mut()).unwrap()).unwrap();
        let mut b = input.floats(1, e);
        let counts = load.view().row_range(0..1).unwrap();
        device.update_bias(UpdateBias::new(counts, 0.001, b.view_mut()).unwrap()).unwrap();
        for (name, t) in [("gather_columns", &picked), ("scatter_add_columns", &load), ("top_k", &best)] {
            out.keep(name, t);
        }
        out.keep("update_bias", &b);
    }
}

fn attention<D: Kernels>(device: &D, input: &mut Inputs<'_, D>, out: &mut Record<'_, D>) {
    for (heads, nope, rope, value, sequence, sequences) in
        [(3, 32, 16, 32, 300, 2), (2, 24, 8, 40, 1, 5), (20, 8, 0, 8, 70, 1), (1, 128, 64, 128, 140, 1)]
    {
        let t = sequence * sequences;
        let shape = Heads { heads, nope, rope, value, scale: 0.7, sequence };
        let (q, kv) = (input.reals(t, heads * (nope + rope)), input.reals(t, heads * (nope + value)));
        let k_pe = input.reals(t, rope);
        // Documents of uneven length, and starts before the sequence and after the row, which are clamped.
        let starts: Vec<u32> = (0..t as u32).map(|r| [r / 90 * 90, 0, r + 9][(r % 11 / 9) as usize]).collect();
        let starts = input.given(t, 1, &starts);
        let (mut o, mut lse) = (input.blank(t, heads * value), input.zeros(t, heads));
        let (ov, lv) = (o.view_mut(), lse.view_mut());
        let call = Attention::new(shape, q.view(), kv.view(), k_pe.view(), starts.view(), ov, lv).unwrap();
        device.attention(call).unwrap();
        let d_o = input.reals(t, heads * value);
        let (mut dq, mut dkv) = (input.reals(t, heads * (nope + rope)), input.reals(t, heads * (nope + value)));
        let mut dk_pe = input.reals(t, rope);
        let call = AttentionGrad::new(
            shape,
            q.view(),
            kv.view(),
            k_pe.view(),
            starts.view(),
            o.view(),
            lse.view(),
            d_o.view(),
            dq.view_mut(),
            dkv.view_mut(),
            dk_pe.view_mut(),
        );
        device.attention_grad(call.unwrap()).unwrap();
        for (name, t) in [("attention", &o), ("attention", &lse), ("attention_grad", &dq), ("attention_grad", &dkv)] {
            out.keep(name, t);
        }
        out.keep("attention_grad", &dk_pe);
    }
}

fn training<D: Kernels>(device: &D, input: &mut Inputs<'_, D>, out: &mut Record<'_, D>) {
    for gradient in [None, Some(0.01)] {
        let (t, v) = (67, 1003);
        let targets: Vec<u32> = (0..t as u32).map(|r| if r % 5 == 0 { IGNORE } else { r * 14 }).collect();
        let (mut x, targets, mut nll) = (input.reals(t, v), input.given(t, 1, &targets), input.floats(t, 1));
        let call = CrossEntropy::new(x.view_mut(), targets.view(), gradient, nll.view_mut()).unwrap();
        device.cross_entropy(call).unwrap();
        out.keep("cross_entropy", &x);
        out.keep("cross_entropy", &nll);
    }
    let n = 50_001;
    let (mut w, g, mut m, mut v, clip) =
        (input.floats(1, n), input.floats(1, n), input.reals(1, n), input.reals(1, n), input.floats(1, 1));
    device.unary(Unary::new(UnaryOp::Square, v.view_mut()).unwrap()).unwrap();
    let rates = AdamRates { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1, step: 3 };
    let (wv, mv, vv) = (w.view_mut(), m.view_mut(), v.view_mut());
    device.adamw(AdamW::new(wv, g.view(), mv, vv, clip.view(), rates).unwrap()).unwrap();
    for t in [&w, &m, &v] {
        out.keep("adamw", t);
    }
    device.lerp(Lerp::new(w.view_mut(), g.view(), 0.1).unwrap()).unwrap();
    out.keep("lerp", &w);
    let (rows, index, mut table) = (input.reals(500, 130), input.indices(500, 1, 20), input.floats(20, 130));
    device.scatter_add_rows(ScatterAddRows::new(rows.view(), index.view(), table.view_mut()).unwrap()).unwrap();
    out.keep("scatter_add_rows", &table);
}

/// Matrices of several blocks and strips in every tiling, encoded, decoded, and encoded again.
fn codes<D: Kernels>(device: &D, input: &mut Inputs<'_, D>, out: &mut Record<'_, D>) {
    let (m, n) = (300, 1100);
    let offsets = input.given(1, 4, &[0, 130, 131, m as u32]);
    let every = [
        Tiles::Row { part: 550 },
        Tiles::Block { part: 150 },
        Tiles::Column,
        Tiles::Groups { offsets: offsets.view() },
    ];
    let blank = |tiles: &Tiles<'_, D::Buffer>| {
        let scales = Tensor::<D>::zeros(device, &tiles.scales(m, n), DType::F32).unwrap();
        (Tensor::<D>::empty(device, &[m, n], DType::E4M3).unwrap(), scales)
    };
    for (i, tiles) in every.into_iter().enumerate() {
        let (x, mut y, power_of_two) = (input.reals(m, n), input.blank(m, n), i % 2 == 1);
        let (mut codes, mut scales) = blank(&tiles);
        let to = ScaledMut::new(codes.view_mut(), scales.view_mut(), tiles).unwrap();
        device.quantize(Quantize::new(x.view(), to, power_of_two).unwrap()).unwrap();
        let from = Scaled::new(codes.view(), scales.view(), tiles).unwrap();
        device.dequantize(Dequantize::new(from, y.view_mut()).unwrap()).unwrap();
        let tiles = every[(i + 2) % 4];
        let (mut new_codes, mut new_scales) = blank(&tiles);
        let to = ScaledMut::new(new_codes.view_mut(), new_scales.view_mut(), tiles).unwrap();
        device.requantize(Requantize::new(from, to, power_of_two).unwrap()).unwrap();
        for t in [&codes, &scales, &y, &new_codes, &new_scales] {
            out.keep(EXACT, t);
        }
    }
    // Parts that are longer and shorter than a strip.
    for (i, (part, columns)) in [(550, every[2]), (1100, every[3]), (137, every[3])].into_iter().enumerate() {
        let n = n / part * part;
        let (x, rows) = (input.reals(m, n), Tiles::Row { part });
        let [mut codes, mut column_codes] = [(); 2].map(|()| Tensor::<D>::empty(device, &[m, n], DType::E4M3).unwrap());
        let [mut scales, mut column_scales] =
            [rows, columns].map(|tiles| Tensor::<D>::zeros(device, &tiles.scales(m, n), DType::F32).unwrap());
        let rows = ScaledMut::new(codes.view_mut(), scales.view_mut(), rows).unwrap();
        let columns = ScaledMut::new(column_codes.view_mut(), column_scales.view_mut(), columns).unwrap();
        let y = Encoded::new(Some(rows), Some(columns), i == 1).unwrap();
        device.quantize_both(QuantizeBoth::new(x.view(), y).unwrap()).unwrap();
        for t in [&codes, &scales, &column_codes, &column_scales] {
            out.keep(EXACT, t);
        }
    }
}

/// The name of results that have one right value.
const EXACT: &str = "codes";

/// The types of activations, and how far results over them may be from the reference, of the largest.
const TYPES: [(DType, f64); 2] = [(DType::F32, 2e-5), (DType::BF16, 1e-2)];

#[test]
fn near_the_reference_on_every_instruction_set() {
    for (of, limit) in TYPES {
        let want = run(&Host::new(), of);
        for isa in Isa::all() {
            let got = run(&Cpu::with(2, isa), of);
            assert_eq!(got.len(), want.len());
            for (i, ((name, got, bits), (_, want, right))) in got.iter().zip(&want).enumerate() {
                assert!(*name != EXACT || bits == right, "{of} {name} (result {i}) on {isa:?}");
                let scale = want.iter().fold(1.0f64, |m, v| m.max(v.abs()));
                for (at, (got, want)) in got.iter().zip(want).enumerate() {
                    let off = (got - want).abs() / scale;
                    assert!(off < limit, "{of} {name} (result {i}) element {at} on {isa:?}: {got}, not {want}");
                }
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for (of, _) in TYPES {
        let one = run(&Cpu::with_threads(1), of);
        for threads in [2, 5] {
            for ((name, _, got), (_, _, want)) in run(&Cpu::with_threads(threads), of).iter().zip(&one) {
                assert!(got == want, "{of} {name} on {threads} threads");
            }
        }
    }
}

#[test]
fn a_second_run_asks_the_system_for_no_memory() {
    let cpu = Cpu::with_threads(3);
    let all = || TYPES.map(|(of, _)| run(&cpu, of).len());
    all();
    let before = cpu.memory();
    all();
    let after = cpu.memory();
    assert_eq!(before.system_allocations, after.system_allocations);
    assert_eq!((after.in_use, before.peak), (0, after.peak));
}

/// An f64 or an integer rounds once, also where it lies beside a tie by less than half of its bits tell.
#[test]
fn wide_numbers_round_once() {
    let cpu = Cpu::with_threads(1);
    let tie = |bits: i32| 1.0 + f64::powi(2.0, -bits);
    let cases = [
        (DType::BF16, tie(8), 0x3f80u16),
        (DType::BF16, tie(8) + f64::powi(2.0, -22), 0x3f81),
        (DType::BF16, tie(8) + f64::powi(2.0, -52), 0x3f81),
        (DType::BF16, tie(8) - f64::powi(2.0, -52), 0x3f80),
        (DType::F16, tie(11), 0x3c00),
        (DType::F16, tie(11) + f64::powi(2.0, -22), 0x3c01),
        (DType::F16, tie(11) + f64::powi(2.0, -52), 0x3c01),
    ];
    for (dtype, value, want) in cases {
        let x = Tensor::<Cpu>::from_slice(&cpu, &[1, 1], DType::F64, &[value]).unwrap();
        let mut y = Tensor::<Cpu>::empty(&cpu, &[1, 1], dtype).unwrap();
        cpu.cast(Cast::new(x.view(), y.view_mut()).unwrap()).unwrap();
        assert_eq!(y.download::<Cpu, u16>(&cpu).unwrap(), [want], "cast of {value:e} to {dtype}");
        cpu.fill(Fill::new(y.view_mut(), value)).unwrap();
        assert_eq!(y.download::<Cpu, u16>(&cpu).unwrap(), [want], "fill of {dtype} by {value:e}");
    }
    for (integer, want) in [(0x8080_0000u32, 0x4f00u16), (0x8080_0001, 0x4f01), (0x8080_0100, 0x4f01)] {
        let x = Tensor::<Cpu>::from_slice(&cpu, &[1, 1], DType::U32, &[integer]).unwrap();
        let mut y = Tensor::<Cpu>::empty(&cpu, &[1, 1], DType::BF16).unwrap();
        cpu.cast(Cast::new(x.view(), y.view_mut()).unwrap()).unwrap();
        assert_eq!(y.download::<Cpu, u16>(&cpu).unwrap(), [want], "cast of {integer:#x}");
    }
}
