//! Tiles of pairs in the registers of AMX: up to 32 × 32 sums in four, with two for the rows of each factor.
//!
//! Sixteen words of depth are multiplied at once. The processor adds the products of the first numbers of all sixteen
//! pairs and those of the second, fused and in order, then both to the sum; numbers below the normal range count as
//! zero. So an element's bits depend on its own row and column only, as with other tiles.

use std::arch::asm;
use std::mem::MaybeUninit;

use super::avx512::store_any;
use super::{CodesFn, NR, Operands, Scales, Target, TileFn, TileTable, prefetch};
use crate::amx::{SIDE, Tiles};
use std::arch::x86_64::*;

/// Rows of a tile.
const ROWS: usize = 2 * SIDE;

pub(in crate::gemm) static PAIRS: TileTable<u32> = &[[tile as TileFn<u32>; 2]; ROWS];

pub(in crate::gemm) static CODES: &[[CodesFn; 2]] = &[[tile_of_codes as CodesFn; 2]; ROWS];

/// Words of depth of which rows are copied at once, where a register would read past the last.
const COPIED: usize = 256;
/// Words from row to row of the copy: an odd number of cache lines.
const PITCH: usize = COPIED + SIDE;

/// A tile of f32.
#[repr(align(64))]
struct Sums([[f32; NR]; ROWS]);

/// The last words of depth where they do not fill a register, with zeros after them.
#[repr(C, align(64))]
struct Rest {
    a: [[u32; SIDE]; ROWS],
    b: [[u32; NR]; SIDE],
}

// Where assembly finds them.
const _: () = assert!(std::mem::offset_of!(Rest, b) == 2048 && size_of::<[[u32; SIDE]; SIDE]>() == 1024);

/// Rows where a register would read past the last.
#[repr(align(64))]
struct Copy([[u32; PITCH]; ROWS]);

