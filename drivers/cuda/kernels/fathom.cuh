// The language of all kernel files: views of device memory, element types, and the operations of the machine under one
// set of names. `gpu.cuh` provides those on a GPU, `emulate.h` on a CPU, where every access is
// checked.
//
// Rules that make one source run on both, and that the emulator holds kernels to:
//  - Blocks have one dimension. A kernel takes one argument, a struct of plain data, the same as its `#[repr(C)]` twin
//    in Rust. `KERNEL(name, Args, threads)` begins it; `a` is the argument.
//  - Device memory is reached through `Row<T>` or `Span<T>`, shared memory through `Shared<T>`, by `get` and `set`.
//  - No thread leaves before the last `sync()` of its block, nor before the last exchange of its warp.
//  - A shuffle, vote or matrix instruction is executed by all 32 lanes of a warp.
//  - Hopper's operations (`hopper.cuh`) are there where `FATHOM_HOPPER` is defined: for sm_90a, and on the emulator. A
//    thread that wrote shared memory calls `fence_async()` before the barrier after which a bulk copy or a matrix
//    product of a warpgroup touches the same place. Shared memory starts on a multiple of 1024 bytes.
//  - No multiplication is fused with an addition unless `fma` says so: elementwise results have the bits of the core.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// Element types, numbered as `launch.rs` does.
enum DType : int { F32 = 0, BF16 = 1, F16 = 2, U32 = 3, E4M3 = 4, E5M2 = 5, E5M6Pair = 6 };

// A matrix in device memory: rows `stride` elements apart.
struct Mat {
    u64 data;
    i64 stride;
    int rows, cols, dtype, reserved;
};

// An error report of a kernel, which cannot return one; the first since the last flush is kept.
struct Report {
    u32 code, site, value, limit;
};
enum ReportCode : u32 { INDEX_OUT_OF_RANGE = 1, NON_FINITE = 2 };

// Sixteen bytes, the widest access.
struct alignas(16) Quad {
    u32 x, y, z, w;
};
struct alignas(8) Pair {
    u32 x, y;
};

// A barrier in shared memory. Threads arrive at it and bytes land on it; when none lacks, a phase ends and the next
// begins, numbered from 0 on. Hopper only, as all below.
struct alignas(8) Barrier {
    u64 state;
};
// A matrix in device memory as bulk copies of boxes see it, made by the host: an opaque argument of the kernel.
struct alignas(128) TensorMap {
    u64 words[16];
};
// A factor of a matrix product in shared memory: rows along the inner dimension, swizzled.
struct Tile {
    u64 descriptor;
};

#ifdef FATHOM_EMULATE
#include "emulate.h"
#else
#include "gpu.cuh"
#endif

// bfloat16 as it lies in memory.
struct bf16 {
    u16 bits;
};
// IEEE half precision as it lies in memory.
struct f16 {
    u16 bits;
};

FN float widen(float x) {
    return x;
}
FN float widen(bf16 x) {
    return as_float((u32)x.bits << 16);
}
FN float widen(f16 x) {
    u32 sign = (u32)(x.bits & 0x8000) << 16, magnitude = x.bits & 0x7fff;
    if (magnitude >= 0x7c00) return as_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    // The exponent is off by 112; a product with 2^112 sets it right, subnormal numbers included.
    float y = as_float(magnitude << 13) * as_float(239u << 23);
    return as_float(as_bits(y) | sign);
}

// Rounding to the type of the first argument: to nearest, ties to even.
FN void narrow(float& y, float x) {
    y = x;
}
FN void narrow(bf16& y, float x) {
    y.bits = to_bf16(x);
}
FN void narrow(f16& y, float x) {
    u32 b = as_bits(x), sign = b >> 16 & 0x8000, m = b & 0x7fffffff;
    if (m > 0x7f800000)
        y.bits = (u16)(sign | 0x7e00 | (m >> 13 & 0x3ff));
    else if (m >= 0x477ff000)  // 65520 and above
        y.bits = (u16)(sign | 0x7c00);
    else if (m < 0x38800000) {  // below 2^-14: units of 2^-24, rounded by adding and taking away 2^23
        float units = as_float(m) * 16777216.0f;
        units = (units + 8388608.0f) - 8388608.0f;
        y.bits = (u16)(sign | (u32)units);
    } else
        y.bits = (u16)(sign | ((m - 0x38000000 + 0xfff + (m >> 13 & 1)) >> 13));
}
template <class T>
FN T rounded(float x) {
    T y;
    narrow(y, x);
    return y;
}

// Part of device memory that a kernel may touch: elements 0 to `count`.
template <class T>
FN Span<T> span(u64 address, i64 count) {
    return Span<T>(address, count);
}

// Row `r` of a matrix whose elements are `T`.
template <class T>
FN Span<T> row(const Mat& m, int r) {
    check_row(r, m.rows);
    return Span<T>(m.data + (u64)(r * m.stride) * sizeof(T), m.cols);
}

