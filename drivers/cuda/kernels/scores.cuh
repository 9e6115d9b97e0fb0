// What attention and its gradient share: their operands, which rows see which, and tiles of rows in shared memory.
//
// Two kinds of kernels use this. Those on tensor cores work on bfloat16, with head widths rounded up to those of a
// template and columns of zeros behind the true ones. The general ones work on any types and widths, in f32.
#pragma once
#include "fathom.cuh"

struct Problem {
    Mat q, kv, k_pe, starts;
    int heads, nope, rope, value;
    int sequence, sequences;
    float scale;
    int before;   // keys before the first query of a sequence: of a chunk of one; else 0
    int keys;     // of a sequence
    int section;  // pairs of head and sequence that are worked on at a time, so that their operands stay in the cache
    int aligned;  // every part of every row of every operand begins on 16 bytes
    int tile;     // rows of a tile of the general kernels
};

// What a block works on: tile `tile` of the sequence that starts with row `first`, for head `head`.
struct Place {
    int tile, head, first;
};

// Section by section; within one, tile 0 of all pairs first.
FN Place place(const Problem& p, int tiles) {
    int section = block_x() / (p.section * tiles), at = block_x() % (p.section * tiles);
    int begin = section * p.section;
    int width = min_of(p.section, p.heads * p.sequences - begin);
    int pair = begin + at % width;
    return {at / width, pair % p.heads, pair / p.heads * p.sequence};
}

// The first row that row `t` of the sequence from row `first` on sees, both counted from the start of the sequence;
// for rows behind the sequence's end one that none can see.
constexpr int NOTHING = 0x7fffffff;
FN int first_seen(const Problem& p, int t, int first) {
    if (t >= p.sequence) return NOTHING;
    // A chunk sees all that is before it.
    if (p.starts.rows == 0) return 0;
    u32 start = row<u32>(p.starts, first + t).get(0);
    if (start < (u32)first) return 0;
    return start > (u32)(first + t) ? t : (int)start - first;
}

// The least and most over a warp, in every lane.
FN int warp_least(int x) {
    for (int d = 16; d > 0; d /= 2) x = min_of(x, shuffle_xor(x, d));
    return x;
}
FN int warp_most(int x) {
    for (int d = 16; d > 0; d /= 2) x = max_of(x, shuffle_xor(x, d));
    return x;
}
// The least over a block, in every thread; `scratch` holds 32 numbers.
FN int block_least(int x, Shared<int> scratch) {
    x = warp_least(x);
    if (lane() == 0) scratch.set(warp(), x);
    sync();
    for (int i = 0; i < threads() / 32; i++) x = min_of(x, scratch.get(i));
    return x;
}

// 2^x of scores is what the machine computes: they are scaled by log2(e) beforehand.
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

// Columns of a row of a tile of `columns`: eight more, so that the eight rows of a matrix lie in different banks.
FN constexpr int padded(int columns) {
    return columns + 8;
}

