// Router: the choice of experts (V3 report eq. 12–16), its gradient, the balance loss (eq. 17–20) and the bias update:
// a warp for each token, in which lane `l` has the experts `l + 32·j`.
//
// Choices must have the bits of `core/src/routing.rs`: exponentials are those of the core, and whatever is summed
// before a choice is summed one by one, in its order.
#include "fathom.cuh"

FN float minus_infinity() {
    return -infinity();
}

// Experts to choose from, by the `order` of their scores.
//
// Loops over `J` are unrolled, here and below, so that arrays of that length are registers.
template <int J>
struct Candidates {
    u32 key[J], taken;
    int n;
    bool has_nan;
    FN Candidates(const float (&x)[J], int n) : taken(0), n(n) {
        bool nan = false;
#pragma unroll
        for (int j = 0; j < J; j++) {
            bool exists = lane() + 32 * j < n;
            key[j] = exists ? order(x[j]) : 0;
            nan |= exists && is_nan(x[j]);
        }
        has_nan = ballot(nan) != 0;
    }
    // Takes the best that is left, the lower expert among equals. As in a scan that asks of each whether it is larger
    // than the best so far, NaN is taken where, of those left, it comes first.
    FN int take() {
        u32 most = 0, at = 0;
#pragma unroll
        for (int j = 0; j < J; j++)
            if (key[j] > most) most = key[j], at = (u32)j;
        u64 best = (u64)most << 32 | ~((u32)lane() + 32 * at);
        for (int d = 16; d > 0; d /= 2) {
            u64 other = shuffle_xor(best, d);
            best = other > best ? other : best;
        }
        int e = (int)~(u32)best;
        if (has_nan) {
            u64 first = ~0ull;
#pragma unroll
            for (int j = J - 1; j >= 0; j--)
                if (lane() + 32 * j < n && !(taken >> j & 1)) first = (u64)(lane() + 32 * j) << 32 | key[j];
            for (int d = 16; d > 0; d /= 2) {
                u64 other = shuffle_xor(first, d);
                first = other < first ? other : first;
            }
            if ((u32)first == 0) e = (int)(first >> 32);
        }
        e = min_of(e, n - 1);
#pragma unroll
        for (int j = 0; j < J; j++)
            if (e == lane() + 32 * j) key[j] = 0, taken |= 1u << j;
        return e;
    }
};

struct Route {
    // `bias` may have no rows.
    Mat logits, bias, scores, experts, weights;
    float scale;
    int top_k, groups, top_groups;
    u32 softmax, top_two, normalize, reserved;
};

// Members of groups that are not among the best become −∞. `biased` and `groups` are the warp's own places in shared
// memory, from `b` and `g` on.
template <int J>
FN void mask_groups(const Route& a, float (&x)[J], Shared<float> biased, int b, Shared<float> groups, int g) {
    int n = a.logits.cols, size = n / a.groups;
#pragma unroll
    for (int j = 0; j < J; j++)
        if (lane() + 32 * j < n) biased.set(b + lane() + 32 * j, x[j]);
    sync_warp();
    for (int i = lane(); i < a.groups; i += 32) {
        float first = minus_infinity(), second = first;
        // Lanes start at different members, for the sake of the banks; the order of members does not show.
        for (int k = 0; k < size; k++) {
            float m = biased.get(b + i * size + (k + lane()) % size);
            if (m > first)
                second = first, first = m;
            else if (m > second)
                second = m;
        }
        groups.set(g + i, a.top_two ? first + second : first);
    }
    sync_warp();
    for (int k = 0; k < a.top_groups; k++) {
        int best = 0;
        float most = groups.get(g);
        for (int i = 1; i < a.groups; i++) {
            float score = groups.get(g + i);
            if (score > most) best = i, most = score;
        }
        sync_warp();
        if (lane() == 0) groups.set(g + best, minus_infinity());
        sync_warp();
    }
    // A group that was kept now scores −∞. One that scored −∞ (or NaN) to begin with holds nothing worth choosing.
#pragma unroll
    for (int j = 0; j < J; j++) {
        int e = lane() + 32 * j;
        if (e < n && groups.get(g + e / size) > minus_infinity()) x[j] = minus_infinity();
    }
}

