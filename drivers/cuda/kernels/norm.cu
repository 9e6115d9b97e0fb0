// RMS norm (Zhang and Sennrich, 2019) and its gradient.
//
// Threads take eight neighbouring columns at a time. A row is read from memory once: what is needed again after the sum
// over the row is then in the first-level cache. Where the norms go into codes, one launch finds the roots, and another
// is that of quantization, which rounds the norms to the type of their inputs on the way, as if they had been stored.
#include "encode.cuh"

struct Forward {
    Mat x, weight, y, rstd;
    float eps;
    u32 reserved;
};

// 1 / rms of a row, by a block.
template <class X>
FN float inverse_root(const X& in, int n, float eps, Shared<float> scratch) {
    float x[8], squares = 0.0f;
    for (int c = thread() * 8; c < n; c += threads() * 8) {
        in.get(c, x);
        for (int i = 0; i < 8; i++) squares = fma(x[i], x[i], squares);
    }
    squares = block_sum(squares, scratch);
    return 1.0f / square_root(squares / (float)n + eps);
}

// y = x / rms(x) · w, a block for each row. X reaches activations, W the weight.
template <class X, class W>
FN void rmsnorm(const Forward& a) {
    Carve carve;
    auto scratch = carve.take<float>(32);
    int r = block_x(), n = a.x.cols;
    X in(a.x, r), out(a.y, r);
    W weight(a.weight, 0);
    float x[8], w[8], rstd = inverse_root(in, n, a.eps, scratch);
    for (int c = thread() * 8; c < n; c += threads() * 8) {
        in.get(c, x);
        weight.get(c, w);
        for (int i = 0; i < 8; i++) x[i] = x[i] * rstd * w[i];
        out.set(c, x);
    }
    if (thread() == 0) store(a.rstd, r, 0, rstd);
}
KERNEL(rmsnorm_f32, Forward, 1024) {
    rmsnorm<Wide<float>, Wide<float>>(a);
}
KERNEL(rmsnorm_bf16, Forward, 1024) {
    rmsnorm<Wide<bf16>, Wide<float>>(a);
}
KERNEL(rmsnorm_any, Forward, 1024) {
    rmsnorm<Any, Any>(a);
}

// The roots alone; `weight` and `y` are not used.
template <class X>
FN void roots(const Forward& a) {
    Carve carve;
    auto scratch = carve.take<float>(32);
    int r = block_x();
    float rstd = inverse_root(X(a.x, r), a.x.cols, a.eps, scratch);
    if (thread() == 0) store(a.rstd, r, 0, rstd);
}
KERNEL(rmsnorm_roots_f32, Forward, 1024) {
    roots<Wide<float>>(a);
}
KERNEL(rmsnorm_roots_bf16, Forward, 1024) {
    roots<Wide<bf16>>(a);
}
KERNEL(rmsnorm_roots_any, Forward, 1024) {
    roots<Any>(a);
}

struct Normalize : Both {
    Mat weight, rstd;
};

template <class T>
struct Norm {
    static constexpr bool vector = true;
    float v[8] = {};
    template <int threads, class A>
    FN void fetch(const A& a, int r, int c, int width, int l) {
        if (8 * l >= width) return;
        float x[8], w[8], rstd = load(a.rstd, r, 0);
        Wide<T>(a.x, r).get(c + 8 * l, x);
        Wide<float>(a.weight, 0).get(c + 8 * l, w);
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = widen(rounded<T>(x[k] * rstd * w[k]));
    }
    FN float at(int k) const {
        return v[k];
    }
};
// The same one by one, of any type.
struct AnyNorm {
    static constexpr bool vector = false;
    float v[8] = {};
    template <int threads, class A>
    FN void fetch(const A& a, int r, int c, int width, int l) {
        float rstd = load(a.rstd, r, 0);
        for (int k = 0; k < 8; k++) {
            int at = column<false, threads>(l, k);
            if (at < width) v[k] = as_stored(a.x.dtype, load(a.x, r, c + at) * rstd * load(a.weight, 0, c + at));
        }
    }
    FN float at(int k) const {
        return v[k];
    }
};
KERNEL(rmsnorm_rows_f32, Normalize, 256) {
    quantize_rows<Norm<float>, 2>(a);
}
KERNEL(rmsnorm_rows_bf16, Normalize, 256) {
    quantize_rows<Norm<bf16>, 2>(a);
}
KERNEL(rmsnorm_rows_any, Normalize, 256) {
    quantize_rows<AnyNorm, 1>(a);
}
KERNEL(rmsnorm_columns_f32, Normalize, 256) {
    quantize_columns<Norm<float>>(a);
}
KERNEL(rmsnorm_columns_bf16, Normalize, 256) {
    quantize_columns<Norm<bf16>>(a);
}
KERNEL(rmsnorm_columns_any, Normalize, 256) {
    quantize_columns<AnyNorm>(a);
}
KERNEL(rmsnorm_both_f32, Normalize, 512) {
    quantize_both<Norm<float>>(a);
}
KERNEL(rmsnorm_both_bf16, Normalize, 512) {
    quantize_both<Norm<bf16>>(a);
}
KERNEL(rmsnorm_both_any, Normalize, 512) {
    quantize_both<AnyNorm>(a);
}

