// Rotary position embedding with interleaved pairs (Su et al., 2021).
#include "fathom.cuh"

struct Rope {
    Mat x, table, positions;
    u64 fault;
    // Heads of a row, columns of a head, the first that is rotated.
    int heads, head, start;
    // Rows of a block.
    int rows;
    u32 inverse, site;
};

FN void turn(float& even, float& odd, float cos, float sin) {
    float e = even, o = odd;
    even = e * cos - o * sin;
    odd = e * sin + o * cos;
}

// Calls `rotate(r, position, column of x, column of the table)` for all pieces of `width` columns of the rows of a
// block. Rows whose position the table does not have are left alone.
template <class F>
FN void for_pieces(const Rope& a, int width, F rotate) {
    int pieces = a.table.cols / width, in_row = a.heads * pieces;
    int first = block_x() * a.rows, rows = min_of(a.rows, a.x.rows - first);
    for (int i = thread(); i < rows * in_row; i += threads()) {
        int r = first + i / in_row, j = i % in_row;
        u32 position = row<u32>(a.positions, r).get(0);
        if (!in_range(a.fault, a.site, position, (u32)a.table.rows)) continue;
        int c = j % pieces * width;
        rotate(r, (int)position, j / pieces * a.head + a.start + c, c);
    }
}

template <class T>
FN void rope(const Rope& a) {
    float sign = a.inverse ? -1.0f : 1.0f;
    for_pieces(a, 8, [&](int r, int position, int c, int angle) {
        Wide<T> x(a.x, r);
        float v[8], t[8];
        x.get(c, v);
        Wide<float>(a.table, position).get(angle, t);
        for (int i = 0; i < 8; i += 2) turn(v[i], v[i + 1], t[i], sign * t[i + 1]);
        x.set(c, v);
    });
}
KERNEL(rope_f32, Rope, 256) {
    rope<float>(a);
}
KERNEL(rope_bf16, Rope, 256) {
    rope<bf16>(a);
}
KERNEL(rope_any, Rope, 256) {
    float sign = a.inverse ? -1.0f : 1.0f;
    for_pieces(a, 2, [&](int r, int position, int c, int angle) {
        float even = load(a.x, r, c), odd = load(a.x, r, c + 1);
        turn(even, odd, load(a.table, position, angle), sign * load(a.table, position, angle + 1));
        store(a.x, r, c, even);
        store(a.x, r, c + 1, odd);
    });
}
