// Encoding of matrices as FP8 codes with scales, with the bits of `fathom_core::fp8`: what quantization shares with the
// kernels whose results are rounded before they reach memory.
//
// A thread holds eight columns of a row, or of four rows. Where rows are aligned they are eight neighbours, reached by
// wide accesses; elsewhere (`Single`) they are pairs that neighbouring threads hold side by side, reached one by one.
//
// A tile's largest magnitude is found among the numbers' bits without their sign, whose order as integers is that of
// the magnitudes; there NaN and infinity are the largest, so the maximum also tells whether all numbers are finite.
#pragma once
#include "codes.cuh"

struct Encode {
    Mat x, x_scales, codes, scales;
    Tiles x_tiles, tiles;
    u64 fault;
    u32 site;
    int power_of_two;
};

// Both tilings of one matrix: besides 1×128 tiles these 128×1 tiles. Kernels that make one tiling leave them alone.
struct Both : Encode {
    Mat column_codes, column_scales;
    Tiles columns;
};

// ---- what is encoded: eight columns of a row

// The column, from the first of a piece of memory that `threads` threads share, of number `k` of thread `l`.
template <bool vector, int threads>
FN int column(int l, int k) {
    return vector ? 8 * l + k : 2 * (l + threads * (k / 2)) + k % 2;
}

struct OfF32 {
    static constexpr bool vector = true;
    u32 w[8] = {};
    template <int threads, class A>
    FN void fetch(const A& a, int r, int c, int width, int l) {
        if (8 * l >= width) return;
        auto x = row<float>(a.x, r);
        Quad p = x.quad(c + 8 * l), q = x.quad(c + 8 * l + 4);
        w[0] = p.x, w[1] = p.y, w[2] = p.z, w[3] = p.w, w[4] = q.x, w[5] = q.y, w[6] = q.z, w[7] = q.w;
    }
    FN float at(int k) const {
        return as_float(w[k]);
    }
};

struct OfBf16 {
    static constexpr bool vector = true;
    u32 w[4] = {};
    template <int threads, class A>
    FN void fetch(const A& a, int r, int c, int width, int l) {
        if (8 * l >= width) return;
        Quad q = row<bf16>(a.x, r).quad(c + 8 * l);
        w[0] = q.x, w[1] = q.y, w[2] = q.z, w[3] = q.w;
    }
    FN float at(int k) const {
        return as_float(k % 2 == 0 ? w[k / 2] << 16 : w[k / 2] & 0xffff0000);
    }
};

// E4M3 codes in rows or blocks, whose eight columns share a scale.
struct OfE4M3 {
    static constexpr bool vector = true;
    u32 w[2] = {};
    float scale = 0.0f;
    template <int threads, class A>
    FN void fetch(const A& a, int r, int c, int width, int l) {
        if (8 * l >= width) return;
        Pair p = code_row(a.x, r).pair(c + 8 * l);
        w[0] = p.x, w[1] = p.y;
        scale = scale_at(a.x_tiles, a.x_scales, r, c + 8 * l, a.x.rows);
    }
    FN float at(int k) const {
        return decode_one(E4M3, w[k / 4] >> 8 * (k % 4) & 0xff) * scale;
    }
};

// Numbers of any type, or codes of any type and tiles, one by one.
struct Single {
    static constexpr bool vector = false;
    float v[8] = {};
    template <int threads, class A>
    FN void fetch(const A& a, int r, int c, int width, int l) {
        for (int k = 0; k < 8; k++) {
            int at = column<false, threads>(l, k);
            if (at >= width) continue;
            if (a.x.dtype >= E4M3) {
                float scale = scale_at(a.x_tiles, a.x_scales, r, c + at, a.x.rows);
                v[k] = decode_one(a.x.dtype, code_at(a.x, r, c + at)) * scale;
            } else {
                v[k] = load(a.x, r, c + at);
            }
        }
    }
    FN float at(int k) const {
        return v[k];
    }
};

