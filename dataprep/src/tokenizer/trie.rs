//! A table of texts in which the longest one that another text begins with is found in a step a byte.

/// A place that no text reaches, and no token.
const NONE: u32 = u32::MAX;
/// Places whose numbers differ in the lowest byte.
const BLOCK: usize = 256;
/// Blocks that are looked through for places, at most.
const OPEN: usize = 16;

/// The nodes are in one table: a node's child for a byte is at the node's base, with the byte in its lowest bits
/// exclusive or (Aoe, *An Efficient Digital Search Algorithm by Using a Double-Array Structure*, 1989).
#[derive(Debug, Default)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    parent: u32,
    base: u32,
    token: u32,
}

const FREE: Node = Node { parent: NONE, base: 0, token: NONE };

impl Trie {
    /// Of different texts, sorted, each with its token.
    pub(super) fn new(texts: &[(Vec<u8>, u32)]) -> Self {
        // The root is at 0, which no node may take as a child; the root's own children are in the next block.
        let mut trie = Self { nodes: vec![FREE; BLOCK] };
        trie.nodes[0].parent = 0;
        let mut open = Vec::new();
        let mut left = vec![(0_usize, 0, texts)];
        while let Some((node, depth, mut texts)) = left.pop() {
            if let Some(((text, token), rest)) = texts.split_first()
                && text.len() == depth
            {
                trie.nodes[node].token = *token;
                texts = rest;
            }
            let children: Vec<_> = texts.chunk_by(|a, b| a.0[depth] == b.0[depth]).collect();
            if children.is_empty() {
                // No child can be here: the root's block has only the root.
                continue;
            }
            let bytes: Vec<usize> = children.iter().map(|texts| usize::from(texts[0].0[depth])).collect();
            let base = trie.base(&bytes, &mut open);
            trie.nodes[node].base = base as u32;
            for (byte, texts) in bytes.into_iter().zip(children) {
                trie.nodes[base ^ byte] = Node { parent: node as u32, ..FREE };
                left.push((base ^ byte, depth + 1, texts));
            }
        }
        trie
    }

    /// A base at which places are free for all these bytes.
    fn base(&mut self, bytes: &[usize], open: &mut Vec<usize>) -> usize {
        let free = |nodes: &[Node], at: usize| nodes[at].parent == NONE;
        for (i, &block) in open.iter().enumerate().rev() {
            let places = block..block + BLOCK;
            let mut bases = places.clone().filter(|&at| free(&self.nodes, at)).map(|at| at ^ bytes[0]);
            if let Some(base) = bases.find(|base| bytes.iter().all(|byte| free(&self.nodes, base ^ byte))) {
                let few = places.filter(|&at| free(&self.nodes, at)).count() <= bytes.len() + 2;
                if few {
                    open.remove(i);
                }
                return base;
            }
        }
        let block = self.nodes.len();
        self.nodes.resize(block + BLOCK, FREE);
        if open.len() == OPEN {
            open.remove(0);
        }
        open.push(block);
        block
    }

    /// The longest of the texts that `text` begins with: its token.
    #[inline]
    pub(super) fn longest(&self, text: &[u8]) -> Option<u32> {
        let (mut at, mut token) = (0, NONE);
        for &byte in text {
            let child = self.nodes[at as usize].base ^ u32::from(byte);
            let node = self.nodes[child as usize];
            if node.parent != at {
                break;
            }
            at = child;
            if node.token != NONE {
                token = node.token;
            }
        }
        (token != NONE).then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn the_longest_text_is_found(
            texts in prop::collection::btree_set("[a-c\u{e9}]{1,5}|\\PC{1,3}", 0..60),
            text in "([a-c\u{e9}]|\\PC){0,8}",
        ) {
            let longest = texts.iter().filter(|known| text.starts_with(*known)).max_by_key(|known| known.len());
            let numbered: Vec<_> = texts.iter().zip(0..).map(|(text, id)| (text.as_bytes().to_vec(), id)).collect();
            let trie = Trie::new(&numbered);
            let found = trie.longest(text.as_bytes()).and_then(|id| texts.iter().nth(id as usize));
            prop_assert_eq!(found, longest);
            let all: BTreeSet<_> = numbered.iter().filter_map(|(text, _)| trie.longest(text)).collect();
            prop_assert_eq!(all.len(), texts.len());
        }
    }
}