struct Backward {
    Mat x, weight, rstd, dy, dx;
    // f32 [parts, cols], whole eights of columns: row `p` is the gradient of the weight over part `p` of the rows.
    Mat sums;
    // Rows of a part.
    int rows;
    u32 accumulate;
};

// Columns whose sums a block keeps in shared memory; those past them lie in `sums` all the while.
constexpr int WINDOW = 8192;

// The sums of a block, of which each thread adds to its own eight columns, so that nothing has to wait. In shared
// memory the halves of all eights lie apart: neighbours in a warp then touch neighbouring sixteen bytes.
struct Sums {
    Wide<float> row;
    Shared<float> window;
    int half;
    FN void get(int c, float (&x)[8]) const {
        if (c >= WINDOW) return row.get(c, x);
        Quad p = window.quad(c / 2), q = window.quad(half + c / 2);
        const u32 bits[8] = {p.x, p.y, p.z, p.w, q.x, q.y, q.z, q.w};
        for (int i = 0; i < 8; i++) x[i] = as_float(bits[i]);
    }
    FN void set(int c, const float (&x)[8]) const {
        if (c >= WINDOW) return row.set(c, x);
        window.set_quad(c / 2, Quad{as_bits(x[0]), as_bits(x[1]), as_bits(x[2]), as_bits(x[3])});
        window.set_quad(half + c / 2, Quad{as_bits(x[4]), as_bits(x[5]), as_bits(x[6]), as_bits(x[7])});
    }
};

// dx (+)= rstd·(g − x·rstd²·mean(g·x)) with g = dy·w, and Σ dy·x·rstd over the rows of a part, which is a block's.
template <class X, class W>
FN void rmsnorm_grad(const Backward& a) {
    Carve carve;
    auto scratch = carve.take<float>(32);
    int n = a.x.cols, first = block_x() * a.rows, last = min_of(first + a.rows, a.x.rows);
    int half = min_of(a.sums.cols, WINDOW) / 2;
    Sums sums = {Wide<float>(a.sums, block_x()), carve.take<float>((u32)half * 2), half};
    W weight(a.weight, 0);
    for (int r = first; r < last; r++) {
        X in(a.x, r), above(a.dy, r), out(a.dx, r);
        float rstd = load(a.rstd, r, 0), dot = 0.0f;
        for (int c = thread() * 8; c < n; c += threads() * 8) {
            float x[8], dy[8], w[8];
            in.get(c, x);
            above.get(c, dy);
            weight.get(c, w);
            for (int i = 0; i < 8; i++) dot = fma(dy[i] * w[i], x[i], dot);
        }
        float slope = rstd * rstd * (block_sum(dot, scratch) / (float)n);
        for (int c = thread() * 8; c < n; c += threads() * 8) {
            float x[8], dy[8], w[8], sum[8], dx[8];
            in.get(c, x);
            above.get(c, dy);
            weight.get(c, w);
            for (int i = 0; i < 8; i++) sum[i] = dx[i] = 0.0f;
            if (r > first) sums.get(c, sum);
            if (a.accumulate) out.get(c, dx);
            for (int i = 0; i < 8; i++) {
                dx[i] += rstd * (dy[i] * w[i] - x[i] * slope);
                sum[i] += dy[i] * (x[i] * rstd);
            }
            out.set(c, dx);
            sums.set(c, sum);
        }
    }
    for (int c = thread() * 8; c < min_of(n, WINDOW); c += threads() * 8) {
        float sum[8];
        sums.get(c, sum);
        sums.row.set(c, sum);
    }
}
KERNEL(rmsnorm_grad_f32, Backward, 512) {
    rmsnorm_grad<Wide<float>, Wide<float>>(a);
}
KERNEL(rmsnorm_grad_bf16, Backward, 512) {
    rmsnorm_grad<Wide<bf16>, Wide<float>>(a);
}
KERNEL(rmsnorm_grad_any, Backward, 512) {
    rmsnorm_grad<Any, Any>(a);
}

struct Total {
    Mat sums, dweight;
};

// dweight += the sum of all parts; a warp for every eighth part, a lane for each of 32 columns.
KERNEL(rmsnorm_weight_grad, Total, 256) {
    Carve carve;
    auto scratch = carve.take<float>(256);
    int c = block_x() * 32 + lane();
    float sum = 0.0f;
    if (c < a.dweight.cols) {
#pragma unroll 4
        for (int p = warp(); p < a.sums.rows; p += 8) sum += row<float>(a.sums, p).get(c);
    }
    scratch.set(thread(), sum);
    sync();
    if (warp() == 0 && c < a.dweight.cols) {
        for (int i = 1; i < 8; i++) sum += scratch.get(i * 32 + lane());
        store(a.dweight, 0, c, load(a.dweight, 0, c) + sum);
    }
}
