//! A page as a tree of small nodes, built once by `html5ever` and then taken apart.
//!
//! Depth cannot be read off the tags: parsers close some elements by themselves and open others again, so that a few
//! kilobytes of unclosed tags become millions of elements. So limits are looked at while the tree grows, and parsing
//! stops as soon as one is passed; what is built is never deeper than allowed, and nothing here recurses.

use aho_corasick::AhoCorasick;
use html5ever::interface::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::tendril::{StrTendril, TendrilSink};
use html5ever::{Attribute, LocalName, ParseOpts, Parser, QualName, expanded_name, local_name, ns};
use std::borrow::Cow;
use std::cell::{Ref, RefCell};
use std::sync::LazyLock;

/// Bytes parsed between two looks at the limits.
const STEP: usize = 1 << 13;

/// Size of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Elements from the root to the deepest one.
    pub(super) depth: u32,
    /// Elements in all.
    pub(super) elements: u32,
}

/// Which of two limits a page passed, and the shape of what was read till then.
#[derive(Debug)]
pub(super) enum TooLarge {
    Depth(u32),
    Elements(u32),
}

/// Place of a node in its tree.
pub(super) type Id = u32;

/// No node.
pub(super) const NONE: Id = Id::MAX;

fn some(id: Id) -> Option<Id> {
    (id != NONE).then_some(id)
}

macro_rules! tags {
    ($($tag:ident $name:tt)*) => {
        /// What a node is: the name of an element, or something else.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Tag {
            /// The root, and whatever is neither an element nor text.
            Document,
            Text,
            /// An element with a name that matters to nobody.
            Other,
            /// An element whose content was used already.
            Done,
            $($tag,)*
        }

        impl Tag {
            fn of(name: &LocalName) -> Self {
                match *name {
                    $(local_name!($name) => Self::$tag,)*
                    _ => Self::Other,
                }
            }
        }
    };
}

tags! {
    A "a" Abbr "abbr" Acronym "acronym" Address "address" Applet "applet" Area "area" Article "article" Aside "aside"
    Audio "audio" B "b" Base "base" Bdi "bdi" Bdo "bdo" Big "big" Blockquote "blockquote" Body "body" Br "br"
    Button "button" Canvas "canvas" Caption "caption" Center "center" Cite "cite" Code "code" Col "col"
    Colgroup "colgroup" Data "data" Datalist "datalist" Dd "dd" Del "del" Details "details" Dfn "dfn" Dialog "dialog"
    Div "div" Dl "dl" Dt "dt" Em "em" Embed "embed" Fieldset "fieldset" Figcaption "figcaption" Figure "figure"
    Font "font" Footer "footer" Form "form" Frame "frame" Frameset "frameset" H1 "h1" H2 "h2" H3 "h3" H4 "h4" H5 "h5"
    H6 "h6" Head "head" Header "header" Hgroup "hgroup" Hr "hr" Html "html" I "i" Iframe "iframe" Img "img"
    Input "input" Ins "ins" Kbd "kbd" Label "label" Legend "legend" Li "li" Link "link" Main "main" Map "map"
    Mark "mark" Marquee "marquee" Math "math" Menu "menu" Meta "meta" Nav "nav" Noscript "noscript" Object "object"
    Ol "ol" Optgroup "optgroup" Option "option" Output "output" P "p" Param "param" Picture "picture" Pre "pre"
    Progress "progress" Q "q" Rp "rp" Rt "rt" Rtc "rtc" Ruby "ruby" S "s" Samp "samp" Script "script"
    Section "section" Select "select" Small "small" Source "source" Span "span" Strike "strike" Strong "strong"
    Style "style" Sub "sub" Summary "summary" Sup "sup" Svg "svg" Table "table" Tbody "tbody" Td "td"
    Template "template" Textarea "textarea" Tfoot "tfoot" Th "th" Thead "thead" Time "time" Title "title" Tr "tr"
    Track "track" Tt "tt" U "u" Ul "ul" Use "use" Var "var" Video "video" Wbr "wbr"
}

