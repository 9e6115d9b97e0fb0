// The machine's part of `fathom.cuh` on a GPU: thin names over what CUDA has, no checks.
#pragma once

#define FN __device__ __forceinline__
#define KERNEL(name, Args, threads) \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Args a)
// With a cap that leaves room for `blocks` blocks on a multiprocessor.
#define KERNEL_OCCUPANCY(name, Args, threads, blocks) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Args a)

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define FATHOM_HOPPER
// As swizzled tiles need it.
extern __shared__ __align__(1024) unsigned char fathom_shared[];
#else
extern __shared__ __align__(16) unsigned char fathom_shared[];
#endif

FN float as_float(u32 b) {
    return __uint_as_float(b);
}
FN u32 as_bits(float x) {
    return __float_as_uint(x);
}
// Rounded to bfloat16: one, and two in a register, the first in the low half.
FN u16 to_bf16(float x) {
    u16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
FN u32 pack_bf16(float low, float high) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
#if __CUDA_ARCH__ >= 890
// Two codes in the low half of a register, the first in its low byte: to nearest even, saturating.
#define FATHOM_FP8
FN u32 pack_e4m3(float low, float high) {
    u16 y;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(y) : "f"(high), "f"(low));
    return y;
}
FN u32 pack_e5m2(float low, float high) {
    u16 y;
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(y) : "f"(high), "f"(low));
    return y;
}
#endif
// Two E4M3 codes, in the low bytes of a word, as two f16: exact, and NaN where the code is.
FN u32 e4m3_to_f16(u32 codes) {
    u32 y;
#if __CUDA_ARCH__ >= 890
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(y) : "h"((u16)codes));
#else
    u32 high = (codes << 8 & 0xff00) | (codes << 16 & 0xff000000);
    // The exponent is off by eight; a product with 2^8 sets it right, subnormal numbers included.
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(y) : "r"((high & 0x80008000) | (high & 0x7f007f00) >> 1), "r"(0x5c005c00));
    u32 nan = ((high & 0x7f007f00) + 0x01000100) & 0x80008000;
    y |= nan - (nan >> 15);
