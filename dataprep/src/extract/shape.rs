//! Depth and size of a page's tree, measured before anything recurses into it or keeps its text.
//!
//! Depth cannot be read off the tags: parsers close some elements by themselves and open others again, so that a few
//! kilobytes of unclosed tags become millions of elements. So the page is parsed as the extractor will parse it, into a
//! tree of nothing but parents and children, and parsing stops as soon as a limit is passed.

use html5ever::interface::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::tendril::StrTendril;
use html5ever::{Attribute, ParseOpts, QualName, expanded_name, local_name, ns};
use std::borrow::Cow;
use std::cell::{Ref, RefCell};

/// Bytes parsed between two looks at the limits.
const STEP: usize = 1 << 12;

/// Size of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Elements from the root to the deepest one.
    pub(super) depth: u32,
    /// Elements in all.
    pub(super) elements: u32,
}

/// The shape of `page`; where a limit is passed, that of its beginning, which passes it too.
pub(super) fn of(page: &str, max_depth: u32, max_elements: u32) -> Shape {
    use html5ever::tendril::TendrilSink;
    let mut parser = html5ever::parse_document(Tree::new(), ParseOpts::default());
    let mut rest = page;
    while !rest.is_empty() {
        let mut cut = rest.len().min(STEP);
        while !rest.is_char_boundary(cut) {
            cut += 1;
        }
        let (part, after) = rest.split_at(cut);
        rest = after;
        parser.process(StrTendril::from_slice(part));
        let shape = parser.tokenizer.sink.sink.shape_so_far();
        if shape.elements > max_elements || shape.depth > max_depth {
            return shape;
        }
    }
    parser.finish()
}

/// A node: its name, its parent, and the children it was given, some of which may have left.
struct Node {
    name: QualName,
    parent: Option<u32>,
    children: Vec<u32>,
    /// Levels above it when it was put in its place.
    depth: u32,
}

/// A tree without text and attributes.
struct Tree {
    nodes: RefCell<Nodes>,
}

struct Nodes {
    all: Vec<Node>,
    deepest: u32,
}

impl Nodes {
    fn get(&mut self, id: u32) -> Option<&mut Node> {
        self.all.get_mut(id as usize)
    }

    fn attach(&mut self, parent: u32, child: u32) {
        let Some(above) = self.get(parent) else {
            return;
        };
        above.children.push(child);
        let depth = above.depth + 1;
        self.deepest = self.deepest.max(depth);
        if let Some(node) = self.get(child) {
            node.parent = Some(parent);
            node.depth = depth;
        }
    }

    /// The depth of the tree as it stands, whatever was moved.
    fn depth(&self) -> u32 {
        let (mut deepest, mut open) = (0, vec![(0_u32, 0_u32)]);
        while let Some((id, depth)) = open.pop() {
            deepest = deepest.max(depth);
            let children = self.all.get(id as usize).map(|node| node.children.as_slice()).unwrap_or_default();
            let still_here = |&&child: &&u32| self.all.get(child as usize).is_some_and(|node| node.parent == Some(id));
            open.extend(children.iter().filter(still_here).map(|&child| (child, depth + 1)));
            if deepest as usize > self.all.len() {
                break;
            }
        }
        deepest
    }
}

impl Tree {
    fn new() -> Self {
        let document = QualName::new(None, ns!(), local_name!(""));
        let root = Node { name: document, parent: None, children: Vec::new(), depth: 0 };
        Self { nodes: RefCell::new(Nodes { all: vec![root], deepest: 0 }) }
    }

    fn add(&self, name: QualName) -> u32 {
        let mut nodes = self.nodes.borrow_mut();
        let id = u32::try_from(nodes.all.len()).unwrap_or(u32::MAX);
        nodes.all.push(Node { name, parent: None, children: Vec::new(), depth: 0 });
        id
    }

    /// Depth as nodes were put in place: what is moved later may lie deeper.
    fn shape_so_far(&self) -> Shape {
        let nodes = self.nodes.borrow();
        let elements = u32::try_from(nodes.all.len() - 1).unwrap_or(u32::MAX);
        Shape { depth: nodes.deepest, elements }
    }

    fn place(&self, parent: u32, child: NodeOrText<u32>) {
        if let NodeOrText::AppendNode(child) = child {
            self.nodes.borrow_mut().attach(parent, child);
        }
    }

    fn parent(&self, id: u32) -> Option<u32> {
        self.nodes.borrow_mut().get(id).and_then(|node| node.parent)
    }
}

impl TreeSink for Tree {
    type Handle = u32;
    type Output = Shape;
    type ElemName<'a> = Ref<'a, QualName>;

    fn finish(self) -> Shape {
        let shape = self.shape_so_far();
        Shape { depth: self.nodes.into_inner().depth(), ..shape }
    }

    fn get_document(&self) -> u32 {
        0
    }