/// A set of tags.
#[derive(Clone, Copy)]
pub(super) struct Tags([u64; 3]);

impl Tags {
    pub(super) const fn of(tags: &[Tag]) -> Self {
        let (mut bits, mut i) = ([0; 3], 0);
        while i < tags.len() {
            bits[tags[i] as usize / 64] |= 1 << (tags[i] as usize % 64);
            i += 1;
        }
        Self(bits)
    }

    pub(super) const fn with(self, tag: Tag) -> Self {
        let mut bits = self.0;
        bits[tag as usize / 64] |= 1 << (tag as usize % 64);
        Self(bits)
    }

    /// These and others.
    pub(super) const fn and(self, others: Self) -> Self {
        let ([a, b, c], [d, e, f]) = (self.0, others.0);
        Self([a | d, b | e, c | f])
    }

    pub(super) const fn has(self, tag: Tag) -> bool {
        self.0[tag as usize / 64] >> (tag as usize % 64) & 1 != 0
    }
}

/// Elements that have no content.
pub(super) const VOID: Tags = Tags::of(&[
    Tag::Area,
    Tag::Base,
    Tag::Br,
    Tag::Col,
    Tag::Embed,
    Tag::Hr,
    Tag::Img,
    Tag::Input,
    Tag::Link,
    Tag::Meta,
    Tag::Param,
    Tag::Source,
    Tag::Track,
    Tag::Wbr,
]);

/// Elements whose text is never shown as text, and is not kept.
const UNSHOWN: Tags = Tags::of(&[Tag::Script, Tag::Style, Tag::Noscript, Tag::Iframe, Tag::Textarea, Tag::Template]);

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

/// How long a text is when each run of white space is one space and soft hyphens are left out, without the white space
/// at both ends, and whether there is any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Measure {
    pub(super) chars: u32,
    pub(super) commas: u32,
    space_before: bool,
    space_after: bool,
}

impl Measure {
    fn of(text: &str) -> Self {
        let (mut chars, mut commas, mut space, mut before) = (0, 0, false, false);
        for c in text.chars() {
            if c.is_whitespace() {
                space = true;
                before |= chars == 0;
            } else if c != '\u{ad}' {
                chars += 1 + u32::from(space && chars > 0);
                commas += u32::from(matches!(c, ',' | '،' | '，' | '﹐' | '︐'));
                space = false;
            }
        }
        Self { chars, commas, space_before: before, space_after: space }
    }

    /// Of this text with `next` behind it.
    pub(super) fn then(self, next: Self) -> Self {
        if next.chars == 0 {
            let space = next.space_before;
            let before = self.space_before || (self.chars == 0 && space);
            return Self { space_before: before, space_after: self.space_after || space, ..self };
        }
        if self.chars == 0 {
            return Self { space_before: self.space_before || next.space_before, ..next };
        }
        let gap = u32::from(self.space_after || next.space_before);
        let chars = self.chars.saturating_add(next.chars).saturating_add(gap);
        let commas = self.commas.saturating_add(next.commas);
        Self { chars, commas, space_before: self.space_before, space_after: next.space_after }
    }
}

/// A page. Nodes that were taken out stay in it, unlinked.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// The text of all nodes.
    text: String,
    attributes: Vec<Vec<Attribute>>,
}

/// The root.
pub(super) const ROOT: Id = 0;

