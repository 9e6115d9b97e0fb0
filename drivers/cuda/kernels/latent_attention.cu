// Attention of absorbed queries over cached latents (MLA with absorption, DeepSeek-V2 report, 2.1.2), split over the
// tokens ("Flash-Decoding", Dao et al., 2023).
//
// The order of every sum is fixed by a token's place in its sequence. Tokens come in splits of `SPLIT`, and splits in
// spans of `SPAN`. Each split is a softmax by itself, `(most, total, sums)`; the splits of a span are put together from
// the first to the last, and then the spans. A block computes a split or a span, whichever keeps the GPU busy, and the
// rest is put together by `latent_merge`. So results have the same bits whatever else is computed, and however the
// tokens lie in pages.
#include "scores.cuh"
#include "latent.cuh"

constexpr int SPLIT = 256, SPAN = 16;

struct Latent {
    Mat q, cache, tables, sequence, keys, o;
    Mat parts, stats;  // of each row, head and piece: [·, latent] sums, and [·, 2] their greatest score and total
    LatentRow row;
    int heads, page_tokens;
    int groups;  // of heads, which a block computes together
    int each;    // splits of a piece, which a block computes: 1 or SPAN
    int pieces;  // of the longest sequence that the tables have room for
    float scale;
    int aligned;    // rows of the cache and of q may be read in sixteen bytes
    int per_block;  // heads of a block of the general kernel
    u64 fault;
    u32 site, reserved;
};

// A part of a row's softmax is put to those before it: their sums count `by` times, its sums `part_by` times.
FN void fold(float& most, float& total, float part_most, float part_total, float& by, float& part_by) {
    float x = part_most > most ? part_most : most;
    by = fast_exp2(most - x);
    part_by = fast_exp2(part_most - x);
    most = x;
    total = fma(total, by, part_total * part_by);
}

// What a block works on: row `t`, heads from the first of group `group` on, and tokens from `begin` to `end` of its
// sequence; none where there is nothing to do.
struct Work {
    int t, group, sequence, begin, end;
};
FN Work work(const Latent& a, int t) {
    Work w = {t, block_x() % a.groups, 0, 0, 0};
    u32 sequence = row<u32>(a.sequence, w.t).get(0), keys = row<u32>(a.keys, w.t).get(0);
    u32 most = (u32)(a.tables.cols * a.page_tokens);
    if (!in_range(a.fault, a.site, sequence, (u32)a.tables.rows)) return w;
    // The last token that the row sees is one of those in its pages; a row sees one at least.
    if (!in_range(a.fault, a.site, keys - 1, most)) return w;
    w.sequence = (int)sequence;
    w.begin = block_y() * a.each * SPLIT;
    w.end = min_of((int)keys, w.begin + a.each * SPLIT);
    return w;
}

// The row of the cache that holds token `u` of a sequence; none past `end`, or if the page is none.
FN int slot_of(const Latent& a, const Work& w, int u) {
    if (u >= w.end) return -1;
    u32 page = row<u32>(a.tables, w.sequence).get(u / a.page_tokens);
    if (!in_range(a.fault, a.site, page, (u32)(a.cache.rows / a.page_tokens))) return -1;
    return (int)page * a.page_tokens + u % a.page_tokens;
}

// Where the sums of head `j` of row `t` go: piece `block_y()` of the row's.
FN int part_of(const Latent& a, int t, int j) {
    return (t * a.heads + j) * a.pieces + block_y();
}

// ---- bfloat16 on tensor cores

constexpr int KEYS = 32, WARPS = 8, SUMS = KEYS + 8;
// Columns that keys have room for.
constexpr int ROPE = 64;

// Which number of a token or query is column `c` of a tile, whose latent has room for LATENT; none in between.
template <int LATENT>
FN int number_at(const LatentRow& l, int c) {
    if (c < LATENT) return c < l.latent ? c : -1;
    return c - LATENT < l.rope ? l.latent + c - LATENT : -1;
}

