// What matrix products by warpgroups share: the argument, and a ring of tiles in shared memory that one thread fills by
// bulk copies while warpgroups empty it. Products are in form NT: both factors have rows along the inner dimension.
#pragma once

// Threads that multiply, in two warpgroups, and all: one of a third warpgroup copies.
constexpr int WORKERS = 256, WITH_COPIER = 384;

// The argument of a kernel whose other form takes Args: boxes of both factors, of 128 bytes a row, swizzled over those.
template <class Args>
struct Boxes {
    TensorMap a, b;
    Args product;
};

// A ring of STAGES, each a box of A_ROWS and one of B_ROWS rows, DEPTH elements of the inner dimension.
template <class T, int STAGES, int A_ROWS, int B_ROWS>
struct BoxRing {
    static constexpr int DEPTH = 128 / (int)sizeof(T), A_SIZE = A_ROWS * DEPTH, SIZE = A_SIZE + B_ROWS * DEPTH;
    Shared<T> data;
    Shared<Barrier> full, empty;
    FN BoxRing(Carve& carve)
        : data(carve.take<T>(STAGES * SIZE)), full(carve.take<Barrier>(STAGES)), empty(carve.take<Barrier>(STAGES)) {
        if (thread() == 0) {
            for (int i = 0; i < STAGES; i++) {
                barrier_init(full, i, 1);
                barrier_init(empty, i, WORKERS / 32);
            }
            barriers_ready();
        }
        sync();
    }
    // Fills the ring with `steps` pairs of boxes, from rows `a_row` and `b_row` on; called by one thread.
    FN void fill(const TensorMap& a, int a_row, const TensorMap& b, int b_row, int steps) const {
        for (int step = 0; step < steps; step++) {
            int slot = step % STAGES, base = slot * SIZE;
            barrier_wait(empty, slot, 1 - step / STAGES % 2);
            barrier_expect(full, slot, SIZE * (int)sizeof(T));
            copy_tile(data, base, a, a_row, step * DEPTH, full, slot);
            copy_tile(data, base + A_SIZE, b, b_row, step * DEPTH, full, slot);
        }
    }
    // Waits until stage `step` is there.
    FN void wait(int step) const {
        barrier_wait(full, step % STAGES, step / STAGES % 2);
    }
    // Says, for each warp, that it has done with stage `step`.
    FN void done(int step) const {
        if (lane() == 0) barrier_arrive(empty, step % STAGES);
    }
    // 32 bytes along the inner dimension of a stage, number `part`: of 64 rows of a for each warpgroup, of all of b.
    FN Tile a_tile(int step, int part) const {
        return tile_at<128>(data, step % STAGES * SIZE + warp() / 4 * 64 * DEPTH + part * (DEPTH / 4));
    }
    FN Tile b_tile(int step, int part) const {
        return tile_at<128>(data, step % STAGES * SIZE + A_SIZE + part * (DEPTH / 4));
    }
};

// What the warpgroup that copies does: all of it, and the barriers of `finish`.
template <class Ring>
FN void copy_boxes(const Ring& ring, const TensorMap& a, int a_row, const TensorMap& b, int b_row, int steps) {
    give_registers<40>();
    if (thread() == WORKERS) ring.fill(a, a_row, b, b_row, steps);
    sync_warp();
    sync();
    sync();
}
