// AdamW step (Loshchilov and Hutter, 2019, algorithm 2), and linear interpolation.
#include "fathom.cuh"

struct AdamW {
    Mat w, g, m, v, clip;
    // `1 - lr·decay`, β and `1 - β` of both moments, `lr/(1 - β₁ᵗ)`, `√(1 - β₂ᵗ)`, all rounded from f64.
    float keep, beta1, rest1, beta2, rest2, rate, root2, eps;
    // Elements before the first that can be accessed sixteen bytes at a time.
    int lead, reserved;
};

// One element, in PyTorch's order. The weight moves by the moments as computed, before they are rounded to be kept.
FN void step(const AdamW& a, float clip, float& w, float g, float& m, float& v) {
    g = clip * g;
    m = a.beta1 * m + a.rest1 * g;
    v = a.beta2 * v + a.rest2 * g * g;
    w = a.keep * w - a.rate * m / (square_root(v) / a.root2 + a.eps);
}

// Elements `i` and on up to `last`, one by one.
FN void steps(const AdamW& a, float clip, int i, int last) {
    for (; i < last; i++) {
        float w = load(a.w, 0, i), m = load(a.m, 0, i), v = load(a.v, 0, i);
        step(a, clip, w, load(a.g, 0, i), m, v);
        store(a.w, 0, i, w);
        store(a.m, 0, i, m);
        store(a.v, 0, i, v);
    }
}

// Four neighbours, in one access of their size times four.
template <class T>
FN void get4(Span<T> s, int i, float (&x)[4]) {
    if constexpr (sizeof(T) == 4) {
        Quad q = s.quad(i);
        x[0] = as_float(q.x), x[1] = as_float(q.y), x[2] = as_float(q.z), x[3] = as_float(q.w);
    } else {
        Pair q = s.pair(i);
        x[0] = as_float(q.x << 16), x[1] = as_float(q.x & 0xffff0000u);
        x[2] = as_float(q.y << 16), x[3] = as_float(q.y & 0xffff0000u);
    }
}
template <class T>
FN void set4(Span<T> s, int i, const float (&x)[4]) {
    if constexpr (sizeof(T) == 4)
        s.set_quad(i, Quad{as_bits(x[0]), as_bits(x[1]), as_bits(x[2]), as_bits(x[3])});
    else
        s.set_pair(i, Pair{pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3])});
}

// M is the type of the moments. Each thread has four neighbours of those from `lead` on; what they leave at either end
// is done by the last.
template <class M>
FN void adamw(const AdamW& a) {
    float clip = load(a.clip, 0, 0);
    if (is_nan(clip)) return;
    int fours = (a.w.cols - a.lead) / 4, i = block_x() * threads() + thread();
    if (i < fours) {
        int at = a.lead + 4 * i;
        auto ws = row<float>(a.w, 0), gs = row<float>(a.g, 0);
        auto ms = row<M>(a.m, 0), vs = row<M>(a.v, 0);
        float w[4], g[4], m[4], v[4];
        get4(ws, at, w);
        get4(gs, at, g);
        get4(ms, at, m);
        get4(vs, at, v);
        for (int k = 0; k < 4; k++) step(a, clip, w[k], g[k], m[k], v[k]);
        set4(ws, at, w);
        set4(ms, at, m);
        set4(vs, at, v);
    } else if (i == fours) {
        steps(a, clip, 0, a.lead);
        steps(a, clip, a.lead + 4 * fours, a.w.cols);
    }
}
KERNEL(adamw_f32, AdamW, 256) {
    adamw<float>(a);
}
KERNEL(adamw_bf16, AdamW, 256) {
    adamw<bf16>(a);
}
KERNEL(adamw_any, AdamW, 256) {
    float clip = load(a.clip, 0, 0);
    if (is_nan(clip)) return;
    i64 first = (i64)block_x() * 4 * threads() + thread();
    for (int k = 0; k < 4; k++) {
        i64 i = first + k * threads();
        if (i < a.w.cols) steps(a, clip, (int)i, (int)i + 1);
    }
}

struct Lerp {
    Mat y, x;
    float weight;
    // Elements before the first that can be accessed sixteen bytes at a time.
    int lead;
};

FN float lerp(const Lerp& a, float y, float x) {
    return y + a.weight * (x - y);
}
FN void lerps(const Lerp& a, int i, int last) {
    for (; i < last; i++) store(a.y, 0, i, lerp(a, load(a.y, 0, i), load(a.x, 0, i)));
}

// Threads share elements as those of AdamW do.
KERNEL(lerp_f32, Lerp, 256) {
    int fours = (a.y.cols - a.lead) / 4, i = block_x() * threads() + thread();
    if (i < fours) {
        int at = a.lead + 4 * i;
        auto ys = row<float>(a.y, 0), xs = row<float>(a.x, 0);
        float y[4], x[4];
        get4(ys, at, y);
        get4(xs, at, x);
        for (int k = 0; k < 4; k++) y[k] = lerp(a, y[k], x[k]);
        set4(ys, at, y);
    } else if (i == fours) {
        lerps(a, 0, a.lead);
        lerps(a, a.lead + 4 * fours, a.y.cols);
    }
}
KERNEL(lerp_any, Lerp, 256) {
    i64 first = (i64)block_x() * 4 * threads() + thread();
    for (int k = 0; k < 4; k++) {
        i64 i = first + k * threads();
        if (i < a.y.cols) lerps(a, (int)i, (int)i + 1);
    }
}
