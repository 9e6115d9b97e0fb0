//! Moves what elements have to say into the main text, each kind of element in its way.

use super::super::marks;
use super::super::page::{Page, is_blank, trim};
use super::super::tree::{Attribute, Id, NONE, Tag, Tags, Tree, VOID};
use super::kinds::{BREAKS, CELLS, FORMATS, HEADINGS, HOLDS_FORMATS, ITEMS, LISTS, QUOTES};
use super::output::Output;

/// Levels of lists in lists that are looked at.
const LIST_LEVELS: usize = 100;

impl Page<'_> {
    /// Moves what an element has to say to `out`.
    pub(super) fn take(&mut self, id: Id, wanted: Tags, out: &mut Output) {
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
            || self.tree.attribute(id, Attribute::Lang).is_some()
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

    pub(super) fn take_paragraph(&mut self, id: Id, wanted: Tags, out: Id) {
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
}

fn has_words(tree: &Tree, top: Id) -> bool {
    tree.below(top).any(|id| tree.is_text(id) && tree.measure(id).chars > 0)
}
