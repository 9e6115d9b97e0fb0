// Shared memory of the emulator: who touched which place, and whether that may be.
#pragma once
#include "machine.h"

namespace emulator {

inline void check_shared(u32 at, u32 bytes) {
    if (at + bytes > machine().shared_bytes)
        fail("byte %u of shared memory, of which the launch has %u", at + bytes - 1, machine().shared_bytes);
}

enum class Touch { Read, Write, Atomic };

// Notes an access, or fails where it conflicts with another thread's. What happened before the block's last barrier, or
// in this thread's warp before the warp's last exchange, is over. Atomic accesses do not conflict among each other.
inline void touch_shared(u32 at, u32 bytes, Touch touch) {
    Machine& m = machine();
    Thread& t = m.fibers[m.current];
    u16 me = (u16)m.current, my_warp = (u16)(WARP + m.current / 32);
    const char* verb = touch == Touch::Read ? "reads" : touch == Touch::Write ? "writes" : "adds to";
    for (u32 i = at / 2; i < (at + bytes + 1) / 2; i++) {
        Cell& c = m.cells[i];
        bool is_written = c.written >= m.block_start, is_read = c.read >= m.block_start;
        if (touch != Touch::Write && !is_written) fail("%s byte %u of shared memory, which nothing wrote", verb, i * 2);
        bool both_atomic = touch == Touch::Atomic && c.writer == MANY;
        if (is_written && c.writer != me && !both_atomic) {
            bool over = c.written < t.barrier || (c.writer / 32 == me / 32 && c.written < t.exchange);
            if (!over && c.writer == MANY)
                fail("%s byte %u of shared memory, which an atomic operation changes without a barrier between", verb,
                     i * 2);
            if (!over)
                fail("%s byte %u of shared memory, which thread %u writes without a barrier between", verb, i * 2,
                     c.writer);
        }
        if (touch != Touch::Read) {
            if (is_read && c.reader != me) {
                bool same_warp = c.reader == my_warp || (c.reader < WARP && c.reader / 32 == me / 32);
                bool over = c.read < t.barrier || (same_warp && c.read < t.exchange);
                if (!over)
                    fail("%s byte %u of shared memory, which another thread reads without a barrier between", verb,
                         i * 2);
            }
            c.written = m.clock;
            c.writer = touch == Touch::Atomic ? MANY : me;
            c.read = 0;
        } else {
            // Reads that are over no longer matter; of those that are not, only who may have made them.
            bool fresh = !is_read || c.read < t.barrier;
            if (fresh || c.reader == me)
                c.reader = me;
            else if (c.reader == my_warp || (c.reader < WARP && c.reader / 32 == me / 32))
                c.reader = my_warp;
            else
                c.reader = MANY;
            c.read = m.clock;
        }
    }
}

}  // namespace emulator
