// Hopper's asynchronous operations on a GPU (sm_90a): barriers in shared memory, bulk copies, and matrix products of
// warpgroups. `FATHOM_HOPPER` is defined where they are. The emulator has the same names: `emulate/async.h` and
// `emulate/wgmma.h`.
//
// Bulk copies and matrix products reach shared memory by another way than threads do, the asynchronous proxy. What a
// thread wrote they see after its `fence_async()` and then a barrier; what a copy wrote threads see after the wait for
// its phase.
#pragma once

// ---- barriers in shared memory

// Makes barrier `i` one of `arrivals` arrivals a phase. All threads must wait for this, at a `sync()`.
FN void barrier_init(Shared<Barrier> s, int i, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(s.address(i)), "r"(arrivals) : "memory");
}
// Makes the barriers that this thread initialised known to bulk copies.
FN void barriers_ready() {
    asm volatile("fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;" ::: "memory");
}
// Arrives: what this thread did is over for threads that wait for the phase.
FN void barrier_arrive(Shared<Barrier> s, int i) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(s.address(i)) : "memory");
}
// Arrives, and has the phase wait for that many bytes more.
FN void barrier_expect(Shared<Barrier> s, int i, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(s.address(i)), "r"(bytes) : "memory");
}
// Waits until the phase of that parity is over: the current one, or the one before it. The parity of phase `n` is
// `n % 2`; before the first phase ends, that of parity 1 counts as over.
FN void barrier_wait(Shared<Barrier> s, int i, int parity) {
    u32 over;
    do
        asm volatile(
            "{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, p;}"
            : "=r"(over)
            : "r"(s.address(i)), "r"(parity)
            : "memory");
    while (over == 0);
}
// Makes what this thread wrote to shared memory known to bulk copies and matrix products that come later.
FN void fence_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- bulk copies, which one thread begins; their bytes land on barrier `b`

// Copies `count` elements, of which sixteen bytes divide both places and the length.
template <class T>
FN void copy_bulk(Shared<T> to, int i, Span<T> from, i64 j, int count, Shared<Barrier> s, int b) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     to.address(i)),
                 "l"(from.p + j), "r"(count * (int)sizeof(T)), "r"(s.address(b))
                 : "memory");
}
// Copies a box of a matrix from row `row` and column `col` on, rows after rows; zeros where the matrix has none. It
// starts on a multiple of 128 bytes; with a swizzle, of eight of its rows.
template <class T>
FN void copy_tile(Shared<T> to, int i, const TensorMap& map, int row, int col, Shared<Barrier> s, int b) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
        "[%4];" ::"r"(to.address(i)),
        "l"(&map), "r"(col), "r"(row), "r"(s.address(b))
        : "memory");
}

// ---- matrix products of warpgroups

// A factor in shared memory from element `i` on, which lies in the first of its rows: rows of WIDTH bytes along the
// inner dimension, swizzled over as many, in eights. A product takes 32 bytes of each row; for the next, `i` moves on
// by as many. The first row starts on a multiple of eight rows.
template <int WIDTH, class T>
FN Tile tile_at(Shared<T> s, int i) {
    constexpr u64 MODE = WIDTH == 128 ? 1 : WIDTH == 64 ? 2 : 3;
    return Tile{(u64)(s.address(i) >> 4 & 0x3fff) | 1ull << 16 | (u64)(8 * WIDTH / 16) << 32 | MODE << 62};
}

// Sums of 64 rows by N columns, over the threads of a warpgroup: warp `w` has rows 16w to 16w + 15, of which the lane's
// number `4 j + 2 h + e` is row `lane / 4 + 8 h` and column `8 j + lane % 4 * 2 + e`. They must not be touched while a
// product is under way.
template <int N>
struct Accumulators {
    float x[N / 2];
    FN float get(int i) const {
        return x[i];
    }
    FN void set(int i, float y) {
        x[i] = y;
    }
    // Keeps the compiler from moving accesses across.
    FN void settle() {
#pragma unroll
        for (int i = 0; i < N / 2; i++) asm volatile("" : "+f"(x[i])::"memory");
    }
};

