// The machine's part of `fathom.cuh` on a CPU: the same names, every access checked.
//
// A block's threads are fibers. Each runs until it must wait for others, at a barrier of the block or an exchange of
// its warp (shuffles, votes, matrix instructions); so a kernel that forgets to wait reads what is not there yet. Beyond
// that the emulator finds, and names with kernel, block and thread:
//
//  - an element outside its view, row or piece of shared memory, or not aligned to the width of its access;
//  - shared memory that is read before it is written, and two threads that touch the same place without a barrier
//    between, one of them writing, whatever order they happened to run in (each place remembers who touched it when);
//  - asynchronous copies that are read before they were waited for: a copy lands when it is waited for, no sooner;
//  - threads that end while others wait for them, and barriers that not all threads reach;
//  - launches that a GPU would refuse, or with an argument of another size than the kernel's.
#pragma once
#include <cmath>
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

#define FN inline

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

inline float half_to_float(u16 b, bool brain) {
    u32 bits;
    if (brain) {
        bits = (u32)b << 16;
    } else {
        u32 magnitude = (u32)(b & 0x7fff) << 13;
        float y;
        memcpy(&y, &magnitude, 4);
        y *= 5.192296858534828e33f;  // 2^112
        if (magnitude >= 0x7c00u << 13) y = magnitude > 0x7c00u << 13 ? NAN : INFINITY;
        return b & 0x8000 ? -y : y;
    }
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

struct Fragments {
    u32 a[4], b[2];
};

inline void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, bool brain) {
    Fragments f = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const u8(*warp)[SLOT] = exchange(&f, sizeof f);
    u32 lane = machine().current % 32, group = lane / 4, pair = lane % 4;
    auto half = [&](u32 word, u32 i) { return half_to_float((u16)(word >> 16 * (i % 2)), brain); };
    float rows[2][16], cols[2][16];
    for (u32 k = 0; k < 16; k++) {
        // Element k of a row lies with lane k/2 mod 4 of the row's group; of a column likewise.
        u32 from = k % 8 / 2, high = k / 8;
        const auto& x = *(const Fragments*)warp[group * 4 + from];
        rows[0][k] = half(x.a[high * 2], k);
        rows[1][k] = half(x.a[high * 2 + 1], k);
        for (u32 j = 0; j < 2; j++) cols[j][k] = half(((const Fragments*)warp[(pair * 2 + j) * 4 + from])->b[high], k);
    }
    for (u32 i = 0; i < 2; i++)
        for (u32 j = 0; j < 2; j++) {
            double sum = c[i * 2 + j];
            for (u32 k = 0; k < 16; k++) sum += (double)rows[i][k] * cols[j][k];
            c[i * 2 + j] = (float)sum;
        }
}

}  // namespace emulator

#define KERNEL(name, Args, block_threads)                                                                         \
    static void name##_body(const Args& a);                                                                       \
    static void name##_thunk(const void* args) {                                                                  \
        Args copy;                                                                                                \
        memcpy(&copy, args, sizeof copy);                                                                         \
        name##_body(copy);                                                                                        \
    }                                                                                                             \
    extern "C" const emulator::Kernel kernel_##name = {name##_thunk, sizeof(Args), block_threads, #name};         \
    static void name##_body(const Args& a)
#define KERNEL_OCCUPANCY(name, Args, threads, blocks) KERNEL(name, Args, threads)

