// The emulator's machine: fibers for the threads of a block, their order, and where they wait for each other.
//
// What one thread does is over for another after the block's barrier, within a warp after the warp's exchange, and
// through barriers in shared memory after the arrival of the one and the wait of the other. The clock moves on at each
// of these, so "over" is a comparison of clocks. Barriers in shared memory order some threads and not others, so from
// the first of them on each thread has a row of `seen`: for every thread, the clock up to which what that did is over.
#pragma once
#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <vector>
#include <sys/mman.h>
#ifndef __x86_64__
#define FATHOM_UCONTEXT
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

constexpr u32 MAX_THREADS = 1024, MAX_SHARED = 232448, SLOT = 32, MAX_BARRIERS = 64, REGISTERS = 65536;
// Bytes of a fiber's stack. Not a power of two: the tops of stacks would all fall on the same few lines of the caches.
constexpr size_t STACK = (128 << 10) + 5 * 64;
// Bytes of the clocks of all reads.
constexpr size_t READERS = (size_t)(MAX_SHARED / 2 + 16) * MAX_THREADS * sizeof(u32);

#ifdef FATHOM_UCONTEXT
struct Context {
    ucontext_t c;
};
#else
struct Context {
    void* sp;
};
#endif

enum class State : u8 { Ready, AtBarrier, AtExchange, AtPhase, Done };

// A matrix product of a warpgroup that is under way (`wgmma`): descriptors of its factors, and where its sums go.
struct Product {
    u64 a, b;
    u32 n;
    bool codes, add;
    float* sums;
    u32* pending;
};

struct Thread {
    Context context;
    State state;
    u32 barrier;   // the clock when its last barrier was released
    u32 exchange;  // the clock when its warp's last exchange was released
    u32 exchanges; // how many it took part in
    struct Copy {
        u32 to;
        u64 from;
        bool valid;
    };
    std::vector<std::vector<Copy>> groups;  // copies under way, the open group last
    void* fake_stack;
    u32 waits_for, parity;                       // the barrier in shared memory at which it waits, and for which phase
    std::vector<std::vector<Product>> products;  // matrix products under way, the open group last
    u32 fences;                                  // of matrix products
    u32 registers;
    // Of the asynchronous proxy: its last fence before the block's first barrier in shared memory, and the first after
    // that; then the places written since the last.
    u32 fence_before, fence_after;
    std::vector<u32> unfenced;
};

// Who touched two bytes of shared memory, and when.
struct Cell {
    u32 written, read;   // clocks
    u32 fenced;          // the clock of the writer's first fence of the asynchronous proxy since then; 0: none
    u16 writer, reader;  // threads; for readers also `MANY` and `WARP + w`, for writers also `MANY` and `COPY + b`
    u16 busy;            // matrix products under way that read it
    u16 kind;            // `BARRIER`, or `SWIZZLED + width` as a bulk copy left it, or 0
};
constexpr u16 MANY = 0xffff, WARP = 0x8000;
// A bulk copy that completes on barrier `b`; `written` is 0 until it lands.
constexpr u16 COPY = 0x4000;
constexpr u16 BARRIER = 1, SWIZZLED = 2;
inline bool is_copy(u16 writer) {
    return writer >= COPY && writer < WARP;
}

// A bulk copy under way: a box of a matrix in device memory, all in bytes but the rows.
struct Bulk {
    u32 to, rows, width, swizzle;
    u64 address;
    i64 row, col, height, length, stride;
    u32 thread;
};

// A barrier in shared memory (PTX's mbarrier).
struct Mbarrier {
    u32 at, count, missing;  // arrivals that a phase needs, and that this one still lacks
    i64 bytes;               // that this phase expects and that have not landed
    u32 phase;
    u32 maker, made;              // who initialised it, and when
    bool ready;                   // for the asynchronous proxy
    std::vector<u32> next, seen;  // what is over with the current phase, and with the last one that is complete
    std::vector<Bulk> copies;
};

struct Kernel {
    void (*body)(const void* args);
    u32 args, threads;
    const char* name;
};

