// GEMM of F32 and BF16 matrices, plain and grouped.
#include "fathom.cuh"
#include "tile.cuh"

// Sixteen rows and sixteen of the inner dimension of a, from a tile [rows, inner] or, TRANSPOSED, [inner, rows].
template <bool TRANSPOSED, int PITCH>
FN void load_a(u32 (&r)[4], Shared<bf16> s, int base, int m, int k) {
    if (TRANSPOSED)
        load_matrix_transposed(r, s, base + (k + lane() % 8 + lane() / 16 * 8) * PITCH + m + lane() / 8 % 2 * 8);
    else
        load_matrix(r, s, base + (m + lane() % 16) * PITCH + k + lane() / 16 * 8);
}
// Sixteen columns of b, as two tiles of eight, from a tile [columns, inner] or, TRANSPOSED, [inner, columns].
template <bool TRANSPOSED, int PITCH>
FN void load_b(u32 (&r)[4], Shared<bf16> s, int base, int n, int k) {
    if (TRANSPOSED)
        load_matrix_transposed(r, s, base + (k + lane() % 16) * PITCH + n + lane() / 16 * 8);
    else
        load_matrix(r, s, base + (n + lane() % 8 + lane() / 16 * 8) * PITCH + k + lane() / 8 % 2 * 8);
}

// BF16 on tensor cores: a tile of M×N by warps of which ACROSS are side by side and two one under the other. While one
// piece of the inner dimension is multiplied, those after it are on their way through a ring of STAGES; and while the
// tensor cores have one sixteen of it, the fragments of the next are loaded.
template <int FORM, int M, int N, int K, int STAGES, int ACROSS, bool ALIGNED>
FN void multiply(const Product& p) {
    constexpr bool A_T = FORM == TN, B_T = FORM != NT;
    constexpr int A_ROWS = A_T ? K : M, A_COLS = A_T ? M : K, B_ROWS = B_T ? K : N, B_COLS = B_T ? N : K;
    constexpr int A_PITCH = pitch<bf16>(A_COLS), B_PITCH = pitch<bf16>(B_COLS);
    constexpr int A_SIZE = A_PITCH * A_ROWS, SIZE = A_SIZE + B_PITCH * B_ROWS;
    constexpr int I = M / 32, J = N / ACROSS / 8, THREADS = 64 * ACROSS, PARTS = K / 16;
    static_assert(PARTS % 2 == 0, "fragments of a piece end in the buffer where they began");
    Place at;
    if (!place(p, FORM, M, N, at)) return;
    Carve carve;
    auto ring = carve.take<bf16>(STAGES * SIZE);
    int steps = ceil_div(at.k1 - at.k0, K);
    Feed<A_ROWS, A_COLS, THREADS, A_T, ALIGNED, bf16> a_feed(p.a, A_T ? at.k0 : at.m0, A_T ? at.m0 : at.k0,
                                                             at.m1 - at.m0);
    Feed<B_ROWS, B_COLS, THREADS, B_T, ALIGNED, bf16> b_feed(p.b, at.b_row + (B_T ? at.k0 : at.n0), B_T ? at.n0 : at.k0,
                                                             at.n1 - at.n0);
    int left = at.k1 - at.k0;
    auto fetch = [&](int base) {
        int width = min_of(K, left);
        a_feed.next(ring, base, width);
        b_feed.next(ring, base + A_SIZE, width);
        left -= width;
    };
    float sums[I][J][4] = {};
    u32 x[2][I][4], y[2][J / 2][4];
    int row0 = warp() / ACROSS * (M / 2), col0 = warp() % ACROSS * (N / ACROSS);
    auto load = [&](int base, int k, int to) {
#pragma unroll
        for (int i = 0; i < I; i++) load_a<A_T, A_PITCH>(x[to][i], ring, base, row0 + i * 16, k);
#pragma unroll
        for (int j = 0; j < J / 2; j++) load_b<B_T, B_PITCH>(y[to][j], ring, base + A_SIZE, col0 + j * 16, k);
    };
#pragma unroll
    for (int step = 0; step < STAGES; step++) {
        if (step < steps) fetch(step * SIZE);
        copy_commit();
    }
    expect_tile<M, N>(p, at);
    copy_wait<STAGES - 1>();
    sync();
    if (steps > 0) load(0, 0, 0);
    int base = 0;
    for (int step = 0; step < steps; step++) {
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            if (part + 1 < PARTS)
                load(base, (part + 1) * 16, (part + 1) % 2);
            else {
                // All see the next piece, and all are done with this one, whose place is filled next: what is left of
                // it is in registers.
                int free = base;
                base = base + SIZE < STAGES * SIZE ? base + SIZE : 0;
                copy_wait<STAGES - 2>();
                sync();
                if (step + 1 < steps) load(base, 0, 0);
                if (step + STAGES < steps) fetch(free);
                copy_commit();
            }
#pragma unroll
            for (int i = 0; i < I; i++)
#pragma unroll
                for (int j = 0; j < J; j++) {
                    const u32(&b)[4] = y[part % 2][j / 2];
                    mma_bf16(sums[i][j], x[part % 2][i], b[j % 2 * 2], b[j % 2 * 2 + 1]);
                }
        }
    }
    finish<M, N, false, false>(p, at, row0, col0, sums, threads());
}

