// Gradient of causal attention. With probabilities `p = exp(scale·q·k − lse)` computed again, `delta = Σ o·do` of a row
// and head, and `ds = p·(do·v − delta)`: dv = Σ_t p·do, dk = scale·Σ_t ds·q, dq = scale·Σ_u ds·k (Dao,
// "FlashAttention-2", 2023, algorithm 2).
//
// One kernel gathers keys' and values' gradients over the queries, another the queries' over the keys, so that each sum
// is made in one place and in one order: scores are computed once more than they must be, and nothing is added by
// atomic operations. What the heads give to the keys with position lies in `partial` until it is summed in the heads'
// order.
#include "scores.cuh"

struct Backward {
    Problem p;
    Mat o, lse, d_o, dq, dkv, dk_pe;
    // Of each row of a sequence, in whole tiles of 64:
    u64 weights;  // [sequences, h, rows, 2] f32: lse·log2(e) and delta
    u64 starts;   // [sequences, rows] int: the first row that it sees, counted in its sequence
    u64 lowest;   // [sequences, tiles] int: the least of these
    u64 partial;  // [t, h, rope] f32
};

constexpr int TILE = 64;

FN i64 whole_tiles(const Problem& p) {
    return (i64)p.sequences * ceil_div(p.sequence, TILE);
}
FN Span<float> weights(const Backward& a) {
    return span<float>(a.weights, whole_tiles(a.p) * a.p.heads * TILE * 2);
}
// The place in `weights` of the first row of a sequence, itself from row `first` on, for head `j`.
FN i64 weights_of(const Problem& p, int first, int j) {
    return ((i64)(first / p.sequence) * p.heads + j) * ceil_div(p.sequence, TILE) * TILE * 2;
}
FN Span<int> starts(const Backward& a) {
    return span<int>(a.starts, whole_tiles(a.p) * TILE);
}
FN Span<int> lowest(const Backward& a) {
    return span<int>(a.lowest, whole_tiles(a.p));
}
FN Span<float> partials(const Backward& a) {
    return span<float>(a.partial, (i64)a.p.q.rows * a.p.heads * a.p.rope);
}

// A warp for each row and head, with those behind a sequence's end that fill the tile.
KERNEL(attention_grad_weights, Backward, 256) {
    const Problem& p = a.p;
    int rows = ceil_div(p.sequence, TILE) * TILE;
    i64 at = (i64)block_x() * (threads() / 32) + warp();
    bool is_there = at < (i64)p.sequences * p.heads * rows;
    int r = (int)(at % rows), j = (int)(at / rows % p.heads), t = (int)(at / rows / p.heads) * p.sequence + r;
    bool is_row = is_there && r < p.sequence;
    float sum = 0.0f;
    if (is_row)
        for (int c = j * p.value + lane(); c < (j + 1) * p.value; c += 32)
            sum = fma(load(a.o, t, c), load(a.d_o, t, c), sum);
    sum = warp_sum(sum);
    if (is_there && lane() == 0)
        weights(a).set_pair(2 * at, Pair{as_bits(is_row ? load(a.lse, t, j) * LOG2E : 0.0f), as_bits(sum)});
}

// A block for each tile of a sequence.
KERNEL(attention_grad_starts, Backward, 64) {
    Carve carve;
    auto scratch = carve.take<int>(32);
    int tiles = ceil_div(a.p.sequence, TILE), tile = block_x() % tiles, sequence = block_x() / tiles;
    int start = first_seen(a.p, tile * TILE + thread(), sequence * a.p.sequence);
    starts(a).set((i64)block_x() * TILE + thread(), start);
    int least = block_least(start, scratch);
    if (thread() == 0) lowest(a).set(block_x(), least);
}

