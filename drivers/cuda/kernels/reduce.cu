// Reductions: sums and maxima of rows, sums of columns. Both cut what they sum into pieces of a size given by the
// shape, so that a long row or column fills the device, and sum the pieces' results in a second launch: no order
// depends on the machine.
#include "fathom.cuh"

// `Reduction` of the core, numbered as `reduce.rs` does.
enum Reduction : int { SUM, SUM_SQUARES, MAX };

struct Reduce {
    Mat x, y;  // [m, n], [m, pieces]
    int f, piece, pieces, accumulate;
    u32 wide, reserved;
};

template <int f>
FN float join(float a, float b) {
    if (f == MAX) return a > b || is_nan(a) ? a : b;
    return a + b;
}
template <int f>
FN float include(float sum, float v) {
    return f == SUM_SQUARES ? fma(v, v, sum) : join<f>(sum, v);
}

// Columns `from` to `to` of row `r`, by `lanes` threads of which this is number `me`: this thread's part. The order is
// the same whether rows are aligned or not.
template <class T, int f>
FN float reduce_part(const Mat& x, int r, int from, int to, int me, int lanes, bool wide) {
    const int ahead = 4;  // loads under way
    float part[8];
#pragma unroll
    for (int k = 0; k < 8; k++) part[k] = f == MAX ? -infinity() : 0.0f;
    auto s = row<T>(x, r);
    i64 c = (i64)from + me * 8, step = (i64)lanes * 8;
    if (wide)
        for (; c + (ahead - 1) * step + 8 <= to; c += ahead * step) {
            Eight<T> e[ahead];
#pragma unroll
            for (int i = 0; i < ahead; i++) e[i] = fetch_eight(s, c + i * step);
#pragma unroll
            for (int i = 0; i < ahead; i++) {
                float v[8];
                widen_eight(e[i], v);
#pragma unroll
                for (int k = 0; k < 8; k++) part[k] = include<f>(part[k], v[k]);
            }
        }
    for (; c < to; c += step) {
        float v[8];
        load_eight<T>(x, r, (int)c, wide, v);
#pragma unroll
        for (int k = 0; k < 8; k++)
            if (c + k < to) part[k] = include<f>(part[k], v[k]);
    }
#pragma unroll
    for (int d = 4; d > 0; d /= 2)
#pragma unroll
        for (int k = 0; k < d; k++) part[k] = join<f>(part[k], part[k + d]);
    return part[0];
}
template <int f>
FN float reduce_part(const Mat& x, int r, int from, int to, int me, int lanes, bool wide) {
    switch (x.dtype) {
        case BF16: return reduce_part<bf16, f>(x, r, from, to, me, lanes, wide);
        case F16: return reduce_part<f16, f>(x, r, from, to, me, lanes, wide);
        default: return reduce_part<float, f>(x, r, from, to, me, lanes, wide);
    }
}
FN float reduce_part(const Reduce& a, int r, int piece, int me, int lanes) {
    int from = piece * a.piece, to = a.x.cols - from < a.piece ? a.x.cols : from + a.piece;
    switch (a.f) {
        case SUM: return reduce_part<SUM>(a.x, r, from, to, me, lanes, a.wide);
        case SUM_SQUARES: return reduce_part<SUM_SQUARES>(a.x, r, from, to, me, lanes, a.wide);
        default: return reduce_part<MAX>(a.x, r, from, to, me, lanes, a.wide);
    }
}
FN float join(int f, float a, float b) {
    return f == MAX ? join<MAX>(a, b) : a + b;
}
FN float reduce_warp(int f, float x) {
    for (int d = 16; d > 0; d /= 2) x = join(f, x, shuffle_xor(x, d));
    return x;
}
FN void finish(const Reduce& a, int r, int piece, float value) {
    store(a.y, r, piece, a.accumulate ? load(a.y, r, piece) + value : value);
}

// A warp for each row: short ones.
KERNEL(reduce_short, Reduce, 256) {
    int r = block_x() * (threads() / 32) + warp();
    if (r >= a.x.rows) return;
    float value = reduce_warp(a.f, reduce_part(a, r, 0, lane(), 32));
    if (lane() == 0) finish(a, r, 0, value);
}
// A block for each piece of a row.
KERNEL(reduce_long, Reduce, 256) {
    Carve carve;
    auto parts = carve.take<float>(32);
    int r = block_x() / a.pieces, piece = block_x() % a.pieces;
    float part = reduce_warp(a.f, reduce_part(a, r, piece, thread(), threads()));
    if (lane() == 0) parts.set(warp(), part);
    sync();
    if (thread() > 0) return;
    float value = parts.get(0);
    for (int i = 1; i < threads() / 32; i++) value = join(a.f, value, parts.get(i));
    finish(a, r, piece, value);
}

struct Columns {
    Mat x, y;  // [m, n], [pieces, n]
    int piece, accumulate;
    u32 wide, reserved;
};

// The sums of eight columns from `c` on over every `step`-th row from `r` to `to`.
template <class T>
FN void sum_rows(const Mat& x, int r, int to, int step, int c, bool wide, float (&sum)[8]) {
    const int ahead = 4;  // loads under way
    float v[8];
    if (wide && x.cols - c >= 8)
        for (; to - r > (ahead - 1) * step; r += ahead * step) {
            Eight<T> e[ahead];
#pragma unroll
            for (int i = 0; i < ahead; i++) e[i] = fetch_eight(row<T>(x, r + i * step), c);
#pragma unroll
            for (int i = 0; i < ahead; i++) {
                widen_eight(e[i], v);
#pragma unroll
                for (int k = 0; k < 8; k++) sum[k] += v[k];
            }
        }
    for (; r < to; r += step) {
        load_eight<T>(x, r, c, wide, v);
#pragma unroll
        for (int k = 0; k < 8; k++) sum[k] += v[k];
    }
}

// y[p, c] = Σ x[r, c] over the rows r of piece p. A block takes 256 columns, a warp every eighth row of the piece.
KERNEL(sum_columns, Columns, 256) {
    const int width = 256, warps = 8;
    Carve carve;
    auto parts = carve.take<float>(width * warps);
    int tiles = (a.x.cols - 1) / width + 1, tile = block_x() % tiles, piece = block_x() / tiles;
    int from = piece * a.piece, to = a.x.rows - from < a.piece ? a.x.rows : from + a.piece;
    int left = tile * width, c = left + lane() * 8;
    float sum[8] = {};
    if (c < a.x.cols) switch (a.x.dtype) {
            case BF16: sum_rows<bf16>(a.x, from + warp(), to, warps, c, a.wide, sum); break;
            case F16: sum_rows<f16>(a.x, from + warp(), to, warps, c, a.wide, sum); break;
            default: sum_rows<float>(a.x, from + warp(), to, warps, c, a.wide, sum);
        }
#pragma unroll
    for (int k = 0; k < 8; k++) parts.set(warp() * width + k * 32 + lane(), sum[k]);
    sync();
    // Number `k * 32 + l` of a warp's parts is column `l * 8 + k`.
    c = left + lane() * 8 + warp();
    if (c >= a.x.cols) return;
    float total = parts.get(thread());
    for (int i = 1; i < warps; i++) total += parts.get(i * width + thread());
    store(a.y, piece, c, a.accumulate ? load(a.y, piece, c) + total : total);
}
