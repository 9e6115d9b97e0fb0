// Gathers and scatters of rows and columns, and the combination of experts' outputs.
#include "fathom.cuh"

// Bytes of rows: any type will do.
struct Gather {
    u64 x, y;
    i64 x_stride, y_stride, bytes;  // bytes from row to row, and of a row
    Mat index;
    u64 fault;
    u32 rows, divisor, limit, site;  // rows of x; an index is below `limit`, at most rows · divisor
};

// Row of x for row `r` of y, or -1 where there is none.
FN i64 source(const Mat& index, int r, u32 divisor, u32 limit, u64 fault, u32 site) {
    u32 i = row<u32>(index, r).get(0);
    return in_range(fault, site, i, limit) ? (i64)(i / divisor) : -1;
}

// A warp takes two kilobytes of a row: all that it reads is under way before it writes.
KERNEL(gather_wide, Gather, 256) {
    const int parts = 4;
    u32 per_row = (u32)((a.bytes + 2047) / 2048), i = (u32)block_x() * 8 + (u32)warp(), r = i / per_row;
    if (r >= (u32)a.index.rows) return;
    i64 from = source(a.index, (int)r, a.divisor, a.limit, a.fault, a.site);
    i64 start = (i64)(i - r * per_row) * 2048 + lane() * 16;
    Span<u8> x(a.x + (u64)((from < 0 ? 0 : from) * a.x_stride), from < 0 ? 0 : a.bytes);
    Span<u8> y(a.y + (u64)(r * a.y_stride), a.bytes);
    Quad q[parts];
#pragma unroll
    for (int k = 0; k < parts; k++) {
        i64 at = start + k * 512;
        q[k] = from >= 0 && at < a.bytes ? x.quad(at) : Quad{0, 0, 0, 0};
    }
#pragma unroll
    for (int k = 0; k < parts; k++)
        if (start + k * 512 < a.bytes) y.set_quad(start + k * 512, q[k]);
}
// Rows that are short or not aligned: a thread takes an element.
template <class T>
FN void gather(const Gather& a) {
    u32 per_row = (u32)(a.bytes / (i64)sizeof(T)), i = (u32)block_x() * (u32)threads() + (u32)thread();
    u32 r = per_row == 1 ? i : i / per_row;
    if (r >= (u32)a.index.rows) return;
    i64 from = source(a.index, (int)r, a.divisor, a.limit, a.fault, a.site), c = i - r * per_row;
    T v = {};
    if (from >= 0) v = Span<T>(a.x + (u64)(from * a.x_stride), per_row).get(c);
    Span<T>(a.y + (u64)(r * a.y_stride), per_row).set(c, v);
}
KERNEL(gather_8, Gather, 256) {
    gather<u8>(a);
}
KERNEL(gather_16, Gather, 256) {
    gather<u16>(a);
}
KERNEL(gather_32, Gather, 256) {
    gather<u32>(a);
}
KERNEL(gather_128, Gather, 256) {
    gather<Quad>(a);
}

struct GatherCast {
    Mat x, index, y;
    u64 fault;
    u32 divisor, limit, site, wide;  // wide: bit 0 for x, bit 1 for y
};

// The same from one floating-point type to another.
KERNEL(gather_cast, GatherCast, 256) {
    int r, c;
    if (!eighth(a.y, (u32)block_x() * (u32)threads() + (u32)thread(), r, c)) return;
    i64 from = source(a.index, r, a.divisor, a.limit, a.fault, a.site);
    float v[8] = {};
    if (from >= 0) load_eight(a.x, (int)from, c, a.wide & 1, v);
    store_eight(a.y, r, c, a.wide & 2, v);
}

struct Columns {
    Mat x, index, y;
    u64 fault;
    u32 site, reserved;
};

// y[r, j] = x[r, index[r, j]], of any type of that width.
template <class T>
FN void gather_columns(const Columns& a) {
    u32 i = (u32)block_x() * (u32)threads() + (u32)thread(), k = (u32)a.y.cols, r = i / k;
    if (r >= (u32)a.y.rows) return;
    int j = (int)(i - r * k);
    u32 c = row<u32>(a.index, (int)r).get(j);
    T v = {};
    if (in_range(a.fault, a.site, c, (u32)a.x.cols)) v = row<T>(a.x, (int)r).get(c);
    row<T>(a.y, (int)r).set(j, v);
}
KERNEL(gather_columns_16, Columns, 256) {
    gather_columns<u16>(a);
}
KERNEL(gather_columns_32, Columns, 256) {
    gather_columns<u32>(a);
}

// y[r, index[r, j]] += x[r, j], in the order of j: a thread takes a row, in which a column may be hit more than once.
KERNEL(scatter_add_columns, Columns, 256) {
    i64 i = (i64)block_x() * threads() + thread();
    if (i >= a.y.rows) return;
    int r = (int)i;
    bool repeated = a.x.rows == 1 && a.x.cols == 1;
    for (int j = 0; j < a.index.cols; j++) {
        u32 c = row<u32>(a.index, r).get(j);
        if (c == 0xffffffff || !in_range(a.fault, a.site, c, (u32)a.y.cols)) continue;
        store(a.y, r, (int)c, load(a.y, r, (int)c) + (repeated ? load(a.x, 0, 0) : load(a.x, r, j)));
    }
}

