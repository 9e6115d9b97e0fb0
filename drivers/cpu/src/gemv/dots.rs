//! Dot products of a few rows of activations with the rows of a weight, which is widened in registers.

use fathom_core::fp8::{Code, E4M3};
use half::bf16;

use crate::mat::Mat;
use crate::quantize::e4m3;
use crate::simd::{Isa, Level};

/// Codes that are widened at once by looking up their bytes, which leaves them in another order ([`codes::mix`]).
pub(super) const MIXED: usize = 64;

/// The most rows of activations that are multiplied with a weight at once.
pub(super) const ROWS: usize = 4;

/// The rows of activations that are multiplied at once with these instructions: as many as registers hold.
pub(super) fn rows(isa: Isa) -> usize {
    match isa.level() {
        Level::Any => 1,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Avx512 | Level::Avx512Bf16 | Level::Amx => ROWS,
    }
}

/// A type that weights are stored in.
pub(super) trait Stored: bytemuck::Pod + Send + Sync {
    /// What a widened element must be multiplied by to give its number.
    const FACTOR: f32 = 1.0;

    /// Numbers of activations that lie in another order for the products, with these instructions: 1 if none.
    fn mixed(_: Isa) -> usize {
        1
    }

    /// Puts activations in that order.
    fn mix(_: Isa, _: &mut [[f32; MIXED]]) {}

    /// The element in f32, over [`FACTOR`](Self::FACTOR).
    fn widen(self) -> f32;

    /// Instead of the function for vectors in order: that for `m` rows of mixed activations, and its streams.
    #[cfg(target_arch = "x86_64")]
    fn mixed_table(_m: usize) -> Option<(Dots<Self>, usize, Dots<Self>)> {
        None
    }

    /// 16 elements from `at` on.
    ///
    /// # Safety
    /// The processor has the instructions, and the elements can be read.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_2x8(at: *const Self) -> [std::arch::x86_64::__m256; 2];

    /// 32 elements from `at` on.
    ///
    /// # Safety
    /// The processor has the instructions, and the elements can be read.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_2x16(at: *const Self) -> [std::arch::x86_64::__m512; 2];

    /// The elements from `at` on that `mask` has a bit for; zeros for the others.
    ///
    /// # Safety
    /// The processor has the instructions, and those elements can be read.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_16(at: *const Self, mask: u16) -> std::arch::x86_64::__m512;
}

impl Stored for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load_2x8(at: *const Self) -> [std::arch::x86_64::__m256; 2] {
        use std::arch::x86_64::*;
        // SAFETY: the caller's premise.
        unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))] }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn load_2x16(at: *const Self) -> [std::arch::x86_64::__m512; 2] {
        use std::arch::x86_64::*;
        // SAFETY: the caller's premise.
        unsafe { [_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(16))] }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load_16(at: *const Self, mask: u16) -> std::arch::x86_64::__m512 {
        // SAFETY: the caller's premise.
        unsafe { std::arch::x86_64::_mm512_maskz_loadu_ps(mask, at) }
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load_2x8(at: *const Self) -> [std::arch::x86_64::__m256; 2] {
        use std::arch::x86_64::*;
        // SAFETY: the caller's premise.
        let x = unsafe { [_mm_loadu_si128(at.cast()), _mm_loadu_si128(at.add(8).cast())] };
        x.map(|x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x))))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn load_2x16(at: *const Self) -> [std::arch::x86_64::__m512; 2] {
        use std::arch::x86_64::*;
        // SAFETY: the caller's premise.
        let x = unsafe { [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(16).cast())] };
        x.map(|x| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x))))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load_16(at: *const Self, mask: u16) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::*;
        // SAFETY: the caller's premise.
        let x = unsafe { _mm256_maskz_loadu_epi16(mask, at.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)))
    }
}

/// E4M3, widened by way of f16: see [`e4m3`].
impl Stored for u8 {
    const FACTOR: f32 = e4m3::FACTOR;