// All of a matrix whose rows may have gaps, by place `r * stride + c`.
template <class T>
FN Span<T> whole(const Mat& m) {
    i64 count = m.rows == 0 || m.cols == 0 ? 0 : (m.rows - 1) * m.stride + m.cols;
    return Span<T>(m.data, count);
}

// One element of a matrix of any floating-point type (or indices), as f32.
FN float load(const Mat& m, int r, int c) {
    switch (m.dtype) {
        case BF16: return widen(row<bf16>(m, r).get(c));
        case F16: return widen(row<f16>(m, r).get(c));
        case U32: return (float)row<u32>(m, r).get(c);
        default: return row<float>(m, r).get(c);
    }
}
FN void store(const Mat& m, int r, int c, float x) {
    switch (m.dtype) {
        case BF16: row<bf16>(m, r).set(c, rounded<bf16>(x)); break;
        case F16: row<f16>(m, r).set(c, rounded<f16>(x)); break;
        case U32: row<u32>(m, r).set(c, (u32)x); break;
        default: row<float>(m, r).set(c, x);
    }
}

// Eight elements next to each other as they lie in memory, sixteen bytes a piece.
template <class T>
struct Eight {
    Quad q[sizeof(T) / 2];
};
// Those from place `i` on, which must be aligned to sixteen bytes.
template <class T>
FN Eight<T> fetch_eight(Span<T> s, i64 i) {
    Eight<T> e;
#pragma unroll
    for (int k = 0; k < (int)sizeof(T) / 2; k++) e.q[k] = s.quad(i + k * (i64)(16 / sizeof(T)));
    return e;
}
FN void widen_eight(const Eight<float>& e, float (&v)[8]) {
#pragma unroll
    for (int k = 0; k < 2; k++) {
        v[4 * k] = as_float(e.q[k].x);
        v[4 * k + 1] = as_float(e.q[k].y);
        v[4 * k + 2] = as_float(e.q[k].z);
        v[4 * k + 3] = as_float(e.q[k].w);
    }
}
template <class T>
FN void widen_eight(const Eight<T>& e, float (&v)[8]) {
    const u32 words[4] = {e.q[0].x, e.q[0].y, e.q[0].z, e.q[0].w};
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = widen(T{(u16)(words[k / 2] >> 16 * (k % 2))});
}
FN void set_eight(Span<float> s, i64 i, const float (&v)[8]) {
    s.set_quad(i, Quad{as_bits(v[0]), as_bits(v[1]), as_bits(v[2]), as_bits(v[3])});
    s.set_quad(i + 4, Quad{as_bits(v[4]), as_bits(v[5]), as_bits(v[6]), as_bits(v[7])});
}
FN void set_eight(Span<bf16> s, i64 i, const float (&v)[8]) {
    s.set_quad(i, Quad{pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])});
}
FN void set_eight(Span<f16> s, i64 i, const float (&v)[8]) {
    u32 words[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        words[k] = (u32)rounded<f16>(v[2 * k]).bits | (u32)rounded<f16>(v[2 * k + 1]).bits << 16;
    }
    s.set_quad(i, Quad{words[0], words[1], words[2], words[3]});
}
// Eight elements of row `r` from column `c`, a multiple of eight, on; 0 past the row's end. `wide` says that rows start
// on a multiple of sixteen bytes.
template <class T>
FN void load_eight(const Mat& m, int r, int c, bool wide, float (&v)[8]) {
    Span<T> s = row<T>(m, r);
    if (wide && m.cols - c >= 8)
        widen_eight(fetch_eight(s, c), v);
    else {
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = k < m.cols - c ? widen(s.get(c + k)) : 0.0f;
    }
}
template <class T>
FN void store_eight(const Mat& m, int r, int c, bool wide, const float (&v)[8]) {
    Span<T> s = row<T>(m, r);
    if (wide && m.cols - c >= 8)
        set_eight(s, c, v);
    else {
#pragma unroll
        for (int k = 0; k < 8; k++)
            if (k < m.cols - c) s.set(c + k, rounded<T>(v[k]));
    }
}
// The same for a matrix of any floating-point type.
FN void load_eight(const Mat& m, int r, int c, bool wide, float (&v)[8]) {
    switch (m.dtype) {
        case BF16: load_eight<bf16>(m, r, c, wide, v); break;
        case F16: load_eight<f16>(m, r, c, wide, v); break;
        default: load_eight<float>(m, r, c, wide, v);
    }
}
FN void store_eight(const Mat& m, int r, int c, bool wide, const float (&v)[8]) {
    switch (m.dtype) {
        case BF16: store_eight<bf16>(m, r, c, wide, v); break;
        case F16: store_eight<f16>(m, r, c, wide, v); break;
        default: store_eight<float>(m, r, c, wide, v);
    }
}
// Row `r` and first column `c` of eight elements number `i` of a matrix, rows after rows; false past its end.
FN bool eighth(const Mat& m, u32 i, int& r, int& c) {
    if (m.rows == 0 || m.cols == 0) return false;
    u32 per_row = (u32)(m.cols - 1) / 8 + 1, row = m.rows == 1 ? 0 : i / per_row, at = i - row * per_row;
    r = (int)row;
    c = (int)at * 8;
    return row < (u32)m.rows && at < per_row;
}

