//! A test case: operands, a call over them, and the comparison of two devices' results.

use std::fmt::Debug;

use fathom_core::device::{Host, Kernels};
use fathom_core::dtype::DType;
use fathom_core::error::{DeviceError, ErrorKind};
use fathom_core::fp8::{Code, E4M3, E5M2, E5M6, pack_pair};
use fathom_core::math::round_to_odd;
use fathom_core::tensor::{Tensor, View, ViewMut};
use half::{bf16, f16};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::tolerance::{passes, relative};
use crate::{Failure, Options, Outcome};

/// How an operand that a kernel writes is compared with the host's.
#[derive(Clone, Debug)]
pub(crate) enum Compare {
    /// Not written: must stay as it was.
    Unchanged,
    /// The same bits.
    Bits,
    /// Near the host's value, with the magnitude of every element: what it would be if nothing cancelled.
    Near(Magnitude),
}

/// Where the magnitude of an element comes from.
#[derive(Clone, Debug)]
pub(crate) enum Magnitude {
    /// The result itself: nothing cancels.
    Result,
    /// The result of the same call on the absolute values of all operands.
    Absolute,
    /// Given, element by element.
    Given(Vec<f64>),
}

/// A matrix to run a kernel on: contents before the call, and what becomes of it.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) dtype: DType,
    /// Elements as bits of `dtype`.
    pub(crate) bits: Vec<u64>,
    pub(crate) gaps: bool,
    pub(crate) compare: Compare,
}

impl Operand {
    /// A floating-point matrix without gaps, to read.
    pub(crate) fn floats(dtype: DType, rows: usize, cols: usize, values: Vec<f64>) -> Self {
        assert_eq!(values.len(), rows * cols, "a case fills its operands");
        let bits = values.into_iter().map(|x| encode(dtype, x)).collect();
        Self { rows, cols, dtype, bits, gaps: false, compare: Compare::Unchanged }
    }

    /// An index matrix without gaps, to read.
    pub(crate) fn indices(rows: usize, cols: usize, values: Vec<u32>) -> Self {
        assert_eq!(values.len(), rows * cols, "a case fills its operands");
        let bits = values.into_iter().map(u64::from).collect();
        Self { rows, cols, dtype: DType::U32, bits, gaps: false, compare: Compare::Unchanged }
    }

    /// A matrix of any type without gaps, to read.
    pub(crate) fn bits(dtype: DType, rows: usize, cols: usize, bits: Vec<u64>) -> Self {
        assert_eq!(bits.len(), rows * cols, "a case fills its operands");
        Self { rows, cols, dtype, bits, gaps: false, compare: Compare::Unchanged }
    }

    /// An index matrix to write.
    pub(crate) fn index_result(rows: usize, cols: usize) -> Self {
        Self::indices(rows, cols, vec![7; rows * cols]).exact()
    }

    /// A matrix to write whose contents before the call do not matter.
    pub(crate) fn result(dtype: DType, rows: usize, cols: usize) -> Self {
        Self::floats(dtype, rows, cols, vec![-77.0; rows * cols]).near(Magnitude::Result)
    }

    /// The same with gaps between its rows, where `gaps`.
    pub(crate) fn gaps(mut self, gaps: bool) -> Self {
        self.gaps = gaps;
        self
    }

    /// The same, not written.
    pub(crate) fn untouched(mut self) -> Self {
        self.compare = Compare::Unchanged;
        self
    }

    /// The same, written, with the same bits on every device.
    pub(crate) fn exact(mut self) -> Self {
        self.compare = Compare::Bits;
        self
    }

    /// The same, written, near the host's.
    pub(crate) fn near(mut self, magnitude: Magnitude) -> Self {
        self.compare = Compare::Near(magnitude);
        self
    }

    pub(crate) fn values(&self) -> Vec<f64> {
        self.bits.iter().map(|&b| decode(self.dtype, b)).collect()
    }

