//! Products of the size of training: sampled rows and columns are compared with sums in f64.
//!
//! Devices compute products of this size by other kernels, or by a vendor's library, than the small ones of the suite.

use fathom_core::DType;
use fathom_core::device::{Form, Gemm, GemmFp8, Kernels, Out, Scaled, Tiles};
use fathom_core::fp8::{Code, E4M3, TILE};
use fathom_core::tensor::Tensor;

use crate::timer::Watch;

/// Names of the checks.
pub(crate) const NAMES: [&str; 2] = ["large_gemm", "large_gemm_fp8"];

/// Number of rows and of columns of a result that are compared.
const SAMPLES: usize = 40;

/// A product `[m, k]·[k, n]`; an FP8 weight has `parts` parts.
#[derive(Clone, Copy, Debug)]
struct Case {
    form: Form,
    m: usize,
    n: usize,
    k: usize,
    parts: usize,
}

/// Number `i` of a sequence between 0 and 1 (splitmix64).
fn draw(seed: u64, i: usize) -> f32 {
    let mut x = (seed << 40).wrapping_add(i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ x >> 31) >> 40) as f32 / (1u32 << 24) as f32
}

fn wide(x: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(x) << 16))
}

/// Runs the checks of one name; returns their number and the largest error as a fraction of its bound.
pub(crate) fn check<D: Watch>(device: &D, name: &str) -> Result<(u32, f64), String> {
    // A GPU's, with extents that are and are not multiples of tiles; a few for what is slow.
    let sizes: &[[usize; 4]] = match device.is_gpu() {
        true => &[
            [256, 512, 1024, 2],
            [144, 272, 1152, 1],
            [4096, 1536, 2048, 2],
            [8192, 576, 2048, 1],
            [4096, 4096, 512, 1],
        ],
        false => &[[80, 144, 640, 1]],
    };
    let (mut cases, mut worst) = (0, 0f64);
    for &[m, n, k, parts] in sizes {
        for form in [Form::Nt, Form::Nn, Form::Tn] {
            // Gradients of weights are F32 and added to, what else there is BF16.
            for accumulate in [false, true] {
                let case = Case { form, m, n, k, parts };
                let off = match name {
                    "large_gemm" => case.gemm(device, accumulate),
                    _ => case.gemm_fp8(device, accumulate),
                };
                worst = worst.max(off.map_err(|e| format!("{case:?}, accumulate {accumulate}: {e}"))?);
                cases += 1;
            }
        }
    }
    Ok((cases, worst))
}

impl Case {
    /// Shapes of the factors.
    fn shapes(&self) -> [[usize; 2]; 2] {
        let Self { m, n, k, .. } = *self;
        match self.form {
            Form::Nt => [[m, k], [n, k]],
            Form::Nn => [[m, k], [k, n]],
            Form::Tn => [[k, m], [k, n]],
        }
    }

    /// Rows and columns in the factors of term `l` of element `(i, j)`.
    fn term(&self, i: usize, j: usize, l: usize) -> [(usize, usize); 2] {
        match self.form {
            Form::Nt => [(i, l), (j, l)],
            Form::Nn => [(i, l), (l, j)],
            Form::Tn => [(l, i), (l, j)],
        }
    }

    fn gemm<D: Kernels>(&self, device: &D, accumulate: bool) -> Result<f64, String> {
        let [sa, sb] = self.shapes();
        let values = |seed, [rows, cols]: [usize; 2]| -> Vec<u16> {
            (0..rows * cols).map(|i| ((2.0 * draw(seed, i) - 1.0).to_bits() >> 16) as u16).collect()
        };
        let (a, b) = (values(1, sa), values(2, sb));
        let (x, y) = (put(device, sa, DType::BF16, &a)?, put(device, sb, DType::BF16, &b)?);
        let run = |c: &mut Tensor<D>| {
            let call = Gemm::new(self.form, x.view(), y.view(), c.view_mut())?;
            device.gemm(call.out(Out::add_if(accumulate)))
        };
        self.compare(device, accumulate, run, |i, j| {
            let (mut sum, mut size) = (0.0, 0.0);
            for l in 0..self.k {
                let [p, q] = self.term(i, j, l);
                let product = wide(a[p.0 * sa[1] + p.1]) * wide(b[q.0 * sb[1] + q.1]);
                sum += product;
                size += product.abs();
            }
            (sum, size, 0.0)
        })
    }

