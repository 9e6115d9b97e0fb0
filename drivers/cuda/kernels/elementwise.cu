// Fills, casts, unary and binary operations, and random numbers. A thread takes eight elements of a
// row, by sixteen bytes where rows are aligned to that.
#include "fathom.cuh"

// Which operands have aligned rows.
enum Aligned : u32 { X = 1, Y = 2 };

FN u32 place(int part = 0, int parts = 1) {
    return (u32)(block_x() * parts + part) * (u32)threads() + (u32)thread();
}

struct Fill {
    u64 data;
    i64 stride, bytes;  // of a row
    u32 rows, size, pattern, wide;
};

// Rows of `bytes` bytes filled with elements of `size` bytes; `pattern` is one, repeated to four bytes.
KERNEL(fill, Fill, 256) {
    const int parts = 4;
    u32 per_row = (u32)((a.bytes + 15) / 16);
    Quad quad = {a.pattern, a.pattern, a.pattern, a.pattern};
    for (int part = 0; part < parts; part++) {
        u32 i = place(part, parts), r = a.rows == 1 ? 0 : i / per_row;
        i64 at = (i64)(i - r * per_row) * 16, end = at + 16 < a.bytes ? at + 16 : a.bytes;
        if (r >= a.rows || at >= a.bytes) continue;
        u64 start = a.data + r * a.stride;
        if (a.wide && at + 16 <= a.bytes)
            Span<u8>(start, a.bytes).set_quad(at, quad);
        else if (a.size == 4)
            for (i64 k = at / 4; k < end / 4; k++) Span<u32>(start, a.bytes / 4).set(k, a.pattern);
        else if (a.size == 2)
            for (i64 k = at / 2; k < end / 2; k++) Span<u16>(start, a.bytes / 2).set(k, (u16)a.pattern);
        else
            for (i64 k = at; k < end; k++) Span<u8>(start, a.bytes).set(k, (u8)a.pattern);
    }
}

struct Cast {
    Mat x, y;
    u32 wide, reserved;
};

// The nearest integer, ties to even, of those there are; 0 for NaN.
FN u32 nearest_u32(float x) {
    if (!(x > 0.0f)) return 0;
    if (x >= 4294967296.0f) return 0xffffffff;
    if (x < 8388608.0f) x = (x + 8388608.0f) - 8388608.0f;
    return (u32)x;
}
// The f32 next to `x` whose last bit is set, unless `x` is an f32: rounding that further is rounding once.
FN float odd(u32 x) {
    int shift = 0;
    while (x >> shift >= 1u << 24) shift++;
    u32 kept = x >> shift, rest = x & ((1u << shift) - 1);
    return (float)(kept | (rest != 0)) * (float)(1u << shift);
}

// The same elements, of whatever type, in another place.
template <class T>
FN void copy(const Cast& a) {
    int r, c;
    if (!eighth(a.y, place(), r, c)) return;
    auto x = row<T>(a.x, r), y = row<T>(a.y, r);
    if (a.wide == (X | Y) && a.y.cols - c >= 8) {
        auto e = fetch_eight(x, c);
        for (int k = 0; k < (int)sizeof(T) / 2; k++) y.set_quad(c + k * (i64)(16 / sizeof(T)), e.q[k]);
    } else
        for (int k = 0; k < 8 && k < a.y.cols - c; k++) y.set(c + k, x.get(c + k));
}
KERNEL(copy_16, Cast, 256) {
    copy<u16>(a);
}
KERNEL(copy_32, Cast, 256) {
    copy<u32>(a);
}

// Between floating-point types.
KERNEL(cast, Cast, 256) {
    int r, c;
    if (!eighth(a.y, place(), r, c)) return;
    float v[8];
    load_eight(a.x, r, c, a.wide & X, v);
    store_eight(a.y, r, c, a.wide & Y, v);
}
// From or to integers.
KERNEL(cast_integers, Cast, 256) {
    int r, c;
    if (!eighth(a.y, place(), r, c)) return;
    for (int k = 0; k < 8 && k < a.y.cols - c; k++) {
        if (a.y.dtype == U32)
            row<u32>(a.y, r).set(c + k, nearest_u32(load(a.x, r, c + k)));
        else {
            u32 x = row<u32>(a.x, r).get(c + k);
            store(a.y, r, c + k, a.y.dtype == F32 ? (float)x : odd(x));
        }
    }
}

struct Unary {
    Mat y;
    float p, q;
    u32 f, wide;
};
// `UnaryOp` of the core, numbered as `elementwise.rs` does.
enum UnaryOp : u32 { AFFINE, SIGMOID, EXP, LN, SQUARE, SQRT, RECIP, SIGN, CLIP_FACTOR };