impl Tree {
    /// The tree of a page.
    ///
    /// # Errors
    /// The limit that it passes.
    pub(super) fn parse(page: &str, max_depth: u32, max_elements: u32) -> Result<Self, TooLarge> {
        let mut parser = Feeder::new(page.len(), max_depth, max_elements);
        let mut rest = page;
        while let Some((start, end, close)) = next_unshown(rest) {
            parser.feed(&rest[..start])?;
            let before = parser.nodes();
            parser.feed(&rest[start..end])?;
            rest = &rest[end..];
            if parser.is_unshown_since(before) {
                // What such an element has is dropped anyway. Comments in scripts may hide their end.
                let content = rest.get(..find_end(rest, close)).unwrap_or_default();
                if memchr::memmem::find(content.as_bytes(), b"<!--").is_none() {
                    rest = &rest[content.len()..];
                }
            }
        }
        parser.feed(rest)?;
        parser.finish()
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
    pub(super) fn attribute(&self, id: Id, name: &LocalName) -> Option<&str> {
        self.attributes_of(id).iter().find(|attribute| attribute.name.local == *name).map(|it| &*it.value)
    }

    pub(super) fn attributes_of(&self, id: Id) -> &[Attribute] {
        let node = self.node(id);
        let own = (node.tag != Tag::Text).then(|| self.attributes.get(node.start as usize)).flatten();
        own.map(Vec::as_slice).unwrap_or_default()
    }

    /// The node to whose attributes `id` refers: the same for an element and its copies.
    pub(super) fn origin(&self, id: Id) -> Id {
        self.node(id).start
    }

    /// How many nodes were parsed: every [`Tree::origin`] is less, or that of an element without attributes.
    pub(super) fn parsed(&self) -> usize {
        self.attributes.len()
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

/// Where the next `<script>` or `<style>` begins, where its tag ends, and the tag that closes it. Tags in capitals are
/// not seen, and a `>` in an attribute counts as the end.
fn next_unshown(page: &str) -> Option<(usize, usize, &'static str)> {
    static TAGS: LazyLock<AhoCorasick> =
        LazyLock::new(|| AhoCorasick::new(["<script", "<style"]).unwrap_or_else(|e| unreachable!("{e}")));
    let found = TAGS.find(page)?;
    let end = found.end() + memchr::memchr(b'>', &page.as_bytes()[found.end()..])? + 1;
    Some((found.start(), end, ["</script", "</style"][found.pattern()]))
}

/// Where the tag `close` is, in any case; the end of the page if it is nowhere.
fn find_end(page: &str, close: &str) -> usize {
    let bytes = page.as_bytes();
    let closes = |&at: &usize| {
        let tag = &bytes[at..];
        tag.get(..close.len()).is_some_and(|tag| tag.eq_ignore_ascii_case(close.as_bytes()))
            && tag
                .get(close.len())
                .is_some_and(|after| matches!(after, b' ' | b'\t' | b'\n' | b'\x0c' | b'\r' | b'/' | b'>'))
    };
    memchr::memchr_iter(b'<', bytes).find(closes).unwrap_or(bytes.len())
}

/// Gives a page to the parser piece by piece.
struct Feeder {
    parser: Parser<Builder>,
    max_depth: u32,
    max_elements: u32,
}

impl Feeder {
    fn new(bytes: usize, max_depth: u32, max_elements: u32) -> Self {
        let parser = html5ever::parse_document(Builder::new(bytes), ParseOpts::default());
        Self { parser, max_depth, max_elements }
    }

    fn feed(&mut self, mut page: &str) -> Result<(), TooLarge> {
        while !page.is_empty() {
            let mut cut = page.len().min(STEP);
            while !page.is_char_boundary(cut) {
                cut += 1;
            }
            let (part, after) = page.split_at(cut);
            page = after;
            self.parser.process(StrTendril::from_slice(part));
            within(self.parser.tokenizer.sink.sink.inside.borrow().shape_so_far(), self.max_depth, self.max_elements)?;
        }
        Ok(())
    }

    fn nodes(&self) -> usize {
        self.parser.tokenizer.sink.sink.inside.borrow().names.len()
    }

    /// Is the last node a script or style sheet of HTML, and new since there were `before` nodes?
    fn is_unshown_since(&self, before: usize) -> bool {
        let inside = self.parser.tokenizer.sink.sink.inside.borrow();
        let last = inside.names.get(before..).and_then(<[_]>::last).map(QualName::expanded);
        matches!(last, Some(expanded_name!(html "script") | expanded_name!(html "style")))
    }

    fn finish(self) -> Result<Tree, TooLarge> {
        let (tree, shape) = self.parser.finish();
        within(shape, self.max_depth, self.max_elements)?;
        Ok(tree)
    }
}

fn within(shape: Shape, max_depth: u32, max_elements: u32) -> Result<(), TooLarge> {
    match shape {
        Shape { elements, .. } if elements > max_elements => Err(TooLarge::Elements(elements)),
        Shape { depth, .. } if depth > max_depth => Err(TooLarge::Depth(depth)),
        _ => Ok(()),
    }
}

/// Receives the tree from the parser.
struct Builder {
    inside: RefCell<Inside>,
}

struct Inside {
    tree: Tree,
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
                let end = self.tree.text.len() as u32;
                if previous != NONE && self.tree.is_text(previous) && self.tree.node(previous).end == end {
                    self.tree.text.push_str(&text);
                    let measure = self.tree.node(previous).measure.then(Measure::of(&text));
                    let end = self.tree.text.len() as u32;
                    let node = self.tree.node_mut(previous);
                    (node.end, node.measure) = (end, measure);
                    return;
                }
                let id = self.tree.new_text(&text);
                self.enlist(id, nameless(), Vec::new());
                id
            }
        };
        match sibling {
            NONE => self.tree.append(parent, id),
            sibling => self.tree.insert_before(sibling, id),
        }
    }

