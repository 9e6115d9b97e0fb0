// Softmax cross entropy in place: a block per row of logits, which reads it once for the loss and once more, then
// mostly from the second-level cache, to replace it by its gradient.
#include "fathom.cuh"

struct Loss {
    Mat logits, targets, nll;
    u64 fault;
    float scale;
    u32 has_gradient, site, reserved;
};

constexpr u32 IGNORE = 0xffffffffu;
constexpr float LOG2_E = 1.4426950408889634f;

// e^(x - most); 0 for x of −∞, whatever `most` is.
FN float weight(float x, float most) {
    return fast_exp2((x - (most == -infinity() ? 0.0f : most)) * LOG2_E);
}

template <class X>
FN void cross_entropy(const Loss& a) {
    Carve carve;
    auto scratch = carve.take<float>(32);
    int r = block_x(), n = a.logits.cols;
    X logits(a.logits, r);
    u32 target = row<u32>(a.targets, r).get(0);
    bool scored = target != IGNORE && in_range(a.fault, a.site, target, (u32)n);
    // The largest logit so far, and the sum of e^(x - most): one pass gives both (Milakov and Gimelshein, 2018).
    float most = -infinity(), total = 0.0f, at_target = 0.0f;
    if (scored) {
        at_target = load(a.logits, r, (int)target);
#pragma unroll 2
        for (int c = thread() * 8; c < n; c += threads() * 8) {
            float x[8], high = most;
            logits.get(c, x);
            // What lies past the end of the row weighs nothing.
            for (int i = 0; i < 8 && !X::whole; i++)
                if (c + i >= n) x[i] = -infinity();
            for (int i = 0; i < 8; i++) high = x[i] > high ? x[i] : high;
            if (high > most) {
                total *= weight(most, high);
                most = high;
            }
            for (int i = 0; i < 8; i++) total += weight(x[i], most);
        }
    }
    // Also what makes sure that all have read the target's logit before anyone overwrites it.
    float high = block_max(most, scratch);
    total = block_sum(total * weight(most, high), scratch);
    if (thread() == 0) store(a.nll, r, 0, scored ? natural_log(total) - (at_target - high) : 0.0f);
    if (!a.has_gradient) return;
    float factor = a.scale / total;
    for (int c = thread() * 8; c < n; c += threads() * 8) {
        float x[8] = {};
        if (scored) {
            logits.get(c, x);
            for (int i = 0; i < 8; i++) {
                x[i] = weight(x[i], high) * factor;
                if ((u32)(c + i) == target) x[i] -= a.scale;
            }
        }
        logits.set(c, x);
    }
}
KERNEL(cross_entropy_f32, Loss, 1024) {
    cross_entropy<Wide<float>>(a);
}
KERNEL(cross_entropy_bf16, Loss, 1024) {
    cross_entropy<Wide<bf16>>(a);
}
KERNEL(cross_entropy_any, Loss, 1024) {
    cross_entropy<Any>(a);
}