// The sum over heads, a thread for each row and column.
KERNEL(attention_grad_positions, Backward, 256) {
    i64 at = (i64)block_x() * threads() + thread();
    int rope = a.p.rope;
    if (at >= (i64)a.p.q.rows * rope) return;
    int t = (int)(at / rope), c = (int)(at % rope);
    auto from = partials(a);
    float sum = 0.0f;
    for (int j = 0; j < a.p.heads; j++) sum += from.get(((i64)t * a.p.heads + j) * rope + c);
    store(a.dk_pe, t, c, sum);
}

// Column `c` of the gradient of a key of head `j`, if it is the part with position.
FN void put_position(const Backward& a, int t, int j, int c, float x) {
    const Problem& p = a.p;
    if (c >= p.nope && c < p.nope + p.rope) partials(a).set(((i64)t * p.heads + j) * p.rope + c - p.nope, x);
}

// Gradients of 64 keys and values, which four pairs of warps hold 16 rows each of. Of a pair, each computes scores for
// half the queries of a tile, and puts probabilities and their gradients into shared memory. Sums over all queries of
// the tile are then made in blocks of 16·M keys and one part in PARTS of the columns: quarters, where the widths have
// such, since two blocks of keys use an operand that is fetched once.
template <int QK, int V>
FN void keys_gradient(const Backward& a) {
    constexpr int QUERY_TILE = TILE * padded(QK), SCORES = TILE * padded(TILE), HALF = TILE / 2;
    constexpr int PARTS = QK % 64 == 0 && V % 64 == 0 ? 4 : 2, M = PARTS / 2, QK_PART = QK / PARTS, V_PART = V / PARTS;
    const Problem& p = a.p;
    Carve carve;
    auto queries = carve.take<bf16>(2 * QUERY_TILE);
    auto outputs = carve.take<bf16>(TILE * padded(V));
    auto probabilities = carve.take<bf16>(SCORES);
    auto gradients = carve.take<bf16>(SCORES);
    auto weight = carve.take<float>(2 * TILE);
    auto start = carve.take<int>(TILE);

    // The first keys have the most queries: first.
    int tiles = ceil_div(p.sequence, TILE);
    Place at = place(p, tiles);
    int j = at.head, begin = at.tile * TILE, rows = min_of(TILE, p.sequence - begin);
    int r = warp() % 4 * 16, side = warp() / 4;
    int sum_r = warp() % (8 / PARTS) * 16 * M, part = warp() / (8 / PARTS);

    u32 k[QK / 16][4], v[V / 16][4];
    load_keys<TILE, QK>(queries, 0, p, j, at.first + begin, rows);
    load_values<TILE, V>(outputs, 0, p, j, at.first + begin, rows);
    copy_commit();
    copy_wait<0>();
    sync();
    load_left<QK>(k, queries, r);
    load_left<V>(v, outputs, r);
    sync();

    auto fetch = [&](int tile, int turn) {
        int count = min_of(TILE, p.sequence - tile * TILE);
        load_queries<TILE, QK>(queries, turn * QUERY_TILE, p, j, at.first + tile * TILE, count);
    };
    auto low = lowest(a);
    int low_at = at.first / p.sequence * tiles;
    i64 weights_at = weights_of(p, at.first, j);
    float dk[M][QK_PART / 8][4], dv[M][V_PART / 8][4], scale = p.scale * LOG2E;
#pragma unroll
    for (int m = 0; m < M; m++) {
        clear(dk[m]);
        clear(dv[m]);
    }
    fetch(at.tile, 0);
    copy_commit();
    for (int tile = at.tile, turn = 0; tile < tiles;) {
        // Tiles of queries of which none sees a key are left out.
        int following = tile + 1;
        while (following < tiles && low.get(low_at + following) >= begin + rows) following++;
        int from = at.first + tile * TILE, count = min_of(TILE, p.sequence - tile * TILE);
        copy_wait<0>();
        sync();
        load_tile<TILE, V>(outputs, 0, a.d_o, j * p.value, p.value, a.d_o, 0, from, count, p.aligned);
        if (thread() < TILE / 2)
            copy_async(weight, thread() * 4, weights(a), weights_at + tile * TILE * 2 + thread() * 4, true);
        else if (thread() < TILE / 2 + TILE / 4)
            copy_async(start, thread() * 4 - TILE * 2, starts(a),
                       (i64)(low_at + tile) * TILE + thread() * 4 - TILE * 2, true);
        copy_commit();
        if (following < tiles) fetch(following, 1 - turn);
        copy_commit();
        float s[HALF / 8][4];
        clear(s);
        multiply_transposed<QK, HALF / 16>(s, k, queries, turn * QUERY_TILE + side * HALF * padded(QK));
        copy_wait<1>();
        sync();
        // Of 16 queries at a time, which leaves registers to fetch operands ahead.
        float dp[2][4];
#pragma unroll
        for (int n = 0; n < HALF / 8; n++) {
            if (n % 2 == 0) {
                clear(dp);
                multiply_transposed<V, 1>(dp, v, outputs, (side * HALF + n * 8) * padded(V));
            }
            // Two queries: what they weigh, and the first rows they see.
            int i = side * HALF + n * 8 + lane() % 4 * 2;
            Quad w = weight.quad(2 * i);
            Pair first = start.pair(i);
            float lse[2] = {as_float(w.x), as_float(w.z)}, delta[2] = {as_float(w.y), as_float(w.w)};
            int begins[2] = {(int)first.x, (int)first.y};
#pragma unroll
            for (int b = 0; b < 2; b++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    int key = begin + r + lane() / 4 + h * 8;
                    bool seen = key >= begins[b] && key <= tile * TILE + i + b;
                    float& x = s[n][h * 2 + b];
                    x = seen ? fast_exp2(fma(x, scale, -lse[b])) : 0.0f;
                    dp[n % 2][h * 2 + b] = x * (dp[n % 2][h * 2 + b] - delta[b]);
                }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int to = (r + lane() / 4 + h * 8) * padded(TILE) + i;
                probabilities.set_word(to, pack_bf16(s[n][h * 2], s[n][h * 2 + 1]));
                gradients.set_word(to, pack_bf16(dp[n % 2][h * 2], dp[n % 2][h * 2 + 1]));
            }
        }
        sync();
#pragma unroll
        for (int i = 0; i < TILE; i += 16) {
            u32 x[M][4];
            int at = sum_r * padded(TILE) + by_rows<TILE>() + i;
#pragma unroll
            for (int m = 0; m < M; m++) load_matrix(x[m], probabilities, at + m * 16 * padded(TILE));
            multiply_rows<V, V_PART / 16>(dv, x, outputs, i * padded(V) + part * V_PART);
#pragma unroll
            for (int m = 0; m < M; m++) load_matrix(x[m], gradients, at + m * 16 * padded(TILE));
            multiply_rows<QK, QK_PART / 16>(dk, x, queries, turn * QUERY_TILE + i * padded(QK) + part * QK_PART);
        }
        tile = following;
        turn = 1 - turn;
    }
    copy_wait<0>();

    int column = j * (p.nope + p.value);