    fn absolute(&self) -> Self {
        let bits = self.bits.iter().map(|&b| match self.dtype {
            DType::E4M3 => b & !u64::from(E4M3::SIGN),
            DType::E5M2 => b & !u64::from(E5M2::SIGN),
            DType::E5M6Pair => b & !pair(E5M6::SIGN),
            dtype if dtype.is_float() => encode(dtype, decode(dtype, b).abs()),
            _ => b,
        });
        Self { bits: bits.collect(), ..self.clone() }
    }
}

/// The bits of the number of type `dtype` nearest to `x`, ties to even.
pub(crate) fn encode(dtype: DType, x: f64) -> u64 {
    match dtype {
        DType::F64 => x.to_bits(),
        DType::F32 => (x as f32).to_bits().into(),
        DType::BF16 => bf16::from_f32(round_to_odd(x)).to_bits().into(),
        DType::F16 => f16::from_f32(round_to_odd(x)).to_bits().into(),
        DType::E4M3 => E4M3::encode_finite(round_to_odd(x)).into(),
        DType::E5M2 => E5M2::encode_finite(round_to_odd(x)).into(),
        DType::E5M6Pair => pair(E5M6::encode_finite(round_to_odd(x))),
        _ => x.round_ties_even() as u64,
    }
}

/// An E5M6 pair of twice the same code.
fn pair(code: u16) -> u64 {
    let [a, b, c] = pack_pair(code, code);
    u32::from_le_bytes([a, b, c, 0]).into()
}

/// The number that `bits` stand for; of indices and codes the bits themselves.
pub(crate) fn decode(dtype: DType, bits: u64) -> f64 {
    match dtype {
        DType::F64 => f64::from_bits(bits),
        DType::F32 => f32::from_bits(bits as u32).into(),
        DType::BF16 => bf16::from_bits(bits as u16).into(),
        DType::F16 => f16::from_bits(bits as u16).into(),
        _ => bits as f64,
    }
}

/// An operand on a device, inside a larger buffer whose rim is filled with [`RIM`].
pub(crate) struct Placed<D: Kernels> {
    tensor: Tensor<D>,
    rows: usize,
    cols: usize,
    margin: usize,
}

/// A large finite number in every floating-point type, and a large index.
const RIM: u64 = 0x7a7a_7a7a_7a7a_7a7a;
/// Columns left and right of an operand with gaps. Odd, so that its rows are not aligned.
const MARGINS: (usize, usize) = (3, 2);

impl<D: Kernels> Placed<D> {
    pub(crate) fn new(device: &D, o: &Operand) -> Result<Self, D::Error> {
        let (left, right) = if o.gaps { MARGINS } else { (0, 0) };
        let stride = left + o.cols + right;
        let mut image = vec![RIM; (o.rows + 2) * stride];
        if o.cols > 0 {
            for (r, row) in o.bits.chunks_exact(o.cols).enumerate() {
                image[(r + 1) * stride + left..][..o.cols].copy_from_slice(row);
            }
        }
        let tensor = upload(device, &[o.rows + 2, stride], o.dtype, &image)?;
        Ok(Self { tensor, rows: o.rows, cols: o.cols, margin: left })
    }

    pub(crate) fn view(&self) -> View<'_, D> {
        let columns = self.margin..self.margin + self.cols;
        let rows = self.tensor.view().row_range(1..self.rows + 1).expect("the rim is a row on either side");
        rows.columns(columns).expect("the margins are columns on either side")
    }

    pub(crate) fn view_mut(&mut self) -> ViewMut<'_, D> {
        let columns = self.margin..self.margin + self.cols;
        let rows = self.tensor.view_mut().row_range(1..self.rows + 1).expect("the rim is a row on either side");
        rows.columns(columns).expect("the margins are columns on either side")
    }

    /// The bits of every element, and whether the rim is as it was.
    pub(crate) fn read(&self, device: &D) -> Result<(Vec<u64>, bool), D::Error> {
        let (image, rim) = download(device, &self.tensor)?;
        let stride = self.tensor.shape().cols();
        let (mut bits, mut intact) = (Vec::with_capacity(self.rows * self.cols), true);
        for (i, &b) in image.iter().enumerate() {
            let (r, c) = (i / stride, i % stride);
            let inside = (1..self.rows + 1).contains(&r) && (self.margin..self.margin + self.cols).contains(&c);
            if inside {
                bits.push(b);
            } else {
                intact &= b == rim;
            }
        }
        Ok((bits, intact))
    }
}

