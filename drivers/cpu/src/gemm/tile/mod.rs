//! The GEMM microkernel: a tile of up to `ROWS × 32` sums held in registers.
//!
//! `c[i, j] (+)= α·Σ_p a[i, p]·b[p, j]` over words ([`Word`]) with `b` packed 32 columns wide. Each sum is one chain
//! over `p` in rising order (for AMX see [`amx`]), whatever the tile's size, so an element's bits depend on its own row
//! and column only.

#[cfg(target_arch = "x86_64")]
mod amx;
mod word;

use half::bf16;

use crate::real::Real;
use crate::simd::{Isa, Level};
pub(crate) use word::{Output, Unit, has_pairs};

/// A [`Unit`] that has tiles for every processor.
pub(crate) trait Word: Unit {
    /// The tiles for a processor.
    fn tiles(isa: Isa) -> TileTable<Self>;
}

impl Word for f32 {
    fn tiles(isa: Isa) -> TileTable<f32> {
        match isa.level() {
            Level::Any => any::Tiles::TABLE,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::TABLE,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 | Level::Amx => avx512::TABLE,
        }
    }
}

impl Word for u32 {
    fn tiles(isa: Isa) -> TileTable<u32> {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => avx512::PAIRS,
            #[cfg(target_arch = "x86_64")]
            Level::Amx => amx::PAIRS,
            _ => any::Tiles::TABLE,
        }
    }
}

/// Columns of a packed panel of `b`.
pub(crate) const NR: usize = 32;

/// Where a tile's result goes: its first element.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    F32(*mut f32),
    BF16(*mut bf16),
}

/// What one tile multiplies: its rows of the left factor, a packed panel of the right one, and where the result goes.
#[derive(Clone, Copy)]
pub(crate) struct Operands<W> {
    /// Words of depth.
    pub k: usize,
    /// Row `i`, word `p` of the left factor at `a + i·row + p·step`.
    pub a: *const W,
    /// Rows of the tile.
    pub rows: usize,
    /// Rows of the same depth that lie before the tile's first, `row` from one to the next.
    pub before: usize,
    pub row: usize,
    pub step: usize,
    /// What is fetched while word `p` is multiplied: the line at `ahead.0 + p·ahead.1`, wherever that is.
    pub ahead: (*const W, usize),
    /// `k` lines of [`NR`] words, or of 16 where there are at most 16 columns.
    pub b: *const W,
    /// Words from line to line of `b`.
    pub line: usize,
    /// Row `i`, column `j` of the result at `c + i·ldc + j`.
    pub c: Target,
    pub ldc: usize,
    /// Columns of the result, at most [`NR`].
    pub n: usize,
    /// α.
    pub alpha: f32,
    /// Add to `c` instead of replacing it.
    pub add: bool,
}

/// Multiplies one tile.
///
/// # Safety
/// The processor has the instructions the function was compiled for. All places of `a` and `b` that [`Operands`]
/// describes for the tile's rows can be read, and those of `c` be written, and nobody else writes or reads `c`.
pub(crate) type TileFn<W> = unsafe fn(&Operands<W>);

/// Tiles of 1, 2, … rows, as many as registers hold, and for each a narrow one (at most 16 columns) and a wide one.
pub(crate) type TileTable<W> = &'static [[TileFn<W>; 2]];

/// Part of the inner dimension in which an element has one scale, padded to whole pairs.
#[derive(Clone, Copy, Default)]
pub(super) struct Segment {
    pub start: usize,
    pub len: usize,
}

impl Segment {
    pub(super) fn words(&self) -> usize {
        self.len.div_ceil(2)
    }

    pub(super) fn range(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.len
    }
}

/// The scales of what a tile multiplies.
#[derive(Clone, Copy)]
pub(super) struct Scales<'a> {
    /// Segments, which come one after the other in both factors.
    pub segments: &'a [Segment],
    /// Row `i` of segment `s` at `a + s·a_pitch + i`.
    pub a: *const f32,
    pub a_pitch: usize,
    /// Column `j` of segment `s` at `b + s·b_pitch + j`; [`NR`] of them.
    pub b: *const f32,
    pub b_pitch: usize,
}