// A number rounded to a floating-point type: what an activation is once it was stored.
FN float as_stored(int dtype, float x) {
    return dtype == BF16 ? widen(rounded<bf16>(x)) : dtype == F16 ? widen(rounded<f16>(x)) : x;
}

// Stores the codes of eight numbers that were divided by their scales.
template <bool vector, int threads>
FN void store_codes(const Mat& codes, int r, int c, int width, int l, const float (&v)[8]) {
    auto to = code_row(codes, r);
    if constexpr (vector) {
        if (8 * l >= width) return;
        i64 at = c + 8 * l;
        if (codes.dtype != E5M6Pair) {
            u32 low = encode_four(codes.dtype, v[0], v[1], v[2], v[3]);
            to.set_pair(at, {low, encode_four(codes.dtype, v[4], v[5], v[6], v[7])});
            return;
        }
        // Eight codes of twelve bits are three words.
        u32 e[8];
        for (int k = 0; k < 8; k++) e[k] = encode_one(E5M6Pair, v[k]);
        at = at / 2 * 3;
        to.set_word(at, e[0] | e[1] << 12 | e[2] << 24);
        to.set_word(at + 4, e[2] >> 8 | e[3] << 4 | e[4] << 16 | e[5] << 28);
        to.set_word(at + 8, e[5] >> 4 | e[6] << 8 | e[7] << 20);
    } else {
        for (int k = 0; k < 8; k += 2) {
            int at = column<false, threads>(l, k);
            if (at >= width) continue;
            u32 first = encode_one(codes.dtype, v[k]), second = encode_one(codes.dtype, v[k + 1]);
            if (codes.dtype == E5M6Pair) {
                i64 byte = (i64)(c + at) / 2 * 3;
                to.set(byte, (u8)first);
                to.set(byte + 1, (u8)(first >> 8 | second << 4));
                to.set(byte + 2, (u8)(second >> 4));
            } else {
                to.set(c + at, (u8)first);
                if (at + 1 < width) to.set(c + at + 1, (u8)second);
            }
        }
    }
}

// ---- 1×128 tiles: sixteen threads for each, `count` tiles one after the other so that their loads are under way at
// once

// A tile of a row: its row, its place among the row's scales, its first column and its width.
struct RowTile {
    int r, j, c, width;
};
// Tile `index` of all rows' tiles; beyond the last one, a tile without columns.
FN RowTile row_tile(const Tiles& t, u32 index, int rows, int cols) {
    u32 across = (u32)t.across, r = index / across, j = index - r * across;
    if (r >= (u32)rows) return {0, 0, 0, 0};
    if (t.kind != ROWS || t.per_part == t.across) {
        int c = (int)j * TILE;
        return {(int)r, (int)j, c, min_of(TILE, cols - c)};
    }
    int part = (int)j / t.per_part, first = ((int)j - part * t.per_part) * TILE;
    return {(int)r, (int)j, part * t.part + first, min_of(TILE, t.part - first)};
}

template <class Source, int count, class A>
FN void quantize_rows(const A& a) {
    int l = thread() % 16, cols = a.codes.dtype == E5M6Pair ? a.codes.cols * 2 : a.codes.cols;
    u32 first = (u32)block_x() * count * (threads() / 16) + thread() / 16;
    float largest = largest_of(a.codes.dtype);
    Source x[count];
    RowTile t[count];
#pragma unroll
    for (int i = 0; i < count; i++) {
        t[i] = row_tile(a.tiles, first + i * (threads() / 16), a.codes.rows, cols);
        if (t[i].width > 0) x[i].template fetch<16>(a, t[i].r, t[i].c, t[i].width, l);
    }
#pragma unroll
    for (int i = 0; i < count; i++) {
        float v[8];
        u32 amax = 0;
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = x[i].at(k), amax = larger(amax, magnitude_bits(v[k]));
        for (int d = 8; d > 0; d /= 2) amax = larger(amax, shuffle_xor(amax, d));
        Divisor by(scale_of(amax, largest, a.power_of_two));
        if (t[i].width == 0) continue;
        if (l == 0) {
            check_finite(a.fault, a.site, amax);
            row<float>(a.scales, t[i].r).set(t[i].j, by.scale);
        }
        if (by.is_usual(a.power_of_two)) {
#pragma unroll
            for (int k = 0; k < 8; k++) v[k] = by.divide(v[k], a.power_of_two);
        } else {
            for (int k = 0; k < 8; k++) v[k] = v[k] / by.scale;
        }
        store_codes<Source::vector, 16>(a.codes, t[i].r, t[i].c, t[i].width, l, v);
    }
}