/// The sums of a tile over `n` times sixteen words of depth and those of `rest`, if there is one, as a block of
/// assembly: the registers' contents are nobody's between two blocks. `$tall` and `$wide` are what more than sixteen
/// rows and columns take.
macro_rules! sums {
    ($x:expr, tall: {$($zero_t:literal $load_t:literal $a_t:literal $dot_t:literal $store_t:literal)?},
        wide: {$($zero_w:literal $load_w:literal $b_w:literal $dot_w:literal $store_w:literal)?},
        both: {$($zero_b:literal $load_b:literal $dot_b:literal $store_b:literal)?}) => {{
        let Walk { n, a, a_pitch, b, b_pitch, rest, sums, sums_pitch, first } = $x;
        asm!(
            "/* {c_low}, which short tiles leave alone */",
            "test {first}, {first}",
            "jz 3f",
            "tilezero tmm0",
            $($zero_t,)? $($zero_w,)? $($zero_b,)?
            "jmp 4f",
            "3:",
            "tileloadd tmm0, [{c} + {c_pitch}*1]",
            $($load_t,)? $($load_w,)? $($load_b,)?
            "4:",
            "test {n}, {n}",
            "jz 5f",
            "2:",
            "tileloadd tmm4, [{a} + {a_pitch}*1]",
            "tileloadd tmm6, [{b} + {b_pitch}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            $($b_w, $dot_w,)?
            $($a_t, $dot_t,)?
            $($dot_b,)?
            "add {a}, 64",
            "add {a_low}, 64",
            "add {b}, {b_step}",
            "dec {n}",
            "jnz 2b",
            "5:",
            // The rest is once more the same, from other places.
            "test {rest}, {rest}",
            "jz 6f",
            "mov {a}, {rest}",
            "lea {a_low}, [{rest} + 1024]",
            "lea {b}, [{rest} + 2048]",
            "mov {a_pitch}, 64",
            "mov {b_pitch}, 128",
            "xor {rest:e}, {rest:e}",
            "mov {n:e}, 1",
            "jmp 2b",
            "6:",
            "tilestored [{c} + {c_pitch}*1], tmm0",
            $($store_t,)? $($store_w,)? $($store_b,)?
            first = in(reg) u64::from(first),
            n = inout(reg) n => _,
            a = inout(reg) a => _,
            a_low = inout(reg) a.wrapping_byte_add(SIDE * a_pitch) => _,
            a_pitch = inout(reg) a_pitch => _,
            b = inout(reg) b => _,
            b_pitch = inout(reg) b_pitch => _,
            b_step = in(reg) SIDE * b_pitch,
            rest = inout(reg) rest => _,
            c = in(reg) sums,
            c_low = in(reg) sums.wrapping_byte_add(SIDE * sums_pitch),
            c_pitch = in(reg) sums_pitch,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }};
}

/// What a block of assembly goes over. Distances are in bytes.
#[derive(Clone, Copy)]
struct Walk {
    /// Times sixteen words.
    n: usize,
    a: *const u32,
    a_pitch: usize,
    b: *const u32,
    b_pitch: usize,
    /// Null if there is none.
    rest: *const Rest,
    sums: *mut f32,
    sums_pitch: usize,
    /// Begin with zeros, not with what `sums` holds.
    first: bool,
}

impl Walk {
    /// # Safety
    /// This thread holds [`Tiles`]. Sixteen rows of both factors can be read, or 32 of `a` if `tall`, and sixteen
    /// columns of `b`, or 32 if `wide`; whole tiles of `rest`, if there is one, and as much of `sums` be written.
    #[inline]
    unsafe fn run(self, tall: bool, wide: bool) {
        // SAFETY: the caller's premise.
        unsafe {
            match (tall, wide) {
                (true, true) => sums!(self,
                    tall: {"tilezero tmm2" "tileloadd tmm2, [{c_low} + {c_pitch}*1]"
                        "tileloadd tmm5, [{a_low} + {a_pitch}*1]" "tdpbf16ps tmm2, tmm5, tmm6"
                        "tilestored [{c_low} + {c_pitch}*1], tmm2"},
                    wide: {"tilezero tmm1" "tileloadd tmm1, [{c} + {c_pitch}*1 + 64]"
                        "tileloadd tmm7, [{b} + {b_pitch}*1 + 64]" "tdpbf16ps tmm1, tmm4, tmm7"
                        "tilestored [{c} + {c_pitch}*1 + 64], tmm1"},
                    both: {"tilezero tmm3" "tileloadd tmm3, [{c_low} + {c_pitch}*1 + 64]"
                        "tdpbf16ps tmm3, tmm5, tmm7" "tilestored [{c_low} + {c_pitch}*1 + 64], tmm3"}),
                (true, false) => sums!(self,
                    tall: {"tilezero tmm2" "tileloadd tmm2, [{c_low} + {c_pitch}*1]"
                        "tileloadd tmm5, [{a_low} + {a_pitch}*1]" "tdpbf16ps tmm2, tmm5, tmm6"
                        "tilestored [{c_low} + {c_pitch}*1], tmm2"},
                    wide: {}, both: {}),
                (false, true) => sums!(self,
                    tall: {},
                    wide: {"tilezero tmm1" "tileloadd tmm1, [{c} + {c_pitch}*1 + 64]"
                        "tileloadd tmm7, [{b} + {b_pitch}*1 + 64]" "tdpbf16ps tmm1, tmm4, tmm7"
                        "tilestored [{c} + {c_pitch}*1 + 64], tmm1"},
                    both: {}),
                (false, false) => sums!(self, tall: {}, wide: {}, both: {}),
            }
        }
    }
}

/// Rows that registers read before those of the tile, so that they need not read past its last: as many as the tile
/// lacks, if there are such.
#[inline]
fn skipped(x: &Operands<u32>) -> usize {
    let lacking = x.rows.next_multiple_of(SIDE) - x.rows;
    if lacking <= x.before { lacking } else { 0 }
}

/// The sums of words `at..at + words` of a tile, not scaled, in rows `to.1` apart, after those of [`skipped`]
/// rows.
///
/// # Safety
/// That of [`TileFn`] on `a` and `b`, and this thread holds [`Tiles`]. Sixteen rows and columns of sums
/// can be written, or 32 where the tile has more than sixteen.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn sums(x: &Operands<u32>, at: usize, words: usize, to: (*mut f32, usize)) {
    let skipped = skipped(x);
    let (a, b) = (x.a.wrapping_sub(skipped * x.row).wrapping_add(at), x.b.wrapping_add(at * x.line));
    let (rows, tall, wide) = (skipped + x.rows, x.rows > SIDE, x.n > SIDE);
    let (n, left) = (words / SIDE, words % SIDE);
    let mut rest = MaybeUninit::<Rest>::uninit();
    let rest = if left > 0 {
        let rest = rest.as_mut_ptr();
        let (a, b) = (a.wrapping_add(n * SIDE), b.wrapping_add(n * SIDE * x.line));
        let mask = ((1u32 << left) - 1) as __mmask16;
        // SAFETY: the caller's premise on the tile's rows and those before, and on lines of 16 or 32 words, to which
        // masks keep; a row of `Rest` is one register, or two.
        unsafe {
            for i in 0..rows {
                let words = _mm512_maskz_loadu_epi32(mask, a.wrapping_add(i * x.row).cast());
                _mm512_store_si512((&raw mut (*rest).a[i]).cast(), words);
            }
            for p in 0..SIDE {
                for v in 0..if wide { 2 } else { 1 } {
                    let mask = if p < left { u16::MAX } else { 0 };
                    let words = _mm512_maskz_loadu_epi32(mask, b.wrapping_add(p * x.line + SIDE * v).cast());
                    _mm512_store_si512((&raw mut (*rest).b[p][SIDE * v]).cast(), words);
                }
            }
        }
        rest.cast_const()
    } else {
        std::ptr::null()
    };
    let b_pitch = x.line * size_of::<u32>();
    let walk = Walk {
        n,
        a,
        a_pitch: x.row * size_of::<u32>(),
        b,
        b_pitch,
        rest,
        sums: to.0,
        sums_pitch: to.1 * size_of::<f32>(),
        first: true,
    };
    if rows.is_multiple_of(SIDE) {
        // SAFETY: the caller's premise; registers are full.
        return unsafe { walk.run(tall, wide) };
    }
    let mut copy = MaybeUninit::<Copy>::uninit();
    // SAFETY: the place of a field, which is in its struct.
    let copy: *mut u32 = unsafe { (&raw mut (*copy.as_mut_ptr()).0).cast() };
    let mut from = 0;
    loop {
        let words = COPIED.min(n * SIDE - from);
        for i in 0..rows {
            let row = a.wrapping_add(i * x.row + from);
            // SAFETY: the caller's premise on the tile's rows; a row of the copy is longer.
            unsafe { row.copy_to_nonoverlapping(copy.wrapping_add(i * PITCH), words) };
        }
        let last = from + words == n * SIDE;
        let part = Walk {
            n: words / SIDE,
            a: copy,
            a_pitch: PITCH * size_of::<u32>(),
            b: b.wrapping_add(from * x.line),
            rest: if last { rest } else { std::ptr::null() },
            first: from == 0,
            ..walk
        };
        // SAFETY: the caller's premise. The copy has 32 rows: those past the tile's hold whatever they hold, of which
        // rows of sums are made that nobody reads.
        unsafe { part.run(tall, wide) };
        if last {
            return;
        }
        from += words;
    }
}