/// Multiplies one tile of codes with scales. α is not used.
///
/// # Safety
/// That of [`TileFn`]; segments have `k` words, and all scales that [`Scales`] describes can be read.
pub(super) type CodesFn = unsafe fn(&Operands<u32>, &Scales<'_>);

/// As [`TileTable`], for codes with scales.
pub(super) fn codes_tiles(isa: Isa) -> &'static [[CodesFn; 2]] {
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => avx512::CODES,
        #[cfg(target_arch = "x86_64")]
        Level::Amx => amx::CODES,
        _ => &[[any::tile_of_codes; 2]],
    }
}

macro_rules! table {
    ($f:ident: $($rows:literal)*) => { &[$([$f::<$rows, 1>, $f::<$rows, 2>]),*] };
}

/// Fetches a tile of the result, `width` times 16 columns, while its sums are made.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn prefetch(c: Target, ldc: usize, rows: usize, width: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for i in 0..rows {
        // SAFETY: a prefetch of any address is harmless. A cache line holds 16 F32 or 32 BF16.
        unsafe {
            match c {
                Target::F32(c) => {
                    for v in 0..width {
                        _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(i * ldc + 16 * v).cast());
                    }
                }
                Target::BF16(c) => _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(i * ldc).cast()),
            }
        }
    }
}