    fn enlist(&mut self, id: Id, name: QualName, attributes: Vec<Attribute>) {
        debug_assert_eq!(id as usize, self.names.len());
        self.names.push(name);
        self.depths.push(0);
        self.tree.attributes.push(attributes);
    }

    fn add(&mut self, tag: Tag, name: QualName, attributes: Vec<Attribute>) -> Id {
        let id = self.tree.new_element(tag);
        self.tree.node_mut(id).start = id;
        self.elements = self.elements.saturating_add(1);
        self.enlist(id, name, attributes);
        id
    }
}

impl Builder {
    fn new(bytes: usize) -> Self {
        let tree = Tree { nodes: Vec::new(), text: String::with_capacity(bytes / 4), attributes: Vec::new() };
        let mut inside = Inside { tree, names: Vec::new(), depths: Vec::new(), deepest: 0, elements: 0 };
        inside.add(Tag::Document, nameless(), Vec::new());
        inside.elements = 0;
        Self { inside: RefCell::new(inside) }
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
        let id = inside.add(Tag::of(&name.local), name, attributes);
        if is_template {
            // What is in a template hangs below a separate node.
            let contents = inside.add(Tag::Template, nameless(), Vec::new());
            inside.attach(id, contents);
        }
        id
    }

    fn create_comment(&self, _: StrTendril) -> Id {
        self.inside.borrow_mut().add(Tag::Document, nameless(), Vec::new())
    }

