// Top-k of rows, and a stable counting sort of small keys.
#include "fathom.cuh"

struct TopK {
    Mat x, index;
    u32 wide, reserved;
};

struct Best {
    float v;
    int i;
};
const int NONE = 0x7fffffff;

// Whether `a` comes before `b`: larger, or as large in a lower column.
FN bool before(const Best& a, const Best& b) {
    return a.v > b.v || (a.v == b.v && a.i < b.i);
}
// The first of row `r` that comes after `last`, by `lanes` threads of which this is number `me`: this thread's part.
// Nothing needs to be marked as taken, and a row is only read.
FN Best next_best(const TopK& a, int r, const Best& last, int me, int lanes) {
    Best best = {-infinity(), NONE};
    for (i64 c = me * 8; c < a.x.cols; c += lanes * 8) {
        float v[8];
        load_eight(a.x, r, (int)c, a.wide, v);
#pragma unroll
        for (int k = 0; k < 8; k++) {
            Best b = {v[k], (int)c + k};
            if (k < a.x.cols - c && before(last, b) && before(b, best)) best = b;
        }
    }
    return best;
}
FN Best best_of_warp(Best best) {
    for (int d = 16; d > 0; d /= 2) {
        Best other = {shuffle_xor(best.v, d), shuffle_xor(best.i, d)};
        if (before(other, best)) best = other;
    }
    return best;
}
FN void take(const TopK& a, int r, int j, const Best& best) {
    // A row of NaN has nothing to take.
    row<u32>(a.index, r).set(j, best.i == NONE ? 0 : (u32)best.i);
}

// A warp for each row: short ones.
KERNEL(top_k_short, TopK, 256) {
    int r = block_x() * (threads() / 32) + warp();
    if (r >= a.x.rows) return;
    Best last = {infinity(), -1};
    for (int j = 0; j < a.index.cols; j++) {
        last = best_of_warp(next_best(a, r, last, lane(), 32));
        if (lane() == 0) take(a, r, j, last);
    }
}
// A block for each row.
KERNEL(top_k_long, TopK, 512) {
    Carve carve;
    auto values = carve.take<float>(32);
    auto columns = carve.take<int>(32);
    Best last = {infinity(), -1};
    for (int j = 0; j < a.index.cols; j++) {
        Best best = best_of_warp(next_best(a, block_x(), last, thread(), threads()));
        if (lane() == 0) {
            values.set(warp(), best.v);
            columns.set(warp(), best.i);
        }
        sync();
        last = {values.get(0), columns.get(0)};
        for (int w = 1; w < threads() / 32; w++) {
            Best other = {values.get(w), columns.get(w)};
            if (before(other, last)) last = other;
        }
        sync();
        if (thread() == 0) take(a, block_x(), j, last);
    }
}

// One pass of a sort: by `buckets` values of a digit of the key, items of equal digits staying in their order. Of a
// sort by several digits, lowest first, `from` is the order that the pass before left.
//
// The items are cut into chunks, a block for each, and a chunk into a run for each warp. `count` counts the digits of
// every chunk, `scan` adds up the counts of each digit over the chunks, and `scatter` finds from them where its chunk's
// first item of each digit goes, and the others after it.
struct Sort {
    u64 keys, from, order, inverse;  // from, inverse: 0 for none
    u64 counts, totals;              // [buckets, chunks], [buckets]
    u64 offsets, fault;              // 0 for none
    i64 stride;                      // from key to key
    u32 items, chunk, chunks, buckets;
    u32 limit, most;                 // keys must be below `limit`; others are taken for `most`
    u32 shift, mask;                 // the digit
    u32 groups, site;                // offsets but the last, which is the number of items
};

FN u32 item_at(const Sort& a, u32 place) {
    return a.from == 0 ? place : span<u32>(a.from, a.items).get(place);
}
FN u32 digit_of(const Sort& a, u32 item, bool tell) {
    u32 key = span<u32>(a.keys, (i64)(a.items - 1) * a.stride + 1).get((i64)item * a.stride);
    if (key >= a.limit) {
        if (tell) report(a.fault, INDEX_OUT_OF_RANGE, a.site, key, a.limit);
        key = a.most;
    }
    return key >> a.shift & a.mask;
}
// This warp's run of the block's chunk.
FN void run_of(const Sort& a, u32& first, u32& last) {
    u32 length = a.chunk / (u32)(threads() / 32), start = (u32)block_x() * a.chunk + (u32)warp() * length;
    first = start < a.items ? start : a.items;
    last = a.items - first < length ? a.items : first + length;
}

