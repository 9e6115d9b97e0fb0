//! A page as a tree of small nodes, which is taken apart.
//!
//! [`super::parse`] builds it. Nothing here recurses.

mod attribute;
mod measure;
mod tag;
#[cfg(test)]
mod tests;

use attribute::Attributes;
pub(super) use attribute::{Attribute, List};
pub(super) use measure::Measure;
pub(super) use tag::{Tag, Tags, VOID};

use std::borrow::Cow;

/// Place of a node in its tree.
pub(super) type Id = u32;

/// No node.
pub(super) const NONE: Id = Id::MAX;

fn some(id: Id) -> Option<Id> {
    (id != NONE).then_some(id)
}

/// A node and its neighbours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) tag: Tag,
    pub(super) parent: Id,
    pub(super) previous: Id,
    pub(super) next: Id,
    pub(super) first: Id,
    pub(super) last: Id,
    /// The text of a text node, in [`Tree::text`]. Of an element: the node whose attributes it has, and 0.
    start: u32,
    end: u32,
    /// How much text a text node shows.
    measure: Measure,
}

/// A page. Nodes that were taken out stay in it, unlinked.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// The text of all nodes.
    text: String,
    attributes: Attributes,
}

/// The root.
pub(super) const ROOT: Id = 0;

impl Tree {
    /// A tree without nodes, with room for so much text.
    pub(super) fn new(bytes: usize) -> Self {
        Self { nodes: Vec::new(), text: String::with_capacity(bytes), attributes: Attributes::default() }
    }

    /// A new element that may get attributes, nowhere yet. Such are added before all others.
    pub(super) fn parsed_element(&mut self, tag: Tag) -> Id {
        self.attributes.add_node();
        self.push(tag, self.nodes.len() as u32, 0)
    }

    /// A new text beside such elements.
    pub(super) fn parsed_text(&mut self, text: &str) -> Id {
        self.attributes.add_node();
        self.new_text(text)
    }

    /// Adds to a text, if nothing was written behind it yet; else, and where `id` is no text, this is false.
    pub(super) fn extend_text(&mut self, id: Id, text: &str) -> bool {
        let node = *self.node(id);
        if node.tag != Tag::Text || node.end as usize != self.text.len() {
            return false;
        }
        self.text.push_str(text);
        let end = self.text.len() as u32;
        let measure = node.measure.then(Measure::of(text));
        let node = self.node_mut(id);
        (node.end, node.measure) = (end, measure);
        true
    }

    pub(super) fn attributes(&mut self) -> &mut Attributes {
        &mut self.attributes
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    /// How many nodes there are, those that were taken out included.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn tag(&self, id: Id) -> Tag {
        if id == NONE { Tag::Document } else { self.node(id).tag }
    }

    pub(super) fn set_tag(&mut self, id: Id, tag: Tag) {
        self.node_mut(id).tag = tag;
    }

    pub(super) fn is_text(&self, id: Id) -> bool {
        self.tag(id) == Tag::Text
    }

    pub(super) fn is_element(&self, id: Id) -> bool {
        !matches!(self.tag(id), Tag::Text | Tag::Document)
    }

    pub(super) fn parent(&self, id: Id) -> Id {
        self.node(id).parent
    }

    /// The text of a text node; of no other.
    pub(super) fn text_of(&self, id: Id) -> &str {
        let node = self.node(id);
        if node.tag == Tag::Text { &self.text[node.start as usize..node.end as usize] } else { "" }
    }

    /// The value of an attribute, of an element that was parsed.
    pub(super) fn attribute(&self, id: Id, name: Attribute) -> Option<&str> {
        self.attributes_of(id).find(|it| it.0 == name).map(|it| it.1)
    }

    /// The attributes of an element that was parsed, each with its value.
    pub(super) fn attributes_of(&self, id: Id) -> impl Iterator<Item = (Attribute, &str)> {
        let node = self.node(id);
        self.attributes.of(if node.tag == Tag::Text { NONE } else { node.start })
    }

    /// The node to whose attributes `id` refers: the same for an element and its copies.
    pub(super) fn origin(&self, id: Id) -> Id {
        self.node(id).start
    }

    /// How many nodes were parsed: every [`Tree::origin`] is less, or that of an element without attributes.
    pub(super) fn parsed(&self) -> usize {
        self.attributes.nodes()
    }

