// What matrix products share: which part of which product a block computes, tiles in shared memory, the fragments that
// tensor cores take, and how a result leaves.
//
// A block computes one tile of `c`, a warp a part of it. Every element is one chain of products in the order of the
// inner dimension: results depend neither on how many rows there are nor on which tile was chosen.
#pragma once

enum Form : int { NT = 0, NN = 1, TN = 2 };

// `c = alpha · op(a)·op(b)`, or `c += …`; with `groups` above zero one product for each group of rows.
struct Product {
    Mat a, b, c;
    Mat offsets;  // [1, groups + 1]
    // Rows and columns of one product's result (NT and NN over groups: of all rows), and the length of its sums (TN
    // over groups: of all).
    int m, n, k;
    int groups;
    // Tiles of the result, down and across. Groups do not start at a tile, so NT and NN have more, some idle.
    int row_tiles, col_tiles;
    float alpha;
    int accumulate;
    int form;
    // How the rows of `c` may be accessed: 1 two neighbours at once, the first in an even column; 2 also sixteen bytes
    // at once, the first in a column that is a multiple of as many; else 0.
    int pairs;
};

// A block's part of a product.
struct Place {
    int m0, m1;  // rows from m0, ending at m1, within op(a)
    int n0, n1;  // columns from n0, ending at n1
    int k0, k1;  // the inner dimension, within op(a)
    int group, start;  // the group, and the first row of it
    int b_row;   // what is added to a row of b
    int c_row;   // what is added to a row of c
};

// Which tile of the grid a block computes. Neighbours share columns of b, and a band of sixteen rows of tiles is done
// before the next, so that what runs at one time shares most of what it reads.
FN void raster(int index, int row_tiles, int col_tiles, int& row_tile, int& col_tile) {
    int band = index / (16 * col_tiles), in_band = index - band * 16 * col_tiles;
    int height = min_of(16, row_tiles - band * 16);
    col_tile = in_band / height;
    row_tile = band * 16 + in_band - col_tile * height;
}

// Offset `i`, at most `rows`.
FN int offset_at(Span<u32> offsets, int i, int rows) {
    u32 x = offsets.get(i);
    return x < (u32)rows ? (int)x : rows;
}

// Finds tile `index` of the row tiles of all groups, in their order. Each warp does by itself; lanes share the groups.
// Offsets that fall are read as the largest before them, so groups never overlap.
FN bool find_group(const Mat& m, int groups, int rows, int tile, int index, Place& at) {
    auto offsets = row<u32>(m, 0);
    int each = ceil_div(groups, 32), first = min_of(lane() * each, groups), last = min_of(first + each, groups);
    int most = lane() == 0 ? offset_at(offsets, 0, rows) : 0;
    for (int i = first; i < last; i++) most = max_of(most, offset_at(offsets, i + 1, rows));
    for (int d = 1; d < 32; d *= 2) {
        int before = shuffle_up(most, d);
        if (lane() >= d) most = max_of(most, before);
    }
    int begin = shuffle_up(most, 1);
    if (lane() == 0) begin = offset_at(offsets, 0, rows);
    int tiles = 0, start = begin;
    for (int i = first; i < last; i++) {
        int end = max_of(start, offset_at(offsets, i + 1, rows));
        tiles += ceil_div(end - start, tile);
        start = end;
    }
    int sum = tiles;
    for (int d = 1; d < 32; d *= 2) {
        int before = shuffle_up(sum, d);
        if (lane() >= d) sum += before;
    }
    int rest = index - (sum - tiles);
    u32 votes = ballot(rest >= 0 && rest < tiles);
    if (votes == 0) return false;
    int group = 0, group_start = 0, group_end = 0, row0 = 0;
    start = begin;
    for (int i = first; i < last; i++) {
        int end = max_of(start, offset_at(offsets, i + 1, rows)), n = ceil_div(end - start, tile);
        if (rest >= 0 && rest < n) {
            group = i;
            group_start = start;
            group_end = end;
            row0 = start + rest * tile;
        }
        rest -= n;
        start = end;
    }
    int from = lowest_one(votes);
    at.group = shuffle(group, from);
    at.start = shuffle(group_start, from);
    at.m0 = shuffle(row0, from);
    at.m1 = shuffle(group_end, from);
    return true;
}

