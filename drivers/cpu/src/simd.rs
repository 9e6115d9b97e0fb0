//! Vector instruction sets, chosen at run time.
//!
//! A loop is written once, over slices and arrays that the compiler turns into vector registers, and compiled three
//! times: for AVX-512, for AVX2 with FMA, and for any processor. [`kernel!`] does that. What the
//! compiler does not find is written in intrinsics: the innermost loops of [`gemm`](crate::gemm), of
//! [`gemv`](crate::gemv) and of [`scores`](crate::scores). Products of BF16 have two more versions, for AVX-512 with an
//! instruction for them and for the tile registers of [`amx`](crate::amx).
//!
//! Such loops never fuse a multiplication with an addition, so all three versions give the same bits. Matrix products
//! do where they can, so those differ between machines in the last bits; on one machine nothing does.

use fathom_core::error::ErrorKind;

use crate::error::CpuError;
use crate::real::Real;

/// Environment variable that limits the instruction sets the driver uses, whatever more the processor has:
/// `portable`, `avx2`, `avx512`, `avx512_bf16` or `amx`. Unset, there is no limit.
///
/// One level is taken only where this names it: `avx512_bf16` on processors of Intel, which are faster without.
///
/// Matrix products round differently on each instruction set, so a test that passes on one may fail on another: with
/// this variable one machine runs them all. Also useful to compare numbers between machines. oneDNN's is
/// `ONEDNN_MAX_CPU_ISA`.
pub const MAX_ISA: &str = "FATHOM_MAX_CPU_ISA";

/// Vector instruction set of a device. It can only be made by asking the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

/// Each has the instructions of those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Any,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 with products of pairs of BF16 and permutations of bytes.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// Tile registers, with products of pairs of BF16: see [`amx`](crate::amx).
    #[cfg(target_arch = "x86_64")]
    Amx,
}

/// The names of the levels, lowest first.
const NAMES: [&str; 5] = ["portable", "avx2", "avx512", "avx512_bf16", "amx"];

impl Isa {
    /// The fastest instruction set that this processor has, up to the limit in [`MAX_ISA`].
    ///
    /// # Errors
    /// Where [`MAX_ISA`] holds something else than one of its names.
    pub fn detect() -> Result<Self, CpuError> {
        let limit = limit(std::env::var_os(MAX_ISA).as_deref())?;
        Ok(Self::fastest(limit, is_intel()))
    }

    /// The fastest up to a rank, on a processor of Intel or another.
    fn fastest(limit: usize, is_intel: bool) -> Self {
        let is_worth_it = |isa: &Self| isa.rank() == limit || !(is_intel && isa.is_slow_on_intel());
        // The portable level comes first and is within every limit.
        Self::found(limit).filter(is_worth_it).last().unwrap_or(Self(Level::Any))
    }

    /// Whether processors of Intel compute faster without the last of these instructions: on Emerald Rapids `vdpbf16ps`
    /// reaches half the rate of products of f32, where on Zen 4 it reaches twice theirs.
    fn is_slow_on_intel(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.0 == Level::Avx512Bf16;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// The fastest instruction set, as [`detect`](Self::detect) finds it.
    ///
    /// # Panics
    /// Where [`detect`](Self::detect) fails.
    pub fn best() -> Self {
        Self::detect().unwrap_or_else(|error| panic!("{error}"))
    }

    /// All instruction sets that this processor has, up to the limit in [`MAX_ISA`], each after those it includes.
    ///
    /// # Panics
    /// Where [`detect`](Self::detect) fails.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::found(limit(std::env::var_os(MAX_ISA).as_deref()).unwrap_or_else(|error| panic!("{error}")))
    }

    /// What the processor has up to a rank, in the order of ranks.
    fn found(limit: usize) -> impl Iterator<Item = Self> {
        let levels = [
            Some(Level::Any),
            #[cfg(target_arch = "x86_64")]
            Self::finds_avx2().then_some(Level::Avx2),
            #[cfg(target_arch = "x86_64")]
            Self::finds_avx512().then_some(Level::Avx512),
            #[cfg(target_arch = "x86_64")]
            Self::finds_avx512_bf16().then_some(Level::Avx512Bf16),
            #[cfg(target_arch = "x86_64")]
            // Last, since the system is asked, which changes what it allows signal stacks of this process to be.
            (limit >= Self(Level::Amx).rank() && Self::finds_avx512_bf16() && crate::amx::is_allowed())
                .then_some(Level::Amx),
        ];
        levels.into_iter().flatten().map(Self).filter(move |isa| isa.rank() <= limit)
    }