    fn gemm_fp8<D: Kernels>(&self, device: &D, accumulate: bool) -> Result<f64, String> {
        let [sa, sb] = self.shapes();
        // Codes of numbers up to 16 of both signs; scales of 1/4 to 4.
        let factor = |seed, shape: [usize; 2], tiles: &Tiles<'_, D::Buffer>| {
            let [rows, cols] = tiles.scales(shape[0], shape[1]);
            let codes: Vec<u8> = (0..shape[0] * shape[1])
                .map(|i| (draw(seed, i) * 88.0) as u8 | if draw(seed + 1, i) < 0.5 { 0x80 } else { 0 })
                .collect();
            let scales: Vec<f32> = (0..rows * cols).map(|i| (4.0 * draw(seed + 2, i) - 2.0).exp2()).collect();
            let tensors = (put(device, shape, DType::E4M3, &codes)?, put(device, [rows, cols], DType::F32, &scales)?);
            Ok::<_, String>((codes, scales, cols, tensors))
        };
        let part = if self.form == Form::Nt { self.n } else { self.k } / self.parts;
        let (first, second) = match self.form {
            Form::Nt => (Tiles::Row { part: self.k }, Tiles::Block { part }),
            Form::Nn => (Tiles::Row { part }, Tiles::Block { part }),
            Form::Tn => (Tiles::Column, Tiles::Column),
        };
        let (a, scales_a, cols_a, x) = factor(1, sa, &first)?;
        let (b, scales_b, cols_b, y) = factor(4, sb, &second)?;
        let numbers: Vec<f64> = (0..=255).map(|code| E4M3::decode(code).into()).collect();
        let run = |c: &mut Tensor<D>| {
            let a = Scaled::new(x.0.view(), x.1.view(), first)?;
            let b = Scaled::new(y.0.view(), y.1.view(), second)?;
            device.gemm_fp8(GemmFp8::new(self.form, a, b, c.view_mut(), Out::add_if(accumulate))?)
        };
        // The tile of an index; every part begins a new tile.
        let tile = |i: usize| i / part * part.div_ceil(TILE) + i % part / TILE;
        self.compare(device, accumulate, run, |i, j| {
            let (mut sum, mut size, mut cut) = (0.0, 0.0, 0.0);
            let (mut partial, mut largest) = (0f64, 0f64);
            for l in 0..self.k {
                let [p, q] = self.term(i, j, l);
                let product = numbers[usize::from(a[p.0 * sa[1] + p.1])] * numbers[usize::from(b[q.0 * sb[1] + q.1])];
                partial += product;
                largest = largest.max(product.abs()).max(partial.abs());
                let (scale_a, scale_b) = match self.form {
                    Form::Nt => (i * cols_a + l / TILE, tile(j) * cols_b + l / TILE),
                    Form::Nn => (i * cols_a + tile(l), tile(l) * cols_b + j / TILE),
                    Form::Tn => (l / TILE * cols_a + i, l / TILE * cols_b + j),
                };
                let scale = f64::from(scales_a[scale_a]) * f64::from(scales_b[scale_b]);
                size += product.abs() * scale;
                if (l + 1) % TILE == 0 || l + 1 == self.k {
                    sum += partial * scale;
                    cut += largest * scale;
                    (partial, largest) = (0.0, 0.0);
                }
            }
            // What the core allows of long sums, of the numbers at hand: 14 bits in four instructions a tile.
            (sum, size, if self.k >= 512 { 136.0 * f64::powi(2.0, -13) * cut } else { 0.0 })
        })
    }

    /// Computes a product twice and compares sampled elements with `(sum, Σ|a·b|, allowed error beyond that of f32)`.
    fn compare<D: Kernels>(
        &self,
        device: &D,
        accumulate: bool,
        run: impl Fn(&mut Tensor<D>) -> Result<(), D::Error>,
        element: impl Fn(usize, usize) -> (f64, f64, f64),
    ) -> Result<f64, String> {
        let Self { m, n, k, .. } = *self;
        let before = if accumulate { 1.0 } else { 0.0 };
        let once = || -> Result<Vec<f32>, String> {
            if accumulate {
                let mut c = put(device, [m, n], DType::F32, &vec![1f32; m * n])?;
                run(&mut c).map_err(|e| e.to_string())?;
                c.download(device).map_err(|e| e.to_string())
            } else {
                let mut c = put(device, [m, n], DType::BF16, &vec![0x7fc0u16; m * n])?;
                run(&mut c).map_err(|e| e.to_string())?;
                let codes: Vec<u16> = c.download(device).map_err(|e| e.to_string())?;
                Ok(codes.into_iter().map(|x| f32::from_bits(u32::from(x) << 16)).collect())
            }
        };
        let (got, again) = (once()?, once()?);
        if let Some(at) = got.iter().zip(&again).position(|(x, y)| x.to_bits() != y.to_bits()) {
            return Err(format!("element {at} is {} and then {}", got[at], again[at]));
        }
        if let Some(at) = got.iter().position(|x| !x.is_finite()) {
            return Err(format!("element {at} is {}", got[at]));
        }
        let ulp = f64::powi(2.0, if accumulate { -23 } else { -7 });
        // Steps that are prime to every extent's factors: samples fall anywhere in a tile.
        let samples = |extent: usize| (0..SAMPLES.min(extent)).map(move |s| (s * 1_000_003 + 7 * s * s) % extent);
        let mut worst = 0f64;
        for i in samples(m) {
            for j in samples(n) {
                let (sum, size, cut) = element(i, j);
                let want = sum + before;
                let allowed = (k + 2) as f64 * f64::powi(2.0, -23) * (size + before) + cut + ulp * want.abs();
                let off = (f64::from(got[i * n + j]) - want).abs() / allowed;
                if off > 1.0 {
                    return Err(format!(
                        "row {i}, column {j}: {} for {want}, off by {off:.2} of what is allowed",
                        got[i * n + j]
                    ));
                }
                worst = worst.max(off);
            }
        }
        Ok(worst)
    }
}

fn put<D: Kernels, T: bytemuck::Pod>(
    device: &D,
    shape: [usize; 2],
    dtype: DType,
    x: &[T],
) -> Result<Tensor<D>, String> {
    Tensor::<D>::from_slice(device, &shape, dtype, x).map_err(|e| e.to_string())
}