// The rows of group `g`, as `find_group` reads offsets.
FN void group_rows(const Mat& m, int g, int rows, int& start, int& end) {
    auto offsets = row<u32>(m, 0);
    int most = 0;
    for (int i = lane(); i <= g; i += 32) most = max_of(most, offset_at(offsets, i, rows));
    for (int d = 16; d > 0; d /= 2) most = max_of(most, shuffle_xor(most, d));
    start = most;
    end = max_of(most, offset_at(offsets, g + 1, rows));
}

// The part of the product that this block computes; false where there is none for it, for all its threads.
FN bool place(const Product& p, int form, int tile_rows, int tile_cols, Place& at) {
    int row_tile, col_tile;
    raster(block_x(), p.row_tiles, p.col_tiles, row_tile, col_tile);
    at.n0 = col_tile * tile_cols;
    at.n1 = p.n;
    at.k0 = 0;
    at.k1 = p.k;
    at.m0 = row_tile * tile_rows;
    at.m1 = p.m;
    at.group = at.start = at.b_row = at.c_row = 0;
    if (p.groups == 0) return true;
    if (form == TN) {
        at.group = block_y();
        group_rows(p.offsets, at.group, p.k, at.k0, at.k1);
        at.start = at.k0;
        at.c_row = at.group * p.m;
        // Adding nothing, unless zeros are to be written.
        return at.k0 < at.k1 || !p.accumulate;
    }
    if (!find_group(p.offsets, p.groups, p.m, tile_rows, row_tile, at)) return false;
    at.b_row = at.group * (form == NT ? p.n : p.k);
    return true;
}

FN u32 raw(bf16 x) {
    return x.bits;
}
FN u32 raw(u8 x) {
    return x;
}

// A tile of a matrix in shared memory has rows sixteen bytes longer than its columns need: then eight rows from any
// column on, which is what a matrix load reads at once, lie in different banks.
template <class T>
FN constexpr int pitch(int cols) {
    return cols + 16 / (int)sizeof(T);
}

// A thread's share in bringing pieces of a matrix to shared memory, one after the other along the inner dimension:
// tiles of ROWS by COLS, or with DOWN, where the inner dimension goes down the rows, of COLS by ROWS of the matrix. Its
// parts of a tile are in the same columns, rows apart by the same number, so that little is computed for each.
template <int ROWS, int COLS, int THREADS, bool DOWN, bool ALIGNED, class T>
struct Feed {
    static constexpr int CHUNK = 16 / (int)sizeof(T), ACROSS = COLS / CHUNK, APART = THREADS / ACROSS;
    static constexpr int COUNT = ROWS / APART, PITCH = pitch<T>(COLS);
    static_assert(THREADS % ACROSS == 0 && ROWS % APART == 0, "threads share a tile evenly");
    Span<T> from;
    i64 at, stride;
    // Where this thread's first element lies in a tile, and of rows or columns, whichever are not of the inner
    // dimension, how many there are from it on.
    int row, col, left;
    // A tile starts at row r0 and column c0; of rows or columns that are not of the inner dimension there are `outer`.
    FN Feed(const Mat& m, int r0, int c0, int outer) : from(whole<T>(m)), stride(m.stride) {
        row = thread() / ACROSS;
        col = thread() % ACROSS * CHUNK;
        at = (i64)(r0 + row) * stride + c0 + col;
        left = outer - (DOWN ? col : row);
    }
    // Brings the next piece, `width` of the inner dimension, to the elements from `base` on, with zeros past the ends.
    // ALIGNED: in sixteen bytes at a time, asynchronously; every row must then start on a multiple of that, the first
    // column too, and the last be one.
    FN void next(Shared<T> ring, int base, int width) {
        i64 i = at;
        int to = base + row * PITCH + col;
        int rows = DOWN ? width - row : left, cols = DOWN ? left : width - col;
#pragma unroll(ALIGNED ? COUNT : 1)
        for (int n = 0; n < COUNT; n++) {
            int place = to + n * APART * PITCH;
            bool inside = n * APART < rows;
            if constexpr (ALIGNED)
                copy_async(ring, place, from, i, inside && cols > 0);
            else {
                u32 words[4] = {};
#pragma unroll
                for (int e = 0; e < CHUNK; e++)
                    if (inside && e < cols)
                        words[e * sizeof(T) / 4] |= raw(from.get(i + e)) << (e * 8 * (int)sizeof(T) % 32);
                ring.set_quad(place, Quad{words[0], words[1], words[2], words[3]});
            }
            i += APART * stride;
        }
        at += DOWN ? width * stride : width;
    }
};