// Sixteen heads times M, 32 tokens at a time. Scores are made by pairs of warps that share a quarter of the columns and
// have sixteen tokens each; all warps then know all probabilities, and have an eighth of the columns of the sums.
//
// Tokens of bfloat16 are copied to one tile while another is worked on. With CODES they are copied as they are, and
// decoded to the tile when that is free.
//
// With PAIR the M times sixteen heads are those of two rows next to each other, `w` of the first and `other` of the
// second, which are tokens of one sequence: as drafts are verified, so that both are seen by one reading of the cache.
// What a row sees is added as it is for a row alone.
template <int LATENT, int M, bool CODES, bool PAIR>
FN void attend_latents(const Latent& a, Work w, const Work& other) {
    constexpr int WIDTH = LATENT + ROPE, PITCH = padded(WIDTH), TILE_SIZE = KEYS * PITCH, HEADS = 16 * M;
    constexpr int STEPS = WIDTH / 64, COLUMNS = LATENT / WARPS, N = COLUMNS / 8;
    constexpr int RAW = (LATENT + LATENT / TILE * 4 + 2 * ROPE + 15) / 16 * 16;
    static_assert(WIDTH % 64 == 0 && COLUMNS % 16 == 0 && HEADS <= KEYS, "whole matrices");
    static_assert(!PAIR || M == 2, "two rows");
    const LatentRow& l = a.row;
    Carve carve;
    auto tile = carve.take<bf16>((CODES ? 1 : 2) * TILE_SIZE);
    auto scores = carve.take<float>(4 * HEADS * SUMS);
    // Of sixteen heads they stay in registers.
    auto queries = carve.take<bf16>(M > 1 ? HEADS * PITCH : 8);
    // The same place by words and by bytes.
    Carve same = carve;
    auto raw = carve.take<u32>(CODES ? KEYS * RAW / 4 : 4);
    auto raw_bytes = same.take<u8>(CODES ? KEYS * RAW : 16);
    // Where the tokens of each row end, and its last tile.
    int ends[M], lasts[M];
#pragma unroll
    for (int m = 0; m < M; m++) {
        ends[m] = PAIR && m > 0 ? other.end : w.end;
        lasts[m] = ends[m] > w.begin ? (ends[m] - 1) / KEYS : -1;
    }
    if (PAIR) w.end = max_of(w.end, other.end);
    int first_head = w.group * (PAIR ? 16 : HEADS), width = l.latent + l.rope;

    for (int i = thread(); i < HEADS * (WIDTH / 8); i += threads()) {
        int r = i / (WIDTH / 8), c = i % (WIDTH / 8) * 8;
        int j = first_head + (PAIR ? r % 16 : r), t = w.t + (PAIR ? r / 16 : 0);
        bool is_there = j < a.heads && t < a.q.rows;
        float v[8];
        int from = number_at<LATENT>(l, c);
        if (a.aligned && is_there && from >= 0)
            load_eight(a.q, t, j * width + from, true, v);
        else {
#pragma unroll 1
            for (int k = 0; k < 8; k++) {
                int from = number_at<LATENT>(l, c + k);
                v[k] = is_there && from >= 0 ? load(a.q, t, j * width + from) : 0.0f;
            }
        }
        (M > 1 ? queries : tile).set_quad(r * PITCH + c, Quad{pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]),
                                                              pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])});
    }
    sync();
    int quarter = warp() / 2, half = warp() % 2;
    u32 q[STEPS][4];
    if (M == 1) {
#pragma unroll
        for (int k = 0; k < STEPS; k++) load_matrix(q[k], tile, by_rows<WIDTH>() + (quarter * STEPS + k) * 16);
        sync();
    }

    // A warp brings tokens `warp()`, `warp() + 8` and on of a tile; lane i of each four knows where the i-th lies.
    auto find = [&](int i) { return slot_of(a, w, i * KEYS + warp() + WARPS * (lane() % 4)); };
    auto bring = [&](int i, int slot) {
#pragma unroll 1
        for (int n = 0; n < KEYS / WARPS; n++) {
            int s = shuffle(slot, n), r = warp() + WARPS * n;
            if (CODES) {
                if (a.aligned) {
                    auto from = whole<u8>(a.cache);
                    for (int c = lane() * 16; c < a.cache.cols; c += 512)
                        copy_async(raw_bytes, r * RAW + c, from, (i64)s * a.cache.stride + c, s >= 0);
                }
                continue;
            }
            int to = i % 2 * TILE_SIZE + r * PITCH;
            auto from = whole<bf16>(a.cache);
            for (int c = lane() * 8; c < WIDTH; c += 256) {
                if (a.aligned) {
                    int x = number_at<LATENT>(l, c);
                    copy_async(tile, to + c, from, (i64)s * a.cache.stride + x, s >= 0 && x >= 0);
                    continue;
                }
                u32 words[4] = {};
#pragma unroll 1
                for (int k = 0; k < 8; k++) {
                    int x = number_at<LATENT>(l, c + k);
                    if (s >= 0 && x >= 0) words[k / 2] |= (u32)row<bf16>(a.cache, s).get(x).bits << 16 * (k % 2);
                }
                tile.set_quad(to + c, Quad{words[0], words[1], words[2], words[3]});
            }
        }
        copy_commit();
    };
    auto decode = [&](int slot) {
#pragma unroll 1
        for (int n = 0; n < KEYS / WARPS; n++) {
            int s = shuffle(slot, n), r = warp() + WARPS * n;
            for (int c = lane() * 8; c < WIDTH; c += 256) {
                Quad y = {0, 0, 0, 0};
                int x = number_at<LATENT>(l, c);
                if (a.aligned && s >= 0 && x >= 0) {
                    if (c >= LATENT) {
                        int at = (r * RAW + l.keys) / 4 + (c - LATENT) / 2;
                        y = Quad{raw.get(at), raw.get(at + 1), raw.get(at + 2), raw.get(at + 3)};
                    } else {
                        float v[8], scale = as_float(raw.get((r * RAW + l.scales) / 4 + c / TILE));
                        Pair codes = raw.pair((r * RAW + c) / 4);
                        decode_e4m3(codes.x, codes.y, v);
#pragma unroll
                        for (int k = 0; k < 8; k++) v[k] *= scale;
                        y = Quad{pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                                 pack_bf16(v[6], v[7])};
                    }
                } else if (!a.aligned && s >= 0) {
                    u32 words[4] = {};
#pragma unroll 1
                    for (int k = 0; k < 8; k++) {
                        int x = number_at<LATENT>(l, c + k);
                        if (x >= 0) words[k / 2] |= (u32)to_bf16(cached(a.cache, l, s, x)) << 16 * (k % 2);
                    }
                    y = Quad{words[0], words[1], words[2], words[3]};
                }
                tile.set_quad(r * PITCH + c, y);
            }
        }
    };

    float scale = a.scale * LOG2E;
    // Of the split, and of all splits before it.
    float sums[M][N][4], most[M][2], total[M][2];
    float all_sums[M][N][4], all_most[M][2], all_total[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) {
        clear(sums[m]);
        clear(all_sums[m]);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            most[m][i] = all_most[m][i] = -infinity();
            total[m][i] = all_total[m][i] = 0.0f;
        }
    }

    int first = w.begin / KEYS, last = (w.end - 1) / KEYS;
    int slot = find(first), next = -1;
    bring(first, slot);
    if (first < last) next = find(first + 1);
    for (int i = first; i <= last; i++) {
        copy_wait<0>();
        sync();
        if (CODES) {
            decode(slot);
            sync_warp();
            slot = next;
        }
        if (i < last) {
            bring(i + 1, next);
            if (i + 1 < last) next = find(i + 2);
        }
        if (CODES) sync();
        int at = CODES ? 0 : opaque(i % 2 * TILE_SIZE);

        float s[M][4][4];
#pragma unroll
        for (int m = 0; m < M; m++) clear(s[m]);
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            u32 b[4];
            load_matrix(b, tile, at + half * 16 * PITCH + by_columns<WIDTH>() + (quarter * STEPS + k) * 16);
#pragma unroll
            for (int m = 0; m < M; m++) {
                if (M > 1)
                    load_matrix(q[k], queries, m * 16 * PITCH + by_rows<WIDTH>() + (quarter * STEPS + k) * 16);
                mma_bf16(s[m][0], q[k], b[0], b[1]);
                mma_bf16(s[m][1], q[k], b[2], b[3]);
            }
        }
        int r = lane() / 4, c = lane() % 4 * 2;
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    scores.set_pair((quarter * HEADS + m * 16 + r + 8 * h) * SUMS + half * 16 + n * 8 + c,
                                    Pair{as_bits(s[m][n][2 * h]), as_bits(s[m][n][2 * h + 1])});
        sync();
        u32 x[KEYS / 16][M][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
            if (PAIR && i > lasts[m]) {
                // Of this tile the row sees nothing.
#pragma unroll
                for (int k = 0; k < KEYS / 16; k++)
#pragma unroll
                    for (int n = 0; n < 4; n++) x[k][m][n] = 0;
                continue;
            }
            int seen = ends[m] - i * KEYS;
#pragma unroll
            for (int n = 0; n < 4; n++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    float low = 0.0f, high = 0.0f;
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        Pair p = scores.pair((k * HEADS + m * 16 + r + 8 * h) * SUMS + n * 8 + c);
                        low += as_float(p.x);
                        high += as_float(p.y);
                    }
                    s[m][n][2 * h] = n * 8 + c < seen ? low * scale : -infinity();
                    s[m][n][2 * h + 1] = n * 8 + c + 1 < seen ? high * scale : -infinity();
                }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float x = most[m][h];
