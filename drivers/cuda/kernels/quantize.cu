// Quantization of matrices to FP8 codes with scales, dequantization, and requantization in other tiles, with the bits
// of `fathom_core::fp8`.
//
// A thread holds eight columns of a row, or of four rows. Where rows are aligned they are eight neighbours, reached by
// wide accesses; elsewhere (`Single`) they are pairs that neighbouring threads hold side by side, reached one by one.
//
// A tile's largest magnitude is found among the numbers' bits without their sign, whose order as integers is that of
// the magnitudes; there NaN and infinity are the largest, so the maximum also tells whether all numbers are finite.
#include "fathom.cuh"

constexpr int TILE = 128;

// Which elements share a scale: `Tiles` of the core.
enum TilesKind : int { ROWS = 0, COLUMNS = 1, GROUPS = 2, BLOCKS = 3 };
struct Tiles {
    u64 offsets;
    int kind, part, per_part, groups;  // per_part: tiles of a part
    int across, reserved;              // 1×128 tiles of a row; at least one
};

struct Encode {
    Mat x, x_scales, codes, scales;
    Tiles x_tiles, tiles;
    u64 fault;
    u32 site;
    int power_of_two;
};

struct Decode {
    Mat x, x_scales, y;
    Tiles x_tiles;
};

// ---- codes

FN float power_of_two(int e) {
    return as_float((u32)(e + 127) << 23);
}

// The nearest code of a format of five or four exponent bits: see `Code::encode_finite`.
template <int exponent_bits, int mantissa>
FN u32 encode_as(float x, float largest) {
    constexpr int bias = (1 << (exponent_bits - 1)) - 1;
    u32 sign = as_bits(x) >> 31 << (exponent_bits + mantissa);
    float m = as_float(as_bits(x) & 0x7fffffff);
    m = m < largest ? m : largest;
    // The exponent of the binade that m lies in, no lower than that of the subnormal numbers.
    int exponent = max_of((int)(as_bits(m) >> 23) - 127, 1 - bias);
    // In units of the last place; adding and taking away 2^23 rounds to even.
    float units = m * power_of_two(mantissa - exponent);
    units = (units + 8388608.0f) - 8388608.0f;
    // A mantissa that was rounded up to the next binade carries into the exponent by itself.
    return sign | (((u32)(exponent + bias - 1) << mantissa) + (u32)units);
}
FN float largest_of(int dtype) {
    return dtype == E4M3 ? 448.0f : dtype == E5M2 ? 57344.0f : 65024.0f;
}
FN u32 encode_one(int dtype, float x) {
    if (dtype == E4M3) return encode_as<4, 3>(x, 448.0f);
    if (dtype == E5M2) return encode_as<5, 2>(x, 57344.0f);
    return encode_as<5, 6>(x, 65024.0f);
}
// Four codes of a byte each, the first lowest. The instruction rounds to nearest even, keeps the sign of zero and
// saturates, as `encode_as` does.
FN u32 encode_four(int dtype, float x0, float x1, float x2, float x3) {
#ifdef FATHOM_FP8
    if (dtype == E4M3) return pack_e4m3(x0, x1) | pack_e4m3(x2, x3) << 16;
    return pack_e5m2(x0, x1) | pack_e5m2(x2, x3) << 16;
#else
    if (dtype == E4M3)
        return encode_as<4, 3>(x0, 448.0f) | encode_as<4, 3>(x1, 448.0f) << 8 | encode_as<4, 3>(x2, 448.0f) << 16 |
               encode_as<4, 3>(x3, 448.0f) << 24;
    return encode_as<5, 2>(x0, 57344.0f) | encode_as<5, 2>(x1, 57344.0f) << 8 | encode_as<5, 2>(x2, 57344.0f) << 16 |
           encode_as<5, 2>(x3, 57344.0f) << 24;
#endif
}

// A magnitude's bits, moved to where f32 has its exponent and mantissa, are off by a power of two, which a product sets
// right, subnormal numbers included.
FN float decode_one(int dtype, u32 code) {
    int mantissa = dtype == E4M3 ? 3 : dtype == E5M2 ? 2 : 6, sign_at = dtype == E5M6Pair ? 11 : 7;
    u32 magnitude = code & ((1u << sign_at) - 1), sign = code >> sign_at << 31;
    float x = as_float(magnitude << (23 - mantissa)) * power_of_two(dtype == E4M3 ? 120 : 112);
    u32 first_special = dtype == E4M3 ? 0x7f : 31u << mantissa;
    if (magnitude >= first_special) x = dtype != E4M3 && magnitude == first_special ? infinity() : as_float(0x7fc00000);
    return as_float(as_bits(x) | sign);
}