template <int J>
FN void route(const Route& a) {
    int n = a.logits.cols, warps = threads() / 32, r = block_x() * warps + warp();
    Carve carve;
    auto scores = carve.take<float>((u32)(warps * n));
    auto biased = carve.take<float>((u32)(warps * n));
    auto groups = carve.take<float>((u32)(warps * a.groups));
    auto chosen = carve.take<u32>((u32)(warps * a.top_k));
    int at = warp() * n, first = warp() * a.top_k;
    if (r >= a.logits.rows) return;
    float s[J];
#pragma unroll
    for (int j = 0; j < J; j++) s[j] = lane() + 32 * j < n ? load(a.logits, r, lane() + 32 * j) : minus_infinity();
    if (a.softmax) {
        float most = minus_infinity(), total = 0.0f;
#pragma unroll
        for (int j = 0; j < J; j++) most = s[j] > most ? s[j] : most;
        most = warp_max(most);
#pragma unroll
        for (int j = 0; j < J; j++) {
            s[j] = exact_exp(s[j] - most);
            if (lane() + 32 * j < n) scores.set(at + lane() + 32 * j, s[j]);
        }
        sync_warp();
        for (int e = 0; e < n; e++) total += scores.get(at + e);
        sync_warp();
#pragma unroll
        for (int j = 0; j < J; j++) s[j] = s[j] / total;
    } else {
#pragma unroll
        for (int j = 0; j < J; j++) s[j] = exact_sigmoid(s[j]);
    }
    float x[J];
#pragma unroll
    for (int j = 0; j < J; j++) {
        int e = lane() + 32 * j;
        x[j] = s[j];
        if (e >= n) continue;
        scores.set(at + e, s[j]);
        store(a.scores, r, e, s[j]);
        if (a.bias.rows) x[j] += load(a.bias, 0, e);
    }
    if (a.groups > 1) mask_groups(a, x, biased, at, groups, warp() * a.groups);
    Candidates<J> candidates(x, n);
    for (int i = 0; i < a.top_k; i++) {
        int e = candidates.take();
        if (lane() == 0) chosen.set(first + i, (u32)e);
    }
    sync_warp();
    float total = 0.0f;
    if (a.normalize) {
        for (int i = 0; i < a.top_k; i++) total += scores.get(at + (int)chosen.get(first + i));
        total += 1e-20f;
    }
    for (int i = lane(); i < a.top_k; i += 32) {
        u32 e = chosen.get(first + i);
        float w = scores.get(at + (int)e);
        if (a.normalize) w = w / total;
        row<u32>(a.experts, r).set(i, e);
        store(a.weights, r, i, w * a.scale);
    }
}
KERNEL(route_256, Route, 128) {
    route<8>(a);
}
KERNEL(route_1024, Route, 128) {
    route<32>(a);
}

struct RouteGrad {
    // `dscores` may have no rows.
    Mat scores, experts, dweights, dscores, dlogits;
    u64 fault;
    float scale;
    int top_k;
    u32 softmax, normalize, site, reserved;
};

KERNEL(route_grad, RouteGrad, 128) {
    int n = a.scores.cols, warps = threads() / 32, r = block_x() * warps + warp(), at = warp() * n;
    Carve carve;
    auto ds = carve.take<float>((u32)(warps * n));
    if (r >= a.scores.rows) return;
    for (int e = lane(); e < n; e += 32) ds.set(at + e, a.dscores.rows ? load(a.dscores, r, e) : 0.0f);
    sync_warp();
    // w = scale·s/S with S = Σ s over the chosen, or w = scale·s.
    auto experts = row<u32>(a.experts, r);
    float total = 1.0f, mean = 0.0f;
    if (a.normalize) {
        total = 0.0f;
        for (int i = 0; i < a.top_k; i++) {
            u32 e = experts.get(i);
            if (e < (u32)n) total += load(a.scores, r, (int)e);
        }
        total += 1e-20f;
        for (int i = 0; i < a.top_k; i++) {
            u32 e = experts.get(i);
            if (e < (u32)n) mean += load(a.dweights, r, i) * load(a.scores, r, (int)e) / total;
        }
    }
    // One after the other: nothing says that an expert is there only once.
    for (int i = 0; i < a.top_k && lane() == 0; i++) {
        u32 e = experts.get(i);
        if (!in_range(a.fault, a.site, e, (u32)n)) continue;
        ds.set(at + (int)e, ds.get(at + (int)e) + a.scale * (load(a.dweights, r, i) - mean) / total);
    }
    sync_warp();
    float dot = 0.0f;
    if (a.softmax) {
        for (int e = lane(); e < n; e += 32) dot = fma(ds.get(at + e), load(a.scores, r, e), dot);
        dot = warp_sum(dot);
    }
    for (int e = lane(); e < n; e += 32) {
        float s = load(a.scores, r, e), d = ds.get(at + e);
        store(a.dlogits, r, e, a.softmax ? s * (d - dot) : d * s * (1.0f - s));
    }
}

struct Count {
    Mat scores;
    // f32 [sequences·parts, 2·experts]: how often an expert is among the best of the tokens of a part, and the sum of
    // its shares.
    Mat sums;
    // Tokens of a sequence and of a part, parts of a sequence.
    int sequence, tokens, parts, top_k;
};

