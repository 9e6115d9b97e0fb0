// Shared memory of the emulator: who touched which place, and whether that may be.
#pragma once
#include "machine.h"

namespace emulator {

inline void check_shared(u32 at, u32 bytes) {
    if (at + bytes > machine().shared_bytes)
        fail("byte %u of shared memory, of which the launch has %u", at + bytes - 1, machine().shared_bytes);
}

// Where a byte lies whose place, without the swizzle, is `at`: of a pattern that is eight rows of `width` bytes high,
// the sixteen-byte chunks of a row are exchanged by its number. It is the address in shared memory that counts.
inline u32 swizzled(u32 at, u32 width) {
    return width < 32 ? at : at ^ ((at >> 7 & (width / 16 - 1)) << 4);
}

// `Copy` is the write of a bulk copy and `Matrix` the read of a matrix product: those of the asynchronous proxy.
enum class Touch { Read, Write, Atomic, Copy, Matrix };

// Whether all reads of a place by other threads are over.
inline bool reads_are_over(u32 place) {
    Machine& m = machine();
    const u32* clocks = m.readers + (size_t)place * m.threads;
    for (u32 k = 0; k < m.threads; k++)
        if (clocks[k] >= m.block_start && !m.is_over(m.current, (u16)k, clocks[k])) return false;
    return true;
}

// Notes that the current thread reads a place.
inline void note_read(u32 place) {
    Machine& m = machine();
    Cell& c = m.cells[place];
    u16 me = (u16)m.current, my_warp = (u16)(WARP + m.current / 32);
    // Reads that are over no longer matter; of those that are not, only who may have made them.
    bool fresh = c.read < m.block_start || c.read < m.fibers[me].barrier;
    if (fresh || c.reader == me)
        c.reader = me;
    else if (c.reader == my_warp || (c.reader < WARP && c.reader / 32 == me / 32))
        c.reader = my_warp;
    else
        c.reader = MANY;
    c.read = m.clock;
    if (m.has_phases) m.readers[(size_t)place * m.threads + me] = m.clock;
}

// Notes that the current thread, or an atomic operation, has written a place.
inline void note_write(u32 place, u16 writer) {
    Machine& m = machine();
    Cell& c = m.cells[place];
    c.written = m.clock;
    c.writer = writer;
    c.read = c.fenced = 0;
    c.kind = 0;
    if (m.has_phases) m.fibers[m.current].unfenced.push_back(place);
}

// The clock of the writer's first fence of the asynchronous proxy after it wrote a place; 0 if there is none.
inline u32 fence_of(const Cell& c) {
    const Machine& m = machine();
    if (c.fenced > 0 || c.writer == MANY || c.written >= m.phases_start) return c.fenced;
    const Thread& t = m.fibers[c.writer];
    return c.written <= t.fence_before ? t.fence_before : t.fence_after;
}

// Notes an access, or fails where it conflicts with another thread's that is not over. Atomic accesses do not conflict
// among each other. For a copy it only checks.
inline void touch_shared(u32 at, u32 bytes, Touch touch) {
    Machine& m = machine();
    u16 me = (u16)m.current;
    const char* verb = touch == Touch::Read     ? "reads"
                       : touch == Touch::Write  ? "writes"
                       : touch == Touch::Atomic ? "adds to"
                       : touch == Touch::Copy   ? "copies to"
                                                : "multiplies";
    bool writes = touch != Touch::Read && touch != Touch::Matrix;
    bool reads = touch != Touch::Write && touch != Touch::Copy;
    for (u32 i = at / 2; i < (at + bytes + 1) / 2; i++) {
        Cell& c = m.cells[i];
        bool is_written = c.written >= m.block_start, is_read = c.read >= m.block_start;
        if (m.has_phases) {
            if (c.kind == BARRIER) fail("%s byte %u of shared memory, where a barrier is", verb, i * 2);
            if (c.written == 0 && is_copy(c.writer))
                fail("%s byte %u of shared memory, to which a copy is under way", verb, i * 2);
            if (writes && c.busy > 0)
                fail("%s byte %u of shared memory, which a matrix product reads that was not waited for", verb, i * 2);
        }
        if (reads && !is_written) fail("%s byte %u of shared memory, which nothing wrote", verb, i * 2);
        bool both_atomic = touch == Touch::Atomic && c.writer == MANY;
        if (is_written && c.writer != me && !both_atomic && !m.is_over(me, c.writer, c.written)) {
            if (c.writer == MANY)
                fail("%s byte %u of shared memory, which an atomic operation changes without a barrier between", verb,
                     i * 2);
            if (is_copy(c.writer))
                fail("%s byte %u of shared memory, and did not wait for the copy to it", verb, i * 2);
            fail("%s byte %u of shared memory, which thread %u writes without a barrier between", verb, i * 2,
                 c.writer);
        }
        bool by_proxy = touch == Touch::Copy || touch == Touch::Matrix;
        bool needs_fence = by_proxy && is_written && !is_copy(c.writer);
        if (needs_fence && (fence_of(c) == 0 || !m.is_over(me, c.writer, fence_of(c))))
            fail("%s byte %u of shared memory, which thread %u wrote without a fence of the asynchronous proxy", verb,
                 i * 2, c.writer);
        if (writes) {
            if (is_read && c.reader != me) {
                bool same_warp = c.reader >= WARP ? c.reader == WARP + me / 32 : c.reader / 32 == me / 32;
                bool over = c.read < m.fibers[me].barrier || (same_warp && c.read < m.fibers[me].exchange) ||
                            (m.has_phases && reads_are_over(i));
                if (!over)
                    fail("%s byte %u of shared memory, which another thread reads without a barrier between", verb,
                         i * 2);
            }
            if (touch != Touch::Copy) note_write(i, touch == Touch::Atomic ? MANY : me);
        } else if (touch == Touch::Read) {
            note_read(i);
        }
    }
}

// Notes that a thread's own copy has landed, which was waited for.
inline void land(u32 at, u32 bytes) {
    for (u32 i = at / 2; i < (at + bytes) / 2; i++) note_write(i, (u16)machine().current);
}

}  // namespace emulator
