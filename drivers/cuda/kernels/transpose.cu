// Copies of FP8 codes and scales into the layouts that cuBLASLt takes.
#include "fathom.cuh"

struct Reorder {
    Mat x, y;
};

// y = xᵀ of bytes. Extents are multiples of 16, and rows start on such. A block for each 128 by 128 of them: a thread
// turns four by four at a time in registers, so that shared memory holds words of four rows, columns one under the
// other. The sixteen bytes `q` of column `c` lie at `q ^ c / 16`: neither the words that are written nor the sixteens
// that are read meet in a bank.
KERNEL(transpose_bytes, Reorder, 256) {
    Carve carve;
    auto tile = carve.take<u32>(128 * 32);
    int r0 = block_x() * 128, c0 = block_y() * 128, at = thread() / 8, chunk = thread() % 8;
    if (r0 + at * 4 < a.x.rows && c0 + chunk * 16 < a.x.cols) {
        u32 x[4][4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            Quad q = row<u8>(a.x, r0 + at * 4 + i).quad(c0 + chunk * 16);
            x[i][0] = q.x;
            x[i][1] = q.y;
            x[i][2] = q.z;
            x[i][3] = q.w;
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
            // Bytes 0 and 1, then 2 and 3, of two rows in turn; then those of four rows.
            u32 low0 = permute(x[0][k], x[1][k], 0x5140), low2 = permute(x[2][k], x[3][k], 0x5140);
            u32 high0 = permute(x[0][k], x[1][k], 0x7362), high2 = permute(x[2][k], x[3][k], 0x7362);
            int to = (chunk * 16 + k * 4) * 32 + (at / 4 ^ chunk) * 4 + at % 4;
            tile.set(to, permute(low0, low2, 0x5410));
            tile.set(to + 32, permute(low0, low2, 0x7632));
            tile.set(to + 64, permute(high0, high2, 0x5410));
            tile.set(to + 96, permute(high0, high2, 0x7632));
        }
    }
    sync();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int c = at + i * 32;
        if (c0 + c < a.y.rows && r0 + chunk * 16 < a.y.cols)
            row<u8>(a.y, c0 + c).set_quad(r0 + chunk * 16, tile.quad(c * 32 + (chunk ^ c / 16) * 4));
    }
}

// y = xᵀ of numbers, and zeros where y has more columns; a block for each 32 by 32 of them, through shared memory so
// that reads and writes are of whole lines.
KERNEL(transpose_f32, Reorder, 256) {
    Carve carve;
    auto tile = carve.take<float>(32 * 33);
    int r0 = block_x() * 32, c0 = block_y() * 32;
    for (int i = warp(); i < 32; i += 8) {
        int r = r0 + i, c = c0 + lane();
        tile.set(i * 33 + lane(), r < a.x.rows && c < a.x.cols ? row<float>(a.x, r).get(c) : 0.0f);
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