// A row of codes, byte by byte.
FN Span<u8> code_row(const Mat& m, int r) {
    check_row(r, m.rows);
    int bytes = m.dtype == E5M6Pair ? 3 : 1;
    return span<u8>(m.data + (u64)(r * m.stride * bytes), (i64)m.cols * bytes);
}
// The code of an element.
FN u32 code_at(const Mat& m, int r, int c) {
    auto codes = code_row(m, r);
    if (m.dtype != E5M6Pair) return codes.get(c);
    i64 at = (i64)(c / 2) * 3;
    u32 both = (u32)codes.get(at) | (u32)codes.get(at + 1) << 8 | (u32)codes.get(at + 2) << 16;
    return c % 2 == 0 ? both & 0xfff : both >> 12;
}

// ---- scales

struct Place {
    int row, col;
};

// Where group `g` starts.
FN int group_start(const Tiles& t, int g, int rows) {
    u32 offset = span<u32>(t.offsets, t.groups + 1).get(g);
    return offset < (u32)rows ? (int)offset : rows;
}

// Where the scale of an element lies.
FN Place scale_place(const Tiles& t, int r, int c, int rows) {
    switch (t.kind) {
        case ROWS: return {r, c / t.part * t.per_part + c % t.part / TILE};
        case COLUMNS: return {r / TILE, c};
        case BLOCKS: return {r / t.part * t.per_part + r % t.part / TILE, c / TILE};
        default: {
            // The last group that starts at or before the row.
            int low = 0, high = t.groups;
            while (high - low > 1) {
                int middle = (low + high) / 2;
                if (group_start(t, middle, rows) <= r)
                    low = middle;
                else
                    high = middle;
            }
            int start = group_start(t, low, rows);
            return {start / TILE + low + max_of(r - start, 0) / TILE, c};
        }
    }
}
FN float scale_at(const Tiles& t, const Mat& scales, int r, int c, int rows) {
    Place at = scale_place(t, r, c, rows);
    return row<float>(scales, at.row).get(at.col);
}

// The scale of a tile by the bits of its largest magnitude: `scale_of` of the core.
FN float scale_of(u32 amax, float largest, int power) {
    if (amax == 0) return 1.0f;
    float scale = as_float(amax) / largest;
    if (scale < 1.17549435e-38f) scale = 1.17549435e-38f;
    return power ? as_float((as_bits(scale) + 0x7fffff) & 0x7f800000) : scale;
}
FN u32 magnitude_bits(float x) {
    return as_bits(x) & 0x7fffffff;
}
FN u32 larger(u32 a, u32 b) {
    return a > b ? a : b;
}
FN void check_finite(const Encode& a, u32 amax) {
    if (amax >= 0x7f800000) report(a.fault, NON_FINITE, a.site, 0, 0);
}