// ---- 128×1 tiles: a block for 64 columns of a tile's rows, a thread for eight of them in every 32nd row

// Rows `start` to `end` of a matrix, of one tile; none where its scales are not used. All threads of the block ask.
struct TileRows {
    int start, end;
};
FN TileRows column_tile(const Tiles& t, int tile, int rows, Shared<u32> found) {
    if (t.kind != GROUPS) return {tile * TILE, min_of(tile * TILE + TILE, rows)};
    // The group whose tiles this one is of: group g has tile ⌊start/128⌋ + g and on.
    if (thread() == 0) found.set(0, 0);
    sync();
    for (int g = thread(); g < t.groups; g += threads()) {
        int first = group_start(t, g, rows) / TILE + g;
        int next = group_start(t, g + 1, rows) / TILE + g + 1;
        if (first <= tile && tile < next) atomic_max(found, 0, (u32)g + 1);
    }
    sync();
    int g = (int)found.get(0) - 1;
    if (g < 0) return {0, 0};
    int from = group_start(t, g, rows), start = from + (tile - from / TILE - g) * TILE;
    return {start, min_of(start + TILE, group_start(t, g + 1, rows))};
}

template <class Source, class A>
FN void quantize_columns(const A& a) {
    constexpr int WIDTH = 64, ACROSS = WIDTH / 8, WARPS = 8;
    Carve carve;
    auto maxima = carve.take<u32>(WARPS * WIDTH);
    auto scales = carve.take<float>(WIDTH);
    auto found = carve.take<u32>(1);
    int rows = a.codes.rows, cols = a.codes.cols, across = ceil_div(cols, WIDTH);
    int tile = block_x() / across, c = block_x() % across * WIDTH, width = min_of(WIDTH, cols - c);
    TileRows in = column_tile(a.tiles, tile, rows, found);
    int start = in.start, end = in.end;
    if (start >= end) return;
    int l = thread() % ACROSS, down = thread() / ACROSS;
    Source x[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int r = start + down + 32 * i;
        if (r < end) x[i].template fetch<ACROSS>(a, r, c, width, l);
    }
#pragma unroll
    for (int k = 0; k < 8; k++) {
        u32 amax = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) amax = larger(amax, magnitude_bits(x[i].at(k)));
        amax = larger(amax, shuffle_xor(amax, 8));
        amax = larger(amax, shuffle_xor(amax, 16));
        if (lane() < ACROSS) maxima.set(warp() * WIDTH + column<Source::vector, ACROSS>(l, k), amax);
    }
    sync();
    if (thread() < WIDTH) {
        u32 amax = 0;
        for (int w = 0; w < WARPS; w++) amax = larger(amax, maxima.get(w * WIDTH + thread()));
        float scale = scale_of(amax, largest_of(a.codes.dtype), a.power_of_two);
        scales.set(thread(), scale);
        if (thread() < width) {
            check_finite(a.fault, a.site, amax);
            row<float>(a.scales, tile).set(c + thread(), scale);
        }
    }
    sync();
    Divisor by[8];
    bool usual = true;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        by[k] = Divisor(scales.get(column<Source::vector, ACROSS>(l, k)));
        usual = usual && by[k].is_usual(a.power_of_two);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int r = start + down + 32 * i;
        if (r >= end) continue;
        float v[8];
        if (usual) {
#pragma unroll
            for (int k = 0; k < 8; k++) v[k] = by[k].divide(x[i].at(k), a.power_of_two);
        } else {
#pragma unroll
            for (int k = 0; k < 8; k++) v[k] = x[i].at(k) / by[k].scale;
        }
        store_codes<Source::vector, ACROSS>(a.codes, r, c, width, l, v);
    }
}

