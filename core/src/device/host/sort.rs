//! Top-k and the counting sort.

use super::matrix::{checked, indices, read, write_indices};
use super::{Host, HostBuffer, Result};
use crate::device::call::{SortByKey, TopK};
use crate::routing;

impl Host {
    pub(super) fn top_k(&self, mut call: TopK<'_, HostBuffer>) -> Result {
        let k = call.index.cols();
        let mut x = read(&call.x);
        let mut index = alloc::vec![0; x.rows * k];
        if k > 0 {
            for (r, best) in index.chunks_exact_mut(k).enumerate() {
                routing::top_k(x.row_mut(r), best);
            }
        }
        write_indices(&mut call.index, &index);
        Ok(())
    }

    pub(super) fn sort_by_key(&self, mut call: SortByKey<'_, HostBuffer>) -> Result {
        let keys = indices(&call.keys);
        let mut offsets = alloc::vec![0u32; call.buckets + 1];
        for &key in &keys {
            offsets[checked("sort_by_key", key, call.buckets)? + 1] += 1;
        }
        for g in 0..call.buckets {
            offsets[g + 1] += offsets[g];
        }
        let mut next = offsets.clone();
        let (mut order, mut inverse) = (alloc::vec![0u32; keys.len()], alloc::vec![0u32; keys.len()]);
        for (item, &key) in (0u32..).zip(&keys) {
            let place = &mut next[key as usize];
            order[*place as usize] = item;
            inverse[item as usize] = *place;
            *place += 1;
        }
        write_indices(&mut call.order, &order);
        write_indices(&mut call.inverse, &inverse);
        write_indices(&mut call.offsets, &offsets);
        Ok(())
    }
}