    fn mixed(isa: Isa) -> usize {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 | Level::Amx => MIXED,
            _ => 1,
        }
    }

    fn mix(isa: Isa, blocks: &mut [[f32; MIXED]]) {
        #[cfg(target_arch = "x86_64")]
        if isa.has_bf16() {
            // SAFETY: the processor has the instructions.
            unsafe { codes::mix(blocks) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (isa, blocks);
    }

    #[cfg(target_arch = "x86_64")]
    fn mixed_table(m: usize) -> Option<(Dots<Self>, usize, Dots<Self>)> {
        Some(codes::table(m))
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        let number = E4M3::decode(self.into());
        if number.is_nan() { if self < 128 { 1.875 } else { -1.875 } } else { number / Self::FACTOR }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load_2x8(at: *const Self) -> [std::arch::x86_64::__m256; 2] {
        // SAFETY: the caller's premise.
        unsafe { e4m3::x86::load_2x8(at) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn load_2x16(at: *const Self) -> [std::arch::x86_64::__m512; 2] {
        // SAFETY: the caller's premise.
        unsafe { e4m3::x86::load_2x16(at) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load_16(at: *const Self, mask: u16) -> std::arch::x86_64::__m512 {
        // SAFETY: the caller's premise.
        unsafe { e4m3::x86::load_16(at, mask) }
    }
}

/// Bytes ahead of what is read that are fetched.
const AHEAD: usize = 1024;

/// What one call of [`Dots`] multiplies.
pub(super) struct Operands<W> {
    k: usize,
    /// First row of activations, and numbers from one to the next.
    x: (*const f32, usize),
    /// First row of the weight, and elements from one to the next.
    w: (*const W, usize),
    /// Rows of the weight in a stream.
    each: usize,
    /// Where the sum of the first rows goes, and numbers from one row of activations to the next.
    sums: (*mut f32, usize),
}

/// Multiplies a fixed number of rows of activations with a fixed number of streams: runs of `each` rows of the weight,
/// one under the other, read side by side. Memory is read fastest in a few long streams.
///
/// # Safety
/// The processor has the instructions the function was compiled for; `k` elements of all rows can be read, and all
/// sums be written.
pub(super) type Dots<W> = unsafe fn(&Operands<W>);

/// `sums[r, j] = Σ_k x[r, k]·w[j, k]`, one row of sums after the other. Activations lie as [`prepare`](super::prepare)
/// puts them: mixed, with zeros up to a multiple of [`MIXED`], where the type of the weight asks for that.
pub(super) fn dots<W: Stored>(isa: Isa, x: &Mat<'_, f32>, w: &Mat<'_, W>, sums: &mut [f32]) {
    let (m, n, k) = (x.rows(), w.rows(), x.cols());
    assert!(w.cols() == k && sums.len() == m * n && m <= rows(isa), "sums of the operands' shape");
    if m * n * k == 0 {
        return sums.fill(0.0);
    }
    let padded = k.next_multiple_of(W::mixed(isa));
    assert!(x.as_slice().len() >= (m - 1) * x.stride() + padded, "rows of mixed activations are padded");
    let (x_first, w_first) = (x.as_slice().as_ptr(), w.as_slice().as_ptr());
    let (f, streams, one): (Dots<W>, usize, Dots<W>) = match isa.level() {
        Level::Any => (any::<W>, 1, any::<W>),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::table(m),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => avx512::table(m),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 | Level::Amx => W::mixed_table(m).unwrap_or_else(|| avx512::table(m)),
    };
    let each = n / streams;
    let whole = each * streams;
    for (f, j, each) in [(f, 0, each), (one, whole, n - whole)] {
        let operands = Operands {
            k,
            x: (x_first, x.stride()),
            w: (w_first.wrapping_add(j * w.stride()), w.stride()),
            each,
            sums: (sums.as_mut_ptr().wrapping_add(j), n),
        };
        // SAFETY: the functions are for the instructions of `isa` and for `m` rows of activations; both matrices lie
        // inside their memory, and `sums` has a place for each pair of rows: `streams` streams of `each` rows, then
        // one of those that are left.
        unsafe { f(&operands) };
    }
}

/// See [`Dots`]: one row of activations, one stream, eight chains.
///
/// # Safety
/// That of [`Dots`].
unsafe fn any<W: Stored>(o: &Operands<W>) {
    for r in 0..o.each {
        // SAFETY: the caller's premise.
        let (x, w) =
            unsafe { (std::slice::from_raw_parts(o.x.0, o.k), std::slice::from_raw_parts(o.w.0.add(r * o.w.1), o.k)) };
        let mut lanes = [0.0f32; 8];
        for (x, w) in x.chunks(8).zip(w.chunks(8)) {
            for ((lane, &x), &w) in lanes.iter_mut().zip(x).zip(w) {
                *lane += x * w.widen();
            }
        }
        let [a, b, c, d, e, f, g, h] = lanes;
        // SAFETY: the caller's premise.
        unsafe { *o.sums.0.add(r) = ((a + e) + (c + g)) + ((b + f) + (d + h)) };
    }
}

/// Fetches what lies [`AHEAD`] of the `n` elements from `at` on.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn fetch<W>(at: *const W, n: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for byte in (0..n * size_of::<W>()).step_by(64) {
        // SAFETY: every processor of this architecture has the instruction; a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast::<i8>().wrapping_add(AHEAD + byte)) };
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{Dots, Operands, Stored, fetch};
    use std::arch::x86_64::*;

    /// For `m` rows of activations: the function, how many streams it reads, and that for one stream.
    pub(super) fn table<W: Stored>(m: usize) -> (Dots<W>, usize, Dots<W>) {
        match m {
            1 => (run::<W, 1, 8>, 8, run::<W, 1, 1>),
            2 => (run::<W, 2, 8>, 8, run::<W, 2, 1>),
            3 => (run::<W, 3, 4>, 4, run::<W, 3, 1>),
            _ => (run::<W, 4, 4>, 4, run::<W, 4, 1>),
        }
    }

    /// # Safety
    /// That of [`Dots`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn run<W: Stored, const R: usize, const N: usize>(o: &Operands<W>) {
        for row in 0..o.each {
            let w: [*const W; N] = std::array::from_fn(|j| o.w.0.wrapping_add((j * o.each + row) * o.w.1));
            let mut sums = [[_mm512_setzero_ps(); N]; R];
            let mut at = 0;
            while at + 32 <= o.k {
                // SAFETY: the caller's premise: 32 elements from `at` on are in every row.
                unsafe {
                    let mut numbers = [[_mm512_setzero_ps(); 2]; N];
                    for (numbers, w) in numbers.iter_mut().zip(w) {
                        fetch(w.add(at), 32);
                        *numbers = W::load_2x16(w.add(at));
                    }
                    for half in 0..2 {
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let x = _mm512_loadu_ps(o.x.0.add(r * o.x.1 + at + 16 * half));
                            for (sum, w) in sums.iter_mut().zip(&numbers) {
                                *sum = _mm512_fmadd_ps(x, w[half], *sum);
                            }
                        }
                    }
                }
                at += 32;
            }
            while at < o.k {
                let mask = u16::MAX >> (16 - (o.k - at).min(16));
                for (r, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: the caller's premise: the mask keeps to the elements that are left of every row.
                    unsafe {
                        let x = _mm512_maskz_loadu_ps(mask, o.x.0.add(r * o.x.1 + at));
                        for (sum, w) in sums.iter_mut().zip(w) {
                            *sum = _mm512_fmadd_ps(x, W::load_16(w.add(at), mask), *sum);
                        }
                    }
                }
                at += 16;
            }
            for (r, sums) in sums.iter().enumerate() {
                for (j, &sum) in sums.iter().enumerate() {
                    // SAFETY: the caller's premise.
                    unsafe { *o.sums.0.add(r * o.sums.1 + j * o.each + row) = total(sum) };
                }
            }
        }
    }

    /// The sum of the lanes: always halves added to halves.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    pub(super) fn total(x: __m512) -> f32 {
        super::avx2::total(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x)))
    }
}