struct Machine {
    const Kernel* kernel = nullptr;
    const void* args = nullptr;
    u32 grid[3] = {}, block[3] = {}, threads = 0, shared_bytes = 0;
    u32 current = 0, clock = 0, block_start = 0;
    bool failed = false, stopped = false;  // this launch, an earlier one since the last that was well
    // In what order blocks, warps and lanes run: 0 from first to last, 1 from last to first, else drawn at random.
    u32 order = 0;
    u64 random = 0;
    char message[512] = {};
    Context scheduler;
    const void* scheduler_stack = nullptr;
    size_t scheduler_size = 0;
    std::vector<Thread> fibers;
    u8* stacks = nullptr;
    std::vector<u8> shared;
    std::vector<Cell> cells;
    u8 slots[2][MAX_THREADS][SLOT];
    // From here on only for blocks with barriers in shared memory.
    bool has_phases = false;
    u32 phases_start = 0;  // a clock
    std::vector<Mbarrier> barriers;
    u32 width = 0;               // of a row of `seen`: threads, then barriers, for the copies that complete on them
    std::vector<u32> seen;       // [thread][width]
    u8 acquired[MAX_THREADS / 32] = {};  // warps of which a lane has seen more than others
    u32* readers = nullptr;      // [place][thread]: the clock of its last read
    // What each warpgroup multiplied, in order, and how many of it each warp has begun.
    std::vector<Product> begun[MAX_THREADS / 128];
    u32 began[MAX_THREADS / 32] = {};

    u32 column(u16 who) const {
        return is_copy(who) ? threads + who - COPY : who;
    }
    // Whether what `who` did at a clock is over for thread `me`.
    bool is_over(u32 me, u16 who, u32 clock) const {
        const Thread& t = fibers[me];
        if (clock < t.barrier) return true;
        if (who == MANY) return false;
        if (who == me || (who / 32 == me / 32 && clock < t.exchange)) return true;
        return has_phases && clock < seen[me * width + column(who)];
    }
    // Whether a thread that waits for a phase has something to do: the phase is over, or copies may land.
    bool may_pass(const Thread& t) const {
        const Mbarrier& b = barriers[t.waits_for];
        return (b.phase & 1) != t.parity || !b.copies.empty();
    }
};

inline Machine& machine() {
    // Libraries loaded late get their thread-local memory by a call, unless told to take it from what is set aside.
    static thread_local Machine* m __attribute__((tls_model("initial-exec"))) = nullptr;
    if (__builtin_expect(!m, false)) m = new Machine;
    return *m;
}

// The `k`-th of `n` things to run, for every `k` once.
struct Order {
    u64 n, first, step;
    Order(Machine& m, u64 n) : n(n), first(0), step(1) {
        if (m.order == 1) first = n - 1, step = n - 1;
        if (m.order <= 1 || n < 2) return;
        auto draw = [&] {
            m.random ^= m.random << 13, m.random ^= m.random >> 7, m.random ^= m.random << 17;
            return m.random >> 33;
        };
        first = draw() % n;
        do step = 1 + draw() % (n - 1);
        while (std::gcd(step, n) != 1);
    }
    u64 operator()(u64 k) const {
        return (first + k % n * step) % n;
    }
};

#ifdef FATHOM_UCONTEXT
inline void jump(Context& from, Context& to) {
    swapcontext(&from.c, &to.c);
}
#else
// Saves the callee's registers on this stack and takes them from the other.
__attribute__((naked, noinline)) inline void jump(Context&, Context&) {
    __asm__(
        "push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15;"
        "mov %rsp, (%rdi); mov (%rsi), %rsp;"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret;");
}
#endif

inline void to_scheduler() {
    Machine& m = machine();
    Thread& t = m.fibers[m.current];
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(t.state == State::Done ? nullptr : &t.fake_stack, m.scheduler_stack,
                                   m.scheduler_size);
#endif
    jump(t.context, m.scheduler);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(t.fake_stack, nullptr, nullptr);
#endif
}

// Ends the launch with an error that says where.
[[noreturn]] inline void fail(const char* format, ...) {
    Machine& m = machine();
    if (!m.failed) {
        m.failed = true;
        char what[320];
        va_list list;
        va_start(list, format);
        vsnprintf(what, sizeof what, format, list);
        va_end(list);
        snprintf(m.message, sizeof m.message, "%s: block (%u, %u, %u), thread %u: %s", m.kernel->name, m.block[0],
                 m.block[1], m.block[2], m.current, what);
    }
    // The fiber is left where it is; nothing in a kernel owns anything but its copies.
    m.fibers[m.current].state = State::Done;
    for (;;) to_scheduler();
}

inline void entry() {
    Machine& m = machine();
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &m.scheduler_stack, &m.scheduler_size);
#endif
    m.kernel->body(m.args);
    Thread& t = m.fibers[m.current];
    for (auto& group : t.groups)
        if (!group.empty()) fail("ends with a copy to shared memory under way");
    for (auto& group : t.products)
        if (!group.empty()) fail("ends with a matrix product under way");
    t.state = State::Done;
    to_scheduler();
}

