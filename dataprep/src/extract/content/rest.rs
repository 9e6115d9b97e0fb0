//! Leaves out of a part of a page what is not main text by its names, or consists of links.

use super::super::density::Density;
use super::super::marks;
use super::super::page::{Page, spaced, spaced_length};
use super::super::tree::{Id, NONE, Tag, Tags};
use super::kinds::{HEADINGS, LISTS, QUOTES};

impl Page<'_> {
    /// Leaves out of a part of the page what is not main text by its names, or consists of links.
    pub(super) fn leave_out_rest(&mut self, top: Id) {
        let before = spaced_length(self.tree, top);
        let kept = |page: &Self| {
            let mut left = 0;
            let mut id = page.tree.following(top, top);
            while id != NONE {
                let out = page.tree.is_element(id) && page.marks(id) & marks::BOILERPLATE != 0;
                left += spaced(page.tree, id);
                id = if out { page.tree.following_outside(id, top) } else { page.tree.following(id, top) };
            }
            left
        };
        // A rule that leaves next to nothing is wrong about this page.
        if kept(self) > before / 7 {
            self.prune(top, marks::BOILERPLATE);
        }
        self.prune(top, marks::CAPTION | marks::TEASER | marks::DOUBTFUL);
        for _ in 0..2 {
            self.drop_links(top, Tags::of(&[Tag::Div]));
            self.drop_links(top, LISTS);
            self.drop_links(top, Tags::of(&[Tag::P]));
        }
        let density = Density::of(self.tree, top);
        for table in self.tree.tagged(top, Tags::of(&[Tag::Table])).into_iter().rev() {
            if density.is_table_of_links(table) {
                self.tree.remove_with_tail(table);
            }
        }
        let body = self.body_of(top);
        let direct: Vec<Id> = self.tree.element_children(body).collect();
        for &id in direct.iter().rev() {
            if !HEADINGS.has(self.tree.tag(id)) {
                break;
            }
            self.tree.remove_with_tail(id);
        }
        self.drop_links(top, HEADINGS);
        self.drop_links(top, QUOTES);
    }

    /// The body below a copy of the root; a part of a page is its own.
    fn body_of(&self, top: Id) -> Id {
        let child = |id, tag| self.tree.element_children(id).find(|&child| self.tree.tag(child) == tag);
        if self.tree.tag(top) != Tag::Document {
            return top;
        }
        child(top, Tag::Html).and_then(|html| child(html, Tag::Body)).unwrap_or(top)
    }

    /// Takes out the elements with these tags that consist of links.
    fn drop_links(&mut self, top: Id, tags: Tags) {
        let elements = self.tree.tagged(top, tags);
        if elements.is_empty() {
            return;
        }
        let density = Density::of(self.tree, top);
        for id in elements.into_iter().rev() {
            if density.is_links(self.tree, id) {
                self.tree.remove_with_tail(id);
            }
        }
    }
}
