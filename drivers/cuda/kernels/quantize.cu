// Quantization of matrices to FP8 codes with scales, dequantization, and requantization in other tiles.
#include "encode.cuh"

struct Decode {
    Mat x, x_scales, y;
    Tiles x_tiles;
};

KERNEL(quantize_rows_f32, Encode, 256) {
    quantize_rows<OfF32, 2>(a);
}
KERNEL(quantize_rows_bf16, Encode, 256) {
    quantize_rows<OfBf16, 4>(a);
}
KERNEL(quantize_rows_any, Encode, 256) {
    quantize_rows<Single, 1>(a);
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

// Codes of other rows: `index[r] / divisor` for row `r`, zeros for an index out of range.
struct Gather : Encode {
    Mat index;
    u32 divisor, limit;
};
template <class Source>
struct Gathered : Source {
    template <int threads, class A>
    FN void fetch(const A& a, int r, int c, int width, int l) {
        u32 index = row<u32>(a.index, r).get(0);
        if (!in_range(a.fault, a.site, index, a.limit)) return;
        Source::template fetch<threads>(a, (int)(index / a.divisor), c, width, l);
    }
};
KERNEL(quantize_gathered_e4m3, Gather, 256) {
    quantize_columns<Gathered<OfE4M3>>(a);
}
KERNEL(quantize_gathered_any, Gather, 256) {
    quantize_columns<Gathered<Single>>(a);
}

KERNEL(quantize_both_f32, Both, 512) {
    quantize_both<OfF32>(a);
}
KERNEL(quantize_both_bf16, Both, 512) {
    quantize_both<OfBf16>(a);
}
KERNEL(quantize_both_any, Both, 512) {
    quantize_both<Single>(a);
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
        check_finite(a.fault, a.site, amax);
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
            ScalePlace at = scale_place(a.x_tiles, t.r, t.c + 8 * l, a.y.rows);
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
