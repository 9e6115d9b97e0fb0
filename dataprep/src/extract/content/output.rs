//! The main text as it grows.

use super::super::tree::{Id, NONE, Tag, Tree};

/// What was found.
pub(super) struct Output {
    pub(super) top: Id,
    /// The first node of each part, and whether it is a heading.
    pub(super) parts: Vec<(Id, bool)>,
}

impl Output {
    pub(super) fn new(tree: &mut Tree) -> Self {
        Self { top: tree.new_element(Tag::Body), parts: Vec::new() }
    }

    /// Headings at the end have nothing below them.
    pub(super) fn drop_last_headings(&mut self, tree: &mut Tree) {
        while let Some(&(first, true)) = self.parts.last() {
            self.parts.pop();
            let mut id = first;
            while id != NONE {
                let next = tree.node(id).next;
                tree.detach(id);
                id = next;
            }
        }
    }

    /// How much was found, about as many characters as it takes in HTML.
    pub(super) fn weight(&self, tree: &Tree) -> usize {
        tree.below(self.top).map(|id| if tree.is_text(id) { tree.text_of(id).chars().count() } else { 8 }).sum()
    }
}