    /// The place of its name in [`NAMES`].
    fn rank(self) -> usize {
        match self.0 {
            Level::Any => 0,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => 1,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => 2,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => 3,
            #[cfg(target_arch = "x86_64")]
            Level::Amx => 4,
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn finds_avx2() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
    }

    #[cfg(target_arch = "x86_64")]
    fn finds_avx512() -> bool {
        Self::finds_avx2()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
    }

    /// Whether this is AVX-512, whatever else it is.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_avx512(self) -> bool {
        self.0 >= Level::Avx512
    }

    /// Whether the processor multiplies pairs of BF16 numbers (`vdpbf16ps`) beside the rest of AVX-512.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_bf16(self) -> bool {
        self.0 >= Level::Avx512Bf16
    }

    /// Whether pairs of BF16 are multiplied in tile registers.
    pub(crate) fn has_amx(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.0 == Level::Amx;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    #[cfg(target_arch = "x86_64")]
    fn finds_avx512_bf16() -> bool {
        Self::finds_avx512() && is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vbmi")
    }

    /// Prepares the tile registers of this thread, if products use them, until what is returned is dropped.
    pub(crate) fn hold_tiles(self) -> impl Sized {
        #[cfg(target_arch = "x86_64")]
        return self.has_amx().then(crate::amx::Tiles::hold);
        #[cfg(not(target_arch = "x86_64"))]
        None::<()>
    }

    /// The level. That it is above `Any` proves that the processor has the instructions.
    pub(crate) fn level(self) -> Level {
        self.0
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(NAMES[self.rank()])
    }
}

/// Whether the processor is of Intel.
fn is_intel() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let id = std::arch::x86_64::__cpuid(0);
        [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The highest rank that is allowed where [`MAX_ISA`] has this value.
fn limit(value: Option<&std::ffi::OsStr>) -> Result<usize, CpuError> {
    let Some(value) = value else { return Ok(NAMES.len() - 1) };
    NAMES.iter().position(|name| value == *name).ok_or_else(|| {
        let message = format!("{MAX_ISA}={}: must be one of {}", value.to_string_lossy(), NAMES.join(", "));
        CpuError::new(ErrorKind::Unsupported, message)
    })
}

/// Defines a function that takes an [`Isa`] before its own arguments and runs the version compiled for it.
macro_rules! kernel {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $(<$($g:ident: $bound:path),+>)? ($($arg:ident: $ty:ty),* $(,)?)
            $(-> $ret:ty)? $body:block
    ) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$($g: $bound),+>)? (isa: $crate::simd::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn any $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                any $(::<$($g),+>)? ($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                any $(::<$($g),+>)? ($($arg),*)
            }

            match isa.level() {
                $crate::simd::Level::Any => any $(::<$($g),+>)? ($($arg),*),
                // SAFETY: `Isa` holds this level only where the processor was found to have the instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx2 => unsafe { avx2 $(::<$($g),+>)? ($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx512 | $crate::simd::Level::Avx512Bf16 | $crate::simd::Level::Amx => unsafe {
                    avx512 $(::<$($g),+>)? ($($arg),*)
                },
            }
        }
    };
}
pub(crate) use kernel;

/// Fetches what a slice holds into the nearest caches, where there is an instruction for that.
#[inline(always)]
pub(crate) fn fetch<T>(x: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in x.chunks(64 / size_of::<T>()) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address is harmless, and every processor of this architecture has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = x;
}

/// Numbers added side by side in a sum: two AVX-512 registers, so that one addition need not wait for the last.
pub(crate) const LANES: usize = 32;

/// Folds `LANES` partial results into one, always in the same order.
#[inline(always)]
fn fold(lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32 + Copy) -> f32 {
    /// A separate array for every width: the compiler keeps those in registers.
    #[inline(always)]
    fn halve<const N: usize, const HALF: usize>(x: [f32; N], f: impl Fn(f32, f32) -> f32) -> [f32; HALF] {
        std::array::from_fn(|i| f(x[i], x[i + HALF]))
    }
    let sixteen: [f32; 16] = halve(lanes, f);
    let eight: [f32; 8] = halve(sixteen, f);
    let four: [f32; 4] = halve(eight, f);
    let two: [f32; 2] = halve(four, f);
    f(two[0], two[1])
}

/// Numbers of a lane that are added up in a register before the lanes go back to memory: the compiler keeps an array of
/// lanes there, and to read what was just written takes as long as several additions.
const DEPTH: usize = 8;

