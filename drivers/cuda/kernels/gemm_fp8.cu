// Matrix products of E4M3 codes with scales, plain and grouped: exact products of codes are summed over a tile of the
// inner dimension, and the sum, times the scales of its factors, is added to the total in f32 (DeepSeek-V3, 3.3.2).
//
// Codes become f16, which holds every one of them, on their way from shared memory to the tensor cores: Hopper's
// `mma.sync` would do the same with codes. A matrix load moves pairs of codes, so that a lane gets four: all along the
// inner dimension, two for each of two registers of f16; or, of a tile that is loaded transposed, two along it times
// two rows or columns, which are told apart by giving even and odd ones to different tiles.
#include "fathom.cuh"
#include "tile.cuh"

struct ProductFp8 {
    Product p;
    Mat a_scales, b_scales;
    // Where a new tile begins: at every `part` of the inner dimension, and at every `block` rows of b in NT.
    int part, block;
};

constexpr int TILE = 128, STAGES = 2;

// Sixteen rows or columns by 32 of the inner dimension, in codes, from a tile [outer, inner] or, TRANSPOSED,
// [inner, outer]. The inner dimension is in the same order for both factors: NATURAL where both are transposed.
template <bool TRANSPOSED, bool NATURAL, int PITCH>
FN void load_codes(u32 (&r)[4], Shared<u16> s, int base, int outer, int k, int by_outer, int by_inner) {
    if (TRANSPOSED) {
        int i = lane() % 8, q = lane() / 8;
        k += NATURAL ? lane() : q / 2 * 16 + i / 2 * 4 + q % 2 * 2 + i % 2;
        load_matrix_transposed(r, s, (base + k * PITCH + outer) / 2);
    } else {
        load_matrix(r, s, (base + (outer + lane() % 8 + by_outer * 8) * PITCH + k) / 2 + by_inner * 8);
    }
}
// Where they were transposed, bytes are (k, even), (k, odd), (k + 1, even), (k + 1, odd); those of one row or column
// then come together.
template <bool TRANSPOSED>
FN u32 together(u32 r) {
    return TRANSPOSED ? (r & 0xff0000ff) | (r >> 8 & 0xff00) | (r << 8 & 0xff0000) : r;
}
// As sixteen rows of a, or as sixteen columns of b in two tiles of eight.
template <bool TRANSPOSED>
FN void as_a(u32 (&a)[2][4], const u32 (&codes)[4]) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        u32 r0 = together<TRANSPOSED>(codes[2 * h]), r1 = together<TRANSPOSED>(codes[2 * h + 1]);
        a[h][0] = e4m3_to_f16(r0);
        a[h][1] = e4m3_to_f16(TRANSPOSED ? r0 >> 16 : r1);
        a[h][2] = e4m3_to_f16(TRANSPOSED ? r1 : r0 >> 16);
        a[h][3] = e4m3_to_f16(r1 >> 16);
    }
}
template <bool TRANSPOSED>
FN void as_b(u32 (&b)[2][2][2], const u32 (&codes)[4]) {
    u32 r[4];
#pragma unroll
    for (int n = 0; n < 4; n++) r[n] = together<TRANSPOSED>(codes[n]);
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            b[h][j][0] = e4m3_to_f16(TRANSPOSED ? r[2 * h] >> 16 * j : r[2 * j + h]);
            b[h][j][1] = e4m3_to_f16(TRANSPOSED ? r[2 * h + 1] >> 16 * j : r[2 * j + h] >> 16);
        }
}

// A row or column of a block's tile: where its scale is for the first tile of the inner dimension, and how far apart
// those of the next are.
struct Scales {
    Span<float> from;
    i64 at, step;
    bool inside;
};
template <int FORM, int M>
FN Scales scales_of(const ProductFp8& a, const Place& at, int i) {
    bool first = i < M;
    const Mat& m = first ? a.a_scales : a.b_scales;
    Scales s = {whole<float>(m), 0, FORM == NT || (FORM == NN && first) ? 1 : m.stride, false};
    int outer = first ? at.m0 + i : at.n0 + i - M;
    s.inside = outer < (first ? at.m1 : at.n1);
    if (FORM == TN)
        s.at = (i64)(a.p.groups > 0 ? at.start / TILE + at.group : 0) * m.stride + outer;
    else if (first)
        s.at = (i64)outer * m.stride;
    else if (FORM == NN)
        s.at = (i64)(at.b_row / a.part) * ceil_div(a.part, TILE) * m.stride + outer / TILE;
    else {
        int r = at.b_row + outer, part = r / a.block;
        s.at = ((i64)part * ceil_div(a.block, TILE) + (r - part * a.block) / TILE) * m.stride;
    }
    return s;
}

