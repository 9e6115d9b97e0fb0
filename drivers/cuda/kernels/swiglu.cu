// SwiGLU (Shazeer, 2020) and its gradient: a block per row.
#include "fathom.cuh"

FN float sigmoid(float x) {
    return fast_reciprocal(1.0f + fast_exp(-x));
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
        for (int i = 0; i < 8; i++) u[i] = g[i] * sigmoid(g[i]) * u[i] * scale;
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