/// Codes by the bytes of their BF16, which the processor looks up 64 at a time.
#[cfg(target_arch = "x86_64")]
mod codes {
    use super::{Dots, MIXED, Operands, Stored, fetch};
    use std::arch::x86_64::*;

    /// For `m` rows of activations: the function, how many streams it reads, and that for one stream.
    pub(super) fn table(m: usize) -> (Dots<u8>, usize, Dots<u8>) {
        match m {
            1 => (run::<1, 8>, 8, run::<1, 1>),
            2 => (run::<2, 8>, 8, run::<2, 1>),
            3 => (run::<3, 4>, 4, run::<3, 1>),
            _ => (run::<4, 4>, 4, run::<4, 1>),
        }
    }

    /// The low and the high bytes of the BF16 of codes without sign, over `FACTOR`.
    static BYTES: [[u8; 128]; 2] = {
        let mut bytes = [[0; 128]; 2];
        let mut code = 0;
        while code < 128 {
            // A code is eeee.mmm with a bias of 7; below the normal range it is mmm·2⁻⁹. 127 would be NaN.
            let (exponent, mantissa) = (code as u32 >> 3, code as u32 & 7);
            let number = if exponent == 0 {
                mantissa as f32 / 512.0
            } else {
                (8 + mantissa) as f32 * f32::from_bits((exponent + 127 - 10) << 23)
            };
            let bits = (number / u8::FACTOR).to_bits() >> 16;
            (bytes[0][code], bytes[1][code]) = (bits as u8, (bits >> 8) as u8);
            code += 1;
        }
        bytes
    };