#pragma unroll
                for (int n = 0; n < 4; n++) {
                    x = s[m][n][2 * h] > x ? s[m][n][2 * h] : x;
                    x = s[m][n][2 * h + 1] > x ? s[m][n][2 * h + 1] : x;
                }
                float y = shuffle_xor(x, 1);
                x = y > x ? y : x;
                y = shuffle_xor(x, 2);
                x = y > x ? y : x;
                float by = fast_exp2(most[m][h] - x);
                most[m][h] = x;
                total[m][h] *= by;
#pragma unroll
                for (int n = 0; n < N; n++) {
                    sums[m][n][2 * h] *= by;
                    sums[m][n][2 * h + 1] *= by;
                }
#pragma unroll
                for (int n = 0; n < 4; n++)
#pragma unroll
                    for (int k = 0; k < 2; k++) {
                        float& p = s[m][n][2 * h + k];
                        p = fast_exp2(p - x);
                        total[m][h] += p;
                    }
            }
#pragma unroll
            for (int k = 0; k < KEYS / 16; k++) as_left(x[k][m], s[m][2 * k], s[m][2 * k + 1]);
        }
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++)
            multiply_rows<WIDTH, N / 2>(sums, x[k], tile, at + k * 16 * PITCH + warp() * COLUMNS);