    fn elem_name<'a>(&'a self, target: &'a u32) -> Ref<'a, QualName> {
        // Handles are never made but by `add`; the document stands in for any other.
        Ref::map(self.nodes.borrow(), |nodes| &nodes.all[(*target as usize).min(nodes.all.len() - 1)].name)
    }

    fn create_element(&self, name: QualName, _: Vec<Attribute>, _: ElementFlags) -> u32 {
        let is_template = name.expanded() == expanded_name!(html "template");
        let id = self.add(name);
        if is_template {
            // What is in a template hangs below a separate node.
            let contents = self.add(QualName::new(None, ns!(), local_name!("")));
            self.nodes.borrow_mut().attach(id, contents);
        }
        id
    }

    fn create_comment(&self, _: StrTendril) -> u32 {
        self.add(QualName::new(None, ns!(), local_name!("")))
    }

    fn create_pi(&self, _: StrTendril, _: StrTendril) -> u32 {
        self.add(QualName::new(None, ns!(), local_name!("")))
    }

    fn append(&self, parent: &u32, child: NodeOrText<u32>) {
        self.place(*parent, child);
    }

    fn append_based_on_parent_node(&self, element: &u32, previous: &u32, child: NodeOrText<u32>) {
        match self.parent(*element) {
            Some(parent) => self.place(parent, child),
            None => self.place(*previous, child),
        }
    }

    fn append_before_sibling(&self, sibling: &u32, child: NodeOrText<u32>) {
        if let Some(parent) = self.parent(*sibling) {
            self.place(parent, child);
        }
    }

    fn get_template_contents(&self, target: &u32) -> u32 {
        *self.nodes.borrow_mut().get(*target).and_then(|node| node.children.first()).unwrap_or(target)
    }

    fn remove_from_parent(&self, target: &u32) {
        if let Some(node) = self.nodes.borrow_mut().get(*target) {
            node.parent = None;
        }
    }

    fn reparent_children(&self, from: &u32, to: &u32) {
        let mut nodes = self.nodes.borrow_mut();
        let children = nodes.get(*from).map(|node| std::mem::take(&mut node.children)).unwrap_or_default();
        for child in children {
            if nodes.get(child).is_some_and(|node| node.parent == Some(*from)) {
                nodes.attach(*to, child);
            }
        }
    }

    fn same_node(&self, a: &u32, b: &u32) -> bool {
        a == b
    }

    fn parse_error(&self, _: Cow<'static, str>) {}
    fn append_doctype_to_document(&self, _: StrTendril, _: StrTendril, _: StrTendril) {}
    fn set_quirks_mode(&self, _: QuirksMode) {}
    fn add_attrs_if_missing(&self, _: &u32, _: Vec<Attribute>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(page: &str) -> (u32, u32) {
        let shape = of(page, 10_000, 100_000);
        (shape.depth, shape.elements)
    }

    #[test]
    fn depth_is_that_of_the_tree() {
        // html, head, body, and what is in it.
        assert_eq!(shape(""), (2, 3));
        assert_eq!(shape("<p>a<p>b<p>c"), (3, 6));
        assert_eq!(shape("<div><div><div>x</div></div></div>"), (5, 6));
        // The formatting elements are opened again in each paragraph.
        assert_eq!(shape("<b><i><p>1<p>2"), shape("<b><i><p>1</p><p>2</p>"));
        assert_eq!(shape("<p><b><i><u>1<p>2"), (6, 11));
        assert_eq!(shape("<template><div><p>x</template>"), (6, 7));
        assert_eq!(shape("<table><tr><td><table><td>x"), (10, 11));
        assert_eq!(shape("<svg><td><td><td>"), (6, 7));
    }

    #[test]
    fn the_same_depth_as_another_parser() {
        for page in
            ["<b><div></b><div></b>x", "<a><p><a><table><a>x</table></a>", "<p><b><p><i></b>x</i>", "<table>a<b>c<tr>d"]
        {
            let tree = scraper::Html::parse_document(page);
            let levels = tree.tree.nodes().map(|node| node.ancestors().count());
            let elements =
                tree.tree.nodes().filter(|node| node.value().is_element() && node.parent().is_some()).count();
            let deepest = tree
                .tree
                .nodes()
                .zip(levels)
                .filter(|(node, _)| node.value().is_element())
                .map(|(_, level)| level)
                .max();
            let shape = of(page, 1000, 1000);
            assert_eq!(Some(shape.depth as usize), deepest, "{page}");
            assert!(shape.elements as usize >= elements, "{page}");
        }
    }

    #[test]
    fn hostile_pages_are_given_up_early() {
        let deep = of(&"<div>".repeat(2_000_000), 512, 500_000);
        assert!(deep.depth > 512 && deep.elements < 10_000, "{deep:?}");
        let formatting: String = (0..400).map(|i| format!("<b id={i}>")).collect();
        let wide = of(&(formatting + &"<p>x".repeat(1_000_000)), 512, 500_000);
        assert!(wide.elements > 500_000 && wide.elements < 2_000_000, "{wide:?}");
    }
}