// Adds to or replaces two neighbours of a row of `c`, of which those from column `end` on are not there.
template <class T>
FN void put(const Product& p, i64 at, int col, int end, float x, float y) {
    auto c = whole<T>(p.c);
    x *= p.alpha;
    y *= p.alpha;
    if (p.pairs && col + 1 < end) {
        if constexpr (sizeof(T) == 4) {
            if (p.accumulate) {
                Pair old = c.pair(at);
                x += as_float(old.x);
                y += as_float(old.y);
            }
            c.set_pair(at, Pair{as_bits(x), as_bits(y)});
        } else {
            if (p.accumulate) {
                u32 old = c.word(at);
                T low, high;
                low.bits = (u16)old;
                high.bits = (u16)(old >> 16);
                x += widen(low);
                y += widen(high);
            }
            c.set_word(at, (u32)rounded<T>(x).bits | (u32)rounded<T>(y).bits << 16);
        }
        return;
    }
    if (col < end) c.set(at, rounded<T>(p.accumulate ? x + widen(c.get(at)) : x));
    if (col + 1 < end) c.set(at + 1, rounded<T>(p.accumulate ? y + widen(c.get(at + 1)) : y));
}

// The same for as many neighbours as are sixteen bytes; `old` is what was there.
template <class T>
FN Quad combined(const Product& p, Shared<float> tile, int i, Quad old) {
    u32 y[4] = {old.x, old.y, old.z, old.w};
#pragma unroll
    for (int h = 0; h < 4 / (int)sizeof(T); h++) {
        Quad q = tile.quad(i + 4 * h);
        float x[4] = {as_float(q.x), as_float(q.y), as_float(q.z), as_float(q.w)};
#pragma unroll
        for (int e = 0; e < 4; e++) x[e] *= p.alpha;
        if constexpr (sizeof(T) == 4) {
#pragma unroll
            for (int e = 0; e < 4; e++) y[e] = as_bits(p.accumulate ? x[e] + as_float(y[e]) : x[e]);
        } else {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                u32& word = y[2 * h + e / 2];
                T was;
                was.bits = (u16)(word >> 16 * (e % 2));
                u32 bits = rounded<T>(p.accumulate ? x[e] + widen(was) : x[e]).bits;
                word = e % 2 ? (word & 0xffff) | bits << 16 : (word & 0xffff0000) | bits;
            }
        }
    }
    return Quad{y[0], y[1], y[2], y[3]};
}

