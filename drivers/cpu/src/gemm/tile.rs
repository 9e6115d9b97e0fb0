//! The innermost tile of a matrix product: up to `ROWS × 32` sums held in registers.
//!
//! `c[i, j] (+)= α·Σ_k a[i, k]·b[k, j]` with `b` packed 32 columns wide. Each sum is one chain over `k` in rising order,
//! whatever the tile's size, so an element's bits depend on its own row and column only.

/// Columns of a packed panel of `b`.
pub(crate) const NR: usize = 32;

/// What one tile multiplies: its rows of the left factor, a packed panel of the right one, and where the result goes.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// Depth.
    pub k: usize,
    /// Row `i`, depth `p` of the left factor at `a + i·row + p·step`.
    pub a: *const f32,
    pub row: usize,
    pub step: usize,
    /// `k` lines of [`NR`] numbers.
    pub b: *const f32,
    /// Row `i`, column `j` of the result at `c + i·ldc + j`.
    pub c: *mut f32,
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
pub(super) type TileFn = unsafe fn(&Operands);

/// Tiles of 1, 2, … rows, as many as registers hold, and for each a narrow one (at most 16 columns) and a wide one.
pub(super) type TileTable = &'static [[TileFn; 2]];

macro_rules! table {
    ($f:ident: $($rows:literal)*) => { &[$([$f::<$rows, 1>, $f::<$rows, 2>]),*] };
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use super::{NR, Operands, TileTable};
    use std::arch::x86_64::*;

    pub(in crate::gemm) static TABLE: TileTable = table!(tile: 1 2 3 4 5 6 7 8 9 10 11 12);

    /// See [`TileFn`](super::TileFn). `ROWS × 16·WIDTH`: 24 of 32 registers are sums.
    ///
    /// # Safety
    /// That of [`TileFn`](super::TileFn).
    #[target_feature(enable = "avx512f")]
    unsafe fn tile<const ROWS: usize, const WIDTH: usize>(x: &Operands) {
        let Operands { k, mut a, row: stride, step, mut b, c, ldc, n, alpha, add } = *x;
        let mut sums = [[_mm512_setzero_ps(); WIDTH]; ROWS];
        for i in 0..ROWS {
            for v in 0..WIDTH {
                // Fetches what is written last while the sums are made. A prefetch of any address is harmless.
                _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(i * ldc + 16 * v).cast());
            }
        }
        for _ in 0..k {
            // SAFETY: the caller's premise on `a` and `b` for this depth.
            unsafe {
                let mut bs = [_mm512_setzero_ps(); WIDTH];
                for (v, b_v) in bs.iter_mut().enumerate() {
                    *b_v = _mm512_loadu_ps(b.add(16 * v));
                }
                for (i, row) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*a.add(i * stride));
                    for (sum, &b_v) in row.iter_mut().zip(&bs) {
                        *sum = _mm512_fmadd_ps(x, b_v, *sum);
                    }
                }
            }
            a = a.wrapping_add(step);
            b = b.wrapping_add(NR);
        }
        let alpha = _mm512_set1_ps(alpha);
        for (i, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                let valid = n.saturating_sub(16 * v).min(16);
                let mask = ((1u32 << valid) - 1) as __mmask16;
                let at = c.wrapping_add(i * ldc + 16 * v);
                let mut y = _mm512_mul_ps(sum, alpha);
                // SAFETY: the mask keeps to the `n` columns of row `i` that the caller's premise gives.
                unsafe {
                    if add {
                        y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, at));
                    }
                    _mm512_mask_storeu_ps(at, mask, y);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use super::{NR, Operands, TileTable, store};
    use std::arch::x86_64::*;

    pub(in crate::gemm) static TABLE: TileTable = table!(tile: 1 2 3 4 5 6);

    /// See [`TileFn`](super::TileFn). Works on 16 columns at a time: 12 of 16 registers are sums.
    ///
    /// # Safety
    /// That of [`TileFn`](super::TileFn).
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile<const ROWS: usize, const WIDTH: usize>(x: &Operands) {
        let Operands { k, a, row: stride, step, b, c, ldc, n, alpha, add } = *x;
        for half in 0..WIDTH {
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            let (mut a, mut b) = (a, b.wrapping_add(16 * half));
            for _ in 0..k {
                // SAFETY: the caller's premise on `a` and `b` for this depth.
                unsafe {
                    let bs = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                    for (i, row) in sums.iter_mut().enumerate() {
                        let x = _mm256_set1_ps(*a.add(i * stride));
                        row[0] = _mm256_fmadd_ps(x, bs[0], row[0]);
                        row[1] = _mm256_fmadd_ps(x, bs[1], row[1]);
                    }
                }
                a = a.wrapping_add(step);
                b = b.wrapping_add(NR);
            }
            for (i, row) in sums.iter().enumerate() {
                let mut line = [0.0f32; 16];
                // SAFETY: `line` holds 16 numbers.
                unsafe {
                    _mm256_storeu_ps(line.as_mut_ptr(), row[0]);
                    _mm256_storeu_ps(line.as_mut_ptr().add(8), row[1]);
                }
                let valid = n.saturating_sub(16 * half).min(16);
                // SAFETY: the caller's premise on `c` for row `i` and the columns left of `n`.
                unsafe { store(&line[..valid], c.wrapping_add(i * ldc + 16 * half), alpha, add) };
            }
        }
    }
}

pub(super) mod any {
    use super::{NR, Operands, TileTable, store};

    pub(in crate::gemm) static TABLE: TileTable = table!(tile: 1 2 3 4);

    /// See [`TileFn`](super::TileFn). Multiplies and adds without fusing: not every processor can.
    ///
    /// # Safety
    /// That of [`TileFn`](super::TileFn).
    unsafe fn tile<const ROWS: usize, const WIDTH: usize>(x: &Operands) {
        let Operands { k, a, row: stride, step, b, c, ldc, n, alpha, add } = *x;
        for part in 0..4 * WIDTH {
            let mut sums = [[0.0f32; 4]; ROWS];
            for p in 0..k {
                for (i, row) in sums.iter_mut().enumerate() {
                    for (j, sum) in row.iter_mut().enumerate() {
                        // SAFETY: the caller's premise on `a` and `b`.
                        unsafe { *sum += *a.add(i * stride + p * step) * *b.add(p * NR + 4 * part + j) };
                    }
                }
            }
            let valid = n.saturating_sub(4 * part).min(4);
            for (i, row) in sums.iter().enumerate() {
                // SAFETY: the caller's premise on `c` for row `i` and the columns left of `n`.
                unsafe { store(&row[..valid], c.wrapping_add(i * ldc + 4 * part), alpha, add) };
            }
        }
    }
}

/// `c (+)= α·line`.
///
/// # Safety
/// `line.len()` numbers from `c` on may be written.
unsafe fn store(line: &[f32], c: *mut f32, alpha: f32, add: bool) {
    for (j, &sum) in line.iter().enumerate() {
        // SAFETY: the caller's premise.
        unsafe {
            let at = c.add(j);
            let old = if add { *at } else { 0.0 };
            *at = if add { sum * alpha + old } else { sum * alpha };
        }
    }
}
