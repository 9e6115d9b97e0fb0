//! FP8 codes and scales equal PyTorch's bit for bit on every device, and products stay within the stated bound.
//!
//! The place of an element's scale is computed here again, from the definition of each tiling.

use fathom_core::DType;
use fathom_core::device::{
    Dequantize, Form, GemmFp8, GroupedGemmFp8, Host, Kernels, Out, Primitives, Quantize, Requantize, Scaled, ScaledMut,
    Tiles,
};
use fathom_core::fp8::{Code, E4M3, E5M2, E5M6, unpack_pair};
use fathom_core::tensor::{MatRef, Tensor};
use fathom_cpu::Cpu;
use fathom_tests::golden_folder;
use fathom_tests::quantization::check_codes;
use half::bf16;
use proptest::prelude::*;
use proptest::sample::select;

/// Which elements share a scale.
#[derive(Clone, Debug)]
enum Tiling {
    Row { part: usize },
    Column,
    Groups { offsets: Vec<u32> },
    Block { part: usize },
}

impl Tiling {
    /// Where the scale of element `(r, c)` lies.
    fn place(&self, r: usize, c: usize) -> (usize, usize) {
        let along = |at: usize, part: usize| at / part * part.div_ceil(128) + at % part / 128;
        match self {
            Self::Row { part } => (r, along(c, *part)),
            Self::Column => (r / 128, c),
            Self::Groups { offsets } => {
                let group = offsets.iter().filter(|&&o| o as usize <= r).count() - 1;
                // Groups before this one may be empty: the last that starts here has the row.
                let start = offsets[group] as usize;
                (start / 128 + group + (r - start) / 128, c)
            }
            Self::Block { part } => (along(r, *part), c / 128),
        }
    }

    fn tiles<'a, B>(&self, offsets: MatRef<'a, B>) -> Tiles<'a, B> {
        match *self {
            Self::Row { part } => Tiles::Row { part },
            Self::Column => Tiles::Column,
            Self::Groups { .. } => Tiles::Groups { offsets },
            Self::Block { part } => Tiles::Block { part },
        }
    }

    fn offsets<D: Kernels>(&self, device: &D) -> Tensor<D> {
        let offsets: &[u32] = if let Self::Groups { offsets } = self { offsets } else { &[0] };
        Tensor::<D>::from_slice(device, &[1, offsets.len()], DType::U32, offsets).unwrap()
    }
}

/// A matrix of codes and scales on a device.
struct Quantized<D: Kernels> {
    codes: Tensor<D>,
    scales: Tensor<D>,
    offsets: Tensor<D>,
    tiling: Tiling,
}

impl<D: Kernels> Quantized<D> {
    /// Room for a matrix `[rows, cols]`; scales that no tile uses are zero.
    fn empty(device: &D, format: DType, tiling: &Tiling, rows: usize, cols: usize) -> Self {
        let offsets = tiling.offsets(device);
        let scales = tiling.tiles(offsets.view()).scales(rows, cols);
        Self {
            codes: Tensor::<D>::empty(device, &[rows, cols / format.numbers()], format).unwrap(),
            scales: Tensor::<D>::zeros(device, &scales, DType::F32).unwrap(),
            offsets,
            tiling: tiling.clone(),
        }
    }

    fn new(device: &D, format: DType, tiling: &Tiling, x: &Matrix, power_of_two: bool) -> Self {
        let mut y = Self::empty(device, format, tiling, x.rows, x.cols);
        let x = x.upload(device);
        device.quantize(Quantize::new(x.view(), y.view_mut(), power_of_two).unwrap()).unwrap();
        device.flush().unwrap();
        y
    }

