// Decoding: the rows of the latent cache, and the projection of keys taken into the queries.
#include "latent.cuh"
#include "weights.cuh"

struct Tokens {
    Mat latent, k_pe, slots, cache;
    LatentRow row;
    u64 fault;
    u32 site, wide;  // wide: rows of latents may be read and written in sixteen bytes
};

// The token of this warp, and the row of the cache that is its; false where there is none.
FN bool token(const Tokens& a, int& t, int& slot) {
    t = block_x() * (threads() / 32) + warp();
    if (t >= a.slots.rows) return false;
    u32 x = row<u32>(a.slots, t).get(0);
    slot = (int)x;
    return in_range(a.fault, a.site, x, (u32)a.cache.rows);
}

// A warp for each token. Each 1×128 tile of codes has the bits of `quantize`.
KERNEL(store_latent, Tokens, 256) {
    const LatentRow& l = a.row;
    int t, slot;
    // A warp has one token, and so leaves as one.
    if (!token(a, t, slot)) return;
    if (a.cache.dtype != E4M3) {
        for (int c = lane(); c < l.latent; c += 32) store(a.cache, slot, c, load(a.latent, t, c));
        for (int c = lane(); c < l.rope; c += 32) store(a.cache, slot, l.latent + c, load(a.k_pe, t, c));
        return;
    }
    auto codes = cached_codes(a.cache, l, slot);
    for (int first = 0; first < l.latent; first += TILE) {
        int c = first + 4 * lane(), width = min_of(4, l.latent - c);
        float v[4];
        u32 amax = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            v[k] = k < width ? load(a.latent, t, c + k) : 0.0f;
            amax = larger(amax, magnitude_bits(v[k]));
        }
        for (int d = 16; d > 0; d /= 2) amax = larger(amax, shuffle_xor(amax, d));
        Divisor by(scale_of(amax, 448.0f, 0));
        if (lane() == 0) {
            check_finite(a.fault, a.site, amax);
            cached_scales(a.cache, l, slot).set(first / TILE, by.scale);
        }
        bool usual = by.is_usual(0);
#pragma unroll
        for (int k = 0; k < 4; k++) v[k] = usual ? by.divide(v[k], 0) : v[k] / by.scale;
        u32 word = encode_four(E4M3, v[0], v[1], v[2], v[3]);
        if (width == 4) codes.set_word(c, word);
        // What lies between the codes and the scales stays as it is.
        for (int k = 0; k < width && width < 4; k++) codes.set(c + k, (u8)(word >> 8 * k));
    }
    auto key = cached_key(a.cache, l, slot);
    for (int c = lane(); c < l.rope; c += 32) key.set(c, rounded<bf16>(load(a.k_pe, t, c)));
}

KERNEL(load_latent, Tokens, 256) {
    const LatentRow& l = a.row;
    int t, slot;
    if (!token(a, t, slot)) return;
    int whole_eights = a.wide && a.cache.dtype == E4M3 ? l.latent / 8 : 0;
    for (int i = lane(); i < whole_eights; i += 32) {
        float v[8], scale = cached_scales(a.cache, l, slot).get(i * 8 / TILE);
        auto codes = cached_codes(a.cache, l, slot);
        decode_e4m3(codes.word(i * 8), codes.word(i * 8 + 4), v);
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] *= scale;
        store_eight(a.latent, t, i * 8, true, v);
    }
    for (int c = whole_eights * 8 + lane(); c < l.latent; c += 32)
        store(a.latent, t, c, cached(a.cache, l, slot, c));
    for (int c = lane(); c < l.rope; c += 32) store(a.k_pe, t, c, cached(a.cache, l, slot, l.latent + c));
}

// ---- W_UK taken into the queries

struct Absorb {
    Mat q, y;
    Weight w;
    int heads, nope, rope, value;
    int chunks;  // of columns of the latent
    int reserved;
};

