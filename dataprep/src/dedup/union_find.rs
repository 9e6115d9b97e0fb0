//! Connected components in memory, by union-find.

/// Disjoint sets of numbered documents. Each is known by its smallest number, whatever the order of unions.
pub struct UnionFind {
    /// All documents, in order.
    nodes: Vec<u64>,
    /// Index of a node of the same set with a smaller number; of itself for the smallest.
    parents: Vec<usize>,
}

impl UnionFind {
    /// Sets of one document each.
    pub fn new(mut nodes: Vec<u64>) -> Self {
        nodes.sort_unstable();
        nodes.dedup();
        let parents = (0..nodes.len()).collect();
        Self { nodes, parents }
    }

    /// Joins the sets of two documents; nothing happens if one is unknown.
    pub fn union(&mut self, a: u64, b: u64) {
        let (Ok(a), Ok(b)) = (self.nodes.binary_search(&a), self.nodes.binary_search(&b)) else { return };
        let (a, b) = (self.find(a), self.find(b));
        self.parents[a.max(b)] = a.min(b);
    }

    /// The smallest document in the set of one.
    pub fn smallest(&mut self, document: u64) -> Option<u64> {
        let at = self.nodes.binary_search(&document).ok()?;
        let root = self.find(at);
        Some(self.nodes[root])
    }

    /// Stars of the sets: every document that is not the smallest of its set, in order, with the smallest.
    pub fn into_stars(mut self) -> impl Iterator<Item = [u64; 2]> {
        (0..self.nodes.len()).filter_map(move |at| {
            let root = self.find(at);
            (root != at).then(|| [self.nodes[at], self.nodes[root]])
        })
    }

    fn find(&mut self, mut at: usize) -> usize {
        while self.parents[at] != at {
            self.parents[at] = self.parents[self.parents[at]];
            at = self.parents[at];
        }
        at
    }
}

/// Components by repeated relabelling: the definition, for tests.
#[cfg(test)]
pub(super) fn naive(edges: &[[u64; 2]]) -> Vec<[u64; 2]> {
    let mut labels: std::collections::BTreeMap<u64, u64> = edges.iter().flatten().map(|node| (*node, *node)).collect();
    loop {
        let mut changed = false;
        for [a, b] in edges {
            let least = labels[a].min(labels[b]);
            for node in [a, b] {
                changed |= labels.insert(*node, least) != Some(least);
            }
        }
        if !changed {
            return labels
                .into_iter()
                .filter(|(node, label)| node != label)
                .map(|(node, label)| [node, label])
                .collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_the_definition(edges in proptest::collection::vec([0u64..40, 0u64..40], 0..60)) {
            let mut sets = UnionFind::new(edges.iter().flatten().copied().collect());
            edges.iter().for_each(|[a, b]| sets.union(*a, *b));
            let expected = naive(&edges);
            for [node, label] in &expected {
                prop_assert_eq!(sets.smallest(*node), Some(*label));
            }
            prop_assert_eq!(sets.smallest(1000), None);
            prop_assert_eq!(sets.into_stars().collect::<Vec<_>>(), expected);
        }
    }
}
