//! Connected components of graphs that do not fit in memory, by alternating large-star and small-star rounds.
//!
//! The alternating algorithm of Kiveris et al., *Connected Components in MapReduce and Beyond*, 2014: *large-star*
//! links every larger neighbour of a node to the smallest node near it, *small-star* every smaller one, until nothing
//! changes. Then every component is a star around its smallest node. Each step is one external sort and one pass, in
//! which no more than one edge is held at a time; the number of rounds grows with the logarithm of the longest path.

use super::records::{Kind, RecordFile, RecordWriter};
use super::sort::{Sorted, Sorter};
use crate::error::Result;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

const EDGES: Kind = *b"star set";
const BUFFER: usize = 1 << 16;

/// The stars of the graph with these edges: `[node, smallest of its component]` for every node but the smallest, in
/// order. `folder` is scratch, `memory` bounds what sorting takes. Also returns the rounds that were needed.
pub(super) fn stars(
    edges: impl Iterator<Item = Result<[u64; 2]>>,
    folder: &Path,
    memory: usize,
) -> Result<(RecordFile<2>, usize)> {
    let mut round = Round { folder, memory, number: 0 };
    let (mut file, mut digest) = round.large_then_small(edges)?;
    loop {
        let (next, next_digest) = round.large_then_small(file.section(0, BUFFER)?)?;
        file = next;
        if next_digest == digest {
            return Ok((file, round.number));
        }
        digest = next_digest;
    }
}

struct Round<'a> {
    folder: &'a Path,
    memory: usize,
    number: usize,
}

impl Round<'_> {
    /// One round. The edges after it as `[larger, smaller]`, in order and without repeats, and a digest of them.
    fn large_then_small(&mut self, edges: impl Iterator<Item = Result<[u64; 2]>>) -> Result<(RecordFile<2>, [u64; 2])> {
        let mut both = self.sorter("a")?;
        for edge in edges {
            let [a, b] = edge?;
            if a != b {
                both.push([a, b])?;
                both.push([b, a])?;
            }
        }
        let mut downward = self.sorter("b")?;
        let mut centre = 0;
        each_by_node(both.finish()?, |first, [node, neighbour]| {
            if first {
                centre = node.min(neighbour);
            }
            if neighbour > node { downward.push([neighbour, centre]) } else { Ok(()) }
        })?;
        let mut linked = self.sorter("c")?;
        each_by_node(downward.finish()?, |first, [node, neighbour]| {
            if first {
                centre = neighbour;
                linked.push([node, centre])
            } else {
                linked.push([neighbour, centre])
            }
        })?;
        self.number += 1;
        let path = self.folder.join(format!("round-{}", self.number % 2));
        self.write(&path, linked.finish()?)
    }

    fn write(&self, path: &Path, edges: Sorted<2>) -> Result<(RecordFile<2>, [u64; 2])> {
        let mut out = RecordWriter::scratch(path, EDGES)?;
        let mut digest = [0_u64; 2];
        each_by_node(edges, |_, edge| {
            // A sum does not depend on the order, and tells sets apart as well as the hash does.
            digest[0] += 1;
            digest[1] = digest[1].wrapping_add(xxh3_64(&edge.map(u64::to_le_bytes).concat()));
            out.push(&edge)
        })?;
        out.end_section()?;
        out.publish()?;
        Ok((RecordFile::open(path, EDGES, None)?, digest))
    }

    /// Each of a round's sorters has a folder and a third of the memory: two may be at work at a time, one reading, one
    /// writing.
    fn sorter(&self, name: &str) -> Result<Sorter<2>> {
        let folder: PathBuf = self.folder.join(name);
        super::sort::scratch(&folder)?;
        Ok(Sorter::new(&folder, self.memory / 3))
    }
}

/// Calls `each` with every different edge, and with whether it is the first of its first node.
fn each_by_node(edges: Sorted<2>, mut each: impl FnMut(bool, [u64; 2]) -> Result<()>) -> Result<()> {
    let mut last = None;
    for edge in edges {
        let edge = edge?;
        if last != Some(edge) {
            each(last.is_none_or(|[node, _]| node != edge[0]), edge)?;
        }
        last = Some(edge);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::union_find::naive;
    use super::*;
    use proptest::prelude::*;

    fn found(edges: &[[u64; 2]], memory: usize) -> (Vec<[u64; 2]>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let (file, rounds) = stars(edges.iter().map(|edge| Ok(*edge)), folder.path(), memory).unwrap();
        (file.section(0, 64).unwrap().collect::<Result<_>>().unwrap(), rounds)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn agrees_with_the_definition(
            edges in proptest::collection::vec([0u64..30, 0u64..30], 0..40),
            memory in prop_oneof![Just(300usize), Just(1 << 20)],
        ) {
            prop_assert_eq!(found(&edges, memory).0, naive(&edges));
        }
    }

    #[test]
    fn a_long_path_takes_few_rounds() {
        let path: Vec<[u64; 2]> = (0..2000_u64).map(|i| [i * 7919 % 2001, (i + 1) * 7919 % 2001]).collect();
        let (stars, rounds) = found(&path, 1 << 20);
        assert_eq!(stars, (1..=2000).map(|node| [node, 0]).collect::<Vec<_>>());
        assert!(rounds <= 20, "{rounds} rounds");
    }
}