    fn view(&self) -> Scaled<'_, D::Buffer> {
        Scaled::new(self.codes.view(), self.scales.view(), self.tiling.tiles(self.offsets.view())).unwrap()
    }

    fn view_mut(&mut self) -> ScaledMut<'_, D::Buffer> {
        let tiles = self.tiling.tiles(self.offsets.view());
        ScaledMut::new(self.codes.view_mut(), self.scales.view_mut(), tiles).unwrap()
    }

    /// The bytes of the codes, and the scales.
    fn download(&self, device: &D) -> (Vec<u8>, Vec<f32>) {
        let codes = match self.codes.dtype().size() {
            3 => self.codes.download::<D, [u8; 3]>(device).unwrap().concat(),
            _ => self.codes.download(device).unwrap(),
        };
        (codes, self.scales.download(device).unwrap())
    }

    /// Numbers of the codes, without their scales.
    fn numbers(&self, device: &D) -> Vec<f32> {
        let (codes, _) = self.download(device);
        match self.codes.dtype() {
            DType::E4M3 => codes.iter().map(|&c| E4M3::decode(c.into())).collect(),
            DType::E5M2 => codes.iter().map(|&c| E5M2::decode(c.into())).collect(),
            _ => {
                let pairs = codes.as_chunks::<3>().0.iter().map(|&pair| unpack_pair(pair));
                pairs.flat_map(|(a, b)| [E5M6::decode(a), E5M6::decode(b)]).collect()
            }
        }
    }

    /// The elements: code times scale, in f64.
    fn values(&self, device: &D) -> Matrix<f64> {
        let (rows, cols) = (self.view().rows(), self.view().cols());
        let (numbers, scales) = (self.numbers(device), self.download(device).1);
        let width = self.scales.shape().cols();
        let scale = |i: usize| {
            let (r, c) = self.tiling.place(i / cols, i % cols);
            f64::from(scales[r * width + c])
        };
        let data = numbers.iter().enumerate().map(|(i, &x)| f64::from(x) * scale(i)).collect();
        Matrix { rows, cols, data }
    }
}

#[derive(Clone, Debug)]
struct Matrix<T = f32> {
    rows: usize,
    cols: usize,
    data: Vec<T>,
}

impl Matrix {
    /// Normally distributed numbers; every row, now and then, near the ends of f32's range or beyond its normal
    /// numbers.
    fn random(rows: usize, cols: usize, seed: u64, extremes: bool) -> Self {
        let mut data = vec![0.0; rows * cols];
        fathom_core::rng::fill_normal(seed, 0, 0, 1.0, &mut data);
        let mut by = vec![0.0; rows];
        fathom_core::rng::fill_normal(seed, 1, 0, 1.0, &mut by);
        for (row, by) in data.chunks_mut(cols.max(1)).zip(by).filter(|_| extremes) {
            let by = match by {
                ..-1.2 => 1e-38,
                -1.2..-0.8 => 0.0,
                -0.8..0.8 => 1.0,
                0.8..1.2 => 1e-42,
                _ => 1e30,
            };
            row.iter_mut().for_each(|x| *x *= by);
        }
        Self { rows, cols, data }
    }

    fn upload<D: Kernels>(&self, device: &D) -> Tensor<D> {
        Tensor::<D>::from_slice(device, &[self.rows, self.cols], DType::F32, &self.data).unwrap()
    }
}

#[test]
fn codes_and_scales_are_those_of_pytorch() {
    let path = golden_folder().join("v3_fp8/quant.safetensors");
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    check_codes(&Host::new(), &bytes);
    check_codes(&Cpu::with_threads(2), &bytes);
}

/// The format's `(mantissa bits, exponent of the smallest binade, largest number)`.
fn format(dtype: DType) -> (i32, i32, f32) {
    match dtype {
        DType::E4M3 => (3, -6, 448.0),
        DType::E5M2 => (2, -14, 57344.0),
        _ => (6, -14, 65024.0),
    }
}

/// The scale of a tile as the recipe states it.
fn scale_of(amax: f32, max: f32, power_of_two: bool) -> f32 {
    match amax / max {
        0.0 if amax == 0.0 => 1.0,
        scale if scale < f32::MIN_POSITIVE => f32::MIN_POSITIVE,
        scale if power_of_two => f64::from(scale).log2().ceil().exp2() as f32,
        scale => scale,
    }
}