fn upload<D: Kernels>(device: &D, shape: &[usize], dtype: DType, bits: &[u64]) -> Result<Tensor<D>, D::Error> {
    match dtype.size() {
        8 => Tensor::<D>::from_slice(device, shape, dtype, bits),
        4 => Tensor::<D>::from_slice(device, shape, dtype, &bits.iter().map(|&b| b as u32).collect::<Vec<_>>()),
        3 => Tensor::<D>::from_slice(device, shape, dtype, &bits.iter().map(|&b| three(b)).collect::<Vec<_>>()),
        2 => Tensor::<D>::from_slice(device, shape, dtype, &bits.iter().map(|&b| b as u16).collect::<Vec<_>>()),
        _ => Tensor::<D>::from_slice(device, shape, dtype, &bits.iter().map(|&b| b as u8).collect::<Vec<_>>()),
    }
}

/// The three lowest bytes.
fn three(bits: u64) -> [u8; 3] {
    let [a, b, c, ..] = bits.to_le_bytes();
    [a, b, c]
}

/// The bits of all elements, and those of [`RIM`] in this type.
fn download<D: Kernels>(device: &D, t: &Tensor<D>) -> Result<(Vec<u64>, u64), D::Error> {
    let size = t.dtype().size();
    let bits = match size {
        8 => t.download(device)?,
        4 => t.download::<D, u32>(device)?.into_iter().map(u64::from).collect(),
        3 => t
            .download::<D, [u8; 3]>(device)?
            .into_iter()
            .map(|[a, b, c]| u64::from_le_bytes([a, b, c, 0, 0, 0, 0, 0]))
            .collect(),
        2 => t.download::<D, u16>(device)?.into_iter().map(u64::from).collect(),
        _ => t.download::<D, u8>(device)?.into_iter().map(u64::from).collect(),
    };
    Ok((bits, RIM >> (64 - 8 * size)))
}

/// A kernel call over operands that are described apart from any device.
pub(crate) trait Case: Debug {
    /// The kernel.
    const KERNEL: &'static str;

    /// The operands, in the order in which [`call`](Case::call) takes them.
    fn operands(&self) -> Vec<Operand>;

    /// Calls the kernel.
    fn call<D: Kernels>(&self, device: &D, operands: &mut [Placed<D>]) -> Result<(), D::Error>;

    /// The length of the longest sum.
    fn terms(&self) -> usize {
        1
    }

    /// The type of the activations, for ε.
    fn dtype(&self) -> DType;
}

/// Bits of every operand after a call.
pub(crate) fn execute<C: Case, D: Kernels>(
    case: &C,
    device: &D,
    operands: &[Operand],
) -> Result<Vec<Vec<u64>>, Trouble> {
    let mut placed = Vec::with_capacity(operands.len());
    for o in operands {
        placed.push(Placed::new(device, o).map_err(Trouble::of)?);
    }
    case.call(device, &mut placed).map_err(Trouble::of)?;
    device.flush().map_err(Trouble::of)?;
    let mut results = Vec::with_capacity(operands.len());
    for (i, p) in placed.iter().enumerate() {
        let (bits, intact) = p.read(device).map_err(Trouble::of)?;
        if !intact {
            return Err(Trouble::Wrong(format!("operand {i}: elements outside the view were written")));
        }
        results.push(bits);
    }
    Ok(results)
}

/// Why a case did not pass.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The device says it does not support it.
    Unsupported(String),
    /// The device returned another error.
    Error(ErrorKind, String),
    /// A result is wrong.
    Wrong(String),
}

impl Trouble {
    pub(crate) fn of<E: DeviceError>(e: E) -> Self {
        match e.kind() {
            ErrorKind::Unsupported => Self::Unsupported(e.to_string()),
            kind => Self::Error(kind, e.to_string()),
        }
    }
}