    /// Puts activations where the products with looked-up codes want them: those of even, then of odd places in the
    /// first halves of the 16 bytes that are unpacked together, then those of the second halves.
    ///
    /// # Safety
    /// The processor has the instructions.
    #[target_feature(enable = "avx512f,avx512dq")]
    pub(super) unsafe fn mix(blocks: &mut [[f32; MIXED]]) {
        for block in blocks {
            // SAFETY: a block holds four vectors.
            let x: [__m512; 4] = std::array::from_fn(|q| unsafe { _mm512_loadu_ps(block.as_ptr().add(16 * q)) });
            for (v, to) in block.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let first = (8 * (v / 2) + v % 2) as i32;
                let step = _mm512_setr_epi32(0, 2, 4, 6, 16, 18, 20, 22, 0, 2, 4, 6, 16, 18, 20, 22);
                let from = _mm512_add_epi32(step, _mm512_set1_epi32(first));
                let low = _mm512_permutex2var_ps(x[0], from, x[1]);
                let high = _mm512_permutex2var_ps(x[2], from, x[3]);
                let both = _mm512_mask_blend_ps(0xff00, low, high);
                // SAFETY: there is room for 16 numbers.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr(), both) };
            }
        }
    }

    /// # Safety
    /// That of [`Dots`], and activations are mixed and padded.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")]
    unsafe fn run<const R: usize, const N: usize>(o: &Operands<u8>) {
        // SAFETY: a table has 128 bytes.
        let [low, high] = BYTES
            .each_ref()
            .map(|t| unsafe { [_mm512_loadu_epi8(t.as_ptr().cast()), _mm512_loadu_epi8(t.as_ptr().add(64).cast())] });
        let (sign, upper) = (_mm512_set1_epi8(-128), _mm512_set1_epi32(0xffff_0000_u32 as i32));
        for row in 0..o.each {
            let w: [*const u8; N] = std::array::from_fn(|j| o.w.0.wrapping_add((j * o.each + row) * o.w.1));
            let mut sums = [[_mm512_setzero_ps(); N]; R];
            for at in (0..o.k).step_by(MIXED) {
                let mask = u64::MAX >> (MIXED - (o.k - at).min(MIXED));
                for (j, w) in w.into_iter().enumerate() {
                    // SAFETY: the caller's premise: the mask keeps to the codes that are left of every row, and
                    // activations are padded to whole blocks.
                    unsafe {
                        fetch(w.add(at), MIXED);
                        let codes = _mm512_maskz_loadu_epi8(mask, w.add(at).cast());
                        let low = _mm512_permutex2var_epi8(low[0], codes, low[1]);
                        let high = _mm512_permutex2var_epi8(high[0], codes, high[1]);
                        // high | codes & sign
                        let high = _mm512_ternarylogic_epi32::<0xf8>(high, codes, sign);
                        let pairs = [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)];
                        for (half, pair) in pairs.into_iter().enumerate() {
                            let numbers = [_mm512_slli_epi32::<16>(pair), _mm512_and_si512(pair, upper)];
                            for (odd, numbers) in numbers.into_iter().enumerate() {
                                for (r, sums) in sums.iter_mut().enumerate() {
                                    let x = _mm512_loadu_ps(o.x.0.add(r * o.x.1 + at + 16 * (2 * half + odd)));
                                    sums[j] = _mm512_fmadd_ps(x, _mm512_castsi512_ps(numbers), sums[j]);
                                }
                            }
                        }
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (j, &sum) in sums.iter().enumerate() {
                    // SAFETY: the caller's premise.
                    unsafe { *o.sums.0.add(r * o.sums.1 + j * o.each + row) = super::avx512::total(sum) };
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Dots, Operands, Stored, fetch};
    use std::arch::x86_64::*;

    /// As for AVX-512, with half as many registers.
    pub(super) fn table<W: Stored>(m: usize) -> (Dots<W>, usize, Dots<W>) {
        match m {
            1 => (run::<W, 1, 4>, 4, run::<W, 1, 1>),
            2 => (run::<W, 2, 4>, 4, run::<W, 2, 1>),
            3 => (run::<W, 3, 2>, 2, run::<W, 3, 1>),
            _ => (run::<W, 4, 2>, 2, run::<W, 4, 1>),
        }
    }

    /// # Safety
    /// That of [`Dots`].
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn run<W: Stored, const R: usize, const N: usize>(o: &Operands<W>) {
        for row in 0..o.each {
            let w: [*const W; N] = std::array::from_fn(|j| o.w.0.wrapping_add((j * o.each + row) * o.w.1));
            let mut sums = [[_mm256_setzero_ps(); N]; R];
            let mut at = 0;
            while at + 16 <= o.k {
                // SAFETY: the caller's premise: 16 elements from `at` on are in every row.
                unsafe {
                    let mut numbers = [[_mm256_setzero_ps(); 2]; N];
                    for (numbers, w) in numbers.iter_mut().zip(w) {
                        fetch(w.add(at), 16);
                        *numbers = W::load_2x8(w.add(at));
                    }
                    for half in 0..2 {
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let x = _mm256_loadu_ps(o.x.0.add(r * o.x.1 + at + 8 * half));
                            for (sum, w) in sums.iter_mut().zip(&numbers) {
                                *sum = _mm256_fmadd_ps(x, w[half], *sum);
                            }
                        }
                    }
                }
                at += 16;
            }
            while at < o.k {
                let left = (o.k - at).min(8);
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (sum, &w) in sums.iter_mut().zip(&w) {
                        let (mut x, mut numbers) = ([0.0; 8], [0.0; 8]);
                        for i in 0..left {
                            // SAFETY: the caller's premise: `left` elements from `at` on are in every row.
                            unsafe {
                                x[i] = *o.x.0.add(r * o.x.1 + at + i);
                                numbers[i] = (*w.add(at + i)).widen();
                            }
                        }
                        // SAFETY: both hold eight numbers.
                        let (x, w) = unsafe { (_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(numbers.as_ptr())) };
                        *sum = _mm256_fmadd_ps(x, w, *sum);
                    }
                }
                at += 8;
            }
            for (r, sums) in sums.iter().enumerate() {
                for (j, &sum) in sums.iter().enumerate() {
                    // SAFETY: the caller's premise.
                    unsafe { *o.sums.0.add(r * o.sums.1 + j * o.each + row) = total(sum) };
                }
            }
        }
    }

    /// The sum of the lanes: always halves added to halves.
    #[inline]
    #[target_feature(enable = "avx")]
    pub(super) fn total(x: __m256) -> f32 {
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
    }
}