// The rows of a tile of sums in shared memory, as the first `workers` threads put them to `c`. What is added to is read
// eight accesses at a time: with one the block would wait for memory as often as it has rows.
template <class T, int M, int N, int PITCH>
FN void put_tile(const Product& p, const Place& at, Shared<float> tile, int workers) {
    constexpr int CHUNK = 16 / (int)sizeof(T), ACROSS = N / CHUNK, BATCH = 8;
    if (p.pairs == 2 && at.n1 % CHUNK == 0) {
        auto to = whole<T>(p.c);
        int apart = workers / ACROSS, c = thread() % ACROSS * CHUNK;
        int rows = at.n0 + c < at.n1 ? min_of(M, at.m1 - at.m0) : 0;
        for (int r0 = thread() / ACROSS; r0 < rows; r0 += BATCH * apart) {
            i64 first = (i64)(at.c_row + at.m0 + r0) * p.c.stride + at.n0 + c, step = apart * p.c.stride;
            Quad old[BATCH] = {};
            if (p.accumulate) {
#pragma unroll
                for (int u = 0; u < BATCH; u++)
                    if (r0 + u * apart < rows) old[u] = to.quad(first + u * step);
            }
#pragma unroll
            for (int u = 0; u < BATCH; u++)
                if (r0 + u * apart < rows)
                    to.set_quad(first + u * step, combined<T>(p, tile, (r0 + u * apart) * PITCH + c, old[u]));
        }
        return;
    }
    for (int i = thread(); i < M * N / 2; i += workers) {
        int r = i / (N / 2), c = i % (N / 2) * 2;
        if (at.m0 + r >= at.m1 || at.n0 + c >= at.n1) continue;
        Pair x = tile.pair(r * PITCH + c);
        i64 to = (i64)(at.c_row + at.m0 + r) * p.c.stride + at.n0 + c;
        put<T>(p, to, at.n0 + c, at.n1, as_float(x.x), as_float(x.y));
    }
}

// Asks for the tile of `c` that is added to, so that it is near when it is read.
template <int M, int N>
FN void expect_tile(const Product& p, const Place& at) {
    if (!p.accumulate || p.c.dtype != F32) return;
    // A line of 128 bytes.
    constexpr int LINE = 32, ACROSS = N / LINE;
    auto c = whole<float>(p.c);
    for (int i = thread(); i < M * ACROSS; i += threads()) {
        int r = i / ACROSS, col = at.n0 + i % ACROSS * LINE;
        if (at.m0 + r < at.m1 && col < at.n1) prefetch(c, (i64)(at.c_row + at.m0 + r) * p.c.stride + col);
    }
}

// Stores a block's tile of M by N, of which this warp holds the part from row0 and col0 on, in the places that matrix
// instructions leave it: sums [i][j] are of sixteen rows by eight columns. It goes through shared memory, which is free
// by now, so that rows leave in one piece. The first `workers` threads do this; the others meet them at two barriers.
//
// Codes that were loaded transposed come two rows or columns at a time (see `gemm_fp8.cu`): ROWS_BY_TWO says that
// the first and second eight of sixteen rows are the even and the odd ones, COLS_BY_TWO that even tiles have the even
// columns of a pair of tiles and odd ones the odd.
template <int M, int N, bool ROWS_BY_TWO, bool COLS_BY_TWO, int I, int J>
FN void finish(const Product& p, const Place& at, int row0, int col0, const float (&sums)[I][J][4], int workers) {
    // Eight more: then the accesses of half a warp lie in different banks.
    constexpr int PITCH = N + 8;
    Carve carve;
    auto tile = carve.take<float>(M * PITCH);
    int group = lane() / 4, quarter = lane() % 4;
    sync();
#pragma unroll
    for (int i = 0; i < I; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int r = row0 + i * 16 + (ROWS_BY_TWO ? 2 * group + h : group + 8 * h);
#pragma unroll
            for (int j = 0; j < J; j += 2)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    int c = col0 + j * 8 + (COLS_BY_TWO ? 4 * quarter + 2 * e : 8 * e + 2 * quarter);
                    float x = COLS_BY_TWO ? sums[i][j][2 * h + e] : sums[i][j + e][2 * h];
                    float y = COLS_BY_TWO ? sums[i][j + 1][2 * h + e] : sums[i][j + e][2 * h + 1];
                    tile.set_pair(r * PITCH + c, Pair{as_bits(x), as_bits(y)});
                }
        }
    sync();
    switch (p.c.dtype) {
        case BF16: put_tile<bf16, M, N, PITCH>(p, at, tile, workers); break;
        case F16: put_tile<f16, M, N, PITCH>(p, at, tile, workers); break;
        default: put_tile<float, M, N, PITCH>(p, at, tile, workers);
    }
}