// A tile of M×N by warps of which ACROSS are side by side and two one under the other.
template <int FORM, int M, int N, int ACROSS, bool ALIGNED>
FN void multiply(const ProductFp8& a) {
    constexpr bool A_T = FORM == TN, B_T = FORM != NT, NATURAL = FORM == TN;
    constexpr int A_PITCH = pitch<u8>(A_T ? M : TILE), B_PITCH = pitch<u8>(B_T ? N : TILE);
    constexpr int A_SIZE = A_PITCH * (A_T ? TILE : M), B_SIZE = B_PITCH * (B_T ? TILE : N), SIZE = A_SIZE + B_SIZE;
    constexpr int I = M / 32, J = N / ACROSS / 8, THREADS = 64 * ACROSS;
    static_assert(M + N == THREADS, "a thread fetches one scale");
    const Product& p = a.p;
    Place at;
    if (!place(p, FORM, M, N, at)) return;
    Carve carve, same;
    auto ring = carve.take<u8>(STAGES * SIZE);
    auto pairs = same.take<u16>(STAGES * SIZE / 2);
    auto scales = carve.take<float>(STAGES * THREADS);

    int in_part = ceil_div(a.part, TILE);
    int steps = FORM == TN ? ceil_div(at.k1 - at.k0, TILE) : p.k / a.part * in_part;
    Feed<A_T ? TILE : M, A_T ? M : TILE, THREADS, A_T, ALIGNED, u8> a_feed(
        p.a, A_T ? at.k0 : at.m0, A_T ? at.m0 : at.k0, at.m1 - at.m0);
    Feed<B_T ? TILE : N, B_T ? N : TILE, THREADS, B_T, ALIGNED, u8> b_feed(
        p.b, at.b_row + (B_T ? at.k0 : at.n0), B_T ? at.n0 : at.k0, at.n1 - at.n0);
    // What is left, before a piece, of the part that it is of; and how wide the piece is.
    int part = FORM == TN ? at.k1 - at.k0 : a.part, left_to_fetch = part, left = part;
    auto piece = [&](int& left) {
        int width = min_of(TILE, left);
        left = left > width ? left - width : part;
        return width;
    };
    auto fetch = [&](int step) {
        int base = step % STAGES * SIZE, width = piece(left_to_fetch);
        a_feed.next(ring, base, width);
        b_feed.next(ring, base + A_SIZE, width);
    };
    Scales mine = scales_of<FORM, M>(a, at, thread());
    auto scale = [&](int step) { return mine.inside ? mine.from.get(mine.at + step * mine.step) : 0.0f; };

    float total[I][J][4] = {}, next_scale = 0.0f;
    int row0 = warp() / ACROSS * (M / 2), col0 = warp() % ACROSS * (N / ACROSS);
    int group = lane() / 4, quarter = lane() % 4;
    if (steps > 0) {
        fetch(0);
        next_scale = scale(0);
    }
    copy_commit();
    expect_tile<M, N>(p, at);
    for (int step = 0; step < steps; step++) {
        int slot = step % STAGES, base = slot * SIZE;
        scales.set(slot * THREADS + thread(), next_scale);
        copy_wait<0>();
        // All see this piece, and all are done with the one before it, whose place is filled next.
        sync();
        if (step + 1 < steps) {
            fetch(step + 1);
            next_scale = scale(step + 1);
        }
        copy_commit();
        int width = piece(left);
        float sums[I][J][4] = {};
        u32 a_codes[I][4], b_codes[J / 2][4];
        auto load = [&](int d) {
            int by_a = lane() / 8 % 2, by_b = lane() / 16;
#pragma unroll
            for (int i = 0; i < I; i++)
                load_codes<A_T, NATURAL, A_PITCH>(a_codes[i], pairs, base, row0 + i * 16, d, by_a, by_b);
#pragma unroll
            for (int j = 0; j < J / 2; j++)
                load_codes<B_T, NATURAL, B_PITCH>(b_codes[j], pairs, base + A_SIZE, col0 + j * 16, d, by_b, by_a);
        };
        load(0);
        for (int d = 0; d < width; d += 32) {
            u32 x[I][2][4], y[J / 2][2][2][2];
#pragma unroll
            for (int i = 0; i < I; i++) as_a<A_T>(x[i], a_codes[i]);
#pragma unroll
            for (int j = 0; j < J / 2; j++) as_b<B_T>(y[j], b_codes[j]);
            // The next codes are on their way while these are multiplied.
            if (d + 32 < width) load(d + 32);
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
                for (int i = 0; i < I; i++)
#pragma unroll
                    for (int j = 0; j < J; j++)
                        mma_f16(sums[i][j], x[i][h], y[j / 2][h][j % 2][0], y[j / 2][h][j % 2][1]);
        }
        float of_col[J][2];
#pragma unroll
        for (int j = 0; j < J; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int c = B_T ? j / 2 * 16 + 4 * quarter + j % 2 + 2 * e : j * 8 + 2 * quarter + e;
                of_col[j][e] = scales.get(slot * THREADS + M + col0 + c);
            }
#pragma unroll
        for (int i = 0; i < I; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int r = A_T ? 2 * group + h : group + 8 * h;
                float of_row = scales.get(slot * THREADS + row0 + i * 16 + r);
                // One factor at a time: their product may leave f32's range where the sum does not.
#pragma unroll
                for (int j = 0; j < J; j++)
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        float& t = total[i][j][2 * h + e];
                        t = fma(sums[i][j][2 * h + e] * of_row, of_col[j][e], t);
                    }
            }
    }
    finish<M, N, A_T, B_T>(p, at, row0, col0, total, threads());
}

