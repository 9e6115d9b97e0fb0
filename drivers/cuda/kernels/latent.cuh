// Rows of the latent cache, as `LatentRow` of the core lays them out.
#pragma once
#include "codes.cuh"

// Columns of the latent and of the key; in a row of E4M3 the first bytes of the scales and of the key.
struct LatentRow {
    int latent, rope, scales, keys;
};

// Row `slot` of a cache of E4M3: its codes, its scales and its key.
FN u64 cache_row(const Mat& cache, int slot) {
    check_row(slot, cache.rows);
    return cache.data + (u64)((i64)slot * cache.stride);
}
FN Span<u8> cached_codes(const Mat& cache, const LatentRow& l, int slot) {
    return span<u8>(cache_row(cache, slot), l.latent);
}
FN Span<float> cached_scales(const Mat& cache, const LatentRow& l, int slot) {
    return span<float>(cache_row(cache, slot) + (u64)l.scales, ceil_div(l.latent, TILE));
}
FN Span<bf16> cached_key(const Mat& cache, const LatentRow& l, int slot) {
    return span<bf16>(cache_row(cache, slot) + (u64)l.keys, l.rope);
}

// Number `c` of a cached token: the latent, then the key.
FN float cached(const Mat& cache, const LatentRow& l, int slot, int c) {
    if (cache.dtype != E4M3) return load(cache, slot, c);
    if (c >= l.latent) return widen(cached_key(cache, l, slot).get(c - l.latent));
    return decode_one(E4M3, cached_codes(cache, l, slot).get(c)) * cached_scales(cache, l, slot).get(c / TILE);
}
