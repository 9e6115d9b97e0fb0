// Copies in the order that the vendor's library wants scales in.
#include "fathom.cuh"

struct Reorder {
    Mat x, y;
};

// y = xᵀ of numbers, a block for each 32 by 32 of them, through shared memory so that reads and writes are of whole lines.
KERNEL(transpose_f32, Reorder, 256) {
    Carve carve;
    auto tile = carve.take<float>(32 * 33);
    int r0 = block_x() * 32, c0 = block_y() * 32;
    for (int i = warp(); i < 32; i += 8) {
        int r = r0 + i, c = c0 + lane();
        if (r < a.x.rows && c < a.x.cols) tile.set(i * 33 + lane(), row<float>(a.x, r).get(c));
    }
    sync();
    for (int i = warp(); i < 32; i += 8) {
        int r = c0 + i, c = r0 + lane();
        if (r < a.y.rows && c < a.y.cols) row<float>(a.y, r).set(c, tile.get(lane() * 33 + i));
    }
}

// y = x of numbers, and zeros where y has more columns; a block for each row.
KERNEL(pad_f32, Reorder, 64) {
    auto x = row<float>(a.x, block_x());
    auto y = row<float>(a.y, block_x());
    for (int c = thread(); c < a.y.cols; c += threads()) y.set(c, c < a.x.cols ? x.get(c) : 0.0f);
}
