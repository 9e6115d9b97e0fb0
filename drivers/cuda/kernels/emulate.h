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
//  - of Hopper's operations (`emulate/async.h`, `emulate/wgmma.h`): phases that never end, or end before their bytes
//    landed; barriers in shared memory that nothing initialised; sums that are touched, and factors that are
//    overwritten, before a matrix product was waited for; factors outside of shared memory, misaligned, or of another
//    swizzle than they were brought with; and what threads wrote and the asynchronous proxy reads without a fence;
//  - threads that end while others wait for them, and barriers that not all threads reach;
//  - launches that a GPU would refuse, or with an argument of another size than the kernel's.
#pragma once

#define FN inline

#include "emulate/machine.h"
#include "emulate/matrix.h"
#include "emulate/shared.h"

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
            emulator::land(copy.to, 16);
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

#define FATHOM_HOPPER
#include "emulate/async.h"
#include "emulate/wgmma.h"

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
    if (m.clock > 1u << 30 || m.stopped) {
        // A launch that failed leaves copies and matrix products under way.
        m.stopped = false;
        m.clock = 0;
        memset((void*)m.cells.data(), 0, m.cells.size() * sizeof(emulator::Cell));
        if (m.readers) madvise(m.readers, emulator::READERS, MADV_DONTNEED);
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
    m.stopped = true;
#ifdef __SANITIZE_ADDRESS__
    // Fibers were left where they were, their stacks marked as in use.
    __asan_unpoison_memory_region(m.stacks, emulator::MAX_THREADS * emulator::STACK);
#endif
    snprintf(message, size, "%s", m.message);
    return 1;
}
