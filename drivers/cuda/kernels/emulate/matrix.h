// Matrix instructions of the emulator, in scalar arithmetic.
#pragma once
#include <cmath>
#include "machine.h"

namespace emulator {

inline float half_to_float(u16 b, bool brain) {
    u32 bits;
    if (brain) {
        bits = (u32)b << 16;
    } else {
        u32 magnitude = (u32)(b & 0x7fff) << 13;
        float y;
        memcpy(&y, &magnitude, 4);
        y *= 5.192296858534828e33f;  // 2^112
        if (magnitude >= 0x7c00u << 13) y = magnitude > 0x7c00u << 13 ? NAN : INFINITY;
        return b & 0x8000 ? -y : y;
    }
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

struct Fragments {
    u32 a[4], b[2];
};

inline void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, bool brain) {
    Fragments f = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const u8(*warp)[SLOT] = exchange(&f, sizeof f);
    u32 lane = machine().current % 32, group = lane / 4, pair = lane % 4;
    auto half = [&](u32 word, u32 i) { return half_to_float((u16)(word >> 16 * (i % 2)), brain); };
    float rows[2][16], cols[2][16];
    for (u32 k = 0; k < 16; k++) {
        // Element k of a row lies with lane k/2 mod 4 of the row's group; of a column likewise.
        u32 from = k % 8 / 2, high = k / 8;
        const auto& x = *(const Fragments*)warp[group * 4 + from];
        rows[0][k] = half(x.a[high * 2], k);
        rows[1][k] = half(x.a[high * 2 + 1], k);
        for (u32 j = 0; j < 2; j++) cols[j][k] = half(((const Fragments*)warp[(pair * 2 + j) * 4 + from])->b[high], k);
    }
    for (u32 i = 0; i < 2; i++)
        for (u32 j = 0; j < 2; j++) {
            double sum = c[i * 2 + j];
            for (u32 k = 0; k < 16; k++) sum += (double)rows[i][k] * cols[j][k];
            c[i * 2 + j] = (float)sum;
        }
}

}  // namespace emulator
