//! A page that is taken apart: the marks of its elements, and what is left out of it in any case.

use super::marks::{self, Marks};
use super::tree::{Id, NONE, Tag, Tags, Tree};
use std::borrow::Cow;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Characters below which a finding is doubted.
pub(super) const FEW: usize = 250;
/// Elements that are never main text, with all that is in them.
const UNWANTED: Tags = Tags::of(&[
    Tag::Aside,
    Tag::Embed,
    Tag::Footer,
    Tag::Form,
    Tag::Head,
    Tag::Iframe,
    Tag::Menu,
    Tag::Object,
    Tag::Script,
    Tag::Applet,
    Tag::Audio,
    Tag::Canvas,
    Tag::Figure,
    Tag::Map,
    Tag::Picture,
    Tag::Svg,
    Tag::Video,
    Tag::Area,
    Tag::Button,
    Tag::Datalist,
    Tag::Dialog,
    Tag::Frame,
    Tag::Frameset,
    Tag::Fieldset,
    Tag::Link,
    Tag::Input,
    Tag::Label,
    Tag::Legend,
    Tag::Marquee,
    Tag::Math,
    Tag::Nav,
    Tag::Noscript,
    Tag::Optgroup,
    Tag::Option,
    Tag::Output,
    Tag::Param,
    Tag::Progress,
    Tag::Rp,
    Tag::Rt,
    Tag::Rtc,
    Tag::Select,
    Tag::Source,
    Tag::Style,
    Tag::Template,
    Tag::Track,
    Tag::Textarea,
    Tag::Time,
    Tag::Use,
]);

/// Elements that only say how their content looks, or group the rows of a table.
const TRANSPARENT: Tags = Tags::of(&[
    Tag::Abbr,
    Tag::Acronym,
    Tag::Address,
    Tag::Bdi,
    Tag::Bdo,
    Tag::Big,
    Tag::Cite,
    Tag::Data,
    Tag::Dfn,
    Tag::Font,
    Tag::Hgroup,
    Tag::Img,
    Tag::Ins,
    Tag::Mark,
    Tag::Meta,
    Tag::Ruby,
    Tag::Small,
    Tag::Tbody,
    Tag::Tfoot,
    Tag::Thead,
]);

/// Elements that go when they are empty.
const NOT_EMPTY: Tags = Tags::of(&[
    Tag::Article,
    Tag::B,
    Tag::Blockquote,
    Tag::Dd,
    Tag::Div,
    Tag::Dt,
    Tag::Em,
    Tag::H1,
    Tag::H2,
    Tag::H3,
    Tag::H4,
    Tag::H5,
    Tag::H6,
    Tag::I,
    Tag::Li,
    Tag::Main,
    Tag::P,
    Tag::Pre,
    Tag::Q,
    Tag::Section,
    Tag::Span,
    Tag::Strong,
]);

/// A page that is taken apart.
pub(super) struct Page<'a> {
    pub(super) tree: &'a mut Tree,
    marks: Vec<Marks>,
}

impl<'a> Page<'a> {
    pub(super) fn new(tree: &'a mut Tree) -> Self {
        let parsed = tree.parsed() as Id;
        let marks = (0..parsed).map(|id| if tree.is_element(id) { marks::of(tree, id) } else { 0 }).collect();
        Self { tree, marks }
    }

    /// The marks of an element or of a copy of it.
    pub(super) fn marks(&self, id: Id) -> Marks {
        self.marks.get(self.tree.origin(id) as usize).copied().unwrap_or_default()
    }

    /// Takes out the elements below `top` that have one of these marks. What follows them stays.
    pub(super) fn prune(&mut self, top: Id, marks: Marks) {
        let mut id = self.tree.following(top, top);
        while id != NONE {
            if self.tree.is_element(id) && self.marks(id) & marks != 0 {
                let next = self.tree.following_outside(id, top);
                self.tree.detach(id);
                id = next;
            } else {
                id = self.tree.following(id, top);
            }
        }
    }

    /// Leaves out what is never main text, and tags that mean nothing to it.
    pub(super) fn clean(&mut self, top: Id) {
        for figure in self.tree.tagged(top, Tags::of(&[Tag::Figure])) {
            if self.tree.below(figure).any(|id| self.tree.tag(id) == Tag::Table) {
                self.tree.set_tag(figure, Tag::Div);
            }
        }
        let elements = self.tree.elements(top);
        for &id in elements.iter().rev().filter(|&&id| TRANSPARENT.has(self.tree.tag(id))).collect::<Vec<_>>() {
            self.tree.unwrap(id);
        }
        for &id in elements.iter().rev() {
            if UNWANTED.has(self.tree.tag(id)) {
                self.tree.remove_with_tail(id);
            }
        }
        for &id in self.tree.elements(top).iter().rev() {
            if NOT_EMPTY.has(self.tree.tag(id)) && self.tree.node(id).first == NONE {
                self.tree.remove_with_tail(id);
            }
        }
    }
}

/// Characters of a text node and the space behind it; of other nodes none.
pub(super) fn spaced(tree: &Tree, id: Id) -> usize {
    if tree.is_text(id) && tree.measure(id).chars > 0 { tree.measure(id).chars as usize + 1 } else { 0 }
}

/// Characters of all text below `top`, with a space between texts.
pub(super) fn spaced_length(tree: &Tree, top: Id) -> usize {
    tree.below(top).map(|id| spaced(tree, id)).sum::<usize>().saturating_sub(1)
}

/// Is there nothing to see in a text?
pub(super) fn is_blank(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || c == '\u{ad}')
}

/// The words of a text with one space between them, composed (NFC) and without soft hyphens.
pub(super) fn trim(text: &str) -> Cow<'_, str> {
    let mut last = ' ';
    let clean = text.chars().all(|c| {
        let fine = c != '\u{ad}' && (!c.is_whitespace() || (c == ' ' && last != ' '));
        last = c;
        fine
    }) && (last != ' ' || text.is_empty());
    let words = if clean {
        Cow::Borrowed(text)
    } else {
        let mut words = String::with_capacity(text.len());
        for word in text.split_whitespace() {
            let before = words.len();
            words.extend(word.chars().filter(|&c| c != '\u{ad}'));
            if words.len() > before {
                words.push(' ');
            }
        }
        words.truncate(words.trim_end().len());
        Cow::Owned(words)
    };
    if words.is_ascii() || is_nfc_quick(words.chars()) == IsNormalized::Yes { words } else { words.nfc().collect() }
}