#pragma unroll
        for (int m = 0; m < M; m++) {
            if (((i + 1) % (SPLIT / KEYS) != 0 && i != lasts[m]) || i > lasts[m]) continue;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                total[m][h] += shuffle_xor(total[m][h], 1);
                total[m][h] += shuffle_xor(total[m][h], 2);
                float by, part_by;
                fold(all_most[m][h], all_total[m][h], most[m][h], total[m][h], by, part_by);
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int k = 0; k < 2; k++) {
                        float& y = all_sums[m][n][2 * h + k];
                        y = fma(y, by, sums[m][n][2 * h + k] * part_by);
                    }
                most[m][h] = -infinity();
                total[m][h] = 0.0f;
            }
            clear(sums[m]);
        }
    }

#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int j = first_head + (PAIR ? 0 : m * 16) + lane() / 4 + 8 * h, t = w.t + (PAIR ? m : 0);
            if (j >= a.heads || lasts[m] < 0) continue;
            int part = part_of(a, t, j), begin = warp() * COLUMNS + lane() % 4 * 2;
            float by = 1.0f / all_total[m][h];
            if (a.pieces > 1 && warp() == 0 && lane() % 4 == 0) {
                auto stats = row<float>(a.stats, part);
                stats.set(0, all_most[m][h]);
                stats.set(1, all_total[m][h]);
            }
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    int c = begin + n * 8 + k;
                    float x = all_sums[m][n][2 * h + k];
                    if (c >= l.latent) continue;
                    if (a.pieces > 1)
                        row<float>(a.parts, part).set(c, x);
                    else
                        store(a.o, t, j * l.latent + c, x * by);
                }
        }
}
template <int LATENT, int M, bool CODES>
FN void attend_row(const Latent& a) {
    Work w = work(a, block_x() / a.groups);
    if (w.begin < w.end) attend_latents<LATENT, M, CODES, false>(a, w, w);
}
// Rows that turn out to be of different sequences are computed one after the other. No barrier is needed in between:
// nobody reads the queries after the last tile's, and the tile is written behind the next row's first.
template <int LATENT, bool CODES>
FN void attend_pair(const Latent& a) {
    int t = block_x() / a.groups * 2;
    Work first = work(a, t), second = {t + 1, first.group, 0, 0, 0};
    if (t + 1 < a.q.rows) second = work(a, t + 1);
    bool together = first.sequence == second.sequence && first.begin < first.end && second.begin < second.end;
#pragma unroll 1
    for (int pass = 0; pass < (together ? 1 : 2); pass++) {
        Work w = first, other = second;
        if (!together) {
            w = pass == 0 ? first : Work{t, second.group, second.sequence, second.begin, 0};
            if (pass == 0) other.end = 0;
        }
        if (max_of(w.end, other.end) <= w.begin) continue;
        attend_latents<LATENT, 2, CODES, true>(a, w, other);
    }
}
#define LATENTS(name, LATENT, M)                        \
    KERNEL(latent_attention_bf16_##name, Latent, 256) { \
        attend_row<LATENT, M, false>(a);                \
    }                                                   \
    KERNEL(latent_attention_fp8_##name, Latent, 256) {  \
        attend_row<LATENT, M, true>(a);                 \
    }