/// `at` moved by `step`, hidden from the compiler: it would reach the rows of a tile one from the other by a chain of
/// additions that takes as long as the products.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block)] // which reads nothing
fn moved<W>(at: *const W, step: usize) -> *const W {
    let mut at = at.wrapping_add(step);
    // SAFETY: nothing is executed.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) at, options(pure, nomem, nostack, preserves_flags)) };
    at
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use super::{CodesFn, Operands, Scales, Target, TileTable, moved, prefetch, store};
    use std::arch::x86_64::*;

    pub(in crate::gemm) static TABLE: TileTable<f32> = table!(tile: 1 2 3 4 5 6 7 8 9 10 11 12);
    pub(in crate::gemm) static PAIRS: TileTable<u32> = table!(tile_of_pairs: 1 2 3 4 5 6 7 8 9 10 11 12);

    pub(in crate::gemm) static CODES: &[[CodesFn; 2]] = table!(tile_of_codes: 1 2 3 4 5 6 7 8 9 10 11 12);

    /// The sums of a tile, not scaled: 24 of 32 registers.
    ///
    /// # Safety
    /// That of [`TileFn`](super::TileFn) on `a` and `b`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn sums<const ROWS: usize, const WIDTH: usize>(
        k: usize,
        (a, stride, step): (*const f32, usize, usize),
        (mut ahead, further): (*const f32, usize),
        (mut b, line): (*const f32, usize),
    ) -> [[__m512; WIDTH]; ROWS] {
        let mut sums = [[_mm512_setzero_ps(); WIDTH]; ROWS];
        let mut fours = [0, 4, 8].map(|i| a.wrapping_add(i * stride));
        for _ in 0..k {
            // SAFETY: the caller's premise on `a` and `b` for this depth.
            unsafe {
                let mut bs = [_mm512_setzero_ps(); WIDTH];
                for (v, b_v) in bs.iter_mut().enumerate() {
                    *b_v = _mm512_loadu_ps(b.add(16 * v));
                }
                for (i, row) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*fours[i / 4].add(i % 4 * stride));
                    for (sum, &b_v) in row.iter_mut().zip(&bs) {
                        *sum = _mm512_fmadd_ps(x, b_v, *sum);
                    }
                }
            }
            // A prefetch of any address is harmless.
            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
            ahead = ahead.wrapping_add(further);
            fours = fours.map(|a| moved(a, step));
            b = b.wrapping_add(line);
        }
        sums
    }

    /// See [`TileFn`](super::TileFn).
    ///
    /// # Safety
    /// That of [`TileFn`](super::TileFn).
    #[target_feature(enable = "avx512f")]
    unsafe fn tile<const ROWS: usize, const WIDTH: usize>(x: &Operands<f32>) {
        prefetch(x.c, x.ldc, ROWS, WIDTH);
        // SAFETY: the caller's premise.
        let sums = unsafe { sums::<ROWS, WIDTH>(x.k, (x.a, x.row, x.step), x.ahead, (x.b, x.line)) };
        let alpha = _mm512_set1_ps(x.alpha);
        match x.c {
            // SAFETY: the caller's premise on `c`.
            Target::F32(c) if x.add => unsafe { store_f32::<ROWS, WIDTH, true>(&sums, alpha, c, x.ldc, x.n) },
            // SAFETY: as above.
            Target::F32(c) => unsafe { store_f32::<ROWS, WIDTH, false>(&sums, alpha, c, x.ldc, x.n) },
            Target::BF16(_) => {
                // Copied first, since sums that a loop reads stay in memory for the other types too.
                let mut lines = [[[0.0; 16]; WIDTH]; ROWS];
                for (lines, sums) in lines.iter_mut().zip(&sums) {
                    for (line, &sum) in lines.iter_mut().zip(sums) {
                        // SAFETY: `line` holds 16 numbers.
                        unsafe { _mm512_storeu_ps(line.as_mut_ptr(), sum) };
                    }
                }
                for (i, lines) in lines.iter().enumerate() {
                    for (v, line) in lines.iter().enumerate() {
                        let valid = x.n.saturating_sub(16 * v).min(16);
                        // SAFETY: the caller's premise on `c` for row `i` and the columns left of `n`.
                        unsafe { store(&line[..valid], x.c.add(i * x.ldc + 16 * v), x.alpha, x.add) };
                    }
                }
            }
        }
    }

    /// Stores the first `n` columns of a tile, or adds them.
    ///
    /// # Safety
    /// They may be written.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store_f32<const ROWS: usize, const WIDTH: usize, const ADD: bool>(
        sums: &[[__m512; WIDTH]; ROWS],
        alpha: __m512,
        c: *mut f32,
        ldc: usize,
        n: usize,
    ) {
        let mut masks = [0; WIDTH];
        for (v, mask) in masks.iter_mut().enumerate() {
            *mask = ((1u32 << n.saturating_sub(16 * v).min(16)) - 1) as __mmask16;
        }
        for (i, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                let at = c.wrapping_add(i * ldc + 16 * v);
                let y = _mm512_mul_ps(sum, alpha);
                // SAFETY: the mask keeps to the caller's premise.
                unsafe {
                    let y = if ADD { _mm512_add_ps(y, _mm512_maskz_loadu_ps(masks[v], at)) } else { y };
                    _mm512_mask_storeu_ps(at, masks[v], y);
                }
            }
        }
    }

    /// The sums of a tile of pairs, not scaled.
    ///
    /// # Safety
    /// That of [`TileFn`](super::TileFn) on `a` and `b`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(in crate::gemm) unsafe fn sums_of_pairs<const ROWS: usize, const WIDTH: usize>(
        k: usize,
        (mut a, stride, step): (*const u32, usize, usize),
        (mut ahead, further): (*const u32, usize),
        (mut b, line): (*const u32, usize),
    ) -> [[__m512; WIDTH]; ROWS] {
        let mut sums = [[_mm512_setzero_ps(); WIDTH]; ROWS];
        for _ in 0..k {
            // SAFETY: the caller's premise on `a` and `b` for this depth; types of 512 bits are made into each other.
            unsafe {
                let mut bs = [_mm512_setzero_si512(); WIDTH];
                for (v, b_v) in bs.iter_mut().enumerate() {
                    *b_v = _mm512_loadu_si512(b.add(16 * v).cast());
                }
                for (i, row) in sums.iter_mut().enumerate() {
                    let x: __m512bh = std::mem::transmute(_mm512_set1_epi32(*a.add(i * stride) as i32));
                    for (sum, &b_v) in row.iter_mut().zip(&bs) {
                        *sum = _mm512_dpbf16_ps(*sum, x, std::mem::transmute::<__m512i, __m512bh>(b_v));
                    }
                }
            }
            // A prefetch of any address is harmless.
            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
            ahead = ahead.wrapping_add(further);
            a = a.wrapping_add(step);
            b = b.wrapping_add(line);
        }
        sums
    }

    /// See [`TileFn`](super::TileFn). Numbers below the normal range count as zero.
    ///
    /// # Safety
    /// That of [`TileFn`](super::TileFn).
    #[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
    unsafe fn tile_of_pairs<const ROWS: usize, const WIDTH: usize>(x: &Operands<u32>) {
        prefetch(x.c, x.ldc, ROWS, WIDTH);
        // SAFETY: the caller's premise.
        let sums = unsafe { sums_of_pairs::<ROWS, WIDTH>(x.k, (x.a, x.row, x.step), x.ahead, (x.b, x.line)) };
        let alpha = _mm512_set1_ps(x.alpha);
        for (i, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                let valid = x.n.saturating_sub(16 * v).min(16);
                // SAFETY: the caller's premise on `c` for row `i` and the columns left of `n`.
                unsafe { store_any(x.c.add(i * x.ldc + 16 * v), valid, _mm512_mul_ps(sum, alpha), x.add) };
            }
        }
    }

    /// See [`CodesFn`].
    ///
    /// # Safety
    /// That of [`CodesFn`].
    #[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
    unsafe fn tile_of_codes<const ROWS: usize, const WIDTH: usize>(x: &Operands<u32>, scales: &Scales<'_>) {
        prefetch(x.c, x.ldc, ROWS, WIDTH);
        // All registers hold the sums of a segment, so totals lie in the L1 cache.
        let mut totals = [[_mm512_setzero_ps(); WIDTH]; ROWS];
        let mut at = 0;
        for (s, segment) in scales.segments.iter().enumerate() {
            // SAFETY: the caller's premise.
            unsafe {
                let a = x.a.wrapping_add(at * x.step);
                let b = (x.b.wrapping_add(at * x.line), x.line);
                let ahead = (x.ahead.0.wrapping_add(at * x.ahead.1), x.ahead.1);
                let sums = sums_of_pairs::<ROWS, WIDTH>(segment.words(), (a, x.row, x.step), ahead, b);
                let mut b_scale = [_mm512_setzero_ps(); WIDTH];
                for (v, b_scale) in b_scale.iter_mut().enumerate() {
                    *b_scale = _mm512_loadu_ps(scales.b.add(s * scales.b_pitch + 16 * v));
                }
                for (i, (totals, sums)) in totals.iter_mut().zip(&sums).enumerate() {
                    let a_scale = _mm512_set1_ps(*scales.a.add(s * scales.a_pitch + i));
                    for ((total, &sum), &b_scale) in totals.iter_mut().zip(sums).zip(&b_scale) {
                        // The scales' product could be too large or too small where the sum's with each is not.
                        *total = _mm512_fmadd_ps(_mm512_mul_ps(sum, a_scale), b_scale, *total);
                    }
                }
            }
            at += segment.words();
        }
        for (i, row) in totals.iter().enumerate() {
            for (v, &total) in row.iter().enumerate() {
                let valid = x.n.saturating_sub(16 * v).min(16);
                // SAFETY: the caller's premise on `c` for row `i` and the columns left of `n`.
                unsafe { store_any(x.c.add(i * x.ldc + 16 * v), valid, total, x.add) };
            }
        }
    }

    /// Stores `valid` numbers from `c` on, or adds them.
    ///
    /// # Safety
    /// `valid` numbers from `c` on may be written.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
    pub(in crate::gemm) unsafe fn store_any(c: Target, valid: usize, y: __m512, add: bool) {
        match c {
            // SAFETY: the caller's premise.
            Target::F32(c) => unsafe { store_line(c, valid, y, add) },
            Target::BF16(c) => {
                let (mask, at) = (((1u32 << valid) - 1) as __mmask16, c.cast());
                // SAFETY: the mask keeps to the caller's premise; types of 256 bits are made into each other.
                unsafe {
                    let old = _mm256_maskz_loadu_epi16(if add { mask } else { 0 }, at);
                    let old = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(old)));
                    let y = if add { _mm512_add_ps(y, old) } else { y };
                    let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(y));
                    _mm256_mask_storeu_epi16(at, mask, rounded);
                }
            }
        }
    }

    /// # Safety
    /// `valid` numbers from `c` on may be written.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store_line(c: *mut f32, valid: usize, mut y: __m512, add: bool) {
        let mask = ((1u32 << valid) - 1) as __mmask16;
        // SAFETY: the mask keeps to the caller's premise.
        unsafe {
            if add {
                y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, c));
            }
            _mm512_mask_storeu_ps(c, mask, y);
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use super::{Operands, Target, TileTable, moved, prefetch, store};
    use std::arch::x86_64::*;

    pub(in crate::gemm) static TABLE: TileTable<f32> = table!(tile: 1 2 3 4 5 6);

    /// Lines of `b` between the one that is multiplied and the one that is fetched.
    const AHEAD: usize = 12;

    /// See [`TileFn`](super::TileFn). Works on 16 columns at a time: 12 of 16 registers are sums.
    ///
    /// # Safety
    /// That of [`TileFn`](super::TileFn).
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile<const ROWS: usize, const WIDTH: usize>(x: &Operands<f32>) {
        let Operands { k, a, row: stride, step, b, line, c, ldc, n, alpha, add, .. } = *x;
        for half in 0..WIDTH {
            let c = c.add(16 * half);
            prefetch(c, ldc, ROWS, 1);
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            let (mut threes, mut b) = ([0, 3].map(|i| a.wrapping_add(i * stride)), b.wrapping_add(16 * half));
            for _ in 0..k {
                // A half is every other cache line, which the processor does not foresee. A prefetch of any address is
                // harmless.
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD * line).cast());
                // SAFETY: the caller's premise on `a` and `b` for this depth.
                unsafe {
                    let bs = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                    for (i, row) in sums.iter_mut().enumerate() {
                        let x = _mm256_set1_ps(*threes[i / 3].add(i % 3 * stride));
                        row[0] = _mm256_fmadd_ps(x, bs[0], row[0]);
                        row[1] = _mm256_fmadd_ps(x, bs[1], row[1]);
                    }
                }
                threes = threes.map(|a| moved(a, step));
                b = b.wrapping_add(line);
            }
            let valid = n.saturating_sub(16 * half).min(16);
            for (i, row) in sums.iter().enumerate() {
                // SAFETY: the caller's premise on `c` for row `i` and the columns left of `n`.
                unsafe { store_row(row, c.add(i * ldc), valid, alpha, add) };
            }
        }
    }

    /// `c (+)= α·row` for the first `valid` of 16 numbers.
    ///
    /// # Safety
    /// `valid` numbers from `c` on may be written.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn store_row(row: &[__m256; 2], c: Target, valid: usize, alpha: f32, add: bool) {
        if let (Target::F32(c), 16) = (c, valid) {
            for (v, &sum) in row.iter().enumerate() {
                let at = c.wrapping_add(8 * v);
                let y = _mm256_mul_ps(sum, _mm256_set1_ps(alpha));
                // SAFETY: 16 numbers from `c` on are the caller's to write.
                unsafe { _mm256_storeu_ps(at, if add { _mm256_add_ps(y, _mm256_loadu_ps(at)) } else { y }) };
            }
            return;
        }
        let mut line = [0.0f32; 16];
        // SAFETY: `line` holds 16 numbers; the rest is the caller's premise.
        unsafe {
            _mm256_storeu_ps(line.as_mut_ptr(), row[0]);
            _mm256_storeu_ps(line.as_mut_ptr().add(8), row[1]);
            if valid == 16 { store(&line, c, alpha, add) } else { store(&line[..valid], c, alpha, add) }
        }
    }
}

