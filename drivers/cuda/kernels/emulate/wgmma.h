// Matrix products of warpgroups on the emulator; `hopper.cuh` says what each name does.
//
// Each thread computes its own sums, in the order that two instructions of `mma.sync` have, when they are waited for,
// no sooner. It reads what the descriptors name, as the hardware would: a tile written in another order than a
// descriptor says gives wrong numbers, and a fault where a bulk copy wrote it.
#pragma once
#include "matrix.h"
#include "shared.h"

namespace emulator {

// A descriptor's matrix, whose rows have 32 bytes.
struct Factor {
    u32 start, between, width;
    FN u32 chunk(u32 row, u32 half) const {
        return swizzled(start + row / 8 * between + row % 8 * width + half * 16, width);
    }
};

inline Factor factor(u64 descriptor, u32 rows) {
    constexpr u32 WIDTHS[4] = {0, 128, 64, 32};
    Factor f = {(u32)(descriptor & 0x3fff) << 4, (u32)(descriptor >> 32 & 0x3fff) << 4, WIDTHS[descriptor >> 62]};
    if (f.width == 0 || (descriptor >> 49 & 7) != 0)
        fail("multiplies a matrix of a form that the emulator does not know (%llx)", descriptor);
    if (f.start % (8 * f.width) >= f.width || f.start % f.width + 32 > f.width)
        fail("multiplies a matrix from byte %u of shared memory on, which is not aligned to %u bytes", f.start,
             8 * f.width);
    check_shared(f.start, (rows / 8 - 1) * f.between + 7 * f.width + 32);
    return f;
}

// Calls `f` with all places that the current warp reads of a product: its sixteen rows of a, and all of b.
template <class F>
inline void for_each_place(const Product& p, F f) {
    u32 first = machine().current / 32 % 4 * 16;
    Factor a = factor(p.a, 64), b = factor(p.b, p.n);
    for (u32 half = 0; half < 2; half++) {
        for (u32 r = 0; r < 16; r++) f(a.chunk(first + r, half), a.width);
        for (u32 r = 0; r < p.n; r++) f(b.chunk(r, half), b.width);
    }
}

struct Codes {
    float value[256];
    Codes() {
        for (u32 c = 0; c < 256; c++) {
            u32 magnitude = c & 0x7f;
            float x = magnitude == 0x7f ? NAN
                      : magnitude >= 8  ? ldexpf((float)(8 + magnitude % 8), (int)(magnitude / 8) - 10)
                                        : ldexpf((float)magnitude, -9);
            value[c] = c & 0x80 ? -x : x;
        }
    }
};

// Elements of a row of 32 bytes: sixteen of bfloat16, or 32 codes.
inline void widen_row(const Factor& f, u32 row, bool codes, float* x) {
    static const Codes table;
    const u8* shared = machine().shared.data();
    for (u32 half = 0; half < 2; half++) {
        const u8* bytes = shared + f.chunk(row, half);
        for (u32 i = 0; i < 16; i++) {
            if (codes)
                x[half * 16 + i] = table.value[bytes[i]];
            else if (i % 2 == 0)
                x[half * 8 + i / 2] = half_to_float((u16)(bytes[i] | bytes[i + 1] << 8), true);
        }
    }
}

// This thread's part of a product: rows g and g + 8 of its warp's sixteen, two columns of every eight.
inline void compute(const Product& p) {
    u32 me = machine().current, lane = me % 32, k = p.codes ? 32 : 16;
    Factor a = factor(p.a, 64), b = factor(p.b, p.n);
    float rows[2][32], col[32];
    for (u32 h = 0; h < 2; h++) widen_row(a, me / 32 % 4 * 16 + lane / 4 + 8 * h, p.codes, rows[h]);
    for (u32 j = 0; j < p.n / 8; j++)
        for (u32 e = 0; e < 2; e++) {
            widen_row(b, j * 8 + lane % 4 * 2 + e, p.codes, col);
            for (u32 h = 0; h < 2; h++) {
                float& x = p.sums[j * 4 + h * 2 + e];
                if (!p.add) x = 0.0f;
                for (u32 first = 0; first < k; first += 16) {
                    double sum = x;
                    for (u32 i = first; i < first + 16; i++) sum += (double)rows[h][i] * col[i];
                    x = (float)sum;
                }
            }
        }
    *p.pending -= 1;
}

inline void begin_product(const Product& p) {
    Machine& m = machine();
    u32 me = m.current, warp = me / 32;
    if (m.threads % 128 != 0) fail("multiplies by warpgroups in a block of %u threads", m.threads);
    factor(p.a, 64);
    factor(p.b, p.n);
    struct {
        u64 a, b;
        u32 n, codes, add;
    } mine = {p.a, p.b, p.n, p.codes, p.add};
    const u8(*all)[SLOT] = exchange(&mine, 28);
    if (memcmp(all[0], &mine, 28) != 0) fail("multiplies other matrices than another lane of its warp");
    Thread& t = m.fibers[me];
    if (t.products.empty()) t.products.emplace_back();
    t.products.back().push_back(p);
    *p.pending += 1;
    if (me % 32 != 0) return;
    auto& log = m.begun[warp / 4];
    u32 number = m.began[warp]++;
    if (number == log.size()) log.push_back(p);
    const Product& other = log[number];
    if (other.a != p.a || other.b != p.b || other.n != p.n || other.codes != p.codes || other.add != p.add)
        fail("multiplies other matrices than another warp of its warpgroup");
    for_each_place(p, [&](u32 at, u32 width) {
        touch_shared(at, 16, Touch::Matrix);
        for (u32 i = at / 2; i < at / 2 + 8; i++) {
            Cell& c = m.cells[i];
            if (is_copy(c.writer) && c.kind != SWIZZLED + width)
                fail("multiplies byte %u of shared memory with a swizzle of %u bytes, where a copy left one of %u",
                     i * 2, width, c.kind - SWIZZLED);
            c.busy++;
        }
    });
}

// Lets products land until at most `n` groups are under way.
inline void wait_products(u32 n) {
    Machine& m = machine();
    u32 me = m.current;
    Thread& t = m.fibers[me];
    std::vector<Product> landing;
    while (t.products.size() > n + 1) {
        landing.insert(landing.end(), t.products.front().begin(), t.products.front().end());
        t.products.erase(t.products.begin());
    }
    for (auto& p : landing) {
        compute(p);
        if (me % 32 == 0)
            for_each_place(p, [](u32 at, u32) {
                for (u32 i = at / 2; i < at / 2 + 8; i++) note_read(i);
            });
    }
    // The warp is done with what it read when all its lanes are.
    char none = 0;
    exchange(&none, 1);
    if (me % 32 == 0)
        for (auto& p : landing)
            for_each_place(p, [&](u32 at, u32) {
                for (u32 i = at / 2; i < at / 2 + 8; i++) m.cells[i].busy--;
            });
}

inline void set_registers(u32 count, bool more) {
    Machine& m = machine();
    Thread& t = m.fibers[m.current];
    if (more ? count < t.registers : count > t.registers)
        fail("%s %u registers, and has %u", more ? "takes" : "keeps", count, t.registers);
    t.registers = count;
}

}  // namespace emulator

