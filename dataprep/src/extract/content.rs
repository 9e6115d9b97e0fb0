//! Finds the main text in a page's tree, by trafilatura's published method with precision first.
//!
//! Names of elements and of their classes say where the main text may be and what is in its way; what consists of
//! links is taken out; paragraphs, headings, lists, quotes and tables are kept. Where that finds much less than
//! [`super::fallback`] does, the latter counts. The tree is parsed once: candidates are copied within it, and what is
//! found is moved out.

use super::density::Density;
use super::fallback;
use super::marks;
use super::page::{FEW, Page, is_blank, spaced, spaced_length, trim};
use super::tree::{Id, NONE, ROOT, Tag, Tags, Tree, VOID};
use std::borrow::Cow;

/// Levels of lists in lists that are looked at.
const LIST_LEVELS: usize = 100;

const LISTS: Tags = Tags::of(&[Tag::Ul, Tag::Ol, Tag::Dl]);
const ITEMS: Tags = Tags::of(&[Tag::Li, Tag::Dt, Tag::Dd]);
const QUOTES: Tags = Tags::of(&[Tag::Blockquote, Tag::Pre, Tag::Q]);
const HEADINGS: Tags = Tags::of(&[Tag::H1, Tag::H2, Tag::H3, Tag::H4, Tag::H5, Tag::H6, Tag::Summary]);
const BREAKS: Tags = Tags::of(&[Tag::Br, Tag::Hr]);
const CELLS: Tags = Tags::of(&[Tag::Td, Tag::Th]);
/// Formatted words that main text may have.
const WANTED_FORMATS: Tags = Tags::of(&[
    Tag::Em,
    Tag::I,
    Tag::B,
    Tag::Strong,
    Tag::U,
    Tag::Kbd,
    Tag::Samp,
    Tag::Tt,
    Tag::Var,
    Tag::Sub,
    Tag::Sup,
]);
const FORMATS: Tags = WANTED_FORMATS.with(Tag::Mark);
/// Elements that main text consists of.
const WANTED: Tags = Tags::of(&[Tag::Code, Tag::Del, Tag::S, Tag::Strike, Tag::P, Tag::Details, Tag::Table, Tag::Tr])
    .and(QUOTES)
    .and(HEADINGS)
    .and(WANTED_FORMATS)
    .and(BREAKS)
    .and(LISTS)
    .and(CELLS);