/// Scales are those of the largest element of their tile, and elements within half a unit in the last place of their
/// code, times the scale. On both devices the same bits; and requantised from bits what quantised from their numbers.
fn check_quantized(x: &Matrix, dtype: DType, tiling: &Tiling, power_of_two: bool) -> Result<(), TestCaseError> {
    let (host, cpu) = (Host::new(), Cpu::with_threads(2));
    let on_host = Quantized::new(&host, dtype, tiling, x, power_of_two);
    let on_cpu = Quantized::new(&cpu, dtype, tiling, x, power_of_two);
    let (codes, scales) = on_host.download(&host);
    prop_assert!((&codes, &scales) == (&on_cpu.download(&cpu).0, &on_cpu.download(&cpu).1), "bits of the CPU driver");

    let (mantissa, lowest, max) = format(dtype);
    let width = on_host.scales.shape().cols();
    let mut amax = vec![None; scales.len()];
    for (i, &x) in x.data.iter().enumerate() {
        let (r, c) = tiling.place(i / on_host.view().cols(), i % on_host.view().cols());
        let tile = &mut amax[r * width + c];
        *tile = Some(tile.unwrap_or(0.0f32).max(x.abs()));
    }
    for (&scale, amax) in scales.iter().zip(amax) {
        // A scale without elements stays as it was.
        prop_assert_eq!(scale, amax.map_or(0.0, |amax| scale_of(amax, max, power_of_two)));
    }

    let mut decoded = Tensor::<Cpu>::empty(&cpu, &[x.rows, x.cols], DType::F32).unwrap();
    cpu.dequantize(Dequantize::new(on_cpu.view(), decoded.view_mut()).unwrap()).unwrap();
    let decoded: Vec<f32> = decoded.download(&cpu).unwrap();
    for (i, (&value, &x)) in on_host.values(&host).data.iter().zip(&x.data).enumerate() {
        let (r, c) = tiling.place(i / on_host.view().cols(), i % on_host.view().cols());
        let scale = f64::from(scales[r * width + c]);
        let magnitude = f64::from(x.abs()) / scale;
        let exponent = if magnitude == 0.0 { lowest } else { (magnitude.log2().floor() as i32).max(lowest) };
        let half = f64::from(exponent - mantissa - 1).exp2() * scale;
        // Dividing by the scale rounds to f32: near a tie the farther code can win, by that rounding.
        let bound = half + f64::from(x.abs()) * f64::from(f32::EPSILON) / 2.0;
        prop_assert!((value - f64::from(x)).abs() <= bound, "element {i}: {x} became {value}");
        prop_assert_eq!(decoded[i], value as f32);
    }
    Ok(())
}

/// A side of a matrix: often near a tile's.
fn side() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..20, 120usize..136, 250usize..262]
}

fn offsets(sizes: &[usize]) -> Vec<u32> {
    let mut offsets = vec![0];
    for &size in sizes {
        offsets.push(offsets[offsets.len() - 1] + size as u32);
    }
    offsets
}

fn groups() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![Just(0usize), side()], 1..5)
}

