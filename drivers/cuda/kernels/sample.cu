// Choosing tokens, by the rule of `core/src/sampling.rs`: weights are whole numbers, so that sums have no order, and a
// token is the host's.
//
// Rows of logits are long and few, so they are cut into pieces of 4096. Four launches: the largest logit of each piece;
// what top-k and top-p keep of a row, by a block for each row that asks for it; the weight of each piece; the token.
// There may be blocks for more rows than there are.
#include "fathom.cuh"

struct Sample {
    Mat logits, rules, tokens;
    Mat most;    // of each row and piece, a pair: the largest logit and its place, as `best_of` has them
    Mat kept;    // of each row, a pair: the greatest depth that is kept, and the last place where that depth is
    Mat sums;    // of each row and piece, a pair: the weight that is kept, the lower word first
    int pieces;
    int reserved;
};

constexpr int PIECE = 4096, THREADS = 512, BINS = 256;
static_assert(PIECE == THREADS * 8, "a thread has eight logits of a piece");
constexpr u32 ALL = 0xffffffffu;
// Of a logit that is not finite; more than any other.
constexpr u64 BROKEN = ~0ull;

FN u64 join(Pair p) {
    return (u64)p.y << 32 | p.x;
}
FN Pair part(u64 x) {
    return Pair{(u32)x, (u32)(x >> 32)};
}
// The upper half of a product, and whether the lower half is not 0.
FN u64 high_half(u64 x, u64 y, bool& more) {
    u64 a = (u32)x, b = x >> 32, c = (u32)y, d = y >> 32;
    u64 low = a * c, middle = b * c + (low >> 32), other = a * d + (u32)middle;
    more = (u32)low != 0 || (u32)other != 0;
    return b * d + (middle >> 32) + (other >> 32);
}

struct Rule {
    bool greedy;
    float temperature;
    u32 top_k;
    u64 top_p, least, uniform;
};
FN Rule rule_of(const Sample& a, int r) {
    auto words = row<u32>(a.rules, r);
    auto two = [&](int i) { return (u64)words.get(i + 1) << 32 | words.get(i); };
    Rule rule;
    float t = as_float(words.get(0));
    rule.greedy = !(t > 0.0f);
    rule.temperature = t > 3.4028234663852886e38f ? 3.4028234663852886e38f : t;
    rule.top_k = words.get(1);
    rule.top_p = two(2);
    rule.least = two(4) < 1ull << 40 ? two(4) : 1ull << 40;
    rule.uniform = two(6);
    return rule;
}

FN u32 depth_of(float x, float most, float temperature) {
    float below = (most - x) / temperature;
    return below >= 32.0f ? ALL : (u32)(below * 134217728.0f);
}
FN u64 weight_of(u32 depth) {
    return (u64)(exact_exp(-((float)depth * 7.450580596923828e-9f)) * 1099511627776.0f);
}

// Larger for larger logits, and among equals for lower places.
FN u64 best_of(float x, int place) {
    return is_finite(x) ? (u64)order(x) << 32 | ~(u32)place : BROKEN;
}
FN float logit_of(u64 best) {
    u32 key = (u32)(best >> 32);
    return as_float(key & 0x80000000 ? key & 0x7fffffff : ~key);
}

FN u64 warp_most(u64 x) {
    for (int d = 16; d > 0; d /= 2) {
        u64 y = shuffle_xor(x, d);
        x = y > x ? y : x;
    }
    return x;
}
FN u64 warp_total(u64 x) {
    for (int d = 16; d > 0; d /= 2) x += shuffle_xor(x, d);
    return x;
}
// Over a block, in every thread; `scratch` holds 32 numbers, and is free again after the first.
FN u64 block_most(u64 x, Shared<u64> scratch) {
    x = warp_most(x);
    if (lane() == 0) scratch.set(warp(), x);
    sync();
    x = 0;
    for (int i = 0; i < threads() / 32; i++) x = scratch.get(i) > x ? scratch.get(i) : x;
    sync();
    return x;
}
FN u64 block_total(u64 x, Shared<u64> scratch) {
    x = warp_total(x);
    if (lane() == 0) scratch.set(warp(), x);
    sync();
    x = 0;
    for (int i = 0; i < threads() / 32; i++) x += scratch.get(i);
    return x;
}

template <class X>
FN void most_of_piece(const Sample& a) {
    Carve carve;
    auto scratch = carve.take<u64>(32);
    int r = block_y(), c = block_x() * PIECE + thread() * 8;
    if (r >= a.logits.rows) return;
    u64 best = 0;
    if (c < a.logits.cols) {
        float x[8];
        X(a.logits, r).get(c, x);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            u64 other = best_of(x[i], c + i);
            best = (X::whole || c + i < a.logits.cols) && other > best ? other : best;
        }
    }
    best = block_most(best, scratch);
    if (thread() == 0) row<u32>(a.most, r).set_pair(block_x() * 2, part(best));
}
KERNEL(sample_most_wide, Sample, 512) {
    most_of_piece<Wide<float>>(a);
}
KERNEL(sample_most_any, Sample, 512) {
    most_of_piece<Any>(a);
}