inline void prepare(u32 i) {
    Machine& m = machine();
    Thread& t = m.fibers[i];
    u8* stack = m.stacks + i * STACK;
#ifdef FATHOM_UCONTEXT
    getcontext(&t.context.c);
    t.context.c.uc_stack.ss_sp = stack;
    t.context.c.uc_stack.ss_size = STACK;
    t.context.c.uc_link = nullptr;
    makecontext(&t.context.c, (void (*)())entry, 0);
#else
    u64* top = (u64*)(((uintptr_t)stack + STACK) & ~(uintptr_t)15);
    *--top = 0;  // as if called: the stack is off by eight on entry
    *--top = (u64)(uintptr_t)&entry;
    for (int k = 0; k < 6; k++) *--top = 0;
    t.context.sp = top;
#endif
    t.state = State::Ready;
    t.barrier = t.exchange = m.clock;
    t.exchanges = 0;
    t.groups.clear();
    t.fake_stack = nullptr;
    t.products.clear();
    t.fences = 0;
    t.registers = (REGISTERS / m.threads < 255 ? REGISTERS / m.threads : 255) / 8 * 8;
    t.fence_before = t.fence_after = 0;
    t.unfenced.clear();
}

inline void resume(u32 i) {
    Machine& m = machine();
    m.current = i;
#ifdef __SANITIZE_ADDRESS__
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, m.stacks + i * STACK, STACK);
#endif
    jump(m.scheduler, m.fibers[i].context);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

// Ends the launch from outside of its threads, with an error about thread `i`.
inline void stop(u32 i, const char* format, ...) {
    Machine& m = machine();
    m.current = i;
    m.failed = true;
    char what[320];
    va_list list;
    va_start(list, format);
    vsnprintf(what, sizeof what, format, list);
    va_end(list);
    snprintf(m.message, sizeof m.message, "%s: block (%u, %u, %u), thread %u: %s", m.kernel->name, m.block[0],
             m.block[1], m.block[2], i, what);
}

// What one lane has seen all lanes have, after an exchange.
inline void share_seen(u32 first, u32 last) {
    Machine& m = machine();
    u32* all = &m.seen[first * m.width];
    for (u32 i = first + 1; i < last; i++)
        for (u32 k = 0; k < m.width; k++) all[k] = std::max(all[k], m.seen[i * m.width + k]);
    for (u32 i = first + 1; i < last; i++) memcpy(&m.seen[i * m.width], all, m.width * sizeof(u32));
}

// Runs a warp until each of its threads waits for others than the warp's, or has ended.
inline void run_warp(u32 first, u32 last) {
    Machine& m = machine();
    for (;;) {
        Order order(m, last - first);
        for (u32 k = 0; k < last - first && !m.failed; k++) {
            u32 i = first + (u32)order(k);
            Thread& t = m.fibers[i];
            if (t.state == State::AtPhase && m.may_pass(t)) t.state = State::Ready;
            if (t.state == State::Ready) resume(i);
        }
        if (m.failed) return;
        u32 waiting = 0, at_phase = 0;
        for (u32 i = first; i < last; i++) {
            waiting += m.fibers[i].state == State::AtExchange;
            at_phase += m.fibers[i].state == State::AtPhase;
        }
        if (waiting == 0 || (waiting != 32 && at_phase > 0)) return;
        if (waiting != 32) {
            u32 i = first;
            while (m.fibers[i].state != State::AtExchange) i++;
            return stop(i, "exchanges with its warp, of which only %u threads do", waiting);
        }
        m.clock++;
        if (m.acquired[first / 32]) share_seen(first, last);
        m.acquired[first / 32] = 0;
        for (u32 i = first; i < last; i++) {
            m.fibers[i].state = State::Ready;
            m.fibers[i].exchange = m.clock;
        }
    }
}