// A block has 256 columns of a head's result, eight in each lane; its warps a quarter of W_UK's rows each, whose sums
// are added from the first quarter to the last. Eight rows of queries at a time.
constexpr int ABSORBED = 256, QUERIES = 8, QUARTERS = 4;

template <class W>
FN void absorb(const Absorb& a) {
    static_assert(ABSORBED == 32 * 8, "eight columns in each lane");
    Carve carve;
    auto queries = carve.take<float>(QUERIES * a.nope);
    auto parts = carve.take<float>(QUARTERS * QUERIES * ABSORBED);
    int j = block_x() / a.chunks, first = block_x() % a.chunks * ABSORBED, latent = a.w.w.cols;
    int t0 = block_y() * QUERIES, rows = min_of(QUERIES, a.q.rows - t0);
    for (int i = thread(); i < QUERIES * a.nope; i += threads()) {
        int r = i / a.nope, c = i % a.nope;
        queries.set(i, r < rows ? load(a.q, t0 + r, j * (a.nope + a.rope) + c) : 0.0f);
    }
    sync();
    float sums[QUERIES][8] = {};
    int each = ceil_div(a.nope, QUARTERS), last = min_of(a.nope, (warp() + 1) * each);
    // Codes come sixteen at a time, of which a lane takes the half that is its own.
    int c = first + lane() * 8, piece = c / W::COUNT * W::COUNT, half = c % W::COUNT / 8;
#pragma unroll 4
    for (int i = warp() * each; i < last; i++) {
        int r = j * (a.nope + a.value) + i;
        W e;
        float w[8];
        e.fetch(a.w, r, scale_row(a.w, r), piece);
        e.get(half, w);
#pragma unroll
        for (int t = 0; t < QUERIES; t++) {
            float x = queries.get(t * a.nope + i);
#pragma unroll
            for (int k = 0; k < 8; k++) sums[t][k] = fma(x, w[k], sums[t][k]);
        }
    }
#pragma unroll
    for (int t = 0; t < QUERIES; t++)
#pragma unroll
        for (int k = 0; k < 8; k += 4)
            parts.set_quad((warp() * QUERIES + t) * ABSORBED + lane() * 8 + k,
                           Quad{as_bits(sums[t][k]), as_bits(sums[t][k + 1]), as_bits(sums[t][k + 2]),
                                as_bits(sums[t][k + 3])});
    sync();
    int y_col = j * (latent + a.rope);
    for (int i = thread(); i < rows * ABSORBED; i += threads()) {
        int t = i / ABSORBED, c = i % ABSORBED;
        if (first + c >= latent) continue;
        float sum = parts.get(t * ABSORBED + c);
        for (int k = 1; k < QUARTERS; k++) sum += parts.get((k * QUERIES + t) * ABSORBED + c);
        store(a.y, t0 + t, y_col + first + c, sum);
    }
    if (first > 0) return;
    for (int i = thread(); i < rows * a.rope; i += threads()) {
        int t = i / a.rope, c = i % a.rope;
        store(a.y, t0 + t, y_col + latent + c, load(a.q, t0 + t, j * (a.nope + a.rope) + a.nope + c));
    }
}
KERNEL(absorb_query_f32, Absorb, 128) {
    absorb<Floats<float>>(a);
}
KERNEL(absorb_query_bf16, Absorb, 128) {
    absorb<Floats<bf16>>(a);
}
KERNEL(absorb_query_e4m3, Absorb, 128) {
    absorb<Codes>(a);
}
KERNEL(absorb_query_f32_any, Absorb, 128) {
    absorb<SingleFloats<float>>(a);
}
KERNEL(absorb_query_bf16_any, Absorb, 128) {
    absorb<SingleFloats<bf16>>(a);
}
KERNEL(absorb_query_f16_any, Absorb, 128) {
    absorb<SingleFloats<f16>>(a);
}
KERNEL(absorb_query_e4m3_any, Absorb, 128) {
    absorb<SingleCodes>(a);
}
