// Causal attention over decompressed latent keys and values (DeepSeek-V3 report, eq. 1-11), a tile of keys at a time
// with the running maximum and sum of the softmax (Dao, "FlashAttention-2", 2023), and the window mask.
//
// Tiles of keys start at multiples of their size from the start of the sequence, and keys that a row does not see count
// as exact zeros, so a row's result depends on nothing but what it sees.
#include "scores.cuh"

struct Forward {
    Problem p;
    Mat o, lse;
};

constexpr int KEYS = 64;

// A block works on 16 rows of queries per warp, which stay in registers with their sums; keys and values come in tiles
// of `KEYS` rows, the next under way while one is worked on.
template <int QK, int V, int WARPS>
FN void attend(const Forward& a) {
    constexpr int ROWS = WARPS * 16, KEY_TILE = KEYS * padded(QK), VALUE_TILE = KEYS * padded(V);
    static_assert(ROWS <= 2 * KEYS, "queries are brought in through the two tiles of keys");
    const Problem& p = a.p;
    Carve carve;
    auto keys = carve.take<bf16>(2 * KEY_TILE);
    auto values = carve.take<bf16>(2 * VALUE_TILE);
    auto scratch = carve.take<int>(32);

    // The last rows have the most keys: first.
    int tiles = ceil_div(p.sequence, ROWS);
    Place at = place(p, tiles);
    int j = at.head, begin = (tiles - 1 - at.tile) * ROWS, rows = min_of(ROWS, p.sequence - begin);

    u32 q[QK / 16][4];
    load_queries<ROWS, QK>(keys, 0, p, j, at.first + begin, rows);
    copy_commit();
    copy_wait<0>();
    sync();
    load_left<QK>(q, keys, warp() * 16);
    // This lane's rows, and what they and their warp see: rows counted as keys are.
    int t[2] = {begin + warp() * 16 + lane() / 4, begin + warp() * 16 + lane() / 4 + 8};
    int start[2] = {first_seen(p, t[0], at.first), first_seen(p, t[1], at.first)};
    t[0] += p.before;
    t[1] += p.before;
    int warp_first = warp_least(min_of(start[0], start[1]));
    int warp_all = warp_most(max_of(start[0], start[1]));
    int warp_begin = p.before + begin + warp() * 16;
    int first = block_least(warp_first, scratch) / KEYS, last = (p.before + begin + rows - 1) / KEYS;

    float o[1][V / 8][4], most[2] = {-infinity(), -infinity()}, total[2] = {0.0f, 0.0f};
    clear(o[0]);
    float scale = p.scale * LOG2E;
    auto fetch = [&](int tile) {
        int from = at.first + tile * KEYS, count = min_of(KEYS, p.keys - tile * KEYS);
        load_keys<KEYS, QK>(keys, tile % 2 * KEY_TILE, p, j, from, count);
        load_values<KEYS, V>(values, tile % 2 * VALUE_TILE, p, j, from, count);
        copy_commit();
    };
    fetch(first);
    for (int tile = first; tile <= last; tile++) {
        copy_wait<0>();
        sync();
        if (tile < last) fetch(tile + 1);
        int u = tile * KEYS, key_at = opaque(tile % 2 * KEY_TILE), value_at = opaque(tile % 2 * VALUE_TILE);
        if (u > warp_begin + 15 || u + KEYS <= warp_first) continue;

        float s[KEYS / 8][4];
        clear(s);
        multiply_transposed<QK, KEYS / 16>(s, q, keys, key_at);
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int k = 0; k < 4; k++) s[n][k] *= scale;
        // Most tiles are seen whole.
        if (u + KEYS > warp_begin + 1 || u < warp_all)
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    int key = u + n * 8 + lane() % 4 * 2 + k % 2;
                    if (key < start[k / 2] || key > t[k / 2]) s[n][k] = -infinity();
                }
        float shift[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float x = most[i];
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
                x = s[n][2 * i] > x ? s[n][2 * i] : x;
                x = s[n][2 * i + 1] > x ? s[n][2 * i + 1] : x;
            }
            float y = shuffle_xor(x, 1);
            x = y > x ? y : x;
            y = shuffle_xor(x, 2);
            x = y > x ? y : x;
            // A row that has seen nothing yet keeps zeros.
            shift[i] = x == -infinity() ? 0.0f : x;
            float factor = fast_exp2(most[i] - shift[i]);
            most[i] = x;
            total[i] *= factor;
#pragma unroll
            for (int n = 0; n < V / 8; n++) {
                o[0][n][2 * i] *= factor;
                o[0][n][2 * i + 1] *= factor;
            }
        }
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                s[n][k] = fast_exp2(s[n][k] - shift[k / 2]);
                total[k / 2] += s[n][k];
            }
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            u32 x[1][4];
            as_left(x[0], s[2 * k], s[2 * k + 1]);
            multiply_rows<V, V / 16>(o, x, values, value_at + k * 16 * padded(V));
        }
    }

