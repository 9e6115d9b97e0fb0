//! Finds the main text in a page's tree, by trafilatura's published method with precision first.
//!
//! Names of elements and of their classes say where the main text may be and what is in its way; what consists of
//! links is taken out; paragraphs, headings, lists, quotes and tables are kept. Where that finds much less than
//! [`super::fallback`] does, the latter counts. The tree is parsed once: candidates are copied within it, and what is
//! found is moved out.

mod kinds;
mod output;
mod rest;
mod settle;
mod take;

use super::fallback;
use super::marks;
use super::page::{FEW, Page};
use super::tree::{Id, ROOT, Tag, Tags, Tree};
use kinds::{ANYWHERE, HOLDS_LINKS, QUOTES, WANTED};
use output::Output;

/// The main text of a page: an element of its tree that has nothing else.
pub(super) fn find(tree: &mut Tree) -> Id {
    let mut page = Page::new(tree);
    page.prune(ROOT, marks::COMMENTS);
    // What follows takes the tree apart, and the fallback needs the whole.
    let whole = page.tree.copy(ROOT);
    page.clean(ROOT);
    page.keep_links_that_matter(ROOT);
    page.mark_code(ROOT);
    let found = page.main_text();
    fallback::compare(&mut page, whole, found)
}

impl Page<'_> {
    fn keep_links_that_matter(&mut self, top: Id) {
        for id in self.tree.tagged(top, Tags::of(&[Tag::A])) {
            if !self.tree.is_inside(id, HOLDS_LINKS) {
                self.tree.unwrap(id);
            }
        }
    }

    /// Quotes that hold code become code.
    fn mark_code(&mut self, top: Id) {
        for id in self.tree.tagged(top, QUOTES) {
            let span = |id: Option<Id>| id.is_some_and(|id| self.tree.tag(id) == Tag::Span);
            let one_span = self.tree.tag(id) == Tag::Pre
                && span(self.tree.element_children(id).next())
                && self.tree.element_children(id).nth(1).is_none();
            let coloured = |id| self.tree.tag(id) == Tag::Span && self.marks(id) & marks::COLOURED != 0;
            if one_span || self.tree.below(id).any(coloured) {
                self.tree.set_tag(id, Tag::Code);
            }
        }
    }

    /// The text of the first part of the page that promises main text and has some, or of the paragraphs elsewhere.
    fn main_text(&mut self) -> Id {
        let mut wanted = WANTED;
        let paragraphs = self.tree.tagged(ROOT, Tags::of(&[Tag::P]));
        let in_paragraphs: usize = paragraphs.iter().map(|&id| self.tree.all_text(id).chars().count()).sum();
        let mut out = Output::new(self.tree);
        for mark in marks::CONTENT {
            let promising = |&id: &Id| self.tree.is_element(id) && self.marks(id) & mark != 0;
            let Some(part) = self.tree.below(ROOT).find(promising) else {
                continue;
            };
            let part = self.tree.copy(part);
            self.leave_out_rest(part);
            if self.tree.element_children(part).next().is_none() {
                continue;
            }
            if in_paragraphs < FEW {
                wanted = wanted.with(Tag::Div);
            }
            for id in self.tree.tagged(part, Tags::of(&[Tag::A, Tag::Span])) {
                self.tree.unwrap(id);
            }
            let before = out.parts.len();
            let elements = self.tree.elements(part);
            if elements.iter().all(|&id| self.tree.tag(id) == Tag::Br) {
                // All lines of one long paragraph.
                self.tree.set_tag(part, Tag::P);
                self.take_paragraph(part, wanted, out.top);
                if out.weight(self.tree) >= FEW {
                    break;
                }
                continue;
            }
            for id in elements {
                self.take(id, wanted, &mut out);
            }
            out.drop_last_headings(self.tree);
            if out.parts.len() > before + 1 {
                break;
            }
        }
        if out.weight(self.tree) < FEW {
            out = Output::new(self.tree);
            let all = self.tree.copy(ROOT);
            self.leave_out_rest(all);
            for id in self.tree.tagged(all, Tags::of(&[Tag::A, Tag::Span])) {
                self.tree.unwrap(id);
            }
            for id in self.tree.tagged(all, ANYWHERE) {
                if self.tree.tag(id) != Tag::Div || self.marks(id) & marks::CODE_BOX != 0 {
                    self.take(id, wanted, &mut out);
                }
            }
        }
        for id in self.tree.tagged(out.top, Tags::of(&[Tag::Done])) {
            self.tree.remove_with_tail(id);
        }
        for id in self.tree.tagged(out.top, Tags::of(&[Tag::Div])) {
            self.tree.unwrap(id);
        }
        out.top
    }
}