template <int J>
FN void balance_count(const Count& a) {
    int n = a.scores.cols, warps = threads() / 32;
    int begin = block_x() / a.parts * a.sequence, first = begin + block_x() % a.parts * a.tokens;
    int last = min_of(first + a.tokens, begin + a.sequence);
    Carve carve;
    auto sums = carve.take<float>((u32)(warps * 2 * n));
    float count[J] = {}, share[J] = {};
    for (int r = first + warp(); r < last; r += warps) {
        float s[J], total = 0.0f;
#pragma unroll
        for (int j = 0; j < J; j++) {
            s[j] = lane() + 32 * j < n ? load(a.scores, r, lane() + 32 * j) : 0.0f;
            total += s[j];
        }
        total = warp_sum(total);
        Candidates<J> candidates(s, n);
        for (int i = 0; i < a.top_k; i++) candidates.take();
#pragma unroll
        for (int j = 0; j < J; j++) {
            count[j] += (float)(candidates.taken >> j & 1);
            share[j] += s[j] / total;
        }
    }
#pragma unroll
    for (int j = 0; j < J; j++) {
        int e = lane() + 32 * j;
        if (e >= n) continue;
        sums.set(warp() * 2 * n + e, count[j]);
        sums.set(warp() * 2 * n + n + e, share[j]);
    }
    sync();
    for (int i = thread(); i < 2 * n; i += threads()) {
        float sum = 0.0f;
        for (int w = 0; w < warps; w++) sum += sums.get(w * 2 * n + i);
        row<float>(a.sums, block_x()).set(i, sum);
    }
}
KERNEL(balance_count_256, Count, 128) {
    balance_count<8>(a);
}
KERNEL(balance_count_1024, Count, 128) {
    balance_count<32>(a);
}

struct Frequencies {
    Mat sums;
    // f32 [sequences, experts + 1]: `f` of every expert, then the loss of the sequence.
    Mat f;
    int experts, parts;
    // N/(K·T) and α/T.
    float unit, alpha;
};

// f and P of a sequence, a block's, from the sums of its parts; and its loss.
KERNEL(balance_frequencies, Frequencies, 256) {
    Carve carve;
    auto scratch = carve.take<float>(32);
    auto out = row<float>(a.f, block_x());
    float loss = 0.0f;
    for (int e = thread(); e < a.experts; e += threads()) {
        float count = 0.0f, share = 0.0f;
        for (int p = 0; p < a.parts; p++) {
            auto sums = row<float>(a.sums, block_x() * a.parts + p);
            count += sums.get(e);
            share += sums.get(a.experts + e);
        }
        float f = count * a.unit;
        out.set(e, f);
        loss = fma(f, share, loss);
    }
    loss = block_sum(loss, scratch);
    if (thread() == 0) out.set(a.experts, a.alpha * loss);
}

struct BalanceGrad {
    Mat scores, f, loss, dscores;
    int sequence;
    // α/T.
    float alpha;
};

// ds = α/T·(f − mean)/Σs with mean = Σ f·s / Σs.
KERNEL(balance_grad, BalanceGrad, 128) {
    int n = a.scores.cols, r = block_x() * (threads() / 32) + warp();
    if (block_x() == 0 && thread() == 0) {
        float sum = 0.0f;
        for (int q = 0; q < a.f.rows; q++) sum += row<float>(a.f, q).get(n);
        store(a.loss, 0, 0, load(a.loss, 0, 0) + sum);
    }
    if (r >= a.scores.rows) return;
    auto f = row<float>(a.f, r / a.sequence);
    float total = 0.0f, mean = 0.0f;
    for (int e = lane(); e < n; e += 32) {
        float s = load(a.scores, r, e);
        total += s;
        mean = fma(f.get(e), s, mean);
    }
    total = warp_sum(total);
    mean = warp_sum(mean) / total;
    for (int e = lane(); e < n; e += 32) store(a.dscores, r, e, a.alpha * (f.get(e) - mean) / total);
}

struct Bias {
    Mat load, bias;
    double speed;
};

// b += γ·sign(mean(load) − load), the sign in f64 and without a division: exact as long as the counts are.
KERNEL(update_bias, Bias, 256) {
    Carve carve;
    auto scratch = carve.take<double>(8);
    int n = a.load.cols;
    double total = 0.0;
    for (int e = thread(); e < n; e += threads()) total += load(a.load, 0, e);
    for (int d = 16; d > 0; d /= 2) total += shuffle_xor(total, d);
    if (lane() == 0) scratch.set(warp(), total);
    sync();
    total = 0.0;
    for (int i = 0; i < threads() / 32; i++) total += scratch.get(i);
    for (int e = thread(); e < n; e += threads()) {
        double excess = total - n * (double)load(a.load, 0, e);
        double sign = (double)((excess > 0.0) - (excess < 0.0));
        store(a.bias, 0, e, (float)((double)load(a.bias, 0, e) + a.speed * sign));
    }
}
