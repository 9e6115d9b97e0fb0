//! Top-k of rows, and a stable counting sort of small keys.

use bytemuck::{Pod, Zeroable};
use fathom_core::device::{Call, SortByKey, TopK};

use super::site;
use crate::Cuda;
use crate::error::CudaError;
use crate::launch::{Mat, mat, mat_mut, unsupported};
use crate::memory::Buffer;
use crate::source::SORT;

const THREADS: u32 = 256;
/// Longest row that one warp handles.
const SHORT: usize = 2048;
/// Number of digit values per pass of a sort, each with a counter in shared memory.
const DIGIT_BITS: u32 = 10;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct TopKArgs {
    x: Mat,
    index: Mat,
    wide: u32,
    reserved: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SortArgs {
    keys: u64,
    from: u64,
    order: u64,
    inverse: u64,
    counts: u64,
    totals: u64,
    offsets: u64,
    fault: u64,
    stride: i64,
    items: u32,
    chunk: u32,
    chunks: u32,
    buckets: u32,
    limit: u32,
    most: u32,
    shift: u32,
    mask: u32,
    groups: u32,
    site: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct OffsetsArgs {
    keys: u64,
    order: u64,
    offsets: u64,
    stride: i64,
    items: u32,
    groups: u32,
    most: u32,
    reserved: u32,
}

/// Keys on the device, by which items are sorted.
pub(super) struct Keys {
    /// The kernel that errors name.
    pub(super) op: &'static str,
    /// Address of the first key.
    pub(super) address: u64,
    /// Stride in keys.
    pub(super) stride: usize,
    /// Number of keys.
    pub(super) items: usize,
    /// Bound that keys must be below; a larger key is reported and counts as `most`.
    pub(super) limit: usize,
    /// The largest key.
    pub(super) most: usize,
}

impl Cuda {
    pub(super) fn top_k(&self, call: TopK<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = TopK::<Buffer>::NAME;
        let (x, index) = (mat(OP, &call.x)?, mat_mut(OP, &call.index)?);
        if call.index.cols() == 0 {
            return Ok(());
        }
        let args = TopKArgs { x, index, wide: x.is_aligned(16).into(), reserved: 0 };
        let rows = call.x.rows();
        if call.x.cols() <= SHORT {
            return self.launch(SORT, "top_k_short", [rows.div_ceil(8), 1, 1], THREADS, 0, &args);
        }
        self.launch(SORT, "top_k_long", [rows, 1, 1], 512, 2 * 32 * 4, &args)
    }

    pub(super) fn sort_by_key(&self, call: SortByKey<'_, Buffer>) -> Result<(), CudaError> {
        const OP: &str = SortByKey::<Buffer>::NAME;
        let keys = Keys {
            op: OP,
            address: mat(OP, &call.keys)?.address(),
            stride: 1,
            items: call.keys.elements(),
            limit: call.buckets,
            most: call.buckets.saturating_sub(1),
        };
        let order = mat_mut(OP, &call.order)?.address();
        let inverse = mat_mut(OP, &call.inverse)?.address();
        self.sort(&keys, order, inverse, mat_mut(OP, &call.offsets)?.address(), call.buckets)
    }

    /// Writes the order of items by key to `order`; where an item is in it to `inverse`, and where each of `groups`
    /// keys starts to `offsets`, unless they are 0. One pass a digit of up to ten bits, three launches a pass.
    pub(super) fn sort(
        &self,
        keys: &Keys,
        order: u64,
        inverse: u64,
        offsets: u64,
        groups: usize,
    ) -> Result<(), CudaError> {
        let word = |n: usize| {
            let small = i32::try_from(n).is_ok();
            let refused =
                || unsupported(keys.op, format!("has {n} items or keys, more than 2^31 - 1, which does not work"));
            small.then_some(n as u32).ok_or_else(refused)
        };
        let (items, most, groups) = (word(keys.items)?, word(keys.most)?, word(groups)?);
        let bits = (u32::BITS - most.leading_zeros()).max(1);
        let passes = bits.div_ceil(DIGIT_BITS);
        let digit = bits.div_ceil(passes);
        // All keys in one pass need no more counters than there are keys.
        let buckets = if passes == 1 { most + 1 } else { 1 << digit };
        // Chunks that fill the device, and not so many that their counts are more than the items.
        let chunk = if items <= 1 << 18 { 1024 } else { 4096 };
        let chunks = items.div_ceil(chunk).max(1);
        let counts = self.scratch(buckets as usize * chunks as usize * 4)?;
        let totals = self.scratch(buckets as usize * 4)?;
        let other = self.scratch(if passes > 1 { keys.items * 4 } else { 0 })?;
        let mut from = 0;
        for pass in 0..passes {
            let last = pass + 1 == passes;
            // Passes write in turns to the two orders, the last to the one asked for.
            let to = if (passes - 1 - pass).is_multiple_of(2) { order } else { other.address() };
            let args = SortArgs {
                keys: keys.address,
                from,
                order: to,
                inverse: if last { inverse } else { 0 },
                counts: counts.address(),
                totals: totals.address(),
                offsets: if passes == 1 { offsets } else { 0 },
                fault: if pass == 0 { self.report() } else { 0 },
                stride: keys.stride as i64,
                items,
                chunk,
                chunks,
                buckets,
                limit: keys.limit.min(u32::MAX as usize) as u32,
                most,
                shift: pass * digit,
                mask: if passes == 1 { u32::MAX } else { buckets - 1 },
                groups,
                site: site(keys.op),
            };
            let (blocks, counters) = (chunks as usize, buckets as usize * 4);
            self.launch(SORT, "sort_count", [blocks, 1, 1], THREADS, counters, &args)?;
            self.launch(SORT, "sort_scan", [(buckets as usize).div_ceil(8), 1, 1], THREADS, 0, &args)?;
            // Counters of eight warps, and where digits start.
            let shared = (8 * counters).next_multiple_of(16) + counters;
            self.launch(SORT, "sort_scatter", [blocks, 1, 1], THREADS, shared, &args)?;
            from = to;
        }
        if passes == 1 || offsets == 0 {
            return Ok(());
        }
        let args = OffsetsArgs {
            keys: keys.address,
            order,
            offsets,
            stride: keys.stride as i64,
            items,
            groups,
            most,
            reserved: 0,
        };
        self.launch(SORT, "sort_offsets", [(groups as usize + 1).div_ceil(256), 1, 1], THREADS, 0, &args)
    }
}