// Copies `rows` rows from row `first` on into a tile of ROWS × COLS at element `at`: `width` columns of `left` from
// `column` on, then `more` columns of `right`, then zeros; and zeros in further rows. At least one row must be there.
// The copies are under way until they are waited for.
template <int ROWS, int COLS>
FN void load_tile(Shared<bf16> to, int at, const Mat& left, int column, int width, const Mat& right, int more,
                  int first, int rows, bool aligned) {
    constexpr int CHUNKS = COLS / 8, LANES = CHUNKS > 16 ? 32 : CHUNKS > 8 ? 16 : CHUNKS;
    static_assert(CHUNKS <= 32 && (CHUNKS > 8 || (CHUNKS & (CHUNKS - 1)) == 0), "a row has at most a warp of chunks");
    // Each thread keeps to one place in a row.
    int me = thread(), c = me % LANES * 8, step = threads() / LANES;
    if (CHUNKS < LANES && c >= COLS) return;
    if (aligned) {
        bool is_left = c < width, is_there = c < width + more;
        Mat m = is_left ? left : right;
        int r = me / LANES;
        i64 from = (i64)(first + r) * m.stride + (is_left ? column + c : c - width), jump = step * m.stride;
        // Unrolled further it takes registers that the sums need.
#pragma unroll 1
        for (; r < ROWS; r += step, from += jump)
            copy_async(to, at + r * padded(COLS) + c, whole<bf16>(m), from, is_there && r < rows);
        return;
    }
#pragma unroll 1
    for (int r = me / LANES; r < ROWS; r += step) {
        u32 words[4] = {0, 0, 0, 0};
        for (int k = 0; k < 8; k++) {
            u32 x = 0;
            if (r < rows && c + k < width)
                x = row<bf16>(left, first + r).get(column + c + k).bits;
            else if (r < rows && c + k < width + more)
                x = row<bf16>(right, first + r).get(c + k - width).bits;
            words[k / 2] |= x << 16 * (k % 2);
        }
        to.set_quad(at + r * padded(COLS) + c, Quad{words[0], words[1], words[2], words[3]});
    }
}
// Rows of queries, keys and values of head `j`.
template <int ROWS, int COLS>
FN void load_queries(Shared<bf16> to, int at, const Problem& p, int j, int first, int rows) {
    int width = p.nope + p.rope;
    load_tile<ROWS, COLS>(to, at, p.q, j * width, width, p.q, 0, first, rows, p.aligned);
}
template <int ROWS, int COLS>
FN void load_keys(Shared<bf16> to, int at, const Problem& p, int j, int first, int rows) {
    load_tile<ROWS, COLS>(to, at, p.kv, j * (p.nope + p.value), p.nope, p.k_pe, p.rope, first, rows, p.aligned);
}
template <int ROWS, int COLS>
FN void load_values(Shared<bf16> to, int at, const Problem& p, int j, int first, int rows) {
    load_tile<ROWS, COLS>(to, at, p.kv, j * (p.nope + p.value) + p.nope, p.value, p.kv, 0, first, rows, p.aligned);
}

// Where a lane's row of the four matrices of a 16 × 16 block lies in a tile of COLS columns. With `by_rows` they come
// in the order of a left operand `[m, k]`, or with `load_matrix_transposed` of a right operand `[k, n]`; with
// `by_columns` in the order of a right operand that lies as `[n, k]`.
template <int COLS>
FN int by_rows() {
    return lane() % 16 * padded(COLS) + lane() / 16 * 8;
}
template <int COLS>
FN int by_columns() {
    return (lane() % 8 + lane() / 16 * 8) * padded(COLS) + lane() / 8 % 2 * 8;
}

// Left operands of all columns of 16 rows.
template <int COLS>
FN void load_left(u32 (&x)[COLS / 16][4], Shared<bf16> tile, int first_row) {
#pragma unroll
    for (int k = 0; k < COLS / 16; k++) load_matrix(x[k], tile, first_row * padded(COLS) + by_rows<COLS>() + k * 16);
}

// c[16, N·16] += x[16, 16] · (16 columns of a tile)ᵀ, from element `at` of it on: one step of a product of rows.
template <int COLS, int N>
FN void multiply_step(float (&c)[2 * N][4], const u32 (&x)[4], Shared<bf16> tile, int at) {
#pragma unroll
    for (int n = 0; n < N; n++) {
        u32 b[4];
        load_matrix(b, tile, at + by_columns<COLS>() + n * 16 * padded(COLS));
        mma_bf16(c[2 * n], x, b[0], b[1]);
        mma_bf16(c[2 * n + 1], x, b[2], b[3]);
    }
}
// c[16, N·16] += x[16, COLS] · tileᵀ, from the row of the tile at element `at` on.
template <int COLS, int N>
FN void multiply_transposed(float (&c)[2 * N][4], const u32 (&x)[COLS / 16][4], Shared<bf16> tile, int at) {
#pragma unroll
    for (int k = 0; k < COLS / 16; k++) multiply_step<COLS, N>(c, x[k], tile, at + k * 16);
}