pub(super) mod any {
    use super::{NR, Operands, Scales, TileFn, Unit, store};

    /// [`TileTable`](super::TileTable) of tiles that any processor runs.
    pub(in crate::gemm) struct Tiles<W>(std::marker::PhantomData<W>);

    impl<W: Unit> Tiles<W> {
        pub(in crate::gemm) const TABLE: &'static [[TileFn<W>; 2]] = &[
            [tile::<W, 1, 1>, tile::<W, 1, 2>],
            [tile::<W, 2, 1>, tile::<W, 2, 2>],
            [tile::<W, 3, 1>, tile::<W, 3, 2>],
            [tile::<W, 4, 1>, tile::<W, 4, 2>],
        ];
    }

    /// See [`TileFn`]. Multiplies and adds without fusing: not every processor can.
    ///
    /// # Safety
    /// That of [`TileFn`].
    unsafe fn tile<W: Unit, const ROWS: usize, const WIDTH: usize>(x: &Operands<W>) {
        let Operands { k, a, row: stride, step, b, line, c, ldc, n, alpha, add, .. } = *x;
        for part in 0..4 * WIDTH {
            let mut sums = [[0.0f32; 4]; ROWS];
            for p in 0..k {
                for (i, row) in sums.iter_mut().enumerate() {
                    for (j, sum) in row.iter_mut().enumerate() {
                        // SAFETY: the caller's premise on `a` and `b`.
                        let (a, b) = unsafe { (*a.add(i * stride + p * step), *b.add(p * line + 4 * part + j)) };
                        *sum = a.multiply_add(b, *sum);
                    }
                }
            }
            let valid = n.saturating_sub(4 * part).min(4);
            for (i, row) in sums.iter().enumerate() {
                // SAFETY: the caller's premise on `c` for row `i` and the columns left of `n`.
                unsafe { store(&row[..valid], c.add(i * ldc + 4 * part), alpha, add) };
            }
        }
    }

    /// See [`CodesFn`](super::CodesFn): one row.
    ///
    /// # Safety
    /// That of [`CodesFn`](super::CodesFn).
    pub(super) unsafe fn tile_of_codes(x: &Operands<u32>, scales: &Scales<'_>) {
        let mut totals = [0.0f32; NR];
        for (j, total) in totals.iter_mut().enumerate() {
            let mut at = 0;
            for (s, segment) in scales.segments.iter().enumerate() {
                let mut sum = 0.0;
                for p in at..at + segment.words() {
                    // SAFETY: the caller's premise on `a` and `b`.
                    let (a, b) = unsafe { (*x.a.add(p * x.step), *x.b.add(p * x.line + j)) };
                    sum = a.multiply_add(b, sum);
                }
                at += segment.words();
                // SAFETY: the caller's premise on scales.
                *total += unsafe { sum * *scales.a.add(s * scales.a_pitch) * *scales.b.add(s * scales.b_pitch + j) };
            }
        }
        // SAFETY: the caller's premise on `c`.
        unsafe { store(&totals[..x.n], x.c, 1.0, x.add) };
    }
}