// ---- 1×128 and 128×1 tiles from one read: a block for 128 columns of a 128×1 tile's rows, a thread for eight of them
// in every 32nd row, which it keeps in registers

template <class Source, class A>
FN void quantize_both(const A& a) {
    constexpr int ACROSS = TILE / 8, WARPS = 16;
    Carve carve;
    auto maxima = carve.take<u32>(WARPS * TILE);
    auto scales = carve.take<float>(TILE);
    auto found = carve.take<u32>(1);
    int tile = block_x() / a.tiles.across, j = block_x() % a.tiles.across;
    TileRows in = column_tile(a.columns, tile, a.codes.rows, found);
    if (in.start >= in.end) return;
    RowTile t = row_tile(a.tiles, (u32)j, a.codes.rows, a.codes.cols);
    int l = thread() % ACROSS, down = in.start + thread() / ACROSS;
    float largest = largest_of(E4M3);
    Source x[4];
    u32 along[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int r = down + 32 * i;
        if (r < in.end) x[i].template fetch<ACROSS>(a, r, t.c, t.width, l);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        along[i] = 0;
#pragma unroll
        for (int k = 0; k < 8; k++) along[i] = larger(along[i], magnitude_bits(x[i].at(k)));
        for (int d = ACROSS / 2; d > 0; d /= 2) along[i] = larger(along[i], shuffle_xor(along[i], d));
    }
#pragma unroll
    for (int k = 0; k < 8; k++) {
        u32 amax = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) amax = larger(amax, magnitude_bits(x[i].at(k)));
        amax = larger(amax, shuffle_xor(amax, 16));
        if (lane() < ACROSS) maxima.set(warp() * TILE + column<Source::vector, ACROSS>(l, k), amax);
    }
    sync();
    if (thread() < TILE) {
        u32 amax = 0;
        for (int w = 0; w < WARPS; w++) amax = larger(amax, maxima.get(w * TILE + thread()));
        float scale = scale_of(amax, largest, a.power_of_two);
        scales.set(thread(), scale);
        if (thread() < t.width) {
            check_finite(a.fault, a.site, amax);
            row<float>(a.column_scales, tile).set(t.c + thread(), scale);
        }
    }
    sync();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int r = down + 32 * i;
        if (r >= in.end) continue;
        Divisor by(scale_of(along[i], largest, a.power_of_two));
        if (l == 0) row<float>(a.scales, r).set(t.j, by.scale);
        float v[8];
        if (by.is_usual(a.power_of_two)) {
#pragma unroll
            for (int k = 0; k < 8; k++) v[k] = by.divide(x[i].at(k), a.power_of_two);
        } else {
#pragma unroll
            for (int k = 0; k < 8; k++) v[k] = x[i].at(k) / by.scale;
        }
        store_codes<Source::vector, ACROSS>(a.codes, r, t.c, t.width, l, v);
    }
    Divisor by[8];
    bool usual = true;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        by[k] = Divisor(scales.get(column<Source::vector, ACROSS>(l, k)));
        usual = usual && by[k].is_usual(a.power_of_two);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int r = down + 32 * i;
        if (r >= in.end) continue;
        float v[8];
        if (usual) {
#pragma unroll
            for (int k = 0; k < 8; k++) v[k] = by[k].divide(x[i].at(k), a.power_of_two);
        } else {
#pragma unroll
            for (int k = 0; k < 8; k++) v[k] = x[i].at(k) / by[k].scale;
        }
        store_codes<Source::vector, ACROSS>(a.column_codes, r, t.c, t.width, l, v);
    }
}