FN float clip_factor(float squared_norm, float most) {
    float factor = most / (square_root(squared_norm) + 1e-6f);
    return !is_finite(squared_norm) ? as_float(0x7fc00000) : factor > 1.0f ? 1.0f : factor;
}
template <class F>
FN void map(float (&v)[8], F f) {
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = f(v[k]);
}

KERNEL(unary, Unary, 256) {
    int r, c;
    if (!eighth(a.y, place(), r, c)) return;
    float v[8], p = a.p, q = a.q;
    load_eight(a.y, r, c, a.wide, v);
    switch (a.f) {
        case AFFINE: map(v, [p, q](float y) { return p * y + q; }); break;
        case SIGMOID: map(v, [](float y) { return exact_sigmoid(y); }); break;
        case EXP: map(v, [](float y) { return exact_exp(y); }); break;
        case LN: map(v, [](float y) { return natural_log(y); }); break;
        case SQUARE: map(v, [](float y) { return y * y; }); break;
        case SQRT: map(v, [](float y) { return square_root(y); }); break;
        case RECIP: map(v, [](float y) { return 1.0f / y; }); break;
        case SIGN: map(v, [](float y) { return y > 0.0f ? 1.0f : y < 0.0f ? -1.0f : 0.0f; }); break;
        case CLIP_FACTOR: map(v, [p](float y) { return clip_factor(y, p); }); break;
    }
    store_eight(a.y, r, c, a.wide, v);
}

struct Binary {
    Mat x, y;
    u32 f, wide;
};
// `BinaryOp` of the core, numbered as `elementwise.rs` does.
enum BinaryOp : u32 { ADD, SUB, MUL, DIV };

// y = y ∘ x; one row or one column of x is repeated.
KERNEL(binary, Binary, 256) {
    int r, c;
    if (!eighth(a.y, place(), r, c)) return;
    float x[8], y[8];
    int from = a.x.rows == 1 ? 0 : r;
    if (a.x.cols == 1) {
        x[0] = load(a.x, from, 0);
#pragma unroll
        for (int k = 1; k < 8; k++) x[k] = x[0];
    } else
        load_eight(a.x, from, c, a.wide & X, x);
    load_eight(a.y, r, c, a.wide & Y, y);
#pragma unroll
    for (int k = 0; k < 8; k++) switch (a.f) {
            case ADD: y[k] = y[k] + x[k]; break;
            case SUB: y[k] = y[k] - x[k]; break;
            case MUL: y[k] = y[k] * x[k]; break;
            case DIV: y[k] = y[k] / x[k]; break;
        }
    store_eight(a.y, r, c, a.wide & Y, y);
}

struct Normal {
    Mat y;
    u64 seed, stream;
    double std;
};

struct Words {
    u64 a, b;
};
// Philox4x32-10 (Salmon et al., 2011): block `index` of a stream, as `fathom_core::rng` has it.
FN Words philox(u64 seed, u64 stream, u64 index) {
    u32 w0 = (u32)index, w1 = (u32)(index >> 32), w2 = (u32)stream, w3 = (u32)(stream >> 32);
    u32 k0 = (u32)seed, k1 = (u32)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        u64 x = (u64)0xD2511F53 * w0, y = (u64)0xCD9E8D57 * w2;
        w0 = (u32)(y >> 32) ^ w1 ^ k0;
        w1 = (u32)y;
        w2 = (u32)(x >> 32) ^ w3 ^ k1;
        w3 = (u32)x;
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return {w0 | (u64)w1 << 32, w2 | (u64)w3 << 32};
}
// In [0, 1), a multiple of 2^-53.
FN double unit(u64 bits) {
    return (double)(bits >> 11) * (1.0 / 9007199254740992.0);
}

// Two elements a thread, which come from one block by Box and Muller's transform (1958), in f64.
template <class T>
FN void random_normal(const Normal& a) {
    auto y = whole<T>(a.y);
    i64 count = (i64)a.y.rows * a.y.cols, i = (i64)block_x() * threads() + thread();
    if (2 * i >= count) return;
    Words words = philox(a.seed, a.stream, (u64)i);
    // 1 - u lies in (0, 1], where the logarithm is finite.
    double radius = sqrt_f64(-2.0 * log_f64(1.0 - unit(words.a))), angle = 6.283185307179586 * unit(words.b);
    y.set(2 * i, rounded<T>((float)(radius * cos_f64(angle) * a.std)));
    if (2 * i + 1 < count) y.set(2 * i + 1, rounded<T>((float)(radius * sin_f64(angle) * a.std)));
}
KERNEL(random_normal_f32, Normal, 256) {
    random_normal<float>(a);
}
KERNEL(random_normal_bf16, Normal, 256) {
    random_normal<bf16>(a);
}
KERNEL(random_normal_f16, Normal, 256) {
    random_normal<f16>(a);
}
