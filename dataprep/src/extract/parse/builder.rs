//! Builds a page's tree as `html5ever`'s tree builder asks.

use super::super::tree::{Id, List, NONE, ROOT, Tag, Tags, Tree};
use super::Shape;
use html5ever::interface::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::tendril::StrTendril;
use html5ever::{Attribute, LocalName, QualName, expanded_name, local_name, ns};
use std::borrow::Cow;
use std::cell::{Ref, RefCell, RefMut};

/// Elements whose text is never shown as text, and is not kept.
pub(super) const UNSHOWN: Tags =
    Tags::of(&[Tag::Script, Tag::Style, Tag::Noscript, Tag::Iframe, Tag::Textarea, Tag::Template]);

/// Receives the tree from the parser.
pub(super) struct Builder {
    inside: RefCell<Inside>,
}

pub(super) struct Inside {
    pub(super) tree: Tree,
    /// Lists of attributes that have a number.
    lists: Vec<List>,
    /// Names of the elements, for the parser.
    names: Vec<QualName>,
    /// Levels above each node when it was put in its place.
    depths: Vec<u32>,
    deepest: u32,
    elements: u32,
}

impl Inside {
    /// Depth as nodes were put in place: what is moved later may lie deeper.
    fn shape_so_far(&self) -> Shape {
        Shape { depth: self.deepest, elements: self.elements }
    }

    /// The depth of the tree as it stands, whatever was moved.
    fn depth(&self) -> u32 {
        let (mut deepest, mut depth, mut id) = (0, 0, ROOT);
        loop {
            let node = self.tree.node(id);
            if node.first != NONE {
                (id, depth) = (node.first, depth + 1);
                deepest = deepest.max(depth - u32::from(self.tree.is_text(id)));
                continue;
            }
            while self.tree.node(id).next == NONE {
                id = self.tree.parent(id);
                if id == NONE {
                    return deepest;
                }
                depth -= 1;
            }
            id = self.tree.node(id).next;
            deepest = deepest.max(depth - u32::from(self.tree.is_text(id)));
        }
    }

    fn attach(&mut self, parent: Id, child: Id) {
        self.tree.append(parent, child);
        self.deepen(parent, child);
    }

    fn deepen(&mut self, parent: Id, child: Id) {
        let depth = self.depths[parent as usize] + 1;
        self.depths[child as usize] = depth;
        self.deepest = self.deepest.max(depth);
    }

    /// Puts text or a node at the end of `parent`, or in front of `sibling`.
    fn place(&mut self, parent: Id, sibling: Id, child: NodeOrText<Id>) {
        let id = match child {
            NodeOrText::AppendNode(id) => {
                self.deepen(parent, id);
                // Comments and the like count, and are not kept.
                if self.tree.tag(id) == Tag::Document {
                    return;
                }
                id
            }
            NodeOrText::AppendText(text) => {
                if UNSHOWN.has(self.tree.tag(parent)) {
                    return;
                }
                let previous =
                    if sibling == NONE { self.tree.node(parent).last } else { self.tree.node(sibling).previous };
                if previous != NONE && self.tree.extend_text(previous, &text) {
                    return;
                }
                let id = self.tree.parsed_text(&text);
                self.enlist(id, nameless());
                id
            }
        };
        match sibling {
            NONE => self.tree.append(parent, id),
            sibling => self.tree.insert_before(sibling, id),
        }
    }

    fn enlist(&mut self, id: Id, name: QualName) {
        debug_assert_eq!(id as usize, self.names.len());
        self.names.push(name);
        self.depths.push(0);
    }

    fn add(&mut self, tag: Tag, name: QualName) -> Id {
        let id = self.tree.parsed_element(tag);
        self.elements = self.elements.saturating_add(1);
        self.enlist(id, name);
        id
    }

    /// How many nodes there are.
    pub(super) fn nodes(&self) -> usize {
        self.names.len()
    }

    /// Gives attributes to the element that was made for a tag called `name`, where there were `before` nodes; other
    /// elements may have been made on the way, or this one not.
    pub(super) fn give(&mut self, before: usize, name: &LocalName, list: List) {
        let last = self.names.len() - 1;
        // The content of a template of HTML is a node by itself, without a name.
        let is_content = *name == local_name!("template") && self.names[last].local == nameless().local;
        let at = if is_content { last.saturating_sub(1) } else { last };
        let made = &self.names[at].local;
        // Elements of SVG have capitals.
        if at >= before
            && (made.eq_ignore_ascii_case(name) || (*name == local_name!("image") && *made == local_name!("img")))
        {
            self.tree.attributes().give(at as Id, list);
        }
    }

    /// A number for a list of attributes.
    pub(super) fn number(&mut self, list: List) -> u32 {
        self.lists.push(list);
        self.lists.len() as u32 - 1
    }