    fn create_pi(&self, _: StrTendril, _: StrTendril) -> Id {
        self.inside.borrow_mut().add(Tag::Document, nameless(), Vec::new())
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
        let own = &mut inside.tree.attributes[*target as usize];
        for attribute in attributes {
            if own.iter().all(|it| it.name != attribute.name) {
                own.push(attribute);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape_of(page: &str, max_depth: u32, max_elements: u32) -> Shape {
        let mut parser = html5ever::parse_document(Builder::new(page.len()), ParseOpts::default());
        parser.process(StrTendril::from_slice(page));
        let (_, shape) = parser.finish();
        let within = shape.depth <= max_depth && shape.elements <= max_elements;
        assert_eq!(Tree::parse(page, max_depth, max_elements).is_ok(), within, "{page}");
        shape
    }

    fn shape(page: &str) -> (u32, u32) {
        let shape = shape_of(page, 10_000, 100_000);
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
    fn the_same_tree_as_another_parser() {
        for page in [
            "<b><div></b><div></b>x",
            "<a><p><a><table><a>x</table></a>",
            "<p><b><p><i></b>x</i>",
            "<table>a<b>c<tr>d",
            "a<!-- b -->c<table>d<td>e<caption>f</table>g<select><option>h",
        ] {
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
            let shape = shape_of(page, 1000, 1000);
            assert_eq!(Some(shape.depth as usize), deepest, "{page}");
            assert!(shape.elements as usize >= elements, "{page}");
            let text: String = tree.root_element().text().collect();
            assert_eq!(Tree::parse(page, 1000, 1000).unwrap().all_text(ROOT), text, "{page}");
        }
    }

    #[test]
    fn what_scripts_have_is_passed_over() {
        for page in [
            "a<script>b<p>c</script>d",
            "a<script async src='x>y'>b</script>d<script></script>e",
            "a<script>b<!--<script>c</script>d</script>e--></script>f",
            "a<style type=x>b</style >d<STYLE>e</STYLE>f<script>g</SCRIPT\n>h",
            "<!-- <script> -->a<textarea><script></textarea>b<title><script></title>c<p title='<script>'>d</script>e",
            "a<svg><style>b<p>c</style>d</svg>e<scripted>f</scripted>g<script>h</scripts>i</script>j<script>k",
            "a<script>b<!-- c</script>d<style><!-- e</style>f --></style>g<math><script>h<b>i</script>j",
        ] {
            let (own, _) = {
                let mut parser = html5ever::parse_document(Builder::new(0), ParseOpts::default());
                parser.process(StrTendril::from_slice(page));
                parser.finish()
            };
            let tree = Tree::parse(page, 512, 1000).unwrap();
            let shown = |tree: &Tree| -> Vec<_> {
                tree.below(ROOT).map(|id| (tree.tag(id), tree.text_of(id).to_owned())).collect()
            };
            assert_eq!(shown(&tree), shown(&own), "{page}");
        }
    }

    #[test]
    fn hostile_pages_are_given_up_early() {
        let deep = Tree::parse(&"<div>".repeat(2_000_000), 512, 500_000);
        assert!(matches!(deep, Err(TooLarge::Depth(513..10_000))), "{:?}", deep.err());
        let formatting: String = (0..400).map(|i| format!("<b id={i}>")).collect();
        let wide = Tree::parse(&(formatting + &"<p>x".repeat(1_000_000)), 512, 500_000);
        assert!(matches!(wide, Err(TooLarge::Elements(500_001..2_500_000))), "{:?}", wide.err());
    }

    #[test]
    fn measures_are_those_of_the_whole() {
        for parts in [["a", "b"], ["a ", " b"], [" ", "a"], ["a", " "], [" ", " "], ["a \n b", "c\u{ad}d "], ["", "x"]]
        {
            let whole = Measure::of(&parts.concat());
            assert_eq!(Measure::of(parts[0]).then(Measure::of(parts[1])), whole, "{parts:?}");
            let plain = parts.concat().replace('\u{ad}', "");
            let words: Vec<&str> = plain.split_whitespace().collect();
            assert_eq!(whole.chars as usize, words.join(" ").chars().count(), "{parts:?}");
        }
    }

    #[test]
    fn nodes_are_moved_copied_and_taken_out() {
        let mut tree = Tree::parse("<p>a<b>b<i>c</i></b>d<u>e</u>f<s></s>", 512, 1000).unwrap();
        let find = |tree: &Tree, tag| tree.below(ROOT).find(|&id| tree.tag(id) == tag).unwrap();
        let (p, b) = (find(&tree, Tag::P), find(&tree, Tag::B));
        let copy = tree.copy(p);
        assert_eq!((&*tree.head_text(p), &*tree.tail_text(b), &*tree.head_text(b)), ("a", "d", "b"));
        tree.unwrap(b);
        assert_eq!((&*tree.head_text(p), tree.all_text(p)), ("ab", "abcdef".into()));
        tree.remove_with_tail(find(&tree, Tag::U));
        assert_eq!(tree.all_text(p), "abcd");
        tree.set_head_text(p, "");
        let s = find(&tree, Tag::S);
        tree.set_head_text(s, "x");
        tree.set_tail_text(s, "y");
        assert_eq!((tree.all_text(p), tree.all_text(copy)), ("cdxy".into(), "abcdef".into()));
    }
}