struct ScatterRows {
    Mat x, index, y;
    u64 order;  // rows of x, sorted by index
    u32 wide, reserved;
};

// y[index[r], :] += x[r, :] in the order of r. A block takes the row that is first of its index, and 1024 columns.
// `ahead` rows are under way at once.
template <class T, int ahead>
FN void scatter_add_rows(const ScatterRows& a) {
    const int width = 1024, batch = 128;
    Carve carve;
    auto rows = carve.take<u32>(batch);
    auto counts = carve.take<u32>(batch / 32);
    int m = a.x.rows, tiles = (a.y.cols - 1) / width + 1, first = block_x() / tiles, tile = block_x() % tiles;
    auto order = span<u32>(a.order, m);
    auto target = [&](int place) { return row<u32>(a.index, (int)order.get(place)).get(0); };
    u32 to = target(first);
    // All threads leave, or none. Who checked the indices has reported those that are out of range.
    if (to >= (u32)a.y.rows || (first > 0 && target(first - 1) == to)) return;
    int c = tile * width + thread() * 8;
    bool mine = c < a.y.cols, x_wide = a.wide & 1, y_wide = a.wide & 2;
    float sum[8] = {};
    if (mine) load_eight(a.y, (int)to, c, y_wide, sum);
    for (int count = batch; count == batch; first += batch) {
        // The rows of this index among the next ones.
        bool same = m - first > thread() && target(first + thread()) == to;
        u32 votes = ballot(same);
        if (same) rows.set(thread(), order.get(first + thread()));
        if (lane() == 0) counts.set(warp(), (u32)ones(votes));
        sync();
        count = 0;
        for (int w = 0; w < batch / 32; w++) count += (int)counts.get(w);
        if (mine) {
            int i = 0;
            if (x_wide && a.x.cols - c >= 8)
                for (; i + ahead <= count; i += ahead) {
                    Eight<T> e[ahead];
#pragma unroll
                    for (int k = 0; k < ahead; k++) e[k] = fetch_eight(row<T>(a.x, (int)rows.get(i + k)), c);
#pragma unroll
                    for (int k = 0; k < ahead; k++) {
                        float v[8];
                        widen_eight(e[k], v);
#pragma unroll
                        for (int l = 0; l < 8; l++) sum[l] += v[l];
                    }
                }
            for (; i < count; i++) {
                float v[8];
                load_eight<T>(a.x, (int)rows.get(i), c, x_wide, v);
#pragma unroll
                for (int l = 0; l < 8; l++) sum[l] += v[l];
            }
        }
        sync();
        if (m - first <= batch) break;
    }
    if (mine) store_eight(a.y, (int)to, c, y_wide, sum);
}
KERNEL(scatter_add_rows_f32, ScatterRows, 128) {
    scatter_add_rows<float, 8>(a);
}
KERNEL(scatter_add_rows_bf16, ScatterRows, 128) {
    scatter_add_rows<bf16, 8>(a);
}
KERNEL(scatter_add_rows_f16, ScatterRows, 128) {
    scatter_add_rows<f16, 4>(a);
}

struct Combine {
    Mat x, inverse, y;
    u64 fault;
    u32 site, accumulate, wide, reserved;
};

// y[t, :] = Σ_j x[inverse[t, j], :] in the order of j, in f32, rounded once.
template <class T>
FN void combine(const Combine& a) {
    const int ahead = 4;
    int t, c;
    if (!eighth(a.y, (u32)block_x() * (u32)threads() + (u32)thread(), t, c)) return;
    bool wide = a.wide & 1;
    float sum[8] = {};
    if (a.accumulate) load_eight(a.y, t, c, a.wide & 2, sum);
    auto inverse = row<u32>(a.inverse, t);
    int k = a.inverse.cols;
    for (int j = 0; j < k; j += ahead) {
        u32 from[ahead];
#pragma unroll
        for (int i = 0; i < ahead; i++) from[i] = j + i < k ? inverse.get(j + i) : 0;
        bool valid = true;
#pragma unroll
        for (int i = 0; i < ahead; i++) valid &= from[i] < (u32)a.x.rows;
        if (valid && wide && a.x.cols - c >= 8) {
            // Rows past the last one are row 0, which is read but not added.
            Eight<T> e[ahead];
#pragma unroll
            for (int i = 0; i < ahead; i++) e[i] = fetch_eight(row<T>(a.x, (int)from[i]), c);
#pragma unroll
            for (int i = 0; i < ahead; i++) {
                float v[8];
                widen_eight(e[i], v);
                if (j + i < k)
#pragma unroll
                    for (int l = 0; l < 8; l++) sum[l] += v[l];
            }
        } else
            for (int i = 0; i < ahead && j + i < k; i++) {
                u32 at = inverse.get(j + i);
                if (!in_range(a.fault, a.site, at, (u32)a.x.rows)) continue;
                float v[8];
                load_eight<T>(a.x, (int)at, c, wide, v);
#pragma unroll
                for (int l = 0; l < 8; l++) sum[l] += v[l];
            }
    }
    store_eight(a.y, t, c, a.wide & 2, sum);
}
KERNEL(combine_f32, Combine, 256) {
    combine<float>(a);
}
KERNEL(combine_bf16, Combine, 256) {
    combine<bf16>(a);
}
KERNEL(combine_f16, Combine, 256) {
    combine<f16>(a);
}
