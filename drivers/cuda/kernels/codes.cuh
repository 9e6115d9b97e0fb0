// FP8 codes and their scales, with the bits of `fathom_core::fp8`: what quantization, the cache of latents and products
// with weights of codes share.
#pragma once
#include "fathom.cuh"

constexpr int TILE = 128;

// Which elements share a scale: `Tiles` of the core.
enum TilesKind : int { ROWS = 0, COLUMNS = 1, GROUPS = 2, BLOCKS = 3 };
struct Tiles {
    u64 offsets;
    int kind, part, per_part, groups;  // per_part: tiles of a part
    int across, reserved;              // 1×128 tiles of a row; at least one
};

// ---- codes

FN float power_of_two(int e) {
    return as_float((u32)(e + 127) << 23);
}

// The nearest code of a format of five or four exponent bits: see `Code::encode_finite`.
template <int exponent_bits, int mantissa>
FN u32 encode_as(float x, float largest) {
    constexpr int bias = (1 << (exponent_bits - 1)) - 1;
    u32 sign = as_bits(x) >> 31 << (exponent_bits + mantissa);
    float m = as_float(as_bits(x) & 0x7fffffff);
    m = m < largest ? m : largest;
    // The exponent of the binade that m lies in, no lower than that of the subnormal numbers.
    int exponent = max_of((int)(as_bits(m) >> 23) - 127, 1 - bias);
    // In units of the last place; adding and taking away 2^23 rounds to even.
    float units = m * power_of_two(mantissa - exponent);
    units = (units + 8388608.0f) - 8388608.0f;
    // A mantissa that was rounded up to the next binade carries into the exponent by itself.
    return sign | (((u32)(exponent + bias - 1) << mantissa) + (u32)units);
}
FN float largest_of(int dtype) {
    return dtype == E4M3 ? 448.0f : dtype == E5M2 ? 57344.0f : 65024.0f;
}
FN u32 encode_one(int dtype, float x) {
    if (dtype == E4M3) return encode_as<4, 3>(x, 448.0f);
    if (dtype == E5M2) return encode_as<5, 2>(x, 57344.0f);
    return encode_as<5, 6>(x, 65024.0f);
}
// Four codes of a byte each, the first lowest. The instruction rounds to nearest even, keeps the sign of zero and
// saturates, as `encode_as` does.
FN u32 encode_four(int dtype, float x0, float x1, float x2, float x3) {
#ifdef FATHOM_FP8
    if (dtype == E4M3) return pack_e4m3(x0, x1) | pack_e4m3(x2, x3) << 16;
    return pack_e5m2(x0, x1) | pack_e5m2(x2, x3) << 16;
#else
    if (dtype == E4M3)
        return encode_as<4, 3>(x0, 448.0f) | encode_as<4, 3>(x1, 448.0f) << 8 | encode_as<4, 3>(x2, 448.0f) << 16 |
               encode_as<4, 3>(x3, 448.0f) << 24;
    return encode_as<5, 2>(x0, 57344.0f) | encode_as<5, 2>(x1, 57344.0f) << 8 | encode_as<5, 2>(x2, 57344.0f) << 16 |
           encode_as<5, 2>(x3, 57344.0f) << 24;
#endif
}

// A magnitude's bits, moved to where f32 has its exponent and mantissa, are off by a power of two, which a product sets
// right, subnormal numbers included.
FN float decode_one(int dtype, u32 code) {
    int mantissa = dtype == E4M3 ? 3 : dtype == E5M2 ? 2 : 6, sign_at = dtype == E5M6Pair ? 11 : 7;
    u32 magnitude = code & ((1u << sign_at) - 1), sign = code >> sign_at << 31;
    float x = as_float(magnitude << (23 - mantissa)) * power_of_two(dtype == E4M3 ? 120 : 112);
    u32 first_special = dtype == E4M3 ? 0x7f : 31u << mantissa;
    if (magnitude >= first_special) x = dtype != E4M3 && magnitude == first_special ? infinity() : as_float(0x7fc00000);
    return as_float(as_bits(x) | sign);
}

// Eight E4M3 codes, the first in the lowest byte of the first word.
FN void decode_e4m3(u32 first, u32 second, float (&v)[8]) {
    widen_f16(e4m3_to_f16(first & 0xffff), v[0], v[1]);
    widen_f16(e4m3_to_f16(first >> 16), v[2], v[3]);
    widen_f16(e4m3_to_f16(second & 0xffff), v[4], v[5]);
    widen_f16(e4m3_to_f16(second >> 16), v[6], v[7]);
}