// How kernels go through rows: eight neighbours at a time, as f32. `Wide` in accesses of sixteen bytes, where rows
// start on such and hold whole eights; `Any` one by one whatever the type, with zeros past the end. What a kernel sums
// has the same order, and so the same bits, over either.
template <class T>
struct Wide {
    // Whether every eight is whole.
    static constexpr bool whole = true;
    Span<T> s;
    FN Wide(const Mat& m, int r) : s(row<T>(m, r)) {}
    FN void get(int c, float (&x)[8]) const {
        widen_eight(fetch_eight(s, c), x);
    }
    FN void set(int c, const float (&x)[8]) const {
        set_eight(s, c, x);
    }
};
struct Any {
    static constexpr bool whole = false;
    const Mat& m;
    int r;
    FN Any(const Mat& m, int r) : m(m), r(r) {}
    FN void get(int c, float (&x)[8]) const {
        for (int i = 0; i < 8; i++) x[i] = c + i < m.cols ? load(m, r, c + i) : 0.0f;
    }
    FN void set(int c, const float (&x)[8]) const {
        for (int i = 0; i < 8; i++)
            if (c + i < m.cols) store(m, r, c + i, x[i]);
    }
};

// Shared memory, handed out piece by piece; what a launch asks for must cover the sum.
struct Carve {
    u32 at = 0;
    template <class T>
    FN Shared<T> take(u32 count) {
        at = (at + 15) / 16 * 16;
        Shared<T> s(at, count);
        at += count * (u32)sizeof(T);
        return s;
    }
};

FN void report(u64 record, u32 code, u32 site, u32 value, u32 limit) {
    if (claim(record)) publish(record, code, site, value, limit);
}

// Whether `index` is below `limit`; reports it where not.
FN bool in_range(u64 record, u32 site, u32 index, u32 limit) {
    if (index < limit) return true;
    report(record, INDEX_OUT_OF_RANGE, site, index, limit);
    return false;
}

FN bool is_finite(float x) {
    return (as_bits(x) & 0x7f800000) != 0x7f800000;
}
FN bool is_nan(float x) {
    return (as_bits(x) & 0x7fffffff) > 0x7f800000;
}
FN float infinity() {
    return as_float(0x7f800000);
}
// Larger for larger numbers, the same for both zeros; 0 for NaN, which is larger than nothing.
FN u32 order(float x) {
    if (is_nan(x)) return 0;
    u32 b = as_bits(x + 0.0f);
    return b & 0x80000000 ? ~b : b | 0x80000000;
}
FN int min_of(int a, int b) {
    return a < b ? a : b;
}
FN int max_of(int a, int b) {
    return a > b ? a : b;
}
FN int ceil_div(int a, int b) {
    return (a + b - 1) / b;
}

// `e^x` with the bits of `fathom_core::math::exp`: see there.
FN float exact_exp(float x) {
    if (is_nan(x)) return x;
    if (x > 88.72284f) return infinity();
    if (x < -87.33654f) return 0.0f;
    const float magic = 12582912.0f;
    float n = (x * 1.4426950408889634f + magic) - magic;
    float r = (x - n * 0.6933594f) - n * -2.1219444e-4f;
    float p = 1.9875691e-4f;
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.333452e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666666e-1f;
    p = p * r + 0.5f;
    float y = (p * (r * r) + r) + 1.0f;
    int e = (int)n, half = e >> 1;
    return y * as_float((u32)(half + 127) << 23) * as_float((u32)(e - half + 127) << 23);
}
FN float exact_sigmoid(float x) {
    return 1.0f / (1.0f + exact_exp(-x));
}

// The sum over a warp, in every lane; the same tree for every call.
FN float warp_sum(float x) {
    for (int d = 16; d > 0; d /= 2) x += shuffle_xor(x, d);
    return x;
}
FN float warp_max(float x) {
    for (int d = 16; d > 0; d /= 2) {
        float y = shuffle_xor(x, d);
        x = y > x ? y : x;
    }
    return x;
}
// The sum over a block of whole warps, in every thread; `scratch` holds 32 numbers and is free again afterwards.
FN float block_sum(float x, Shared<float> scratch) {
    x = warp_sum(x);
    if (lane() == 0) scratch.set(warp(), x);
    sync();
    float total = 0.0f;
    for (int i = 0; i < threads() / 32; i++) total += scratch.get(i);
    sync();
    return total;
}
FN float block_max(float x, Shared<float> scratch) {
    x = warp_max(x);
    if (lane() == 0) scratch.set(warp(), x);
    sync();
    float most = scratch.get(0);
    for (int i = 1; i < threads() / 32; i++) most = scratch.get(i) > most ? scratch.get(i) : most;
    sync();
    return most;
}
