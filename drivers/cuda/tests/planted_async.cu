// Kernels of Hopper's asynchronous operations with one fault each, as those of `planted.cu`. `a.plant` chooses.
#include "fathom.cuh"

struct Planted {
    // Boxes of 64 rows of 128 bytes of x, swizzled and not.
    TensorMap swizzled, plain;
    Mat x, y;
    int plant, reserved[15];
};

// A row goes through shared memory by a bulk copy: written by threads before (and so fenced), waited for after.
KERNEL(bulk, Planted, 64) {
    Carve carve;
    auto shared = carve.take<float>(64);
    auto barrier = carve.take<Barrier>(2);
    auto x = row<float>(a.x, 0);
    shared.set(thread(), 0.0f);
    if (a.plant != 1) fence_async();
    if (thread() == 0 && a.plant != 2) {
        barrier_init(barrier, 0, 1);
        if (a.plant != 3) barriers_ready();
    }
    if (a.plant == 4 && thread() == 33) barrier_arrive(barrier, 0);
    sync();
    if (thread() == 0) {
        // Two copies of half a row.
        barrier_expect(barrier, 0, a.plant == 5 ? 128 : a.plant == 6 ? 512 : a.plant == 7 ? 130 : 256);
        if (a.plant == 16) barrier_arrive(barrier, 0);
        copy_bulk(shared, a.plant == 8 ? 1 : 0, x, 0, 32, barrier, 0);
        copy_bulk(shared, 32, x, 32, 32, barrier, 0);
    }
    if (a.plant == 9) return;
    if (a.plant == 10) shared.set(thread(), 1.0f);
    if (a.plant == 11 || (a.plant == 12 && thread() != 0))
        ;
    else
        barrier_wait(barrier, a.plant == 13 ? 1 : 0, a.plant == 14 ? 1 : 0);
    if (a.plant == 15) barrier_wait(barrier, 0, 1);
    store(a.y, 0, thread(), shared.get(thread()));
    if (a.plant == 17) store(a.y, 0, thread(), as_float(Shared<u32>(256, 2).get(0)));
}

// A ring of two stages: a lane of the second warp fills it, the first warp empties it.
KERNEL(ring, Planted, 64) {
    constexpr int STAGES = 2, STEPS = 4, EACH = 16;
    Carve carve;
    auto shared = carve.take<float>(STAGES * EACH);
    auto full = carve.take<Barrier>(STAGES), empty = carve.take<Barrier>(STAGES);
    if (thread() == 0) {
        for (int i = 0; i < STAGES; i++) barrier_init(full, i, 1), barrier_init(empty, i, 32);
        barriers_ready();
    }
    sync();
    if (warp() == 1) {
        if (lane() == 0)
            for (int step = 0; step < STEPS; step++) {
                int slot = step % STAGES, round = step / STAGES % 2;
                if (a.plant != 1) barrier_wait(empty, slot, a.plant == 2 ? round : 1 - round);
                barrier_expect(full, slot, EACH * 4);
                copy_bulk(shared, slot * EACH, row<float>(a.x, 0), step * EACH, EACH, full, slot);
            }
    } else {
        for (int step = 0; step < STEPS; step++) {
            int slot = step % STAGES, round = step / STAGES % 2;
            barrier_wait(full, slot, a.plant == 3 ? 0 : a.plant == 4 ? 1 - round : round);
            if (a.plant == 5) barrier_arrive(empty, slot);
            float x = shared.get(slot * EACH + lane() % EACH);
            // The lanes that read arrive, or another does for them.
            if (a.plant != 5 && (a.plant != 6 || lane() < 16)) barrier_arrive(empty, slot);
            if (a.plant == 6 && lane() < 16) barrier_arrive(empty, slot);
            if (lane() < EACH) store(a.y, 0, step * EACH + lane(), x);
        }
    }
    sync();
}

// y = x·xᵀ of 64 rows, by a warpgroup.
template <class T>
FN void square(const Planted& a) {
    constexpr int ROW = 128 / (int)sizeof(T), STEP = 32 / (int)sizeof(T);
    Carve carve;
    auto tile = carve.take<T>(65 * ROW);
    auto barrier = carve.take<Barrier>(1);
    if (thread() == 0) {
        barrier_init(barrier, 0, 1);
        barriers_ready();
    }
    sync();
    if (a.plant < 20) {
        int at_row = a.plant == 1 ? 32 : 0, at_col = a.plant == 2 ? -STEP : 0;
        if (thread() == 0) {
            barrier_expect(barrier, 0, 64 * 128);
            copy_tile(tile, a.plant == 3 ? ROW : 0, a.plant == 4 ? a.plain : a.swizzled, at_row, at_col, barrier, 0);
        }
        if (a.plant != 5) barrier_wait(barrier, 0, 0);
    } else {
        // By threads, in the same order or as they come.
        auto words = Shared<u32>(0, 64 * 32);
        auto x = span<u32>(a.x.data, 64 * 32);
        for (int i = thread(); i < 64 * 32; i += threads()) {
            int r = i / 32, chunk = i % 32 / 4;
            words.set(r * 32 + (a.plant == 20 ? chunk : chunk ^ r % 8) * 4 + i % 4, x.get(i));
        }
        if (a.plant != 21) fence_async();
        sync();
    }
    Accumulators<64> sums;
    sums.set(0, 1.0f);
    if (a.plant != 7) wgmma_fence(sums);
    if (a.plant == 6) sums.set(0, 1.0f);
    int from = a.plant == 8 ? ROW : a.plant == 9 ? 1 << 16 : 0;
    for (int k = 0; k < ROW; k += STEP) {
        Tile x = a.plant == 10 ? tile_at<64>(tile, k % (ROW / 2)) : tile_at<128>(tile, from + k);
        Tile y = tile_at<128>(tile, a.plant == 11 && warp() == 2 ? 0 : a.plant == 12 && lane() == 3 ? 0 : k);
        if constexpr (sizeof(T) == 1)
            wgmma_e4m3(sums, x, y, k > 0);
        else
            wgmma_bf16(sums, x, y, k > 0);
    }
    if (a.plant != 13) wgmma_commit();
    if (a.plant == 14 && thread() == 7) tile.set_word(0, 0);
    if (a.plant == 15 && thread() == 7) copy_tile(tile, 0, a.swizzled, 0, 0, barrier, 0);
    if (a.plant == 16) return;
    if (a.plant == 17)
        wgmma_wait<1>(sums);
    else if (a.plant != 18)
        wgmma_wait<0>(sums);
    for (int i = 0; i < 32; i++) {
        int r = warp() * 16 + lane() / 4 + i / 2 % 2 * 8, c = i / 4 * 8 + lane() % 4 * 2 + i % 2;
        store(a.y, r, c, sums.get(i));
    }
    // What was multiplied may be overwritten now, by a thread that the others told.
    sync();
    tile.set_word(thread() * 4 / (int)sizeof(T), 0);
}
KERNEL(square_bf16, Planted, 128) {
    square<bf16>(a);
}
KERNEL(square_e4m3, Planted, 128) {
    square<u8>(a);
}

// One warpgroup gives registers to two.
KERNEL(registers, Planted, 384) {
    if (warp() >= 8) {
        if (a.plant != 1 && (a.plant != 2 || warp() == 8)) give_registers<40>();
    } else if (a.plant == 3)
        take_registers<40>();
    else
        take_registers<232>();
}