#pragma unroll
    for (int i = 0; i < 2; i++) {
        total[i] += shuffle_xor(total[i], 1);
        total[i] += shuffle_xor(total[i], 2);
        int row = t[i] - p.before;
        if (row >= p.sequence) continue;
        float factor = 1.0f / total[i];
#pragma unroll
        for (int n = 0; n < V / 8; n++)
            put_pair(a.o, at.first + row, j * p.value, p.value, n * 8 + lane() % 4 * 2, o[0][n][2 * i] * factor,
                     o[0][n][2 * i + 1] * factor, p.aligned);
        if (lane() % 4 == 0 && a.lse.rows > 0)
            store(a.lse, at.first + row, j, fma(most[i], LN2, natural_log(total[i])));
    }
}
KERNEL(attention_bf16_32_32, Forward, 128) {
    attend<32, 32, 4>(a);
}
KERNEL(attention_bf16_64_64, Forward, 128) {
    attend<64, 64, 4>(a);
}
KERNEL(attention_bf16_96_64, Forward, 128) {
    attend<96, 64, 4>(a);
}
KERNEL(attention_bf16_128_128, Forward, 256) {
    attend<128, 128, 8>(a);
}
KERNEL(attention_bf16_192_128, Forward, 256) {
    attend<192, 128, 8>(a);
}

// Any types and widths: eight threads for each of `p.tile` rows of queries.
KERNEL(attention_general, Forward, 256) {
    const Problem& p = a.p;
    int n = p.tile, width = p.nope + p.rope;
    Carve carve;
    Rows queries(carve, n, width), keys(carve, n, width), values(carve, n, p.value), o(carve, n, p.value);
    Rows probabilities(carve, n, n);
    auto scratch = carve.take<int>(32);

    int tiles = ceil_div(p.sequence, n);
    Place at = place(p, tiles);
    int j = at.head, begin = (tiles - 1 - at.tile) * n, rows = min_of(n, p.sequence - begin);
    int i = thread() / 8, part = thread() % 8, row = begin + i, t = p.before + row;
    int start = first_seen(p, row, at.first);
    int first = block_least(start, scratch) / n, last = (p.before + begin + rows - 1) / n;
    queries.load_queries(p, j, at.first + begin, rows);
    for (int c = part; c < p.value; c += 8) o.set(i, c, 0.0f);

    float most = -infinity(), total = 0.0f;
    for (int tile = first; tile <= last; tile++) {
        int u = tile * n, count = min_of(n, p.keys - u);
        sync();
        keys.load_keys(p, j, at.first + u, count);
        values.load_values(p, j, at.first + u, count);
        sync();
        float s[4], x = most;
        for (int k = 0; k < 4 && k * 8 < n; k++) {
            int key = k * 8 + part;
            bool seen = u + key >= start && u + key <= t;
            s[k] = seen ? dot(queries, i, keys, key, width) * p.scale : -infinity();
            x = s[k] > x ? s[k] : x;
        }
        for (int d = 1; d < 8; d *= 2) {
            float y = shuffle_xor(x, d);
            x = y > x ? y : x;
        }
        float shift = x == -infinity() ? 0.0f : x, factor = fast_exp(most - shift);
        most = x;
        total *= factor;
        for (int k = 0; k < 4 && k * 8 < n; k++) {
            float e = fast_exp(s[k] - shift);
            total += e;
            probabilities.set(i, k * 8 + part, e);
        }
        sync_warp();
        for (int c = part; c < p.value; c += 8) {
            float sum = o.get(i, c) * factor;
            for (int k = 0; k < n; k++) sum = fma(probabilities.get(i, k), values.get(k, c), sum);
            o.set(i, c, sum);
        }
    }
    for (int d = 1; d < 8; d *= 2) total += shuffle_xor(total, d);
    if (i >= rows) return;
    for (int c = part; c < p.value; c += 8) store(a.o, at.first + row, j * p.value + c, o.get(i, c) / total);
    if (part == 0 && a.lse.rows > 0) store(a.lse, at.first + row, j, most + natural_log(total));
}

struct Mask {
    Mat first, y;
    i64 base, last;
};

// y[r, c] = -inf unless first[r] ≤ base + c ≤ last + r.
KERNEL(mask_window, Mask, 256) {
    int r, c;
    if (!eighth(a.y, (u32)block_x() * (u32)threads() + (u32)thread(), r, c)) return;
    i64 first = row<u32>(a.first, r).get(0), last = a.last + r;
    for (int k = 0; k < 8 && k < a.y.cols - c; k++) {
        i64 position = a.base + c + k;
        if (position < first || position > last) store(a.y, r, c + k, -infinity());
    }
}