/// `Σ f(x[i])`, the order fixed by the length.
#[inline(always)]
pub(crate) fn sum<T: Real>(x: &[T], f: impl Fn(f32) -> f32) -> f32 {
    let lanes = accumulate([0.0; LANES], x, x, |sum, v, _| sum + f(v));
    fold(lanes, |a, b| a + b)
}

/// `Σ f(x[i], y[i])` over the shorter of both, the order fixed by the length.
#[inline(always)]
pub(crate) fn sum2<X: Real, Y: Real>(x: &[X], y: &[Y], f: impl Fn(f32, f32) -> f32) -> f32 {
    let n = x.len().min(y.len());
    let lanes = accumulate([0.0; LANES], &x[..n], &y[..n], |sum, x, y| sum + f(x, y));
    fold(lanes, |a, b| a + b)
}

/// The largest element, −∞ for none. Passes over NaN.
#[inline(always)]
pub(crate) fn max<T: Real>(x: &[T]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let lanes = accumulate([f32::NEG_INFINITY; LANES], x, x, |most, v, _| larger(most, v));
    fold(lanes, larger)
}

/// `lane[i % LANES] = f(lane[i % LANES], x[i], y[i])` for rising `i`. Both slices have one length.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // with an iterator over the lanes this does not become vectors
fn accumulate<X: Real, Y: Real>(
    mut lanes: [f32; LANES],
    x: &[X],
    y: &[Y],
    f: impl Fn(f32, f32, f32) -> f32,
) -> [f32; LANES] {
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<{ DEPTH * LANES }>(), y.as_chunks::<{ DEPTH * LANES }>());
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..LANES {
            let mut lane = lanes[i];
            for at in (i..DEPTH * LANES).step_by(LANES) {
                lane = f(lane, x[at].load(), y[at].load());
            }
            lanes[i] = lane;
        }
    }
    let ((xs, x_tail), (ys, y_tail)) = (x_rest.as_chunks::<LANES>(), y_rest.as_chunks::<LANES>());
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..LANES {
            lanes[i] = f(lanes[i], x[i].load(), y[i].load());
        }
    }
    for ((lane, &x), &y) in lanes.iter_mut().zip(x_tail).zip(y_tail) {
        *lane = f(*lane, x.load(), y.load());
    }
    lanes
}

/// `(e^(x − n·ln 2), n + MAGIC)` with the whole number `n` nearest to `x/ln 2`, by the steps of
/// [`fathom_core::math::exp`].
#[inline(always)]
fn reduced_exp(x: f32) -> (f32, f32) {
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = POLYNOMIAL[0];
    for c in &POLYNOMIAL[1..] {
        p = p * r + c;
    }
    ((p * (r * r) + r) + 1.0, shifted)
}

/// ln 2 in two parts, and the polynomial, of [`fathom_core::math::exp`].
pub(crate) const LN2_HIGH: f32 = 0.693_359_4;
pub(crate) const LN2_LOW: f32 = -2.121_944_4e-4;
pub(crate) const POLYNOMIAL: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5];

/// 1.5 · 2²³: adding it rounds to a whole number, which is then in the low bits.
pub(crate) const MAGIC: f32 = 12_582_912.0;

/// `e^x`, the bits of [`fathom_core::math::exp`], without branches.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let (y, shifted) = reduced_exp(x);
    // Outside the range below, n means nothing and the result is not used.
    let n = shifted.to_bits().wrapping_sub(MAGIC.to_bits()) as i32;
    let half = n >> 1;
    let scale = |e: i32| f32::from_bits((e.wrapping_add(127) as u32) << 23);
    let y = y * scale(half) * scale(n.wrapping_sub(half));
    let y = if x > 88.722_84 { f32::INFINITY } else { y };
    let y = if x < -87.336_54 { 0.0 } else { y };
    if x.is_nan() { x } else { y }
}

/// `e^x` for `x` up to 88 (and NaN): [`exp`] where no result is too large, in two thirds of its instructions.
#[inline(always)]
pub(crate) fn exp_to_88(x: f32) -> f32 {
    let (y, shifted) = reduced_exp(x);
    // The low bits of MAGIC are zeros, so n alone is left in the exponent.
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.336_54 { 0.0 } else { y * scale }
}

/// `1 / (1 + e^-x)`, within two units in the last place; 6e-39 below −88.
#[inline(always)]
pub(crate) fn quick_sigmoid(x: f32) -> f32 {
    let x = if x < -88.0 { -88.0 } else { x };
    1.0 / (1.0 + exp_to_88(-x))
}