impl Target {
    /// `n` elements further.
    pub(super) fn add(self, n: usize) -> Self {
        match self {
            Self::F32(c) => Self::F32(c.wrapping_add(n)),
            Self::BF16(c) => Self::BF16(c.wrapping_add(n)),
        }
    }
}

/// `c (+)= α·line`. Inlined, so that it is compiled for the instructions of its callers.
///
/// # Safety
/// `line.len()` numbers from `c` on may be written.
#[inline(always)]
unsafe fn store(line: &[f32], c: Target, alpha: f32, add: bool) {
    /// # Safety
    /// That of [`store`].
    #[inline(always)]
    unsafe fn to<T: Real>(line: &[f32], c: *mut T, alpha: f32, add: bool) {
        // SAFETY: the caller's premise.
        let c = unsafe { std::slice::from_raw_parts_mut(c, line.len()) };
        if add {
            c.iter_mut().zip(line).for_each(|(c, &sum)| *c = T::store(sum * alpha + c.load()));
        } else {
            c.iter_mut().zip(line).for_each(|(c, &sum)| *c = T::store(sum * alpha));
        }
    }
    match c {
        // SAFETY: the caller's premise.
        Target::F32(c) => unsafe { to(line, c, alpha, add) },
        // SAFETY: the caller's premise.
        Target::BF16(c) => unsafe { to(line, c, alpha, add) },
    }
}