#pragma unroll
    for (int h = 0; h < 2 * M; h++) {
        int key = sum_r + lane() / 4 + h * 8, t = at.first + begin + key, i = h % 2 * 2;
        if (key >= rows) continue;
#pragma unroll
        for (int n = 0; n < V_PART / 8; n++) {
            int c = part * V_PART + n * 8 + lane() % 4 * 2;
            float x = dv[h / 2][n][i], y = dv[h / 2][n][i + 1];
            put_pair(a.dkv, t, column + p.nope, p.value, c, x, y, p.aligned);
        }
#pragma unroll
        for (int n = 0; n < QK_PART / 8; n++) {
            int c = part * QK_PART + n * 8 + lane() % 4 * 2;
            float x = dk[h / 2][n][i] * p.scale, y = dk[h / 2][n][i + 1] * p.scale;
            put_pair(a.dkv, t, column, p.nope, c, x, y, p.aligned);
            put_position(a, t, j, c, x);
            put_position(a, t, j, c + 1, y);
        }
    }
}

// Gradients of 16 queries per warp, which stay in registers with the outputs' gradients; keys and values come in tiles
// as they do forward, and are worked on by 16 rows, which leaves registers to fetch operands ahead.
template <int QK, int V, int WARPS>
FN void queries_gradient(const Backward& a) {
    constexpr int ROWS = WARPS * 16, KEY_TILE = TILE * padded(QK), VALUE_TILE = TILE * padded(V);
    static_assert(ROWS <= 2 * TILE, "queries are brought in through the two tiles of keys");
    const Problem& p = a.p;
    Carve carve;
    auto keys = carve.take<bf16>(2 * KEY_TILE);
    auto values = carve.take<bf16>(2 * VALUE_TILE);
    auto scratch = carve.take<int>(32);

    int tiles = ceil_div(p.sequence, ROWS);
    Place at = place(p, tiles);
    int j = at.head, begin = (tiles - 1 - at.tile) * ROWS, rows = min_of(ROWS, p.sequence - begin);

    u32 q[QK / 16][4], d_o[V / 16][4];
    load_queries<ROWS, QK>(keys, 0, p, j, at.first + begin, rows);
    load_tile<ROWS, V>(values, 0, a.d_o, j * p.value, p.value, a.d_o, 0, at.first + begin, rows, p.aligned);
    copy_commit();
    copy_wait<0>();
    sync();
    load_left<QK>(q, keys, warp() * 16);
    load_left<V>(d_o, values, warp() * 16);
    int warp_begin = begin + warp() * 16;
    int t[2] = {warp_begin + lane() / 4, warp_begin + lane() / 4 + 8};
    int start[2] = {first_seen(p, t[0], at.first), first_seen(p, t[1], at.first)};
    int warp_first = warp_least(min_of(start[0], start[1]));
    int warp_all = warp_most(max_of(start[0], start[1]));
    float lse[2], delta[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        bool is_there = t[i] < p.sequence;
        Pair weight = is_there ? weights(a).pair(weights_of(p, at.first, j) + 2 * t[i]) : Pair{0, 0};
        lse[i] = as_float(weight.x);
        delta[i] = as_float(weight.y);
    }
    int first = block_least(warp_first, scratch) / TILE, last = (begin + rows - 1) / TILE;

    float dq[1][QK / 8][4], scale = p.scale * LOG2E;
    clear(dq[0]);
    auto fetch = [&](int tile) {
        int from = at.first + tile * TILE, count = min_of(TILE, p.sequence - tile * TILE);
        load_keys<TILE, QK>(keys, tile % 2 * KEY_TILE, p, j, from, count);
        load_values<TILE, V>(values, tile % 2 * VALUE_TILE, p, j, from, count);
        copy_commit();
    };
    fetch(first);
    for (int tile = first; tile <= last; tile++) {
        copy_wait<0>();
        sync();
        if (tile < last) fetch(tile + 1);
#pragma unroll 1
        for (int r = 0; r < TILE; r += 16) {
            int u = tile * TILE + r;
            if (u > warp_begin + 15 || u + 16 <= warp_first) continue;
            int key_at = opaque(tile % 2 * KEY_TILE + r * padded(QK));
            int value_at = opaque(tile % 2 * VALUE_TILE + r * padded(V));
            float s[2][4], dp[2][4];
            clear(s);
            clear(dp);
            // The two products take turns, so that neither waits for its own sums.
#pragma unroll
            for (int k = 0; k < (QK > V ? QK : V) / 16; k++) {
                if (k < QK / 16) multiply_step<QK, 1>(s, q[k], keys, key_at + k * 16);
                if (k < V / 16) multiply_step<V, 1>(dp, d_o[k], values, value_at + k * 16);
            }
            bool all = u + 16 <= warp_begin + 1 && u >= warp_all;
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    int key = u + n * 8 + lane() % 4 * 2 + k % 2;
                    bool seen = all || (key >= start[k / 2] && key <= t[k / 2]);
                    float x = seen ? fast_exp2(fma(s[n][k], scale, -lse[k / 2])) : 0.0f;
                    s[n][k] = x * (dp[n][k] - delta[k / 2]);
                }
            u32 x[1][4];
            as_left(x[0], s[0], s[1]);
            multiply_rows<QK, QK / 16>(dq, x, keys, key_at);
        }
    }

    int width = p.nope + p.rope;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (t[i] >= p.sequence) continue;