/// Runs a case on the device twice and on the host, and compares.
fn compare<C: Case, D: Kernels>(case: &C, device: &D) -> Result<(), Trouble> {
    let operands = case.operands();
    let host = Host::new();
    let want = match execute(case, &host, &operands) {
        Ok(want) => want,
        Err(trouble) => {
            return Err(Trouble::Wrong(format!("the host refuses the case: {trouble:?}")));
        }
    };
    let got = execute(case, device, &operands)?;
    if device.capabilities().deterministic && execute(case, device, &operands)? != got {
        return Err(Trouble::Wrong("two runs on the same data differ".into()));
    }
    for (i, o) in operands.iter().enumerate() {
        let magnitude = match &o.compare {
            Compare::Unchanged if got[i] != o.bits => {
                return Err(Trouble::Wrong(format!("operand {i}, which is only read, was changed")));
            }
            Compare::Unchanged => continue,
            Compare::Bits => vec![0.0; o.bits.len()],
            Compare::Near(Magnitude::Result) => want[i].iter().map(|&b| decode(o.dtype, b).abs()).collect(),
            Compare::Near(Magnitude::Given(given)) => given.clone(),
            Compare::Near(Magnitude::Absolute) => absolute(case, &operands, i)?,
        };
        let unit = relative(C::KERNEL, case.terms(), case.dtype());
        for (at, (&got, &want)) in got[i].iter().zip(&want[i]).enumerate() {
            let (g, w) = (decode(o.dtype, got), decode(o.dtype, want));
            let fine = match o.compare {
                Compare::Bits => got == want || g.is_nan() && w.is_nan(),
                _ => passes(g, w, o.dtype, unit * magnitude[at]),
            };
            if !fine {
                let (r, c) = (at / o.cols, at % o.cols);
                let allowed = unit * magnitude[at];
                return Err(Trouble::Wrong(format!(
                    "operand {i} [{r}, {c}] is {g:e}, should be {w:e} (difference {:e}, tolerance {allowed:e})",
                    (g - w).abs()
                )));
            }
        }
    }
    Ok(())
}

/// Operand `i` after the same call on absolute values.
fn absolute<C: Case>(case: &C, operands: &[Operand], i: usize) -> Result<Vec<f64>, Trouble> {
    let host = Host::new();
    let operands: Vec<Operand> = operands.iter().map(Operand::absolute).collect();
    let results = execute(case, &host, &operands)?;
    Ok(results[i].iter().map(|&b| decode(operands[i].dtype, b).abs()).collect())
}

/// Draws cases and compares each; on failure looks for the smallest that fails.
pub(crate) fn sweep<C: Case, D: Kernels>(
    device: &D,
    options: &Options,
    strategy: impl Strategy<Value = C>,
) -> Result<Outcome, Failure> {
    let unsupported = std::cell::Cell::new(0);
    draw(C::KERNEL, options.cases, strategy, |case| outcome(&case, options, &unsupported, compare(&case, device)))?;
    Ok(Outcome { name: C::KERNEL, cases: options.cases, unsupported: unsupported.get() })
}

/// Draws pairs of cases, a fused kernel and the kernels that it stands for one after the other: they must give the same
/// bits on the device.
pub(crate) fn twins<C: Case, D: Kernels>(
    device: &D,
    options: &Options,
    strategy: impl Strategy<Value = [C; 2]>,
) -> Result<Outcome, Failure> {
    let unsupported = std::cell::Cell::new(0);
    draw(C::KERNEL, options.cases, strategy, |[fused, apart]| {
        outcome(&fused, options, &unsupported, same_bits(&fused, &apart, device))
    })?;
    Ok(Outcome { name: C::KERNEL, cases: options.cases, unsupported: unsupported.get() })
}