// The largest logit of a row, in every thread.
FN u64 most_of_row(const Sample& a, int r, Shared<u64> scratch) {
    u64 best = 0;
    for (int i = thread(); i < a.pieces; i += threads()) {
        u64 other = join(row<u32>(a.most, r).pair(2 * i));
        best = other > best ? other : best;
    }
    return block_most(best, scratch);
}

// The depths of eight logits from column `c` on; `ALL` past the end, which weighs nothing.
template <class X>
FN void depths_of(const Sample& a, const X& row, int c, float most, float temperature, u32 (&depths)[8]) {
    float x[8];
    row.get(c, x);
#pragma unroll
    for (int i = 0; i < 8; i++)
        depths[i] = X::whole || c + i < a.logits.cols ? depth_of(x[i], most, temperature) : ALL;
}

// The depth at which a row's numbers reach `need`, counted from the most probable token on: digit by digit, each by a
// histogram of the tokens that agree in the digits before. Of each token 1 counts, or with WEIGHTS its weight, up to
// depth `limit`. `need` becomes what is needed of those that are just so deep, and `there` what these have; where all
// numbers do not reach it, the depth is `ALL`. With `share`, `need` is first made of it and of the sum of all.
template <class X, bool WEIGHTS>
FN u32 reach(const Sample& a, const X& row, float most, const Rule& rule, u32 limit, u64 share, u64& need, u64& there,
             Shared<u32> low, Shared<u32> high, Shared<u64> found) {
    u32 prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        if (thread() < BINS) {
            low.set(thread(), 0);
            high.set(thread(), 0);
        }
        sync();
        for (int c = thread() * 8; c < a.logits.cols; c += threads() * 8) {
            u32 depths[8];
            depths_of(a, row, c, most, rule.temperature, depths);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                u32 d = depths[i];
                // What is deepest weighs nothing, and is as good as gone.
                if (d == ALL || d > limit || (u64)d >> (shift + 8) != (u64)prefix >> (shift + 8)) continue;
                u64 x = WEIGHTS ? weight_of(d) : 1;
                int bin = (int)(d >> shift & 255);
                u32 below = (u32)x, above = (u32)(x >> 32);
                if (below != 0) above += atomic_add(low, bin, below) + below < below;
                if (above != 0) atomic_add(high, bin, above);
            }
        }
        sync();
        // The bins' running sum, by one warp with eight bins in each lane.
        if (warp() == 0) {
            u64 own = 0;
            for (int i = 0; i < BINS / 32; i++) {
                int bin = lane() * (BINS / 32) + i;
                own += (u64)high.get(bin) << 32 | low.get(bin);
            }
            u64 before = own;
            for (int d = 1; d < 32; d *= 2) {
                u64 x = shuffle_up(before, d);
                if (lane() >= d) before += x;
            }
            u64 total = shuffle(before, 31), wanted = need;
            if (shift == 24 && share != 0) {
                bool more;
                wanted = high_half(share, total, more);
                wanted += more;
            }
            before -= own;
            if (lane() == 0 && wanted > total) found.set(0, ALL);
            if (before < wanted && wanted <= before + own) {
                for (int i = 0; i < BINS / 32; i++) {
                    int bin = lane() * (BINS / 32) + i;
                    u64 x = (u64)high.get(bin) << 32 | low.get(bin);
                    if (wanted <= before + x) {
                        found.set(0, bin);
                        found.set(1, wanted - before);
                        found.set(2, x);
                        break;
                    }
                    before += x;
                }
            }
        }
        sync();
        u64 bin = found.get(0);
        if (bin == ALL) return ALL;
        prefix |= (u32)bin << shift;
        need = found.get(1);
        there = found.get(2);
    }
    return prefix;
}