/// See [`TileFn`].
///
/// # Safety
/// That of [`TileFn`].
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
unsafe fn tile(x: &Operands<u32>) {
    check(x);
    prefetch(x.c, x.ldc, x.rows, x.n.div_ceil(SIDE));
    if let (Target::F32(c), ROWS, NR, 1.0, false) = (x.c, x.rows, x.n, x.alpha, x.add) {
        // SAFETY: the caller's premise; the whole tile lies in the result.
        return unsafe { sums(x, 0, x.k, (c, x.ldc)) };
    }
    let mut made = MaybeUninit::<Sums>::uninit();
    let made: *mut f32 = made.as_mut_ptr().cast();
    // SAFETY: the caller's premise; the sums of the tile's rows and columns are made before they are read, those of
    // others by nobody.
    unsafe {
        sums(x, 0, x.k, (made, NR));
        let (made, alpha) = (made.add(skipped(x) * NR), _mm512_set1_ps(x.alpha));
        match x.c {
            Target::BF16(c) if x.n == NR && !x.add => {
                for i in 0..x.rows {
                    let [low, high] = [0, 1].map(|v| _mm512_mul_ps(_mm512_load_ps(at(made, i, v)), alpha));
                    let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                    _mm512_storeu_si512(c.add(i * x.ldc).cast(), both);
                }
            }
            _ => for_lines(x, |i, v, c, valid| {
                store_any(c, valid, _mm512_mul_ps(_mm512_load_ps(at(made, i, v)), alpha), x.add);
            }),
        }
    }
}

