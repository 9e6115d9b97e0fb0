// Products of few rows with weights as they are stored, `y = x·Wᵀ`: what decoding multiplies. Weights are read once.
//
// A warp computes four columns of y for up to sixteen rows. A lane has every 32nd piece of the inner dimension, and the
// sums of the lanes are added in one order. So a row has the same bits with however many others, and whether or not
// rows are aligned.
#include "fathom.cuh"
#include "tile.cuh"
#include "weights.cuh"

struct Gemv {
    Mat x, y, offsets;
    Weight w;
    int n, k;
    int groups;  // of rows, each with `n` rows of w; 0 for one product
    int accumulate;
    int wide;  // rows of x may be read in sixteen bytes
    // Of several products side by side: columns of x and y from one to the next, rows of w, and the first row of w.
    int x_step, y_step, w_step, w_first;
};

constexpr int OUTPUTS = 4;

template <class W, int ROWS_AT_ONCE, int AHEAD>
FN void multiply(const Gemv& a) {
    constexpr int R = ROWS_AT_ONCE, STEP = 32 * W::COUNT;
    Place at = {};
    at.m0 = block_y() * R;
    at.m1 = a.x.rows;
    // All lanes of a warp leave here, or none.
    if (a.groups > 0 && !find_group(a.offsets, a.groups, a.x.rows, R, block_y(), at)) return;
    int first = (block_x() * (threads() / 32) + warp()) * OUTPUTS, count = min_of(OUTPUTS, a.n - first);
    int rows = min_of(R, at.m1 - at.m0), x_col = block_z() * a.x_step, y_col = block_z() * a.y_step;
    if (count <= 0 || rows <= 0) return;
    int w_row = a.w_first + block_z() * a.w_step + at.group * a.n + first, scales[OUTPUTS];
#pragma unroll
    for (int i = 0; i < OUTPUTS; i++) scales[i] = scale_row(a.w, w_row + min_of(i, count - 1));

    float sums[OUTPUTS][R] = {};
    W ring[AHEAD][OUTPUTS];
    auto fetch = [&](int d, int c) {
#pragma unroll
        for (int i = 0; i < OUTPUTS; i++) ring[d][i].fetch(a.w, w_row + min_of(i, count - 1), scales[i], c);
    };
#pragma unroll
    for (int d = 0; d < AHEAD; d++) fetch(d, lane() * W::COUNT + d * STEP);
    for (int begin = lane() * W::COUNT; begin < a.k; begin += AHEAD * STEP) {
#pragma unroll
        for (int d = 0; d < AHEAD; d++) {
            int c = begin + d * STEP;
#pragma unroll
            for (int h = 0; h < W::COUNT / 8; h++) {
                float w[OUTPUTS][8];
#pragma unroll
                for (int i = 0; i < OUTPUTS; i++) ring[d][i].get(h, w[i]);
                if (h == W::COUNT / 8 - 1) fetch(d, c + AHEAD * STEP);
                int at_x = c + 8 * h;
                if (at_x >= a.k) continue;
#pragma unroll
                for (int r = 0; r < R; r++) {
                    if (r >= rows) continue;
                    float x[8];
                    if (a.wide)
                        load_eight(a.x, at.m0 + r, x_col + at_x, true, x);
                    else {
#pragma unroll 1
                        for (int k = 0; k < 8; k++)
                            x[k] = at_x + k < a.k ? load(a.x, at.m0 + r, x_col + at_x + k) : 0.0f;
                    }
#pragma unroll
                    for (int i = 0; i < OUTPUTS; i++)
#pragma unroll
                        for (int k = 0; k < 8; k++) sums[i][r] = fma(w[i][k], x[k], sums[i][r]);
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < OUTPUTS; i++)
#pragma unroll
        for (int r = 0; r < R; r++) {
            float sum = warp_sum(sums[i][r]);
            if (i >= count || r >= rows || lane() != (i * R + r) % 32) continue;
            int t = at.m0 + r, c = y_col + first + i;
            store(a.y, t, c, a.accumulate ? load(a.y, t, c) + sum : sum);
        }
}

#define PRODUCTS(name, W, AHEAD)                   \
    KERNEL(gemv_##name##_1, Gemv, 128) {           \
        multiply<W, 1, AHEAD>(a);                  \
    }                                              \
    KERNEL(gemv_##name##_4, Gemv, 128) {           \
        multiply<W, 4, 2>(a);                      \
    }                                              \
    KERNEL(gemv_##name##_16, Gemv, 128) {          \
        multiply<W, 16, 1>(a);                     \
    }
PRODUCTS(f32, Floats<float>, 2)
PRODUCTS(bf16, Floats<bf16>, 4)
PRODUCTS(e4m3, Codes, 4)
KERNEL(gemv_f32_any, Gemv, 128) {
    multiply<SingleFloats<float>, 4, 1>(a);
}
KERNEL(gemv_bf16_any, Gemv, 128) {
    multiply<SingleFloats<bf16>, 4, 1>(a);
}
KERNEL(gemv_f16_any, Gemv, 128) {
    multiply<SingleFloats<f16>, 4, 1>(a);
}
KERNEL(gemv_e4m3_any, Gemv, 128) {
    multiply<SingleCodes, 4, 1>(a);
}