    fn push(&mut self, tag: Tag, start: u32, end: u32) -> Id {
        let id = self.nodes.len() as Id;
        let (parent, previous, next, first, last, measure) = (NONE, NONE, NONE, NONE, NONE, Measure::default());
        let node = Node { tag, parent, previous, next, first, last, start, end, measure };
        self.nodes.push(node);
        id
    }

    /// A new element without attributes, nowhere yet.
    pub(super) fn new_element(&mut self, tag: Tag) -> Id {
        self.push(tag, NONE, 0)
    }

    /// A new text, nowhere yet.
    pub(super) fn new_text(&mut self, text: &str) -> Id {
        let start = self.text.len() as u32;
        self.text.push_str(text);
        let id = self.push(Tag::Text, start, self.text.len() as u32);
        self.node_mut(id).measure = Measure::of(text);
        id
    }

    /// How much text a text node shows.
    pub(super) fn measure(&self, id: Id) -> Measure {
        self.node(id).measure
    }

    /// A copy of `id` and all that is below it, nowhere yet.
    pub(super) fn copy(&mut self, id: Id) -> Id {
        let copied = |tree: &mut Self, id: Id| {
            let node = *tree.node(id);
            let copy = tree.push(node.tag, node.start, node.end);
            tree.node_mut(copy).measure = node.measure;
            copy
        };
        let top = copied(self, id);
        let (mut from, mut to) = (id, top);
        loop {
            if self.node(from).first != NONE {
                from = self.node(from).first;
                let new = copied(self, from);
                self.append(to, new);
                to = new;
                continue;
            }
            while from != id && self.node(from).next == NONE {
                (from, to) = (self.node(from).parent, self.node(to).parent);
            }
            if from == id {
                return top;
            }
            from = self.node(from).next;
            to = self.node(to).parent;
            let new = copied(self, from);
            self.append(to, new);
            to = new;
        }
    }

    /// Makes `child` the last of `parent`, wherever it was.
    pub(super) fn append(&mut self, parent: Id, child: Id) {
        self.detach(child);
        let last = self.node(parent).last;
        let node = self.node_mut(child);
        (node.parent, node.previous) = (parent, last);
        match last {
            NONE => self.node_mut(parent).first = child,
            last => self.node_mut(last).next = child,
        }
        self.node_mut(parent).last = child;
    }

    /// Puts `id` in front of `sibling`, which has a parent.
    pub(super) fn insert_before(&mut self, sibling: Id, id: Id) {
        self.detach(id);
        let Node { parent, previous, .. } = *self.node(sibling);
        let node = self.node_mut(id);
        (node.parent, node.previous, node.next) = (parent, previous, sibling);
        self.node_mut(sibling).previous = id;
        match previous {
            NONE => self.node_mut(parent).first = id,
            previous => self.node_mut(previous).next = id,
        }
    }

    /// Takes `id` out, with all that is below it.
    pub(super) fn detach(&mut self, id: Id) {
        let Node { parent, previous, next, .. } = *self.node(id);
        if parent == NONE {
            return;
        }
        match previous {
            NONE => self.node_mut(parent).first = next,
            previous => self.node_mut(previous).next = next,
        }
        match next {
            NONE => self.node_mut(parent).last = previous,
            next => self.node_mut(next).previous = previous,
        }
        let node = self.node_mut(id);
        (node.parent, node.previous, node.next) = (NONE, NONE, NONE);
    }

    /// Takes `id` out, and the text up to the next element.
    pub(super) fn remove_with_tail(&mut self, id: Id) {
        let mut next = self.node(id).next;
        while next != NONE && self.is_text(next) {
            let text = next;
            next = self.node(text).next;
            self.detach(text);
        }
        self.detach(id);
    }

    /// Puts what `id` has in its place.
    pub(super) fn unwrap(&mut self, id: Id) {
        if self.parent(id) == NONE {
            return;
        }
        let mut child = self.node(id).first;
        while child != NONE {
            let next = self.node(child).next;
            self.insert_before(id, child);
            child = next;
        }
        self.detach(id);
    }

    /// Moves all that `from` has behind what `to` has.
    pub(super) fn move_children(&mut self, from: Id, to: Id) {
        let mut child = self.node(from).first;
        while child != NONE {
            let next = self.node(child).next;
            self.append(to, child);
            child = next;
        }
    }