#pragma unroll
        for (int n = 0; n < QK / 8; n++)
            put_pair(a.dq, at.first + t[i], j * width, width, n * 8 + lane() % 4 * 2, dq[0][n][2 * i] * p.scale,
                     dq[0][n][2 * i + 1] * p.scale, p.aligned);
    }
}

KERNEL(attention_grad_keys_bf16_32_32, Backward, 256) {
    keys_gradient<32, 32>(a);
}
KERNEL(attention_grad_queries_bf16_32_32, Backward, 128) {
    queries_gradient<32, 32, 4>(a);
}
// The compiler would aim for more blocks on a multiprocessor than registers suffice for.
KERNEL_OCCUPANCY(attention_grad_keys_bf16_64_64, Backward, 256, 1) {
    keys_gradient<64, 64>(a);
}
KERNEL(attention_grad_queries_bf16_64_64, Backward, 128) {
    queries_gradient<64, 64, 4>(a);
}
KERNEL(attention_grad_keys_bf16_96_64, Backward, 256) {
    keys_gradient<96, 64>(a);
}
KERNEL(attention_grad_queries_bf16_96_64, Backward, 128) {
    queries_gradient<96, 64, 4>(a);
}
KERNEL(attention_grad_keys_bf16_128_128, Backward, 256) {
    keys_gradient<128, 128>(a);
}
KERNEL(attention_grad_queries_bf16_128_128, Backward, 256) {
    queries_gradient<128, 128, 8>(a);
}
KERNEL(attention_grad_keys_bf16_192_128, Backward, 256) {
    keys_gradient<192, 128>(a);
}
KERNEL(attention_grad_queries_bf16_192_128, Backward, 256) {
    queries_gradient<192, 128, 8>(a);
}