// c[m][16, N·16] += x[m][16, 16] · 16 rows of a tile, from element `at` of it on.
template <int COLS, int N, int M>
FN void multiply_rows(float (&c)[M][2 * N][4], const u32 (&x)[M][4], Shared<bf16> tile, int at) {
#pragma unroll
    for (int n = 0; n < N; n++) {
        u32 b[4];
        load_matrix_transposed(b, tile, at + by_rows<COLS>() + n * 16);
#pragma unroll
        for (int m = 0; m < M; m++) {
            mma_bf16(c[m][2 * n], x[m], b[0], b[1]);
            mma_bf16(c[m][2 * n + 1], x[m], b[2], b[3]);
        }
    }
}

// Two 16 × 8 blocks of sums as a left operand of 16 columns.
FN void as_left(u32 (&x)[4], const float (&low)[4], const float (&high)[4]) {
    x[0] = pack_bf16(low[0], low[1]);
    x[1] = pack_bf16(low[2], low[3]);
    x[2] = pack_bf16(high[0], high[1]);
    x[3] = pack_bf16(high[2], high[3]);
}

template <int N>
FN void clear(float (&c)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int k = 0; k < 4; k++) c[n][k] = 0.0f;
}

// Stores columns `c` and `c + 1` of the `count` from `column` on in row `t`; `c` is even.
FN void put_pair(const Mat& m, int t, int column, int count, int c, float x, float y, bool aligned) {
    auto to = row<bf16>(m, t);
    if (aligned) {
        if (c < count) to.set_word(column + c, pack_bf16(x, y));
        return;
    }
    if (c < count) to.set(column + c, rounded<bf16>(x));
    if (c + 1 < count) to.set(column + c + 1, rounded<bf16>(y));
}

// The general kernels' tiles: `p.tile` rows of f32, an odd number of elements apart so that rows lie in different
// banks.
struct Rows {
    Shared<float> s;
    int stride;
    FN Rows(Carve& carve, int rows, int columns) : s(carve.take<float>(rows * (columns | 1))), stride(columns | 1) {}
    FN float get(int r, int c) const {
        return s.get(r * stride + c);
    }
    FN void set(int r, int c, float x) const {
        s.set(r * stride + c, x);
    }
    // `rows` rows from row `first` on, `width` columns of `left` and `more` of `right`; zeros in further rows.
    FN void load_from(const Problem& p, const Mat& left, int column, int width, const Mat& right, int more, int first,
                      int rows) const {
        int columns = width + more;
        for (int i = thread(); i < p.tile * columns; i += threads()) {
            int r = i / columns, c = i % columns;
            float x = 0.0f;
            if (r < rows) x = c < width ? load(left, first + r, column + c) : load(right, first + r, c - width);
            set(r, c, x);
        }
    }
    FN void load_queries(const Problem& p, int j, int first, int rows) const {
        int width = p.nope + p.rope;
        load_from(p, p.q, j * width, width, p.q, 0, first, rows);
    }
    FN void load_keys(const Problem& p, int j, int first, int rows) const {
        load_from(p, p.kv, j * (p.nope + p.value), p.nope, p.k_pe, p.rope, first, rows);
    }
    FN void load_values(const Problem& p, int j, int first, int rows) const {
        load_from(p, p.kv, j * (p.nope + p.value) + p.nope, p.value, p.kv, 0, first, rows);
    }
};

FN float dot(const Rows& x, int r, const Rows& y, int s, int columns) {
    float sum = 0.0f;
    for (int c = 0; c < columns; c++) sum = fma(x.get(r, c), y.get(s, c), sum);
    return sum;
}