    pub(super) fn children(&self, id: Id) -> impl Iterator<Item = Id> + '_ {
        std::iter::successors(some(self.node(id).first), |&id| some(self.node(id).next))
    }

    pub(super) fn next(&self, id: Id) -> Option<Id> {
        some(self.node(id).next)
    }

    /// The elements directly below `id`.
    pub(super) fn element_children(&self, id: Id) -> impl Iterator<Item = Id> + '_ {
        self.children(id).filter(|&child| self.is_element(child))
    }

    /// The next element behind `id` with the same parent.
    pub(super) fn next_element(&self, id: Id) -> Id {
        let mut next = self.node(id).next;
        while next != NONE && !self.is_element(next) {
            next = self.node(next).next;
        }
        next
    }

    /// The node behind `id` in the order of the page, below `top`.
    pub(super) fn following(&self, id: Id, top: Id) -> Id {
        if self.node(id).first != NONE { self.node(id).first } else { self.following_outside(id, top) }
    }

    /// The same, passing over what is below `id`.
    pub(super) fn following_outside(&self, mut id: Id, top: Id) -> Id {
        while id != top && id != NONE {
            if self.node(id).next != NONE {
                return self.node(id).next;
            }
            id = self.node(id).parent;
        }
        NONE
    }

    /// All nodes below `top`, in the order of the page.
    pub(super) fn below(&self, top: Id) -> impl Iterator<Item = Id> + '_ {
        std::iter::successors(some(self.following(top, top)), move |&id| some(self.following(id, top)))
    }

    /// All elements below `top`, in the order of the page.
    pub(super) fn elements(&self, top: Id) -> Vec<Id> {
        self.below(top).filter(|&id| self.is_element(id)).collect()
    }

    /// The elements below `top` with one of these tags.
    pub(super) fn tagged(&self, top: Id, tags: Tags) -> Vec<Id> {
        self.below(top).filter(|&id| tags.has(self.tag(id))).collect()
    }

    /// Is `id` below one of these tags, `top` and what is above it not counted?
    pub(super) fn is_inside(&self, id: Id, tags: Tags) -> bool {
        let mut above = self.parent(id);
        while above != NONE {
            if tags.has(self.tag(above)) {
                return true;
            }
            above = self.parent(above);
        }
        false
    }

    /// Is `id` below `top`?
    pub(super) fn is_below(&self, id: Id, top: Id) -> bool {
        let mut above = self.parent(id);
        while above != NONE && above != top {
            above = self.parent(above);
        }
        above == top
    }

    /// The text in front of the first element in `id`.
    pub(super) fn head_text(&self, id: Id) -> Cow<'_, str> {
        self.run(self.node(id).first)
    }

    /// The text behind `id`, up to the next element.
    pub(super) fn tail_text(&self, id: Id) -> Cow<'_, str> {
        self.run(self.node(id).next)
    }

    /// The text of `id` and the text nodes right behind it.
    fn run(&self, id: Id) -> Cow<'_, str> {
        if id == NONE || !self.is_text(id) {
            return Cow::Borrowed("");
        }
        let next = self.node(id).next;
        if next == NONE || !self.is_text(next) {
            return Cow::Borrowed(self.text_of(id));
        }
        let texts = std::iter::successors(Some(id), |&id| some(self.node(id).next));
        texts.take_while(|&id| self.is_text(id)).map(|id| self.text_of(id)).collect::<String>().into()
    }

    /// Puts `text` in place of [`Tree::head_text`].
    pub(super) fn set_head_text(&mut self, id: Id, text: &str) {
        if VOID.has(self.tag(id)) {
            return;
        }
        self.cut_run(self.node(id).first);
        if !text.is_empty() {
            let new = self.new_text(text);
            match self.node(id).first {
                NONE => self.append(id, new),
                first => self.insert_before(first, new),
            }
        }
    }

    /// Puts `text` in place of [`Tree::tail_text`].
    pub(super) fn set_tail_text(&mut self, id: Id, text: &str) {
        if self.parent(id) == NONE {
            return;
        }
        self.cut_run(self.node(id).next);
        if !text.is_empty() {
            let new = self.new_text(text);
            match self.node(id).next {
                NONE => self.append(self.parent(id), new),
                next => self.insert_before(next, new),
            }
        }
    }

    fn cut_run(&mut self, mut id: Id) {
        while id != NONE && self.is_text(id) {
            let next = self.node(id).next;
            self.detach(id);
            id = next;
        }
    }

    /// All text below `id`, as it is.
    pub(super) fn all_text(&self, id: Id) -> String {
        let mut all = self.text_of(id).to_owned();
        self.below(id).for_each(|id| all.push_str(self.text_of(id)));
        all
    }
}