// Any types and widths: eight threads for each of `p.tile` keys.
KERNEL(attention_grad_keys_general, Backward, 256) {
    const Problem& p = a.p;
    int n = p.tile, width = p.nope + p.rope;
    Carve carve;
    Rows keys(carve, n, width), values(carve, n, p.value), queries(carve, n, width), outputs(carve, n, p.value);
    Rows dk(carve, n, width), dv(carve, n, p.value), probabilities(carve, n, n), gradients(carve, n, n);
    auto lse = carve.take<float>(n);
    auto delta = carve.take<float>(n);
    auto starts = carve.take<int>(n);

    int tiles = ceil_div(p.sequence, n);
    Place at = place(p, tiles);
    int j = at.head, begin = at.tile * n, rows = min_of(n, p.sequence - begin);
    int i = thread() / 8, part = thread() % 8, key = begin + i;
    keys.load_keys(p, j, at.first + begin, rows);
    values.load_values(p, j, at.first + begin, rows);
    for (int c = part; c < width; c += 8) dk.set(i, c, 0.0f);
    for (int c = part; c < p.value; c += 8) dv.set(i, c, 0.0f);
    for (int tile = at.tile; tile < tiles; tile++) {
        int from = at.first + tile * n, count = min_of(n, p.sequence - tile * n);
        sync();
        queries.load_queries(p, j, from, count);
        outputs.load_from(p, a.d_o, j * p.value, p.value, a.d_o, 0, from, count);
        if (thread() < n) {
            bool is_there = thread() < count;
            lse.set(thread(), is_there ? load(a.lse, from + thread(), j) : 0.0f);
            i64 weight = weights_of(p, at.first, j) + 2 * (tile * n + thread()) + 1;
            delta.set(thread(), is_there ? weights(a).get(weight) : 0.0f);
            starts.set(thread(), first_seen(p, tile * n + thread(), at.first));
        }
        sync();
        for (int t = part; t < n; t += 8) {
            float x = 0.0f, dx = 0.0f;
            if (key >= starts.get(t) && key <= tile * n + t) {
                x = fast_exp(dot(queries, t, keys, i, width) * p.scale - lse.get(t));
                dx = x * (dot(outputs, t, values, i, p.value) - delta.get(t));
            }
            probabilities.set(i, t, x);
            gradients.set(i, t, dx);
        }
        sync_warp();
        for (int c = part; c < p.value; c += 8) {
            float sum = dv.get(i, c);
            for (int t = 0; t < n; t++) sum = fma(probabilities.get(i, t), outputs.get(t, c), sum);
            dv.set(i, c, sum);
        }
        for (int c = part; c < width; c += 8) {
            float sum = dk.get(i, c);
            for (int t = 0; t < n; t++) sum = fma(gradients.get(i, t), queries.get(t, c), sum);
            dk.set(i, c, sum);
        }
    }
    if (i >= rows) return;
    int column = j * (p.nope + p.value);
    for (int c = part; c < p.value; c += 8) store(a.dkv, at.first + key, column + p.nope + c, dv.get(i, c));
    for (int c = part; c < width; c += 8) {
        float x = dk.get(i, c) * p.scale;
        if (c < p.nope) store(a.dkv, at.first + key, column + c, x);
        put_position(a, at.first + key, j, c, x);
    }
}