/// See [`CodesFn`].
///
/// # Safety
/// That of [`CodesFn`].
#[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
unsafe fn tile_of_codes(x: &Operands<u32>, scales: &Scales<'_>) {
    prefetch(x.c, x.ldc, x.rows, x.n.div_ceil(SIDE));
    check(x);
    let mut made = MaybeUninit::<Sums>::uninit();
    let made: *mut f32 = made.as_mut_ptr().cast();
    let mut totals = Sums([[0.0; NR]; ROWS]);
    let totals: *mut f32 = totals.0.as_mut_ptr().cast();
    let mut from = 0;
    for (s, segment) in scales.segments.iter().enumerate() {
        // SAFETY: the caller's premise; the sums of the tile's rows and columns are made before they are read.
        unsafe {
            sums(x, from, segment.words(), (made, NR));
            let columns = scales.b.add(s * scales.b_pitch);
            let b_scales = [_mm512_loadu_ps(columns), _mm512_loadu_ps(columns.add(SIDE))];
            for i in 0..x.rows {
                let a_scale = _mm512_set1_ps(*scales.a.add(s * scales.a_pitch + i));
                for (v, &b_scale) in b_scales.iter().enumerate().take(x.n.div_ceil(SIDE)) {
                    // The scales' product could be too large or too small where the sum's with each is not.
                    let scaled = _mm512_mul_ps(_mm512_load_ps(at(made, skipped(x) + i, v)), a_scale);
                    let total = at(totals, i, v);
                    _mm512_store_ps(total, _mm512_fmadd_ps(scaled, b_scale, _mm512_load_ps(total)));
                }
            }
        }
        from += segment.words();
    }
    // SAFETY: the caller's premise.
    unsafe { for_lines(x, |i, v, c, valid| store_any(c, valid, _mm512_load_ps(at(totals, i, v)), x.add)) };
}

/// Checks what [`Operands`] leaves open, and AMX needs.
#[inline]
fn check(x: &Operands<u32>) {
    assert!(x.step == 1 && x.rows <= ROWS && Tiles::are_held(), "rows that tile registers can read");
}

/// Sixteen numbers of row `i` of [`Sums`].
#[inline(always)]
fn at(sums: *mut f32, i: usize, v: usize) -> *mut f32 {
    sums.wrapping_add(i * NR + SIDE * v)
}

/// `f(i, v, place, valid)` for all lines of a tile: part `v` of row `i`, of which `valid` numbers are in the result.
#[inline(always)]
fn for_lines(x: &Operands<u32>, f: impl Fn(usize, usize, Target, usize)) {
    for i in 0..x.rows {
        for v in 0..x.n.div_ceil(SIDE) {
            f(i, v, x.c.add(i * x.ldc + SIDE * v), (x.n - SIDE * v).min(SIDE));
        }
    }
}