template <int N>
struct Accumulators {
    static_assert(N == 64 || N == 128 || N == 256, "columns of a product of a warpgroup");
    float x[N / 2];
    mutable u32 touched;
    u32 pending;
    FN Accumulators() : touched(fences()), pending(0) {
        for (float& y : x) y = NAN;
    }
    Accumulators(const Accumulators&) = delete;
    FN ~Accumulators() {
        if (pending > 0) emulator::fail("leaves sums of a matrix product under way");
    }
    FN static u32 fences() {
        return emulator::machine().fibers[emulator::machine().current].fences;
    }
    FN float get(int i) const {
        if (i < 0 || i >= N / 2) emulator::fail("sum %d of %d", i, N / 2);
        if (pending > 0) emulator::fail("reads sum %d of a matrix product that was not waited for", i);
        touched = fences();
        return x[i];
    }
    FN void set(int i, float y) {
        if (i < 0 || i >= N / 2) emulator::fail("sum %d of %d", i, N / 2);
        if (pending > 0) emulator::fail("writes sum %d of a matrix product that was not waited for", i);
        touched = fences();
        x[i] = y;
    }
    FN void multiply(Tile a, Tile b, bool codes, bool add) {
        if (pending == 0 && touched == fences())
            emulator::fail("multiplies to sums without a fence of matrix products");
        emulator::begin_product({a.descriptor, b.descriptor, N, codes, add, x, &pending});
    }
};

template <int WIDTH, class T>
FN Tile tile_at(Shared<T> s, int i) {
    static_assert(WIDTH == 128 || WIDTH == 64 || WIDTH == 32, "bytes of a swizzle");
    u32 p = s.at + (u32)i * (u32)sizeof(T);
    if (p % 16 != 0) emulator::fail("element %d of shared memory is not aligned to 16 bytes", i);
    u64 mode = WIDTH == 128 ? 1 : WIDTH == 64 ? 2 : 3;
    return Tile{(u64)(p >> 4 & 0x3fff) | 1ull << 16 | (u64)(8 * WIDTH / 16) << 32 | mode << 62};
}
template <int N>
FN void wgmma_bf16(Accumulators<N>& c, Tile a, Tile b, bool add) {
    c.multiply(a, b, false, add);
}
template <int N>
FN void wgmma_e4m3(Accumulators<N>& c, Tile a, Tile b, bool add) {
    c.multiply(a, b, true, add);
}
template <int N>
FN void wgmma_fence(Accumulators<N>&) {
    emulator::machine().fibers[emulator::machine().current].fences++;
}
FN void wgmma_commit() {
    auto& t = emulator::machine().fibers[emulator::machine().current];
    if (t.products.empty()) t.products.emplace_back();
    t.products.emplace_back();
}
template <int GROUPS>
FN void wgmma_wait() {
    emulator::wait_products(GROUPS);
}
template <int GROUPS, int N>
FN void wgmma_wait(Accumulators<N>&) {
    emulator::wait_products(GROUPS);
}
template <int COUNT>
FN void take_registers() {
    static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256, "registers of a thread");
    emulator::set_registers(COUNT, true);
}
template <int COUNT>
FN void give_registers() {
    static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256, "registers of a thread");
    emulator::set_registers(COUNT, false);
}
