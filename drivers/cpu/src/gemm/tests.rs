//! Tests of GEMM against sums in f64.

use std::ops::Range;
use std::rc::Rc;

use fathom_core::DType;
use fathom_core::device::{
    Cast, Dequantize, Form, Gemm, GemmFp8, GroupedGemm, GroupedGemmFp8, Out, Quantize, Scaled, ScaledMut, Tiles,
};
use fathom_core::tensor::Tensor;
use half::bf16;

use crate::{Cpu, Isa};

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn tensor(cpu: &Cpu, dtype: DType, rows: usize, cols: usize, values: &[f32]) -> Tensor<Cpu> {
    let wide = Tensor::<Cpu>::from_slice(cpu, &[rows, cols], DType::F32, values).unwrap();
    let mut x = Tensor::<Cpu>::empty(cpu, &[rows, cols], dtype).unwrap();
    cpu.cast(Cast::new(wide.view(), x.view_mut()).unwrap()).unwrap();
    x
}

/// The numbers that `values` are in a tensor of type `dtype`.
fn rounded(dtype: DType, values: &[f32]) -> Vec<f32> {
    let short = |&v: &f32| if dtype == DType::BF16 { bf16::from_f32(v).to_f32() } else { v };
    values.iter().map(short).collect()
}

/// The numbers in a tensor, as f32.
fn numbers_of(cpu: &Cpu, x: &Tensor<Cpu>) -> Vec<f32> {
    match x.dtype() {
        DType::BF16 => x.download::<Cpu, u16>(cpu).unwrap().into_iter().map(|b| bf16::from_bits(b).to_f32()).collect(),
        _ => x.download(cpu).unwrap(),
    }
}

/// Types of `a`, `b` and `c`.
type Types = [DType; 3];
const F32: Types = [DType::F32; 3];
const BF16: Types = [DType::BF16; 3];
const SUMMED: Types = [DType::BF16, DType::BF16, DType::F32];
const TYPES: [Types; 6] = [
    F32,
    BF16,
    SUMMED,
    [DType::F32, DType::BF16, DType::F32],
    [DType::BF16, DType::F32, DType::BF16],
    [DType::F32, DType::F32, DType::BF16],
];

fn shapes(form: Form, m: usize, n: usize, k: usize) -> ((usize, usize), (usize, usize)) {
    match form {
        Form::Nt => ((m, k), (n, k)),
        Form::Nn => ((m, k), (k, n)),
        Form::Tn => ((k, m), (k, n)),
    }
}

fn product(cpu: &Cpu, types: Types, form: Form, [m, n, k]: [usize; 3], [a, b, c]: [&[f32]; 3]) -> Vec<f32> {
    let ((ar, ac), (br, bc)) = shapes(form, m, n, k);
    let (a, b) = (tensor(cpu, types[0], ar, ac, a), tensor(cpu, types[1], br, bc, b));
    let mut c = tensor(cpu, types[2], m, n, c);
    let call = Gemm::new(form, a.view(), b.view(), c.view_mut()).unwrap();
    cpu.gemm(call.scaled(0.5).out(Out::Add)).unwrap();
    numbers_of(cpu, &c)
}

const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (1, 17, 300),
    (2, 1, 40),
    (13, 33, 7),
    (100, 130, 65),
    (97, 16, 513),
    (48, 48, 1024),
    (400, 31, 12),
    (5, 4, 0),
];
const FORMS: [Form; 3] = [Form::Nt, Form::Nn, Form::Tn];

