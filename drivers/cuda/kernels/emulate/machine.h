// The emulator's machine: fibers for the threads of a block, their order, and where they wait for each other.
#pragma once
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

constexpr u32 MAX_THREADS = 1024, MAX_SHARED = 232448, SLOT = 32;
// Bytes of a fiber's stack. Not a power of two: the tops of stacks would all fall on the same few lines of the caches.
constexpr size_t STACK = (128 << 10) + 5 * 64;

#ifdef FATHOM_UCONTEXT
struct Context {
    ucontext_t c;
};
#else
struct Context {
    void* sp;
};
#endif

enum class State : u8 { Ready, AtBarrier, AtExchange, Done };

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
};

// Who touched two bytes of shared memory, and when.
struct Cell {
    u32 written, read;  // clocks
    u16 writer, reader; // threads; for readers also `MANY` and `WARP + w`
};
constexpr u16 MANY = 0xffff, WARP = 0x8000;

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
    bool failed = false;
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

// Runs a warp until each of its threads waits for the block or has ended.
inline void run_warp(u32 first, u32 last) {
    Machine& m = machine();
    for (;;) {
        Order order(m, last - first);
        for (u32 k = 0; k < last - first && !m.failed; k++) {
            u32 i = first + (u32)order(k);
            if (m.fibers[i].state == State::Ready) resume(i);
        }
        if (m.failed) return;
        u32 waiting = 0;
        for (u32 i = first; i < last; i++) waiting += m.fibers[i].state == State::AtExchange;
        if (waiting == 0) return;
        if (waiting != 32) {
            m.current = first;
            while (m.fibers[m.current].state != State::AtExchange) m.current++;
            m.failed = true;
            snprintf(m.message, sizeof m.message,
                     "%s: block (%u, %u, %u), thread %u: exchanges with its warp, of which only %u threads do",
                     m.kernel->name, m.block[0], m.block[1], m.block[2], m.current, waiting);
            return;
        }
        m.clock++;
        for (u32 i = first; i < last; i++) {
            m.fibers[i].state = State::Ready;
            m.fibers[i].exchange = m.clock;
        }
    }
}

inline void run_block() {
    Machine& m = machine();
    m.block_start = ++m.clock;
    for (u32 i = 0; i < m.threads; i++) prepare(i);
    u32 warps = m.threads / 32;
    for (;;) {
        Order order(m, warps);
        for (u32 k = 0; k < warps && !m.failed; k++) {
            u32 w = (u32)order(k);
            run_warp(w * 32, w * 32 + 32);
        }
        if (m.failed) return;
        u32 waiting = 0, first = 0;
        for (u32 i = m.threads; i-- > 0;)
            if (m.fibers[i].state == State::AtBarrier) waiting++, first = i;
        if (waiting == 0) return;
        if (waiting != m.threads) {
            m.failed = true;
            snprintf(m.message, sizeof m.message,
                     "%s: block (%u, %u, %u), thread %u: waits at a barrier that only %u of %u threads reach",
                     m.kernel->name, m.block[0], m.block[1], m.block[2], first, waiting, m.threads);
            return;
        }
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