// Says for which phase a block waits in vain: one that lacks bytes, if there is one.
inline void stop_at_phase() {
    Machine& m = machine();
    u32 found = m.threads;
    for (u32 i = 0; i < m.threads; i++) {
        const Thread& t = m.fibers[i];
        if (t.state != State::AtPhase) continue;
        bool lacks = m.barriers[t.waits_for].bytes != 0;
        if (found == m.threads || lacks) found = i;
        if (lacks) break;
    }
    const Thread& t = m.fibers[found];
    const Mbarrier& b = m.barriers[t.waits_for];
    if (b.bytes != 0)
        stop(found, "waits for a phase of parity %u of the barrier at byte %u that never ends: %lld bytes %s", t.parity,
             b.at, (long long)(b.bytes < 0 ? -b.bytes : b.bytes),
             b.bytes < 0 ? "more land than it expects" : "that it expects do not come");
    else
        stop(found, "waits for a phase of parity %u of the barrier at byte %u that never ends: %u of %u arrivals lack",
             t.parity, b.at, b.missing, b.count);
}

// What must hold when all threads of a block have ended.
inline void check_end() {
    Machine& m = machine();
    for (auto& b : m.barriers)
        if (!b.copies.empty())
            return stop(b.copies[0].thread, "a copy to byte %u of shared memory is under way as the block ends",
                        b.copies[0].to);
    u32 registers = 0;
    for (u32 i = 0; i < m.threads; i++) {
        registers += m.fibers[i].registers;
        if (m.fibers[i].registers != m.fibers[i / 128 * 128].registers)
            return stop(i, "has %u registers, and others of its warpgroup have %u", m.fibers[i].registers,
                        m.fibers[i / 128 * 128].registers);
    }
    if (registers > REGISTERS)
        stop(0, "threads take %u registers together, of which there are %u", registers, REGISTERS);
}

inline void run_block() {
    Machine& m = machine();
    m.block_start = ++m.clock;
    m.has_phases = false;
    for (auto& b : m.barriers)
        for (u32 i = b.at / 2; i < b.at / 2 + 4; i++) m.cells[i] = {};
    m.barriers.clear();
    memset(m.acquired, 0, sizeof m.acquired);
    memset(m.began, 0, sizeof m.began);
    for (auto& log : m.begun) log.clear();
    for (u32 i = 0; i < m.threads; i++) prepare(i);
    u32 warps = m.threads / 32;
    for (;;) {
        Order order(m, warps);
        for (u32 k = 0; k < warps && !m.failed; k++) {
            u32 w = (u32)order(k);
            run_warp(w * 32, w * 32 + 32);
        }
        if (m.failed) return;
        u32 waiting = 0, first = 0, at_phase = 0, passing = 0;
        for (u32 i = m.threads; i-- > 0;) {
            const Thread& t = m.fibers[i];
            if (t.state == State::AtBarrier) waiting++, first = i;
            if (t.state == State::AtPhase) at_phase++, passing += m.may_pass(t);
        }
        if (passing > 0) continue;
        if (at_phase > 0) return stop_at_phase();
        if (waiting == 0) return check_end();
        if (waiting != m.threads)
            return stop(first, "waits at a barrier that only %u of %u threads reach", waiting, m.threads);
        m.clock++;
        for (auto& t : m.fibers) t.state = State::Ready, t.barrier = m.clock;
    }
}

// Puts this lane's operand where its warp can read it, and waits for the warp.
inline const u8 (*exchange(const void* operand, u32 bytes))[SLOT] {
    Machine& m = machine();
    u32 me = m.current;
    Thread& t = m.fibers[me];
    auto* slots = m.slots[t.exchanges++ % 2];
    memcpy(slots[me], operand, bytes);
    t.state = State::AtExchange;
    to_scheduler();
    return slots + me / 32 * 32;
}

}  // namespace emulator
