//! Top-k and the counting sort.

use fathom_core::device::{SortByKey, TopK};
use fathom_core::routing;

use crate::Cpu;
use crate::error::CpuError;
use crate::mat::{self, check_index};
use crate::memory::Buffer;
use crate::par::{Tiles, rows_per_block};

impl Cpu {
    pub(crate) fn top_k(&self, call: TopK<'_, Buffer>) -> Result<(), CpuError> {
        let (x, index) = (mat::read::<f32>("top_k", &call.x)?, mat::write::<u32>("top_k", call.index)?);
        let (cols, k) = (x.cols(), index.cols());
        let tiles = Tiles::new(index, rows_per_block(cols * k.max(1)), k);
        self.for_each_with(x.rows() * cols * k, cols, tiles, |_, mut index, scratch| {
            index.for_rows(|r, index| {
                let copy = &mut scratch[..cols];
                copy.copy_from_slice(x.row(r));
                routing::top_k(copy, index);
            });
        })
    }

    pub(crate) fn sort_by_key(&self, call: SortByKey<'_, Buffer>) -> Result<(), CpuError> {
        const OP: &str = "sort_by_key";
        let keys = mat::read::<u32>(OP, &call.keys)?;
        let buckets = call.buckets;
        check_index(OP, &keys, buckets)?;
        let keys = keys.as_slice();
        let order = mat::write::<u32>(OP, call.order)?.into_slice();
        let inverse = mat::write::<u32>(OP, call.inverse)?.into_slice();
        let offsets = mat::write::<u32>(OP, call.offsets)?.into_slice();
        // Counts move through `offsets`: first one place up, so that placing an item leaves the end of its bucket, the
        // start of the next.
        offsets.fill(0);
        for &key in keys {
            offsets[(key as usize + 2).min(buckets)] += u32::from(key as usize + 2 <= buckets);
        }
        for g in 2..=buckets {
            offsets[g] += offsets[g - 1];
        }
        for (item, &key) in (0u32..).zip(keys) {
            let place = &mut offsets[key as usize + 1];
            order[*place as usize] = item;
            inverse[item as usize] = *place;
            *place += 1;
        }
        Ok(())
    }
}