FN float as_float(u32 b) {
    float x;
    memcpy(&x, &b, 4);
    return x;
}
FN u32 as_bits(float x) {
    u32 b;
    memcpy(&b, &x, 4);
    return b;
}
FN u16 to_bf16(float x) {
    u32 b = as_bits(x);
    if ((b & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (u16)((b + 0x7fff + (b >> 16 & 1)) >> 16);
}
FN u32 pack_bf16(float low, float high) {
    return (u32)to_bf16(low) | (u32)to_bf16(high) << 16;
}
FN u32 e4m3_to_f16(u32 codes) {
    u32 y = 0;
    for (int i = 0; i < 2; i++) {
        u32 code = codes >> 8 * i & 0xff, magnitude = code & 0x7f, x;
        if (magnitude == 0x7f)
            x = 0x7fff;
        else if (magnitude >= 8)
            x = (magnitude + (8 << 3)) << 7;
        else {
            // Units of 2^-9, of which f16 has the leading one as its exponent.
            u32 shift = 0;
            while (magnitude != 0 && !(magnitude & 8)) magnitude <<= 1, shift++;
            x = magnitude == 0 ? 0 : ((9 - shift) << 10) | (magnitude & 7) << 7;
        }
        y |= (x | (code & 0x80) << 8) << 16 * i;
    }
    return y;
}
FN void widen_f16(u32 pair, float& low, float& high) {
    low = emulator::half_to_float((u16)pair, false);
    high = emulator::half_to_float((u16)(pair >> 16), false);
}
FN u32 permute(u32 x, u32 y, u32 selector) {
    u64 all = (u64)y << 32 | x;
    u32 z = 0;
    for (int i = 0; i < 4; i++) z |= (u32)(all >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return z;
}
FN int opaque(int x) {
    return x;
}
FN int thread() {
    return (int)emulator::machine().current;
}
FN int threads() {
    return (int)emulator::machine().threads;
}
FN int lane() {
    return thread() % 32;
}
FN int warp() {
    return thread() / 32;
}
FN int block_x() {
    return (int)emulator::machine().block[0];
}
FN int block_y() {
    return (int)emulator::machine().block[1];
}
FN int block_z() {
    return (int)emulator::machine().block[2];
}
FN int blocks_x() {
    return (int)emulator::machine().grid[0];
}
FN void sync() {
    auto& m = emulator::machine();
    m.fibers[m.current].state = emulator::State::AtBarrier;
    emulator::to_scheduler();
}
FN void sync_warp() {
    char none = 0;
    emulator::exchange(&none, 1);
}
template <class T>
FN T shuffle(T x, int from) {
    T y;
    memcpy(&y, emulator::exchange(&x, sizeof x)[from & 31], sizeof y);
    return y;
}
template <class T>
FN T shuffle_xor(T x, int mask) {
    return shuffle(x, lane() ^ mask);
}
template <class T>
FN T shuffle_up(T x, int by) {
    return shuffle(x, lane() < by ? lane() : lane() - by);
}
template <class T>
FN T shuffle_down(T x, int by) {
    return shuffle(x, lane() + by > 31 ? lane() : lane() + by);
}
FN u32 ballot(bool p) {
    const u8(*warp)[emulator::SLOT] = emulator::exchange(&p, 1);
    u32 votes = 0;
    for (int i = 0; i < 32; i++) votes |= (u32)(warp[i][0] != 0) << i;
    return votes;
}
FN u32 alike(u32 x) {
    const u8(*warp)[emulator::SLOT] = emulator::exchange(&x, sizeof x);
    u32 same = 0;
    for (int i = 0; i < 32; i++) same |= (u32)(memcmp(warp[i], &x, sizeof x) == 0) << i;
    return same;
}
FN int ones(u32 x) {
    return __builtin_popcount(x);
}
FN int lowest_one(u32 x) {
    return __builtin_ffs((int)x) - 1;
}
FN float fma(float x, float y, float z) {
    return fmaf(x, y, z);
}
FN float square_root(float x) {
    return sqrtf(x);
}
FN float fast_exp(float x) {
    return expf(x);
}
FN float fast_exp2(float x) {
    return exp2f(x);
}
FN float fast_reciprocal(float x) {
    return 1.0f / x;
}
FN float natural_log(float x) {
    return logf(x);
}
FN double log_f64(double x) {
    return std::log(x);
}
FN double sqrt_f64(double x) {
    return std::sqrt(x);
}
FN double cos_f64(double x) {
    return std::cos(x);
}
FN double sin_f64(double x) {
    return std::sin(x);
}
FN void check_row(int r, int rows) {
    if (r < 0 || r >= rows) emulator::fail("row %d of a matrix of %d rows", r, rows);
}

template <class T>
struct Span {
    u64 address;
    i64 count;
    FN Span(u64 address, i64 count) : address(address), count(count) {}
    FN u8* place(i64 i, u32 bytes) const {
        i64 elements = (i64)((bytes + sizeof(T) - 1) / sizeof(T));
        if (i < 0 || i + elements > count)
            emulator::fail("element %lld of a view of %lld", (long long)(i < 0 ? i : i + elements - 1),
                           (long long)count);
        u8* p = (u8*)(uintptr_t)address + i * (i64)sizeof(T);
        if (bytes > sizeof(T) && (uintptr_t)p % bytes != 0)
            emulator::fail("element %lld is not aligned to %u bytes", (long long)i, bytes);
        return p;
    }
    template <class V>
    FN V read(i64 i) const {
        V v;
        memcpy(&v, place(i, sizeof v), sizeof v);
        return v;
    }
    template <class V>
    FN void write(i64 i, V v) const {
        memcpy(place(i, sizeof v), &v, sizeof v);
    }
    FN T get(i64 i) const {
        return read<T>(i);
    }
    FN void set(i64 i, T x) const {
        write(i, x);
    }
    FN Quad quad(i64 i) const {
        return read<Quad>(i);
    }
    FN void set_quad(i64 i, Quad q) const {
        write(i, q);
    }
    FN Pair pair(i64 i) const {
        return read<Pair>(i);
    }
    FN void set_pair(i64 i, Pair q) const {
        write(i, q);
    }
    FN u32 word(i64 i) const {
        return read<u32>(i);
    }
    FN void set_word(i64 i, u32 q) const {
        write(i, q);
    }
};

template <class T>
struct Shared {
    u32 at, count;
    FN Shared(u32 at, u32 count) : at(at), count(count) {}
    FN u32 place(int i, u32 bytes) const {
        u32 elements = (u32)((bytes + sizeof(T) - 1) / sizeof(T));
        if (i < 0 || (u32)i + elements > count)
            emulator::fail("element %d of a piece of shared memory of %u", i < 0 ? i : i + (int)elements - 1, count);
        u32 p = at + (u32)i * (u32)sizeof(T);
        if (bytes > sizeof(T) && p % bytes != 0)
            emulator::fail("element %d of shared memory is not aligned to %u bytes", i, bytes);
        emulator::check_shared(p, bytes);
        return p;
    }
    template <class V>
    FN V read(int i) const {
        u32 p = place(i, sizeof(V));
        emulator::touch_shared(p, sizeof(V), emulator::Touch::Read);
        V v;
        memcpy(&v, emulator::machine().shared.data() + p, sizeof v);
        return v;
    }
    template <class V>
    FN void write(int i, V v) const {
        static_assert(sizeof(V) > 1, "places of shared memory are told apart by two bytes");
        u32 p = place(i, sizeof(V));
        emulator::touch_shared(p, sizeof(V), emulator::Touch::Write);
        memcpy(emulator::machine().shared.data() + p, &v, sizeof v);
    }
    FN T get(int i) const {
        return read<T>(i);
    }
    FN void set(int i, T x) const {
        write(i, x);
    }
    FN Quad quad(int i) const {
        return read<Quad>(i);
    }
    FN void set_quad(int i, Quad q) const {
        write(i, q);
    }
    FN Pair pair(int i) const {
        return read<Pair>(i);
    }
    FN void set_pair(int i, Pair q) const {
        write(i, q);
    }
    FN u32 word(int i) const {
        return read<u32>(i);
    }
    FN void set_word(int i, u32 q) const {
        write(i, q);
    }
};

FN u32 atomic_add(Span<u32> s, i64 i, u32 x) {
    u32* p = (u32*)s.place(i, 4);
    u32 old = *p;
    *p = old + x;
    return old;
}
// Atomic operations on shared memory need no barrier among each other; a read of the result needs one.
template <class F>
FN u32 atomic_shared(Shared<u32> s, int i, F f) {
    u32 p = s.place(i, 4);
    emulator::touch_shared(p, 4, emulator::Touch::Atomic);
    u32* x = (u32*)(emulator::machine().shared.data() + p);
    u32 old = *x;
    *x = f(old);
    return old;
}
FN u32 atomic_add(Shared<u32> s, int i, u32 x) {
    return atomic_shared(s, i, [x](u32 old) { return old + x; });
}
FN u32 atomic_max(Shared<u32> s, int i, u32 x) {
    return atomic_shared(s, i, [x](u32 old) { return old > x ? old : x; });
}

FN bool claim(u64 record) {
    u32* code = (u32*)(uintptr_t)record;
    if (*code != 0) return false;
    *code = 0xffffffff;
    return true;
}
FN void publish(u64 record, u32 code, u32 site, u32 value, u32 limit) {
    *(Report*)(uintptr_t)record = Report{code, site, value, limit};
}

// Nothing to a CPU, but of an element that is there.
template <class T>
FN void prefetch(Span<T> s, i64 i) {
    s.place(i, sizeof(T));
}

// Which lands when it is waited for.
template <class T>
FN void copy_async(Shared<T> to, int i, Span<T> from, i64 j, bool valid) {
    auto& m = emulator::machine();
    auto& t = m.fibers[m.current];
    u32 p = to.place(i, 16);
    u64 source = valid ? (u64)(uintptr_t)from.place(j, 16) : 0;
    // Other reads and writes of the destination must be done now, not when the copy lands.
    emulator::touch_shared(p, 16, emulator::Touch::Write);
    if (t.groups.empty()) t.groups.emplace_back();
    t.groups.back().push_back({p, source, valid});
    // Until then the place holds nothing that may be read.
    for (u32 c = p / 2; c < p / 2 + 8; c++) m.cells[c].written = 0;
}
FN void copy_commit() {
    auto& t = emulator::machine().fibers[emulator::machine().current];
    if (t.groups.empty()) t.groups.emplace_back();
    t.groups.emplace_back();
}
template <int n>
FN void copy_wait() {
    auto& m = emulator::machine();
    auto& t = m.fibers[m.current];
    if (t.groups.empty()) return;
    while (t.groups.size() - 1 > (size_t)n) {
        for (auto& copy : t.groups.front()) {
            if (copy.valid)
                memcpy(m.shared.data() + copy.to, (const void*)(uintptr_t)copy.from, 16);
            else
                memset(m.shared.data() + copy.to, 0, 16);
            for (u32 c = copy.to / 2; c < copy.to / 2 + 8; c++) {
                m.cells[c].written = m.clock;
                m.cells[c].writer = (u16)m.current;
                m.cells[c].read = 0;
            }
        }
        t.groups.erase(t.groups.begin());
    }
}

template <class T>
FN void load_matrices(u32 (&r)[4], Shared<T> s, int i, bool transposed) {
    static_assert(sizeof(T) == 2, "matrices have 16-bit elements");
    Quad mine = s.quad(i);
    const u8(*warp)[emulator::SLOT] = emulator::exchange(&mine, 16);
    for (int j = 0; j < 4; j++) {
        auto element = [&](int row, int col) {
            u16 x;
            memcpy(&x, warp[j * 8 + row] + 2 * col, 2);
            return (u32)x;
        };
        int group = lane() / 4, pair = lane() % 4 * 2;
        r[j] = transposed ? element(pair, group) | element(pair + 1, group) << 16
                          : element(group, pair) | element(group, pair + 1) << 16;
    }
}
template <class T>
FN void load_matrix(u32 (&r)[4], Shared<T> s, int i) {
    load_matrices(r, s, i, false);
}
template <class T>
FN void load_matrix_transposed(u32 (&r)[4], Shared<T> s, int i) {
    load_matrices(r, s, i, true);
}
FN void mma_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    emulator::mma(c, a, b0, b1, true);
}
FN void mma_f16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    emulator::mma(c, a, b0, b1, false);
}

// Runs a launch; 0, or 1 with a message of at most `size` bytes.
extern "C" inline __attribute__((used, visibility("default"))) int fathom_emulate(
    const emulator::Kernel* kernel, const u32* grid, u32 threads, u32 shared_bytes, const void* args, u32 args_bytes,
    u32 order, char* message, u32 size) {
    auto& m = emulator::machine();
    m.kernel = kernel;
    m.args = args;
    m.failed = false;
    m.order = order;
    m.random = order * 0x9e3779b97f4a7c15ull;
    auto refuse = [&](const char* why, u32 a, u32 b) {
        snprintf(message, size, "%s: launched with %s (%u, %u)", kernel->name, why, a, b);
        return 1;
    };
    if (args_bytes != kernel->args) return refuse("an argument of another size than its own", args_bytes, kernel->args);
    if (threads == 0 || threads % 32 != 0 || threads > kernel->threads)
        return refuse("threads that are no whole warps or more than it was compiled for", threads, kernel->threads);
    if (shared_bytes > emulator::MAX_SHARED)
        return refuse("more shared memory than there is", shared_bytes, emulator::MAX_SHARED);
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0) return refuse("no blocks", grid[0], grid[1]);
    if (grid[1] > 65535 || grid[2] > 65535) return refuse("more than 65535 blocks along y or z", grid[1], grid[2]);
    m.threads = threads;
    m.shared_bytes = shared_bytes;
    if (m.fibers.size() != threads) m.fibers.resize(threads);
    if (!m.stacks) {
        // The system provides pages when they are first written.
        void* stacks = mmap(nullptr, emulator::MAX_THREADS * emulator::STACK, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) return refuse("no memory for stacks", 0, 0);
        m.stacks = (u8*)stacks;
    }
    if (m.shared.size() < shared_bytes + 16) m.shared.resize(shared_bytes + 16);
    if (m.cells.size() < shared_bytes / 2 + 16) m.cells.resize(shared_bytes / 2 + 16);
    if (m.clock > 1u << 30) {
        m.clock = 0;
        memset((void*)m.cells.data(), 0, m.cells.size() * sizeof(emulator::Cell));
    }
    memcpy(m.grid, grid, sizeof m.grid);
    u64 blocks = (u64)grid[0] * grid[1] * grid[2];
    emulator::Order block_order(m, blocks);
    for (u64 i = 0; i < blocks && !m.failed; i++) {
        u64 at = block_order(i);
        m.block[0] = (u32)(at % grid[0]);
        m.block[1] = (u32)(at / grid[0] % grid[1]);
        m.block[2] = (u32)(at / grid[0] / grid[1]);
        emulator::run_block();
    }
    if (!m.failed) return 0;
#ifdef __SANITIZE_ADDRESS__
    // Fibers were left where they were, their stacks marked as in use.
    __asan_unpoison_memory_region(m.stacks, emulator::MAX_THREADS * emulator::STACK);
#endif
    snprintf(message, size, "%s", m.message);
    return 1;
}
