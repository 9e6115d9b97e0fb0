// SwiGLU (Shazeer, 2020) and its gradient: a block per row. Where the product goes into codes, blocks are those of
// quantization, and the product is rounded to the type of its factors on the way, as if it had been stored.
#include "encode.cuh"

FN float sigmoid(float x) {
    return fast_reciprocal(1.0f + fast_exp(-x));
}

FN float product(float gate, float up, float scale) {
    return gate * sigmoid(gate) * up * scale;
}

struct Forward {
    // `gate_up` as its two halves; `scale` may have no rows.
    Mat gate, up, scale, y;
};

// y = silu(gate)·up·scale.
template <class X>
FN void swiglu(const Forward& a) {
    int r = block_x();
    X gate(a.gate, r), up(a.up, r), y(a.y, r);
    float scale = a.scale.rows ? load(a.scale, r, 0) : 1.0f;
    for (int c = thread() * 8; c < a.y.cols; c += threads() * 8) {
        float g[8], u[8];
        gate.get(c, g);
        up.get(c, u);
        for (int i = 0; i < 8; i++) u[i] = product(g[i], u[i], scale);
        y.set(c, u);
    }
}
KERNEL(swiglu_f32, Forward, 256) {
    swiglu<Wide<float>>(a);
}
KERNEL(swiglu_bf16, Forward, 256) {
    swiglu<Wide<bf16>>(a);
}
KERNEL(swiglu_any, Forward, 256) {
    swiglu<Any>(a);
}

// `x` is the gate.
struct Activate : Both {
    Mat up, factor;
};

template <class T>
struct Product {
    static constexpr bool vector = true;
    float v[8] = {};
    template <int threads, class A>
    FN void fetch(const A& a, int r, int c, int width, int l) {
        if (8 * l >= width) return;
        float gate[8], up[8], scale = a.factor.rows ? load(a.factor, r, 0) : 1.0f;
        Wide<T>(a.x, r).get(c + 8 * l, gate);
        Wide<T>(a.up, r).get(c + 8 * l, up);
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = widen(rounded<T>(product(gate[k], up[k], scale)));
    }
    FN float at(int k) const {
        return v[k];
    }
};
// The same one by one, of any type.
struct AnyProduct {
    static constexpr bool vector = false;
    float v[8] = {};
    template <int threads, class A>
    FN void fetch(const A& a, int r, int c, int width, int l) {
        float scale = a.factor.rows ? load(a.factor, r, 0) : 1.0f;
        for (int k = 0; k < 8; k++) {
            int at = column<false, threads>(l, k);
            if (at < width) v[k] = as_stored(a.x.dtype, product(load(a.x, r, c + at), load(a.up, r, c + at), scale));
        }
    }
    FN float at(int k) const {
        return v[k];
    }
};
KERNEL(swiglu_rows_f32, Activate, 256) {
    quantize_rows<Product<float>, 2>(a);
}
KERNEL(swiglu_rows_bf16, Activate, 256) {
    quantize_rows<Product<bf16>, 2>(a);
}
KERNEL(swiglu_rows_any, Activate, 256) {
    quantize_rows<AnyProduct, 1>(a);
}
KERNEL(swiglu_columns_f32, Activate, 256) {
    quantize_columns<Product<float>>(a);
}
KERNEL(swiglu_columns_bf16, Activate, 256) {
    quantize_columns<Product<bf16>>(a);
}
KERNEL(swiglu_columns_any, Activate, 256) {
    quantize_columns<AnyProduct>(a);
}
KERNEL(swiglu_both_f32, Activate, 512) {
    quantize_both<Product<float>>(a);
}
KERNEL(swiglu_both_bf16, Activate, 512) {
    quantize_both<Product<bf16>>(a);
}
KERNEL(swiglu_both_any, Activate, 512) {
    quantize_both<AnyProduct>(a);
}

struct Backward {
    // `d_gate_up` as its two halves too; `dscale` has rows exactly where `scale` has.
    Mat gate, up, scale, dy, d_gate, d_up, dscale, y;
};

template <class X>
FN void swiglu_grad(const Backward& a) {
    Carve carve;
    auto scratch = carve.take<float>(32);
    int r = block_x();
    X gate(a.gate, r), up(a.up, r), above(a.dy, r), d_gate(a.d_gate, r), d_up(a.d_up, r), y(a.y, r);
    float scale = a.scale.rows ? load(a.scale, r, 0) : 1.0f, sum = 0.0f;
    for (int c = thread() * 8; c < a.y.cols; c += threads() * 8) {
        float g[8], u[8], dy[8];
        gate.get(c, g);
        up.get(c, u);
        above.get(c, dy);
        for (int i = 0; i < 8; i++) {
            float sigma = sigmoid(g[i]), silu = g[i] * sigma, product = silu * u[i];
            sum += dy[i] * product;
            g[i] = dy[i] * scale * u[i] * (sigma + silu * (1.0f - sigma));
            u[i] = dy[i] * scale * silu;
            dy[i] = product * scale;
        }
        d_gate.set(c, g);
        d_up.set(c, u);
        y.set(c, dy);
    }
    if (a.dscale.rows == 0) return;
    sum = block_sum(sum, scratch);
    if (thread() == 0) store(a.dscale, r, 0, sum);
}
KERNEL(swiglu_grad_f32, Backward, 256) {
    swiglu_grad<Wide<float>>(a);
}
KERNEL(swiglu_grad_bf16, Backward, 256) {
    swiglu_grad<Wide<bf16>>(a);
}
KERNEL(swiglu_grad_any, Backward, 256) {
    swiglu_grad<Any>(a);
}