#endif
    return y;
}
// Two f16 of a register as f32, the one in the low half first.
FN void widen_f16(u32 pair, float& low, float& high) {
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
        : "=f"(low), "=f"(high)
        : "r"(pair));
}
// Four bytes out of eight, those of `x` and then those of `y`, lowest first: byte `i` of the result is the one that
// hexadecimal digit `i` of the selector names.
FN u32 permute(u32 x, u32 y, u32 selector) {
    return __byte_perm(x, y, selector);
}
// `x`, of which the compiler knows nothing more: what it made out of the bits that are always zero would cost more.
FN int opaque(int x) {
    asm("" : "+r"(x));
    return x;
}
FN int thread() {
    return (int)threadIdx.x;
}
FN int threads() {
    return (int)blockDim.x;
}
FN int lane() {
    return (int)(threadIdx.x & 31);
}
FN int warp() {
    return (int)(threadIdx.x >> 5);
}
FN int block_x() {
    return (int)blockIdx.x;
}
FN int block_y() {
    return (int)blockIdx.y;
}
FN int block_z() {
    return (int)blockIdx.z;
}
FN int blocks_x() {
    return (int)gridDim.x;
}
FN void sync() {
    __syncthreads();
}
FN void sync_warp() {
    __syncwarp();
}
template <class T>
FN T shuffle(T x, int from) {
    return __shfl_sync(0xffffffffu, x, from);
}
template <class T>
FN T shuffle_xor(T x, int mask) {
    return __shfl_xor_sync(0xffffffffu, x, mask);
}
template <class T>
FN T shuffle_up(T x, int by) {
    return __shfl_up_sync(0xffffffffu, x, by);
}
template <class T>
FN T shuffle_down(T x, int by) {
    return __shfl_down_sync(0xffffffffu, x, by);
}
FN u32 ballot(bool p) {
    return __ballot_sync(0xffffffffu, p);
}
// The lanes that hold the same value.
FN u32 alike(u32 x) {
    return __match_any_sync(0xffffffffu, x);
}
FN int ones(u32 x) {
    return __popc(x);
}
FN int lowest_one(u32 x) {
    return __ffs((int)x) - 1;
}
FN float fma(float x, float y, float z) {
    return __fmaf_rn(x, y, z);
}
FN float square_root(float x) {
    return __fsqrt_rn(x);
}
// e^x, 2^x and ln x to a few units in the last place: for what need not have the bits of the core.
FN float fast_exp(float x) {
    return expf(x);
}
FN float fast_exp2(float x) {
    // One instruction; results below the normal numbers are zero.
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// 1/x, likewise; 0 for numbers above 2^126.
FN float fast_reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
FN float natural_log(float x) {
    return logf(x);
}
FN double log_f64(double x) {
    return log(x);
}
FN double sqrt_f64(double x) {
    return sqrt(x);
}
FN double cos_f64(double x) {
    return cos(x);
}
FN double sin_f64(double x) {
    return sin(x);
}

FN void check_row(int, int) {}

template <class T>
struct Span {
    T* p;
    FN Span(u64 address, i64) : p((T*)address) {}
    FN T get(i64 i) const {
        return p[i];
    }
    FN void set(i64 i, T x) const {
        p[i] = x;
    }
    // Sixteen and eight bytes from element `i` on, which must be aligned.
    FN Quad quad(i64 i) const {
        return *(const Quad*)(p + i);
    }
    FN void set_quad(i64 i, Quad q) const {
        *(Quad*)(p + i) = q;
    }
    FN Pair pair(i64 i) const {
        return *(const Pair*)(p + i);
    }
    FN void set_pair(i64 i, Pair q) const {
        *(Pair*)(p + i) = q;
    }
    FN u32 word(i64 i) const {
        return *(const u32*)(p + i);
    }
    FN void set_word(i64 i, u32 q) const {
        *(u32*)(p + i) = q;
    }
};

template <class T>
struct Shared {
    T* p;
    FN Shared(u32 at, u32) : p((T*)(fathom_shared + at)) {}
    FN T get(int i) const {
        return p[i];
    }
    FN void set(int i, T x) const {
        p[i] = x;
    }
    FN Quad quad(int i) const {
        return *(const Quad*)(p + i);
    }
    FN void set_quad(int i, Quad q) const {
        *(Quad*)(p + i) = q;
    }
    FN Pair pair(int i) const {
        return *(const Pair*)(p + i);
    }
    FN void set_pair(int i, Pair q) const {
        *(Pair*)(p + i) = q;
    }
    FN u32 word(int i) const {
        return *(const u32*)(p + i);
    }
    FN void set_word(int i, u32 q) const {
        *(u32*)(p + i) = q;
    }
    FN u32 address(int i) const {
        return (u32)__cvta_generic_to_shared(p) + (u32)i * (u32)sizeof(T);
    }
};

// Integer additions only: their order does not show.
FN u32 atomic_add(Span<u32> s, i64 i, u32 x) {
    return atomicAdd(s.p + i, x);
}
FN u32 atomic_add(Shared<u32> s, int i, u32 x) {
    return atomicAdd(s.p + i, x);
}
FN u32 atomic_max(Shared<u32> s, int i, u32 x) {
    return atomicMax(s.p + i, x);
}

FN bool claim(u64 record) {
    return atomicCAS((u32*)record, 0u, 0xffffffffu) == 0u;
}
FN void publish(u64 record, u32 code, u32 site, u32 value, u32 limit) {
    volatile Report* f = (volatile Report*)record;
    f->site = site;
    f->value = value;
    f->limit = limit;
    __threadfence();
    f->code = code;
}

// Brings the line of element `i` near, to be read soon.
template <class T>
FN void prefetch(Span<T> s, i64 i) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(s.p + i));
}

// Copies sixteen bytes from device to shared memory behind the kernel's back; zeros where not `valid`.
template <class T>
FN void copy_async(Shared<T> to, int i, Span<T> from, i64 j, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to.address(i)), "l"(valid ? from.p + j : from.p),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
// Closes a group of copies.
FN void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most `n` groups of this thread are under way; the others see its copies after a `sync()`.
template <int n>
FN void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

// Four 8×8 matrices of 16-bit elements: lane `8j + i` names row `i` of matrix `j` by its first element.
template <class T>
FN void load_matrix(u32 (&r)[4], Shared<T> s, int i) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(s.address(i))
                 : "memory");
}
template <class T>
FN void load_matrix_transposed(u32 (&r)[4], Shared<T> s, int i) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(s.address(i))
                 : "memory");
}

// c[16, 8] += a[16, 16] · b[16, 8], f32 sums: `mma.m16n8k16`, with PTX's fragments.
FN void mma_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
FN void mma_f16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#ifdef FATHOM_HOPPER
#include "hopper.cuh"
#endif
