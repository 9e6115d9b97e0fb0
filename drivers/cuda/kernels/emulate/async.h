// Hopper's barriers in shared memory and bulk copies on the emulator; `hopper.cuh` says what each name does.
//
// A bulk copy lands when a thread waits for its barrier's phase and would not go on without it, no sooner. What landed
// is over for the threads that waited, and for those that these tell. A phase that ends while copies on its barrier are
// under way is a fault: it expected too few bytes, and its threads would read what is not there.
#pragma once
#include "shared.h"

namespace emulator {

// Begins to keep account of who has seen what.
inline void begin_phases() {
    Machine& m = machine();
    if (m.has_phases) return;
    m.has_phases = true;
    m.phases_start = ++m.clock;
    m.width = m.threads + MAX_BARRIERS;
    m.seen.assign((size_t)m.threads * m.width, 0);
    m.barriers.reserve(MAX_BARRIERS);
    if (m.readers) return;
    // The system provides pages when they are first written.
    void* readers = mmap(nullptr, READERS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (readers == MAP_FAILED) fail("the emulator has no memory for who read what");
    m.readers = (u32*)readers;
}

inline void init_barrier(u32 at, u32 arrivals) {
    Machine& m = machine();
    begin_phases();
    if (arrivals == 0 || arrivals >= 1u << 20) fail("initialises a barrier for %u arrivals", arrivals);
    touch_shared(at, 8, Touch::Write);
    if (m.barriers.size() == MAX_BARRIERS) fail("initialises more than %u barriers", MAX_BARRIERS);
    Mbarrier b = {at, arrivals, arrivals, 0, 0, m.current, m.clock, false, {}, {}, {}};
    b.next.assign(m.width, 0);
    b.seen = b.next;
    m.barriers.push_back(b);
    for (u32 i = at / 2; i < at / 2 + 4; i++) m.cells[i].kind = BARRIER;
}

// The number of the barrier at a place.
inline u32 barrier_number(u32 at) {
    Machine& m = machine();
    for (u32 i = 0; i < m.barriers.size(); i++) {
        const Mbarrier& b = m.barriers[i];
        if (b.at != at) continue;
        if (!m.is_over(m.current, (u16)b.maker, b.made))
            fail("uses the barrier at byte %u, which thread %u initialises without a barrier of the block between", at,
                 b.maker);
        return i;
    }
    fail("uses a barrier at byte %u of shared memory, which nothing initialised", at);
}

// Ends a phase to which nothing is missing.
inline void end_phase(Mbarrier& b) {
    if (b.missing > 0 || b.bytes != 0) return;
    u32 left = 0;
    for (auto& c : b.copies) left += c.rows * c.width;
    if (left > 0)
        fail("ends a phase of the barrier at byte %u with %u bytes under way: it expects fewer than are copied", b.at,
             left);
    b.seen = b.next;
    b.phase++;
    b.missing = b.count;
}

inline void arrive(u32 at, u32 bytes) {
    Machine& m = machine();
    u32 me = m.current;
    Thread& t = m.fibers[me];
    Mbarrier& b = m.barriers[barrier_number(at)];
    if (bytes >= 1u << 20) fail("expects %u bytes of a phase, of which 1048575 are most", bytes);
    if (b.missing == 0) fail("arrives at the barrier at byte %u once more than its phase of %u", at, b.count);
    // What is over for this thread, and what it did itself, is over with the phase.
    const u32* mine = &m.seen[me * m.width];
    for (u32 i = 0; i < m.width; i++) b.next[i] = std::max(b.next[i], mine[i]);
    for (u32 i = me / 32 * 32; i < me / 32 * 32 + 32; i++) b.next[i] = std::max(b.next[i], t.exchange);
    b.next[me] = m.clock + 1;
    m.clock++;
    b.bytes += bytes;
    b.missing--;
    end_phase(b);
}

// Sixteen bytes at a time, as rows and columns of the matrix that are not there are zero.
inline void land(u32 number, const Bulk& c) {
    Machine& m = machine();
    for (u32 r = 0; r < c.rows; r++)
        for (u32 b = 0; b < c.width; b += 16) {
            u8 bytes[16] = {};
            i64 row = c.row + r, first = c.col + b;
            i64 from = std::max<i64>(first, 0), to = std::min<i64>(first + 16, c.length);
            if (row >= 0 && row < c.height && from < to)
                memcpy(bytes + (from - first), (const u8*)(uintptr_t)c.address + row * c.stride + from, to - from);
            memcpy(m.shared.data() + swizzled(c.to + r * c.width + b, c.swizzle), bytes, 16);
        }
    for (u32 i = c.to / 2; i < (c.to + c.rows * c.width) / 2; i++) {
        m.cells[i].written = m.clock;
        m.cells[i].kind = (u16)(SWIZZLED + c.swizzle);
    }
    m.barriers[number].next[m.threads + number] = m.clock + 1;
    m.clock++;
}

inline void wait_phase(u32 at, u32 parity) {
    Machine& m = machine();
    u32 me = m.current, number = barrier_number(at);
    Thread& t = m.fibers[me];
    Mbarrier& b = m.barriers[number];
    if (parity > 1) fail("waits for a phase of parity %u of the barrier at byte %u", parity, at);
    while ((b.phase & 1) == parity) {
        if (b.copies.empty()) {
            t.state = State::AtPhase;
            t.waits_for = number;
            t.parity = parity;
            to_scheduler();
            continue;
        }
        size_t next = (size_t)Order(m, b.copies.size())(0);
        Bulk copy = b.copies[next];
        b.copies.erase(b.copies.begin() + (i64)next);
        land(number, copy);
        b.bytes -= copy.rows * copy.width;
        end_phase(b);
    }
    u32* mine = &m.seen[me * m.width];
    for (u32 i = 0; i < m.width; i++) mine[i] = std::max(mine[i], b.seen[i]);
    m.acquired[me / 32] = 1;
}

inline void begin_copy(u32 barrier, Bulk copy) {
    Machine& m = machine();
    u32 number = barrier_number(barrier), bytes = copy.rows * copy.width;
    if (!m.barriers[number].ready)
        fail("copies on the barrier at byte %u, whose init was not made known to the asynchronous proxy", barrier);
    check_shared(copy.to, bytes);
    touch_shared(copy.to, bytes, Touch::Copy);
    // Until it lands the place holds nothing that may be read.
    for (u32 i = copy.to / 2; i < (copy.to + bytes) / 2; i++)
        m.cells[i] = {0, 0, 0, (u16)(COPY + number), 0, 0, 0};
    copy.thread = m.current;
    m.barriers[number].copies.push_back(copy);
}

}  // namespace emulator

FN void barrier_init(Shared<Barrier> s, int i, int arrivals) {
    emulator::init_barrier(s.place(i, 8), (u32)arrivals);
}
FN void barriers_ready() {
    auto& m = emulator::machine();
    for (auto& b : m.barriers) b.ready |= b.maker == m.current;
}
FN void barrier_arrive(Shared<Barrier> s, int i) {
    emulator::arrive(s.place(i, 8), 0);
}
FN void barrier_expect(Shared<Barrier> s, int i, int bytes) {
    emulator::arrive(s.place(i, 8), (u32)bytes);
}
FN void barrier_wait(Shared<Barrier> s, int i, int parity) {
    emulator::wait_phase(s.place(i, 8), (u32)parity);
}
FN void fence_async() {
    auto& m = emulator::machine();
    auto& t = m.fibers[m.current];
    for (u32 i : t.unfenced)
        if (m.cells[i].writer == m.current && m.cells[i].fenced == 0) m.cells[i].fenced = m.clock;
    t.unfenced.clear();
    if (!m.has_phases)
        t.fence_before = m.clock;
    else if (t.fence_after == 0)
        t.fence_after = m.clock;
    m.clock++;
}
template <class T>
FN void copy_bulk(Shared<T> to, int i, Span<T> from, i64 j, int count, Shared<Barrier> s, int b) {
    if (count <= 0) emulator::fail("copies %d elements", count);
    u32 bytes = (u32)count * (u32)sizeof(T), p = to.place(i, sizeof(T));
    to.place(i + count - 1, sizeof(T));
    from.place(j + count - 1, sizeof(T));
    u64 source = (u64)(uintptr_t)from.place(j, sizeof(T));
    if ((source | p | bytes) % 16 != 0)
        emulator::fail("copies %u bytes from element %lld to byte %u: not aligned to 16 bytes", bytes, (long long)j, p);
    emulator::begin_copy(s.place(b, 8), {p, 1, bytes, 0, source, 0, 0, 1, bytes, 0, 0});
}
template <class T>
FN void copy_tile(Shared<T> to, int i, const TensorMap& map, int row, int col, Shared<Barrier> s, int b) {
    // As `TensorMap` of Rust lays it out for the emulator.
    const u64* w = map.words;
    if (w[0] != 0x50414d524f534e45) emulator::fail("copies by an unknown tensor map");
    u32 rows = (u32)w[5], width = (u32)(w[5] >> 32), size = (u32)w[6], swizzle = (u32)(w[6] >> 32);
    if (size != sizeof(T)) emulator::fail("copies elements of %u bytes as such of %u", size, (u32)sizeof(T));
    if (i < 0 || (u64)i + (u64)rows * width / size > to.count)
        emulator::fail("element %lld of a piece of shared memory of %u", (long long)i + rows * width / size - 1,
                       to.count);
    u32 p = to.at + (u32)i * (u32)sizeof(T), align = swizzle < 32 ? 128 : 8 * swizzle;
    if (p % align != 0) emulator::fail("copies a tile to byte %u, which is not aligned to %u bytes", p, align);
    emulator::begin_copy(s.place(b, 8), {p, rows, width, swizzle, w[1], row, (i64)col * size, (i64)w[2], (i64)w[3],
                                         (i64)w[4], 0});
}