#define FATHOM_REGISTERS_32 \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26" \
    ",%27,%28,%29,%30,%31"
#define FATHOM_REGISTERS_64 \
    FATHOM_REGISTERS_32 \
    ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56" \
    ",%57,%58,%59,%60,%61,%62,%63"
#define FATHOM_REGISTERS_128 \
    FATHOM_REGISTERS_64 \
    ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88" \
    ",%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110" \
    ",%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define FATHOM_SUMS_8(x, i)                                                                                   \
    "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3]), "+f"(x[i + 4]), "+f"(x[i + 5]), "+f"(x[i + 6]), \
        "+f"(x[i + 7])
#define FATHOM_SUMS_32(x, i) \
    FATHOM_SUMS_8(x, i), FATHOM_SUMS_8(x, i + 8), FATHOM_SUMS_8(x, i + 16), FATHOM_SUMS_8(x, i + 24)
// c = a·bᵀ, or c += a·bᵀ, of a tile of 64 rows and one of N; `add` must be the same in all threads.
FN void wgmma_bf16(Accumulators<64>& c, Tile a, Tile b, bool add) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{" FATHOM_REGISTERS_32 "}, %32, %33, p, 1, 1, 0, 0;}"
        : FATHOM_SUMS_32(c.x, 0)
        : "l"(a.descriptor), "l"(b.descriptor), "r"((int)add)
        : "memory");
}
FN void wgmma_bf16(Accumulators<128>& c, Tile a, Tile b, bool add) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{" FATHOM_REGISTERS_64 "}, %64, %65, p, 1, 1, 0, 0;}"
        : FATHOM_SUMS_32(c.x, 0), FATHOM_SUMS_32(c.x, 32)
        : "l"(a.descriptor), "l"(b.descriptor), "r"((int)add)
        : "memory");
}
FN void wgmma_bf16(Accumulators<256>& c, Tile a, Tile b, bool add) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %130, 0; wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
        "{" FATHOM_REGISTERS_128 "}, %128, %129, p, 1, 1, 0, 0;}"
        : FATHOM_SUMS_32(c.x, 0), FATHOM_SUMS_32(c.x, 32), FATHOM_SUMS_32(c.x, 64), FATHOM_SUMS_32(c.x, 96)
        : "l"(a.descriptor), "l"(b.descriptor), "r"((int)add)
        : "memory");
}
FN void wgmma_e4m3(Accumulators<64>& c, Tile a, Tile b, bool add) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 "
        "{" FATHOM_REGISTERS_32 "}, %32, %33, p, 1, 1;}"
        : FATHOM_SUMS_32(c.x, 0)
        : "l"(a.descriptor), "l"(b.descriptor), "r"((int)add)
        : "memory");
}
FN void wgmma_e4m3(Accumulators<128>& c, Tile a, Tile b, bool add) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 "
        "{" FATHOM_REGISTERS_64 "}, %64, %65, p, 1, 1;}"
        : FATHOM_SUMS_32(c.x, 0), FATHOM_SUMS_32(c.x, 32)
        : "l"(a.descriptor), "l"(b.descriptor), "r"((int)add)
        : "memory");
}
#undef FATHOM_REGISTERS_32
#undef FATHOM_REGISTERS_64
#undef FATHOM_REGISTERS_128
#undef FATHOM_SUMS_8
#undef FATHOM_SUMS_32

// Between accesses to sums and a product that takes them.
template <int N>
FN void wgmma_fence(Accumulators<N>& c) {
    c.settle();
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// Closes a group of products.
FN void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most GROUPS groups are under way: then what the others read may be overwritten.
template <int GROUPS>
FN void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
}
// The same, after which the sums of `c` may be used: none of its groups is among those that are left.
template <int GROUPS, int N>
FN void wgmma_wait(Accumulators<N>& c) {
    wgmma_wait<GROUPS>();
    c.settle();
}

// Each thread of this warpgroup shall have COUNT registers, more than now, once others gave as many; or fewer.
template <int COUNT>
FN void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT>
FN void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