/// Runs both cases on the device, the first twice, and compares all their operands.
fn same_bits<C: Case, D: Kernels>(fused: &C, apart: &C, device: &D) -> Result<(), Trouble> {
    let operands = fused.operands();
    let (want, got) = (execute(apart, device, &operands)?, execute(fused, device, &operands)?);
    if device.capabilities().deterministic && execute(fused, device, &operands)? != got {
        return Err(Trouble::Wrong("two runs on the same data differ".into()));
    }
    for (i, o) in operands.iter().enumerate() {
        if matches!(o.compare, Compare::Unchanged) && got[i] != o.bits {
            return Err(Trouble::Wrong(format!("operand {i}, which is only read, was changed")));
        }
        if let Some(at) = (0..o.bits.len()).find(|&at| got[i][at] != want[i][at]) {
            let (r, c, [got, want]) = (at / o.cols, at % o.cols, [got[i][at], want[i][at]]);
            let problem = format!("operand {i} [{r}, {c}] is {got:#x}, and {want:#x} by one kernel after the other");
            return Err(Trouble::Wrong(problem));
        }
    }
    Ok(())
}

/// What a run of a case says of the device; counts it where the device may decline it.
fn outcome<C: Case>(
    case: &C,
    options: &Options,
    unsupported: &std::cell::Cell<u32>,
    result: Result<(), Trouble>,
) -> Result<(), String> {
    match result {
        Ok(()) => Ok(()),
        Err(Trouble::Unsupported(_)) if case.dtype() != DType::F32 || is_declined(case, options) => {
            unsupported.set(unsupported.get() + 1);
            Ok(())
        }
        Err(Trouble::Unsupported(message) | Trouble::Wrong(message)) => Err(message),
        Err(Trouble::Error(kind, message)) => Err(format!("{message} ({kind:?})")),
    }
}

/// Whether one of a case's operands is of a type that the options decline: codes without FP8, or numbers of a type
/// narrower than F32 that is not among theirs.
fn is_declined(case: &impl Case, options: &Options) -> bool {
    let declined = |dtype: DType| match dtype {
        DType::BF16 | DType::F16 => !options.dtypes.contains(&dtype),
        _ => dtype.is_code() && !options.fp8,
    };
    case.operands().iter().any(|o| declined(o.dtype))
}

/// Draws cases, the same ones every time, and checks each.
pub(crate) fn draw<T: Debug>(
    name: &'static str,
    cases: u32,
    strategy: impl Strategy<Value = T>,
    check: impl Fn(T) -> Result<(), String>,
) -> Result<(), Failure> {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let result = TestRunner::new_with_rng(config, rng).run(&strategy, |case| check(case).map_err(TestCaseError::fail));
    result.map_err(|error| match error {
        TestError::Fail(why, case) => Failure { name, problem: format!("{why}\n  in {case:?}") },
        TestError::Abort(why) => Failure { name, problem: format!("cases ran out: {why}") },
    })
}

/// Declares a case: its kernel, its fields, its activations' type and its longest sum.
macro_rules! case {
    ($name:ident, $kernel:literal, { $($field:ident: $t:ty),* $(,)? }, |$self:ident| $terms:expr,
        operands $operands:block
        call |$device:ident, $($o:ident),*| $call:expr
    ) => {
        #[derive(Clone, Debug)]
        struct $name { d: $crate::values::Draw, $($field: $t),* }

        impl $crate::case::Case for $name {
            const KERNEL: &'static str = $kernel;
            fn operands(&$self) -> Vec<$crate::case::Operand> $operands
            fn call<D: fathom_core::device::Kernels>(
                &$self,
                $device: &D,
                operands: &mut [$crate::case::Placed<D>],
            ) -> Result<(), D::Error> {
                let [$($o),*] = operands else { unreachable!("a case is called with its own operands") };
                $call
            }
            fn terms(&$self) -> usize { $terms }
            fn dtype(&self) -> fathom_core::dtype::DType { self.d.dtype }
        }
    };
}
pub(crate) use case;

/// Declares the public function of a kernel: the strategy its cases are drawn from.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident, $($field:tt: $from:expr),* => $build:expr) => {
        $(#[$doc])*
        pub fn $name<D: fathom_core::device::Kernels>(
            device: &D,
            options: &$crate::Options,
        ) -> Result<$crate::Outcome, $crate::Failure> {
            let draw = $crate::values::Draw::any(options.dtypes(device));
            $crate::case::sweep(device, options, (draw, $($from),*).prop_map($build))
        }
    };
}
pub(crate) use kernel;