/// What may hold formatted words as they are; elsewhere these become a paragraph.
const HOLDS_FORMATS: Tags = CELLS.and(HEADINGS).and(FORMATS).and(ITEMS).and(QUOTES).with(Tag::P);
/// Elements in which links matter.
const HOLDS_LINKS: Tags = LISTS.and(Tags::of(&[Tag::Div, Tag::P, Tag::Table]));
/// Elements that are looked for where no part of the page promises main text.
const ANYWHERE: Tags = QUOTES.and(Tags::of(&[Tag::Code, Tag::P, Tag::Table, Tag::Div]));

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

    /// Leaves out of a part of the page what is not main text by its names, or consists of links.
    fn leave_out_rest(&mut self, top: Id) {
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

    /// Moves what an element has to say to `out`.
    fn take(&mut self, id: Id, wanted: Tags, out: &mut Output) {
        let tag = self.tree.tag(id);
        let before = self.tree.node(out.top).last;
        if tag == Tag::Done || self.tree.is_below(id, out.top) {
            return;
        }
        let top = out.top;
        if LISTS.has(tag) {
            self.take_list(id, top, 0);
        } else if QUOTES.has(tag) || tag == Tag::Code {
            self.take_quote(id, top);
        } else if HEADINGS.has(tag) {
            self.take_heading(id, top);
        } else if tag == Tag::P {
            self.take_paragraph(id, wanted, top);
        } else if BREAKS.has(tag) {
            self.take_line(id, top);
        } else if FORMATS.has(tag) {
            self.take_format(id, top);
        } else if tag == Tag::Table {
            self.take_table(id, wanted, top);
        } else {
            self.take_other(id, wanted, top);
        }
        let first = if before == NONE { self.tree.node(top).first } else { self.tree.node(before).next };
        if first != NONE {
            out.parts.push((first, HEADINGS.has(tag) && tag != Tag::Summary));
        }
    }

    /// Marks all below `id` as used.
    fn finish(&mut self, id: Id) {
        let mut next = self.tree.following(id, id);
        while next != NONE {
            if self.tree.is_element(next) {
                self.tree.set_tag(next, Tag::Done);
            }
            next = self.tree.following(next, id);
        }
    }

    /// Adds an element with what `id` has.
    fn move_into(&mut self, id: Id, tag: Tag, out: Id) -> Id {
        let new = self.add(tag, out);
        self.tree.move_children(id, new);
        new
    }

    fn add(&mut self, tag: Tag, out: Id) -> Id {
        let new = self.tree.new_element(tag);
        self.tree.append(out, new);
        new
    }

    fn add_text(&mut self, text: &str, out: Id) {
        let new = self.tree.new_text(text);
        self.tree.append(out, new);
    }

    /// Adds the words of an element's text and of the text behind it.
    fn add_words(&mut self, id: Id, out: Id) -> bool {
        let (text, tail) = (trim(&self.tree.head_text(id)).into_owned(), trim(&self.tree.tail_text(id)).into_owned());
        if text.is_empty() && tail.is_empty() {
            return false;
        }
        let both = !text.is_empty() && !tail.is_empty();
        self.add_text(&[text.as_str(), if both { " " } else { "" }, tail.as_str()].concat(), out);
        true
    }

    fn take_heading(&mut self, id: Id, out: Id) {
        let tag = if self.tree.tag(id) == Tag::Summary { Tag::B } else { self.tree.tag(id) };
        self.tree.set_tag(id, tag);
        let alone = self.tree.element_children(id).next().is_none();
        if (!alone || self.settle(id)) && has_words(self.tree, id) {
            self.move_into(id, tag, out);
        }
    }

    fn take_format(&mut self, id: Id, out: Id) {
        let alone = self.tree.element_children(id).next().is_none();
        if !self.settle(id) && alone {
            return;
        }
        let (tag, parent) = (self.tree.tag(id), self.tree.parent(id));
        let out = if HOLDS_FORMATS.has(self.tree.tag(parent)) { out } else { self.add(Tag::P, out) };
        self.move_into(id, tag, out);
        // What it was is empty now.
        self.tree.set_tag(id, Tag::Done);
    }

    fn take_list(&mut self, id: Id, out: Id, level: usize) {
        if level >= LIST_LEVELS {
            return;
        }
        let list = self.tree.new_element(self.tree.tag(id));
        let text = trim(&self.tree.head_text(id)).into_owned();
        if !text.is_empty() {
            let item = self.add(Tag::Li, list);
            self.add_text(&text, item);
        }
        for item in self.tree.elements(id) {
            let tag = self.tree.tag(item);
            if !ITEMS.has(tag) {
                continue;
            }
            let new = self.tree.new_element(tag);
            if self.tree.element_children(item).next().is_some() {
                self.take_item(item, new, level);
            } else if self.settle(item) {
                self.add_words(item, new);
            }
            if self.tree.node(new).first != NONE {
                self.tree.append(list, new);
            }
            self.tree.set_tag(item, Tag::Done);
        }
        self.tree.set_tag(id, Tag::Done);
        if self.tree.node(list).first != NONE {
            self.tree.append(out, list);
        }
    }

    /// The text of an item that has elements.
    fn take_item(&mut self, item: Id, out: Id, level: usize) {
        let text = self.tree.head_text(item).into_owned();
        self.add_text(&text, out);
        for id in self.tree.elements(item) {
            let tag = self.tree.tag(id);
            if tag == Tag::Done {
                continue;
            }
            if LISTS.has(tag) {
                self.take_list(id, out, level + 1);
            } else if self.prepare(id, false, false) {
                let text = self.tree.head_text(id).into_owned();
                if !text.is_empty() {
                    let new = self.add(tag, out);
                    self.add_text(&text, new);
                }
                let tail = trim(&self.tree.tail_text(id)).into_owned();
                if !tail.is_empty() {
                    self.add_text(&[" ", &tail].concat(), out);
                }
            }
            self.tree.set_tag(id, Tag::Done);
        }
        let tail = trim(&self.tree.tail_text(item)).into_owned();
        if !tail.is_empty() {
            self.add_text(&[" ", &tail].concat(), out);
        }
    }

    fn take_quote(&mut self, id: Id, out: Id) {
        let tag = self.tree.tag(id);
        if self.is_code(id) {
            return self.take_code(id, out);
        }
        for child in self.tree.elements(id) {
            self.settle(child);
        }
        if has_words(self.tree, id) {
            self.move_into(id, tag, out);
        } else {
            self.finish(id);
        }
    }

    fn is_code(&self, id: Id) -> bool {
        let mut children = self.tree.element_children(id);
        let only_code = children.next().is_some_and(|child| self.tree.tag(child) == Tag::Code);
        let highlighted = |id| id != NONE && self.marks(id) & marks::HIGHLIGHT != 0;
        self.tree.tag(id) == Tag::Code
            || self.tree.attribute(id, &html5ever::local_name!("lang")).is_some()
            || highlighted(self.tree.parent(id))
            || (only_code && children.next().is_none())
    }

    fn take_code(&mut self, id: Id, out: Id) {
        if has_words(self.tree, id) {
            let tag = if self.tree.tag(id) == Tag::Pre { Tag::Pre } else { Tag::Code };
            self.move_into(id, tag, out);
        }
    }

    fn take_line(&mut self, id: Id, out: Id) {
        let tail = trim(&self.tree.tail_text(id)).into_owned();
        if !tail.is_empty() && self.settle(id) {
            let new = self.add(Tag::P, out);
            self.add_text(&tail, new);
        }
    }

    fn take_other(&mut self, id: Id, wanted: Tags, out: Id) {
        let tag = self.tree.tag(id);
        if tag == Tag::Div && self.marks(id) & marks::CODE_BOX != 0 {
            return self.take_code(id, out);
        }
        if matches!(tag, Tag::Div | Tag::Details) && wanted.has(tag) && self.prepare(id, false, true) {
            let text = trim(&self.tree.head_text(id)).into_owned();
            if !text.is_empty() {
                let new = self.add(if tag == Tag::Div { Tag::P } else { tag }, out);
                self.add_text(&text, new);
            }
        }
    }

    fn take_paragraph(&mut self, id: Id, wanted: Tags, out: Id) {
        if self.tree.element_children(id).next().is_none() {
            if self.settle(id) {
                let text = trim(&self.tree.all_text(id)).into_owned();
                if !text.is_empty() {
                    let new = self.add(Tag::P, out);
                    self.add_text(&text, new);
                    self.add_tail(id, out);
                }
            }
            return;
        }
        let mut unwanted = Vec::new();
        for child in self.tree.elements(id) {
            let tag = self.tree.tag(child);
            if tag == Tag::Done {
                continue;
            }
            if !wanted.has(tag) {
                unwanted.push(child);
            } else if !self.prepare(child, false, true) {
                self.tree.set_tag(child, Tag::Done);
            } else if tag == Tag::P {
                let text = self.tree.head_text(child).into_owned();
                if !text.is_empty() && !self.tree.head_text(id).is_empty() {
                    self.tree.set_head_text(child, &[" ", &text].concat());
                }
                self.tree.unwrap(child);
            }
        }
        for id in unwanted.into_iter().rev() {
            self.tree.remove_with_tail(id);
        }
        for child in self.tree.elements(id).into_iter().rev() {
            if !VOID.has(self.tree.tag(child)) && is_blank(&self.tree.head_text(child)) {
                self.tree.unwrap(child);
            }
        }
        for line in self.tree.tagged(id, BREAKS).into_iter().rev() {
            if self.tree.tail_text(line).is_empty() {
                self.tree.detach(line);
            }
        }
        let text = !self.tree.head_text(id).is_empty();
        if text || self.tree.element_children(id).any(|child| self.tree.tag(child) != Tag::Done) {
            self.move_into(id, Tag::P, out);
            self.add_tail(id, out);
        }
    }

    /// Adds the text behind a paragraph, which belongs to none.
    fn add_tail(&mut self, id: Id, out: Id) {
        let tail = trim(&self.tree.tail_text(id)).into_owned();
        if !tail.is_empty() {
            self.add_text(&[" ", &tail].concat(), out);
        }
    }

    fn take_table(&mut self, id: Id, wanted: Tags, out: Id) {
        let wanted = wanted.with(Tag::Div);
        let table = self.tree.new_element(Tag::Table);
        let mut row = NONE;
        for part in self.tree.elements(id) {
            let tag = self.tree.tag(part);
            if !self.tree.is_below(part, id) {
                // It went with the cell that it was in.
                continue;
            }
            match tag {
                Tag::Done => continue,
                Tag::Tr => row = NONE,
                Tag::Td | Tag::Th => {
                    let cell = self.tree.new_element(tag);
                    self.take_cell(part, wanted, cell);
                    if self.tree.node(cell).first != NONE {
                        if row == NONE {
                            row = self.add(Tag::Tr, table);
                        }
                        self.tree.append(row, cell);
                    }
                }
                // A table in a table comes later, on its own.
                Tag::Table => break,
                _ => {}
            }
            self.tree.set_tag(part, Tag::Done);
        }
        if self.tree.node(table).first != NONE {
            self.tree.append(out, table);
        }
    }

    fn take_cell(&mut self, cell: Id, wanted: Tags, out: Id) {
        if self.tree.element_children(cell).next().is_none() {
            if self.settle(cell) {
                self.add_words(cell, out);
            }
            return;
        }
        let text = self.tree.head_text(cell).into_owned();
        if !text.is_empty() {
            self.add_text(&text, out);
        }
        self.tree.set_tag(cell, Tag::Done);
        let mut inner = Output { top: out, parts: Vec::new() };
        for id in self.tree.elements(cell) {
            let tag = self.tree.tag(id);
            if tag == Tag::Done || !self.tree.is_below(id, cell) {
                continue;
            }
            if CELLS.has(tag) || FORMATS.has(tag) {
                if self.prepare(id, true, false) {
                    let (text, tail) = (self.tree.head_text(id).into_owned(), self.tree.tail_text(id).into_owned());
                    if !text.is_empty() {
                        let new = self.add(tag, out);
                        self.add_text(&text, new);
                    }
                    if !tail.is_empty() {
                        self.add_text(&[" ", &tail].concat(), out);
                    }
                }
            } else {
                self.take(id, wanted, &mut inner);
            }
            self.tree.set_tag(id, Tag::Done);
        }
    }

    /// Brings an element's own text in order. Is there anything to say?
    fn prepare(&mut self, id: Id, lines_are_paragraphs: bool, keep_spaces: bool) -> bool {
        let tag = self.tree.tag(id);
        let childless = self.tree.element_children(id).next().is_none();
        let no_text = self.tree.head_text(id).is_empty();
        if tag == Tag::Done || (childless && no_text && self.tree.tail_text(id).is_empty()) {
            return false;
        }
        if !lines_are_paragraphs && BREAKS.has(tag) {
            return true;
        }
        if no_text && childless && !VOID.has(tag) {
            let tail = self.tree.tail_text(id).into_owned();
            self.tree.set_head_text(id, &tail);
            self.tree.set_tail_text(id, "");
        }
        if !keep_spaces {
            self.trim_texts(id);
        }
        let text = self.tree.head_text(id);
        !text.is_empty() || !is_noise(&self.tree.tail_text(id))
    }

    /// The same for an element that is taken as it is.
    fn settle(&mut self, id: Id) -> bool {
        let tag = self.tree.tag(id);
        let childless = self.tree.element_children(id).next().is_none();
        if tag == Tag::Done || (childless && self.tree.head_text(id).is_empty() && self.tree.tail_text(id).is_empty()) {
            return false;
        }
        self.trim_texts(id);
        if !VOID.has(tag) && self.tree.head_text(id).is_empty() {
            let tail = self.tree.tail_text(id).into_owned();
            self.tree.set_head_text(id, &tail);
            self.tree.set_tail_text(id, "");
        }
        let (text, tail) = (self.tree.head_text(id), self.tree.tail_text(id));
        (text.is_empty() && tail.is_empty()) || !is_noise(if text.is_empty() { &tail } else { &text })
    }

    fn trim_texts(&mut self, id: Id) {
        let trimmed = |text: Cow<'_, str>| match trim(&text) {
            Cow::Borrowed(same) if same.len() == text.len() => None,
            trimmed => Some(trimmed.into_owned()),
        };
        if let Some(text) = trimmed(self.tree.head_text(id)) {
            self.tree.set_head_text(id, &text);
        }
        if let Some(tail) = trimmed(self.tree.tail_text(id)) {
            self.tree.set_tail_text(id, &tail);
        }
    }
}