template <class X>
FN void keep(const Sample& a) {
    Carve carve;
    auto scratch = carve.take<u64>(32);
    auto low = carve.take<u32>(BINS);
    auto high = carve.take<u32>(BINS);
    auto found = carve.take<u64>(3);
    int r = block_x();
    if (r >= a.logits.rows) return;
    Rule rule = rule_of(a, r);
    auto kept = row<u32>(a.kept, r);
    if (rule.greedy || (rule.top_k == 0 && rule.top_p == 0)) {
        if (thread() == 0) kept.set_pair(0, Pair{ALL, ALL});
        return;
    }
    u64 best = most_of_row(a, r, scratch);
    if (best == BROKEN) {
        if (thread() == 0) kept.set_pair(0, Pair{ALL, ALL});
        return;
    }
    float most = logit_of(best);
    X logits(a.logits, r);
    u32 deepest = ALL, last = ALL;
    u64 need = rule.top_k, there = 0;
    if (rule.top_k != 0)
        deepest = reach<X, false>(a, logits, most, rule, ALL, 0, need, there, low, high, found);
    if (rule.top_p != 0) {
        deepest = reach<X, true>(a, logits, most, rule, deepest, rule.top_p, need, there, low, high, found);
        // Of tokens just so deep, all of one weight, the first that are needed are kept.
        u64 each = weight_of(deepest), count = (need + each - 1) / each;
        if (count * each < there) {
            u64 before = 0;
            for (int first = 0; first < a.logits.cols; first += threads()) {
                int c = first + thread();
                bool is = c < a.logits.cols && depth_of(load(a.logits, r, c), most, rule.temperature) == deepest;
                u32 votes = ballot(is);
                if (lane() == 0) scratch.set(warp(), (u64)ones(votes));
                sync();
                u64 mine = before + (u64)ones(votes & ((2u << lane()) - 1));
                for (int i = 0; i < threads() / 32; i++) {
                    if (i < warp()) mine += scratch.get(i);
                    before += scratch.get(i);
                }
                if (is && mine == count) found.set(0, (u64)c);
                sync();
                if (before >= count) break;
            }
            last = (u32)found.get(0);
        }
    }
    if (thread() == 0) kept.set_pair(0, Pair{deepest, last});
}
KERNEL(sample_keep_wide, Sample, 512) {
    keep<Wide<float>>(a);
}
KERNEL(sample_keep_any, Sample, 512) {
    keep<Any>(a);
}

// The weights of eight logits from column `c` on, 0 of what is not kept.
template <class X>
FN void weights_of(const Sample& a, int r, int c, float most, const Rule& rule, u64 (&weights)[8]) {
    Pair kept = row<u32>(a.kept, r).pair(0);
    u32 depths[8];
    depths_of(a, X(a.logits, r), c, most, rule.temperature, depths);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        u64 x = depths[i] == ALL ? 0 : weight_of(depths[i]);
        bool is_kept = depths[i] < kept.x || (depths[i] == kept.x && (u32)(c + i) <= kept.y);
        weights[i] = is_kept && x >= rule.least ? x : 0;
    }
}

template <class X>
FN void weigh(const Sample& a) {
    Carve carve;
    auto scratch = carve.take<u64>(32);
    int r = block_y(), c = block_x() * PIECE + thread() * 8;
    if (r >= a.logits.rows) return;
    Rule rule = rule_of(a, r);
    if (rule.greedy) return;
    u64 best = most_of_row(a, r, scratch), sum = 0;
    if (best != BROKEN && c < a.logits.cols) {
        u64 weights[8];
        weights_of<X>(a, r, c, logit_of(best), rule, weights);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += weights[i];
    }
    sum = block_total(sum, scratch);
    if (thread() == 0) row<u32>(a.sums, r).set_pair(block_x() * 2, part(sum));
}
KERNEL(sample_weigh_wide, Sample, 512) {
    weigh<Wide<float>>(a);
}
KERNEL(sample_weigh_any, Sample, 512) {
    weigh<Any>(a);
}

template <class X>
FN void draw(const Sample& a) {
    Carve carve;
    auto scratch = carve.take<u64>(32);
    auto found = carve.take<u64>(2);
    int r = block_x();
    if (r >= a.logits.rows) return;
    Rule rule = rule_of(a, r);
    auto token = row<u32>(a.tokens, r);
    u64 best = most_of_row(a, r, scratch);
    if (rule.greedy || best == BROKEN) {
        if (thread() == 0) token.set(0, best == BROKEN ? ALL : ~(u32)best);
        return;
    }
    // The piece in which the running sum passes the draw, and how far into it.
    if (thread() == 0) {
        auto sums = row<u32>(a.sums, r);
        u64 total = 0;
#pragma unroll 4
        for (int i = 0; i < a.pieces; i++) total += join(sums.pair(2 * i));
        bool more;
        u64 left = high_half(rule.uniform, total, more);
        int piece = 0;
        for (; piece < a.pieces - 1; piece++) {
            u64 sum = join(sums.pair(2 * piece));
            if (left < sum) break;
            left -= sum;
        }
        found.set(0, (u64)piece);
        found.set(1, left);
    }
    sync();
    int c = (int)found.get(0) * PIECE + thread() * 8;
    u64 left = found.get(1), weights[8] = {}, own = 0;
    if (c < a.logits.cols) weights_of<X>(a, r, c, logit_of(best), rule, weights);
#pragma unroll
    for (int i = 0; i < 8; i++) own += weights[i];
    u64 before = own;
    for (int d = 1; d < 32; d *= 2) {
        u64 x = shuffle_up(before, d);
        if (lane() >= d) before += x;
    }
    if (lane() == 31) scratch.set(warp(), before);
    sync();
    for (int i = 0; i < warp(); i++) before += scratch.get(i);
    before -= own;
    if (left < before || left >= before + own) return;
    left -= before;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if (left < weights[i]) {
            token.set(0, (u32)(c + i));
            return;
        }
        left -= weights[i];
    }
}
KERNEL(sample_draw_wide, Sample, 512) {
    draw<Wide<float>>(a);
}
KERNEL(sample_draw_any, Sample, 512) {
    draw<Any>(a);
}