// x / scale with the bits of the division, for one scale and many x.
//
// By a power of two it is a product: both are the one nearest number. By any other, with `inverse` the number nearest
// to 1 / scale, a quotient is corrected twice by its remainder: the first correction brings it within a unit in the
// last place, and from there the second gives the nearest number (Markstein, 1990, theorem 8.2), provided that the
// remainder is exact. It is for quotients of 2^-22 and more where the scale is at least 2^-80; smaller ones are encoded
// as zero by any format. Zero and what comes to be zero keep the sign of x.
struct Divisor {
    float scale, inverse;
    FN Divisor() : scale(1.0f), inverse(1.0f) {}
    FN Divisor(float scale) : scale(scale), inverse(1.0f / scale) {}
    FN bool is_usual(int power) const {
        return power || (scale >= 8.2718061e-25f && scale <= 1.2676506e30f);  // 2^-80, 2^100
    }
    FN float divide(float x, int power) const {
        float q = x * inverse;
        if (power) return q;
        q = fma(fma(-q, scale, x), inverse, q);
        q = fma(fma(-q, scale, x), inverse, q);
        return as_float((as_bits(q) & 0x7fffffff) | (as_bits(x) & 0x80000000));
    }
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
    template <int threads>
    FN void fetch(const Encode& a, int r, int c, int width, int l) {
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
    template <int threads>
    FN void fetch(const Encode& a, int r, int c, int width, int l) {
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
    template <int threads>
    FN void fetch(const Encode& a, int r, int c, int width, int l) {
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
    template <int threads>
    FN void fetch(const Encode& a, int r, int c, int width, int l) {
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

template <class Source, int count>
FN void quantize_rows(const Encode& a) {
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
            check_finite(a, amax);
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
KERNEL(quantize_rows_f32, Encode, 256) {
    quantize_rows<OfF32, 2>(a);
}
KERNEL(quantize_rows_bf16, Encode, 256) {
    quantize_rows<OfBf16, 4>(a);
}
KERNEL(quantize_rows_any, Encode, 256) {
    quantize_rows<Single, 1>(a);
}

// ---- 128×1 tiles: a block for 64 columns of a tile's rows, a thread for eight of them in every 32nd row

template <class Source>
FN void quantize_columns(const Encode& a) {
    constexpr int WIDTH = 64, ACROSS = WIDTH / 8, WARPS = 8;
    Carve carve;
    auto maxima = carve.take<u32>(WARPS * WIDTH);
    auto scales = carve.take<float>(WIDTH);
    auto found = carve.take<u32>(1);
    int rows = a.codes.rows, cols = a.codes.cols, across = ceil_div(cols, WIDTH);
    int tile = block_x() / across, c = block_x() % across * WIDTH, width = min_of(WIDTH, cols - c);
    int start = tile * TILE, end = min_of(start + TILE, rows);
    if (a.tiles.kind == GROUPS) {
        // The group whose tiles this one is of: group g has tile ⌊start/128⌋ + g and on.
        if (thread() == 0) found.set(0, 0);
        sync();
        for (int g = thread(); g < a.tiles.groups; g += threads()) {
            int first = group_start(a.tiles, g, rows) / TILE + g;
            int next = group_start(a.tiles, g + 1, rows) / TILE + g + 1;
            if (first <= tile && tile < next) atomic_max(found, 0, (u32)g + 1);
        }
        sync();
        int g = (int)found.get(0) - 1;
        if (g < 0) return;
        int from = group_start(a.tiles, g, rows);
        start = from + (tile - from / TILE - g) * TILE;
        end = min_of(start + TILE, group_start(a.tiles, g + 1, rows));
        if (start >= end) return;  // a scale that is not used
    }
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
            check_finite(a, amax);
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
KERNEL(quantize_columns_f32, Encode, 256) {
    quantize_columns<OfF32>(a);
}
KERNEL(quantize_columns_bf16, Encode, 256) {
    quantize_columns<OfBf16>(a);
}
KERNEL(quantize_columns_e4m3, Encode, 256) {
    quantize_columns<OfE4M3>(a);
}
KERNEL(quantize_columns_any, Encode, 256) {
    quantize_columns<Single>(a);
}

// ---- 128×128 tiles: a block for each, a thread for eight columns of every 32nd row

template <class Source>
FN void quantize_blocks(const Encode& a) {
    constexpr int ACROSS = TILE / 8;
    Carve carve;
    auto maxima = carve.take<u32>(32);
    int across = ceil_div(a.codes.cols, TILE), tile = block_x() / across, c = block_x() % across * TILE;
    int width = min_of(TILE, a.codes.cols - c);
    int first = tile % a.tiles.per_part * TILE, start = tile / a.tiles.per_part * a.tiles.part + first;
    int end = start + min_of(TILE, a.tiles.part - first);
    int l = thread() % ACROSS, down = thread() / ACROSS;
    Source x[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int r = start + down + 32 * i;
        if (r < end) x[i].template fetch<ACROSS>(a, r, c, width, l);
    }
    u32 amax = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int k = 0; k < 8; k++) amax = larger(amax, magnitude_bits(x[i].at(k)));
    for (int d = 16; d > 0; d /= 2) amax = larger(amax, shuffle_xor(amax, d));
    if (lane() == 0) maxima.set(warp(), amax);
    sync();
    for (int w = 0; w < threads() / 32; w++) amax = larger(amax, maxima.get(w));
    Divisor by(scale_of(amax, largest_of(a.codes.dtype), a.power_of_two));
    if (thread() == 0) {
        check_finite(a, amax);
        row<float>(a.scales, tile).set(c / TILE, by.scale);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int r = start + down + 32 * i;
        if (r >= end) continue;
        float v[8];
        if (by.is_usual(a.power_of_two)) {
#pragma unroll
            for (int k = 0; k < 8; k++) v[k] = by.divide(x[i].at(k), a.power_of_two);
        } else {
#pragma unroll
            for (int k = 0; k < 8; k++) v[k] = x[i].at(k) / by.scale;
        }
        store_codes<Source::vector, ACROSS>(a.codes, r, c, width, l, v);
    }
}
KERNEL(quantize_blocks_f32, Encode, 512) {
    quantize_blocks<OfF32>(a);
}
KERNEL(quantize_blocks_bf16, Encode, 512) {
    quantize_blocks<OfBf16>(a);
}
KERNEL(quantize_blocks_any, Encode, 512) {
    quantize_blocks<Single>(a);
}

// ---- decoding: sixteen threads for 128 columns of a row, as 1×128 tiles are encoded

// The numbers of eight neighbouring codes without their scales: three words hold twelve-bit codes, two hold bytes.
template <bool pairs>
FN void decode_eight(int dtype, const u32 (&w)[3], float (&v)[8]) {
#pragma unroll
    for (int k = 0; k < 8; k++) {
        int bits = pairs ? 12 : 8, at = k * bits, word = at / 32, shift = at % 32;
        u32 code = w[word] >> shift;
        if (shift + bits > 32) code |= w[word + 1] << (32 - shift);
        v[k] = decode_one(pairs ? E5M6Pair : dtype, code & ((1u << bits) - 1));
    }
}

FN void store_eight(Span<float> y, i64 at, const float (&v)[8]) {
    y.set_quad(at, {as_bits(v[0]), as_bits(v[1]), as_bits(v[2]), as_bits(v[3])});
    y.set_quad(at + 4, {as_bits(v[4]), as_bits(v[5]), as_bits(v[6]), as_bits(v[7])});
}
FN void store_eight(Span<bf16> y, i64 at, const float (&v)[8]) {
    y.set_quad(at, {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])});
}

template <class T, bool pairs>
FN void dequantize(const Decode& a) {
    constexpr int count = 4;
    int l = thread() % 16;
    u32 first = (u32)block_x() * count * (threads() / 16) + thread() / 16;
    u32 w[count][3] = {};
    bool one_scale = a.x_tiles.kind == ROWS || a.x_tiles.kind == BLOCKS;
    float scale[count] = {};
    RowTile tile[count];
#pragma unroll
    for (int i = 0; i < count; i++) {
        tile[i] = row_tile(a.x_tiles, first + i * (threads() / 16), a.y.rows, a.y.cols);
        const RowTile& t = tile[i];
        if (8 * l >= t.width) continue;
        auto codes = code_row(a.x, t.r);
        if (pairs) {
            i64 at = (i64)(t.c + 8 * l) / 2 * 3;
            w[i][0] = codes.word(at), w[i][1] = codes.word(at + 4), w[i][2] = codes.word(at + 8);
        } else {
            Pair p = codes.pair(t.c + 8 * l);
            w[i][0] = p.x, w[i][1] = p.y;
        }
        if (one_scale) scale[i] = scale_at(a.x_tiles, a.x_scales, t.r, t.c, a.y.rows);
    }
#pragma unroll
    for (int i = 0; i < count; i++) {
        const RowTile& t = tile[i];
        if (8 * l >= t.width) continue;
        float v[8];
        decode_eight<pairs>(a.x.dtype, w[i], v);
        if (one_scale) {
            for (int k = 0; k < 8; k++) v[k] *= scale[i];
        } else {
            Place at = scale_place(a.x_tiles, t.r, t.c + 8 * l, a.y.rows);
            auto scales = row<float>(a.x_scales, at.row);
            for (int k = 0; k < 8; k++) v[k] *= scales.get(at.col + k);
        }
        store_eight(row<T>(a.y, t.r), t.c + 8 * l, v);
    }
}
KERNEL(dequantize_f32, Decode, 256) {
    if (a.x.dtype == E5M6Pair)
        dequantize<float, true>(a);
    else
        dequantize<float, false>(a);
}
KERNEL(dequantize_bf16, Decode, 256) {
    if (a.x.dtype == E5M6Pair)
        dequantize<bf16, true>(a);
    else
        dequantize<bf16, false>(a);
}
KERNEL(dequantize_any, Decode, 256) {
    int l = thread() % 16;
    RowTile t = row_tile(a.x_tiles, (u32)block_x() * (threads() / 16) + thread() / 16, a.y.rows, a.y.cols);
    for (int c = l; c < t.width; c += 16) {
        float x = decode_one(a.x.dtype, code_at(a.x, t.r, t.c + c));
        store(a.y, t.r, t.c + c, x * scale_at(a.x_tiles, a.x_scales, t.r, t.c + c, a.y.rows));
    }
}