/// What was found.
struct Output {
    top: Id,
    /// The first node of each part, and whether it is a heading.
    parts: Vec<(Id, bool)>,
}

impl Output {
    fn new(tree: &mut Tree) -> Self {
        Self { top: tree.new_element(Tag::Body), parts: Vec::new() }
    }

    /// Headings at the end have nothing below them.
    fn drop_last_headings(&mut self, tree: &mut Tree) {
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
    fn weight(&self, tree: &Tree) -> usize {
        tree.below(self.top).map(|id| if tree.is_text(id) { tree.text_of(id).chars().count() } else { 8 }).sum()
    }
}

fn has_words(tree: &Tree, top: Id) -> bool {
    tree.below(top).any(|id| tree.is_text(id) && tree.measure(id).chars > 0)
}

/// Does a text say nothing, or have a line that is a button for sharing or printing?
fn is_noise(text: &str) -> bool {
    is_blank(text) || text.split('\n').any(is_button)
}

/// Words of such buttons.
const BUTTONS: [&str; 22] = [
    "Drucken",
    "E-Mail",
    "EMail",
    "Facebook",
    "Flipboard",
    "Google",
    "Instagram",
    "Linkedin",
    "Mail",
    "PDF",
    "Pinterest",
    "Pocket",
    "Print",
    "QQ",
    "Reddit",
    "Twitter",
    "WeChat",
    "WeiBo",
    "Whatsapp",
    "Xing",
    "Mehr zum Thema",
    "Mehr zum Thema:",
];

fn is_button(line: &str) -> bool {
    // None is longer, whatever stands in front of it.
    const LONGEST: usize = 64;
    let line = line.trim_start_matches(|c: char| !c.is_alphanumeric() && c != '_');
    if line.len() > LONGEST {
        return false;
    }
    let more = "More on this";
    let begins = line.get(..more.len()).is_some_and(|start| start.eq_ignore_ascii_case(more));
    BUTTONS.iter().any(|button| line.eq_ignore_ascii_case(button))
        || (begins && line[more.len()..].chars().count() <= 8)
}