// The widest tile has a multiprocessor's shared memory for itself: it reads three quarters, for a sum, of what a tile
// of 128×128 does, in whole lines of 128 bytes. Where there is not that much, STAGES are fewer, or the tile is smaller.
#define FORMS(form, FORM)                                                \
    KERNEL(gemm_##form##_wide4, Product, 256) {                          \
        multiply<FORM, 128, 256, 64, 4, 4, true>(a);                     \
    }                                                                    \
    KERNEL(gemm_##form##_wide3, Product, 256) {                          \
        multiply<FORM, 128, 256, 64, 3, 4, true>(a);                     \
    }                                                                    \
    KERNEL_OCCUPANCY(gemm_##form##_large, Product, 128, 2) {             \
        multiply<FORM, 128, 128, 32, 4, 2, true>(a);                     \
    }                                                                    \
    KERNEL(gemm_##form##_small, Product, 128) {                          \
        multiply<FORM, 64, 64, 32, 4, 2, true>(a);                       \
    }                                                                    \
    KERNEL(gemm_##form##_ragged, Product, 128) {                         \
        multiply<FORM, 64, 64, 32, 2, 2, false>(a);                      \
    }
FORMS(nt, NT)
FORMS(nn, NN)
FORMS(tn, TN)

#ifdef FATHOM_HOPPER
#include "warpgroups.cuh"

// BF16 in form NT by warpgroups: a tile of 128×256, of which each has 64 rows. While the tensor cores have one step,
// the next is begun.
KERNEL_OCCUPANCY(gemm_nt_warpgroups, Boxes<Product>, WITH_COPIER, 1) {
    constexpr int M = 128, N = 256;
    const Product& p = a.product;
    Place at;
    if (!place(p, NT, M, N, at)) return;
    Carve carve;
    BoxRing<bf16, 4, M, N> ring(carve);
    int steps = ceil_div(p.k, ring.DEPTH);
    if (thread() >= WORKERS) {
        copy_boxes(ring, a.a, at.m0, a.b, at.b_row + at.n0, steps);
        return;
    }
    take_registers<232>();
    Accumulators<N> sums;
    for (int step = 0; step < steps; step++) {
        ring.wait(step);
        wgmma_fence(sums);
#pragma unroll
        for (int d = 0; d < 4; d++)
            wgmma_bf16(sums, ring.a_tile(step, d), ring.b_tile(step, d), step > 0 || d > 0);
        wgmma_commit();
        // The step before is done.
        wgmma_wait<1>();
        if (step > 0) ring.done(step - 1);
    }
    wgmma_wait<0>(sums);
    float total[1][N / 8][4];
#pragma unroll
    for (int i = 0; i < N / 2; i++) total[0][i / 4][i % 4] = steps > 0 ? sums.get(i) : 0.0f;
    finish<M, N, false, false>(p, at, warp() * 16, 0, total, WORKERS);
}
#endif

