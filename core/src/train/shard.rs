//! Which rank owns which rows of the parameters.
//!
//! A unit is 128 rows of one parameter, or one vector: the rows of an FP8 block. The units of each group are dealt to
//! the ranks in order, cut where their elements come closest to equal parts. A rank can therefore quantize what it owns
//! to the same blocks as one rank alone would, and a row is never divided. Parts differ in length, and every rank knows
//! all of them.

use alloc::vec::Vec;
use core::ops::Range;

use crate::weights::Layout;

/// Rows of a unit.
const UNIT: usize = 128;

/// The parts of every group, by rank.
#[derive(Clone, Debug)]
pub struct Shards {
    /// Of each group, the element at which each rank's part ends.
    ends: Vec<Vec<usize>>,
    rank: usize,
    world: usize,
}

impl Shards {
    /// Deals the units of `layout` to `world` ranks, as `rank` sees it.
    pub fn new(layout: &Layout, rank: usize, world: usize) -> Self {
        let mut cuts: Vec<Vec<usize>> = layout.groups().iter().map(|_| Vec::new()).collect();
        for parameter in layout.parameters() {
            let (group, extent) = layout.extent(&parameter.slot);
            cuts[group].extend(extent.step_by((UNIT * parameter.slot.cols()).max(1)));
        }
        let deal = |(mut cuts, elements): (Vec<usize>, usize)| -> Vec<usize> {
            cuts.push(elements);
            cuts.sort_unstable();
            let nearest = |rank: usize| {
                let wanted = (elements as u128 * (rank as u128 + 1) / world as u128) as usize;
                let after = cuts.partition_point(|&cut| cut < wanted).min(cuts.len() - 1);
                let before = after.saturating_sub(1);
                if wanted - cuts[before].min(wanted) < cuts[after] - wanted { cuts[before] } else { cuts[after] }
            };
            (0..world).map(|rank| if rank + 1 == world { elements } else { nearest(rank) }).collect()
        };
        let groups = layout.groups().iter().map(|group| group.elements());
        Self { ends: cuts.into_iter().zip(groups).map(deal).collect(), rank, world }
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    pub fn world(&self) -> usize {
        self.world
    }

    /// The elements of a group that `rank` owns.
    pub fn of(&self, group: usize, rank: usize) -> Range<usize> {
        let ends = &self.ends[group];
        rank.checked_sub(1).map_or(0, |before| ends[before])..ends[rank]
    }

    /// The elements of a group that this rank owns.
    pub fn own(&self, group: usize) -> Range<usize> {
        self.of(group, self.rank)
    }

    /// The elements of every group that this rank owns.
    pub fn all_own(&self) -> Vec<Range<usize>> {
        (0..self.ends.len()).map(|group| self.own(group)).collect()
    }

    /// How many elements of a group each rank owns.
    pub fn lengths(&self, group: usize) -> Vec<usize> {
        (0..self.world).map(|rank| self.of(group, rank).len()).collect()
    }
}

/// Rows of a group that lie one under the other: a matrix, or a vector, which is one row.
#[derive(Clone, Debug)]
pub(super) struct Band {
    pub group: usize,
    /// Elements from the start of the group.
    pub elements: Range<usize>,
    pub cols: usize,
}

impl Band {
    /// All rows of a model, group by group in the order of their elements.
    pub fn all(layout: &Layout) -> Vec<Self> {
        let vectors = layout.parameters().iter().filter(|p| !p.is_matrix()).map(|p| &p.slot);
        let mut bands: Vec<Self> = vectors
            .chain(layout.weights())
            .map(|slot| {
                let (group, elements) = layout.extent(slot);
                Self { group, elements, cols: slot.cols().max(1) }
            })
            .collect();
        bands.sort_by_key(|band| (band.group, band.elements.start));
        bands
    }

    /// The rows of the band that lie in `range` of its group, in elements of the group.
    pub fn within(&self, range: &Range<usize>) -> Range<usize> {
        let start = range.start.clamp(self.elements.start, self.elements.end);
        start..range.end.clamp(start, self.elements.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use crate::model::Architecture;

    #[test]
    fn every_row_has_one_owner_and_blocks_stay_whole() {
        let config = ModelConfig { vocab_size: 1000, hidden_size: 192, ..ModelConfig::tiny() };
        let layout = Architecture::new(&config).layout().clone();
        for world in [1, 2, 3, 4, 7, 8, 500] {
            let shards = Shards::new(&layout, world - 1, world);
            for (group, extent) in layout.groups().iter().enumerate() {
                let parts: Vec<_> = (0..world).map(|rank| shards.of(group, rank)).collect();
                assert_eq!((parts[0].start, parts[world - 1].end), (0, extent.elements()));
                assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].start <= pair[0].end));
                assert_eq!(shards.lengths(group).iter().sum::<usize>(), extent.elements());
            }
            for parameter in layout.parameters() {
                let (group, extent) = layout.extent(&parameter.slot);
                let block = UNIT * parameter.slot.cols();
                for end in (0..world).map(|rank| shards.of(group, rank).end).filter(|end| extent.contains(end)) {
                    assert_eq!((end - extent.start) % block, 0, "{} in {world}", parameter.name);
                }
            }
        }
    }

    #[test]
    fn parts_are_as_equal_as_units_allow() {
        let config = ModelConfig { vocab_size: 32_000, hidden_size: 256, ..ModelConfig::tiny() };
        let layout = Architecture::new(&config).layout().clone();
        let shards = Shards::new(&layout, 0, 4);
        for (group, extent) in layout.groups().iter().enumerate() {
            let units = layout.parameters().iter().filter(|p| p.slot.group() == group);
            let largest = units.map(|p| p.slot.cols() * p.slot.rows().min(UNIT)).max().unwrap();
            let longest = shards.lengths(group).into_iter().max().unwrap();
            assert!(longest <= extent.elements() / 4 + largest, "{longest} of {}", extent.elements());
        }
    }

    #[test]
    fn bands_are_all_rows_in_order() {
        let layout = Architecture::new(&ModelConfig::tiny()).layout().clone();
        let bands = Band::all(&layout);
        let in_order = |pair: &[Band]| pair[0].group < pair[1].group || pair[0].elements.end <= pair[1].elements.start;
        assert!(bands.windows(2).all(in_order));
        let elements: usize = layout.parameters().iter().map(|p| p.elements()).sum();
        assert_eq!(bands.iter().map(|band| band.elements.len()).sum::<usize>(), elements);
    }
}