// Any types and widths: eight threads for each of `p.tile` queries. Blocks are bounded as for 64 columns above.
KERNEL_OCCUPANCY(attention_grad_queries_general, Backward, 256, 2) {
    const Problem& p = a.p;
    int n = p.tile, width = p.nope + p.rope;
    Carve carve;
    Rows queries(carve, n, width), outputs(carve, n, p.value), keys(carve, n, width), values(carve, n, p.value);
    Rows dq(carve, n, width), gradients(carve, n, n);
    auto scratch = carve.take<int>(32);

    int tiles = ceil_div(p.sequence, n);
    Place at = place(p, tiles);
    int j = at.head, begin = (tiles - 1 - at.tile) * n, rows = min_of(n, p.sequence - begin);
    int i = thread() / 8, part = thread() % 8, t = begin + i, start = first_seen(p, t, at.first);
    int first = block_least(start, scratch) / n, last = (begin + rows - 1) / n;
    float lse = i < rows ? load(a.lse, at.first + t, j) : 0.0f;
    float delta = i < rows ? weights(a).get(weights_of(p, at.first, j) + 2 * t + 1) : 0.0f;
    queries.load_queries(p, j, at.first + begin, rows);
    outputs.load_from(p, a.d_o, j * p.value, p.value, a.d_o, 0, at.first + begin, rows);
    for (int c = part; c < width; c += 8) dq.set(i, c, 0.0f);
    for (int tile = first; tile <= last; tile++) {
        int u = tile * n, count = min_of(n, p.sequence - u);
        sync();
        keys.load_keys(p, j, at.first + u, count);
        values.load_values(p, j, at.first + u, count);
        sync();
        for (int key = part; key < n; key += 8) {
            float x = fast_exp(dot(queries, i, keys, key, width) * p.scale - lse);
            float dx = x * (dot(outputs, i, values, key, p.value) - delta);
            if (u + key < start || u + key > t) dx = 0.0f;
            gradients.set(i, key, dx);
        }
        sync_warp();
        for (int c = part; c < width; c += 8) {
            float sum = dq.get(i, c);
            for (int key = 0; key < n; key++) sum = fma(gradients.get(i, key), keys.get(key, c), sum);
            dq.set(i, c, sum);
        }
    }
    if (i >= rows) return;
    for (int c = part; c < width; c += 8) store(a.dq, at.first + t, j * width + c, dq.get(i, c) * p.scale);
}