KERNEL(sort_count, Sort, 256) {
    Carve carve;
    auto counts = carve.take<u32>(a.buckets);
    for (int d = thread(); d < (int)a.buckets; d += threads()) counts.set(d, 0);
    sync();
    u32 first, last;
    run_of(a, first, last);
    for (u32 place = first + (u32)lane(); place < last; place += 32)
        atomic_add(counts, (int)digit_of(a, item_at(a, place), a.fault != 0), 1);
    sync();
    auto table = span<u32>(a.counts, (i64)a.buckets * a.chunks);
    for (int d = thread(); d < (int)a.buckets; d += threads()) table.set((i64)d * a.chunks + block_x(), counts.get(d));
}

// The sum over the lanes before this one, and over all.
FN u32 scan_warp(u32 x, u32& total) {
    u32 sum = x;
    for (int d = 1; d < 32; d *= 2) {
        u32 other = shuffle_up(sum, d);
        if (lane() >= d) sum += other;
    }
    total = shuffle(sum, 31);
    return sum - x;
}

// A warp for each digit.
KERNEL(sort_scan, Sort, 256) {
    int d = block_x() * (threads() / 32) + warp();
    if (d >= (int)a.buckets) return;
    auto counts = span<u32>(a.counts + (u64)d * a.chunks * 4, a.chunks);
    u32 before = 0;
    for (u32 c = 0; c < a.chunks; c += 32) {
        u32 i = c + (u32)lane(), total;
        u32 sum = scan_warp(i < a.chunks ? counts.get(i) : 0, total);
        if (i < a.chunks) counts.set(i, before + sum);
        before += total;
    }
    if (lane() == 0) span<u32>(a.totals, a.buckets).set(d, before);
}

KERNEL(sort_scatter, Sort, 256) {
    const int warps = 8;
    int buckets = (int)a.buckets;
    Carve carve;
    auto next = carve.take<u32>((u32)(buckets * warps));  // where the warp's next item of a digit goes
    auto start = carve.take<u32>((u32)buckets);           // where a digit's first item goes
    for (int i = thread(); i < buckets * warps; i += threads()) next.set(i, 0);
    if (warp() == 0) {
        u32 before = 0;
        for (int c = 0; c < buckets; c += 32) {
            int d = c + lane();
            u32 total, sum = scan_warp(d < buckets ? span<u32>(a.totals, buckets).get(d) : 0, total);
            if (d < buckets) start.set(d, before + sum);
            before += total;
        }
    }
    sync();
    u32 first, last;
    run_of(a, first, last);
    for (u32 place = first + (u32)lane(); place < last; place += 32)
        atomic_add(next, warp() * buckets + (int)digit_of(a, item_at(a, place), false), 1);
    sync();
    for (int d = thread(); d < buckets; d += threads()) {
        u32 place = start.get(d) + span<u32>(a.counts, (i64)buckets * a.chunks).get((i64)d * a.chunks + block_x());
        for (int w = 0; w < warps; w++) {
            u32 count = next.get(w * buckets + d);
            next.set(w * buckets + d, place);
            place += count;
        }
    }
    if (a.offsets != 0 && block_x() == 0)
        for (int g = thread(); g <= (int)a.groups; g += threads())
            span<u32>(a.offsets, (i64)a.groups + 1).set(g, g < (int)a.groups ? start.get(g) : a.items);
    sync();
    // Thirty-two items at a time: lanes of the same digit take places in their order.
    for (u32 at = first; at < last; at += 32) {
        u32 i = at + (u32)lane();
        bool valid = i < last;
        u32 item = valid ? item_at(a, i) : 0, digit = valid ? digit_of(a, item, false) : 0xffffffff;
        u32 same = alike(digit), below = same & ((1u << lane()) - 1);
        int counter = warp() * buckets + (int)digit;
        u32 place = valid ? next.get(counter) + (u32)ones(below) : 0;
        sync_warp();
        if (valid && below == 0) next.set(counter, place + (u32)ones(same));
        sync_warp();
        if (valid) {
            span<u32>(a.order, a.items).set(place, item);
            if (a.inverse != 0) span<u32>(a.inverse, a.items).set(item, place);
        }
    }
}

struct Offsets {
    u64 keys, order, offsets;
    i64 stride;
    u32 items, groups, most, reserved;
};

// Where each group starts among sorted items: how many have smaller keys. For more groups than one digit tells apart.
KERNEL(sort_offsets, Offsets, 256) {
    u32 g = (u32)block_x() * (u32)threads() + (u32)thread();
    if (g > a.groups) return;
    auto keys = span<u32>(a.keys, a.items == 0 ? 0 : (i64)(a.items - 1) * a.stride + 1);
    auto order = span<u32>(a.order, a.items);
    u32 from = 0, to = a.items;
    while (from < to && g < a.groups) {
        u32 middle = from + (to - from) / 2, key = keys.get((i64)order.get(middle) * a.stride);
        if ((key < a.most ? key : a.most) < g)
            from = middle + 1;
        else
            to = middle;
    }
    span<u32>(a.offsets, (i64)a.groups + 1).set(g, g == a.groups ? a.items : from);
}