// A row of codes, byte by byte.
FN Span<u8> code_row(const Mat& m, int r) {
    check_row(r, m.rows);
    int bytes = m.dtype == E5M6Pair ? 3 : 1;
    return span<u8>(m.data + (u64)(r * m.stride * bytes), (i64)m.cols * bytes);
}
// The code of an element.
FN u32 code_at(const Mat& m, int r, int c) {
    auto codes = code_row(m, r);
    if (m.dtype != E5M6Pair) return codes.get(c);
    i64 at = (i64)(c / 2) * 3;
    u32 both = (u32)codes.get(at) | (u32)codes.get(at + 1) << 8 | (u32)codes.get(at + 2) << 16;
    return c % 2 == 0 ? both & 0xfff : both >> 12;
}

// ---- scales

// Where a scale lies.
struct ScalePlace {
    int row, col;
};

// Where group `g` starts.
FN int group_start(const Tiles& t, int g, int rows) {
    u32 offset = span<u32>(t.offsets, t.groups + 1).get(g);
    return offset < (u32)rows ? (int)offset : rows;
}

// Where the scale of an element lies.
FN ScalePlace scale_place(const Tiles& t, int r, int c, int rows) {
    switch (t.kind) {
        case ROWS: return {r, c / t.part * t.per_part + c % t.part / TILE};
        case COLUMNS: return {r / TILE, c};
        case BLOCKS: return {r / t.part * t.per_part + r % t.part / TILE, c / TILE};
        default: {
            // The last group that starts at or before the row.
            int low = 0, high = t.groups;
            while (high - low > 1) {
                int middle = (low + high) / 2;
                if (group_start(t, middle, rows) <= r)
                    low = middle;
                else
                    high = middle;
            }
            int start = group_start(t, low, rows);
            return {start / TILE + low + max_of(r - start, 0) / TILE, c};
        }
    }
}
FN float scale_at(const Tiles& t, const Mat& scales, int r, int c, int rows) {
    ScalePlace at = scale_place(t, r, c, rows);
    return row<float>(scales, at.row).get(at.col);
}

// The scale of a tile by the bits of its largest magnitude: `scale_of` of the core.
FN float scale_of(u32 amax, float largest, int power) {
    if (amax == 0) return 1.0f;
    float scale = as_float(amax) / largest;
    if (scale < 1.17549435e-38f) scale = 1.17549435e-38f;
    return power ? as_float((as_bits(scale) + 0x7fffff) & 0x7f800000) : scale;
}
FN u32 magnitude_bits(float x) {
    return as_bits(x) & 0x7fffffff;
}
FN u32 larger(u32 a, u32 b) {
    return a > b ? a : b;
}
// Reports a tile whose largest magnitude is infinity or NaN.
FN void check_finite(u64 fault, u32 site, u32 amax) {
    if (amax >= 0x7f800000) report(fault, NON_FINITE, site, 0, 0);
}

// x / scale with the bits of the division, for one scale and many x.
//
// By a power of two it is a product: both are the one nearest number. By any other, with `inverse` the number nearest
// to 1 / scale, a quotient is corrected twice by its remainder: the first correction brings it within a unit in the
// last place, and from there the second gives the nearest number (Markstein, 1990, theorem 8.2), provided that the
// remainder is exact. It is for quotients of 2^-22 and more where the scale is at least 2^-80; smaller ones are encoded
// as zero by any format. Zero and what comes to be zero keep the sign of x.
struct Divisor {
    float scale, inverse;
    FN Divisor() : scale(1.0f), inverse(1.0f) {}
    FN Divisor(float scale) : scale(scale), inverse(1.0f / scale) {}
    FN bool is_usual(int power) const {
        return power || (scale >= 8.2718061e-25f && scale <= 1.2676506e30f);  // 2^-80, 2^100
    }
    FN float divide(float x, int power) const {
        float q = x * inverse;
        if (power) return q;
        q = fma(fma(-q, scale, x), inverse, q);
        q = fma(fma(-q, scale, x), inverse, q);
        return as_float((as_bits(q) & 0x7fffffff) | (as_bits(x) & 0x80000000));
    }
};
