// Kernels with one fault each, which the emulator must find, beside the same kernel without it. `a.plant` chooses.
#include "fathom.cuh"

struct Planted {
    Mat x, y;
    int plant, reserved;
};

// Sound, and with a write and a read across warps that no barrier parts.
KERNEL(across_warps, Planted, 64) {
    Carve carve;
    auto shared = carve.take<float>(64);
    shared.set(thread(), 0.0f);
    sync();
    shared.set(thread(), load(a.x, 0, thread()));
    if (a.plant == 0) sync();
    store(a.y, 0, thread(), shared.get((thread() + 32) % 64));
}
// Sound, and with a write and a read within a warp that no exchange parts.
KERNEL(within_warp, Planted, 64) {
    Carve carve;
    auto shared = carve.take<float>(64);
    shared.set(thread(), 0.0f);
    sync();
    shared.set(thread(), load(a.x, 0, thread()));
    if (a.plant == 0) sync_warp();
    store(a.y, 0, thread(), shared.get(thread() ^ 1));
}
// What was read is overwritten, after a barrier or not.
KERNEL(read_then_write, Planted, 64) {
    Carve carve;
    auto shared = carve.take<float>(64);
    shared.set(thread(), load(a.x, 0, thread()));
    sync();
    float y = shared.get((thread() + 32) % 64);
    if (a.plant == 0) sync();
    shared.set(thread(), y);
    store(a.y, 0, thread(), y);
}
// What is read is changed by an atomic operation, after a barrier or not.
KERNEL(read_then_atomic, Planted, 64) {
    Carve carve;
    auto count = carve.take<u32>(1);
    if (thread() == 0) count.set(0, 0);
    sync();
    u32 seen = count.get(0);
    if (a.plant == 0) sync();
    atomic_add(count, 0, 1);
    store(a.y, 0, thread(), (float)seen);
}
// Reaches past the end of a row.
KERNEL(past_the_row, Planted, 64) {
    store(a.y, 0, thread() + (a.plant ? 1 : 0), load(a.x, 0, thread()));
}
// Reaches past the last row.
KERNEL(past_the_rows, Planted, 64) {
    store(a.y, block_x() + a.plant, thread(), load(a.x, 0, thread()));
}
// Reads sixteen bytes from a place that four divide.
KERNEL(unaligned, Planted, 64) {
    auto x = row<float>(a.x, 0);
    int c = a.plant ? min_of(thread(), 60) : thread() / 4 * 4;
    Quad q = x.quad(c);
    u32 own = thread() % 4 == 0 ? q.x : thread() % 4 == 1 ? q.y : thread() % 4 == 2 ? q.z : q.w;
    store(a.y, 0, thread(), as_float(a.plant ? q.x : own));
}
// Reaches past a piece of shared memory.
KERNEL(past_shared, Planted, 64) {
    Carve carve;
    auto shared = carve.take<float>(64);
    int to = thread() + (a.plant && thread() == 63 ? 1 : 0);
    shared.set(to, load(a.x, 0, thread()));
    store(a.y, 0, thread(), shared.get(to));
}
// Reads shared memory that nothing wrote.
KERNEL(unwritten, Planted, 64) {
    Carve carve;
    auto shared = carve.take<float>(64);
    if (a.plant == 0 || thread() != 7) shared.set(thread(), load(a.x, 0, thread()));
    sync();
    store(a.y, 0, thread(), shared.get(thread()));
}
// Copies behind its back and waits for all copies (0), not for the last (1), not for the others' (2), or ends without
// (3).
KERNEL(copies, Planted, 64) {
    Carve carve;
    auto shared = carve.take<float>(64);
    auto x = row<float>(a.x, 0);
    if (thread() < 16) copy_async(shared, 4 * thread(), x, 4 * thread(), true);
    copy_commit();
    if (a.plant == 3) return;
    if (a.plant == 1)
        copy_wait<1>();
    else
        copy_wait<0>();
    if (a.plant != 2) sync();
    store(a.y, 0, thread(), shared.get(thread()));
}
// Some threads leave before the others' barrier.
KERNEL(early_leave, Planted, 64) {
    if (a.plant && thread() >= 40) return;
    sync();
    store(a.y, 0, thread(), load(a.x, 0, thread()));
}
// Some lanes do not take part in their warp's exchange.
KERNEL(part_of_a_warp, Planted, 64) {
    float x = load(a.x, 0, thread());
    if (a.plant == 0 || lane() < 16) x = shuffle_xor(x, 1);
    store(a.y, 0, thread(), x);
}
// A view that claims more elements than its memory has: no check of views finds it, the sanitizer does.
KERNEL(wrong_extent, Planted, 64) {
    auto x = span<float>(a.x.data, a.plant ? 1 << 20 : 64);
    store(a.y, 0, thread(), x.get(thread() + (a.plant ? 1 : 0)));
}
// One row for each block.
KERNEL(rows, Planted, 64) {
    store(a.y, block_x(), thread(), load(a.x, 0, thread()));
}