/// `1 / (1 + e^-x)`, the bits of [`fathom_core::math::sigmoid`].
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_core::math;

    #[test]
    fn the_limit_is_one_of_the_names_and_no_limit_by_default() {
        assert_eq!(limit(None).unwrap(), NAMES.len() - 1);
        for (rank, name) in NAMES.iter().enumerate() {
            assert_eq!(limit(Some(name.as_ref())).unwrap(), rank);
        }
        for wrong in ["", "AVX2", "sse2", "avx512 with bf16"] {
            let message = limit(Some(wrong.as_ref())).unwrap_err().to_string();
            assert!(message.contains(MAX_ISA) && message.contains("portable, avx2"), "{message}");
        }
        let ranks: Vec<usize> = Isa::found(usize::MAX).map(Isa::rank).collect();
        assert!(ranks[0] == 0 && ranks.is_sorted(), "{ranks:?}");
        assert!(Isa::all().any(|isa| isa == Isa::best()));
    }

    #[test]
    fn slow_products_of_bf16_are_used_only_where_they_are_asked_for() {
        let most = NAMES.len() - 1;
        for isa in Isa::found(most) {
            for is_intel in [false, true] {
                assert_eq!(Isa::fastest(isa.rank(), is_intel), isa, "named, each is taken");
            }
        }
        assert_eq!(Some(Isa::fastest(most, false)), Isa::found(most).last());
        let without = Isa::found(most).filter(|isa| isa.to_string() != "avx512_bf16");
        assert_eq!(Some(Isa::fastest(most, true)), without.last());
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn tile_registers_are_held_until_the_last_holder_is_gone() {
        use crate::amx::Tiles;
        for isa in Isa::all() {
            let outer = isa.hold_tiles();
            assert_eq!(Tiles::are_held(), isa.has_amx());
            let inner = isa.hold_tiles();
            drop(outer);
            assert_eq!(Tiles::are_held(), isa.has_amx());
            std::thread::scope(|s| {
                s.spawn(|| assert!(!Tiles::are_held(), "another thread has other registers"));
            });
            drop(inner);
            assert!(!Tiles::are_held());
        }
    }

    kernel! {
        fn exp_to_88_all(x: &[f32], y: &mut [f32]) {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = exp_to_88(x);
            }
        }
    }

    #[test]
    fn the_short_exp_is_the_long_one_where_it_holds() {
        let mut x: Vec<f32> = (0..1_000_000).map(|i| -90.0 + i as f32 * 1.78e-4).collect();
        x.extend([f32::NEG_INFINITY, f32::NAN, f32::MIN, -0.0]);
        let mut y = vec![0.0; x.len()];
        for isa in Isa::all() {
            exp_to_88_all(isa, &x, &mut y);
            for (&x, &y) in x.iter().zip(&y).filter(|(x, _)| **x <= 88.0 || x.is_nan()) {
                assert!(y == math::exp(x) || x.is_nan() && y.is_nan(), "exp({x}) on {isa:?}");
            }
        }
        for x in [-1e30, -88.5, -20.0, 0.0, 3.0, 1e30] {
            assert!((quick_sigmoid(x) - math::sigmoid(x)).abs() <= 1e-38 + 2.0 * f32::EPSILON * math::sigmoid(x));
        }
        assert!(quick_sigmoid(f32::NAN).is_nan());
    }

    kernel! {
        fn exp_all(x: &[f32], y: &mut [f32]) {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = exp(x);
            }
        }
    }

    #[test]
    fn exp_has_the_bits_of_the_core_on_every_instruction_set() {
        let mut x: Vec<f32> = (0..1 << 20).map(|i| f32::from_bits(i * 4093)).collect();
        x.extend((-1000..1000).map(|i| i as f32 * 0.1));
        x.extend([f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 88.722_84, 88.722_85, -87.336_54, -87.336_55, -0.0]);
        let mut y = vec![0.0; x.len()];
        for isa in Isa::all() {
            exp_all(isa, &x, &mut y);
            for (&x, &y) in x.iter().zip(&y) {
                assert_eq!(y.to_bits(), math::exp(x).to_bits(), "exp({x}) on {isa:?}");
            }
        }
    }

    #[test]
    fn sums_and_maxima_take_every_element_once() {
        for n in [0usize, 1, 31, 32, 33, 100, 257] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let total = x.iter().map(|&v| v as f64).sum::<f64>() as f32;
            assert_eq!(sum(&x, |v| v), total);
            assert_eq!(sum2(&x, &vec![2.0; n], |a, b| a * b), 2.0 * total);
            assert_eq!(max(&x), x.last().copied().unwrap_or(f32::NEG_INFINITY));
        }
        assert_eq!(max(&[f32::NAN, 1.0, f32::NAN]), 1.0);
    }
}