    /// The list whose number is among `attributes`.
    fn numbered(&self, attributes: &[Attribute]) -> Option<List> {
        let number = &attributes.iter().find(|attribute| attribute.name.local == NUMBER)?.value;
        self.lists.get(u32::from_str_radix(number, 16).ok()? as usize).copied()
    }
}

/// The name of an attribute whose value is the number of a list: so the tree builder keeps a list with a tag, and
/// passes it on to every element that it makes of that tag.
const NUMBER: LocalName = local_name!("list");

/// The attribute with the number of a list.
pub(super) fn numbered(number: u32) -> Attribute {
    Attribute { name: QualName::new(None, ns!(), NUMBER), value: format!("{number:x}").into() }
}

impl Builder {
    pub(super) fn new(bytes: usize) -> Self {
        let (names, depths, lists) = (Vec::new(), Vec::new(), Vec::new());
        let mut inside = Inside { tree: Tree::new(bytes / 4), lists, names, depths, deepest: 0, elements: 0 };
        inside.add(Tag::Document, nameless());
        inside.elements = 0;
        Self { inside: RefCell::new(inside) }
    }

    pub(super) fn inside(&self) -> RefMut<'_, Inside> {
        self.inside.borrow_mut()
    }

    /// See [`Inside::shape_so_far`].
    pub(super) fn shape_so_far(&self) -> Shape {
        self.inside.borrow().shape_so_far()
    }
}

fn nameless() -> QualName {
    QualName::new(None, ns!(), local_name!(""))
}

impl TreeSink for Builder {
    type Handle = Id;
    type Output = (Tree, Shape);
    type ElemName<'a> = Ref<'a, QualName>;

    fn finish(self) -> (Tree, Shape) {
        let inside = self.inside.into_inner();
        let shape = Shape { depth: inside.depth(), ..inside.shape_so_far() };
        (inside.tree, shape)
    }

    fn get_document(&self) -> Id {
        ROOT
    }

    fn elem_name<'a>(&'a self, target: &'a Id) -> Ref<'a, QualName> {
        Ref::map(self.inside.borrow(), |inside| &inside.names[*target as usize])
    }

    fn create_element(&self, name: QualName, attributes: Vec<Attribute>, _: ElementFlags) -> Id {
        let is_template = name.expanded() == expanded_name!(html "template");
        let mut inside = self.inside.borrow_mut();
        let id = inside.add(Tag::named(&name.local), name);
        if let Some(list) = inside.numbered(&attributes) {
            inside.tree.attributes().give(id, list);
        }
        if is_template {
            // What is in a template hangs below a separate node.
            let contents = inside.add(Tag::Template, nameless());
            inside.attach(id, contents);
        }
        id
    }

    fn create_comment(&self, _: StrTendril) -> Id {
        self.inside.borrow_mut().add(Tag::Document, nameless())
    }

    fn create_pi(&self, _: StrTendril, _: StrTendril) -> Id {
        self.inside.borrow_mut().add(Tag::Document, nameless())
    }

    fn append(&self, parent: &Id, child: NodeOrText<Id>) {
        self.inside.borrow_mut().place(*parent, NONE, child);
    }

    fn append_based_on_parent_node(&self, element: &Id, previous: &Id, child: NodeOrText<Id>) {
        let mut inside = self.inside.borrow_mut();
        match inside.tree.parent(*element) {
            NONE => inside.place(*previous, NONE, child),
            parent => inside.place(parent, *element, child),
        }
    }

    fn append_before_sibling(&self, sibling: &Id, child: NodeOrText<Id>) {
        let mut inside = self.inside.borrow_mut();
        let parent = inside.tree.parent(*sibling);
        if parent != NONE {
            inside.place(parent, *sibling, child);
        }
    }

    fn get_template_contents(&self, target: &Id) -> Id {
        match self.inside.borrow().tree.node(*target).first {
            NONE => *target,
            contents => contents,
        }
    }

    fn remove_from_parent(&self, target: &Id) {
        self.inside.borrow_mut().tree.detach(*target);
    }

    fn reparent_children(&self, from: &Id, to: &Id) {
        let mut inside = self.inside.borrow_mut();
        let mut child = inside.tree.node(*from).first;
        while child != NONE {
            let next = inside.tree.node(child).next;
            inside.attach(*to, child);
            child = next;
        }
    }

    fn same_node(&self, a: &Id, b: &Id) -> bool {
        a == b
    }

    fn parse_error(&self, _: Cow<'static, str>) {}
    fn append_doctype_to_document(&self, _: StrTendril, _: StrTendril, _: StrTendril) {}
    fn set_quirks_mode(&self, _: QuirksMode) {}

    fn add_attrs_if_missing(&self, target: &Id, attributes: Vec<Attribute>) {
        let mut inside = self.inside.borrow_mut();
        if let Some(list) = inside.numbered(&attributes) {
            inside.tree.attributes().complete(*target, list);
        }
    }
}