/// A tiling with the shape of a matrix that has it.
fn tiled() -> impl Strategy<Value = (Tiling, usize, usize)> {
    prop_oneof![
        (1usize..20, side(), 1usize..4).prop_map(|(m, part, n)| (Tiling::Row { part }, m, n * part)),
        (side(), 1usize..20).prop_map(|(m, n)| (Tiling::Column, m, n)),
        (groups(), 1usize..20).prop_map(|(sizes, n)| (
            Tiling::Groups { offsets: offsets(&sizes) },
            sizes.iter().sum(),
            n
        )),
        (side(), 1usize..4, side()).prop_map(|(part, m, n)| (Tiling::Block { part }, m * part, n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_quantised_is_within_half_a_unit(
        (tiling, rows, cols) in tiled(), seed: u64, power_of_two: bool,
        dtype in select(vec![DType::E4M3, DType::E5M2, DType::E5M6Pair]),
    ) {
        let fits = matches!(tiling, Tiling::Row { part } if part % 2 == 0);
        let dtype = if dtype == DType::E5M6Pair && !fits { DType::E4M3 } else { dtype };
        check_quantized(&Matrix::random(rows, cols, seed, true), dtype, &tiling, power_of_two)?;
    }

    #[test]
    fn power_of_two_scales_survive_another_tiling(sizes in groups(), part in side(), parts in 1usize..3, seed: u64) {
        // From one power of two to another a code's number moves by their ratio alone: it is rounded again only where
        // that takes it below the smallest binade.
        let rows: usize = sizes.iter().sum();
        let x = Matrix::random(rows, part * parts, seed, false);
        let host = Host::new();
        let before = Quantized::new(&host, DType::E4M3, &Tiling::Row { part }, &x, true);
        let tiling = Tiling::Groups { offsets: offsets(&sizes) };
        let mut after = Quantized::empty(&host, DType::E4M3, &tiling, rows, part * parts);
        host.requantize(Requantize::new(before.view(), after.view_mut(), true).unwrap()).unwrap();
        let (was, is) = (before.values(&host), after.values(&host));
        let (numbers, cpu) = (after.numbers(&host), Cpu::with_threads(2));
        for ((was, is), number) in was.data.iter().zip(&is.data).zip(&numbers) {
            prop_assert!(was == is || number.abs() <= f32::exp2(-6.0), "{was} became {is}, code {number}");
        }
        let from = Quantized::new(&cpu, DType::E4M3, &Tiling::Row { part }, &x, true);
        let mut on_cpu = Quantized::empty(&cpu, DType::E4M3, &tiling, rows, part * parts);
        cpu.requantize(Requantize::new(from.view(), on_cpu.view_mut(), true).unwrap()).unwrap();
        prop_assert!(on_cpu.download(&cpu) == after.download(&host), "bits of the CPU driver");
    }

    #[test]
    fn products_are_within_their_bound(
        form in select(vec![Form::Nt, Form::Nn, Form::Tn]), m in 1usize..20, other in side(),
        part in side(), parts in 1usize..4, seed: u64, accumulate: bool, narrow: bool,
    ) {
        let (n, k) = if form == Form::Nt { (part * parts, other) } else { (other, part * parts) };
        let case = Product { form, m, n, k, part, seed, accumulate, narrow };
        case.check(&Host::new())?;
        case.check(&Cpu::with_threads(2))?;
    }

    #[test]
    fn grouped_products_are_within_their_bound(
        form in select(vec![Form::Nt, Form::Nn, Form::Tn]), sizes in groups(), other in 1usize..140,
        part in 1usize..140, parts in 1usize..3, seed: u64, add: bool, narrow: bool,
    ) {
        let sizes = if form == Form::Tn { sizes } else { sizes.into_iter().map(|s| s.min(17)).collect() };
        let (n, k) = if form == Form::Tn { (part.min(9), other.min(9)) } else { (part * parts, other) };
        let case = Grouped { form, sizes, n, k, part, seed, add, narrow };
        case.check(&Host::new())?;
        case.check(&Cpu::with_threads(2))?;
    }
}

/// `Σ a·b` and `Σ |a·b|` over `l`, for the given places of the factors.
fn sums(k: usize, pair: impl Fn(usize) -> (f64, f64)) -> (f64, f64) {
    (0..k).map(pair).map(|(a, b)| a * b).fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()))
}

/// The elements of a result, of type F32 or BF16.
fn read<D: Kernels>(device: &D, c: &Tensor<D>) -> Vec<f64> {
    match c.dtype() {
        DType::F32 => c.download::<D, f32>(device).unwrap().into_iter().map(f64::from).collect(),
        _ => c.download::<D, bf16>(device).unwrap().into_iter().map(f64::from).collect(),
    }
}

/// A result with numbers in it.
fn result<D: Kernels>(device: &D, rows: usize, cols: usize, narrow: bool) -> Tensor<D> {
    let x = Matrix::random(rows, cols, 5, false);
    if !narrow {
        return x.upload(device);
    }
    let x: Vec<bf16> = x.data.iter().map(|&x| bf16::from_f32(x)).collect();
    Tensor::<D>::from_slice(device, &[rows, cols], DType::BF16, &x).unwrap()
}

/// Whether `got` is the sum of `k` products within `(k + 2)·2⁻²³·Σ|a·b|`, and what rounding to BF16 adds.
fn near(got: f64, sum: f64, size: f64, k: usize, narrow: bool) -> Result<(), TestCaseError> {
    let rounding = if narrow { f64::exp2(-8.0) * sum.abs() } else { 0.0 };
    let bound = (k + 2) as f64 * f64::exp2(-23.0) * size * (1.0 + f64::exp2(-8.0)) + rounding;
    prop_assert!((got - sum).abs() <= bound, "{got} should be {sum}, within {bound}; k = {k}");
    Ok(())
}

#[derive(Debug)]
struct Product {
    form: Form,
    m: usize,
    n: usize,
    k: usize,
    part: usize,
    seed: u64,
    accumulate: bool,
    narrow: bool,
}

impl Product {
    fn check<D: Kernels>(&self, device: &D) -> Result<(), TestCaseError> {
        let Self { form, m, n, k, part, seed, .. } = *self;
        let (a, b) = match form {
            Form::Nt => (((m, k), Tiling::Row { part: k }), ((n, k), Tiling::Block { part })),
            Form::Nn => (((m, k), Tiling::Row { part }), ((k, n), Tiling::Block { part })),
            Form::Tn => (((k, m), Tiling::Column), ((k, n), Tiling::Column)),
        };
        let [a, b] = [(a, seed), (b, seed ^ 1)].map(|(((rows, cols), tiling), seed)| {
            Quantized::new(device, DType::E4M3, &tiling, &Matrix::random(rows, cols, seed, false), false)
        });
        let mut c = result(device, m, n, self.narrow);
        let before = read(device, &c);
        let call = GemmFp8::new(form, a.view(), b.view(), c.view_mut(), Out::add_if(self.accumulate)).unwrap();
        device.gemm_fp8(call).unwrap();
        let (a, b, after) = (a.values(device), b.values(device), read(device, &c));
        for (i, (before, after)) in before.into_iter().zip(after).enumerate() {
            let (r, c) = (i / n, i % n);
            let (sum, size) = sums(k, |l| match form {
                Form::Nt => (a.data[r * k + l], b.data[c * k + l]),
                Form::Nn => (a.data[r * k + l], b.data[l * n + c]),
                Form::Tn => (a.data[l * m + r], b.data[l * n + c]),
            });
            let before = if self.accumulate { before } else { 0.0 };
            near(after, before + sum, before.abs() + size, k, self.narrow)?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Grouped {
    form: Form,
    sizes: Vec<usize>,
    n: usize,
    k: usize,
    part: usize,
    seed: u64,
    add: bool,
    narrow: bool,
}

impl Grouped {
    fn check<D: Kernels>(&self, device: &D) -> Result<(), TestCaseError> {
        let Self { form, n, k, part, seed, .. } = *self;
        let (rows, groups, by_group) =
            (self.sizes.iter().sum(), self.sizes.len(), Tiling::Groups { offsets: offsets(&self.sizes) });
        let (a, b, (c_rows, c_cols)) = match form {
            Form::Nt => (((rows, k), Tiling::Row { part: k }), ((groups * n, k), Tiling::Block { part }), (rows, n)),
            Form::Nn => (((rows, n), Tiling::Row { part }), ((groups * n, k), Tiling::Block { part }), (rows, k)),
            Form::Tn => (((rows, n), by_group.clone()), ((rows, k), by_group.clone()), (groups * n, k)),
        };
        let [a, b] = [(a, seed), (b, seed ^ 1)].map(|(((rows, cols), tiling), seed)| {
            Quantized::new(device, DType::E4M3, &tiling, &Matrix::random(rows, cols, seed, false), false)
        });
        let offsets = by_group.offsets(device);
        let mut c = result(device, c_rows, c_cols, self.narrow);
        let before = read(device, &c);
        let call = GroupedGemmFp8::new(form, groups, a.view(), b.view(), offsets.view(), c.view_mut()).unwrap();
        device.grouped_gemm_fp8(call.out(Out::add_if(self.add))).unwrap();
        let (a, b, after) = (a.values(device), b.values(device), read(device, &c));
        let mut start = 0;
        for (g, &size) in self.sizes.iter().enumerate() {
            // The elements of the result that are this group's, and the length of their sums.
            let (mine, terms) = match form {
                Form::Tn => (g * n * k..(g + 1) * n * k, size),
                _ => (start * c_cols..(start + size) * c_cols, if form == Form::Nt { k } else { n }),
            };
            for i in mine {
                let (r, c) = (i / c_cols, i % c_cols);
                let (sum, size) = sums(terms, |l| match form {
                    Form::Nt => (a.data[r * k + l], b.data[(g * n + c) * k + l]),
                    Form::Nn => (a.data[r * n + l], b.data[(g * n + l) * k + c]),
                    Form::Tn => (a.data[(start + l) * n + r - g * n], b.data[(start + l) * k + c]),
                });
                let before = if self.add { before[i] } else { 0.0 };
                near(after[i], before + sum, before.abs() + size, terms, self.narrow)?;
            }
            start += size;
        }
        Ok(())
    }
}