LATENTS(128, 128, 1)
LATENTS(512, 512, 1)
LATENTS(512_twice, 512, 2)
// One block on a multiprocessor, said so that no register is spared for a second.
#define PAIRS(name, LATENT)                                                 \
    KERNEL_OCCUPANCY(latent_attention_bf16_##name##_pair, Latent, 256, 1) { \
        attend_pair<LATENT, false>(a);                                      \
    }                                                                       \
    KERNEL_OCCUPANCY(latent_attention_fp8_##name##_pair, Latent, 256, 1) {  \
        attend_pair<LATENT, true>(a);                                       \
    }
PAIRS(128, 128)
PAIRS(512, 512)

// ---- any types and widths

constexpr int FEW = 16;

// A warp for each of `per_block` heads makes scores and probabilities of `FEW` tokens at a time; then a thread for each
// column adds to the sums of all heads.
KERNEL_OCCUPANCY(latent_attention_general, Latent, 256, 2) {
    const LatentRow& l = a.row;
    int width = l.latent + l.rope, heads = a.per_block;
    Carve carve;
    Rows tokens(carve, FEW, width), queries(carve, heads, width), sums(carve, heads, l.latent);
    Rows all_sums(carve, heads, l.latent), probabilities(carve, heads, FEW);
    // How often the sums count, and of the last tokens of a split those of all splits and the split's.
    auto factors = carve.take<float>(3 * heads);
    Work w = work(a, block_x() / a.groups);
    if (w.begin >= w.end) return;
    int j = w.group * heads + warp();
    for (int c = lane(); c < width; c += 32)
        queries.set(warp(), c, j < a.heads ? load(a.q, w.t, j * width + c) : 0.0f);
    for (int c = thread(); c < l.latent; c += threads())
        for (int h = 0; h < heads; h++) {
            sums.set(h, c, 0.0f);
            all_sums.set(h, c, 0.0f);
        }
    float scale = a.scale * LOG2E, most = -infinity(), total = 0.0f, all_most = -infinity(), all_total = 0.0f;
    for (int u = w.begin; u < w.end; u += FEW) {
        int count = min_of(FEW, w.end - u);
        bool ends = (u + FEW) % SPLIT == 0 || u + FEW >= w.end;
        sync();
        for (int r = warp(); r < FEW; r += threads() / 32) {
            int slot = slot_of(a, w, u + r);
            for (int c = lane(); c < width; c += 32) tokens.set(r, c, slot >= 0 ? cached(a.cache, l, slot, c) : 0.0f);
        }
        sync();
        int key = lane() / 2;
        float s = 0.0f;
        for (int c = lane() % 2; c < width; c += 2) s = fma(queries.get(warp(), c), tokens.get(key, c), s);
        s += shuffle_xor(s, 1);
        s = key < count ? s * scale : -infinity();
        float x = warp_max(s);
        x = x > most ? x : most;
        float by = fast_exp2(most - x), p = fast_exp2(s - x);
        most = x;
        total = fma(total, by, warp_sum(lane() % 2 == 0 ? p : 0.0f));
        if (lane() % 2 == 0) probabilities.set(warp(), key, p);
        float all_by = 1.0f, part_by = 1.0f;
        if (ends) {
            fold(all_most, all_total, most, total, all_by, part_by);
            most = -infinity();
            total = 0.0f;
        }
        if (lane() == 0) {
            factors.set(warp(), by);
            factors.set(heads + warp(), all_by);
            factors.set(2 * heads + warp(), part_by);
        }
        sync();
        for (int c = thread(); c < l.latent; c += threads()) {
            float v[FEW];
#pragma unroll
            for (int k = 0; k < FEW; k++) v[k] = tokens.get(k, c);
            for (int h = 0; h < heads; h++) {
                float y = sums.get(h, c) * factors.get(h);
#pragma unroll
                for (int k = 0; k < FEW; k++) y = fma(probabilities.get(h, k), v[k], y);
                if (ends) {
                    all_sums.set(h, c, fma(all_sums.get(h, c), factors.get(heads + h), y * factors.get(2 * heads + h)));
                    y = 0.0f;
                }
                sums.set(h, c, y);
            }
        }
    }
    sync();
    if (lane() == 0) {
        factors.set(warp(), all_most);
        factors.set(heads + warp(), all_total);
    }
    sync();
    for (int h = 0; h < heads && w.group * heads + h < a.heads; h++) {
        int head = w.group * heads + h, part = part_of(a, w.t, head);
        float by = 1.0f / factors.get(heads + h);
        if (a.pieces > 1 && thread() < 2) row<float>(a.stats, part).set(thread(), factors.get(thread() * heads + h));
        for (int c = thread(); c < l.latent; c += threads()) {
            if (a.pieces > 1)
                row<float>(a.parts, part).set(c, all_sums.get(h, c));
            else
                store(a.o, w.t, head * l.latent + c, all_sums.get(h, c) * by);
        }
    }
}