// A thread's four elements of a tile of 64 by 16 of the inner dimension: number n is element (i, k) of op(x), whose
// inner dimension runs along the rows of `m` where `down`, else across.
constexpr int TILE = 64, DEPTH = 16, SHARE = 4, TILE_PITCH = TILE + 4;
FN int outer_of(bool down, int n) {
    return down ? thread() % TILE : thread() / DEPTH + n * 16;
}
FN int inner_of(bool down, int n) {
    return down ? thread() / TILE + n * 4 : thread() % DEPTH;
}
template <class T>
FN void fetch(float (&x)[SHARE], const Mat& m, bool down, int i0, int i1, int k0, int k1) {
    auto from = whole<T>(m);
    T read[SHARE] = {};
#pragma unroll
    for (int n = 0; n < SHARE; n++) {
        int i = i0 + outer_of(down, n), k = k0 + inner_of(down, n);
        if (i < i1 && k < k1) read[n] = from.get(down ? k * m.stride + i : i * m.stride + k);
    }
#pragma unroll
    for (int n = 0; n < SHARE; n++) x[n] = widen(read[n]);
}
FN void fetch(float (&x)[SHARE], const Mat& m, bool down, int i0, int i1, int k0, int k1) {
    switch (m.dtype) {
        case BF16: fetch<bf16>(x, m, down, i0, i1, k0, k1); break;
        case F16: fetch<f16>(x, m, down, i0, i1, k0, k1); break;
        default: fetch<float>(x, m, down, i0, i1, k0, k1);
    }
}
FN void keep(Shared<float> tile, int base, bool down, const float (&x)[SHARE]) {
#pragma unroll
    for (int n = 0; n < SHARE; n++) tile.set(base + inner_of(down, n) * TILE_PITCH + outer_of(down, n), x[n]);
}
template <class T>
FN void put_rows(const Product& p, const Place& at, int row0, int col0, const float (&sums)[4][4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (row0 + i >= at.m1) continue;
        i64 line = (i64)(at.c_row + row0 + i) * p.c.stride + col0;
        put<T>(p, line, col0, at.n1, sums[i][0], sums[i][1]);
        put<T>(p, line + 2, col0 + 2, at.n1, sums[i][2], sums[i][3]);
    }
}

// Factors of any types, in f32: a tile of 64×64 by 256 threads, four by four elements each.
KERNEL(gemm_f32, Product, 256) {
    Place at;
    if (!place(a, a.form, TILE, TILE, at)) return;
    constexpr int PIECE = DEPTH * TILE_PITCH, SIZE = 2 * PIECE;
    Carve carve;
    auto tiles = carve.take<float>(2 * SIZE);
    bool a_down = a.form == TN, b_down = a.form != NT;
    // What a row of b is past the group's first, on the axis it lies.
    int n_off = b_down ? 0 : at.b_row, k_off = b_down ? at.b_row : 0;
    float next_a[SHARE], next_b[SHARE], sums[4][4] = {};
    auto load_next = [&](int k) {
        fetch(next_a, a.a, a_down, at.m0, at.m1, k, at.k1);
        fetch(next_b, a.b, b_down, n_off + at.n0, n_off + at.n1, k_off + k, k_off + at.k1);
    };
    int row0 = thread() / 16 * 4, col0 = thread() % 16 * 4, slot = 0;
    if (at.k0 < at.k1) load_next(at.k0);
    for (int k = at.k0; k < at.k1; k += DEPTH) {
        keep(tiles, slot, a_down, next_a);
        keep(tiles, slot + PIECE, b_down, next_b);
        // All see this piece, and all are done with the last one but one, whose place is filled next.
        sync();
        if (k + DEPTH < at.k1) load_next(k + DEPTH);
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            Quad x = tiles.quad(slot + d * TILE_PITCH + row0), y = tiles.quad(slot + PIECE + d * TILE_PITCH + col0);
            float xs[4] = {as_float(x.x), as_float(x.y), as_float(x.z), as_float(x.w)};
            float ys[4] = {as_float(y.x), as_float(y.y), as_float(y.z), as_float(y.w)};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] = fma(xs[i], ys[j], sums[i][j]);
        }
        slot = SIZE - slot;
    }
    row0 += at.m0;
    col0 += at.n0;
    switch (a.c.dtype) {
        case BF16: put_rows<bf16>(a, at, row0, col0, sums); break;
        case F16: put_rows<f16>(a, at, row0, col0, sums); break;
        default: put_rows<float>(a, at, row0, col0, sums);
    }
}
