// Weights as they are stored: numbers, or E4M3 codes with a scale for every 128×128. Where a kernel reads one it is
// numbers in f32.
#pragma once
#include "codes.cuh"

struct Weight {
    Mat w, scales;
    Tiles tiles;
};

// How a kernel reads a row of a weight: `COUNT` neighbours from column `c` on, a multiple of COUNT, at a time; zeros
// past the end. `get` then gives eight of them. `Floats` and `Codes` read sixteen bytes a piece, where rows start on
// such and hold whole pieces; the `Single` ones read any rows, and give the same numbers.
template <class T>
struct Floats {
    static constexpr int COUNT = 8;
    Eight<T> e;
    FN void fetch(const Weight& w, int r, int, int c) {
        e = c < w.w.cols ? fetch_eight(row<T>(w.w, r), c) : Eight<T>{};
    }
    FN void get(int, float (&v)[8]) const {
        widen_eight(e, v);
    }
};
template <class T>
struct SingleFloats {
    static constexpr int COUNT = 8;
    float e[8];
    FN void fetch(const Weight& w, int r, int, int c) {
        load_eight<T>(w.w, r, c, false, e);
    }
    FN void get(int, float (&v)[8]) const {
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = e[k];
    }
};
struct Codes {
    static constexpr int COUNT = 16;
    Quad q;
    float scale;
    // `scales` is the row of the scales.
    FN void fetch(const Weight& w, int r, int scales, int c) {
        q = Quad{0, 0, 0, 0};
        scale = 0.0f;
        if (c >= w.w.cols) return;
        q = code_row(w.w, r).quad(c);
        scale = row<float>(w.scales, scales).get(c / TILE);
    }
    FN void get(int half, float (&v)[8]) const {
        decode_e4m3(half == 0 ? q.x : q.z, half == 0 ? q.y : q.w, v);
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] *= scale;
    }
};
struct SingleCodes {
    static constexpr int COUNT = 16;
    u32 words[4];
    float scale;
    FN void fetch(const Weight& w, int r, int scales, int c) {
#pragma unroll
        for (int k = 0; k < 4; k++) words[k] = 0;
        scale = 0.0f;
        if (c >= w.w.cols) return;
        auto codes = code_row(w.w, r);
#pragma unroll
        for (int k = 0; k < 16; k++)
            if (c + k < w.w.cols) words[k / 4] |= (u32)codes.get(c + k) << 8 * (k % 4);
        scale = row<float>(w.scales, scales).get(c / TILE);
    }
    FN void get(int half, float (&v)[8]) const {
        decode_e4m3(half == 0 ? words[0] : words[2], half == 0 ? words[1] : words[3], v);
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] *= scale;
    }
};

// The row of the scales of row `r`.
FN int scale_row(const Weight& w, int r) {
    return w.w.dtype == E4M3 ? scale_place(w.tiles, r, 0, w.w.rows).row : 0;
}