// Puts the pieces of a row and head together, a column in each thread.
KERNEL(latent_merge, Latent, 128) {
    int t = block_x() / a.heads, j = block_x() % a.heads, c = block_y() * threads() + thread();
    u32 keys = row<u32>(a.keys, t).get(0);
    // What `work` reported has no pieces.
    bool is_there = row<u32>(a.sequence, t).get(0) < (u32)a.tables.rows;
    if (!is_there || keys - 1 >= (u32)(a.tables.cols * a.page_tokens) || c >= a.row.latent) return;
    int pieces = ceil_div((int)keys, a.each * SPLIT), in_span = SPAN / a.each, first = (t * a.heads + j) * a.pieces;
    float all_most = -infinity(), all_total = 0.0f, all = 0.0f, by, part_by;
    for (int begin = 0; begin < pieces; begin += in_span) {
        float most = -infinity(), total = 0.0f, x = 0.0f;
#pragma unroll 4
        for (int i = begin; i < min_of(begin + in_span, pieces); i++) {
            auto stats = row<float>(a.stats, first + i);
            float part = row<float>(a.parts, first + i).get(c);
            fold(most, total, stats.get(0), stats.get(1), by, part_by);
            x = fma(x, by, part * part_by);
        }
        fold(all_most, all_total, most, total, by, part_by);
        all = fma(all, by, x * part_by);
    }
    store(a.o, t, j * a.row.latent + c, all * (1.0f / all_total));
}