#define FORMS(form, FORM)                                                  \
    KERNEL(gemm_fp8_##form##_large, ProductFp8, 256) {                     \
        multiply<FORM, 128, 128, 4, true>(a);                              \
    }                                                                      \
    KERNEL(gemm_fp8_##form##_small, ProductFp8, 128) {                     \
        multiply<FORM, 64, 64, 2, true>(a);                                \
    }                                                                      \
    KERNEL(gemm_fp8_##form##_ragged, ProductFp8, 128) {                    \
        multiply<FORM, 64, 64, 2, false>(a);                               \
    }
FORMS(nt, NT)
FORMS(nn, NN)
FORMS(tn, TN)

#ifdef FATHOM_HOPPER
#include "warpgroups.cuh"

// The form NT by warpgroups, 64 rows each: while one adds a tile of the inner dimension in f32, the other multiplies.
// Tensor cores take the codes as they are. Blocks of b start at multiples of TILE within a product, so a tile of the
// result has one row of them.
KERNEL_OCCUPANCY(gemm_fp8_nt_warpgroups, Boxes<ProductFp8>, WITH_COPIER, 1) {
    const ProductFp8& q = a.product;
    const Product& p = q.p;
    Place at;
    if (!place(p, NT, TILE, TILE, at)) return;
    Carve carve;
    BoxRing<u8, 6, TILE, TILE> ring(carve);
    int steps = ceil_div(p.k, TILE);
    if (thread() >= WORKERS) {
        copy_boxes(ring, a.a, at.m0, a.b, at.b_row + at.n0, steps);
        return;
    }
    take_registers<232>();
    int row0 = warp() * 16, r = at.m0 + row0 + lane() / 4;
    auto a_scales = whole<float>(q.a_scales), b_scales = whole<float>(q.b_scales);
    int b_row = at.b_row + at.n0, part = b_row / q.block;
    i64 b_at = ((i64)part * ceil_div(q.block, TILE) + (b_row - part * q.block) / TILE) * q.b_scales.stride;
    float next[3] = {}, total[1][16][4] = {};
    auto scales = [&](int step) {
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (r + 8 * h < at.m1) next[h] = a_scales.get((i64)(r + 8 * h) * q.a_scales.stride + step);
        next[2] = b_scales.get(b_at + step);
    };
    if (steps > 0) scales(0);
    Accumulators<TILE> sums;
    for (int step = 0; step < steps; step++) {
        float of_row[2] = {next[0], next[1]}, of_col = next[2];
        ring.wait(step);
        wgmma_fence(sums);
#pragma unroll
        for (int d = 0; d < 4; d++) wgmma_e4m3(sums, ring.a_tile(step, d), ring.b_tile(step, d), d > 0);
        wgmma_commit();
        if (step + 1 < steps) scales(step + 1);
        wgmma_wait<0>(sums);
        ring.done(step);
        // One factor at a time, as above.
#pragma unroll
        for (int j = 0; j < 16; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                total[0][j][e] = fma(sums.get(j * 4 + e) * of_row[e / 2], of_col, total[0][j][e]);
    }
    finish<TILE, TILE, false, false>(p, at, row0, 0, total, WORKERS);
}
#endif