#[test]
fn products_are_right_on_every_instruction_set() {
    for (isa, types) in Isa::all().flat_map(|isa| TYPES.map(|t| (isa, t))) {
        let cpu = Cpu::with(2, isa);
        for (form, (m, n, k)) in FORMS.into_iter().flat_map(|f| SHAPES.map(|s| (f, s))) {
            let [a, b, c] = [(m * k, 1), (n * k, 2), (m * n, 3)].map(|(len, seed)| numbers(len, seed));
            let got = product(&cpu, types, form, [m, n, k], [&a, &b, &c]);
            let (a, b, c) = (rounded(types[0], &a), rounded(types[1], &b), rounded(types[2], &c));
            for (i, &got) in got.iter().enumerate() {
                let (r, s) = (i / n, i % n);
                let at = |x: &[f32], index: usize| f64::from(x[index]);
                let sum: f64 = (0..k)
                    .map(|p| match form {
                        Form::Nt => at(&a, r * k + p) * at(&b, s * k + p),
                        Form::Nn => at(&a, r * k + p) * at(&b, p * n + s),
                        Form::Tn => at(&a, p * m + r) * at(&b, p * n + s),
                    })
                    .sum();
                let want = 0.5 * sum + f64::from(c[i]);
                let half = if types[2] == DType::BF16 { want.abs() / 256.0 } else { 0.0 };
                let tolerance = 1e-6 * (1.0 + k as f64).sqrt() + 1e-6 + half;
                let what = format!("{form:?} {m}x{n}x{k} of {types:?} on {isa:?}");
                assert!((f64::from(got) - want).abs() < tolerance, "{what}: {got} for {want}");
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone() {
    for (isa, types) in Isa::all().flat_map(|isa| [F32, BF16, SUMMED].map(|t| (isa, t))) {
        let cpu = Cpu::with(2, isa);
        for form in [Form::Nt, Form::Nn] {
            for (m, n, k) in SHAPES.into_iter().chain([(300, 256, 256), (29, 4096, 64)]) {
                let (a, b, c) = (numbers(m * k, 4), numbers(n * k, 5), numbers(m * n, 6));
                let together = product(&cpu, types, form, [m, n, k], [&a, &b, &c]);
                for r in (0..m).step_by(1 + m / 40) {
                    let alone = product(&cpu, types, form, [1, n, k], [&a[r * k..][..k], &b, &c[r * n..][..n]]);
                    assert_eq!(alone, together[r * n..][..n], "{form:?} row {r} of {m}x{n}x{k}");
                }
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let shapes = [(300, 256, 700), (64, 1024, 96), (1030, 40, 33)];
    for (form, (m, n, k)) in FORMS.into_iter().flat_map(|f| shapes.map(|s| (f, s))) {
        let (a, b, c) = (numbers(m * k, 1), numbers(n * k, 2), numbers(m * n, 3));
        for (isa, types) in Isa::all().flat_map(|isa| TYPES.map(|t| (isa, t))) {
            let with = |threads| product(&Cpu::with(threads, isa), types, form, [m, n, k], [&a, &b, &c]);
            let one = with(1);
            for threads in [2, 5] {
                assert_eq!(one, with(threads), "{types:?} {form:?} on {isa:?}");
            }
        }
    }
}

/// Sums of more than one chain must not be rounded in between.
#[test]
fn a_bf16_result_is_the_f32_result_rounded() {
    for isa in Isa::all() {
        let cpu = Cpu::with(2, isa);
        for (form, (m, n, k)) in FORMS.into_iter().flat_map(|f| SHAPES.map(|s| (f, s))) {
            let ((ar, ac), (br, bc)) = shapes(form, m, n, k);
            let a = tensor(&cpu, DType::BF16, ar, ac, &numbers(m * k, 1));
            let b = tensor(&cpu, DType::BF16, br, bc, &numbers(n * k, 2));
            let [wide, short] = [DType::F32, DType::BF16].map(|dtype| {
                let mut c = tensor(&cpu, dtype, m, n, &vec![7.0; m * n]);
                cpu.gemm(Gemm::new(form, a.view(), b.view(), c.view_mut()).unwrap()).unwrap();
                numbers_of(&cpu, &c)
            });
            assert_eq!(rounded(DType::BF16, &wide), short, "{form:?} {m}x{n}x{k} on {isa:?}");
        }
    }
}

/// Words need an even distance of rows and an even start; numbers elsewhere are copied first.
#[test]
fn views_of_any_start_and_stride_give_the_same_bits() {
    let (m, n, k) = (30, 70, 65);
    let all = || [F32, BF16, SUMMED].into_iter().flat_map(|t| FORMS.map(|f| (t, f)));
    for (isa, (types, form)) in Isa::all().flat_map(|isa| all().map(move |case| (isa, case))) {
        let cpu = Cpu::with(2, isa);
        let ((ar, ac), (br, bc)) = shapes(form, m, n, k);
        let mut results = Vec::new();
        for (left, right) in [(0, 0), (0, 1), (1, 0), (1, 2), (2, 5), (0, 1024 * 4)] {
            // The same numbers with `left` and `right` columns of others beside them.
            let place = |dtype: DType, rows: usize, cols: usize, seed: u32| {
                let (inner, width) = (numbers(rows * cols, seed), left + cols + right);
                let mut all = vec![f32::NAN; rows * width];
                for (line, inner) in all.chunks_exact_mut(width).zip(inner.chunks_exact(cols)) {
                    line[left..left + cols].copy_from_slice(inner);
                }
                tensor(&cpu, dtype, rows, width, &all)
            };
            let (a, b, mut c) = (place(types[0], ar, ac, 1), place(types[1], br, bc, 2), place(types[2], m, n, 3));
            let (av, bv) = (a.view().columns(left..left + ac).unwrap(), b.view().columns(left..left + bc).unwrap());
            let call = Gemm::new(form, av, bv, c.view_mut().columns(left..left + n).unwrap()).unwrap();
            cpu.gemm(call.out(Out::Add)).unwrap();
            let all = numbers_of(&cpu, &c);
            let lines = all.chunks_exact(left + n + right);
            assert!(lines.clone().all(|l| l[..left].iter().chain(&l[left + n..]).all(|v| v.is_nan())));
            results.push(lines.flat_map(|l| l[left..left + n].to_vec()).collect::<Vec<_>>());
        }
        assert!(results.iter().all(|r| *r == results[0]), "{types:?} {form:?}");
        assert!(results[0].iter().all(|v| v.is_finite()));
    }
}

fn grouped(cpu: &Cpu, types: Types, form: Form, offsets: &[u32], [r, n, k]: [usize; 3]) -> (Vec<f32>, [Vec<f32>; 2]) {
    let g = offsets.len() - 1;
    let (input, weights, output) = ((r, k), (g * n, k), (r, n));
    let (sa, sb, sc) = match form {
        Form::Nt => (input, weights, output),
        Form::Nn => (output, weights, input),
        Form::Tn => (output, input, weights),
    };
    let (va, vb) = (numbers(sa.0 * sa.1, 7), numbers(sb.0 * sb.1, 8));
    let (a, b) = (tensor(cpu, types[0], sa.0, sa.1, &va), tensor(cpu, types[1], sb.0, sb.1, &vb));
    // What is replaced must not show.
    let mut c = tensor(cpu, types[2], sc.0, sc.1, &vec![1e3; sc.0 * sc.1]);
    let o = Tensor::<Cpu>::from_slice(cpu, &[1, g + 1], DType::U32, offsets).unwrap();
    cpu.grouped_gemm(GroupedGemm::new(form, g, a.view(), b.view(), o.view(), c.view_mut()).unwrap()).unwrap();
    (numbers_of(cpu, &c), [va, vb])
}

#[test]
fn a_group_is_a_product_of_its_own() {
    let (offsets, n, k) = ([0u32, 5, 5, 400, 430, 1000, 1000], 40, 150);
    let r = 1000;
    let all = || TYPES.into_iter().flat_map(|t| FORMS.map(|f| (t, f)));
    for (isa, (types, form)) in Isa::all().flat_map(|isa| all().map(move |case| (isa, case))) {
        let cpu = Cpu::with(3, isa);
        let (got, [a, b]) = grouped(&cpu, types, form, &offsets, [r, n, k]);
        assert_eq!(got, grouped(&Cpu::with(1, isa), types, form, &offsets, [r, n, k]).0);
        for g in 0..offsets.len() - 1 {
            let (start, end) = (offsets[g] as usize, offsets[g + 1] as usize);
            let rows = |x: &[f32], cols: usize| x[start * cols..end * cols].to_vec();
            let weight = g * n * k..(g + 1) * n * k;
            let (m2, n2, k2, a, b, got) = match form {
                Form::Nt => (end - start, n, k, rows(&a, k), b[weight].to_vec(), rows(&got, n)),
                Form::Nn => (end - start, k, n, rows(&a, n), b[weight].to_vec(), rows(&got, k)),
                Form::Tn => (n, k, end - start, rows(&a, n), rows(&b, k), got[weight].to_vec()),
            };
            let want = product(&cpu, types, form, [m2, n2, k2], [&a, &b, &vec![0.0; m2 * n2]]);
            let got: Vec<f32> = got.iter().map(|v| 0.5 * v).collect();
            assert_eq!(got, want, "{types:?} {form:?} group {g}");
        }
    }
}

const WILD: [[u32; 4]; 3] = [[7, 3, 900, 2], [u32::MAX, 0, u32::MAX, 1], [0, 0, 0, 0]];

#[test]
fn wild_offsets_stay_inside() {
    for (isa, offsets) in Isa::all().flat_map(|isa| WILD.map(|offsets| (isa, offsets))) {
        for (types, form) in [F32, BF16].into_iter().flat_map(|t| FORMS.map(|f| (t, f))) {
            let (got, _) = grouped(&Cpu::with(2, isa), types, form, &offsets, [20, 3, 9]);
            assert!(got.iter().all(|v| v.is_finite()));
        }
    }
}

/// Codes with scales, and the tiles they were made with.
struct Quantized {
    codes: Tensor<Cpu>,
    scales: Tensor<Cpu>,
    tiles: Kind,
}

#[derive(Clone)]
enum Kind {
    Row(usize),
    Block(usize),
    Column,
    Groups(Rc<Tensor<Cpu>>),
}

impl Kind {
    fn tiles(&self) -> Tiles<'_, crate::Buffer> {
        match self {
            Self::Row(part) => Tiles::Row { part: *part },
            Self::Block(part) => Tiles::Block { part: *part },
            Self::Column => Tiles::Column,
            Self::Groups(offsets) => Tiles::Groups { offsets: offsets.view() },
        }
    }

    /// Those of both factors of a product whose weight has `n` rows.
    fn of(form: Form, n: usize, k: usize) -> [Self; 2] {
        match form {
            Form::Nt => [Self::Row(k), Self::Block(n)],
            Form::Nn => [Self::Row(n), Self::Block(n)],
            Form::Tn => [Self::Column, Self::Column],
        }
    }
}

impl Quantized {
    fn new(cpu: &Cpu, rows: usize, cols: usize, tiles: Kind, values: &[f32]) -> Self {
        let x = tensor(cpu, DType::F32, rows, cols, values);
        let mut codes = Tensor::<Cpu>::empty(cpu, &[rows, cols], DType::E4M3).unwrap();
        let mut scales = Tensor::<Cpu>::zeros(cpu, &tiles.tiles().scales(rows, cols), DType::F32).unwrap();
        let y = ScaledMut::new(codes.view_mut(), scales.view_mut(), tiles.tiles()).unwrap();
        cpu.quantize(Quantize::new(x.view(), y, false).unwrap()).unwrap();
        Self { codes, scales, tiles }
    }

    fn scaled(&self) -> Scaled<'_, crate::Buffer> {
        Scaled::new(self.codes.view(), self.scales.view(), self.tiles.tiles()).unwrap()
    }
}

/// The product, and what it should be: that of the decoded factors.
fn scaled_product(cpu: &Cpu, form: Form, [m, n, k]: [usize; 3], part: usize, to: DType) -> (Vec<f32>, Vec<f32>) {
    let ((ar, ac), (br, bc)) = shapes(form, m, n, k);
    // In `Nn` it is the inner dimension that falls into parts.
    let [of_a, of_b] = if form == Form::Nn { Kind::of(form, part, n) } else { Kind::of(form, n, k) };
    let a = Quantized::new(cpu, ar, ac, of_a, &numbers(m * k, 1));
    let b = Quantized::new(cpu, br, bc, of_b, &numbers(n * k, 2));
    let [got, want] = [true, false].map(|codes| {
        let mut c = tensor(cpu, to, m, n, &numbers(m * n, 3));
        if codes {
            let call = GemmFp8::new(form, a.scaled(), b.scaled(), c.view_mut(), Out::Add).unwrap();
            cpu.gemm_fp8(call).unwrap();
        } else {
            let [x, y] = [(&a, ar, ac), (&b, br, bc)].map(|(x, rows, cols)| {
                let mut y = Tensor::<Cpu>::empty(cpu, &[rows, cols], DType::F32).unwrap();
                cpu.dequantize(Dequantize::new(x.scaled(), y.view_mut()).unwrap()).unwrap();
                y
            });
            cpu.gemm(Gemm::new(form, x.view(), y.view(), c.view_mut()).unwrap().out(Out::Add)).unwrap();
        }
        numbers_of(cpu, &c)
    });
    (got, want)
}

#[test]
fn products_of_codes_are_those_of_their_numbers_for_any_number_of_threads() {
    let shapes = [
        (1, 1, 1, 1),
        (13, 33, 7, 7),
        (100, 130, 300, 150),
        (97, 16, 99, 33),
        (40, 70, 1030, 515),
        (300, 256, 640, 128),
        (5, 4, 60, 1),
    ];
    for (isa, form) in Isa::all().flat_map(|isa| FORMS.map(|f| (isa, f))) {
        for ((m, n, k, part), to) in shapes.into_iter().flat_map(|s| [DType::F32, DType::BF16].map(|t| (s, t))) {
            let (got, want) = scaled_product(&Cpu::with(1, isa), form, [m, n, k], part, to);
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let unit = if to == DType::BF16 { want.abs() / 100.0 } else { 0.0 };
                let near = (got - want).abs() < 2e-6 * (1.0 + k as f32).sqrt() + unit;
                assert!(near, "{form:?} {m}x{n}x{k} in {part} on {isa:?}, element {i}: {got} for {want}");
            }
            for threads in [2, 5] {
                assert_eq!(got, scaled_product(&Cpu::with(threads, isa), form, [m, n, k], part, to).0);
            }
        }
    }
}

#[test]
fn a_row_of_codes_has_the_same_bits_alone() {
    for (isa, form) in Isa::all().flat_map(|isa| [Form::Nt, Form::Nn].map(|f| (isa, f))) {
        let cpu = Cpu::with(2, isa);
        let (m, n, k) = (130, 200, 350);
        let of_b = if form == Form::Nt { (n, k) } else { (k, n) };
        let values = numbers(m * k, 1);
        let b = Quantized::new(&cpu, of_b.0, of_b.1, Kind::Block(of_b.0), &numbers(n * k, 2));
        let product = |rows: usize, values: &[f32]| {
            let a = Quantized::new(&cpu, rows, k, Kind::Row(k), values);
            let mut c = tensor(&cpu, DType::F32, rows, n, &vec![0.0; rows * n]);
            cpu.gemm_fp8(GemmFp8::new(form, a.scaled(), b.scaled(), c.view_mut(), Out::Replace).unwrap()).unwrap();
            numbers_of(&cpu, &c)
        };
        let together = product(m, &values);
        for r in (0..m).step_by(7) {
            assert_eq!(product(1, &values[r * k..][..k]), together[r * n..][..n], "{form:?} row {r} on {isa:?}");
        }
    }
}

/// Input rows, output rows and weights of some groups, and how many of each there are.
struct Groups<'a> {
    ends: &'a [usize],
    n: usize,
    k: usize,
    values: [&'a [f32]; 3],
}

impl Groups<'_> {
    /// Both factors of the product of groups `g`, their weights under one another, and the shape of the result.
    #[allow(clippy::type_complexity)]
    fn factors(&self, form: Form, g: Range<usize>) -> ([(usize, usize, Vec<f32>); 2], (usize, usize)) {
        let Self { ends, n, k, values: [input, output, weight] } = *self;
        let (rows, weights) = (ends[g.start]..ends[g.end], g.start * n..g.end * n);
        let part = |x: &[f32], rows: &Range<usize>, cols: usize| {
            (rows.len(), cols, x[rows.start * cols..rows.end * cols].to_vec())
        };
        let (x, y, w) = (part(input, &rows, k), part(output, &rows, n), part(weight, &weights, k));
        match form {
            Form::Nt => ([x, w], (rows.len(), n)),
            Form::Nn => ([y, w], (rows.len(), k)),
            Form::Tn => ([y, x], (weights.len(), k)),
        }
    }

    /// The product of group `g`.
    fn one(&self, cpu: &Cpu, form: Form, g: usize) -> Vec<f32> {
        let ([a, b], c) = self.factors(form, g..g + 1);
        let [of_a, of_b] = Kind::of(form, self.n, self.k);
        let (a, b) = (Quantized::new(cpu, a.0, a.1, of_a, &a.2), Quantized::new(cpu, b.0, b.1, of_b, &b.2));
        let mut c = Tensor::<Cpu>::zeros(cpu, &[c.0, c.1], DType::F32).unwrap();
        cpu.gemm_fp8(GemmFp8::new(form, a.scaled(), b.scaled(), c.view_mut(), Out::Replace).unwrap()).unwrap();
        numbers_of(cpu, &c)
    }

    /// The products of all groups.
    fn all(&self, cpu: &Cpu, form: Form) -> Vec<f32> {
        let groups = self.ends.len() - 1;
        let ([a, b], c) = self.factors(form, 0..groups);
        let offsets: Vec<u32> = self.ends.iter().map(|&e| e as u32).collect();
        let offsets = Rc::new(Tensor::<Cpu>::from_slice(cpu, &[1, groups + 1], DType::U32, &offsets).unwrap());
        let [of_a, of_b] = match form {
            Form::Tn => [Kind::Groups(offsets.clone()), Kind::Groups(offsets.clone())],
            _ => Kind::of(form, self.n, self.k),
        };
        let (a, b) = (Quantized::new(cpu, a.0, a.1, of_a, &a.2), Quantized::new(cpu, b.0, b.1, of_b, &b.2));
        let mut c = tensor(cpu, DType::F32, c.0, c.1, &vec![1e3; c.0 * c.1]);
        let call = GroupedGemmFp8::new(form, groups, a.scaled(), b.scaled(), offsets.view(), c.view_mut()).unwrap();
        cpu.grouped_gemm_fp8(call).unwrap();
        numbers_of(cpu, &c)
    }
}

#[test]
fn a_group_of_codes_is_a_product_of_its_own() {
    let (ends, n, k) = ([0, 5, 5, 300, 431, 431], 40, 150);
    let groups = ends.len() - 1;
    let values = [numbers(431 * k, 1), numbers(431 * n, 2), numbers(groups * n * k, 3)];
    let g = Groups { ends: &ends, n, k, values: values.each_ref().map(|v| &v[..]) };
    for (isa, form) in Isa::all().flat_map(|isa| FORMS.map(|f| (isa, f))) {
        let cpu = Cpu::with(1, isa);
        let all = g.all(&cpu, form);
        let alone: Vec<f32> = (0..groups).flat_map(|i| g.one(&cpu, form, i)).collect();
        assert_eq!(all, alone, "{form:?} on {isa:?}");
        for threads in [2, 5] {
            assert_eq!(all, g.all(&Cpu::with(threads, isa), form), "{form:?} on {threads} threads");
        }
    }
}
